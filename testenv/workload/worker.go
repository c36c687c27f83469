package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openmanage/openmanage/testenv/workload/history"
)

const (
	// answers is how long an operation may take until its outcome is unknown.
	answers = 5 * time.Second
	// pause is between two operations of a worker.
	pause = 50 * time.Millisecond
	// perEpoch registers are in use at a time, and others after an epoch, so that
	// the history of each stays short enough for a judge. All workers, on whatever
	// node, use the same ones.
	perEpoch = 3
	epochs   = 2000
	epoch    = 20 * time.Second
	// small is how large a row is, times 32 bytes, after one that may not have fitted.
	small = 200
)

// worker does one operation after the other, over connections that live as long as
// the primary.
type worker struct {
	name    string
	scout   *scout
	dial    dialFunc
	log     *log
	appends bool
	filler  int // how many times 32 bytes a row has

	last    int64 // the value of a register that it has seen
	refused bool  // the last row
}

func (w *worker) work(ctx context.Context) {
	for ctx.Err() == nil {
		r, err := w.scout.primary(ctx)
		if err != nil {
			return
		}
		conn, err := w.dial(r.ctx, r.member)
		if err != nil {
			wait(ctx, soon)
			continue
		}
		for r.ctx.Err() == nil && !conn.IsClosed() {
			w.do(r, conn)
			wait(ctx, pause)
		}
		closeNow(conn)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// do does an operation and writes it down before and after.
func (w *worker) do(r *reign, conn *pgconn.PgConn) {
	op := history.Op{ID: rand.Int64N(1<<62) + 1, Worker: w.name, Member: r.member, Kind: history.Append, Begin: now()} //nolint:gosec // no secret
	if !w.appends {
		op.Kind = []string{history.Read, history.Write, history.Swap}[rand.IntN(3)] //nolint:gosec // no secret
		op.Key = int(op.Begin/int64(epoch))%epochs*perEpoch + rand.IntN(perEpoch)   //nolint:gosec // no secret
		if op.Kind == history.Swap {
			op.Old = w.last
		}
	}
	w.log.write(history.Line{Op: &op})
	ctx, cancel := context.WithTimeout(r.ctx, answers)
	defer cancel()
	committing, err := w.execute(ctx, conn, &op)
	op.End, op.Outcome = now(), outcome(committing, err)
	w.refused = err != nil
	if err != nil {
		op.Error = err.Error()
		closeNow(conn)
	}
	w.log.write(history.Line{Op: &op})
}

// outcome tells what is certain. The server answers ERROR to what it has undone; a
// commit that is once in its log ends with success, or with the connection.
func outcome(committing bool, err error) string {
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return history.OK
	case !committing:
		return history.Failed
	case errors.As(err, &refused) && refused.Severity == "ERROR":
		return history.Failed
	}
	return history.Unknown
}

// execute has the server do the operation. committing: the server has been asked
// for what commits it.
//
// A read takes a lock on its row, so that it has something to commit. A primary that
// was paused and has a successor meanwhile can still answer a plain SELECT for an
// instant, but no commit: no standby follows it any more. So what a committed read
// saw was the latest value, which is what the judges ask for.
func (w *worker) execute(ctx context.Context, conn *pgconn.PgConn, op *history.Op) (committing bool, err error) {
	id, key := strconv.FormatInt(op.ID, 10), strconv.Itoa(op.Key)
	switch op.Kind {
	case history.Append:
		filler := w.filler
		if w.refused {
			filler = min(filler, small)
		}
		rows, err := query(ctx, conn, `INSERT INTO appended (id, filler) SELECT $1, string_agg(md5(random()::text), '') FROM generate_series(1, $2::int) RETURNING `+
			clockSQL+`, `+timelineSQL, id, strconv.Itoa(filler))
		if err == nil && len(rows) == 1 {
			op.Clock, op.Timeline, err = parseClock(rows[0])
		}
		return true, err
	case history.Write:
		_, err := query(ctx, conn, `UPDATE register SET v = $1 WHERE k = $2`, id, key)
		return true, err
	}
	if _, err := query(ctx, conn, `BEGIN`); err != nil {
		return false, err
	}
	rows, err := query(ctx, conn, `SELECT v FROM register WHERE k = $1 FOR UPDATE`, key)
	if err == nil && len(rows) != 1 {
		err = errors.New("there is no register " + key)
	}
	if err != nil {
		return false, err
	}
	if op.Seen, err = strconv.ParseInt(string(rows[0][0]), 10, 64); err != nil {
		return false, err
	}
	w.last = op.Seen
	if op.Kind == history.Swap && op.Seen == op.Old {
		if _, err := query(ctx, conn, `UPDATE register SET v = $1 WHERE k = $2`, id, key); err != nil {
			return false, err
		}
	}
	_, err = query(ctx, conn, `COMMIT`)
	return true, err
}

func query(ctx context.Context, conn *pgconn.PgConn, sql string, args ...string) ([][][]byte, error) {
	values := make([][]byte, len(args))
	for i, a := range args {
		values[i] = []byte(a)
	}
	result := conn.ExecParams(ctx, sql, values, nil, nil, nil).Read()
	return result.Rows, result.Err
}
