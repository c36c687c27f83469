// Package volumeplugin is the managed Docker volume plugin: it makes the volumes
// that the leading manager gives to this node appear in containers, holds their
// leases, and fences itself when it cannot renew them.
//
// A volume is held by one Docker mount ID at a time. What is held lives in three
// places: this process, a state file that outlives a kill -9, and the kernel's
// mounts, which do too. The leader's record decides between nodes.
package volumeplugin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/docker/go-plugins-helpers/volume"
	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/blockstore"
	"github.com/openmanage/openmanage/internal/delta"
	"github.com/openmanage/openmanage/internal/managers"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

// Config says where things are. The zero value of a field means what
// config.json of the managed plugin provides.
type Config struct {
	Log     hclog.Logger
	Version string
	// DockerSocket is Docker's API.
	DockerSocket string
	// SwarmDir is DATA_ROOT/swarm of the daemon.
	SwarmDir string
	// DataDir is the folder of backend file.
	DataDir string
	// Propagated is the plugin's propagated mount.
	Propagated string
	// Socket is where Docker expects the plugin.
	Socket string
	// PeerAddr is where other nodes ask for promises.
	PeerAddr string
	// Agent is the binary that members get.
	Agent string
}

func (c Config) withDefaults() Config {
	set := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	set(&c.DockerSocket, "/host/run/docker.sock")
	set(&c.SwarmDir, "/host/swarm")
	set(&c.DataDir, "/data/openmanage")
	set(&c.Propagated, "/volumes")
	set(&c.Socket, "/run/docker/plugins/"+api.PluginName+".sock")
	set(&c.PeerAddr, fmt.Sprintf(":%d", api.PeerPort))
	set(&c.Agent, "/proc/self/exe")
	if c.Log == nil {
		// Docker takes what a plugin writes to standard error for errors.
		c.Log = hclog.New(&hclog.LoggerOptions{Name: "volume-plugin", Output: os.Stdout, JSONFormat: true, Level: hclog.LevelFromString(os.Getenv("LOG_LEVEL"))})
	}
	return c
}

// memoryLimit keeps Go's heap small, in bytes; the plugin runs on every node.
const memoryLimit = 28 << 20

// leader is how the plugin reaches the leading manager; *managers.Client is one.
type leader interface {
	// Call asks the leader through whichever manager answers.
	Call(ctx context.Context, method, path string, in, out any) error
	// CallOne asks the manager at address.
	CallOne(ctx context.Context, address, method, path string, in, out any) error
	// Addresses returns those of all managers, as they were known a moment ago.
	Addresses(ctx context.Context) ([]string, error)
	// Members returns those of all managers, as they are now.
	Members(ctx context.Context) ([]string, error)
}

// plugin is the running plugin of a node.
type plugin struct {
	Config
	log     hclog.Logger
	now     clock
	boot    string
	engine  engine
	leader  leader
	peers   peerCaller
	state   *stateFiles
	ready   chan struct{} // closed when the following two are set
	node    nodeID
	backend backend
	rebuilt atomic.Bool

	mu       sync.Mutex // guards the maps, never held over I/O
	volumes  map[string]*heldVolume
	promised map[string]time.Duration // until when not to mount a volume
	runtimes map[string]*runtimeVolume
	purged   map[string]api.PurgeOrder // carried out, by volume
	// snapshots that were ordered and tried, by device
	snapshots map[string]api.SnapshotResult
	releases  map[string]uint64 // epochs that the leader has not acknowledged to be free
	nodes     []api.Node
	orders    map[string]sentOrders // by member

	sender      delta.Sender
	reporting   sync.Mutex // over making a report and numbering it
	promising   sync.Mutex // over giving a promise
	runtimeWork sync.Mutex // over making and removing runtime volumes
	agentDigest func() (string, error)
	saving      sync.Mutex // over writing the state file

	cache  recordCache
	report chan struct{} // asks for a report now
	last   atomic.Int64  // p.now() of the last answer of a leader, or of the start
	denied atomic.Int64  // p.now() at which the report was sent that found that none leads

	leaderless atomic.Bool // the last report failed

	preferred atomic.Pointer[string] // manager that answered last
}

// sentOrders are orders of a leader with the time of the report that they answer.
type sentOrders struct {
	api.MemberOrders
	at time.Duration
}

type nodeID struct{ ID, Hostname string }

// backend is the store of volumes, and what only backend file has.
type backend interface {
	blockstore.Backend
	// AbandonOlder removes what epochs before this one have left of device's
	// volume, except device itself.
	AbandonOlder(device string, epoch uint64) error
}

// Run serves Docker until ctx ends. Volumes stay mounted: Docker restarts the
// plugin, which then finds them again.
func Run(ctx context.Context, cfg Config) error {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(50)
	cfg = cfg.withDefaults()
	docker, err := client.New(client.WithHost("unix://" + cfg.DockerSocket))
	if err != nil {
		return err
	}
	defer docker.Close()
	id := swarmpki.New(filepath.Join(cfg.SwarmDir, "certificates"))
	p, err := newPlugin(cfg, dockerEngine{docker}, managers.New(docker, id), newPeers(id))
	if err != nil {
		return err
	}
	// The folder of images is bound from the host, together with whatever the
	// host mounts there later: keep copies of other mounts out of this namespace.
	if err := unix.Mount("", filepath.Dir(cfg.DataDir), "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		p.log.Debug("data folder is no mount of its own", "path", filepath.Dir(cfg.DataDir), "error", err)
	}
	// Docker disables a plugin that is slow to answer: listen before all else.
	listener, err := listenUnix(cfg.Socket, 0o600)
	if err != nil {
		return err
	}
	go func() {
		// The handler's own Serve has no way to end; closing the listener is one.
		if err := volume.NewHandler(driver{p}).Serve(listener); err != nil && ctx.Err() == nil {
			p.log.Error("Docker's requests are no longer served", "error", err)
		}
	}()
	p.log.Info("listening", "socket", cfg.Socket, "version", cfg.Version)
	go p.servePeers(ctx, id)
	err = p.run(ctx, func(node string) backend {
		return blockstore.NewFile(cfg.DataDir, hostPath(cfg.DataDir), node)
	})
	return errors.Join(err, listener.Close())
}

func newPlugin(cfg Config, e engine, l leader, peers peerCaller) (*plugin, error) {
	state, err := openState(filepath.Join(cfg.Propagated, ".openmanage"))
	if err != nil {
		return nil, fmt.Errorf("state of the volume plugin: %w", err)
	}
	return &plugin{
		Config: cfg, log: cfg.Log, now: bootClock, boot: randomID(), engine: e, leader: l, peers: peers, state: state,
		ready: make(chan struct{}), report: make(chan struct{}, 1), agentDigest: sync.OnceValues(func() (string, error) { return digestOf(cfg.Agent) }),
		volumes: map[string]*heldVolume{}, promised: map[string]time.Duration{}, runtimes: map[string]*runtimeVolume{},
		purged: map[string]api.PurgeOrder{}, snapshots: map[string]api.SnapshotResult{}, releases: map[string]uint64{}, orders: map[string]sentOrders{},
	}, nil
}

// run initialises what may take its time and then keeps leases and order until
// ctx ends.
func (p *plugin) run(ctx context.Context, open func(node string) backend) error {
	holds, times, err := p.state.load()
	if err != nil {
		return fmt.Errorf("state file %s: %w; it says which volumes are mounted here: repair it, or restart the node and remove it", p.state.path(), err)
	}
	p.last.Store(int64(p.now()))
	// Before anything that may wait: what is mounted here has a lease that may
	// be running out.
	p.takeUp(holds, times)
	p.openRuntimes(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	wait.Go(func() { p.watchLeases(ctx) })
	for p.node.ID == "" {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		id, hostname, err := p.engine.Node(call)
		cancel()
		if err == nil {
			p.node = nodeID{id, hostname}
			break
		}
		p.log.Warn("waiting for Docker to name this node", "error", err)
		if !sleep(ctx, time.Second) {
			return nil
		}
	}
	p.log = p.log.With("node", p.node.Hostname)
	p.backend = open(p.node.ID)
	close(p.ready)
	wait.Go(func() { p.reportLoop(ctx) })
	wait.Go(func() { p.failsafeLoop(ctx) })
	p.rebuild(ctx)
	wait.Go(func() { p.reconcileLoop(ctx) })
	<-ctx.Done()
	return nil
}

// waitReady waits for the initialisation, which is over within seconds of the
// start unless Docker or the Swarm is not there.
func (p *plugin) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	select {
	case <-p.ready:
	case <-ctx.Done():
		return errors.New("the OpenManage volume plugin has just started and does not know this node's Swarm ID yet; see `docker info` and the daemon's log")
	}
	for !p.rebuilt.Load() {
		if !sleep(ctx, 20*time.Millisecond) {
			return errors.New("the OpenManage volume plugin has just started and still finds out what is mounted; try again")
		}
	}
	return nil
}

// volume returns the one object of that name, which is never removed from the
// map while somebody works with it.
func (p *plugin) volume(name string) *heldVolume {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.volumes[name]
	if v == nil {
		v = &heldVolume{p: p, name: name, log: p.log.With("volume", name)}
		p.volumes[name] = v
	}
	return v
}

// all returns the volumes that were touched since the start.
func (p *plugin) all() []*heldVolume {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.volumes))
}

// target is where a volume's filesystem is mounted.
func (p *plugin) target(volume string) string { return filepath.Join(p.Propagated, volume) }

// saveHolds writes the state file. It is called after each transition of a hold.
func (p *plugin) saveHolds() error {
	p.saving.Lock()
	defer p.saving.Unlock()
	saved := []savedHold{}
	for _, v := range p.all() {
		if h := v.holding(); h != nil {
			saved = append(saved, h.saved())
		}
	}
	slices.SortFunc(saved, func(a, b savedHold) int { return strings.Compare(a.Volume.Name, b.Volume.Name) })
	if err := p.state.saveHolds(saved); err != nil {
		return fmt.Errorf("state of the volume plugin: %w", err)
	}
	return nil
}

// noteTimes is saveTimes for leases: without a word of them they are the shorter.
func (p *plugin) noteTimes() {
	if err := p.saveTimes(); err != nil {
		p.log.Warn("times of leases not saved", "error", err)
	}
}

// saveTimes writes down until when leases and promises hold.
func (p *plugin) saveTimes() error {
	leases := map[string]time.Duration{}
	for _, v := range p.all() {
		if h := v.holding(); h != nil {
			leases[v.name] = h.until()
		}
	}
	p.mu.Lock()
	now := p.now()
	maps.DeleteFunc(p.promised, func(_ string, until time.Duration) bool { return until < now })
	promises := maps.Clone(p.promised)
	p.mu.Unlock()
	return p.state.saveTimes(leases, promises)
}

// kick asks for a report now.
func (p *plugin) kick() { kick(p.report) }

func kick(ask chan<- struct{}) {
	select {
	case ask <- struct{}{}:
	default:
	}
}

func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	// A socket of a process that was killed stays behind and refuses connections.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, os.Chmod(path, mode)
}

// sleep waits for d; false: ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// hostPath shows a path below /data as what config.json binds there, since that
// is what a user can look at.
func hostPath(path string) string {
	if rest, ok := strings.CutPrefix(path, "/data/"); ok {
		return "(data.source)/" + rest
	}
	return path
}
