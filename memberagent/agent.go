package memberagent

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/openmanage/openmanage/internal/api"
)

// The agent's memory is for the database: it collects garbage early and returns
// what it can. The limit is soft and leaves room for the binary itself.
const (
	memoryLimit = 12 << 20
	gcPercent   = 50
)

// Main is the command `agent`: without arguments, or with -- and the image's own
// command, for engines that know none, it is PID 1 of a member's container; `health`
// asks that one how it is. It returns the exit status.
func Main(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer, engines ...Engine) int {
	config, err := FromEnv(getenv)
	config.Engines = engines
	switch {
	case err != nil:
	case len(args) == 0:
		err = Run(ctx, config)
	case args[0] == "--":
		config.Command = args[1:]
		err = Run(ctx, config)
	case len(args) == 1 && args[0] == "health":
		var line string
		if line, err = Health(ctx, config); err == nil {
			fmt.Fprintln(stdout, line)
		}
	default:
		err = fmt.Errorf("unknown arguments %q: the agent takes none, -- and the command that it runs, or \"health\"", args)
	}
	if err != nil {
		fmt.Fprintln(stderr, "agent:", err)
		return 1
	}
	return 0
}

// agent is what the goroutines of Run share.
type agent struct {
	config    Config
	log       hclog.Logger
	lease     *lease
	processes *Processes
	server    Server
	plugin    *plugin
	status    status
	heard     heard
	alive     alive
	news      chan struct{} // for the supervisor: answer, lease or process changed
	urgent    chan struct{} // for the reporter: do not wait for the next tick
	askedAt   atomic.Int64  // by the lease's clock: when the container was asked to stop; 0: it was not
	room      room

	// stuck: the server has ended, or receives nothing any more, since its volume is
	// full, the supervisor's own.
	stuck bool
	// diverged is the primary that the standby's data was seen not to be able to
	// follow, the supervisor's own; "": none.
	diverged string
	rebuilds []string // that were carried out on this volume, the supervisor's own
	copy     copyAsked
	// startedWith are the settings (api.ParametersID) that the server was started with,
	// read those that it has read since; the supervisor's own.
	startedWith, read string
}

// Run is the agent's life: it supervises the member's server until ctx ends or
// SIGTERM or SIGINT comes, stops the server in order and returns nil. An error
// means that it could not even begin.
func Run(ctx context.Context, config Config) error {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(gcPercent)

	engine, err := config.engine()
	if err != nil {
		return err
	}
	a := &agent{
		config: config,
		log:    config.Log.With("member", config.Member),
		lease:  newLease(bootClock),
		plugin: newPlugin(config.Socket),
		news:   make(chan struct{}, 1),
		urgent: make(chan struct{}, 1),
		room:   room{dir: config.Data},
	}
	if a.processes, err = newProcesses(a.lease); err != nil {
		return err
	}
	a.server, err = engine.Open(Member{
		Application: config.Application,
		Name:        config.Member,
		Data:        config.Data,
		SecretsDir:  config.SecretsDir,
		Command:     config.Command,
		Parameters:  config.Parameters,
		Getenv:      config.Getenv,
		Processes:   a.processes,
		Log:         a.log.Named(engine.Name()),
	})
	if err != nil {
		return err
	}
	a.status.change(func(s *api.MemberStatus) {
		s.Application, s.Member, s.Volume = config.Application, config.Member, config.Volume
		s.Engine, s.Task, s.Image = engine.Name(), config.Task, config.Image
		s.Container, s.Address = containerID(), ownAddress(config.Member)
		idle(s, api.StateWaiting, "the agent has just started")
	})
	a.alive.touch()
	listener, err := listenHealth(config)
	if err != nil {
		return err
	}
	defer listener.Close()
	defer time.AfterFunc(namedAtLatest, a.named).Stop()

	asked, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	leaving, leave := context.WithCancel(context.WithoutCancel(ctx))
	go a.leave(asked, leave)
	// Signals that would end a Go program mean nothing to a member. They are
	// received, not ignored: children would inherit that.
	meaningless := make(chan os.Signal, 1)
	signal.Notify(meaningless, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2)
	childEnded := make(chan os.Signal, 1)
	signal.Notify(childEnded, syscall.SIGCHLD)
	defer signal.Stop(meaningless)
	defer signal.Stop(childEnded)

	// The helpers outlive the supervisor: while the server stops, the lease still
	// has to be renewed and kept.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	var helpers sync.WaitGroup
	helpers.Go(func() { a.guard(background) })
	helpers.Go(func() { a.report(background) })
	helpers.Go(func() { a.listen(background) })
	helpers.Go(func() { a.processes.reap(background, childEnded) })
	helpers.Go(func() { a.answerHealth(listener) })
	a.log.Info("agent started", "engine", engine.Name(), "volume", config.Volume, "task", config.Task)

	a.supervise(leaving)

	end()
	listener.Close()
	helpers.Wait()
	a.say(api.StateStopped, "stopped in order")
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), reportTimeout)
	defer cancel()
	if _, err := a.plugin.report(last, a.status.get()); err != nil {
		a.log.Warn("the plugin did not hear that this member has stopped", "error", err)
	}
	a.log.Info("agent ends")
	return nil
}

// say sets the status of a member whose server does not run.
func (a *agent) say(state api.MemberState, message string) {
	changed := a.status.change(func(s *api.MemberStatus) { idle(s, state, message) })
	if changed {
		a.log.Info(message, "state", state)
		a.hurry()
	}
}

// claim says that the member is in line with the orders of this term, which is
// what the leader waits for at each step of a change of the primary.
func (a *agent) claim(term uint64) {
	changed := a.status.change(func(s *api.MemberStatus) { s.Term = max(s.Term, term) })
	if changed {
		a.log.Debug("in line with the orders", "term", term)
		a.hurry()
	}
}

// wake tells the supervisor to look again.
func (a *agent) wake() {
	select {
	case a.news <- struct{}{}:
	default:
	}
}

// holder names this agent to another one that waits for its volume.
func (a *agent) holder() string {
	s := a.status.get()
	return fmt.Sprintf("member %s, task %s, container %.12s, since %s", s.Member, s.Task, s.Container, time.Now().UTC().Format(time.RFC3339))
}

// ownAddress is the address that the member's name, its own hostname, stands for in
// this container, or "".
func ownAddress(member string) string {
	if host, err := os.Hostname(); err != nil || host != member {
		return ""
	}
	addresses, err := net.LookupHost(member)
	if err != nil || len(addresses) == 0 {
		return ""
	}
	return addresses[0]
}

// containerID finds the container's ID in the mounts that Docker makes in each
// container (/etc/hostname and its like), or "".
func containerID() string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(mounts)) {
		_, rest, ok := strings.Cut(line, "/containers/")
		if id, _, cut := strings.Cut(rest, "/"); ok && cut && len(id) == 64 {
			return id
		}
	}
	return ""
}
