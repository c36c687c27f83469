package postgresql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// probeQuery asks for everything at once. latest_end_lsn is the end of the
// primary's WAL as it last said; a CASE keeps functions that recovery forbids from
// being called.
const probeQuery = `
SELECT recovering,
       CASE WHEN recovering THEN coalesce(receiver.received_tli, 0)
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
       pg_wal_lsn_diff(CASE WHEN recovering THEN greatest(received, replayed, '0/0') ELSE pg_current_wal_lsn() END, '0/0')::bigint,
       coalesce(receiver.status = 'streaming', false),
       greatest(pg_wal_lsn_diff(receiver.latest_end_lsn, replayed), 0)::bigint,
       CASE WHEN received = replayed THEN 0
            ELSE greatest(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0) END,
       CASE WHEN recovering THEN 0 ELSE (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum')) END,
       current_setting('synchronous_standby_names'),
       pg_wal_lsn_diff(coalesce(replayed, '0/0'), '0/0')::bigint
FROM (SELECT pg_is_in_recovery() AS recovering, pg_last_wal_receive_lsn() AS received, pg_last_wal_replay_lsn() AS replayed) own
LEFT JOIN pg_stat_wal_receiver receiver ON true`

// Probe asks the server itself. It is the one query a second that the engine
// costs, while all is well.
func (s *server) Probe(ctx context.Context, orders api.MemberOrders) memberagent.Probe {
	s.learn(orders)
	p := memberagent.Probe{LagBytes: -1, LagSeconds: -1, Refused: s.refused, PendingRestart: s.pending, PrimaryFirst: s.primaryFirst}
	table, err := s.query(ctx, probeQuery)
	if err == nil && len(table) != 1 {
		err = fmt.Errorf("%d rows instead of one", len(table))
	}
	if err != nil {
		p.Message = "the server does not answer: " + plain(err)
		return p
	}
	row := table[0]
	p.Up = true
	p.Timeline, p.Position = atoi(row[1]), parseBytes(row[2])
	p.Version, _, _ = strings.Cut(s.conn.ParameterStatus("server_version"), " ") // 17.2 (Debian 17.2-1)
	if row[0] != "t" {
		p.Role, p.Healthy = api.RolePrimary, true
		p.LagBytes, p.LagSeconds = 0, 0
		p.SyncNames = synchronousNames(row[7])
		p.Sync = p.SyncNames != nil
		if p.Sync && row[6] == "0" {
			p.Message = "no standby streams: commits wait for one of " + strings.Join(p.SyncNames, ", ")
		}
		return p
	}
	p.Role = api.RoleStandby
	primary := s.follows(orders)
	if row[3] == "t" && primary != "" {
		p.Streaming, p.Healthy = true, true
		p.LagBytes = parseLag(row[4])
		if seconds, err := strconv.ParseFloat(row[5], 64); err == nil {
			p.LagSeconds = seconds
		}
		p.Sync = slices.Contains(orders.Sync, s.member)
		s.why, s.idle = standbyDiagnosis{}, idleness{}
		return p
	}
	// Without a receiver no view says on which timeline the data is: the control
	// file's is that of the last checkpoint.
	identified := s.identify(ctx, &p)
	switch {
	case primary == "":
		p.Message = "the primary is being changed"
		s.idle = idleness{}
	case s.followed != primary: // it will be told now
		p.Message = "connecting to " + primary
		s.idle = idleness{}
	case identified != nil:
		p.Message = fmt.Sprintf("connecting to %s; its own WAL sender does not answer: %s", primary, plain(identified))
		s.idle = idleness{}
	default:
		if s.why.primary != primary || time.Since(s.why.at) > diagnosisInterval {
			last := s.why
			s.why = s.askPrimary(ctx, orders, p.Timeline, parseBytes(row[8]))
			// A slot that is just being made has no WAL for a moment.
			s.why.diverged = s.why.diverged || s.why.lost && last.lost && last.primary == primary
		}
		p.Message, p.Diverged = s.why.message, s.why.diverged
		p.Stuck = s.idle.stuck(s.why, row[8], time.Now())
	}
	return p
}

// stuckAfter is for how long a standby must have done nothing, without a reason, before
// its server is started again.
const stuckAfter = 30 * time.Second

// idleness is what a standby that does not stream, though it could, was seen at.
type idleness struct {
	primary string
	applied string // position up to which it has applied the log
	since   time.Time
}

// stuck tells whether nothing has stood in the way of streaming for stuckAfter, and the
// server has applied nothing meanwhile: one that has log of its own to apply connects only
// after that.
func (i *idleness) stuck(why standbyDiagnosis, applied string, now time.Time) bool {
	if !why.ready {
		*i = idleness{}
		return false
	}
	if i.primary != why.primary || i.applied != applied {
		*i = idleness{primary: why.primary, applied: applied, since: now}
	}
	return now.Sub(i.since) > stuckAfter
}

// identify asks a standby, over the replication protocol, for the timeline that it
// is on and the position that it has flushed or applied there.
func (s *server) identify(ctx context.Context, p *memberagent.Probe) error {
	conn, err := s.dial(ctx, map[string]string{"replication": "true"})
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	table, err := rows(ctx, conn, "IDENTIFY_SYSTEM")
	if err == nil && (len(table) != 1 || len(table[0]) < 3) {
		err = errors.New("IDENTIFY_SYSTEM gives no row")
	}
	if err != nil {
		return err
	}
	p.Timeline, p.Position = atoi(table[0][1]), parseLSN(table[0][2])
	return nil
}

func parseBytes(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64)
	return n
}

func parseLag(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return n
}
