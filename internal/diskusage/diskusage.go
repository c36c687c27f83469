// Package diskusage measures filesystems.
package diskusage

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
)

// Of measures the filesystem that path is in. It asks the kernel's counters and
// reads nothing from the device.
func Of(path string) (api.Usage, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return api.Usage{}, fmt.Errorf("measure the filesystem of %s: %w", path, err)
	}
	return api.Usage{
		Used: int64(st.Blocks-st.Bfree) * st.Bsize, Free: int64(st.Bavail) * st.Bsize,
		Files: int64(st.Files), FilesFree: int64(st.Ffree),
	}, nil
}
