package e2e

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// insert is a client as libpq's documentation describes one for several servers:
// it finds the primary among all members, and writes one row after the other,
// each over a connection of its own. A row is noted, with the time in ms, when the
// server has acknowledged it.
const insert = `export PGPASSWORD=$(cat /run/secrets/password) PGHOST=pg-1,pg-2,pg-3 PGUSER=postgres PGTARGETSESSIONATTRS=primary PGCONNECT_TIMEOUT=2
: > /tmp/acked; i=0
while :; do i=$((i+1)); timeout 4 psql -qXc "INSERT INTO acked VALUES ($i)" >/dev/null 2>&1 && echo "$i $(date +%s%3N)" >> /tmp/acked; sleep 0.05; done`

// client is a service that writes rows on a node of its own choice.
type client struct {
	s    *suite
	node *cluster.Node
}

// startClient starts to write from node, which must outlive the test.
func (s *suite) startClient(t *testing.T, ctx context.Context, node *cluster.Node) *client {
	t.Helper()
	s.stopClient(ctx)
	_, err := s.SQL(ctx, "pg", "DROP TABLE IF EXISTS acked; CREATE TABLE acked (id int PRIMARY KEY)")
	assert.NilError(t, err)
	_, err = s.Docker(ctx, "service", "create", "--detach", "--name", "acked", "--network", "pg_default",
		"--secret", "source=pg_superuser-password,target=password", "--constraint", "node.hostname=="+node.Name,
		"--entrypoint", "bash", "postgres:17", "-c", insert)
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

func (s *suite) stopClient(ctx context.Context) {
	_, _ = s.Docker(ctx, "service", "rm", "acked") // there may be none
	_ = product.Until(ctx, 30*time.Second, "client gone", func(ctx context.Context) error {
		out, err := s.Docker(ctx, "service", "ls", "--quiet", "--filter", "name=acked")
		if err == nil && out != "" {
			err = fmt.Errorf("%s", out)
		}
		return err
	})
}

// acked returns the rows that were acknowledged, and the longest time in which
// none was.
func (c *client) acked(ctx context.Context) (ids []int, gap time.Duration, err error) {
	out, _, err := c.node.Exec(ctx, "sh", "-c", `docker exec $(docker ps -q --filter label=com.docker.swarm.service.name=acked) cat /tmp/acked`)
	if err != nil {
		return nil, 0, err
	}
	last := 0
	for line := range strings.Lines(out) {
		first, second, _ := strings.Cut(strings.TrimSpace(line), " ")
		id, err := strconv.Atoi(first)
		if err != nil {
			continue
		}
		ms, err := strconv.Atoi(second)
		if err != nil {
			continue // half a line
		}
		if last != 0 {
			gap = max(gap, time.Duration(ms-last)*time.Millisecond)
		}
		last = ms
		ids = append(ids, id)
	}
	return ids, gap, nil
}

// writesOn waits until more rows are acknowledged than now.
func (c *client) writesOn(t *testing.T, ctx context.Context) {
	t.Helper()
	before := -1
	err := product.Until(ctx, 2*time.Minute, "the client's writes", func(ctx context.Context) error {
		ids, _, err := c.acked(ctx)
		if err != nil {
			return err
		}
		if before < 0 {
			before = len(ids)
		}
		if len(ids) < before+3 {
			return fmt.Errorf("%d rows are acknowledged, %d were", len(ids), before)
		}
		return nil
	})
	assert.NilError(t, err)
}

// lostNothing waits until writes go on and checks that every row that was
// acknowledged is there. It returns the longest time without one.
func (c *client) lostNothing(t *testing.T, ctx context.Context) time.Duration {
	t.Helper()
	c.writesOn(t, ctx)
	ids, gap, err := c.acked(ctx)
	assert.NilError(t, err)
	assert.Assert(t, len(ids) > 0)
	list := make([]string, 0, len(ids))
	for _, id := range ids {
		list = append(list, strconv.Itoa(id))
	}
	missing, err := c.s.SQL(ctx, "pg", "SELECT coalesce(string_agg(id::text, ' '), '') FROM unnest(ARRAY["+strings.Join(list, ",")+"]) id WHERE id NOT IN (SELECT id FROM acked)")
	assert.NilError(t, err)
	assert.Equal(t, missing, "", "rows that were acknowledged are lost")
	return gap
}
