package memberagent

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/openmanage/openmanage/internal/api"
)

// status is what the agent says of its member. Safe for concurrent use.
type status struct {
	mu sync.Mutex
	s  api.MemberStatus
}

func (t *status) get() api.MemberStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.s
}

func (t *status) change(f func(*api.MemberStatus)) (changed bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	before := t.s
	f(&t.s)
	return before != t.s
}

// idle makes s the status of a member whose server does not run.
func idle(s *api.MemberStatus, state api.MemberState, message string) {
	s.State, s.Message = state, message
	if s.Role == api.RolePrimary {
		s.Position = 0 // where its log ends shows only in its data
	}
	s.Healthy, s.Streaming, s.Sync, s.Role, s.SyncNames = false, false, false, "", ""
	s.Parameters, s.StartedWith, s.Refused, s.PendingRestart, s.PrimaryFirst = "", "", "", "", ""
	s.LagBytes, s.LagSeconds = -1, -1
}

// heard is what the plugin said last. Safe for concurrent use.
type heard struct {
	mu        sync.Mutex
	orders    *api.MemberOrders // the last ones, kept while the leader is silent
	reason    string            // of the last answer
	err       error             // why there was none
	misplaced error             // the data directory is not on the volume
	changed   chan struct{}     // closed when orders are others; nil: nobody waits
}

func (h *heard) failed(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err = err
}

func (h *heard) answered(answer *api.AgentAnswer, misplaced error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.err, h.misplaced, h.reason = nil, misplaced, answer.Reason
	// Orders of an older term are those of a leader that is no more.
	if o := answer.Orders; o != nil && (h.orders == nil || o.Term >= h.orders.Term && !sameOrders(*o, *h.orders)) {
		h.orders = o
		if h.changed != nil {
			close(h.changed)
			h.changed = nil
		}
	}
}

// watch returns the orders and a channel that is closed when there are others.
func (h *heard) watch() (*api.MemberOrders, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.changed == nil {
		h.changed = make(chan struct{})
	}
	return h.orders, h.changed
}

func (h *heard) last() (orders *api.MemberOrders, reason string, err, misplaced error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.orders, h.reason, h.err, h.misplaced
}

// alive knows when the reporter last went round, by the boot clock.
type alive struct{ at atomic.Int64 }

func (l *alive) touch()                 { l.at.Store(int64(bootClock())) }
func (l *alive) silence() time.Duration { return bootClock() - time.Duration(l.at.Load()) }
