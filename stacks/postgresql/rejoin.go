package postgresql

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/memberagent"
)

// Rejoin makes the data follow the primary by the cheapest means that does: as it
// is, if the primary's history goes on from its last record; with pg_rewind; with a
// fresh copy, which a rebuild wants and which other orders may want to be told of first.
func (s *server) Rejoin(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	s.learn(orders)
	began := time.Now()
	var data memberagent.Data
	var err error
	if orders.Rebuild != "" {
		err = s.finishSwap()
		data = memberagent.Data{Stale: true, SystemID: orders.SystemID}
	} else {
		data, err = s.Inspect(ctx)
	}
	if err != nil {
		return err
	}
	s.systemID = data.SystemID
	if err := s.awaitPrimary(ctx, orders, progress); err != nil {
		return err
	}
	progress("making its data follow " + orders.Primary)
	var means string
	if !data.Stale {
		means, err = s.rewind(ctx, orders, data, progress)
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		var hopeless *memberagent.NeedsCopyError
		if err != nil && !errors.As(err, &hopeless) {
			return err // and try again
		}
	} else if orders.Rebuild == "" {
		err = cannotRewind("it is half replaced by another's, or of another history")
	}
	if err != nil && orders.CopyOnOrder {
		return err
	}
	if means == "" {
		means = "a fresh copy"
		if orders.Rebuild != "" {
			s.log.Info("replacing the data by a copy of the primary's, as ordered", "operation", orders.Rebuild)
		} else {
			s.log.Warn("the data cannot be rewound; copying the primary's", "error", err)
		}
		if err := s.replace(ctx, orders, progress); err != nil {
			return err
		}
	}
	s.log.Info("the data can follow the primary", "primary", orders.Primary, "means", means, "took", time.Since(began))
	return nil
}

// cannotRewind: only a fresh copy makes the data follow.
func cannotRewind(format string, args ...any) error {
	return &memberagent.NeedsCopyError{Why: fmt.Errorf(format, args...)}
}

// rewind makes whole data a standby's that can follow the primary, and says by what
// means. If it cannot be done the error is a *memberagent.NeedsCopyError.
func (s *server) rewind(ctx context.Context, orders api.MemberOrders, data memberagent.Data, progress memberagent.Progress) (string, error) {
	timeline, forks, err := s.primaryHistory(ctx, orders)
	if err != nil {
		return "", err
	}
	// Two that became primaries of the same number both went their own way, and
	// pg_rewind would take them for one.
	if timeline == data.Timeline {
		return "", cannotRewind("it is on the primary's own timeline %d and does not follow", timeline)
	}
	if data.Role == api.RolePrimary && data.Position == 0 {
		// Killed. pg_rewind would do this too, but after the data is marked.
		progress("recovering its own data first")
		if err := s.recover(ctx, orders); err != nil {
			return "", err
		}
		if data, err = s.Inspect(ctx); err != nil {
			return "", err
		}
	}
	control, err := s.controlData(ctx, s.dir)
	if err != nil {
		return "", err
	}
	if state := control["Database cluster state"]; data.Role == api.RoleStandby && state != "shut down in recovery" {
		return "", cannotRewind("the standby was not stopped in order (%s)", state)
	}
	signal := filepath.Join(s.dir, "standby.signal")
	fork, common := forks[data.Timeline]
	if common {
		if err := s.compareLog(ctx, orders, control, data, fork); err != nil {
			return "", err
		}
	}
	switch {
	case fork < data.Position:
	case data.Role == api.RolePrimary: // stopped in order, and the primary has all of it
		return "nothing to rewind", s.write(signal, "")
	default:
		return "", cannotRewind("there is nothing to rewind; it lacks what %s no longer has", orders.Primary)
	}
	progress("rewinding its data to where " + orders.Primary + " left it")
	// pg_rewind goes by the primary's control file, which is of the timeline before
	// until a checkpoint.
	if err := s.checkpointPrimary(ctx, orders); err != nil {
		return "", fmt.Errorf("make a checkpoint on %s: %w", orders.Primary, err)
	}
	host, port := s.address(orders.Primary)
	passfile := filepath.Join(s.volume, superfileName)
	if err := s.write(passfile, passLine(s.superuser, s.superuserPassword)); err != nil {
		return "", err
	}
	defer s.remove(passfile) //nolint:errcheck // Start removes it too
	if err := s.write(s.marker(), data.SystemID+"\n"); err != nil {
		return "", err
	}
	failpoint.Hit("rejoin:marked")
	rewind := s.quiet("pg_rewind", "-D", s.dir, "--source-server",
		fmt.Sprintf("host=%s port=%d user=%s dbname=postgres passfile='%s' application_name=%s connect_timeout=5 keepalives_idle=5 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=10000 options='-c synchronous_commit=local'", host, port, s.superuser, passfile, ownName))
	if _, err := s.processes.Output(ctx, rewind); err != nil {
		return "", cannotRewind("pg_rewind: %w", err)
	}
	failpoint.Hit("rejoin:rewound")
	// Before anything else: without it the data is a second primary's.
	if err := s.write(signal, ""); err != nil {
		return "", err
	}
	return "pg_rewind", s.remove(s.marker())
}

// recover brings the data of a primary that was killed into the state of one that
// was stopped in order.
func (s *server) recover(ctx context.Context, orders api.MemberOrders) error {
	if err := s.removeStale(); err != nil {
		return err
	}
	if err := s.ownDirectory(); err != nil {
		return err
	}
	alone := orders
	alone.Sync = nil
	if err := s.begin(orders); err != nil {
		return err
	}
	if _, err := s.configure(s.dir, api.RolePrimary, alone); err != nil {
		return err
	}
	if _, err := s.processes.Output(ctx, s.quiet("postgres", "--single", "-D", s.dir, "template1")); err != nil {
		return cannotRewind("recover the data of the former primary: %w", err)
	}
	return nil
}

// compareLog compares the last common piece of the log of the data's timeline, which
// the primary left at fork, with the primary's. Two servers that were promoted apart
// from each other call their timelines by the same number, and neither the history
// nor pg_rewind tells them apart. If the primary has that piece no more, pg_rewind
// would not do either.
func (s *server) compareLog(ctx context.Context, orders api.MemberOrders, control controlData, data memberagent.Data, fork uint64) error {
	segment := parseBytes(control["Bytes per WAL segment"])
	if segment == 0 {
		return errors.New("pg_controldata does not say the size of a WAL segment")
	}
	// The 24 bytes at the beginning of a record have its checksum.
	const header = 24
	start := parseLSN(control["Latest checkpoint location"])
	if fork <= start {
		start = max(fork-header, fork/segment*segment)
		if fork%segment == 0 {
			start = fork - header
		}
	}
	offset := start % segment
	length := min(header, segment-offset)
	perID := (uint64(1) << 32) / segment
	name := fmt.Sprintf("pg_wal/%08X%08X%08X", data.Timeline, start/segment/perID, start/segment%perID)
	file, err := os.Open(filepath.Join(s.dir, name))
	if err != nil {
		return cannotRewind("read the log: %w", err)
	}
	defer file.Close()
	mine := make([]byte, length)
	if _, err := file.ReadAt(mine, int64(offset)); err != nil {
		return cannotRewind("read the log: %w", err)
	}
	conn, err := s.dialPrimary(ctx, orders.Primary, s.superuser, s.superuserPassword, nil)
	if err != nil {
		return errors.New(plain(err))
	}
	defer conn.Close(ctx)
	table, err := rows(ctx, conn, fmt.Sprintf("SELECT encode(pg_read_binary_file(%s, %d, %d), 'hex')", quoteLiteral(name), offset, length))
	var refused *pgconn.PgError
	switch {
	case errors.As(err, &refused):
		return cannotRewind("read the log of %s: %w", orders.Primary, err)
	case err != nil || len(table) != 1:
		return fmt.Errorf("read the log of %s: %s", orders.Primary, plain(err))
	}
	if table[0][0] != hex.EncodeToString(mine) {
		return cannotRewind("its timeline %d and the one that %s has come from have nothing but the number in common", data.Timeline, orders.Primary)
	}
	return nil
}

// primaryHistory asks the primary for its timeline and where it left those before.
func (s *server) primaryHistory(ctx context.Context, orders api.MemberOrders) (int, map[int]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := s.dialPrimary(ctx, orders.Primary, replicator, s.replicatorPassword, map[string]string{"replication": "true"})
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close(ctx)
	table, err := rows(ctx, conn, "IDENTIFY_SYSTEM")
	if err != nil || len(table) != 1 || len(table[0]) < 2 {
		return 0, nil, fmt.Errorf("ask %s for its timeline: %s", orders.Primary, plain(err))
	}
	timeline := atoi(table[0][1])
	if timeline == 1 {
		return timeline, nil, nil // the first has no history
	}
	history, err := rows(ctx, conn, fmt.Sprintf("TIMELINE_HISTORY %d", timeline))
	if err != nil || len(history) != 1 || len(history[0]) < 2 {
		return 0, nil, fmt.Errorf("ask %s for the history of its timeline: %s", orders.Primary, plain(err))
	}
	return timeline, parseHistory(history[0][1]), nil
}

// checkpointPrimary makes a checkpoint on the primary.
func (s *server) checkpointPrimary(ctx context.Context, orders api.MemberOrders) error {
	conn, err := s.dialPrimary(ctx, orders.Primary, s.superuser, s.superuserPassword, nil)
	if err != nil {
		return errors.New(plain(err))
	}
	defer conn.Close(ctx)
	_, err = rows(ctx, conn, "CHECKPOINT")
	return err
}

// marker is a file that exists while pg_rewind may have changed the data, with the
// system ID of the data.
func (s *server) marker() string { return s.dir + ".rejoin" }

// rejoining returns the system ID of data that pg_rewind was killed on, or "".
func (s *server) rejoining() (string, error) {
	data, err := os.ReadFile(s.marker())
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look whether the data is half rewound: %w", err)
	}
	id := strings.TrimSpace(string(data))
	if id == "" {
		return "", fmt.Errorf("%s is empty: the data in %s is half rewound and not to be used; remove both for a fresh copy, if another member has the data", s.marker(), s.dir)
	}
	return id, nil
}

// A replacement of the data directory goes by renames, each of which a crash
// survives: a whole copy gets the name copied, the data becomes replaced, the copy
// becomes the data, and replaced is deleted. finishSwap knows from the names that
// exist how far it was.
func (s *server) copied() string   { return s.dir + ".copied" }
func (s *server) replaced() string { return s.dir + ".replaced" }

// replace puts a fresh copy of the primary's database in the place of the data.
func (s *server) replace(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	need, err := s.databaseSize(ctx, orders)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(s.temporary()); err != nil {
		return fmt.Errorf("remove what is left of an earlier copy: %w", err)
	}
	var volume unix.Statfs_t
	if err := unix.Statfs(s.volume, &volume); err != nil {
		return fmt.Errorf("ask for the free space of the data volume: %w", err)
	}
	if free := int64(volume.Bavail) * volume.Bsize; free < need {
		progress(fmt.Sprintf("removing the old data first: a copy needs %s beside it, and %s are free", units.BytesSize(float64(need)), units.BytesSize(float64(free))))
		s.log.Warn("removing the old data before the copy: there is no space for both", "need", need, "free", free)
		// The same names as at the end of a replacement, but with no copy.
		if err := s.rename(s.dir, s.replaced()); err != nil {
			return err
		}
		if err := s.finishSwap(); err != nil {
			return err
		}
		failpoint.Hit("rejoin:removed")
		if err := s.copyPrimary(ctx, orders, progress); err != nil {
			return err
		}
		return s.takeOver(s.temporary())
	}
	if err := s.copyPrimary(ctx, orders, progress); err != nil {
		return err
	}
	if err := s.rename(s.temporary(), s.copied()); err != nil {
		return err
	}
	failpoint.Hit("rejoin:copied")
	return s.finishSwap()
}

// finishSwap finishes a replacement that was begun, from wherever it was killed.
func (s *server) finishSwap() error {
	copied, err := exists(filepath.Dir(s.dir), filepath.Base(s.copied()))
	if err != nil {
		return err
	}
	replaced, err := exists(filepath.Dir(s.dir), filepath.Base(s.replaced()))
	if err != nil || !copied && !replaced {
		return err
	}
	data, err := exists(filepath.Dir(s.dir), filepath.Base(s.dir))
	if err != nil {
		return err
	}
	s.log.Info("replacing the data directory", "copy", copied, "data", data, "replaced", replaced)
	if copied && data {
		if replaced { // nobody makes this
			return fmt.Errorf("there are %s, %s and %s: it is not clear which is the data; look at them and remove those that are not", s.dir, s.copied(), s.replaced())
		}
		if err := s.rename(s.dir, s.replaced()); err != nil {
			return err
		}
		failpoint.Hit("rejoin:parted")
	}
	if copied {
		if err := s.rename(s.copied(), s.dir); err != nil {
			return err
		}
		failpoint.Hit("rejoin:swapped")
	}
	// The marker is of the data that was replaced.
	if err := s.remove(s.marker()); err != nil {
		return err
	}
	if err := os.RemoveAll(s.replaced()); err != nil {
		return fmt.Errorf("remove the data that was replaced: %w", err)
	}
	return syncDir(filepath.Dir(s.dir))
}

func (s *server) rename(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return fmt.Errorf("replace the data directory: %w", err)
	}
	return syncDir(filepath.Dir(s.dir))
}

// databaseSize is how many bytes a copy of the primary takes, and a little more.
func (s *server) databaseSize(ctx context.Context, orders api.MemberOrders) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := s.dialPrimary(ctx, orders.Primary, s.superuser, s.superuserPassword, nil)
	if err != nil {
		return 0, fmt.Errorf("ask %s for its size: %s", orders.Primary, plain(err))
	}
	defer conn.Close(ctx)
	table, err := rows(ctx, conn, "SELECT (sum(pg_database_size(oid)) * 1.05)::bigint + 128 * 1024 * 1024 FROM pg_catalog.pg_database")
	if err != nil || len(table) != 1 {
		return 0, fmt.Errorf("ask %s for its size: %s", orders.Primary, plain(err))
	}
	return int64(parseBytes(table[0][0])), nil
}
