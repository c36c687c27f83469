package postgresql

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent/agenttest"
)

// enlarged is what the plugin does with an XFS volume that is in use.
func (c *cluster) enlarged(name, size string) {
	c.t.Helper()
	assert.NilError(c.t, unix.Mount("tmpfs", c.members[name].Volume, "tmpfs", unix.MS_REMOUNT, "size="+size))
}

// fill leaves no byte free in a member's volume.
func (c *cluster) fill(name string) {
	c.t.Helper()
	f, err := os.OpenFile(filepath.Join(c.members[name].Volume, "filler"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	assert.NilError(c.t, err)
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	assert.Assert(c.t, errors.Is(err, unix.ENOSPC), err)
}

// writeLog has the primary write from row first on, and begin another file of the
// log after each, until done. It returns the rows that were acknowledged.
func (c *cluster) writeLog(primary string, first int, done func(i int) bool) (acknowledged []string) {
	c.t.Helper()
	deadline := time.Now().Add(agenttest.Deadline)
	for i := first; !done(i); i++ {
		assert.Assert(c.t, time.Now().Before(deadline), "the log does not fill the volume")
		if _, err := c.sql(primary, fmt.Sprintf("INSERT INTO t VALUES (%d)", i)); err != nil {
			continue
		}
		acknowledged = append(acknowledged, fmt.Sprint(i))
		_, _ = c.sql(primary, "SELECT pg_switch_wal()")
	}
	return acknowledged
}

func full(s api.MemberStatus) bool { return strings.Contains(s.Message, "volume "+s.Volume+" is full") }

func TestPrimaryWithoutRoomForItsLogIsBackWithAllItAcknowledged(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	m := c.members["pg-1"]
	m.Limit("200m")
	c.bootstrap()
	c.must("pg-1", "CREATE TABLE t AS SELECT 0 AS n") // with space for more rows
	c.fill("pg-1")
	m.Await("word of it", full)
	rows := c.writeLog("pg-1", 1, func(int) bool { s := m.Status(); return s.State == api.StateFailed && full(s) })
	t.Logf("%d rows, then: %s", len(rows), m.Status().Message)
	before := m.Pid()
	c.enlarged("pg-1", "400m")
	m.Await("the primary again", func(s api.MemberStatus) bool { return healthy(s) && !full(s) })
	assert.Equal(t, m.Pid(), before)
	assert.Equal(t, c.must("pg-1", "SELECT count(*) FROM t WHERE n IN (-1"+strings.Join(append([]string{""}, rows...), ",")+")"), fmt.Sprint(len(rows)))
}

func TestStandbyWithoutRoomIsLeftBehindAndComesBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	m := c.members["pg-2"]
	m.Limit("200m")
	c.replicate()
	c.fill("pg-2")
	starves := func(s api.MemberStatus) bool { return !s.Healthy && full(s) }
	rows := c.writeLog("pg-1", 2000, func(int) bool { return starves(m.Status()) })
	t.Logf("%d rows, then: %s: %s", len(rows), m.Status().State, m.Status().Message)
	for range 3 { // the other standby acknowledges
		c.must("pg-1", "INSERT INTO t VALUES (1)")
	}
	for range 10 {
		m.Await("the same", func(s api.MemberStatus) bool {
			assert.Check(t, !healthy(s) && !s.Streaming, "%+v", s)
			return true
		})
	}
	c.enlarged("pg-2", "600m")
	m.Await("a healthy standby", func(s api.MemberStatus) bool { return healthy(s) && s.Streaming && !full(s) })
	want := c.must("pg-1", "SELECT count(*) FROM t")
	c.eventually("pg-2", "SELECT count(*) FROM t", want)
}

func TestAFileThatCannotBeReplacedStays(t *testing.T) {
	dir := t.TempDir()
	assert.NilError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { assert.NilError(t, unix.Unmount(dir, 0)) })
	s := &server{}
	s.credential = &syscall.Credential{}
	path := filepath.Join(dir, "pg_hba.conf")
	assert.NilError(t, s.write(path, "before"))
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20-8192), 0o600))
	err := s.write(path, strings.Repeat("after", 10000))
	assert.Assert(t, errors.Is(err, unix.ENOSPC), err)
	have, err := os.ReadFile(path)
	assert.NilError(t, err)
	assert.Equal(t, string(have), "before")
	left, err := filepath.Glob(path + ".*")
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, left)

	// What is as it should be needs no space.
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20-4096), 0o600))
	assert.NilError(t, s.keep(path, "before"))
}
