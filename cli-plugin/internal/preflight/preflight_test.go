package preflight_test

import (
	"context"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/store"
)

func TestAwaitPluginsWaitsForANodeThatHasJustComeUp(t *testing.T) {
	now := time.Now()
	for _, tc := range []struct {
		doc   string
		begin func(d *fakeswarm.Client)
		end   func(d *fakeswarm.Client)
		waits string
	}{
		{
			doc: "Swarm places nothing where it does not know of the plugin",
			begin: func(d *fakeswarm.Client) {
				fakeswarm.Put(t, d, store.KindNode, "id-node2", store.Node{ID: "id-node2", Reporting: true})
				d.Nodes[1].Description.Engine.Plugins = nil
			},
			end:   func(d *fakeswarm.Client) { d.Nodes[1].Description = d.Nodes[0].Description },
			waits: "Swarm does not know of its plugin yet",
		},
		{
			doc: "it does not report yet",
			begin: func(d *fakeswarm.Client) {
				fakeswarm.Put(t, d, store.KindNode, "id-node2", store.Node{ID: "id-node2", Since: now})
			},
			end: func(d *fakeswarm.Client) {
				fakeswarm.Put(t, d, store.KindNode, "id-node2", store.Node{ID: "id-node2", Reporting: true})
			},
			waits: "the plugin does not report",
		},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			d := fakeswarm.New("node1", "node2")
			fakeswarm.Put(t, d, store.KindNode, "id-node1", store.Node{ID: "id-node1", Reporting: true})
			tc.begin(d)
			waited := ""
			nodes, err := preflight.AwaitPlugins(t.Context(), d, now, func(line string) {
				waited += line
				tc.end(d)
			})
			assert.NilError(t, err)
			assert.Equal(t, len(nodes), 2)
			assert.Check(t, is.Contains(waited, "node2: "+tc.waits))
		})
	}
}

func TestAwaitPluginsDoesNotWaitForWhatLasts(t *testing.T) {
	now := time.Now()
	for _, node := range []store.Node{
		{Problem: "cannot pull the plugin", Since: now},
		{Since: now.Add(-preflight.PluginPatience)},
	} {
		d := fakeswarm.New("node1")
		node.ID = "id-node1"
		fakeswarm.Put(t, d, store.KindNode, "id-node1", node)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := preflight.AwaitPlugins(ctx, d, now, func(line string) {
			t.Error("it waits:", line)
			cancel()
		})
		assert.ErrorIs(t, err, preflight.ErrPluginMissing)
		cancel()
	}
}
