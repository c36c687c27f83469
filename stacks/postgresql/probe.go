package postgresql

import (
	"context"
	"fmt"
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
       CASE WHEN recovering THEN coalesce(receiver.received_tli, control.timeline_id)
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,
       pg_wal_lsn_diff(CASE WHEN recovering THEN greatest(received, replayed, '0/0') ELSE pg_current_wal_lsn() END, '0/0')::bigint,
       coalesce(receiver.status = 'streaming', false),
       greatest(pg_wal_lsn_diff(receiver.latest_end_lsn, replayed), 0)::bigint,
       CASE WHEN received = replayed THEN 0
            ELSE greatest(extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()), 0) END,
       CASE WHEN recovering THEN 0 ELSE (SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'openmanage') END,
       current_setting('synchronous_standby_names') <> ''
FROM (SELECT pg_is_in_recovery() AS recovering, pg_last_wal_receive_lsn() AS received, pg_last_wal_replay_lsn() AS replayed) own
CROSS JOIN pg_control_checkpoint() control
LEFT JOIN pg_stat_wal_receiver receiver ON true`

// Probe asks the server itself. It is the one query a second that the engine
// costs.
func (s *server) Probe(ctx context.Context, orders api.MemberOrders) memberagent.Probe {
	p := memberagent.Probe{LagBytes: -1, LagSeconds: -1}
	table, err := s.query(ctx, probeQuery)
	if err == nil && len(table) != 1 {
		err = fmt.Errorf("%d rows instead of one", len(table))
	}
	if err != nil {
		p.Message = "the server does not answer: " + plain(err)
		return p
	}
	row := table[0]
	streaming := row[3] == "t"
	p.Up = true
	p.Timeline = atoi(row[1])
	p.Position, _ = strconv.ParseUint(row[2], 10, 64)
	p.Version, _, _ = strings.Cut(s.conn.ParameterStatus("server_version"), " ") // 17.2 (Debian 17.2-1)
	if row[0] != "t" {
		p.Role, p.Healthy = api.RolePrimary, true
		p.LagBytes, p.LagSeconds = 0, 0
		p.Sync = row[7] == "t"
		if p.Sync && row[6] == "0" {
			p.Message = "no standby streams: commits wait for one"
		}
		return p
	}
	p.Role, p.Streaming, p.Healthy = api.RoleStandby, streaming, streaming
	if streaming {
		p.LagBytes = parseLag(row[4])
		if seconds, err := strconv.ParseFloat(row[5], 64); err == nil {
			p.LagSeconds = seconds
		}
		// With ANY 1 each standby that streams belongs to the quorum's candidates.
		p.Sync = orders.SyncMode == "quorum" && len(orders.Members) >= quorumMembers
		s.why = standbyDiagnosis{}
		return p
	}
	if time.Since(s.why.at) > diagnosisInterval {
		s.why = s.askPrimary(ctx, orders, p.Timeline, p.Position)
	}
	p.Message = s.why.message
	return p
}

func parseLag(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return -1
	}
	return n
}

// Adapt brings configuration, roles and replication slots in line with the
// orders.
func (s *server) Adapt(ctx context.Context, orders api.MemberOrders) error {
	text, err := s.settings(s.role, orders)
	if err != nil {
		return err
	}
	if text != s.loaded {
		if _, err := s.configure(s.dir, s.role, orders); err != nil {
			return err
		}
		if _, err := s.query(ctx, "SELECT pg_reload_conf()"); err != nil {
			return fmt.Errorf("reload the configuration: %w", err)
		}
		s.loaded = text
		s.log.Info("reloaded the configuration for changed orders")
	}
	if s.role != api.RolePrimary {
		return nil
	}
	if !s.synced {
		if err := s.syncRoles(ctx); err != nil {
			return err
		}
		s.synced = true
	}
	return s.makeSlots(ctx, orders.Members)
}

// makeSlots makes the replication slots of the other members. They reserve WAL at
// once, so that none is missing when a copy begins. A slot of a member that is no
// more is not dropped: what it holds back is bounded, and scaling in drops it.
func (s *server) makeSlots(ctx context.Context, members []string) error {
	table, err := s.query(ctx, "SELECT slot_name FROM pg_catalog.pg_replication_slots")
	if err != nil {
		return fmt.Errorf("list the replication slots: %w", err)
	}
	have := map[string]bool{}
	for _, row := range table {
		have[row[0]] = true
	}
	for _, member := range members {
		if slot := slotName(member); member != s.member && !have[slot] {
			if _, err := s.query(ctx, "SELECT pg_create_physical_replication_slot("+quoteLiteral(slot)+", true)"); err != nil {
				return fmt.Errorf("make the replication slot of %s: %w", member, err)
			}
			s.log.Info("made the replication slot of a member", "member", member)
		}
	}
	return nil
}
