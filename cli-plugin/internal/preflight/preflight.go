// Package preflight finds out, before anything is made, whether a command can do
// its work: is there a daemon, a Swarm, a manager of it, OpenManage on it, and its
// plugin on every node. Each answer of no says what to do next.
package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

var (
	// ErrNoDaemon: the Docker daemon does not answer.
	ErrNoDaemon = errors.New("the Docker daemon cannot be reached")
	// ErrNoSwarm: the daemon is in no Swarm.
	ErrNoSwarm = errors.New("this Docker daemon is not part of a Swarm")
	// ErrNotManager: the daemon is a worker.
	ErrNotManager = errors.New("this node is not a Swarm manager")
	// ErrNotInstalled: the Swarm does not run OpenManage.
	ErrNotInstalled = errors.New("OpenManage is not installed on this Swarm")
	// ErrNoLeader: OpenManage is installed but no manager of it leads.
	ErrNoLeader = errors.New("OpenManage's manager cannot be reached")
	// ErrPluginMissing: some nodes do not run the volume plugin.
	ErrPluginMissing = errors.New("the volume plugin is missing")
)

// ManagerService is the name of the manager's Swarm service.
const ManagerService = api.StackName + "_manager"

// NetworkService is the name of the network helper's Swarm service.
const NetworkService = api.StackName + "_network"

// LeaderPatience is how old the leader's record may be. It is written every second.
const LeaderPatience = 15 * time.Second

// Manager returns what the daemon says of itself, or why it cannot manage a Swarm.
func Manager(ctx context.Context, docker client.APIClient) (system.Info, error) {
	res, err := docker.Info(ctx, client.InfoOptions{})
	if err != nil {
		return system.Info{}, unreachable(docker, err)
	}
	return res.Info, checkSwarm(res.Info)
}

func unreachable(docker client.APIClient, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fmt.Errorf("%w at %s: %w\nCheck that it runs there, and which one is asked: docker context ls", ErrNoDaemon, docker.DaemonHost(), err)
}

func checkSwarm(info system.Info) error {
	switch s := info.Swarm; {
	case s.LocalNodeState == swarm.LocalNodeStateLocked:
		return fmt.Errorf("the Swarm on %s is locked\nUnlock it with: docker swarm unlock", info.Name)
	case s.LocalNodeState == swarm.LocalNodeStateError:
		return fmt.Errorf("the Swarm on %s is in error: %s\nLook at its daemon's log", info.Name, s.Error)
	case s.LocalNodeState == swarm.LocalNodeStatePending:
		return fmt.Errorf("%s is still joining its Swarm\nTry again in a moment", info.Name)
	case s.LocalNodeState != swarm.LocalNodeStateActive:
		return fmt.Errorf("%w (%s)\nMake one with: docker swarm init\nOr use the context of another daemon: docker --context NAME openmanage …", ErrNoSwarm, info.Name)
	case !s.ControlAvailable:
		managers := make([]string, 0, len(s.RemoteManagers))
		for _, m := range s.RemoteManagers {
			managers = append(managers, m.Addr)
		}
		where := ""
		if len(managers) > 0 {
			where = " (managers: " + strings.Join(managers, ", ") + ")"
		}
		return fmt.Errorf("%w: %s is a worker%s\nUse the context of a manager: docker --context NAME openmanage …", ErrNotManager, info.Name, where)
	}
	return nil
}

// Explain replaces an error of Docker's API by one that says what is wrong with
// the daemon or its Swarm, if that is the reason for it.
func Explain(ctx context.Context, docker client.APIClient, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	if client.IsErrConnectionFailed(err) {
		return unreachable(docker, err)
	}
	if cerrdefs.IsUnavailable(err) || strings.Contains(err.Error(), "not a swarm manager") {
		if _, why := Manager(ctx, docker); why != nil {
			return why
		}
	}
	return err
}

// Installed says whether OpenManage runs on the Swarm and leads, or what is wrong.
// info is the daemon's, for its clock.
func Installed(ctx context.Context, docker client.APIClient, info system.Info) (store.Leader, error) {
	var none store.Leader
	ok, err := hasService(ctx, docker, ManagerService)
	if err != nil {
		return none, Explain(ctx, docker, err)
	}
	if !ok {
		return none, fmt.Errorf("%w\nInstall it with: docker openmanage install", ErrNotInstalled)
	}
	return Leader(ctx, store.New(docker), Clock(info))
}

// Leader returns who leads, or an error if the leader's record does not move.
func Leader(ctx context.Context, s *store.Store, now time.Time) (store.Leader, error) {
	record, err := store.Get[store.Leader](ctx, s, store.KindLeader, store.LeaderName)
	if errors.Is(err, store.ErrNotFound) {
		return store.Leader{}, fmt.Errorf("%w: none has led yet\n%s", ErrNoLeader, lookAtManager)
	}
	if err != nil {
		return store.Leader{}, err
	}
	if Fresh(record, now) {
		return record.Value, nil
	}
	// The record may look old because clocks differ: what counts is that it moves.
	for range 6 {
		select {
		case <-ctx.Done():
			return record.Value, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
		next, err := store.Get[store.Leader](ctx, s, store.KindLeader, store.LeaderName)
		if err == nil && next.Version() != record.Version() {
			return next.Value, nil
		}
	}
	return record.Value, Stale(record, now)
}

const lookAtManager = "Look at it with: docker service ps --no-trunc " + ManagerService + "; docker service logs " + ManagerService

// Fresh says whether the leader's record was written lately. now is of the
// Swarm's clock, as near as it is known.
func Fresh(r store.Record[store.Leader], now time.Time) bool {
	age := now.Sub(r.Updated)
	return age < LeaderPatience && age > -LeaderPatience
}

// Stale is the error for a leader's record that is not fresh.
func Stale(r store.Record[store.Leader], now time.Time) error {
	return fmt.Errorf("%w: %s led last, %s ago\nWhat runs goes on running. %s",
		ErrNoLeader, r.Value.Hostname, now.Sub(r.Updated).Round(time.Second), lookAtManager)
}

// Clock returns the daemon's time, or ours if it does not say.
func Clock(info system.Info) time.Time {
	if t, err := time.Parse(time.RFC3339Nano, info.SystemTime); err == nil {
		return t
	}
	return time.Now()
}

func hasService(ctx context.Context, docker client.APIClient, name string) (bool, error) {
	res, err := docker.ServiceList(ctx, client.ServiceListOptions{Filters: make(client.Filters).Add("name", name)})
	if err != nil {
		return false, err
	}
	// The filter matches prefixes.
	return slices.ContainsFunc(res.Items, func(s swarm.Service) bool { return s.Spec.Name == name }), nil
}

// NodeState is what is known of OpenManage on one node.
type NodeState struct {
	Node   swarm.Node
	Record *store.Node // nil: its plugin has never reported
}

// Expected says whether the node should run the plugin now: it is up, and Swarm places on it the helper
// that installs it. On a node that is drained or paused there is the plugin that it had, if any.
func (n NodeState) Expected() bool {
	return n.Node.Status.State == swarm.NodeStateReady && (n.Active() || n.Record != nil && n.Record.Reporting)
}

// Active says whether Swarm places tasks on the node.
func (n NodeState) Active() bool { return n.Node.Spec.Availability == swarm.NodeAvailabilityActive }

// Problem says what is wrong with the node's plugin, or "".
func (n NodeState) Problem() string {
	switch {
	case n.Record == nil:
		return "the plugin has not reported yet"
	case n.Record.Problem != "" && !n.Record.Reporting:
		return n.Record.Problem
	case !n.Record.Reporting:
		return "the plugin does not report, since " + n.Record.Since.Local().Format(time.TimeOnly)
	case n.Record.Storage.Error != "":
		return "its storage: " + n.Record.Storage.Error
	case !n.listed():
		return "Swarm does not know of its plugin yet; a node tells within 20s"
	}
	return ""
}

// listed says whether Swarm knows of the node's plugin. Until then it places no
// task there that mounts a volume of the plugin. A node tells of its plugins when
// it joins and, after a change, within 20 s (nodeUpdatePeriod of swarmkit's agent).
func (n NodeState) listed() bool {
	return slices.ContainsFunc(n.Node.Description.Engine.Plugins, func(p swarm.PluginDescription) bool {
		return p.Type == "Volume" && (p.Name == api.PluginName || p.Name == api.PluginName+":latest")
	})
}

// passing says whether the problem is one that goes by itself, as on a node that
// has just come up.
func (n NodeState) passing(now time.Time) bool {
	switch {
	case n.Record == nil:
		return true
	case n.Record.Problem != "" && !n.Record.Reporting, n.Record.Storage.Error != "":
		return false
	}
	return n.Record.Reporting || now.Sub(n.Record.Since) < PluginPatience
}

// PluginPatience is how long AwaitPlugins waits for nodes that have just come up.
const PluginPatience = 30 * time.Second

// AwaitPlugins returns the nodes once the plugin works on each that is up. It
// waits for what goes by itself, says once through progress what for, and fails
// with ErrPluginMissing and what is wrong on each node otherwise. now is the
// daemon's time.
func AwaitPlugins(ctx context.Context, docker client.APIClient, now time.Time, progress func(string)) ([]NodeState, error) {
	started, said := time.Now(), false
	for {
		nodes, err := Nodes(ctx, docker)
		if err != nil {
			return nil, err
		}
		waited := time.Since(started)
		problem, lasts := "", false
		for _, n := range nodes {
			if p := n.Problem(); p != "" && n.Expected() {
				problem, lasts = n.Node.Description.Hostname+": "+p, lasts || !n.passing(now.Add(waited))
			}
		}
		if problem == "" || lasts || waited > PluginPatience {
			return nodes, missing(nodes)
		}
		if !said {
			progress("waiting for " + problem)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// Nodes returns every node of the Swarm with its record, by hostname.
func Nodes(ctx context.Context, docker client.APIClient) ([]NodeState, error) {
	res, err := docker.NodeList(ctx, client.NodeListOptions{})
	if err != nil {
		return nil, Explain(ctx, docker, err)
	}
	records, err := store.List[store.Node](ctx, store.New(docker), store.KindNode)
	if err != nil {
		return nil, err
	}
	byID := map[string]store.Node{}
	for _, r := range records {
		byID[r.Value.ID] = r.Value
	}
	nodes := make([]NodeState, 0, len(res.Items))
	for _, n := range res.Items {
		state := NodeState{Node: n}
		if r, ok := byID[n.ID]; ok {
			state.Record = &r
		}
		nodes = append(nodes, state)
	}
	slices.SortFunc(nodes, func(a, b NodeState) int {
		return strings.Compare(a.Node.Description.Hostname, b.Node.Description.Hostname)
	})
	return nodes, nil
}

// missing says on which nodes the plugin does not work, or nil.
func missing(nodes []NodeState) error {
	var lines []string
	for _, n := range nodes {
		if p := n.Problem(); p != "" && n.Expected() {
			lines = append(lines, "  "+n.Node.Description.Hostname+": "+p)
		}
	}
	if len(lines) == 0 {
		return nil
	}
	return fmt.Errorf("%w or does not work on:\n%s\nThe service %s installs it on each node. See why: docker service logs %s\nOr install it again: docker openmanage install",
		ErrPluginMissing, strings.Join(lines, "\n"), NetworkService, NetworkService)
}
