// Package commands holds the commands of `docker openmanage`, one file each: an
// options struct, the cobra command that fills it, and a function that runs it.
package commands

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli-plugins/plugin"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
)

// New returns the command `openmanage` with all that is below it. version is this
// build's, by which install chooses the images.
func New(dockerCLI command.Cli, version string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "openmanage",
		Short: "Stateful services on Docker Swarm",
		Long: `Stateful services on Docker Swarm: databases whose members keep their volume,
identity and name wherever Swarm moves them.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, args []string) error {
			if plugin.PersistentPreRunE != nil { // nil in tests, which do not run as a plugin
				if err := plugin.PersistentPreRunE(cmd, args); err != nil {
					return err
				}
			}
			cmd.SetContext(interruptible(cmd.Context()))
			return nil
		},
		Version:               version,
		DisableFlagsInUseLine: true,
	}
	cmd.SetFlagErrorFunc(cli.FlagErrorFunc)
	cmd.AddCommand(
		installCommand(dockerCLI, version),
		uninstallCommand(dockerCLI),
		catalogCommand(dockerCLI),
		createCommand(dockerCLI),
		generateCommand(dockerCLI),
		listCommand(dockerCLI),
		psCommand(dockerCLI),
		inspectCommand(dockerCLI),
		logsCommand(dockerCLI),
		eventsCommand(dockerCLI),
		connectCommand(dockerCLI),
		credentialsCommand(dockerCLI),
		configCommand(dockerCLI),
		switchoverCommand(dockerCLI),
		promoteCommand(dockerCLI),
		restartCommand(dockerCLI),
		upgradeCommand(dockerCLI),
		scaleCommand(dockerCLI),
		fenceCommand(dockerCLI),
		rebuildCommand(dockerCLI),
		stopCommand(dockerCLI),
		startCommand(dockerCLI),
		operationCommand(dockerCLI),
		volumeCommand(dockerCLI),
		removeCommand(dockerCLI),
	)
	explainErrors(cmd)
	return cmd
}

// explainErrors has the command, and all below it, say more of errors that come from
// Docker, whatever it was asked for.
func explainErrors(cmd *cobra.Command) {
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error { return explain(run(cmd, args)) }
	}
	for _, sub := range cmd.Commands() {
		explainErrors(sub)
	}
}

// explain says what helps against an error that says too little by itself. A manager whose
// Swarm has just lost its leader still waits for it, and says only that time is up.
func explain(err error) error {
	if err != nil && strings.Contains(err.Error(), "rpc error: code = DeadlineExceeded") {
		return fmt.Errorf("%w; the Swarm seems to have no leader: see `docker node ls`, start the managers that are down, and try again", err)
	}
	return err
}

// interruptible returns a context that ends with the first Ctrl-C, so that a
// command can say what it leaves behind. The second one ends the program.
func interruptible(parent context.Context) context.Context {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx
}
