package volumeplugin

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/volumeplugin/filesystem"
)

// fill writes a file into dir until nothing more fits, not even for root.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "filler"))
	assert.NilError(t, err)
	defer f.Close()
	for size := 1 << 20; size > 256; {
		_, err := f.Write(make([]byte, size))
		if err == nil {
			err = f.Sync() // what was promised and not written yet
		}
		switch {
		case errors.Is(err, unix.ENOSPC):
			size /= 2
		case err != nil:
			t.Fatal(err)
		}
	}
}

func TestAFullVolumeIsReportedAndGrows(t *testing.T) {
	for _, fs := range []string{filesystem.Ext4, filesystem.XFS} {
		t.Run(fs, func(t *testing.T) {
			l := newLeader()
			l.declare("data", func(v *api.Volume) { v.Filesystem, v.Size = fs, 320<<20 })
			n := newNode(t, "a", t.TempDir(), l)
			path := n.mustMount("data", "id")
			eventually(t, "its use", func() bool { h, _ := l.last("data"); return h.Known() })
			h, _ := l.last("data")
			assert.Assert(t, h.Size == 320<<20 && h.Usage.Size() > 200<<20 && h.Usage.Size() < 320<<20, "%+v", h)
			assert.Assert(t, h.Percent() < 50 && h.Files > 1000 && h.FilesFree > 1000 && !h.Full(false), "%+v", h)

			fill(t, path)
			n.plugin.kick()
			eventually(t, "that it is full", func() bool { h, _ := l.last("data"); return h.Full(false) && h.Percent() > 95 })
			assert.NilError(t, n.unmount("data", "id"))
			eventually(t, "no word of what is not mounted", func() bool { h, _ := l.last("data"); return !h.Known() })

			// Where nothing is left for fsck and resize2fs either.
			l.set(func() { l.records["data"].Size = 640 << 20 })
			n.mustMount("data", "id2")
			eventually(t, "room", func() bool { h, _ := l.last("data"); return h.Known() && h.Free > 200<<20 && h.Percent() < 70 })
			assert.NilError(t, os.WriteFile(filepath.Join(path, "more"), make([]byte, 100<<20), 0o600))
		})
	}
}

func TestAFullVolumeThatIsInUseGrows(t *testing.T) {
	l := newLeader()
	l.declare("data", func(v *api.Volume) { v.Filesystem, v.Size = filesystem.XFS, 320<<20 })
	n := newNode(t, "a", t.TempDir(), l)
	fill(t, n.mustMount("data", "id"))
	l.set(func() { l.grow = []api.GrowOrder{{Name: "data", Epoch: l.records["data"].Epoch, Size: 640 << 20}} })
	n.plugin.kick()
	eventually(t, "room", func() bool { h, _ := l.last("data"); return h.Size == 640<<20 && h.Free > 200<<20 })
}

func TestWhatIsNotTheVolumesOwnFilesystemIsNotMeasured(t *testing.T) {
	l := newLeader()
	l.declare("data", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("data", "id")
	h := n.plugin.volume("data").holding()
	assert.Assert(t, h.usage(n.plugin.target("data")).Known())
	assert.Assert(t, !h.usage(t.TempDir()).Known(), "another filesystem, as after an unmount")
}
