package memberagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
)

// rebuiltName is the file in the volume's root with the rebuilds that were carried
// out on it, one a line, the last one last: an order that is repeated, by a leader
// that does not know yet or in a new container, is carried out once. Killed before it
// is written, a rebuild begins again, on data that nobody counts on.
const rebuiltName = "openmanage.rebuilt"

// keptRebuilds bounds that file. Orders do not stay under way for so long.
const keptRebuilds = 20

// recallRebuilds reads which rebuilds were carried out on this volume.
func (a *agent) recallRebuilds() error {
	data, err := os.ReadFile(filepath.Join(a.config.Data, rebuiltName))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read which rebuilds were done: %w", err)
	}
	a.rebuilds = strings.Fields(string(data))
	a.sayRebuilt()
	return nil
}

// wanted are the orders without a rebuild that was carried out.
func (a *agent) wanted(orders api.MemberOrders) api.MemberOrders {
	if slices.Contains(a.rebuilds, orders.Rebuild) {
		orders.Rebuild = ""
	}
	return orders
}

// rebuilt notes that a rebuild was carried out; "": it was none.
func (a *agent) rebuilt(name string) error {
	if name == "" {
		return nil
	}
	failpoint.Hit("rebuild:copied")
	rebuilds := append(slices.Clone(a.rebuilds), name)
	rebuilds = rebuilds[max(0, len(rebuilds)-keptRebuilds):]
	if err := renameio.WriteFile(filepath.Join(a.config.Data, rebuiltName), []byte(strings.Join(rebuilds, "\n")+"\n"), 0o600); err != nil {
		return fmt.Errorf("note that the data was replaced: %w", err)
	}
	a.rebuilds = rebuilds
	a.log.Info("the data was replaced by a fresh copy", "operation", name)
	a.sayRebuilt()
	return nil
}

func (a *agent) sayRebuilt() {
	if len(a.rebuilds) > 0 && a.status.change(func(s *api.MemberStatus) { s.Rebuilt = a.rebuilds[len(a.rebuilds)-1] }) {
		a.hurry()
	}
}

// copyPatience is how long the leader may take to have data replaced that cannot be
// made to follow. A snapshot takes seconds.
const copyPatience = 30 * time.Second

// ownCopy is the Rebuild of a member that copies without having been told to.
const ownCopy = "itself"

// copyAsked is that the leader was asked to have the data replaced.
type copyAsked struct {
	primary string
	since   time.Duration // by the lease's clock
}

// copying are the orders for a Rejoin: after copyPatience a copy is made without one.
func (a *agent) copying(wanted api.MemberOrders) api.MemberOrders {
	if a.copy.primary != wanted.Primary {
		a.copy = copyAsked{}
	}
	if wanted.CopyOnOrder && wanted.Rebuild == "" && a.copy.primary != "" && a.lease.now()-a.copy.since >= copyPatience {
		a.log.Warn("the leader has had nothing take the place of the data; copying the primary's")
		wanted.Rebuild = ownCopy
	}
	return wanted
}

// askForCopy tells the leader that the data cannot be made to follow, and waits for
// other orders, or for the stop that comes before a snapshot.
func (a *agent) askForCopy(leaving, term context.Context, orders api.MemberOrders, why *NeedsCopyError) {
	if a.copy.primary == "" {
		a.copy = copyAsked{primary: orders.Primary, since: a.lease.now()}
	}
	a.log.Warn("the data can follow the primary only when all of it is replaced; waiting for the leader to have that done", "error", why)
	a.status.change(func(s *api.MemberStatus) { s.NeedsCopy = why.Error() })
	defer a.status.change(func(s *api.MemberStatus) { s.NeedsCopy = "" })
	a.say(api.StateJoining, fmt.Sprintf("its data cannot be made to follow %s: %v; all of it is to be replaced", orders.Primary, why))
	a.pause(leaving, term, orders, max(copyPatience-(a.lease.now()-a.copy.since), firstPause))
}
