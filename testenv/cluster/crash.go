package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/testenv/host"
)

// Kill ends the node as a power cut ends a machine:
//
//   - the others hear nothing more of it, not even that connections close;
//   - nothing on it runs for another instant;
//   - what its filesystems had not written yet is lost;
//   - nothing it had mounted stays mounted, and its loop devices are free.
//
// When Kill returns all of this is true. A node that is off is left alone.
func (n *Node) Kill(ctx context.Context) error {
	state, err := n.State(ctx)
	if err != nil || (state != "running" && state != "paused") {
		return err
	}
	pid, err := n.pid(ctx)
	if err != nil {
		return err
	}
	// First the silence: a process that is killed closes its connections, which
	// a machine without power does not.
	if _, err := host.Run(ctx, "nsenter", "--net", "--target", strconv.Itoa(pid), "ip", "link", "set", "eth0", "down"); err != nil {
		return fmt.Errorf("%s: cannot silence its network: %w", n.Name, err)
	}
	// Frozen, nothing on the node sees what happens to its filesystems next.
	if err := n.Pause(ctx); err != nil {
		return err
	}
	mounts, err := n.loopMounts(ctx)
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		if err := mount.stop(); err != nil {
			return fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	if err := n.end(ctx); err != nil {
		return err
	}
	if err := n.cluster.release(ctx, mounts); err != nil {
		return err
	}
	return n.cluster.sweep()
}

// end kills the container and waits until nothing of it is left.
func (n *Node) end(ctx context.Context) error {
	if _, err := host.Docker(ctx, "kill", n.Container()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return host.Poll(ctx, 50*time.Millisecond, n.Name+" does not end", func() (bool, error) {
		state, err := n.State(ctx)
		return state == "exited", err
	})
}

// A loopMount is a filesystem on a loop device that a node has mounted.
type loopMount struct {
	minor  uint32
	fstype string
	path   string // through /proc, so that it can be opened from here
}

// loopMounts finds the filesystems on loop devices that only this node has
// mounted, in the node's own mount namespace or in one of its containers'.
func (n *Node) loopMounts(ctx context.Context) ([]loopMount, error) {
	id, err := host.Docker(ctx, "inspect", "--format", "{{.Id}}", n.Container())
	if err != nil {
		return nil, err
	}
	inside, err := host.PIDsInCgroup(strings.TrimSpace(id))
	if err != nil {
		return nil, err
	}
	outside, err := host.PIDs(func(pid int) bool { return !slices.Contains(inside, pid) })
	if err != nil {
		return nil, err
	}
	elsewhere := loopMountsOf(outside)
	mounts := loopMountsOf(inside)
	return slices.DeleteFunc(mounts, func(m loopMount) bool {
		return slices.ContainsFunc(elsewhere, func(e loopMount) bool { return e.minor == m.minor })
	}), nil
}

// loopMountsOf looks into the mount namespaces of the processes, and returns
// each loop device once.
func loopMountsOf(pids []int) []loopMount {
	seen := map[string]bool{}
	byMinor := map[uint32]bool{}
	var mounts []loopMount
	for _, pid := range pids {
		proc := filepath.Join("/proc", strconv.Itoa(pid))
		namespace, err := os.Readlink(filepath.Join(proc, "ns/mnt"))
		if err != nil || seen[namespace] {
			continue
		}
		file, err := os.Open(filepath.Join(proc, "mountinfo"))
		if err != nil {
			continue
		}
		infos, err := mountinfo.GetMountsFromReader(file, func(info *mountinfo.Info) (skip, stop bool) {
			return info.Major != loopMajor, false
		})
		file.Close()
		if err != nil {
			continue // it has ended
		}
		seen[namespace] = true
		for _, info := range infos {
			if minor := uint32(info.Minor); !byMinor[minor] {
				byMinor[minor] = true
				mounts = append(mounts, loopMount{minor: minor, fstype: info.FSType, path: filepath.Join(proc, "root") + info.Mountpoint})
			}
		}
	}
	return mounts
}

const loopMajor = 7

// stop has the filesystem write nothing more, as if the power had failed. ext4
// and XFS share the request.
func (m loopMount) stop() error {
	fd, err := unix.Open(m.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EIO) {
		return nil // ended, or stopped, meanwhile
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", m.path, err)
	}
	defer unix.Close(fd)
	const (
		shutdown = 0x8004587d // EXT4_IOC_SHUTDOWN, XFS_IOC_GOINGDOWN
		noFlush  = 2          // leave the log unwritten as well
	)
	err = unix.IoctlSetPointerInt(fd, shutdown, noFlush)
	if err != nil && !errors.Is(err, unix.ENOTTY) { // other filesystems are only unmounted
		return fmt.Errorf("stop filesystem %s on loop%d: %w", m.fstype, m.minor, err)
	}
	return nil
}

// release waits until the filesystems of a dead node are gone and frees their
// loop devices, as a machine without power holds nothing.
func (c *Cluster) release(ctx context.Context, mounts []loopMount) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, mount := range mounts {
		what := fmt.Sprintf("loop%d of the dead node is still mounted", mount.minor)
		err := host.Poll(ctx, 20*time.Millisecond, what, func() (bool, error) {
			_, err := os.Stat(fmt.Sprintf("/sys/fs/%s/loop%d", mount.fstype, mount.minor))
			return errors.Is(err, os.ErrNotExist), nil
		})
		if err != nil {
			return err
		}
	}
	loops, err := c.Host.StorageLoops()
	if err != nil {
		return err
	}
	for _, loop := range loops {
		if slices.ContainsFunc(mounts, func(m loopMount) bool { return m.minor == loop.Minor }) {
			if err := loop.Detach(); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep frees the loop devices of the storage that a dead node had attached but
// not yet mounted. Nothing says directly whose a device is, but the kernel
// names a file whose mount is gone by its path within that mount.
func (c *Cluster) sweep() error {
	loops, err := c.Host.StorageLoops()
	if err != nil {
		return err
	}
	loops = slices.DeleteFunc(loops, func(l host.Loop) bool { return !c.isOrphan(l) })
	if len(loops) == 0 {
		return nil
	}
	pids, err := host.PIDs(func(int) bool { return true })
	if err != nil {
		return err
	}
	mounts := loopMountsOf(pids)
	for _, loop := range loops {
		mounted := slices.ContainsFunc(mounts, func(m loopMount) bool { return m.minor == loop.Minor })
		if mounted {
			continue // a container holds it, although the plugin that mounted it is gone
		}
		if err := loop.Detach(); err != nil {
			return err
		}
	}
	return nil
}

// isOrphan says whether the mount through which the loop device's file was
// opened is gone.
func (c *Cluster) isOrphan(loop host.Loop) bool {
	path := loop.BackingPath()
	for _, node := range c.Nodes() {
		var stat unix.Stat_t
		if path != "" && unix.Stat(filepath.Join(node.Storage(), path), &stat) == nil && stat.Ino == loop.BackingInode {
			return true
		}
	}
	return false
}
