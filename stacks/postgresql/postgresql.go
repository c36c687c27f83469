package postgresql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// Names that the image, the stack and this engine agree on.
const (
	systemUser  = "postgres"            // in the image; the server runs as it
	socketDir   = "/var/run/postgresql" // in the image, of that user
	defaultPort = 5432
	replicator  = "replicator" // the role that standbys use

	superuserSecret  = "superuser-password"
	replicatorSecret = "replication-password"

	// As in the official image: the superuser, and the database that is made.
	envUser     = "POSTGRES_USER"
	envDatabase = "POSTGRES_DB"
)

var plainName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,62}$`)

// Engine is PostgreSQL. Its zero value is for the official image.
type Engine struct {
	// SocketDir and Port of the server; Address tells where another member
	// listens. They differ from the image's only where several servers share a
	// host, as in tests.
	SocketDir string
	Port      int
	Address   func(member string) (host string, port int)
}

// Name is "postgresql".
func (Engine) Name() string { return "postgresql" }

// Open finds the image's binaries and user and reads secrets and settings.
func (e Engine) Open(m memberagent.Member) (memberagent.Server, error) {
	s := &server{
		member:    m.Name,
		log:       m.Log,
		processes: m.Processes,
		volume:    m.Data,
		dir:       filepath.Join(m.Data, "pgdata"),
		socketDir: cmp.Or(e.SocketDir, socketDir),
		port:      cmp.Or(e.Port, defaultPort),
		address:   e.Address,
		superuser: cmp.Or(m.Getenv(envUser), systemUser),
	}
	s.database = cmp.Or(m.Getenv(envDatabase), s.superuser)
	if !plainName.MatchString(s.superuser) || s.superuser == replicator || strings.HasPrefix(s.superuser, "pg_") {
		return nil, fmt.Errorf("%s=%q cannot name the superuser: it must be letters, digits and underscores, not %q and not beginning with pg_", envUser, s.superuser, replicator)
	}
	if s.address == nil {
		s.address = func(member string) (string, int) { return cmp.Or(s.known[member], member), s.port }
	}
	var err error
	if s.bin, err = findBinaries(m.Getenv("PATH")); err != nil {
		return nil, err
	}
	if s.credential, err = memberagent.User(systemUser); err != nil {
		return nil, err
	}
	if s.superuserPassword, err = readSecret(m.SecretsDir, superuserSecret); err != nil {
		return nil, err
	}
	if s.replicatorPassword, err = readSecret(m.SecretsDir, replicatorSecret); err != nil {
		return nil, err
	}
	if err := checkParameters(m.Parameters); err != nil {
		return nil, err
	}
	s.initial = m.Parameters
	return s, nil
}

// server is the PostgreSQL server of one member. The agent calls one method at a
// time.
type server struct {
	member     string
	log        hclog.Logger
	processes  *memberagent.Processes
	volume     string // mount point of the data volume
	dir        string // PGDATA
	bin        string // folder of the binaries
	major      string // of the binaries, once asked
	credential *syscall.Credential
	socketDir  string
	port       int
	address    func(member string) (string, int)
	known      map[string]string // addresses of other members, by name
	initial    map[string]string // settings of the environment

	// The user's settings, and MemberOrders.Parameters that they are of or, if it has
	// refused those, were considered last.
	parameters map[string]string
	considered string
	refused    string
	// Settings that wait for a restart, of this server or of the primary.
	pending, primaryFirst []string

	superuser, database                   string
	superuserPassword, replicatorPassword string

	// Of the server that runs.
	process  *memberagent.Process
	role     api.Role
	systemID string
	minimums map[string]int   // settings that a standby must not have lower
	loaded   string           // openmanage.conf that the server was told to read
	before   float64          // when it had read one last before that, seconds
	settled  bool             // the server has read it, and no receiver of before is left
	followed string           // the primary that it was told to follow last
	synced   bool             // the roles' passwords are the secrets'
	conn     *pgconn.PgConn   // nil: not connected
	why      standbyDiagnosis // why it does not stream
	idle     idleness         // and whether there is no reason
}

// learn notes what orders say of where others are.
func (s *server) learn(orders api.MemberOrders) {
	if orders.PrimaryAddress != "" {
		s.known = map[string]string{orders.Primary: orders.PrimaryAddress}
	}
}

// temporary is a data directory in the making.
func (s *server) temporary() string { return s.dir + ".new" }

// command prepares a program of PostgreSQL, run as the image's user. Its output
// goes to the container's log.
func (s *server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.volume
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.credential}
	for _, variable := range os.Environ() {
		// PGDATA, PGHOST and their like would change what the arguments say.
		if !strings.HasPrefix(variable, "PG") {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	return cmd
}

// Start removes what a crash left, writes the configuration and starts the
// server.
func (s *server) Start(ctx context.Context, orders api.MemberOrders) (*memberagent.Process, error) {
	s.learn(orders)
	s.disconnect()
	if err := s.begin(orders); err != nil {
		return nil, err
	}
	control, err := s.controlData(ctx, s.dir)
	if err != nil {
		return nil, err
	}
	data, err := s.Inspect(ctx)
	if err != nil {
		return nil, err
	}
	if data.Stale || data.Empty {
		return nil, fmt.Errorf("the data in %s is no whole database to start from", s.dir)
	}
	s.role, s.systemID, s.synced, s.settled = data.Role, data.SystemID, false, true
	s.why, s.idle, s.followed = standbyDiagnosis{}, idleness{}, s.follows(orders)
	s.minimums, s.before = nil, 0
	if s.role == api.RoleStandby {
		s.minimums = control.minimums()
		if err := s.writePassfile(); err != nil {
			return nil, err
		}
	}
	if err := s.remove(filepath.Join(s.volume, superfileName)); err != nil {
		return nil, err
	}
	if err := s.ownDirectory(); err != nil {
		return nil, err
	}
	if err := s.finishPromotion(data.Role); err != nil {
		return nil, err
	}
	if s.loaded, err = s.configure(s.dir, s.role, orders); err != nil {
		return nil, err
	}
	if err := s.checkConfiguration(ctx, s.dir); err != nil {
		return nil, err
	}
	if err := s.removeStale(); err != nil {
		return nil, err
	}
	s.process, err = s.processes.Start(ctx, s.command("postgres", "-D", s.dir))
	return s.process, err
}

// checkConfiguration has `postgres -C` read the configuration as the server would
// and say what is wrong with it, which the server itself says only in its log.
func (s *server) checkConfiguration(ctx context.Context, dir string) error {
	if _, err := s.processes.Output(ctx, s.quiet("postgres", "-D", dir, "-C", "config_file")); err != nil {
		return fmt.Errorf("the server refuses its configuration: %w; change the setting with docker openmanage config, or in postgresql.conf in the volume", err)
	}
	return nil
}

// removeStale removes the lock files of a server that is no more. They name a pid
// of another container, which may be anything in this one, and a server that finds
// its pid taken refuses to start. Only the lease, the lock on the volume and the
// agent's having ended all it started allow this: no server can run here.
func (s *server) removeStale() error {
	for _, path := range []string{
		filepath.Join(s.dir, "postmaster.pid"),
		filepath.Join(s.socketDir, fmt.Sprintf(".s.PGSQL.%d.lock", s.port)),
	} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the lock file of the last server: %w", err)
		}
	}
	return s.makeSocketDir()
}

// makeSocketDir makes the folder of the server's socket, if the image does not
// have it.
func (s *server) makeSocketDir() error {
	err := os.Mkdir(s.socketDir, 0o775)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chown(s.socketDir, int(s.credential.Uid), int(s.credential.Gid))
	}
	if err != nil {
		return fmt.Errorf("make the folder of the server's socket: %w", err)
	}
	return nil
}

// Stop asks for a fast shutdown: clients are disconnected, transactions rolled
// back, a last checkpoint written and sent to the standbys (documentation of
// PostgreSQL, "Shutting Down the Server"). While it still recovers from a crash there
// is nothing of that to do, and a fast shutdown would leave data that looks like a
// standby's: the recovery is broken off, and begins anew at the next start.
func (s *server) Stop(ctx context.Context) error {
	s.disconnect()
	if s.role == api.RolePrimary {
		if control, err := s.controlData(ctx, s.dir); err == nil && control["Database cluster state"] == "in crash recovery" {
			s.log.Info("breaking off the recovery from a crash")
			return s.process.Signal(syscall.SIGQUIT)
		}
	}
	return s.process.Signal(syscall.SIGINT)
}

// quiet is a command whose output is for the engine, in English.
func (s *server) quiet(name string, args ...string) *exec.Cmd {
	cmd := s.command(name, args...)
	cmd.Stdout, cmd.Stderr = nil, nil
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	return cmd
}

// wait waits for d or until ctx ends, and returns ctx's cause then.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
