package memberagent

import (
	"context"
	"errors"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func testLease() (*lease, *time.Duration) {
	now := time.Hour
	return newLease(func() time.Duration { return now }), &now
}

func TestLeaseCountsFromWhenTheReportWasSent(t *testing.T) {
	l, now := testLease()
	sent := *now
	*now += 4 * time.Second // the answer was slow
	l.renew(sent, 5*time.Second, 1, nil)
	assert.Equal(t, l.remaining(), time.Second)
	*now += time.Second
	assert.Assert(t, l.held() == nil)
}

func TestAnswerThatComesAfterItsLeaseGivesNone(t *testing.T) {
	l, now := testLease()
	sent := *now
	*now += 5 * time.Second
	l.renew(sent, 5*time.Second, 1, nil)
	assert.Assert(t, l.held() == nil)
}

func TestTermThatIsOverIsNotRevived(t *testing.T) {
	l, now := testLease()
	l.renew(*now, 5*time.Second, 1, nil)
	term := l.held()
	*now += time.Minute // paused; nobody looked at the clock
	l.renew(*now, 5*time.Second, 1, nil)
	assert.ErrorIs(t, context.Cause(term), errLeaseOver)
	assert.Assert(t, l.held() == nil, "not settled")
	assert.Assert(t, l.lost())

	l.settled()
	assert.Assert(t, l.held() == nil, "no answer since")
	l.renew(*now, 5*time.Second, 1, nil)
	assert.Assert(t, l.held() != nil)
	assert.Assert(t, l.held() != term)
}

func TestLeaseTakenAwayEndsTheTermWithItsReason(t *testing.T) {
	l, now := testLease()
	l.renew(*now, 5*time.Second, 1, nil)
	term := l.held()
	l.renew(*now, 0, 1, errors.New("node2 has it"))
	assert.ErrorContains(t, context.Cause(term), "node2 has it")
	assert.Equal(t, l.remaining(), time.Duration(0))
}

func TestShorterAnswerShortensTheLease(t *testing.T) {
	l, now := testLease()
	l.renew(*now, 5*time.Second, 1, nil)
	l.renew(*now, time.Second, 1, nil)
	assert.Equal(t, l.remaining(), time.Second)
}

func TestNewerEpochIsAnotherTerm(t *testing.T) {
	l, now := testLease()
	l.renew(*now, 5*time.Second, 1, nil)
	term := l.held()
	l.renew(*now, 5*time.Second, 2, nil)
	assert.ErrorContains(t, context.Cause(term), "newer epoch")
}

func TestOlderEpochGivesNoLease(t *testing.T) {
	l, now := testLease()
	l.renew(*now, 5*time.Second, 2, nil)
	l.renew(*now, 0, 2, errors.New("taken"))
	l.settled()
	l.renew(*now, 5*time.Second, 1, nil)
	assert.Assert(t, l.held() == nil)
}
