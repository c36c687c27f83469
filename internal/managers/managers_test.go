package managers

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/swarmpki"
)

// engine is a Docker engine that knows managers.
type engine struct {
	managers []string
	err      error
	takes    time.Duration
}

func (e *engine) Info(ctx context.Context, _ client.InfoOptions) (client.SystemInfoResult, error) {
	select {
	case <-time.After(e.takes):
	case <-ctx.Done():
		return client.SystemInfoResult{}, ctx.Err()
	}
	var peers []swarm.Peer
	for _, m := range e.managers {
		peers = append(peers, swarm.Peer{Addr: m + ":2377"})
	}
	return client.SystemInfoResult{Info: system.Info{Swarm: swarm.Info{RemoteManagers: peers}}}, e.err
}

func TestAMajorityIsReckonedFromTheManagersThatThereAreNow(t *testing.T) {
	e := &engine{managers: []string{"10.0.0.1", "10.0.0.2", "10.0.0.3"}}
	c := New(e, swarmpki.New(t.TempDir()))
	_, err := c.Addresses(t.Context())
	assert.NilError(t, err)
	e.managers = append(e.managers, "10.0.0.4", "10.0.0.5")
	known, err := c.Addresses(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(known), 3, "a report is not worth a question to the engine each second")
	now, err := c.Members(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(now), 5, "two of three are no majority of five")

	e.err = errors.New("the daemon restarts")
	now, err = c.Members(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(now), 5, "what was known is kept while the engine is away")
}

func TestABusyEngineIsWaitedForOnlyUntilTheManagersAreKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &engine{managers: []string{"10.0.0.1"}, takes: 2 * time.Second}
		c := New(e, swarmpki.New(t.TempDir()))
		first, err := c.Members(t.Context())
		assert.NilError(t, err, "a command that has just begun knows no manager yet")
		assert.Equal(t, len(first), 1)
		begun := time.Now()
		_, err = c.Members(t.Context())
		assert.NilError(t, err)
		assert.Assert(t, time.Since(begun) < time.Second, "a lease cannot wait for a busy engine")
	})
}
