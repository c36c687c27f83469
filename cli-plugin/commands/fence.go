package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// memberOptions are what the commands for one member have in common.
type memberOptions struct {
	lifecycleOptions
	member     string
	force, yes bool
}

func (o *memberOptions) addTo(cmd *cobra.Command, timeout time.Duration, force string) {
	o.lifecycleOptions.addTo(cmd, timeout)
	cmd.Flags().BoolVar(&o.force, "force", false, force)
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
}

// begin finds the application that the member is of.
func (o *memberOptions) begin(ctx context.Context, dockerCLI command.Cli) (store.Application, store.Member, error) {
	app, err := applicationOf(ctx, dockerCLI, o.member)
	if err != nil {
		return app, store.Member{}, err
	}
	o.name = app.Name
	if app, err = o.lifecycleOptions.begin(ctx, dockerCLI); err != nil {
		return app, store.Member{}, err
	}
	i := slices.IndexFunc(app.Members, func(m store.Member) bool { return m.Name == o.member })
	if i < 0 {
		return app, store.Member{}, noSuchMember(app, o.member)
	}
	return app, app.Members[i], nil
}

// applicationOf finds the application of a member, whose name says it only to people.
func applicationOf(ctx context.Context, dockerCLI command.Cli, member string) (store.Application, error) {
	docker := dockerCLI.Client()
	if _, err := preflight.Manager(ctx, docker); err != nil {
		return store.Application{}, err
	}
	all, err := store.List[store.Application](ctx, store.New(docker), store.KindApplication)
	if err != nil {
		return store.Application{}, preflight.Explain(ctx, docker, err)
	}
	var names []string
	var near *store.Application
	for _, r := range all {
		app := r.Value
		if member == app.Name {
			return app, fmt.Errorf("%s is an application; name one of its members: %s", app.Name, namesOf(app))
		}
		for _, m := range app.Members {
			if m.Name == member {
				return app, nil
			}
			names = append(names, m.Name)
		}
		if i := strings.LastIndex(member, "-"); i > 0 && member[:i] == app.Name {
			near = &app
		}
	}
	if near != nil {
		return *near, noSuchMember(*near, member)
	}
	hint := ""
	if near := stacks.Nearest(member, names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return store.Application{}, fmt.Errorf("no such member: %s%s\nSee what there is with: docker openmanage ls, docker openmanage ps APPLICATION", member, hint)
}

func noSuchMember(app store.Application, member string) error {
	return fmt.Errorf("%s has no member %s; it has %s", app.Name, member, namesOf(app))
}

func namesOf(app store.Application) string {
	var names []string
	for _, m := range app.Members {
		names = append(names, m.Name)
	}
	return strings.Join(names, ", ")
}

// confirm asks before something that stops writes is done by force.
func (o *memberOptions) confirm(ctx context.Context, dockerCLI command.Cli, what, question string) error {
	switch {
	case o.yes:
		return nil
	case !dockerCLI.In().IsTerminal():
		return fmt.Errorf("%s\nTo do so without being asked, add --yes", what)
	}
	fmt.Fprintln(dockerCLI.Err(), what)
	ok, err := ask(ctx, dockerCLI, question)
	if err == nil && !ok {
		err = errors.New("nothing was changed")
	}
	return err
}

func fenceCommand(dockerCLI command.Cli) *cobra.Command {
	var o memberOptions
	cmd := &cobra.Command{
		Use:   "fence [OPTIONS] MEMBER on|off",
		Short: "Stop the server of a member and keep it stopped, to look at its data",
		Long: `Stop the server of a member in order. Its container stays, so that you can look at
its data with docker exec, and so does its volume. The server does not start again
until it is taken back, whatever happens: a restart, another node, another primary.
Commits no longer wait for a standby before it is fenced, so that it is not missed.
Nobody takes the place of a primary that is fenced: see switchover.`,
		Args: cli.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.member = args[0]
			switch args[1] {
			case "on":
				return runFence(cmd.Context(), dockerCLI, o)
			case "off":
				return runUnfence(cmd.Context(), dockerCLI, o)
			}
			return fmt.Errorf("fence %s %q: say on or off", args[0], args[1])
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 {
				return []string{"on", "off"}, cobra.ShellCompDirectiveNoFileComp
			}
			return completeAllMembers(dockerCLI)(cmd, args, toComplete)
		},
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, 5*time.Minute, "Though nobody can write then: fence the primary, or the last standby that commits can wait for")
	return cmd
}

func runFence(ctx context.Context, dockerCLI command.Cli, o memberOptions) error {
	app, m, err := o.begin(ctx, dockerCLI)
	if err != nil {
		return err
	}
	if m.Fenced != nil {
		fmt.Fprintf(dockerCLI.Out(), "%s is %s already\nTake it back with: docker openmanage fence %s off\n", m.Name, m.Fenced, m.Name)
		return nil
	}
	if m.Name == app.Primary {
		what := fmt.Sprintf("%s is the primary of %s. While it is fenced nobody takes its place, and nothing can be written.", m.Name, app.Name)
		if !o.force {
			return fmt.Errorf("%s\nHand over first with: docker openmanage switchover %s\nTo stop all writes instead, add --force", what, app.Name)
		}
		if err := o.confirm(ctx, dockerCLI, what, "Fence the primary?"); err != nil {
			return err
		}
	} else if o.force {
		what := fmt.Sprintf("If no other standby of %s follows the primary, writes wait until one does, and nobody can take the primary's place.", app.Name)
		if err := o.confirm(ctx, dockerCLI, what, "Fence "+m.Name+"?"); err != nil {
			return err
		}
	}
	if err := o.carryOut(ctx, dockerCLI, store.OperationFence, store.MemberRequest{Member: m.Name, Force: o.force}); err != nil || o.detach {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "%s is fenced: its server is stopped, its container and its volume stay\nTake it back with: docker openmanage fence %s off\n", m.Name, m.Name)
	return nil
}

func runUnfence(ctx context.Context, dockerCLI command.Cli, o memberOptions) error {
	_, m, err := o.begin(ctx, dockerCLI)
	if err != nil {
		return err
	}
	if m.Fenced == nil {
		fmt.Fprintf(dockerCLI.Out(), "%s is not fenced\n", m.Name)
		return nil
	}
	if err := o.carryOut(ctx, dockerCLI, store.OperationUnfence, store.MemberRequest{Member: m.Name}); err != nil || o.detach {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "%s is not fenced any more\n", m.Name)
	return nil
}
