package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/claim"
	"github.com/openmanage/openmanage/cli-plugin/internal/credentials"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

type removeOptions struct {
	names   []string
	yes     bool
	timeout time.Duration
}

func removeCommand(dockerCLI command.Cli) *cobra.Command {
	var o removeOptions
	cmd := &cobra.Command{
		Use:     "rm [OPTIONS] APPLICATION [APPLICATION...]",
		Aliases: []string{"remove"},
		Short:   "Remove applications; their volumes and secrets are kept",
		Args:    cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.names = args
			return runRemove(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 0),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 5*time.Minute, "How long to wait until the members have stopped")
	return cmd
}

func runRemove(ctx context.Context, dockerCLI command.Cli, o removeOptions) error {
	if _, err := preflight.Manager(ctx, dockerCLI.Client()); err != nil {
		return err
	}
	var errs []error
	for _, name := range o.names {
		errs = append(errs, removeApplication(ctx, dockerCLI, name, o))
	}
	return errors.Join(errs...)
}

func removeApplication(ctx context.Context, dockerCLI command.Cli, name string, o removeOptions) error {
	docker := dockerCLI.Client()
	records := store.New(docker)
	services, err := stackdeploy.Services(ctx, docker, name)
	if err != nil {
		return err
	}
	for _, s := range services {
		if s.Spec.Labels[api.LabelApplication] != name {
			return fmt.Errorf("the stack %s is not OpenManage's (service %s)\nRemove it with: docker stack rm %s", name, s.Spec.Name, name)
		}
	}
	op, opErr := store.Get[store.Operation](ctx, records, store.KindOperation, claim.Name(name))
	if opErr != nil && !errors.Is(opErr, store.ErrNotFound) {
		return opErr
	}
	left := false // by an rm that was cut short
	if len(services) == 0 && opErr != nil {
		app, err := application(ctx, dockerCLI, name)
		if err != nil {
			return err
		}
		if left, err = stackdeploy.IsLeft(ctx, docker, name); err != nil {
			return err
		}
		if !left {
			if app.Removed == nil {
				fmt.Fprintf(dockerCLI.Err(), "%s has no services\n", name)
			}
			return printKept(ctx, dockerCLI, name)
		}
	}
	others, err := stackdeploy.Attached(ctx, docker, name)
	if err != nil {
		return err
	}
	if len(others) > 0 {
		return fmt.Errorf("%s is in use: other services are attached to its network: %s\nNothing was removed. Remove those first, or detach them", name, strings.Join(others, ", "))
	}
	if !o.yes && !left { // which was agreed to
		if !dockerCLI.In().IsTerminal() {
			return fmt.Errorf("%s and its %d members would be removed\nAdd --yes to do so; its volumes and secrets are kept", name, len(services))
		}
		ok, err := ask(ctx, dockerCLI, fmt.Sprintf("Remove %s and its %d members? Volumes and secrets are kept.", name, len(services)))
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("nothing was removed")
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("%s was not gone within %s; Swarm goes on removing it", name, o.timeout))
	defer cancel()
	if opErr == nil {
		// Without its record, a create that still runs stops, and the next one starts anew.
		if err := store.Delete(ctx, records, store.KindOperation, op); err != nil {
			return err
		}
		if op.Value.State == store.OperationRunning {
			fmt.Fprintf(dockerCLI.Err(), "%s is being created by %s: waiting until that has stopped\n", name, op.Value.By)
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(claim.Notice):
			}
		}
	}
	if err := credentials.RemoveServices(ctx, docker, name); err != nil {
		return err
	}
	if err := stackdeploy.Remove(ctx, docker, name, func(s string) { fmt.Fprintln(dockerCLI.Err(), s) }); err != nil {
		return fmt.Errorf("remove %s: %w\nRun the same command again to go on", name, err)
	}
	if err := waitForVolumes(ctx, dockerCLI, name); err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Err(), "%s is removed\n", name)
	return printKept(ctx, dockerCLI, name)
}

// waitForVolumes waits until no node has a volume of the application attached.
func waitForVolumes(ctx context.Context, dockerCLI command.Cli, name string) error {
	said := ""
	for {
		volumes, err := volumesOf(ctx, dockerCLI, name)
		if err != nil {
			return err
		}
		attached := ""
		for _, v := range volumes {
			if v.Owner != nil {
				attached = fmt.Sprintf("%s is still attached to %s", v.Name, v.Owner.Hostname)
				break
			}
		}
		if attached == "" {
			return nil
		}
		if attached != said {
			said = attached
			fmt.Fprintln(dockerCLI.Err(), attached)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w; %s\nThe volume of a node that is gone becomes free once Swarm calls the node down and its lease has run out: docker openmanage volume ls", context.Cause(ctx), attached)
		case <-time.After(time.Second):
		}
	}
}

// volumesOf returns the volumes of an application, by name.
func volumesOf(ctx context.Context, dockerCLI command.Cli, name string) ([]api.Volume, error) {
	records, err := store.List[api.Volume](ctx, store.New(dockerCLI.Client()), store.KindVolume)
	if err != nil {
		return nil, preflight.Explain(ctx, dockerCLI.Client(), err)
	}
	var volumes []api.Volume
	for _, r := range records {
		if r.Value.Application == name {
			volumes = append(volumes, r.Value)
		}
	}
	return volumes, nil
}

// printKept says what remains of a removed application.
func printKept(ctx context.Context, dockerCLI command.Cli, name string) error {
	volumes, err := volumesOf(ctx, dockerCLI, name)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		fmt.Fprintf(dockerCLI.Out(), "kept volume %s (%s)\n", v.Name, stacks.FormatSize(v.Size))
	}
	secrets, err := dockerCLI.Client().SecretList(ctx, client.SecretListOptions{Filters: make(client.Filters).Add("label", api.LabelApplication+"="+name)})
	if err != nil {
		return err
	}
	for _, s := range secrets.Items {
		fmt.Fprintf(dockerCLI.Out(), "kept secret %s\n", s.Spec.Name)
	}
	if len(volumes) > 0 {
		fmt.Fprintf(dockerCLI.Err(), "create with the same name takes them up again. Delete a volume and its data with: docker openmanage volume rm NAME --yes-delete-data\n")
	}
	return nil
}
