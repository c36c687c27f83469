// Package live asks OpenManage's manager on the node that the CLI talks to, by
// running a command in its container through Docker's API: what no record holds,
// because it changes all the time, and a session on the primary. It needs no
// port and no password beside the Docker context.
package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/incontainer"
)

// ErrNoManager: no manager runs on the node that the CLI talks to.
var ErrNoManager = errors.New("OpenManage's manager does not run on this node")

// Member returns the newest word of a member, or false.
func Member(s api.LiveStatus, name string) (api.LiveMember, bool) {
	i := slices.IndexFunc(s.Members, func(m api.LiveMember) bool { return m.Member == name })
	if i < 0 {
		return api.LiveMember{}, false
	}
	return s.Members[i], true
}

// Usage returns how full a volume is that some node has mounted, or false.
func Usage(s api.LiveStatus, volume string) (api.Usage, bool) {
	i := slices.IndexFunc(s.Volumes, func(v api.LiveVolume) bool { return v.Name == volume && v.Known() })
	if i < 0 {
		return api.Usage{}, false
	}
	return s.Volumes[i].Usage, true
}

// StatusCommand is run in the manager's container for api.LiveStatus.
func StatusCommand() []string { return []string{"openmanage", "status", "--json"} }

// ExecCommand is run in the manager's container for a session on the primary of
// an application.
func ExecCommand(application string, tty bool, args []string) []string {
	cmd := []string{"openmanage", "exec", "--application", application}
	if tty {
		cmd = append(cmd, "--tty")
	}
	return append(append(cmd, "--"), args...)
}

// manager returns the ID of the manager's container on this node.
func manager(ctx context.Context, docker client.APIClient) (string, error) {
	res, err := docker.ContainerList(ctx, client.ContainerListOptions{
		Filters: make(client.Filters).Add("label", "com.docker.swarm.service.name="+preflight.ManagerService).Add("status", "running"),
	})
	if err != nil {
		return "", preflight.Explain(ctx, docker, err)
	}
	if len(res.Items) == 0 {
		return "", fmt.Errorf("%w\nIf the node is drained, use the context of another manager. Else look at it with: docker service ps --no-trunc %s\nOr install it: docker openmanage install", ErrNoManager, preflight.ManagerService)
	}
	return res.Items[0].ID, nil
}

// startPatience is how long a session waits for a manager that Swarm is starting
// on this node.
const startPatience = 30 * time.Second

// awaitManager is manager, but waits for one that is about to run here.
func awaitManager(ctx context.Context, dockerCLI command.Cli) (string, error) {
	docker := dockerCLI.Client()
	patience := time.After(startPatience)
	for said := false; ; {
		id, err := manager(ctx, docker)
		if !errors.Is(err, ErrNoManager) {
			return id, err
		}
		info, infoErr := docker.Info(ctx, client.InfoOptions{})
		if infoErr != nil {
			return "", err
		}
		tasks, taskErr := docker.TaskList(ctx, client.TaskListOptions{
			Filters: make(client.Filters).Add("service", preflight.ManagerService).Add("node", info.Info.Swarm.NodeID).Add("desired-state", "running", "ready"),
		})
		if taskErr != nil || len(tasks.Items) == 0 {
			return "", err
		}
		if !said {
			fmt.Fprintln(dockerCLI.Err(), "waiting for OpenManage's manager, which starts on this node")
			said = true
		}
		select {
		case <-patience:
			return "", err
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// Read asks the manager for the members' live status.
func Read(ctx context.Context, docker client.APIClient) (api.LiveStatus, error) {
	var status api.LiveStatus
	stdout, stderr, _, err := inManager(ctx, docker, StatusCommand())
	if errors.Is(err, ErrNoManager) {
		return status, err
	}
	if err != nil {
		return status, fmt.Errorf("ask the manager for the members' status: %w", err)
	}
	if err := json.Unmarshal([]byte(stdout), &status); err != nil {
		return status, fmt.Errorf("the manager's answer about the members cannot be read: %w: %s", err, strings.TrimSpace(stderr))
	}
	return status, nil
}

// Run runs a program beside a member of an application, the primary if member is "",
// and returns what it prints and its exit code.
func Run(ctx context.Context, docker client.APIClient, application, member string, args []string) (stdout, stderr string, code int, err error) {
	cmd := []string{"openmanage", "exec", "--application", application}
	if member != "" {
		cmd = append(cmd, "--member", member)
	}
	return inManager(ctx, docker, append(append(cmd, "--"), args...))
}

// inManager runs a command in the manager's container on this node.
func inManager(ctx context.Context, docker client.APIClient, cmd []string) (stdout, stderr string, code int, err error) {
	id, err := manager(ctx, docker)
	if err != nil {
		return "", "", 0, err
	}
	return incontainer.Run(ctx, docker, id, cmd)
}

// detachKeys take the place of Docker's ctrl-p,ctrl-q, which would swallow psql's
// ctrl-p.
const detachKeys = "ctrl-^,ctrl-^,ctrl-_"

// Exec runs a program beside the primary of an application, with the streams of
// streams, and returns a cli.StatusError with its exit code if that is not 0.
func Exec(ctx context.Context, dockerCLI command.Cli, application string, args []string) error {
	docker := dockerCLI.Client()
	id, err := awaitManager(ctx, dockerCLI)
	if err != nil {
		return err
	}
	tty := dockerCLI.In().IsTerminal() && dockerCLI.Out().IsTerminal()
	options := client.ExecCreateOptions{
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
		TTY: tty, DetachKeys: detachKeys,
		Cmd: ExecCommand(application, tty, args),
	}
	var size client.ConsoleSize
	if tty {
		size.Height, size.Width = dockerCLI.Out().GetTtySize()
		options.ConsoleSize = size
	}
	created, err := docker.ExecCreate(ctx, id, options)
	if err != nil {
		return fmt.Errorf("connect to %s through the manager: %w", application, err)
	}
	res, err := docker.ExecAttach(ctx, created.ID, client.ExecAttachOptions{TTY: tty, ConsoleSize: size})
	if err != nil {
		return fmt.Errorf("connect to %s through the manager: %w", application, err)
	}
	defer res.Close()
	stop := context.AfterFunc(ctx, res.Close)
	defer stop()

	if tty {
		if err := dockerCLI.In().SetRawTerminal(); err != nil {
			return fmt.Errorf("switch the terminal to raw mode: %w", err)
		}
		defer dockerCLI.In().RestoreTerminal()
		defer followSize(ctx, dockerCLI, created.ID)()
	}
	// Our input may stay open for ever; the output's end is the end.
	go func() {
		_, _ = io.Copy(res.Conn, dockerCLI.In())
		_ = res.CloseWrite()
	}()
	if tty {
		_, err = io.Copy(dockerCLI.Out(), res.Reader)
	} else {
		_, err = stdcopy.StdCopy(dockerCLI.Out(), dockerCLI.Err(), res.Reader)
	}
	if ctx.Err() != nil {
		return cli.StatusError{StatusCode: 130, Status: "interrupted"}
	}
	if err != nil {
		return fmt.Errorf("the connection to %s broke: %w", application, err)
	}
	inspect, err := docker.ExecInspect(ctx, created.ID, client.ExecInspectOptions{})
	if err != nil {
		return fmt.Errorf("read how the session on %s ended: %w", application, err)
	}
	if inspect.ExitCode != 0 {
		return cli.StatusError{StatusCode: inspect.ExitCode}
	}
	return nil
}
