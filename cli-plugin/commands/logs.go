package commands

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/component"
	"github.com/openmanage/openmanage/cli-plugin/internal/memberlog"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/api"
)

type logsOptions struct {
	memberlog.Options
	name    string
	members []string
}

func logsCommand(dockerCLI command.Cli) *cobra.Command {
	var o logsOptions
	cmd := &cobra.Command{
		Use:   "logs [OPTIONS] APPLICATION [MEMBER...]",
		Short: "Display the logs of an application's members, merged by time",
		Args:  cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.members = args[0], args[1:]
			return runLogs(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	flags.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of each member's logs")
	flags.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	flags.BoolVarP(&o.Timestamps, "timestamps", "t", false, "Show timestamps")
	return cmd
}

func runLogs(ctx context.Context, dockerCLI command.Cli, o logsOptions) error {
	docker := dockerCLI.Client()
	res, err := docker.ServiceList(ctx, client.ServiceListOptions{Filters: make(client.Filters).Add("label", api.LabelApplication+"="+o.name)})
	if err != nil {
		return preflight.Explain(ctx, docker, err)
	}
	type numbered struct {
		memberlog.Source
		slot int
	}
	var found []numbered
	for _, s := range res.Items {
		member := s.Spec.Labels[api.LabelMember]
		if member == "" && s.Spec.Labels[api.LabelComponent] != "" {
			member = component.Name(s)
		}
		if len(o.members) > 0 && !slices.Contains(o.members, member) {
			continue
		}
		slot, _ := strconv.Atoi(s.Spec.Labels[api.LabelSlot])
		found = append(found, numbered{memberlog.Source{Member: member, Service: s.ID}, slot})
	}
	if len(found) == 0 {
		if len(res.Items) > 0 {
			return fmt.Errorf("%s has no such member: %v\nSee its members with: docker openmanage ps %s", o.name, o.members, o.name)
		}
		if _, err := application(ctx, dockerCLI, o.name); err != nil {
			return err
		}
		return fmt.Errorf("%s runs no members, so there are no logs", o.name)
	}
	slices.SortFunc(found, func(a, b numbered) int { return cmp.Compare(a.slot, b.slot) })
	sources := make([]memberlog.Source, 0, len(found))
	for _, f := range found {
		sources = append(sources, f.Source)
	}
	return memberlog.Write(ctx, docker, sources, o.Options, dockerCLI.Out(), dockerCLI.Err())
}
