package memberagent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/openmanage/openmanage/internal/api"
)

const (
	// probeInterval is between two probes of a running server. After its start, a
	// promotion or new orders others wait for what it says: eagerInterval for as
	// long as eager, then busyInterval until steady. probeTimeout ends a probe that
	// hangs.
	probeInterval = time.Second
	eagerInterval = 50 * time.Millisecond
	busyInterval  = 200 * time.Millisecond
	eager         = 5 * time.Second
	probeTimeout  = 3 * time.Second
	// adaptInterval is after how long Adapt is called without a change of orders,
	// to mend what somebody changed by hand.
	adaptInterval = 30 * time.Second
	// heldInterval is the same while a standby holds settings back for its primary.
	heldInterval = 3 * time.Second
	// promoteTimeout is for one attempt; it is tried again as long as it is ordered.
	promoteTimeout = 15 * time.Second
	// A turn that fails is tried again after a pause that doubles from the first
	// to the last. A server that ends by itself is started again without one,
	// unless that failed within steady before; after steady all begins anew.
	firstPause = 500 * time.Millisecond
	lastPause  = 15 * time.Second
	steady     = 30 * time.Second
)

// errOtherOrders ends what was begun under orders that are no more.
var errOtherOrders = errors.New("the orders have changed")

// endedError: the server ended by itself.
type endedError struct{ err error }

func (e *endedError) Error() string {
	if e.err == nil {
		return "the server ended by itself, with status 0: somebody stopped it"
	}
	return fmt.Sprintf("the server ended by itself: %v; its own log says why", e.err)
}

func (e *endedError) Unwrap() error { return e.err }

// supervise lives turn after turn until leaving ends. When it returns, no
// process of the agent runs any more.
func (a *agent) supervise(leaving context.Context) {
	var pause, failed time.Duration // failed: when a turn failed last
	for {
		term, orders := a.await(leaving)
		if leaving.Err() != nil {
			return
		}
		err := a.turn(leaving, term, orders)
		a.clear()
		switch {
		case leaving.Err() != nil:
			return
		case term.Err() != nil:
			a.say(api.StateWaiting, context.Cause(term).Error())
			continue // await holds until there is a new term
		case err == nil, errors.Is(err, errOtherOrders):
			continue
		}
		var other *busyError
		if errors.As(err, &other) {
			a.say(api.StateWaiting, err.Error())
			a.pause(leaving, term, orders, firstPause)
			continue
		}
		if now := a.lease.now(); failed == 0 || now-failed > steady {
			pause = 0
		}
		failed = a.lease.now()
		a.say(api.StateFailed, a.explain(err))
		var ended *endedError
		if pause == 0 && errors.As(err, &ended) {
			pause = firstPause
			continue
		}
		a.claim(orders.Term) // nothing runs
		pause = max(pause, firstPause)
		a.pause(leaving, term, orders, pause)
		failed = a.lease.now()
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
// those given, a volume that is full has room, the lease is over or the agent leaves.
func (a *agent) pause(leaving, term context.Context, orders api.MemberOrders, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	full := a.room.isFull() || a.stuck // it may have got room since that was found
	for {
		select {
		case <-leaving.Done():
			return
		case <-term.Done():
			return
		case <-timer.C:
			return
		case <-a.news:
			if full && !a.room.isFull() {
				a.stuck = false
				return
			}
			if now, _, _, _ := a.heard.last(); !sameOrders(orders, *now) {
				return
			}
		}
	}
}

// under returns a context for work that is done for these orders: it ends with
// term, when the agent leaves, and when there are orders that make it pointless.
func (a *agent) under(leaving, term context.Context, orders api.MemberOrders) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancelCause(term)
	leave := context.AfterFunc(leaving, func() { cancel(errors.New("the member stops")) })
	go func() {
		for {
			now, changed := a.heard.watch()
			if now.Role != "" && !sameTask(*now, orders) {
				cancel(errOtherOrders)
				return
			}
			select {
			case <-work.Done():
				return
			case <-changed:
			}
		}
	}()
	return work, func() {
		leave()
		cancel(context.Canceled)
	}
}

// turn does what the orders want, from an empty directory if need be, and tends
// the server until it ends, the lease does, the orders want no server or the agent
// leaves. An error is a failure to report and to try again after a pause; nil means
// to begin the next turn at once.
func (a *agent) turn(leaving, term context.Context, orders api.MemberOrders) error {
	lock, err := lockVolume(a.config.Data, a.holder())
	if err != nil {
		return err
	}
	defer lock.Close()
	a.processes.inherit(lock)
	defer a.processes.inherit(nil)
	if err := a.recallRebuilds(); err != nil {
		return err
	}

	process, data, err := a.begin(leaving, term, orders)
	if err != nil || process == nil {
		return err
	}
	return a.tend(leaving, term, &tending{process: process, data: data, role: data.Role, orders: orders, stirred: a.lease.now()})
}

// begin does what has to be done before the server runs, and starts it. No
// process: there is nothing to start for now.
func (a *agent) begin(leaving, term context.Context, orders api.MemberOrders) (process *Process, data Data, err error) {
	// All of this can be dropped when the agent leaves or other orders come.
	work, cancel := a.under(leaving, term, orders)
	defer cancel()
	defer func() {
		if err != nil && errors.Is(context.Cause(work), errOtherOrders) {
			err = errOtherOrders
		}
	}()
	if orders.Fenced != "" {
		// Somebody may be looking at the data: it is left alone.
		a.say(api.StateFenced, whyFenced(orders))
		a.claim(orders.Term)
		a.pause(leaving, term, orders, lastPause)
		return nil, data, nil
	}
	wanted := a.wanted(orders)
	if data, err = a.server.Inspect(work); err != nil {
		if wanted.Rebuild == "" || wanted.Role != api.RoleStandby || work.Err() != nil {
			return nil, data, err
		}
		a.log.Warn("the data cannot be read, and is to be replaced", "error", err)
		data = Data{Stale: true, SystemID: orders.SystemID}
	}
	a.found(data)
	if a.diverged != orders.Primary {
		a.diverged = ""
	}
	todo, why, err := decide(a.config.Member, a.config.Volume, wanted, data, a.diverged != "")
	if err != nil {
		return nil, data, err
	}
	if todo != actionStart {
		a.sayFor(todo, orders, why)
		// No server runs, so nothing goes against these orders.
		a.claim(orders.Term)
	}
	switch todo {
	case actionWait:
		a.pause(leaving, term, orders, lastPause)
		return nil, data, nil
	case actionBootstrap:
		err = a.server.Bootstrap(work, orders, a.progress(api.StateBootstrapping, orders))
	case actionJoin:
		err = a.server.Join(work, wanted, a.progress(api.StateJoining, orders))
	case actionRejoin:
		if err = a.server.Rejoin(work, a.copying(wanted), a.progress(api.StateJoining, orders)); err == nil {
			a.diverged, a.copy = "", copyAsked{}
		}
	}
	if needs := (*NeedsCopyError)(nil); errors.As(err, &needs) && context.Cause(work) == nil {
		a.askForCopy(leaving, term, orders, needs)
		return nil, data, nil
	}
	if err == nil && (todo == actionJoin || todo == actionRejoin) {
		err = a.rebuilt(wanted.Rebuild)
	}
	if err != nil {
		return nil, data, err
	}
	if todo != actionStart {
		// What was made is judged like what was found.
		if data, err = a.server.Inspect(work); err != nil {
			return nil, data, err
		}
		if todo, why, err = decide(a.config.Member, a.config.Volume, a.wanted(orders), data, false); err != nil {
			return nil, data, err
		}
		if todo != actionStart {
			return nil, data, fmt.Errorf("the data directory is still not ready to start from: %s", cmp.Or(why, "it holds no whole database"))
		}
		a.found(data)
	}
	a.say(api.StateStarting, "starting the server")
	a.startedWith, a.read = api.ParametersID(orders.Parameters), ""
	process, err = a.server.Start(work, orders)
	return process, data, err
}

func (a *agent) sayFor(todo action, orders api.MemberOrders, why string) {
	switch todo {
	case actionBootstrap:
		a.say(api.StateBootstrapping, "making the database")
	case actionJoin:
		a.say(api.StateJoining, "joining "+orders.Primary)
	case actionRejoin:
		a.say(api.StateJoining, "making its data follow "+orders.Primary)
	default:
		a.say(api.StateWaiting, why)
	}
}

// found reports what is in the data directory.
func (a *agent) found(data Data) {
	a.status.change(func(s *api.MemberStatus) {
		// A standby's data may have more than can be seen while no server runs.
		if data.Role == api.RoleStandby && s.SystemID == data.SystemID && s.Timeline == data.Timeline {
			data.Position = max(data.Position, s.Position)
		}
		s.Initialized, s.Empty, s.SystemID = !data.Empty, data.Empty, data.SystemID
		s.Timeline, s.Position = data.Timeline, data.Position
	})
}

func (a *agent) progress(state api.MemberState, orders api.MemberOrders) Progress {
	return func(message string) {
		if a.status.change(func(s *api.MemberStatus) { idle(s, state, message) }) {
			a.hurry()
		}
		// Newer orders that are no reason to begin anew are followed too.
		if now, _, _, _ := a.heard.last(); sameTask(*now, orders) {
			a.claim(now.Term)
		}
	}
}

// tending is what the agent knows of a server that runs.
type tending struct {
	process   *Process
	data      Data             // that it was started on
	role      api.Role         // now
	orders    api.MemberOrders // those in force: the last that say something for it
	adapted   api.MemberOrders // those that Adapt succeeded for, at adaptedAt
	adaptedAt time.Duration
	stirred   time.Duration // when something was begun that others wait for
	// promoting: a promotion was asked for and may still come.
	promoting bool
}

// tend probes the running server and keeps it in line with the orders, acting on
// new ones at once, until it ends or has to.
func (a *agent) tend(leaving, term context.Context, t *tending) error {
	next := time.NewTimer(0)
	defer next.Stop()
	var seen api.MemberOrders
	for {
		select {
		case <-t.process.Done():
			return &endedError{t.process.Err()}
		case <-term.Done():
			<-t.process.Done() // the guard ends it
			return nil
		case <-leaving.Done():
			a.stop(term, t.process, api.MemberOrders{}, "the member stops")
			return nil
		case <-next.C:
		case <-a.news:
			if now, _, _, _ := a.heard.last(); sameOrders(seen, *now) {
				continue
			}
		}
		now, _, _, _ := a.heard.last()
		if !sameOrders(seen, *now) {
			seen, t.stirred = *now, a.lease.now()
		}
		what := steer(a.config.Member, a.wanted(seen), t.role, t.data.SystemID)
		if what != courseKeep {
			t.orders = seen
		}
		if t.promoting && t.role == api.RoleStandby && (what == courseAdapt || what == courseStop) {
			// It cannot be taken back, and may come at any moment: nothing is said under
			// the new orders while this server lives.
			a.log.Warn("ending the server: its promotion was asked for and is not wanted any more")
			a.clear()
			return nil
		}
		if what == courseStop {
			if a.handOver(leaving, term, t) {
				return nil
			}
			next.Reset(0)
			continue
		}
		if what == courseAdapt && seen.Restart && a.outdated(seen) {
			if a.restart(leaving, term, t) {
				return nil
			}
			next.Reset(0)
			continue
		}
		work, cancel := a.under(leaving, term, seen)
		done, err := a.round(work, term, t, what)
		cancel()
		if done || err != nil {
			return err
		}
		s := a.status.get()
		switch since := a.lease.now() - t.stirred; {
		case since < eager && (!s.Healthy || s.Role != api.RolePrimary || s.Term != t.orders.Term):
			next.Reset(eagerInterval)
		case since < steady:
			next.Reset(busyInterval)
		default:
			next.Reset(probeInterval)
		}
	}
}

// round probes the server once and does what orders and probe ask for. done: the
// server was stopped, for the next turn to begin.
func (a *agent) round(work, term context.Context, t *tending, what course) (done bool, err error) {
	probe := a.probe(work, t.orders)
	if work.Err() != nil || !probe.Up {
		return false, nil
	}
	if what == coursePromote {
		return false, a.promote(work, t, probe)
	}
	if probe.Role != t.role {
		// Somebody promoted it by hand. There is no order for it.
		a.stop(term, t.process, t.orders, fmt.Sprintf("it runs as %s without an order", probe.Role))
		return true, fmt.Errorf("the server became a %s without an order of the leader and was stopped", probe.Role)
	}
	if what == courseKeep {
		return false, nil
	}
	if probe.Diverged && t.role == api.RoleStandby && t.orders.Primary != "" {
		a.diverged = t.orders.Primary
		a.stop(term, t.process, t.orders, probe.Message)
		return true, nil
	}
	if probe.Stuck && t.role == api.RoleStandby && t.orders.Primary != "" {
		a.log.Warn("starting the server again: it does not follow though it could", "primary", t.orders.Primary, "message", probe.Message)
		a.stop(term, t.process, t.orders, "it does not follow "+t.orders.Primary+", which is ready for it")
		return true, nil
	}
	return false, a.adapt(work, t)
}

// adapt calls Adapt if it is time, and says that the member is in line with the
// orders when it has succeeded.
func (a *agent) adapt(work context.Context, t *tending) error {
	interval := adaptInterval
	if t.role == api.RoleStandby && a.status.get().PrimaryFirst != "" {
		interval = heldInterval // the primary may have it by now
	}
	if sameOrders(t.adapted, t.orders) && a.lease.now()-t.adaptedAt < interval {
		return nil
	}
	within, cancel := context.WithTimeout(work, 2*probeTimeout)
	defer cancel()
	orders := t.orders
	if err := a.server.Adapt(within, orders); err != nil {
		if work.Err() == nil {
			a.log.Warn("could not adapt the server to its orders; trying again", "error", err)
		}
		return nil
	}
	changed := !sameOrders(t.adapted, orders) || interval != adaptInterval
	t.adapted, t.adaptedAt = orders, a.lease.now()
	a.read = api.ParametersID(orders.Parameters)
	if changed {
		a.probe(work, orders) // what is in force now
	}
	a.claim(orders.Term)
	return nil
}

// promote makes the standby the primary, if its data is what the leader chose.
func (a *agent) promote(work context.Context, t *tending, probe Probe) error {
	if probe.Role == api.RoleStandby {
		if why := reached(t.orders, probe.Timeline, probe.Position); why != "" {
			a.unhealthy(why)
			return nil
		}
		a.unhealthy("becoming the primary")
	}
	began := a.lease.now()
	t.promoting = true
	within, cancel := context.WithTimeout(work, promoteTimeout)
	defer cancel()
	if err := a.server.Promote(within, t.orders); err != nil {
		if work.Err() == nil {
			a.log.Error("could not promote the standby; trying again", "error", err)
			a.unhealthy("becoming the primary: " + err.Error())
		}
		return nil
	}
	a.log.Info("promoted the standby", "took", a.lease.now()-began, "position", probe.Position)
	t.role, t.stirred = api.RolePrimary, a.lease.now()
	a.probe(work, t.orders)
	return a.adapt(work, t)
}

// unhealthy says why a server that runs is not what was ordered.
func (a *agent) unhealthy(message string) {
	if a.status.change(func(s *api.MemberStatus) { s.Healthy, s.Message = false, message }) {
		a.log.Info(message)
		a.hurry()
	}
}

// probe asks the server how it is and reports it.
func (a *agent) probe(work context.Context, orders api.MemberOrders) Probe {
	within, cancel := context.WithTimeout(work, probeTimeout)
	defer cancel()
	p := a.server.Probe(within, orders)
	if work.Err() != nil {
		return Probe{}
	}
	before := a.status.get()
	a.judgeRoom(&p, before)
	a.status.change(func(s *api.MemberStatus) {
		if !p.Up {
			// One that has answered before hangs; it is not starting.
			idle(s, s.State, p.Message)
			return
		}
		s.State, s.Healthy, s.Message, s.Role = api.StateRunning, p.Healthy, p.Message, p.Role
		if p.Role == api.RoleStandby && orders.Role == api.RolePrimary {
			s.Healthy, s.Message = false, before.Message // promote says
		} else if !p.Healthy && p.Role == api.RoleStandby && orders.Primary != "" && before.State != api.StateRunning {
			s.State = api.StateJoining
		}
		s.Timeline, s.Position = p.Timeline, p.Position
		s.LagBytes, s.LagSeconds = p.LagBytes, p.LagSeconds
		s.Streaming, s.Sync, s.Version = p.Streaming, p.Sync, p.Version
		s.SyncNames = strings.Join(p.SyncNames, ",")
		s.Parameters, s.StartedWith, s.Refused = a.read, a.startedWith, p.Refused
		s.PendingRestart, s.PrimaryFirst = strings.Join(p.PendingRestart, ","), strings.Join(p.PrimaryFirst, ",")
	})
	after := a.status.get()
	if before.State != after.State || before.Healthy != after.Healthy || before.Message != after.Message ||
		before.Role != after.Role || before.SyncNames != after.SyncNames || before.Streaming != after.Streaming ||
		before.Parameters != after.Parameters || before.PendingRestart != after.PendingRestart || before.PrimaryFirst != after.PrimaryFirst || before.Refused != after.Refused {
		a.log.Info("server probed", "state", after.State, "role", after.Role, "healthy", after.Healthy, "message", after.Message)
		a.hurry()
	}
	return p
}

// handOver ends a server that is fenced, whose data is to be replaced or whose role is
// to be another: at once if so ordered, else
// in order, and a primary after a flush while it still serves. It returns false if
// the orders changed meanwhile and the server runs on.
func (a *agent) handOver(leaving, term context.Context, t *tending) bool {
	why := fmt.Sprintf("the leader wants it to be %s now", t.orders.Role)
	switch {
	case t.orders.Fenced != "":
		why = t.orders.Fenced
	case t.role == t.orders.Role:
		why = "its data is to be replaced by a copy of " + t.orders.Primary + "'s"
	case t.role == api.RolePrimary && t.orders.Role == api.RoleStandby:
		why = "handing over"
	}
	if t.role == api.RolePrimary && !t.orders.Immediate && (t.orders.Role == api.RoleStandby || t.orders.Fenced != "") {
		if errors.Is(a.flush(leaving, term, t.orders, why), errOtherOrders) {
			return false
		}
	}
	a.stop(term, t.process, t.orders, why)
	return true
}

// outdated tells whether the running server lacks settings of these orders that take
// a restart.
func (a *agent) outdated(orders api.MemberOrders) bool {
	return a.startedWith != api.ParametersID(orders.Parameters) || a.status.get().PendingRestart != ""
}

// restart stops a server in order, so that the next turn starts it with the settings
// that are ordered now. It returns false as handOver does.
func (a *agent) restart(leaving, term context.Context, t *tending) bool {
	const why = "restarting with other settings"
	if errors.Is(a.flush(leaving, term, t.orders, why), errOtherOrders) {
		return false
	}
	a.stop(term, t.process, t.orders, why)
	return true
}

// flush has the server write what is in memory, for as long as the orders are these.
func (a *agent) flush(leaving, term context.Context, orders api.MemberOrders, why string) error {
	work, cancel := a.under(leaving, term, orders)
	defer cancel()
	within, end := context.WithTimeout(work, a.stopGrace())
	defer end()
	began := a.lease.now()
	a.status.change(func(s *api.MemberStatus) { s.Message = why + ": writing what is in memory; it still serves" })
	err := a.server.Flush(within)
	if err != nil && work.Err() == nil {
		a.log.Warn("could not write what is in memory before the stop", "error", err)
	}
	a.log.Info("wrote what was in memory before the stop", "took", a.lease.now()-began)
	return context.Cause(work)
}

// stop stops the server in order, within the grace, else at once, as it does if the
// orders say so, now or while it stops. The guard goes on: if the lease ends
// meanwhile, so does the server.
func (a *agent) stop(term context.Context, process *Process, orders api.MemberOrders, why string) {
	a.say(api.StateStopping, "stopping the server: "+why)
	began := a.lease.now()
	immediate := orders.Immediate && orders.Role == api.RoleStandby
	if immediate {
		a.clear()
		a.log.Info("ended the server at once", "took", a.lease.now()-began)
		return
	}
	allowed := a.stopGrace()
	grace, cancel := context.WithTimeout(term, allowed)
	defer cancel()
	if err := a.server.Stop(grace); err != nil {
		a.log.Error("the server cannot be asked to stop in order", "error", err)
		return // clear or the guard ends it
	}
	for {
		select {
		case <-process.Done():
			a.log.Info("the server has stopped", "error", process.Err(), "took", a.lease.now()-began)
			return
		case <-grace.Done():
			a.log.Warn("the server did not stop in order within its grace; ending it at once", "grace", allowed)
			return
		case <-a.news:
			if now, _, _, _ := a.heard.last(); now != nil && now.Role == api.RoleStandby && now.Immediate {
				a.log.Warn("the leader wants the server to end at once")
				return
			}
		}
	}
}

func sameOrders(a, b api.MemberOrders) bool { return reflect.DeepEqual(a, b) }

// sameTask: what was begun under one of these orders goes on under the other.
func sameTask(a, b api.MemberOrders) bool {
	return a.Role == b.Role && a.Primary == b.Primary && a.PrimaryAddress == b.PrimaryAddress && a.Immediate == b.Immediate &&
		a.Fenced == b.Fenced && a.Rebuild == b.Rebuild
}
