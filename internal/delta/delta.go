// Package delta makes the reports of nodes small: a node sends what has changed
// since a report that the leader has answered, and the leader makes of it again what
// the node would have said in full. Both sides are here, since they must agree.
//
// Reports of a node's boot are numbered. A report of what has changed since number N
// holds whatever has changed after N, also if it has changed back; so it can be added
// to what any report from N on has said.
package delta

import (
	"cmp"
	"slices"
	"sync"

	"github.com/openmanage/openmanage/internal/api"
)

// Sender is the node's side. It is safe for concurrent use.
type Sender struct {
	mu      sync.Mutex
	seq     uint64
	base    uint64 // the latest report that the leader has answered; 0: send all
	volumes sent[api.HeldVolume]
	members sent[api.MemberStatus]
}

// Next numbers a report and leaves out what the leader knows. full is not changed.
func (s *Sender) Next(full api.Report) api.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	s.volumes.note(full.Volumes, volumeOf, s.seq, s.base)
	s.members.note(full.Members, memberOf, s.seq, s.base)
	r := full
	r.Seq, r.Since = s.seq, s.base
	if s.base == 0 {
		return r
	}
	r.Volumes, r.GoneVolumes = s.volumes.since(full.Volumes, volumeOf, s.base)
	r.Members, r.GoneMembers = s.members.since(full.Members, memberOf, s.base)
	return r
}

// Answered notes the answer to r. It returns true if the leader cannot do with what r
// has left out: the next report holds all, and is to be sent at once.
func (s *Sender) Answered(r api.Report, a api.ReportAnswer) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case a.Again || a.Seq != r.Seq: // an older manager does not know numbers
		s.base = 0
	default:
		s.base = max(s.base, r.Seq)
	}
	return a.Again
}

// sent is what was said of the things of one kind, by name.
type sent[T comparable] struct {
	items map[string]item[T]
	gone  map[string]uint64 // in which report it was no longer there
}

type item[T any] struct {
	value T
	at    uint64 // the first report that said so
}

func (s *sent[T]) note(values []T, name func(*T) string, seq, base uint64) {
	if s.items == nil {
		s.items, s.gone = map[string]item[T]{}, map[string]uint64{}
	}
	there := make(map[string]bool, len(values))
	for i := range values {
		key := name(&values[i])
		there[key] = true
		delete(s.gone, key)
		if was, known := s.items[key]; !known || was.value != values[i] {
			s.items[key] = item[T]{values[i], seq}
		}
	}
	for key := range s.items {
		if !there[key] {
			delete(s.items, key)
			s.gone[key] = seq
		}
	}
	for key, at := range s.gone {
		if at <= base {
			delete(s.gone, key)
		}
	}
}

func (s *sent[T]) since(values []T, name func(*T) string, base uint64) (changed []T, gone []string) {
	changed = []T{}
	for i := range values {
		if s.items[name(&values[i])].at > base {
			changed = append(changed, values[i])
		}
	}
	for key := range s.gone {
		gone = append(gone, key)
	}
	slices.Sort(gone)
	return changed, gone
}

func volumeOf(v *api.HeldVolume) string   { return v.Name }
func memberOf(s *api.MemberStatus) string { return s.Volume }

// State is what a node has said, the leader's side. Nobody changes one; the zero value
// knows nothing.
type State struct {
	// Report is what the node would have said in full, in the order of names.
	Report api.Report
}

// Newer tells whether r says more than the state: it is of another boot, or was sent
// later.
func (s State) Newer(r api.Report) bool {
	return r.Seq == 0 || r.Boot != s.Report.Boot || r.Seq > s.Report.Seq
}

// Add returns the state after r; false: what r has left out is not known.
func (s State) Add(r api.Report) (State, bool) {
	if r.Since == 0 {
		r.Volumes, r.Members = slices.Clone(r.Volumes), slices.Clone(r.Members)
		sortBy(r.Volumes, volumeOf)
		sortBy(r.Members, memberOf)
		return State{Report: r}, true
	}
	if r.Boot != s.Report.Boot || s.Report.Seq < r.Since {
		return s, false
	}
	r.Volumes = merge(s.Report.Volumes, r.Volumes, r.GoneVolumes, volumeOf)
	r.Members = merge(s.Report.Members, r.Members, r.GoneMembers, memberOf)
	r.Since, r.GoneVolumes, r.GoneMembers = 0, nil, nil
	return State{Report: r}, true
}

func sortBy[T any](values []T, name func(*T) string) {
	slices.SortFunc(values, func(a, b T) int { return cmp.Compare(name(&a), name(&b)) })
}

// merge returns old with what has changed and without what is gone. If that is
// nothing, it is old itself.
func merge[T any](old, changed []T, gone []string, name func(*T) string) []T {
	if len(changed) == 0 && len(gone) == 0 {
		return old
	}
	next := slices.Clone(old)
	if len(gone) > 0 {
		away := make(map[string]bool, len(gone))
		for _, key := range gone {
			away[key] = true
		}
		next = slices.DeleteFunc(next, func(v T) bool { return away[name(&v)] })
	}
	added := false
	known := len(next)
	for i := range changed {
		at, found := slices.BinarySearchFunc(next[:known], name(&changed[i]), func(v T, key string) int { return cmp.Compare(name(&v), key) })
		if found {
			next[at] = changed[i]
			continue
		}
		next = append(next, changed[i])
		added = true
	}
	if added {
		sortBy(next, name)
	}
	return next
}
