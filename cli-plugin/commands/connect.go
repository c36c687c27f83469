package commands

import (
	"context"
	"fmt"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/live"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
)

type connectOptions struct {
	name string
	args []string
}

func connectCommand(dockerCLI command.Cli) *cobra.Command {
	var o connectOptions
	cmd := &cobra.Command{
		Use:   "connect APPLICATION [-- ARG...]",
		Short: "Open a session on an application's primary; no password is asked",
		Example: `  docker openmanage connect pg
  docker openmanage connect pg -- -c 'SELECT version()'
  echo 'SELECT 1' | docker openmanage connect pg`,
		Args: cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.args = args[0], args[1:]
			return runConnect(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	return cmd
}

// clientOf returns the program that a session of an application type runs.
func clientOf(typeID string) (string, bool) {
	switch typeID {
	case "postgresql":
		return "psql", true
	}
	return "", false
}

func runConnect(ctx context.Context, dockerCLI command.Cli, o connectOptions) error {
	if _, err := preflight.Manager(ctx, dockerCLI.Client()); err != nil {
		return err
	}
	app, err := application(ctx, dockerCLI, o.name)
	if err != nil {
		return err
	}
	if app.Removed != nil {
		return fmt.Errorf("%s was removed; its volumes are kept\nCreate it again with: docker openmanage create %s %s", app.Name, app.Type, app.Name)
	}
	program, ok := clientOf(app.Type)
	if !ok {
		return fmt.Errorf("%s is of type %s, which has no session to open", app.Name, app.Type)
	}
	return live.Exec(ctx, dockerCLI, o.name, append([]string{program}, o.args...))
}
