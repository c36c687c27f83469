package store

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"
)

// Mirror keeps the records of a kind as they were read last, so that a look at all of
// them need not read all of them. What it returns can be old: what is written on the
// ground of it is refused then, since a record also carries the version that was read.
// It is safe for concurrent use.
type Mirror[T any] struct {
	store *Store
	kind  Kind

	mu      sync.Mutex
	records map[string]Record[T] // nil: not listed
	listed  time.Time
	changed map[string]bool // to be read again
}

// rereadAtMost is how many changed records are read one by one; if there are more,
// all are listed.
const rereadAtMost = 32

// NewMirror returns a Mirror that has read nothing yet.
func NewMirror[T any](s *Store, kind Kind) *Mirror[T] {
	return &Mirror[T]{store: s, kind: kind, changed: map[string]bool{}}
}

// All returns every record by name. They are listed anew if that was last done longer
// than age ago; those that are said to have changed are read again in any case.
func (m *Mirror[T]) All(ctx context.Context, age time.Duration) (map[string]Record[T], error) {
	m.mu.Lock()
	list := m.records == nil || time.Since(m.listed) >= age || len(m.changed) > rereadAtMost
	changed := m.changed
	m.changed = map[string]bool{}
	m.mu.Unlock()
	if err := m.refresh(ctx, list, changed); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		for name := range changed {
			m.changed[name] = true
		}
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.records), nil
}

func (m *Mirror[T]) refresh(ctx context.Context, list bool, changed map[string]bool) error {
	if !list {
		for name := range changed {
			if _, err := m.Read(ctx, name); err != nil && !errors.Is(err, ErrNotFound) {
				return err
			}
		}
		return nil
	}
	at := time.Now()
	found, err := List[T](ctx, m.store, m.kind)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	records := make(map[string]Record[T], len(found))
	for _, r := range found {
		if known, ok := m.records[r.Name]; ok && known.Version() > r.Version() {
			r = known // written while the list was made
		}
		records[r.Name] = r
	}
	m.records, m.listed = records, at
	return nil
}

// Read reads one record, whatever is known of it.
func (m *Mirror[T]) Read(ctx context.Context, name string) (Record[T], error) {
	r, err := Get[T](ctx, m.store, m.kind, name)
	switch {
	case err == nil:
		m.Put(r)
	case errors.Is(err, ErrNotFound):
		m.Drop(name)
	}
	return r, err
}

// Changed notes that a record is another than the one that was read.
func (m *Mirror[T]) Changed(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changed[name] = true
}

// Put notes a record as it was just read or written.
func (m *Mirror[T]) Put(r Record[T]) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records != nil {
		m.records[r.Name] = r
	}
}

// Drop notes that there is no such record.
func (m *Mirror[T]) Drop(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, name)
}

// Forget has the next All list anew.
func (m *Mirror[T]) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = nil
}
