// Package networkplugin is the network helper: a global Swarm service, one task
// on every node.
//
// It installs and enables the volume plugin on its own node (plugin.go), so that
// a node that joins later is ready without a hand; it knows which member's
// container runs on the node at which addresses and tells the leading manager
// (members.go); it pulls images that members are to have soon (pull.go); and it runs commands in a member's container for managers
// (exec.go), by which `docker openmanage connect` reaches a database on any node.
package networkplugin

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/managers"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

// Config is what the helper needs.
type Config struct {
	Docker   *client.Client     // of the node's own engine
	Identity *swarmpki.Identity // the node's Swarm certificate
	Log      hclog.Logger
	Version  string
	Listen   string // address to answer managers on, ":27041"
	// Plugin is the reference of the volume plugin, REGISTRY/NAME:TAG; "" leaves
	// the plugin to the operator.
	Plugin string
	// PluginSettings are KEY=VALUE for `docker plugin set`.
	PluginSettings []string
}

// interval is the time between two looks at the node.
const interval = 3 * time.Second

// Run works until ctx ends.
func Run(ctx context.Context, cfg Config) error {
	h := &helper{Config: cfg, leader: managers.New(cfg.Docker, cfg.Identity), puller: newPuller(cfg.Docker, cfg.Log.Named("pull"))}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	errs := make(chan error, 1)
	group.Go(func() {
		errs <- h.serve(ctx)
		cancel()
	})
	group.Go(func() { h.look(ctx) })
	group.Wait()
	if err := <-errs; err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

type helper struct {
	Config
	leader *managers.Client
	puller *puller
}

// look brings the plugin into the wanted state and reports, again and again.
func (h *helper) look(ctx context.Context) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	problem := ""
	for {
		report := api.HelperReport{Version: h.Version}
		var err error
		if report.Plugin, err = h.ensurePlugin(ctx); err != nil {
			report.Problem = err.Error()
		}
		if report.Problem != problem {
			h.Log.Info("volume plugin", "reference", report.Plugin, "problem", report.Problem)
			problem = report.Problem
		}
		if report.Members, err = h.members(ctx); err != nil {
			h.Log.Warn("members of this node are not known", "error", err)
		}
		report.Pulls = h.puller.report()
		var answer api.HelperAnswer
		switch err := h.leader.Call(ctx, http.MethodPost, "/v1/helper", report, &answer); {
		case err == nil:
			h.puller.follow(ctx, answer.Pull)
		case ctx.Err() == nil:
			h.Log.Debug("report not delivered; it is repeated", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-h.puller.news: // a user waits for it
		case <-tick.C:
		}
	}
}
