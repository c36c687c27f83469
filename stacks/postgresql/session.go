package postgresql

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// connect opens the one session that the engine keeps with its own server, over the
// unix socket as the superuser, or returns the one that is open.
func (s *server) connect(ctx context.Context) (*pgconn.PgConn, error) {
	if s.conn != nil && !s.conn.IsClosed() {
		return s.conn, nil
	}
	var err error
	s.conn, err = s.dial(ctx, map[string]string{"statement_timeout": "5s"})
	return s.conn, err
}

// dial opens another session with the own server.
func (s *server) dial(ctx context.Context, parameters map[string]string) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable passfile='' application_name=%s", s.socketDir, s.port, s.superuser, ownName))
	if err != nil {
		return nil, fmt.Errorf("configure the session: %w", err)
	}
	config.ConnectTimeout = 2 * time.Second
	maps.Copy(config.RuntimeParams, parameters)
	// What the engine writes (roles) must not wait for standbys, which may need
	// it to connect.
	config.RuntimeParams["synchronous_commit"] = "local"
	return pgconn.ConnectConfig(ctx, config)
}

// dialPrimary opens a session with another member: as the superuser, or, over the
// replication protocol, as the replicator.
func (s *server) dialPrimary(ctx context.Context, member, user, password string, parameters map[string]string) (*pgconn.PgConn, error) {
	host, port := s.address(member)
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=prefer passfile='' application_name=%s", host, port, user, ownName))
	if err != nil {
		return nil, fmt.Errorf("configure the session: %w", err)
	}
	config.Password = password
	config.ConnectTimeout = 2 * time.Second
	maps.Copy(config.RuntimeParams, parameters)
	return pgconn.ConnectConfig(ctx, config)
}

// ownName is the engine's application_name: no standby's.
const ownName = "openmanage"

func (s *server) disconnect() {
	if s.conn != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.conn.Close(ctx) // the server ends the session either way
		s.conn = nil
	}
}

// query runs one statement and returns its rows; NULL is "".
func (s *server) query(ctx context.Context, sql string) ([][]string, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	return rows(ctx, conn, sql)
}

// rows uses the simple protocol, the only one that a walsender speaks.
func rows(ctx context.Context, conn *pgconn.PgConn, sql string) ([][]string, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var table [][]string
	for _, result := range results {
		for _, row := range result.Rows {
			values := make([]string, len(row))
			for i, value := range row {
				values[i] = string(value)
			}
			table = append(table, values)
		}
	}
	return table, nil
}

// plain makes an error of a connection short: what the server said, or why it
// could not be asked. With sslmode=prefer each address is tried twice, and pgx
// tells of both.
func plain(err error) string {
	var refused *pgconn.PgError
	var dial *net.OpError
	var lookup *net.DNSError
	switch {
	case err == nil:
		return "its answer makes no sense"
	case errors.As(err, &refused):
		return refused.Message
	case errors.As(err, &lookup):
		return lookup.Error()
	case errors.As(err, &dial) && dial.Addr != nil:
		return fmt.Sprintf("%s: %v", dial.Addr, dial.Err)
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	}
	var lines []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

func quoteIdentifier(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func quoteLiteral(value string) string {
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}
