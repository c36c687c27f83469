package postgresql

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/memberagent/agenttest"
)

// replicating makes n members of which the first is the primary and waits for any
// of the others, with a table t of the rows 1 to 1000.
func replicating(t *testing.T, n int, env ...string) *cluster {
	t.Helper()
	c := newCluster(t, n, env...)
	c.replicate()
	return c
}

func (c *cluster) replicate() {
	c.t.Helper()
	c.orders.Sync = c.others("pg-1")
	c.order()
	c.bootstrap()
	for _, name := range c.others("pg-1") {
		c.members[name].Start()
	}
	for _, name := range c.others("pg-1") {
		c.members[name].Await("a healthy standby", healthy)
	}
	c.must("pg-1", "CREATE TABLE t AS SELECT generate_series(1, 1000) n")
	for _, name := range c.others("pg-1") { // a commit waits for one of them
		c.eventually(name, "SELECT count(*) FROM t", "1000")
	}
}

func (c *cluster) others(name string) []string {
	return slices.DeleteFunc(slices.Clone(c.names), func(n string) bool { return n == name })
}

// nobody is the first step of a failover: all are to follow nobody.
func (c *cluster) nobody() {
	c.orders.Term++
	c.orders.Primary, c.orders.Immediate, c.orders.Sync = "", true, nil
	c.orders.Timeline, c.orders.Position = 0, 0
	c.order()
}

// elect is the last step: a member becomes the primary with the data that it said.
func (c *cluster) elect(name string, s api.MemberStatus) {
	c.orders.Term++
	c.orders.Primary, c.orders.Immediate, c.orders.Sync = name, false, c.others(name)
	c.orders.Timeline, c.orders.Position = s.Timeline, s.Position
	c.order()
}

// inLine waits until a member says that it is in line with the present orders.
func (c *cluster) inLine(name string) api.MemberStatus {
	c.t.Helper()
	return c.members[name].Await(fmt.Sprintf("term %d", c.orders.Term), func(s api.MemberStatus) bool { return s.Term == c.orders.Term })
}

// takesWrites waits until a member commits, and tells how long that was.
func (c *cluster) takesWrites(name, row string) time.Duration {
	c.t.Helper()
	began := time.Now()
	for {
		_, err := c.sql(name, "INSERT INTO t VALUES ("+row+")")
		if err == nil {
			return time.Since(began)
		}
		if time.Since(began) > agenttest.Deadline {
			c.t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// signalSender sends a signal to the primary's process that serves a standby.
func (c *cluster) signalSender(primary, standby string, signal syscall.Signal) {
	c.t.Helper()
	pid := atoi(c.must(primary, "SELECT pid FROM pg_stat_replication WHERE application_name = '"+standby+"'"))
	assert.NilError(c.t, syscall.Kill(pid, signal))
}

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var stat unix.Stat_t
	assert.NilError(t, unix.Stat(path, &stat))
	return stat.Ino
}

func said(words string) func(api.MemberStatus) bool {
	return func(s api.MemberStatus) bool { return strings.Contains(s.Message, words) }
}

const countAll = "SELECT count(*) || ' ' || min(n) || ' ' || max(n) FROM t"

func TestMostAdvancedStandbyTakesTheDeadPrimarysPlace(t *testing.T) {
	t.Parallel()
	c := replicating(t, 3)
	pg1, pg2, pg3 := c.members["pg-1"], c.members["pg-2"], c.members["pg-3"]
	c.eventually("pg-3", "SELECT count(*) FROM t", "1000")
	// 1001 is acknowledged by pg-2 alone, and what comes then by nobody.
	c.signalSender("pg-1", "pg-3", syscall.SIGSTOP)
	c.must("pg-1", "INSERT INTO t VALUES (1001)")
	c.signalSender("pg-1", "pg-2", syscall.SIGSTOP)
	c.must("pg-1", "SET synchronous_commit = local; INSERT INTO t SELECT generate_series(-5000, -1)")
	c.must("pg-1", "CHECKPOINT")
	pg1.KillAll()
	before := map[string]int{"pg-2": postmaster(t, pg2), "pg-3": postmaster(t, pg3)}
	data := inode(t, filepath.Join(pg1.Volume, "pgdata"))

	began := time.Now()
	c.nobody()
	words := map[string]api.MemberStatus{}
	for _, name := range []string{"pg-2", "pg-3"} {
		s := c.inLine(name)
		assert.Equal(t, s.Role, api.RoleStandby)
		assert.Assert(t, !s.Healthy && s.State == api.StateRunning && s.Message == "the primary is being changed", "%+v", s)
		assert.Equal(t, c.must(name, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walreceiver'"), "0")
		words[name] = s
	}
	t.Logf("nobody receives after %s", time.Since(began))
	assert.Equal(t, words["pg-2"].Timeline, words["pg-3"].Timeline)
	assert.Assert(t, words["pg-2"].Position > words["pg-3"].Position)

	began = time.Now()
	c.elect("pg-2", words["pg-2"])
	c.takesWrites("pg-2", "1002") // and pg-3 follows, for that is waited for
	t.Logf("pg-2 commits, with pg-3 following, %s after the order", time.Since(began))
	s := c.inLine("pg-2")
	assert.Equal(t, s.Role, api.RolePrimary)
	assert.Equal(t, s.SyncNames, "pg-1,pg-3")
	assert.Equal(t, s.Timeline, 2)
	pg3.Await("a standby that follows", func(s api.MemberStatus) bool { return healthy(s) && s.Timeline == 2 })
	c.eventually("pg-3", countAll, "1002 1 1002")
	for name, pid := range before {
		assert.Equal(t, postmaster(t, c.members[name]), pid, "%s was restarted", name)
	}
	c.eventually("pg-2", "SELECT string_agg(slot_name, ',' ORDER BY slot_name) FROM pg_replication_slots", "pg_1,pg_3")

	// The old primary comes back with rows that nobody else has.
	began = time.Now()
	pg1.Start()
	s = pg1.Await("a standby", healthy)
	t.Logf("pg-1 follows %s after its container began", time.Since(began))
	assert.Equal(t, s.Role, api.RoleStandby)
	assert.Equal(t, s.Term, c.orders.Term)
	c.eventually("pg-1", countAll, "1002 1 1002")
	assert.Equal(t, inode(t, filepath.Join(pg1.Volume, "pgdata")), data, "the data was copied anew")
	c.eventually("pg-1", "SELECT count(*) FROM pg_replication_slots", "0")
	c.must("pg-2", "INSERT INTO t VALUES (1003)")
	c.eventually("pg-1", countAll, "1003 1 1003")
	noSecretsIn(t, pg1.Volume, "s3cret:with", "r3plication")
	for _, left := range []string{"superuser.pgpass", "pgdata.rejoin", "pgdata.promotion"} {
		_, err := os.Stat(filepath.Join(pg1.Volume, left))
		assert.ErrorIs(t, err, os.ErrNotExist)
	}
}

func TestPrimaryHandsOverInOrderAndBack(t *testing.T) {
	t.Parallel()
	c := replicating(t, 3)
	c.must("pg-1", "CREATE TABLE big AS SELECT repeat('x', 500) FROM generate_series(1, 100000)")
	row := 1000
	for _, step := range []struct{ from, to string }{{"pg-1", "pg-2"}, {"pg-2", "pg-1"}, {"pg-1", "pg-3"}} {
		from, to := c.members[step.from], c.members[step.to]
		third := c.others(step.from)[0]
		if third == step.to {
			third = c.others(step.from)[1]
		}
		row++
		c.must(step.from, fmt.Sprintf("INSERT INTO t VALUES (%d)", row))
		pids := []int{postmaster(t, to), postmaster(t, c.members[third])}
		data := inode(t, filepath.Join(from.Volume, "pgdata"))

		// The others follow to the last byte.
		began := time.Now()
		c.orders.Term++
		for name, m := range c.members {
			orders := c.orders
			orders.Role, orders.Sync, orders.Timeline, orders.Position = api.RoleStandby, nil, 0, 0
			if name == step.from {
				orders.Primary = ""
			}
			m.Order(orders)
		}
		former := c.inLine(step.from)
		assert.Equal(t, former.State, api.StateWaiting)
		assert.Assert(t, said("handing over")(former), former.Message)
		assert.Equal(t, len(from.Engines()), 0)
		stopped := time.Since(began)
		var heir api.MemberStatus
		agenttest.Eventually(t, func() error {
			heir = to.Status()
			if heir.Term != c.orders.Term || heir.Timeline != former.Timeline || heir.Position < former.Position || former.Position == 0 {
				return fmt.Errorf("%+v has not all of %+v", heir, former)
			}
			return nil
		})
		received := time.Since(began)
		c.elect(step.to, heir)
		row++
		c.takesWrites(step.to, fmt.Sprint(row))
		took := time.Since(began)
		for _, name := range c.others(step.to) {
			s := c.members[name].Await("a standby", func(s api.MemberStatus) bool {
				return healthy(s) && s.Term == c.orders.Term && s.Timeline == heir.Timeline+1
			})
			assert.Equal(t, s.Role, api.RoleStandby)
			c.eventually(name, "SELECT count(*) FROM pg_replication_slots", "0")
			c.eventually(name, countAll, fmt.Sprintf("%d 1 %d", row, row))
		}
		t.Logf("%s to %s: stopped after %s, last byte there after %s, commits after %s, all follow after %s; rewound: %t",
			step.from, step.to, stopped, received, took, time.Since(began), from.Seen(said("rewinding")))
		assert.DeepEqual(t, []int{postmaster(t, to), postmaster(t, c.members[third])}, pids)
		assert.Equal(t, inode(t, filepath.Join(from.Volume, "pgdata")), data, "the data was copied")
	}
}

func TestPrimaryEndsAtOnceIfItIsOrdered(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	c.must("pg-1", "INSERT INTO t VALUES (1001)")
	began := time.Now()
	c.nobody()
	s := c.inLine("pg-1")
	assert.Equal(t, len(c.members["pg-1"].Engines()), 0, "the term was claimed while the server ran")
	t.Logf("ended after %s", time.Since(began))
	assert.Assert(t, s.State == api.StateWaiting && said("handing over")(s), "%+v", s)
	assert.Equal(t, s.Position, uint64(0), "it was not stopped in order")
	// And it comes back if nobody else can.
	c.elect("pg-1", s)
	c.members["pg-1"].Await("the primary again", healthy)
	c.members["pg-2"].Await("its standby again", healthy)
	c.must("pg-1", "INSERT INTO t VALUES (1002)")
	c.eventually("pg-2", countAll, "1002 1 1002")
}

func TestTermIsClaimedOnlyWhenNothingIsReceivedAnyMore(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	standby := c.members["pg-2"]
	old := c.orders.Term
	pid := atoi(c.must("pg-2", "SELECT pid FROM pg_stat_wal_receiver"))
	assert.NilError(t, syscall.Kill(pid, syscall.SIGSTOP))
	c.orders.Term++
	orders := c.orders
	orders.Role, orders.Primary = api.RoleStandby, ""
	standby.Order(orders)
	c.eventually("pg-2", "SHOW primary_conninfo", "")
	for range 6 {
		s := standby.Await("a report", func(api.MemberStatus) bool { return true })
		assert.Equal(t, s.Term, old)
	}
	assert.NilError(t, syscall.Kill(pid, syscall.SIGCONT))
	s := c.inLine("pg-2")
	assert.Equal(t, syscall.Kill(pid, 0), syscall.ESRCH)
	assert.Assert(t, !s.Streaming && !s.Healthy)
	// What the primary writes now does not arrive.
	c.must("pg-1", "SET synchronous_commit = local; INSERT INTO t VALUES (1001)")
	for range 3 {
		assert.Equal(t, standby.Await("a report", func(api.MemberStatus) bool { return true }).Position, s.Position)
	}
	// A restart changes nothing about that.
	assert.NilError(t, syscall.Kill(postmaster(t, standby), syscall.SIGKILL))
	c.eventually("pg-2", "SELECT count(*) || current_setting('primary_conninfo') FROM t", "1000")
	c.orders.Term++
	c.order()
	c.inLine("pg-2")
	c.eventually("pg-2", "SELECT count(*) FROM t", "1001")
}

func TestStandbyIsPromotedOnlyWithTheDataThatWasChosen(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	standby := c.members["pg-2"]
	c.members["pg-1"].KillAll()
	c.nobody()
	s := c.inLine("pg-2")
	pid := postmaster(t, standby)
	for _, more := range []api.MemberStatus{{Timeline: s.Timeline, Position: s.Position + 1}, {Timeline: s.Timeline + 1, Position: s.Position}} {
		c.elect("pg-2", more)
		refusal := standby.Await("the refusal", said("not made the primary"))
		assert.Assert(t, !refusal.Healthy && refusal.Role == api.RoleStandby && refusal.Term < c.orders.Term, "%+v", refusal)
		assert.Equal(t, c.must("pg-2", "SELECT pg_is_in_recovery()"), "t")
	}
	// Not running, it comes up for it, follows nobody, and is judged alike.
	standby.KillAll()
	standby.Start()
	standby.Await("the refusal", said("not made the primary"))
	assert.Equal(t, c.must("pg-2", "SHOW primary_conninfo"), "")
	assert.Assert(t, postmaster(t, standby) != pid)
	pid = postmaster(t, standby)
	// Nobody makes its data follow one that is no primary.
	c.members["pg-1"].Start()
	c.members["pg-1"].Await("its waiting", said("waiting until pg-2 is the primary"))
	c.elect("pg-2", s)
	c.orders.Sync = nil
	c.order()
	c.takesWrites("pg-2", "1001")
	assert.Equal(t, c.inLine("pg-2").Role, api.RolePrimary)
	assert.Equal(t, postmaster(t, standby), pid)
}

// failedOver is a cluster of two in which pg-2 has taken the place of pg-1, which
// was killed with rows that pg-2 has not.
func failedOver(t *testing.T, env ...string) *cluster {
	t.Helper()
	c := replicating(t, 2, env...)
	c.failOver()
	return c
}

func (c *cluster) failOver() {
	c.t.Helper()
	c.signalSender("pg-1", "pg-2", syscall.SIGSTOP)
	c.must("pg-1", "SET synchronous_commit = local; INSERT INTO t SELECT generate_series(-5000, -1)")
	c.members["pg-1"].KillAll()
	c.nobody()
	c.elect("pg-2", c.inLine("pg-2"))
	c.orders.Sync = nil
	c.order()
	c.takesWrites("pg-2", "1001")
}

func TestRejoinThatWasKilledEndsInAGoodStandby(t *testing.T) {
	t.Parallel()
	for name, points := range map[string][]string{
		"before it is rewound, and at each step of the copy": {"rejoin:marked", "rejoin:copied", "rejoin:parted", "rejoin:swapped"},
		"after it was rewound":                               {"rejoin:rewound"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			armed := t.TempDir()
			assert.NilError(t, os.Chmod(armed, 0o777))
			c := failedOver(t, failpoint.Variable+"="+armed)
			m := c.members["pg-1"]
			data := inode(t, filepath.Join(m.Volume, "pgdata"))
			for _, point := range points {
				assert.NilError(t, os.WriteFile(filepath.Join(armed, point), nil, 0o600))
				m.Start()
				assert.Equal(t, m.Wait(), -1, point)
				m.KillAll()
			}
			assert.Assert(t, !m.Seen(func(s api.MemberStatus) bool { return s.Term >= 3 && s.Role == api.RolePrimary }))
			m.Start()
			m.Await("a standby", healthy)
			c.eventually("pg-1", countAll, "1001 1 1001")
			assert.Assert(t, inode(t, filepath.Join(m.Volume, "pgdata")) != data, "it was not copied")
			left, err := filepath.Glob(filepath.Join(m.Volume, "pgdata*"))
			assert.NilError(t, err)
			assert.DeepEqual(t, left, []string{filepath.Join(m.Volume, "pgdata")})
		})
	}
}

func TestDataThatCannotBeRewoundIsCopied(t *testing.T) {
	t.Parallel()
	c := failedOver(t)
	m := c.members["pg-1"]
	data := inode(t, filepath.Join(m.Volume, "pgdata"))
	// Without its log it can neither recover nor be rewound.
	for _, log := range logsOf(t, m) {
		assert.NilError(t, os.Remove(log))
	}
	c.orders.CopyOnOrder = true
	c.order()
	m.Start()
	asked := m.Await("that it asks first", func(s api.MemberStatus) bool { return s.NeedsCopy != "" })
	assert.Equal(t, asked.State, api.StateJoining)
	assert.Equal(t, inode(t, filepath.Join(m.Volume, "pgdata")), data)
	c.orders.Rebuild = "pg.one"
	c.orders.Term++
	c.order()
	m.Await("a standby", healthy)
	c.eventually("pg-1", countAll, "1001 1 1001")
	assert.Assert(t, inode(t, filepath.Join(m.Volume, "pgdata")) != data, "it was not copied")
}

func TestTimelinesThatShareOnlyTheirNumberAreToldApart(t *testing.T) {
	t.Parallel()
	c := replicating(t, 3)
	// pg-1 and pg-2 both become primaries on timeline 2, from the same position.
	for _, m := range c.members {
		m.KillAll()
	}
	c.runByHand(c.members["pg-2"], "INSERT INTO t SELECT generate_series(-5000, -1)")
	assert.NilError(t, os.WriteFile(filepath.Join(c.members["pg-1"].Volume, "pgdata", "standby.signal"), nil, 0o600))
	c.runByHand(c.members["pg-1"], "INSERT INTO t SELECT generate_series(1001, 9000)")
	// And pg-1, by another change, on timeline 3.
	assert.NilError(t, os.WriteFile(filepath.Join(c.members["pg-1"].Volume, "pgdata", "standby.signal"), nil, 0o600))
	c.runByHand(c.members["pg-1"], "SELECT 1")
	data := inode(t, filepath.Join(c.members["pg-2"].Volume, "pgdata"))
	c.orders.Term, c.orders.Sync = 5, nil
	c.order()
	for _, name := range []string{"pg-1", "pg-2"} {
		c.members[name].Start()
		c.members[name].Await("its role", healthy)
	}
	c.eventually("pg-2", countAll, "9000 1 9000")
	assert.Assert(t, inode(t, filepath.Join(c.members["pg-2"].Volume, "pgdata")) != data, "it was not copied")
}

func TestStandbyThatIsAheadOfTheNewPrimaryIsRewound(t *testing.T) {
	t.Parallel()
	c := replicating(t, 3)
	c.eventually("pg-3", "SELECT count(*) FROM t", "1000")
	c.signalSender("pg-1", "pg-3", syscall.SIGSTOP)
	c.must("pg-1", "INSERT INTO t SELECT generate_series(-5000, -1)")
	c.members["pg-1"].KillAll()
	c.nobody()
	c.inLine("pg-2")
	c.elect("pg-3", c.inLine("pg-3"))
	c.takesWrites("pg-3", "1001") // waits for pg-2
	c.eventually("pg-2", countAll, "1001 1 1001")
	c.members["pg-2"].Await("a standby", func(s api.MemberStatus) bool { return healthy(s) && s.Timeline == 2 })
	assert.Assert(t, c.members["pg-2"].Seen(said("that pg-3 has not")))
}

func TestOldDataMakesWayForACopyWhereThereIsNoSpaceForBoth(t *testing.T) {
	t.Parallel()
	armed := t.TempDir()
	c := newCluster(t, 2, failpoint.Variable+"="+armed)
	m := c.members["pg-1"]
	m.Limit("140m")
	c.replicate()
	c.failOver()
	for _, log := range logsOf(t, m) {
		assert.NilError(t, os.Remove(log))
	}
	assert.NilError(t, os.WriteFile(filepath.Join(armed, "rejoin:removed"), nil, 0o600))
	m.Start()
	assert.Equal(t, m.Wait(), -1, "the old data was not removed first")
	m.KillAll()
	left, err := filepath.Glob(filepath.Join(m.Volume, "pgdata*"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0, left)
	m.Start()
	m.Await("a standby", healthy)
	c.eventually("pg-1", countAll, "1001 1 1001")
}

func logsOf(t *testing.T, m *agenttest.Member) []string {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(m.Volume, "pgdata", "pg_wal", "0*"))
	assert.NilError(t, err)
	return logs
}

func TestStandbyWhoseLogIsGoneGetsAFreshCopy(t *testing.T) {
	t.Parallel()
	for name, slot := range map[string]string{
		"its slot has lost it": "",
		"its slot is newer":    "SELECT pg_drop_replication_slot('pg_2'), pg_create_physical_replication_slot('pg_2', true)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t, 2, `OPENMANAGE_PARAMETERS={"shared_buffers":"16MB","max_slot_wal_keep_size":"16MB","wal_keep_size":"0","max_wal_size":"32MB","min_wal_size":"32MB"}`)
			c.bootstrap()
			standby := c.members["pg-2"]
			standby.Start()
			standby.Await("a standby", healthy)
			standby.KillAll()
			data := inode(t, filepath.Join(standby.Volume, "pgdata"))
			c.must("pg-1", "CREATE TABLE t AS SELECT generate_series(1, 1000) n")
			agenttest.Eventually(t, func() error {
				c.must("pg-1", "SELECT pg_switch_wal()")
				c.must("pg-1", "CREATE TABLE IF NOT EXISTS x (n int); DROP TABLE x")
				c.must("pg-1", "CHECKPOINT")
				if status := c.must("pg-1", "SELECT wal_status FROM pg_replication_slots"); status != "lost" {
					return errors.New("the slot is " + status)
				}
				return nil
			})
			if slot != "" {
				c.must("pg-1", slot)
			}
			standby.Start()
			standby.Await("a standby", healthy)
			c.eventually("pg-2", countAll, "1000 1 1000")
			assert.Assert(t, inode(t, filepath.Join(standby.Volume, "pgdata")) != data, "it was not copied")
		})
	}
}

func TestStandbyKilledInItsPromotionIsAStandbyStill(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	standby := c.members["pg-2"]
	standby.Signal(syscall.SIGTERM)
	standby.Wait()
	// As the server leaves it in the moment between two writes of its own.
	assert.NilError(t, os.Remove(filepath.Join(standby.Volume, "pgdata", "standby.signal")))
	standby.Start()
	standby.Await("a refusal of what is not known", failsWith("standby.signal is missing"))
	assert.NilError(t, os.WriteFile(filepath.Join(standby.Volume, "pgdata.promotion"), nil, 0o600))
	standby.Await("a standby", healthy)
	assert.Equal(t, c.must("pg-2", "SELECT pg_is_in_recovery()"), "t")
}

func TestWhatThePrimaryWaitsForIsReportedAsItIsInForce(t *testing.T) {
	t.Parallel()
	c := replicating(t, 2)
	primary := c.members["pg-1"]
	pid := postmaster(t, primary)
	assert.Equal(t, c.inLine("pg-1").SyncNames, "pg-2")
	assert.Assert(t, c.inLine("pg-2").Sync)
	for _, names := range [][]string{nil, {"pg-2"}} {
		c.orders.Sync = names
		c.order()
		want := strings.Join(names, ",")
		primary.Await("names "+want, func(s api.MemberStatus) bool { return s.SyncNames == want })
		assert.Equal(t, c.must("pg-1", "SHOW synchronous_standby_names") == "", names == nil)
		c.members["pg-2"].Await("the same of the standby", func(s api.MemberStatus) bool { return s.Sync == (names != nil) })
	}
	assert.Equal(t, postmaster(t, primary), pid)
}

func TestDataThatNoServerWouldStartFromIsKnown(t *testing.T) {
	const history = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n"
	for _, tc := range []struct {
		doc                 string
		timeline            string
		checkpoint, minimum string
		minimumOf           string
		want                bool
	}{
		{doc: "on the newest", timeline: "3", checkpoint: "0/6000000", minimum: "0/6000100", minimumOf: "3"},
		{doc: "before the fork", timeline: "2", checkpoint: "0/4000000", minimum: "0/4F00000", minimumOf: "2"},
		{doc: "checkpoint beyond", timeline: "2", checkpoint: "0/5000001", minimum: "0/0", minimumOf: "0", want: true},
		{doc: "applied beyond", timeline: "1", checkpoint: "0/2000000", minimum: "0/3000149", minimumOf: "1", want: true},
		{doc: "on none of its timelines", timeline: "4", checkpoint: "0/2000000", minimum: "0/0", minimumOf: "0", want: true},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			s := &server{dir: t.TempDir()}
			assert.NilError(t, os.Mkdir(filepath.Join(s.dir, "pg_wal"), 0o700))
			control := controlData{
				"Latest checkpoint's TimeLineID": tc.timeline, "Latest checkpoint location": tc.checkpoint,
				"Minimum recovery ending location": tc.minimum, "Min recovery ending loc's timeline": tc.minimumOf,
			}
			got, err := s.cannotStart(control)
			assert.NilError(t, err)
			assert.Equal(t, got, false, "without any history")
			assert.NilError(t, os.WriteFile(filepath.Join(s.dir, "pg_wal", "00000003.history"), []byte(history), 0o600))
			got, err = s.cannotStart(control)
			assert.NilError(t, err)
			assert.Equal(t, got, tc.want)
		})
	}
}

func TestErrorsOfAConnectionAreShort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	address := l.Addr().String()
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s := &server{address: func(member string) (string, int) {
		if member == "nowhere" {
			return "no.such.member.invalid", 1
		}
		return "127.0.0.1", port
	}}
	_, err = s.dialPrimary(t.Context(), "pg-2", replicator, "x", nil)
	assert.Equal(t, plain(err), address+": connect: connection refused")
	_, err = s.dialPrimary(t.Context(), "nowhere", replicator, "x", nil)
	assert.Assert(t, strings.Count(plain(err), "no.such.member.invalid") == 1, plain(err))
	assert.Equal(t, plain(errors.Join(errors.New("a"), errors.New("a"), errors.New("b"))), "a; b")
}

func TestReplacementThatWasCutShortIsFinished(t *testing.T) {
	for _, tc := range []struct {
		doc  string
		have []string // folders with their own name in a file; marker
		want string   // what is in pgdata then; "": there is none
		err  string
	}{
		{doc: "nothing", want: ""},
		{doc: "only data", have: []string{"pgdata"}, want: "pgdata"},
		{doc: "a copy in the making", have: []string{"pgdata", "pgdata.new"}, want: "pgdata"},
		{doc: "a whole copy", have: []string{"pgdata", "pgdata.copied"}, want: "pgdata.copied"},
		{doc: "the data has made way", have: []string{"pgdata.copied", "pgdata.replaced"}, want: "pgdata.copied"},
		{doc: "the copy is in its place", have: []string{"pgdata", "pgdata.replaced"}, want: "pgdata"},
		{doc: "the data was removed first", have: []string{"pgdata.replaced"}, want: ""},
		{doc: "a copy for data that is gone", have: []string{"pgdata.copied"}, want: "pgdata.copied"},
		{doc: "what nobody makes", have: []string{"pgdata", "pgdata.copied", "pgdata.replaced"}, err: "not clear which is the data"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			dir := t.TempDir()
			s := &server{volume: dir, dir: filepath.Join(dir, "pgdata"), log: hclog.NewNullLogger()}
			for _, name := range tc.have {
				assert.NilError(t, os.Mkdir(filepath.Join(dir, name), 0o700))
				assert.NilError(t, os.WriteFile(filepath.Join(dir, name, "name"), []byte(name), 0o600))
			}
			swap := slices.ContainsFunc(tc.have, func(name string) bool { return name == "pgdata.copied" || name == "pgdata.replaced" })
			assert.NilError(t, os.WriteFile(s.marker(), []byte("7\n"), 0o600))
			err := s.finishSwap()
			if tc.err != "" {
				assert.ErrorContains(t, err, tc.err)
				for _, name := range tc.have {
					_, err := os.Stat(filepath.Join(dir, name))
					assert.NilError(t, err)
				}
				return
			}
			assert.NilError(t, err)
			data, err := os.ReadFile(filepath.Join(dir, "pgdata", "name"))
			if tc.want == "" {
				assert.ErrorIs(t, err, os.ErrNotExist)
			}
			assert.Equal(t, string(data), tc.want)
			// The marker is of the data that was replaced, and of no other.
			id, err := s.rejoining()
			assert.NilError(t, err)
			assert.Equal(t, id == "", swap)
			for _, name := range []string{s.copied(), s.replaced()} {
				_, err := os.Stat(name)
				assert.ErrorIs(t, err, os.ErrNotExist)
			}
		})
	}
}
