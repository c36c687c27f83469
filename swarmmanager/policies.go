package swarmmanager

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	dockerswarm "github.com/moby/moby/api/types/swarm"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

const (
	primaryLast  = "primary-last"
	primaryFirst = "primary-first"
	rolesNone    = "none"
)

// readPolicies reads the labels that say what is decided by itself, and how
// operations treat the members. What is not known is reported, and the default taken; but a bad window stays what it is, so
// that nothing is restarted at a time that nobody has allowed.
func readPolicies(app *store.Application, s dockerswarm.Service) {
	problem := func(label, problem string) {
		app.Problems = append(app.Problems, fmt.Sprintf("label %s on service %s: %s", label, s.Spec.Name, problem))
	}
	app.SyncMode = syncMode(app, s)
	failover := s.Spec.Labels[api.LabelFailover]
	if app.NoFailover = failover == "false"; !slices.Contains([]string{"", "true", "false"}, failover) {
		problem(api.LabelFailover, fmt.Sprintf("%q is not known; choose true or false", failover))
	}
	app.Lease = leaseTime(app, s)
	switch order := s.Spec.Labels[api.LabelUpgradeOrder]; order {
	case primaryFirst:
		app.UpgradeOrder = order
	case primaryLast, "":
		app.UpgradeOrder = ""
	default:
		app.UpgradeOrder = ""
		problem(api.LabelUpgradeOrder, fmt.Sprintf("%q is not known; choose %s or %s", order, primaryLast, primaryFirst))
	}
	app.Window = s.Spec.Labels[api.LabelWindow]
	if app.Window != "" {
		if _, err := parseWindow(app.Window); err != nil {
			problem(api.LabelWindow, err.Error()+". Until then restart and upgrade need --now")
		}
	}
	switch apart := s.Spec.Labels[api.LabelApart]; apart {
	case "true", "false", "":
	default:
		problem(api.LabelApart, fmt.Sprintf("%q is not known; choose true or false", apart))
	}
}

// syncMode reads the policy label; a value it does not know is reported and the
// safe default taken.
func syncMode(app *store.Application, s dockerswarm.Service) string {
	switch mode := s.Spec.Labels[api.LabelSyncMode]; mode {
	case "quorum", "strict", "off":
		return mode
	case "":
	default:
		app.Problems = append(app.Problems, fmt.Sprintf("label %s=%q on service %s is not known; choose quorum, strict or off", api.LabelSyncMode, mode, s.Spec.Name))
	}
	return "quorum"
}

// rollRequest returns what is asked of an operation that restarts all members; false:
// it is another one.
func rollRequest(op store.Operation) (req store.RollRequest, ok bool) {
	if op.Kind == store.OperationConfig {
		// One that has begun has no way to stop half way.
		var c store.ConfigRequest
		ok = op.Config == nil && json.Unmarshal([]byte(op.Request), &c) == nil && c.Restart
		return store.RollRequest{Now: c.Now}, ok
	}
	if op.Kind != store.OperationRestart && op.Kind != store.OperationUpgrade {
		return req, false
	}
	return req, json.Unmarshal([]byte(op.Request), &req) == nil
}

// rollOrder is whose turn is when: as asked, else as the label says.
func rollOrder(app store.Application, req store.RollRequest) string {
	return cmp.Or(req.Order, app.UpgradeOrder, primaryLast)
}
