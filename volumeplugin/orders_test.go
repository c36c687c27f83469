package volumeplugin

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/volumeplugin/filesystem"
)

// last is the last report's word of a volume.
func (l *fakeLeader) last(name string) (api.HeldVolume, []api.SnapshotResult) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.reports[len(l.reports)-1]
	for _, h := range r.Volumes {
		if h.Name == name {
			return h, r.Snapshots
		}
	}
	return api.HeldVolume{}, r.Snapshots
}

func TestAVolumeGrowsWhileItIsInUse(t *testing.T) {
	for _, fs := range []string{filesystem.Ext4, filesystem.XFS} {
		t.Run(fs, func(t *testing.T) {
			l := newLeader()
			l.declare("data", func(v *api.Volume) { v.Filesystem, v.Size = fs, 320<<20 })
			n := newNode(t, "a", t.TempDir(), l)
			path := n.mustMount("data", "id")
			open, err := os.Create(filepath.Join(path, "open"))
			assert.NilError(t, err)
			var before unix.Statfs_t
			assert.NilError(t, unix.Statfs(path, &before))

			epoch := l.record("data").Epoch
			l.set(func() { l.grow = []api.GrowOrder{{Name: "data", Epoch: epoch + 1, Size: 640 << 20}} })
			n.plugin.kick()
			eventually(t, "a report after the order", func() bool { h, _ := l.last("data"); return h.Size == 320<<20 })
			l.set(func() { l.grow[0].Epoch = epoch })
			eventually(t, "the new size", func() bool {
				h, _ := l.last("data")
				return h.Size == 640<<20 && h.Problem == "" || h.GrowsAtMount
			})
			_, err = open.WriteString("goes on")
			assert.NilError(t, err)
			assert.NilError(t, open.Close())
			if h, _ := l.last("data"); h.GrowsAtMount {
				assert.Equal(t, fs, filesystem.Ext4)
				t.Log("this machine does not allow ext4 to grow while it is mounted (CAP_SYS_RESOURCE)")
				l.set(func() { l.records["data"].Size = 640 << 20 })
				assert.NilError(t, n.unmount("data", "id"))
				n.mustMount("data", "id3")
			}
			var after unix.Statfs_t
			assert.NilError(t, unix.Statfs(path, &after))
			assert.Assert(t, after.Blocks > before.Blocks*3/2, "%d blocks, %d before", after.Blocks, before.Blocks)

			// A plugin that was killed knows the size.
			n.kill()
			eventually(t, "the size after a kill", func() bool { h, _ := l.last("data"); return h.Size == 640<<20 })
		})
	}
}

func TestASnapshotIsAnotherVolumeWithTheSameData(t *testing.T) {
	l := newLeader()
	l.declare("data", nil)
	n := newNode(t, "a", reflinkFolder(t), l)
	path := n.mustMount("data", "id")
	writeFile(t, filepath.Join(path, "x"), "before")
	source := l.record("data")
	order := api.SnapshotOrder{Name: "data", Epoch: source.Epoch, Device: "copy-1.img"}
	l.set(func() { l.snapshot = []api.SnapshotOrder{order} })
	eventually(t, "the snapshot", func() bool {
		_, results := l.last("data")
		return len(results) == 1 && results[0] == api.SnapshotResult{Device: "copy-1.img"}
	})
	writeFile(t, filepath.Join(path, "x"), "after")
	// It is reported until the leader wants it no more, and made once.
	l.set(func() { l.snapshot = nil })
	eventually(t, "nothing more to report", func() bool { _, results := l.last("data"); return len(results) == 0 })

	l.declare("copy", func(v *api.Volume) {
		v.Device, v.UUID, v.Location, v.Phase = order.Device, source.UUID, source.Location, api.PhaseReady
	})
	assert.Equal(t, readFile(t, filepath.Join(n.mustMount("copy", "id2"), "x")), "before")
	assert.Equal(t, readFile(t, filepath.Join(path, "x")), "after")
}

func TestASnapshotThatCannotBeMadeSaysWhy(t *testing.T) {
	l := newLeader()
	l.declare("data", nil)
	n := newNode(t, "a", t.TempDir(), l)
	if n.reflinks() {
		t.Skip("the folder of temporary files has reflinks")
	}
	n.mustMount("data", "id")
	epoch := l.record("data").Epoch
	l.set(func() { l.snapshot = []api.SnapshotOrder{{Name: "data", Epoch: epoch, Device: "copy-1.img"}} })
	eventually(t, "the reason", func() bool {
		_, results := l.last("data")
		return len(results) == 1 && strings.Contains(results[0].Error, "reflink")
	})
}
