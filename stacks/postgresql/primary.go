package postgresql

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/openmanage/openmanage/internal/api"
)

// standbyDiagnosis is what a standby that does not stream learns by asking its
// primary itself.
type standbyDiagnosis struct {
	message  string
	ready    bool // nothing speaks against streaming
	hopeless bool // trying again does not help
	diverged bool // but another copy of the data does
	lost     bool // the primary seems to lack WAL that it needs
	primary  string
	at       time.Time
}

// diagnosisInterval is between two questions to the primary while a standby does
// not stream.
const diagnosisInterval = 5 * time.Second

// askPrimary asks the primary, over the replication protocol, whether a standby
// with this timeline and position (0: none yet) can follow it (documentation of
// PostgreSQL, "Streaming Replication Protocol"). Only of a server that is a primary
// itself, and not about to become one, is it said that it can never be followed.
// The position is that up to which it has applied the log: what it has received
// beyond, such as a part of a record, it can still exchange.
func (s *server) askPrimary(ctx context.Context, orders api.MemberOrders, timeline int, position uint64) standbyDiagnosis {
	d := standbyDiagnosis{at: time.Now(), primary: orders.Primary}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := s.dialPrimary(ctx, orders.Primary, replicator, s.replicatorPassword, map[string]string{"replication": "true"})
	if err != nil {
		d.message = fmt.Sprintf("waiting for the primary %s: %s", orders.Primary, plain(err))
		return d
	}
	defer conn.Close(ctx)
	table, err := rows(ctx, conn, "IDENTIFY_SYSTEM")
	if err != nil || len(table) != 1 || len(table[0]) < 3 {
		d.message = fmt.Sprintf("the primary %s does not say which database it is: %s", orders.Primary, plain(err))
		return d
	}
	system, theirs, end := table[0][0], atoi(table[0][1]), parseLSN(table[0][2])
	want := orders.SystemID
	if s.systemID != "" {
		want = s.systemID
	}
	if want != "" && system != want {
		d.hopeless = true
		d.message = fmt.Sprintf("%s runs another database (system ID %s) than this member follows (%s)", orders.Primary, system, want)
		return d
	}
	if conn.ParameterStatus("in_hot_standby") != "off" {
		d.message = fmt.Sprintf("waiting until %s is the primary", orders.Primary)
		return d
	}
	switch {
	case timeline == 0:
	case timeline > theirs:
		d.message = fmt.Sprintf("this standby is on timeline %d, %s on %d", timeline, orders.Primary, theirs)
	case timeline == theirs && position > end:
		d.message = fmt.Sprintf("this standby has WAL that %s has not (%d bytes more)", orders.Primary, position-end)
	case timeline < theirs:
		history, err := rows(ctx, conn, fmt.Sprintf("TIMELINE_HISTORY %d", theirs))
		if err != nil || len(history) != 1 || len(history[0]) < 2 {
			d.message = fmt.Sprintf("%s does not tell the history of its timeline %d: %s", orders.Primary, theirs, plain(err))
			return d
		}
		if fork := parseHistory(history[0][1])[timeline]; position > fork {
			d.message = fmt.Sprintf("this standby has WAL of timeline %d that %s has not (%d bytes more)", timeline, orders.Primary, position-fork)
		}
	}
	if d.message != "" {
		d.message += ": it cannot follow and needs a fresh copy"
		d.hopeless, d.diverged = true, true
		return d
	}
	slot, err := rows(ctx, conn, "READ_REPLICATION_SLOT "+slotName(s.member))
	switch {
	case err != nil: // not before PostgreSQL 15
		d.ready = true
	case len(slot) == 0 || slot[0][0] == "":
		d.message = fmt.Sprintf("waiting until %s has made the replication slot of this member", orders.Primary)
		return d
	case position == 0:
		d.ready = true
	case slot[0][1] == "":
		d.lost = true
	case parseLSN(slot[0][1]) <= position:
		d.ready = true
	}
	// Its slot does not have what is needed: of a new primary, it began with the
	// promotion. But the WAL may be there still.
	if !d.ready && !d.lost || err != nil && position > 0 {
		d.lost = !hasLog(ctx, conn, timeline, position)
		d.ready = !d.lost
	}
	d.message = "connecting to " + orders.Primary
	if d.lost {
		d.message = fmt.Sprintf("%s no longer has the WAL that this standby needs (max_slot_wal_keep_size, wal_keep_size): it needs a fresh copy", orders.Primary)
	}
	return d
}

// hasLog tries whether the primary sends WAL from where a receiver would begin, and
// gives false if it says that it has it no more. The connection is of no use then.
func hasLog(ctx context.Context, conn *pgconn.PgConn, timeline int, position uint64) bool {
	const segment = 16 << 20
	start := position / segment * segment
	conn.Frontend().SendQuery(&pgproto3.Query{String: fmt.Sprintf("START_REPLICATION PHYSICAL %X/%X TIMELINE %d", start>>32, start&0xffffffff, timeline)})
	if conn.Frontend().Flush() != nil {
		return true
	}
	for {
		message, err := conn.ReceiveMessage(ctx)
		if err != nil {
			var refused *pgconn.PgError
			return !errors.As(err, &refused) || refused.Code != undefinedFile
		}
		switch m := message.(type) {
		case *pgproto3.CopyData:
			return true
		case *pgproto3.ErrorResponse:
			return m.Code != undefinedFile
		}
	}
}

// undefinedFile is the SQLSTATE of "requested WAL segment … has already been removed".
const undefinedFile = "58P01"

// parseHistory reads where each timeline in a history file was left (documentation
// of PostgreSQL, "Timelines"): lines of timeline, position and a reason.
func parseHistory(text string) map[int]uint64 {
	forks := map[int]uint64{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) >= 2 && atoi(fields[0]) != 0 {
			forks[atoi(fields[0])] = parseLSN(fields[1])
		}
	}
	return forks
}

func atoi(s string) int {
	n, _ := strconv.Atoi(s)
	return n
}

// parseLSN reads a position in the WAL, such as 16/B374D848, as bytes.
func parseLSN(s string) uint64 {
	high, low, _ := strings.Cut(s, "/")
	h, _ := strconv.ParseUint(high, 16, 32)
	l, _ := strconv.ParseUint(low, 16, 32)
	return h<<32 | l
}
