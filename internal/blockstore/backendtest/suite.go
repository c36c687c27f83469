// Package backendtest is the suite that every blockstore.Backend must pass.
package backendtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/blockstore"
)

// Subject is a backend under test.
type Subject struct {
	// Node returns the backend as a node of that name has it. All nodes share
	// the store and, as in a test environment, the kernel.
	Node func(t *testing.T, name string) blockstore.Backend
	// Device returns a device name that was never used.
	Device func() string
	// Copies: the store makes point-in-time copies.
	Copies bool
}

const size = 64 << 20

// Run runs the suite.
func Run(t *testing.T, s Subject) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	provisioned := func(t *testing.T, b blockstore.Backend) string {
		device := s.Device()
		assert.NilError(t, b.Provision(ctx, device, size))
		t.Cleanup(func() { assert.NilError(t, b.Delete(context.Background(), device)) })
		return device
	}
	attached := func(t *testing.T, b blockstore.Backend, device string) *blockstore.Attached {
		a, err := b.Attach(ctx, device)
		assert.NilError(t, err)
		t.Cleanup(func() { a.Close() })
		return a
	}
	brief := func(t *testing.T) context.Context {
		c, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
		t.Cleanup(cancel)
		return c
	}

	t.Run("the store describes itself", func(t *testing.T) {
		got := s.Node(t, "a").Storage()
		assert.Equal(t, got.Error, "")
		assert.Assert(t, got.Backend != "" && got.Location != "" && got.Free > 0 && got.Total >= got.Free, "%+v", got)
		assert.Equal(t, got.Reflink, s.Copies)
		assert.Equal(t, s.Node(t, "b").Storage().Location, got.Location, "both nodes see one store")
	})
	t.Run("a provisioned device is blank and has its size", func(t *testing.T) {
		b := s.Node(t, "a")
		a := attached(t, b, provisioned(t, b))
		assert.Equal(t, a.Size, int64(size))
		assert.Assert(t, bytes.Equal(read(t, a, 0, 1<<20), make([]byte, 1<<20)))
		var st unix.Stat_t
		assert.NilError(t, unix.Stat(a.Path, &st))
		assert.Equal(t, unix.Major(st.Rdev), a.Major)
		assert.Equal(t, unix.Minor(st.Rdev), a.Minor)
	})
	t.Run("a device is blank until a byte is written, wherever", func(t *testing.T) {
		b := s.Node(t, "a")
		device := provisioned(t, b)
		blank, err := b.Blank(ctx, device)
		assert.NilError(t, err)
		assert.Assert(t, blank)
		a := attached(t, b, device)
		write(t, a, size/2+4096, "x")
		blank, err = b.Blank(ctx, device)
		assert.NilError(t, err)
		assert.Assert(t, !blank)
	})
	t.Run("a device that is not there is not blank", func(t *testing.T) {
		blank, err := s.Node(t, "a").Blank(ctx, s.Device())
		assert.Assert(t, errors.Is(err, blockstore.ErrMissing), "%v", err)
		assert.Assert(t, !blank)
	})
	t.Run("provisioning again leaves the data alone", func(t *testing.T) {
		b := s.Node(t, "a")
		device := provisioned(t, b)
		a := attached(t, b, device)
		write(t, a, 0, "precious")
		assert.NilError(t, b.Provision(ctx, device, size))
		assert.Equal(t, string(read(t, a, 0, 8)), "precious")
	})
	t.Run("provisioning with another size is refused", func(t *testing.T) {
		b := s.Node(t, "a")
		device := provisioned(t, b)
		assert.Assert(t, b.Provision(ctx, device, 2*size) != nil)
		assert.Equal(t, attached(t, b, device).Size, int64(size))
	})
	t.Run("a device beyond the free space is refused", func(t *testing.T) {
		b := s.Node(t, "a")
		device := s.Device()
		err := b.Provision(ctx, device, b.Storage().Free+1)
		assert.Assert(t, errors.Is(err, blockstore.ErrNoSpace), "%v", err)
		_, err = b.Attach(ctx, device)
		assert.Assert(t, errors.Is(err, blockstore.ErrMissing), "nothing half-made: %v", err)
	})
	t.Run("a missing device is never made by attaching, growing or copying it", func(t *testing.T) {
		b := s.Node(t, "a")
		device := s.Device()
		_, err := b.Attach(ctx, device)
		assert.Assert(t, errors.Is(err, blockstore.ErrMissing), "%v", err)
		assert.Assert(t, errors.Is(b.Grow(ctx, device, size), blockstore.ErrMissing))
		_, err = b.CopyForEpoch(ctx, device, 2)
		assert.Assert(t, errors.Is(err, blockstore.ErrMissing), "%v", err)
		_, err = b.Attach(ctx, device)
		assert.Assert(t, errors.Is(err, blockstore.ErrMissing), "%v", err)
	})
	t.Run("a device name cannot lead out of the store", func(t *testing.T) {
		b := s.Node(t, "a")
		for _, name := range []string{"", "../x.img", "/etc/passwd", ".hidden.img", "folder-id"} {
			assert.Assert(t, b.Provision(ctx, name, size) != nil, name)
			_, err := b.Attach(ctx, name)
			assert.Assert(t, err != nil, name)
			assert.Assert(t, b.Delete(ctx, name) != nil, name)
		}
	})
	t.Run("attaching again gives the same device", func(t *testing.T) {
		b := s.Node(t, "a")
		device := provisioned(t, b)
		first := attached(t, b, device)
		// The same node after a restart of its plugin.
		second := attached(t, s.Node(t, "a"), device)
		assert.Equal(t, second.Path, first.Path)
	})
	t.Run("data stays over detach and attach elsewhere", func(t *testing.T) {
		b := s.Node(t, "a")
		device := provisioned(t, b)
		a := attached(t, b, device)
		write(t, a, size-8, "the last")
		assert.NilError(t, a.Close())
		assert.NilError(t, b.Detach(ctx, device))
		assert.Equal(t, string(read(t, attached(t, s.Node(t, "b"), device), size-8, 8)), "the last")
	})
	t.Run("a device in use is neither detached nor deleted nor attached by another node", func(t *testing.T) {
		b := s.Node(t, "a")
		device := provisioned(t, b)
		a := attached(t, b, device)
		// As a mounted filesystem claims it.
		claim, err := unix.Open(a.Path, unix.O_RDWR|unix.O_EXCL, 0)
		assert.NilError(t, err)
		claimed := true
		defer func() {
			if claimed {
				unix.Close(claim)
			}
		}()
		assert.NilError(t, a.Close())
		err = b.Detach(brief(t), device)
		assert.Assert(t, errors.Is(err, blockstore.ErrBusy), "%v", err)
		err = b.Delete(ctx, device)
		assert.Assert(t, errors.Is(err, blockstore.ErrBusy), "%v", err)
		_, err = s.Node(t, "b").Attach(ctx, device)
		assert.Assert(t, errors.Is(err, blockstore.ErrBusy), "%v", err)
		// All that did not harm the one who uses it.
		_, err = unix.Pwrite(claim, []byte("still here"), 0)
		assert.NilError(t, err)
		unix.Close(claim)
		claimed = false
		assert.NilError(t, b.Detach(ctx, device))
		other := attached(t, s.Node(t, "b"), device)
		assert.Equal(t, string(read(t, other, 0, 10)), "still here")
	})
	t.Run("a device that is held but not used goes with its holder", func(t *testing.T) {
		b := s.Node(t, "a")
		device := provisioned(t, b)
		a := attached(t, b, device)
		assert.NilError(t, a.Close())
		assert.NilError(t, a.Close(), "closing twice is fine")
		assert.NilError(t, b.Detach(ctx, device))
		assert.NilError(t, b.Detach(ctx, device), "and so is detaching twice")
	})
	t.Run("a device grows and never shrinks", func(t *testing.T) {
		b := s.Node(t, "a")
		device := provisioned(t, b)
		a := attached(t, b, device)
		write(t, a, 0, "kept")
		assert.NilError(t, b.Grow(ctx, device, 2*size))
		assert.NilError(t, b.Grow(ctx, device, size))
		bigger := attached(t, b, device)
		assert.Equal(t, bigger.Size, int64(2*size))
		write(t, bigger, 2*size-4, "end.")
		assert.Equal(t, string(read(t, bigger, 0, 4)), "kept")
	})
	t.Run("deleting is final and repeatable", func(t *testing.T) {
		b := s.Node(t, "a")
		device := s.Device()
		assert.NilError(t, b.Provision(ctx, device, size))
		assert.NilError(t, b.Delete(ctx, device))
		assert.NilError(t, b.Delete(ctx, device))
		_, err := b.Attach(ctx, device)
		assert.Assert(t, errors.Is(err, blockstore.ErrMissing), "%v", err)
	})
	if !s.Copies {
		t.Run("a store without copies says so", func(t *testing.T) {
			b := s.Node(t, "a")
			device := provisioned(t, b)
			_, err := b.CopyForEpoch(ctx, device, 2)
			assert.Assert(t, errors.Is(err, blockstore.ErrNoCopy), "%v", err)
			err = b.Snapshot(ctx, device, s.Device())
			assert.Assert(t, errors.Is(err, blockstore.ErrNoCopy), "%v", err)
		})
		return
	}
	t.Run("a writer of the old epoch cannot reach the new device", func(t *testing.T) {
		a, b := s.Node(t, "a"), s.Node(t, "b")
		device := provisioned(t, a)
		old := attached(t, a, device)
		write(t, old, 0, "before")
		claim, err := unix.Open(old.Path, unix.O_RDWR|unix.O_EXCL, 0)
		assert.NilError(t, err)
		defer unix.Close(claim)
		next, err := b.CopyForEpoch(ctx, device, 2)
		assert.NilError(t, err)
		t.Cleanup(func() { assert.NilError(t, b.Delete(context.Background(), next)) })
		assert.Assert(t, next != device)
		write(t, old, 0, "AFTER!")
		assert.Equal(t, string(read(t, attached(t, b, next), 0, 6)), "before")
	})
	t.Run("a copy that was not acknowledged is made anew, from the device as it is now", func(t *testing.T) {
		b := s.Node(t, "b")
		device := provisioned(t, b)
		old := attached(t, b, device)
		write(t, old, 0, "one")
		first, err := b.CopyForEpoch(ctx, device, 7)
		assert.NilError(t, err)
		write(t, old, 0, "two")
		second, err := b.CopyForEpoch(ctx, device, 7)
		assert.NilError(t, err)
		t.Cleanup(func() { assert.NilError(t, b.Delete(context.Background(), second)) })
		assert.Equal(t, second, first)
		assert.Equal(t, string(read(t, attached(t, b, second), 0, 3)), "two")
	})
	t.Run("a copy of a copy is named by its own epoch only", func(t *testing.T) {
		b := s.Node(t, "b")
		device := provisioned(t, b)
		e2, err := b.CopyForEpoch(ctx, device, 2)
		assert.NilError(t, err)
		e3, err := b.CopyForEpoch(ctx, e2, 3)
		assert.NilError(t, err)
		again, err := b.CopyForEpoch(ctx, e3, 3)
		assert.NilError(t, err)
		assert.Equal(t, again, e3, "the device of this epoch is left alone")
		assert.Equal(t, len(e2), len(e3))
		assert.NilError(t, b.Delete(ctx, e2))
		assert.NilError(t, b.Delete(ctx, e3))
	})
	t.Run("a snapshot keeps its moment and its name", func(t *testing.T) {
		b := s.Node(t, "a")
		device, snapshot := provisioned(t, b), s.Device()
		a := attached(t, b, device)
		write(t, a, 0, "then")
		assert.NilError(t, b.Snapshot(ctx, device, snapshot))
		t.Cleanup(func() { assert.NilError(t, b.Delete(context.Background(), snapshot)) })
		write(t, a, 0, "now!")
		err := b.Snapshot(ctx, device, snapshot)
		assert.Assert(t, errors.Is(err, blockstore.ErrBusy), "%v", err)
		assert.Equal(t, string(read(t, attached(t, b, snapshot), 0, 4)), "then")
	})
}

func write(t *testing.T, a *blockstore.Attached, offset int64, text string) {
	t.Helper()
	f, err := os.OpenFile(a.Path, os.O_WRONLY, 0)
	assert.NilError(t, err)
	_, err = f.WriteAt([]byte(text), offset)
	assert.NilError(t, errors.Join(err, f.Sync(), f.Close()))
}

func read(t *testing.T, a *blockstore.Attached, offset int64, length int) []byte {
	t.Helper()
	f, err := os.Open(a.Path)
	assert.NilError(t, err)
	defer f.Close()
	b := make([]byte, length)
	_, err = f.ReadAt(b, offset)
	assert.NilError(t, err)
	return b
}
