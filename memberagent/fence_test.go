package memberagent_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
	"github.com/openmanage/openmanage/memberagent/agenttest"
)

func isFenced(s api.MemberStatus) bool { return s.State == api.StateFenced }

func TestAFencedMemberRunsNoServerInWhateverContainer(t *testing.T) {
	t.Parallel()
	m := started(t, memberagent.EnvStopGrace+"=100ms")
	agenttest.Eventually(t, func() error {
		_, err := os.Stat(filepath.Join(m.Volume, "starts"))
		return err
	})
	fenced := alone
	fenced.Term, fenced.Fenced = 4, "fenced by anna@desk since 2026-01-02 03:04:05 UTC"
	m.Order(fenced)
	s := m.Await("the fence", func(s api.MemberStatus) bool { return isFenced(s) && s.Term == 4 })
	assert.Equal(t, len(m.Engines()), 0, "the fence was claimed while the server ran")
	assert.Assert(t, strings.HasPrefix(s.Message, fenced.Fenced+";"), s.Message)
	assert.Equal(t, s.Role, api.Role(""))
	line, err := memberagent.Health(t.Context(), memberagent.Config{Application: m.Application, Member: "pg-1"})
	assert.NilError(t, err, "Swarm must not replace it")
	assert.Assert(t, strings.HasPrefix(line, "fenced ("), line)

	// Another container, another node, other orders that still fence it.
	m.KillAll()
	m.Answer(func(a *api.AgentAnswer) { a.Epoch = 2 })
	m.Start()
	m.Await("the fence", isFenced)
	fenced.Term, fenced.Role, fenced.Primary, fenced.Members = 6, api.RoleStandby, "pg-2", []string{"pg-1", "pg-2"}
	m.Order(fenced)
	m.Await("the term", func(s api.MemberStatus) bool { return isFenced(s) && s.Term == 6 })
	starts, err := os.ReadFile(filepath.Join(m.Volume, "starts"))
	assert.NilError(t, err)
	assert.Equal(t, string(starts), ".", "the server was started again")

	back := alone
	back.Term = 7
	m.Order(back)
	m.Await("the engine", running)
}

func TestAFencedMemberIsAskedToStopAndGoes(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn")
	fenced := alone
	fenced.Fenced = "fenced by me"
	m.Order(fenced)
	m.Stay(true)
	m.Start()
	m.Await("the fence", isFenced)
	m.Signal(syscall.SIGTERM)
	assert.Equal(t, m.Wait(), 0)
}

func TestAFenceEndsACopy(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn")
	orders := api.MemberOrders{Role: api.RoleStandby, Primary: "pg-2", Members: []string{"pg-1", "pg-2"}, Initialized: true}
	m.Order(orders)
	m.Start()
	m.Await("the copy", func(s api.MemberStatus) bool { return s.Message == "copying for ever" })
	orders.Fenced = "fenced by me"
	m.Order(orders)
	m.Await("the fence", isFenced)
	assert.Equal(t, len(m.Engines()), 0)
}

func TestARebuildIsCarriedOutOnce(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn", memberagent.EnvStopGrace+"=100ms")
	assert.NilError(t, os.WriteFile(filepath.Join(m.Volume, "role"), []byte(api.RoleStandby), 0o600))
	orders := api.MemberOrders{Role: api.RoleStandby, Primary: "pg-2", Members: []string{"pg-1", "pg-2"}, Initialized: true, Term: 3}
	m.Order(orders)
	m.Start()
	m.Await("a standby", running)
	copies := func() string {
		data, err := os.ReadFile(filepath.Join(m.Volume, "copies"))
		assert.NilError(t, err)
		return strings.Join(strings.Fields(string(data)), " ")
	}
	rebuilt := func(name string) func(api.MemberStatus) bool {
		return func(s api.MemberStatus) bool { return running(s) && s.Rebuilt == name }
	}

	orders.Rebuild, orders.Term = "pg.one", 4
	m.Order(orders)
	m.Await("the copy", rebuilt("pg.one"))
	assert.Equal(t, copies(), "pg.one")

	// The order is repeated to another container.
	m.KillAll()
	m.Start()
	m.Await("the server", rebuilt("pg.one"))
	assert.Equal(t, copies(), "pg.one")

	orders.Rebuild, orders.Term = "pg.two", 5
	m.Order(orders)
	m.Await("the second copy", rebuilt("pg.two"))
	orders.Rebuild, orders.Term = "pg.one", 6
	m.Order(orders)
	m.Await("the term", func(s api.MemberStatus) bool { return running(s) && s.Term == 6 })
	assert.Equal(t, copies(), "pg.one pg.two", "an old order was carried out again")
}

func TestARebuildWaitsForThePrimaryWhileTheServerRunsOn(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn", memberagent.EnvStopGrace+"=100ms")
	assert.NilError(t, os.WriteFile(filepath.Join(m.Volume, "role"), []byte(api.RoleStandby), 0o600))
	m.Order(api.MemberOrders{Role: api.RoleStandby, Members: []string{"pg-1", "pg-2"}, Initialized: true, Term: 3, Rebuild: "pg.one"})
	m.Start()
	m.Await("that it waits", func(s api.MemberStatus) bool { return s.Message == "the primary is being changed" })
	m.Order(api.MemberOrders{Role: api.RoleStandby, Primary: "pg-2", Members: []string{"pg-1", "pg-2"}, Initialized: true, Term: 4, Rebuild: "pg.one"})
	m.Await("the copy", func(s api.MemberStatus) bool { return running(s) && s.Rebuilt == "pg.one" })
}

func TestDataThatNeedsACopyIsTheLeadersBusinessFirst(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn", memberagent.EnvStopGrace+"=100ms")
	for name, text := range map[string]string{"role": string(api.RolePrimary), "hopeless": ""} {
		assert.NilError(t, os.WriteFile(filepath.Join(m.Volume, name), []byte(text), 0o600))
	}
	orders := api.MemberOrders{Role: api.RoleStandby, Primary: "pg-2", Members: []string{"pg-1", "pg-2"}, Initialized: true, Term: 3, CopyOnOrder: true}
	m.Order(orders)
	m.Start()
	s := m.Await("the question", func(s api.MemberStatus) bool { return s.NeedsCopy != "" && s.Term == 3 })
	assert.Equal(t, s.NeedsCopy, "its history is another")
	assert.Equal(t, s.State, api.StateJoining)
	assert.Equal(t, s.Message, "its data cannot be made to follow pg-2: its history is another; all of it is to be replaced")
	_, err := os.Stat(filepath.Join(m.Volume, "copies"))
	assert.Assert(t, os.IsNotExist(err), "it copied without a word")

	orders.Term, orders.Rebuild = 4, "pg.one"
	m.Order(orders)
	m.Await("the copy", func(s api.MemberStatus) bool { return s.Rebuilt == "pg.one" && s.NeedsCopy == "" })
}
