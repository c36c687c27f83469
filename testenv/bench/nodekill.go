package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/bench/outage"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

const (
	// leadersEvery is for how many kills of a node there is one more, of the node that
	// leads the Swarm.
	leadersEvery = 5
	// gatherLimit is how long it may take until one node has the primaries of all systems.
	gatherLimit = 10 * time.Minute

	nodeKillGoal = 8 // s without a primary
)

// Rows of the table.
const (
	nodeKilled   = "node killed"
	leaderKilled = "node killed that led the Swarm"
)

// nodeKill measures the time without a writable primary when its node dies, as a client sees
// it, of an application of ours, of Patroni and of a bare Swarm service.
func nodeKill(ctx context.Context, b *bench) (measure.Result, error) {
	l, err := b.newLifecycle(ctx, &bare{b})
	if err != nil {
		return measure.Result{}, err
	}
	leaders := (b.repeat + leadersEvery - 1) / leadersEvery
	for i := range b.repeat + leaders {
		if err := l.killNode(ctx, i >= b.repeat); err != nil {
			return measure.Result{}, fmt.Errorf("kill %d: %w", i+1, err)
		}
	}
	r := l.result("nodekill", "Seconds without a writable primary, median and worst, of OpenManage, Patroni and a bare Swarm service",
		map[string]float64{nodeKilled: nodeKillGoal}, lostWrites)
	r.Note("The node that is killed has the primaries of all systems, which lose it at the same instant; %d kills are of the node that leads the Swarm.", leaders)
	return r, nil
}

// killNode kills the node that all primaries are on, at once for all systems.
func (l *lifecycleRun) killNode(ctx context.Context, leading bool) error {
	node, leader, err := l.b.notLeading(ctx)
	if err != nil {
		return err
	}
	name := nodeKilled
	if leading {
		name, node = leaderKilled, leader
	}
	writers := make([]*writer, len(l.all))
	for i, d := range l.all {
		if _, err := waitWhole(ctx, d); err != nil {
			return err
		}
		if writers[i], err = l.b.startWriter(ctx, d, l.other(node)); err != nil {
			return err
		}
	}
	l.b.say.Step("having all primaries on %s", node.Name)
	// One may move again before all are there: each that is elsewhere would lose a standby only.
	err = product.Until(ctx, gatherLimit, "all primaries on "+node.Name, func(ctx context.Context) error {
		for _, d := range l.all {
			if err := d.lead(ctx, node); err != nil {
				return fmt.Errorf("%s on %s: %w", d.label(), node.Name, err)
			}
		}
		if err := goOn(ctx, writers, time.Now()); err != nil {
			return err
		}
		return allLead(ctx, l.all, node)
	})
	if err != nil {
		return err
	}
	l.b.lookFrom(node)
	from := time.Now()
	if err := node.Kill(ctx); err != nil {
		return err
	}
	if err := goOn(ctx, writers, time.Now()); err != nil {
		return err
	}
	seen := make([]outage.Log, len(writers))
	for i, w := range writers {
		// What the node's return costs is not what its death costs.
		if seen[i], err = w.end(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(node.Start(ctx), l.b.c.WaitReady(ctx), l.b.settle(ctx)); err != nil {
		return err
	}
	for i, d := range l.all {
		if _, err := waitWhole(ctx, d); err != nil {
			return err
		}
		if err := l.take(ctx, name, d, seen[i], from); err != nil {
			return err
		}
	}
	return nil
}

// allLead checks that the primaries of all systems are on a node.
func allLead(ctx context.Context, systems []database, node *cluster.Node) error {
	for _, d := range systems {
		primary, err := wholePrimary(ctx, d)
		if err != nil {
			return err
		}
		if primary.node.Number != node.Number {
			return fmt.Errorf("the primary of %s is on %s", d.label(), primary.node.Name)
		}
	}
	return nil
}

// goOn waits until all of them write again.
func goOn(ctx context.Context, writers []*writer, t time.Time) error {
	errs := make([]error, len(writers))
	var group sync.WaitGroup
	for i, w := range writers {
		group.Go(func() { errs[i] = w.goesOn(ctx, t) })
	}
	group.Wait()
	return errors.Join(errs...)
}
