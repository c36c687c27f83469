package memberagent

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Alone has an engine's server work as under the agent, with its processes, its
// lock and its fence, but without plugin and leader: the lease is held for as long
// as its owner says, and its owner calls the methods. The suite that every engine
// must pass (enginetest) is the one that needs it.
type Alone struct {
	Server Server

	agent *agent
	lock  *os.File
	epoch uint64
}

// NewAlone opens an engine for a member; the lease is not held yet. What it starts
// ends with ctx.
func NewAlone(ctx context.Context, engine Engine, m Member) (*Alone, error) {
	a := &agent{config: Config{Data: m.Data, Member: m.Name}, log: m.Log, lease: newLease(bootClock), news: make(chan struct{}, 1)}
	var err error
	if a.processes, err = newProcesses(a.lease); err != nil {
		return nil, err
	}
	m.Processes = a.processes
	server, err := engine.Open(m)
	if err != nil {
		return nil, err
	}
	childEnded := make(chan os.Signal, 1)
	signal.Notify(childEnded, syscall.SIGCHLD)
	go a.guard(ctx)
	go a.processes.reap(ctx, childEnded)
	return &Alone{Server: server, agent: a}, nil
}

// Hold takes the volume's lock, which every process inherits, and its lease.
func (l *Alone) Hold() error {
	if l.lock == nil {
		lock, err := lockVolume(l.agent.config.Data, l.agent.config.Member)
		if err != nil {
			return err
		}
		l.lock = lock
		l.agent.processes.inherit(lock)
	}
	for l.agent.lease.lost() {
		time.Sleep(leaseTick)
	}
	l.epoch++
	l.agent.lease.renew(l.agent.lease.now(), 24*time.Hour, l.epoch, nil)
	return nil
}

// Revoke ends the lease.
func (l *Alone) Revoke() {
	l.agent.lease.renew(l.agent.lease.now(), 0, l.epoch, errors.New("the lease was taken away"))
}

// Term is the context of the lease, nil while it is not held.
func (l *Alone) Term() context.Context { return l.agent.lease.held() }

// Clear ends all processes, as the agent does when a method has failed.
func (l *Alone) Clear() { l.agent.clear() }
