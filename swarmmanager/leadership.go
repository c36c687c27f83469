package swarmmanager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// leadership tells whether this manager may act as the leader at this moment.
//
// Two facts make it so: Swarm says that this node is its leader, and this manager
// itself has written the leader record through Raft within api.LeaderWriteBound.
// The second makes a leader that was cut off stop renewing leases by its own
// clock. It is safe for concurrent use.
type leadership struct {
	self, boot, version string
	now                 clock

	mu       sync.Mutex
	leading  bool
	since    time.Duration // when the first record of this leadership was written
	lastBeat time.Duration // when the last successful write was begun
	record   store.Record[store.Leader]
	leader   string // node ID of Swarm's leader, as last seen
}

func newLeadership(self, version string, now clock) *leadership {
	return &leadership{self: self, boot: randomID(8), version: version, now: now}
}

// acting tells whether leases may be renewed and records written.
func (l *leadership) acting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading && l.now()-l.lastBeat < api.LeaderWriteBound
}

// settled tells whether every lease that a former leader may have renewed has
// run out, unless it was renewed since. The last renewal by a former leader was
// within LeaderWriteBound of its last write, which was before our first.
func (l *leadership) settled() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading && l.now()-l.since > api.LeaseDuration+api.LeaderWriteBound+api.LeaseMargin
}

// swarmLeader returns the node ID of Swarm's leader, as last seen, or "".
func (l *leadership) swarmLeader() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leader
}

func (l *leadership) set(leading bool, leader string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading, l.leader = leading, leader
}

// unknown notes that Swarm could not be asked for its leader. That alone ends no
// leadership: without a beat it is soon not acting, and a beat of another manager
// in between shows at the next one.
func (l *leadership) unknown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leader = ""
}

// beat writes the leader record. If that begins a leadership, it returns true, and
// begin has succeeded before anything is answered as the leader.
func (l *leadership) beat(ctx context.Context, s *store.Store, begin func() error) (began bool, err error) {
	l.mu.Lock()
	record, leading := l.record, l.leading
	l.mu.Unlock()

	host, _ := os.Hostname()
	value := store.Leader{Node: l.self, Hostname: host, Boot: l.boot, Version: l.version, Beat: record.Value.Beat + 1}
	started := l.now()
	if !leading || record.Name == "" {
		record, err = store.Get[store.Leader](ctx, s, store.KindLeader, store.LeaderName)
		switch {
		case errors.Is(err, store.ErrNotFound):
			leading = false
			record, err = store.Create(ctx, s, store.KindLeader, store.LeaderName, value)
		case err == nil:
			leading = leading && record.Value.Boot == l.boot
			value.Beat = record.Value.Beat + 1
			record, err = store.Update(ctx, s, store.KindLeader, record, value)
		}
	} else {
		record, err = store.Update(ctx, s, store.KindLeader, record, value)
	}
	if err == nil && !leading {
		if err := begin(); err != nil {
			return false, fmt.Errorf("take over the leadership: %w", err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if errors.Is(err, store.ErrStale) || errors.Is(err, store.ErrNotFound) {
			// Somebody else wrote, or a write of ours that seemed to fail did not:
			// the record will say. In the first case begin anew, and wait a whole
			// lease again.
			l.record = store.Record[store.Leader]{}
		}
		return false, err
	}
	if began = !leading; began {
		l.since = l.now()
	}
	l.leading, l.record, l.lastBeat, l.leader = true, record, started, l.self
	return began, nil
}

// lead keeps the leadership up to date until ctx ends.
func (m *Manager) lead(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	was := false
	for {
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		leader, err := m.findLeader(call)
		switch {
		case err != nil:
			m.leadership.unknown()
		case leader != m.leadership.self:
			m.leadership.set(false, leader)
		default:
			var began bool
			if began, err = m.leadership.beat(call, m.store, func() error { return m.takeOver(ctx) }); began {
				failpoint.Hit("leader:began")
				m.log.Info("leading", "boot", m.leadership.boot)
				m.apps.trigger()
			}
		}
		cancel()
		if acting := m.leadership.acting(); was && !acting {
			m.log.Info("no longer leading", "swarm_leader", leader, "error", err)
			was = acting
		} else if was = acting; err != nil && ctx.Err() == nil {
			m.log.Warn("leadership is not known", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// takeOver prepares this manager to lead: it forgets what it knew as a leader
// before, and makes the records its own.
func (m *Manager) takeOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	m.leases.forget()
	return m.volumes.takeOver(ctx)
}

// findLeader returns the node ID of Swarm's leader.
func (m *Manager) findLeader(ctx context.Context) (string, error) {
	res, err := m.docker.NodeList(ctx, client.NodeListOptions{Filters: make(client.Filters).Add("role", "manager")})
	if err != nil {
		return "", err
	}
	for _, n := range res.Items {
		if n.ManagerStatus != nil && n.ManagerStatus.Leader {
			return n.ID, nil
		}
	}
	return "", errors.New("the Swarm has no leader")
}
