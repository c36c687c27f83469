package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openmanage/openmanage/testenv/workload/history"
)

const (
	connectTimeout = time.Second
	// soon is how often a worker asks the scout for a primary while there is none.
	soon = 50 * time.Millisecond
	// look is how often each member is asked whether it is the primary.
	look = 100 * time.Millisecond
)

type dialFunc func(ctx context.Context, member string) (*pgconn.PgConn, error)

func dialer(password string) dialFunc {
	return func(ctx context.Context, member string) (*pgconn.PgConn, error) {
		config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s user=postgres dbname=postgres sslmode=disable passfile=''", member))
		if err != nil {
			return nil, err
		}
		config.Password, config.ConnectTimeout = password, connectTimeout
		return pgconn.ConnectConfig(ctx, config)
	}
}

// scout keeps a connection to every member and asks each who it is. So workers know
// whom to connect to, and none waits for members that are away.
type scout struct {
	members []string
	dial    dialFunc
	log     *log
	retry   time.Duration // how soon a connection that failed is tried again

	mu    sync.Mutex
	reign *reign
}

// reign is the time in which a member is the primary. Its context ends when another
// is: whatever still waits for the former one has no answer to expect.
type reign struct {
	member   string
	timeline int
	ctx      context.Context
	end      context.CancelFunc
}

// The order matters: a standby has no WAL file that it writes.
const (
	timelineSQL = `('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int`
	clockSQL    = `(extract(epoch FROM clock_timestamp()) * 1000000)::bigint`
	whoSQL      = `SELECT ` + clockSQL + `, ` + timelineSQL + ` WHERE NOT pg_is_in_recovery()`
)

// watch asks one member until ctx ends.
func (s *scout) watch(ctx context.Context, member string) {
	var conn *pgconn.PgConn
	for {
		pause := look
		if conn == nil || conn.IsClosed() {
			conn, _ = s.dial(ctx, member)
		}
		if conn == nil {
			pause = s.retry
		} else if seen, err := s.ask(ctx, conn, member); err != nil {
			closeNow(conn)
			conn, pause = nil, s.retry
		} else {
			s.heard(ctx, member, seen)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

func (s *scout) ask(ctx context.Context, conn *pgconn.PgConn, member string) (*history.Sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	result := conn.ExecParams(ctx, whoSQL, nil, nil, nil, nil).Read()
	if result.Err != nil || len(result.Rows) == 0 {
		return nil, result.Err
	}
	clock, timeline, err := parseClock(result.Rows[0])
	if err != nil {
		return nil, err
	}
	return &history.Sighting{Member: member, Clock: clock, Timeline: timeline}, nil
}

func parseClock(row [][]byte) (clock int64, timeline int, err error) {
	if len(row) != 2 {
		return 0, 0, fmt.Errorf("%d columns", len(row))
	}
	if clock, err = strconv.ParseInt(string(row[0]), 10, 64); err != nil {
		return 0, 0, err
	}
	timeline, err = strconv.Atoi(string(row[1]))
	return clock, timeline, err
}

// heard takes note of a member that is the primary (seen), or is not.
func (s *scout) heard(ctx context.Context, member string, seen *history.Sighting) {
	if seen != nil {
		s.log.write(history.Line{Sighting: seen})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case seen == nil && s.reign != nil && s.reign.member == member:
		s.reign.end()
		s.reign = nil
	case seen == nil:
	case s.reign == nil, seen.Timeline > s.reign.timeline, seen.Timeline == s.reign.timeline && member != s.reign.member:
		if s.reign != nil {
			s.reign.end()
		}
		s.reign = &reign{member: member, timeline: seen.Timeline}
		s.reign.ctx, s.reign.end = context.WithCancel(ctx)
	}
}

// primary waits for one.
func (s *scout) primary(ctx context.Context) (*reign, error) {
	for {
		s.mu.Lock()
		r := s.reign
		s.mu.Unlock()
		if r != nil {
			return r, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(soon):
		}
	}
}

// closeNow does not wait for a server that may be gone.
func closeNow(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), soon)
	defer cancel()
	_ = conn.Close(ctx)
}
