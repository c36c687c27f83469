package cluster

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/openmanage/openmanage/testenv/host"
)

// Down removes the nodes with all they store, their network and the shared
// filesystem. Images stay, so that the next Up is quick. With all, nothing
// stays: not the images, not the registry, not the Docker engine if the test
// environment started it.
func Down(ctx context.Context, options Options, all bool) error {
	machine, err := host.New(options.StateDir, options.Progress)
	if err != nil {
		return err
	}
	unlock, err := machine.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// An engine that was killed knows which containers to remove.
	if err := machine.EnsureEngineIfUsed(ctx); err != nil {
		return err
	}
	if machine.EngineAnswers(ctx) {
		if err := removeNodes(ctx, machine); err != nil {
			return err
		}
		if all {
			if err := removeImages(ctx); err != nil {
				return err
			}
		}
	}
	if _, _, err := host.Output(ctx, "docker", "context", "inspect", ContextName); err == nil {
		if _, err := host.Run(ctx, "docker", "context", "rm", "--force", ContextName); err != nil {
			return err
		}
	}
	if err := machine.StopRegistry(ctx); err != nil {
		return err
	}
	if err := machine.RemoveStorage(ctx); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(machine.StateDir, "engines")); err != nil {
		return err
	}
	if !all {
		return nil
	}
	return machine.Remove(ctx)
}

func removeNodes(ctx context.Context, machine *host.Host) error {
	containers, err := list(ctx, "ps", "--all", "--quiet", "--filter", "label="+labelNode)
	if err != nil {
		return err
	}
	if len(containers) > 0 {
		machine.Progress.Step("removing %d nodes", len(containers))
		if _, err := host.Docker(ctx, append([]string{"rm", "--force", "--volumes"}, containers...)...); err != nil {
			return err
		}
	}
	volumes, err := list(ctx, "volume", "ls", "--quiet", "--filter", "name=^openmanage-node[0-9]+-docker$")
	if err != nil {
		return err
	}
	if len(volumes) > 0 {
		if _, err := host.Docker(ctx, append([]string{"volume", "rm", "--force"}, volumes...)...); err != nil {
			return err
		}
	}
	_, err = findNetwork(ctx)
	if errors.Is(err, ErrNotUp) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = host.Docker(ctx, "network", "rm", networkName)
	return err
}

// removeImages removes what the test environment has put into the machine's engine.
func removeImages(ctx context.Context) error {
	images, err := list(ctx, "images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=openmanage-testenv/*")
	if err != nil || len(images) == 0 {
		return err
	}
	_, err = host.Docker(ctx, append([]string{"rmi", "--force"}, images...)...)
	return err
}

func list(ctx context.Context, args ...string) ([]string, error) {
	out, err := host.Docker(ctx, args...)
	return strings.Fields(out), err
}
