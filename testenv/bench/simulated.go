package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/delta"
	"github.com/openmanage/openmanage/internal/managers"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/swarmpki"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// simulatedNode reports for a node of the Swarm, with the node's own certificate, in
// the place of its volume plugin: members that there is no room to run.
type simulatedNode struct {
	id      string
	leader  *managers.Client
	sender  delta.Sender
	sending sync.Mutex

	mu      sync.Mutex
	report  api.Report
	members map[string]int // index in report.Members by volume
	busy    bool           // every member's log grows
	err     error          // of the last report
	lost    int            // volumes that an answer called lost
	orders  int            // members whose orders were answered last
	bytes   [2]int         // of JSON, of the last report that said all and of the last
}

// simulate has a simulated node for each one, with what the node has reported of itself.
func (b *bench) simulate(ctx context.Context) ([]*simulatedNode, error) {
	var nodes []*simulatedNode
	for _, n := range b.c.Nodes() {
		root, err := nodeRoot(ctx, n)
		if err != nil {
			return nil, err
		}
		identity := swarmpki.New(filepath.Join(root, "var/lib/docker/swarm/certificates"))
		self, err := identity.Self()
		if err != nil {
			return nil, err
		}
		leader := managers.New(n.Client(), identity)
		err = product.Until(ctx, time.Minute, "managers known on "+n.Name, func(ctx context.Context) error {
			_, err := leader.Addresses(ctx) // an engine that is busy may not tell at once
			return err
		})
		if err != nil {
			return nil, err
		}
		record, err := store.Get[store.Node](ctx, store.New(b.Via.Client()), store.KindNode, self.NodeID)
		if err != nil {
			return nil, err
		}
		nodes = append(nodes, &simulatedNode{
			id: self.NodeID, leader: leader, members: map[string]int{},
			report: api.Report{Boot: fmt.Sprintf("%s-%d", prefix, time.Now().UnixNano()), Version: record.Value.Version, Storage: record.Value.Storage},
		})
	}
	return nodes, nil
}

// add has the node hold a volume, as its plugin would after a first mount, and run the
// member on it.
func (s *simulatedNode) add(ctx context.Context, status api.MemberStatus) error {
	mount := strings.Repeat("c", 56) + status.Member[max(0, len(status.Member)-8):]
	call := func(path string, in, out any) error { return s.ask(ctx, "/v1/volumes/"+path, in, out) }
	err := call("create", api.CreateRequest{Name: status.Volume, Options: map[string]string{
		api.OptionSize: idleSize, api.OptionApplication: status.Application, api.OptionMember: status.Member,
	}}, nil)
	if err != nil {
		return err
	}
	var held api.Attachment
	location := s.report.Storage.Location
	if err := call("attach", api.AttachRequest{Name: status.Volume, MountID: mount, Location: location}, &held); err != nil {
		return err
	}
	if err := call("progress", api.ProgressRequest{Name: status.Volume, Epoch: held.Volume.Epoch, Phase: api.PhaseReady, Location: location}, nil); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.members[status.Volume] = len(s.report.Members)
	s.report.Members = append(s.report.Members, status)
	s.report.Volumes = append(s.report.Volumes, api.HeldVolume{
		Name: status.Volume, Epoch: held.Volume.Epoch, MountID: mount, Mounted: true, Size: held.Volume.Size,
	})
	return nil
}

// ask makes a request of the leader, again while a machine that is busy gives no answer
// in time. All of them can be repeated.
func (s *simulatedNode) ask(ctx context.Context, path string, in, out any) error {
	return product.Until(ctx, time.Minute, path, func(ctx context.Context) error {
		return s.leader.Call(ctx, http.MethodPost, path, in, out)
	})
}

// run reports every api.ReportInterval until ctx ends.
func (s *simulatedNode) run(ctx context.Context) {
	tick := time.NewTicker(api.ReportInterval)
	defer tick.Stop()
	for {
		err := s.say(ctx)
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// change edits a member's status and reports it at once, as a plugin does.
func (s *simulatedNode) change(ctx context.Context, volume string, edit func(*api.MemberStatus)) error {
	s.mu.Lock()
	edit(&s.report.Members[s.members[volume]])
	s.mu.Unlock()
	return s.say(ctx)
}

// say sends one report.
func (s *simulatedNode) say(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s.sending.Lock()
	defer s.sending.Unlock()
	for {
		s.mu.Lock()
		for i := range s.report.Members {
			if s.busy {
				s.report.Members[i].Position += 8192
			}
		}
		r := s.sender.Next(s.report)
		s.mu.Unlock()
		var answer api.ReportAnswer
		if err := s.leader.Call(ctx, http.MethodPost, "/v1/report", r, &answer); err != nil {
			return err
		}
		s.mu.Lock()
		s.bytes[1] = jsonSize(r)
		if r.Since == 0 {
			s.bytes[0] = s.bytes[1]
		}
		s.lost, s.orders = len(answer.Lost), len(answer.Orders)+len(answer.Same)
		s.mu.Unlock()
		if !s.sender.Answered(r, answer) {
			return nil
		}
	}
}

func (s *simulatedNode) setBusy(busy bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy = busy
}

// well tells whether the leader hears the node and gives all its members orders.
func (s *simulatedNode) well() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return s.err
	case s.lost > 0:
		return fmt.Errorf("%d volumes are lost", s.lost)
	case s.orders != len(s.report.Members):
		return fmt.Errorf("%d of %d members have orders", s.orders, len(s.report.Members))
	}
	return nil
}

// release gives all volumes back.
func (s *simulatedNode) release(ctx context.Context) error {
	s.mu.Lock()
	held := s.report.Volumes
	s.report.Volumes, s.report.Members, s.members = []api.HeldVolume{}, []api.MemberStatus{}, map[string]int{}
	s.mu.Unlock()
	return inParallel(len(held), func(i int) error {
		return s.ask(ctx, "/v1/volumes/release", api.ReleaseRequest{Name: held[i].Name, Epoch: held[i].Epoch}, nil)
	})
}

// inParallel does many small things, some at once, and stops after an error.
func inParallel(count int, do func(i int) error) error {
	const workers = 8
	next := make(chan int)
	failed := make(chan error, workers)
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	var err error
	for i := 0; i < count && err == nil; i++ {
		select {
		case next <- i:
		case err = <-failed:
		}
	}
	close(next)
	group.Wait()
	select {
	case later := <-failed:
		err = errors.Join(err, later)
	default:
	}
	return err
}

// silencePlugins takes the network helper away, which would bring the plugins back, and
// disables the volume plugin on each node. The next Install undoes it.
func (b *bench) silencePlugins(ctx context.Context) error {
	if _, err := b.Docker(ctx, "service", "rm", api.StackName+"_network"); err != nil {
		return err
	}
	for _, n := range b.c.Nodes() {
		if err := b.silencePlugin(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) silencePlugin(ctx context.Context, n *cluster.Node) error {
	return product.Until(ctx, time.Minute, "volume plugin of "+n.Name+" disabled", func(ctx context.Context) error {
		found, err := n.Client().PluginInspect(ctx, api.PluginName, client.PluginInspectOptions{})
		if err != nil {
			return err
		}
		tasks, err := n.Client().ContainerList(ctx, client.ContainerListOptions{
			Filters: make(client.Filters).Add("label", "com.docker.swarm.service.name="+api.StackName+"_network").Add("status", "running"),
		})
		if err == nil && len(tasks.Items) > 0 {
			err = errors.New("the network helper still runs")
		}
		if err != nil || !found.Plugin.Enabled {
			return err
		}
		if _, err := b.docker(ctx, n, "plugin", "disable", "--force", api.PluginName); err != nil {
			return err
		}
		return errors.New("it has just been disabled")
	})
}
