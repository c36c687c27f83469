// Package agenttest runs a real agent as a process of its own against a plugin
// that a test controls. A test binary that uses it calls Main first in TestMain,
// because the agent is the test binary itself, run again.
package agenttest

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

const (
	envAgent   = "AGENTTEST_AGENT"
	envSocket  = "AGENTTEST_SOCKET"
	envSecrets = "AGENTTEST_SECRETS"
)

// Main is the agent, if this process was started by Start; else it returns.
func Main(engines ...memberagent.Engine) {
	if os.Getenv(envAgent) == "" {
		return
	}
	config, err := memberagent.FromEnv(os.Getenv)
	if err == nil {
		config.Engines = engines
		config.Socket = os.Getenv(envSocket)
		config.SecretsDir = os.Getenv(envSecrets)
		err = memberagent.Run(context.Background(), config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "agent:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// Deadline is how long Await waits. It is for slow machines; nothing is meant to
// take so long.
const Deadline = 60 * time.Second

// Member is a member of an application under test: its volume, its plugin and,
// after Start, its agent.
type Member struct {
	Name string
	// Application is another one for each member, so that agents on one host do
	// not meet.
	Application string
	Volume      string // folder that stands for the mounted data volume
	Secrets     string
	NoNews      bool // the plugin is one that knows no questions for news

	t      *testing.T
	engine string
	env    []string
	socket string

	mu       sync.Mutex
	server   *http.Server
	answer   api.AgentAnswer
	statuses []api.MemberStatus
	news     chan struct{} // closed at each report
	stay     bool          // it is not this member's turn to stop
	seq      uint64        // counts changes of answer
	changed  chan struct{} // closed at each
	asked    int           // for news

	agent *exec.Cmd
	ended chan struct{}
}

// New makes a member with an empty volume and a plugin that gives it a lease of
// 2 s and no orders yet. env is added to the agent's environment.
func New(t *testing.T, name, engine string, env ...string) *Member {
	t.Helper()
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		t.Fatal(err)
	}
	m := &Member{
		Name: name, Application: filepath.Base(dir), Volume: filepath.Join(dir, "volume"), Secrets: filepath.Join(dir, "secrets"),
		t: t, engine: engine, env: env, socket: filepath.Join(dir, "plugin.sock"), news: make(chan struct{}), changed: make(chan struct{}),
	}
	// Not t.TempDir: the server's own user must get through.
	for _, d := range []string{dir, m.Volume, m.Secrets} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	m.answer = api.AgentAnswer{Lease: 2 * time.Second, Epoch: 1, Device: Device(t, m.Volume), Node: "node1"}
	m.OpenSocket()
	t.Cleanup(func() {
		m.KillAll()
		m.CloseSocket()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return m
}

// Device is the major:minor of the file system at path.
func Device(t *testing.T, path string) string {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))
}

// Limit gives the member, which has not started yet, a volume of that size.
func (m *Member) Limit(size string) {
	m.t.Helper()
	if err := unix.Mount("tmpfs", m.Volume, "tmpfs", 0, "size="+size); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		m.KillAll()
		// A process that has been killed leaves its files a moment after its directory.
		Eventually(m.t, func() error { return unix.Unmount(m.Volume, 0) })
	})
	m.Answer(func(a *api.AgentAnswer) { a.Device = Device(m.t, m.Volume) })
}

// OpenSocket starts the plugin.
func (m *Member) OpenSocket() {
	m.t.Helper()
	_ = os.Remove(m.socket)
	l, err := net.Listen("unix", m.socket)
	if err != nil {
		m.t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/agent", func(w http.ResponseWriter, r *http.Request) {
		var report api.AgentReport
		if err := json.NewDecoder(r.Body).Decode(&report); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		m.mu.Lock()
		m.statuses = append(m.statuses, report.Status)
		close(m.news)
		m.news = make(chan struct{})
		answer := m.answer
		if report.Status.Leaving && answer.Orders != nil && !m.stay {
			orders := *answer.Orders
			orders.Leave = true
			answer.Orders = &orders
		}
		m.mu.Unlock()
		_ = json.NewEncoder(w).Encode(answer)
	})
	mux.HandleFunc("GET /v1/news", func(w http.ResponseWriter, r *http.Request) {
		known, err := strconv.ParseUint(r.URL.Query().Get("seq"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		m.mu.Lock()
		m.asked++
		seq, changed := m.seq, m.changed
		m.mu.Unlock()
		if m.NoNews {
			http.NotFound(w, r)
			return
		}
		if seq == known {
			select {
			case <-changed:
			case <-time.After(10 * time.Second):
			case <-r.Context().Done():
			}
		}
		m.mu.Lock()
		seq = m.seq
		m.mu.Unlock()
		fmt.Fprintf(w, `{"seq": %d}`, seq)
	})
	m.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func(s *http.Server) { _ = s.Serve(l) }(m.server) // its error says that it was closed
}

// CloseSocket ends the plugin as kill -9 would.
func (m *Member) CloseSocket() { _ = m.server.Close() }

// Answer changes what the plugin answers from now on.
func (m *Member) Answer(change func(*api.AgentAnswer)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	// The old value may still be in use.
	if m.answer.Orders != nil {
		orders := *m.answer.Orders
		m.answer.Orders = &orders
	}
	change(&m.answer)
	m.seq++
	close(m.changed)
	m.changed = make(chan struct{})
}

// Stay has a member that is asked to stop wait for its turn, or ends that.
func (m *Member) Stay(stay bool) {
	m.Answer(func(*api.AgentAnswer) { m.stay = stay })
}

// Order sets the leader's orders.
func (m *Member) Order(orders api.MemberOrders) {
	m.Answer(func(a *api.AgentAnswer) {
		orders.Member = m.Name
		a.Orders = &orders
	})
}

// Status is what the agent said last.
func (m *Member) Status() api.MemberStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.statuses) == 0 {
		return api.MemberStatus{}
	}
	return m.statuses[len(m.statuses)-1]
}

// Seen reports whether the agent has ever said such a status.
func (m *Member) Seen(like func(api.MemberStatus) bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.statuses {
		if like(s) {
			return true
		}
	}
	return false
}

// Await waits for a report, sent from now on, that is like this.
func (m *Member) Await(what string, like func(api.MemberStatus) bool) api.MemberStatus {
	m.t.Helper()
	deadline := time.After(Deadline)
	for {
		m.mu.Lock()
		news := m.news
		m.mu.Unlock()
		select {
		case <-news:
			if s := m.Status(); like(s) {
				return s
			}
		case <-deadline:
			m.t.Fatalf("%s: %s did not come; the last status is %+v", m.Name, what, m.Status())
		}
	}
}

// Eventually polls until check returns nil.
func Eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(Deadline)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Start starts the agent.
func (m *Member) Start() {
	m.t.Helper()
	cmd := exec.Command(os.Args[0]) //nolint:gosec // the test binary itself
	cmd.Env = append(os.Environ(),
		envAgent+"=1", envSocket+"="+m.socket, envSecrets+"="+m.Secrets,
		memberagent.EnvApplication+"="+m.Application, memberagent.EnvMember+"="+m.Name, memberagent.EnvVolume+"="+m.Name,
		memberagent.EnvEngine+"="+m.engine, memberagent.EnvData+"="+m.Volume, memberagent.EnvTask+"=task-of-"+m.Name)
	cmd.Env = append(cmd.Env, m.env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if !testing.Verbose() {
		cmd.Stdout, cmd.Stderr = nil, nil
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	ended := make(chan struct{})
	m.agent, m.ended = cmd, ended
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
}

// Signal sends a signal to the agent alone.
func (m *Member) Signal(s syscall.Signal) {
	m.t.Helper()
	if err := m.agent.Process.Signal(s); err != nil {
		m.t.Fatal(err)
	}
}

// Wait waits until the agent has ended and returns its exit status, -1 for a
// signal.
func (m *Member) Wait() int {
	m.t.Helper()
	select {
	case <-m.ended:
	case <-time.After(Deadline):
		m.t.Fatal("the agent does not end")
	}
	return m.agent.ProcessState.ExitCode()
}

// KillAll kills the agent and all that works in its volume, as the end of a
// container does.
func (m *Member) KillAll() {
	if m.agent != nil {
		_ = m.agent.Process.Kill()
		<-m.ended
	}
	for deadline := time.Now().Add(Deadline); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		pids := m.Engines()
		if len(pids) == 0 {
			return
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	m.t.Error("processes are left in", m.Volume)
}

// Engines returns the living processes, of whatever agent, that work in the
// member's volume.
func (m *Member) Engines() []int {
	var pids []int
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		dir, err := os.Readlink(link)
		if err != nil || dir != m.Volume && !strings.HasPrefix(dir, m.Volume+"/") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Asked is how often the agent has asked for news.
func (m *Member) Asked() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked
}

// Pid is the agent's.
func (m *Member) Pid() int { return m.agent.Process.Pid }
