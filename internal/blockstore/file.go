package blockstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
)

// FileBackend is the name of this backend in records and reports.
const FileBackend = "file"

// idFile names the file whose content tells folders apart. Nodes that read the
// same ID see the same folder.
const idFile = "folder-id"

// headroom is what Provision leaves free in the folder's filesystem, in bytes, so
// that the images of others can still grow a little.
const headroom = 64 << 20

// imageName is what a device may be called. It keeps callers inside the folder.
var imageName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*\.img$`)

// epochSuffix is what CopyForEpoch puts before ".img".
var epochSuffix = regexp.MustCompile(`\.e[0-9]+$`)

// imageOfEpoch is an image, or the temporary file that becomes one.
var imageOfEpoch = regexp.MustCompile(`^(.*?)(?:\.e([0-9]+))?\.img(?:\.tmp-[0-9a-f]{8})?$`)

// File keeps devices as sparse images in a folder and attaches them as loop
// devices. The folder may be the node's own or shared by several nodes.
type File struct {
	dir   string
	shown string // dir as the node's users know it
	owner string // marks our loop devices

	mu      sync.Mutex // guards the following
	id      string
	reflink map[string]bool // by folder ID
}

// NewFile returns the backend on folder dir, which need not exist yet. shown is
// the folder's path outside of this process's mount namespace, for messages. owner
// identifies this node among all that share the machine's kernel, and must be
// the same after a restart.
func NewFile(dir, shown, owner string) *File {
	return &File{dir: dir, shown: shown, owner: owner, reflink: map[string]bool{}}
}

// Location returns the ID of the folder, and makes folder and ID the first time.
// It reads the ID again each time: a share may have been mounted there since.
func (f *File) Location() (string, error) {
	read := func() (string, error) {
		b, err := os.ReadFile(filepath.Join(f.dir, idFile))
		if err != nil {
			return "", err
		}
		id := strings.TrimSpace(string(b))
		if len(id) < 16 {
			return "", fmt.Errorf("%s/%s holds no ID: restore it, or remove it if no volume was ever made in this folder", f.shown, idFile)
		}
		return id, nil
	}
	id, err := read()
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if id, err := read(); !errors.Is(err, fs.ErrNotExist) {
		return id, err // made while we waited
	}
	if f.id != "" {
		// A new ID would turn a lost share into an empty folder.
		return "", fmt.Errorf("folder %s has lost its %s (it was %s): mount the share again or restore the file", f.shown, idFile, f.id)
	}
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return "", err
	}
	if images, _ := filepath.Glob(filepath.Join(f.dir, "*.img")); len(images) > 0 {
		return "", fmt.Errorf("folder %s holds %d images but no %s: restore the file from a node's records (docker openmanage volume ls shows where a volume lies)", f.shown, len(images), idFile)
	}
	// Written whole and linked into place, so that nobody reads half an ID and
	// the first of several nodes wins.
	tmp, err := os.CreateTemp(f.dir, ".id-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.WriteString(randomHex(16) + "\n")
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return "", err
	}
	if err := os.Link(tmp.Name(), filepath.Join(f.dir, idFile)); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	if err := syncDir(f.dir); err != nil {
		return "", err
	}
	return read()
}

// Storage implements Backend.
func (f *File) Storage() api.Storage {
	s := api.Storage{Backend: FileBackend, Path: f.shown}
	id, err := f.Location()
	if err != nil {
		s.Error = err.Error()
		return s
	}
	s.Location = id
	f.mu.Lock()
	f.id = id
	reflink, known := f.reflink[id]
	f.mu.Unlock()
	if !known {
		reflink, err = f.probeReflink()
		if err != nil {
			s.Error = err.Error()
			return s
		}
		f.mu.Lock()
		f.reflink[id] = reflink
		f.mu.Unlock()
	}
	s.Reflink = reflink
	var st unix.Statfs_t
	if err := unix.Statfs(f.dir, &st); err != nil {
		s.Error = fmt.Sprintf("free space of %s: %v", f.shown, err)
		return s
	}
	s.Total = int64(st.Blocks) * st.Bsize
	s.Free = int64(st.Bavail) * st.Bsize
	return s
}

// probeReflink tries a clone of a small file.
func (f *File) probeReflink() (bool, error) {
	a, err := os.CreateTemp(f.dir, ".probe-*")
	if err != nil {
		return false, fmt.Errorf("write to folder %s: %w", f.shown, err)
	}
	defer os.Remove(a.Name())
	defer a.Close()
	b, err := os.CreateTemp(f.dir, ".probe-*")
	if err != nil {
		return false, err
	}
	defer os.Remove(b.Name())
	defer b.Close()
	if _, err := a.Write(make([]byte, 4096)); err != nil {
		return false, fmt.Errorf("write to folder %s: %w", f.shown, err)
	}
	err = unix.IoctlFileClone(int(b.Fd()), int(a.Fd()))
	switch {
	case err == nil:
		return true, nil
	case cannotClone(err):
		return false, nil
	}
	return false, fmt.Errorf("try a point-in-time copy in %s: %w", f.shown, err)
}

func cannotClone(err error) bool {
	for _, e := range []unix.Errno{unix.EOPNOTSUPP, unix.ENOTTY, unix.ENOSYS, unix.EINVAL, unix.EXDEV} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// path returns where the image of device lies, once the folder is known to be
// the real one.
func (f *File) path(device string) (string, error) {
	if !imageName.MatchString(device) {
		return "", fmt.Errorf("device %q: not the name of an image", device)
	}
	if _, err := f.Location(); err != nil {
		return "", err
	}
	return filepath.Join(f.dir, device), nil
}

// stat returns the image's size; ErrMissing only if the folder is there and the
// image is not.
func (f *File) stat(device string) (string, unix.Stat_t, error) {
	var st unix.Stat_t
	path, err := f.path(device)
	if err != nil {
		return "", st, err
	}
	err = unix.Lstat(path, &st)
	switch {
	case errors.Is(err, unix.ENOENT):
		return path, st, fmt.Errorf("image %s/%s: %w", f.shown, device, ErrMissing)
	case err != nil:
		return path, st, fmt.Errorf("look up image %s/%s: %w", f.shown, device, err)
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return path, st, fmt.Errorf("image %s/%s is not a regular file", f.shown, device)
	}
	return path, st, nil
}

// Provision implements Backend.
func (f *File) Provision(ctx context.Context, device string, size int64) error {
	if size <= 0 {
		return fmt.Errorf("image %s: size %d bytes makes no sense", device, size)
	}
	path, st, err := f.stat(device)
	switch {
	case err == nil && st.Size == size:
		return nil
	case err == nil:
		return fmt.Errorf("image %s/%s exists with %d bytes instead of %d: %w", f.shown, device, st.Size, size, ErrBusy)
	case !errors.Is(err, ErrMissing):
		return err
	}
	var fsinfo unix.Statfs_t
	if err := unix.Statfs(f.dir, &fsinfo); err != nil {
		return fmt.Errorf("free space of %s: %w", f.shown, err)
	}
	if free := int64(fsinfo.Bavail) * fsinfo.Bsize; size > free-headroom {
		return fmt.Errorf("image %s of %d bytes: %w in %s: %d bytes free; free some, or create a smaller volume", device, size, ErrNoSpace, f.shown, free)
	}
	tmp, err := os.OpenFile(path+".tmp-"+randomHex(4), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := errors.Join(tmp.Truncate(size), tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("make image %s/%s: %w", f.shown, device, err)
	}
	// link, not rename: an image that appeared meanwhile is never replaced.
	if err := os.Link(tmp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := syncDir(f.dir); err != nil {
		return err
	}
	_, st, err = f.stat(device)
	if err == nil && st.Size != size {
		err = fmt.Errorf("image %s/%s was made by another node with %d bytes: %w", f.shown, device, st.Size, ErrBusy)
	}
	return err
}

// Blank implements Backend. Holes of a sparse image are not read.
func (f *File) Blank(ctx context.Context, device string) (bool, error) {
	path, _, err := f.stat(device)
	if err != nil {
		return false, err
	}
	image, err := os.Open(path)
	if err != nil {
		return false, fmt.Errorf("look into image %s/%s: %w", f.shown, device, err)
	}
	defer image.Close()
	blank, err := holdsZeros(ctx, image)
	if err != nil {
		return false, fmt.Errorf("look into image %s/%s: %w", f.shown, device, err)
	}
	return blank, nil
}

// holdsZeros reads the parts of a file that are not holes.
func holdsZeros(ctx context.Context, file *os.File) (bool, error) {
	buffer, zeros := make([]byte, 256<<10), make([]byte, 256<<10)
	for at := int64(0); ; {
		data, err := unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return true, nil // no data from there to the end
		}
		if err != nil {
			return false, err
		}
		hole, err := unix.Seek(int(file.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return false, err
		}
		for at = data; at < hole; {
			n, err := file.ReadAt(buffer[:min(int64(len(buffer)), hole-at)], at)
			if err != nil {
				return false, err
			}
			if !bytes.Equal(buffer[:n], zeros[:n]) {
				return false, nil
			}
			at += int64(n)
			if ctx.Err() != nil {
				return false, ctx.Err()
			}
		}
	}
}

// Grow implements Backend.
func (f *File) Grow(ctx context.Context, device string, size int64) error {
	path, st, err := f.stat(device)
	if err != nil || st.Size >= size {
		return err
	}
	if err := os.Truncate(path, size); err != nil {
		return fmt.Errorf("grow image %s/%s to %d bytes: %w", f.shown, device, size, err)
	}
	return nil
}

// Attach implements Backend.
func (f *File) Attach(ctx context.Context, device string) (*Attached, error) {
	path, st, err := f.stat(device)
	if err != nil {
		return nil, err
	}
	image, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open image %s/%s: %w", f.shown, device, err)
	}
	defer image.Close()
	users, err := loopsOf(st.Dev, st.Ino)
	if err != nil {
		return nil, err
	}
	var own *loop
	for _, l := range users {
		if l.owner == f.owner && own == nil {
			own = l
			continue
		}
		if err := l.clearIfUnused(); err != nil {
			closeLoops(users)
			return nil, fmt.Errorf("image %s/%s is attached as %s by %s: %w; it is freed when that one unmounts it", f.shown, device, l.path, l.ownerText(), err)
		}
		l.Close()
	}
	if own != nil {
		if err := own.refresh(st.Size); err != nil {
			own.Close()
			return nil, err
		}
		return own.attached(st.Size), nil
	}
	l, err := newLoop(ctx, image, f.owner)
	if err != nil {
		return nil, fmt.Errorf("attach image %s/%s: %w", f.shown, device, err)
	}
	// Another node of this machine may have done the same since we looked.
	users, err = loopsOf(st.Dev, st.Ino)
	if err != nil {
		l.Close()
		return nil, err
	}
	defer closeLoops(users)
	for _, other := range users {
		if other.number != l.number {
			l.Close()
			return nil, fmt.Errorf("image %s/%s was attached as %s by %s at the same time: %w", f.shown, device, other.path, other.ownerText(), ErrBusy)
		}
	}
	return l.attached(st.Size), nil
}

// Detach implements Backend.
func (f *File) Detach(ctx context.Context, device string) error {
	_, st, err := f.stat(device)
	if errors.Is(err, ErrMissing) {
		// Fenced or purged: the loop device, if any, goes with its last user.
		return nil
	}
	if err != nil {
		return err
	}
	return poll(ctx, func() error {
		users, err := loopsOf(st.Dev, st.Ino)
		if err != nil {
			return err
		}
		defer closeLoops(users)
		for _, l := range users {
			if l.owner != f.owner {
				continue
			}
			if err := l.clearIfUnused(); err != nil {
				return fmt.Errorf("detach %s from image %s/%s: %w", l.path, f.shown, device, err)
			}
		}
		return nil
	})
}

// CopyForEpoch implements Backend.
func (f *File) CopyForEpoch(ctx context.Context, device string, epoch uint64) (string, error) {
	next := fmt.Sprintf("%s.e%d.img", baseOf(device), epoch)
	if next == device {
		// An earlier try was acknowledged.
		_, _, err := f.stat(device)
		return device, err
	}
	path, err := f.path(next)
	if err != nil {
		return "", err
	}
	tmp, err := f.clone(device, path)
	if err != nil {
		return "", err
	}
	if err := os.Rename(tmp, path); err != nil {
		os.Remove(tmp)
		return "", err
	}
	return next, syncDir(f.dir)
}

// Snapshot implements Backend.
func (f *File) Snapshot(ctx context.Context, device, name string) error {
	path, err := f.path(name)
	if err != nil {
		return err
	}
	tmp, err := f.clone(device, path)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	if err := os.Link(tmp, path); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("snapshot %s/%s exists already: %w", f.shown, name, ErrBusy)
	} else if err != nil {
		return err
	}
	return syncDir(f.dir)
}

// clone makes a temporary reflink of device beside path and returns its name.
func (f *File) clone(device, path string) (string, error) {
	src, _, err := f.stat(device)
	if err != nil {
		return "", err
	}
	in, err := os.Open(src)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(path+".tmp-"+randomHex(4), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", err
	}
	err = unix.IoctlFileClone(int(out.Fd()), int(in.Fd()))
	if err == nil {
		err = out.Sync()
	} else if cannotClone(err) {
		err = fmt.Errorf("%w: the filesystem of %s cannot (%w); put the folder on XFS with reflink or Btrfs", ErrNoCopy, f.shown, err)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		os.Remove(out.Name())
		return "", fmt.Errorf("copy image %s/%s: %w", f.shown, device, err)
	}
	return out.Name(), nil
}

// Delete implements Backend.
func (f *File) Delete(ctx context.Context, device string) error {
	path, st, err := f.stat(device)
	if errors.Is(err, ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	users, err := loopsOf(st.Dev, st.Ino)
	if err != nil {
		return err
	}
	defer closeLoops(users)
	for _, l := range users {
		if err := l.clearIfUnused(); err != nil {
			return fmt.Errorf("delete image %s/%s: attached as %s by %s: %w", f.shown, device, l.path, l.ownerText(), err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(f.dir)
}

// AbandonOlder removes the images that older epochs have left of the volume that
// device belongs to, and their unfinished copies, except device itself. Unlike
// Delete it does so even while a fenced writer still has one open: that writer
// keeps writing to a file without a name.
func (f *File) AbandonOlder(device string, epoch uint64) error {
	if _, err := f.path(device); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		m := imageOfEpoch.FindStringSubmatch(e.Name())
		if m == nil || m[1] != baseOf(device) || e.Name() == device {
			continue
		}
		// Without a number it is the first device, which is older than any copy.
		if n, err := strconv.ParseUint(m[2], 10, 64); m[2] != "" && (err != nil || n >= epoch) {
			continue
		}
		if err := os.Remove(filepath.Join(f.dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, syncDir(f.dir))...)
}

// baseOf is what the devices of all epochs of a volume begin with.
func baseOf(device string) string {
	return epochSuffix.ReplaceAllString(strings.TrimSuffix(device, ".img"), "")
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	if _, err := io.ReadFull(rand.Reader, b); err != nil {
		panic(err) // the kernel's random source does not fail
	}
	return hex.EncodeToString(b)
}
