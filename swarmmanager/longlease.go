package swarmmanager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	dockerswarm "github.com/moby/moby/api/types/swarm"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// An application can ask for longer leases than api.LeaseDuration, where a network
// falls silent now and then and a failover would be worse than a wait. The record of
// a volume says how long the longest lease is that may be out: it is written before
// a longer one is given, and made shorter only with the next owner. So every leader
// knows for how long it has to wait, whatever the label has said meanwhile.

// leaseTime reads the policy label; a value that makes no sense is reported and the
// default taken.
func leaseTime(app *store.Application, s dockerswarm.Service) time.Duration {
	value := s.Spec.Labels[api.LabelLease]
	if value == "" {
		return 0
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < api.LeaseDuration || d > api.MaxLease {
		app.Problems = append(app.Problems, fmt.Sprintf("label %s=%q on service %s is no lease; choose a duration from %s to %s", api.LabelLease, value, s.Spec.Name, api.LeaseDuration, api.MaxLease))
		return 0
	}
	if d == api.LeaseDuration {
		return 0
	}
	return d
}

// leaseWanted is how long the leases of a volume shall be; 0: api.LeaseDuration.
func (a *applications) leaseWanted(v api.Volume) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	k := a.known[v.Application]
	if k == nil || !slices.ContainsFunc(k.app.Members, func(m store.Member) bool { return m.Volume == v.Name }) {
		return 0
	}
	return k.app.Lease
}

// lengthenLeases writes down that longer leases than before may be given.
func (a *applications) lengthenLeases(ctx context.Context, o *observed, app store.Application) error {
	var errs []error
	for _, m := range app.Members {
		if r, ok := o.volumes[m.Volume]; ok && r.Value.Application == app.Name && r.Value.Owner != nil && r.Value.Lease < app.Lease {
			errs = append(errs, a.m.volumes.lengthen(ctx, m.Volume, app.Lease))
		}
	}
	return errors.Join(errs...)
}

func (v *volumes) lengthen(ctx context.Context, name string, lease time.Duration) error {
	defer v.lock(name)()
	r, err := v.get(ctx, name)
	if err != nil || r.Value.Lease >= lease {
		return err
	}
	_, err = v.change(ctx, r, func(n *api.Volume) { n.Lease = lease })
	if err == nil {
		v.log.Info("longer leases", "volume", name, "lease", lease)
	}
	return err
}

// longer are those of the renewed volumes whose leases are not api.LeaseDuration.
func (v *volumes) longer(renewed []string, all map[string]store.Record[api.Volume]) map[string]time.Duration {
	var longer map[string]time.Duration
	for _, name := range renewed {
		vol := all[name].Value
		if vol.LeaseTime() <= api.LeaseDuration {
			continue
		}
		// The label may ask for less by now, or the record for more than it says.
		if lease := min(vol.LeaseTime(), max(v.leaseWanted(vol), api.LeaseDuration)); lease > api.LeaseDuration {
			if longer == nil {
				longer = map[string]time.Duration{}
			}
			longer[name] = lease
		}
	}
	return longer
}
