package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	dockermount "github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/bench/procfs"
	"github.com/openmanage/openmanage/testenv/product"
	"github.com/openmanage/openmanage/testenv/progress"
)

const (
	thousandApplications = 1000
	thousandMembers      = 3
	thousandWindow       = 60 * time.Second
	thousandChanges      = 150 // there and back
	thousandCPUGoal      = 5.0 // % of a core
	thousandMemoryGoal   = 200 // MiB
	thousandChangeGoal   = 1.0 // s, at the 99th percentile
)

// thousand measures the managers with a thousand applications of three members. Their
// services, volumes and records are in the real Swarm; the members are simulated, and
// report in the place of the nodes' plugins.
func thousand(ctx context.Context, b *bench) (result measure.Result, err error) {
	nodes, err := b.simulate(ctx)
	if err != nil {
		return result, err
	}
	all := crowd{docker: b.Via.Client(), nodes: nodes, say: b.say}
	if err := b.silencePlugins(ctx); err != nil {
		return result, err
	}
	reporting, stop := context.WithCancel(ctx)
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		err = errors.Join(err, all.release(ctx), b.removeServices(ctx))
		stop()
		err = errors.Join(err, b.Install(ctx))
	}()
	for _, n := range nodes {
		go n.run(reporting)
	}
	start := time.Now()
	if err := all.declare(ctx); err != nil {
		return result, err
	}
	declared := time.Since(start)
	if err := all.wait(ctx); err != nil {
		return result, err
	}
	recorded := time.Since(start)

	idleCPU, err := b.managersFor(ctx, thousandWindow)
	if err != nil {
		return result, err
	}
	small, full := 0, 0
	for _, n := range nodes {
		small, full = max(small, n.bytes[1]), max(full, n.bytes[0])
		n.setBusy(true)
	}
	busyCPU, err := b.managersFor(ctx, thousandWindow/2)
	if err != nil {
		return result, err
	}
	for _, n := range nodes {
		n.setBusy(false)
	}
	begin := time.Now()
	before, err := b.managersCPU(ctx)
	if err != nil {
		return result, err
	}
	changes, err := all.change(ctx)
	if err != nil {
		return result, err
	}
	after, err := b.managersCPU(ctx)
	if err != nil {
		return result, err
	}
	changing := shares(before, after, time.Since(begin))
	memory, err := b.managersMemory(ctx)
	if err != nil {
		return result, err
	}
	for _, n := range nodes {
		if err := n.well(); err != nil {
			return result, fmt.Errorf("at the end, node %s: %w", n.id, err)
		}
	}
	result.Measurements = []measure.Measurement{
		measure.Absolute("manager, processor, nothing happens", "%", idleCPU, slices.Max(idleCPU), measure.AtMost(thousandCPUGoal)),
		measure.Figure("manager, processor, every member's log grows every second", "%", busyCPU),
		measure.Figure("manager, processor, one member changes after the other", "%", changing),
		measure.Absolute("manager, RSS", "MiB", memory, slices.Max(memory), measure.AtMost(thousandMemoryGoal)),
		measure.Absolute("a member's change, from its node's report to the application's record", "s", changes, percentile(changes, 99), measure.AtMost(thousandChangeGoal)),
	}
	result.Note("%d applications with %d members each, simulated; %d nodes that report every second. The spread is over the managers, of which one leads; the largest is compared, of the changes the 99th percentile of %d.",
		thousandApplications, thousandMembers, len(nodes), len(changes))
	result.Note("A node's report: %d KiB with all that it holds, %d B while nothing happens. Volumes, services and records were made in %s, the last application was recorded as healthy %s later.",
		full>>10, small, declared.Round(time.Second), (recorded - declared).Round(time.Second))
	result.Note("Agents and plugins know only of their own node's members: see idle.")
	return result, nil
}

// crowd is the simulated members of a thousand applications.
type crowd struct {
	docker *client.Client
	nodes  []*simulatedNode
	say    *progress.Reporter
}

func thousandName(a int) string { return fmt.Sprintf("%s-%04d", prefix, a+1) }

// declare makes the volumes, which the nodes hold, and the services.
func (c crowd) declare(ctx context.Context) error {
	c.say.Step("thousand: volumes")
	count := thousandApplications * thousandMembers
	err := inParallel(count, func(i int) error {
		a, m := i/thousandMembers, i%thousandMembers
		application := thousandName(a)
		member := fmt.Sprintf("%s-%d", application, m+1)
		status := api.MemberStatus{
			Application: application, Member: member, Engine: "postgresql", Volume: member, Task: strings.Repeat("t", 25), Container: strings.Repeat("c", 64),
			Image: postgresImage, Role: api.RoleStandby, Term: 1, State: api.StateRunning, Healthy: true, Initialized: true, SystemID: "7400000000000000001",
			Timeline: 1, Position: 1 << 30, Streaming: true, Sync: true, Version: "17.6", Address: "10.0.1.7",
		}
		if m == 0 {
			status.Role, status.Streaming, status.Sync = api.RolePrimary, false, false
			status.SyncNames = application + "-2," + application + "-3"
		}
		return c.nodes[(a+m)%len(c.nodes)].add(ctx, status)
	})
	if err != nil {
		return err
	}
	c.say.Step("thousand: services")
	return inParallel(count, func(i int) error {
		_, err := c.docker.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: thousandService(thousandName(i/thousandMembers), i%thousandMembers+1)})
		return err
	})
}

// thousandService is a member's service as the catalog makes it, scaled to 0: its
// container is the part that is simulated.
func thousandService(application string, slot int) swarm.ServiceSpec {
	none := uint64(0)
	member := fmt.Sprintf("%s-%d", application, slot)
	volume := func(source, target string, options map[string]string) dockermount.Mount {
		return dockermount.Mount{Type: dockermount.TypeVolume, Source: source, Target: target, ReadOnly: options == nil, VolumeOptions: &dockermount.VolumeOptions{
			Labels: map[string]string{stackLabel: application}, DriverConfig: &dockermount.Driver{Name: api.PluginName, Options: options},
		}}
	}
	return swarm.ServiceSpec{
		Annotations: swarm.Annotations{
			Name: fmt.Sprintf("%s_%d", application, slot),
			Labels: map[string]string{
				api.LabelApplication: application, api.LabelType: "postgresql", api.LabelMember: member, api.LabelSlot: fmt.Sprint(slot),
				api.LabelVolume: member, api.LabelParameters: `{"max_connections":"200"}`, stackLabel: application, "com.docker.stack.image": postgresImage,
			},
		},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{
				Image: postgresImage, Hostname: member, Command: []string{api.AgentBinary}, Labels: map[string]string{stackLabel: application},
				Env: []string{
					"OPENMANAGE_APPLICATION=" + application, "OPENMANAGE_MEMBER=" + member, "OPENMANAGE_VOLUME=" + member, "OPENMANAGE_ENGINE=postgresql",
					"OPENMANAGE_DATA=/var/lib/postgresql/data", "OPENMANAGE_TASK={{.Task.ID}}", "OPENMANAGE_IMAGE=" + postgresImage,
					`OPENMANAGE_PARAMETERS={"max_connections":"200"}`, "PGDATA=/var/lib/postgresql/data/pgdata",
				},
				Mounts: []dockermount.Mount{
					volume(member, "/var/lib/postgresql/data", map[string]string{api.OptionSize: idleSize, api.OptionApplication: application, api.OptionMember: member}),
					volume(member+api.RuntimeSuffix, api.RuntimeDir, nil),
				},
			},
			Placement: &swarm.Placement{Constraints: []string{"node.labels." + api.PinLabel(member) + " != " + api.PinElsewhere}},
		},
		Mode: swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &none}},
	}
}

// wait waits until every application is recorded with healthy members.
func (c crowd) wait(ctx context.Context) error {
	c.say.Step("thousand: waiting until all are recorded")
	return product.Until(ctx, 3*time.Minute, "all applications recorded as healthy", func(ctx context.Context) error {
		for _, n := range c.nodes {
			if err := n.well(); err != nil {
				return fmt.Errorf("node %s: %w", n.id, err)
			}
		}
		records, err := store.List[store.Application](ctx, store.New(c.docker), store.KindApplication)
		if err != nil {
			return err
		}
		healthy := 0
		for _, r := range records {
			if strings.HasPrefix(r.Name, prefix+"-") && len(r.Value.Members) == thousandMembers && r.Value.SyncInForce &&
				!slices.ContainsFunc(r.Value.Members, func(m store.Member) bool { return !m.Healthy }) {
				healthy++
			}
		}
		if healthy != thousandApplications {
			return fmt.Errorf("%d of %d are", healthy, thousandApplications)
		}
		return nil
	})
}

// change has members fail and recover, and measures how long it takes until
// the application's record says so.
func (c crowd) change(ctx context.Context) (measure.Sample, error) {
	c.say.Step("thousand: changes")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := c.docker.Events(ctx, client.EventsListOptions{Filters: make(client.Filters).Add("type", string(events.ConfigEventType))})
	var took measure.Sample
	for range thousandChanges {
		a, m := rand.IntN(thousandApplications), rand.IntN(thousandMembers) //nolint:gosec // any will do
		application := thousandName(a)
		member := fmt.Sprintf("%s-%d", application, m+1)
		node := c.nodes[(a+m)%len(c.nodes)]
		for _, healthy := range []bool{false, true} {
			state, message := api.StateRunning, ""
			if !healthy {
				state, message = api.StateStarting, "the server does not answer"
			}
			start := time.Now()
			err := node.change(ctx, member, func(s *api.MemberStatus) { s.Healthy, s.State, s.Message = healthy, state, message })
			if err != nil {
				return took, err
			}
			at, err := c.recorded(ctx, stream, application, member, healthy)
			if err != nil {
				return took, err
			}
			took = append(took, at.Sub(start).Seconds())
		}
	}
	return took, nil
}

// recorded waits for the write of an application's record that says whether a member is
// healthy, and returns when Docker told of it.
func (c crowd) recorded(ctx context.Context, stream client.EventsResult, application, member string, healthy bool) (time.Time, error) {
	config := "openmanage." + string(store.KindApplication) + "." + application
	timeout := time.NewTimer(time.Minute)
	defer timeout.Stop()
	for {
		select {
		case e := <-stream.Messages:
			at := time.Now()
			if e.Actor.Attributes["name"] != config {
				continue
			}
			r, err := store.Get[store.Application](ctx, store.New(c.docker), store.KindApplication, application)
			if err != nil {
				return at, err
			}
			if slices.ContainsFunc(r.Value.Members, func(m store.Member) bool { return m.Name == member && m.Healthy == healthy }) {
				return at, nil
			}
		case err := <-stream.Err:
			return time.Now(), fmt.Errorf("the events of Docker ended: %w", err)
		case <-timeout.C:
			return time.Now(), fmt.Errorf("the record of %s does not say after a minute that %s is healthy: %t", application, member, healthy)
		}
	}
}

// release gives the volumes back, so that they can be deleted.
func (c crowd) release(ctx context.Context) error {
	c.say.Step("thousand: cleaning up")
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.release(ctx))
	}
	return errors.Join(errs...)
}

// managersFor returns what each manager takes of a core while d passes, in %.
func (b *bench) managersFor(ctx context.Context, d time.Duration) (measure.Sample, error) {
	before, err := b.managersCPU(ctx)
	if err != nil {
		return nil, err
	}
	start := time.Now()
	select {
	case <-time.After(d): // what is measured
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := b.managersCPU(ctx)
	if err != nil {
		return nil, err
	}
	return shares(before, after, time.Since(start)), nil
}

func (b *bench) managersCPU(ctx context.Context) (map[int]time.Duration, error) {
	processes, err := b.processes(ctx)
	if err != nil {
		return nil, err
	}
	return cpuOf(processes[:1]) // the manager is the first of parts
}

func shares(before, after map[int]time.Duration, took time.Duration) (percent measure.Sample) {
	for pid, cpu := range after {
		percent = append(percent, 100*(cpu-before[pid]).Seconds()/took.Seconds())
	}
	return percent
}

func (b *bench) managersMemory(ctx context.Context) (rss measure.Sample, err error) {
	processes, err := b.processes(ctx)
	if err != nil {
		return nil, err
	}
	for _, pid := range processes[0] {
		memory, err := procfs.MemoryOf(pid)
		if err != nil {
			return nil, err
		}
		rss = append(rss, float64(memory.RSS)/(1<<20))
	}
	return rss, nil
}

// percentile is the value that p in a hundred do not exceed.
func percentile(s measure.Sample, p int) float64 {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

func jsonSize(v any) int {
	doc, _ := json.Marshal(v)
	return len(doc)
}
