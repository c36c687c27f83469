package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// watchPrimaries asks every member, from every node, ten times a second, whether it
// is in recovery, and notes the server's own clock in ms whenever it is not.
const watchPrimaries = `export PGPASSWORD=$(cat /run/secrets/password)
for m in pg-1 pg-2 pg-3; do (
	while :; do
		printf 'SELECT floor(extract(epoch FROM clock_timestamp()) * 1000) WHERE NOT pg_is_in_recovery()\n\\watch 0.1\n' |
			psql -qAtX "host=$m user=postgres connect_timeout=2 keepalives_idle=1 keepalives_interval=1 keepalives_count=2 tcp_user_timeout=2000" 2>/dev/null | grep --line-buffered '^[0-9]' >> /tmp/$m
		sleep 0.1
	done
) & done; wait`

// sighting is a moment at which a member took writes, by its own clock.
type sighting struct {
	member string
	at     int // ms
}

// reign is how close two sightings of one member must be for it to have been the
// primary all the time between them: a change there and back takes longer.
const reign = 500 // ms

// twoPrimaries finds a member that took writes in the middle of another's reign.
func twoPrimaries(seen []sighting) string {
	at := map[string][]int{}
	for _, s := range seen {
		at[s.member] = append(at[s.member], s.at)
	}
	for _, times := range at {
		slices.Sort(times)
	}
	for _, s := range seen {
		for other, times := range at {
			if other == s.member {
				continue
			}
			i, same := slices.BinarySearch(times, s.at)
			if same || i > 0 && i < len(times) && times[i]-times[i-1] < reign {
				return fmt.Sprintf("%s took writes at %d and %s before and after", s.member, s.at, other)
			}
		}
	}
	return ""
}

func TestTwoPrimariesAreSeen(t *testing.T) {
	assert.Equal(t, twoPrimaries([]sighting{{"a", 1000}, {"a", 1100}, {"b", 1800}, {"b", 1900}, {"a", 3000}}), "")
	assert.Assert(t, twoPrimaries([]sighting{{"a", 1000}, {"b", 1050}, {"b", 1150}, {"a", 1160}}) != "")
	assert.Assert(t, twoPrimaries([]sighting{{"a", 1000}, {"b", 1000}}) != "")
}

// fault is something that happens to a node and is over after a while.
type fault struct {
	name   string
	broken func(ctx context.Context, s *suite, n *cluster.Node, member string) error
	mend   func(ctx context.Context, s *suite, n *cluster.Node) error
}

func healed(ctx context.Context, s *suite, _ *cluster.Node) error { return s.c.Heal(ctx) }

func containerOf(member string) string {
	return "$(docker ps -q --filter label=com.docker.swarm.service.name=pg_" + strings.TrimPrefix(member, "pg-") + ")"
}

var faults = []fault{
	{"node killed", func(ctx context.Context, _ *suite, n *cluster.Node, _ string) error { return n.Kill(ctx) }, healed},
	{"node paused", func(ctx context.Context, _ *suite, n *cluster.Node, _ string) error { return n.Pause(ctx) }, healed},
	{"node cut off", func(ctx context.Context, s *suite, n *cluster.Node, _ string) error { return n.Cut(ctx) }, healed},
	{"dockerd killed", func(ctx context.Context, _ *suite, n *cluster.Node, _ string) error {
		return n.RestartDocker(ctx, true)
	}, healed},
	{"plugin killed", func(ctx context.Context, _ *suite, n *cluster.Node, _ string) error {
		return n.KillPlugin(ctx, "openmanage")
	}, healed},
	{"server killed", func(ctx context.Context, _ *suite, n *cluster.Node, member string) error {
		_, _, err := n.Exec(ctx, "sh", "-c", "docker exec "+containerOf(member)+" pkill -9 -o postgres")
		return err
	}, healed},
	{"container killed", func(ctx context.Context, _ *suite, n *cluster.Node, member string) error {
		_, _, err := n.Exec(ctx, "sh", "-c", "docker kill "+containerOf(member))
		return err
	}, healed},
	{"manager killed", func(ctx context.Context, _ *suite, n *cluster.Node, _ string) error {
		_, _, err := n.Exec(ctx, "sh", "-c", "docker kill $(docker ps -q --filter label=com.docker.swarm.service.name=openmanage_manager)")
		return err
	}, healed},
	{"switchover", func(ctx context.Context, s *suite, _ *cluster.Node, _ string) error {
		_, err := s.CLI(ctx, "switchover", "pg", "--detach")
		return err
	}, healed},
	{"restart", func(ctx context.Context, s *suite, _ *cluster.Node, _ string) error {
		_, err := s.CLI(ctx, "restart", "pg", "--detach")
		return err
	}, healed},
}

// Whatever happens to nodes, containers, servers and our own parts: no row that was
// acknowledged is lost, and no two members take writes at one moment.
func TestChaos(t *testing.T) {
	s, ctx := swarm(t)
	rounds := 5
	if long() {
		rounds = 100
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(rounds)*5*time.Minute)
	defer cancel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s.database(t, ctx, 100)
	client := s.startClient(t, ctx, s.other(t))
	s.startWatch(t, ctx)
	for round := range rounds {
		members, err := s.WaitHealthy(ctx, "pg", 3, 5*time.Minute)
		assert.NilError(t, err)
		// The client's node stays, so that its notes do.
		victim := members[random.IntN(len(members))]
		if random.IntN(2) == 0 {
			victim = primary(t, members)
		}
		f := faults[random.IntN(len(faults))]
		node := s.node(t, victim.Node)
		if node.Number == client.node.Number && !strings.HasSuffix(f.name, "over") && f.name != "restart" && f.name != "server killed" && f.name != "plugin killed" && f.name != "manager killed" {
			f = faults[5+random.IntN(2)]
		}
		s.lookFrom(t, node)
		lasts := time.Duration(random.IntN(20000)) * time.Millisecond
		t.Logf("round %d: %s (%s, %s on %s) for %s", round, f.name, victim.Member, victim.Role, victim.Node, lasts)
		if err := f.broken(ctx, s, node, victim.Member); err != nil {
			t.Logf("round %d: %v", round, err)
		}
		select {
		case <-time.After(lasts):
		case <-ctx.Done():
		}
		assert.NilError(t, f.mend(ctx, s, node))
	}
	t.Logf("longest time without a write: %s", client.lostNothing(t, ctx))
	s.sameDatabase(t, ctx, 100)
	seen := s.sightings(t, ctx)
	assert.Assert(t, len(seen) > 100*rounds, "%d sightings of a primary show nothing", len(seen))
	assert.Equal(t, twoPrimaries(seen), "")
}

// startWatch starts to watch from every node.
func (s *suite) startWatch(t *testing.T, ctx context.Context) {
	t.Helper()
	remove := func(ctx context.Context) { _, _ = s.Docker(ctx, "service", "rm", "primaries") }
	remove(ctx)
	err := product.Until(ctx, time.Minute, "watch started", func(ctx context.Context) error {
		_, err := s.Docker(ctx, "service", "create", "--detach", "--name", "primaries", "--mode", "global", "--network", "pg_default",
			"--mount", "type=bind,source=/var/tmp,target=/tmp", "--secret", "source=pg_superuser-password,target=password",
			"--entrypoint", "bash", "postgres:17", "-c", watchPrimaries)
		return err
	})
	assert.NilError(t, err)
	for _, n := range s.c.Nodes() {
		_, _, err := n.Exec(ctx, "sh", "-c", "rm -f /var/tmp/pg-*")
		assert.NilError(t, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		remove(ctx)
	})
}

func (s *suite) sightings(t *testing.T, ctx context.Context) []sighting {
	t.Helper()
	var all []sighting
	for _, n := range s.c.Nodes() {
		out, _, err := n.Exec(ctx, "sh", "-c", "cd /var/tmp && grep -H . pg-1 pg-2 pg-3 2>/dev/null || true")
		assert.NilError(t, err)
		for line := range strings.Lines(out) {
			member, text, _ := strings.Cut(strings.TrimSpace(line), ":")
			if at, err := strconv.Atoi(text); err == nil && at > 1e12 {
				all = append(all, sighting{member, at})
			}
		}
	}
	return all
}
