package swarmmanager

import (
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// rebuilds are the operations of that kind that there were.
func (w *world) rebuilds() []store.Operation {
	records, err := store.List[store.Operation](w.t.Context(), w.store, store.KindOperation)
	assert.NilError(w.t, err)
	var all []store.Operation
	for _, r := range records {
		if r.Value.Kind == store.OperationRebuild {
			all = append(all, r.Value)
		}
	}
	return all
}

func TestDataThatCannotBeMadeToFollowIsReplacedWithoutAWordOfAUser(t *testing.T) {
	run := func(t *testing.T, noSnapshots bool, doom int, after bool) *world {
		w := newWorld(t)
		w.noSnapshots, w.writer, w.doom, w.after = noSnapshots, nil, doom, after
		w.members["pg-2"].stray = "its history is another"
		m := w.manager()
		w.until(&m, "all follow", func(app store.Application) bool {
			all := w.rebuilds()
			return len(all) > 0 && all[0].Ended != nil && !w.dead && len(unhealthy(app)) == 0
		})
		again := 0
		w.until(&m, "peace", func(app store.Application) bool { again++; return again > 5 })
		all := w.rebuilds()
		assert.Equal(t, len(all), 1)
		assert.Equal(t, all[0].State, store.OperationDone, all[0].Error)
		assert.Equal(t, all[0].By, byItself)
		assert.DeepEqual(t, w.application().Sync, []string{"pg-2", "pg-3"})
		if noSnapshots {
			assert.Equal(t, w.copies, 1)
			assert.Equal(t, w.volume("pg-2").Device, "pg-2.img")
		} else {
			assert.Equal(t, w.copies, 0)
			assert.Equal(t, w.volume("pg-2").Device, all[0].Reseed.Device)
		}
		return w
	}
	for doc, noSnapshots := range map[string]bool{"by a snapshot": false, "by a copy": true} {
		t.Run(doc, func(t *testing.T) {
			whole := run(t, noSnapshots, 0, false)
			for doom := 1; doom <= whole.writes; doom++ {
				for _, after := range []bool{false, true} {
					w := run(t, noSnapshots, doom, after)
					assert.Equal(t, w.deaths, 1, "nobody died of %s", whole.writer[doom-1])
				}
			}
		})
	}
}

func TestDataThatCannotBeMadeToFollowIsNoneOfTheLeadersWhileAUserIsAtIt(t *testing.T) {
	w := newWorld(t)
	w.operation(store.OperationFence, store.MemberRequest{Member: "pg-2"})
	w.members["pg-2"].status.NeedsCopy = "its history is another"
	m := w.manager()
	rounds := 0
	w.until(&m, "nothing to come of it", func(store.Application) bool { rounds++; return rounds > 10 })
	assert.Equal(t, len(w.rebuilds()), 0)
}

// A rebuild that has failed is not begun again and again: the member copies by itself.
func TestARebuildThatHasFailedIsNotAskedForAgainSoon(t *testing.T) {
	o := observation()
	records := []store.Record[store.Operation]{{Value: store.Operation{Kind: store.OperationRebuild, Target: "pg", By: byItself, Request: `{"member":"pg-2"}`, Started: o.now.Add(-copyPause / 2)}}}
	records[0].Value.Ended = &records[0].Value.Started
	assert.Check(t, rebuiltLately(o, records, "pg", "pg-2"))
	assert.Check(t, !rebuiltLately(o, records, "pg", "pg-3"))
	assert.Check(t, !rebuiltLately(o, records, "other", "pg-2"))
	records[0].Value.By = "anna@desk"
	assert.Check(t, !rebuiltLately(o, records, "pg", "pg-2"), "a user's is over")
	records[0].Value.By, records[0].Value.Started = byItself, o.now.Add(-2*copyPause)
	assert.Check(t, !rebuiltLately(o, records, "pg", "pg-2"))
	records[0].Value.Ended = nil
	assert.Check(t, rebuiltLately(o, records, "pg", "pg-2"))
}

func TestAWordThatDataCannotFollowIsNews(t *testing.T) {
	assert.Check(t, is.Equal(sameWord(&api.MemberStatus{}, &api.MemberStatus{NeedsCopy: "why"}), false))
}
