package memberagent

import (
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
	actionWait                    // nothing can be done yet
)

// decide says what to do with the data under these orders. It is the one place
// where a database is allowed to begin. An error is a contradiction that needs a
// hand or other orders; nothing may be started then.
func decide(member, volume string, orders api.MemberOrders, data Data) (action, string, error) {
	switch {
	case !slices.Contains(orders.Members, member):
		return actionWait, fmt.Sprintf("%s is not among the application's members %v", member, orders.Members), nil
	case orders.Role != api.RolePrimary && orders.Role != api.RoleStandby:
		why := orders.Reason
		if why == "" {
			why = "the leader has not given this member a role yet"
		}
		return actionWait, why, nil
	case (orders.Role == api.RolePrimary) != (orders.Primary == member):
		return 0, "", fmt.Errorf("the orders contradict themselves: %s is to be %s while the primary is %q; waiting for others", member, orders.Role, orders.Primary)
	}
	if !data.Empty && orders.SystemID != "" && data.SystemID != orders.SystemID {
		return 0, "", fmt.Errorf("volume %s holds another database (system ID %s) than the application's (%s); nothing is started or changed; give the member its own volume back, or, for a standby, an empty one", volume, data.SystemID, orders.SystemID)
	}
	switch {
	case orders.Role == api.RolePrimary && data.Empty && orders.Initialized:
		return 0, "", fmt.Errorf("the data is missing: volume %s is empty, but the application's database (system ID %s) exists; no new one is made; bring the volume's data back, or restore a backup", volume, orders.SystemID)
	case orders.Role == api.RolePrimary && data.Empty:
		return actionBootstrap, "", nil
	case orders.Role == api.RolePrimary && data.Role == api.RoleStandby:
		return 0, "", fmt.Errorf("the data on volume %s is a standby's, and %s is to be the primary: a standby is not promoted here, because the primary may have what it has not; make the member with the primary's data the primary", volume, member)
	case orders.Role == api.RoleStandby && data.Empty && !orders.Initialized:
		return actionWait, fmt.Sprintf("waiting until %s has made the database", orders.Primary), nil
	case orders.Role == api.RoleStandby && data.Empty:
		return actionJoin, "", nil
	case orders.Role == api.RoleStandby && data.Role == api.RolePrimary:
		return 0, "", fmt.Errorf("the data on volume %s is a primary's, and %s is to be a standby of %s: it is not started, because two primaries would part the data; it needs a copy of %s's data", volume, member, orders.Primary, orders.Primary)
	case data.Role != orders.Role:
		return 0, "", errors.New("the data is neither a primary's nor a standby's")
	}
	return actionStart, "", nil
}
