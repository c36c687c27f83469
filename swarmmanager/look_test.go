package swarmmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/moby/moby/api/types/events"
	dockerswarm "github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

func (j *jsonSwarm) set(t *testing.T, services ...dockerswarm.Service) {
	t.Helper()
	doc, err := json.Marshal(services)
	assert.NilError(t, err)
	j.services, j.by = doc, map[string][][]byte{}
	for _, s := range services {
		one, err := json.Marshal(s)
		assert.NilError(t, err)
		label := api.LabelApplication + "=" + s.Spec.Labels[api.LabelApplication]
		j.by[s.ID], j.by[label] = append(j.by[s.ID], one), append(j.by[label], one)
	}
}

func (j *jsonSwarm) all(t *testing.T) (services []dockerswarm.Service) {
	t.Helper()
	assert.NilError(t, json.Unmarshal(j.services, &services))
	return services
}

func (t *thousand) recorded(tb testing.TB, application string) store.Application {
	tb.Helper()
	r, err := store.Get[store.Application](tb.Context(), t.store, store.KindApplication, application)
	assert.NilError(tb, err)
	return r.Value
}

// say has a member say something of itself, and returns what that is news of.
func (t *thousand) say(tb testing.TB, node string, volume string, edit func(*api.MemberStatus)) subjects {
	tb.Helper()
	t.apps.news.take()
	members := t.reports[node].Members
	i := slices.IndexFunc(members, func(s api.MemberStatus) bool { return s.Volume == volume })
	assert.Assert(tb, i >= 0)
	edit(&members[i])
	t.reportOf(tb, node)
	return t.apps.news.take()
}

// reconcileOne looks at one application of what was observed.
func (a *applications) reconcileOne(ctx context.Context, o *observed, name string) error {
	c := a.plan(o, name)
	if err := errors.Join(a.retainVolumes(ctx, o, c.next), a.lengthenLeases(ctx, o, c.next)); err != nil || a.settled(o, c) {
		return err
	}
	return a.writeOne(ctx, o, c)
}

// newService is a member's of an application that is not known yet. Its volume is, so
// that the application is not forgotten with it.
func (t *thousand) newService(tb testing.TB) dockerswarm.Service {
	tb.Helper()
	_, err := t.volumes.create(tb.Context(), api.CreateRequest{Name: "new-1", Options: map[string]string{api.OptionApplication: "new", api.OptionMember: "new-1"}})
	assert.NilError(tb, err)
	return serviceOf("new", "new-1", 1)
}

func TestAChangeOfOneMemberIsALookAtItsApplicationAlone(t *testing.T) {
	m := newThousand(t, 20)
	m.docker.calls = map[string]int{}
	news := m.say(t, "n2", "app-0003-2", func(s *api.MemberStatus) {})
	assert.Assert(t, news.empty(), "nothing was said")
	news = m.say(t, "n2", "app-0003-2", func(s *api.MemberStatus) { s.Position++ })
	assert.Assert(t, news.empty(), "a log grows all the time")
	news = m.say(t, "n2", "app-0003-2", func(s *api.MemberStatus) { s.Healthy, s.State = false, api.StateFailed })
	assert.DeepEqual(t, news.applications, map[string]bool{"app-0003": true})
	assert.Assert(t, !news.everything && !news.operations)

	_, err := m.apps.look(t.Context(), news)
	assert.NilError(t, err)
	assert.Assert(t, !m.recorded(t, "app-0003").Members[1].Healthy)
	assert.Equal(t, m.docker.calls["tasks"], 0)
}

// A member without data that it can use waits for an operation, and that for no look at everything.
func TestAMemberThatNeedsACopyIsLookedAfterAtOnce(t *testing.T) {
	m := newThousand(t, 20)
	news := m.say(t, "n2", "app-0003-2", func(s *api.MemberStatus) { s.NeedsCopy = "its data has another history" })
	assert.Assert(t, news.operations)
	news = m.say(t, "n2", "app-0003-2", func(s *api.MemberStatus) { s.Position++ })
	assert.Assert(t, news.empty(), "it is said again with every report")
}

func TestTheOrderOfAReportIsNoNews(t *testing.T) {
	m := newThousand(t, 20)
	m.apps.news.take()
	r := m.reports["n2"]
	slices.Reverse(r.Members)
	slices.Reverse(r.Volumes)
	_, err := m.report(t.Context(), swarmpki.Peer{NodeID: "n2"}, api.Report{Boot: "older plugin", Storage: r.Storage, Volumes: r.Volumes, Members: r.Members})
	assert.NilError(t, err)
	news := m.apps.news.take()
	assert.Assert(t, news.empty(), "%v", news)
}

// Somebody writes the record of an application behind the manager's back.
func TestARecordThatOthersHaveChangedIsNeverOverwritten(t *testing.T) {
	for _, told := range []bool{true, false} {
		t.Run(fmt.Sprintf("told %t", told), func(t *testing.T) {
			m := newThousand(t, 2)
			_, err := store.Modify(t.Context(), m.store, store.KindApplication, "app-0001", func(a *store.Application) (bool, error) {
				a.Term, a.LastChange = 7, "theirs"
				return true, nil
			})
			assert.NilError(t, err)
			if told {
				m.hearEvent(events.Message{Type: events.ConfigEventType, Action: events.ActionUpdate, Actor: events.Actor{
					Attributes: map[string]string{"name": "openmanage.application.app-0001"},
				}})
			}
			m.say(t, "n3", "app-0001-2", func(s *api.MemberStatus) { s.Healthy, s.State = false, api.StateFailed })
			_, err = m.apps.reconcile(t.Context())
			if told {
				assert.NilError(t, err)
			} else {
				assert.ErrorIs(t, err, store.ErrStale)
				assert.Equal(t, m.recorded(t, "app-0001").Term, uint64(7))
				_, err = m.apps.reconcile(t.Context())
				assert.NilError(t, err)
			}
			is := m.recorded(t, "app-0001")
			assert.Equal(t, is.LastChange, "theirs")
			assert.Equal(t, is.Term, uint64(7))
			assert.Assert(t, !is.Members[1].Healthy)
			orders := m.apps.orders(api.MemberStatus{Application: "app-0001", Member: "app-0001-1"})
			assert.Equal(t, orders.Term, uint64(7))
		})
	}
}

func TestServicesAreWhatDockerLastSaidOfThem(t *testing.T) {
	m := newThousand(t, 2)
	m.docker.calls = map[string]int{}
	event := func(id string) {
		m.hearEvent(events.Message{Type: events.ServiceEventType, Actor: events.Actor{ID: id}})
	}
	look := func() {
		t.Helper()
		_, err := m.apps.look(t.Context(), m.apps.news.take())
		assert.NilError(t, err)
	}
	all := m.docker.all(t)
	added := m.newService(t)
	changed := slices.IndexFunc(all, func(s dockerswarm.Service) bool { return memberName(s) == "app-0001-1" })
	all[changed].Spec.TaskTemplate.ContainerSpec.Image = "postgres:18"
	removed := slices.IndexFunc(all, func(s dockerswarm.Service) bool { return memberName(s) == "app-0002-3" })
	m.docker.set(t, append(slices.Delete(slices.Clone(all), removed, removed+1), added)...)
	m.apps.news.take()
	for _, id := range []string{added.ID, all[changed].ID, all[removed].ID} {
		event(id)
	}
	look()
	assert.Equal(t, len(m.recorded(t, "new").Members), 1)
	assert.Equal(t, m.recorded(t, "app-0001").Image, "postgres:18")
	assert.Equal(t, len(m.recorded(t, "app-0002").Members), 2)

	// The last service of an application goes.
	m.docker.set(t, all[:3]...)
	event(added.ID)
	look()
	assert.Assert(t, m.recorded(t, "new").Removed != nil)
}

func TestWhatNoEventHasToldIsFound(t *testing.T) {
	m := newThousand(t, 1)
	all := m.docker.all(t)
	m.docker.set(t, append(all, m.newService(t))...)
	_, err := m.apps.reconcile(t.Context())
	assert.NilError(t, err)
	_, err = store.Get[store.Application](t.Context(), m.store, store.KindApplication, "new")
	assert.ErrorIs(t, err, store.ErrNotFound, "the services were listed again too early to show anything")
	m.apps.services.listed = m.apps.services.listed.Add(-relist)
	_, err = m.apps.reconcile(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, len(m.recorded(t, "new").Members), 1)

	// Without events, each look at everything lists all.
	m.apps.following.Store(false)
	m.docker.set(t, all...)
	_, err = m.apps.reconcile(t.Context())
	assert.NilError(t, err)
	assert.Assert(t, m.recorded(t, "new").Removed != nil)
}

func TestANewLeaderBelievesNothingOfAFormerLeadership(t *testing.T) {
	m := newThousand(t, 1)
	_, err := store.Modify(t.Context(), m.store, store.KindApplication, "app-0001", func(a *store.Application) (bool, error) {
		a.Term = 9 // another manager led meanwhile
		return true, nil
	})
	assert.NilError(t, err)
	assert.NilError(t, m.takeOver(t.Context(), 0))
	m.reportAll(t)
	_, err = m.apps.reconcile(t.Context())
	assert.NilError(t, err)
	orders := m.apps.orders(api.MemberStatus{Application: "app-0001", Member: "app-0001-1"})
	assert.Equal(t, orders.Term, uint64(9))
}

// A report that comes late, or twice, is answered too, and that answer may be the one
// that is lost: no order may be taken for known that the node has not got.
func TestNoOrderIsLostWithAnAnswer(t *testing.T) {
	m := newThousand(t, 1)
	node := swarmpki.Peer{NodeID: "n2"} // of app-0001-1
	sender := m.senders["n2"]
	next := func() api.Report { return sender.Next(m.reports["n2"]) }
	ask := func(r api.Report) api.ReportAnswer {
		t.Helper()
		a, err := m.report(t.Context(), node, r)
		assert.NilError(t, err)
		return a.(api.ReportAnswer)
	}
	promote := func(term uint64) {
		r, err := store.Modify(t.Context(), m.store, store.KindApplication, "app-0001", func(app *store.Application) (bool, error) {
			app.Term = term
			return true, nil
		})
		assert.NilError(t, err)
		m.apps.know(r)
	}
	termIn := func(a api.ReportAnswer) uint64 {
		for _, o := range a.Orders {
			if o.Member == "app-0001-1" {
				return o.Term
			}
		}
		return 0
	}
	r := next()
	a := ask(r)
	assert.Equal(t, len(a.Orders), 0)
	assert.Assert(t, slices.Contains(a.Same, "app-0001-1"))
	sender.Answered(r, a)

	// The answer with the news is lost.
	promote(5)
	assert.Equal(t, termIn(ask(next())), uint64(5))
	r = next()
	a = ask(r)
	assert.Equal(t, termIn(a), uint64(5), "it was taken for known")
	sender.Answered(r, a)
	assert.Equal(t, termIn(ask(next())), uint64(0))

	// A report comes twice, the orders change in between, and the first answer counts.
	r = next()
	a = ask(r)
	promote(6)
	assert.Equal(t, termIn(ask(r)), uint64(6))
	sender.Answered(r, a)
	assert.Equal(t, termIn(ask(next())), uint64(6), "it was answered to a repetition that nobody reads")

	// A report comes after a later one, with orders that are newer than its answer's.
	early, late := next(), next()
	a = ask(late)
	promote(7)
	assert.Equal(t, termIn(ask(early)), uint64(7))
	sender.Answered(late, a)
	assert.Equal(t, termIn(ask(next())), uint64(7), "the node heeds the answer to its latest report")
}

func TestANodeThatReportsWhatHasChangedKeepsItsLeases(t *testing.T) {
	m := newThousand(t, 2)
	node := swarmpki.Peer{NodeID: "n2"}
	r := m.senders["n2"].Next(m.reports["n2"])
	assert.Assert(t, r.Since != 0 && len(r.Volumes) == 0)
	a, err := m.report(t.Context(), node, r)
	assert.NilError(t, err)
	assert.Equal(t, len(a.(api.ReportAnswer).Renewed), len(m.reports["n2"].Volumes))

	// A leader that does not know the node renews nothing by that.
	m.leases.forget(0)
	a, err = m.report(t.Context(), node, m.senders["n2"].Next(m.reports["n2"]))
	assert.NilError(t, err)
	assert.Assert(t, a.(api.ReportAnswer).Again)
	assert.Equal(t, len(a.(api.ReportAnswer).Renewed), 0)
	_, _, heard := m.leases.last("n2")
	assert.Assert(t, !heard, "it counts as heard though nothing is known of it")
}
