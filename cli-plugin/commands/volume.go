package commands

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/claim"
	"github.com/openmanage/openmanage/cli-plugin/internal/credentials"
	"github.com/openmanage/openmanage/cli-plugin/internal/live"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

func volumeCommand(dockerCLI command.Cli) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "volume",
		Short: "Manage volumes",
		Args:  cli.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(volumeListCommand(dockerCLI), volumeRemoveCommand(dockerCLI), volumeExpandCommand(dockerCLI))
	return cmd
}

type volumeListOptions struct {
	format string
	quiet  bool
}

func volumeListCommand(dockerCLI command.Cli) *cobra.Command {
	var o volumeListOptions
	cmd := &cobra.Command{
		Use:     "ls [OPTIONS]",
		Aliases: []string{"list"},
		Short:   "List volumes",
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runVolumeList(cmd.Context(), dockerCLI, o)
		},
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &o.format)
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "Only display volume names")
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

func runVolumeList(ctx context.Context, dockerCLI command.Cli, o volumeListOptions) error {
	docker := dockerCLI.Client()
	records := store.New(docker)
	volumes, err := store.List[api.Volume](ctx, records, store.KindVolume)
	if err != nil && len(volumes) == 0 {
		return preflight.Explain(ctx, docker, err)
	}
	if err != nil {
		fmt.Fprintln(dockerCLI.Err(), "warning:", err)
	}
	nodes, err := store.List[store.Node](ctx, records, store.KindNode)
	if err != nil {
		fmt.Fprintln(dockerCLI.Err(), "warning:", err)
	}
	hostnames := map[string]string{}
	for _, n := range nodes {
		hostnames[n.Value.ID] = n.Value.Hostname
	}
	var status api.LiveStatus
	if !o.quiet {
		liveCtx, cancel := context.WithTimeout(ctx, livePatience)
		status, _ = live.Read(liveCtx, docker) // without it the use is "-"
		cancel()
	}
	rows := make([]*volumeRow, 0, len(volumes))
	for _, v := range volumes {
		r := &volumeRow{v: v.Value, hostnames: hostnames}
		r.usage, _ = live.Usage(status, v.Value.Name)
		rows = append(rows, r)
	}
	quiet := ""
	if o.quiet {
		quiet = "{{.Name}}"
	}
	return writeTable(dockerCLI, o.format, `{{.Name}}\t{{.Member}}\t{{.Size}}\t{{.Used}}\t{{.Filesystem}}\t{{.Node}}\t{{.State}}\t{{.CreatedSince}}`, quiet, newVolumeRow(), rows)
}

type volumeRow struct {
	formatter.HeaderContext
	v         api.Volume
	hostnames map[string]string
	usage     api.Usage
}

func newVolumeRow() *volumeRow {
	return &volumeRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Name": "VOLUME", "Application": "APPLICATION", "Member": "MEMBER", "Size": "SIZE", "Filesystem": "FS", "Backend": "BACKEND",
		"Node": "NODE", "LastNode": "LAST NODE", "Task": "TASK", "State": "STATE", "Epoch": "EPOCH", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT",
		"Used": "USED", "UsedBytes": "USED BYTES", "FreeBytes": "FREE BYTES",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *volumeRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *volumeRow) Name() string        { return r.v.Name }
func (r *volumeRow) Application() string { return dash(r.v.Application) }
func (r *volumeRow) Member() string      { return dash(r.v.Member) }
func (r *volumeRow) Size() string        { return stacks.FormatSize(r.v.Size) }

// Used is how full its filesystem is, which is a little smaller than the volume.
func (r *volumeRow) Used() string       { return usageText(r.usage) }
func (r *volumeRow) UsedBytes() string  { return fmt.Sprint(r.usage.Used) }
func (r *volumeRow) FreeBytes() string  { return fmt.Sprint(r.usage.Free) }
func (r *volumeRow) Filesystem() string { return r.v.Filesystem }
func (r *volumeRow) Backend() string    { return r.v.Backend }

// Node is the one that has it attached.
func (r *volumeRow) Node() string {
	if r.v.Owner == nil {
		return "-"
	}
	return r.v.Owner.Hostname
}

func (r *volumeRow) LastNode() string {
	if name, ok := r.hostnames[r.v.LastNode]; ok {
		return name
	}
	return dash(r.v.LastNode)
}

func (r *volumeRow) Task() string {
	if r.v.Owner == nil {
		return "-"
	}
	return dash(r.v.Owner.Task)
}
func (r *volumeRow) State() string        { return r.v.State() }
func (r *volumeRow) Epoch() string        { return fmt.Sprint(r.v.Epoch) }
func (r *volumeRow) CreatedSince() string { return ago(r.v.Created) }
func (r *volumeRow) CreatedAt() string    { return r.v.Created.Local().Format(time.DateTime) }

type volumeRemoveOptions struct {
	names      []string
	deleteData bool
	timeout    time.Duration
}

func volumeRemoveCommand(dockerCLI command.Cli) *cobra.Command {
	var o volumeRemoveOptions
	cmd := &cobra.Command{
		Use:     "rm --yes-delete-data VOLUME [VOLUME...]",
		Aliases: []string{"remove"},
		Short:   "Delete volumes and the data on them, for good",
		Args:    cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			return runVolumeRemove(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeVolumes(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&o.deleteData, "yes-delete-data", false, "Yes, delete the data; it cannot be brought back")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 2*time.Minute, "How long to wait until the data is deleted")
	return cmd
}

func runVolumeRemove(ctx context.Context, dockerCLI command.Cli, o volumeRemoveOptions) error {
	docker := dockerCLI.Client()
	info, err := preflight.Manager(ctx, docker)
	if err != nil {
		return err
	}
	records := store.New(docker)
	// Everything is checked before anything is deleted.
	var errs []error
	for _, name := range o.names {
		errs = append(errs, checkRemovable(ctx, records, name, o.deleteData))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if _, err := preflight.Installed(ctx, docker, info); err != nil {
		return err
	}
	for _, name := range o.names {
		// The application's secrets go with its last volume, if no service uses them.
		if r, err := store.Get[api.Volume](ctx, records, store.KindVolume, name); err == nil && r.Value.Application != "" {
			if err := credentials.RemoveServices(ctx, docker, r.Value.Application); err != nil {
				return err
			}
		}
		if err := purge(ctx, records, name, o.timeout); err != nil {
			return err
		}
		fmt.Fprintln(dockerCLI.Out(), name)
	}
	return nil
}

func checkRemovable(ctx context.Context, records *store.Store, name string, deleteData bool) error {
	record, err := store.Get[api.Volume](ctx, records, store.KindVolume, name)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("no such volume: %s\nSee what there is with: docker openmanage volume ls", name)
	}
	if err != nil {
		return err
	}
	v := record.Value
	switch {
	case v.Owner != nil:
		holder := v.Owner.Hostname
		if v.Owner.Task != "" {
			holder = v.Owner.Task + " on " + holder
		}
		next := "Remove what uses it first"
		if v.Application != "" {
			next += ": docker openmanage rm " + v.Application
		}
		return fmt.Errorf("the volume %s is attached (%s)\n%s", name, holder, next)
	case !deleteData:
		return fmt.Errorf("the volume %s (%s) would be deleted with all data on it, for good\nTo do so: docker openmanage volume rm %s --yes-delete-data", name, stacks.FormatSize(v.Size), name)
	}
	return nil
}

// purgeName is the name of the operation that deletes a volume. The manager finds
// it by its kind and target; the name only keeps two requests from being two. The
// name of a record is limited, so a long volume's takes a shorter prefix.
func purgeName(volume string) string {
	if len(volume) > 37 {
		return "rm." + volume
	}
	return store.OperationPurge + "." + volume
}

// purge asks the leader to delete a volume and waits until it is done.
func purge(ctx context.Context, records *store.Store, name string, timeout time.Duration) error {
	op := store.Operation{
		Kind: store.OperationPurge, Target: name, By: claim.Me(), State: store.OperationRequested, Started: time.Now().UTC().Truncate(time.Second),
	}
	_, err := store.Create(ctx, records, store.KindOperation, purgeName(name), op)
	if errors.Is(err, store.ErrExists) {
		// An earlier request: one that failed is asked again, one that runs is followed.
		_, err = store.Modify(ctx, records, store.KindOperation, purgeName(name), func(o *store.Operation) (bool, error) {
			if o.State != store.OperationFailed && o.State != store.OperationDone {
				return false, nil
			}
			*o = op
			return true, nil
		})
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		record, err := store.Get[store.Operation](ctx, records, store.KindOperation, purgeName(name))
		switch {
		case err == nil && record.Value.State == store.OperationDone:
			return nil
		case err == nil && record.Value.State == store.OperationFailed:
			return fmt.Errorf("the volume %s was not deleted: %s", name, record.Value.Error)
		case errors.Is(err, store.ErrNotFound):
			return nil // done, and tidied up
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the volume %s is not yet deleted: %w\nThe request stays and is carried out when the node that has the data answers. See: docker openmanage volume ls", name, ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}
