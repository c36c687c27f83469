package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/product"
)

// fillDisk is a client that appends rows of half a MiB, and small ones where those do
// not fit any more, and notes what was acknowledged.
const fillDisk = `export PGPASSWORD=$(cat /run/secrets/password) PGHOST=full-1,full-2,full-3 PGUSER=postgres PGTARGETSESSIONATTRS=primary PGCONNECT_TIMEOUT=2
: > /tmp/acked; i=0
add() { i=$((i+1)); timeout 8 psql -qXc "INSERT INTO filled SELECT $i, string_agg(md5(random()::text), '') FROM generate_series(1, $1)" >/dev/null 2>&1 && echo "$i $(date +%s%3N)" >> /tmp/acked; }
while :; do add 16384 || add 200; sleep 0.05; done`

func TestAFullDiskIsReportedAndEnlargedWhereExt4CannotGrowInUse(t *testing.T) {
	fillAndExpand(t, "ext4", "300MiB", "600MiB")
}

func TestAFullDiskIsReportedAndEnlargedInUse(t *testing.T) {
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
		s.stopClient(ctx) // it uses the application's network
		s.removeApplication(t, ctx, "full")
	}()
	_, err = s.WaitHealthy(ctx, "full", 3, 2*time.Minute)
	assert.NilError(t, err)
	c := s.startFilling(t, ctx)

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
	c.lostNothingOf(t, ctx, "full", "filled")
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

// startFilling starts the client that fills the volumes of full.
func (s *suite) startFilling(t *testing.T, ctx context.Context) *client {
	t.Helper()
	s.stopClient(ctx)
	_, err := s.SQL(ctx, "full", "CREATE TABLE filled (id int PRIMARY KEY, filler text); ALTER TABLE filled ALTER filler SET STORAGE EXTERNAL")
	assert.NilError(t, err)
	node := s.other(t)
	_, err = s.Docker(ctx, "service", "create", "--detach", "--name", "acked", "--network", "full_default",
		"--secret", "source=full_superuser-password,target=password", "--constraint", "node.hostname=="+node.Name,
		"--entrypoint", "bash", "postgres:17", "-c", fillDisk)
	assert.NilError(t, err)
	c := &client{s, node}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		s.stopClient(ctx)
	})
	c.writesOn(t, ctx)
	return c
}

// lostNothingOf waits until writes go on and checks that every row that was
// acknowledged is in the table.
func (c *client) lostNothingOf(t *testing.T, ctx context.Context, application, table string) {
	t.Helper()
	c.writesOn(t, ctx)
	ids, _, err := c.acked(ctx)
	assert.NilError(t, err)
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ","), "[]")
	missing, err := c.s.SQL(ctx, application, "SELECT coalesce(string_agg(id::text, ' '), '') FROM unnest(ARRAY["+list+"]) id WHERE id NOT IN (SELECT id FROM "+table+")")
	assert.NilError(t, err)
	assert.Equal(t, missing, "", "rows that were acknowledged are lost")
	t.Logf("%d rows were acknowledged and are there", len(ids))
}
