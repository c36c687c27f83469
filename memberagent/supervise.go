package memberagent

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/openmanage/openmanage/internal/api"
)

const (
	// probeInterval is between two probes of a running server, eagerInterval of
	// one that is not healthy yet, for which others wait; probeTimeout ends one
	// that hangs.
	probeInterval = time.Second
	eagerInterval = 200 * time.Millisecond
	probeTimeout  = 3 * time.Second
	// adaptInterval is after how long Adapt is called without a change of orders,
	// to mend what somebody changed by hand.
	adaptInterval = 30 * time.Second
	// A turn that fails is tried again after a pause that doubles from the first
	// to the last. A server that has run for steady begins with the first again.
	firstPause = 500 * time.Millisecond
	lastPause  = 15 * time.Second
	steady     = 30 * time.Second
)

// supervise lives turn after turn until leaving ends. When it returns, no
// process of the agent runs any more.
func (a *agent) supervise(leaving context.Context) {
	pause := firstPause
	for {
		term, orders := a.await(leaving)
		if leaving.Err() != nil {
			return
		}
		began := a.lease.now()
		err := a.turn(leaving, term, orders)
		a.clear()
		switch {
		case leaving.Err() != nil:
			return
		case term.Err() != nil:
			a.say(api.StateWaiting, context.Cause(term).Error())
			continue // await holds until there is a new term
		case err == nil:
			continue
		}
		if a.lease.now()-began > steady {
			pause = firstPause
		}
		var other *busyError
		if errors.As(err, &other) {
			a.say(api.StateWaiting, err.Error())
			a.pause(leaving, term, orders, firstPause)
			continue
		}
		a.say(api.StateFailed, err.Error())
		a.pause(leaving, term, orders, pause)
		pause = min(2*pause, lastPause)
	}
}

// clear makes sure that nothing a turn started is left. The guard may do the same
// at the same time.
func (a *agent) clear() {
	a.processes.kill(immediateGrace, func(left int) {
		a.log.Error("processes of the last turn do not end", "left", left)
	})
}

// await returns when the lease is held and there are orders, or leaving ends. It
// says meanwhile what it waits for.
func (a *agent) await(leaving context.Context) (context.Context, api.MemberOrders) {
	for {
		orders, reason, err, misplaced := a.heard.last()
		term := a.lease.held()
		switch {
		case leaving.Err() != nil:
			return nil, api.MemberOrders{}
		case term != nil && orders != nil:
			return term, *orders
		case misplaced != nil:
			a.say(api.StateFailed, misplaced.Error())
		case err != nil:
			a.say(api.StateWaiting, err.Error())
		case reason != "":
			a.say(api.StateWaiting, reason)
		case term == nil:
			a.say(api.StateWaiting, "waiting for the lease of volume "+a.config.Volume)
		default:
			a.say(api.StateWaiting, "waiting for the leader's orders")
		}
		select {
		case <-leaving.Done():
		case <-a.news:
		}
	}
}

// pause waits before the next turn: for d, or until the orders are others than
// those given, the lease is over or the agent leaves.
func (a *agent) pause(leaving, term context.Context, orders api.MemberOrders, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case <-leaving.Done():
			return
		case <-term.Done():
			return
		case <-timer.C:
			return
		case <-a.news:
			if now, _, _, _ := a.heard.last(); !sameOrders(orders, *now) {
				return
			}
		}
	}
}

// turn does what the orders want, from an empty directory if need be, and tends
// the server until it ends, the lease does, the role changes or the agent leaves.
// An error is a failure to report and to try again after a pause; nil means to
// begin the next turn at once.
func (a *agent) turn(leaving, term context.Context, orders api.MemberOrders) error {
	// All work before the server runs can be dropped when the agent leaves.
	work, cancel := context.WithCancelCause(term)
	defer cancel(nil)
	defer context.AfterFunc(leaving, func() { cancel(errors.New("the member stops")) })()

	lock, err := lockVolume(a.config.Data, a.holder())
	if err != nil {
		return err
	}
	defer lock.Close()
	a.processes.inherit(lock)
	defer a.processes.inherit(nil)

	data, err := a.server.Inspect(work)
	if err != nil {
		return err
	}
	a.found(data)
	todo, why, err := decide(a.config.Member, a.config.Volume, orders, data)
	if err != nil {
		return err
	}
	switch todo {
	case actionWait:
		a.say(api.StateWaiting, why)
		a.pause(leaving, term, orders, lastPause)
		return nil
	case actionBootstrap:
		a.say(api.StateBootstrapping, "making the database")
		err = a.server.Bootstrap(work, orders, a.progress(api.StateBootstrapping))
	case actionJoin:
		a.say(api.StateJoining, "joining "+orders.Primary)
		err = a.server.Join(work, orders, a.progress(api.StateJoining))
	}
	if err != nil {
		return err
	}
	if todo != actionStart {
		// What was made is judged like what was found.
		if data, err = a.server.Inspect(work); err != nil {
			return err
		}
		if todo, why, err = decide(a.config.Member, a.config.Volume, orders, data); err != nil {
			return err
		}
		if todo != actionStart {
			return fmt.Errorf("the data directory is still not ready to start from: %s", why)
		}
	}
	a.say(api.StateStarting, "starting the server")
	process, err := a.server.Start(work, orders)
	if err != nil {
		return err
	}
	a.found(data)
	return a.tend(leaving, term, process, data.Role)
}

// found reports what is in the data directory.
func (a *agent) found(data Data) {
	a.status.change(func(s *api.MemberStatus) {
		s.Initialized, s.SystemID, s.Timeline = !data.Empty, data.SystemID, data.Timeline
	})
}

func (a *agent) progress(state api.MemberState) Progress {
	return func(message string) {
		a.status.change(func(s *api.MemberStatus) { idle(s, state, message) })
	}
}

// tend probes the running server and adapts it to its orders until it ends.
func (a *agent) tend(leaving, term context.Context, process *Process, role api.Role) error {
	next := time.NewTimer(eagerInterval)
	defer next.Stop()
	began := a.lease.now()
	var adapted api.MemberOrders
	var adaptedAt time.Duration
	for {
		select {
		case <-process.Done():
			if err := process.Err(); err != nil {
				return fmt.Errorf("the server ended by itself: %w; its own log says why", err)
			}
			return errors.New("the server ended by itself, with status 0: somebody stopped it")
		case <-term.Done():
			<-process.Done() // the guard ends it
			return nil
		case <-leaving.Done():
			a.stop(term, process, "the member stops")
			return nil
		case <-next.C:
		case <-a.news:
			orders, _, _, _ := a.heard.last()
			if orders.Role != role && orders.Role != "" {
				a.stop(term, process, fmt.Sprintf("the leader wants it to be %s now", orders.Role))
				return nil
			}
			continue
		}
		orders, _, _, _ := a.heard.last()
		probe := a.probe(term, *orders)
		if probe.Healthy || a.lease.now()-began > steady {
			next.Reset(probeInterval)
		} else {
			next.Reset(eagerInterval)
		}
		if probe.Up && probe.Role != role {
			// Somebody promoted it by hand. There is no order for it.
			a.stop(term, process, fmt.Sprintf("it runs as %s without an order", probe.Role))
			return fmt.Errorf("the server became a %s without an order of the leader and was stopped", probe.Role)
		}
		if probe.Up && (!sameOrders(adapted, *orders) || a.lease.now()-adaptedAt > adaptInterval) {
			within, cancel := context.WithTimeout(term, 2*probeTimeout)
			err := a.server.Adapt(within, *orders)
			cancel()
			if err != nil {
				a.log.Warn("could not adapt the server to its orders; trying again", "error", err)
				continue
			}
			adapted, adaptedAt = *orders, a.lease.now()
		}
	}
}

// probe asks the server how it is and reports it.
func (a *agent) probe(term context.Context, orders api.MemberOrders) Probe {
	within, cancel := context.WithTimeout(term, probeTimeout)
	defer cancel()
	p := a.server.Probe(within, orders)
	if term.Err() != nil {
		return Probe{}
	}
	before := a.status.get()
	a.status.change(func(s *api.MemberStatus) {
		if !p.Up {
			// One that has answered before hangs; it is not starting.
			idle(s, s.State, p.Message)
			return
		}
		s.State, s.Healthy, s.Message, s.Role = api.StateRunning, p.Healthy, p.Message, p.Role
		if !p.Healthy && p.Role == api.RoleStandby && before.State != api.StateRunning {
			s.State = api.StateJoining
		}
		s.Timeline, s.Position = p.Timeline, p.Position
		s.LagBytes, s.LagSeconds = p.LagBytes, p.LagSeconds
		s.Streaming, s.Sync, s.Version = p.Streaming, p.Sync, p.Version
	})
	after := a.status.get()
	if before.State != after.State || before.Healthy != after.Healthy || before.Message != after.Message {
		a.log.Info("server probed", "state", after.State, "role", after.Role, "healthy", after.Healthy, "message", after.Message)
		select {
		case a.urgent <- struct{}{}:
		default:
		}
	}
	return p
}

// stop stops the server in order, within the grace, else at once. The guard goes
// on: if the lease ends meanwhile, so does the server.
func (a *agent) stop(term context.Context, process *Process, why string) {
	a.say(api.StateStopping, "stopping the server: "+why)
	grace, cancel := context.WithTimeout(term, a.config.StopGrace)
	defer cancel()
	if err := a.server.Stop(grace); err != nil {
		a.log.Error("the server cannot be asked to stop in order", "error", err)
		return // clear or the guard ends it
	}
	select {
	case <-process.Done():
		a.log.Info("the server has stopped", "error", process.Err())
	case <-grace.Done():
		a.log.Warn("the server did not stop in order within its grace; ending it at once", "grace", a.config.StopGrace)
	}
}

func sameOrders(a, b api.MemberOrders) bool { return reflect.DeepEqual(a, b) }
