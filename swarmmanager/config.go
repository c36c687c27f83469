package swarmmanager

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
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
	// readPatience is how long members may take to read changed settings.
	readPatience = 30 * time.Second
	// failedPatience is how long a server that was restarted may fail to start
	// before its former settings are put back.
	failedPatience = 3 * time.Second
	// envParameters is what the agent starts with before it has orders.
	envParameters = "OPENMANAGE_PARAMETERS"
)

// parameters are the settings that app's servers are to have: those that the service
// of its first member asks for. What cannot be read is reported and changes nothing.
func parameters(app *store.Application, s dockerswarm.Service) string {
	if text := s.Spec.Labels[api.LabelParameters]; text != "" && text == app.Parameters {
		return text // what was read before need not be read again at every look
	}
	wanted, problem := wantedParameters(s)
	if problem != "" {
		app.Problems = append(app.Problems, problem)
		return app.Parameters
	}
	return wanted
}

// wantedParameters reads the label of a member's service or, if it has none, the
// environment of its containers. "": neither is there.
func wantedParameters(s dockerswarm.Service) (text, problem string) {
	text, where := s.Spec.Labels[api.LabelParameters], "label "+api.LabelParameters
	if text == "" && s.Spec.TaskTemplate.ContainerSpec != nil {
		where = "the variable " + envParameters
		for _, variable := range s.Spec.TaskTemplate.ContainerSpec.Env {
			if value, ok := strings.CutPrefix(variable, envParameters+"="); ok {
				text = value
			}
		}
	}
	if text == "" {
		return "", ""
	}
	var values map[string]string
	if err := json.Unmarshal([]byte(text), &values); err != nil {
		return "", fmt.Sprintf(`%s on service %s is no JSON object of strings, such as {"work_mem":"16MB"}: %v; the settings of before count`, where, s.Spec.Name, err)
	}
	delete(values, "sync_mode") // has a label of its own; stacks of before have it here too
	return encodeParameters(values), ""
}

// encodeParameters writes settings in one way, in the order of their names.
func encodeParameters(values map[string]string) string {
	if values == nil {
		values = map[string]string{}
	}
	text, _ := json.Marshal(values) // strings always can be
	return string(text)
}

// configure changes the settings of an application: it writes them into the labels of
// the members' services, has the servers read them, and restarts those for which
// that is not enough. If a server refuses them or does not start with them, the
// former settings are put back in the same way.
func (m *Manager) configure(ctx context.Context, o *observed, op store.Record[store.Operation]) error {
	app, problem := target(o, op.Value)
	if problem != "" {
		return m.fail(ctx, op, "%s", problem)
	}
	first, ok := firstService(o, app.Name)
	if !ok {
		return nil // seen as removed soon
	}
	if op.Value.Config == nil {
		return m.beginConfig(ctx, op, app, first)
	}
	state := *op.Value.Config
	switch {
	case app.Handover != nil:
		return nil
	case op.Value.Cancel && state.Back == "":
		return m.putBack(ctx, op, state, "cancelled")
	case !state.Written:
		return m.writeLabels(ctx, o, op, app, state)
	case !labelled(first, state):
		return m.endConfig(ctx, op, store.OperationFailed, "the settings were changed otherwise meanwhile, as by docker stack deploy; those count: docker openmanage config "+app.Name)
	}
	// What is recorded, and so ordered, may be of the moment before.
	wanted, problem := wantedParameters(first)
	if problem != "" {
		return m.endConfig(ctx, op, store.OperationFailed, problem)
	}
	if app.Parameters != wanted || app.SyncMode != syncMode(&store.Application{}, first) {
		return nil
	}
	if state.Restarting != "" {
		return m.awaitRestart(ctx, o, op, app, state)
	}
	return m.bringInForce(ctx, o, op, app, state)
}

func firstService(o *observed, app string) (dockerswarm.Service, bool) {
	services := o.services[app]
	if len(services) == 0 {
		return dockerswarm.Service{}, false
	}
	return slices.MinFunc(services, func(x, y dockerswarm.Service) int { return cmp.Compare(slot(x), slot(y)) }), true
}

// beginConfig works out the labels and writes down what they are and were.
func (m *Manager) beginConfig(ctx context.Context, op store.Record[store.Operation], app store.Application, first dockerswarm.Service) error {
	if op.Value.Cancel {
		return m.end(ctx, op, store.OperationCancelled, "nothing was changed")
	}
	var req store.ConfigRequest
	if err := json.Unmarshal([]byte(op.Value.Request), &req); err != nil {
		return m.fail(ctx, op, "the request cannot be read: %v", err)
	}
	if _, err := parseWindow(app.Window); err != nil && app.Window != "" && req.Restart && !req.Now {
		return m.fail(ctx, op, "label %s: %v; mend it, or ask again with --now; nothing was changed", api.LabelWindow, err)
	}
	state, text, problem := planConfig(req, first)
	if problem != "" {
		return m.fail(ctx, op, "%s; nothing was changed", problem)
	}
	sick := unhealthy(app)
	if !req.Restart && !slices.Contains(sick, app.Primary) {
		sick = nil // they read it when they start
	}
	if len(sick) > 0 {
		return m.fail(ctx, op, "not begun: %s not healthy; see docker openmanage ps %s", strings.Join(sick, ", "), app.Name)
	}
	_, err := m.step(ctx, op, text, func(v *store.Operation) { v.Config = &state })
	return err
}

// planConfig works out which labels change, and says so in words.
func planConfig(req store.ConfigRequest, first dockerswarm.Service) (state store.Config, text, problem string) {
	state.From, state.To = map[string]string{}, map[string]string{}
	change := func(label, value string) {
		if before, ok := first.Spec.Labels[label]; ok {
			state.From[label] = before
		}
		if value != "" {
			state.To[label] = value
		}
	}
	var words []string
	for _, label := range slices.Sorted(maps.Keys(req.Labels)) {
		value := req.Labels[label]
		if problem := checkPolicy(first, label, value); problem != "" {
			return state, "", problem
		}
		change(label, value)
		words = append(words, label+"="+value)
	}
	wanted, problem := wantedParameters(first)
	if problem != "" {
		return state, "", problem
	}
	values := map[string]string{}
	if wanted != "" {
		_ = json.Unmarshal([]byte(wanted), &values) // was made from a map
	}
	for _, key := range slices.Sorted(maps.Keys(req.Set)) {
		values[key] = req.Set[key]
		state.Keys = append(state.Keys, key)
		words = append(words, key+"="+req.Set[key])
	}
	for _, key := range req.Unset {
		delete(values, key)
		state.Keys = append(state.Keys, key)
		words = append(words, "no "+key)
	}
	if len(state.Keys) > 0 {
		change(api.LabelParameters, encodeParameters(values))
	}
	if len(words) == 0 {
		return state, "", "no setting is named"
	}
	return state, "setting " + strings.Join(words, ", "), ""
}

// policyLabels are the labels that are settings.
var policyLabels = []string{
	api.LabelSyncMode, api.LabelFailover, api.LabelLease, api.LabelUpgradeOrder, api.LabelWindow, api.LabelApart, api.LabelAlertDisk,
}

// checkPolicy says what those who go by a label would find wrong with a value, or "". An empty
// value takes the label away.
func checkPolicy(s dockerswarm.Service, label, value string) string {
	if !slices.Contains(policyLabels, label) {
		return fmt.Sprintf("the label %s is no setting", label)
	}
	s.Spec.Labels = maps.Clone(s.Spec.Labels)
	s.Spec.Labels[label] = value
	if value == "" {
		delete(s.Spec.Labels, label)
	}
	var app store.Application
	readPolicies(&app, s)
	alertPercent(&app, s)
	i := slices.IndexFunc(app.Problems, func(problem string) bool { return strings.HasPrefix(problem, "label "+label) })
	if i < 0 {
		return ""
	}
	return app.Problems[i]
}

// labelled tells whether a service has the labels that are wanted.
func labelled(s dockerswarm.Service, state store.Config) bool {
	for label := range state.From {
		if _, wanted := state.To[label]; !wanted && s.Spec.Labels[label] != "" {
			return false
		}
	}
	for label, value := range state.To {
		if s.Spec.Labels[label] != value {
			return false
		}
	}
	return true
}

// writeLabels writes the labels of all members' services. Labels are no part of
// what a task is made of: Swarm restarts nothing.
func (m *Manager) writeLabels(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, state store.Config) error {
	written := true
	for _, s := range o.services[app.Name] {
		if labelled(s, state) {
			continue
		}
		written = false
		spec := s.Spec
		spec.Labels = maps.Clone(spec.Labels)
		for label := range state.From {
			delete(spec.Labels, label)
		}
		maps.Copy(spec.Labels, state.To)
		if _, err := m.services.ServiceUpdate(ctx, s.ID, client.ServiceUpdateOptions{Version: s.Version, Spec: spec}); err != nil {
			return err
		}
		m.log.Info("settings written", "service", s.Spec.Name, "settings", state.To)
		failpoint.Hit("config:labelled")
	}
	if !written {
		return nil // seen in the next observation
	}
	state.Written, state.Since = true, o.now
	_, err := m.step(ctx, op, "waiting until the members have read the settings", func(v *store.Operation) { v.Config = &state })
	return err
}

// next is what has to be done until settings are in force.
type next struct {
	reading []string // members that have not read them
	refused string   // why one does not take them
	restart string   // member whose turn it is
	inPlace bool     // it is the primary, and no other member can take its place first
	waiting string   // standby that waits for the primary's settings to reach it
}

// nextForSettings looks for what has to be done until the settings of keys are in
// force. A standby must not have less of some than the primary: what grows they get
// first, and for what shrinks the primary is restarted before them
// (api.MemberStatus.PrimaryFirst).
func nextForSettings(o *observed, app store.Application, keys []string) next {
	var n next
	concerns := func(names string) bool { return concern(names, keys) }
	primary := ""
	for _, member := range app.Members {
		s, heard := o.word(member)
		switch {
		case !heard || !s.Healthy:
		case s.Parameters != api.ParametersID(app.Parameters):
			n.reading = append(n.reading, member.Name)
		case s.Refused != "":
			n.refused = member.Name + ": " + s.Refused
		case member.Name == app.Primary && concerns(s.PendingRestart):
			primary = member.Name
			n.inPlace = concerns(s.PrimaryFirst) || len(app.Members) == 1
		case concerns(s.PendingRestart):
			n.restart = member.Name // the last one: it has the least
		case member.Name != app.Primary && concerns(s.PrimaryFirst):
			n.waiting = member.Name
		}
	}
	if n.restart != "" || primary == "" {
		n.inPlace = false
		return n
	}
	n.restart = primary
	return n
}

// concern tells whether one of the names, separated by commas, is among keys.
func concern(names string, keys []string) bool {
	return slices.ContainsFunc(strings.Split(names, ","), func(name string) bool {
		return slices.ContainsFunc(keys, func(key string) bool { return strings.EqualFold(key, name) })
	})
}

// bringInForce restarts the next member that has to be, or ends the operation.
func (m *Manager) bringInForce(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, state store.Config) error {
	n := nextForSettings(o, app, state.Keys)
	_, mode := state.To[api.LabelSyncMode]
	waited := o.now.Sub(state.Since)
	sick := unhealthy(app)
	switch {
	case n.refused != "":
		return m.giveUp(ctx, op, state, n.refused)
	case len(n.reading) > 0 && waited > readPatience:
		return m.giveUp(ctx, op, state, fmt.Sprintf("%s has not read the settings within %s; see docker openmanage logs %s", strings.Join(n.reading, ", "), readPatience, app.Name))
	case len(n.reading) > 0, mode && app.SyncOn && !app.SyncInForce && waited < readPatience:
		return nil
	case len(sick) > 0 && (n.restart != "" || state.Back != ""):
		if state.Back != "" && waited > rollPatience {
			return m.giveUp(ctx, op, state, strings.Join(sick, ", ")+" is not healthy")
		}
		_, err := m.step(ctx, op, "waiting until all members are healthy: "+strings.Join(sick, ", "))
		return err
	case n.restart == "" && n.waiting != "" && waited > rollPatience:
		return m.giveUp(ctx, op, state, n.waiting+" has not got to know the primary's settings within "+rollPatience.String())
	case n.restart == "" && n.waiting != "":
		return nil
	case n.restart == "":
		return m.endConfig(ctx, op, store.OperationDone, "")
	case n.restart == app.Primary && !n.inPlace && !gaveUp(app, op.Name):
		to, problem := successor(o, app, "")
		if problem != "" {
			_, err := m.step(ctx, op, "waiting for a successor: "+problem)
			return err
		}
		return m.handOver(ctx, o, op, app, to, "settings")
	}
	state.Restarting, state.Since = n.restart, o.now
	if _, err := m.step(ctx, op, "restarting the server of "+n.restart, func(v *store.Operation) { v.Config = &state }); err != nil {
		return err
	}
	return m.orderRestart(ctx, app, n.restart)
}

// orderRestart has a member restart its server, if it was not started with the
// present settings; "": nobody is to.
func (m *Manager) orderRestart(ctx context.Context, app store.Application, member string) error {
	var order *store.MemberRestart
	if member != "" {
		order = &store.MemberRestart{Member: member, Parameters: api.ParametersID(app.Parameters)}
	}
	r, err := store.Modify(ctx, m.store, store.KindApplication, app.Name, func(a *store.Application) (bool, error) {
		same := a.Restart == order || a.Restart != nil && order != nil && *a.Restart == *order
		a.Restart = order
		return !same, nil
	})
	if err == nil {
		failpoint.Hit("config:ordered")
		m.apps.records.Put(r)
		m.apps.know(r)
	}
	return err
}

// awaitRestart looks after the member that is being restarted.
func (m *Manager) awaitRestart(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, state store.Config) error {
	if err := m.orderRestart(ctx, app, state.Restarting); err != nil {
		return err
	}
	member, known := memberOf(&app, state.Restarting)
	s, heard := o.word(member)
	id := api.ParametersID(app.Parameters)
	waited := o.now.Sub(state.Since)
	switch {
	case !known, heard && s.Healthy && s.StartedWith == id && s.Parameters == id && !concern(s.PendingRestart, state.Keys):
		name := state.Restarting
		state.Restarting, state.Since = "", o.now
		_, err := m.step(ctx, op, name+" is healthy", func(v *store.Operation) { v.Config = &state })
		return err
	case heard && s.State == api.StateFailed && waited > failedPatience:
		return m.giveUp(ctx, op, state, member.Name+" did not come up: "+s.Message)
	case waited > rollPatience:
		return m.giveUp(ctx, op, state, fmt.Sprintf("%s is not healthy after %s: %s", member.Name, rollPatience, member.Message))
	}
	return nil
}

// giveUp puts the former settings back, or, if those are the problem, ends.
func (m *Manager) giveUp(ctx context.Context, op store.Record[store.Operation], state store.Config, why string) error {
	if state.Back == "" {
		return m.putBack(ctx, op, state, why)
	}
	return m.endConfig(ctx, op, store.OperationFailed, fmt.Sprintf("%s. The former settings were put back, but: %s", state.Back, why))
}

// putBack has the operation go the same way with the former settings.
func (m *Manager) putBack(ctx context.Context, op store.Record[store.Operation], state store.Config, why string) error {
	back := store.Config{From: state.To, To: state.From, Keys: state.Keys, Back: why}
	_, err := m.step(ctx, op, "putting the former settings back: "+why, func(v *store.Operation) { v.Config = &back })
	return err
}

// endConfig takes back the order to restart and ends the operation. After the former
// settings were put back it has failed.
func (m *Manager) endConfig(ctx context.Context, op store.Record[store.Operation], end store.OperationState, text string) error {
	if _, err := store.Modify(ctx, m.store, store.KindApplication, op.Value.Target, func(a *store.Application) (bool, error) {
		changed := a.Restart != nil
		a.Restart = nil
		return changed, nil
	}); err != nil {
		return err
	}
	m.apps.records.Changed(op.Value.Target)
	if back := op.Value.Config.Back; back != "" && end == store.OperationDone {
		end, text = store.OperationFailed, back+". The former settings are in force again"
		if op.Value.Cancel {
			end, text = store.OperationCancelled, "the former settings are in force again"
		}
	}
	return m.end(ctx, op, end, text)
}
