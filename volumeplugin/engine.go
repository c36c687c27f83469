package volumeplugin

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
)

// user is a container that names a volume of ours.
type user struct {
	ID, Name string
	// Live: it runs, or is about to (again).
	Live bool
	// Created: it has not been started yet.
	Created bool
}

// engine is what the plugin asks of Docker.
type engine interface {
	// Node returns the Swarm node ID and hostname of this node.
	Node(ctx context.Context) (id, hostname string, err error)
	// Users returns the containers, of any state, that mount a volume of this
	// plugin, by exact volume name.
	Users(ctx context.Context, volumes []string) (map[string][]user, error)
	// Kill ends a container at once.
	Kill(ctx context.Context, container string) error
}

// dockerEngine is the engine of this node.
type dockerEngine struct{ *client.Client }

func (d dockerEngine) Node(ctx context.Context) (string, string, error) {
	res, err := d.Info(ctx, client.InfoOptions{})
	if err != nil {
		return "", "", err
	}
	if res.Info.Swarm.NodeID == "" {
		return "", "", errors.New("this node is in no Swarm; join it with `docker swarm join`, or make one with `docker swarm init`")
	}
	return res.Info.Swarm.NodeID, res.Info.Name, nil
}

func (d dockerEngine) Users(ctx context.Context, volumes []string) (map[string][]user, error) {
	wanted := map[string]bool{}
	for _, v := range volumes {
		wanted[v] = true
	}
	res, err := d.ContainerList(ctx, client.ContainerListOptions{All: true, Filters: client.Filters{}.Add("volume", volumes...)})
	if err != nil {
		return nil, err
	}
	users := map[string][]user{}
	for _, c := range res.Items {
		for _, m := range c.Mounts {
			// The filter also matches destinations; the driver's name may carry ":latest".
			if driver, _, _ := strings.Cut(m.Driver, ":"); !wanted[m.Name] || driver != api.PluginName {
				continue
			}
			name := c.ID[:min(12, len(c.ID))]
			if len(c.Names) > 0 {
				name = strings.TrimPrefix(c.Names[0], "/")
			}
			users[m.Name] = append(users[m.Name], user{
				ID: c.ID, Name: name,
				Live:    c.State == container.StateRunning || c.State == container.StatePaused || c.State == container.StateRestarting,
				Created: c.State == container.StateCreated,
			})
		}
	}
	return users, nil
}

func (d dockerEngine) Kill(ctx context.Context, id string) error {
	_, err := d.ContainerKill(ctx, id, client.ContainerKillOptions{Signal: "KILL"})
	return err
}

// killProcesses kills the processes of a container without asking Docker, which
// may hang just when it matters. It needs the host's process IDs.
func killProcesses(container string) error {
	if len(container) < 64 {
		return fmt.Errorf("container %q: not an ID", container)
	}
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return err
	}
	var errs []error
	for _, file := range files {
		doc, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(doc, []byte(container)) {
			continue // gone, or another's
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

var containerID = regexp.MustCompile(`[0-9a-f]{64}`)

// containerOf returns the ID of the container that a process runs in, or "".
func containerOf(pid int32) string {
	doc, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return ""
	}
	// The last: nested daemons put theirs below their node's.
	all := containerID.FindAllString(string(doc), -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}
