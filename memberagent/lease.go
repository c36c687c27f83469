package memberagent

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// errLeaseOver is the cause of a lease's context when its time ran out.
var errLeaseOver = errors.New("the lease ran out")

// clock counts time since an arbitrary point. It never goes back.
type clock func() time.Duration

// bootClock counts also while the machine is suspended, unlike the monotonic
// clock of package time (clock_gettime(2), CLOCK_BOOTTIME).
func bootClock() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock_gettime: " + err.Error()) // the kernel has had it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// lease is this container's right to run an engine on its data volume. It is
// held in terms: a term is a stretch of time without a gap, of one epoch, and has
// a context that ends with it. A term that is over stays over, whatever answer
// comes late, and the next one begins only after settled has said that nothing
// of the last one runs any more. It is safe for concurrent use.
type lease struct {
	now clock

	mu       sync.Mutex
	deadline time.Duration // by now; of the term
	epoch    uint64        // highest seen
	term     context.Context
	end      context.CancelCauseFunc
	over     bool // the term is over and not yet settled
}

func newLease(now clock) *lease { return &lease{now: now} }

// renew takes an answer to a report that was sent at the time sent: the lease is
// held for d from then. A d of 0 or less ends the term at once, with why as its
// cause. An answer of an older epoch than one seen before is ignored; a newer one
// ends the term, because somebody else may have written in between.
func (l *lease) renew(sent, d time.Duration, epoch uint64, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	if epoch < l.epoch {
		return
	}
	deadline := sent + d
	switch {
	case l.over: // not settled: the next answer may begin a new term
		return
	case l.term != nil && d <= 0:
		l.finish(why)
	case l.term != nil && epoch > l.epoch:
		l.finish(errors.New("the volume has a newer epoch: it was given away and came back"))
	case l.term != nil:
		l.deadline = deadline
		l.expire()
	case d > 0 && deadline > l.now():
		l.epoch, l.deadline = epoch, deadline
		l.term, l.end = context.WithCancelCause(context.Background())
	}
}

// held returns the context of the term, or nil if the lease is not held at this
// moment.
func (l *lease) held() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	if l.over {
		return nil
	}
	return l.term
}

// remaining is for how long the lease is still held, 0 if it is not.
func (l *lease) remaining() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	if l.term == nil || l.over {
		return 0
	}
	return l.deadline - l.now()
}

// lost ends the term if its time has run out, and reports whether there is a
// term that is over and not settled.
func (l *lease) lost() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	return l.over
}

// settled says that nothing of the term that is over runs any more.
func (l *lease) settled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		l.term, l.end, l.over = nil, nil, false
	}
}

// expire is the one place where time ends a term.
func (l *lease) expire() {
	if l.term != nil && !l.over && l.now() >= l.deadline {
		l.finish(errLeaseOver)
	}
}

func (l *lease) finish(why error) {
	l.over = true
	l.end(why)
}
