package swarmmanager

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/openmanage/openmanage/internal/api"
)

// promises are what this manager has promised to nodes that found no leader: not
// to take part in giving their volumes away. It is safe for concurrent use.
//
// A node whose leader is gone asks all managers; the word of a majority renews
// its leases (Raft elects a new leader in 10 to 20 s, and no database should
// restart for that). A leader asks a majority before it gives a silent node's
// volume away, and each that is asked refuses that node from then on. Two
// majorities share a manager, so either the leader learns of the promise or the
// node is refused.
type promises struct {
	now   clock
	start time.Duration

	mu     sync.Mutex
	until  map[string]time.Duration // by node, of promises
	barred map[string]time.Duration // by node
}

func newPromises(now clock) *promises {
	return &promises{now: now, start: now(), until: map[string]time.Duration{}, barred: map[string]time.Duration{}}
}

// give promises for lease from now; false: the node is barred, or may be: a
// manager that has just started has forgotten whom it barred for a leader that
// still asks the others.
func (p *promises) give(node string, lease time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if now < p.barred[node] || now-p.start < barTimeout {
		return false
	}
	p.until[node] = max(p.until[node], now+min(lease, api.LeaseDuration))
	return true
}

// bar refuses promises to node for d and returns what still holds.
func (p *promises) bar(node string, d time.Duration) api.PromiseAge {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if now-p.start < api.LeaseDuration+api.LeaseMargin {
		return api.PromiseAge{} // what this process promised before its restart is lost
	}
	var remaining time.Duration
	if until := p.until[node]; until != 0 {
		remaining = max(0, until+api.LeaseMargin-now)
	}
	if remaining == 0 {
		p.barred[node] = now + d
	}
	return api.PromiseAge{Known: true, Remaining: remaining}
}

// barTimeout is how long a leader asks for a bar.
const barTimeout = 3 * time.Second

// barDuration covers requests for a promise that are under way.
const barDuration = 2 * api.LeaseDuration

var errPromised = errors.New("a manager has promised the silent node that its volumes stay")

// barNode asks a majority of the managers, this one included, to refuse promises
// to node. An error means that node may still hold its leases.
func (m *Manager) barNode(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, barTimeout)
	defer cancel()
	managers, err := m.peers.managers(ctx)
	if err != nil {
		return err
	}
	answers := make(chan api.PromiseAge, len(managers))
	for _, peer := range managers {
		go func() {
			if peer.ID == m.leadership.self {
				answers <- m.promises.bar(node, barDuration)
				return
			}
			var age api.PromiseAge
			if err := m.peers.call(ctx, peer, http.MethodPost, "/v1/bar", api.BarRequest{Node: node, Bar: barDuration}, &age); err != nil {
				m.log.Debug("a manager does not answer", "manager", peer.Hostname, "error", err)
			}
			answers <- age
		}()
	}
	known := 0
	for range managers {
		age := <-answers
		if age.Remaining > 0 {
			return errPromised
		}
		if age.Known {
			known++
		}
		if known > len(managers)/2 {
			return nil
		}
	}
	return errors.New("less than half of the managers answer; the openmanage_manager service must run on most of them")
}
