package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/poll"

	"github.com/openmanage/openmanage/testenv/workload/history"
)

// A real server that crashes under the clients and is started again: they find it again, and
// what they write down is judged right.
func TestClientsWriteDownWhatAServerDid(t *testing.T) {
	server := startServer(t)
	log := filepath.Join(t.TempDir(), "log")
	password := filepath.Join(t.TempDir(), "password")
	assert.NilError(t, os.WriteFile(password, []byte("secret\n"), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	// The second member is nowhere, and keeps nobody from the first.
	go func() { ended <- work(ctx, []string{"127.0.0.1", "192.0.2.1"}, password, log, 2, 4, 10, soon) }()

	var h history.History
	read := 0
	reach := func(rows int) {
		t.Helper()
		poll.WaitOn(t, func(poll.LogT) poll.Result {
			content, err := os.ReadFile(log)
			if err == nil {
				read += h.Add(content[read:])
			}
			if got := len(h.Appended()); got < rows {
				return poll.Continue("%d rows of %d", got, rows)
			}
			return poll.Success()
		}, poll.WithTimeout(20*time.Second))
	}
	reach(20)
	server.crash(t)
	server.start(t)
	reach(40)
	cancel()
	assert.NilError(t, <-ended)
	reach(40)

	present := map[int64]bool{}
	for line := range strings.Lines(server.sql(t, "SELECT id FROM appended")) {
		var id int64
		assert.NilError(t, json.Unmarshal([]byte(line), &id))
		present[id] = true
	}
	assert.Equal(t, strings.Join(h.Lost(present), "\n"), "")
	problems, _ := history.TwoPrimaries(h.Sightings)
	assert.Equal(t, strings.Join(problems, "\n"), "")
	assert.Equal(t, strings.Join(h.Registers(1<<62), "\n"), "")
	assert.Assert(t, h.Judged > 40, h.Judged)
	t.Log(h.Summary())

	last := h.Appended()[0].ID
	server.sql(t, fmt.Sprintf("DELETE FROM appended WHERE id = %d", last))
	delete(present, last)
	assert.Equal(t, len(h.Lost(present)), 1)
}

// server is PostgreSQL on a port of its own.
type server struct {
	bin, dir, port string
	cmd            *exec.Cmd
}

func startServer(t *testing.T) *server {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	assert.Assert(t, len(found) > 0, "a PostgreSQL server is needed: apt-get install postgresql")
	dir, err := os.MkdirTemp("", "workload-")
	assert.NilError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{bin: found[len(found)-1], dir: dir, port: "5999"}
	t.Setenv("PGPORT", s.port)
	assert.NilError(t, exec.Command("chown", "postgres", dir).Run())
	secret := filepath.Join(dir, "secret")
	assert.NilError(t, os.WriteFile(secret, []byte("secret"), 0o644))
	out, err := s.command("initdb", "-D", dir+"/data", "-U", "postgres", "-A", "scram-sha-256", "--pwfile", secret, "-N").CombinedOutput()
	assert.NilError(t, err, string(out))
	s.start(t)
	t.Cleanup(func() { s.crash(t) })
	s.sql(t, "CREATE TABLE appended (id bigint PRIMARY KEY, filler text); CREATE TABLE register (k int PRIMARY KEY, v bigint NOT NULL);"+
		fmt.Sprintf("INSERT INTO register SELECT k, 0 FROM generate_series(0, %d) k", perEpoch*epochs-1))
	return s
}

func (s *server) command(name string, args ...string) *exec.Cmd {
	return exec.Command("setpriv", append([]string{"--reuid=postgres", "--regid=postgres", "--clear-groups", filepath.Join(s.bin, name)}, args...)...)
}

func (s *server) start(t *testing.T) {
	t.Helper()
	s.cmd = s.command("postgres", "-D", s.dir+"/data", "-k", s.dir, "-p", s.port)
	assert.NilError(t, s.cmd.Start())
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if out, err := s.psql("SELECT 1").CombinedOutput(); err != nil {
			return poll.Continue("%s", out)
		}
		return poll.Success()
	}, poll.WithTimeout(20*time.Second))
}

// crash has the server and its processes end at once, without a checkpoint.
func (s *server) crash(t *testing.T) {
	t.Helper()
	assert.NilError(t, s.cmd.Process.Signal(unix.SIGQUIT))
	_ = s.cmd.Wait() // it says that it failed
}

func (s *server) psql(sql string) *exec.Cmd {
	cmd := exec.Command("psql", "-XqAt", "-h", "127.0.0.1", "-p", s.port, "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-c", sql)
	cmd.Env = append(os.Environ(), "PGPASSWORD=secret")
	return cmd
}

func (s *server) sql(t *testing.T, sql string) string {
	t.Helper()
	out, err := s.psql(sql).CombinedOutput()
	assert.NilError(t, err, string(out))
	return string(out)
}
