package memberagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errNoLease is why a process was not started.
var errNoLease = errors.New("the lease of the data volume is not held")

// Processes starts, reaps and kills the agent's processes. It is safe for
// concurrent use.
//
// PID 1 must reap the orphans that the kernel gives to it, but must leave the
// processes that it waits for itself alone; and killing an engine means killing
// its children too, which for PostgreSQL are each in a process group of their own
// (postmaster's children call setsid). So everything goes by descent: the agent
// is the reaper of all its descendants, also when it is not PID 1 (prctl(2),
// PR_SET_CHILD_SUBREAPER), and knows them from /proc. A process that `docker exec`
// starts is no descendant and is left alone.
type Processes struct {
	lease *lease
	poke  chan struct{} // to look for orphans

	mu   sync.Mutex
	ours map[int]*Process // those that someone waits for
	lock *os.File         // inherited by all
}

func newProcesses(l *lease) (*Processes, error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the reaper of orphans: %w", err)
	}
	return &Processes{lease: l, poke: make(chan struct{}, 1), ours: map[int]*Process{}}, nil
}

// Process is a running or ended child of the agent.
type Process struct {
	Pid  int
	name string
	os   *os.Process
	done chan struct{}
	err  error
}

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended, once Done is closed; nil: with status 0.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Signal sends a signal. A process that has ended is no error.
func (p *Process) Signal(s syscall.Signal) error {
	// os.Process holds a pidfd, so that this never meets another process.
	if err := p.os.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("send %s to %s (pid %d): %w", unix.SignalName(s), p.name, p.Pid, err)
	}
	return nil
}

// Start starts cmd. It refuses if ctx, which must come from the agent's call, is
// over or the lease is not held at this very moment. The process is not killed
// when ctx ends (Run does that), but all are when the lease does.
func (p *Processes) Start(ctx context.Context, cmd *exec.Cmd) (*Process, error) {
	name := cmd.Args[0]
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true  // a Ctrl-C on a terminal is for the agent
	cmd.WaitDelay = 2 * time.Second // for an orphan that keeps a pipe open
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lock != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, p.lock)
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if p.lease.held() == nil {
		return nil, fmt.Errorf("start %s: %w", name, errNoLease)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	process := &Process{Pid: cmd.Process.Pid, name: name, os: cmd.Process, done: make(chan struct{})}
	p.ours[process.Pid] = process
	go func() {
		process.err = cmd.Wait()
		p.mu.Lock()
		delete(p.ours, process.Pid)
		p.mu.Unlock()
		close(process.done)
		p.look()
	}()
	return process, nil
}

// inherit hands the lock of the volume to every process started from now on: the
// volume stays locked while any of them runs, even if the agent is gone.
func (p *Processes) inherit(lock *os.File) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lock = lock
}

// Run starts cmd and waits until it ends. When ctx ends first, the process is
// killed and the error wraps ctx's cause.
func (p *Processes) Run(ctx context.Context, cmd *exec.Cmd) error {
	process, err := p.Start(ctx, cmd)
	if err != nil {
		return err
	}
	select {
	case <-process.Done():
	case <-ctx.Done():
		_ = process.Signal(syscall.SIGKILL)
		<-process.Done()
		return fmt.Errorf("%s was ended: %w", process.name, context.Cause(ctx))
	}
	return process.Err()
}

// Output runs cmd and returns what it wrote to its standard output; what it
// wrote to its standard error is part of the error.
func (p *Processes) Output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := p.Run(ctx, cmd)
	if text := strings.TrimSpace(stderr.String()); err != nil && text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return stdout.String(), err
}

// kill ends every descendant of the agent: with SIGQUIT to the processes it
// started itself, then, after grace, with SIGKILL to all. It returns when none
// is left; slow is called, every few seconds, with how many do not go.
func (p *Processes) kill(grace time.Duration, slow func(left int)) {
	p.mu.Lock()
	for _, process := range p.ours {
		_ = process.Signal(ImmediateSignal)
	}
	if len(p.ours) == 0 {
		grace = 0 // nobody is left who could end its children in order
	}
	p.mu.Unlock()
	began := bootClock()
	told, clean := began, 0
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		left, err := descendants()
		// One look can miss a child whose parent ended while it looked.
		if err == nil && len(left) == 0 {
			if clean++; clean == 2 {
				return
			}
			continue
		}
		clean = 0
		now := bootClock()
		if now-began >= grace {
			for _, pid := range left {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
		}
		if now-told > 5*time.Second {
			told = now
			slow(len(left))
		}
		p.look()
		time.Sleep(wait)
	}
}

// reap reaps orphans until ctx ends: on each signal that a child has ended, and
// when poked.
func (p *Processes) reap(ctx context.Context, childEnded <-chan os.Signal) {
	for {
		p.reapOrphans()
		select {
		case <-ctx.Done():
			return
		case <-childEnded:
		case <-p.poke:
		}
	}
}

func (p *Processes) look() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

func (p *Processes) reapOrphans() {
	// With the lock no child can be started, and so none be mistaken for an
	// orphan before it is in ours.
	p.mu.Lock()
	defer p.mu.Unlock()
	self := os.Getpid()
	table, _ := processTable() // there is another look soon
	for _, process := range table {
		if process.parent == self && process.zombie && p.ours[process.pid] == nil {
			_, _ = unix.Wait4(process.pid, nil, unix.WNOHANG, nil)
		}
	}
}

// descendants returns the living processes that descend from this one.
func descendants() ([]int, error) {
	table, err := processTable()
	if err != nil {
		return nil, err
	}
	family := map[int]bool{os.Getpid(): true}
	for grown := true; grown; {
		grown = false
		for _, process := range table {
			if family[process.parent] && !family[process.pid] {
				family[process.pid], grown = true, true
			}
		}
	}
	var pids []int
	for _, process := range table {
		if family[process.pid] && !process.zombie && process.pid != os.Getpid() {
			pids = append(pids, process.pid)
		}
	}
	return pids, nil
}

type processEntry struct {
	pid, parent int
	zombie      bool
}

// processTable reads /proc/PID/stat of all processes (proc(5)). A process that
// ends meanwhile is left out.
func processTable() ([]processEntry, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var table []processEntry
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			continue
		}
		// pid (comm) state ppid …; comm may hold anything, also ')'.
		_, rest, ok := strings.Cut(string(stat[max(0, strings.LastIndexByte(string(stat), ')')):]), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 2 {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		table = append(table, processEntry{pid: pid, parent: parent, zombie: fields[0] == "Z" || fields[0] == "X"})
	}
	return table, nil
}
