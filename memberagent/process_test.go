package memberagent

import (
	"os/exec"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func TestNoProcessStartsWithoutTheLease(t *testing.T) {
	l, now := testLease()
	p, err := newProcesses(l)
	assert.NilError(t, err)
	_, err = p.Start(t.Context(), exec.Command("true"))
	assert.ErrorIs(t, err, errNoLease)

	l.renew(*now, time.Second, 1, nil)
	term := l.held()
	assert.NilError(t, p.Run(term, exec.Command("true")))

	// The clock counts at the very moment, even if nobody has looked at it yet.
	*now += time.Second
	_, err = p.Start(term, exec.Command("true"))
	assert.ErrorIs(t, err, errNoLease)

	// What was begun in one term does not go on in the next.
	l.settled()
	l.renew(*now, time.Second, 1, nil)
	assert.Assert(t, l.held() != nil)
	_, err = p.Start(term, exec.Command("true"))
	assert.ErrorIs(t, err, errLeaseOver)
}
