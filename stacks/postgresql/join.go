package postgresql

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/docker/go-units"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// Join copies the primary's database with pg_basebackup into a folder of its own
// and renames it when it is whole.
func (s *server) Join(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	s.learn(orders)
	s.systemID = orders.SystemID
	if err := s.awaitPrimary(ctx, orders, progress); err != nil {
		return err
	}
	if err := s.copyPrimary(ctx, orders, progress); err != nil {
		return err
	}
	return s.takeOver(s.temporary())
}

// awaitPrimary waits until the ordered primary is one and can be copied or followed.
func (s *server) awaitPrimary(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	if err := s.writePassfile(); err != nil {
		return err
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		d := s.askPrimary(ctx, orders, 0, 0)
		if d.hopeless {
			return errors.New(d.message)
		}
		if d.ready {
			return nil
		}
		progress(d.message)
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
}

// copyPrimary makes a whole copy of the primary's database, of a standby, in the
// folder for a data directory in the making.
func (s *server) copyPrimary(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	if err := s.renewSlot(ctx, orders); err != nil {
		return err
	}
	dir := s.temporary()
	if err := s.freshDirectory(dir); err != nil {
		return err
	}
	progress("copying the database of " + orders.Primary)
	// The application name must not be the member's: a copy that streams WAL with
	// a slot reports what it has flushed, and by that name the primary would take
	// it for a synchronous standby and acknowledge commits that only a half-made
	// copy has.
	backup := s.command("pg_basebackup", "-D", dir, "-X", "stream", "-S", slotName(s.member),
		"-c", "fast", "-P", "--no-password", "-d", s.conninfo(orders.Primary, s.member+" copy"))
	backup.Stderr = &progressWriter{primary: orders.Primary, progress: progress}
	if err := s.processes.Run(ctx, backup); err != nil {
		return fmt.Errorf("copy the database of %s with pg_basebackup: %w; its output is in the container's log; it is tried again", orders.Primary, err)
	}
	control, err := s.controlData(ctx, dir)
	if err != nil {
		return err
	}
	if id := control["Database system identifier"]; orders.SystemID != "" && id != orders.SystemID {
		return fmt.Errorf("%s gave a copy of another database (system ID %s) than the application's (%s); the copy is not used", orders.Primary, id, orders.SystemID)
	}
	// Before it gets its name: without it the copy would be a second primary.
	return s.write(filepath.Join(dir, "standby.signal"), "")
}

// renewSlot makes this member's slot on the primary anew, if it has lost what it
// should keep: a copy cannot use it as it is.
func (s *server) renewSlot(ctx context.Context, orders api.MemberOrders) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := s.dialPrimary(ctx, orders.Primary, s.superuser, s.superuserPassword, map[string]string{"synchronous_commit": "local"})
	if err != nil {
		return fmt.Errorf("ask %s for this member's slot: %s", orders.Primary, plain(err))
	}
	defer conn.Close(ctx)
	slot := quoteLiteral(slotName(s.member))
	table, err := rows(ctx, conn, "SELECT pg_drop_replication_slot(slot_name), pg_create_physical_replication_slot(slot_name, true) FROM pg_catalog.pg_replication_slots WHERE slot_name = "+slot+" AND wal_status = 'lost' AND NOT active")
	if err != nil {
		return fmt.Errorf("make this member's slot on %s anew: %s", orders.Primary, plain(err))
	}
	if len(table) > 0 {
		s.log.Info("made the slot of this member anew, which had lost its WAL", "primary", orders.Primary)
	}
	return nil
}

// progressWriter takes pg_basebackup's standard error: its progress becomes the
// member's message, the rest goes to the container's log.
type progressWriter struct {
	primary  string
	progress memberagent.Progress
	line     []byte
}

// "  40963/1056786 kB (3%), 0/1 tablespace"
var progressLine = regexp.MustCompile(`^\s*(\d+)/(\d+) kB \((\d+)%\)`)

func (w *progressWriter) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' && c != '\r' {
			w.line = append(w.line, c)
			continue
		}
		if m := progressLine.FindSubmatch(w.line); m != nil {
			done, _ := strconv.ParseFloat(string(m[1]), 64)
			total, _ := strconv.ParseFloat(string(m[2]), 64)
			w.progress(fmt.Sprintf("copying the database of %s: %s of %s (%s%%)", w.primary, units.BytesSize(done*1024), units.BytesSize(total*1024), m[3]))
		} else if len(w.line) > 0 {
			fmt.Fprintf(os.Stderr, "%s\n", w.line)
		}
		w.line = w.line[:0]
	}
	return len(p), nil
}
