package commands

import (
	"context"
	"errors"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/store"
)

type eventsOptions struct {
	name   string
	follow bool
	format string
}

func eventsCommand(dockerCLI command.Cli) *cobra.Command {
	var o eventsOptions
	cmd := &cobra.Command{
		Use:   "events [OPTIONS] APPLICATION",
		Short: "Display an application's history: what was created, moved, changed its state",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return runEvents(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &o.format)
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "Go on with what happens from now on")
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

func runEvents(ctx context.Context, dockerCLI command.Cli, o eventsOptions) error {
	docker := dockerCLI.Client()
	records := store.New(docker)
	var last store.Event // the last one printed
	for first := true; ; first = false {
		record, err := store.Get[store.Events](ctx, records, store.KindEvents, o.name)
		switch {
		case err == nil:
		case ctx.Err() != nil && !first:
			return nil // the user has seen enough
		case errors.Is(err, store.ErrNotFound):
			if first {
				if _, err := application(ctx, dockerCLI, o.name); err != nil {
					return err
				}
			}
		case first:
			return preflight.Explain(ctx, docker, err)
		}
		if err == nil {
			events := after(record.Value.Events, last)
			rows := make([]*eventRow, 0, len(events))
			for _, e := range events {
				rows = append(rows, &eventRow{e: e})
				last = e
			}
			if err := writeEvents(dockerCLI, o, first, rows); err != nil {
				return err
			}
		}
		if !o.follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// eventColumns are of fixed width when following: a table cannot know what is to come.
const (
	eventColumns       = `{{.Time}}\t{{.Member}}\t{{.Kind}}\t{{.Text}}`
	eventFollowColumns = `{{.Time}}  {{printf "%-12s" .Member}}  {{printf "%-10s" .Kind}}  {{.Text}}`
)

func writeEvents(dockerCLI command.Cli, o eventsOptions, first bool, rows []*eventRow) error {
	if len(rows) == 0 && !first {
		return nil
	}
	if o.follow && (o.format == "" || o.format == formatter.TableFormatKey) {
		if len(rows) == 0 {
			return nil
		}
		return writeTable(dockerCLI, eventFollowColumns, "", "", newEventRow(), rows)
	}
	return writeTable(dockerCLI, o.format, eventColumns, "", newEventRow(), rows)
}

// after returns the events that follow last; all of them if it is not there any more.
func after(events []store.Event, last store.Event) []store.Event {
	for i := len(events) - 1; i >= 0; i-- {
		e := events[i]
		if e.Time.Equal(last.Time) && e.Member == last.Member && e.Kind == last.Kind && e.Text == last.Text {
			return events[i+1:]
		}
	}
	return events
}

type eventRow struct {
	formatter.HeaderContext
	e store.Event
}

func newEventRow() *eventRow {
	return &eventRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Time": "TIME", "Member": "MEMBER", "Kind": "KIND", "Text": "EVENT",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *eventRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *eventRow) Time() string   { return r.e.Time.Local().Format(time.RFC3339) }
func (r *eventRow) Member() string { return dash(r.e.Member) }
func (r *eventRow) Kind() string   { return r.e.Kind }
func (r *eventRow) Text() string   { return r.e.Text }
