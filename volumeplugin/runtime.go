package volumeplugin

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
)

// runtimeKept is for how long a runtime volume that no container mentions is kept.
const runtimeKept = 10 * time.Minute

// runtimeVolume is the folder that a member's container sees as api.RuntimeDir.
// Whoever can connect to its socket is that member: its identity is the folder.
type runtimeVolume struct {
	p      *plugin
	volume string // the member's data volume
	dir    string
	server *http.Server

	mu    sync.Mutex
	last  api.MemberStatus
	heard time.Time
	idle  time.Time // since when no container mentions it
	seq   uint64    // counts what the agent may want to know
	news  chan struct{}
}

// newsTimeout is how long the answer to a question for news may take.
const newsTimeout = 8 * time.Second

// changed tells the agent that there are news for it.
func (r *runtimeVolume) changed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	close(r.news)
	r.news = make(chan struct{})
}

// serveNews answers when there are news since the ones the agent knows.
func (r *runtimeVolume) serveNews(w http.ResponseWriter, req *http.Request) {
	known, err := strconv.ParseUint(req.URL.Query().Get("seq"), 10, 64)
	if err != nil {
		http.Error(w, "seq is no number", http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	seq, news := r.seq, r.news
	r.mu.Unlock()
	if seq == known {
		timer := time.NewTimer(newsTimeout)
		defer timer.Stop()
		select {
		case <-news:
		case <-timer.C:
		case <-req.Context().Done():
		}
		r.mu.Lock()
		seq = r.seq
		r.mu.Unlock()
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]uint64{"seq": seq})
}

type containerKey struct{}

// openRuntimes makes the sockets of all runtime volumes anew: those of a killed
// plugin refuse connections.
func (p *plugin) openRuntimes(ctx context.Context) {
	dirs, err := filepath.Glob(filepath.Join(p.Propagated, "*"+api.RuntimeSuffix))
	if err != nil {
		p.log.Error("runtime volumes", "error", err)
	}
	for _, dir := range dirs {
		if _, err := p.openRuntime(filepath.Base(dir)); err != nil {
			p.log.Error("runtime volume is not served", "volume", filepath.Base(dir), "error", err)
		}
	}
	context.AfterFunc(ctx, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, r := range p.runtimes {
			_ = r.server.Close()
		}
	})
}

// openRuntime makes the folder of the runtime volume name, with agent and socket,
// or returns the one there is.
func (p *plugin) openRuntime(name string) (*runtimeVolume, error) {
	data, ok := api.DataVolumeOf(name)
	if !ok {
		return nil, fmt.Errorf("volume %s is no runtime volume", name)
	}
	if err := api.ValidateVolumeName(data); err != nil {
		return nil, err
	}
	p.runtimeWork.Lock()
	defer p.runtimeWork.Unlock()
	p.mu.Lock()
	known := p.runtimes[name]
	p.mu.Unlock()
	if known != nil {
		return known, nil
	}
	r := &runtimeVolume{p: p, volume: data, dir: filepath.Join(p.Propagated, name), news: make(chan struct{})}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	if err := p.installAgent(filepath.Join(r.dir, filepath.Base(api.AgentBinary))); err != nil {
		return nil, fmt.Errorf("agent of volume %s: %w", data, err)
	}
	// Any user in the container may connect: official images run as many.
	listener, err := listenUnix(filepath.Join(r.dir, filepath.Base(api.AgentSocket)), 0o666)
	if err != nil {
		return nil, err
	}
	r.server = &http.Server{
		Handler: r, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10,
		ErrorLog: p.log.Named("agent").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, containerKey{}, containerOfPeer(c))
		},
	}
	go func() {
		if err := r.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			p.log.Error("a member's socket is no longer served", "volume", data, "error", err)
		}
	}()
	p.mu.Lock()
	p.runtimes[name] = r
	p.mu.Unlock()
	return r, nil
}

// installAgent puts the agent at path, beside and renamed since the old one may be
// running. All members share one copy.
func (p *plugin) installAgent(path string) error {
	digest, err := p.agentDigest()
	if err != nil {
		return err
	}
	// Named by its content: two builds can have the same version, size and time.
	shared := filepath.Join(p.Propagated, ".openmanage", "agent-"+digest)
	if _, err := os.Stat(shared); err != nil {
		exe, err := os.Open(p.Agent)
		if err != nil {
			return err
		}
		defer exe.Close()
		tmp, err := os.CreateTemp(filepath.Dir(shared), ".agent-*")
		if err != nil {
			return err
		}
		defer os.Remove(tmp.Name())
		_, err = io.Copy(tmp, exe)
		if err = errors.Join(err, tmp.Chmod(0o755), tmp.Sync(), tmp.Close()); err != nil {
			return err
		}
		if err := os.Rename(tmp.Name(), shared); err != nil {
			return err
		}
		old, _ := filepath.Glob(filepath.Join(filepath.Dir(shared), "agent-*"))
		for _, f := range old {
			if f != shared {
				_ = os.Remove(f) // members that run it have their own link
			}
		}
	}
	tmp := path + "." + randomID()
	if err := os.Link(shared, tmp); err != nil {
		return err
	}
	defer os.Remove(tmp) // renaming one link over another of the same file does nothing
	return os.Rename(tmp, path)
}

// digestOf returns the SHA-256 of a file.
func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// ServeHTTP answers the agent.
func (r *runtimeVolume) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodGet && req.URL.Path == "/v1/news" {
		r.serveNews(w, req)
		return
	}
	if req.Method != http.MethodPost || req.URL.Path != "/v1/agent" {
		http.NotFound(w, req)
		return
	}
	var report api.AgentReport
	if err := json.NewDecoder(http.MaxBytesReader(w, req.Body, 64<<10)).Decode(&report); err != nil {
		http.Error(w, "not an agent's report: "+err.Error(), http.StatusBadRequest)
		return
	}
	container, _ := req.Context().Value(containerKey{}).(string)
	answer := r.answer(report.Status, container)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// answer notes what the agent says and returns what it may do.
func (r *runtimeVolume) answer(status api.MemberStatus, container string) api.AgentAnswer {
	p := r.p
	a := api.AgentAnswer{Node: p.nodeName()}
	h := p.volume(r.volume).holding()
	if h == nil {
		a.Reason = fmt.Sprintf("volume %s is not mounted on this node", r.volume)
	} else {
		rec := h.record()
		if rec.Application != "" {
			status.Application, status.Member = rec.Application, rec.Member
		}
		a.Epoch, a.Device = h.epoch, h.deviceNumber()
		a.Lease = h.soft(p.now())
		if a.Lease == 0 {
			a.Reason = h.whyNot(p.now())
		}
	}
	// The socket says who it is, whatever the status claims.
	status.Volume = r.volume
	if container != "" {
		status.Container = container
	}
	r.mu.Lock()
	old := r.last
	r.last, r.heard = status, time.Now()
	r.mu.Unlock()
	if old.State != status.State || old.Role != status.Role || old.Healthy != status.Healthy || old.Term != status.Term || old.Leaving != status.Leaving || old.Named != status.Named {
		p.kick() // the leader waits for such words
	}
	promised := p.hasPromised()
	p.mu.Lock()
	defer p.mu.Unlock()
	if o, ok := p.orders[status.Member]; ok && h != nil && o.at >= h.begun {
		orders := o.MemberOrders
		if orders.Role == api.RolePrimary && status.Role != api.RolePrimary && promised {
			orders.Role, orders.Reason = "", fmt.Sprintf("node %s has promised a node that finds no leading manager to leave its volumes alone, and makes no primary before that is over", a.Node)
		}
		a.Orders = &orders
	} else if a.Reason == "" {
		a.Reason = "no leading manager has answered since the plugin started, or it does not know member " + status.Member
	}
	return a
}

// status returns the agent's last word, if it is not older than age.
func (r *runtimeVolume) status(age time.Duration) (api.MemberStatus, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, !r.heard.IsZero() && time.Since(r.heard) <= age
}

// memberEnded forgets the last word of the agent on a data volume that no container uses any
// more, and has the leader learn of it: another member may have to take its place.
func (p *plugin) memberEnded(data string) {
	p.mu.Lock()
	r := p.runtimes[data+api.RuntimeSuffix]
	p.mu.Unlock()
	if r == nil {
		return
	}
	r.mu.Lock()
	r.last, r.heard = api.MemberStatus{}, time.Time{}
	r.mu.Unlock()
	p.kick()
}

func (p *plugin) nodeName() string {
	select {
	case <-p.ready:
		return p.node.Hostname
	default:
		return ""
	}
}

func (h *hold) deviceNumber() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mounted {
		return ""
	}
	return fmt.Sprintf("%d:%d", h.major, h.minor)
}

func (h *hold) whyNot(now time.Duration) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.fenced != "":
		return fmt.Sprintf("volume %s was fenced: %s", h.volume.Name, h.fenced)
	case !h.mounted:
		return fmt.Sprintf("volume %s is being mounted", h.volume.Name)
	}
	return fmt.Sprintf("the lease of volume %s runs out in %s and no leading manager has renewed it", h.volume.Name, (h.deadline - now).Round(time.Millisecond))
}

// cleanRuntimes removes runtime volumes that no container mentions any more.
func (p *plugin) cleanRuntimes(ctx context.Context) {
	p.mu.Lock()
	names := []string{}
	for name, r := range p.runtimes {
		// An agent that reports is a container that runs.
		if _, ok := r.status(time.Minute); !ok {
			names = append(names, name)
		}
	}
	p.mu.Unlock()
	if len(names) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	users, err := p.engine.Users(ctx, names)
	if err != nil {
		return
	}
	for _, name := range names {
		p.mu.Lock()
		r := p.runtimes[name]
		p.mu.Unlock()
		if r == nil || !r.unusedSince(len(users[name]) > 0) {
			continue
		}
		if err := p.removeRuntime(name); err != nil {
			p.log.Warn("runtime volume not removed", "volume", name, "error", err)
		}
	}
}

// unusedSince notes whether the volume is used and says whether it has not been
// for runtimeKept.
func (r *runtimeVolume) unusedSince(used bool) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case used:
		r.idle = time.Time{}
	case r.idle.IsZero():
		r.idle = time.Now()
	}
	return !used && time.Since(r.idle) > runtimeKept
}

func (p *plugin) removeRuntime(name string) error {
	p.runtimeWork.Lock()
	defer p.runtimeWork.Unlock()
	p.mu.Lock()
	r := p.runtimes[name]
	delete(p.runtimes, name)
	p.mu.Unlock()
	if r == nil {
		return nil
	}
	_ = r.server.Close()
	return os.RemoveAll(r.dir)
}

// containerOfPeer returns the container of the process at the other end of a unix
// socket, or "".
func containerOfPeer(c net.Conn) string {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return ""
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return ""
	}
	id := ""
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && cred.Pid > 0 {
			id = containerOf(cred.Pid)
		}
	})
	return id
}

func randomID() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func blockDevice(minor uint32) string { return fmt.Sprintf("/dev/loop%d", minor) }
