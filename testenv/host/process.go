package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// PIDs returns the processes of the machine for which match holds. A process
// that ends while we look is left out.
func PIDs(match func(pid int) bool) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && match(pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// PIDsInCgroup returns the processes whose control group path contains id, as
// those of a container or a managed plugin do.
func PIDsInCgroup(id string) ([]int, error) {
	return PIDs(func(pid int) bool {
		text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
		return err == nil && strings.Contains(string(text), id)
	})
}

// withArgument returns the processes with this exact program name and argument.
func withArgument(program, argument string) ([]int, error) {
	return PIDs(func(pid int) bool {
		args := commandLine(pid)
		return len(args) > 0 && strings.HasPrefix(filepath.Base(args[0]), program) && slices.Contains(args[1:], argument)
	})
}

func commandLine(pid int) []string {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
}

// startDaemon starts a program in a session of its own, so that it outlives us
// and our terminal, with its output appended to log.
func startDaemon(log, program string, args ...string) (*os.Process, error) {
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd := exec.Command(program, args...)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", program, err)
	}
	// Reap it should it end while we still run; otherwise it looks alive.
	go func() { _ = cmd.Wait() }()
	return cmd.Process, nil
}

// stop ends processes with SIGTERM, and with SIGKILL those that have not ended
// after grace.
func stop(ctx context.Context, grace time.Duration, pids ...int) error {
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cannot stop process %d: %w", pid, err)
		}
	}
	patience, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if waitGone(patience, pids) == nil {
		return nil
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	patience, cancel = context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return waitGone(patience, pids)
}

func waitGone(ctx context.Context, pids []int) error {
	return Poll(ctx, 50*time.Millisecond, fmt.Sprintf("processes %v do not end", pids), func() (bool, error) {
		return !slices.ContainsFunc(pids, alive), nil
	})
}

// alive says whether a process runs; a zombie does not.
func alive(pid int) bool {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, state, found := strings.Cut(string(text), ") ")
	return found && !strings.HasPrefix(state, "Z")
}
