package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/product"
)

// An application from its creation to its removal, as a user goes through it.
func lifeOfAnApplication(t *testing.T) {
	s, ctx := swarm(t)
	s.removeLeftovers(t, ctx, "life")
	create := []string{"openmanage", "create", "postgres", "life", "--replicas", "2", "--volume-size", "256MiB", "--set", "max_connections=42"}

	// Two creates at once: one makes it, the other is told about the first.
	var group sync.WaitGroup
	var errs [2]error
	var said [2]string
	for i := range errs {
		group.Go(func() { _, said[i], errs[i] = s.Input(ctx, nil, create...) })
	}
	group.Wait()
	winners := 0
	for i, err := range errs {
		if err == nil {
			winners++
			continue
		}
		assert.Check(t, is.Contains(said[i], "life"), "what the second create says")
	}
	assert.Assert(t, winners >= 1, "%v %v", errs, said)
	_, err := s.WaitHealthy(ctx, "life", 2, 2*time.Minute)
	assert.NilError(t, err)

	// Again it does nothing; with other parameters it says what differs.
	_, err = s.CLI(ctx, create[1:]...)
	assert.NilError(t, err)
	_, err = s.CLI(ctx, "create", "postgres", "life", "--replicas", "2", "--volume-size", "256MiB", "--set", "max_connections=43")
	assert.ErrorContains(t, err, "max_connections")

	setting, err := s.SQL(ctx, "life", "SHOW max_connections")
	assert.NilError(t, err)
	assert.Equal(t, setting, "42")
	_, err = s.SQL(ctx, "life", "CREATE TABLE kept AS SELECT generate_series(1, 10) AS n")
	assert.NilError(t, err)
	stdout, stderr, err := s.Input(ctx, strings.NewReader("SELECT sum(n) FROM kept;"), "openmanage", "connect", "life", "--", "-At")
	assert.NilError(t, err, stderr)
	assert.Equal(t, strings.TrimSpace(stdout), "55")

	list, err := s.CLI(ctx, "ls", "--format", "json")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(list, `"Name":"life"`))
	inspected, err := s.CLI(ctx, "inspect", "life")
	assert.NilError(t, err)
	var document []map[string]any
	assert.NilError(t, json.Unmarshal([]byte(inspected), &document))
	assert.Equal(t, document[0]["primary"], "life-1")
	// Swarm gathers logs from the nodes, and now and then hears of none in time.
	err = product.Until(ctx, time.Minute, "logs of both members", func(ctx context.Context) error {
		stdout, stderr, err := s.Input(ctx, nil, "openmanage", "logs", "life", "--tail", "50")
		all := stdout + stderr // the server logs to standard error
		if err == nil && (!strings.Contains(all, "life-1 |") || !strings.Contains(all, "life-2 |")) {
			err = fmt.Errorf("logs: %q", all)
		}
		return err
	})
	assert.NilError(t, err)
	history, err := s.CLI(ctx, "events", "life")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(history, "created with 2 members"))

	// Nothing that is in use can be deleted, nor OpenManage under it.
	_, err = s.CLI(ctx, "volume", "rm", "life-1", "--yes-delete-data")
	assert.ErrorContains(t, err, "is attached")
	_, err = s.CLI(ctx, "uninstall", "--yes")
	assert.ErrorContains(t, err, "life")

	// Removed, its data stays, and is taken up again only after asking.
	_, err = s.CLI(ctx, "rm", "life", "--yes")
	assert.NilError(t, err)
	volumes, err := s.CLI(ctx, "volume", "ls", "--format", "{{.Name}} {{.State}}")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(volumes, "life-1 retained"))
	_, err = s.CLI(ctx, create[1:]...)
	assert.ErrorContains(t, err, "--yes")
	_, err = s.CLI(ctx, append(create[1:], "--yes")...)
	assert.NilError(t, err)
	rows, err := s.SQL(ctx, "life", "SELECT count(*) FROM kept")
	assert.NilError(t, err)
	assert.Equal(t, rows, "10")
	s.removeApplication(t, ctx, "life")
}
