package swarmmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/mount"
	dockerswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

const (
	// snapshotPatience is how long a node may take for a snapshot before the new
	// member copies the database instead.
	snapshotPatience = time.Minute
	// createPatience is how long it is tried to make a new member's service.
	createPatience = 3 * time.Minute
)

// scaleMembers adds members, one at a time, or takes them away. A new member begins
// with a snapshot of a standby's volume, so that nothing has to be copied; without
// one it copies the database from the primary by itself.
func (m *Manager) scaleMembers(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	app, problem := target(o, op.Value)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	var req store.ScaleRequest
	if err := json.Unmarshal([]byte(op.Value.Request), &req); err != nil {
		return m.fail(ctx, op, "the request cannot be read: %v", err)
	}
	var state store.Scale
	if op.Value.Scale != nil {
		state = *op.Value.Scale
	}
	switch {
	case app.Handover != nil:
		return nil
	case state.Adding != "":
		return m.adding(ctx, o, op, app, state)
	case op.Value.Cancel:
		return m.end(ctx, op, store.OperationCancelled, fmt.Sprintf("%s has %d members", app.Name, len(app.Members)))
	case req.Remove != "":
		return m.removeMember(ctx, o, op, app, req.Remove, func(ctx context.Context) error { return m.end(ctx, op, store.OperationDone, "") })
	case len(app.Members) > req.Members:
		return m.removeMember(ctx, o, op, app, lastStandby(app), func(context.Context) error { return nil })
	case len(app.Members) == req.Members:
		if leaving := stillHeld(o, app); leaving != "" {
			_, err := m.step(ctx, op, "waiting until "+leaving+" has stopped")
			return err
		}
		return m.end(ctx, op, store.OperationDone, "")
	}
	return m.addMember(ctx, o, op, app)
}

// lastStandby is who leaves first: the standby with the highest number.
func lastStandby(app store.Application) string {
	var last store.Member
	for _, member := range app.Members {
		if member.Name != app.Primary && member.Slot >= last.Slot {
			last = member
		}
	}
	return last.Name
}

// stillHeld names a volume of the application that a member which was removed
// still has, or "".
func stillHeld(o *observed, app store.Application) string {
	for _, name := range slices.Sorted(maps.Keys(o.volumes)) {
		v := o.volumes[name].Value
		if v.Application == app.Name && v.Owner != nil && !slices.ContainsFunc(app.Members, func(m store.Member) bool { return m.Volume == name }) {
			return v.Member
		}
	}
	return ""
}

// removeMember removes the service of a standby; its volume is kept.
func (m *Manager) removeMember(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, name string, done func(context.Context) error) error {
	s, ok := service(o, app.Name, name)
	switch {
	case !ok && op.Value.State == store.OperationRunning:
		if leaving := stillHeld(o, app); leaving != "" {
			_, err := m.step(ctx, op, "waiting until "+leaving+" has stopped")
			return err
		}
		return done(ctx)
	case !ok:
		return m.fail(ctx, op, "%s has no member %s", app.Name, name)
	case len(app.Members) == 1:
		return m.fail(ctx, op, "%s is the last member of %s; to remove both: docker openmanage rm %s", name, app.Name, app.Name)
	case name == app.Primary && gaveUp(app, op.Name):
		return m.fail(ctx, op, "%s", whyGivenUp(app))
	case name == app.Primary:
		to, problem := successor(o, app, "")
		if problem != "" {
			return m.fail(ctx, op, "%s is the primary: %s", name, problem)
		}
		return m.handOver(ctx, o, op, app, to, "scale")
	}
	if _, err := m.step(ctx, op, "removing "+name+"; its volume is kept"); err != nil {
		return err
	}
	_, err := m.services.ServiceRemove(ctx, s.ID, client.ServiceRemoveOptions{})
	if err == nil {
		failpoint.Hit("scale:removed")
	}
	return err
}

// addMember decides with what the next member begins, and writes that down.
func (m *Manager) addMember(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application) error {
	if problem := fencedMembers(app); problem != "" {
		return m.fail(ctx, op, "%s; %s has %d members", problem, app.Name, len(app.Members))
	}
	if names := unhealthy(app); len(names) > 0 {
		_, err := m.step(ctx, op, "waiting until all members are healthy: "+strings.Join(names, ", "))
		return err
	}
	slot := 0
	for _, member := range app.Members {
		slot = max(slot, member.Slot)
	}
	for free := 1; free < slot; free++ { // a member that was removed comes back
		if !slices.ContainsFunc(app.Members, func(m store.Member) bool { return m.Slot == free }) {
			slot = free - 1
			break
		}
	}
	name := fmt.Sprintf("%s-%d", app.Name, slot+1)
	state := store.Scale{Adding: name, Since: o.now}
	text := "adding " + name
	if _, kept := o.volumes[name]; kept {
		text += " with the volume that was kept"
	} else if source, ok := sourceOf(o, app); ok {
		state.Source, state.Device = source.Volume, deviceName(name)
		text += " with a snapshot of " + source.Volume
	}
	_, err := m.step(ctx, op, text, func(v *store.Operation) { v.Scale = &state })
	return err
}

// adding goes on with the member that is being added: snapshot, volume, service,
// health. Each is looked for before it is made.
func (m *Manager) adding(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, state store.Scale) error {
	if s, ok := service(o, app.Name, state.Adding); ok {
		member, known := memberOf(&app, state.Adding)
		if known && member.Healthy {
			_, err := m.step(ctx, op, member.Name+" is healthy", func(v *store.Operation) { v.Scale = nil })
			return err
		}
		if op.Value.Cancel {
			return m.end(ctx, op, store.OperationCancelled, fmt.Sprintf("the service %s was made and goes on; take it away again: docker openmanage scale %s --remove %s", s.Spec.Name, app.Name, state.Adding))
		}
		return nil
	}
	if op.Value.Cancel {
		m.snapshots.forget(state.Device)
		return m.end(ctx, op, store.OperationCancelled, fmt.Sprintf("%s was not added", state.Adding))
	}
	if _, exists := o.volumes[state.Adding]; state.Device != "" && !exists {
		made, problem := m.snapshots.made(o, state.Source, state.Device, state.Since)
		switch {
		case problem != "":
			m.snapshots.forget(state.Device)
			state.Device, state.Source = "", ""
			_, err := m.step(ctx, op, problem+": "+state.Adding+" copies the database", func(v *store.Operation) { v.Scale = &state })
			return err
		case !made:
			return nil
		}
		failpoint.Hit("scale:snapshot")
		if err := m.volumes.adopt(ctx, state.Adding, state.Device, o.volumes[state.Source].Value); err != nil {
			return err
		}
		failpoint.Hit("scale:adopted")
		m.snapshots.forget(state.Device)
	}
	template, ok := service(o, app.Name, lastStandby(app))
	if !ok {
		if template, ok = service(o, app.Name, app.Primary); !ok {
			return m.fail(ctx, op, "no service of %s is left to make another like it", app.Name)
		}
	}
	size := o.volumes[volumeName(template)].Value.Size
	spec := memberSpec(template.Spec, memberName(template), state.Adding, size)
	_, err := m.services.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec})
	switch {
	case err == nil:
		m.log.Info("service made", "service", spec.Name, "like", template.Spec.Name)
		failpoint.Hit("scale:created")
	case o.now.Sub(state.Since) > createPatience:
		return m.fail(ctx, op, "the service %s cannot be made: %v", spec.Name, err)
	}
	return err
}

// adopt declares the volume of a new member over a snapshot that exists.
func (v *volumes) adopt(ctx context.Context, member, device string, source api.Volume) error {
	defer v.lock(member)()
	if !v.leadership.acting() {
		return refuse(api.ErrNotLeader, "this manager no longer leads; ask again")
	}
	spec := source.VolumeSpec
	spec.Name, spec.Member = member, member
	r, err := store.Create(ctx, v.store, store.KindVolume, member, api.Volume{
		VolumeSpec: spec, Phase: api.PhaseReady, UUID: source.UUID, Device: device, Location: source.Location, Created: time.Now().UTC(),
	})
	if err != nil {
		v.unknown(member)
		return err
	}
	v.know(r)
	v.log.Info("volume made of a snapshot", "volume", member, "source", source.Name, "device", device)
	return nil
}

// memberSpec makes the service of another member from one that exists: everything
// that carries its name carries the new one's instead.
func memberSpec(spec dockerswarm.ServiceSpec, from, to string, size int64) dockerswarm.ServiceSpec {
	slotOf := func(member string) string { return member[strings.LastIndex(member, "-")+1:] }
	spec.Name = strings.TrimSuffix(spec.Name, slotOf(from)) + slotOf(to)
	spec.Labels = maps.Clone(spec.Labels)
	spec.Labels[api.LabelMember], spec.Labels[api.LabelVolume], spec.Labels[api.LabelSlot] = to, to, slotOf(to)
	container := *spec.TaskTemplate.ContainerSpec
	container.Hostname = to
	container.Env = slices.Clone(container.Env)
	for i, variable := range container.Env {
		for _, name := range []string{"OPENMANAGE_MEMBER", "OPENMANAGE_VOLUME"} {
			if strings.HasPrefix(variable, name+"=") {
				container.Env[i] = name + "=" + to
			}
		}
	}
	container.Mounts = slices.Clone(container.Mounts)
	for i, one := range container.Mounts {
		switch one.Source {
		case from:
			one.Source = to
		case from + api.RuntimeSuffix:
			one.Source = to + api.RuntimeSuffix
		default:
			continue
		}
		if one.VolumeOptions != nil && one.VolumeOptions.DriverConfig != nil {
			options := *one.VolumeOptions
			options.DriverConfig = &mount.Driver{Name: options.DriverConfig.Name, Options: maps.Clone(options.DriverConfig.Options)}
			if options.DriverConfig.Options[api.OptionMember] != "" {
				options.DriverConfig.Options[api.OptionMember] = to
				options.DriverConfig.Options[api.OptionSize] = strconv.FormatInt(size, 10)
			}
			one.VolumeOptions = &options
		}
		container.Mounts[i] = one
	}
	spec.TaskTemplate.ContainerSpec = &container
	spec.TaskTemplate.ForceUpdate = 0
	spec.TaskTemplate.Networks = slices.Clone(spec.TaskTemplate.Networks)
	for i, network := range spec.TaskTemplate.Networks {
		network.Aliases = slices.Clone(network.Aliases)
		for j, alias := range network.Aliases {
			switch alias {
			case from:
				network.Aliases[j] = to
			case slotOf(from): // the service's name in its stack file
				network.Aliases[j] = slotOf(to)
			}
		}
		spec.TaskTemplate.Networks[i] = network
	}
	if p := spec.TaskTemplate.Placement; p != nil {
		placement := *p
		placement.Constraints = slices.Clone(p.Constraints)
		for i, constraint := range placement.Constraints {
			placement.Constraints[i] = strings.ReplaceAll(constraint, "node.labels."+api.PinLabel(from)+" ", "node.labels."+api.PinLabel(to)+" ")
		}
		spec.TaskTemplate.Placement = &placement
	}
	one := uint64(1)
	spec.Mode.Replicated = &dockerswarm.ReplicatedService{Replicas: &one}
	return spec
}
