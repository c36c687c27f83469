package e2e

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/images"
	"github.com/openmanage/openmanage/testenv/product"
)

// Programs of a server that has the wrong version, and of one that never answers.
const (
	otherMajor = `#!/bin/sh
case "$1" in --version) echo "postgres (PostgreSQL) 99.1" ;; *) exit 1 ;; esac
`
	hangs = `#!/bin/sh
case "$*" in
--version) echo "postgres (PostgreSQL) 17.99" ;;
*" -C "*) echo ok ;;
*) exec sleep infinity ;;
esac
`
)

// broken has an image in the registry that is postgres:17 with another server in it.
func (s *suite) broken(t *testing.T, ctx context.Context, name, program string) {
	t.Helper()
	builder, err := cluster.Prepare(ctx, s.c.Host)
	assert.NilError(t, err)
	err = builder.Changed(ctx, name, "postgres:17", map[string]images.File{"/usr/lib/postgresql/17/bin/postgres": {Content: program, Mode: 0o755}})
	assert.NilError(t, err)
}

// aStandby stands in a command for the name of one, a fenced one if there is.
const aStandby = "STANDBY"

// goesOn are the cases that begin with what the one before them has left.
var goesOn = map[string]bool{"start": true, "scale in": true, "unfence": true}

// standbyOf returns a standby, a fenced one if there is.
func (s *suite) standbyOf(t *testing.T, ctx context.Context) string {
	t.Helper()
	members, err := s.Members(ctx, "pg")
	assert.NilError(t, err)
	found := ""
	for _, m := range members {
		if m.State == "fenced" {
			return m.Member
		}
		if m.Role != "primary" {
			found = m.Member
		}
	}
	assert.Assert(t, found != "", "%+v", members)
	return found
}

func (s *suite) state(t *testing.T, ctx context.Context, member string) string {
	t.Helper()
	members, err := s.Members(ctx, "pg")
	assert.NilError(t, err)
	i := slices.IndexFunc(members, func(m product.Member) bool { return m.Member == member })
	assert.Assert(t, i >= 0, "%+v", members)
	return members[i].State
}

// The leading manager dies at every write of an operation, once each. Whoever leads
// next brings it to its end, and nobody who uses the database notices.
func TestOperationsOutliveTheirLeaders(t *testing.T) {
	for _, tc := range []struct {
		doc     string
		command []string
		points  []string
		more    []string // with make chaos
		before  func(t *testing.T, s *suite, ctx context.Context)
		fails   string
		stopped bool // nobody can write meanwhile
		fenced  bool // a standby is, afterwards
		only    bool // with make chaos
	}{
		{
			doc: "restart", command: []string{"restart", "pg"},
			points: []string{"operation:restart", "roll:updated", "handover:recorded", "primary:recorded"},
			more:   []string{"operation:ending", "operation:ended"},
		},
		{
			doc: "scale out", only: true, command: []string{"scale", "pg", "--replicas", "4"},
			points: []string{"scale:snapshot", "scale:adopted", "scale:created"},
			more:   []string{"operation:scale", "operation:ending", "operation:ended"},
		},
		{
			doc: "scale in", only: true, command: []string{"scale", "pg", "--replicas", "3"},
			points: []string{"scale:removed", "operation:ending"},
			more:   []string{"operation:scale", "operation:ended"},
		},
		{
			doc: "switchover", command: []string{"switchover", "pg"},
			points: []string{"operation:switchover", "operation:ended"},
			more:   []string{"handover:recorded", "primary:recorded", "operation:ending"},
		},
		{
			doc: "upgrade that fails", command: []string{"upgrade", "pg", "--image", "postgres:other-major"}, only: true,
			before: func(t *testing.T, s *suite, ctx context.Context) {
				s.broken(t, ctx, "postgres:other-major", otherMajor)
			},
			points: []string{"operation:upgrade", "roll:updated", "roll:failed", "roll:back", "operation:ending"},
			fails:  "It was rolled back and is healthy; no other member was changed",
		},
		{
			doc: "stop", command: []string{"stop", "pg"}, only: true, stopped: true,
			points: []string{"operation:stop", "operation:replicas", "operation:ending", "operation:ended"},
		},
		{
			doc: "start", command: []string{"start", "pg"}, only: true,
			points: []string{"operation:start", "operation:replicas", "operation:ending", "operation:ended"},
		},
		{
			doc: "expand", command: []string{"volume", "expand", "pg", "--size", "1100MiB"}, only: true,
			points: []string{"operation:expand", "expand:recorded", "operation:ending", "operation:ended"},
		},
		{
			doc: "rebuild", command: []string{"rebuild", aStandby}, only: true,
			points: []string{"operation:rebuild", "member:recorded", "rebuild:snapshot", "rebuild:exchanged", "operation:replicas", "operation:ending", "operation:ended"},
		},
		{
			doc: "fence", command: []string{"fence", aStandby, "on"}, only: true, fenced: true,
			points: []string{"operation:fence", "member:recorded", "operation:ending", "operation:ended"},
		},
		{
			doc: "unfence", command: []string{"fence", aStandby, "off"}, only: true,
			points: []string{"operation:unfence", "member:recorded", "operation:ending", "operation:ended"},
		},
	} {
		if tc.only && !long() {
			continue
		}
		points := tc.points
		if long() {
			points = append(slices.Clone(points), tc.more...)
		}
		t.Run(tc.doc, func(t *testing.T) {
			s, ctx := swarm(t)
			s.withFailpoints(t, ctx)
			if !goesOn[tc.doc] {
				s.database(t, ctx, 100)
			}
			command := slices.Clone(tc.command)
			if i := slices.Index(command, aStandby); i >= 0 {
				command[i] = s.standbyOf(t, ctx)
			}
			if tc.before != nil {
				tc.before(t, s, ctx)
			}
			var c *client
			if !tc.stopped && tc.doc != "start" {
				c = s.startClient(t, ctx, s.other(t))
			}
			died := s.killAt(t, ctx, points...)
			began := time.Now()
			_, err := s.CLI(ctx, command...)
			if tc.fails == "" {
				assert.NilError(t, err)
			} else {
				assert.ErrorContains(t, err, tc.fails)
			}
			t.Logf("took %s", time.Since(began).Round(time.Second))
			assert.DeepEqual(t, died(), slices.Sorted(slices.Values(points)))
			switch {
			case tc.stopped:
				return
			case tc.fenced:
				assert.Equal(t, s.state(t, ctx, command[1]), "fenced")
			case tc.doc == "scale out":
				_, err := s.WaitHealthy(ctx, "pg", 4, time.Minute)
				assert.NilError(t, err)
			default:
				s.sameDatabase(t, ctx, 100)
			}
			if c != nil {
				t.Logf("%s without a write", c.lostNothing(t, ctx))
			}
			if tc.doc == "scale in" {
				_, err = s.CLI(ctx, "volume", "rm", "pg-4", "--yes-delete-data")
				assert.NilError(t, err)
			}
		})
	}
}

// killAt arms points, each of which kills one manager and no more. died ends that,
// and returns the points at which one died.
func (s *suite) killAt(t *testing.T, ctx context.Context, points ...string) (died func() []string) {
	t.Helper()
	all := failpoints + "/" + strings.Join(points, " "+failpoints+"/")
	for _, n := range s.c.Nodes() {
		_, _, err := n.Exec(ctx, "sh", "-c", "mkdir -p "+failpoints+" && touch "+all)
		assert.NilError(t, err)
	}
	hit := map[string]bool{}
	look := func(ctx context.Context) error {
		for _, n := range s.c.Nodes() {
			out, _, err := n.Exec(ctx, "ls", failpoints)
			if err != nil {
				return err
			}
			for _, point := range points {
				if !slices.Contains(strings.Fields(out), point) {
					hit[point] = true
				}
			}
		}
		for point := range hit { // the next leader is to get beyond it
			for _, n := range s.c.Nodes() {
				if _, _, err := n.Exec(ctx, "rm", "-f", failpoints+"/"+point); err != nil {
					return err
				}
			}
		}
		return nil
	}
	watching, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-watching.Done():
				return
			case <-tick.C:
				_ = look(watching) // again at the next tick
			}
		}
	}()
	end := func() {
		stop()
		<-ended
	}
	t.Cleanup(func() {
		end()
		cleaning, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, n := range s.c.Nodes() {
			_, _, err := n.Exec(cleaning, "sh", "-c", "rm -f "+all)
			assert.Check(t, err)
		}
	})
	return func() []string {
		t.Helper()
		end()
		assert.NilError(t, look(ctx))
		return slices.Sorted(maps.Keys(hit))
	}
}

// An image with a server of another major version is refused by its tag, or by the
// first member that finds it, which comes back as it was. One whose server never
// answers takes longer.
func anUpgradeThatCannotWorkChangesNothing(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 100)
	c := s.startClient(t, ctx, s.other(t))
	_, err := s.CLI(ctx, "upgrade", "pg", "--image", "postgres:18")
	assert.ErrorContains(t, err, "PostgreSQL 18 cannot open the data of PostgreSQL 17")
	s.broken(t, ctx, "postgres:other-major", otherMajor)
	s.broken(t, ctx, "postgres:hangs", hangs)
	for _, tc := range []struct {
		image, why string
		within     time.Duration
		only       bool // with make chaos
	}{
		{"postgres:other-major", "the data is of PostgreSQL 17, the image of 99", 2 * time.Minute, false},
		{"postgres:hangs", "its server does not answer, 2m0s after its start", 5 * time.Minute, true},
	} {
		if tc.only && !long() {
			continue
		}
		began := time.Now()
		_, err = s.CLI(ctx, "upgrade", "pg", "--image", tc.image)
		assert.ErrorContains(t, err, tc.why)
		assert.Check(t, is.ErrorContains(err, "It was rolled back and is healthy; no other member was changed"))
		took := time.Since(began)
		assert.Check(t, took < tc.within, fmt.Sprint(took))
		s.sameDatabase(t, ctx, 100)
		t.Logf("%s: rolled back after %s, %s without a write", tc.image, took.Round(time.Second), c.lostNothing(t, ctx))
	}
}
