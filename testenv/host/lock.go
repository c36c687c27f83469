package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Lock waits until no other command changes the test environment and returns
// the unlocking. The kernel unlocks when the holder dies, however it dies.
func (h *Host) Lock(ctx context.Context) (unlock func(), err error) {
	return h.lock(ctx, "lock")
}

// LockForTests waits until no other test program breaks nodes, and returns the
// unlocking. It is another lock than Lock, which its holder's commands take.
func (h *Host) LockForTests(ctx context.Context) (unlock func(), err error) {
	return h.lock(ctx, "tests.lock")
}

func (h *Host) lock(ctx context.Context, kind string) (unlock func(), err error) {
	path := filepath.Join(runDir, strings.ReplaceAll(strings.TrimPrefix(h.StateDir, "/"), "/", "-")+"."+kind)
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	told := false
	err = Poll(ctx, 200*time.Millisecond, "another command holds the test environment ("+path+")", func() (bool, error) {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			if !told {
				holder, _ := os.ReadFile(path)
				h.Progress.Step("waiting for another testenv command (process %s) to end", strings.TrimSpace(string(holder)))
				told = true
			}
			return false, nil
		}
		return true, err
	})
	if err != nil {
		file.Close()
		return nil, err
	}
	_ = file.Truncate(0)
	_, _ = file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	return func() { file.Close() }, nil
}
