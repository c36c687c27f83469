// Command docker-openmanage is the Docker CLI plugin `docker openmanage`.
package main

import (
	"os"

	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/docker/cli/cli-plugins/plugin"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/commands"
	"github.com/openmanage/openmanage/internal/version"
)

func main() {
	plugin.Run(
		func(dockerCLI command.Cli) *cobra.Command {
			cmd := commands.New(dockerCLI, version.Version)
			commands.AddParameterFlags(cmd, os.Args[1:])
			return cmd
		},
		metadata.Metadata{
			SchemaVersion: "0.1.0",
			Vendor:        "OpenManage",
			Version:       version.Version,
			URL:           "https://github.com/openmanage/openmanage",
		},
	)
}
