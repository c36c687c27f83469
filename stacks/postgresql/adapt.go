package postgresql

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/openmanage/openmanage/internal/api"
)

const (
	// settleTimeout is how long a reload may take until it has its effect.
	settleTimeout = 2 * time.Second
	reloadTick    = 10 * time.Millisecond
	receiverTick  = 20 * time.Millisecond
	// wakeTick is between two attempts of a standby to connect to another primary, for
	// as many as wakes. Later ones are further apart: wal_retrieve_retry_interval.
	wakeTick = 50 * time.Millisecond
	wakes    = 10
)

// Adapt brings configuration, receiver, roles and replication slots in line with
// the orders.
func (s *server) Adapt(ctx context.Context, orders api.MemberOrders) error {
	s.learn(orders)
	s.followed = s.follows(orders)
	if err := s.consider(ctx, orders); err != nil {
		return err
	}
	if len(s.primaryFirst) > 0 {
		if err := s.learnMinimums(ctx); err != nil {
			return err
		}
	}
	if err := s.reload(ctx, s.role, orders); err != nil {
		return err
	}
	if err := s.lookForPending(ctx); err != nil {
		return err
	}
	if s.role == api.RoleStandby {
		if err := s.awaitReceiver(ctx, orders); err != nil {
			return err
		}
		if !s.settled && s.followed != "" {
			if err := s.wakeReceiver(ctx); err != nil {
				return err
			}
		}
		s.settled = true
		return s.dropSlots(ctx, orders.Members)
	}
	s.settled = true
	if !s.synced {
		if err := s.syncRoles(ctx); err != nil {
			return err
		}
		s.synced = true
	}
	return s.makeSlots(ctx, s.query, orders.Members)
}

// reload writes the configuration for a role and waits until the server has it in
// force. The role need not be the one that the server has yet.
func (s *server) reload(ctx context.Context, role api.Role, orders api.MemberOrders) error {
	text, err := s.settings(role, orders)
	if err != nil {
		return err
	}
	if text != s.loaded {
		s.settled, s.loaded = false, "" // whatever comes of it: what is on the disk is another
		if _, err := s.configure(s.dir, role, orders); err != nil {
			return err
		}
		table, err := s.query(ctx, "SELECT pg_reload_conf(), extract(epoch FROM pg_conf_load_time())")
		if err != nil || len(table) != 1 {
			return fmt.Errorf("reload the configuration: %s", plain(err))
		}
		s.loaded = text
		s.before, _ = strconv.ParseFloat(table[0][1], 64)
		s.log.Info("reloaded the configuration for changed orders", "follows", s.follows(orders), "address", orders.PrimaryAddress, "sync", orders.Sync)
	}
	if s.settled {
		return nil
	}
	conninfo, names := s.primaryConninfo(role, orders), s.synchronous(role, orders)
	for deadline := time.Now().Add(settleTimeout); ; {
		table, err := s.query(ctx, "SELECT current_setting('primary_conninfo'), current_setting('synchronous_standby_names'), extract(epoch FROM pg_conf_load_time())")
		if err != nil {
			return fmt.Errorf("read the configuration: %w", err)
		}
		if len(table) == 1 && table[0][0] == conninfo && table[0][1] == names {
			if at, _ := strconv.ParseFloat(table[0][2], 64); at > s.before {
				return nil
			}
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the server has not taken its new configuration within %s: its log, which is the container's, says why; mend postgresql.conf in the volume if that is at fault", settleTimeout)
		}
		if err := wait(ctx, reloadTick); err != nil {
			return err
		}
	}
}

// awaitReceiver waits, after a reload, until no receiver of WAL is left that may be
// of the configuration before. The server ends it by itself when it has read the new
// one. That is a moment after this session has seen it, and just before it may still
// have started one, so that two looks count. A receiver shows whom it receives from
// only when it has connected.
func (s *server) awaitReceiver(ctx context.Context, orders api.MemberOrders) error {
	primary := s.follows(orders)
	if s.settled && primary != "" {
		return nil
	}
	var before map[string]bool // receivers that may be of before
	clean := 0
	for deadline := time.Now().Add(settleTimeout); ; {
		table, err := s.query(ctx, "SELECT a.pid, coalesce(r.conninfo, '') FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_stat_wal_receiver r ON r.pid = a.pid WHERE a.backend_type = 'walreceiver'")
		if err != nil {
			return fmt.Errorf("look for the receiver: %w", err)
		}
		first, left := before == nil, 0
		if first {
			before = map[string]bool{}
		}
		for _, row := range table {
			if first {
				before[row[0]] = true
			}
			if primary == "" || !s.connectsTo(row[1], primary) && (before[row[0]] || row[1] != "") {
				left++
			}
		}
		if clean++; left > 0 {
			clean = 0
		}
		if clean == 2 || clean == 1 && s.settled {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the server still receives from the primary of before; looking again")
		}
		if err := wait(ctx, receiverTick); err != nil {
			return err
		}
	}
}

// wakeReceiver has the server connect to another primary at once. It waits between two
// attempts, and makes the next one when it is told to read its configuration.
func (s *server) wakeReceiver(ctx context.Context) error {
	for range wakes {
		table, err := s.query(ctx, "SELECT pg_reload_conf() WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = 'walreceiver')")
		if err != nil {
			return fmt.Errorf("have the receiver connect: %w", err)
		}
		if len(table) == 0 {
			return nil // there is one
		}
		if err := wait(ctx, wakeTick); err != nil {
			return err
		}
	}
	return nil
}

// connectsTo tells whether a connection string, as the server shows it, is that to
// a member.
func (s *server) connectsTo(conninfo, member string) bool {
	host, port := s.address(member)
	fields := strings.Fields(conninfo)
	return slices.Contains(fields, "host="+host) && slices.Contains(fields, fmt.Sprintf("port=%d", port))
}

// makeSlots makes the replication slots of the other members. They reserve WAL at
// once, so that none is missing when a copy begins. A slot of a member that is no
// more is not dropped: what it holds back is bounded, and scaling in drops it.
func (s *server) makeSlots(ctx context.Context, ask asker, members []string) error {
	have, err := slots(ctx, ask, "")
	if err != nil {
		return err
	}
	for _, member := range members {
		if slot := slotName(member); member != s.member && !slices.Contains(have, slot) {
			if _, err := ask(ctx, "SELECT pg_create_physical_replication_slot("+quoteLiteral(slot)+", true)"); err != nil {
				return fmt.Errorf("make the replication slot of %s: %w", member, err)
			}
			s.log.Info("made the replication slot of a member", "member", member)
		}
	}
	return nil
}

// firstOf returns all, those of first before the others.
func firstOf(first, all []string) []string {
	return slices.SortedStableFunc(slices.Values(all), func(a, b string) int {
		switch x, y := slices.Contains(first, a), slices.Contains(first, b); {
		case x == y:
			return 0
		case x:
			return -1
		}
		return 1
	})
}

// makeSlotsBeside makes them in a session of its own.
func (s *server) makeSlotsBeside(ctx context.Context, members []string) error {
	conn, err := s.dial(ctx, map[string]string{"statement_timeout": "5s"})
	if err != nil {
		return errors.New(plain(err))
	}
	defer conn.Close(ctx)
	return s.makeSlots(ctx, func(ctx context.Context, sql string) ([][]string, error) { return rows(ctx, conn, sql) }, members)
}

// dropSlots drops the members' slots from a server's time as a primary, which hold
// back WAL for nobody. One that is still in use goes when its member follows
// another.
func (s *server) dropSlots(ctx context.Context, members []string) error {
	have, err := slots(ctx, s.query, " WHERE slot_type = 'physical' AND NOT active")
	if err != nil {
		return err
	}
	for _, member := range members {
		if slot := slotName(member); slices.Contains(have, slot) {
			if _, err := s.query(ctx, "SELECT pg_drop_replication_slot("+quoteLiteral(slot)+")"); err != nil {
				return fmt.Errorf("drop the replication slot of %s: %w", member, err)
			}
			s.log.Info("dropped the replication slot of a member: this server is a standby", "member", member)
		}
	}
	return nil
}

// asker runs one statement on some session and returns its rows.
type asker func(ctx context.Context, sql string) ([][]string, error)

func slots(ctx context.Context, ask asker, where string) ([]string, error) {
	table, err := ask(ctx, "SELECT slot_name FROM pg_catalog.pg_replication_slots"+where)
	if err != nil {
		return nil, fmt.Errorf("list the replication slots: %w", err)
	}
	var names []string
	for _, row := range table {
		names = append(names, row[0])
	}
	return names, nil
}

// Promote makes the running standby the primary. What it waits for before it
// acknowledges a commit is in force before it can take one.
func (s *server) Promote(ctx context.Context, orders api.MemberOrders) error {
	s.learn(orders)
	recovering, err := s.recovering(ctx)
	if err != nil {
		return err
	}
	if recovering {
		// The others shall find their slots, or try again a moment later. Each takes its
		// time on the disk, while nobody can write.
		var beside sync.WaitGroup
		defer beside.Wait()
		beside.Go(func() {
			if err := s.makeSlotsBeside(ctx, firstOf(orders.Sync, orders.Members)); err != nil {
				s.log.Warn("could not make the slots before the promotion", "error", err)
			}
		})
		if err := s.reload(ctx, api.RolePrimary, orders); err != nil {
			return err
		}
		if err := s.write(s.promotion(), ""); err != nil {
			return err
		}
		if _, err := s.query(ctx, "SELECT pg_promote(false)"); err != nil {
			return fmt.Errorf("promote the standby: %w", err)
		}
		for recovering {
			if err := wait(ctx, reloadTick); err != nil {
				return err
			}
			if recovering, err = s.recovering(ctx); err != nil {
				return err
			}
		}
	}
	s.role, s.synced = api.RolePrimary, false
	if err := s.finishPromotion(s.role); err != nil {
		return err
	}
	// Until the next checkpoint the control file is of the timeline before, by
	// which pg_rewind of the others goes.
	go func() {
		background, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Minute)
		defer cancel()
		if err := s.checkpoint(background); err != nil {
			s.log.Warn("no checkpoint after the promotion", "error", plain(err))
		}
	}()
	return nil
}

func (s *server) recovering(ctx context.Context) (bool, error) {
	table, err := s.query(ctx, "SELECT pg_is_in_recovery()")
	if err != nil || len(table) != 1 {
		return false, fmt.Errorf("ask whether the server is a primary: %s", plain(err))
	}
	return table[0][0] == "t", nil
}

// promotion is a file that exists while a promotion is under way. The server
// removes standby.signal a moment before its control file says that it is a
// primary; killed in between, it would come up as a primary on the old timeline.
func (s *server) promotion() string { return s.dir + ".promotion" }

func (s *server) promoting() bool {
	_, err := os.Lstat(s.promotion())
	return err == nil
}

// finishPromotion clears up after a promotion that has ended or was killed, of data
// that Inspect has found to be of this role.
func (s *server) finishPromotion(role api.Role) error {
	if !s.promoting() {
		return nil
	}
	if role == api.RoleStandby {
		if err := s.write(filepath.Join(s.dir, "standby.signal"), ""); err != nil {
			return err
		}
	}
	return s.remove(s.promotion())
}

// Flush is a checkpoint, so that the one of the shutdown has little to write.
func (s *server) Flush(ctx context.Context) error {
	if err := s.checkpoint(ctx); err != nil {
		return fmt.Errorf("make a checkpoint: %s", plain(err))
	}
	return nil
}

// checkpoint makes one in a session of its own, for as long as ctx allows.
func (s *server) checkpoint(ctx context.Context) error {
	conn, err := s.dial(ctx, map[string]string{"statement_timeout": "0"})
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = rows(ctx, conn, "CHECKPOINT")
	return err
}

// remove removes a file of the volume's root for good.
func (s *server) remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}
