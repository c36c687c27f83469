package volumeplugin

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/docker/go-plugins-helpers/volume"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarmpki/pkitest"
)

// servedMember is a node with the mounted volume of pg-1, and the folder of its
// runtime volume.
func servedMember(t *testing.T) (n *testNode, l *fakeLeader, dir string) {
	t.Helper()
	l = newLeader()
	l.declare("pg-1", func(v *api.Volume) { v.Application, v.Member = "pg", "pg-1" })
	n = newNode(t, "a", t.TempDir(), l)
	name := "pg-1" + api.RuntimeSuffix
	assert.NilError(t, driver{n.plugin}.Create(&volume.CreateRequest{Name: name}))
	dir = n.mustMount(name, "id")
	n.mustMount("pg-1", "id")
	return n, l, dir
}

func order(l *fakeLeader, orders api.MemberOrders) {
	l.set(func() { l.orders = []api.MemberOrders{orders} })
}

// While a member was elsewhere, or its lease was over, another may have become the
// primary: its old orders must not reach a new container.
func TestOrdersFromBeforeTheMountAreVoid(t *testing.T) {
	n, l, dir := servedMember(t)
	order(l, api.MemberOrders{Member: "pg-1", Role: api.RolePrimary, Term: 3})
	member := api.MemberStatus{Member: "pg-1", State: api.StateWaiting}
	eventually(t, "orders", func() bool { return ask(t, dir, member).Orders != nil })

	assert.NilError(t, n.unmount("pg-1", "id"))
	eventually(t, "released", func() bool { return l.record("pg-1").Owner == nil })
	l.set(func() { l.orders = nil })
	n.mustMount("pg-1", "id2")
	answer := ask(t, dir, member)
	assert.Assert(t, answer.Lease > 0)
	assert.Assert(t, answer.Orders == nil, "a new container is told what held for the one before")

	order(l, api.MemberOrders{Member: "pg-1", Role: api.RoleStandby, Primary: "pg-2", Term: 5})
	eventually(t, "new orders", func() bool {
		o := ask(t, dir, member).Orders
		return o != nil && o.Term == 5
	})
}

func TestNobodyBecomesThePrimaryWhereAPromiseStillHolds(t *testing.T) {
	n, l, dir := servedMember(t)
	order(l, api.MemberOrders{Member: "pg-1", Role: api.RoleStandby, Primary: "pg-2", Term: 1})
	standby := api.MemberStatus{Member: "pg-1", State: api.StateRunning, Role: api.RoleStandby}
	eventually(t, "orders", func() bool { return ask(t, dir, standby).Orders != nil })

	n.plugin.mu.Lock()
	n.plugin.promised["pg-2"] = n.plugin.now() + api.LeaseDuration
	n.plugin.mu.Unlock()
	order(l, api.MemberOrders{Member: "pg-1", Role: api.RolePrimary, Primary: "pg-1", Term: 3})
	n.plugin.kick()
	eventually(t, "the orders of term 3", func() bool { return ask(t, dir, standby).Orders.Term == 3 })
	orders := ask(t, dir, standby).Orders
	assert.Equal(t, orders.Role, api.Role(""))
	assert.Assert(t, strings.Contains(orders.Reason, "has promised"), orders.Reason)
	primary := standby
	primary.Role = api.RolePrimary
	assert.Equal(t, ask(t, dir, primary).Orders.Role, api.RolePrimary, "who is it already goes on")

	n.plugin.mu.Lock()
	n.plugin.promised["pg-2"] = n.plugin.now()
	n.plugin.mu.Unlock()
	assert.Equal(t, ask(t, dir, standby).Orders.Role, api.RolePrimary)
}

func TestTheLeaderHearsAtOnceOfWhatItWaitsFor(t *testing.T) {
	n, l, dir := servedMember(t)
	status := api.MemberStatus{Member: "pg-1", State: api.StateRunning, Term: 1}
	ask(t, dir, status)
	heard := func(term uint64) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		last := l.reports[len(l.reports)-1]
		return len(last.Members) == 1 && last.Members[0].Term == term
	}
	eventually(t, "term 1", func() bool { return heard(1) })
	// The next report by the clock is up to api.ReportInterval away: hold it back.
	for {
		l.mu.Lock()
		before := len(l.reports)
		l.mu.Unlock()
		status.Term++
		ask(t, dir, status)
		start := n.plugin.now()
		eventually(t, "the new term", func() bool { return heard(status.Term) })
		if n.plugin.now()-start < api.ReportInterval/2 {
			break // a report that was due anyway may come as early, but not five times
		}
		l.mu.Lock()
		after := len(l.reports)
		l.mu.Unlock()
		assert.Assert(t, after > before && status.Term < 6, "no word of a change came before its time")
	}
}

func TestNewsReachTheAgentWithoutAQuestion(t *testing.T) {
	n, l, dir := servedMember(t)
	order(l, api.MemberOrders{Member: "pg-1", Role: api.RolePrimary, Term: 1})
	member := api.MemberStatus{Member: "pg-1", State: api.StateRunning}
	eventually(t, "orders", func() bool { return ask(t, dir, member).Orders != nil })

	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "plugin.sock"))
	}}}
	news := func(seq uint64) uint64 {
		res, err := client.Get("http://plugin/v1/news?seq=" + strconv.FormatUint(seq, 10))
		assert.NilError(t, err)
		defer res.Body.Close()
		var answer struct{ Seq uint64 }
		assert.NilError(t, json.NewDecoder(res.Body).Decode(&answer))
		return answer.Seq
	}
	seq := news(1 << 60) // not what it knows: answered at once
	answered := make(chan uint64, 1)
	go func() { answered <- news(seq) }()
	order(l, api.MemberOrders{Member: "pg-1", Role: api.RoleStandby, Term: 2})
	n.plugin.kick()
	select {
	case next := <-answered:
		assert.Assert(t, next > seq)
	case <-time.After(newsTimeout / 2):
		t.Fatal("orders have changed and the agent does not hear of it")
	}
	assert.Equal(t, ask(t, dir, member).Orders.Term, uint64(2))
}

func TestOnlyAManagerNudges(t *testing.T) {
	_, ca, url := servedPeer(t)
	url = strings.TrimSuffix(url, "promise") + "nudge"
	nudge := func(role string) int {
		res, err := dial(asNode(ca, t, pkitest.Node{ID: "m1", Role: role})).Post(url, "", nil)
		assert.NilError(t, err)
		res.Body.Close()
		return res.StatusCode
	}
	assert.Equal(t, nudge("swarm-worker"), http.StatusForbidden)
	assert.Equal(t, nudge("swarm-manager"), http.StatusOK)
}

// Its last word, that it is the primary, must not outlive the container: another is to
// take its place.
func TestTheWordOfAMemberEndsWithItsContainer(t *testing.T) {
	n, l, dir := servedMember(t)
	ask(t, dir, api.MemberStatus{Member: "pg-1", State: api.StateRunning, Role: api.RolePrimary, Healthy: true})
	assert.Equal(t, len(n.plugin.buildReport().Members), 1)
	assert.NilError(t, n.unmount("pg-1", "id"))
	assert.Equal(t, len(n.plugin.buildReport().Members), 0)
	eventually(t, "the leader knows", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.reports[len(l.reports)-1].Members) == 0
	})
	ask(t, dir, api.MemberStatus{Member: "pg-1", State: api.StateWaiting})
	assert.Equal(t, len(n.plugin.buildReport().Members), 1, "the next container speaks")
}
