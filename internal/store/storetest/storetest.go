// Package storetest has Swarm's configs in memory, for tests of branches that a
// real Swarm cannot be brought into. The e2e tests use the real one.
package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
)

// Configs implements store.ConfigAPI with Swarm's rules: unique names, prefix
// matching name filters, and versions that an update must name.
type Configs struct {
	mu    sync.Mutex
	items []swarm.Config
	index uint64

	// Fail, if set, is asked before each call; an error is returned instead.
	Fail func(call string) error
}

func (c *Configs) begin(call string) error {
	if c.Fail != nil {
		if err := c.Fail(call); err != nil {
			return err
		}
	}
	c.mu.Lock()
	return nil
}

// ConfigCreate makes a config.
func (c *Configs) ConfigCreate(_ context.Context, o client.ConfigCreateOptions) (client.ConfigCreateResult, error) {
	if err := c.begin("create"); err != nil {
		return client.ConfigCreateResult{}, err
	}
	defer c.mu.Unlock()
	for _, item := range c.items {
		if item.Spec.Name == o.Spec.Name {
			return client.ConfigCreateResult{}, fmt.Errorf("config %s: %w", o.Spec.Name, cerrdefs.ErrAlreadyExists)
		}
	}
	c.index++
	item := swarm.Config{ID: fmt.Sprintf("id%d", c.index), Spec: o.Spec}
	item.Version.Index, item.CreatedAt, item.UpdatedAt = c.index, time.Now(), time.Now()
	c.items = append(c.items, item)
	return client.ConfigCreateResult{ID: item.ID}, nil
}

func (c *Configs) find(id string) (int, error) {
	i := slices.IndexFunc(c.items, func(item swarm.Config) bool { return item.ID == id })
	if i < 0 {
		return 0, fmt.Errorf("config %s: %w", id, cerrdefs.ErrNotFound)
	}
	return i, nil
}

// ConfigInspect returns a config by ID.
func (c *Configs) ConfigInspect(_ context.Context, id string, _ client.ConfigInspectOptions) (client.ConfigInspectResult, error) {
	if err := c.begin("inspect"); err != nil {
		return client.ConfigInspectResult{}, err
	}
	defer c.mu.Unlock()
	i, err := c.find(id)
	if err != nil {
		return client.ConfigInspectResult{}, err
	}
	return client.ConfigInspectResult{Config: c.items[i]}, nil
}

// ConfigList filters by name prefix and label, as Swarm does.
func (c *Configs) ConfigList(_ context.Context, o client.ConfigListOptions) (client.ConfigListResult, error) {
	if err := c.begin("list"); err != nil {
		return client.ConfigListResult{}, err
	}
	defer c.mu.Unlock()
	var found []swarm.Config
	for _, item := range c.items {
		if matches(item, o.Filters) {
			found = append(found, item)
		}
	}
	return client.ConfigListResult{Items: found}, nil
}

func matches(item swarm.Config, filters client.Filters) bool {
	for name := range filters["name"] {
		if !strings.HasPrefix(item.Spec.Name, name) {
			return false
		}
	}
	for label := range filters["label"] {
		key, value, _ := strings.Cut(label, "=")
		if item.Spec.Labels[key] != value {
			return false
		}
	}
	return true
}

// ConfigUpdate replaces a config's labels if the version is the current one.
func (c *Configs) ConfigUpdate(_ context.Context, id string, o client.ConfigUpdateOptions) (client.ConfigUpdateResult, error) {
	if err := c.begin("update"); err != nil {
		return client.ConfigUpdateResult{}, err
	}
	defer c.mu.Unlock()
	i, err := c.find(id)
	if err != nil {
		return client.ConfigUpdateResult{}, err
	}
	if c.items[i].Version != o.Version {
		return client.ConfigUpdateResult{}, errors.New("rpc error: code = Unknown desc = update out of sequence")
	}
	c.index++
	c.items[i].Spec, c.items[i].Version.Index, c.items[i].UpdatedAt = o.Spec, c.index, time.Now()
	return client.ConfigUpdateResult{}, nil
}

// ConfigRemove deletes a config.
func (c *Configs) ConfigRemove(_ context.Context, id string, _ client.ConfigRemoveOptions) (client.ConfigRemoveResult, error) {
	if err := c.begin("remove"); err != nil {
		return client.ConfigRemoveResult{}, err
	}
	defer c.mu.Unlock()
	i, err := c.find(id)
	if err != nil {
		return client.ConfigRemoveResult{}, err
	}
	c.items = slices.Delete(c.items, i, i+1)
	return client.ConfigRemoveResult{}, nil
}
