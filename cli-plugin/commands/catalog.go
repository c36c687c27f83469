package commands

import (
	"context"
	"fmt"
	"slices"
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
	words  []string // search
}

func (o *catalogOptions) addTo(cmd *cobra.Command) {
	formatFlag(cmd.Flags(), &o.format)
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Only display the types")
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
}

func catalogCommand(dockerCLI command.Cli) *cobra.Command {
	var o catalogOptions
	cmd := &cobra.Command{
		Use:   "catalog [OPTIONS]",
		Short: "List what can be created, and add to it",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runCatalog(cmd.Context(), dockerCLI, o)
		},
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd)
	cmd.AddCommand(
		catalogSearchCommand(dockerCLI),
		catalogShowCommand(dockerCLI),
		catalogLintCommand(dockerCLI),
		catalogSchemaCommand(dockerCLI),
		catalogAddCommand(dockerCLI),
		catalogRemoveCommand(dockerCLI),
	)
	return cmd
}

func catalogSearchCommand(dockerCLI command.Cli) *cobra.Command {
	var o catalogOptions
	cmd := &cobra.Command{
		Use:     "search [OPTIONS] WORD...",
		Short:   "List what can be created that has all the words",
		Example: `  docker openmanage catalog search queue`,
		Args:    cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.words = args
			return runCatalog(cmd.Context(), dockerCLI, o)
		},
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd)
	return cmd
}

func runCatalog(ctx context.Context, dockerCLI command.Cli, o catalogOptions) error {
	catalog, trouble, err := offered(ctx, dockerCLI)
	if err != nil {
		return err
	}
	for _, why := range trouble {
		fmt.Fprintln(dockerCLI.Err(), "warning:", why)
	}
	apps := catalog.Search(o.words...)
	if len(apps) == 0 {
		return fmt.Errorf("nothing in the catalog has %s\nSee all with: docker openmanage catalog", strings.Join(o.words, " and "))
	}
	slices.SortStableFunc(apps, func(a, b *stacks.App) int { return strings.Compare(a.Category, b.Category) })
	rows := make([]*catalogRow, 0, len(apps))
	for _, app := range apps {
		rows = append(rows, &catalogRow{app: app})
	}
	quiet := ""
	if o.quiet {
		quiet = "{{.Type}}"
	}
	return writeTable(dockerCLI, o.format, `{{.Category}}\t{{.Type}}\t{{.Aliases}}\t{{.Members}}\t{{.Origin}}\t{{.Description}}`, quiet, newCatalogRow(), rows)
}

type catalogRow struct {
	formatter.HeaderContext
	app *stacks.App
}

func newCatalogRow() *catalogRow {
	return &catalogRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Type": "TYPE", "Aliases": "ALIASES", "Category": "CATEGORY", "Members": "MEMBERS", "Image": "IMAGE", "Origin": "ORIGIN", "Description": "DESCRIPTION",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *catalogRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *catalogRow) Type() string     { return r.app.ID }
func (r *catalogRow) Aliases() string  { return strings.Join(r.app.Aliases, ",") }
func (r *catalogRow) Category() string { return r.app.Category }
func (r *catalogRow) Members() string {
	m := r.app.Members
	switch {
	case m.Min == m.Max:
		return fmt.Sprint(m.Min)
	case m.Odd:
		var allowed []string
		for n := m.Min; n <= m.Max; n++ {
			if m.Allow(n) {
				allowed = append(allowed, fmt.Sprint(n))
			}
		}
		return strings.Join(allowed, ",")
	}
	return fmt.Sprintf("%d-%d", m.Min, m.Max)
}
func (r *catalogRow) Image() string { return r.app.Image.Default }
func (r *catalogRow) Origin() string {
	if r.app.Added != nil {
		return "added"
	}
	return "built-in"
}
func (r *catalogRow) Description() string { return r.app.Description }
