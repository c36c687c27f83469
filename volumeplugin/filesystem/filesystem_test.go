package filesystem_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/blockstore"
	"github.com/openmanage/openmanage/volumeplugin/filesystem"
)

const uuid = "b6a1b0c8-6d8c-4a77-9a34-2f0d6f5d1a11"

func each(t *testing.T, f func(t *testing.T, fstype string)) {
	for _, fstype := range []string{filesystem.Ext4, filesystem.XFS} {
		t.Run(fstype, func(t *testing.T) { f(t, fstype) })
	}
}

func TestAFreshDeviceIsBlankAndAFormattedOneIsKnownByItsUUID(t *testing.T) {
	each(t, func(t *testing.T, fstype string) {
		d := device(t)
		got, err := filesystem.Probe(t.Context(), d.Path)
		assert.NilError(t, err)
		assert.Assert(t, got.Blank)
		assert.NilError(t, filesystem.Make(t.Context(), d.Path, fstype, uuid, false))
		got, err = filesystem.Probe(t.Context(), d.Path)
		assert.NilError(t, err)
		assert.Equal(t, got, filesystem.Content{Type: fstype, UUID: uuid})
		whole, err := filesystem.Complete(t.Context(), d.Path, fstype)
		assert.NilError(t, err)
		assert.Assert(t, whole)
	})
}

// Invariant 2: whatever is on a device, it is not called blank.
func TestADeviceWithAnyDataIsNotBlank(t *testing.T) {
	for _, c := range []struct {
		doc  string
		fill func(t *testing.T, path string)
	}{
		{"one byte at the start", func(t *testing.T, p string) { write(t, p, 0, "x") }},
		{"one byte in the first MiB", func(t *testing.T, p string) { write(t, p, 777_777, "x") }},
		{"one byte at the very end", func(t *testing.T, p string) { write(t, p, imageSize-1, "x") }},
		{"data in the middle", func(t *testing.T, p string) { write(t, p, 200<<20, strings.Repeat("x", 4<<20)) }},
		{"an ext4 filesystem", func(t *testing.T, p string) { run(t, "mkfs.ext4", "-q", p) }},
		{"swap", func(t *testing.T, p string) { run(t, "mkswap", p) }},
		{"a partition table", func(t *testing.T, p string) {
			mbr := make([]byte, 512)
			copy(mbr[446:], []byte{0, 0, 2, 0, 0x83, 0, 9, 0, 1, 0, 0, 0, 64, 0, 0, 0})
			mbr[510], mbr[511] = 0x55, 0xaa
			write(t, p, 0, string(mbr))
		}},
		{"a filesystem whose first superblock was wiped", func(t *testing.T, p string) {
			run(t, "mkfs.ext4", "-q", "-b", "4096", p)
			write(t, p, 0, string(make([]byte, 128<<10)))
		}},
	} {
		t.Run(c.doc, func(t *testing.T) {
			d := device(t)
			c.fill(t, d.Path)
			got, err := filesystem.Probe(t.Context(), d.Path)
			assert.Assert(t, err != nil || !got.Blank, "%+v", got)
		})
	}
}

func TestADeviceThatCannotBeReadIsAnErrorAndNeverBlank(t *testing.T) {
	_, err := filesystem.Probe(t.Context(), "/dev/no-such-device")
	assert.Assert(t, err != nil)

	d := device(t)
	busy, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_EXCL, 0)
	assert.NilError(t, err)
	_, err = filesystem.Probe(t.Context(), d.Path)
	assert.Assert(t, errors.Is(err, unix.EBUSY), "%v", err)
	unix.Close(busy)

	// The image ends before the device does: reads beyond give EIO.
	assert.NilError(t, os.Truncate(d.image, 8192))
	_, err = filesystem.Probe(t.Context(), d.Path)
	assert.Assert(t, errors.Is(err, unix.EIO), "%v", err)

	// blkid itself is missing or fails.
	d = device(t)
	t.Setenv("PATH", t.TempDir())
	_, err = filesystem.Probe(t.Context(), d.Path)
	assert.Assert(t, err != nil, "without blkid nothing is blank")
}

func TestMakeRefusesWhatItDoesNotKnow(t *testing.T) {
	d := device(t)
	assert.ErrorContains(t, filesystem.Make(t.Context(), d.Path, "ntfs", uuid, false), "choose ext4 or xfs")
}

func TestAHalfMadeFilesystemIsNotComplete(t *testing.T) {
	each(t, func(t *testing.T, fstype string) {
		d := device(t)
		assert.NilError(t, filesystem.Make(t.Context(), d.Path, fstype, uuid, false))
		// The superblock is there, what it points to is not.
		write(t, d.Path, 4096, string(make([]byte, 2<<20)))
		whole, err := filesystem.Complete(t.Context(), d.Path, fstype)
		assert.NilError(t, err)
		assert.Assert(t, !whole)
		assert.NilError(t, filesystem.Make(t.Context(), d.Path, fstype, uuid, true))
		whole, err = filesystem.Complete(t.Context(), d.Path, fstype)
		assert.NilError(t, err)
		assert.Assert(t, whole)
	})
}

func TestAfterTheFenceNoWriteReachesTheDevice(t *testing.T) {
	each(t, func(t *testing.T, fstype string) {
		d := device(t)
		assert.NilError(t, filesystem.Make(t.Context(), d.Path, fstype, uuid, false))
		m := mount(t, d, fstype)
		f, err := os.Create(filepath.Join(m, "log"))
		assert.NilError(t, err)
		defer f.Close()
		_, err = f.WriteString("kept")
		assert.NilError(t, errors.Join(err, f.Sync()))
		assert.Assert(t, filesystem.Alive(m))

		assert.NilError(t, filesystem.Shutdown(m))

		_, werr := f.WriteString("LOST")
		assert.Assert(t, errors.Join(werr, f.Sync()) != nil, "a writer that holds a file open must not get through")
		_, err = os.Create(filepath.Join(m, "new"))
		assert.Assert(t, err != nil)
		assert.Assert(t, !filesystem.Alive(m))
		f.Close()
		assert.NilError(t, filesystem.Unmount(m))

		assert.NilError(t, filesystem.Repair(t.Context(), d.Path, fstype))
		m = mount(t, d, fstype)
		got, err := os.ReadFile(filepath.Join(m, "log"))
		assert.NilError(t, err)
		assert.Equal(t, string(got), "kept")
	})
}

func TestAMountIsWritableAndShowsItsDevice(t *testing.T) {
	each(t, func(t *testing.T, fstype string) {
		d := device(t)
		assert.NilError(t, filesystem.Make(t.Context(), d.Path, fstype, uuid, false))
		m := mount(t, d, fstype)
		got, err := filesystem.Mounts(m, false)
		assert.NilError(t, err)
		assert.DeepEqual(t, got, []filesystem.Mounted{{Target: m, Major: d.Major, Minor: d.Minor, Writable: true, Type: fstype}})
		assert.NilError(t, unix.Mount("", m, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		got, err = filesystem.Mounts(filepath.Dir(m), true)
		assert.NilError(t, err)
		assert.Equal(t, len(got), 1)
		assert.Assert(t, !got[0].Writable)
	})
}

func TestAFilesystemGrowsWithItsDevice(t *testing.T) {
	each(t, func(t *testing.T, fstype string) {
		d := device(t)
		assert.NilError(t, filesystem.Make(t.Context(), d.Path, fstype, uuid, false))
		grow := func() bool {
			d, err := d.backend.Attach(t.Context(), d.name)
			assert.NilError(t, err)
			defer d.Close()
			before, err := filesystem.Grow(t.Context(), d.Path, fstype, "", d.Size)
			assert.NilError(t, err)
			m := mount(t, testDevice{Attached: d}, fstype)
			after, err := filesystem.Grow(t.Context(), d.Path, fstype, m, d.Size)
			assert.NilError(t, err)
			assert.NilError(t, filesystem.Unmount(m))
			return before || after
		}
		assert.Assert(t, !grow(), "there is nothing to grow into")
		assert.NilError(t, d.backend.Grow(t.Context(), d.name, 2*imageSize))
		assert.Assert(t, grow())
		assert.Assert(t, !grow(), "it has grown")
		size, err := filesystem.Size(d.Path, fstype)
		assert.NilError(t, err)
		assert.Assert(t, size > 2*imageSize-(16<<20), "%d", size)
	})
}

const imageSize = 512 << 20

type testDevice struct {
	*blockstore.Attached
	backend *blockstore.File
	name    string
	image   string
}

func device(t *testing.T) testDevice {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes loop devices and mounts")
	}
	dir := t.TempDir()
	b := blockstore.NewFile(dir, dir, fmt.Sprintf("%s-%d", "test", os.Getpid()))
	assert.NilError(t, b.Provision(t.Context(), "v.img", imageSize))
	a, err := b.Attach(t.Context(), "v.img")
	assert.NilError(t, err)
	t.Cleanup(func() { a.Close() })
	return testDevice{a, b, "v.img", filepath.Join(dir, "v.img")}
}

func mount(t *testing.T, d testDevice, fstype string) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "m")
	assert.NilError(t, os.Mkdir(target, 0o755))
	assert.NilError(t, filesystem.Mount(d.Path, fstype, target))
	t.Cleanup(func() { filesystem.Detach(target) })
	return target
}

func write(t *testing.T, path string, at int64, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	assert.NilError(t, err)
	_, err = f.WriteAt([]byte(text), at)
	assert.NilError(t, errors.Join(err, f.Sync(), f.Close()))
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	assert.NilError(t, err, "%s: %s", name, out)
}
