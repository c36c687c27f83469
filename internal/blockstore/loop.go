package blockstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loopMajor is the device number of all loop devices.
const loopMajor = 7

// loopTag starts the name that the kernel keeps with a loop device of ours; the
// owner follows. All nodes on one kernel see all loop devices, and only the name
// tells whose they are.
const loopTag = "openmanage:"

// loop is an open loop device.
type loop struct {
	file   *os.File
	path   string
	number int
	owner  string // "": not made by this program
	name   string // the kernel's name for the backing file
}

func (l *loop) Close() error { return l.file.Close() }

func (l *loop) ownerText() string {
	if l.owner == "" {
		return "another program (" + l.name + ")"
	}
	return "OpenManage on node " + l.owner
}

func (l *loop) attached(size int64) *Attached {
	return NewAttached(l.path, loopMajor, uint32(l.number), size, l.file.Close)
}

// clearIfUnused detaches the loop device if nobody but us has it open, and fails
// with ErrBusy otherwise. The exclusive open proves that it is not mounted and no
// mkfs or fsck runs on it.
func (l *loop) clearIfUnused() error {
	excl, err := unix.Open(l.path, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mounted or otherwise claimed: %w", ErrBusy)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", l.path, err)
	}
	defer unix.Close(excl)
	// With other openers the kernel only marks it to be cleared with the last.
	if err := unix.IoctlSetInt(int(l.file.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("clear %s: %w", l.path, err)
	}
	return nil
}

// refresh makes the device as large as its image has become.
func (l *loop) refresh(size int64) error {
	now, err := l.file.Seek(0, io.SeekEnd)
	if err != nil {
		return fmt.Errorf("size of %s: %w", l.path, err)
	}
	if now >= size&^511 {
		return nil
	}
	if err := unix.IoctlSetInt(int(l.file.Fd()), unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("grow %s: %w", l.path, err)
	}
	return nil
}

// newLoop attaches image to a free loop device. Others take loop devices of the
// same kernel at the same time, hence the tries.
func newLoop(ctx context.Context, image *os.File, owner string) (*loop, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop devices are not available: %w; load the kernel module loop", err)
	}
	defer control.Close()
	var last error
	for range 64 {
		if err := ctx.Err(); err != nil {
			return nil, errors.Join(err, last)
		}
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		l, err := openLoop(n)
		if err != nil {
			last = err
			continue
		}
		config := unix.LoopConfig{Fd: uint32(image.Fd())}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
		copy(config.Info.File_name[:63], loopTag+owner)
		err = unix.IoctlLoopConfigure(int(l.file.Fd()), &config)
		if err == nil {
			l.owner = owner
			return l, nil
		}
		l.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configure %s: %w", l.path, err)
		}
		last = err
	}
	return nil, fmt.Errorf("no loop device could be had, others were faster: %w", last)
}

func openLoop(n int) (*loop, error) {
	path := fmt.Sprintf("/dev/loop%d", n)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		// The kernel has the device, this /dev does not show it.
		if err := unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(loopMajor, uint32(n)))); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make %s: %w", path, err)
		}
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, err
	}
	return &loop{file: f, path: path, number: n}, nil
}

// loopsOf returns the loop devices of this kernel that are backed by the file
// with that device and inode number, open. The caller closes them.
func loopsOf(dev, ino uint64) ([]*loop, error) {
	bound, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return nil, err
	}
	var found []*loop
	for _, dir := range bound {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(filepath.Dir(dir)), "loop"))
		if err != nil {
			continue
		}
		l, err := openLoop(n)
		if errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
			continue // gone since
		}
		if err != nil {
			closeLoops(found)
			return nil, fmt.Errorf("look at loop devices: %w", err)
		}
		info, err := unix.IoctlLoopGetStatus64(int(l.file.Fd()))
		if errors.Is(err, unix.ENXIO) {
			l.Close()
			continue
		}
		if err != nil {
			l.Close()
			closeLoops(found)
			return nil, fmt.Errorf("look at %s: %w", l.path, err)
		}
		if info.Device != dev || info.Inode != ino {
			l.Close()
			continue
		}
		name, _, _ := bytes.Cut(info.File_name[:], []byte{0})
		l.name = string(name)
		l.owner, _ = strings.CutPrefix(l.name, loopTag)
		if l.owner == l.name {
			l.owner = ""
		}
		found = append(found, l)
	}
	return found, nil
}

func closeLoops(loops []*loop) {
	for _, l := range loops {
		l.Close()
	}
}

// poll calls f until it succeeds, fails with another error than ErrBusy, or ctx
// ends.
func poll(ctx context.Context, f func() error) error {
	wait := 2 * time.Millisecond
	for {
		err := f()
		if err == nil || !errors.Is(err, ErrBusy) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(wait):
		}
		wait = min(2*wait, 200*time.Millisecond)
	}
}
