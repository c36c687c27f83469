package postgresql

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openmanage/openmanage/internal/api"
)

// standbyDiagnosis is what a standby that does not stream learns by asking its
// primary itself.
type standbyDiagnosis struct {
	message  string
	ready    bool // nothing speaks against streaming
	hopeless bool // trying again does not help
	at       time.Time
}

// diagnosisInterval is between two questions to the primary while a standby does
// not stream.
const diagnosisInterval = 5 * time.Second

// askPrimary asks the primary, over the replication protocol, whether a standby
// with this timeline and position (0: none yet) can follow it (documentation of
// PostgreSQL, "Streaming Replication Protocol").
func (s *server) askPrimary(ctx context.Context, orders api.MemberOrders, timeline int, position uint64) standbyDiagnosis {
	d := standbyDiagnosis{at: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	host, port := s.address(orders.Primary)
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=replication sslmode=prefer passfile='' application_name=openmanage", host, port, replicator))
	if err != nil {
		d.message = plain(err)
		return d
	}
	config.Password = s.replicatorPassword
	config.RuntimeParams["replication"] = "true"
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		d.message = fmt.Sprintf("waiting for the primary %s: %s", orders.Primary, plain(err))
		return d
	}
	defer conn.Close(ctx)
	table, err := rows(ctx, conn, "IDENTIFY_SYSTEM")
	if err != nil || len(table) != 1 || len(table[0]) < 3 {
		d.message = fmt.Sprintf("the primary %s does not say which database it is: %s", orders.Primary, plain(errors.Join(err)))
		return d
	}
	system, theirs, end := table[0][0], atoi(table[0][1]), parseLSN(table[0][2])
	want := orders.SystemID
	if s.systemID != "" {
		want = s.systemID
	}
	d.hopeless = true
	switch {
	case want != "" && system != want:
		d.message = fmt.Sprintf("%s runs another database (system ID %s) than this member follows (%s)", orders.Primary, system, want)
		return d
	case timeline > theirs:
		d.message = fmt.Sprintf("this standby is on timeline %d, %s on %d: it cannot follow and needs a fresh copy", timeline, orders.Primary, theirs)
		return d
	case timeline == theirs && position > end:
		d.message = fmt.Sprintf("this standby has WAL that %s has not (%d bytes more): it cannot follow and needs a fresh copy", orders.Primary, position-end)
		return d
	}
	d.hopeless = false
	slot, err := rows(ctx, conn, "READ_REPLICATION_SLOT "+slotName(s.member))
	switch {
	case err != nil: // not before PostgreSQL 15
		d.ready = true
	case len(slot) == 0 || slot[0][0] == "":
		d.message = fmt.Sprintf("waiting until %s has made the replication slot of this member", orders.Primary)
		return d
	case slot[0][1] == "" && position > 0:
		d.hopeless = true
		d.message = fmt.Sprintf("%s no longer has the WAL that this standby needs (its slot went over max_slot_wal_keep_size): it needs a fresh copy", orders.Primary)
		return d
	}
	d.ready = true
	d.message = "connecting to " + orders.Primary
	return d
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
