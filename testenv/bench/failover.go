package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

const (
	failovers    = 4 // of a node that does not lead the Swarm
	failoversLed = 2 // of the one that does: Swarm itself takes longer then
	failoverRows = 1000
	failoverGoal = 1.25
	failoverWait = 3 * time.Minute
	bareService  = prefix + "-bare"
)

// failover kills the node under a database and under a bare Swarm service. It
// measures until the database answers SQL with its rows on another node, against
// until the bare service's replacement runs.
func failover(ctx context.Context, b *bench) (measure.Result, error) {
	var result measure.Result
	if _, err := b.CLI(ctx, "create", "postgresql", prefix, "--replicas", "1", "--volume-size", "512MiB", "--yes"); err != nil {
		return result, err
	}
	if _, err := b.WaitHealthy(ctx, prefix, 1, 2*time.Minute); err != nil {
		return result, err
	}
	_, err := b.SQL(ctx, prefix, fmt.Sprintf("CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept SELECT generate_series(1, %d)", failoverRows))
	if err != nil {
		return result, err
	}
	var database, bare, startUp, databaseLed, bareLed measure.Sample
	for i := range failovers + failoversLed {
		leader := i >= failovers
		one, err := b.failOver(ctx, leader)
		if err != nil {
			return result, err
		}
		result.Note("%s", one)
		if leader {
			databaseLed, bareLed = append(databaseLed, one.database.Seconds()), append(bareLed, one.bare.Seconds())
			continue
		}
		database, bare = append(database, one.database.Seconds()), append(bare, one.bare.Seconds())
		startUp = append(startUp, one.database.Seconds()-one.container.Seconds())
	}
	result.Measurements = []measure.Measurement{
		measure.Ratio("a node dies: database answers on another, against a bare service's replacement", "s", database, bare, measure.AtMost(failoverGoal)),
		measure.Figure("of it, from the container's start to the first answer", "s", startUp),
		measure.Ratio("the same, and the node led the Swarm", "s", databaseLed, bareLed, measure.AtMost(failoverGoal)),
	}
	return result, nil
}

// oneFailover is what happened after one node was killed, each time counted from
// the moment before.
type oneFailover struct {
	node   string
	leader bool
	// database answers, its container was started, the bare service's was started.
	database, container, bare time.Duration
}

func (o oneFailover) String() string {
	role := "did not lead"
	if o.leader {
		role = "led"
	}
	return fmt.Sprintf("killed %s, which %s the Swarm: bare service after %.1f s; database's container after %.1f s, rows after %.1f s",
		o.node, role, o.bare.Seconds(), o.container.Seconds(), o.database.Seconds())
}

// failOver kills the database's node, after it has become the Swarm's leader or
// not, and makes everything whole again.
func (b *bench) failOver(ctx context.Context, leader bool) (oneFailover, error) {
	one := oneFailover{leader: leader}
	node, err := b.place(ctx, leader)
	if err != nil {
		return one, err
	}
	one.node = node.Name
	if err := b.startBare(ctx, node); err != nil {
		return one, err
	}
	before, err := b.answer(ctx, node)
	if err != nil {
		return one, err
	}
	b.lookFrom(node)
	b.say.Step("failover: killing %s (leader: %t)", node.Name, leader)
	var others []*cluster.Node
	for _, n := range b.c.Nodes() {
		if n.Number != node.Number {
			others = append(others, n)
		}
	}

	ctx, cancel := context.WithTimeout(ctx, failoverWait)
	defer cancel()
	var group sync.WaitGroup
	var killErr, bareErr, databaseErr error
	start := time.Now()
	group.Go(func() { killErr = node.Kill(ctx) })
	group.Go(func() {
		bareErr = b.watch(ctx, others, bareService, func(context.Context, *cluster.Node) error {
			one.bare = time.Since(start)
			return nil
		})
	})
	group.Go(func() {
		databaseErr = b.watch(ctx, others, prefix+"_1", func(ctx context.Context, on *cluster.Node) error {
			if one.container == 0 {
				one.container = time.Since(start)
			}
			now, err := b.answer(ctx, on)
			one.database = time.Since(start)
			if err == nil && now != before {
				err = fmt.Errorf("the database answers %q, it answered %q", now, before)
			}
			return err
		})
	})
	group.Wait()
	if err := errors.Join(killErr, bareErr, databaseErr); err != nil {
		return one, err
	}
	b.say.Step("failover: %s", one)
	return one, b.mend(ctx, node)
}

// mend starts the node again and waits until nothing of the failure is left.
func (b *bench) mend(ctx context.Context, node *cluster.Node) error {
	if err := node.Start(ctx); err != nil {
		return err
	}
	if err := b.c.WaitReady(ctx); err != nil {
		return err
	}
	if _, err := b.WaitHealthy(ctx, prefix, 1, time.Minute); err != nil {
		return err
	}
	if _, err := b.Docker(ctx, "service", "rm", bareService); err != nil {
		return err
	}
	return b.settle(ctx)
}

// place has the database run on a node that leads the Swarm, or on one that does
// not, by draining where it should not be, and returns the node.
func (b *bench) place(ctx context.Context, leading bool) (*cluster.Node, error) {
	for {
		members, err := b.WaitHealthy(ctx, prefix, 1, time.Minute)
		if err != nil {
			return nil, err
		}
		leader, err := b.c.Leader(ctx)
		if err != nil {
			return nil, err
		}
		on := members[0].Node
		if (on == leader.Name) == leading {
			return b.named(on)
		}
		var drained []string
		for _, n := range b.c.Nodes() {
			if (n.Number == leader.Number) != leading {
				drained = append(drained, n.Name)
			}
		}
		b.say.Step("failover: moving the database away from %s", on)
		if err := b.drain(ctx, drained); err != nil {
			return nil, err
		}
	}
}

// drain has the database leave these nodes, which then are active again.
func (b *bench) drain(ctx context.Context, nodes []string) error {
	for _, name := range nodes {
		if _, err := b.Docker(ctx, "node", "update", "--availability", "drain", name); err != nil {
			return err
		}
	}
	err := product.Until(ctx, time.Minute, "the database elsewhere", func(ctx context.Context) error {
		members, err := b.Members(ctx, prefix)
		if err != nil {
			return err
		}
		for _, name := range nodes {
			if members[0].Node == name || members[0].Health != "healthy" {
				return fmt.Errorf("it is %s on %s: %s", members[0].State, members[0].Node, members[0].Message)
			}
		}
		return nil
	})
	for _, name := range nodes {
		_, failed := b.Docker(ctx, "node", "update", "--availability", "active", name)
		err = errors.Join(err, failed)
	}
	return errors.Join(err, b.settle(ctx))
}

// startBare starts the reference on the node and lets it go anywhere after: a
// label holds it there, and a task stays where it may when others may have it too.
// It waits no longer before it is restarted than a generated stack's services,
// which is less than Swarm's own default.
func (b *bench) startBare(ctx context.Context, node *cluster.Node) error {
	if err := b.label(ctx, node.Name); err != nil {
		return err
	}
	_, err := b.Docker(ctx, "service", "create", "--quiet", "--name", bareService, "--init", "--no-resolve-image", "--restart-delay", "2s",
		"--constraint", "node.labels."+hereLabel+"==true", plainImage, "sleep", "infinity")
	if err != nil {
		return err
	}
	if _, err := b.runningOn(ctx, node, bareService); err != nil {
		return err
	}
	var all []string
	for _, n := range b.c.Nodes() {
		all = append(all, n.Name)
	}
	return b.label(ctx, all...)
}

// watch looks at both nodes until one of them runs a container of the service
// and found says that this was it.
func (b *bench) watch(ctx context.Context, nodes []*cluster.Node, service string, found func(context.Context, *cluster.Node) error) error {
	last := errors.New("it was never seen")
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		for _, node := range nodes {
			_, err := b.runningOn(ctx, node, service)
			if err == nil {
				if err = found(ctx, node); err == nil {
					return nil
				}
			}
			if ctx.Err() == nil {
				last = err
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s on another node: %w", service, last)
		case <-tick.C:
		}
	}
}

// runningOn returns the ID of the service's running container on a node, as the
// node's own engine knows it: the Swarm may have no leader to ask.
func (b *bench) runningOn(ctx context.Context, node *cluster.Node, service string) (string, error) {
	containers, err := runningContainers(ctx, node, service)
	if err != nil {
		return "", err
	}
	if len(containers) == 0 {
		return "", fmt.Errorf("%s does not run on %s", service, node.Name)
	}
	return containers[0], nil
}

// answer asks the database on a node for its rows.
func (b *bench) answer(ctx context.Context, node *cluster.Node) (string, error) {
	container, err := b.runningOn(ctx, node, prefix+"_1")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := b.docker(ctx, node, "exec", "--user", "postgres", container,
		"psql", "-X", "-A", "-t", "-q", "-c", "SELECT count(*), sum(id) FROM kept")
	return strings.TrimSpace(out), err
}
