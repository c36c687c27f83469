package commands

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	units "github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

type listOptions struct {
	format string
	quiet  bool
	all    bool
}

func listCommand(dockerCLI command.Cli) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List applications",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runList(cmd.Context(), dockerCLI, o)
		},
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &o.format)
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Only display names")
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "Also those that were removed, whose volumes are kept")
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

func runList(ctx context.Context, dockerCLI command.Cli, o listOptions) error {
	docker := dockerCLI.Client()
	records := store.New(docker)
	stale := make(chan error, 1)
	go func() { stale <- leaderWarning(ctx, dockerCLI, records) }()

	applications, err := store.List[store.Application](ctx, records, store.KindApplication)
	if err != nil && len(applications) == 0 {
		return preflight.Explain(ctx, docker, err)
	}
	if err != nil {
		fmt.Fprintln(dockerCLI.Err(), "warning:", err)
	}
	var rows []*listRow
	for _, a := range applications {
		if a.Value.Removed == nil || o.all {
			rows = append(rows, &listRow{a: a.Value})
		}
	}
	quiet := ""
	if o.quiet {
		quiet = "{{.Name}}"
	}
	err = writeTable(dockerCLI, o.format, `{{.Name}}\t{{.Type}}\t{{.Healthy}}\t{{.Primary}}\t{{.Status}}\t{{.Image}}\t{{.CreatedSince}}`, quiet, newListRow(), rows)
	if warning := <-stale; warning != nil {
		fmt.Fprintln(dockerCLI.Err(), "warning:", warning)
	}
	return err
}

// leaderWarning returns an error if what the records say may be out of date.
func leaderWarning(ctx context.Context, dockerCLI command.Cli, records *store.Store) error {
	record, err := store.Get[store.Leader](ctx, records, store.KindLeader, store.LeaderName)
	if err == nil && preflight.Fresh(record, time.Now()) {
		return nil // the common case asks nothing more
	}
	info, infoErr := preflight.Manager(ctx, dockerCLI.Client())
	if infoErr != nil {
		return nil // the command itself says so
	}
	if _, err := preflight.Installed(ctx, dockerCLI.Client(), info); err != nil {
		return fmt.Errorf("what is shown may be out of date: %w", err)
	}
	return nil
}

type listRow struct {
	formatter.HeaderContext
	a store.Application
}

func newListRow() *listRow {
	return &listRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Name": "NAME", "Type": "TYPE", "Healthy": "HEALTHY", "Members": "MEMBERS", "Primary": "PRIMARY", "Status": "STATUS",
		"Image": "IMAGE", "CreatedAt": "CREATED AT", "CreatedSince": "CREATED", "Problems": "PROBLEMS",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *listRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *listRow) Name() string { return r.a.Name }
func (r *listRow) Type() string { return r.a.Type }
func (r *listRow) Healthy() string {
	return fmt.Sprintf("%d/%d", healthyMembers(r.a), len(r.a.Members))
}

func (r *listRow) Members() string {
	names := make([]string, 0, len(r.a.Members))
	for _, m := range r.a.Members {
		names = append(names, m.Name)
	}
	return strings.Join(names, ",")
}

// Primary is the member that is primary, not the one that is to be.
func (r *listRow) Primary() string {
	for _, m := range r.a.Members {
		if m.Role == api.RolePrimary && m.State == api.StateRunning {
			return m.Name
		}
	}
	return "-"
}

func (r *listRow) Status() string {
	healthy := healthyMembers(r.a)
	switch {
	case r.a.Removed != nil:
		return "removed, volumes kept"
	case len(r.a.Problems) > 0:
		return "problem: " + r.a.Problems[0]
	case len(r.a.Members) > 0 && healthy == len(r.a.Members):
		return "healthy"
	case r.Primary() == "-" && !r.a.NoRoles, healthy == 0:
		return "down"
	}
	return "degraded"
}
func (r *listRow) Image() string        { return shortImage(r.a.Image) }
func (r *listRow) CreatedAt() string    { return r.a.Created.Local().Format(time.DateTime) }
func (r *listRow) CreatedSince() string { return ago(r.a.Created) }
func (r *listRow) Problems() string     { return strings.Join(r.a.Problems, "; ") }

func healthyMembers(a store.Application) int {
	n := 0
	for _, m := range a.Members {
		if m.Healthy {
			n++
		}
	}
	return n
}

// shortImage drops the digest that `docker stack deploy` adds.
func shortImage(image string) string {
	name, _, _ := strings.Cut(image, "@")
	return name
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return units.HumanDuration(time.Since(t)) + " ago"
}
