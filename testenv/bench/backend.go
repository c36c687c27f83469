package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// backendCycle is the backend's own work of one mount and one unmount, with the
// kernel's calls and nothing else: attach the image as a loop device, check the
// filesystem, mount it; write out and unmount, which frees the device.
type backendCycle struct{ image, dir string }

func (c backendCycle) mount(ctx context.Context) error {
	image, err := os.OpenFile(c.image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer image.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	loop, err := attachLoop(control, image)
	if err != nil {
		return err
	}
	defer loop.Close() // the mount keeps it
	out, err := exec.CommandContext(ctx, "e2fsck", "-p", loop.Name()).CombinedOutput()
	if err != nil {
		return fmt.Errorf("e2fsck: %w: %s", err, out)
	}
	return unix.Mount(loop.Name(), c.dir, "ext4", unix.MS_NOATIME, "")
}

func attachLoop(control, image *os.File) (*os.File, error) {
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(image.Fd())}
		config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		loop.Close()
		if !errors.Is(err, unix.EBUSY) { // somebody was faster
			return nil, err
		}
	}
}

func (c backendCycle) unmount() error {
	dir, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(dir.Fd()))
	dir.Close()
	return errors.Join(err, unix.Unmount(c.dir, 0))
}
