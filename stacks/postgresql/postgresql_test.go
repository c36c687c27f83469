package postgresql

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
	"github.com/openmanage/openmanage/memberagent/agenttest"
	"github.com/openmanage/openmanage/memberagent/enginetest"
)

// The tests run real servers (Debian's postgresql-15 or newer), as root.

const (
	envPort  = "PGTEST_PORT"
	envPorts = "PGTEST_PORTS" // of all members: pg-1=15001,pg-2=15002
)

func TestMain(m *testing.M) {
	port, _ := strconv.Atoi(os.Getenv(envPort))
	engine := Engine{
		Port:      port,
		SocketDir: os.Getenv("PGTEST_SOCKETS"),
		Address: func(member string) (string, int) {
			for entry := range strings.SplitSeq(os.Getenv(envPorts), ",") {
				if name, port, _ := strings.Cut(entry, "="); name == member {
					return "127.0.0.1", atoi(port)
				}
			}
			return "no.such.member.invalid", 1
		},
	}
	agenttest.Main(engine)
	enginetest.Main(engine)
	if _, err := findBinaries(os.Getenv("PATH")); err != nil {
		fmt.Fprintln(os.Stderr, "these tests need a PostgreSQL server: apt-get install postgresql;", err)
		os.Exit(1)
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests must run as root: the agent runs the server as another user")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// cluster is an application under test.
type cluster struct {
	t       *testing.T
	names   []string
	members map[string]*agenttest.Member
	ports   map[string]int
	orders  api.MemberOrders
}

// newCluster makes n members, the first the primary; none is started.
func newCluster(t *testing.T, n int, env ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, members: map[string]*agenttest.Member{}}
	for i := range n {
		c.names = append(c.names, fmt.Sprintf("pg-%d", i+1))
	}
	var err error
	c.ports, err = freePorts(c.names)
	assert.NilError(t, err)
	for _, name := range c.names {
		sockets, err := os.MkdirTemp("", "pgsock")
		assert.NilError(t, err)
		assert.NilError(t, os.Chmod(sockets, 0o777))
		t.Cleanup(func() { os.RemoveAll(sockets) })
		m := agenttest.New(t, name, "postgresql", append([]string{
			"PGTEST_SOCKETS=" + sockets, envPorts + "=" + portList(c.ports), fmt.Sprintf("%s=%d", envPort, c.ports[name]),
			memberagent.EnvParameters + `={"shared_buffers":"16MB"}`,
		}, env...)...)
		writeSecrets(t, m, "s3cret:with\\marks'", "r3plication:p\\w")
		c.members[name] = m
	}
	c.orders = api.MemberOrders{Term: 1, Primary: "pg-1", Members: c.names}
	c.order()
	return c
}

// freePorts finds a port on the loopback address for each member.
func freePorts(members []string) (map[string]int, error) {
	ports := map[string]int{}
	for _, member := range members {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // only when all are found: they differ
		ports[member] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

func portList(ports map[string]int) string {
	var list []string
	for member, port := range ports {
		list = append(list, fmt.Sprintf("%s=%d", member, port))
	}
	return strings.Join(list, ",")
}

func writeSecrets(t *testing.T, m *agenttest.Member, superuser, replicator string) {
	t.Helper()
	assert.NilError(t, os.WriteFile(filepath.Join(m.Secrets, superuserSecret), []byte(superuser+"\n"), 0o444))
	assert.NilError(t, os.WriteFile(filepath.Join(m.Secrets, replicatorSecret), []byte(replicator), 0o444))
}

// order sends the present orders to all members.
func (c *cluster) order() {
	for name, m := range c.members {
		orders := c.orders
		orders.Role = api.RoleStandby
		if name == orders.Primary {
			orders.Role = api.RolePrimary
		}
		m.Order(orders)
	}
}

// bootstrap starts the primary and tells all what it made, as the leader does.
func (c *cluster) bootstrap() *agenttest.Member {
	c.t.Helper()
	primary := c.members[c.orders.Primary]
	primary.Start()
	s := primary.Await("a healthy primary", healthy)
	assert.Assert(c.t, s.Initialized)
	c.orders.Initialized, c.orders.SystemID = true, s.SystemID
	c.order()
	return primary
}

func healthy(s api.MemberStatus) bool { return s.State == api.StateRunning && s.Healthy }

func failsWith(words string) func(api.MemberStatus) bool {
	return func(s api.MemberStatus) bool { return s.State == api.StateFailed && strings.Contains(s.Message, words) }
}

// open connects as a client does: over TCP, with a password.
func (c *cluster) open(member, user, password, database string) (*pgconn.PgConn, error) {
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=%s dbname=%s sslmode=disable connect_timeout=5", c.ports[member], user, database))
	if err != nil {
		return nil, err
	}
	config.Password = password
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return pgconn.ConnectConfig(ctx, config)
}

// sql runs one statement on a member as the superuser.
func (c *cluster) sql(member, statement string) (string, error) {
	conn, err := c.open(member, "postgres", "s3cret:with\\marks'", "postgres")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	defer conn.Close(ctx)
	table, err := rows(ctx, conn, statement)
	if err != nil || len(table) == 0 {
		return "", err
	}
	return table[0][0], nil
}

func (c *cluster) must(member, statement string) string {
	c.t.Helper()
	value, err := c.sql(member, statement)
	assert.NilError(c.t, err, "%s: %s", member, statement)
	return value
}

// eventually waits until a statement on a member gives want.
func (c *cluster) eventually(member, statement, want string) {
	c.t.Helper()
	agenttest.Eventually(c.t, func() error {
		got, err := c.sql(member, statement)
		if err == nil && got != want {
			err = fmt.Errorf("%s: %s gives %q, not %q", member, statement, got, want)
		}
		return err
	})
}

func postmaster(t *testing.T, m *agenttest.Member) int {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(m.Volume, "pgdata", "postmaster.pid"))
	assert.NilError(t, err)
	pid, _, _ := strings.Cut(string(data), "\n")
	return atoi(pid)
}

func TestPrimaryIsMadeWithItsRolesAndDatabase(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, "POSTGRES_DB=shop-1")
	m := c.bootstrap()
	s := m.Status()
	assert.Equal(t, s.Role, api.RolePrimary)
	assert.Equal(t, s.Timeline, 1)
	assert.Assert(t, s.Position > 0 && s.SystemID != "" && s.Version != "", "%+v", s)

	conn, err := c.open("pg-1", "postgres", "s3cret:with\\marks'", "shop-1")
	assert.NilError(t, err)
	conn.Close(t.Context())
	_, err = c.open("pg-1", "postgres", "wrong", "shop-1")
	assert.ErrorContains(t, err, "password authentication failed")
	conn, err = c.open("pg-1", replicator, "r3plication:p\\w", "postgres")
	assert.NilError(t, err)
	conn.Close(t.Context())

	assert.Equal(t, c.must("pg-1", "SHOW data_checksums"), "on")
	assert.Equal(t, c.must("pg-1", "SHOW shared_buffers"), "16MB")
	assert.Equal(t, c.must("pg-1", "SHOW server_encoding"), "UTF8")
	// Root on the socket needs no password; other roles do.
	_, err = os.Stat(filepath.Join(m.Volume, "pgdata.new"))
	assert.ErrorIs(t, err, os.ErrNotExist)
	noSecretsIn(t, m.Volume, "s3cret:with", "r3plication")
}

// noSecretsIn fails if a file below dir, other than the passfile, has the words.
func noSecretsIn(t *testing.T, dir string, words ...string) {
	t.Helper()
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if errors.Is(err, os.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Name() == passfileName) {
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		for _, word := range words {
			if strings.Contains(string(data), word) {
				t.Errorf("%s holds the password %q", path, word)
			}
		}
		return err
	})
	assert.NilError(t, err)
}

func TestThreeMembersReplicate(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.orders.Sync = []string{"pg-2", "pg-3"}
	c.order()
	c.members["pg-2"].Start()
	c.members["pg-2"].Await("words for what it waits", func(s api.MemberStatus) bool {
		return s.Message == "waiting until pg-1 has made the database"
	})
	primary := c.bootstrap()
	c.members["pg-3"].Start()
	for _, name := range []string{"pg-2", "pg-3"} {
		s := c.members[name].Await("a healthy standby", healthy)
		assert.Assert(t, s.Streaming && s.Sync, "%+v", s)
		assert.Equal(t, s.Role, api.RoleStandby)
		assert.Equal(t, s.SystemID, c.orders.SystemID)
		assert.Equal(t, s.Timeline, 1)
		assert.Assert(t, c.members[name].Seen(func(s api.MemberStatus) bool { return s.State == api.StateJoining }))
	}
	assert.Equal(t, c.must("pg-1", "SHOW synchronous_standby_names"), `ANY 1 ("pg-2", "pg-3")`)
	assert.Equal(t, c.must("pg-1", "SELECT string_agg(slot_name || ' ' || active, ',' ORDER BY 1) FROM pg_replication_slots"), "pg_2 true,pg_3 true")

	c.must("pg-1", "CREATE TABLE t AS SELECT generate_series(1, 1000) n")
	for _, name := range []string{"pg-2", "pg-3"} {
		c.eventually(name, "SELECT count(*) FROM t", "1000")
		c.members[name].Await("no lag", func(s api.MemberStatus) bool { return s.LagBytes == 0 && s.LagSeconds == 0 })
	}

	// A commit waits when no standby is there, and the primary says so.
	for _, name := range []string{"pg-2", "pg-3"} {
		c.members[name].Signal(syscall.SIGTERM)
		assert.Equal(t, c.members[name].Wait(), 0)
		assert.Equal(t, len(c.members[name].Engines()), 0)
	}
	primary.Await("a warning", func(s api.MemberStatus) bool { return strings.Contains(s.Message, "no standby streams") })
	_, err := c.sql("pg-1", "SET statement_timeout = '500ms'; INSERT INTO t VALUES (0)")
	assert.Assert(t, err != nil, "a commit did not wait for a standby")

	// A standby comes back and streams on, without another copy.
	c.members["pg-2"].Start()
	c.members["pg-2"].Await("streaming again", healthy)
	c.must("pg-1", "INSERT INTO t VALUES (-1)")
	c.eventually("pg-2", "SELECT min(n) FROM t", "-1")

	// The leader turns the quorum off: no restart.
	before := postmaster(t, primary)
	c.orders.Sync = nil
	c.order()
	c.eventually("pg-1", "SHOW synchronous_standby_names", "")
	assert.Equal(t, postmaster(t, primary), before)
}

func TestPrimaryComesBackAfterACrash(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	primary := c.bootstrap()
	c.members["pg-2"].Start()
	c.members["pg-2"].Await("a healthy standby", healthy)
	c.must("pg-1", "CREATE TABLE t AS SELECT 1 n")

	// kill -9 of the postmaster: the agent restarts it.
	old := postmaster(t, primary)
	killed := time.Now()
	assert.NilError(t, syscall.Kill(old, syscall.SIGKILL))
	agenttest.Eventually(t, func() error {
		_, err := c.sql("pg-1", "SELECT 1")
		if err == nil && postmaster(t, primary) == old {
			err = errors.New("it still runs")
		}
		return err
	})
	t.Logf("the primary takes statements %s after the kill -9 of its server", time.Since(killed))
	primary.Await("the primary again", healthy)
	c.must("pg-1", "INSERT INTO t VALUES (2)")
	c.eventually("pg-2", "SELECT count(*) FROM t", "2")

	// kill -9 of everything, as when its node dies; another container finds a pid
	// file whose pid is alive and the server's own user's there.
	primary.KillAll()
	pidfile := filepath.Join(primary.Volume, "pgdata", "postmaster.pid")
	data, err := os.ReadFile(pidfile)
	assert.NilError(t, err)
	lines := strings.SplitN(string(data), "\n", 2)
	lines[0] = strconv.Itoa(postmaster(t, c.members["pg-2"]))
	assert.NilError(t, os.WriteFile(pidfile, []byte(strings.Join(lines, "\n")), 0o600))
	primary.Start()
	primary.Await("the primary again", healthy)
	c.must("pg-1", "INSERT INTO t VALUES (3)")
	c.eventually("pg-2", "SELECT count(*) FROM t", "3")
	c.members["pg-2"].Await("streaming again", healthy)
}

// A primary that is told to stop while it recovers from a crash is a primary still,
// whether its agent stops it or a shutdown by hand has.
func TestAPrimaryStoppedInItsRecoveryComesBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, memberagent.EnvParameters+`={"shared_buffers":"16MB","max_wal_size":"4GB","checkpoint_timeout":"1h","full_page_writes":"off"}`)
	m := c.bootstrap()
	c.must("pg-1", "CREATE TABLE t (n int)")
	c.must("pg-1", "CHECKPOINT")
	// Enough of a log that it takes a while.
	c.must("pg-1", "INSERT INTO t SELECT generate_series(1, 1500000)")
	crash := func() {
		m.KillAll()
		assert.Equal(t, c.stateOf(m), "in production")
	}
	crash()
	server := c.recoverByHand(m)
	assert.NilError(t, server.Process.Signal(syscall.SIGINT))
	assert.NilError(t, server.Wait())
	assert.Equal(t, c.stateOf(m), "shut down in recovery", "the recovery was over: nothing was shown")
	m.Start()
	m.Await("the primary again", healthy)
	assert.Equal(t, c.must("pg-1", "SELECT count(*) FROM t"), "1500000")

	c.must("pg-1", "INSERT INTO t SELECT generate_series(1, 1500000)")
	crash()
	m.Start()
	agenttest.Eventually(t, func() error {
		if state := c.stateOf(m); state != "in crash recovery" {
			return errors.New(state)
		}
		return nil
	})
	m.Signal(syscall.SIGTERM)
	assert.Equal(t, m.Wait(), 0)
	assert.Equal(t, c.stateOf(m), "in crash recovery", "the recovery was not broken off")
	m.Start()
	m.Await("the primary again", healthy)
	assert.Equal(t, c.must("pg-1", "SELECT count(*) FROM t"), "3000000")
}

func TestServerThatRanOverAPauseIsEnded(t *testing.T) {
	c := newCluster(t, 1)
	m := c.bootstrap()
	before := m.Engines()
	m.Signal(syscall.SIGSTOP)
	time.Sleep(2500 * time.Millisecond) // the pause itself, longer than the lease
	m.Answer(func(a *api.AgentAnswer) { a.Lease, a.Reason = 0, "node2 holds pg-1" })
	m.Signal(syscall.SIGCONT)
	resumed := time.Now()
	agenttest.Eventually(t, func() error {
		for _, pid := range m.Engines() {
			if slices.Contains(before, pid) {
				return fmt.Errorf("process %d is still there", pid)
			}
		}
		return nil
	})
	assert.Assert(t, time.Since(resumed) < api.LeaseMargin)
	assert.Equal(t, len(m.Engines()), 0)
}

func TestMissingDataIsNeverReplacedByANewDatabase(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.orders.Initialized, c.orders.SystemID = true, "7351234567890123456"
	c.order()
	m := c.members["pg-1"]
	m.Start()
	m.Await("the refusal", failsWith("the data is missing"))
	_, err := os.Stat(filepath.Join(m.Volume, "pgdata"))
	assert.ErrorIs(t, err, os.ErrNotExist)
}

func TestContradictionsAreRefusedInWords(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.bootstrap()
	standby := c.members["pg-2"]
	standby.Start()
	standby.Await("a healthy standby", healthy)

	system := c.orders.SystemID
	c.orders.SystemID = "1"
	c.order()
	// Orders that change nothing for a running server do not end it.
	standby.Await("still healthy", healthy)
	standby.Signal(syscall.SIGTERM)
	standby.Wait()
	standby.Start()
	standby.Await("the refusal", failsWith("another database"))
	c.orders.SystemID = system

	// A standby that the leader has not chosen for its data is not promoted, and an
	// old primary waits for a new one.
	c.orders.Primary, c.orders.Term = "pg-2", 2
	c.order()
	standby.Await("the refusal", failsWith("not promoted"))
	c.members["pg-1"].Await("its waiting", func(s api.MemberStatus) bool {
		return s.State == api.StateJoining && strings.Contains(s.Message, "waiting for the primary pg-2")
	})
	assert.Equal(t, len(c.members["pg-1"].Engines()), 0)
	assert.Equal(t, len(standby.Engines()), 0)

	// And back.
	c.orders.Primary, c.orders.Term = "pg-1", 3
	c.order()
	c.members["pg-1"].Await("the primary", healthy)
	standby.Await("the standby", healthy)
}

func TestStandbyThatSomebodyPromotedIsStopped(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.bootstrap()
	standby := c.members["pg-2"]
	standby.Start()
	standby.Await("a healthy standby", healthy)
	c.must("pg-2", "SELECT pg_promote(false)")
	standby.Await("the refusal", failsWith("two primaries"))
	assert.Equal(t, len(standby.Engines()), 0)
}

func TestStandbyOnAnotherTimelineSaysSoAndComesBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.bootstrap()
	standby := c.members["pg-2"]
	standby.Start()
	standby.Await("a healthy standby", healthy)
	standby.KillAll()
	// Run it on by hand, as a primary, and make it a standby again.
	c.runByHand(standby, "CREATE TABLE strayed ()")
	assert.NilError(t, os.WriteFile(filepath.Join(standby.Volume, "pgdata", "standby.signal"), nil, 0o600))
	standby.Start()
	standby.Await("words", func(s api.MemberStatus) bool {
		return !s.Healthy && strings.Contains(s.Message, "needs a fresh copy")
	})
	// It gets one, or its like, and follows again.
	standby.Await("a healthy standby", healthy)
	assert.Equal(t, c.must("pg-2", "SELECT count(*) FROM pg_class WHERE relname = 'strayed'"), "0")
	assert.Equal(t, standby.Status().Timeline, 1)
}

func TestCopyIsNoStandbyYet(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.bootstrap()
	c.must("pg-1", "CREATE TABLE t AS SELECT repeat('x', 500) FROM generate_series(1, 200000)")
	c.must("pg-1", "CHECKPOINT")

	standby := c.members["pg-2"]
	standby.Start()
	err := os.ErrNotExist
	// While it copies, the primary does not know it by the name that counts for
	// synchronous commits.
	var copies int
	for errors.Is(err, os.ErrNotExist) {
		names := c.must("pg-1", "SELECT coalesce(string_agg(application_name, ','), '') FROM pg_stat_replication")
		_, err = os.Stat(filepath.Join(standby.Volume, "pgdata"))
		if errors.Is(err, os.ErrNotExist) {
			assert.Assert(t, !slices.Contains(strings.Split(names, ","), "pg-2"), names)
			if strings.Contains(names, "pg-2 copy") {
				copies++
			}
		}
	}
	assert.Assert(t, copies > 0, "the copy was not seen")
	standby.Await("a healthy standby", healthy)
	c.eventually("pg-2", "SELECT count(*) FROM t", "200000")
}

func TestNewSecretsBecomeTheRolesPasswords(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	m := c.bootstrap()
	m.Signal(syscall.SIGTERM)
	assert.Equal(t, m.Wait(), 0)
	for _, m := range c.members {
		writeSecrets(t, m, "new1", "new2")
	}
	m.Start()
	agenttest.Eventually(t, func() error {
		conn, err := c.open("pg-1", "postgres", "new1", "postgres")
		if err == nil {
			conn.Close(t.Context())
		}
		return err
	})
	c.members["pg-2"].Start()
	c.members["pg-2"].Await("a healthy standby", healthy)
}

func TestSettingThatTheServerRefusesIsNamed(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, memberagent.EnvParameters+`={"max_connections":"many"}`)
	m := c.members["pg-1"]
	m.Start()
	m.Await("the name of the setting", func(s api.MemberStatus) bool { return strings.Contains(s.Message, "max_connections") })
}

func TestParametersThatAreNotTheUsers(t *testing.T) {
	assert.NilError(t, checkParameters(map[string]string{"work_mem": "4MB", "pg_stat_statements.max": "100"}))
	for name, value := range map[string]string{"Listen_Addresses": "x", "primary_conninfo": "x", "recovery_target": "x", "a b": "x", "work_mem": "1\ninclude='x'"} {
		assert.Assert(t, checkParameters(map[string]string{name: value}) != nil, name)
	}
}

func TestVerifierIsTheOneOfTheRFC(t *testing.T) {
	// RFC 7677, section 3: user "user", password "pencil".
	v, err := verifier("pencil", []byte("[m\x99h\x9d\x12\x8e\x7e\x1b\xd8\xbc\xa2i\xd1\x8d\xda"), 4096)
	assert.NilError(t, err)
	assert.Assert(t, verifies(v, "pencil"))
	assert.Assert(t, !verifies(v, "pencils"))
	assert.Assert(t, !verifies("md5abc", "pencil"))
	assert.Assert(t, !verifies("", "pencil"))
}

func TestStandbyKeepsThePrimarysHigherSettings(t *testing.T) {
	s := &server{parameters: map[string]string{"max_connections": "50", "max_worker_processes": "20"}, minimums: map[string]int{"max_connections": 100, "max_worker_processes": 8, "max_wal_senders": 20}}
	assert.Assert(t, maps.Equal(s.raised(api.RoleStandby), map[string]string{"max_connections": "100", "max_wal_senders": "20"}))
	assert.Equal(t, len(s.raised(api.RolePrimary)), 0)
}
