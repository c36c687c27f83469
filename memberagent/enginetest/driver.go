package enginetest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

const (
	envDriver   = "ENGINETEST_DRIVER" // the member's name
	envVolume   = "ENGINETEST_VOLUME"
	envSecrets  = "ENGINETEST_SECRETS"
	envWritable = "ENGINETEST_WRITABLE" // colon-separated
	envMutant   = "ENGINETEST_MUTANT"
)

// Main is the process in which the suite has the engine work, if this one was
// started as that; else it returns. A test binary that uses the suite calls it first
// in TestMain, with the engine.
func Main(engine memberagent.Engine) {
	if os.Getenv(envDriver) == "" {
		return
	}
	if err := drive(engine); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func drive(engine memberagent.Engine) error {
	volume := os.Getenv(envVolume)
	if err := confine(append(filepath.SplitList(os.Getenv(envWritable)), volume)); err != nil {
		return fmt.Errorf("make a container: %w; the suite must run as root", err)
	}
	file := os.NewFile(3, "suite")
	conn, err := net.FileConn(file)
	if err != nil {
		return err
	}
	file.Close() // FileConn has its own, that no child inherits
	d := &Driver{volume: volume}
	member := memberagent.Member{
		Application: "app", Name: os.Getenv(envDriver), Data: volume, SecretsDir: os.Getenv(envSecrets), Getenv: os.Getenv,
		Parameters: map[string]string{}, Log: hclog.New(&hclog.LoggerOptions{Name: os.Getenv(envDriver), Output: os.Stderr}),
	}
	if d.alone, err = memberagent.NewAlone(context.Background(), engine, member); err != nil {
		return err
	}
	if name := os.Getenv(envMutant); name != "" {
		d.alone.Server = mutants[name].wrap(d.alone.Server, member)
	}
	server := rpc.NewServer()
	if err := server.Register(d); err != nil {
		return err
	}
	server.ServeConn(conn) // until the test is over, or was killed
	return nil
}

// confine makes everything but these folders read-only for this process, which has
// namespaces of mounts and processes of its own.
func confine(writable []string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	for _, dir := range writable {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || slices.Contains(writable, fields[1]) {
			continue
		}
		if slices.ContainsFunc([]string{"/proc", "/sys", "/dev"}, func(dir string) bool { return strings.HasPrefix(fields[1], dir) }) {
			continue // shared memory is in /dev
		}
		err := unix.Mount("", fields[1], "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
		if err != nil && fields[1] == "/" {
			return err
		}
	}
	return nil
}

// Driver has the engine's server in a process that stands for a container: PID 1 of
// its own namespace, with nothing to write to but the volume. What it offers the
// test is exported for net/rpc.
type Driver struct {
	alone  *memberagent.Alone
	volume string

	mu      sync.Mutex // the agent calls one method at a time
	process *memberagent.Process
}

// Call is a method of memberagent.Server with its arguments. Timeout ends its
// context; 0: nothing but the lease does.
type Call struct {
	Method  string
	Orders  api.MemberOrders
	Timeout time.Duration
}

// Reply is what the method returned. Late is how long after the end of its context.
type Reply struct {
	Data     memberagent.Data
	Probe    memberagent.Probe
	Err      string
	Took     time.Duration
	Late     time.Duration
	Progress []string
}

// Do calls a method.
func (d *Driver) Do(call Call, reply *Reply) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	ctx := d.alone.Term()
	if ctx == nil {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		ctx = ended
	}
	if call.Timeout > 0 {
		limited, cancel := context.WithTimeout(ctx, call.Timeout)
		defer cancel()
		ctx = limited
	}
	began := time.Now()
	over := make(chan time.Time, 1)
	stop := context.AfterFunc(ctx, func() { over <- time.Now() })
	var err error
	server, progress := d.alone.Server, func(message string) { reply.Progress = append(reply.Progress, message) }
	switch call.Method {
	case "Inspect":
		reply.Data, err = server.Inspect(ctx)
	case "Bootstrap":
		err = server.Bootstrap(ctx, call.Orders, progress)
	case "Join":
		err = server.Join(ctx, call.Orders, progress)
	case "Rejoin":
		err = server.Rejoin(ctx, call.Orders, progress)
	case "Start":
		var process *memberagent.Process
		if process, err = server.Start(ctx, call.Orders); err == nil {
			d.process = process
		}
	case "Probe":
		reply.Probe = server.Probe(ctx, call.Orders)
	case "Adapt":
		err = server.Adapt(ctx, call.Orders)
	case "Promote":
		err = server.Promote(ctx, call.Orders)
	case "Flush":
		err = server.Flush(ctx)
	case "Stop":
		err = server.Stop(ctx)
	default:
		return errors.New("there is no method " + call.Method)
	}
	reply.Took = time.Since(began)
	if !stop() {
		reply.Late = time.Since(<-over)
	}
	if err != nil {
		reply.Err = err.Error()
		if slices.Contains([]string{"Bootstrap", "Join", "Rejoin", "Start"}, call.Method) {
			d.alone.Clear()
		}
	}
	return nil
}

// Nothing is for calls that need no argument or have no result.
type Nothing struct{}

// Hold takes the lease, Revoke ends it.
func (d *Driver) Hold(Nothing, *Nothing) error { return d.alone.Hold() }

// Revoke ends the lease.
func (d *Driver) Revoke(Nothing, *Nothing) error {
	d.alone.Revoke()
	return nil
}

// Ended waits until the server's process has ended, for a minute at most.
func (d *Driver) Ended(_ Nothing, ended *bool) error {
	select {
	case <-d.process.Done():
		*ended = true
	case <-time.After(deadline):
	}
	return nil
}

// Signal sends a signal to every process but this one.
func (d *Driver) Signal(signal int, _ *Nothing) error {
	pids, err := others()
	for _, pid := range pids {
		err = errors.Join(err, unix.Kill(pid, syscall.Signal(signal)))
	}
	return err
}

// Processes are those that run here beside this one, and of them those that do not
// hold the volume's lock, which Processes gives to all that it starts.
type Processes struct{ Running, Unlocked []string }

// Look returns the processes.
func (d *Driver) Look(_ Nothing, found *Processes) error {
	pids, err := others()
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		command, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil {
			continue // ended meanwhile
		}
		name := fmt.Sprintf("%d %s", pid, strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " ")))
		files, _ := filepath.Glob(filepath.Join(dir, "fd", "*"))
		locked := slices.ContainsFunc(files, func(file string) bool {
			target, err := os.Readlink(file)
			return err == nil && filepath.Dir(target) == d.volume && strings.HasSuffix(target, ".lock")
		})
		if len(files) == 0 {
			continue // it has just ended
		}
		found.Running = append(found.Running, name)
		if !locked {
			found.Unlocked = append(found.Unlocked, name)
		}
	}
	return err
}

// others are the living processes of this namespace but this one.
func others() ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/stat")
	var pids []int
	for _, path := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		stat, err := os.ReadFile(path)
		if err != nil || pid == os.Getpid() {
			continue
		}
		_, rest, _ := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), ") ")
		if !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X") {
			pids = append(pids, pid)
		}
	}
	return pids, err
}
