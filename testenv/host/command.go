package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// EngineSocket is where the machine's own Docker engine listens.
const EngineSocket = "/var/run/docker.sock"

// EngineHost is the engine's address. It is always named, because the user's
// current Docker context may well be one of our nodes.
const EngineHost = "unix://" + EngineSocket

// Run executes a command and returns what it wrote to standard output. The
// error names the command and carries what it wrote to standard error.
func Run(ctx context.Context, name string, args ...string) (string, error) {
	stdout, stderr, err := Output(ctx, name, args...)
	if err != nil {
		return stdout, commandError(ctx, err, name, args, stderr)
	}
	return stdout, nil
}

// Docker runs the docker client against the machine's own engine.
func Docker(ctx context.Context, args ...string) (string, error) {
	return Run(ctx, "docker", append([]string{"--host", EngineHost}, args...)...)
}

// Output executes a command and returns both its outputs.
func Output(ctx context.Context, name string, args ...string) (stdout, stderr string, err error) {
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	// A grandchild that keeps the pipes open must not hold us up once the
	// command was killed.
	cmd.WaitDelay = 2 * time.Second
	err = cmd.Run()
	return out.String(), errOut.String(), err
}

func commandError(ctx context.Context, err error, name string, args []string, stderr string) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	line := name + " " + strings.Join(args, " ")
	if len(line) > 200 {
		line = line[:200] + "…"
	}
	if text := lastLines(stderr, 8); text != "" {
		return fmt.Errorf("%s: %w: %s", line, err, text)
	}
	return fmt.Errorf("%s: %w", line, err)
}

// lastLines returns the last n lines of text that are not blank.
func lastLines(text string, n int) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// Poll calls condition until it returns true or an error that is final, every
// interval, until ctx ends. Its own error says what was waited for and the last
// reason given.
func Poll(ctx context.Context, interval time.Duration, what string, condition func() (bool, error)) error {
	timer := time.NewTicker(interval)
	defer timer.Stop()
	var last error
	for {
		done, err := condition()
		if done {
			return err
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last == nil || errors.Is(last, ctx.Err()) {
				last = context.Cause(ctx)
			}
			return fmt.Errorf("%s: %w", what, last)
		case <-timer.C:
		}
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
