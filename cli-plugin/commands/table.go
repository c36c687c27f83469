package commands

import (
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/spf13/pflag"
)

const formatHelp = `Format output using a custom template:
'table':            Print output in table format with column headers (default)
'table TEMPLATE':   Print output in table format using the given Go template
'json':             Print in JSON format
'TEMPLATE':         Print output using the given Go template.
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates`

func formatFlag(flags *pflag.FlagSet, format *string) {
	flags.StringVar(format, "format", "", formatHelp)
}

// row is one line of a table: its methods are what a template can name.
type row interface {
	formatter.SubContext
}

// writeTable prints rows as Docker's own list commands do. columns is the
// template of the table, headers what stands above each field, quiet the template
// that prints names only, or "".
func writeTable[R row](dockerCLI command.Cli, format, columns, quiet string, empty R, rows []R) error {
	switch {
	case quiet != "":
		format = quiet
	case format == "" || format == formatter.TableFormatKey:
		format = "table " + columns
	}
	out := formatter.Context{Output: dockerCLI.Out(), Format: formatter.Format(format)}
	return out.Write(empty, func(write func(formatter.SubContext) error) error {
		for _, r := range rows {
			if err := write(r); err != nil {
				return err
			}
		}
		return nil
	})
}
