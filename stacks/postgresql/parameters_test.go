package postgresql

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/stacks"
)

// want orders settings of all members; those of the environment are kept.
func (c *cluster) want(parameters string) {
	c.orders.Parameters = parameters
	c.order()
}

// has waits until a member has read the settings that are ordered and is like that.
func (c *cluster) has(member, what string, like func(api.MemberStatus) bool) api.MemberStatus {
	c.t.Helper()
	return c.members[member].Await(what, func(s api.MemberStatus) bool {
		return healthy(s) && s.Parameters == api.ParametersID(c.orders.Parameters) && like(s)
	})
}

// restart orders one member to restart, and waits until it has.
func (c *cluster) restart(member string) {
	c.t.Helper()
	before := postmaster(c.t, c.members[member])
	c.orderRestart(member)
	c.has(member, "a server that was restarted", func(s api.MemberStatus) bool {
		return s.StartedWith == api.ParametersID(c.orders.Parameters) && s.PendingRestart == ""
	})
	c.order()
	assert.Assert(c.t, postmaster(c.t, c.members[member]) != before)
}

func (c *cluster) orderRestart(member string) {
	orders := c.orders
	orders.Restart, orders.Role = true, api.RoleStandby
	if member == orders.Primary {
		orders.Role = api.RolePrimary
	}
	c.members[member].Order(orders)
}

func pending(names string) func(api.MemberStatus) bool {
	return func(s api.MemberStatus) bool { return s.PendingRestart == names }
}

func TestSettingsThatCanBeAreReloaded(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	pids := map[string]int{}
	for name, m := range c.members {
		pids[name] = postmaster(t, m)
		assert.Equal(t, c.must(name, "SHOW work_mem"), "4MB")
	}
	c.want(`{"shared_buffers":"16MB","work_mem":"16MB","search_path":"\"it's\", c"}`)
	for _, name := range c.names {
		c.has(name, "nothing that waits for a restart", pending(""))
		assert.Equal(t, c.must(name, "SHOW work_mem"), "16MB")
		assert.Equal(t, c.must(name, "SHOW search_path"), `"it's", c`)
	}
	c.want(`{"shared_buffers":"16MB"}`)
	for _, name := range c.names {
		c.has(name, "nothing that waits for a restart", pending(""))
		assert.Equal(t, c.must(name, "SHOW work_mem"), "4MB", "it was taken back")
		assert.Equal(t, postmaster(t, c.members[name]), pids[name], "%s was restarted", name)
	}
}

func TestSettingsThatTakeARestartWaitForIt(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	c.want(`{"shared_buffers":"24MB"}`)
	for _, name := range c.names {
		c.has(name, "what waits for a restart", pending("shared_buffers"))
		assert.Equal(t, c.must(name, "SHOW shared_buffers"), "16MB")
	}
	for _, name := range []string{"pg-2", "pg-1"} {
		c.restart(name)
		assert.Equal(t, c.must(name, "SHOW shared_buffers"), "24MB")
	}
	c.must("pg-1", "INSERT INTO t VALUES (1001)")
	c.eventually("pg-2", countAll, "1001 1 1001")
	// And is wanted no more before it comes.
	c.want(`{"shared_buffers":"32MB"}`)
	c.has("pg-2", "what waits for a restart", pending("shared_buffers"))
	c.want(`{"shared_buffers":"24MB"}`)
	c.has("pg-2", "nothing that waits for a restart", pending(""))
}

func TestSettingsThatTheServerRefusesChangeNothing(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	pid := postmaster(t, c.members["pg-2"])
	c.want(`{"shared_buffers":"16MB","work_mem":"8MB"}`)
	for _, name := range c.names {
		c.has(name, "the settings", pending(""))
	}
	for parameters, words := range map[string]string{
		`{"shared_buffers":"16MB","work_mem":"many"}`:     `invalid value for parameter "work_mem": "many"`,
		`{"shared_buffers":"16MB","work_mem":"1kB"}`:      `1 kB is outside the valid range for parameter "work_mem" (64`,
		`{"shared_buffers":"16MB","no_such_setting":"1"}`: `unrecognized configuration parameter "no_such_setting"`,
		`{"shared_buffers":"16MB","wal_level":"none"}`:    `Available values: minimal, replica, logical`,
		`{"shared_buffers":"16MB","block_size":"4096"}`:   `parameter "block_size" cannot be changed`,
		`{"port":"5433"}`: "the setting port is OpenManage's own",
		`{`:               "no JSON object",
	} {
		c.orders.Term++ // it comes in line all the same
		c.want(parameters)
		for _, name := range c.names {
			s := c.inLine(name)
			assert.Check(t, is.Contains(s.Refused, words))
			assert.Equal(t, c.must(name, "SHOW work_mem"), "8MB")
		}
	}
	c.want(`{"shared_buffers":"16MB","work_mem":"9MB"}`)
	s := c.has("pg-2", "the settings", pending(""))
	assert.Equal(t, s.Refused, "")
	assert.Equal(t, c.must("pg-2", "SHOW work_mem"), "9MB")
	assert.Equal(t, postmaster(t, c.members["pg-2"]), pid)
}

// A standby that has less connections than its primary does not apply the WAL.
func TestConnectionsGrowOnStandbysFirstAndShrinkOnThePrimaryFirst(t *testing.T) {
	t.Parallel()
	c := replicating(t, 3)
	value := func(want string) {
		t.Helper()
		row := c.must("pg-1", "INSERT INTO t SELECT max(n) + 1 FROM t RETURNING n")
		for _, name := range c.names {
			assert.Equal(t, c.must(name, "SHOW max_connections"), want, name)
			c.eventually(name, "SELECT max(n) FROM t", row)
		}
	}
	c.want(`{"shared_buffers":"16MB","max_connections":"150"}`)
	for _, name := range c.names {
		s := c.has(name, "what waits for a restart", pending("max_connections"))
		assert.Equal(t, s.PrimaryFirst, "")
	}
	for _, name := range []string{"pg-3", "pg-2", "pg-1"} {
		c.restart(name)
	}
	value("150")

	// Less is held back on standbys, whatever restarts them.
	c.want(`{"shared_buffers":"24MB","max_connections":"50"}`)
	first := func(s api.MemberStatus) bool { return s.PrimaryFirst == "max_connections" }
	c.has("pg-1", "what waits for a restart of the primary", func(s api.MemberStatus) bool {
		return s.PendingRestart == "max_connections,shared_buffers" && first(s)
	})
	for _, name := range []string{"pg-2", "pg-3"} {
		s := c.has(name, "what it holds back", first)
		assert.Equal(t, s.PendingRestart, "shared_buffers")
	}
	c.restart("pg-3")
	c.has("pg-3", "what it holds back still", first)
	assert.Equal(t, c.must("pg-3", "SHOW max_connections"), "150")
	c.restart("pg-1")
	s := c.has("pg-3", "what waits for another restart", pending("max_connections"))
	assert.Equal(t, s.PrimaryFirst, "")
	c.has("pg-2", "what waits for a restart", pending("max_connections,shared_buffers"))
	c.restart("pg-2")
	c.restart("pg-3")
	value("50")

	// The same for one that the user no longer sets.
	c.want(`{"shared_buffers":"24MB","max_connections":"120"}`)
	for _, name := range []string{"pg-3", "pg-2", "pg-1"} {
		c.has(name, "what waits for a restart", pending("max_connections"))
		c.restart(name)
	}
	c.want(`{"shared_buffers":"24MB"}`)
	for _, name := range c.names {
		c.has(name, "what the primary must have first", first)
	}
	c.restart("pg-1")
	for _, name := range []string{"pg-2", "pg-3"} {
		c.has(name, "what waits for a restart", pending("max_connections"))
		c.restart(name)
	}
	value("100")
}

func TestAPromotedStandbyHoldsNothingBackAnyMore(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	c.want(`{"shared_buffers":"16MB","max_connections":"50"}`)
	c.has("pg-2", "what it holds back", func(s api.MemberStatus) bool { return s.PrimaryFirst == "max_connections" })
	c.members["pg-1"].KillAll()
	c.nobody()
	c.elect("pg-2", c.inLine("pg-2"))
	s := c.has("pg-2", "what waits for a restart", func(s api.MemberStatus) bool {
		return s.Role == api.RolePrimary && s.PendingRestart == "max_connections"
	})
	assert.Equal(t, s.PrimaryFirst, "max_connections")
}

func TestAServerThatDoesNotStartComesBackWithTheFormerSettings(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	c.want(`{"shared_buffers":"16MB"}`)
	c.has("pg-2", "the settings", pending(""))
	c.want(`{"shared_buffers":"16MB","shared_preload_libraries":"no_such_library"}`)
	c.has("pg-2", "what waits for a restart", pending("shared_preload_libraries"))
	c.orderRestart("pg-2")
	c.members["pg-2"].Await("a server that does not start", func(s api.MemberStatus) bool { return s.State == api.StateFailed })
	assert.Equal(t, c.members["pg-2"].Status().StartedWith, "")
	c.want(`{"shared_buffers":"16MB"}`)
	c.has("pg-2", "the former settings", pending(""))
	c.must("pg-1", "INSERT INTO t VALUES (1001)")
	c.eventually("pg-2", countAll, "1001 1 1001")
}

func TestOrdersWinOverTheEnvironment(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1) // shared_buffers=16MB
	c.want(`{"shared_buffers":"20MB"}`)
	c.bootstrap()
	assert.Equal(t, c.must("pg-1", "SHOW shared_buffers"), "20MB")
	c.want("") // a leader that has no word of them
	c.has("pg-1", "what waits for a restart", pending("shared_buffers"))
	c.restart("pg-1")
	assert.Equal(t, c.must("pg-1", "SHOW shared_buffers"), "16MB")
}

func TestTheCatalogReservesWhatTheEngineOwns(t *testing.T) {
	catalog, err := stacks.Builtin()
	assert.NilError(t, err)
	app, err := catalog.Find("postgresql")
	assert.NilError(t, err)
	assert.DeepEqual(t, app.Reserved, append(slices.Clone(owned), "recovery_*"))
	assert.Assert(t, app.Reserves("recovery_target") && app.Reserves("Port") && !app.Reserves("work_mem"))
	for _, p := range app.Parameters {
		if p.Label == "" {
			assert.NilError(t, checkParameters(map[string]string{p.Name: "1"}))
		}
	}
}

func TestARefusalIsShort(t *testing.T) {
	err := fmt.Errorf("exit status 1: %s", "2026-01-01 10:00:00.000 GMT [77] FATAL:  invalid value for parameter \"work_mem\": \"many\"\n2026-01-01 10:00:00.000 GMT [77] HINT:  Valid units are \"kB\".\n")
	assert.Equal(t, refusal(err), `invalid value for parameter "work_mem": "many"; Valid units are "kB"`)
	assert.Equal(t, refusal(fmt.Errorf("exit status 1")), "exit status 1")
	assert.Assert(t, !strings.Contains(refusal(err), "2026"))
}
