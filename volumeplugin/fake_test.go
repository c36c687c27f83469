package volumeplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/go-plugins-helpers/volume"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/blockstore"
	"github.com/openmanage/openmanage/volumeplugin/filesystem"
)

// fakeLeader keeps records as the leading manager does, without Swarm.
type fakeLeader struct {
	mu       sync.Mutex
	records  map[string]*api.Volume
	lost     map[string]bool
	progress []api.ProgressRequest
	reports  []api.Report
	orders   []api.MemberOrders
	purge    []api.PurgeOrder
	grow     []api.GrowOrder
	snapshot []api.SnapshotOrder
	nodes    []api.Node
	promises int // how many managers promise
	down     bool
	lease    time.Duration
	// refuse is asked first, by path.
	refuse func(node, path string, in any) error
}

func newLeader() *fakeLeader {
	return &fakeLeader{records: map[string]*api.Volume{}, lost: map[string]bool{}, lease: api.LeaseDuration}
}

func (l *fakeLeader) declare(name string, change func(*api.Volume)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := &api.Volume{
		VolumeSpec: api.VolumeSpec{Name: name, Size: 64 << 20, Filesystem: filesystem.Ext4, Backend: "file"},
		Phase:      api.PhaseDeclared, UUID: "b6a1b0c8-6d8c-4a77-9a34-2f0d6f5d1a11", Device: name + "-0123.img",
	}
	if change != nil {
		change(v)
	}
	l.records[name] = v
}

func (l *fakeLeader) set(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

func (l *fakeLeader) record(name string) api.Volume {
	l.mu.Lock()
	defer l.mu.Unlock()
	return *l.records[name]
}

// at is the leader as a node reaches it.
type at struct {
	*fakeLeader
	node string
}

var errDown = errors.New("no manager answers")

func (l at) Addresses(context.Context) ([]string, error) {
	return []string{"m1", "m2", "m3"}, nil
}

func (l at) Members(ctx context.Context) ([]string, error) { return l.Addresses(ctx) }

func (l at) CallOne(ctx context.Context, address, method, path string, in, out any) error {
	if path == "/v1/promise" {
		l.mu.Lock()
		defer l.mu.Unlock()
		if slices.Index([]string{"m1", "m2", "m3"}, address) < l.promises {
			return nil
		}
		return errDown
	}
	return l.Call(ctx, method, path, in, out)
}

func (l at) Call(ctx context.Context, method, path string, in, out any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return errDown
	}
	if l.refuse != nil {
		if err := l.refuse(l.node, path, in); err != nil {
			return err
		}
	}
	answer, err := l.answer(path, in)
	if err != nil || out == nil {
		return err
	}
	doc, _ := json.Marshal(answer)
	return json.Unmarshal(doc, out)
}

func (l at) answer(path string, in any) (any, error) {
	owned := func(name string, epoch uint64) (*api.Volume, error) {
		v := l.records[name]
		if v == nil || v.Epoch != epoch || v.Owner == nil || v.Owner.Node != l.node {
			return nil, &api.Error{Code: api.ErrEpoch, Message: "stale epoch of " + name}
		}
		return v, nil
	}
	switch r := in.(type) {
	case api.AttachRequest:
		v := l.records[r.Name]
		switch {
		case v == nil:
			return nil, &api.Error{Code: api.ErrNotFound, Message: "no volume " + r.Name}
		case v.Owner != nil && v.Owner.Node == l.node && v.Owner.MountID == r.MountID && v.Owner.Tenure == r.Tenure:
		case v.Owner != nil && v.Owner.Node != l.node:
			return nil, &api.Error{Code: api.ErrHeld, Message: "volume " + r.Name + " is held by task t.1 on node " + v.Owner.Node}
		default:
			v.Epoch++
			v.Owner = &api.Owner{Node: l.node, Hostname: l.node, MountID: r.MountID, Tenure: r.Tenure}
		}
		return api.Attachment{Volume: *v, Lease: l.lease}, nil
	case api.ProgressRequest:
		v, err := owned(r.Name, r.Epoch)
		if err != nil {
			return nil, err
		}
		l.progress = append(l.progress, r)
		v.Phase = r.Phase
		if r.Device != "" {
			v.Device = r.Device
		}
		if r.Location != "" {
			v.Location = r.Location
		}
		if r.Fenced {
			v.Fence = false
		}
		return struct{}{}, nil
	case api.ReleaseRequest:
		if v, err := owned(r.Name, r.Epoch); err == nil {
			v.Owner, v.LastNode = nil, l.node
		}
		return struct{}{}, nil
	case api.Report:
		l.reports = append(l.reports, r)
		a := api.ReportAnswer{Leader: "m1", Lease: l.lease, Orders: l.orders, Purge: l.purge, Nodes: l.nodes, Grow: l.grow, Snapshot: l.snapshot}
		for _, h := range r.Volumes {
			if _, err := owned(h.Name, h.Epoch); err != nil || l.lost[h.Name] {
				a.Lost = append(a.Lost, h.Name)
			} else {
				a.Renewed = append(a.Renewed, h.Name)
			}
		}
		return a, nil
	case api.CreateRequest:
		if l.records[r.Name] == nil {
			l.records[r.Name] = &api.Volume{VolumeSpec: api.VolumeSpec{Name: r.Name}}
		}
		return *l.records[r.Name], nil
	case api.NameRequest:
		l.records[r.Name].Retained = true
		return struct{}{}, nil
	case nil:
		if path == "/v1/volumes" {
			list := []api.Volume{}
			for _, v := range l.records {
				list = append(list, *v)
			}
			return list, nil
		}
		if v := l.records[filepath.Base(path)]; v != nil {
			return *v, nil
		}
		return nil, &api.Error{Code: api.ErrNotFound, Message: "no volume " + filepath.Base(path)}
	}
	return nil, fmt.Errorf("fake leader: %s %T", path, in)
}

// fakeEngine is a Docker with the containers that a test puts there.
type fakeEngine struct {
	node string
	mu   sync.Mutex
	use  map[string][]user
	dead []string
	err  error
}

func (e *fakeEngine) Node(context.Context) (string, string, error) { return e.node, e.node, nil }

func (e *fakeEngine) Users(_ context.Context, volumes []string) (map[string][]user, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string][]user{}
	for _, v := range volumes {
		out[v] = slices.Clone(e.use[v])
	}
	return out, e.err
}

func (e *fakeEngine) Kill(_ context.Context, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dead = append(e.dead, id)
	for v := range e.use {
		e.use[v] = slices.DeleteFunc(e.use[v], func(u user) bool { return u.ID == id })
	}
	return nil
}

func (e *fakeEngine) set(volume string, users ...user) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.use[volume] = users
}

func (e *fakeEngine) killed() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.dead)
}

// fakePeers are the plugins of other nodes, by node ID.
type fakePeers map[string]*testNode

func (f fakePeers) Promise(_ context.Context, node api.Node, req api.Promise) error {
	n := f[node.ID]
	if n == nil {
		return errDown
	}
	if refused := n.plugin.promise("a", req); refused != nil {
		return refused
	}
	return nil
}

// testNode is a node with a plugin on real loop devices and mounts.
type testNode struct {
	t      *testing.T
	name   string
	dir    string // of images, may be shared
	root   string // propagated mount
	leader *fakeLeader
	engine *fakeEngine
	peers  fakePeers
	plugin *plugin
	stop   func()
	skew   atomic.Int64 // added to the clock
	wrap   func(backend) backend
	agent  string // what the agent's binary ends in
}

func newNode(t *testing.T, name, dir string, l *fakeLeader) *testNode {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes loop devices and mounts")
	}
	root, err := os.MkdirTemp("", "omv") // short: unix sockets have short paths
	assert.NilError(t, err)
	n := &testNode{t: t, name: name, dir: dir, root: root, leader: l, engine: &fakeEngine{node: name, use: map[string][]user{}}, peers: fakePeers{}}
	t.Cleanup(func() {
		if n.stop != nil {
			n.stop()
		}
		mounts, _ := filesystem.Mounts(root, true)
		for _, m := range mounts {
			_ = filesystem.Detach(m.Target)
		}
		_ = os.RemoveAll(root)
	})
	n.start()
	return n
}

// start starts the plugin, as Docker does after it was killed.
func (n *testNode) start() {
	n.t.Helper()
	agent := filepath.Join(n.root, "agent.bin")
	assert.NilError(n.t, os.WriteFile(agent, []byte("#!/bin/sh\n"+n.agent), 0o755))
	p, err := newPlugin(Config{
		Log: hclog.New(&hclog.LoggerOptions{Output: testLog{n.t}, Level: hclog.Debug, Name: n.name}), Version: "test",
		Propagated: n.root, Agent: agent,
	}, n.engine, at{n.leader, n.name}, n.peers)
	assert.NilError(n.t, err)
	p.now = func() time.Duration { return bootClock() + time.Duration(n.skew.Load()) }
	n.plugin = p
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := p.run(ctx, func(node string) backend {
			b := backend(blockstore.NewFile(n.dir, n.dir, node))
			if n.wrap != nil {
				b = n.wrap(b)
			}
			return b
		}); err != nil {
			p.log.Error("run", "error", err)
		}
	}()
	n.stop = func() { cancel(); <-done; n.stop = nil }
}

// kill ends the plugin without letting it clean up, and starts it again.
func (n *testNode) kill() {
	n.t.Helper()
	n.stop()
	n.start()
}

func (n *testNode) mount(name, id string) (string, error) {
	r, err := driver{n.plugin}.Mount(&volume.MountRequest{Name: name, ID: id})
	if err != nil {
		return "", err
	}
	return r.Mountpoint, nil
}

func (n *testNode) mustMount(name, id string) string {
	n.t.Helper()
	path, err := n.mount(name, id)
	assert.NilError(n.t, err)
	return path
}

func (n *testNode) unmount(name, id string) error {
	return driver{n.plugin}.Unmount(&volume.UnmountRequest{Name: name, ID: id})
}

func (n *testNode) mounted(name string) bool {
	n.t.Helper()
	m, err := filesystem.Mounts(filepath.Join(n.root, name), false)
	assert.NilError(n.t, err)
	return len(m) > 0
}

func (n *testNode) reflinks() bool {
	<-n.plugin.ready
	return n.plugin.backend.Storage().Reflink
}

func (n *testNode) image(name string) string { return filepath.Join(n.dir, name) }

// eventually polls until ok or 20 s are over.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		if ok() {
			return
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 10e6}, nil)
	}
	t.Fatalf("it never happened: %s", what)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	doc, err := os.ReadFile(path)
	assert.NilError(t, err)
	return string(doc)
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	f, err := os.Create(path)
	assert.NilError(t, err)
	_, err = f.WriteString(text)
	assert.NilError(t, errors.Join(err, f.Sync(), f.Close()))
}

// testLog shows a plugin's log only if its test fails or with -v.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	defer func() { _ = recover() }() // the test is over
	l.t.Log(string(b[:max(0, len(b)-1)]))
	return len(b), nil
}
