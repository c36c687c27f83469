// Package host prepares the machine that a test environment runs on: Debian
// packages, a Docker engine, an image registry, loop devices and a shared
// filesystem. Everything it starts survives the process that started it, and
// everything can be started again over what a machine that lost power has left.
package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/openmanage/openmanage/testenv/progress"
)

// DefaultStateDir holds all that the test environment stores.
const DefaultStateDir = "/var/lib/openmanage-testenv"

// DefaultRegistryPort is where the registry listens, on the loopback address
// and on the gateway of the nodes' network.
const DefaultRegistryPort = 5000

// Host is the machine. Make one with New.
type Host struct {
	// StateDir holds images, the shared filesystem, sockets and logs.
	StateDir string
	// RegistryPort is the TCP port of the image registry.
	RegistryPort int
	// Progress is told what happens; nil is silent.
	Progress *progress.Reporter
}

// New returns a Host that keeps its state in stateDir ("" for DefaultStateDir).
// It changes nothing on the machine but to make the state directory.
func New(stateDir string, report *progress.Reporter) (*Host, error) {
	if stateDir == "" {
		stateDir = DefaultStateDir
	}
	abs, err := filepath.Abs(stateDir)
	if err != nil {
		return nil, err
	}
	// A unix socket's path is limited to 107 bytes; node sockets lie below.
	if len(abs) > 70 {
		return nil, fmt.Errorf("state directory %s: the path has %d characters, 70 at most, because unix sockets lie in it; choose a shorter one", abs, len(abs))
	}
	if os.Geteuid() != 0 {
		return nil, fmt.Errorf("the test environment needs root (mounts, loop devices, a Docker engine); run it with sudo")
	}
	for _, dir := range []string{abs, filepath.Join(abs, "log"), filepath.Join(abs, "cache"), runDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return &Host{StateDir: abs, RegistryPort: DefaultRegistryPort, Progress: report}, nil
}

// runDir holds pid files and sockets of daemons.
const runDir = "/run/openmanage-testenv"

// CacheDir is where built images are kept between runs.
func (h *Host) CacheDir() string { return filepath.Join(h.StateDir, "cache") }

func (h *Host) logFile(name string) string { return filepath.Join(h.StateDir, "log", name+".log") }

// Remove stops what the test environment runs on the machine and removes all
// that it stores. Packages stay installed.
func (h *Host) Remove(ctx context.Context) error {
	if err := h.StopRegistry(ctx); err != nil {
		return err
	}
	if err := h.StopEngine(ctx); err != nil {
		return err
	}
	if err := unmountBelow(h.StateDir); err != nil {
		return err
	}
	return os.RemoveAll(h.StateDir)
}
