package memberagent

import (
	"context"
	"time"

	"github.com/openmanage/openmanage/internal/api"
)

const (
	// leaveTick is how often a member that waits for its turn looks again.
	leaveTick = 50 * time.Millisecond
	// leaveReserve is what is kept of the stop grace for the stop itself.
	leaveReserve = 20 * time.Second
)

// leave waits until the container is asked to stop and then for the member's turn,
// and calls now. Others may be asked at the same moment, by an edited stack or a
// drained node: one stops at a time, and a primary when another has taken its place.
// Without a leader, and when the time gets short, it does not wait.
func (a *agent) leave(asked context.Context, now func()) {
	defer now()
	<-asked.Done()
	began := a.lease.now()
	a.askedAt.Store(int64(began))
	patience := max(a.config.StopGrace-leaveReserve, 0)
	if a.status.change(func(s *api.MemberStatus) { s.Leaving = true }) {
		a.hurry()
	}
	a.log.Info("asked to stop; waiting for this member's turn", "patience", patience)
	tick := time.NewTicker(leaveTick)
	defer tick.Stop()
	for a.lease.now()-began < patience {
		orders, _, err, _ := a.heard.last()
		switch {
		case err != nil, orders == nil, orders.Role == "", a.lease.held() == nil:
			return // nobody who could say so
		case orders.Leave, a.idleUnder(orders.Term):
			a.log.Info("it is this member's turn to stop", "waited", a.lease.now()-began)
			return
		}
		<-tick.C
	}
	a.log.Warn("not told that it is this member's turn; stopping", "waited", a.lease.now()-began)
}

// stopGrace is how long a server may take to stop in order: what is left of it since
// the container was asked to stop.
func (a *agent) stopGrace() time.Duration {
	since := time.Duration(a.askedAt.Load())
	if since == 0 {
		return a.config.StopGrace
	}
	return max(a.config.StopGrace-(a.lease.now()-since), time.Second)
}

// idleUnder tells whether no server runs, and the leader was told so under the
// orders of this term: the former primary's last position is what others wait for.
func (a *agent) idleUnder(term uint64) bool {
	s := a.status.get()
	switch s.State {
	case api.StateStarting, api.StateRunning, api.StateStopping: // of a server that does not answer no role is known
		return false
	}
	return s.Role == "" && s.Term == term
}
