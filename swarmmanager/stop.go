package swarmmanager

import (
	"context"

	dockerswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

// stop scales the members' services to 0, the standbys first and the primary when
// they are gone, so that the primary has all there is.
func (m *Manager) stop(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	app, problem := target(o, op.Value)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	if op.Value.Cancel {
		return m.end(ctx, op, store.OperationCancelled, "members that have stopped stay so; start them: docker openmanage start "+app.Name)
	}
	if app.Handover != nil {
		return nil
	}
	standbys, attached := 0, 0
	for _, s := range o.services[app.Name] {
		held := o.volumes[volumeName(s)].Value.Owner != nil
		if held {
			attached++
		}
		if memberName(s) == app.Primary {
			continue
		}
		if held || replicas(s) != 0 {
			standbys++
		}
		if err := m.scale(ctx, s, 0); err != nil {
			return err
		}
	}
	if standbys > 0 {
		_, err := m.step(ctx, op, "stopping the standbys")
		return err
	}
	if primary, ok := service(o, app.Name, app.Primary); ok && (replicas(primary) != 0 || attached > 0) {
		if _, err := m.step(ctx, op, "stopping the primary"); err != nil {
			return err
		}
		return m.scale(ctx, primary, 0)
	}
	return m.end(ctx, op, store.OperationDone, "")
}

// start brings the members of a stopped application back.
func (m *Manager) start(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	app, problem := target(o, op.Value)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	if op.Value.Cancel {
		return m.end(ctx, op, store.OperationCancelled, "members that were started go on; stop them: docker openmanage stop "+app.Name)
	}
	if _, err := m.step(ctx, op, "starting the members"); err != nil {
		return err
	}
	for _, s := range o.services[app.Name] {
		if err := m.scale(ctx, s, 1); err != nil {
			return err
		}
	}
	for _, member := range app.Members {
		if !member.Healthy && member.Fenced == nil { // who is fenced starts no server
			return nil
		}
	}
	return m.end(ctx, m.reread(ctx, op), store.OperationDone, "")
}

func replicas(s dockerswarm.Service) uint64 {
	if r := s.Spec.Mode.Replicated; r != nil && r.Replicas != nil {
		return *r.Replicas
	}
	return 1
}

// scale sets how many tasks a member's service has, 0 or 1.
func (m *Manager) scale(ctx context.Context, s dockerswarm.Service, n uint64) error {
	if replicas(s) == n || s.Spec.Mode.Replicated == nil {
		return nil
	}
	spec := s.Spec
	spec.Mode.Replicated = &dockerswarm.ReplicatedService{Replicas: &n}
	_, err := m.services.ServiceUpdate(ctx, s.ID, client.ServiceUpdateOptions{Version: s.Version, Spec: spec})
	if err == nil {
		m.log.Info("service scaled", "service", s.Spec.Name, "replicas", n)
		failpoint.Hit("operation:replicas")
	}
	return err
}
