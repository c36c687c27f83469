package zabbix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/inventory"
)

const secret = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a6978"

// logbook collects log lines.
type logbook struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// scene is a Zabbix, a Swarm, and what a provisioner of theirs says.
type scene struct {
	zabbix *fakeZabbix
	log    *logbook
	good   string

	mu    sync.Mutex
	state inventory.State
}

func nodes(hostnames ...string) []inventory.Node {
	var all []inventory.Node
	for _, name := range hostnames {
		all = append(all, inventory.Node{Hostname: name})
	}
	return all
}

func newScene(t *testing.T) *scene {
	s := &scene{zabbix: newFakeZabbix(t), log: &logbook{}, good: filepath.Join(t.TempDir(), "run", "good"), state: inventory.State{
		Nodes: nodes("node1", "node2"),
		Members: []inventory.Member{
			{Name: "pg-1", Application: "pg", Role: "primary", State: "running", Healthy: true, Usage: api.Usage{Used: 425, Free: 575}},
			{Name: "zb-1", Application: "zb", Role: "member", State: "starting"},
		},
	}}
	t.Cleanup(func() { // whatever the test was about
		for line := range strings.Lines(s.log.String()) {
			assert.Check(t, !strings.Contains(line, secret), line)
			assert.Check(t, !strings.Contains(line, "session1"), line)
			assert.Check(t, strings.HasPrefix(line, "{") && strings.HasSuffix(line, "}\n"), line)
		}
	})
	return s
}

func (s *scene) config() Config {
	return Config{
		Application: "zb", API: s.zabbix.URL + "/api_jsonrpc.php", Password: secret, Good: s.good,
		Log:   hclog.New(&hclog.LoggerOptions{JSONFormat: true, Output: s.log}),
		State: func(context.Context) (inventory.State, error) { s.mu.Lock(); defer s.mu.Unlock(); return s.state, nil },
		// As fast as it goes.
		interval: time.Millisecond, first: time.Millisecond,
	}
}

// started is a provisioner that has done one good round.
func (s *scene) started(t *testing.T) *provisioner {
	t.Helper()
	p := newProvisioner(s.config())
	assert.NilError(t, p.round(t.Context()))
	return p
}

func (s *scene) change(edit func(*inventory.State)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	edit(&s.state)
}

// run runs a provisioner until the test ends, and returns what ends it sooner.
func (s *scene) run(t *testing.T, c Config) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, c) }()
	stop = sync.OnceValue(func() error { cancel(); return <-done })
	t.Cleanup(func() { _ = stop() })
	return stop
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if done() {
			return poll.Success()
		}
		return poll.Continue("%s", what)
	}, poll.WithTimeout(10*time.Second), poll.WithDelay(2*time.Millisecond))
}

func TestTheFirstStartChangesThePasswordAndMakesHosts(t *testing.T) {
	s := newScene(t)
	assert.ErrorContains(t, Check(s.good), "nothing is set up in Zabbix yet")
	s.started(t)
	assert.Equal(t, s.zabbix.password, secret)
	assert.DeepEqual(t, s.zabbix.logins, []string{secret, initialPassword, secret})
	assert.NilError(t, Check(s.good))

	assert.DeepEqual(t, s.zabbix.hostNames(), []string{"node1", "node2", "pg-1", "zb-1"})
	template := func(name string) any {
		for _, o := range s.zabbix.objects["template"] {
			if o["host"] == name {
				return o["templateid"]
			}
		}
		return nil
	}
	group := s.zabbix.objects["hostgroup"][0]
	assert.Equal(t, group["name"], "Docker Swarm")
	groups := []any{object{"groupid": group["groupid"]}}
	assert.DeepEqual(t, s.zabbix.hostNamed("node1"), object{
		"hostid": s.zabbix.hostNamed("node1")["hostid"], "host": "node1", "status": 0.0, "groups": groups,
		"templates": []any{object{"templateid": template(linuxTemplate)}},
		"tags":      []any{object{"tag": "openmanage", "value": "node"}, object{"tag": "application", "value": "zb"}},
	})
	assert.DeepEqual(t, s.zabbix.hostNamed("pg-1"), object{
		"hostid": s.zabbix.hostNamed("pg-1")["hostid"], "host": "pg-1", "status": 0.0, "groups": groups,
		"templates": []any{object{"templateid": template("OpenManage member")}},
		"tags":      []any{object{"tag": "openmanage", "value": "member"}, object{"tag": "application", "value": "pg"}},
	})
	assert.DeepEqual(t, s.zabbix.history, map[string]any{
		"pg-1/openmanage.healthy": 1.0, "pg-1/openmanage.role": "primary", "pg-1/openmanage.state": "running", "pg-1/openmanage.disk.percent": 42.5,
		"zb-1/openmanage.healthy": 0.0, "zb-1/openmanage.role": "member", "zb-1/openmanage.state": "starting",
	})
	assert.Equal(t, len(s.zabbix.objects["item"]), 4)
	for _, item := range s.zabbix.objects["item"] {
		assert.Equal(t, item["type"], 2.0, "a trapper")
	}
	trigger := s.zabbix.objects["trigger"][0]
	assert.Equal(t, trigger["expression"], "max(/OpenManage member/openmanage.healthy,2m)=0")
	assert.Equal(t, trigger["description"], "{HOST.NAME} is not healthy")
}

// Another start, and another round, make nothing anew.
func TestTheSecondStartFindsAll(t *testing.T) {
	s := newScene(t)
	s.started(t)
	s.zabbix.calls, s.zabbix.logins = nil, nil
	p := s.started(t)
	assert.DeepEqual(t, s.zabbix.logins, []string{secret})
	assert.NilError(t, p.round(t.Context()))
	assert.Equal(t, len(s.zabbix.logins), 1, "the session is used on")
	for _, call := range s.zabbix.calls {
		assert.Check(t, !strings.HasSuffix(call, ".create") && !strings.HasSuffix(call, ".update") && !strings.HasSuffix(call, ".delete"), call)
	}
}

func TestASessionThatEndedIsBegunAnew(t *testing.T) {
	s := newScene(t)
	p := s.started(t)
	clear(s.zabbix.sessions)
	s.zabbix.logins = nil
	assert.NilError(t, p.round(t.Context()))
	assert.DeepEqual(t, s.zabbix.logins, []string{secret})
}

// A change of the password that fails is no good round, and nothing is done with the initial one.
func TestNothingIsDoneWithTheInitialPassword(t *testing.T) {
	s := newScene(t)
	s.zabbix.fail["user.update"] = refuse(-32603, "the database says "+secret)
	p := newProvisioner(s.config())
	err := p.round(t.Context())
	assert.ErrorContains(t, err, "change the initial password of Admin")
	p.Log.Error("as Run logs it", "error", p.clean(err)) // looked at when the test ends
	assert.Check(t, is.Contains(s.log.String(), "the database says ***"))
	assert.Equal(t, len(s.zabbix.sessions), 0)
	assert.Equal(t, len(s.zabbix.hostNames()), 0)
	assert.Assert(t, Check(s.good) != nil)
	assert.NilError(t, p.round(t.Context()))
	assert.Equal(t, s.zabbix.password, secret)
	assert.NilError(t, Check(s.good))
}

func TestWhatIsGoneIsTakenOut(t *testing.T) {
	s := newScene(t)
	p := s.started(t)
	s.change(func(state *inventory.State) {
		state.Nodes, state.Members = state.Nodes[:1], state.Members[1:]
		state.Incomplete = "a record cannot be read"
	})
	assert.NilError(t, p.round(t.Context()))
	assert.DeepEqual(t, s.zabbix.hostNames(), []string{"node1", "pg-1", "zb-1"})
	assert.Check(t, is.Contains(s.log.String(), "a record cannot be read; hosts of members that are gone stay"))
	s.change(func(state *inventory.State) { state.Incomplete = "" })
	assert.NilError(t, p.round(t.Context()))
	assert.DeepEqual(t, s.zabbix.hostNames(), []string{"node1", "zb-1"})
	assert.Check(t, is.Contains(s.log.String(), `"a host was removed"`))
}

func TestAUsersHostsAreNotTouched(t *testing.T) {
	s := newScene(t)
	own := object{"host": "node2", "status": 1, "tags": []any{object{"tag": "openmanage", "value": "mine"}}, "groups": []any{}, "templates": []any{}}
	s.zabbix.add("host", own)
	s.zabbix.add("host", object{"host": "router", "tags": []any{}})
	before := fmt.Sprint(own)
	p := s.started(t)
	assert.NilError(t, Check(s.good), "one name that is taken is no reason to call it ill")
	assert.Equal(t, fmt.Sprint(own), before)
	assert.DeepEqual(t, s.zabbix.hostNames(), []string{"node1", "node2", "pg-1", "router", "zb-1"})
	const said = `there is a host \"node2\" that is not OpenManage's, so the node node2 is not monitored; rename that host, or give it the tag openmanage: node`
	assert.NilError(t, p.round(t.Context()))
	assert.Equal(t, strings.Count(s.log.String(), said), 1, "once, and not each round: %s", s.log)

	// As told.
	own["tags"] = []any{object{"tag": "openmanage", "value": "node"}, object{"tag": "site", "value": "a"}}
	assert.NilError(t, p.round(t.Context()))
	taken := s.zabbix.hostNamed("node2")
	assert.Equal(t, taken["status"], 0.0)
	assert.DeepEqual(t, taken["tags"], []any{object{"tag": "openmanage", "value": "node"}, object{"tag": "site", "value": "a"}, object{"tag": "application", "value": "zb"}})
	assert.Check(t, is.Contains(s.log.String(), "everything is monitored"))
}

// What a user has added to a host of OpenManage's stays; what it needs comes back.
func TestAHostGetsBackWhatItLacks(t *testing.T) {
	s := newScene(t)
	p := s.started(t)
	for _, h := range s.zabbix.objects["host"] {
		if h["host"] == "node1" {
			h["status"], h["templates"] = 1, []any{object{"templateid": "77"}}
			h["groups"] = append(h["groups"].([]any), object{"groupid": "5"})
		}
	}
	assert.NilError(t, p.round(t.Context()))
	node := s.zabbix.hostNamed("node1")
	assert.Equal(t, node["status"], 0.0)
	assert.Equal(t, len(node["groups"].([]any)), 2)
	templates := node["templates"].([]any)
	assert.Equal(t, len(templates), 2)
	assert.DeepEqual(t, templates[0], object{"templateid": "77"})
}

func TestNodesOfOneHostnameAreOneHost(t *testing.T) {
	assert.DeepEqual(t, hostnames(inventory.State{Nodes: nodes("node1", "", "node2", "node1")}), []string{"node1", "node2"})
}

func TestANodeAndAMemberOfOneName(t *testing.T) {
	s := newScene(t)
	s.change(func(state *inventory.State) { state.Nodes = append(state.Nodes, nodes("pg-1")...) })
	s.started(t)
	assert.DeepEqual(t, s.zabbix.hostNames(), []string{"node1", "node2", "pg-1", "zb-1"})
	assert.Check(t, is.Contains(s.log.String(), "a node and a member are both called pg-1"))
	_, pushed := s.zabbix.history["pg-1/openmanage.healthy"]
	assert.Assert(t, !pushed)
}

// What Zabbix will not do with one host does not keep the others from being right.
func TestAHostThatZabbixWillNotRemove(t *testing.T) {
	s := newScene(t)
	p := s.started(t)
	s.change(func(state *inventory.State) { state.Nodes = nodes("node1", "node3") })
	s.zabbix.fail["host.delete"] = refuse(codeParameters, `Cannot delete host "node2" because maintenance "m" must contain at least one host or host group.`)
	assert.NilError(t, p.round(t.Context()))
	assert.DeepEqual(t, s.zabbix.hostNames(), []string{"node1", "node2", "node3", "pg-1", "zb-1"})
	assert.Check(t, is.Contains(s.log.String(), "host node2, whose node is gone, cannot be removed"))
}

func TestWithoutTheTemplateForNodesMembersAreMonitored(t *testing.T) {
	s := newScene(t)
	s.zabbix.objects["template"] = nil
	s.started(t)
	assert.DeepEqual(t, s.zabbix.hostNames(), []string{"pg-1", "zb-1"})
	assert.Check(t, is.Contains(s.log.String(), `there is no template \"Linux by Zabbix agent active\"`))
}

// The server learns of new hosts some seconds later: that is no trouble, but later it is.
func TestValuesThatAreNotTaken(t *testing.T) {
	s := newScene(t)
	s.zabbix.lagging = true
	p := s.started(t)
	assert.Check(t, !strings.Contains(s.log.String(), "does not take it"))
	for name := range p.made {
		p.made[name] = time.Now().Add(-2 * untilKnown)
	}
	assert.NilError(t, p.round(t.Context()))
	assert.Check(t, is.Contains(s.log.String(), "openmanage.healthy of host pg-1: Zabbix does not take it: No permissions"))
	s.zabbix.lagging = false
	assert.NilError(t, p.round(t.Context()))
	assert.Check(t, is.Contains(s.log.String(), "everything is monitored"))
}

// Two at once, as while Swarm moves it, do no harm.
func TestTwoAtOnce(t *testing.T) {
	s := newScene(t)
	s.change(func(state *inventory.State) {
		for i := range 50 {
			state.Nodes = append(state.Nodes, nodes(fmt.Sprintf("other%d", i))...)
		}
	})
	var both sync.WaitGroup
	failures := make([]error, 2)
	for i := range failures {
		both.Go(func() {
			p := newProvisioner(s.config())
			failures[i] = p.round(t.Context())
			if failures[i] != nil { // the other has ended its session with the change of the password
				failures[i] = p.round(t.Context())
			}
		})
	}
	both.Wait()
	assert.NilError(t, errors.Join(failures...))
	assert.Equal(t, len(s.zabbix.hostNames()), 54)
	assert.Equal(t, len(s.zabbix.objects["item"]), 4)
	assert.Equal(t, len(s.zabbix.objects["trigger"]), 1)

	// They can have been faster than Zabbix's own check.
	node := s.zabbix.hostNamed("node1")
	first := node["hostid"]
	s.zabbix.add("host", node)
	s.started(t)
	assert.Equal(t, len(s.zabbix.hostNames()), 54)
	assert.Equal(t, s.zabbix.hostNamed("node1")["hostid"], first, "the older one stays")

	// What the other has deleted meanwhile is gone.
	p := s.started(t)
	assert.Equal(t, len(p.removeHosts(t.Context(), []host{{ID: "7", Name: "gone"}})), 0)
}

func TestTheAPIIsDownAndComesBack(t *testing.T) {
	s := newScene(t)
	s.zabbix.down = true
	stop := s.run(t, s.config())
	const said = "user.login: the web front end answers 502 Bad Gateway"
	eventually(t, "a failed round in the log", func() bool { return strings.Contains(s.log.String(), said) })
	assert.Assert(t, Check(s.good) != nil)
	s.zabbix.change(func() { s.zabbix.down = false; s.zabbix.fail["user.login"] = refuse(-32603, "no database") })
	eventually(t, "a good round", func() bool { return Check(s.good) == nil })
	assert.Check(t, is.Contains(s.log.String(), "user.login: Internal error. no database"))

	s.zabbix.change(func() { s.zabbix.down = true })
	s.change(func(state *inventory.State) { state.Nodes = state.Nodes[:1] })
	eventually(t, "another failed round", func() bool {
		return strings.Contains(s.log.String(), "user.checkAuthentication: the web front end answers 502")
	})
	s.zabbix.change(func() { s.zabbix.down = false })
	eventually(t, "the node taken out", func() bool { return s.zabbix.hostNamed("node2") == nil })

	assert.NilError(t, stop())
	assert.Equal(t, len(s.zabbix.sessions), 0, "no session is left open")
}

func TestAWrongPassword(t *testing.T) {
	s := newScene(t)
	s.zabbix.password = "somebody-elses"
	c := s.config()
	c.denied = time.Hour
	stop := s.run(t, c)
	eventually(t, "what to do in the log", func() bool {
		return strings.Contains(s.log.String(), "change it back there to what `docker openmanage credentials zb` shows") && strings.Contains(s.log.String(), "secret zb_admin-password")
	})
	assert.DeepEqual(t, s.zabbix.logins, []string{secret, initialPassword}) // more would lock Admin out for everybody
	assert.Check(t, is.Contains(s.log.String(), `"again_in":"10m0s"`))
	assert.NilError(t, stop())
	assert.Assert(t, Check(s.good) != nil)
}

// Once the password has been taken, the initial one is not tried any more.
func TestAPasswordThatSomebodyChangesLater(t *testing.T) {
	s := newScene(t)
	p := s.started(t)
	s.zabbix.password = "somebody-elses"
	clear(s.zabbix.sessions)
	s.zabbix.logins = nil
	err := p.round(t.Context())
	assert.ErrorIs(t, err, errDenied)
	assert.DeepEqual(t, s.zabbix.logins, []string{secret})
}

func TestTheSwarmCannotBeRead(t *testing.T) {
	s := newScene(t)
	c := s.config()
	c.State = func(context.Context) (inventory.State, error) { return inventory.State{}, errors.New("no leader") }
	assert.ErrorContains(t, newProvisioner(c).round(t.Context()), "no leader")
	assert.Equal(t, s.zabbix.called("host.get"), 0, "nothing is deleted because it cannot be seen")
	assert.Assert(t, Check(s.good) != nil)
}

// What was true of a member once is not sent as if it was now.
func TestWhatIsNotHeardIsNotSent(t *testing.T) {
	s := newScene(t)
	p := s.started(t)
	sent := s.zabbix.called("history.push")
	assert.Assert(t, sent > 0)
	s.change(func(state *inventory.State) { state.Unheard = "nobody leads" })
	assert.NilError(t, p.round(t.Context()))
	assert.NilError(t, p.round(t.Context()))
	assert.Equal(t, s.zabbix.called("history.push"), sent)
	assert.Equal(t, strings.Count(s.log.String(), "nobody leads"), 1)
	s.change(func(state *inventory.State) { state.Unheard = "" })
	assert.NilError(t, p.round(t.Context()))
	assert.Assert(t, s.zabbix.called("history.push") > sent)
}

func TestCheckNamesAnOldRound(t *testing.T) {
	s := newScene(t)
	s.started(t)
	old := time.Now().Add(-MaxAge - time.Second)
	assert.NilError(t, os.Chtimes(s.good, old, old))
	assert.ErrorContains(t, Check(s.good), "the last time that all was well was "+old.UTC().Format(time.DateTime))
}

func TestRunNeedsItsConfiguration(t *testing.T) {
	s := newScene(t)
	c := s.config()
	c.Password = ""
	assert.ErrorContains(t, Run(t.Context(), c), "is missing")
}
