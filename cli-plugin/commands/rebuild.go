package commands

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/internal/store"
)

func rebuildCommand(dockerCLI command.Cli) *cobra.Command {
	var o memberOptions
	cmd := &cobra.Command{
		Use:   "rebuild [OPTIONS] MEMBER",
		Short: "Replace the data of a standby by a fresh copy of the primary's",
		Long: `Replace the data of a standby, and have it follow again. Where another standby's
node can make a snapshot of its volume, that takes the place of this one's: nothing
is copied. Else its server copies the primary's data over the network; the old data
stays until the copy is whole if the volume has space for both. Commits no longer
wait for the standby before its data is touched, until it follows again.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.member = args[0]
			return runRebuild(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeAllMembers(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, time.Hour, "Though commits wait until it is done, because no other standby follows")
	return cmd
}

func runRebuild(ctx context.Context, dockerCLI command.Cli, o memberOptions) error {
	app, m, err := o.begin(ctx, dockerCLI)
	if err != nil {
		return err
	}
	switch {
	case app.NoRoles:
		return fmt.Errorf("the members of %s are no copies of each other, so that there is nothing to rebuild %s from", app.Name, m.Name)
	case m.Name == app.Primary:
		return fmt.Errorf("%s is the primary of %s, and the others are copies of it\nHand over first with: docker openmanage switchover %s", m.Name, app.Name, app.Name)
	case m.Fenced != nil:
		return fmt.Errorf("%s is %s\nTake it back first with: docker openmanage fence %s off", m.Name, m.Fenced, m.Name)
	case o.force:
		what := fmt.Sprintf("If no other standby of %s follows the primary, writes wait until %s has its copy, and nobody can take the primary's place.", app.Name, m.Name)
		if err := o.confirm(ctx, dockerCLI, what, "Rebuild "+m.Name+"?"); err != nil {
			return err
		}
	}
	if err := o.carryOut(ctx, dockerCLI, store.OperationRebuild, store.MemberRequest{Member: m.Name, Force: o.force}); err != nil || o.detach {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "%s has a fresh copy and follows the primary\n", m.Name)
	return nil
}
