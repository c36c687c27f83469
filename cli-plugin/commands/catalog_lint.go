package commands

import (
	"errors"
	"fmt"
	"os"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/stacks"
)

// errLint: a folder holds no type that could be created.
var errLint = errors.New("not fit for the catalog")

func catalogLintCommand(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "lint DIR",
		Short: "Say all that is wrong with an application of your own",
		Long: `Say all that is wrong with an application of your own: a folder with app.yaml and
stack.yaml.tmpl, and what it would reach beyond itself. No daemon is asked.`,
		Args: cli.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			app, _, demands, err := lint(dockerCLI, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(dockerCLI.Out(), "%s is fit for the catalog\n", app.ID)
			_, without := app.Flags()
			for _, note := range without {
				fmt.Fprintln(dockerCLI.Out(), note)
			}
			sayDemands(dockerCLI.Out(), app, demands)
			return nil
		},
		ValidArgsFunction:     completeFolders,
		DisableFlagsInUseLine: true,
	}
}

// lint reads the type in a folder, or prints all that is wrong with it.
func lint(dockerCLI command.Cli, dir string) (*stacks.App, stacks.Source, []stacks.Demand, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, stacks.Source{}, nil, fmt.Errorf("%s is no folder: %w\nGive the folder that has app.yaml and stack.yaml.tmpl", dir, err)
	}
	defer root.Close()
	source, err := stacks.ReadFolder(root.FS())
	if err != nil {
		return nil, source, nil, fmt.Errorf("%w: %s: %w", errLint, dir, err)
	}
	app, demands, problems := stacks.Lint(source)
	for _, p := range problems {
		fmt.Fprintln(dockerCLI.Out(), p)
	}
	switch len(problems) {
	case 0:
		return app, source, demands, nil
	case 1:
		return nil, source, nil, fmt.Errorf("%w: %s has a problem", errLint, dir)
	}
	return nil, source, nil, fmt.Errorf("%w: %s has %d problems", errLint, dir, len(problems))
}

func completeFolders(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

func catalogSchemaCommand(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON schema of app.yaml, for editors",
		Example: `  docker openmanage catalog schema > app.schema.json
  # and as the first line of app.yaml:
  # yaml-language-server: $schema=app.schema.json`,
		Args: cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := dockerCLI.Out().Write(stacks.Schema)
			return err
		},
		DisableFlagsInUseLine: true,
	}
}
