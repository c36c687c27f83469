package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/bench/procfs"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
)

const (
	idleVolumes = 100 // the database's included
	idleSize    = "64MiB"
	idleWindow  = 60 * time.Second
	idleCPUGoal = 1.0 // % of a core
)

// part is one of our processes.
type part struct {
	name   string
	memory float64 // goal in MiB, 0 for none
	is     func(args []string) bool
}

func parts() []part {
	runs := func(name string) func([]string) bool {
		return func(args []string) bool {
			return len(args) > 1 && filepath.Base(args[0]) == "openmanage" && args[1] == name
		}
	}
	return []part{
		{"manager", 80, runs("manager")},
		{"plugin", 40, runs("volume-plugin")},
		{"agent", 25, func(args []string) bool {
			return len(args) > 0 && args[0] == api.AgentBinary && !slices.Contains(args[1:], "health")
		}},
		{"network helper", 0, runs("network")},
	}
}

// idle measures memory, and processor time while nothing is asked of them, of all
// our processes, with a hundred volumes mounted on three nodes.
func idle(ctx context.Context, b *bench) (measure.Result, error) {
	var result measure.Result
	if _, err := b.CLI(ctx, "create", "postgresql", prefix, "--replicas", "1", "--volume-size", "512MiB", "--yes"); err != nil {
		return result, err
	}
	if _, err := b.WaitHealthy(ctx, prefix, 1, 2*time.Minute); err != nil {
		return result, err
	}
	if err := b.mountMany(ctx, idleVolumes-1); err != nil {
		return result, err
	}
	attached, err := b.attached(ctx)
	if err != nil {
		return result, err
	}
	processes, err := b.processes(ctx)
	if err != nil {
		return result, err
	}
	before, err := cpuOf(processes)
	if err != nil {
		return result, err
	}
	start := time.Now()
	select {
	case <-time.After(idleWindow): // what is measured
	case <-ctx.Done():
		return result, ctx.Err()
	}
	after, err := cpuOf(processes)
	if err != nil {
		return result, err
	}
	took := time.Since(start)
	var busy []measure.Measurement
	for i, p := range parts() {
		var rss, pss, cpu measure.Sample
		for _, pid := range processes[i] {
			memory, err := procfs.MemoryOf(pid)
			if err != nil {
				return result, err
			}
			rss = append(rss, float64(memory.RSS)/(1<<20))
			pss = append(pss, float64(memory.PSS)/(1<<20))
			cpu = append(cpu, 100*(after[pid]-before[pid]).Seconds()/took.Seconds())
		}
		if len(rss) == 0 {
			return result, fmt.Errorf("no process of the %s was found", p.name)
		}
		goal := measure.Goal{}
		if p.memory > 0 {
			goal = measure.AtMost(p.memory)
		}
		result.Measurements = append(result.Measurements,
			measure.Absolute(p.name+", RSS", "MiB", rss, slices.Max(rss), goal),
			measure.Figure(p.name+", PSS", "MiB", pss))
		busy = append(busy, measure.Absolute(p.name+", processor while idle", "%", cpu, slices.Max(cpu), measure.AtMost(idleCPUGoal)))
	}
	result.Measurements = append(result.Measurements, busy...)
	result.Note("%d volumes are attached on %d nodes, one of them a PostgreSQL member's; %s of idling. The spread is over the processes on the nodes; the largest is compared.",
		attached, len(b.c.Nodes()), took.Round(time.Second))
	return result, nil
}

// mountMany has a container on each node that mounts its share of count volumes.
func (b *bench) mountMany(ctx context.Context, count int) error {
	nodes := b.c.Nodes()
	args := make([][]string, len(nodes))
	for i := range count {
		n := i % len(nodes)
		args[n] = append(args[n], "--mount", volumeMount(fmt.Sprintf("%s-idle-%03d", prefix, i+1), fmt.Sprintf("/volumes/%03d", i+1), idleSize))
	}
	errs := make([]error, len(nodes))
	var group sync.WaitGroup
	for i, node := range nodes {
		group.Go(func() {
			run := append([]string{"run", "--detach", "--name", prefix + "-idle", "--stop-timeout", "1"}, args[i]...)
			_, errs[i] = b.docker(ctx, node, append(run, plainImage, "sleep", "infinity")...)
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

// attached counts the volumes that a node has.
func (b *bench) attached(ctx context.Context) (int, error) {
	volumes, err := store.List[api.Volume](ctx, store.New(b.Via.Client()), store.KindVolume)
	count := 0
	for _, v := range volumes {
		if v.Value.Owner != nil {
			count++
		}
	}
	if err == nil && count < idleVolumes {
		err = fmt.Errorf("%d volumes are attached, %d should be", count, idleVolumes)
	}
	return count, err
}

// processes finds the processes of all parts, in the order of parts.
func (b *bench) processes(ctx context.Context) ([][]int, error) {
	all := parts()
	found := make([][]int, len(all))
	for _, node := range b.c.Nodes() {
		inside, err := processesOn(ctx, node)
		if err != nil {
			return nil, err
		}
		for _, pid := range inside {
			for i, p := range all {
				if p.is(procfs.Arguments(pid)) {
					found[i] = append(found[i], pid)
				}
			}
		}
	}
	return found, nil
}

func processesOn(ctx context.Context, node *cluster.Node) ([]int, error) {
	id, err := host.Docker(ctx, "inspect", "--format", "{{.Id}}", node.Container())
	if err != nil {
		return nil, err
	}
	return host.PIDsInCgroup(strings.TrimSpace(id))
}

func cpuOf(processes [][]int) (map[int]time.Duration, error) {
	times := map[int]time.Duration{}
	for _, pid := range slices.Concat(processes...) {
		took, err := procfs.CPUOf(pid)
		if err != nil {
			return nil, fmt.Errorf("a process has ended while it was to be idle: %w", err)
		}
		times[pid] = took
	}
	return times, nil
}
