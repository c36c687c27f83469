// Package failpoint lets a test kill a process at a chosen step, to show that
// what was promised survives it.
//
// It does nothing unless the environment variable OPENMANAGE_FAILPOINTS names a
// folder. A file there, named like the point, arms the point once.
package failpoint

import (
	"os"
	"path/filepath"
	"syscall"
)

// Variable is the environment variable that names the folder.
const Variable = "OPENMANAGE_FAILPOINTS"

// Hit ends this process at once if the point is armed: by SIGKILL, or, where it is
// PID 1 of a container and the kernel spares it, by an exit without any clean-up.
func Hit(point string) {
	dir := os.Getenv(Variable)
	if dir == "" {
		return
	}
	// Removing the file is the one atomic step: a point kills once.
	if os.Remove(filepath.Join(dir, point)) == nil { //nolint:gosec // points are constants, the folder is a tester's
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		os.Exit(137)
	}
}
