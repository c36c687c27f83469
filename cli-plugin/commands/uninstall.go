package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/credentials"
	"github.com/openmanage/openmanage/cli-plugin/internal/installation"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

type uninstallOptions struct {
	yes     bool
	timeout time.Duration
}

func uninstallCommand(dockerCLI command.Cli) *cobra.Command {
	var o uninstallOptions
	cmd := &cobra.Command{
		Use:   "uninstall [OPTIONS]",
		Short: "Remove OpenManage from the Swarm; data is never deleted",
		Long: `Remove the stack openmanage. The volume plugin stays on the nodes, and with it the
data and the records of all volumes: installed again, OpenManage knows them.
Refused while applications exist or volumes are attached.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runUninstall(cmd.Context(), dockerCLI, o)
		},
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 2*time.Minute, "How long to wait until the services have stopped")
	return cmd
}

func runUninstall(ctx context.Context, dockerCLI command.Cli, o uninstallOptions) error {
	docker := dockerCLI.Client()
	if _, err := preflight.Manager(ctx, docker); err != nil {
		return err
	}
	services, err := stackdeploy.Services(ctx, docker, api.StackName)
	if err != nil {
		return err
	}
	if len(services) == 0 {
		return fmt.Errorf("%w; there is nothing to remove", preflight.ErrNotInstalled)
	}
	if foreign := installation.Foreign(services); foreign != "" {
		return fmt.Errorf("the stack %s is not ours (service %s)\nRemove it with: docker stack rm %s", api.StackName, foreign, api.StackName)
	}
	records := store.New(docker)
	if err := refuseIfUsed(ctx, records); err != nil {
		return err
	}
	if !o.yes {
		if !dockerCLI.In().IsTerminal() {
			return errors.New("OpenManage would be removed from this Swarm\nAdd --yes to do so; no data is deleted")
		}
		ok, err := ask(ctx, dockerCLI, "Remove OpenManage from this Swarm? No data is deleted.")
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("nothing was removed")
		}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("it was not gone within %s", o.timeout))
	defer cancel()
	if err := credentials.RemoveServices(ctx, docker, ""); err != nil {
		return err
	}
	if err := stackdeploy.Remove(ctx, docker, api.StackName, func(s string) { fmt.Fprintln(dockerCLI.Err(), s) }); err != nil {
		return err
	}
	if err := forget(ctx, records); err != nil {
		return err
	}
	fmt.Fprintln(dockerCLI.Out(), "OpenManage is removed. Volumes, their data and their records are kept.")
	fmt.Fprintf(dockerCLI.Err(), "The volume plugin stays on each node. To remove it there: docker plugin disable %s && docker plugin rm %s\n", api.PluginName, api.PluginName)
	return nil
}

// refuseIfUsed says what still needs OpenManage, or nil.
func refuseIfUsed(ctx context.Context, records *store.Store) error {
	applications, err := store.List[store.Application](ctx, records, store.KindApplication)
	if err != nil {
		return err
	}
	var names []string
	for _, a := range applications {
		if a.Value.Removed == nil {
			names = append(names, a.Name)
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("there are applications: %s\nRemove them first, their volumes are kept: docker openmanage rm %s", strings.Join(names, ", "), strings.Join(names, " "))
	}
	volumes, err := store.List[api.Volume](ctx, records, store.KindVolume)
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if v.Value.Owner != nil {
			names = append(names, v.Name+" on "+v.Value.Owner.Hostname)
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("volumes are in use: %s\nRemove the services and containers that use them first", strings.Join(names, ", "))
	}
	return nil
}

// forget deletes what says who leads and which nodes report: it is not true any more.
func forget(ctx context.Context, records *store.Store) error {
	leaders, err := store.List[store.Leader](ctx, records, store.KindLeader)
	if err != nil {
		return err
	}
	for _, r := range leaders {
		if err := store.Delete(ctx, records, store.KindLeader, r); err != nil {
			return err
		}
	}
	nodes, err := store.List[store.Node](ctx, records, store.KindNode)
	if err != nil {
		return err
	}
	for _, r := range nodes {
		if err := store.Delete(ctx, records, store.KindNode, r); err != nil {
			return err
		}
	}
	return nil
}
