package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/store"
)

func operationCommand(dockerCLI command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "operation",
		Short: "See and cancel operations",
		Args:  cli.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(operationListCommand(dockerCLI), operationInspectCommand(dockerCLI), operationCancelCommand(dockerCLI))
	return cmd
}

func operationListCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	var quiet, whole bool
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List operations: what runs, and what ran within a day",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runOperationList(cmd.Context(), dockerCLI, format, quiet, whole)
		},
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &format)
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Only display names")
	cmd.Flags().BoolVar(&whole, "no-trunc", false, "Do not shorten what is long")
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

func runOperationList(ctx context.Context, dockerCLI command.Cli, format string, quiet, whole bool) error {
	docker := dockerCLI.Client()
	if _, err := preflight.Manager(ctx, docker); err != nil {
		return err
	}
	records, err := store.List[store.Operation](ctx, store.New(docker), store.KindOperation)
	if err != nil {
		return preflight.Explain(ctx, docker, err)
	}
	slices.SortFunc(records, func(a, b store.Record[store.Operation]) int { return b.Created.Compare(a.Created) })
	rows := make([]*operationRow, 0, len(records))
	for _, r := range records {
		rows = append(rows, &operationRow{name: r.Name, op: r.Value, short: format == "" && !whole})
	}
	only := ""
	if quiet {
		only = "{{.Name}}"
	}
	return writeTable(dockerCLI, format, `{{.Name}}\t{{.Kind}}\t{{.Target}}\t{{.State}}\t{{.Step}}\t{{.By}}\t{{.Started}}`, only, newOperationRow(), rows)
}

type operationRow struct {
	formatter.HeaderContext
	name  string
	op    store.Operation
	short bool
}

// stepWidth is how much of a step a table shows.
const stepWidth = 60

func newOperationRow() *operationRow {
	return &operationRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Name": "NAME", "Kind": "KIND", "Target": "TARGET", "State": "STATE", "Step": "STEP", "By": "ASKED BY", "Started": "STARTED", "Ended": "ENDED", "Error": "ERROR",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *operationRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *operationRow) Name() string   { return r.name }
func (r *operationRow) Kind() string   { return r.op.Kind }
func (r *operationRow) Target() string { return r.op.Target }
func (r *operationRow) State() string  { return string(r.op.State) }
func (r *operationRow) By() string     { return r.op.By }
func (r *operationRow) Error() string  { return r.op.Error }

// Step is what it does, or why it ended as it did.
func (r *operationRow) Step() string {
	step := r.op.Step
	if r.op.Ended != nil {
		step = r.op.Error
	}
	if runes := []rune(step); r.short && len(runes) > stepWidth {
		return string(runes[:stepWidth-1]) + "…"
	}
	return step
}
func (r *operationRow) Started() string { return ago(r.op.Started) }
func (r *operationRow) Ended() string {
	if r.op.Ended == nil {
		return ""
	}
	return ago(*r.op.Ended)
}

func operationInspectCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] OPERATION",
		Short: "Show an operation with its steps",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runOperationInspect(cmd.Context(), dockerCLI, args[0], format)
		},
		ValidArgsFunction:     completeOperations(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &format)
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

func operationRecord(ctx context.Context, dockerCLI command.Cli, name string) (store.Record[store.Operation], error) {
	docker := dockerCLI.Client()
	if _, err := preflight.Manager(ctx, docker); err != nil {
		return store.Record[store.Operation]{}, err
	}
	r, err := store.Get[store.Operation](ctx, store.New(docker), store.KindOperation, name)
	if errors.Is(err, store.ErrNotFound) {
		return r, fmt.Errorf("no such operation: %s\nSee what there is with: docker openmanage operation ls", name)
	}
	return r, preflight.Explain(ctx, docker, err)
}

func runOperationInspect(ctx context.Context, dockerCLI command.Cli, name, format string) error {
	r, err := operationRecord(ctx, dockerCLI, name)
	if err != nil {
		return err
	}
	if format != "" {
		return writeTable(dockerCLI, format, `{{.Name}}\t{{.State}}`, "", newOperationRow(), []*operationRow{{name: r.Name, op: r.Value}})
	}
	op, out := r.Value, dockerCLI.Out()
	fmt.Fprintf(out, "Name:      %s\nKind:      %s\nTarget:    %s\nAsked by:  %s\nState:     %s\nStarted:   %s\n", r.Name, op.Kind, op.Target, op.By, op.State, op.Started.Format(time.RFC3339))
	if op.Ended != nil {
		fmt.Fprintf(out, "Ended:     %s\n", op.Ended.Format(time.RFC3339))
	}
	if op.Error != "" {
		fmt.Fprintf(out, "Why:       %s\n", op.Error)
	}
	if req := strings.TrimSpace(op.Request); req != "" && req != "{}" {
		fmt.Fprintf(out, "Request:   %s\n", req)
	}
	for i, s := range op.Steps {
		label := "Steps:    "
		if i > 0 {
			label = "          "
		}
		fmt.Fprintf(out, "%s %s  %s\n", label, s.Time.Format(time.RFC3339), s.Text)
	}
	return nil
}

func operationCancelCommand(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel OPERATION",
		Short: "Stop an operation where the application is consistent",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runOperationCancel(cmd.Context(), dockerCLI, args[0])
		},
		ValidArgsFunction:     completeOperations(dockerCLI),
		DisableFlagsInUseLine: true,
	}
}

func runOperationCancel(ctx context.Context, dockerCLI command.Cli, name string) error {
	r, err := operationRecord(ctx, dockerCLI, name)
	if err != nil {
		return err
	}
	if r.Value.Kind == store.OperationCreate || r.Value.Kind == store.OperationPurge {
		return fmt.Errorf("a %s cannot be cancelled; it goes on, or is taken up by the same command", r.Value.Kind)
	}
	r, err = store.Modify(ctx, store.New(dockerCLI.Client()), store.KindOperation, name, func(op *store.Operation) (bool, error) {
		if op.Ended != nil {
			return false, fmt.Errorf("the operation %s is %s already", name, op.State)
		}
		changed := !op.Cancel
		op.Cancel = true
		return changed, nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "%s ends after its present step: %s\n", name, dash(r.Value.Step))
	return nil
}
