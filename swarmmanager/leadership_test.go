package swarmmanager

import (
	"errors"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/store/storetest"
)

func nothingToTakeOver(time.Duration) error { return nil }

func TestNothingIsAnsweredBeforeTheLeadershipIsTakenOver(t *testing.T) {
	c, s := &manual{t: time.Hour}, store.New(&storetest.Configs{})
	l := newLeadership("n1", "test", c.now)
	_, err := l.beat(t.Context(), s, func(time.Duration) error { return errors.New("the Swarm has no leader") })
	assert.ErrorContains(t, err, "take over")
	assert.Assert(t, !l.acting())
	began, err := l.beat(t.Context(), s, func(time.Duration) error {
		assert.Assert(t, !l.acting(), "it answers from what it knew as a leader before")
		return nil
	})
	assert.NilError(t, err)
	assert.Assert(t, began)
	assert.Assert(t, l.acting())
}

func TestALeaderWhoseRecordAnotherHasWrittenBeginsAnew(t *testing.T) {
	c, s := &manual{t: time.Hour}, store.New(&storetest.Configs{})
	l, other := newLeadership("n1", "test", c.now), newLeadership("n2", "test", c.now)
	beat := func(l *leadership) bool {
		began, _ := l.beat(t.Context(), s, nothingToTakeOver)
		return began
	}
	assert.Assert(t, beat(l))
	c.t += time.Minute
	assert.Assert(t, !beat(l))
	assert.Assert(t, l.settled(api.LeaseDuration))
	l.unknown()
	c.t += time.Second
	assert.Assert(t, !beat(l), "that Swarm did not say who leads ends no leadership")
	assert.Assert(t, l.settled(api.LeaseDuration))

	assert.Assert(t, !beat(other), "the record has only just been seen")
	c.t += takeOverAfter
	assert.Assert(t, beat(other))
	assert.Assert(t, !beat(l))
	assert.Assert(t, !l.acting())
	assert.Assert(t, !beat(l), "the other one leads")
	assert.Assert(t, !l.acting())
	c.t += takeOverAfter
	assert.Assert(t, beat(l))
	assert.Assert(t, !l.settled(api.LeaseDuration), "the other may have renewed leases")
}

func TestABeatThatOnlySeemedToFailEndsNoLeadership(t *testing.T) {
	c, configs := &manual{t: time.Hour}, &storetest.Configs{}
	l, s := newLeadership("n1", "test", c.now), store.New(configs)
	_, err := l.beat(t.Context(), s, nothingToTakeOver)
	assert.NilError(t, err)
	c.t += time.Minute
	configs.Fail = func(call string) error {
		if call == "inspect" {
			return errors.New("timeout") // after the write
		}
		return nil
	}
	_, err = l.beat(t.Context(), s, nothingToTakeOver)
	assert.Assert(t, err != nil)
	configs.Fail = nil
	for range 2 { // the first learns that the version is another
		began, _ := l.beat(t.Context(), s, nothingToTakeOver)
		assert.Assert(t, !began)
	}
	assert.Assert(t, l.acting())
	assert.Assert(t, l.settled(api.LeaseDuration), "failovers would have to wait for nothing")
}

// A leader's process is paused between a decision and its write, and goes on
// under the next leader.
func TestWhatAFormerLeaderDecidedIsNotWrittenAfterATakeover(t *testing.T) {
	s := serveManager(t)
	v := s.manager.volumes
	_, err := v.create(t.Context(), api.CreateRequest{Name: "data"})
	assert.NilError(t, err)
	_, err = v.attach(t.Context(), "w1", api.AttachRequest{Name: "data", MountID: "m", Location: "here"})
	assert.NilError(t, err)
	decided, err := v.get(t.Context(), "data")
	assert.NilError(t, err)

	assert.NilError(t, s.manager.takeOver(t.Context(), 0))
	renewed, _, err := v.renew(t.Context(), "w1", api.Report{Volumes: []api.HeldVolume{{Name: "data", Epoch: 1}}})
	assert.NilError(t, err)
	assert.DeepEqual(t, renewed, []string{"data"})
	late := decided.Value
	late.Owner, late.Epoch = &api.Owner{Node: "w2"}, 2
	_, err = store.Update(t.Context(), s.manager.store, store.KindVolume, decided, late)
	assert.ErrorIs(t, err, store.ErrStale)
}

func TestALivingLeaderIsFollowed(t *testing.T) {
	c, s := &manual{t: time.Hour}, store.New(&storetest.Configs{})
	l, other := newLeadership("n1", "test", c.now), newLeadership("n2", "test", c.now)
	_, err := l.beat(t.Context(), s, nothingToTakeOver)
	assert.NilError(t, err)
	for range 10 {
		c.t += time.Second
		_, err := l.beat(t.Context(), s, nothingToTakeOver)
		assert.NilError(t, err)
		began, err := other.beat(t.Context(), s, nothingToTakeOver)
		assert.NilError(t, err)
		assert.Assert(t, !began && !other.acting())
		assert.Equal(t, other.leaderNode(), "n1")
	}
}

func TestALeaderThatCouldNotWriteHearsEverybodyBeforeItJudgesASilence(t *testing.T) {
	c, s := &manual{t: time.Hour}, store.New(&storetest.Configs{})
	l := newLeadership("n1", "test", c.now)
	beat := func() {
		_, err := l.beat(t.Context(), s, nothingToTakeOver)
		assert.NilError(t, err)
	}
	for range 15 {
		beat()
		c.t += time.Second
	}
	assert.Assert(t, l.steady())
	c.t += 8 * time.Second // Swarm elects
	beat()
	assert.Assert(t, l.settled(api.LeaseDuration), "no other has led")
	assert.Assert(t, !l.steady(), "it has answered nobody for 8 s, and calls every node silent")
	for range 6 {
		c.t += time.Second
		beat()
	}
	assert.Assert(t, l.steady())
}

func TestAManagerThatStopsHandsTheLeadershipOverAtOnce(t *testing.T) {
	c, s := &manual{t: time.Hour}, store.New(&storetest.Configs{})
	l, other := newLeadership("n1", "test", c.now), newLeadership("n2", "test", c.now)
	beat := func(l *leadership) bool {
		began, err := l.beat(t.Context(), s, nothingToTakeOver)
		assert.NilError(t, err)
		return began
	}
	assert.Assert(t, beat(l))
	assert.Assert(t, !beat(other))
	resigned, err := other.resign(t.Context(), s)
	assert.NilError(t, err)
	assert.Assert(t, !resigned, "who does not lead has nothing to give up")
	resigned, err = l.resign(t.Context(), s)
	assert.NilError(t, err)
	assert.Assert(t, resigned)
	assert.Assert(t, !l.acting())
	assert.Assert(t, beat(other), "it waits though nobody leads")
	assert.Assert(t, other.acting())
	assert.Assert(t, !other.settled(api.LeaseDuration), "leases of the former leader still hold")
	c.t += time.Second
	assert.Assert(t, !beat(other), "its own record says that it resigned")
	assert.Assert(t, other.acting())
}

func TestALeaderThatWasDeposedDoesNotResignForItsSuccessor(t *testing.T) {
	c, s := &manual{t: time.Hour}, store.New(&storetest.Configs{})
	l, other := newLeadership("n1", "test", c.now), newLeadership("n2", "test", c.now)
	_, err := l.beat(t.Context(), s, nothingToTakeOver)
	assert.NilError(t, err)
	_, err = other.beat(t.Context(), s, nothingToTakeOver)
	assert.NilError(t, err)
	c.t += takeOverAfter
	began, err := other.beat(t.Context(), s, nothingToTakeOver)
	assert.NilError(t, err)
	assert.Assert(t, began)
	resigned, err := l.resign(t.Context(), s)
	assert.ErrorIs(t, err, store.ErrStale)
	assert.Assert(t, !resigned)
	c.t += time.Second
	_, err = other.beat(t.Context(), s, nothingToTakeOver)
	assert.NilError(t, err)
	assert.Assert(t, other.acting())
}

// A new leader waits for the leases of the former one, from the last moment at which that
// can have given any, and no longer.
func TestANewLeaderCountsFromTheLastWriteOfTheFormerOneThatItSaw(t *testing.T) {
	for _, tc := range []struct {
		doc     string
		resigns bool
		bound   time.Duration // from when the last write was seen
	}{
		{"killed", false, api.LeaderWriteBound},
		{"resigned", true, 0},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			c, s := &manual{t: time.Hour}, store.New(&storetest.Configs{})
			l, other := newLeadership("n1", "test", c.now), newLeadership("n2", "test", c.now)
			beat := func(l *leadership) (began bool, former time.Duration) {
				began, err := l.beat(t.Context(), s, func(until time.Duration) error {
					former = until
					return nil
				})
				assert.NilError(t, err)
				return began, former
			}
			beat(l)
			beat(other)
			c.t += 700 * time.Millisecond
			beat(l)
			if tc.resigns {
				_, err := l.resign(t.Context(), s)
				assert.NilError(t, err)
			}
			seen := c.t
			began, former := beat(other)
			for c.t += followInterval; !began; c.t += followInterval {
				began, former = beat(other)
			}
			assert.Equal(t, former, seen+tc.bound)
			c.t = former
			assert.Assert(t, !l.acting(), "it may still renew leases")
			c.t = former + api.LeaseDuration + api.LeaseMargin
			assert.Assert(t, !other.settled(api.LeaseDuration))
			c.t++
			assert.Assert(t, other.settled(api.LeaseDuration))
		})
	}
}

// A takeover of many volumes takes longer than the others wait for a record that stands
// still.
func TestALeaderThatTakesOverForLongKeepsItsRecord(t *testing.T) {
	t.Parallel()
	s := store.New(&storetest.Configs{})
	l, other := newLeadership("n1", "test", bootClock), newLeadership("n2", "test", bootClock)
	ended := make(chan error, 1)
	go func() {
		_, err := l.beat(t.Context(), s, func(time.Duration) error {
			<-time.After(takeOverAfter + 2*beatInterval)
			return nil
		})
		ended <- err
	}()
	for {
		select {
		case err := <-ended:
			assert.NilError(t, err)
			assert.Assert(t, l.acting())
			return
		case <-time.After(followInterval):
			if _, err := store.Get[store.Leader](t.Context(), s, store.KindLeader, store.LeaderName); err != nil {
				continue // not even begun
			}
			began, err := other.beat(t.Context(), s, nothingToTakeOver)
			assert.NilError(t, err)
			assert.Assert(t, !began, "two take over in turn, and nobody ever leads")
		}
	}
}

// A machine that is suspended between its write and the answer finds its successor's record
// when it goes on.
func TestALeaderDoesNotTakeAnothersRecordForItsOwn(t *testing.T) {
	c, configs := &manual{t: time.Hour}, &storetest.Configs{}
	s := store.New(configs)
	l, other := newLeadership("n1", "test", c.now), newLeadership("n2", "test", c.now)
	_, err := l.beat(t.Context(), s, nothingToTakeOver)
	assert.NilError(t, err)
	configs.Fail = func(call string) error {
		if call != "inspect" {
			return nil
		}
		configs.Fail = nil
		for range 2 {
			_, err := other.beat(t.Context(), s, nothingToTakeOver)
			assert.NilError(t, err)
			c.t += takeOverAfter
		}
		assert.Assert(t, other.leading)
		return nil
	}
	_, err = l.beat(t.Context(), s, nothingToTakeOver)
	assert.ErrorIs(t, err, store.ErrStale)
	began, err := l.beat(t.Context(), s, nothingToTakeOver)
	assert.NilError(t, err)
	assert.Assert(t, !began && !l.acting())
	assert.Equal(t, l.leaderNode(), "n2")
}

func TestALeaseThatCameWithAnAttachIsNoReport(t *testing.T) {
	c := &manual{t: time.Hour}
	l := newLeases(c.now)
	l.forget(c.t)
	l.touch("n1")
	_, _, heard := l.last("n1")
	assert.Assert(t, !heard, "nothing is known of what it holds")
	assert.Assert(t, l.renewed("n1", api.LeaseDuration))
	c.t += api.LeaseDuration + api.LeaseMargin + 1
	assert.Assert(t, !l.renewed("n1", api.LeaseDuration))
	assert.Assert(t, l.expired("n1", api.LeaseDuration))
}
