package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// situation is what a round finds.
type situation struct {
	leader  string            // node of Swarm's leader
	primary string            // member
	on      map[string]string // member: node
	nodes   []string
}

// stroke is one thing that happens in a round.
type stroke struct {
	fault  string
	node   string
	member string
	// other is the far end of a link that is cut; "": all other nodes.
	other        string
	after, lasts time.Duration
}

func (s stroke) String() string {
	where := s.node
	if s.member != "" {
		where = s.member + " on " + s.node
	}
	if s.other != "" {
		where += " from " + s.other
	}
	if where != "" {
		where = " (" + where + ")"
	}
	return fmt.Sprintf("%s%s after %s for %s", s.fault, where, s.after, s.lasts)
}

// fault is a kind of stroke.
type fault struct {
	// whole: nothing on the node can be reached meanwhile.
	whole bool
	// aim says whom it hits, or that there is nobody whom it could.
	aim    func(r *rand.Rand, at situation) (stroke, bool)
	broken func(ctx context.Context, s *suite, st stroke) error
	mend   func(ctx context.Context, s *suite, st stroke) error // may be repeated
}

// atMember aims at the primary in two of three cases.
func atMember(r *rand.Rand, at situation) (stroke, bool) {
	member := at.primary
	if r.IntN(3) == 0 {
		members := slices.Sorted(maps.Keys(at.on))
		member = members[r.IntN(len(members))]
	}
	return stroke{member: member, node: at.on[member]}, true
}

func atPrimary(_ *rand.Rand, at situation) (stroke, bool) {
	return stroke{member: at.primary, node: at.on[at.primary]}, true
}

func atLeader(_ *rand.Rand, at situation) (stroke, bool) { return stroke{node: at.leader}, true }

func atNothing(*rand.Rand, situation) (stroke, bool) { return stroke{}, true }

// atLink aims at a link between a member's node, the primary's if it can be, and the
// leader's or another one.
func atLink(toLeader bool) func(*rand.Rand, situation) (stroke, bool) {
	return func(r *rand.Rand, at situation) (stroke, bool) {
		members := slices.Sorted(maps.Keys(at.on))
		r.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
		for _, member := range slices.Insert(members, 0, at.primary) {
			node := at.on[member]
			if node == at.leader {
				continue
			}
			for _, other := range at.nodes {
				if other != node && (other == at.leader) == toLeader {
					return stroke{member: member, node: node, other: other}, true
				}
			}
		}
		return stroke{}, false
	}
}

func containerOf(member string) string {
	return "$(docker ps -q --filter label=com.docker.swarm.service.name=pg_" + strings.TrimPrefix(member, "pg-") + ")"
}

// onNode returns a stroke that is a shell command on the node.
func onNode(script func(st stroke) string) func(context.Context, *suite, stroke) error {
	return func(ctx context.Context, s *suite, st stroke) error {
		n, err := s.named(st.node)
		if err == nil {
			_, _, err = n.Exec(ctx, "sh", "-c", script(st))
		}
		return err
	}
}

// toNode returns a stroke that the test environment knows.
func toNode(do func(ctx context.Context, n *cluster.Node, other []*cluster.Node) error) func(context.Context, *suite, stroke) error {
	return func(ctx context.Context, s *suite, st stroke) error {
		n, err := s.named(st.node)
		if err != nil {
			return err
		}
		var others []*cluster.Node
		if st.other != "" {
			other, err := s.named(st.other)
			if err != nil {
				return err
			}
			others = append(others, other)
		}
		return do(ctx, n, others)
	}
}

// asUser returns a stroke that a user does, and does not wait for.
func asUser(args ...string) func(context.Context, *suite, stroke) error {
	return func(ctx context.Context, s *suite, _ stroke) error {
		_, err := s.CLI(ctx, append(slices.Clone(args), "--detach")...)
		return err
	}
}

func (s *suite) named(node string) (*cluster.Node, error) {
	for _, n := range s.c.Nodes() {
		if n.Name == node {
			return n, nil
		}
	}
	return nil, fmt.Errorf("there is no node %q", node)
}

const managerContainer = "$(docker ps -q --filter label=com.docker.swarm.service.name=openmanage_manager)"

// serverPID is the member's server among the node's processes; its children have
// other titles.
func serverPID(member string) string {
	return "$(docker top " + containerOf(member) + " -eo pid,args | awk '$2 ~ /postgres$/ {print $1; exit}')"
}

// volumeDir is where a member has its volume, above the database.
const volumeDir = "/var/lib/postgresql/data"

// fillDisk takes all the space that the server can have, and has it ask for more: its
// WAL moves on to new files.
func fillDisk(ctx context.Context, s *suite, st stroke) error {
	n, err := s.named(st.node)
	if err != nil {
		return err
	}
	script := "docker exec " + containerOf(st.member) + " sh -c '" +
		"fallocate -l $(df --output=avail -B1 " + volumeDir + " | tail -1) " + volumeDir + "/filler || exit 1; " +
		"for i in $(seq 20); do timeout 2 psql -U postgres -qAtc \"SELECT pg_switch_wal()\" >/dev/null 2>&1; sleep 0.1; done; true'"
	_, _, err = n.Exec(ctx, "sh", "-c", script)
	return err
}

// emptyDisk gives the space back, wherever the volume is now. It fails while the
// member has no container.
func emptyDisk(ctx context.Context, s *suite, st stroke) error {
	var errs []error
	for _, n := range s.c.Nodes() {
		_, _, err := n.Exec(ctx, "sh", "-c", "c="+containerOf(st.member)+"; test -n \"$c\" && docker exec $c rm -f "+volumeDir+"/filler")
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// The same server has two names.
const (
	oneImage   = "postgres:17"
	otherImage = "postgres:17.7"
)

// upgrade gives the members the image that they do not have.
func upgrade(ctx context.Context, s *suite, st stroke) error {
	now, err := s.Docker(ctx, "service", "inspect", "pg_1", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}")
	if err != nil {
		return err
	}
	to := otherImage
	if strings.HasPrefix(now, otherImage) {
		to = oneImage
	}
	return asUser("upgrade", "pg", "--image", to)(ctx, s, st)
}

func kill(ctx context.Context, n *cluster.Node, _ []*cluster.Node) error     { return n.Kill(ctx) }
func start(ctx context.Context, n *cluster.Node, _ []*cluster.Node) error    { return n.Start(ctx) }
func freeze(ctx context.Context, n *cluster.Node, _ []*cluster.Node) error   { return n.Pause(ctx) }
func unfreeze(ctx context.Context, n *cluster.Node, _ []*cluster.Node) error { return n.Unpause(ctx) }
func cut(ctx context.Context, n *cluster.Node, from []*cluster.Node) error {
	return n.Cut(ctx, from...)
}
func mute(ctx context.Context, n *cluster.Node, to []*cluster.Node) error {
	return n.CutOneWay(ctx, to...)
}
func join(ctx context.Context, n *cluster.Node, _ []*cluster.Node) error { return n.Heal(ctx) }

var faults = map[string]fault{
	"node killed": {whole: true, aim: atMember, broken: toNode(kill), mend: toNode(start)},
	"node paused": {whole: true, aim: atMember, broken: toNode(freeze), mend: toNode(unfreeze)},

	"node cut off":           {whole: true, aim: atMember, broken: toNode(cut), mend: toNode(join)},
	"node that nobody hears": {whole: true, aim: atMember, broken: toNode(mute), mend: toNode(join)},
	"node cut from the leader but not from its peers": {aim: atLink(true), broken: toNode(cut), mend: toNode(join)},
	"node cut from its peers but not from the leader": {aim: atLink(false), broken: toNode(cut), mend: toNode(join)},
	"node that its peers hear but not the leader":     {aim: atLink(true), broken: toNode(mute), mend: toNode(join)},
	"node that the leader hears but not its peers":    {aim: atLink(false), broken: toNode(mute), mend: toNode(join)},

	"dockerd killed": {aim: atMember, broken: toNode(func(ctx context.Context, n *cluster.Node, _ []*cluster.Node) error {
		return n.RestartDocker(ctx, true)
	})},
	"dockerd restarted": {aim: atMember, broken: toNode(func(ctx context.Context, n *cluster.Node, _ []*cluster.Node) error {
		return n.RestartDocker(ctx, false)
	})},
	"plugin killed": {aim: atMember, broken: toNode(func(ctx context.Context, n *cluster.Node, _ []*cluster.Node) error {
		return n.KillPlugin(ctx, "openmanage")
	})},
	"server killed":          {aim: atMember, broken: onNode(func(st stroke) string { return "kill -9 " + serverPID(st.member) })},
	"container killed":       {aim: atMember, broken: onNode(func(st stroke) string { return "docker kill " + containerOf(st.member) })},
	"leading manager killed": {aim: atLeader, broken: onNode(func(stroke) string { return "docker kill " + managerContainer })},
	"disk full":              {aim: atPrimary, broken: fillDisk, mend: emptyDisk},

	"switchover": {aim: atNothing, broken: asUser("switchover", "pg")},
	"restart":    {aim: atNothing, broken: asUser("restart", "pg")},
	"upgrade":    {aim: atNothing, broken: upgrade},
	"scale":      {aim: atNothing, broken: asUser("scale", "pg", "--replicas", "4")},
}

// shortest is longer than any lease.
const shortest = 6 * time.Second

// plan says what happens in a round: the faults of these names, or two that are drawn,
// each for shortest to longest.
func plan(r *rand.Rand, at situation, longest time.Duration, names ...string) []stroke {
	count := len(names)
	if count == 0 {
		count = 2
	}
	all := slices.Sorted(maps.Keys(faults))
	var strokes []stroke
	for len(strokes) < count {
		name := all[r.IntN(len(all))]
		if len(names) > 0 {
			name = names[len(strokes)]
		}
		st, ok := faults[name].aim(r, at)
		st.fault = name
		st.after = time.Duration(r.IntN(5000)) * time.Millisecond
		st.lasts = (shortest + time.Duration(r.Int64N(int64(longest-shortest)))).Round(time.Millisecond)
		meets := slices.ContainsFunc(strokes, func(other stroke) bool {
			return other.fault == name || faults[name].whole && faults[other.fault].whole && other.node == st.node
		})
		if ok && !meets {
			strokes = append(strokes, st)
		}
	}
	return strokes
}

// strike has a stroke happen and end. What it cannot do it returns.
func (s *suite) strike(ctx context.Context, st stroke) error {
	f := faults[st.fault]
	pass(ctx, st.after)
	within, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	err := f.broken(within, s, st)
	pass(ctx, st.lasts)
	if f.mend != nil {
		err = errors.Join(err, f.mend(ctx, s, st))
	}
	return err
}

// pass lets time pass: how long something lasts is what a round varies.
func pass(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	<-ctx.Done()
}

// settle makes everything whole after the strokes: the Swarm, the disks, three
// members, all healthy, and no operation that still runs.
func (s *suite) settle(ctx context.Context, strokes []stroke) ([]product.Member, error) {
	if err := s.c.Heal(ctx); err != nil {
		return nil, err
	}
	s.Via = s.c.Nodes()[0]
	for _, st := range strokes {
		if f := faults[st.fault]; f.mend != nil {
			err := product.Until(ctx, 3*time.Minute, "mending: "+st.String(), func(ctx context.Context) error { return f.mend(ctx, s, st) })
			if err != nil {
				return nil, err
			}
		}
	}
	err := product.Until(ctx, 5*time.Minute, "no operation on pg", func(ctx context.Context) error {
		out, err := s.CLI(ctx, "operation", "ls", "--format", "{{.Target}} {{.State}} {{.Kind}} {{.Step}}")
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) > 2 && f[0] == "pg" && !slices.Contains([]string{"done", "failed", "cancelled"}, f[1]) {
				return errors.New(line)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var members []product.Member
	err = product.Until(ctx, 5*time.Minute, "three members", func(ctx context.Context) error {
		var err error
		if members, err = s.Members(ctx, "pg"); err == nil && len(members) != 3 {
			_, err = s.CLI(ctx, "scale", "pg", "--replicas", "3", "--timeout", "3m")
			err = errors.Join(err, fmt.Errorf("there were %d", len(members)))
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if members, err = s.WaitHealthy(ctx, "pg", 3, 5*time.Minute); err != nil {
		return nil, err
	}
	return members, s.deleteRetained(ctx, "pg")
}

// deleteRetained deletes the volumes of members that were taken away.
func (s *suite) deleteRetained(ctx context.Context, name string) error {
	out, err := s.CLI(ctx, "volume", "ls", "--format", "{{.Name}} {{.Application}} {{.State}}")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[1] == name && f[2] == "retained" {
			if _, err := s.CLI(ctx, "volume", "rm", f[0], "--yes-delete-data"); err != nil {
				return err
			}
		}
	}
	return nil
}
