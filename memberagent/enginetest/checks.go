package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// Names of checks that mutants are told by.
const (
	strangeData     = "what is no whole database is an error and is left alone"
	killedBootstrap = "a bootstrap that is cut short leaves an empty volume"
	killedJoin      = "a join that is cut short leaves an empty volume"
	otherDatabase   = "another database is neither copied nor followed"
	patientRejoin   = "a rejoin changes nothing before the primary is there"
	killedRejoin    = "a rejoin that is cut short leaves what can be told from a whole standby"
	follows         = "a standby receives from whom it is ordered to, or from nobody"
	promotion       = "a promotion holds when it returns, and can be repeated"
	orderlyStop     = "a primary that stops has sent all that it wrote"
	punctual        = "methods return soon after their context ends"
	fence           = "nothing outlives the lease"
	acknowledged    = "what was acknowledged outlives the kill of everything"
)

var checks = []check{
	{strangeData, checkStrangeData},
	{killedBootstrap, checkKilledBootstrap},
	{killedJoin, checkKilledJoin},
	{otherDatabase, checkOtherDatabase},
	{patientRejoin, checkPatientRejoin},
	{killedRejoin, checkKilledRejoin},
	{follows, checkFollows},
	{promotion, checkPromotion},
	{orderlyStop, checkOrderlyStop},
	{punctual, checkPunctual},
	{fence, checkFence},
	{acknowledged, checkAcknowledged},
}

// Inspect changes nothing, and calls only nothing empty.
func checkStrangeData(s *stage) {
	s.cast("", ofPrimary)
	a, b := s.nodes[first], s.nodes[second]
	untouched := func(n *node, inspect func()) {
		s.Helper()
		before := n.picture()
		inspect()
		if after := n.picture(); after != before {
			s.Errorf("Inspect has changed the volume from\n%s\nto\n%s", before, after)
		}
	}
	untouched(a, func() {
		if data := a.inspect(); !data.Empty || data.Stale {
			s.Errorf("of an empty volume Inspect says %+v", data)
		}
	})
	untouched(b, func() {
		want := memberagent.Data{Role: api.RolePrimary, SystemID: s.systemID}
		data := b.inspect()
		if data.Empty || data.Stale || data.Role != want.Role || data.SystemID != want.SystemID || data.Timeline == 0 || data.Position == 0 {
			s.Errorf("of a primary's data that was stopped in order Inspect says %+v", data)
		}
	})
	for what, spoil := range s.f.Strange {
		n := s.node(first, "")
		s.ok(spoil(n.volume))
		untouched(n, func() {
			if reply := n.call("Inspect", api.MemberOrders{}, deadline); reply.Err == "" {
				s.Errorf("%s: Inspect gives no error, but %+v", what, reply.Data)
			}
		})
		n.end()
	}
}

func checkKilledBootstrap(s *stage) {
	s.cast("", "")
	a := s.nodes[first]
	orders := s.alone(first)
	orders.Initialized, orders.SystemID = false, ""
	cut := s.cutShort(a, "Bootstrap", orders, s.bootstrap)
	if cut == 0 {
		s.Logf("no bootstrap was cut short")
	}
	a.must("Bootstrap", orders)
	orders.SystemID = a.inspect().SystemID
	a.begin(orders)
	s.create(first)
	s.write(first, 1, 3)
	s.rows(first, 1, 3)
}

// cutShort interrupts the making of a database, which begins with nothing, again and
// again on one volume. It leaves the volume empty and tells how often it came in time.
func (s *stage) cutShort(n *node, method string, orders api.MemberOrders, usually time.Duration) (cut int) {
	s.Helper()
	for round := range rounds(5) {
		if n.interrupt(round, method, orders, usually) {
			n.end() // it came too late
			n.forget()
			n.restart()
			continue
		}
		cut++
		data := n.inspect()
		switch {
		case data.Empty:
		case data.Role == orders.Role && data.SystemID != "": // it was cut short at its very end
			n.end()
			n.forget()
			n.restart()
		default:
			s.Fatalf("a %s that was cut short leaves %+v", method, data)
		}
	}
	return cut
}

func checkKilledJoin(s *stage) {
	s.cast(ofPrimary, "")
	a, b := s.nodes[first], s.nodes[second]
	a.begin(s.alone(first))
	s.cutShort(b, "Join", s.standby(second), s.join)
	b.must("Join", s.standby(second))
	data := b.inspect()
	if data.Empty || data.Stale || data.Role != api.RoleStandby || data.SystemID != s.systemID {
		s.Fatalf("a join leaves %+v and not a standby's data", data)
	}
	b.begin(s.standby(second))
	s.write(first, 21, 22)
	s.rows(second, 1, 22)
}

// Who holds or wants another database is told so.
func checkOtherDatabase(s *stage) {
	s.cast(ofPrimary, "")
	a, b := s.nodes[first], s.nodes[second]
	a.begin(s.alone(first))
	orders := s.standby(second)
	orders.SystemID = "1"
	if reply := b.call("Join", orders, 3*soon); reply.Err == "" || reply.Late != 0 {
		s.Errorf("Join of a database that is not the application's: %q after %s", reply.Err, reply.Took)
	}
	if data := b.inspect(); !data.Empty {
		s.Errorf("after it was refused, there is %+v", data)
	}
}

func checkPatientRejoin(s *stage) {
	s.cast(ofFormer, ofStandby)
	a, b := s.nodes[first], s.nodes[second]
	before := a.inspect()
	if before.Role != api.RolePrimary || before.Position != 0 {
		s.Errorf("of a primary's data that was killed Inspect says %+v", before)
	}
	unchanged := func(why string) {
		s.Helper()
		if after := a.inspect(); after != before {
			s.Errorf("%s, and a rejoin has made %+v of %+v", why, after, before)
		}
	}
	if reply := a.call("Rejoin", s.standby(first), time.Second); reply.Err == "" {
		s.Errorf("a rejoin succeeds without a primary")
	}
	unchanged("the primary is not there")
	// One that answers and is no primary.
	orders := s.heir(memberagent.Probe{Timeline: 1 << 20, Position: 1 << 60})
	b.begin(orders)
	if reply := a.call("Rejoin", s.standby(first), time.Second); reply.Err == "" {
		s.Errorf("a rejoin succeeds with a standby for its primary")
	}
	unchanged("the primary is none yet")
}

// A rejoin that was cut short may leave the data as it was, stale data, none, or a
// standby's. At last it loses what only the former primary had.
func checkKilledRejoin(s *stage) {
	s.cast(ofFormer, ofHeir)
	a, b := s.nodes[first], s.nodes[second]
	b.begin(s.alone(second))
	before := a.inspect()
	seen := map[string]int{}
	for round := range rounds(6) {
		if a.interrupt(round, "Rejoin", s.standby(first), s.rejoin) {
			seen["whole"]++
			a.replace(ofFormer)
			continue
		}
		data := a.inspect()
		switch {
		case data.Empty:
			seen["empty"]++
		case data.SystemID != s.systemID:
			s.Fatalf("a rejoin that was cut short leaves %+v", data)
		case data.Stale:
			seen["stale"]++
		case data.Role == api.RoleStandby:
			seen["standby"]++
			a.begin(s.standby(first)) // it says that it is whole
			s.rows(first, 21, 21)
			a.replace(ofFormer)
		case data.Role == api.RolePrimary && data.Timeline == before.Timeline:
			seen["as it was"]++
		default:
			s.Fatalf("a rejoin that was cut short leaves %+v", data)
		}
	}
	s.Logf("%v", seen)
	if a.inspect().Empty {
		a.must("Join", s.standby(first))
	} else {
		a.must("Rejoin", s.standby(first))
	}
	if data := a.inspect(); data.Empty || data.Stale || data.Role != api.RoleStandby || data.SystemID != s.systemID {
		s.Fatalf("a rejoin leaves %+v and not a standby's data", data)
	}
	a.begin(s.standby(first))
	s.rows(first, 1, 21)
	s.eventually("the former primary without what only it had", func(ctx context.Context) error {
		have, err := s.app.Rows(ctx, first)
		for _, row := range have {
			if row > 100 {
				return fmt.Errorf("it has row %d", row)
			}
		}
		return err
	})
}

func checkFollows(s *stage) {
	s.cast(ofPrimary, ofStandby)
	a, b := s.nodes[first], s.nodes[second]
	a.begin(s.alone(first))
	b.begin(s.standby(second))
	if p := b.healthy(s.standby(second)); !p.Streaming || p.Timeline == 0 || p.Position == 0 {
		s.Errorf("of a standby that follows Probe says %+v", p)
	}
	s.rows(second, 1, 20)
	row := 20
	// deaf checks that what the primary writes does not arrive.
	deaf := func(why string) {
		s.Helper()
		had := b.certain()
		for range 3 {
			row++
			s.write(first, row, row)
			p := b.probe(s.nobody(second))
			if p.Position != had.Position || p.Streaming || p.Healthy {
				s.Errorf("%s, and it has gone from %d to %d: %+v", why, had.Position, p.Position, p)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		defer cancel()
		have, err := s.app.Rows(ctx, second)
		s.ok(err)
		for _, r := range have {
			if r > row-3 {
				s.Errorf("%s, and it has row %d", why, r)
			}
		}
	}
	b.adapted(s.nobody(second))
	deaf("after Adapt it follows nobody")
	b.adapted(s.standby(second))
	b.healthy(s.standby(second))
	s.rows(second, 1, row)
	b.restart()
	b.begin(s.nobody(second))
	deaf("it was started to follow nobody")
	has := b.certain()
	b.restart()
	b.begin(s.heir(has))
	deaf("it was started to be promoted")
	b.adapted(s.standby(second))
	b.healthy(s.standby(second))
	s.rows(second, 1, row)
}

func checkPromotion(s *stage) {
	s.cast("", ofStandby)
	b := s.nodes[second]
	b.begin(s.nobody(second))
	orders := s.heir(b.certain())
	orders.Sync = []string{first}
	// Its first commit must wait for the other member, which is not there.
	w := s.writer(second, 1001)
	b.must("Promote", orders)
	b.must("Promote", orders)
	p := b.healthy(orders)
	if len(p.SyncNames) != 1 || p.SyncNames[0] != first || p.Timeline <= orders.Timeline {
		s.Errorf("after the promotion Probe says %+v", p)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.app.Write(ctx, second, 500); !errors.Is(err, context.DeadlineExceeded) {
		s.Errorf("a write after the promotion is not waited with, but ends: %v", err)
	}
	if acked := w.stop(); len(acked) > 0 {
		s.Errorf("%v were acknowledged, and the member that was to have them is not there", acked)
	}
	alone := orders
	alone.Sync = nil
	b.adapted(alone)
	s.write(second, 21, 21)
	s.has(second, []int{1, 20, 21})
	// It is the primary over a kill, too.
	b.restart()
	if data := b.inspect(); data.Role != api.RolePrimary {
		s.Errorf("killed after its promotion it has %+v", data)
	}
	b.begin(alone)
	s.has(second, []int{1, 20, 21})

	// One that takes writes does so when Promote returns.
	n := s.node(second, ofStandby)
	b.end()
	n.begin(s.nobody(second))
	n.must("Promote", s.heir(n.certain()))
	ctx, cancel = context.WithTimeout(context.Background(), soon)
	defer cancel()
	if err := s.app.Write(ctx, second, 22); err != nil {
		s.Errorf("the promotion is over, and a write gives: %v", err)
	}
}

func checkOrderlyStop(s *stage) {
	s.cast(ofPrimary, ofStandby)
	a, b := s.nodes[first], s.nodes[second]
	a.begin(s.alone(first))
	b.begin(s.standby(second))
	w := s.writer(first, 1001)
	s.eventually("some writes", func(ctx context.Context) error {
		have, err := s.app.Rows(ctx, first)
		if err == nil && len(have) < 50 {
			err = fmt.Errorf("%d rows", len(have))
		}
		return err
	})
	a.must("Flush", s.alone(first))
	a.stop()
	acked := w.stop()
	data := a.inspect()
	if data.Role != api.RolePrimary || data.Position == 0 {
		s.Fatalf("stopped in order it has %+v: Position is not known", data)
	}
	s.eventually("the last byte at the standby", func(context.Context) error {
		if p := b.probe(s.standby(second)); p.Timeline != data.Timeline || p.Position < data.Position {
			return fmt.Errorf("%+v, and the primary ended at %d of timeline %d", p, data.Position, data.Timeline)
		}
		return nil
	})
	b.adapted(s.nobody(second))
	b.must("Promote", s.heir(b.certain()))
	s.has(second, acked)
}

func checkPunctual(s *stage) {
	s.cast(ofPrimary, ofStandby)
	a, b := s.nodes[first], s.nodes[second]
	// Whoever waits gives up in time (call looks at that).
	n := s.node(first, "")
	n.call("Bootstrap", s.alone(first), s.bootstrap/3)
	n.end()
	n = s.node(second, "")
	n.call("Join", s.standby(second), 500*time.Millisecond)
	n.end()
	a.begin(s.alone(first))
	b.begin(s.standby(second))
	// And so does who is not answered, because the server hangs.
	for _, n := range []*node{a, b} {
		n.signal(syscall.SIGSTOP)
	}
	if p := a.probe(s.alone(first)); p.Up {
		s.Errorf("of a server that hangs Probe says %+v", p)
	}
	a.call("Adapt", s.waiting(first), 500*time.Millisecond)
	a.call("Flush", s.alone(first), 500*time.Millisecond)
	b.call("Adapt", s.nobody(second), 500*time.Millisecond)
	b.call("Promote", s.heir(memberagent.Probe{Timeline: 1, Position: 1}), 500*time.Millisecond)
	for _, n := range []*node{a, b} {
		n.signal(syscall.SIGCONT)
	}
	a.adapted(s.alone(first))
	a.healthy(s.alone(first))
	s.write(first, 21, 21)
}

func checkFence(s *stage) {
	s.cast(ofPrimary, ofStandby)
	a, b := s.nodes[first], s.nodes[second]
	locked := func(n *node) {
		s.Helper()
		found := n.look()
		if len(found.Running) == 0 {
			s.Errorf("the server of %s runs, and no process of it is seen", n.name)
		}
		if len(found.Unlocked) > 0 {
			s.Errorf("not started through Processes: %v", found.Unlocked)
		}
	}
	a.begin(s.alone(first))
	b.begin(s.standby(second))
	w := s.writer(first, 1001)
	for _, n := range []*node{a, b} {
		locked(n)
		n.revoke()
		n.gone()
		if reply := n.call("Start", s.alone(n.name), deadline); reply.Err == "" || len(n.look().Running) > 0 {
			s.Errorf("without the lease a server starts: %q", reply.Err)
		}
	}
	acked := w.stop()
	a.hold()
	a.begin(s.alone(first))
	s.has(first, acked)

	// What makes a copy is watched while it does.
	n := s.node(second, "")
	b.end()
	join := n.async("Join", s.standby(second), deadline)
	for watching := true; watching; {
		select {
		case <-join.Done:
			watching = false
		case <-time.After(10 * time.Millisecond):
			if found := n.look(); len(found.Unlocked) > 0 {
				s.Fatalf("not started through Processes: %v", found.Unlocked)
			}
		}
	}
}

func checkAcknowledged(s *stage) {
	s.cast(ofPrimary, ofStandby)
	a, b := s.nodes[first], s.nodes[second]
	var acked []int
	for round := range rounds(2) {
		a.begin(s.alone(first))
		b.begin(s.standby(second))
		a.adapted(s.waiting(first))
		w := s.writer(first, 1001+round*100000)
		s.eventually("some writes", func(ctx context.Context) error {
			have, err := s.app.Rows(ctx, first)
			if err == nil && len(have) < len(acked)+30 {
				err = fmt.Errorf("%d rows", len(have))
			}
			return err
		})
		moment := time.After(time.Duration(rand.Int64N(int64(300 * time.Millisecond)))) //nolint:gosec // a moment
		certain := b.healthy(s.standby(second))
		<-moment
		a.end()
		b.end()
		acked = append(acked, w.stop()...)
		a.restart()
		b.restart()
		data := a.inspect()
		if data.Role != api.RolePrimary || data.Position != 0 {
			s.Errorf("of a primary's data that was killed Inspect says %+v", data)
		}
		a.begin(s.alone(first))
		s.has(first, acked)
		a.restart()
		b.begin(s.nobody(second))
		if p := b.certain(); p.Timeline < certain.Timeline || p.Timeline == certain.Timeline && p.Position < certain.Position {
			s.Errorf("the standby had %d of timeline %d for certain, and after its kill it has %d of %d", certain.Position, certain.Timeline, p.Position, p.Timeline)
		}
		b.restart()
	}
	// And the standby has it all.
	b.begin(s.nobody(second))
	b.must("Promote", s.heir(b.certain()))
	s.has(second, acked)
}
