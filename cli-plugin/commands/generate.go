package commands

import (
	"context"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type generateOptions struct {
	applicationOptions
	typeName string
	name     string
}

func generateCommand(dockerCLI command.Cli) *cobra.Command {
	var o generateOptions
	cmd := &cobra.Command{
		Use:   "generate [OPTIONS] TYPE NAME",
		Short: "Print an application's stack as a file for docker stack deploy",
		Example: `  docker openmanage generate postgresql pg --replicas 3 > pg.yml
  docker stack deploy -c pg.yml pg`,
		Args: cli.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.typeName, o.name = args[0], args[1]
			return runGenerate(cmd.Context(), dockerCLI, cmd.Flags(), &o)
		},
		ValidArgsFunction:     completeTypes(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, dockerCLI)
	return cmd
}

// runGenerate asks no daemon, unless the type was added to a Swarm: the same options give
// the same file anywhere.
func runGenerate(ctx context.Context, dockerCLI command.Cli, flags *pflag.FlagSet, o *generateOptions) error {
	app, options, err := o.resolve(ctx, dockerCLI, flags, o.typeName, o.name)
	if err != nil {
		return err
	}
	stack, err := app.Generate(options)
	if err != nil {
		return err
	}
	if app.Added != nil {
		if err := app.Fit(options, stack); err != nil {
			return unfit(app, err)
		}
		sayDemands(dockerCLI.Err(), app, app.Demands(options, stack.Config))
	}
	_, err = dockerCLI.Out().Write(stack.YAML)
	return err
}
