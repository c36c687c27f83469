package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/cluster"
)

const (
	mountRepetitions = 20
	mountSize        = "1GiB"
	mountGoal        = 150 // ms
)

// mount measures Mount and Unmount of the plugin's socket, as Docker calls them,
// against the backend's own work on an image of the same size.
func mount(ctx context.Context, b *bench) (measure.Result, error) {
	var result measure.Result
	node, leading, err := b.notLeading(ctx)
	if err != nil {
		return result, err
	}
	plugin, err := openPlugin(ctx, node)
	if err != nil {
		return result, err
	}
	defer plugin.Close()
	const volume = prefix + "-mount"
	if err := plugin.create(ctx, volume, mountSize); err != nil {
		return result, err
	}
	cycle, err := newBackendCycle(node)
	if err != nil {
		return result, err
	}
	defer os.Remove(cycle.dir)

	ours := func(i int) (float64, float64, error) {
		id := fmt.Sprintf("bench-%d", i)
		up, err := timed(func() error { return plugin.mount(ctx, volume, id) })
		if err == nil {
			err = isExt4(plugin.path(volume))
		}
		down, unmountErr := timed(func() error { return plugin.unmount(ctx, volume, id) })
		return up, down, errors.Join(err, unmountErr)
	}
	reference := func(int) (float64, float64, error) {
		up, err := timed(func() error { return cycle.mount(ctx) })
		if err != nil {
			return 0, 0, err
		}
		err = isExt4(cycle.dir)
		down, unmountErr := timed(cycle.unmount)
		return up, down, errors.Join(err, unmountErr)
	}
	// The first mount of a volume makes the filesystem: that is measured by itself.
	format, _, err := ours(0)
	if err != nil {
		return result, err
	}
	var up, down, both [2]measure.Sample
	for i := 1; i <= mountRepetitions; i++ {
		err := inTurn(i, func(side int) error {
			run := ours
			if side == referenceSide {
				run = reference
			}
			u, d, err := run(i)
			up[side], down[side], both[side] = append(up[side], u), append(down[side], d), append(both[side], u+d)
			return err
		})
		if err != nil {
			return result, err
		}
	}
	result.Measurements = []measure.Measurement{
		measure.Difference("mount", "ms", up[0], up[1], measure.AtMost(mountGoal)),
		measure.Difference("unmount", "ms", down[0], down[1], measure.AtMost(mountGoal)),
		measure.Difference("both", "ms", both[0], both[1], measure.AtMost(mountGoal)),
		measure.Figure("first mount of a new volume, with mkfs", "ms", measure.Sample{format}),
	}
	result.Note("%d repetitions on %s; %s leads the Swarm. The reference is the backend's own time: loop device, e2fsck -p and mount; syncfs and umount. Compared is the difference.",
		mountRepetitions, node.Name, leading.Name)
	return result, nil
}

// newBackendCycle makes an image beside the volumes', with a filesystem.
func newBackendCycle(node *cluster.Node) (backendCycle, error) {
	c := backendCycle{image: filepath.Join(node.Storage(), filepath.Base(byHandImages)+"mount.img")}
	image, err := os.Create(c.image)
	if err != nil {
		return c, err
	}
	if err := errors.Join(image.Truncate(1<<30), image.Close()); err != nil {
		return c, err
	}
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], c.image)...).CombinedOutput(); err != nil {
		return c, fmt.Errorf("mkfs: %w: %s", err, out)
	}
	c.dir, err = os.MkdirTemp("", prefix+"-mount-")
	return c, err
}

func timed(do func() error) (milliseconds float64, err error) {
	start := time.Now()
	err = do()
	return float64(time.Since(start)) / float64(time.Millisecond), err
}

// isExt4 makes sure that something is mounted where it is said to be.
func isExt4(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	if st.Type != unix.EXT4_SUPER_MAGIC {
		return fmt.Errorf("%s is not ext4: nothing is mounted", dir)
	}
	return nil
}

// notLeading returns a node that does not lead the Swarm, and the one that does.
func (b *bench) notLeading(ctx context.Context) (node, leader *cluster.Node, err error) {
	if leader, err = b.c.Leader(ctx); err != nil {
		return nil, nil, err
	}
	for _, n := range b.c.Nodes() {
		if n.Number != leader.Number {
			node = n
		}
	}
	return node, leader, nil
}
