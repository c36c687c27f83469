package swarmmanager

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/api/types/mount"
	dockerswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/store/storetest"
	"github.com/openmanage/openmanage/internal/swarm"
	"github.com/openmanage/openmanage/internal/swarmpki"
	"github.com/openmanage/openmanage/internal/swarmpki/pkitest"
)

// fakeSwarm is a Swarm with nodes w1 and w2 and at most one service.
type fakeSwarm struct {
	down string // node that Swarm does not hear
	task string // node of a task that mounts volume data; "": there is none
}

func (f *fakeSwarm) NodeList(context.Context, client.NodeListOptions) (client.NodeListResult, error) {
	node := func(id string) dockerswarm.Node {
		state := dockerswarm.NodeStateReady
		if id == f.down {
			state = dockerswarm.NodeStateDown
		}
		return dockerswarm.Node{ID: id, Description: dockerswarm.NodeDescription{Hostname: id}, Status: dockerswarm.NodeStatus{State: state}}
	}
	return client.NodeListResult{Items: []dockerswarm.Node{node("w1"), node("w2")}}, nil
}

func (f *fakeSwarm) ServiceList(context.Context, client.ServiceListOptions) (client.ServiceListResult, error) {
	return client.ServiceListResult{}, nil
}

func (f *fakeSwarm) TaskList(context.Context, client.TaskListOptions) (client.TaskListResult, error) {
	if f.task == "" {
		return client.TaskListResult{}, nil
	}
	spec := dockerswarm.TaskSpec{ContainerSpec: &dockerswarm.ContainerSpec{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "data"}}}}
	return client.TaskListResult{Items: []dockerswarm.Task{{ID: "t", NodeID: f.task, Slot: 1, Spec: spec}}}, nil
}

// api server of a manager that leads, with real TLS and Swarm's certificates.
type served struct {
	url     string
	ca      *pkitest.CA
	manager *Manager
	swarm   *fakeSwarm
	configs *storetest.Configs
}

func serveManager(t *testing.T) *served {
	t.Helper()
	ca := pkitest.NewCA(t, "swarm-1")
	log := hclog.NewNullLogger()
	cluster, configs := &fakeSwarm{}, &storetest.Configs{}
	m := &Manager{
		id: swarmpki.New(ca.Write(t, pkitest.Node{ID: "m1", Role: "swarm-manager"})), log: log, version: "test",
		store: store.New(configs), cluster: swarm.New(cluster),
	}
	m.leadership = newLeadership("m1", "test", bootClock)
	m.leadership.leading, m.leadership.lastBeat = true, bootClock()+time.Hour
	m.leases, m.promises, m.nodes = newLeases(bootClock), newPromises(bootClock), newNodeView(m.cluster)
	m.peers = newPeers(m.id, m.nodes, "m1")
	m.pulls = newPulls(bootClock)
	m.volumes = &volumes{
		store: m.store, cluster: m.cluster, leases: m.leases, leadership: m.leadership, nodes: m.nodes,
		barNode: m.barNode, now: bootClock, log: log, revoked: map[string]uint64{}, absent: map[string]absence{},
	}
	m.apps = newApplications(m)
	m.volumes.leaseWanted = m.apps.leaseWanted
	s := httptest.NewUnstartedServer(m.handler())
	s.TLS = m.id.ServerConfig()
	s.Config.ErrorLog = log.StandardLogger(nil)
	s.StartTLS()
	t.Cleanup(s.Close)
	return &served{url: s.URL, ca: ca, manager: m, swarm: cluster, configs: configs}
}

// as returns a client with the certificate of node.
func (s *served) as(t *testing.T, node, role string) *http.Client {
	t.Helper()
	config := swarmpki.New(s.ca.Write(t, pkitest.Node{ID: node, Role: role})).ClientConfig()
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
}

func (s *served) post(t *testing.T, c *http.Client, path string, in any, header ...string) (int, string) {
	t.Helper()
	var body []byte
	switch in := in.(type) {
	case string:
		body = []byte(in)
	default:
		var err error
		body, err = json.Marshal(in)
		assert.NilError(t, err)
	}
	req, err := http.NewRequest(http.MethodPost, s.url+path, bytes.NewReader(body))
	assert.NilError(t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := c.Do(req)
	assert.NilError(t, err)
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	assert.NilError(t, err)
	return res.StatusCode, string(answer)
}

func TestVolumeLifeOverTheAPI(t *testing.T) {
	s := serveManager(t)
	w1, w2 := s.as(t, "w1", "swarm-worker"), s.as(t, "w2", "swarm-worker")
	create := api.CreateRequest{Name: "data", Options: map[string]string{"size": "100MiB"}}
	for range 2 { // idempotent
		status, body := s.post(t, w1, "/v1/volumes/create", create)
		assert.Equal(t, status, 200, body)
	}
	status, body := s.post(t, w1, "/v1/volumes/create", api.CreateRequest{Name: "data", Options: map[string]string{"size": "200MiB"}})
	assert.Equal(t, status, 409, body)

	status, body = s.post(t, w1, "/v1/volumes/create", api.CreateRequest{Name: "data", Options: map[string]string{"member": "pg-2"}})
	assert.Equal(t, status, 409, body)

	attach := api.AttachRequest{Name: "data", MountID: "m1", Location: "here"}
	status, body = s.post(t, w1, "/v1/volumes/attach", attach)
	assert.Equal(t, status, 200, body)
	status, body = s.post(t, w2, "/v1/volumes/attach", attach)
	assert.Equal(t, status, 409, body)
	assert.Assert(t, strings.Contains(body, "held by a container on node w1"), body)

	// Another node's certificate reaches nothing of the owner's.
	status, body = s.post(t, w2, "/v1/volumes/progress", api.ProgressRequest{Name: "data", Epoch: 1, Phase: api.PhaseReady})
	assert.Equal(t, status, 409, body)
	_, _ = s.post(t, w2, "/v1/volumes/release", api.ReleaseRequest{Name: "data", Epoch: 1})
	status, body = s.post(t, w2, "/v1/volumes/attach", attach)
	assert.Equal(t, status, 409, "a release by another node took effect: "+body)

	status, body = s.post(t, w1, "/v1/volumes/progress", api.ProgressRequest{Name: "data", Epoch: 1, Phase: api.PhaseReady, Location: "here"})
	assert.Equal(t, status, 200, body)
	status, body = s.post(t, w1, "/v1/volumes/progress", api.ProgressRequest{Name: "data", Epoch: 1, Phase: api.PhaseFormatting})
	assert.Equal(t, status, 400, "a phase went backwards: "+body)
	status, body = s.post(t, w1, "/v1/volumes/remove", api.NameRequest{Name: "data"})
	assert.Equal(t, status, 409, "an attached volume was removed: "+body)
	status, body = s.post(t, w1, "/v1/volumes/release", api.ReleaseRequest{Name: "data", Epoch: 1})
	assert.Equal(t, status, 200, body)
	status, body = s.post(t, w2, "/v1/volumes/attach", attach)
	assert.Equal(t, status, 200, body)
	assert.Assert(t, strings.Contains(body, `"epoch":2`), body)
}

// Docker mounts with the same ID again while the release of the first mount is
// still under way: what the release says is of the epoch that was given up.
func TestAReleaseThatComesLateDoesNotFreeTheNextTenureOfTheSameMount(t *testing.T) {
	s := serveManager(t)
	w1, w2 := s.as(t, "w1", "swarm-worker"), s.as(t, "w2", "swarm-worker")
	_, _ = s.post(t, w1, "/v1/volumes/create", api.CreateRequest{Name: "data"})
	attach := func(tenure string) (status int, epoch uint64) {
		status, body := s.post(t, w1, "/v1/volumes/attach", api.AttachRequest{Name: "data", MountID: "m", Tenure: tenure, Location: "here"})
		var a api.Attachment
		assert.NilError(t, json.Unmarshal([]byte(body), &a))
		return status, a.Volume.Epoch
	}
	_, first := attach("a")
	_, again := attach("a")
	assert.Equal(t, again, first, "a repeated request is the same tenure")
	_, second := attach("b")
	assert.Assert(t, second > first)
	status, body := s.post(t, w1, "/v1/volumes/release", api.ReleaseRequest{Name: "data", Epoch: first})
	assert.Equal(t, status, 200, body)
	status, body = s.post(t, w2, "/v1/volumes/attach", api.AttachRequest{Name: "data", MountID: "x", Location: "here"})
	assert.Equal(t, status, 409, "two may write: "+body)

	report := api.Report{Boot: "b", Volumes: []api.HeldVolume{{Name: "data", Epoch: second}}}
	status, body = s.post(t, w1, "/v1/report", report)
	assert.Equal(t, status, 200, body)
	status, _ = attach("a")
	assert.Equal(t, status, 409, "a request that the network kept back took the volume from its mount")
}

func TestReportRenewsOnlyTheCallersOwnVolumes(t *testing.T) {
	s := serveManager(t)
	w1, w2 := s.as(t, "w1", "swarm-worker"), s.as(t, "w2", "swarm-worker")
	_, _ = s.post(t, w1, "/v1/volumes/create", api.CreateRequest{Name: "data"})
	_, _ = s.post(t, w1, "/v1/volumes/attach", api.AttachRequest{Name: "data", MountID: "m", Location: "here"})
	report := api.Report{Boot: "b", Volumes: []api.HeldVolume{{Name: "data", Epoch: 1}}}
	answer := func(c *http.Client) api.ReportAnswer {
		status, body := s.post(t, c, "/v1/report", report)
		assert.Equal(t, status, 200, body)
		var a api.ReportAnswer
		assert.NilError(t, json.Unmarshal([]byte(body), &a))
		return a
	}
	assert.DeepEqual(t, answer(w1).Renewed, []string{"data"})
	assert.DeepEqual(t, answer(w2).Lost, []string{"data"})
}

func TestOnlyTheNodeOfAMemberSpeaksForIt(t *testing.T) {
	s := serveManager(t)
	w1, w2 := s.as(t, "w1", "swarm-worker"), s.as(t, "w2", "swarm-worker")
	_, _ = s.post(t, w1, "/v1/volumes/create", api.CreateRequest{Name: "data"})
	say := func(c *http.Client, state api.MemberState) {
		status, body := s.post(t, c, "/v1/report", api.Report{Members: []api.MemberStatus{{Member: "pg-1", Volume: "data", State: state}}})
		assert.Equal(t, status, 200, body)
	}
	heard := func() api.MemberState { return s.manager.leases.statuses()["data"].State }
	say(w2, api.StateRunning)
	assert.Equal(t, heard(), api.MemberState(""), "nobody ever held it")
	_, _ = s.post(t, w1, "/v1/volumes/attach", api.AttachRequest{Name: "data", MountID: "m", Location: "here"})
	say(w1, api.StateRunning)
	say(w2, api.StateFailed)
	assert.Equal(t, heard(), api.StateRunning)
	_, _ = s.post(t, w1, "/v1/volumes/release", api.ReleaseRequest{Name: "data", Epoch: 1})
	say(w1, api.StateStopped)
	say(w2, api.StateFailed)
	assert.Equal(t, heard(), api.StateStopped, "its last word")
}

func TestWorkerCannotDoWhatIsForManagers(t *testing.T) {
	s := serveManager(t)
	worker, manager := s.as(t, "w1", "swarm-worker"), s.as(t, "m2", "swarm-manager")
	for _, path := range []string{"/v1/bar"} {
		status, body := s.post(t, worker, path, api.BarRequest{Node: "w2"})
		assert.Equal(t, status, 403, body)
		status, body = s.post(t, manager, path, api.BarRequest{Node: "w2"})
		assert.Equal(t, status, 200, body)
	}
	res, err := worker.Get(s.url + "/v1/status")
	assert.NilError(t, err)
	res.Body.Close()
	assert.Equal(t, res.StatusCode, 403)

	// Speaking for another node is for managers that forward.
	status, body := s.post(t, worker, "/v1/report", api.Report{}, headerNode, "w2", headerRole, "worker")
	assert.Equal(t, status, 403, body)
	status, body = s.post(t, manager, "/v1/report", api.Report{}, headerNode, "w2", headerRole, "worker")
	assert.Equal(t, status, 200, body)
}

func TestConnectionsWithoutAGoodCertificateAreRefused(t *testing.T) {
	s := serveManager(t)
	get := func(config *tls.Config) error {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		res, err := c.Get(s.url + "/v1/volumes")
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	good := swarmpki.New(s.ca.Write(t, pkitest.Node{ID: "w1", Role: "swarm-worker"})).ClientConfig()
	assert.NilError(t, get(good))
	none := good.Clone()
	none.GetClientCertificate = nil
	assert.Assert(t, get(none) != nil, "no certificate was let in")
	expired := swarmpki.New(s.ca.Write(t, pkitest.Node{ID: "w1", Role: "swarm-worker", Expires: -time.Minute})).ClientConfig()
	assert.Assert(t, get(expired) != nil, "an expired certificate was let in")
	foreign := swarmpki.New(pkitest.NewCA(t, "swarm-1").Write(t, pkitest.Node{ID: "w1", Role: "swarm-worker"})).ClientConfig()
	foreign.VerifyConnection = nil
	assert.Assert(t, get(foreign) != nil, "a certificate of another Swarm's CA was let in")
}

func TestBadBodiesAreRefusedAndHarmNothing(t *testing.T) {
	s := serveManager(t)
	w1 := s.as(t, "w1", "swarm-worker")
	for path := range map[string]bool{"/v1/report": true, "/v1/volumes/create": true, "/v1/volumes/attach": true, "/v1/promise": true} {
		for doc, body := range map[string]string{"nothing": "", "no JSON": "{", "another type": `["x"]`, "binary": "\x00\xff"} {
			status, answer := s.post(t, w1, path, body)
			assert.Assert(t, status >= 400 && status < 500, "%s with %s: %d %s", path, doc, status, answer)
		}
		limit := map[string]int{"/v1/report": api.MaxReport}[path]
		status, answer := s.post(t, w1, path, `{"name":"`+strings.Repeat("x", max(limit, api.MaxBody))+`"}`)
		assert.Equal(t, status, 413, answer)
	}
	for _, name := range []string{"", "../etc", strings.Repeat("x", 41), "a b", "pg-1.runtime"} {
		status, answer := s.post(t, w1, "/v1/volumes/create", api.CreateRequest{Name: name})
		assert.Equal(t, status, 400, "%q: %s", name, answer)
	}
	for doc, attach := range map[string]api.AttachRequest{
		"no mount": {Name: "x", Location: "here"}, "no folder": {Name: "x", MountID: "m"},
		"a long mount": {Name: "x", MountID: strings.Repeat("x", 1000), Location: "here"},
	} {
		status, answer := s.post(t, w1, "/v1/volumes/attach", attach)
		assert.Equal(t, status, 400, "%s: %s", doc, answer)
	}
	for key, value := range map[string]string{"size": "big", "fs": "ntfs", "colour": "red", "application": "Not A Host", "member": strings.Repeat("x", 1000)} {
		status, answer := s.post(t, w1, "/v1/volumes/create", api.CreateRequest{Name: "x", Options: map[string]string{key: value}})
		assert.Equal(t, status, 400, answer)
	}
	status, answer := s.post(t, w1, "/v1/volumes/create", api.CreateRequest{Name: "fine"})
	assert.Equal(t, status, 200, answer)
	all, err := s.manager.volumes.all(context.Background())
	assert.NilError(t, err)
	assert.Equal(t, len(all), 1, "a refused request left something behind")
}

func TestOrdersAreTheSameOnlyIfAllOfThemIs(t *testing.T) {
	orders := reflect.TypeFor[api.MemberOrders]()
	for i := range orders.NumField() {
		var a, b api.MemberOrders
		assert.Assert(t, sameOrders(&a, &b))
		switch field := reflect.ValueOf(&b).Elem().Field(i); field.Kind() {
		case reflect.String:
			field.SetString("other")
		case reflect.Bool:
			field.SetBool(true)
		case reflect.Uint64:
			field.SetUint(1)
		case reflect.Int:
			field.SetInt(1)
		case reflect.Slice:
			field.Set(reflect.ValueOf([]string{"other"}))
		default:
			t.Fatalf("%s: a kind that this test does not know", orders.Field(i).Name)
		}
		assert.Assert(t, !sameOrders(&a, &b), orders.Field(i).Name)
	}
}
