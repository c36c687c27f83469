package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// each asks every member's own server, and returns what they say.
func (s *suite) each(t *testing.T, ctx context.Context, sql string) map[string]string {
	t.Helper()
	members, err := s.WaitHealthy(ctx, "pg", 3, 2*time.Minute)
	assert.NilError(t, err)
	said := map[string]string{}
	for _, m := range members {
		out, _, err := s.node(t, m.Node).Exec(ctx, "sh", "-c", "docker exec $(docker ps -q --filter label=com.docker.swarm.service.name=pg_"+strings.TrimPrefix(m.Member, "pg-")+`) psql -U postgres -Atc "`+sql+`"`)
		assert.NilError(t, err)
		said[m.Member] = strings.TrimSpace(out)
	}
	return said
}

// all is that every member says the same.
func all(value string) map[string]string {
	return map[string]string{"pg-1": value, "pg-2": value, "pg-3": value}
}

const started = "SELECT pg_postmaster_start_time()"

// withoutSettings has pg with nothing set, also after the test.
func (s *suite) withoutSettings(t *testing.T, ctx context.Context) {
	t.Helper()
	unset := func(ctx context.Context) error {
		_, err := s.CLI(ctx, "config", "pg", "unset", "work_mem", "max_connections", "shared_preload_libraries", "sync_mode")
		return err
	}
	assert.NilError(t, unset(ctx))
	t.Cleanup(func() { assert.Check(t, unset(ctx)) })
}

func settingsChange(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 100)
	s.withoutSettings(t, ctx)
	c := s.startClient(t, ctx, s.other(t))
	before := s.each(t, ctx, started)

	// Reloaded where that is enough.
	out, err := s.CLI(ctx, "config", "pg", "set", "work_mem=16MB")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(out, "In force on pg: work_mem=16MB. Change it in the stack file too"))
	assert.DeepEqual(t, s.each(t, ctx, "SHOW work_mem"), all("16MB"))
	list, err := s.CLI(ctx, "config", "pg", "--format", "{{.Name}} {{.Value}} {{.InForce}} {{.PendingRestart}}")
	assert.NilError(t, err)
	assert.Equal(t, list, "work_mem 16MB 16MB -\n")

	// What the server refuses changes nothing anywhere.
	operations := s.operations(t, ctx)
	for change, words := range map[string]string{
		"vacuum_cost_limit=99999":   `99999 is outside the valid range for parameter "vacuum_cost_limit" (1 .. 10000)`,
		"maintenance_work_mem=many": "expected a size with its unit",
		"vacuum_cost_limt=5":        `did you mean "vacuum_cost_limit"?`,
		"port=5433":                 "port is OpenManage's own",
		"block_size=4096":           "block_size cannot be changed",
	} {
		_, err = s.CLI(ctx, "config", "pg", "set", "work_mem=17MB", change)
		assert.Check(t, is.ErrorContains(err, words))
	}
	assert.DeepEqual(t, s.operations(t, ctx), operations)
	assert.DeepEqual(t, s.each(t, ctx, "SHOW work_mem"), all("16MB"))
	assert.DeepEqual(t, s.each(t, ctx, started), before)

	// Restarted, one at a time, where it is not.
	c.lostNothing(t, ctx)
	for _, connections := range []string{"150", "90"} {
		before = s.each(t, ctx, started)
		_, err = s.CLI(ctx, "config", "pg", "set", "max_connections="+connections)
		assert.NilError(t, err)
		assert.DeepEqual(t, s.each(t, ctx, "SHOW max_connections"), all(connections))
		s.sameDatabase(t, ctx, 100)
		for member, at := range s.each(t, ctx, started) {
			assert.Check(t, at != before[member], "%s was not restarted", member)
		}
		t.Logf("max_connections=%s: %s without a write", connections, c.lostNothing(t, ctx))
	}

	// With a library that is not there no server starts: one standby tries it.
	before = s.each(t, ctx, started)
	first := primary(t, s.sameDatabase(t, ctx, 100)).Member
	_, err = s.CLI(ctx, "config", "pg", "set", "shared_preload_libraries=no_such_library", "work_mem=32MB")
	assert.ErrorContains(t, err, "did not come up")
	assert.ErrorContains(t, err, "The former settings are in force again")
	assert.Equal(t, primary(t, s.sameDatabase(t, ctx, 100)).Member, first)
	assert.DeepEqual(t, s.each(t, ctx, "SHOW work_mem"), all("16MB"))
	restarted := 0
	for member, at := range s.each(t, ctx, started) {
		if at != before[member] {
			restarted++
		}
	}
	assert.Equal(t, restarted, 1)
	t.Logf("a value with which no server starts: %s without a write", c.lostNothing(t, ctx))

	// What the leader goes by is changed in the same way.
	_, err = s.CLI(ctx, "config", "pg", "set", "sync_mode=off", "unset", "work_mem")
	assert.NilError(t, err)
	assert.DeepEqual(t, s.each(t, ctx, "SHOW work_mem"), all("4MB"))
	list, err = s.CLI(ctx, "config", "pg")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(list, "sync_mode"), list)
}

// The leader may die at any step of a change of settings.
func TestSettingsChangeGoesOnAfterTheLeadersDeath(t *testing.T) {
	onlyLong(t, "TestOperationsOutliveTheirLeaders")
	s, ctx := swarm(t)
	s.withFailpoints(t, ctx)
	s.database(t, ctx, 100)
	s.withoutSettings(t, ctx)
	for i, point := range []string{"operation:config", "config:labelled", "config:ordered", "operation:ending"} {
		connections := fmt.Sprint(120 - i%2*10)
		s.arm(t, ctx, point)
		_, err := s.CLI(ctx, "config", "pg", "set", "max_connections="+connections)
		assert.Check(t, s.disarm(t, ctx, point) > 0, "nobody came by %s", point)
		assert.NilError(t, err, point)
		assert.DeepEqual(t, s.each(t, ctx, "SHOW max_connections"), all(connections))
		s.sameDatabase(t, ctx, 100)
	}
}
