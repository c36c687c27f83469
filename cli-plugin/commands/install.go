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

	"github.com/openmanage/openmanage/cli-plugin/internal/installation"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
)

type installOptions struct {
	installation.Options
	timeout          time.Duration
	resolveImage     string
	withRegistryAuth bool
}

func installCommand(dockerCLI command.Cli, version string) *cobra.Command {
	o := installOptions{Options: installation.Options{Version: version}}
	cmd := &cobra.Command{
		Use:   "install [OPTIONS]",
		Short: "Install OpenManage on the Swarm, or upgrade it",
		Long: `Deploy the stack openmanage: the manager on manager nodes and the network helper
on all, which installs the volume plugin on its node. Nodes that join later get
both without a hand. Then look at each node and say what is wrong there.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runInstall(cmd.Context(), dockerCLI, stackdeploy.NewDocker(cmd), o)
		},
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Image, "image", "openmanage/openmanage:"+version, "Image of manager and network helper")
	flags.StringVar(&o.Plugin, "plugin", "openmanage/volume:"+version, "Reference of the volume plugin")
	flags.StringVar(&o.DataDir, "data", "", "Folder on every node below which volumes are kept; on a shared filesystem they move with their members (default /var/lib)")
	flags.StringVar(&o.RootDir, "docker-root", "", "The engine's data root on every node (default: this daemon's)")
	flags.StringVar(&o.LogLevel, "log-level", "info", "Log level of manager and network helper: debug, info, warn, error")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Minute, "How long to wait until every node is ready")
	flags.StringVar(&o.resolveImage, "resolve-image", "always", `Ask the registry for the image ("always", "changed", "never")`)
	flags.BoolVar(&o.withRegistryAuth, "with-registry-auth", false, "Send registry authentication details to the nodes")
	_ = cmd.RegisterFlagCompletionFunc("log-level", completeFixed("debug", "info", "warn", "error"))
	_ = cmd.RegisterFlagCompletionFunc("resolve-image", completeFixed("always", "changed", "never"))
	return cmd
}

func runInstall(ctx context.Context, dockerCLI command.Cli, deployer stackdeploy.Deployer, o installOptions) error {
	docker := dockerCLI.Client()
	info, err := preflight.Manager(ctx, docker)
	if err != nil {
		return err
	}
	if err := installation.CheckAutolock(ctx, docker); err != nil {
		return err
	}
	if o.RootDir == "" {
		o.RootDir = info.DockerRootDir
	}
	file, err := installation.Stack(o.Options)
	if err != nil {
		return err
	}
	services, err := stackdeploy.Services(ctx, docker, api.StackName)
	if err != nil {
		return err
	}
	if foreign := installation.Foreign(services); foreign != "" {
		return fmt.Errorf("there is a stack named %s that is not ours (service %s)\nOpenManage needs that name: remove the stack, or deploy it under another", api.StackName, foreign)
	}
	if o.resolveImage != "never" {
		auth, err := command.RetrieveAuthTokenFromImage(dockerCLI.ConfigFile(), o.Image)
		if err != nil {
			return err
		}
		if _, err := docker.DistributionInspect(ctx, o.Image, client.DistributionInspectOptions{EncodedRegistryAuth: auth}); err != nil {
			return fmt.Errorf("the image %s cannot be pulled: %w\nCheck --image. If the nodes have the image and no registry does, add --resolve-image never", o.Image, err)
		}
	}
	if err := deployer.Deploy(ctx, api.StackName, file, stackdeploy.Options{ResolveImage: o.resolveImage, WithRegistryAuth: o.withRegistryAuth}); err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Err(), "stack %s deployed; looking at each node\n", api.StackName)
	return verify(ctx, dockerCLI, o.Plugin, o.timeout)
}

// verify waits until every node is ready, and says of each how it is.
func verify(ctx context.Context, dockerCLI command.Cli, plugin string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	docker := dockerCLI.Client()
	said := map[string]string{}
	var last error
	for {
		info, err := docker.Info(ctx, client.InfoOptions{})
		if err == nil {
			reports, leader, ready, checkErr := installation.Check(ctx, docker, plugin, preflight.Clock(info.Info))
			if err = checkErr; err == nil {
				last = unready(leader, reports)
				for _, r := range reports {
					line := "✔ " + r.Hostname + "  ready"
					switch {
					case !r.OK:
						line = "  " + r.Hostname + "  " + r.Problem
					case r.Note != "":
						line = "! " + r.Hostname + "  ready, but " + r.Note
					}
					if said[r.Hostname] != line {
						said[r.Hostname] = line
						fmt.Fprintln(dockerCLI.Err(), line)
					}
				}
				if ready {
					fmt.Fprintf(dockerCLI.Out(), "OpenManage is ready on %d nodes; the manager on %s leads. Next: docker openmanage create postgresql pg\n", len(reports), leader)
					return nil
				}
			}
		}
		if err != nil && ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return cli.StatusError{StatusCode: 130, Status: "interrupted; Swarm goes on starting OpenManage. Look again with: docker openmanage install"}
			}
			return fmt.Errorf("OpenManage is not ready after %s:\n%w\nWhat is deployed stays; run the same command again to look again. See more with: docker service logs %s", timeout, last, preflight.NetworkService)
		case <-time.After(time.Second):
		}
	}
}

func unready(leader string, reports []installation.NodeReport) error {
	var problems []string
	if leader == "" {
		problems = append(problems, "  no manager leads; see docker service logs "+preflight.ManagerService)
	}
	for _, r := range reports {
		if !r.OK {
			problems = append(problems, "  "+r.Hostname+": "+r.Problem)
		}
	}
	if len(problems) == 0 {
		problems = append(problems, "  an update of its services is under way")
	}
	return errors.New(strings.Join(problems, "\n"))
}
