package postgresql

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// connect opens the one session that the engine has with its own server, over the
// unix socket as the superuser, or returns the one that is open.
func (s *server) connect(ctx context.Context) (*pgconn.PgConn, error) {
	if s.conn != nil && !s.conn.IsClosed() {
		return s.conn, nil
	}
	s.conn = nil
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%d user=%s dbname=postgres sslmode=disable passfile='' application_name=openmanage", s.socketDir, s.port, s.superuser))
	if err != nil {
		return nil, fmt.Errorf("configure the session: %w", err)
	}
	config.ConnectTimeout = 2 * time.Second
	// What the engine writes (roles) must not wait for standbys, which may need
	// it to connect.
	config.RuntimeParams["synchronous_commit"] = "local"
	config.RuntimeParams["statement_timeout"] = "5s"
	s.conn, err = pgconn.ConnectConfig(ctx, config)
	return s.conn, err
}

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
// could not be asked.
func plain(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return refused.Message
	}
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(inner) {
			err = inner
		}
	}
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

func quoteIdentifier(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

func quoteLiteral(value string) string {
	return "'" + strings.ReplaceAll(value, "'", "''") + "'"
}
