package swarmmanager

import (
	"sync"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/delta"
)

// leases remembers when each node was last renewed, and what it said. It is a
// leader's memory: a new leader starts with an empty one and has to be settled
// (leadership) before it concludes anything from a silence.
type leases struct {
	now clock

	mu      sync.Mutex
	former  time.Duration // until when a former leader may have renewed
	nodes   map[string]heard
	touched map[string]time.Duration // by node: when it was given a lease otherwise than by a report
	silent  map[string]int           // by node: how many of silenceMarks it has passed
	helpers map[string]heardHelper
	turns   map[string]*sync.Mutex // by node
}

type heardHelper struct {
	at     time.Duration
	report api.HelperReport
}

type heard struct {
	at    time.Duration
	state delta.State // all that the node has said
	// report is state without what it has no right to say. Nobody changes it.
	report api.Report
	// answered are the orders that it has got, by member.
	answered map[string]answeredOrders
}

// turn waits until no other report of node is being answered, and returns what ends
// the turn.
func (l *leases) turn(node string) (end func()) {
	l.mu.Lock()
	if l.turns == nil {
		l.turns = map[string]*sync.Mutex{}
	}
	turn := l.turns[node]
	if turn == nil {
		turn = &sync.Mutex{}
		l.turns[node] = turn
	}
	l.mu.Unlock()
	turn.Lock()
	return turn.Unlock
}

// heardOf returns what node has said and was answered last.
func (l *leases) heardOf(node string) heard {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes[node]
}

func newLeases(now clock) *leases {
	l := &leases{now: now}
	l.forget(now())
	return l
}

// forget begins anew, for a leader before whom another may have renewed leases until
// former.
func (l *leases) forget(former time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.former = former
	l.nodes, l.helpers, l.silent = map[string]heard{}, map[string]heardHelper{}, map[string]int{}
	l.touched = map[string]time.Duration{}
}

// silenceMarks are the lengths of a silence from which on decisions are others:
// the lease is over, and what ran under it is.
var silenceMarks = []time.Duration{api.LeaseDuration, api.LeaseDuration + api.LeaseMargin}

// newlySilent tells whether any node has passed one of silenceMarks since it was
// asked last.
func (l *leases) newlySilent() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := false
	for node, h := range l.nodes {
		passed := 0
		for _, mark := range silenceMarks {
			if l.now()-h.at > mark {
				passed++
			}
		}
		news = news || passed > l.silent[node]
		l.silent[node] = passed
	}
	return news
}

// hear notes a report and its answer. Its time is that of the answer's making, which
// is not before the one from which the node counts its lease. It returns the volumes
// of which it says something new, or of whose members.
func (l *leases) hear(node string, h heard) (volumes []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.nodes[node].report
	h.at = l.now()
	l.nodes[node] = h
	volumes = differences(old.Volumes, h.report.Volumes, func(v *api.HeldVolume) string { return v.Name }, sameHold)
	return append(volumes, differences(old.Members, h.report.Members, func(s *api.MemberStatus) string { return s.Volume }, sameWord)...)
}

// sameWord tells whether b says nothing that a did not say, but for what changes all
// the time.
func sameWord(a, b *api.MemberStatus) bool {
	return a.Member == b.Member && a.State == b.State && a.Role == b.Role && a.Healthy == b.Healthy && a.Initialized == b.Initialized &&
		a.Term == b.Term && a.Leaving == b.Leaving && a.Named == b.Named && a.Address == b.Address && a.Streaming == b.Streaming && a.SyncNames == b.SyncNames &&
		a.Parameters == b.Parameters && a.StartedWith == b.StartedWith && a.Refused == b.Refused && a.PendingRestart == b.PendingRestart && a.PrimaryFirst == b.PrimaryFirst && a.NeedsCopy == b.NeedsCopy
}

// differences names what is in only one of two lists, each in the order of names, or
// in both and not the same.
func differences[T any](old, next []T, name func(*T) string, same func(a, b *T) bool) (names []string) {
	if len(old) == len(next) && len(old) > 0 && &old[0] == &next[0] {
		return nil // delta.State gives the same list again
	}
	i, j := 0, 0
	for i < len(old) || j < len(next) {
		switch {
		case j == len(next) || i < len(old) && name(&old[i]) < name(&next[j]):
			names = append(names, name(&old[i]))
			i++
		case i == len(old) || name(&old[i]) > name(&next[j]):
			names = append(names, name(&next[j]))
			j++
		default:
			if !same(&old[i], &next[j]) {
				names = append(names, name(&next[j]))
			}
			i, j = i+1, j+1
		}
	}
	return names
}

// sameHold leaves aside how full the volume is, which changes all the time.
func sameHold(a, b *api.HeldVolume) bool {
	x, y := *a, *b
	x.Usage, y.Usage = api.Usage{}, api.Usage{}
	return x == y
}

// touch notes that node was given a lease otherwise than by a report.
func (l *leases) touch(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.touched[node] = l.now()
}

func (l *leases) hearHelper(node string, r api.HelperReport) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.helpers[node] = heardHelper{at: l.now(), report: r}
}

// silence is for how long node has not been renewed for certain, by whichever leader.
func (l *leases) silence(node string) time.Duration {
	last, _ := l.given(node)
	return max(0, l.now()-last)
}

// given is when node can have been given a lease last, and whether this leader knows that
// it has given one.
func (l *leases) given(node string) (last time.Duration, known bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, heard := l.nodes[node]
	at, touched := l.touched[node]
	last = l.former
	if heard {
		last = max(last, h.at)
	}
	if touched {
		last = max(last, at)
	}
	return last, heard || touched
}

// expired tells whether every lease of that length that was given to node, by
// whichever leader, has run out.
func (l *leases) expired(node string, lease time.Duration) bool {
	return l.silence(node) > lease+api.LeaseMargin
}

// renewed tells whether a lease of that length which this leader gave to node may
// still hold.
func (l *leases) renewed(node string, lease time.Duration) bool {
	_, known := l.given(node)
	return known && !l.expired(node, lease)
}

// last returns what node reported last and how long ago.
func (l *leases) last(node string) (api.Report, time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.nodes[node]
	return h.report, l.now() - h.at, ok
}

// helper returns what the network helper of node said last and how long ago.
func (l *leases) helper(node string) (api.HelperReport, time.Duration, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.helpers[node]
	return h.report, l.now() - h.at, ok
}

// statuses returns the newest word of each member, by member's data volume, and
// of nodes that were heard within age.
func (l *leases) statuses() map[string]liveStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := 0
	for _, h := range l.nodes {
		count += len(h.report.Members)
	}
	all, now := make(map[string]liveStatus, count), l.now()
	for node, h := range l.nodes {
		for i := range h.report.Members {
			s := h.report.Members[i]
			if known, ok := all[s.Volume]; ok && known.at > h.at {
				continue
			}
			all[s.Volume] = liveStatus{MemberStatus: s, node: node, at: h.at, age: now - h.at}
		}
	}
	return all
}

// volumes returns what nodes that were heard within a lease hold.
func (l *leases) volumes() []api.LiveVolume {
	all := []api.LiveVolume{}
	l.each(func(node string, r api.Report) {
		for _, v := range r.Volumes {
			all = append(all, api.LiveVolume{HeldVolume: v, Node: node})
		}
	})
	return all
}

type liveStatus struct {
	api.MemberStatus
	node    string
	at, age time.Duration
}

// each calls f for every node that was heard within a lease.
func (l *leases) each(f func(node string, r api.Report)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for node, h := range l.nodes {
		if l.now()-h.at < api.LeaseDuration {
			f(node, h.report)
		}
	}
}
