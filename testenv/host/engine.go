package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

var (
	engineRunDir  = filepath.Join(runDir, "docker")
	enginePIDFile = filepath.Join(runDir, "docker.pid")
)

func (h *Host) engineDataRoot() string { return filepath.Join(h.StateDir, "docker") }

// EnsureEngine uses the machine's Docker engine, and starts one when none
// answers. An engine that we start keeps its data below the state directory.
func (h *Host) EnsureEngine(ctx context.Context) error {
	if h.engineAnswers(ctx) == nil {
		return nil
	}
	if exists("/run/systemd/system") && exists("/lib/systemd/system/docker.service") {
		h.Progress.Step("starting the Docker engine with systemd")
		if _, err := Run(ctx, "systemctl", "start", "docker"); err != nil {
			return fmt.Errorf("the Docker engine does not start; see `journalctl -u docker`: %w", err)
		}
		return h.waitEngine(ctx, nil)
	}
	if err := h.clearDeadEngine(ctx); err != nil {
		return err
	}
	h.Progress.Step("starting a Docker engine (log: %s)", h.logFile("dockerd"))
	process, err := startDaemon(h.logFile("dockerd"), "dockerd",
		"--host", EngineHost,
		"--data-root", h.engineDataRoot(),
		"--exec-root", engineRunDir,
		"--pidfile", enginePIDFile,
	)
	if err != nil {
		return err
	}
	return h.waitEngine(ctx, process)
}

// StopEngine stops the Docker engine if the test environment started it.
func (h *Host) StopEngine(ctx context.Context) error {
	pids, err := withArgument("dockerd", h.engineDataRoot())
	if err != nil || len(pids) == 0 {
		return err
	}
	h.Progress.Step("stopping the Docker engine")
	if err := stop(ctx, 60*time.Second, pids...); err != nil {
		return err
	}
	return h.clearDeadEngine(ctx)
}

// clearDeadEngine removes what an engine of ours that was killed has left, so
// that the next one starts: its containers' processes, its pid files (which stop
// a new one) and its mounts.
func (h *Host) clearDeadEngine(ctx context.Context) error {
	if pids, err := withArgument("dockerd", h.engineDataRoot()); err != nil || len(pids) > 0 {
		if err != nil {
			return err
		}
		// It may just be starting: give it the time that a start takes.
		patience, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		if h.waitEngine(patience, nil) == nil {
			return nil
		}
		h.Progress.Step("the Docker engine (process %v) runs but does not answer: ending it", pids)
		if err := stop(ctx, 5*time.Second, pids...); err != nil {
			return err
		}
	}
	if err := h.endOrphans(ctx); err != nil {
		return err
	}
	if err := unmountBelow(engineRunDir, h.engineDataRoot()); err != nil {
		return err
	}
	for _, path := range []string{enginePIDFile, engineRunDir} {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("cannot remove what a dead Docker engine left: %w", err)
		}
	}
	return nil
}

// endOrphans ends the containers, shims and containerd of an engine of ours
// that is gone. Containers without an engine are of no use: nodes come back from
// their volumes.
func (h *Host) endOrphans(ctx context.Context) error {
	shims, err := PIDs(func(pid int) bool {
		args := commandLine(pid)
		if len(args) == 0 || !strings.HasPrefix(filepath.Base(args[0]), "containerd") {
			return false
		}
		return strings.Contains(strings.Join(args, " "), engineRunDir)
	})
	if err != nil || len(shims) == 0 {
		return err
	}
	h.Progress.Step("ending %d processes that a dead Docker engine left", len(shims))
	// A container's first process is a child of its shim.
	children, err := PIDs(func(pid int) bool {
		parent := parentOf(pid)
		for _, shim := range shims {
			if parent == shim {
				return true
			}
		}
		return false
	})
	if err != nil {
		return err
	}
	return stop(ctx, time.Millisecond, append(children, shims...)...)
}

func parentOf(pid int) int {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 2 {
		return 0
	}
	parent, _ := strconv.Atoi(fields[1])
	return parent
}

func (h *Host) waitEngine(ctx context.Context, process *os.Process) error {
	ctx, cancel := context.WithTimeout(ctx, 90*time.Second)
	defer cancel()
	return Poll(ctx, 100*time.Millisecond, "the Docker engine does not answer on "+EngineSocket, func() (bool, error) {
		err := h.engineAnswers(ctx)
		if err == nil {
			return true, nil
		}
		if process != nil && !alive(process.Pid) {
			log, _ := os.ReadFile(h.logFile("dockerd"))
			return true, fmt.Errorf("the Docker engine ended at its start; the end of %s says:\n%s", h.logFile("dockerd"), lastLines(string(log), 6))
		}
		return false, err
	})
}

// engineAnswers is nil if a Docker engine answers on the machine's socket.
func (h *Host) engineAnswers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", EngineSocket)
	}}
	defer transport.CloseIdleConnections()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return errors.New("it answers " + response.Status)
	}
	return nil
}

// EngineAnswers says whether a Docker engine answers on the machine's socket.
func (h *Host) EngineAnswers(ctx context.Context) bool { return h.engineAnswers(ctx) == nil }

// EnsureEngineIfUsed starts the engine if it is ours and has something stored.
func (h *Host) EnsureEngineIfUsed(ctx context.Context) error {
	if h.EngineAnswers(ctx) || !exists(h.engineDataRoot()) {
		return nil
	}
	return h.EnsureEngine(ctx)
}
