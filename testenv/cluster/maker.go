package cluster

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/images"
)

// Labels on node containers. They are all that is known about a node.
const (
	labelNode    = "openmanage.testenv.node"    // number
	labelManager = "openmanage.testenv.manager" // true or false
	labelLocal   = "openmanage.testenv.local"   // storage of its own
	labelSpec    = "openmanage.testenv.spec"    // hash of what it was made from
)

// nodeSpec is what a node is to be.
type nodeSpec struct {
	Number  int
	Manager bool
	Local   bool
}

// maker makes node containers.
type maker struct {
	c          *Cluster
	image      string
	privileged bool
}

func newMaker(ctx context.Context, c *Cluster) (*maker, error) {
	image, err := (&images.Builder{Host: c.Host}).Node(ctx)
	if err != nil {
		return nil, err
	}
	// Root of a machine that is itself confined lacks capabilities that
	// --privileged asks for; then we list those that an engine needs.
	_, _, err = host.Output(ctx, "docker", "--host", host.EngineHost, "run", "--rm", "--privileged", "--network", "none", "--entrypoint", "/bin/true", image)
	return &maker{c: c, image: image, privileged: err == nil}, nil
}

// ensure starts the nodes, all at once, and makes those that are missing.
func (m *maker) ensure(ctx context.Context, specs []nodeSpec) error {
	errs := make([]error, len(specs))
	var group sync.WaitGroup
	for i, spec := range specs {
		group.Go(func() {
			if err := m.ensureNode(ctx, spec); err != nil {
				errs[i] = fmt.Errorf("node %d: %w", spec.Number, err)
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func (m *maker) ensureNode(ctx context.Context, spec nodeSpec) error {
	if err := m.makeFolders(spec); err != nil {
		return err
	}
	args := m.createArgs(spec)
	hash := hashOf(args)
	name := containerName(spec.Number)
	out, _, err := host.Output(ctx, "docker", "--host", host.EngineHost, "inspect", "--format", `{{index .Config.Labels "`+labelSpec+`"}} {{.State.Status}}`, name)
	if err == nil {
		made, state, _ := strings.Cut(strings.TrimSpace(out), " ")
		switch {
		case made == hash && (state == "running" || state == "paused"):
			return nil
		case made == hash && (state == "exited" || state == "created"):
			m.c.Host.Progress.Step("starting node %d", spec.Number)
			return startContainer(ctx, name)
		}
		// Made from something else, or half made. What a node knows lies on its
		// volume, so it stays who it is.
		if _, err := host.Docker(ctx, "rm", "--force", name); err != nil {
			return err
		}
	}
	m.c.Host.Progress.Step("making node %d", spec.Number)
	create := append([]string{"run", "--detach", "--label", labelSpec + "=" + hash}, args...)
	_, err = host.Docker(ctx, create...)
	return err
}

// startContainer starts a container that is not running, whatever its last life
// has left.
func startContainer(ctx context.Context, name string) error {
	id, err := host.Docker(ctx, "inspect", "--format", "{{.Id}}", name)
	if err != nil {
		return err
	}
	if err := host.ClearContainer(ctx, strings.TrimSpace(id)); err != nil {
		return err
	}
	_, err = host.Docker(ctx, "start", name)
	return err
}

func hashOf(args []string) string {
	text, _ := json.Marshal(args)
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

func (m *maker) makeFolders(spec nodeSpec) error {
	for _, dir := range []string{m.c.socketDir(spec.Number), m.c.storageOf(spec)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// createArgs are those of docker run, from the first option to the last argument.
func (m *maker) createArgs(spec nodeSpec) []string {
	name := nodeName(spec.Number)
	args := []string{
		"--name", containerName(spec.Number), "--hostname", name,
		"--network", networkName, "--ip", m.c.Network.Address(spec.Number).String(),
		"--label", labelNode + "=" + strconv.Itoa(spec.Number),
		"--label", labelManager + "=" + strconv.FormatBool(spec.Manager),
		"--label", labelLocal + "=" + strconv.FormatBool(spec.Local),
		"--log-opt", "max-size=20m",
		// Empty after a restart, as /run of a machine is: no stale sockets and pid files.
		"--tmpfs", "/run", "--tmpfs", "/tmp",
		"--volume", volumeName(spec.Number) + ":/var/lib/docker",
		"--volume", m.c.socketDir(spec.Number) + ":/run/openmanage-engine",
		"--volume", m.c.storageOf(spec) + ":" + StoragePath,
		// Loop devices are the machine's: a device that one node attaches appears in all.
		"--volume", "/dev:/dev",
		"--volume", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--cgroupns", "host",
	}
	args = append(args, m.privileges()...)
	registry := fmt.Sprintf("%s:%d", m.c.Network.Gateway(), m.c.Host.RegistryPort)
	return append(args, m.image,
		"--registry-mirror", "http://"+registry, "--insecure-registry", registry)
}

func (m *maker) privileges() []string {
	if m.privileged {
		return []string{"--privileged"}
	}
	args := []string{
		"--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
		"--security-opt", "systempaths=unconfined", "--device-cgroup-rule", "a *:* rwm",
	}
	for _, name := range strings.Fields(engineCapabilities) {
		args = append(args, "--cap-add", name)
	}
	return args
}

// engineCapabilities are all but SYS_RESOURCE and those that Docker gives anyway.
const engineCapabilities = `AUDIT_CONTROL AUDIT_READ BLOCK_SUSPEND DAC_READ_SEARCH IPC_LOCK IPC_OWNER LEASE
	LINUX_IMMUTABLE MAC_ADMIN MAC_OVERRIDE NET_ADMIN NET_BROADCAST SYSLOG SYS_ADMIN SYS_BOOT SYS_MODULE SYS_NICE
	SYS_PACCT SYS_PTRACE SYS_RAWIO SYS_TIME SYS_TTY_CONFIG WAKE_ALARM`

// StoragePath is where every node has the folder for volumes.
const StoragePath = "/var/lib/openmanage"

func nodeName(number int) string      { return "node" + strconv.Itoa(number) }
func containerName(number int) string { return "openmanage-" + nodeName(number) }
func volumeName(number int) string    { return containerName(number) + "-docker" }

func (c *Cluster) socketDir(number int) string {
	return filepath.Join(c.Host.StateDir, "engines", nodeName(number))
}

func (c *Cluster) storageOf(spec nodeSpec) string {
	if spec.Local {
		return filepath.Join(c.Host.StorageDir(), "local", nodeName(spec.Number))
	}
	return filepath.Join(c.Host.StorageDir(), "shared")
}
