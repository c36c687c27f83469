package swarmmanager

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	dockerswarm "github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
)

const (
	// rollPatience is how long a member may take to be healthy again after its
	// restart, before it is rolled back, if its service does not say more (patience).
	rollPatience = 5 * time.Minute
	// startPatience is the same for one that runs already with what it is to have, and
	// whose server does not answer at all: it hangs. A database that was stopped in
	// order has nothing to recover. Of other servers nobody knows: they have patience,
	// to convert their data or to read it all.
	startPatience = 2 * time.Minute
	// failPatience is the same for one that says itself that it cannot start: its data
	// is of another major version, or the image lacks what it needs.
	failPatience = 20 * time.Second
	// rollSteady is how long it must have been healthy before the next one's turn.
	rollSteady = 2 * time.Second
	// envImage tells the agent which image it runs in.
	envImage = "OPENMANAGE_IMAGE"
)

// roll restarts the members one at a time, with another image if one is asked for,
// which is pulled on their nodes first: the standbys first, each healthy before the
// next, and the primary last, after it has handed over, unless the policy or who asks
// wants it first. A member that does not come up is rolled back and the rest left
// as it is.
func (m *Manager) roll(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	app, problem := target(o, op.Value)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	var req store.RollRequest
	if err := json.Unmarshal([]byte(op.Value.Request), &req); err != nil {
		return m.fail(ctx, op, "the request cannot be read: %v", err)
	}
	var state store.Roll
	if op.Value.Roll != nil {
		state = *op.Value.Roll
	}
	return m.rollOn(ctx, o, op, app, req, state)
}

// rollOn takes the next step of restarting those members that are not done.
func (m *Manager) rollOn(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, req store.RollRequest, state store.Roll) error {
	if app.Handover != nil {
		return nil // ours or not: it ends by itself
	}
	if state.Back != "" {
		return m.rolledBack(ctx, o, op, app, state)
	}
	if state.Member != "" {
		return m.rolling(ctx, o, op, app, req, state)
	}
	if op.Value.Cancel {
		return m.end(ctx, op, store.OperationCancelled, doneSoFar(state))
	}
	if problem := fencedMembers(app); problem != "" {
		if len(state.Done) == 0 {
			return m.fail(ctx, op, "not begun: %s", problem)
		}
		_, err := m.step(ctx, op, "waiting: "+problem) // it was fenced while this waited for its window
		return err
	}
	if _, err := parseWindow(app.Window); err != nil && app.Window != "" && !req.Now && betweenMembers(op.Value) {
		return m.fail(ctx, op, "label %s: %v; mend it, or ask again with --now; %s", api.LabelWindow, err, doneSoFar(state))
	}
	if names := unhealthy(app); len(names) > 0 {
		switch {
		case len(state.Done) == 0:
			return m.fail(ctx, op, "not begun: %s not healthy; see docker openmanage ps %s", strings.Join(names, ", "), app.Name)
		case isLast(o, &app):
			return m.fail(ctx, op, "%s was stopped meanwhile; %s", app.Name, doneSoFar(state))
		}
		_, err := m.step(ctx, op, "waiting until all members are healthy: "+strings.Join(names, ", "))
		return err
	}
	if req.Image != "" && !state.Pulled {
		return m.pullFirst(ctx, o, op, app, req, state)
	}
	next := nextToRoll(app, req, state.Done)
	if next == "" {
		return m.end(ctx, op, store.OperationDone, "")
	}
	if next == app.Primary && gaveUp(app, op.Name) {
		return m.fail(ctx, op, "%s; %s", whyGivenUp(app), doneSoFar(state))
	}
	if next == app.Primary && rollOrder(app, req) != primaryFirst && len(app.Members) > 1 {
		to, problem := successor(o, app, "")
		if problem != "" {
			_, err := m.step(ctx, op, "waiting for a successor: "+problem)
			return err
		}
		return m.handOver(ctx, o, op, app, to, op.Value.Kind, func(v *store.Operation) { v.Roll = &state })
	}
	return m.rollMember(ctx, o, op, app, req, state, next)
}

func doneSoFar(state store.Roll) string {
	if len(state.Done) == 0 {
		return "nothing was changed"
	}
	return "done before that: " + strings.Join(state.Done, ", ")
}

// nextToRoll returns whose turn it is, "" when all are done.
func nextToRoll(app store.Application, req store.RollRequest, done []string) string {
	var standbys, primary []string
	for _, m := range app.Members {
		switch {
		case slices.Contains(done, m.Name):
		case m.Name == app.Primary:
			primary = append(primary, m.Name)
		default:
			standbys = append(standbys, m.Name)
		}
	}
	// Not by name: the last one joins last after a scaling out, and has the least.
	slices.Reverse(standbys)
	order := append(standbys, primary...)
	if rollOrder(app, req) == primaryFirst {
		order = append(primary, standbys...)
	}
	if len(order) == 0 {
		return ""
	}
	return order[0]
}

// service returns the service of a member.
func service(o *observed, app, member string) (dockerswarm.Service, bool) {
	for _, s := range o.services[app] {
		if memberName(s) == member {
			return s, true
		}
	}
	return dockerswarm.Service{}, false
}

// rollMember begins to restart a member: first the record, so that who takes over
// knows what was begun.
func (m *Manager) rollMember(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, req store.RollRequest, state store.Roll, name string) error {
	s, ok := service(o, app.Name, name)
	if !ok {
		return m.fail(ctx, op, "the service of %s is gone", name)
	}
	member, _ := memberOf(&app, name)
	state.Member, state.Force, state.Since = name, s.Spec.TaskTemplate.ForceUpdate+1, o.now
	state.Task = ""
	if status, heard := o.word(member); heard {
		state.Task = status.Task
	}
	if _, err := m.step(ctx, op, "restarting "+name, func(v *store.Operation) { v.Roll = &state }); err != nil {
		return err
	}
	return m.updateService(ctx, s, req, state.Force)
}

// updateService has Swarm replace the task of a member.
func (m *Manager) updateService(ctx context.Context, s dockerswarm.Service, req store.RollRequest, force uint64) error {
	if s.Spec.TaskTemplate.ForceUpdate >= force || s.Spec.TaskTemplate.ContainerSpec == nil {
		return nil
	}
	spec := s.Spec
	container := *spec.TaskTemplate.ContainerSpec
	if req.Image != "" {
		container.Image = req.Image
		container.Env = slices.Clone(container.Env)
		for i, variable := range container.Env {
			if strings.HasPrefix(variable, envImage+"=") {
				container.Env[i] = envImage + "=" + withoutDigest(req.Image)
			}
		}
	}
	spec.TaskTemplate.ContainerSpec = &container
	spec.TaskTemplate.ForceUpdate = force
	_, err := m.services.ServiceUpdate(ctx, s.ID, client.ServiceUpdateOptions{Version: s.Version, Spec: spec})
	if err == nil {
		m.log.Info("service updated", "service", s.Spec.Name, "image", container.Image)
		failpoint.Hit("roll:updated")
	}
	return err
}

// rolling looks after the member that is being restarted.
func (m *Manager) rolling(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, req store.RollRequest, state store.Roll) error {
	s, ok := service(o, app.Name, state.Member)
	member, known := memberOf(&app, state.Member)
	if !ok || !known {
		return m.fail(ctx, op, "the service of %s is gone", state.Member)
	}
	// Swarm's own rollback brings the former ForceUpdate back too: look first.
	back := s.UpdateStatus != nil && (s.UpdateStatus.State == dockerswarm.UpdateStateRollbackCompleted || s.UpdateStatus.State == dockerswarm.UpdateStateRollbackStarted)
	if !back {
		if err := m.updateService(ctx, s, req, state.Force); err != nil {
			return err
		}
	}
	if !back && restarted(o, member, state.Task, req.Image) {
		if o.now.Sub(member.Since) < rollSteady {
			return nil
		}
		state.Done = append(slices.Clone(state.Done), state.Member)
		state.Member = ""
		_, err := m.step(ctx, op, member.Name+" is healthy", func(v *store.Operation) { v.Roll = &state })
		return err
	}
	why := ""
	switch waited := o.now.Sub(state.Since); {
	case back:
		why = "Swarm has rolled it back: " + s.UpdateStatus.Message
	case waited > patience(s):
		why = fmt.Sprintf("it is not healthy after %s: %s", patience(s), member.Message)
	case waited > failPatience && member.State == api.StateFailed:
		why = member.Message
	case !app.NoRoles && hangs(o, member, state.Task) && o.now.Sub(member.Since) > startPatience:
		why = fmt.Sprintf("its server does not answer, %s after its start: %s", startPatience, member.Message)
	default:
		return nil
	}
	if req.Image == "" {
		return m.fail(ctx, op, "%s was restarted and did not come up: %s", state.Member, why)
	}
	state.Back = fmt.Sprintf("%s did not come up with %s: %s", state.Member, req.Image, why)
	if _, err := m.step(ctx, op, "rolling "+state.Member+" back", func(v *store.Operation) { v.Roll = &state }); err != nil {
		return err
	}
	return m.rollback(ctx, s, req)
}

// patience is how long a member of a service may take to be healthy after a restart: the start
// period of its health check, which is what people know of the server, but rollPatience at least.
func patience(s dockerswarm.Service) time.Duration {
	if c := s.Spec.TaskTemplate.ContainerSpec; c != nil && c.Healthcheck != nil {
		return max(rollPatience, c.Healthcheck.StartPeriod)
	}
	return rollPatience
}

// restarted tells whether a member is healthy in another task than before, with
// the image that was asked for.
func restarted(o *observed, m store.Member, before, image string) bool {
	status, heard := o.word(m)
	return heard && (image == "" || runsImage(o, m, image)) && status.Healthy && status.Task != "" && status.Task != before && m.Healthy
}

// runsImage tells whether a member says that it runs in this image.
func runsImage(o *observed, m store.Member, image string) bool {
	status, heard := o.word(m)
	return heard && status.Image == withoutDigest(image)
}

// withoutDigest is an image as people name it.
func withoutDigest(image string) string {
	name, _, _ := strings.Cut(image, "@")
	return name
}

// hangs tells whether a member runs in another task than before and has no server
// that answers.
func hangs(o *observed, m store.Member, before string) bool {
	status, heard := o.word(m)
	return heard && status.Task != "" && status.Task != before && (m.State == api.StateStarting || m.State == api.StateWaiting)
}

// rollback has Swarm put back the former spec of a service.
func (m *Manager) rollback(ctx context.Context, s dockerswarm.Service, req store.RollRequest) error {
	if s.Spec.TaskTemplate.ContainerSpec == nil || s.Spec.TaskTemplate.ContainerSpec.Image != req.Image || s.PreviousSpec == nil {
		return nil // done
	}
	failpoint.Hit("roll:failed")
	_, err := m.services.ServiceUpdate(ctx, s.ID, client.ServiceUpdateOptions{Version: s.Version, Spec: s.Spec, Rollback: "previous"})
	if err == nil {
		m.log.Info("service rolled back", "service", s.Spec.Name)
		failpoint.Hit("roll:back")
	}
	return err
}

// rolledBack waits for the member that was rolled back and ends the operation.
func (m *Manager) rolledBack(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, state store.Roll) error {
	var req store.RollRequest
	_ = json.Unmarshal([]byte(op.Value.Request), &req) // it was read before
	member, _ := memberOf(&app, state.Member)
	back := false
	s, ok := service(o, app.Name, state.Member)
	if ok {
		if err := m.rollback(ctx, s, req); err != nil {
			return err
		}
		back = isBack(o, member, s, req.Image)
	}
	if member.Healthy && back {
		return m.fail(ctx, op, "%s. It was rolled back and is healthy; %s", state.Back, leftAsIs(app, state))
	}
	if o.now.Sub(state.Since) > 2*patience(s) {
		return m.fail(ctx, op, "%s. It was rolled back and is still not healthy: %s", state.Back, member.Message)
	}
	return nil
}

// isBack tells whether a member runs with the former image of its service. What a member says of its
// image has no digest: where both have the same tag, only Swarm knows.
func isBack(o *observed, m store.Member, s dockerswarm.Service, image string) bool {
	c := s.Spec.TaskTemplate.ContainerSpec
	if c == nil || c.Image == image {
		return false
	}
	return withoutDigest(c.Image) == withoutDigest(image) || !runsImage(o, m, image)
}

func leftAsIs(app store.Application, state store.Roll) string {
	if len(state.Done) == 0 {
		return "no other member was changed"
	}
	return fmt.Sprintf("%s run with the new image: upgrade %s again, or back", strings.Join(state.Done, ", "), app.Name)
}
