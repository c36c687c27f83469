package swarmmanager

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// takeOverAfter is for how long, by its own clock, a manager must have seen the
// leader record stand still before it takes the leadership.
const takeOverAfter = 3 * time.Second

// The leader writes its record every beatInterval; the others read it every
// followInterval, because they count a former leader's time from when they saw its last
// write.
const (
	beatInterval   = time.Second
	followInterval = beatInterval / 2
)

// writeTimeout is for one write of the record.
const writeTimeout = 3 * time.Second

// hearingTime is how long a leader that begins, or begins to act again, listens before it
// concludes anything from a silence: nodes report every second, and one whose manager is
// gone asks the next one.
const hearingTime = 3 * time.Second

// resignTimeout is how long a manager that is asked to stop tries to say so. Without
// a word of it the others wait for takeOverAfter.
const resignTimeout = 2 * time.Second

// leadership tells whether this manager may act as the leader at this moment.
//
// The leader is who keeps writing the leader record. Any manager can: the one on
// Swarm's own leader has no advantage worth a rule, and where that node is drained
// no manager runs there. A takeover is a compare-and-swap, so the former leader's
// next write fails; and a leader acts only while a write of its own through Raft
// is younger than api.LeaderWriteBound, so one that was cut off stops renewing
// leases by its own clock. It is safe for concurrent use.
type leadership struct {
	self, boot, version string
	now                 clock

	mu       sync.Mutex
	leading  bool
	former   time.Duration // until when a former leader may have renewed leases
	lastBeat time.Duration // when the last successful write was begun
	actingAt time.Duration // since when it has been acting without a break
	record   store.Record[store.Leader]
	leader   string        // node ID of the leader, as last seen; "": not known
	seen     uint64        // version of the record when it was last read as a follower
	seenAt   time.Duration // since when it has that version
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

// settled tells whether every lease of that length that a former leader may have
// renewed has run out, unless it was renewed since.
func (l *leadership) settled(lease time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading && l.now()-l.former > lease+api.LeaseMargin
}

// steady tells whether every living node has had the time to be heard, so that
// the silence of one says something about it. A leader whose writes fail for some
// seconds, as while Swarm elects, answers nobody, and hears nobody.
func (l *leadership) steady() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leading && l.now()-l.actingAt > hearingTime
}

// leaderNode returns the node ID of the leader, as last seen, or "".
func (l *leadership) leaderNode() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.leader
}

// unknown notes that the record could not be read or written. That alone ends no
// leadership: without a beat it is soon not acting, and a beat of another manager
// in between shows at the next one.
func (l *leadership) unknown() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leader = ""
}

// follow notes the record of another leader; true: it stands still, and this
// manager may take over.
func (l *leadership) follow(r store.Record[store.Leader]) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leading, l.record = false, store.Record[store.Leader]{}
	now := l.now()
	if r.Version() != l.seen {
		l.seen, l.seenAt = r.Version(), now
	}
	l.leader = r.Value.Node
	// A record of this node is of a process before this one.
	return r.Value.Node == l.self || r.Value.Resigned || now-l.seenAt >= takeOverAfter
}

// resign ends this leadership, if there is one, and says so in the record, so that
// another manager need not wait until the record stands still. From its beginning
// nothing is answered as the leader any more.
func (l *leadership) resign(ctx context.Context, s *store.Store) (resigned bool, err error) {
	l.mu.Lock()
	record, leading := l.record, l.leading
	l.leading, l.record, l.leader = false, store.Record[store.Leader]{}, ""
	l.mu.Unlock()
	if !leading || record.Name == "" {
		return false, nil
	}
	value := record.Value
	value.Beat++
	value.Resigned = true
	_, err = store.Update(ctx, s, store.KindLeader, record, value)
	return err == nil, err
}

// formerUntil is until when the leader whose record r this manager has replaced may have
// renewed leases: until LeaderWriteBound after it began its last write, which was before
// r was seen here for the first time. One that has resigned had stopped before it wrote so.
func (l *leadership) formerUntil(r store.Record[store.Leader]) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case r.Name == "": // there was none, or it was removed
		return l.now() + api.LeaderWriteBound
	case r.Value.Resigned:
		return l.seenAt
	}
	return l.seenAt + api.LeaderWriteBound
}

// beat writes the leader record, if it is this manager's or nobody else's any more.
// If that begins a leadership, it returns true, and begin has succeeded before
// anything is answered as the leader. begin is told until when a former leader may have
// renewed leases.
func (l *leadership) beat(ctx context.Context, s *store.Store, begin func(former time.Duration) error) (began bool, err error) {
	l.mu.Lock()
	record, leading := l.record, l.leading
	l.mu.Unlock()

	host, _ := os.Hostname()
	value := store.Leader{Node: l.self, Hostname: host, Boot: l.boot, Version: l.version, Beat: record.Value.Beat + 1}
	started := l.now()
	var replaced store.Record[store.Leader]
	if !leading || record.Name == "" {
		record, err = store.Get[store.Leader](ctx, s, store.KindLeader, store.LeaderName)
		switch {
		case errors.Is(err, store.ErrNotFound):
			leading = false
			record, err = store.Create(ctx, s, store.KindLeader, store.LeaderName, value)
		case err == nil:
			leading = leading && record.Value.Boot == l.boot
			if !leading && !l.follow(record) {
				return false, nil
			}
			replaced = record
			value.Beat = record.Value.Beat + 1
			record, err = store.Update(ctx, s, store.KindLeader, record, value)
		}
	} else {
		record, err = store.Update(ctx, s, store.KindLeader, record, value)
	}
	if err == nil && record.Value.Boot != l.boot {
		err = store.ErrStale // what is there by now is another's
	}
	var former time.Duration
	if err == nil && !leading {
		former = l.formerUntil(replaced)
		record, started, err = l.keep(ctx, s, record, started, func() error { return begin(former) })
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
		l.former = former
	}
	if began || l.now()-l.lastBeat >= api.LeaderWriteBound+api.ReportInterval {
		l.actingAt = l.now()
	}
	l.leading, l.record, l.lastBeat, l.leader = true, record, started, l.self
	return began, nil
}

// keep renews the record, last written at started, while begin works: the others would take
// the leadership from one whose record stands still. It returns the record and when its last
// write was begun. An error means that begin or a write failed.
func (l *leadership) keep(ctx context.Context, s *store.Store, record store.Record[store.Leader], started time.Duration, begin func() error) (store.Record[store.Leader], time.Duration, error) {
	done := make(chan error, 1)
	go func() { done <- begin() }()
	tick := time.NewTicker(beatInterval)
	defer tick.Stop()
	var lost error
	for {
		select {
		case err := <-done:
			if err != nil {
				err = fmt.Errorf("take over the leadership: %w", err)
			}
			return record, started, errors.Join(lost, err)
		case <-tick.C:
			if lost != nil {
				continue // begin ends in its own time: what it writes is refused
			}
			call, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
			value, now := record.Value, l.now()
			value.Beat++
			next, err := store.Update(call, s, store.KindLeader, record, value)
			cancel()
			switch {
			case err == nil && next.Value.Boot == l.boot:
				record, started = next, now
			case err == nil || errors.Is(err, store.ErrStale) || errors.Is(err, store.ErrNotFound):
				lost = store.ErrStale
			}
		}
	}
}

// lead keeps the leadership up to date until ctx ends.
func (m *Manager) lead(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	was := false
	for {
		turn := time.Now()
		call, cancel := context.WithTimeout(ctx, writeTimeout)
		begins, err := m.leadership.beat(call, m.store, func(former time.Duration) error { return m.takeOver(ctx, former) })
		if err != nil {
			m.leadership.unknown()
		}
		if begins {
			failpoint.Hit("leader:began")
			m.log.Info("leading", "boot", m.leadership.boot)
			m.apps.news.all()
		}
		cancel()
		if acting := m.leadership.acting(); was && !acting {
			m.log.Info("no longer leading", "leader", m.leadership.leaderNode(), "error", err)
			was = acting
		} else if was = acting; err != nil && ctx.Err() == nil {
			m.log.Warn("leadership is not known", "error", err)
		}
		interval := followInterval
		if was {
			interval = beatInterval
		}
		next.Reset(interval - time.Since(turn))
		select {
		case <-ctx.Done():
			call, cancel := context.WithTimeout(context.WithoutCancel(ctx), resignTimeout)
			defer cancel()
			resigned, err := m.leadership.resign(call, m.store)
			if resigned || err != nil {
				m.log.Info("this manager stops and resigns", "error", err)
			}
			return
		case <-next.C:
		}
	}
}

// takeOver prepares this manager to lead: it forgets what it knew as a leader
// before, and makes the records its own. former is until when another may have renewed
// leases.
func (m *Manager) takeOver(ctx context.Context, former time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	m.leases.forget(former)
	m.apps.forget()
	return m.volumes.takeOver(ctx)
}
