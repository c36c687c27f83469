package commands

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/inspect"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/claim"
	"github.com/openmanage/openmanage/cli-plugin/internal/live"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

type inspectOptions struct {
	names  []string
	format string
}

func inspectCommand(dockerCLI command.Cli) *cobra.Command {
	var o inspectOptions
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] APPLICATION [APPLICATION...]",
		Short: "Display everything that is known of applications",
		Args:  cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			return runInspect(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 0),
		DisableFlagsInUseLine: true,
	}
	formatFlag(cmd.Flags(), &o.format)
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

// inspection is what inspect prints of an application.
type inspection struct {
	store.Application
	Volumes []api.Volume     `json:"volumes"`
	Live    []api.LiveMember `json:"live"` // what the agents say now; empty if no manager answers
	Held    []api.LiveVolume `json:"held"` // its volumes as the nodes that have mounted them see them now
	// Parameters and Services are what is deployed, the desired state.
	Parameters map[string]string `json:"parameters"`
	Services   []string          `json:"services"`
	Create     *store.Operation  `json:"create,omitempty"`
	Events     []store.Event     `json:"events"`
}

func runInspect(ctx context.Context, dockerCLI command.Cli, o inspectOptions) error {
	liveCtx, cancel := context.WithTimeout(ctx, livePatience)
	status, _ := live.Read(liveCtx, dockerCLI.Client())
	cancel()
	return inspect.Inspect(dockerCLI.Out(), o.names, o.format, func(name string) (any, []byte, error) {
		found, err := inspectApplication(ctx, dockerCLI, name, status)
		if err != nil {
			return nil, nil, err
		}
		raw, err := json.Marshal(found)
		return found, raw, err
	})
}

func inspectApplication(ctx context.Context, dockerCLI command.Cli, name string, status api.LiveStatus) (*inspection, error) {
	app, err := application(ctx, dockerCLI, name)
	if err != nil {
		return nil, err
	}
	found := &inspection{
		Application: app, Live: []api.LiveMember{}, Held: []api.LiveVolume{}, Parameters: map[string]string{},
		Services: []string{}, Events: []store.Event{},
	}
	if found.Volumes, err = volumesOf(ctx, dockerCLI, name); err != nil {
		return nil, err
	}
	for _, m := range status.Members {
		if m.Application == name {
			found.Live = append(found.Live, m)
		}
	}
	for _, v := range found.Volumes {
		for _, held := range status.Volumes {
			if held.Name == v.Name {
				found.Held = append(found.Held, held)
			}
		}
	}
	services, err := stackdeploy.Services(ctx, dockerCLI.Client(), name)
	if err != nil {
		return nil, err
	}
	for _, s := range services {
		found.Services = append(found.Services, s.Spec.Name)
	}
	if first, ok := firstService(services); ok {
		_ = json.Unmarshal([]byte(first.Spec.Labels[api.LabelParameters]), &found.Parameters) // one that was spoilt is none
		if kind, err := typeOf(ctx, dockerCLI, app); err == nil {
			for _, p := range kind.Parameters {
				if value, ok := first.Spec.Labels[p.Label]; p.Label != "" && ok {
					found.Parameters[p.Name] = value
				}
			}
		}
	}
	records := store.New(dockerCLI.Client())
	events, err := store.Get[store.Events](ctx, records, store.KindEvents, name)
	if err == nil {
		found.Events = events.Value.Events
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	op, err := store.Get[store.Operation](ctx, records, store.KindOperation, claim.Name(name))
	if err == nil {
		found.Create = &op.Value
	} else if !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	return found, nil
}

// inspectValue prints one value as inspect does.
func inspectValue(dockerCLI command.Cli, format string, value any) error {
	return inspect.Inspect(dockerCLI.Out(), []string{""}, format, func(string) (any, []byte, error) {
		raw, err := json.Marshal(value)
		return value, raw, err
	})
}
