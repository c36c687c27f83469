package swarmmanager

import (
	"reflect"
	"slices"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// known is what is recorded of an application, and the orders that follow from it. Nobody
// changes one: every node asks for the orders of all its members every second.
type known struct {
	app     store.Application
	version uint64
	orders  map[string]*api.MemberOrders // by member
}

// answeredOrders are orders with the number of the report that they answered first.
type answeredOrders struct {
	*api.MemberOrders
	seq uint64
}

// know notes what is recorded of an application: orders follow from that alone. A
// step that is planned and not recorded may never have been taken. What was recorded before
// what is known is no news.
func (a *applications) know(r store.Record[store.Application]) {
	app := r.Value
	a.mu.Lock()
	old := a.known[app.Name]
	if old != nil && r.Version() <= old.version {
		a.mu.Unlock()
		return
	}
	next := &known{app: app, version: r.Version(), orders: make(map[string]*api.MemberOrders, len(app.Members))}
	for _, m := range app.Members {
		o := ordersOf(&app, m.Name)
		if old != nil && old.orders[m.Name] != nil && sameOrders(old.orders[m.Name], o) {
			o = old.orders[m.Name]
		}
		next.orders[m.Name] = o
	}
	a.known[app.Name] = next
	a.mu.Unlock()
	if old == nil || old.app.Term != app.Term || !slices.Equal(old.app.Sync, app.Sync) || old.app.Parameters != app.Parameters || !reflect.DeepEqual(old.app.Restart, app.Restart) {
		a.m.nudge(app)
	}
}

// orders tells a member what it is to be.
func (a *applications) orders(s api.MemberStatus) *api.MemberOrders {
	a.mu.Lock()
	k := a.known[s.Application]
	a.mu.Unlock()
	if k == nil || k.app.Removed != nil {
		a.news.about(s.Application)
	}
	if k == nil {
		return &api.MemberOrders{Member: s.Member, Reason: "the leading manager does not know application " + s.Application + " yet"}
	}
	if o := k.orders[s.Member]; o != nil {
		return o
	}
	return ordersOf(&k.app, s.Member)
}

// ordersOf works out what is recorded of a member as orders to it. Who is no member any more is told
// so in the present term: older orders are void, and it would wait for its turn to stop.
func ordersOf(app *store.Application, member string) *api.MemberOrders {
	o := &api.MemberOrders{Member: member, Term: app.Term, Members: make([]string, len(app.Members))}
	if app.Removed != nil {
		o.Reason = "application " + app.Name + " was removed"
		return o
	}
	for i := range app.Members {
		o.Members[i] = app.Members[i].Name
	}
	m, ok := memberOf(app, member)
	if !ok {
		o.Reason = member + " is not a member of application " + app.Name
		return o
	}
	o.Primary, o.Initialized, o.SystemID = app.Primary, app.Initialized, app.SystemID
	o.Role, o.Sync, o.Leave, o.Parameters = api.RoleStandby, app.Sync, m.Left, app.Parameters
	o.Restart = app.Restart != nil && *app.Restart == store.MemberRestart{Member: member, Parameters: api.ParametersID(app.Parameters)}
	if m.Fenced != nil {
		o.Fenced = m.Fenced.String()
	}
	if member != app.Primary {
		o.Rebuild, o.CopyOnOrder = m.Rebuild, true
	}
	switch h := app.Handover; {
	case app.NoRoles:
		o.Role = api.RoleMember
	case h != nil && member == h.From:
		o.Primary, o.Immediate, o.Reason = "", !h.Orderly, "the primary is being changed"
	case h != nil && !h.Orderly:
		o.Primary, o.Reason = "", "the primary is being changed"
	case h == nil && member == app.Primary:
		o.Role = api.RolePrimary
		if app.Promotion != nil {
			o.Timeline, o.Position = app.Promotion.Timeline, app.Promotion.Position
		}
	}
	if p, ok := memberOf(app, o.Primary); ok && p.Name != member {
		o.PrimaryAddress = p.Address
	}
	return o
}

// ordersSince works out the orders for the members of a report. same are the members
// whose orders were answered to report since or before; it returns what is answered now.
func (a *applications) ordersSince(r api.Report, since uint64, answered map[string]answeredOrders) (orders []api.MemberOrders, same []string, next map[string]answeredOrders) {
	same = make([]string, 0, len(r.Members))
	next = answered
	if len(answered) != len(r.Members) {
		next = nil
	}
	now := make([]answeredOrders, len(r.Members))
	for i := range r.Members {
		member := r.Members[i].Member
		now[i] = answeredOrders{a.orders(r.Members[i]), r.Seq}
		if was, known := answered[member]; known && sameOrders(was.MemberOrders, now[i].MemberOrders) {
			now[i] = was
		} else {
			next = nil
		}
		if since != 0 && now[i].seq <= since {
			same = append(same, member)
		} else {
			orders = append(orders, *now[i].MemberOrders)
		}
	}
	if next == nil {
		next = make(map[string]answeredOrders, len(now))
		for i := range now {
			next[r.Members[i].Member] = now[i]
		}
	}
	return orders, same, next
}

// sameOrders is asked for every member every second, and most often of the same pointer.
func sameOrders(a, b *api.MemberOrders) bool {
	return a == b || a.Member == b.Member && a.Role == b.Role && a.Term == b.Term && a.Primary == b.Primary && a.Leave == b.Leave &&
		a.PrimaryAddress == b.PrimaryAddress && a.Immediate == b.Immediate && a.Timeline == b.Timeline && a.Position == b.Position &&
		a.Initialized == b.Initialized && a.SystemID == b.SystemID && a.Parameters == b.Parameters && a.Restart == b.Restart &&
		a.Reason == b.Reason && a.Fenced == b.Fenced && a.Rebuild == b.Rebuild && a.CopyOnOrder == b.CopyOnOrder &&
		slices.Equal(a.Sync, b.Sync) && slices.Equal(a.Members, b.Members)
}
