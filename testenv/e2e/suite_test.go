// Package e2e shows on a real Swarm what OpenManage promises, and tries to break
// it. All tests share one Swarm of three managers (testenv); each leaves it whole.
package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
	"github.com/openmanage/openmanage/testenv/progress"
)

// failpoints is the folder on a node in which a file arms a point of its manager.
const failpoints = "/var/run/openmanage-failpoints"

// suite is the Swarm with OpenManage on it.
type suite struct {
	*product.Product
	c *cluster.Cluster
}

// TestMain keeps other programs off the Swarm while tests break it.
func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		if !testing.Short() {
			release, err := cluster.Exclusive(context.Background(), options)
			if err != nil {
				fmt.Fprintln(os.Stderr, "the test environment cannot be had:", err)
				return 1
			}
			defer release()
		}
		return m.Run()
	}())
}

// options describe the Swarm.
var options = cluster.Options{
	Nodes: 3, Managers: 3, Images: []string{"postgres:17", "postgres:17.7", "debian:trixie-slim"}, Progress: progress.To(os.Stderr),
}

var prepared = sync.OnceValues(func() (*suite, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	c, err := cluster.Up(ctx, options)
	if err != nil {
		return nil, err
	}
	if err := c.Heal(ctx); err != nil {
		return nil, err
	}
	p, err := product.Build(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := p.Install(ctx); err != nil {
		return nil, err
	}
	return &suite{Product: p, c: c}, nil
})

// swarm returns the Swarm, whole and with OpenManage installed. What the test
// breaks is mended after it.
func swarm(t *testing.T) (*suite, context.Context) {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Swarm: not with -short")
	}
	s, err := prepared()
	assert.NilError(t, err, "the Swarm could not be set up")
	limit := 15 * time.Minute
	if long() {
		limit = 6 * time.Hour
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(func() {
		heal, done := context.WithTimeout(context.Background(), 5*time.Minute)
		defer done()
		if t.Failed() {
			s.tell(t, heal, "pg")
		}
		if first, err := s.c.Node(1); err == nil && s.Via.Number != first.Number {
			s.Via = first
		}
		assert.Check(t, s.c.Heal(heal))
		cancel()
	})
	assert.NilError(t, product.Until(ctx, 2*time.Minute, "a plugin that reports on every node", s.pluginsKnown))
	return s, ctx
}

// tell logs what an operator would look at, as long as what a test has broken is broken.
func (s *suite) tell(t *testing.T, ctx context.Context, application string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for _, command := range [][]string{{"ps", application}, {"events", application}, {"logs", application, "--tail", "60", "--timestamps"}} {
		out, err := s.CLI(ctx, command...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		lines = lines[max(0, len(lines)-200):]
		t.Logf("docker openmanage %s: error %v\n%s", strings.Join(command, " "), err, strings.Join(lines, "\n"))
	}
}

// pluginsKnown tells whether the leading manager hears the plugin of every node: a
// node that Swarm calls ready has only just started its plugin.
func (s *suite) pluginsKnown(ctx context.Context) error {
	ids, err := s.Docker(ctx, "node", "ls", "--quiet")
	if err != nil {
		return err
	}
	for _, id := range strings.Fields(ids) {
		record, err := s.Docker(ctx, "config", "inspect", "openmanage.node."+id, "--format", `{{index .Spec.Labels "openmanage.record"}}`)
		if err != nil {
			return err
		}
		if !strings.Contains(record, `"reporting":true`) {
			return fmt.Errorf("node %s: %s", id, record)
		}
	}
	return nil
}

// long tells whether the long forms are to run (make chaos).
func long() bool { return os.Getenv("OPENMANAGE_LONG") != "" }

// onlyLong leaves a test to the long forms, because another shows nearly the same in
// make test.
func onlyLong(t *testing.T, other string) {
	t.Helper()
	if !long() {
		t.Skip("with make chaos; see", other)
	}
}

func (s *suite) node(t *testing.T, name string) *cluster.Node {
	t.Helper()
	for _, n := range s.c.Nodes() {
		if n.Name == name {
			return n
		}
	}
	t.Fatalf("the test environment has no node %q", name)
	return nil
}

// other returns a node that is not one of those.
func (s *suite) other(t *testing.T, not ...*cluster.Node) *cluster.Node {
	t.Helper()
next:
	for _, n := range s.c.Nodes() {
		if n.Local {
			continue
		}
		for _, x := range not {
			if x.Number == n.Number {
				continue next
			}
		}
		return n
	}
	t.Fatal("there is no other node")
	return nil
}

// lookFrom has commands go through a node that is not n.
func (s *suite) lookFrom(t *testing.T, n *cluster.Node) {
	t.Helper()
	if s.Via.Number == n.Number {
		s.Via = s.other(t, n)
	}
}

// database makes sure that application pg runs with three members and a table
// of n rows, and returns its members.
func (s *suite) database(t *testing.T, ctx context.Context, n int) []product.Member {
	t.Helper()
	_, err := s.CLI(ctx, "create", "postgresql", "pg", "--replicas", "3", "--volume-size", "1GiB", "--yes")
	assert.NilError(t, err)
	members, err := s.WaitHealthy(ctx, "pg", 3, 4*time.Minute)
	assert.NilError(t, err)
	// A standby that a test before has left beside another member is about to be moved:
	// sooner by hand.
	members, err = s.spread(ctx, members)
	assert.NilError(t, err)
	if err := product.Until(ctx, 2*time.Minute, "the members of pg apart", func(ctx context.Context) error {
		var err error
		members, err = s.healthyApart(ctx, "pg", 3)
		return err
	}); err != nil {
		t.Logf("going on with members that share a node: %v", err)
	}
	_, err = s.SQL(ctx, "pg", fmt.Sprintf("CREATE TABLE IF NOT EXISTS kept (id int PRIMARY KEY); TRUNCATE kept; INSERT INTO kept SELECT generate_series(1, %d)", n))
	assert.NilError(t, err)
	return members
}

// spread has members that share a node start anew, so that Swarm places them on nodes
// that have less: where all lie on one node, one fault is every fault. It tries.
func (s *suite) spread(ctx context.Context, members []product.Member) ([]product.Member, error) {
	for range 3 {
		on := map[string]product.Member{}
		var sharing string
		for _, m := range members {
			if other, shared := on[m.Node]; shared {
				sharing = m.Member
				if m.Role == "primary" {
					sharing = other.Member
				}
			}
			on[m.Node] = m
		}
		if sharing == "" {
			break
		}
		_, err := s.Docker(ctx, "service", "update", "--force", "--quiet", "--detach", "pg_"+strings.TrimPrefix(sharing, "pg-"))
		if err != nil {
			return members, err
		}
		where := ""
		for _, m := range members {
			if m.Member == sharing {
				where = m.Node
			}
		}
		// It may come back to where it was; then it has the others' load to thank.
		_ = product.Until(ctx, 30*time.Second, sharing+" elsewhere", func(ctx context.Context) error {
			now, err := s.Members(ctx, "pg")
			for _, m := range now {
				if m.Member == sharing && m.Node == where {
					err = errors.New("it is still there")
				}
			}
			return err
		})
		if members, err = s.WaitHealthy(ctx, "pg", 3, 4*time.Minute); err != nil {
			return members, err
		}
	}
	return members, nil
}

// healthyApart returns the members of an application if n are healthy and no two share
// a node.
func (s *suite) healthyApart(ctx context.Context, application string, n int) ([]product.Member, error) {
	members, err := s.Members(ctx, application)
	if err != nil {
		return nil, err
	}
	if len(members) != n {
		return nil, fmt.Errorf("%s has %d members, not %d", application, len(members), n)
	}
	on := map[string]string{}
	for _, m := range members {
		switch {
		case m.Health != "healthy":
			return nil, fmt.Errorf("%s is %s: %s", m.Member, m.State, m.Message)
		case on[m.Node] != "":
			return nil, fmt.Errorf("%s and %s are on %s", on[m.Node], m.Member, m.Node)
		}
		on[m.Node] = m.Member
	}
	return members, nil
}

// sameDatabase waits until all members are healthy and checks that the rows are
// there and both standbys stream.
func (s *suite) sameDatabase(t *testing.T, ctx context.Context, rows int) []product.Member {
	t.Helper()
	members, err := s.WaitHealthy(ctx, "pg", 3, 4*time.Minute)
	assert.NilError(t, err)
	err = product.Until(ctx, time.Minute, "the same rows, and both standbys streaming", func(ctx context.Context) error {
		got, err := s.SQL(ctx, "pg", "SELECT (SELECT count(*) FROM kept) || ' ' || (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming')")
		if err != nil {
			return err
		}
		if want := fmt.Sprintf("%d 2", rows); got != want {
			return fmt.Errorf("rows and standbys are %q, want %q", got, want)
		}
		return nil
	})
	assert.NilError(t, err)
	return members
}

// removeApplication removes an application with its data.
func (s *suite) removeApplication(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	_, err := s.CLI(ctx, "rm", name, "--yes")
	assert.NilError(t, err)
	s.deleteVolumes(t, ctx, name)
}

// removeLeftovers removes what a run that was cut short has left of an application.
func (s *suite) removeLeftovers(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	_, _ = s.CLI(ctx, "rm", name, "--yes") // there may be none
	s.deleteVolumes(t, ctx, name)
}

func (s *suite) deleteVolumes(t *testing.T, ctx context.Context, name string) {
	t.Helper()
	out, err := s.CLI(ctx, "volume", "ls", "--format", "{{.Name}} {{.Application}}")
	assert.NilError(t, err)
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		if len(fields) == 2 && fields[1] == name {
			_, err := s.CLI(ctx, "volume", "rm", fields[0], "--yes-delete-data")
			assert.NilError(t, err)
		}
	}
}

// arm makes the manager of every node die at a point, once.
func (s *suite) arm(t *testing.T, ctx context.Context, point string) {
	t.Helper()
	for _, n := range s.c.Nodes() {
		_, _, err := n.Exec(ctx, "sh", "-c", "mkdir -p "+failpoints+" && touch "+failpoints+"/"+point)
		assert.NilError(t, err)
	}
}

// disarm removes what is armed and tells how many managers died at the point.
func (s *suite) disarm(t *testing.T, ctx context.Context, point string) (hit int) {
	t.Helper()
	for _, n := range s.c.Nodes() {
		out, _, err := n.Exec(ctx, "sh", "-c", "test -e "+failpoints+"/"+point+" && rm "+failpoints+"/"+point+" && echo armed || true")
		assert.NilError(t, err)
		if strings.TrimSpace(out) != "armed" {
			hit++
		}
	}
	return hit
}
