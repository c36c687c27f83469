// Package claim lets one `docker openmanage create` of a name work at a time. The
// claim is an operation record that its owner renews; one that is no longer
// renewed may be taken over, so that a create that was killed does not block the
// next one.
package claim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"time"

	"github.com/openmanage/openmanage/internal/store"
)

const (
	// renewal is the time between two renewals.
	renewal = 3 * time.Second
	// patience is how long a claim may stand still before it is taken over.
	patience = 15 * time.Second
	// Notice is after what time who holds a claim has noticed that its record is gone, and stopped.
	Notice = renewal + 2*time.Second
)

// ErrHeld: somebody else creates the application now.
var ErrHeld = errors.New("is being created already")

// ErrLost: somebody else has taken the claim over.
var ErrLost = errors.New("the claim was lost")

// Name is the name of the record that claims an application.
func Name(application string) string { return store.OperationCreate + "." + application }

// Clock tells time; a test gives its own.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// SystemClock is the clock of this machine.
type SystemClock struct{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// After is time.After.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// Claim is a claim that is held.
type Claim struct {
	store  *store.Store
	record store.Record[store.Operation]
	cancel context.CancelCauseFunc
	done   chan struct{}
	steps  chan string
}

// Take claims an application and returns a context that ends when the claim is
// lost. While another claim stands still but is not yet old, it watches; waiting,
// which may be nil, is told once.
func Take(ctx context.Context, s *store.Store, application, request string, clock Clock, waiting func(store.Operation)) (context.Context, *Claim, error) {
	op := store.Operation{
		Kind: store.OperationCreate, Target: application, By: Me(), State: store.OperationRunning,
		Step: "claimed", Request: request, Beat: 1, Started: clock.Now().UTC().Truncate(time.Second),
	}
	record, err := store.Create(ctx, s, store.KindOperation, Name(application), op)
	if errors.Is(err, store.ErrExists) {
		record, err = takeOver(ctx, s, application, op, clock, waiting)
	}
	if err != nil {
		return nil, nil, err
	}
	held, cancel := context.WithCancelCause(ctx)
	c := &Claim{store: s, record: record, cancel: cancel, done: make(chan struct{}), steps: make(chan string)}
	go c.renew(held, clock)
	return held, c, nil
}

// takeOver replaces a claim that has ended or stands still.
func takeOver(ctx context.Context, s *store.Store, application string, op store.Operation, clock Clock, waiting func(store.Operation)) (store.Record[store.Operation], error) {
	var none store.Record[store.Operation]
	var seen uint64
	var since time.Time
	for {
		record, err := store.Get[store.Operation](ctx, s, store.KindOperation, Name(application))
		if errors.Is(err, store.ErrNotFound) {
			record, err = store.Create(ctx, s, store.KindOperation, Name(application), op)
			if errors.Is(err, store.ErrExists) {
				continue
			}
			return record, err
		}
		if err != nil {
			return none, err
		}
		held := record.Value
		if held.State == store.OperationRunning {
			switch {
			case seen == 0:
				seen, since = record.Version(), clock.Now()
				if waiting != nil {
					waiting(held)
				}
			case record.Version() != seen:
				return none, fmt.Errorf("%s %w by %s, since %s\nFollow it with: docker openmanage ps %s", application, ErrHeld, held.By, held.Started.Local().Format(time.DateTime), application)
			}
			if clock.Now().Sub(since) < patience {
				select {
				case <-ctx.Done():
					return none, ctx.Err()
				case <-clock.After(500 * time.Millisecond):
				}
				continue
			}
		}
		op.Beat = held.Beat + 1
		next, err := store.Update(ctx, s, store.KindOperation, record, op)
		if errors.Is(err, store.ErrStale) || errors.Is(err, store.ErrNotFound) {
			continue
		}
		return next, err
	}
}

// Step records how far the work is.
func (c *Claim) Step(ctx context.Context, step string) {
	select {
	case c.steps <- step:
	case <-ctx.Done():
	}
}

func (c *Claim) renew(ctx context.Context, clock Clock) {
	defer close(c.done)
	lastWrite := clock.Now()
	for {
		op := c.record.Value
		select {
		case <-ctx.Done():
			return
		case op.Step = <-c.steps:
		case <-clock.After(renewal):
		}
		op.Beat++
		next, err := store.Update(ctx, c.store, store.KindOperation, c.record, op)
		switch {
		case err == nil:
			c.record, lastWrite = next, clock.Now()
		case errors.Is(err, store.ErrStale):
			// Our own last write may have arrived though its answer did not.
			current, getErr := store.Get[store.Operation](ctx, c.store, store.KindOperation, c.record.Name)
			if getErr == nil && sameClaim(current.Value, op) {
				c.record = current
				continue
			}
			if getErr == nil {
				c.cancel(fmt.Errorf("%w: %s has taken over", ErrLost, current.Value.By))
				return
			}
		case errors.Is(err, store.ErrNotFound):
			c.cancel(fmt.Errorf("%w: its record was removed; was the application removed meanwhile?", ErrLost))
			return
		}
		// Swarm may elect a leader for a while: go on trying, but not beyond the
		// time after which another may take over.
		if clock.Now().Sub(lastWrite) > patience {
			c.cancel(fmt.Errorf("%w: it could not be renewed for %s: %w", ErrLost, patience, err))
			return
		}
	}
}

// End gives the claim back and records how the work ended; failure may be nil.
func (c *Claim) End(ctx context.Context, clock Clock, failure error) error {
	c.cancel(nil)
	<-c.done
	mine := c.record.Value
	_, err := store.Modify(ctx, c.store, store.KindOperation, c.record.Name, func(op *store.Operation) (bool, error) {
		if !sameClaim(*op, mine) {
			return false, nil
		}
		now := clock.Now().UTC().Truncate(time.Second)
		op.Ended = &now
		if failure != nil {
			op.State, op.Error = store.OperationFailed, failure.Error()
			return true, nil
		}
		op.State, op.Step, op.Error = store.OperationDone, "done", ""
		return true, nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil // the application was removed meanwhile
	}
	return err
}

// sameClaim says whether two states of the record are of one claim.
func sameClaim(a, b store.Operation) bool {
	return a.By == b.By && a.Started.Equal(b.Started) && a.State == store.OperationRunning
}

// Me says who runs this, user@host, with the process, so that two on one machine differ.
func Me() string {
	name := "unknown"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s@%s (pid %d)", name, host, os.Getpid())
}
