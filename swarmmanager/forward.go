package swarmmanager

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

// Headers by which a manager tells the leader for whom it asks. They are
// believed only on a connection from a manager.
const (
	headerNode = "Openmanage-Node"
	headerRole = "Openmanage-Role"
)

// peers are the other managers.
type peers struct {
	id    *swarmpki.Identity
	nodes *nodeView
	self  string
	http  *http.Client
}

func newPeers(id *swarmpki.Identity, nodes *nodeView, self string) *peers {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 2 * time.Second}, Config: id.ClientConfig()}
		return d.DialContext(ctx, network, addr)
	}
	return &peers{id: id, nodes: nodes, self: self, http: &http.Client{
		Transport: &http.Transport{DialTLSContext: dial, MaxIdleConnsPerHost: 8, IdleConnTimeout: 30 * time.Second},
	}}
}

// managers returns all managers of the Swarm.
func (p *peers) managers(ctx context.Context) ([]api.Node, error) {
	nodes, err := p.nodes.get(ctx, time.Second)
	if err != nil {
		return nil, err
	}
	var managers []api.Node
	for _, n := range nodes {
		if isManager(n) {
			managers = append(managers, toNode(n))
		}
	}
	return managers, nil
}

func (p *peers) url(n api.Node, path string) string {
	return "https://" + net.JoinHostPort(n.Addr, strconv.Itoa(api.ManagerPort)) + path
}

// call asks another manager in this manager's own name.
func (p *peers) call(ctx context.Context, n api.Node, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, p.url(n, path), bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 16*api.MaxBody))
	if err != nil {
		return err
	}
	if res.StatusCode >= 400 {
		return fmt.Errorf("manager %s: %s: %s", n.Hostname, res.Status, answer)
	}
	return json.Unmarshal(answer, out)
}

// forward hands a request on to the leader for caller, and its answer back.
func (m *Manager) forward(w http.ResponseWriter, r *http.Request, caller swarmpki.Peer, body []byte) {
	leader := m.leadership.leaderNode()
	if leader == "" || leader == m.leadership.self || r.Header.Get(headerNode) != "" {
		// Forwarded once is enough: two managers that each believe in the other
		// must not send a request in circles.
		writeError(w, http.StatusServiceUnavailable, refuse(api.ErrNotLeader, "no manager leads at the moment; one takes over within seconds if most Swarm managers run"))
		return
	}
	err := func() error {
		nodes, err := m.nodes.get(r.Context(), 5*time.Second)
		if err != nil {
			return err
		}
		n, ok := nodes[leader]
		if !ok {
			return errors.New("it is not in the list of nodes")
		}
		ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, r.Method, m.peers.url(toNode(n), r.URL.RequestURI()), bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set(headerNode, caller.NodeID)
		req.Header.Set(headerRole, role(caller))
		res, err := m.peers.http.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		answer, err := io.ReadAll(io.LimitReader(res.Body, 16*api.MaxBody))
		if err != nil {
			return err
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(res.StatusCode)
		_, _ = w.Write(answer)
		return nil
	}()
	if err != nil {
		writeError(w, http.StatusServiceUnavailable, refuse(api.ErrNotLeader, "the leading manager on node %s does not answer: %v", leader, err))
	}
}

func role(p swarmpki.Peer) string {
	if p.Manager {
		return "manager"
	}
	return "worker"
}

// caller tells for whom a request is made: the peer of the connection, or whom a
// manager forwards for.
func caller(r *http.Request) (swarmpki.Peer, error) {
	p, err := swarmpki.PeerFrom(r.TLS)
	if err != nil {
		return p, err
	}
	node := r.Header.Get(headerNode)
	if node == "" {
		return p, nil
	}
	if !p.Manager {
		return p, fmt.Errorf("node %s is a worker and cannot speak for node %s", p.NodeID, node)
	}
	return swarmpki.Peer{NodeID: node, Cluster: p.Cluster, Manager: r.Header.Get(headerRole) == "manager"}, nil
}
