package e2e

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

func aFullDiskIsReportedAndEnlargedWhereExt4CannotGrowInUse(t *testing.T) {
	fillAndExpand(t, "ext4", "300MiB", "600MiB")
}

func aFullDiskIsReportedAndEnlargedInUse(t *testing.T) {
	onlyLong(t, "AFullDiskIsReportedAndEnlargedWhereExt4CannotGrowInUse")
	fillAndExpand(t, "xfs", "320MiB", "640MiB")
}

// fillAndExpand has a client fill the volumes of an application, looks at what is
// said and done, and enlarges them.
func fillAndExpand(t *testing.T, fs, size, larger string) {
	s, ctx := swarm(t)
	s.removeLeftovers(t, ctx, "full")
	_, err := s.CLI(ctx, "create", "postgresql", "full", "--replicas", "3", "--volume-size", size, "--filesystem", fs, "--yes")
	assert.NilError(t, err)
	defer func() {
		if t.Failed() {
			s.tell(t, ctx, "full")
		}
		s.stopClients(ctx, "full") // it uses the application's network
		s.removeApplication(t, ctx, "full")
	}()
	_, err = s.WaitHealthy(ctx, "full", 3, 2*time.Minute)
	assert.NilError(t, err)
	// Rows of half a MiB, and small ones where those do not fit any more.
	c := s.startWorkload(t, ctx, "full", []*cluster.Node{s.other(t)}, 0, 16384)

	var words string
	err = product.Until(ctx, 4*time.Minute, "a full volume in ps", func(ctx context.Context) error {
		out, stderr, err := s.Input(ctx, nil, "openmanage", "ps", "full")
		words = out + stderr
		if err == nil && !strings.Contains(words, "problem: full: volume") {
			err = errors.New(words)
		}
		return err
	})
	assert.NilError(t, err)
	assert.Check(t, is.Contains(words, "docker openmanage volume expand full --size "+larger), words)
	t.Log(words)
	s.staysWhereItIs(t, ctx, 40*time.Second)
	_, words, err = s.Input(ctx, nil, "openmanage", "ps", "full")
	assert.NilError(t, err)
	t.Log(words)

	_, err = s.CLI(ctx, "volume", "expand", "full", "--size", larger)
	assert.NilError(t, err)
	_, err = s.WaitHealthy(ctx, "full", 3, 2*time.Minute)
	assert.NilError(t, err)
	c.lostNothing(t, ctx)
	err = product.Until(ctx, time.Minute, "that all have room", func(ctx context.Context) error {
		history, err := s.CLI(ctx, "events", "full")
		if n := strings.Count(history, "has room again"); err == nil && n < 3 {
			err = errors.New(history)
		}
		return err
	})
	assert.NilError(t, err)
	history, err := s.CLI(ctx, "events", "full")
	assert.NilError(t, err)
	t.Log(history)
	assert.Check(t, is.Contains(history, "is almost full: "), history)
	assert.Assert(t, failovers(history) <= 1, history)
}

// failovers counts how often another became the primary without being asked.
func failovers(history string) (n int) {
	for line := range strings.Lines(history) {
		if strings.Contains(line, "failover") && strings.Contains(line, "primary instead of") {
			n++
		}
	}
	return n
}

// staysWhereItIs looks for a while whether the primary's place wanders.
func (s *suite) staysWhereItIs(t *testing.T, ctx context.Context, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for {
		history, err := s.CLI(ctx, "events", "full")
		if ctx.Err() != nil {
			return
		}
		assert.NilError(t, err)
		assert.Assert(t, failovers(history) <= 1, history)
	}
}
