package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/go-hclog"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/openmanage/openmanage/internal/api"
)

func some() State {
	standby := api.MemberStatus{Role: api.RoleStandby, State: api.StateRunning, Healthy: true, Timeline: 2, LagBytes: 1 << 20, LagSeconds: 1.5, Sync: true}
	behind := standby
	behind.Healthy, behind.Sync, behind.LagBytes, behind.LagSeconds = false, false, -1, -1
	member := func(name string, role api.Role, state api.MemberState, healthy bool, live *api.MemberStatus) Member {
		return Member{Name: name, Application: "pg", Type: "postgresql", Volume: name, Node: "node1", Role: role, State: state, Healthy: healthy, Live: live}
	}
	s := State{
		Nodes: []Node{
			{
				ID: "a", Hostname: "node1", Role: "manager", Availability: "active", State: "ready", Address: "10.0.0.1", Engine: "28.5.2",
				OS: "linux", Arch: "x86_64", Labels: map[string]string{"zone": "a", "ssd": "", "openmanage.pin.pg-1": "elsewhere"},
			},
			{ID: "b", Hostname: "node1", Role: "worker", Availability: "drain", State: "down", OS: "windows"},
		},
		Members: []Member{
			member("pg-1", api.RolePrimary, api.StateRunning, true, &api.MemberStatus{Role: api.RolePrimary, State: api.StateRunning, Healthy: true, Timeline: 2}),
			member("pg-2", api.RoleStandby, api.StateRunning, true, &standby),
			member("pg-3", api.RoleStandby, api.StateRunning, true, &behind),
			member("pg-4", api.RolePrimary, api.StateWaiting, false, nil), // silent, and recorded as that
			member("pg-5", api.RoleStandby, api.StateRunning, true, nil),  // not heard yet by a new leader
			member("pg-6", api.RoleStandby, api.StateRunning, true, &api.MemberStatus{Role: api.RoleStandby, State: api.StateStarting, Timeline: 2}),
			{Name: "kv-1", Application: "kv", Type: "etcd", Volume: "kv-1", Role: api.RoleMember, Live: &api.MemberStatus{Role: api.RoleMember, State: api.StateRunning, Healthy: true}},
		},
	}
	s.Members[0].Usage = api.Usage{Used: 1 << 30, Free: 3 << 30}
	return s
}

// page is what a server answers.
func page(t *testing.T, s *Server, path string) (int, string, http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Body)
	assert.NilError(t, err)
	return w.Code, string(body), w.Header()
}

func serverOf(state State, err error) *Server {
	return &Server{State: func(context.Context) (State, error) { return state, err }, Log: hclog.NewNullLogger()}
}

func TestMetrics(t *testing.T) {
	code, body, _ := page(t, serverOf(some(), nil), "/metrics")
	assert.Equal(t, code, http.StatusOK)
	golden.Assert(t, body, "metrics.golden")
}

// Nothing that could not be read is shown as healthy, and that it could not be read is shown.
func TestMetricsOfWhatCannotBeRead(t *testing.T) {
	unheard := func(s *State) {
		s.Unheard = "nobody leads"
		for i := range s.Members {
			s.Members[i].Live = nil
		}
	}
	for _, tc := range []struct {
		doc                    string
		change                 func(*State)
		err                    error
		nodes, records, status string
		members, healthy       bool
	}{
		{doc: "all was read", change: func(*State) {}, nodes: "1", records: "1", status: "1", members: true, healthy: true},
		{doc: "a record is broken", change: func(s *State) { s.Incomplete = "broken" }, nodes: "1", records: "0", status: "1", members: true, healthy: true},
		{doc: "no manager leads", change: unheard, nodes: "1", records: "1", status: "0", members: true},
		{doc: "no quorum", change: func(s *State) { *s = State{} }, err: errors.New("no leader"), nodes: "0", records: "0", status: "0"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			state := some()
			tc.change(&state)
			code, body, _ := page(t, serverOf(state, tc.err), "/metrics")
			assert.Equal(t, code, http.StatusOK)
			for source, want := range map[string]string{"nodes": tc.nodes, "records": tc.records, "status": tc.status} {
				assert.Check(t, is.Contains(body, `openmanage_inventory_complete{source="`+source+`"} `+want+"\n"))
			}
			assert.Equal(t, strings.Contains(body, `openmanage_member_info{application="pg",member="pg-1"`), tc.members)
			assert.Equal(t, strings.Contains(body, `state="running"`), tc.healthy)
			assert.Equal(t, strings.Contains(body, "openmanage_member_healthy{"), tc.healthy, "nor is what was recorded as unhealthy")
			for _, metric := range []string{"healthy", "primary"} {
				assert.Equal(t, strings.Contains(body, "openmanage_member_"+metric+`{application="pg",member="pg-1",type="postgresql"} 1`), tc.healthy, metric)
			}
		})
	}
}

func TestRundecksResourceModel(t *testing.T) {
	code, body, header := page(t, serverOf(some(), nil), "/rundeck.json")
	assert.Equal(t, code, http.StatusOK)
	assert.Equal(t, header.Get("Content-Type"), "application/json", "by which Rundeck knows the format")
	var model map[string]map[string]any
	assert.NilError(t, json.Unmarshal([]byte(body), &model))
	assert.DeepEqual(t, model, map[string]map[string]any{
		"node1": {
			"nodename": "node1", "hostname": "10.0.0.1", "description": "manager of the Swarm, Docker 28.5.2",
			"tags": []any{"manager", "active", "ready", "ssd", "zone=a"}, "osFamily": "unix", "osName": "linux", "osArch": "x86_64",
			"swarm-id": "a", "swarm-state": "ready", "docker-version": "28.5.2",
		},
		"node1.b": {
			"nodename": "node1.b", "hostname": "node1", "description": "worker of the Swarm, Docker ",
			"tags": []any{"worker", "drain", "down"}, "osFamily": "windows", "osName": "windows", "swarm-id": "b", "swarm-state": "down",
		},
	})

	// Rundeck keeps what it has.
	code, body, _ = page(t, serverOf(State{}, errors.New("no leader")), "/rundeck.json")
	assert.Equal(t, code, http.StatusServiceUnavailable)
	assert.Equal(t, body, "no leader\n")
}

func TestTargetsForPrometheus(t *testing.T) {
	s := serverOf(some(), nil)
	code, _, _ := page(t, s, "/targets.json")
	assert.Equal(t, code, http.StatusNotFound)
	var err error
	s.Targets = func(context.Context) ([]Target, error) {
		return []Target{{Targets: []string{"10.0.1.6:9100"}, Labels: map[string]string{"node": "node1"}}}, err
	}
	code, body, header := page(t, s, "/targets.json")
	assert.Equal(t, code, http.StatusOK)
	assert.Equal(t, header.Get("Content-Type"), "application/json")
	assert.Equal(t, body, `[{"targets":["10.0.1.6:9100"],"labels":{"node":"node1"}}]`+"\n")
	err = errors.New("no leader") // not an empty list: Prometheus keeps what it has
	code, _, _ = page(t, s, "/targets.json")
	assert.Equal(t, code, http.StatusOK, "who asks again at once is told the same")
	s.targets.at = s.targets.at.Add(-fresh)
	code, _, _ = page(t, s, "/targets.json")
	assert.Equal(t, code, http.StatusServiceUnavailable)
}

// It is well from when it could read something on, so that it is there to tell when nothing can be
// read any more.
func TestHealth(t *testing.T) {
	var err error
	s := &Server{State: func(context.Context) (State, error) { return State{}, err }, Log: hclog.NewNullLogger()}
	ask := func() int {
		s.state.at = s.state.at.Add(-fresh)
		code, _, _ := page(t, s, "/healthz")
		return code
	}
	err = errors.New("no socket")
	assert.Equal(t, ask(), http.StatusServiceUnavailable)
	err = nil
	assert.Equal(t, ask(), http.StatusOK)
	err = errors.New("no leader")
	s.state.at = s.state.at.Add(-fresh)
	_, _, _ = page(t, s, "/metrics")
	assert.Equal(t, ask(), http.StatusOK)
	s.state.mu.Lock() // as while Docker does not answer
	defer s.state.mu.Unlock()
	code, _, _ := page(t, s, "/healthz")
	assert.Equal(t, code, http.StatusOK)
}

// Many who ask at once cost one read, and one who goes away takes nothing from the others.
func TestThoseWhoAskTogetherShareOneRead(t *testing.T) {
	reads := 0
	s := &Server{Log: hclog.NewNullLogger(), State: func(ctx context.Context) (State, error) { reads++; return some(), ctx.Err() }}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/rundeck.json", nil).WithContext(gone))
			assert.Check(t, is.Equal(w.Code, http.StatusOK))
		})
	}
	all.Wait()
	assert.Equal(t, reads, 1)
	s.state.at = s.state.at.Add(-fresh)
	_, _, _ = page(t, s, "/metrics")
	assert.Equal(t, reads, 2)
}

// What cannot be read is logged once, and that it can be again.
func TestWhatCannotBeReadIsLoggedOnce(t *testing.T) {
	var log strings.Builder
	var err error
	s := &Server{State: func(context.Context) (State, error) { return State{Unheard: "nobody leads"}, err }}
	s.Log = hclog.New(&hclog.LoggerOptions{Output: &log, JSONFormat: true})
	read := func() {
		s.state.at = s.state.at.Add(-fresh)
		_, _ = s.read(t.Context())
	}
	read()
	read()
	assert.Equal(t, strings.Count(log.String(), "nobody leads"), 1)
	err = errors.New("no leader")
	read()
	assert.Equal(t, strings.Count(log.String(), "no leader"), 1)
	s.State = func(context.Context) (State, error) { return State{}, nil }
	read()
	assert.Equal(t, strings.Count(log.String(), "everything can be read again"), 1)
}
