package e2e

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/product"
	"github.com/openmanage/openmanage/testenv/workload/history"
)

const (
	// perEpoch × epochs registers, as testenv/workload uses them.
	registers = 6000
	// settled is after how long nobody uses a register any more.
	settled = 45 * time.Second
)

// clientService is the service of an application's clients.
func clientService(application string) string { return "workload-" + application }

// clientDir is where a node has the program of an application's client and its log. They
// outlive the client, and the node's death.
func clientDir(application string) string { return "/var/tmp/openmanage-workload-" + application }

// client is a service that uses the database over connections that it makes as an
// application would: testenv/workload. What it did and saw is its history.
type client struct {
	history.History
	s     *suite
	of    string // application
	nodes []*cluster.Node
	read  map[int]int // by node's number: bytes of its log that the history has
}

// startClient starts to append rows from node, which must outlive the test.
func (s *suite) startClient(t *testing.T, ctx context.Context, node *cluster.Node) *client {
	t.Helper()
	return s.startWorkload(t, ctx, "pg", []*cluster.Node{node}, 0, 0)
}

// startClients starts, on every node, one worker that appends rows and some that use
// registers. So there is one on whatever side of a cut, and one that is paused with
// the primary.
func (s *suite) startClients(t *testing.T, ctx context.Context, registers int) *client {
	t.Helper()
	return s.startWorkload(t, ctx, "pg", s.c.Nodes(), registers, 0)
}

// workloadBinary is the client's program, static.
var workloadBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "openmanage-workload-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "workload")
	_, err = host.Run(context.Background(), "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-o", file, "../workload")
	return file, err
})

// startWorkload starts clients of an application. filler: how large their rows are,
// in units of 32 bytes.
func (s *suite) startWorkload(t *testing.T, ctx context.Context, application string, nodes []*cluster.Node, registerWorkers, filler int) *client {
	t.Helper()
	s.stopClients(ctx, application)
	_, err := s.SQL(ctx, application, fmt.Sprintf(`DROP TABLE IF EXISTS appended, register;
		CREATE TABLE appended (id bigint PRIMARY KEY, filler text); ALTER TABLE appended ALTER filler SET STORAGE EXTERNAL;
		CREATE TABLE register (k int PRIMARY KEY, v bigint NOT NULL); INSERT INTO register SELECT k, 0 FROM generate_series(0, %d) k`, registers-1))
	assert.NilError(t, err)
	binary, err := workloadBinary()
	assert.NilError(t, err)
	c := &client{s: s, of: application, nodes: nodes, read: map[int]int{}}
	dir := clientDir(application)
	place := []string{"--mode", "global"}
	if len(nodes) == 1 {
		place = []string{"--constraint", "node.hostname==" + nodes[0].Name}
	}
	retry := time.Duration(len(nodes)*len(nodes)) * 50 * time.Millisecond // as many in all are enough
	for _, n := range nodes {
		_, _, err := n.Exec(ctx, "sh", "-c", "rm -rf "+dir+" && mkdir "+dir)
		assert.NilError(t, err)
		assert.NilError(t, n.Put(ctx, binary, dir+"/workload"))
	}
	args := append([]string{
		"service", "create", "--detach", "--name", clientService(application), "--network", application + "_default", "--hostname", "{{.Node.Hostname}}",
		"--secret", "source=" + application + "_superuser-password,target=password", "--restart-delay", "1s", "--stop-grace-period", "2s",
		"--mount", "type=bind,source=" + dir + ",target=/workload", "--entrypoint", "/workload/workload",
	}, place...)
	var members []string
	for i := range 4 { // one that is not there harms nobody
		members = append(members, fmt.Sprintf("%s-%d", application, i+1))
	}
	args = append(args, "postgres:17", "-log", "/workload/log", "-members", strings.Join(members, ","), "-filler", strconv.Itoa(filler), "-registers", strconv.Itoa(registerWorkers), "-retry", retry.String())
	_, err = s.Docker(ctx, args...)
	assert.NilError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			c.keep(t, ctx)
		}
		s.stopClients(ctx, application)
	})
	c.begins(t, ctx)
	return c
}

// begins waits until the clients write. Swarm's DNS can have lost the members' names, for
// good, in a test before that cut the nodes off from each other: its nodes forget the
// entries of one that they take for dead, and do not always get them back when it is
// there again. That is none of OpenManage's doing, and members that start anew are known
// again.
func (c *client) begins(t *testing.T, ctx context.Context) {
	t.Helper()
	if c.writes(ctx, 45*time.Second) == nil {
		return
	}
	lost, err := c.unresolved(ctx)
	assert.NilError(t, err)
	if len(lost) > 0 {
		t.Logf("Swarm's DNS does not know %s; restarting the members", strings.Join(lost, ", "))
		_, err = c.s.CLI(ctx, "restart", c.of)
		assert.NilError(t, err)
	}
	c.writesOn(t, ctx)
}

// unresolved are the members whose names Swarm's DNS does not know, with the node where.
func (c *client) unresolved(ctx context.Context) ([]string, error) {
	members, err := c.s.Members(ctx, c.of)
	if err != nil {
		return nil, err
	}
	var lost []string
	for _, n := range c.nodes {
		for _, m := range members {
			out, _, err := n.Exec(ctx, "sh", "-c", "docker exec $(docker ps --quiet --filter label=com.docker.swarm.service.name="+clientService(c.of)+") getent ahostsv4 "+m.Member)
			if err != nil || strings.TrimSpace(out) == "" {
				lost = append(lost, m.Member+" on "+n.Name)
			}
		}
	}
	return lost, nil
}

func (s *suite) stopClients(ctx context.Context, application string) {
	_, _ = s.Docker(ctx, "service", "rm", clientService(application)) // there may be none
	_ = product.Until(ctx, 30*time.Second, "clients gone", func(ctx context.Context) error {
		for _, n := range s.c.Nodes() {
			out, _, err := n.Exec(ctx, "docker", "ps", "--quiet", "--filter", "label=com.docker.swarm.service.name="+clientService(application))
			if err != nil {
				return err
			}
			if strings.TrimSpace(out) != "" {
				return fmt.Errorf("%s: %s", n.Name, out)
			}
		}
		return nil
	})
}

// boottime is the clients' clock.
func boottime() int64 {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		panic(err)
	}
	return now.Nano()
}

// hear reads what the clients have written down since the last time.
func (c *client) hear(ctx context.Context) error {
	dir := clientDir(c.of)
	for _, n := range c.nodes {
		out, _, err := n.Exec(ctx, "sh", "-c", fmt.Sprintf("test ! -e %s/log || tail -c +%d %s/log", dir, c.read[n.Number]+1, dir))
		if err != nil {
			return err
		}
		c.read[n.Number] += c.Add([]byte(out))
	}
	return nil
}

// keep leaves the clients' logs on this machine, for whoever looks for the reason.
func (c *client) keep(t *testing.T, ctx context.Context) {
	dir, err := os.MkdirTemp("", "openmanage-history-")
	if err != nil {
		return
	}
	for _, n := range c.nodes {
		_, err := host.Docker(ctx, "cp", "--quiet", n.Container()+":"+clientDir(c.of)+"/log", filepath.Join(dir, n.Name+".jsonl"))
		if err != nil {
			t.Log(err)
		}
	}
	if events, err := c.s.CLI(ctx, "events", c.of); err == nil {
		_ = os.WriteFile(filepath.Join(dir, "events"), []byte(events), 0o600)
	}
	t.Logf("the clients' logs are in %s", dir)
}

// writesOn waits until more rows are acknowledged than now.
func (c *client) writesOn(t *testing.T, ctx context.Context) {
	t.Helper()
	assert.NilError(t, c.writes(ctx, 2*time.Minute))
}

func (c *client) writes(ctx context.Context, limit time.Duration) error {
	before := -1
	return product.Until(ctx, limit, "the clients' writes", func(ctx context.Context) error {
		if err := c.hear(ctx); err != nil {
			return err
		}
		now := len(c.Appended())
		if before < 0 {
			before = now
		}
		if now < before+3 {
			return fmt.Errorf("%d rows are acknowledged, %d were", now, before)
		}
		return nil
	})
}

// lostNothing waits until writes go on, and checks that all that was acknowledged is
// there, that registers were registers and that there was one primary at a time. It
// returns the longest time without an acknowledged row.
func (c *client) lostNothing(t *testing.T, ctx context.Context) time.Duration {
	t.Helper()
	c.writesOn(t, ctx)
	c.judge(t, ctx, boottime()-settled.Nanoseconds())
	return c.Gap(0)
}

// judge judges what is known, without the registers that were used after since.
func (c *client) judge(t *testing.T, ctx context.Context, since int64) {
	t.Helper()
	assert.NilError(t, c.hear(ctx))
	var rows string
	err := product.Until(ctx, time.Minute, "all rows", func(ctx context.Context) error {
		var err error
		rows, err = c.s.SQL(ctx, c.of, "SELECT id FROM appended")
		return err
	})
	assert.NilError(t, err)
	present := map[int64]bool{}
	for line := range strings.Lines(rows) {
		id, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		assert.NilError(t, err)
		present[id] = true
	}
	problems := c.Lost(present)
	two, spoke := history.TwoPrimaries(c.Sightings)
	if spoke > 0 {
		t.Logf("a primary that woke up called itself one for %s beside its successor", spoke)
	}
	problems = append(append(problems, two...), c.Registers(since)...)
	assert.Assert(t, len(problems) == 0, "%s", strings.Join(problems, "\n"))
}

// finish stops the clients and judges all that they did.
func (c *client) finish(t *testing.T, ctx context.Context) {
	t.Helper()
	c.s.stopClients(ctx, c.of)
	assert.NilError(t, c.hear(ctx))
	assert.Assert(t, len(c.Sightings) > 100, "%d sightings of a primary show nothing", len(c.Sightings))
	c.judge(t, ctx, math.MaxInt64)
}
