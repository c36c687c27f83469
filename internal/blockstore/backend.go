// Package blockstore is the node's half of the storage backends: it makes block
// devices of a backend's volumes appear on this node and go away again. Which
// node may do so, and when, is the leading manager's decision (package api);
// a backend only refuses what it can see to be wrong.
//
// The one backend so far is File: sparse images in a folder, attached as loop
// devices. Every backend must pass the suite in package backendtest.
package blockstore

import (
	"context"
	"errors"

	"github.com/openmanage/openmanage/internal/api"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrMissing: the device does not exist, although the store could be asked. A
	// store that cannot be asked gives another error.
	ErrMissing = errors.New("device is missing")
	// ErrBusy: the device is in use, here or by another node of this machine.
	ErrBusy = errors.New("device is in use")
	// ErrNoCopy: the store cannot make point-in-time copies.
	ErrNoCopy = errors.New("no point-in-time copies here")
	// ErrNoSpace: the store has no room for a device of that size.
	ErrNoSpace = errors.New("not enough free space")
)

// Backend is what the volume plugin needs of a store of block devices. All
// methods may be called at once from several goroutines, for one device or for
// many, and none may delay another device's. Every method must be repeatable: a
// caller that was killed in the middle calls it again, and either the first call
// has had its whole effect or none that disturbs the second.
//
// A failed lookup is an error, never "absent": only ErrMissing says that a
// device is not there.
type Backend interface {
	// Storage describes the store. It is called every second: no process is
	// started and nothing remote asked. Trouble is told in Storage.Error.
	Storage() api.Storage
	// Provision makes the blank device of size bytes. A device of that name that
	// exists with that size is left as it is, whatever it holds.
	Provision(ctx context.Context, device string, size int64) error
	// Blank tells whether every byte of the device is zero. It reads all that was
	// ever written to it, so a thin device costs little. ErrMissing; any failure
	// to read is an error and never means blank.
	Blank(ctx context.Context, device string) (bool, error)
	// Attach makes the device appear on this node and returns it. It never
	// makes a device: ErrMissing. ErrBusy if another holder of the same device
	// can be seen. The device stays until Attached.Close if it is not in use by
	// then, and otherwise until its last user (a mount) is gone, even if this
	// process dies.
	Attach(ctx context.Context, device string) (*Attached, error)
	// Detach waits, as long as ctx allows, until the device that this node had
	// attached is gone, and fails with ErrBusy if something still uses it. It
	// succeeds if the device is not attached.
	Detach(ctx context.Context, device string) error
	// Grow enlarges the device to size bytes, and never makes it smaller. An
	// attached device shows the new size after the next Attach.
	Grow(ctx context.Context, device string, size int64) error
	// CopyForEpoch makes the device of the given epoch as a point-in-time copy
	// of device and returns its name. Writes to device by whoever still has it
	// open do not reach the copy. What an earlier try for the same epoch left is
	// replaced. ErrNoCopy if the store cannot.
	CopyForEpoch(ctx context.Context, device string, epoch uint64) (string, error)
	// Snapshot makes a point-in-time copy of device under another name, in O(1).
	// ErrNoCopy if the store cannot; ErrBusy if the name is taken.
	Snapshot(ctx context.Context, device, name string) error
	// Delete destroys the device and its data. It succeeds if the device is gone
	// already and fails with ErrBusy while anything seen here uses it.
	Delete(ctx context.Context, device string) error
}

// Attached is a device on this node.
type Attached struct {
	Path  string // /dev/loop7
	Major uint32
	Minor uint32
	Size  int64 // bytes
	close func() error
}

// NewAttached is for backends: close gives up the hold on the device.
func NewAttached(path string, major, minor uint32, size int64, close func() error) *Attached {
	return &Attached{Path: path, Major: major, Minor: minor, Size: size, close: close}
}

// Close ends the caller's hold. A device that nothing uses goes away by that; one
// that is mounted stays until it is unmounted. It may be called more than once.
func (a *Attached) Close() error {
	if a == nil || a.close == nil {
		return nil
	}
	c := a.close
	a.close = nil
	return c()
}
