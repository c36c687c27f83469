// Package filesystem makes, checks, mounts and fences the filesystems on
// volumes. It holds the project's second invariant: nothing that may hold data is
// ever formatted. Where it cannot tell, it fails.
//
// It keeps no state. Calls for different devices may run at once.
package filesystem

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Filesystems that volumes may have.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

// ErrForeign is what every error about a device that holds something else than
// expected wraps.
var ErrForeign = errors.New("device holds something else")

// Content is what a device was found to hold. The zero value is not "blank":
// only Blank is.
type Content struct {
	// Blank: every byte that was read is zero, no known signature was found, and
	// no read failed.
	Blank bool
	// Type and UUID of the filesystem; Type is another kind of content, such as
	// a partition table or LVM, if it is neither Ext4 nor XFS. Both are empty on
	// a device with data of no known kind.
	Type string
	UUID string
}

func (c Content) String() string {
	switch {
	case c.Blank:
		return "nothing"
	case c.Type == "":
		return "data of an unknown kind"
	case c.UUID == "":
		return c.Type
	}
	return fmt.Sprintf("%s with UUID %s", c.Type, c.UUID)
}

// How much of a device Probe reads: its beginning, its end, and samples in
// between. Signatures lie in the first MiB and in the last 512 KiB.
const (
	probeHead    = 4 << 20
	probeTail    = 1 << 20
	probeSample  = 4 << 10
	probeSamples = 256
)

// Probe says what is on device. It opens the device exclusively, so that one
// that is mounted or being formatted is an error (EBUSY). Every failure to read or
// to look is an error; it never means blank.
func Probe(ctx context.Context, device string) (Content, error) {
	fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	if err != nil {
		return Content{}, fmt.Errorf("probe %s: open: %w", device, err)
	}
	f := os.NewFile(uintptr(fd), device)
	defer f.Close()
	zero, err := readsZero(f)
	if err != nil {
		return Content{}, fmt.Errorf("probe %s: %w; nothing was written to it", device, err)
	}
	found, err := blkid(ctx, device)
	if err != nil {
		return Content{}, fmt.Errorf("probe %s: %w; nothing was written to it", device, err)
	}
	found.Blank = zero && found.Type == "" && found.UUID == ""
	return found, nil
}

// readsZero reads the parts of f that Probe's constants name.
func readsZero(f *os.File) (bool, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return false, err
	}
	if size == 0 {
		return false, errors.New("it has no size: the device is not ready, or was detached")
	}
	buffer, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	zero := true
	check := func(from, length int64) error {
		for at, end := from, min(from+length, size); at < end; {
			n := min(int64(len(buffer)), end-at)
			if _, err := f.ReadAt(buffer[:n], at); err != nil {
				return fmt.Errorf("read at %d: %w", at, err)
			}
			zero = zero && bytes.Equal(buffer[:n], zeros[:n])
			at += n
		}
		return nil
	}
	if err := check(0, probeHead); err != nil {
		return false, err
	}
	if err := check(max(0, size-probeTail), probeTail); err != nil {
		return false, err
	}
	for i := int64(1); i <= probeSamples; i++ {
		if err := check((size/(probeSamples+1)*i)&^(probeSample-1), probeSample); err != nil {
			return false, err
		}
	}
	return zero, nil
}

// blkid asks libblkid's low-level probing, which knows some hundred kinds of
// content. Its exit status 2 means that it found nothing; but it is also 2 when the
// device cannot be read, which is why Probe reads it first.
func blkid(ctx context.Context, device string) (Content, error) {
	cmd := command(ctx, "blkid", "-p", "-o", "export", device)
	var out, errout bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errout
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() == 2 && out.Len() == 0 && errout.Len() == 0:
		return Content{}, nil
	case errors.As(err, &exit) && exit.ExitCode() == 8:
		return Content{}, errors.New("blkid finds signatures of several kinds; remove the wrong one with wipefs once you know which it is")
	case err != nil:
		return Content{}, fmt.Errorf("blkid: %w: %s", err, strings.TrimSpace(errout.String()))
	}
	var c Content
	var table string
	for line := range strings.Lines(out.String()) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "TYPE":
			c.Type = value
		case "UUID":
			c.UUID = value
		case "PTTYPE":
			table = value
		}
	}
	if c.Type == "" && table != "" {
		c.Type = table + " partition table"
	}
	if c.Type == "" {
		return Content{}, fmt.Errorf("blkid found something it does not name: %q", out.String())
	}
	return c, nil
}

// Make formats device, which the caller has proven to be blank or its own
// unfinished work (again). It returns once everything is on the device.
func Make(ctx context.Context, device, fstype, uuid string, again bool) error {
	var cmd *exec.Cmd
	switch fstype {
	case Ext4:
		// A block of 4096 bytes, however small the volume: the image may move to
		// a node whose disks have sectors of that size.
		args := []string{"-q", "-b", "4096", "-m", "1", "-E", "nodiscard", "-U", uuid}
		if again {
			args = append(args, "-F")
		}
		cmd = command(ctx, "mkfs.ext4", append(args, device)...)
	case XFS:
		args := []string{"-q", "-K", "-s", "size=4096", "-m", "reflink=1,uuid=" + uuid}
		if again {
			args = append(args, "-f")
		}
		cmd = command(ctx, "mkfs.xfs", append(args, device)...)
	default:
		return fmt.Errorf("format %s: unknown filesystem %q: choose %s or %s", device, fstype, Ext4, XFS)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("format %s as %s: %w: %s", device, fstype, err, lastLine(out))
	}
	return Flush(device)
}

// Flush writes out all that the kernel caches of a device.
func Flush(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s out: %w", device, err)
	}
	return nil
}

// Complete says whether a filesystem that Make may have been killed on is whole.
// It changes nothing.
func Complete(ctx context.Context, device, fstype string) (bool, error) {
	var cmd *exec.Cmd
	switch fstype {
	case Ext4:
		cmd = command(ctx, "e2fsck", "-n", "-f", device)
	case XFS:
		cmd = command(ctx, "xfs_repair", "-n", device)
	default:
		return false, fmt.Errorf("check %s: unknown filesystem %q", device, fstype)
	}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("check %s: %w: %s", device, err, lastLine(out))
	}
	return true, nil
}

// Repair makes a filesystem fit to be mounted after a crash. XFS does that when
// it is mounted.
func Repair(ctx context.Context, device, fstype string) error {
	if fstype != Ext4 {
		return nil
	}
	out, err := command(ctx, "e2fsck", "-p", device).CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil // errors were corrected
	}
	if err != nil {
		return fmt.Errorf("e2fsck -p %s: %w: %s; look at it by hand with e2fsck, on a copy first", device, err, lastLine(out))
	}
	return nil
}

// Mount mounts the filesystem of device on target, which must be an empty
// directory and no mount.
func Mount(device, fstype, target string) error {
	options := ""
	if fstype == XFS {
		// The caller has compared the UUID. XFS's own check would refuse the copy
		// of a volume whose fenced original is still mounted in this kernel.
		options = "nouuid"
	}
	if err := unix.Mount(device, target, fstype, unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mount %s (%s) on %s: %w; the kernel's log says more", device, fstype, target, err)
	}
	return nil
}

// Unmount writes everything out and unmounts target. EBUSY says that something
// still uses it. It succeeds if nothing is mounted there.
func Unmount(target string) error {
	if f, err := os.Open(target); err == nil {
		err = unix.Syncfs(int(f.Fd()))
		f.Close()
		if err != nil && !errors.Is(err, unix.EIO) { // EIO: it was fenced
			return fmt.Errorf("write %s out: %w", target, err)
		}
	}
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// Detach takes the mount out of the tree at once, even if something uses it.
func Detach(target string) error {
	if err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

const (
	iocShutdown        = 0x8004587d // FS_IOC_SHUTDOWN, _IOR('X', 125, __u32)
	shutdownNoLogFlush = 2          // *_GOING_FLAGS_NOLOGFLUSH
)

// Shutdown is the fence: from when it returns, no write of any process reaches
// the filesystem's device, and every access to it fails with EIO. What was not
// written out yet is lost, as by a power cut.
func Shutdown(target string) error {
	fd, err := unix.Open(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("fence %s: %w", target, err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetPointerInt(fd, iocShutdown, shutdownNoLogFlush); err != nil {
		return fmt.Errorf("fence %s: %w", target, err)
	}
	return nil
}

// Size returns the size in bytes that the filesystem on device believes to have.
func Size(device, fstype string) (int64, error) {
	f, err := os.Open(device)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	sb := make([]byte, 4096)
	if _, err := f.ReadAt(sb, 0); err != nil {
		return 0, fmt.Errorf("read superblock of %s: %w", device, err)
	}
	switch {
	case fstype == Ext4 && binary.LittleEndian.Uint16(sb[1024+0x38:]) == 0xEF53:
		blocks := int64(binary.LittleEndian.Uint32(sb[1024+4:])) | int64(binary.LittleEndian.Uint32(sb[1024+0x150:]))<<32
		return blocks << (10 + binary.LittleEndian.Uint32(sb[1024+0x18:])), nil
	case fstype == XFS && string(sb[:4]) == "XFSB":
		return int64(binary.BigEndian.Uint32(sb[4:])) * int64(binary.BigEndian.Uint64(sb[8:])), nil
	}
	return 0, fmt.Errorf("superblock of %s: no %s: %w", device, fstype, ErrForeign)
}

// growStep is by how much a device must exceed its filesystem, in bytes, for Grow
// to have anything to do: less than this a filesystem cannot use.
const growStep = 16 << 20

// ErrMounted: the filesystem cannot be enlarged while it is mounted, only before
// its next mount.
var ErrMounted = errors.New("cannot grow while it is mounted")

// Grow enlarges the filesystem of fstype on device to its device, if that has
// become larger, and says whether it did. target is where it is mounted, and may be
// in use; "": it is not mounted, when XFS cannot grow and nothing is done. ext4
// takes CAP_SYS_RESOURCE to grow while it is mounted (ioctl EXT4_IOC_RESIZE_FS):
// without it the error is ErrMounted.
func Grow(ctx context.Context, device, fstype, target string, deviceSize int64) (bool, error) {
	if fstype == XFS && target == "" {
		return false, nil
	}
	size, err := Size(device, fstype)
	if err != nil || deviceSize-size < growStep {
		return false, err
	}
	grow := command(ctx, "xfs_growfs", target)
	if fstype == Ext4 {
		grow = command(ctx, "resize2fs", device)
	}
	if fstype == Ext4 && target == "" {
		// resize2fs insists on a full check before it.
		out, err := command(ctx, "e2fsck", "-f", "-p", device).CombinedOutput()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
			return false, fmt.Errorf("check %s before growing it: %w: %s", device, err, lastLine(out))
		}
	}
	out, err := grow.CombinedOutput()
	switch {
	case err != nil && strings.Contains(string(out), "Permission denied to resize"):
		return false, fmt.Errorf("grow %s on %s: it takes CAP_SYS_RESOURCE: %w", fstype, device, ErrMounted)
	case err != nil:
		return false, fmt.Errorf("grow %s on %s from %d to %d bytes: %w: %s", fstype, device, size, deviceSize, err, lastLine(out))
	}
	return true, nil
}

// command runs without a terminal, in a session of its own so that a signal to
// the plugin's group does not stop it halfway.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return lines[len(lines)-1]
}
