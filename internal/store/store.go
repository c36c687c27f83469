// Package store keeps records in Swarm's Raft store, the only database of
// OpenManage.
//
// A record is a Docker config object: its name is openmanage.KIND.NAME, its data
// is "{}", its JSON is in the label openmanage.record and its kind in the label
// openmanage.kind. Docker's API updates a config's labels with the version that
// was read and refuses a stale one: that is create-if-absent and
// compare-and-swap on the Raft log that Swarm already replicates.
//
// A Store has no state of its own and is safe for concurrent use.
package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

const (
	labelKind   = "openmanage.kind"
	labelRecord = "openmanage.record"
	// maxConfigName is Swarm's limit on a config's name.
	maxConfigName = 64
)

var (
	// ErrNotFound: there is no such record. Any other error of Get means that
	// it is not known whether there is one.
	ErrNotFound = errors.New("record not found")
	// ErrExists: Create found a record of that name.
	ErrExists = errors.New("record exists")
	// ErrStale: the record was changed by somebody else since it was read.
	ErrStale = errors.New("record was changed meanwhile")
)

// ConfigAPI is the part of the Docker client that a Store uses; *client.Client is one.
type ConfigAPI interface {
	ConfigCreate(ctx context.Context, options client.ConfigCreateOptions) (client.ConfigCreateResult, error)
	ConfigInspect(ctx context.Context, id string, options client.ConfigInspectOptions) (client.ConfigInspectResult, error)
	ConfigList(ctx context.Context, options client.ConfigListOptions) (client.ConfigListResult, error)
	ConfigUpdate(ctx context.Context, id string, options client.ConfigUpdateOptions) (client.ConfigUpdateResult, error)
	ConfigRemove(ctx context.Context, id string, options client.ConfigRemoveOptions) (client.ConfigRemoveResult, error)
}

// Store reads and writes records.
type Store struct{ docker ConfigAPI }

// New returns a Store on the Swarm that docker, a manager's API, belongs to.
func New(docker ConfigAPI) *Store { return &Store{docker: docker} }

// Record is a value with the version by which it can be replaced.
type Record[T any] struct {
	Name    string
	Value   T
	Created time.Time
	Updated time.Time // by the clock of the Swarm manager that wrote it

	id      string
	version swarm.Version
}

// Version of the record in Raft; it grows with each update.
func (r Record[T]) Version() uint64 { return r.version.Index }

func configName(kind Kind, name string) (string, error) {
	full := "openmanage." + string(kind) + "." + name
	if name == "" || len(full) > maxConfigName {
		return "", fmt.Errorf("record name %q of kind %s: a Swarm config's name has 1 to %d characters, this would be %d", name, kind, maxConfigName, len(full))
	}
	return full, nil
}

// NameOf returns kind and name of the record in the config of that name; "" if it is
// no record.
func NameOf(config string) (kind Kind, name string) {
	rest, ours := strings.CutPrefix(config, "openmanage.")
	k, name, whole := strings.Cut(rest, ".")
	if !ours || !whole {
		return "", ""
	}
	return Kind(k), name
}

func spec(kind Kind, full string, value any) (swarm.ConfigSpec, error) {
	doc, err := json.Marshal(value)
	if err != nil {
		return swarm.ConfigSpec{}, fmt.Errorf("encode record %s: %w", full, err)
	}
	return swarm.ConfigSpec{
		Annotations: swarm.Annotations{
			Name:   full,
			Labels: map[string]string{labelKind: string(kind), labelRecord: string(doc)},
		},
		Data: []byte("{}"),
	}, nil
}

func decode[T any](kind Kind, c swarm.Config) (Record[T], error) {
	r := Record[T]{
		Name:    strings.TrimPrefix(c.Spec.Name, "openmanage."+string(kind)+"."),
		Created: c.CreatedAt, Updated: c.UpdatedAt,
		id: c.ID, version: c.Version,
	}
	if err := json.Unmarshal([]byte(c.Spec.Labels[labelRecord]), &r.Value); err != nil {
		return r, fmt.Errorf("record %s cannot be read: %w; look at it with `docker config inspect %s`", c.Spec.Name, err, c.Spec.Name)
	}
	return r, nil
}

// Create makes a record, or returns ErrExists.
func Create[T any](ctx context.Context, s *Store, kind Kind, name string, value T) (Record[T], error) {
	var none Record[T]
	full, err := configName(kind, name)
	if err != nil {
		return none, err
	}
	sp, err := spec(kind, full, value)
	if err != nil {
		return none, err
	}
	if _, err := s.docker.ConfigCreate(ctx, client.ConfigCreateOptions{Spec: sp}); err != nil {
		if cerrdefs.IsConflict(err) || cerrdefs.IsAlreadyExists(err) || strings.Contains(err.Error(), "AlreadyExists") {
			return none, fmt.Errorf("create record %s: %w", full, ErrExists)
		}
		return none, fmt.Errorf("create record %s: %w", full, err)
	}
	return Get[T](ctx, s, kind, name)
}

// Get reads a record. ErrNotFound is returned only if Swarm itself says that
// there is none.
func Get[T any](ctx context.Context, s *Store, kind Kind, name string) (Record[T], error) {
	var none Record[T]
	full, err := configName(kind, name)
	if err != nil {
		return none, err
	}
	// Inspect by name would also take a prefix of an ID: list by exact name.
	res, err := s.docker.ConfigList(ctx, client.ConfigListOptions{Filters: make(client.Filters).Add("name", full)})
	if err != nil {
		return none, fmt.Errorf("read record %s: %w", full, err)
	}
	for _, c := range res.Items {
		if c.Spec.Name == full { // the filter matches prefixes
			return decode[T](kind, c)
		}
	}
	return none, fmt.Errorf("read record %s: %w", full, ErrNotFound)
}

// Update replaces the value of r, as it was read, and returns the new record; or
// ErrStale, if somebody else has changed it, or ErrNotFound. After any other
// error the update may or may not have happened: read again.
func Update[T any](ctx context.Context, s *Store, kind Kind, r Record[T], value T) (Record[T], error) {
	full, err := configName(kind, r.Name)
	if err != nil {
		return r, err
	}
	sp, err := spec(kind, full, value)
	if err != nil {
		return r, err
	}
	_, err = s.docker.ConfigUpdate(ctx, r.id, client.ConfigUpdateOptions{Version: r.version, Spec: sp})
	switch {
	case err == nil:
	case strings.Contains(err.Error(), "update out of sequence"):
		return r, fmt.Errorf("update record %s: %w", full, ErrStale)
	case cerrdefs.IsNotFound(err):
		return r, fmt.Errorf("update record %s: %w", full, ErrNotFound)
	default:
		return r, fmt.Errorf("update record %s: %w", full, err)
	}
	res, err := s.docker.ConfigInspect(ctx, r.id, client.ConfigInspectOptions{})
	if err != nil {
		return r, fmt.Errorf("read record %s after its update: %w", full, err)
	}
	return decode[T](kind, res.Config)
}

// Modify reads a record, lets change edit its value, and writes it, again and
// again while others change it too. change returns false to leave it as it is.
func Modify[T any](ctx context.Context, s *Store, kind Kind, name string, change func(*T) (bool, error)) (Record[T], error) {
	for {
		r, err := Get[T](ctx, s, kind, name)
		if err != nil {
			return r, err
		}
		value := r.Value
		write, err := change(&value)
		if err != nil || !write {
			return r, err
		}
		next, err := Update(ctx, s, kind, r, value)
		if !errors.Is(err, ErrStale) {
			return next, err
		}
	}
}

// Delete removes a record; that it is gone already is no error.
func Delete[T any](ctx context.Context, s *Store, kind Kind, r Record[T]) error {
	if _, err := s.docker.ConfigRemove(ctx, r.id, client.ConfigRemoveOptions{}); err != nil && !cerrdefs.IsNotFound(err) {
		return fmt.Errorf("remove record openmanage.%s.%s: %w", kind, r.Name, err)
	}
	return nil
}

// Unreadable is List's error about records that cannot be read, by name.
type Unreadable map[string]error

func (u Unreadable) Error() string {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(u)) {
		errs = append(errs, u[name])
	}
	return errors.Join(errs...).Error()
}

// List returns all records of a kind, in the order of their names. A record that
// cannot be read is left out and named in an Unreadable, beside the others.
func List[T any](ctx context.Context, s *Store, kind Kind) ([]Record[T], error) {
	res, err := s.docker.ConfigList(ctx, client.ConfigListOptions{Filters: make(client.Filters).Add("label", labelKind+"="+string(kind))})
	if err != nil {
		return nil, fmt.Errorf("list records of kind %s: %w", kind, err)
	}
	records := make([]Record[T], 0, len(res.Items))
	broken := Unreadable{}
	for _, c := range res.Items {
		r, err := decode[T](kind, c)
		if err != nil {
			broken[r.Name] = err
			continue
		}
		records = append(records, r)
	}
	slices.SortFunc(records, func(a, b Record[T]) int { return strings.Compare(a.Name, b.Name) })
	if len(broken) > 0 {
		return records, broken
	}
	return records, nil
}
