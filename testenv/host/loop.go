package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Loop is an attached loop device.
type Loop struct {
	// Minor is the device's number: N of /dev/loopN.
	Minor uint32
	// BackingDevice and BackingInode identify the file behind it. Its path
	// would not do: it is that of the node that attached the file.
	BackingDevice, BackingInode uint64
}

// Path is the device's name in /dev.
func (l Loop) Path() string { return fmt.Sprintf("/dev/loop%d", l.Minor) }

// BackingPath is the path of the file behind the device, as far as the kernel
// can still tell, or "".
func (l Loop) BackingPath() string {
	text, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/backing_file", l.Minor))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(strings.TrimSpace(string(text)), " (deleted)")
}

// Loops returns all attached loop devices.
func Loops() ([]Loop, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var loops []Loop
	for _, file := range files {
		name := strings.TrimPrefix(strings.Split(file, "/")[3], "loop")
		minor, err := strconv.ParseUint(name, 10, 20)
		if err != nil {
			continue
		}
		loop, err := readLoop(uint32(minor))
		if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) {
			continue // detached while we looked
		}
		if err != nil {
			return nil, err
		}
		loops = append(loops, loop)
	}
	return loops, nil
}

func readLoop(minor uint32) (Loop, error) {
	loop := Loop{Minor: minor}
	fd, err := unix.Open(loop.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return loop, fmt.Errorf("open %s: %w", loop.Path(), err)
	}
	defer unix.Close(fd)
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return loop, fmt.Errorf("status of %s: %w", loop.Path(), err)
	}
	loop.BackingDevice, loop.BackingInode = info.Device, info.Inode
	return loop, nil
}

// Detach frees the device from its file. One that is free already is no error.
func (l Loop) Detach() error {
	now, err := readLoop(l.Minor)
	if errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist) || (err == nil && now != l) {
		return nil
	}
	fd, err := unix.Open(l.Path(), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", l.Path(), err)
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.LOOP_CLR_FD, 0)
	unix.Close(fd)
	if errno != 0 && errno != unix.ENXIO {
		return fmt.Errorf("detach %s: %w", l.Path(), errno)
	}
	// The kernel may finish when the last opener (udev, say) closes it.
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return Poll(ctx, 20*time.Millisecond, l.Path()+" stays attached: something still uses it", func() (bool, error) {
		now, err := readLoop(l.Minor)
		return err != nil || now != l, nil
	})
}

// ensureLoopDevices makes loop devices and their nodes in /dev, which the nodes
// share.
func ensureLoopDevices() error {
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("this kernel has no loop devices (/dev/loop-control): %w; load the module with `modprobe loop`", err)
	}
	defer unix.Close(control)
	for minor := range loopDevices {
		path := fmt.Sprintf("/dev/loop%d", minor)
		if exists(path) {
			continue
		}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(control), unix.LOOP_CTL_ADD, uintptr(minor))
		if errno != 0 && errno != unix.EEXIST {
			return fmt.Errorf("cannot add loop device %d: %w", minor, errno)
		}
		// devtmpfs has made the node by now; where /dev is something else, we do.
		err := unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(7, uint32(minor))))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("cannot make %s: %w", path, err)
		}
	}
	return nil
}
