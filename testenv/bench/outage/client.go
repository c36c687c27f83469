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
	// asksAtOnce is how many transactions may ask a member whether it is the primary:
	// without a bound a machine that is busy gets busier with every one that waits.
	asksAtOnce = 3
)

// Table is where the client writes its rows.
const Table = "outage"

// Schema makes the table.
const Schema = "CREATE TABLE IF NOT EXISTS " + Table + " (id bigint PRIMARY KEY)"

// Client writes a row every Interval, each over a connection of its own, and does
// not wait for one before the next. While writes are acknowledged it goes to who
// acknowledged the last one; else it asks all members at once, so that one that
// is dead costs nothing.
type Client struct {
	Members  []string // HOST or HOST:PORT
	User     string
	Password string
	Database string
	// Out is where events are written to, one a line.
	Out io.Writer

	mu      sync.Mutex     // of Out
	asking  []atomic.Int32 // how many ask a member, while no primary is known
	primary atomic.Int64
	lastAck atomic.Int64 // ns
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
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			running.Go(func() { c.transaction(ctx, now.UnixNano(), configs) })
		}
	}
}

// transaction tries to write one row at one member or at all.
func (c *Client) transaction(ctx context.Context, id int64, configs []*pgconn.Config) {
	if time.Since(time.Unix(0, c.lastAck.Load())) < Notable {
		i := c.primary.Load()
		c.note(id, int(i), write(ctx, configs[i], id))
		return
	}
	var group sync.WaitGroup
	for i, config := range configs {
		group.Go(func() {
			if c.asking[i].Add(1) <= asksAtOnce {
				c.note(id, i, write(ctx, config, id))
			}
			c.asking[i].Add(-1)
		})
	}
	group.Wait()
}

// errNoPrimary is what a member answers that takes no writes, if it answers.
var errNoPrimary = errors.New("no primary")

// write writes a row at one member.
func write(ctx context.Context, config *pgconn.Config, id int64) error {
	connecting, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := pgconn.ConnectConfig(connecting, config)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoPrimary, err)
	}
	ctx, cancelCommit := context.WithTimeout(ctx, commitLimit)
	defer cancelCommit()
	// Behind the acknowledgement: closing is not what is measured.
	defer func() { go closeIt(conn) }()
	_, err = conn.Exec(ctx, "INSERT INTO "+Table+" VALUES ("+strconv.FormatInt(id, 10)+")").ReadAll()
	const readOnly = "25006"
	if answer := (*pgconn.PgError)(nil); errors.As(err, &answer) && answer.Code == readOnly {
		return fmt.Errorf("%w: it is a standby", errNoPrimary)
	}
	return err
}

func closeIt(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), connectLimit)
	defer cancel()
	_ = conn.Close(ctx)
}

// note writes down what became of a transaction at one member.
func (c *Client) note(id int64, member int, err error) {
	if errors.Is(err, errNoPrimary) {
		return
	}
	e := Event{ID: id, Ended: time.Now(), Failed: err != nil}
	if err != nil {
		e.Reason = strings.Join(strings.Fields(c.Members[member]+": "+err.Error()), " ")
	} else {
		c.primary.Store(int64(member))
		c.lastAck.Store(e.Ended.UnixNano())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintln(c.Out, e)
}
