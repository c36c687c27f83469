package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/product"
	"github.com/openmanage/openmanage/testenv/progress"
)

// Images that the benchmarks run.
const (
	postgresImage = "postgres:17"
	postgresNext  = "postgres:17.7" // to upgrade to
	plainImage    = "debian:trixie-slim"
)

// bench is the Swarm to measure on, with OpenManage.
type bench struct {
	*product.Product
	c   *cluster.Cluster
	say *progress.Reporter
	// repeat and sizes are for those benchmarks that have them.
	repeat int
	sizes  []int64
}

func clusterOptions(say *progress.Reporter, images ...string) cluster.Options {
	return cluster.Options{Nodes: 3, Managers: 3, Images: images, Progress: say}
}

// prepare sets up what is missing.
func prepare(ctx context.Context, say *progress.Reporter, images []string) (*bench, error) {
	release, err := cluster.Exclusive(ctx, clusterOptions(say))
	if err != nil {
		return nil, err
	}
	defer release()
	c, err := cluster.Up(ctx, clusterOptions(say, images...))
	if err != nil {
		return nil, err
	}
	// Others, which a test has added, are not like these.
	for _, node := range c.Nodes()[clusterOptions(nil).Nodes:] {
		if err := c.Remove(ctx, node); err != nil {
			return nil, err
		}
	}
	if err := c.Heal(ctx); err != nil {
		return nil, err
	}
	p, err := product.Build(ctx, c)
	if err != nil {
		return nil, err
	}
	b := &bench{Product: p, c: c, say: say}
	if err := b.empty(ctx); err != nil {
		return nil, err
	}
	say.Step("docker openmanage install")
	if err := p.Install(ctx); err != nil {
		return nil, err
	}
	return b, b.pull(ctx, images)
}

// pull has the images on every node, so that no pull is measured.
func (b *bench) pull(ctx context.Context, images []string) error {
	for _, node := range b.c.Nodes() {
		for _, image := range images {
			if _, err := b.docker(ctx, node, "pull", "--quiet", image); err != nil {
				return err
			}
		}
	}
	return nil
}

// measure runs one benchmark on a Swarm that is whole, has this version of
// OpenManage and belongs to nobody else meanwhile, and returns its table.
func (b *bench) measure(ctx context.Context, m benchmark) (text string, plots []measure.Plot, err error) {
	release, err := cluster.Exclusive(ctx, clusterOptions(b.say))
	if err != nil {
		return "", nil, err
	}
	defer release()
	b.say.Step("%s: preparing", m.name)
	if err := b.c.Heal(ctx); err != nil {
		return "", nil, err
	}
	if b.Via, err = b.c.Node(1); err != nil {
		return "", nil, err
	}
	if err := b.empty(ctx); err != nil {
		return "", nil, err
	}
	if err := b.Install(ctx); err != nil {
		return "", nil, err
	}
	if err := errors.Join(b.tidy(ctx), b.settle(ctx)); err != nil {
		return "", nil, err
	}
	defer func() {
		// Also after Ctrl-C.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		if err := errors.Join(b.c.Heal(ctx), b.tidy(ctx)); err != nil {
			b.say.Step("%s: not all was removed; the next run tries again: %v", m.name, err)
		}
	}()
	started, before := time.Now(), loadAverage()
	b.say.Step("%s: measuring", m.name)
	result, err := m.run(ctx, b)
	if err != nil {
		return "", nil, err
	}
	about, err := b.about(ctx)
	if err != nil {
		return "", nil, err
	}
	about = fmt.Sprintf("Measured %s in %s with `go run ./testenv/bench --only %s`; %s; load average %s before, %s after.",
		started.UTC().Format("2006-01-02 15:04 MST"), time.Since(started).Round(time.Second), m.name+b.flags(), about, before, loadAverage())
	b.say.Step("%s: done", m.name)
	return about + "\n\n" + result.Markdown(), result.Plots, nil
}

// flags are those that say how much is measured, where they are not the defaults.
func (b *bench) flags() string {
	flags := ""
	if b.repeat != defaultRepeat {
		flags += fmt.Sprintf(" --repeat %d", b.repeat)
	}
	if sizes := formatSizes(b.sizes); sizes != defaultSizes {
		flags += " --sizes " + sizes
	}
	return flags
}

// settle waits until OpenManage runs on all nodes again.
func (b *bench) settle(ctx context.Context) error {
	return product.Until(ctx, 2*time.Minute, "OpenManage on all nodes", func(ctx context.Context) error {
		found, err := b.Via.Client().ServiceList(ctx, client.ServiceListOptions{Status: true})
		if err != nil {
			return err
		}
		for _, s := range found.Items {
			if strings.HasPrefix(s.Spec.Name, "openmanage_") && (s.ServiceStatus == nil || s.ServiceStatus.RunningTasks < uint64(len(b.c.Nodes()))) {
				return fmt.Errorf("%s does not run everywhere: %+v", s.Spec.Name, s.ServiceStatus)
			}
		}
		return nil
	})
}

// docker runs docker with a node's engine.
func (b *bench) docker(ctx context.Context, node *cluster.Node, args ...string) (string, error) {
	out, err := host.Run(ctx, "docker", append([]string{"--host", "unix://" + node.Socket()}, args...)...)
	return strings.TrimSpace(out), err
}

func (b *bench) named(name string) (*cluster.Node, error) {
	for _, n := range b.c.Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("the test environment has no node %q", name)
}

// lookFrom has commands go through another node than n.
func (b *bench) lookFrom(n *cluster.Node) {
	for _, other := range b.c.Nodes() {
		if b.Via.Number == n.Number {
			b.Via = other
		}
	}
}
