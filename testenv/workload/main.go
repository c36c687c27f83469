// Workload is a client of a PostgreSQL application that writes down all it does and
// sees, for the judges of testenv/workload/history. It runs inside the Swarm, on the
// application's network; several of them, also on nodes that are cut off or paused,
// make one history, since the nodes of the test environment share a clock.
//
// Its tables must be there:
//
//	CREATE TABLE appended (id bigint PRIMARY KEY, filler text);
//	CREATE TABLE register (k int PRIMARY KEY, v bigint NOT NULL); -- with all registers, 0
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/testenv/workload/history"
)

func main() {
	members := flag.String("members", "", "names of the members, with commas")
	password := flag.String("password-file", "/run/secrets/password", "file with the password of postgres")
	file := flag.String("log", "", "file to append to")
	appenders := flag.Int("appenders", 1, "workers that append rows")
	registers := flag.Int("registers", 0, "workers that use registers")
	retry := flag.Duration("retry", 50*time.Millisecond, "how soon a member that does not answer is tried again")
	filler := flag.Int("filler", 0, "append rows of so many times 32 bytes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	if err := work(ctx, strings.Split(*members, ","), *password, *file, *appenders, *registers, *filler, *retry); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func work(ctx context.Context, members []string, passwordFile, file string, appenders, registers, filler int, retry time.Duration) error {
	password, err := os.ReadFile(passwordFile)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	hostname, err := os.Hostname()
	if err != nil {
		return err
	}
	log := &log{file: out}
	dial := dialer(strings.TrimSpace(string(password)))
	s := &scout{members: members, dial: dial, log: log, retry: retry}
	var group sync.WaitGroup
	for _, member := range members {
		group.Go(func() { s.watch(ctx, member) })
	}
	for i := range appenders + registers {
		w := &worker{name: fmt.Sprintf("%s.%d", hostname, i), scout: s, dial: dial, log: log, appends: i < appenders, filler: filler}
		group.Go(func() { w.work(ctx) })
	}
	group.Wait()
	return out.Close()
}

// log is the file that several workers write lines to. A line is one write: what was
// written is there whatever becomes of this process.
type log struct {
	mu   sync.Mutex
	file *os.File
}

func (l *log) write(line history.Line) {
	text, err := json.Marshal(line)
	if err == nil {
		l.mu.Lock()
		_, err = l.file.Write(append(text, '\n'))
		l.mu.Unlock()
	}
	if err != nil { // a history with holes proves nothing
		fmt.Fprintln(os.Stderr, "cannot write the log:", err)
		os.Exit(1)
	}
}

// now is the clock that all nodes of one machine share.
func now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}
