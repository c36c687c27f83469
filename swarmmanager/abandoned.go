package swarmmanager

import (
	"context"
	"errors"

	"github.com/openmanage/openmanage/internal/api"
)

// freeAbandoned frees volumes that a dead node still owns and that no task wants:
// nobody would ever ask for them, and they could be neither used nor deleted. The
// same facts as for a takeover must hold, and whoever attaches next fences the
// device.
func (v *volumes) freeAbandoned(ctx context.Context, o *observed) error {
	if !o.steady {
		return nil
	}
	var errs []error
	for name, r := range o.volumes {
		owner := r.Value.Owner
		if owner == nil || ready(o.nodes[owner.Node]) || !v.leases.expired(owner.Node, r.Value.LeaseTime()) || len(o.uses[name]) > 0 {
			continue
		}
		errs = append(errs, v.freeOne(ctx, name, r.Value))
	}
	return errors.Join(errs...)
}

func (v *volumes) freeOne(ctx context.Context, name string, seen api.Volume) error {
	defer v.lock(name)()
	r, err := v.get(ctx, name)
	if err != nil {
		return err
	}
	if r.Value.Epoch != seen.Epoch || r.Value.Owner == nil {
		return nil // it has moved on
	}
	if err := v.barNode(ctx, seen.Owner.Node); err != nil {
		v.log.Debug("a dead node may still hold a volume", "volume", name, "error", err)
		return nil
	}
	if !v.takeAway(r) {
		return nil // it has just reported again
	}
	_, err = v.change(ctx, r, func(n *api.Volume) { n.Owner, n.Fence = nil, true })
	if err == nil {
		v.log.Info("freed a volume of a dead node", "volume", name, "node", seen.Owner.Hostname, "epoch", seen.Epoch)
	}
	return err
}
