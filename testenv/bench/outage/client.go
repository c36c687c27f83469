package outage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// connectLimit is how long a server may take to let the client in.
	connectLimit = time.Second
	// commitLimit is how long it may take to acknowledge.
	commitLimit = 3 * time.Second
	// asksAtOnce is how many connections may ask a member at once whether it is the primary:
	// without a bound a machine that is busy gets busier with every one that waits.
	asksAtOnce = 3
)

// Table is where the client writes its rows.
const Table = "outage"

// Schema makes the table.
const Schema = "CREATE TABLE IF NOT EXISTS " + Table + " (id bigint PRIMARY KEY)"

// Client writes a row every Interval over one connection. When that breaks, or has
// acknowledged nothing for Notable, it connects anew every Interval, to one member after
// the other, and does not wait for one before the next, so that a member that is dead
// costs no more than its turn. It goes on with the first that acknowledges a row.
type Client struct {
	Members  []string // HOST or HOST:PORT
	User     string
	Password string
	Database string
	// Out is where events are written to, one a line.
	Out io.Writer

	writing sync.Mutex     // of Out
	asking  []atomic.Int32 // how many connections ask a member
	running sync.WaitGroup

	mu      sync.Mutex
	held    *pgconn.PgConn // nil: there is none
	lastAck time.Time
}

// Run writes until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	configs := make([]*pgconn.Config, len(c.Members))
	c.asking = make([]atomic.Int32, len(c.Members))
	for i, member := range c.Members {
		host, port, hasPort := strings.Cut(member, ":")
		if !hasPort {
			port = "5432"
		}
		config, err := pgconn.ParseConfig(fmt.Sprintf("host=%s port=%s user=%s dbname=%s sslmode=disable", host, port, c.User, c.Database))
		if err != nil {
			return fmt.Errorf("member %s: %w", member, err)
		}
		config.Password = c.Password
		config.ConnectTimeout = connectLimit
		configs[i] = config
	}
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	defer c.running.Wait()
	for turn := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if c.settled() {
				continue
			}
			member := turn
			c.running.Go(func() { c.ask(ctx, now.UnixNano(), member, configs[member]) })
			turn = (turn + 1) % len(configs)
		}
	}
}

// settled tells whether a connection is held that acknowledges what it is given.
func (c *Client) settled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held != nil && time.Since(c.lastAck) < Notable
}

// ask writes a row over a new connection, which is held from then on if that is acknowledged.
func (c *Client) ask(ctx context.Context, id int64, member int, config *pgconn.Config) {
	defer c.asking[member].Add(-1)
	if c.asking[member].Add(1) > asksAtOnce {
		return
	}
	connecting, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := pgconn.ConnectConfig(connecting, config)
	if err != nil {
		return // no primary
	}
	if c.write(ctx, conn, id, member) != nil {
		go closeIt(conn) // that is not what is measured
		return
	}
	c.mu.Lock()
	c.held = conn // in place of one that hangs, or of another that was asked at the same time
	c.mu.Unlock()
	c.running.Go(func() { c.writeOn(ctx, conn, member) })
}

// writeOn writes over a connection for as long as it is held and takes rows.
func (c *Client) writeOn(ctx context.Context, conn *pgconn.PgConn, member int) {
	defer func() { go closeIt(conn) }()
	tick := time.NewTicker(Interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if !c.holds(conn) {
				return
			}
			if c.write(ctx, conn, now.UnixNano(), member) != nil {
				c.letGo(conn)
				return
			}
		}
	}
}

func (c *Client) holds(conn *pgconn.PgConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held == conn
}

func (c *Client) letGo(conn *pgconn.PgConn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == conn {
		c.held = nil
	}
}

// write writes a row and notes what became of it.
func (c *Client) write(ctx context.Context, conn *pgconn.PgConn, id int64, member int) error {
	ctx, cancel := context.WithTimeout(ctx, commitLimit)
	defer cancel()
	_, err := conn.Exec(ctx, "INSERT INTO "+Table+" VALUES ("+strconv.FormatInt(id, 10)+")").ReadAll()
	const readOnly = "25006"
	if answer := (*pgconn.PgError)(nil); errors.As(err, &answer) && answer.Code == readOnly {
		return err // nothing became of it
	}
	c.note(id, member, err)
	return err
}

func closeIt(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), connectLimit)
	defer cancel()
	_ = conn.Close(ctx)
}

// note writes down what became of a transaction at one member.
func (c *Client) note(id int64, member int, err error) {
	e := Event{ID: id, Ended: time.Now(), Failed: err != nil}
	if err != nil {
		e.Reason = strings.Join(strings.Fields(c.Members[member]+": "+err.Error()), " ")
	} else {
		c.mu.Lock()
		c.lastAck = e.Ended
		c.mu.Unlock()
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	fmt.Fprintln(c.Out, e)
}
