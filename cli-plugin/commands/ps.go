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

	"github.com/openmanage/openmanage/cli-plugin/internal/live"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

type psOptions struct {
	name   string
	format string
	quiet  bool
}

func psCommand(dockerCLI command.Cli) *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{
		Use:   "ps [OPTIONS] APPLICATION",
		Short: "List an application's members",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return runPS(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &o.format)
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Only display member names")
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

// livePatience is how long ps waits for the manager's word on the lag.
const livePatience = 3 * time.Second

func runPS(ctx context.Context, dockerCLI command.Cli, o psOptions) error {
	app, err := application(ctx, dockerCLI, o.name)
	if err != nil {
		return err
	}
	stale := make(chan error, 1)
	go func() { stale <- leaderWarning(ctx, dockerCLI, store.New(dockerCLI.Client())) }()
	var status api.LiveStatus
	if !o.quiet {
		liveCtx, cancel := context.WithTimeout(ctx, livePatience)
		status, _ = live.Read(liveCtx, dockerCLI.Client()) // without it the lag is "-"
		cancel()
	}
	rows := make([]*memberRow, 0, len(app.Members))
	for _, m := range app.Members {
		r := &memberRow{m: m, removed: app.Removed != nil}
		r.live, r.known = live.Member(status, m.Name)
		r.usage, _ = live.Usage(status, m.Volume)
		rows = append(rows, r)
	}
	components, err := componentRows(ctx, dockerCLI, o.name)
	if err != nil {
		return err
	}
	rows = append(rows, components...)
	quiet := ""
	if o.quiet {
		quiet = "{{.Member}}"
	}
	err = writeTable(dockerCLI, o.format, `{{.Member}}\t{{.Role}}\t{{.Node}}\t{{.State}}\t{{.Timeline}}\t{{.Sync}}\t{{.Lag}}\t{{.Disk}}\t{{.Volume}}\t{{.Since}}\t{{.Message}}`, quiet, newMemberRow(), rows)
	if app.Removed != nil {
		fmt.Fprintf(dockerCLI.Err(), "%s was removed %s; its volumes are kept. Take them up again with: docker openmanage create %s %s\n", app.Name, ago(*app.Removed), app.Type, app.Name)
	}
	if h := app.Handover; h != nil {
		fmt.Fprintf(dockerCLI.Err(), "the primary is being changed, from %s, since %s: %s\n", h.From, ago(h.Since), h.Reason)
	}
	for _, p := range app.Problems {
		fmt.Fprintln(dockerCLI.Err(), "problem:", p)
	}
	if warning := <-stale; warning != nil {
		fmt.Fprintln(dockerCLI.Err(), "warning:", warning)
	}
	return err
}

type memberRow struct {
	formatter.HeaderContext
	m       store.Member
	live    api.LiveMember
	known   bool // live
	usage   api.Usage
	removed bool
	// component is how a component is, for the row of one.
	component string
}

func newMemberRow() *memberRow {
	return &memberRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Member": "MEMBER", "Role": "ROLE", "Node": "NODE", "State": "STATE", "Health": "HEALTH", "Lag": "LAG", "LagBytes": "LAG BYTES",
		"Volume": "VOLUME", "Since": "SINCE", "SinceAt": "SINCE", "Message": "MESSAGE", "Service": "SERVICE", "Pinned": "PINNED", "Version": "VERSION",
		"Sync": "SYNC", "Timeline": "TIMELINE", "LagSeconds": "LAG SECONDS", "Disk": "DISK", "DiskLevel": "DISK LEVEL",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *memberRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *memberRow) Member() string { return r.m.Name }
func (r *memberRow) Role() string   { return dash(string(r.m.Role)) }
func (r *memberRow) Node() string   { return dash(r.m.Hostname) }

func (r *memberRow) State() string {
	if r.component != "" {
		return r.component
	}
	if r.removed {
		return "removed"
	}
	if r.m.State == "" {
		return "unknown"
	}
	if r.m.State == api.StateRunning && !r.m.Healthy {
		return "running (unhealthy)"
	}
	if r.m.Healthy {
		return string(r.m.State) + " (healthy)"
	}
	return string(r.m.State)
}

func (r *memberRow) Health() string {
	if r.m.Healthy {
		return "healthy"
	}
	return "unhealthy"
}

// Lag is how far the member is behind the primary.
func (r *memberRow) Lag() string {
	if !r.runs() || r.m.Role == api.RolePrimary || r.live.LagBytes < 0 {
		return "-"
	}
	lag := units.BytesSize(float64(r.live.LagBytes))
	if r.live.LagSeconds >= 1 {
		lag += fmt.Sprintf(" (%.0fs)", r.live.LagSeconds)
	}
	return lag
}

func (r *memberRow) LagBytes() string {
	if !r.known || r.live.LagBytes < 0 {
		return "-1"
	}
	return fmt.Sprint(r.live.LagBytes)
}

func (r *memberRow) LagSeconds() string {
	if !r.known || r.live.LagSeconds < 0 {
		return "-1"
	}
	return fmt.Sprintf("%.1f", r.live.LagSeconds)
}

// Disk is how full the member's volume is.
func (r *memberRow) Disk() string {
	if usage := usageText(r.usage); usage != "-" {
		return usage
	}
	return dash(string(r.m.Disk))
}
func (r *memberRow) DiskLevel() string { return dash(string(r.m.Disk)) }

// usageText is the part of a filesystem that is in use, such as 87% of 10GiB, or of
// the files that it can have, if that is more.
func usageText(u api.Usage) string {
	if !u.Known() {
		return "-"
	}
	if u.FilesPercent() > u.Percent() && u.FilesPercent() >= 1 {
		return fmt.Sprintf("%.0f%% of files", u.FilesPercent())
	}
	return fmt.Sprintf("%.0f%% of %s", u.Percent(), units.BytesSize(float64(u.Size())))
}
func (r *memberRow) Volume() string { return dash(r.m.Volume) }
func (r *memberRow) Since() string {
	if r.m.Since.IsZero() {
		return "-"
	}
	return ago(r.m.Since)
}

func (r *memberRow) SinceAt() string {
	if r.m.Since.IsZero() {
		return "-"
	}
	return r.m.Since.Local().Format(time.DateTime)
}

func (r *memberRow) Message() string {
	var parts []string
	if r.m.Pinned {
		parts = append(parts, "pinned to "+r.m.Hostname+": node-local data")
	}
	if r.m.Message != "" {
		parts = append(parts, r.m.Message)
	}
	if level := string(r.m.Disk); level != "" && !strings.Contains(r.m.Message, "volume "+r.m.Volume+" is "+level) {
		parts = append(parts, "its volume is "+level)
	}
	if r.m.PendingRestart != "" {
		parts = append(parts, "takes a restart: "+strings.ReplaceAll(r.m.PendingRestart, ",", ", "))
	}
	return strings.Join(parts, "; ")
}
func (r *memberRow) Service() string { return r.m.Service }
func (r *memberRow) Pinned() string  { return fmt.Sprint(r.m.Pinned) }
func (r *memberRow) Version() string { return r.live.Version }

// Sync is whether a commit may wait for this standby.
func (r *memberRow) Sync() string {
	switch {
	case !r.runs() || r.m.Role != api.RoleStandby:
		return "-"
	case r.live.Sync:
		return "sync"
	}
	return "async"
}

// Timeline counts the changes of the primary in the history of the member's data.
func (r *memberRow) Timeline() string {
	if !r.runs() || r.live.Timeline == 0 {
		return "-"
	}
	return fmt.Sprint(r.live.Timeline)
}

// runs tells whether what the member says of itself is of a server that runs.
func (r *memberRow) runs() bool { return r.known && r.live.State == api.StateRunning }

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
