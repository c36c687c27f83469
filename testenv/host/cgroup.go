package host

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// ClearContainer removes what a container that is not running has left: an
// engine that was killed does not clean up after its containers. Processes would
// work on the same files as the container's next life, and a control group with
// children cannot be given its device rules again.
func ClearContainer(ctx context.Context, id string) error {
	pids, err := PIDsInCgroup(id)
	if err != nil {
		return err
	}
	if len(pids) > 0 {
		if err := stop(ctx, time.Millisecond, pids...); err != nil {
			return err
		}
	}
	for _, pattern := range []string{
		"/sys/fs/cgroup/docker/" + id,
		"/sys/fs/cgroup/*/docker/" + id,
		"/sys/fs/cgroup/system.slice/docker-" + id + ".scope",
		"/sys/fs/cgroup/*/system.slice/docker-" + id + ".scope",
	} {
		groups, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, group := range groups {
			removeTree(group)
		}
	}
	return nil
}

// removeTree removes a control group and those below it, deepest first. The
// files in them cannot be removed and need not be. What cannot be removed now is
// in use, which is said by whoever cannot start because of it.
func removeTree(group string) {
	var groups []string
	_ = filepath.WalkDir(group, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			groups = append(groups, path)
		}
		return nil
	})
	for _, path := range slices.Backward(groups) {
		_ = os.Remove(path)
	}
}
