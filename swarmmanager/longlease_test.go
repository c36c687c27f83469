package swarmmanager

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

func TestLeaseLabel(t *testing.T) {
	for value, want := range map[string]time.Duration{"": 0, "5s": 0, "20s": 20 * time.Second, "1m": time.Minute, "4s": -1, "2m": -1, "soon": -1, "20": -1} {
		o, app := observation(), store.Application{}
		s := o.services["pg"][0]
		s.Spec.Labels[api.LabelLease] = value
		got := leaseTime(&app, s)
		if want < 0 {
			assert.Equal(t, got, time.Duration(0), value)
			assert.Assert(t, is.Len(app.Problems, 1), value)
			continue
		}
		assert.Equal(t, got, want, value)
		assert.Assert(t, is.Len(app.Problems, 0), value)
	}
}

// askFor has the application of volume data ask for a lease.
func askFor(m *Manager, lease time.Duration) {
	m.apps.mu.Lock()
	defer m.apps.mu.Unlock()
	m.apps.known["pg"] = &known{app: store.Application{Name: "pg", Lease: lease, Members: []store.Member{{Name: "pg-1", Volume: "data"}}}}
}

func TestALongerLeaseIsWrittenDownBeforeItIsGivenAndKeptUntilTheNextOwner(t *testing.T) {
	s, c := heldByW1(t)
	v := s.manager.volumes
	const long = 30 * time.Second
	r, err := v.get(t.Context(), "data")
	assert.NilError(t, err)
	_, err = v.change(t.Context(), r, func(n *api.Volume) { n.Application = "pg" })
	assert.NilError(t, err)
	longer := func() time.Duration {
		all, err := v.all(t.Context())
		assert.NilError(t, err)
		return v.longer([]string{"data"}, all)["data"]
	}
	askFor(s.manager, long)
	assert.Equal(t, longer(), time.Duration(0), "it is given before a next leader can know of it")
	assert.NilError(t, v.lengthen(t.Context(), "data", long))
	assert.Equal(t, longer(), long)

	// The label asks for less: it is given at once, and believed only with the next owner.
	askFor(s.manager, 0)
	assert.Equal(t, longer(), time.Duration(0))
	v.leases.touch("w1")
	c.t += long
	_, err = v.attach(t.Context(), "w2", fromW2)
	assert.ErrorContains(t, err, "held by", "the long lease may hold still")
	c.t += api.LeaseMargin + 1
	a, err := v.attach(t.Context(), "w2", fromW2)
	assert.NilError(t, err)
	assert.Equal(t, a.Lease, api.LeaseDuration)
	assert.Equal(t, a.Volume.Lease, time.Duration(0))
}

func TestANewLeaderWaitsForALongLeaseOfTheFormerOne(t *testing.T) {
	s, c := heldByW1(t)
	v := s.manager.volumes
	assert.NilError(t, v.lengthen(t.Context(), "data", time.Minute))
	s.manager.leadership.former = c.t
	assert.NilError(t, s.manager.takeOver(t.Context(), c.t))
	c.t += 20 * time.Second
	_, err := v.attach(t.Context(), "w2", fromW2)
	assert.ErrorContains(t, err, "the leading manager is new")
	o := observed{silence: v.leases.silence}
	r, err := v.get(t.Context(), "data")
	assert.NilError(t, err)
	assert.Assert(t, !o.gone(r.Value), "a standby would become the primary beside it")
	c.t += time.Minute
	assert.Assert(t, o.gone(r.Value))
	_, err = v.attach(t.Context(), "w2", fromW2)
	assert.NilError(t, err)
}
