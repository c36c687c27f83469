// Command demo shows the main job on a real Swarm on this machine: a database
// whose primary's node dies, and that comes back elsewhere as the same member,
// with the same volume, name and rows.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
	"github.com/openmanage/openmanage/testenv/progress"
)

// rows is how many the demo writes before the node dies.
const rows = 1000

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, progress.To(os.Stdout)); err != nil {
		fmt.Fprintln(os.Stderr, "demo: failed:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, say *progress.Reporter) error {
	options := cluster.Options{Nodes: 3, Managers: 3, Images: []string{"postgres:17"}, Progress: say}
	release, err := cluster.Exclusive(ctx, options)
	if err != nil {
		return err
	}
	defer release()
	c, err := cluster.Up(ctx, options)
	if err != nil {
		return err
	}
	if err := c.Heal(ctx); err != nil {
		return err
	}
	p, err := product.Build(ctx, c)
	if err != nil {
		return err
	}
	say.Step("docker openmanage install")
	if err := p.Install(ctx); err != nil {
		return err
	}
	say.Step("docker openmanage create postgresql pg --replicas 3 --volume-size 1GiB")
	if _, err := p.CLI(ctx, "create", "postgresql", "pg", "--replicas", "3", "--volume-size", "1GiB", "--yes"); err != nil {
		return err
	}
	members, err := p.WaitHealthy(ctx, "pg", 3, 5*time.Minute)
	if err != nil {
		return err
	}
	show(members)
	say.Step("writing %d rows", rows)
	if _, err := p.SQL(ctx, "pg", fmt.Sprintf(
		`DROP TABLE IF EXISTS demo; CREATE TABLE demo (id int PRIMARY KEY); INSERT INTO demo SELECT generate_series(1, %d)`, rows)); err != nil {
		return err
	}
	primary := primaryOf(members)
	node, err := nodeNamed(c, primary.Node)
	if err != nil {
		return err
	}
	if node == p.Via {
		if p.Via, err = c.Node(node.Number%3 + 1); err != nil {
			return err
		}
	}
	say.Step("killing %s, the node under the primary %s", node.Name, primary.Member)
	killed := time.Now()
	if err := node.Kill(ctx); err != nil {
		return err
	}
	var count string
	err = product.Until(ctx, 3*time.Minute, "a primary that takes writes", func(ctx context.Context) error {
		_, err := p.SQL(ctx, "pg", "CREATE TABLE IF NOT EXISTS demo_after (id int)")
		return err
	})
	if err != nil {
		return err
	}
	failover := time.Since(killed)
	if count, err = p.SQL(ctx, "pg", "SELECT count(*) FROM demo"); err != nil {
		return err
	}
	successor, err := p.SQL(ctx, "pg", "SHOW cluster_name")
	if err != nil {
		return err
	}
	say.Step("%s takes writes after %.1f s, with %s of %d rows", successor, failover.Seconds(), count, rows)
	var moved product.Member
	err = product.Until(ctx, 3*time.Minute, primary.Member+" on another node", func(ctx context.Context) error {
		if members, err = p.Members(ctx, "pg"); err != nil {
			return err
		}
		for _, m := range members {
			if m.Member == primary.Member {
				moved = m
			}
		}
		if moved.Node == primary.Node || moved.Health != "healthy" {
			return fmt.Errorf("%s is %s on %s: %s", moved.Member, moved.State, moved.Node, moved.Message)
		}
		return nil
	})
	if err != nil {
		return err
	}
	say.Step("%s is back on %s as a %s, with its volume %s, after %.1f s", moved.Member, moved.Node, moved.Role, moved.Volume, time.Since(killed).Seconds())
	if members, err = p.WaitHealthy(ctx, "pg", 3, 3*time.Minute); err != nil {
		return err
	}
	show(members)
	if moved.Volume != primary.Volume {
		return fmt.Errorf("%s has volume %s, it had %s", moved.Member, moved.Volume, primary.Volume)
	}
	streaming, err := p.SQL(ctx, "pg", "SELECT string_agg(application_name, ' ' ORDER BY application_name) FROM pg_stat_replication WHERE state = 'streaming'")
	if err != nil {
		return err
	}
	say.Step("streaming again: %s", streaming)
	if len(strings.Fields(streaming)) != 2 {
		return fmt.Errorf("%q stream from the primary, two standbys should", streaming)
	}
	say.Step("starting %s again", node.Name)
	if err := node.Start(ctx); err != nil {
		return err
	}
	if err := c.WaitReady(ctx); err != nil {
		return err
	}
	if count != fmt.Sprint(rows) {
		return fmt.Errorf("%s of %d rows are there", count, rows)
	}
	fmt.Printf("demo: ok failover=%.1fs rows=%s/%d\n", failover.Seconds(), count, rows)
	return nil
}

func primaryOf(members []product.Member) product.Member {
	for _, m := range members {
		if m.Role == "primary" {
			return m
		}
	}
	return members[0]
}

func nodeNamed(c *cluster.Cluster, name string) (*cluster.Node, error) {
	for _, n := range c.Nodes() {
		if n.Name == name {
			return n, nil
		}
	}
	return nil, errors.New("the Swarm names a node that the test environment does not have: " + name)
}

func show(members []product.Member) {
	fmt.Printf("        %-8s %-8s %-7s %-18s %-8s %s\n", "MEMBER", "ROLE", "NODE", "STATE", "LAG", "VOLUME")
	for _, m := range members {
		fmt.Printf("        %-8s %-8s %-7s %-18s %-8s %s\n", m.Member, m.Role, m.Node, m.State, m.Lag, m.Volume)
	}
}
