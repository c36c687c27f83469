package blockstore_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/blockstore"
	"github.com/openmanage/openmanage/internal/blockstore/backendtest"
)

var serial atomic.Int64

func subject(dir string, copies bool) backendtest.Subject {
	return backendtest.Subject{
		Node: func(t *testing.T, name string) blockstore.Backend {
			return blockstore.NewFile(dir, dir, name)
		},
		Device: func() string { return fmt.Sprintf("vol-%d.img", serial.Add(1)) },
		Copies: copies,
	}
}

func TestFileOnAFilesystemWithoutReflink(t *testing.T) {
	needRoot(t)
	backendtest.Run(t, subject(mounted(t, "ext4"), false))
}

func TestFileOnAFilesystemWithReflink(t *testing.T) {
	needRoot(t)
	backendtest.Run(t, subject(mounted(t, "xfs"), true))
}

func TestAFolderThatLostItsIDIsNotTakenForANewOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "openmanage")
	b := blockstore.NewFile(dir, dir, "a")
	id := b.Storage().Location
	assert.Assert(t, id != "")
	assert.NilError(t, os.Remove(filepath.Join(dir, "folder-id")))
	assert.Assert(t, strings.Contains(b.Storage().Error, "lost its"), b.Storage().Error)
	_, err := b.Attach(t.Context(), "x.img")
	assert.ErrorContains(t, err, "lost its")

	assert.NilError(t, os.WriteFile(filepath.Join(dir, "x.img"), nil, 0o600))
	got := blockstore.NewFile(dir, dir, "a").Storage()
	assert.Assert(t, strings.Contains(got.Error, "holds 1 images but no"), "%+v", got)
	_, err = os.Stat(filepath.Join(dir, "folder-id"))
	assert.Assert(t, os.IsNotExist(err))
}

func TestNodesThatStartTogetherAgreeOnTheFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "openmanage")
	ids := make(chan string)
	for n := range 8 {
		go func() { ids <- blockstore.NewFile(dir, dir, fmt.Sprint(n)).Storage().Location }()
	}
	first := <-ids
	assert.Assert(t, first != "")
	for range 7 {
		assert.Equal(t, <-ids, first)
	}
}

func TestOneNodeThatLooksTwiceAtOnceAgreesWithItself(t *testing.T) {
	for range 50 {
		dir := filepath.Join(t.TempDir(), "openmanage")
		b := blockstore.NewFile(dir, dir, "a")
		got := make(chan string)
		for range 4 {
			go func() { got <- b.Storage().Error }()
		}
		for range 4 {
			assert.Equal(t, <-got, "")
		}
	}
}

func TestAnUnreadableFolderIsAnErrorAndNotAnAbsence(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "f")
	assert.NilError(t, os.WriteFile(dir, []byte("not a folder"), 0o600))
	b := blockstore.NewFile(dir, dir, "a")
	assert.Assert(t, b.Storage().Error != "")
	assert.Assert(t, b.Provision(t.Context(), "x.img", 1<<20) != nil)
	_, err := b.Attach(t.Context(), "x.img")
	assert.ErrorContains(t, err, "not a directory")
}

// mounted returns a folder on a filesystem of its own.
func mounted(t *testing.T, fs string) string {
	t.Helper()
	dir := t.TempDir()
	image, mount := filepath.Join(dir, "fs.img"), filepath.Join(dir, "mnt")
	assert.NilError(t, os.WriteFile(image, nil, 0o600))
	assert.NilError(t, os.Truncate(image, 600<<20))
	run(t, "mkfs."+fs, "-q", image)
	assert.NilError(t, os.Mkdir(mount, 0o755))
	run(t, "mount", "-o", "loop", image, mount)
	t.Cleanup(func() { assert.NilError(t, unix.Unmount(mount, 0)) })
	return filepath.Join(mount, "openmanage")
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	assert.NilError(t, err, "%s %v: %s", name, args, out)
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes loop devices and mounts")
	}
}
