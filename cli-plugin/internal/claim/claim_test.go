package claim

import (
	"context"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/internal/store"
)

// fast is a clock on which 10 ms are a second.
type fast struct{ start time.Time }

func (f fast) Now() time.Time { return f.start.Add(100 * time.Since(f.start)) }

func (fast) After(d time.Duration) <-chan time.Time { return time.After(d / 100) }

func take(t *testing.T, docker *fakeswarm.Client, clock Clock) (context.Context, *Claim, error) {
	t.Helper()
	return Take(t.Context(), store.New(docker), "pg", "{}", clock, nil)
}

func record(t *testing.T, docker *fakeswarm.Client) store.Operation {
	t.Helper()
	r, err := store.Get[store.Operation](t.Context(), store.New(docker), store.KindOperation, Name("pg"))
	assert.NilError(t, err)
	return r.Value
}

func TestSecondClaimIsRefusedWhileTheFirstIsRenewed(t *testing.T) {
	docker, clock := fakeswarm.New(), fast{time.Now()}
	_, first, err := take(t, docker, clock)
	assert.NilError(t, err)
	_, _, err = take(t, docker, clock)
	assert.ErrorIs(t, err, ErrHeld)
	assert.ErrorContains(t, err, "pg is being created already by "+Me()+", since ")
	assert.NilError(t, first.End(t.Context(), clock, nil))
}

func TestClaimThatStandsStillIsTakenOver(t *testing.T) {
	docker, clock := fakeswarm.New(), fast{time.Now()}
	fakeswarm.Put(t, docker, store.KindOperation, Name("pg"), store.Operation{State: store.OperationRunning, By: "somebody@else", Beat: 7})
	_, c, err := take(t, docker, clock)
	assert.NilError(t, err)
	assert.Equal(t, record(t, docker).By, Me())
	assert.NilError(t, c.End(t.Context(), clock, nil))
}

func TestClaimThatEndedIsTakenAtOnce(t *testing.T) {
	for _, state := range []store.OperationState{store.OperationDone, store.OperationFailed} {
		docker := fakeswarm.New()
		fakeswarm.Put(t, docker, store.KindOperation, Name("pg"), store.Operation{State: state})
		_, c, err := take(t, docker, SystemClock{})
		assert.NilError(t, err)
		assert.NilError(t, c.End(t.Context(), SystemClock{}, nil))
	}
}

func TestContextEndsWhenTheClaimIsLost(t *testing.T) {
	for _, tc := range []struct {
		doc  string
		lose func(*fakeswarm.Client)
	}{
		{doc: "taken over", lose: func(docker *fakeswarm.Client) {
			fakeswarm.Put(t, docker, store.KindOperation, Name("pg"), store.Operation{State: store.OperationRunning, By: "somebody@else"})
		}},
		{doc: "application removed", lose: func(docker *fakeswarm.Client) {
			r, err := store.Get[store.Operation](t.Context(), store.New(docker), store.KindOperation, Name("pg"))
			assert.NilError(t, err)
			assert.NilError(t, store.Delete(t.Context(), store.New(docker), store.KindOperation, r))
		}},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker, clock := fakeswarm.New(), fast{time.Now()}
			held, c, err := take(t, docker, clock)
			assert.NilError(t, err)
			tc.lose(docker)
			select {
			case <-held.Done():
			case <-time.After(5 * time.Second):
				t.Fatal("the context did not end")
			}
			assert.ErrorIs(t, context.Cause(held), ErrLost)
			assert.NilError(t, c.End(t.Context(), clock, nil))
		})
	}
}

func TestRenewalAndEnd(t *testing.T) {
	docker, clock := fakeswarm.New(), fast{time.Now()}
	held, c, err := take(t, docker, clock)
	assert.NilError(t, err)
	c.Step(held, "stack")
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if op := record(t, docker); op.Beat > 3 && op.Step == "stack" {
			return poll.Success()
		}
		return poll.Continue("not yet renewed")
	})
	assert.NilError(t, c.End(t.Context(), clock, ErrHeld))
	op := record(t, docker)
	assert.Equal(t, op.State, store.OperationFailed)
	assert.Equal(t, op.Error, ErrHeld.Error())
	assert.Assert(t, op.Ended != nil)
	assert.Assert(t, held.Err() != nil)
}
