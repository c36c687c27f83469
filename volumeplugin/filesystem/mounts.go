package filesystem

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Mounted is a mount as this process sees it.
type Mounted struct {
	Target       string
	Major, Minor uint32
	Writable     bool // the mount and the filesystem are
	Type         string
}

// Mounts returns the mounts on target itself or, with below, in the tree under
// it, the latest first.
func Mounts(target string, below bool) ([]Mounted, error) {
	// SingleEntryFilter would stop at the first of several mounts on one another.
	filter := func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != target, false }
	if below {
		filter = mountinfo.PrefixFilter(target)
	}
	infos, err := mountinfo.GetMounts(filter)
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var mounts []Mounted
	for _, i := range infos {
		mounts = append(mounts, Mounted{
			Target: i.Mountpoint, Major: uint32(i.Major), Minor: uint32(i.Minor),
			Writable: option(i.Options, "rw") && option(i.VFSOptions, "rw"), Type: i.FSType,
		})
	}
	slices.Reverse(mounts)
	return mounts, nil
}

func option(list, want string) bool {
	for len(list) > 0 {
		i := 0
		for i < len(list) && list[i] != ',' {
			i++
		}
		if list[:i] == want {
			return true
		}
		list = list[min(i+1, len(list)):]
	}
	return false
}

// Alive says whether the filesystem mounted on target still answers: it was not
// fenced and its device not lost.
func Alive(target string) bool {
	var st unix.Stat_t
	if unix.Stat(target, &st) != nil {
		return false
	}
	fd, err := unix.Open(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return !errors.Is(unix.Syncfs(fd), unix.EIO)
}
