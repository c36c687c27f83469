package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// primary returns the member that is the primary.
func primary(t *testing.T, members []product.Member) product.Member {
	t.Helper()
	for _, m := range members {
		if m.Role == "primary" {
			return m
		}
	}
	t.Fatalf("no primary among %+v", members)
	return product.Member{}
}

// apart makes sure that the primary has its node for itself: with it would die a
// standby that may have the last commit, and then nobody takes over.
func (s *suite) apart(t *testing.T, ctx context.Context) []product.Member {
	t.Helper()
	for range 4 {
		members, err := s.WaitHealthy(ctx, "pg", 3, 4*time.Minute)
		assert.NilError(t, err)
		on := map[string]int{}
		for _, m := range members {
			on[m.Node]++
		}
		p := primary(t, members)
		if on[p.Node] == 1 {
			return members
		}
		to := ""
		for _, m := range members {
			if on[m.Node] == 1 {
				to = m.Member
			}
		}
		if to != "" {
			_, err = s.CLI(ctx, "switchover", "pg", "--to", to)
		} else {
			_, err = s.Docker(ctx, "service", "update", "--force", "--quiet", "pg_"+strings.TrimPrefix(p.Member, "pg-"))
		}
		assert.NilError(t, err)
	}
	t.Fatal("the primary always shares its node")
	return nil
}

// Neither a killed server nor a killed container loses anything.
func TestAPrimaryThatIsKilledIsBackOrReplaced(t *testing.T) {
	s, ctx := swarm(t)
	before := s.database(t, ctx, 100)
	c := s.startClient(t, ctx, s.other(t, s.node(t, primary(t, before).Node)))

	m := primary(t, before)
	out, _, err := s.node(t, m.Node).Exec(ctx, "sh", "-c", "pkill -9 -o -f 'postgres -D .*' && echo killed")
	assert.NilError(t, err, out)
	t.Logf("kill -9 of a server: %s without a write", c.lostNothing(t, ctx))

	m = primary(t, s.sameDatabase(t, ctx, 100))
	out, _, err = s.node(t, m.Node).Exec(ctx, "sh", "-c", "docker kill $(docker ps -q --filter label=com.docker.swarm.service.name=pg_"+strings.TrimPrefix(m.Member, "pg-")+")")
	assert.NilError(t, err, out)
	t.Logf("kill of the container: %s without a write", c.lostNothing(t, ctx))
	s.sameDatabase(t, ctx, 100)
}

func switchover(t *testing.T) {
	s, ctx := swarm(t)
	before := s.database(t, ctx, 100)
	c := s.startClient(t, ctx, s.other(t))
	from := primary(t, before)
	for _, m := range before {
		if m.Member == from.Member {
			continue
		}
		out, err := s.CLI(ctx, "switchover", "pg", "--to", m.Member)
		assert.NilError(t, err)
		assert.Check(t, is.Contains(out, m.Member+" on "+m.Node+" is the primary of pg"))
		s.sameDatabase(t, ctx, 100)
		t.Logf("to %s: %s without a write", m.Member, c.lostNothing(t, ctx))
	}
	_, err := s.CLI(ctx, "switchover", "pg", "--to", "pg-9")
	assert.ErrorContains(t, err, "pg has no standby pg-9")
	out, err := s.CLI(ctx, "operation", "ls")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(out, "switchover"))
	assert.Check(t, is.Contains(out, "failed"))
}

func restartAndUpgradeOneMemberAtATime(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 100)
	c := s.startClient(t, ctx, s.other(t))
	started, err := s.startTimes(t, ctx)
	assert.NilError(t, err)
	_, err = s.CLI(ctx, "restart", "pg")
	assert.NilError(t, err)
	s.sameDatabase(t, ctx, 100)
	restarted, err := s.startTimes(t, ctx)
	assert.NilError(t, err)
	for member, at := range restarted {
		assert.Assert(t, at != started[member], "%s was not restarted", member)
	}
	t.Logf("restart: %s without a write", c.lostNothing(t, ctx))

	plan, err := s.CLI(ctx, "upgrade", "pg", "--image", "debian:trixie-slim", "--dry-run")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(plan, "hand over from"))
	// A node that cannot pull it: nobody is touched.
	for _, n := range s.c.Nodes() {
		s.withoutImage(t, ctx, n, "debian")
	}
	members, err := s.WaitHealthy(ctx, "pg", 3, time.Minute)
	assert.NilError(t, err)
	var hosts []string
	var blocked *cluster.Node
	for _, m := range members {
		hosts = append(hosts, m.Node)
		if n := s.node(t, m.Node); n.Number != s.Via.Number {
			blocked = n
		}
	}
	slices.Sort(hosts)
	hosts = slices.Compact(hosts)
	assert.Assert(t, blocked != nil, "all members are on %s", s.Via.Name)
	mend := s.withoutRegistry(t, ctx, blocked)
	_, err = s.CLI(ctx, "upgrade", "pg", "--image", "debian:trixie-slim")
	assert.ErrorContains(t, err, "cannot be pulled on "+blocked.Name+":")
	assert.ErrorContains(t, err, "nothing was changed")
	mend()
	same, err := s.startTimes(t, ctx)
	assert.NilError(t, err)
	assert.DeepEqual(t, same, restarted)

	// An image in which nothing can start: it is pulled on all nodes first, then one
	// standby tries it and is rolled back.
	_, err = s.CLI(ctx, "upgrade", "pg", "--image", "debian:trixie-slim")
	assert.ErrorContains(t, err, "It was rolled back and is healthy; no other member was changed")
	s.sameDatabase(t, ctx, 100)
	t.Logf("upgrade that fails: %s without a write", c.lostNothing(t, ctx))
	story := s.lastOperation(t, ctx)
	assert.Check(t, is.Contains(story, "pulling debian:trixie-slim on "+strings.Join(hosts, ", ")), story)
	assert.Check(t, is.Contains(story, "debian:trixie-slim is there on all nodes with members"), story)
	for _, host := range hosts {
		out, _, err := s.node(t, host).Exec(ctx, "docker", "image", "ls", "--quiet", "debian")
		assert.NilError(t, err)
		assert.Check(t, strings.TrimSpace(out) != "", "%s has not pulled it", host)
	}
	_, err = s.CLI(ctx, "upgrade", "pg", "--image", "postgres:no-such-tag")
	assert.ErrorContains(t, err, "cannot be pulled")
}

// operations are those of pg, by name, the newest first.
func (s *suite) operations(t *testing.T, ctx context.Context) (names []string) {
	t.Helper()
	out, err := s.CLI(ctx, "operation", "ls", "--format", "{{.Name}} {{.Target}}")
	assert.NilError(t, err)
	for line := range strings.Lines(out) {
		if name, target, _ := strings.Cut(strings.TrimSpace(line), " "); target == "pg" {
			names = append(names, name)
		}
	}
	return names
}

// lastOperation is what `operation inspect` says of the operation that was asked for
// last.
func (s *suite) lastOperation(t *testing.T, ctx context.Context) string {
	t.Helper()
	names := s.operations(t, ctx)
	assert.Assert(t, len(names) > 0)
	story, err := s.CLI(ctx, "operation", "inspect", names[0])
	assert.NilError(t, err)
	return story
}

// withoutImage removes all images of a repository from a node.
func (s *suite) withoutImage(t *testing.T, ctx context.Context, n *cluster.Node, repository string) {
	t.Helper()
	out, _, err := n.Exec(ctx, "sh", "-c", "ids=$(docker image ls --quiet "+repository+" | sort -u); test -z \"$ids\" || docker image rm --force $ids")
	assert.NilError(t, err, out)
}

// withoutRegistry has a node reach no registry until mend is called, or the test ends.
func (s *suite) withoutRegistry(t *testing.T, ctx context.Context, n *cluster.Node) (mend func()) {
	t.Helper()
	rule := fmt.Sprintf("OUTPUT -p tcp --dport %d -d %s -j REJECT", s.c.Host.RegistryPort, s.c.Network.Gateway())
	out, _, err := n.Exec(ctx, "sh", "-c", "iptables -I "+rule)
	assert.NilError(t, err, out)
	mend = sync.OnceFunc(func() {
		out, _, err := n.Exec(context.WithoutCancel(ctx), "sh", "-c", "iptables -D "+rule)
		assert.Check(t, err, out)
	})
	t.Cleanup(mend)
	return mend
}

// startTimes returns since when each member's server runs.
func (s *suite) startTimes(t *testing.T, ctx context.Context) (map[string]string, error) {
	t.Helper()
	members, err := s.Members(ctx, "pg")
	if err != nil {
		return nil, err
	}
	times := map[string]string{}
	for _, m := range members {
		if m.Node == "-" {
			return nil, fmt.Errorf("%s is nowhere", m.Member)
		}
		out, _, err := s.node(t, m.Node).Exec(ctx, "sh", "-c", "docker exec $(docker ps -q --filter label=com.docker.swarm.service.name=pg_"+strings.TrimPrefix(m.Member, "pg-")+") psql -U postgres -Atc 'SELECT pg_postmaster_start_time()'")
		if err != nil {
			return nil, err
		}
		times[m.Member] = strings.TrimSpace(out)
	}
	return times, nil
}

func stopAndStart(t *testing.T) {
	s, ctx := swarm(t)
	before := s.database(t, ctx, 100)
	_, err := s.CLI(ctx, "stop", "pg")
	assert.NilError(t, err)
	out, err := s.CLI(ctx, "volume", "ls", "--format", "{{.Name}} {{.State}}")
	assert.NilError(t, err)
	for line := range strings.Lines(out) {
		assert.Check(t, !strings.HasPrefix(line, "pg-") || !strings.Contains(line, "attached"), out)
	}
	_, err = s.CLI(ctx, "start", "pg")
	assert.NilError(t, err)
	after := s.sameDatabase(t, ctx, 100)
	assert.Equal(t, primary(t, after).Member, primary(t, before).Member)
}

// A drained node's members move, and its primary hands over before it stops.
func TestADrainedPrimaryHandsOver(t *testing.T) {
	s, ctx := swarm(t)
	before := s.database(t, ctx, 100)
	old := primary(t, before)
	node := s.node(t, old.Node)
	s.lookFrom(t, node)
	c := s.startClient(t, ctx, s.other(t, node))
	_, err := s.Docker(ctx, "node", "update", "--availability", "drain", node.Name)
	assert.NilError(t, err)
	s.waitMoved(t, ctx, before, node.Name)
	s.sameDatabase(t, ctx, 100)
	t.Logf("drained: %s without a write", c.lostNothing(t, ctx))
	history, err := s.CLI(ctx, "events", "pg")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(history, fmt.Sprintf("primary instead of %s: %s is to stop", old.Member, old.Member)), history)
}

// A deploy that changes every member becomes a rolling one.
func aDeployThatChangesAllMembersRollsOverThem(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 100)
	c := s.startClient(t, ctx, s.other(t))
	started, err := s.startTimes(t, ctx)
	assert.NilError(t, err)
	for i := 1; i <= 3; i++ {
		_, err := s.Docker(ctx, "service", "update", "--detach", "--env-add", "CHANGED="+time.Now().Format(time.RFC3339Nano), fmt.Sprintf("pg_%d", i))
		assert.NilError(t, err)
	}
	err = product.Until(ctx, 4*time.Minute, "all members restarted", func(ctx context.Context) error {
		now, err := s.startTimes(t, ctx)
		if err != nil {
			return err
		}
		for member, at := range now {
			if at == started[member] {
				return fmt.Errorf("%s was not restarted", member)
			}
		}
		return nil
	})
	assert.NilError(t, err)
	s.sameDatabase(t, ctx, 100)
	t.Logf("deploy: %s without a write", c.lostNothing(t, ctx))
}

// A new member begins with a snapshot and copies nothing; who is taken away leaves
// its volume, and comes back with it.
func scaleOutAndIn(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 100)
	c := s.startClient(t, ctx, s.other(t))
	_, err := s.CLI(ctx, "scale", "pg", "--replicas", "4")
	assert.NilError(t, err)
	members, err := s.WaitHealthy(ctx, "pg", 4, time.Minute)
	assert.NilError(t, err)
	assert.Equal(t, members[3].Role, "standby")
	story := s.lastOperation(t, ctx)
	assert.Check(t, is.Contains(story, "adding pg-4 with a snapshot of pg-"), story)
	t.Logf("out: %s without a write", c.lostNothing(t, ctx))

	_, err = s.CLI(ctx, "scale", "pg", "--replicas", "3")
	assert.NilError(t, err)
	s.sameDatabase(t, ctx, 100)
	volumes, err := s.CLI(ctx, "volume", "ls", "--format", "{{.Name}} {{.State}}")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(volumes, "pg-4 retained"))
	t.Logf("in: %s without a write", c.lostNothing(t, ctx))
	_, err = s.CLI(ctx, "volume", "rm", "pg-4", "--yes-delete-data")
	assert.NilError(t, err)

	// The primary can be taken away too, after it has handed over.
	old := primary(t, s.sameDatabase(t, ctx, 100))
	_, err = s.CLI(ctx, "scale", "pg", "--remove", old.Member)
	assert.NilError(t, err)
	_, err = s.WaitHealthy(ctx, "pg", 2, time.Minute)
	assert.NilError(t, err)
	_, err = s.CLI(ctx, "scale", "pg", "--replicas", "3")
	assert.NilError(t, err)
	s.sameDatabase(t, ctx, 100)
	c.lostNothing(t, ctx)
}

func volumesExpand(t *testing.T) {
	s, ctx := swarm(t)
	s.removeLeftovers(t, ctx, "big")
	_, err := s.CLI(ctx, "create", "postgresql", "big", "--replicas", "1", "--volume-size", "500MiB", "--filesystem", "xfs", "--yes")
	assert.NilError(t, err)
	defer s.removeApplication(t, ctx, "big")
	started, err := s.SQL(ctx, "big", "SELECT pg_postmaster_start_time()")
	assert.NilError(t, err)
	_, err = s.CLI(ctx, "volume", "expand", "big", "--size", "900MiB")
	assert.NilError(t, err)
	now, err := s.SQL(ctx, "big", "SELECT pg_postmaster_start_time()")
	assert.NilError(t, err)
	assert.Equal(t, now, started, "XFS grows while it is in use")
	_, err = s.SQL(ctx, "big", "CREATE TABLE filler AS SELECT repeat(md5(i::text), 20) FROM generate_series(1, 600000) i")
	assert.NilError(t, err, "there is no more space than before")
	_, err = s.CLI(ctx, "volume", "expand", "big", "--size", "600MiB")
	assert.ErrorContains(t, err, "never become smaller")
}
