package memberagent

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/openmanage/openmanage/internal/api"
)

// action is what a turn begins with.
type action int

const (
	actionStart     action = iota // the data is what the orders want
	actionBootstrap               // make the application's database
	actionJoin                    // copy it from the primary
	actionRejoin                  // make the data able to follow the primary
	actionWait                    // nothing can be done yet
)

// decide says what to do with the data under these orders. It is the one place
// where a database is allowed to begin. diverged: the data is a standby's and was
// seen not to be able to follow orders.Primary. An error is a contradiction that
// needs a hand or other orders; nothing may be started then.
func decide(member, volume string, orders api.MemberOrders, data Data, diverged bool) (action, string, error) {
	switch {
	case orders.Fenced != "":
		return actionWait, whyFenced(orders), nil
	case !slices.Contains(orders.Members, member):
		return actionWait, fmt.Sprintf("%s is not among the application's members %v", member, orders.Members), nil
	case orders.Role == api.RoleMember && data.Role == api.RoleMember:
		return actionStart, "", nil
	case orders.Role == api.RoleMember || data.Role == api.RoleMember && orders.Role != "":
		return 0, "", fmt.Errorf("the leader orders %s to be a %s, and its engine knows no such role: label %s of its service and its engine do not go together", member, orders.Role, api.LabelRoles)
	case orders.Role != api.RolePrimary && orders.Role != api.RoleStandby:
		why := orders.Reason
		if why == "" {
			why = "the leader has not given this member a role yet"
		}
		return actionWait, why, nil
	case contradictory(member, orders):
		return 0, "", fmt.Errorf("the orders contradict themselves: %s is to be %s while the primary is %q; waiting for others", member, orders.Role, orders.Primary)
	}
	if !data.Empty && orders.SystemID != "" && data.SystemID != orders.SystemID {
		return 0, "", fmt.Errorf("volume %s holds another database (system ID %s) than the application's (%s); nothing is started or changed; give the member its own volume back, or, for a standby, an empty one", volume, data.SystemID, orders.SystemID)
	}
	if orders.Role == api.RolePrimary {
		switch {
		case data.Empty && orders.Initialized:
			return 0, "", fmt.Errorf("the data is missing: volume %s is empty, but the application's database (system ID %s) exists; no new one is made; bring the volume's data back, or restore a backup", volume, orders.SystemID)
		case data.Empty:
			return actionBootstrap, "", nil
		case data.Stale:
			return 0, "", fmt.Errorf("the data on volume %s is half replaced by another member's, and %s is to be the primary: it is not started; make another member the primary", volume, member)
		case data.Role == api.RoleStandby && orders.Timeline == 0:
			return 0, "", fmt.Errorf("the data on volume %s is a standby's, and %s is to be the primary: a standby is not promoted here, because the primary may have what it has not; make the member with the primary's data the primary", volume, member)
		}
	} else {
		switch {
		case data.Empty && !orders.Initialized:
			return actionWait, "waiting until " + cmp.Or(orders.Primary, "the primary") + " has made the database", nil
		case orders.Primary == "" && (data.Empty || data.Stale):
			return actionWait, beingChanged, nil
		case orders.Primary == "" && data.Role == api.RolePrimary:
			return actionWait, "handing over: the server of the former primary has stopped, another member takes its place", nil
		case data.Empty:
			return actionJoin, "", nil
		case orders.Rebuild != "" && orders.Primary == "":
			return actionWait, beingChanged, nil
		case orders.Rebuild != "":
			return actionRejoin, "", nil
		case data.Stale, diverged && data.Role == api.RoleStandby && orders.Primary != "":
			return actionRejoin, "", nil
		case data.Role == api.RolePrimary && orders.Term > 1:
			return actionRejoin, "", nil
		case data.Role == api.RolePrimary:
			return 0, "", fmt.Errorf("the data on volume %s is a primary's, and %s is to be a standby of %s: it is not started, because two primaries would part the data; it needs a copy of %s's data", volume, member, orders.Primary, orders.Primary)
		}
	}
	if data.Role != api.RolePrimary && data.Role != api.RoleStandby {
		return 0, "", errors.New("the data is neither a primary's nor a standby's")
	}
	return actionStart, "", nil
}

// whyFenced is the message of a member that starts no server.
func whyFenced(orders api.MemberOrders) string {
	return orders.Fenced + "; its server does not run, its container and its volume stay"
}

// beingChanged is the message of a member that follows nobody on orders.
const beingChanged = "the primary is being changed"

func contradictory(member string, orders api.MemberOrders) bool {
	return (orders.Role == api.RolePrimary) != (orders.Primary == member)
}

// course is what to do with a server that runs.
type course int

const (
	courseKeep    course = iota // as it is: the orders say nothing for it
	courseAdapt                 // it has the ordered role
	coursePromote               // a standby that is to be the primary
	courseStop                  // another role: the next turn decides
)

// steer says what to do with a server that runs in this role on data of this system
// ID under these orders.
func steer(member string, orders api.MemberOrders, running api.Role, systemID string) course {
	switch {
	case orders.Fenced != "":
		return courseStop
	case orders.Role == api.RoleMember && running == api.RoleMember && slices.Contains(orders.Members, member):
		return courseAdapt
	case orders.Role != api.RolePrimary && orders.Role != api.RoleStandby,
		!slices.Contains(orders.Members, member),
		contradictory(member, orders):
		return courseKeep
	case running == api.RoleStandby && orders.Role == running && orders.Rebuild != "" && orders.Primary != "":
		return courseStop // its data is to be replaced
	case orders.Role == running:
		return courseAdapt
	case orders.Role == api.RolePrimary && orders.Timeline != 0 && (orders.SystemID == "" || orders.SystemID == systemID):
		return coursePromote
	}
	return courseStop
}

// reached says why data is not what the leader has chosen for a primary, or "".
// Positions go on over a change of the timeline.
func reached(orders api.MemberOrders, timeline int, position uint64) string {
	if timeline >= orders.Timeline && position >= orders.Position {
		return ""
	}
	return fmt.Sprintf("not made the primary: the leader chose it for data that has reached position %d of timeline %d, and it has %d of timeline %d; waiting for more or for other orders", orders.Position, orders.Timeline, position, timeline)
}
