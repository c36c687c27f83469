// Package swarmmanager is the manager: a global Swarm service on manager nodes.
//
// One manager leads (leadership.go). It answers the nodes' plugins (server.go),
// decides who may hold a volume (volumes.go, decide.go), renews leases
// (leases.go), watches the Swarm for applications and keeps their records
// (observe.go, applications.go), keeps members apart (apart.go), and executes
// operations (operations.go), as the labels allow (policies.go, window.go). The
// other managers forward what they are asked to the leader (forward.go), and are
// witnesses while there is none (promises.go).
//
// Everything that must survive is in records (internal/store); what a leader
// keeps in memory, it can lose at any moment: a new leader waits until no lease
// that it does not know of can still be held.
package swarmmanager

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/swarm"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

// Config is what a manager needs.
type Config struct {
	Docker   *client.Client     // of the node's own engine, a Swarm manager
	Identity *swarmpki.Identity // the node's Swarm certificate
	Log      hclog.Logger
	Version  string
	Listen   string // address to answer on, ":27040"
}

// Manager is one manager process.
type Manager struct {
	docker   *client.Client
	services serviceAPI // of docker
	id       *swarmpki.Identity
	log      hclog.Logger
	version  string
	listen   string

	store   *store.Store
	cluster *swarm.Cluster

	leadership *leadership
	leases     *leases
	promises   *promises
	volumes    *volumes
	apps       *applications
	nodes      *nodeView
	peers      *peers
	snapshots  snapshots
	pulls      *pulls
}

// Run serves until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	m := &Manager{
		docker: cfg.Docker, services: cfg.Docker, id: cfg.Identity, log: cfg.Log, version: cfg.Version, listen: cfg.Listen,
		store: store.New(cfg.Docker), cluster: swarm.New(cfg.Docker),
	}
	self, err := waitIdentity(ctx, cfg.Identity, cfg.Log)
	if err != nil {
		return err
	}
	now := bootClock
	m.leadership = newLeadership(self.NodeID, cfg.Version, now)
	m.leases = newLeases(now)
	m.promises = newPromises(now)
	m.pulls = newPulls(now)
	m.nodes = newNodeView(m.cluster)
	m.peers = newPeers(cfg.Identity, m.nodes, self.NodeID)
	m.volumes = &volumes{
		store: m.store, cluster: m.cluster, leases: m.leases, leadership: m.leadership,
		nodes: m.nodes, barNode: m.barNode, now: now, log: cfg.Log.Named("volumes"),
		revoked: map[string]uint64{}, absent: map[string]absence{},
	}
	m.apps = newApplications(m)
	m.volumes.leaseWanted = m.apps.leaseWanted

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	errs := make(chan error, 1)
	group.Go(func() {
		errs <- m.serve(ctx)
		cancel()
	})
	group.Go(func() { m.lead(ctx) })
	group.Go(func() { m.watch(ctx) })
	group.Wait()
	if err := <-errs; err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// waitIdentity waits for the node's certificate: a manager task can be older
// than its files after a restart of all nodes.
func waitIdentity(ctx context.Context, id *swarmpki.Identity, log hclog.Logger) (swarmpki.Peer, error) {
	for {
		self, err := id.Self()
		if err == nil {
			if !self.Manager {
				return self, fmt.Errorf("node %s is a Swarm worker; the manager runs on Swarm managers", self.NodeID)
			}
			return self, nil
		}
		if errors.Is(err, swarmpki.ErrLocked) {
			return self, err
		}
		log.Warn("waiting for the node's Swarm certificate", "error", err)
		if !pause(ctx, time.Second) {
			return self, ctx.Err()
		}
	}
}

// pause waits for d; false: ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func randomID(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails: it ends the process instead
	return hex.EncodeToString(b)
}

func refuse(code, format string, args ...any) *api.Error {
	return &api.Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
