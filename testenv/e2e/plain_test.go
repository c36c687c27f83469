package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/testenv/product"
)

// The plugin is a volume plugin as any other: without the catalog, with the same
// safety.
func TestPlainVolumes(t *testing.T) {
	s, ctx := swarm(t)
	for _, fs := range []string{"ext4", "xfs"} {
		name := "plain-" + fs
		_, err := s.Docker(ctx, "volume", "create", "-d", "openmanage", "-o", "size=320MiB", "-o", "fs="+fs, name)
		assert.NilError(t, err)
		out, err := s.Docker(ctx, "run", "--rm", "-v", name+":/data", "debian:trixie-slim", "sh", "-c", "echo hello > /data/x && stat -f -c %T /data")
		assert.NilError(t, err)
		assert.Check(t, is.Contains(map[string][]string{"ext4": {"ext2/ext3"}, "xfs": {"xfs"}}[fs], out))

		// From another node the same data, though that node never heard of it.
		s.Via = s.other(t, s.Via)
		out, err = s.Docker(ctx, "run", "--rm", "-v", name+":/data", "debian:trixie-slim", "cat", "/data/x")
		assert.NilError(t, err)
		assert.Equal(t, out, "hello")

		// Removing the Docker volume deletes no data.
		_, err = s.Docker(ctx, "volume", "rm", name)
		assert.NilError(t, err)
		state, err := s.CLI(ctx, "volume", "ls", "--format", "{{.Name}} {{.State}}")
		assert.NilError(t, err)
		assert.Check(t, is.Contains(state, name+" retained"))
		_, err = s.Docker(ctx, "volume", "create", "-d", "openmanage", name)
		assert.NilError(t, err)
		out, err = s.Docker(ctx, "run", "--rm", "-v", name+":/data", "debian:trixie-slim", "cat", "/data/x")
		assert.NilError(t, err)
		assert.Equal(t, out, "hello")

		_, err = s.Docker(ctx, "volume", "rm", name)
		assert.NilError(t, err)
		_, err = s.CLI(ctx, "volume", "rm", name)
		assert.ErrorContains(t, err, "--yes-delete-data")
		_, err = s.CLI(ctx, "volume", "rm", name, "--yes-delete-data")
		assert.NilError(t, err)
	}
}

// A volume has one container at a time, also by docker run, also on one node.
func TestSecondContainerOnAVolumeIsToldWhoHasIt(t *testing.T) {
	s, ctx := swarm(t)
	_, err := s.Docker(ctx, "run", "-d", "--name", "holder", "--volume-driver", "openmanage", "-v", "single:/data", "debian:trixie-slim", "sleep", "600")
	assert.NilError(t, err)
	first := s.Via
	defer func() {
		s.Via = first
		_, err := s.Docker(ctx, "rm", "-f", "holder")
		assert.Check(t, err)
		_, err = s.CLI(ctx, "volume", "rm", "single", "--yes-delete-data")
		assert.Check(t, err)
	}()
	_, err = s.Docker(ctx, "run", "--rm", "-v", "single:/data", "debian:trixie-slim", "true")
	assert.ErrorContains(t, err, "holder")
	s.Via = s.other(t, first)
	_, err = s.Docker(ctx, "run", "--rm", "-v", "single:/data", "debian:trixie-slim", "true")
	assert.ErrorContains(t, err, "on node "+first.Name)
	s.Via = first
	// docker cp mounts and unmounts with the container's own mount ID.
	file := filepath.Join(t.TempDir(), "f")
	assert.NilError(t, os.WriteFile(file, []byte("x"), 0o600))
	_, err = s.Docker(ctx, "cp", file, "holder:/data/f")
	assert.NilError(t, err)
	out, err := s.Docker(ctx, "exec", "holder", "cat", "/data/f")
	assert.NilError(t, err)
	assert.Equal(t, out, "x")
}

// A hand-written stack with slot templates: each replica has its own volume.
func TestHandWrittenStackWithSlots(t *testing.T) {
	s, ctx := swarm(t)
	file := filepath.Join(t.TempDir(), "stack.yml")
	assert.NilError(t, os.WriteFile(file, []byte(`
version: "3.8"
services:
  web:
    image: debian:trixie-slim
    command: [sh, -c, 'echo $$SLOT >> /data/slots; exec sleep 600']
    environment: {SLOT: '{{.Task.Slot}}'}
    stop_grace_period: 1s
    volumes:
      - {type: volume, source: data, target: /data}
    deploy: {replicas: 3}
volumes:
  data:
    name: 'hand-{{.Task.Slot}}'
    driver: openmanage
    driver_opts: {size: 100MiB}
`), 0o600))
	_, err := s.Docker(ctx, "stack", "deploy", "--detach=false", "-c", file, "hand")
	assert.NilError(t, err)
	_, err = s.Docker(ctx, "stack", "rm", "--detach=false", "hand")
	assert.NilError(t, err)
	for slot := range 3 {
		name := fmt.Sprintf("hand-%d", slot+1)
		err := product.Until(ctx, time.Minute, name+" free", func(ctx context.Context) error {
			out, err := s.Docker(ctx, "run", "--rm", "-v", name+":/data", "debian:trixie-slim", "cat", "/data/slots")
			if err == nil && strings.TrimSpace(out) != fmt.Sprint(slot+1) {
				t.Fatalf("volume %s holds %q", name, out)
			}
			return err
		})
		assert.NilError(t, err)
		err = product.Until(ctx, time.Minute, name+" deleted", func(ctx context.Context) error {
			_, err := s.CLI(ctx, "volume", "rm", name, "--yes-delete-data")
			return err
		})
		assert.NilError(t, err)
	}
}

// Whatever lies where a new volume's device should be: it is never formatted.
func TestDeviceWithDataIsNeverFormatted(t *testing.T) {
	s, ctx := swarm(t)
	_, err := s.Docker(ctx, "volume", "create", "-d", "openmanage", "-o", "size=100MiB", "foreign")
	assert.NilError(t, err)
	record, err := s.Docker(ctx, "config", "inspect", "openmanage.volume.foreign", "--format", `{{index .Spec.Labels "openmanage.record"}}`)
	assert.NilError(t, err)
	var volume api.Volume
	assert.NilError(t, json.Unmarshal([]byte(record), &volume))
	device := filepath.Join(s.Via.Storage(), "openmanage", volume.Device)
	content := []byte(strings.Repeat("somebody's only copy\n", 1000))
	image := make([]byte, 100<<20)
	copy(image[40<<20:], content) // in the middle, where no superblock is
	assert.NilError(t, os.WriteFile(device, image, 0o600))
	_, err = s.Docker(ctx, "run", "--rm", "-v", "foreign:/data", "debian:trixie-slim", "true")
	assert.ErrorContains(t, err, "nothing was written to it")
	after, err := os.ReadFile(device)
	assert.NilError(t, err)
	assert.Assert(t, string(after) == string(image), "the device was written to")
	_, err = s.CLI(ctx, "volume", "rm", "foreign", "--yes-delete-data")
	assert.NilError(t, err)
}
