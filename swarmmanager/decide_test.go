package swarmmanager

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarm"
)

func TestDecideAttach(t *testing.T) {
	owner := func(node, mount string) *api.Owner {
		return &api.Owner{Node: node, Hostname: node, MountID: mount, Task: "pg_1.1", Since: time.Unix(0, 0)}
	}
	task := func(node string) []swarm.Use { return []swarm.Use{{Task: "pg_1.1", NodeID: node}} }
	for _, tc := range []struct {
		doc   string
		facts attachFacts
		want  string
		words string // that the refusal must have
	}{
		{
			doc:   "a free volume goes to the node of its task",
			facts: attachFacts{uses: task("n2")},
			want:  "grant to pg_1.1",
		},
		{
			doc:  "a free volume goes to a plain container",
			want: "grant to a plain container",
		},
		{
			doc:   "a free volume whose task is on another node is not for this one",
			facts: attachFacts{uses: task("n3")},
			want:  "refuse (forbidden)",
			words: "assigned to another node",
		},
		{
			doc:   "the holder's own mount is granted again",
			facts: attachFacts{volume: api.Volume{Owner: owner("n2", "m1")}, uses: task("n2")},
			want:  "grant again",
		},
		{
			doc:   "the same mount in another tenure is not the one that was granted",
			facts: attachFacts{volume: api.Volume{Owner: owner("n2", "m1")}, tenure: "later", uses: task("n2")},
			want:  "grant to pg_1.1",
		},
		{
			doc:   "a request that is older than the node's present mount does not end it",
			facts: attachFacts{volume: api.Volume{Owner: owner("n2", "m2")}, uses: task("n2"), reported: true},
			want:  "refuse (held)",
			words: "still reports",
		},
		{
			doc:   "the node that owned it takes it up again after it has lost its mount",
			facts: attachFacts{volume: api.Volume{Owner: owner("n2", "before")}, uses: task("n2")},
			want:  "grant to pg_1.1",
		},
		{
			doc:   "a living holder keeps it",
			facts: attachFacts{volume: api.Volume{Owner: owner("n1", "x")}, uses: task("n2"), ownerReady: true, settled: true},
			want:  "refuse (held)",
			words: "held by task pg_1.1 on node n1",
		},
		{
			doc:   "a holder that Swarm has given up but that still answers is told to let go",
			facts: attachFacts{volume: api.Volume{Owner: owner("n1", "x")}, uses: task("n2"), settled: true},
			want:  "refuse (held) and revoke",
		},
		{
			doc:   "a silent holder that Swarm still hears keeps it: its container may be well",
			facts: attachFacts{volume: api.Volume{Owner: owner("n1", "x")}, uses: task("n2"), ownerReady: true, ownerExpired: true, settled: true},
			want:  "refuse (held)",
			words: "mend the plugin",
		},
		{
			doc:   "a new leader waits before it believes in a silence",
			facts: attachFacts{volume: api.Volume{Owner: owner("n1", "x")}, uses: task("n2"), ownerExpired: true},
			want:  "refuse (not-yet)",
		},
		{
			doc:   "a holder that is gone by every measure is fenced",
			facts: attachFacts{volume: api.Volume{Owner: owner("n1", "x")}, uses: task("n2"), ownerExpired: true, settled: true},
			want:  "fence and grant to pg_1.1",
		},
		{
			doc:   "without a task nobody takes a volume from another node",
			facts: attachFacts{volume: api.Volume{Owner: owner("n1", "x")}, ownerExpired: true, settled: true},
			want:  "refuse (held)",
		},
		{
			doc:   "a volume is not attached where its data is not",
			facts: attachFacts{volume: api.Volume{Phase: api.PhaseReady, Location: "folder-1"}, uses: task("n2"), where: "node1"},
			want:  "refuse (unreachable)",
			words: "folder of node1",
		},
		{
			doc:   "a volume that is being deleted is not attached",
			facts: attachFacts{volume: api.Volume{Purging: true}, uses: task("n2")},
			want:  "refuse (conflict)",
		},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			f := tc.facts
			f.node, f.hostname, f.mountID, f.location = "n2", "node2", "m1", "folder-2"
			f.volume.Name = "pg-1"
			if f.volume.Phase == "" {
				f.volume.Phase = api.PhaseDeclared
			}
			d := decideAttach(f)
			assert.Equal(t, d.String(), tc.want)
			if tc.words != "" {
				assert.Check(t, is.Contains(d.refuse.Message, tc.words))
			}
		})
	}
}
