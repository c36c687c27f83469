package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// storageSize is the size of the filesystem that nodes share. Its image is
// sparse: it takes only what is written.
const storageSize = 40 << 30

// loopDevices is how many loop devices the machine gets. Kernels come with
// eight, and one volume takes one.
const loopDevices = 256

// StorageDir is where the filesystem that nodes share is mounted.
func (h *Host) StorageDir() string { return filepath.Join(h.StateDir, "storage") }

func (h *Host) storageImage() string { return filepath.Join(h.StateDir, "storage.img") }

// EnsureStorage makes and mounts the filesystem that plays the storage network:
// XFS with reflink, so that snapshots are O(1), in a loop device.
func (h *Host) EnsureStorage(ctx context.Context) error {
	if err := ensureLoopDevices(); err != nil {
		return err
	}
	if err := os.MkdirAll(h.StorageDir(), 0o755); err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(h.StorageDir()); err != nil || mounted {
		return err
	}
	if !exists(h.storageImage()) {
		h.Progress.Step("making the shared filesystem")
		if err := h.makeStorage(ctx); err != nil {
			return err
		}
	}
	_, err := Run(ctx, "mount", "-t", "xfs", "-o", "loop,discard", h.storageImage(), h.StorageDir())
	if err != nil {
		return fmt.Errorf("the shared filesystem cannot be mounted; if it is damaged, `testenv down` removes it: %w", err)
	}
	return nil
}

func (h *Host) makeStorage(ctx context.Context) error {
	// Under another name until it is whole: a crash must not leave half of it.
	partial := h.storageImage() + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	file, err := os.Create(partial)
	if err != nil {
		return err
	}
	if err := errors.Join(file.Truncate(storageSize), file.Close()); err != nil {
		return err
	}
	if _, err := Run(ctx, "mkfs.xfs", "-q", "-m", "reflink=1", partial); err != nil {
		return err
	}
	return os.Rename(partial, h.storageImage())
}

// RemoveStorage detaches every loop device whose file lies in the shared
// filesystem, unmounts it and removes it.
func (h *Host) RemoveStorage(ctx context.Context) error {
	mounted, err := mountinfo.Mounted(h.StorageDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if mounted {
		loops, err := h.StorageLoops()
		if err != nil {
			return err
		}
		for _, loop := range loops {
			if err := loop.Detach(); err != nil {
				return err
			}
		}
		if _, err := Run(ctx, "umount", h.StorageDir()); err != nil {
			return fmt.Errorf("the shared filesystem is still used: %w", err)
		}
	}
	if err := os.RemoveAll(h.StorageDir()); err != nil {
		return err
	}
	return os.RemoveAll(h.storageImage())
}

// StorageLoops returns the loop devices whose backing file lies in the shared
// filesystem, whichever node attached them.
func (h *Host) StorageLoops() ([]Loop, error) {
	var stat unix.Stat_t
	if err := unix.Stat(h.StorageDir(), &stat); err != nil {
		return nil, err
	}
	all, err := Loops()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(l Loop) bool { return l.BackingDevice != stat.Dev }), nil
}

// unmountBelow unmounts everything mounted below the directories, deepest first.
func unmountBelow(dirs ...string) error {
	for _, dir := range dirs {
		infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
		if err != nil {
			return err
		}
		slices.SortFunc(infos, func(a, b *mountinfo.Info) int { return strings.Compare(b.Mountpoint, a.Mountpoint) })
		for _, info := range infos {
			if err := unix.Unmount(info.Mountpoint, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("cannot unmount %s: %w", info.Mountpoint, err)
			}
		}
	}
	return nil
}

func freeBytes(path string) (uint64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", path, err)
	}
	return stat.Bavail * uint64(stat.Bsize), nil
}
