package volumeplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

// failsafeAfter is how long no leader must have answered before promises are
// asked for.
const failsafeAfter = 2 * time.Second

// promiseTimeout is how long one round of questions may take.
const promiseTimeout = 900 * time.Millisecond

// maxPromised bounds the volumes in one request for a promise.
const maxPromised = 1000

// peerCaller asks another node's plugin for a promise.
type peerCaller interface {
	Promise(ctx context.Context, node api.Node, req api.Promise) error
}

// failsafeInterval is the time between two rounds of questions.
const failsafeInterval = 250 * time.Millisecond

// failsafeLoop asks for promises as long as no leader answers. It does not wait for
// a report to fail: that takes time which the lease does not have.
func (p *plugin) failsafeLoop(ctx context.Context) {
	for sleep(ctx, failsafeInterval) {
		p.failsafe(ctx)
	}
}

// failsafe renews the leases of this node without a leader, if a majority of the
// managers or else every other node promises to leave our volumes alone.
func (p *plugin) failsafe(ctx context.Context) {
	var held []string
	var holds []*hold
	for _, v := range p.all() {
		if h := v.holding(); h != nil && !h.isFenced() && h.isMounted() {
			held, holds = append(held, v.name), append(holds, h)
		}
	}
	if len(holds) == 0 || p.sinceLeader() < failsafeAfter {
		return
	}
	req := api.Promise{Lease: api.LeaseDuration, Volumes: held}
	// Both are asked at once: the lease has no time for one after the other.
	type answer struct {
		sent time.Duration
		by   string
		err  error
	}
	answers := make(chan answer, 2)
	go func() {
		sent, err := p.nodesPromise(ctx, req)
		answers <- answer{sent, "every other node", err}
	}()
	go func() {
		sent, by, err := p.managersPromise(ctx, req)
		answers <- answer{sent, by, err}
	}()
	given := <-answers
	if given.err != nil {
		refused := given.err
		if given = <-answers; given.err != nil {
			left := time.Duration(math.MaxInt64)
			for _, h := range holds {
				left = min(left, h.until()-p.now())
			}
			// Soon something is fenced, and somebody will ask why.
			level := hclog.Debug
			if left < api.LeaseDuration-failsafeAfter {
				level = hclog.Warn
			}
			p.log.Log(level, "leases not renewed without a leader", "left", left.Round(10*time.Millisecond), "leader_heard", p.sinceLeader().Round(10*time.Millisecond), "error", errors.Join(refused, given.err))
			return
		}
	}
	p.log.Debug("leases renewed without a leader", "by", given.by, "volumes", len(held))
	for _, h := range holds {
		h.renew(given.sent+api.LeaseDuration, p.now())
	}
	p.noteTimes()
}

// sinceLeader is how long ago a leader answered, or the plugin started.
func (p *plugin) sinceLeader() time.Duration { return p.now() - time.Duration(p.last.Load()) }

// hearsLeader tells whether a leader has answered of late, and nobody has said since that
// there is none any more.
func (p *plugin) hearsLeader() bool {
	return p.sinceLeader() < failsafeAfter && p.denied.Load() <= p.last.Load()
}

// managersPromise returns when the earliest of a majority of accepted requests
// was sent.
func (p *plugin) managersPromise(ctx context.Context, req api.Promise) (time.Duration, string, error) {
	ctx, cancel := context.WithTimeout(ctx, promiseTimeout)
	defer cancel()
	addresses, err := p.leader.Members(ctx)
	if err != nil {
		return 0, "", err
	}
	if len(addresses) == 0 {
		return 0, "", errors.New("no manager is known")
	}
	sent, accepted, err := askAll(p.now, len(addresses), len(addresses)/2+1, func(i int) error {
		return p.leader.CallOne(ctx, addresses[i], http.MethodPost, "/v1/promise", req, nil)
	})
	if accepted <= len(addresses)/2 {
		return 0, "", fmt.Errorf("%d of %d managers promise: %w", accepted, len(addresses), err)
	}
	return sent, fmt.Sprintf("%d of %d managers", accepted, len(addresses)), nil
}

// nodesPromise asks every other node that could mount a volume.
func (p *plugin) nodesPromise(ctx context.Context, req api.Promise) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, promiseTimeout)
	defer cancel()
	p.mu.Lock()
	var others []api.Node
	known := len(p.nodes) > 0
	for _, n := range p.nodes {
		if n.ID != p.node.ID {
			others = append(others, n)
		}
	}
	p.mu.Unlock()
	if !known {
		return 0, errors.New("the other nodes are not known yet")
	}
	sent, accepted, err := askAll(p.now, len(others), len(others), func(i int) error { return p.peers.Promise(ctx, others[i], req) })
	if accepted != len(others) {
		return 0, fmt.Errorf("%d of %d nodes promise: %w", accepted, len(others), err)
	}
	return sent, nil
}

// askAll asks n at once and returns when the questions were sent and how many were
// accepted, as soon as enough are: a dead one among them costs no time.
func askAll(now clock, n, enough int, ask func(i int) error) (sent time.Duration, accepted int, err error) {
	answers := make(chan error, n)
	sent = now()
	for i := range n {
		go func() { answers <- ask(i) }()
	}
	var errs []error
	for range n {
		if err := <-answers; err != nil {
			errs = append(errs, err)
		} else if accepted++; accepted == enough {
			break
		}
	}
	return sent, accepted, errors.Join(errs...)
}

// promise answers the node caller: nil means that none of the volumes is mounted
// here within the asked time.
func (p *plugin) promise(caller string, req api.Promise) *api.Error {
	refuse := func(code, format string, args ...any) *api.Error {
		return &api.Error{Code: code, Message: fmt.Sprintf(format, args...)}
	}
	if len(req.Volumes) > maxPromised || req.Lease <= 0 {
		return refuse(api.ErrInvalid, "a promise is for 1 to %d volumes and a positive time", maxPromised)
	}
	for _, name := range req.Volumes {
		if err := api.ValidateVolumeName(name); err != nil {
			return refuse(api.ErrInvalid, "%v", err)
		}
	}
	if caller == p.node.ID {
		return refuse(api.ErrForbidden, "a node does not promise to itself")
	}
	// Who reaches a peer but not the leader that the peer reaches must stop when
	// its lease ends: that leader may give its volumes away, also to a node that
	// the caller has never heard of.
	if p.hearsLeader() {
		p.kick() // it may be gone since, and the caller's lease has no time to wait for that
		return refuse(api.ErrConflict, "node %s hears the leading manager; report to it", p.node.Hostname)
	}
	// Whose volumes they are is not asked: what this node knows of records is as old
	// as its last leader, and a volume that had just moved would lose its lease. A
	// promise to the wrong node delays a mount for a lease, while there is no leader
	// to grant one.
	//
	// One at a time: taking back a promise that is refused must not take back one
	// that was given meanwhile.
	p.promising.Lock()
	defer p.promising.Unlock()
	until := p.now() + min(req.Lease, api.LeaseDuration)
	// Promise first and look then: a mount looks at promises after it has made
	// itself seen.
	p.mu.Lock()
	before := map[string]time.Duration{}
	for _, name := range req.Volumes {
		before[name] = p.promised[name]
		p.promised[name] = max(p.promised[name], until)
	}
	p.mu.Unlock()
	for _, name := range req.Volumes {
		p.mu.Lock()
		v := p.volumes[name]
		p.mu.Unlock()
		if v != nil && v.holding() != nil {
			p.mu.Lock()
			for n, t := range before {
				p.promised[n] = t
			}
			p.mu.Unlock()
			return refuse(api.ErrConflict, "node %s holds volume %s itself", p.node.Hostname, name)
		}
	}
	if err := p.saveTimes(); err != nil {
		return refuse(api.ErrNotYet, "node %s cannot write down what it promises: %v", p.node.Hostname, err)
	}
	return nil
}

// promisedReason says why a volume must not be mounted now, or "".
func (p *plugin) promisedReason(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if left := p.promised[name] - p.now(); left > 0 {
		return fmt.Sprintf("node %s has promised another node, which finds no leading manager, not to mount volume %s for %s yet", p.node.Hostname, name, left.Round(time.Millisecond))
	}
	return ""
}

// servePeers answers other nodes' requests for promises until ctx ends.
func (p *plugin) servePeers(ctx context.Context, id *swarmpki.Identity) {
	server := p.peerServer(id)
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	for {
		err := server.ListenAndServeTLS("", "")
		if ctx.Err() != nil {
			return
		}
		p.log.Error("other nodes cannot ask for promises; is another program on this port?", "address", p.PeerAddr, "error", err)
		if !sleep(ctx, 5*time.Second) {
			return
		}
	}
}

func (p *plugin) peerServer(id *swarmpki.Identity) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/promise", p.handlePromise)
	mux.HandleFunc("POST /v1/nudge", p.handleNudge)
	return &http.Server{
		Addr: p.PeerAddr, Handler: mux, TLSConfig: id.ServerConfig(),
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: 30 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: p.log.Named("peers").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
}

// handleNudge reports at once, because a manager has orders for this node.
func (p *plugin) handleNudge(w http.ResponseWriter, r *http.Request) {
	if peer, err := swarmpki.PeerFrom(r.TLS); err != nil || !peer.Manager {
		http.Error(w, "for managers", http.StatusForbidden)
		return
	}
	p.kick()
}

// hasPromised tells whether a promise to another node still holds. As long as one
// does, that node may run a primary, and none is made here: what it reaches is not
// what the leader reaches.
func (p *plugin) hasPromised() bool {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, until := range p.promised {
		if until > now {
			return true
		}
	}
	return false
}

func (p *plugin) handlePromise(w http.ResponseWriter, r *http.Request) {
	answer := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	peer, err := swarmpki.PeerFrom(r.TLS)
	if err != nil {
		answer(http.StatusForbidden, api.Error{Code: api.ErrForbidden, Message: err.Error()})
		return
	}
	select {
	case <-p.ready:
	default:
		answer(http.StatusServiceUnavailable, api.Error{Code: api.ErrNotYet, Message: "this node's plugin has just started"})
		return
	}
	var req api.Promise
	decoder := json.NewDecoder(http.MaxBytesReader(w, r.Body, api.MaxBody))
	if err := decoder.Decode(&req); err != nil {
		status := http.StatusBadRequest
		if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
			status = http.StatusRequestEntityTooLarge
		}
		answer(status, api.Error{Code: api.ErrInvalid, Message: "not a request for a promise: " + err.Error()})
		return
	}
	if refused := p.promise(peer.NodeID, req); refused != nil {
		status := http.StatusConflict
		switch refused.Code {
		case api.ErrInvalid:
			status = http.StatusBadRequest
		case api.ErrForbidden:
			status = http.StatusForbidden
		case api.ErrNotYet:
			status = http.StatusServiceUnavailable
		}
		answer(status, refused)
		return
	}
	p.log.Info("promised not to mount volumes of a node that finds no leader", "caller", peer.NodeID, "volumes", len(req.Volumes))
	answer(http.StatusOK, struct{}{})
}

// peers asks over TLS.
type peers struct{ id *swarmpki.Identity }

func newPeers(id *swarmpki.Identity) peers { return peers{id} }

// Promise makes a connection for each question: they are rare.
func (c peers) Promise(ctx context.Context, node api.Node, req api.Promise) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	url := "https://" + net.JoinHostPort(node.Addr, strconv.Itoa(api.PeerPort)) + "/v1/promise"
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: c.id.NodeConfig(node.ID), DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return fmt.Errorf("node %s: %w", node.Hostname, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		doc, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return fmt.Errorf("node %s: %s: %s", node.Hostname, res.Status, bytes.TrimSpace(doc))
	}
	return nil
}
