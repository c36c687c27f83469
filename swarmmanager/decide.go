package swarmmanager

import (
	"fmt"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarm"
)

// attachFacts is all that the decision about an attach depends on.
type attachFacts struct {
	volume   api.Volume
	node     string // that asks
	hostname string
	mountID  string
	tenure   string
	location string // of the caller's storage
	reported bool   // the caller's last report names the volume with the record's epoch
	uses     []swarm.Use

	ownerReady   bool          // Swarm hears the owner's node
	ownerExpired bool          // this leader's renewals for the owner have run out
	silence      time.Duration // since the owner was renewed
	settled      bool          // no lease of a former leader can still hold
	where        string        // hostnames of the nodes that have volume.Location
	now          time.Time
}

// attachDecision is what to do about an attach: refuse it, grant what the caller
// holds already, or write a new owner.
type attachDecision struct {
	refuse *api.Error
	same   bool // the caller is the owner by this mount already
	fence  bool // the former owner did not hand over: ask the witnesses first
	revoke bool // the owner is to let go, though it answers
	task   string
}

func (d attachDecision) String() string {
	switch {
	case d.refuse != nil && d.revoke:
		return "refuse (" + d.refuse.Code + ") and revoke"
	case d.refuse != nil:
		return "refuse (" + d.refuse.Code + ")"
	case d.same:
		return "grant again"
	case d.fence:
		return "fence and grant to " + d.task
	case d.task == "":
		return "grant to a plain container"
	}
	return "grant to " + d.task
}

// decideAttach is the rule of invariant 1: who may hold a volume next.
func decideAttach(f attachFacts) attachDecision {
	v := f.volume
	no := func(code, format string, args ...any) attachDecision {
		return attachDecision{refuse: refuse(code, format, args...)}
	}
	if v.Purging {
		return no(api.ErrConflict, "volume %s is being deleted on request; use another name, or wait until `docker openmanage volume ls` no longer shows it", v.Name)
	}
	if v.Phase != api.PhaseDeclared && v.Location != "" && v.Location != f.location {
		return no(api.ErrUnreachable, "the data of volume %s lies in the folder of %s, which node %s does not have; Swarm must place the task there", v.Name, f.where, f.hostname)
	}
	task, elsewhere := assigned(f.uses, f.node)
	if o := v.Owner; o != nil && o.Node == f.node && o.MountID == f.mountID && o.Tenure == f.tenure {
		return attachDecision{same: true, task: o.Task}
	}
	if v.Owner != nil && v.Owner.Node == f.node && f.reported {
		// The request is older than the mount: the network kept it back.
		return no(api.ErrHeld, "%s, by another mount that this node still reports", holder(v))
	}
	if v.Owner == nil || v.Owner.Node == f.node {
		// A node's plugin asks for a second mount only after its first is gone,
		// by an unmount or with the node itself.
		if task == "" && elsewhere != nil {
			return no(api.ErrForbidden, "volume %s is for task %s, which Swarm has assigned to another node than %s", v.Name, elsewhere.Task, f.hostname)
		}
		return attachDecision{task: task}
	}
	held := holder(v)
	switch {
	case task == "":
		return no(api.ErrHeld, "%s; no task that mounts it is assigned to node %s", held, f.hostname)
	case !f.ownerExpired && f.ownerReady:
		return no(api.ErrHeld, "%s; it is given up when that container is gone", held)
	case !f.ownerExpired:
		// Swarm has moved the task off a node whose plugin still answers us.
		d := no(api.ErrHeld, "%s, which Swarm does not hear; it has been told to let go", held)
		d.revoke = true
		return d
	case f.ownerReady:
		return no(api.ErrHeld, "%s, whose volume plugin has not answered for %s though Swarm hears the node; mend the plugin there (`docker plugin ls`) or drain and stop the node", held, f.silence.Round(time.Second))
	case !f.settled:
		return no(api.ErrNotYet, "%s; the leading manager is new and waits until that lease has run out", held)
	}
	return attachDecision{fence: true, task: task}
}

// assigned returns the task that is assigned to node, or else one that Swarm has
// assigned to another.
func assigned(uses []swarm.Use, node string) (here string, elsewhere *swarm.Use) {
	for i, u := range uses {
		switch u.NodeID {
		case node:
			here = u.Task
		case "":
		default:
			elsewhere = &uses[i]
		}
	}
	return here, elsewhere
}

// holder names who holds v, in words.
func holder(v api.Volume) string {
	who := "a container"
	if v.Owner.Task != "" {
		who = "task " + v.Owner.Task
	}
	return fmt.Sprintf("volume %s is held by %s on node %s since %s (epoch %d)", v.Name, who, v.Owner.Hostname, v.Owner.Since.UTC().Format(time.RFC3339), v.Epoch)
}
