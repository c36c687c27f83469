package swarmmanager

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
)

// manual is a clock that a test moves.
type manual struct{ t time.Duration }

func (m *manual) now() time.Duration { return m.t }

func TestPromiseIsRememberedUntilItHasRunOut(t *testing.T) {
	c := &manual{t: time.Hour}
	p := newPromises(c.now)
	c.t += time.Minute
	assert.Assert(t, p.give("n1", api.LeaseDuration))
	age := p.bar("n1", barDuration)
	assert.Assert(t, age.Known)
	assert.Assert(t, age.Remaining >= api.LeaseDuration)

	c.t += api.LeaseDuration + api.LeaseMargin + 1
	assert.Equal(t, p.bar("n1", barDuration), api.PromiseAge{Known: true})
}

func TestBarredNodeGetsNoPromise(t *testing.T) {
	c := &manual{t: time.Hour}
	p := newPromises(c.now)
	c.t += time.Minute
	assert.Equal(t, p.bar("n1", barDuration), api.PromiseAge{Known: true})
	assert.Assert(t, !p.give("n1", api.LeaseDuration), "a promise after the bar: two could write")
	assert.Assert(t, p.give("n2", api.LeaseDuration), "another node is not barred")
	c.t += barDuration
	assert.Assert(t, p.give("n1", api.LeaseDuration))
}

func TestRestartedManagerDoesNotSpeakOfPromisesThatItMayHaveForgotten(t *testing.T) {
	c := &manual{t: time.Hour}
	p := newPromises(c.now)
	assert.Assert(t, !p.bar("n1", barDuration).Known)
	assert.Assert(t, !p.give("n1", api.LeaseDuration), "it may have barred the node a moment ago, for a leader that still asks")
	c.t += barTimeout
	assert.Assert(t, p.give("n2", api.LeaseDuration))
	c.t -= barTimeout
	c.t += api.LeaseDuration + api.LeaseMargin
	assert.Assert(t, p.bar("n1", barDuration).Known)
}

func TestLeaderActsOnlyWhileItsOwnWritesAreFresh(t *testing.T) {
	c := &manual{t: time.Hour}
	l := newLeadership("n1", "test", c.now)
	l.leading, l.former, l.lastBeat = true, c.t, c.t
	assert.Assert(t, l.acting())
	assert.Assert(t, !l.settled(api.LeaseDuration), "a new leader must wait for leases that it does not know of")
	c.t += api.LeaderWriteBound
	assert.Assert(t, !l.acting(), "cut off from Raft, it must stop renewing by its own clock")
	c.t += api.LeaseDuration + api.LeaseMargin + 1
	assert.Assert(t, l.settled(api.LeaseDuration))
}

func TestLeaseIsExpiredOnlyAfterItsDurationAndMargin(t *testing.T) {
	c := &manual{t: time.Hour}
	l := newLeases(c.now)
	l.hear("n1", heard{})
	c.t += api.LeaseDuration + api.LeaseMargin
	assert.Assert(t, !l.expired("n1", api.LeaseDuration))
	c.t++
	assert.Assert(t, l.expired("n1", api.LeaseDuration))
	l.touch("n1")
	assert.Assert(t, !l.expired("n1", api.LeaseDuration), "an attach gives a lease too")
}
