package commands

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/stacks"
)

func catalogShowCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "show [OPTIONS] TYPE",
		Short: "Display a type's members, names, ports, volumes, secrets and parameters",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCatalogShow(cmd.Context(), dockerCLI, args[0], format)
		},
		ValidArgsFunction:     completeTypes(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &format)
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

func runCatalogShow(ctx context.Context, dockerCLI command.Cli, name, format string) error {
	app, err := findType(ctx, dockerCLI, name)
	if err != nil {
		return err
	}
	if format != "" && !formatter.Format(format).IsTable() {
		return inspectValue(dockerCLI, format, app)
	}
	out := dockerCLI.Out()
	showType(out, app)
	fmt.Fprintf(out, "\nParameters (%s):\n", howToSet(app))
	rows := make([]*parameterRow, 0, len(app.Parameters))
	for i := range app.Parameters {
		rows = append(rows, &parameterRow{p: &app.Parameters[i]})
	}
	return writeTable(dockerCLI, format, `{{.Key}}\t{{.Values}}\t{{.Default}}\t{{.Restart}}\t{{.Description}}`, "", newParameterRow(), rows)
}

// howToSet says how create takes parameters: those of types that were added are no options (AddParameterFlags).
func howToSet(app *stacks.App) string {
	flags, without := app.Flags()
	if app.Added != nil {
		return "--set KEY=VALUE"
	}
	said := fmt.Sprintf("--set KEY=VALUE, or options such as --%s", flags[0].Name)
	for _, one := range without {
		said += "; " + one
	}
	return said
}

// showType prints what is to be known before an application of the type is created.
func showType(out io.Writer, app *stacks.App) {
	fmt.Fprintf(out, "%s: %s\n\n", app.Title, app.Description)
	// Only the first line of a field has its name.
	last := ""
	line := func(field, format string, args ...any) {
		if field == last {
			field = ""
		} else {
			last = field
			field += ":"
		}
		fmt.Fprintf(out, "%-10s%s\n", field, fmt.Sprintf(format, args...))
	}
	line("Type", "%s", strings.Join(append([]string{app.ID}, app.Aliases...), ", "))
	line("Category", "%s", app.Category)
	image := app.Image.Default
	if len(app.Image.Majors) > 0 {
		image += " (supported: " + strings.Trim(strings.ReplaceAll(fmt.Sprint(app.Image.Majors), " ", ", "), "[]") + ")"
	}
	line("Image", "%s", image)
	line("Members", "%s (default %d)", app.Members, app.Members.Default)
	if app.Members.Scale != "" {
		line("Members", "not changed later: %s", app.Members.Scale)
	}
	line("Names", "%s in the network NAME_default", strings.Join(memberNames("NAME", app.Members.Default), ", "))
	for _, c := range app.Components {
		where := fmt.Sprintf("%d of it", c.Replicas)
		if c.Global {
			where = "one on each node"
		}
		if c.DockerSocket {
			where += ", on managers, with Docker's socket"
		}
		if c.NodeSocket {
			where += ", with the Docker socket of its node"
		}
		if c.When != "" {
			where += fmt.Sprintf(", only with --set %s=on", c.When)
		}
		image := "image " + c.Image
		if c.Own {
			image = "OpenManage's own image"
		}
		line("Beside", "NAME-%s, %s (%s, %s)", c.Name, c.Description, where, image)
	}
	for _, n := range app.Needs {
		line("Needs", "an application of type %s, which %s: NAME-%s is created, or --use %s=NAME", n.Type, n.Description, n.Name, n.Type)
	}
	for _, p := range app.Ports {
		line("Ports", "%s", portLine("", p))
	}
	for _, c := range app.Components {
		for _, p := range c.Ports {
			line("Ports", "%s", portLine("NAME-"+c.Name+": ", p))
		}
	}
	if app.DockerSocket {
		line("Runs on", "managers, with Docker's socket: it can do whatever Docker can")
	}
	line("Stores", "%s (default, %s at least) for each member at %s, %s", app.Volume.Size, app.Volume.MinSize, app.Volume.Path, strings.Join(app.Volume.Filesystems, " or "))
	if app.Resources.CPUs != "" {
		line("Limits", "%s processors for each member", app.Resources.CPUs)
	}
	if app.Resources.Memory > 0 {
		line("Limits", "%s of memory for each member", app.Resources.Memory)
	}
	if app.User != "" {
		line("User", "%s", app.User)
	}
	if app.Health.Check != "" {
		line("Health", "%s", app.Health.Check)
	}
	for _, s := range app.Secrets {
		line("Secrets", "%s: %s", stacks.SecretName("NAME", s.Name), s.Description)
	}
	for _, link := range app.Links {
		line("Links", "%s", link)
	}
	if a := app.Added; a != nil {
		line("Added", "by %s, %s", a.By, a.At.Format("2006-01-02 15:04 MST"))
		for _, name := range a.Allowed {
			line("Allowed", "%s: %s", name, stacks.Permissions[name])
		}
	}
}

func portLine(where string, p stacks.Port) string {
	protocol := ""
	if p.Protocol == "udp" {
		protocol = "/udp"
	}
	return fmt.Sprintf("%s%d%s, %s", where, p.Port, protocol, p.Description)
}

type parameterRow struct {
	formatter.HeaderContext
	p *stacks.Parameter
}

func newParameterRow() *parameterRow {
	return &parameterRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Key": "KEY", "Values": "VALUES", "Default": "DEFAULT", "Restart": "RESTART", "Description": "DESCRIPTION",
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
func (r *parameterRow) Default() string { return r.p.Default }
func (r *parameterRow) Restart() string {
	if r.p.Restart {
		return "yes"
	}
	return ""
}
func (r *parameterRow) Description() string { return r.p.Description }
