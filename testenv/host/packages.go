package host

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// tools are the commands that the test environment calls, with the Debian
// package that brings each.
var tools = []tool{
	{"docker", "docker.io"},
	{"dockerd", "docker.io"},
	{"iptables", "iptables"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"losetup", "mount"},
	{"mmdebstrap", "mmdebstrap"},
	{"docker-registry", "docker-registry"},
	{"mkfs.xfs", "xfsprogs"},
}

// testTools are what the project's tests call on this machine beside that: a real
// PostgreSQL server, and tools for filesystems and processes.
var testTools = []tool{
	{"psql", "postgresql"},
	{"mkfs.ext4", "e2fsprogs"},
	{"blkid", "util-linux"},
	{"ps", "procps"},
	{"make", "make"},
}

// EnsurePackages installs the Debian packages of the commands that are missing.
// apt is only called when something is.
func (h *Host) EnsurePackages(ctx context.Context) error { return h.ensure(ctx, tools) }

// EnsureTestPackages does the same, and for what the project's tests need.
func (h *Host) EnsureTestPackages(ctx context.Context) error {
	if servers, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); len(servers) == 0 {
		return h.ensure(ctx, slices.Concat(tools, testTools, []tool{{"initdb of a PostgreSQL server", "postgresql"}}))
	}
	return h.ensure(ctx, slices.Concat(tools, testTools))
}

func (h *Host) ensure(ctx context.Context, tools []tool) error {
	missing := missingPackages(tools, func(command string) bool {
		// dockerd is only needed where no engine runs already.
		if command == "dockerd" && h.engineAnswers(ctx) == nil {
			return true
		}
		_, err := exec.LookPath(command)
		return err == nil
	})
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("this machine lacks %s and has no apt-get; install them by hand, or use Debian or Ubuntu", strings.Join(missing, ", "))
	}
	h.Progress.Step("installing %s", strings.Join(missing, ", "))
	if err := aptGet(ctx, "update"); err != nil {
		return fmt.Errorf("apt-get update failed; check the network and /etc/apt: %w", err)
	}
	install := append([]string{"install", "--yes", "--no-install-recommends"}, missing...)
	if err := aptGet(ctx, install...); err != nil {
		return fmt.Errorf("could not install %s: %w", strings.Join(missing, ", "), err)
	}
	return nil
}

type tool struct{ command, debian string }

func missingPackages(tools []tool, present func(command string) bool) []string {
	var missing []string
	seen := map[string]bool{}
	for _, tool := range tools {
		if !seen[tool.debian] && !present(tool.command) {
			seen[tool.debian] = true
			missing = append(missing, tool.debian)
		}
	}
	return missing
}

func aptGet(ctx context.Context, args ...string) error {
	// docker-registry would start a daemon of its own on our port, and postgresql
	// a server.
	keepStopped, err := forbidServiceStarts()
	if err != nil {
		return err
	}
	defer keepStopped()
	base := []string{"DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120"}
	_, err = Run(ctx, "env", append(base, args...)...)
	return err
}

// forbidServiceStarts makes package scripts leave services alone, the way
// invoke-rc.d documents it, and returns the undoing. A policy that an
// administrator has set stays.
func forbidServiceStarts() (undo func(), err error) {
	const policy = "/usr/sbin/policy-rc.d"
	if exists(policy) {
		return func() {}, nil
	}
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return nil, err
	}
	return func() { os.Remove(policy) }, nil
}

// RequireFree fails when the filesystem of path has less than want bytes free.
func RequireFree(path string, want uint64, purpose string) error {
	free, err := freeBytes(path)
	if err != nil {
		return err
	}
	return checkFree(path, free, want, purpose)
}

func checkFree(path string, free, want uint64, purpose string) error {
	if free >= want {
		return nil
	}
	const gib = 1 << 30
	return fmt.Errorf("%s needs %.1f GiB below %s, only %.1f GiB are free; free %.1f GiB or choose another place with --state-dir",
		purpose, float64(want)/gib, path, float64(free)/gib, float64(want-free)/gib)
}
