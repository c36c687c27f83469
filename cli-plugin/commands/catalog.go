package commands

import (
	"fmt"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/stacks"
)

type catalogOptions struct {
	format string
	quiet  bool
}

func catalogCommand(dockerCLI command.Cli) *cobra.Command {
	var o catalogOptions
	cmd := &cobra.Command{
		Use:   "catalog [OPTIONS]",
		Short: "List what can be created",
		Args:  cli.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return runCatalog(dockerCLI, o)
		},
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &o.format)
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Only display the types")
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	cmd.AddCommand(catalogShowCommand(dockerCLI))
	return cmd
}

func runCatalog(dockerCLI command.Cli, o catalogOptions) error {
	catalog, err := stacks.Builtin()
	if err != nil {
		return err
	}
	var rows []*catalogRow
	for _, app := range catalog.Apps() {
		rows = append(rows, &catalogRow{app: app})
	}
	quiet := ""
	if o.quiet {
		quiet = "{{.Type}}"
	}
	return writeTable(dockerCLI, o.format, `{{.Type}}\t{{.Aliases}}\t{{.Category}}\t{{.Members}}\t{{.Image}}\t{{.Description}}`, quiet, newCatalogRow(), rows)
}

type catalogRow struct {
	formatter.HeaderContext
	app *stacks.App
}

func newCatalogRow() *catalogRow {
	return &catalogRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Type": "TYPE", "Aliases": "ALIASES", "Category": "CATEGORY", "Members": "MEMBERS", "Image": "IMAGE", "Description": "DESCRIPTION",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *catalogRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *catalogRow) Type() string     { return r.app.ID }
func (r *catalogRow) Aliases() string  { return strings.Join(r.app.Aliases, ",") }
func (r *catalogRow) Category() string { return r.app.Category }
func (r *catalogRow) Members() string {
	if r.app.Members.Min == r.app.Members.Max {
		return fmt.Sprint(r.app.Members.Min)
	}
	return fmt.Sprintf("%d-%d", r.app.Members.Min, r.app.Members.Max)
}
func (r *catalogRow) Image() string       { return r.app.Image.Default }
func (r *catalogRow) Description() string { return r.app.Description }

func catalogShowCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "show [OPTIONS] TYPE",
		Short: "Display a type's parameters, ports, volumes and secrets",
		Args:  cli.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			return runCatalogShow(dockerCLI, args[0], format)
		},
		ValidArgsFunction:     completeTypes,
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &format)
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

func runCatalogShow(dockerCLI command.Cli, name, format string) error {
	catalog, err := stacks.Builtin()
	if err != nil {
		return err
	}
	app, err := catalog.Find(name)
	if err != nil {
		return err
	}
	if format != "" && !formatter.Format(format).IsTable() {
		return inspectValue(dockerCLI, format, app)
	}
	out := dockerCLI.Out()
	fmt.Fprintf(out, "%s: %s\n\n", app.Title, app.Description)
	fmt.Fprintf(out, "Type:     %s\n", strings.Join(append([]string{app.ID}, app.Aliases...), ", "))
	fmt.Fprintf(out, "Image:    %s\n", app.Image.Default)
	fmt.Fprintf(out, "Members:  %s (default %d)\n", app.Members, app.Members.Default)
	fmt.Fprintf(out, "Volume:   %s (default), at %s, %s\n", app.Volume.Size, app.Volume.Path, strings.Join(app.Volume.Filesystems, " or "))
	for _, p := range app.Ports {
		fmt.Fprintf(out, "Port:     %d, %s\n", p.Port, p.Description)
	}
	for _, s := range app.Secrets {
		fmt.Fprintf(out, "Secret:   %s\n", stacks.SecretName("NAME", s.Name))
	}
	fmt.Fprintln(out, "\nParameters (--set KEY=VALUE):")
	var rows []*parameterRow
	for i := range app.Parameters {
		rows = append(rows, &parameterRow{p: &app.Parameters[i]})
	}
	return writeTable(dockerCLI, format, `{{.Key}}\t{{.Values}}\t{{.Default}}\t{{.Description}}`, "", newParameterRow(), rows)
}

type parameterRow struct {
	formatter.HeaderContext
	p *stacks.Parameter
}

func newParameterRow() *parameterRow {
	return &parameterRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Key": "KEY", "Values": "VALUES", "Default": "DEFAULT", "Description": "DESCRIPTION",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *parameterRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *parameterRow) Key() string { return r.p.Name }
func (r *parameterRow) Values() string {
	if len(r.p.Allowed) > 0 {
		return strings.Join(r.p.Allowed, "|")
	}
	return r.p.Type
}
func (r *parameterRow) Default() string     { return r.p.Default }
func (r *parameterRow) Description() string { return r.p.Description }
