package memberagent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
	"github.com/openmanage/openmanage/memberagent/agenttest"
)

func TestMain(m *testing.M) {
	agenttest.Main(stubborn{}, hungry{})
	os.Exit(m.Run())
}

// stubborn is an engine of shell scripts that no signal but SIGKILL ends and that
// have children in sessions of their own, as PostgreSQL's are.
type stubborn struct{}

func (stubborn) Name() string { return "stubborn" }
func (stubborn) Open(m memberagent.Member) (memberagent.Server, error) {
	return &stubbornServer{member: m}, nil
}

type stubbornServer struct {
	member  memberagent.Member
	process *memberagent.Process
}

func (s *stubbornServer) path(name string) string { return filepath.Join(s.member.Data, name) }

func (s *stubbornServer) Inspect(context.Context) (memberagent.Data, error) {
	role, err := os.ReadFile(s.path("role"))
	if errors.Is(err, os.ErrNotExist) {
		return memberagent.Data{Empty: true}, nil
	}
	return memberagent.Data{Role: api.Role(role), SystemID: "7"}, err
}

func (s *stubbornServer) Bootstrap(ctx context.Context, o api.MemberOrders, p memberagent.Progress) error {
	return os.WriteFile(s.path("role"), []byte(o.Role), 0o600)
}

func (s *stubbornServer) Join(ctx context.Context, o api.MemberOrders, p memberagent.Progress) error {
	p("copying for ever")
	cmd := exec.Command("sh", "-c", "trap '' TERM QUIT INT; sleep 1000")
	cmd.Dir = s.member.Data
	return s.member.Processes.Run(ctx, cmd)
}

func (s *stubbornServer) Start(ctx context.Context, o api.MemberOrders) (*memberagent.Process, error) {
	cmd := exec.Command("sh", "-c", `trap '' TERM QUIT INT
setsid sh -c 'trap "" TERM QUIT INT; while :; do sleep 1000; done' &
(cd /; sleep 0.2 &) # an orphan
echo -n . >> starts
while :; do wait; sleep 1000; done`)
	cmd.Dir = s.member.Data
	var err error
	s.process, err = s.member.Processes.Start(ctx, cmd)
	return s.process, err
}

func (s *stubbornServer) Probe(ctx context.Context, _ api.MemberOrders) memberagent.Probe {
	data, err := s.Inspect(ctx)
	_, stuck := os.Stat(s.path("stuck"))
	return memberagent.Probe{Up: err == nil, Healthy: true, Role: data.Role, Stuck: stuck == nil}
}

func (s *stubbornServer) Rejoin(ctx context.Context, o api.MemberOrders, p memberagent.Progress) error {
	if _, err := os.Stat(s.path("hopeless")); err == nil && o.CopyOnOrder && o.Rebuild == "" {
		return &memberagent.NeedsCopyError{Why: errors.New("its history is another")}
	}
	if o.Rebuild == "" {
		return s.Join(ctx, o, p)
	}
	copies, err := os.OpenFile(s.path("copies"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer copies.Close()
	_, err = copies.WriteString(o.Rebuild + "\n")
	return err
}
func (s *stubbornServer) Adapt(context.Context, api.MemberOrders) error   { return nil }
func (s *stubbornServer) Promote(context.Context, api.MemberOrders) error { return nil }
func (s *stubbornServer) Flush(context.Context) error                     { return nil }
func (s *stubbornServer) Stop(context.Context) error                      { return s.process.Signal(syscall.SIGINT) }

func running(s api.MemberStatus) bool { return s.State == api.StateRunning && s.Healthy }

var alone = api.MemberOrders{Role: api.RolePrimary, Primary: "pg-1", Members: []string{"pg-1"}, Term: 3}

func started(t *testing.T, env ...string) *agenttest.Member {
	m := agenttest.New(t, "pg-1", "stubborn", env...)
	m.Order(alone)
	m.Start()
	m.Await("the engine", running)
	return m
}

// goneWithin fails if anything works in the volume after the time.
func goneWithin(t *testing.T, m *agenttest.Member, d time.Duration) {
	t.Helper()
	began := time.Now()
	for len(m.Engines()) > 0 {
		if time.Since(began) > d {
			t.Fatalf("after %s processes %v still run", d, m.Engines())
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Logf("gone after %s", time.Since(began))
}

func TestEngineIsGoneWithinASecondOfALeaseTakenAway(t *testing.T) {
	m := started(t)
	m.Answer(func(a *api.AgentAnswer) { a.Lease, a.Reason = 0, "node2 holds the volume" })
	m.Await("the reason", func(s api.MemberStatus) bool {
		return s.State == api.StateWaiting && s.Message == "node2 holds the volume"
	})
	goneWithin(t, m, time.Second)

	m.Answer(func(a *api.AgentAnswer) { a.Lease, a.Epoch, a.Reason = 2*time.Second, 2, "" })
	m.Await("the engine again", running)
}

func TestEngineIsGoneWhenThePluginIsAwayLongerThanTheLease(t *testing.T) {
	m := started(t)
	m.CloseSocket()
	goneWithin(t, m, 2*time.Second+time.Second)
	m.OpenSocket()
	m.Await("the engine again", running)
}

func TestEngineOutlivesAShortAbsenceOfThePlugin(t *testing.T) {
	t.Parallel()
	m := started(t)
	before := m.Engines()
	m.CloseSocket()
	m.OpenSocket()
	m.Await("the next report", running)
	for _, pid := range before {
		assert.NilError(t, syscall.Kill(pid, 0), "process %d has ended", pid)
	}
}

func TestAgentPausedBeyondTheLeaseEndsTheEngineFirst(t *testing.T) {
	t.Parallel()
	m := started(t)
	before := m.Engines()
	m.Signal(syscall.SIGSTOP)
	time.Sleep(2500 * time.Millisecond) // the pause itself
	m.Signal(syscall.SIGCONT)
	// The plugin still gives the lease: the gap alone must end what ran over it.
	agenttest.Eventually(t, func() error {
		for _, pid := range m.Engines() {
			if slices.Contains(before, pid) {
				return fmt.Errorf("process %d runs on after the pause", pid)
			}
		}
		return nil
	})
	m.Await("the engine again", running)
}

func TestNoEngineWithoutOrders(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn")
	m.Start()
	s := m.Await("waiting", func(s api.MemberStatus) bool { return strings.Contains(s.Message, "orders") })
	assert.Equal(t, s.State, api.StateWaiting)
	assert.Equal(t, len(m.Engines()), 0)
}

func TestNothingIsTouchedOnTheWrongDevice(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn")
	m.Order(alone)
	m.Answer(func(a *api.AgentAnswer) { a.Device = "7:99" })
	m.Start()
	m.Await("the refusal", func(s api.MemberStatus) bool {
		return s.State == api.StateFailed && strings.Contains(s.Message, "not on this member's volume")
	})
	left, err := os.ReadDir(m.Volume)
	assert.NilError(t, err)
	assert.Equal(t, len(left), 0)
	_, err = memberagent.Health(t.Context(), memberagent.Config{Application: m.Application, Member: "pg-1"})
	assert.ErrorContains(t, err, "not on this member's volume")
}

func TestOneEngineOnAVolumeThatTwoAgentsSee(t *testing.T) {
	t.Parallel()
	m := started(t)
	second := agenttest.New(t, "pg-1b", "stubborn")
	assert.NilError(t, os.Remove(second.Volume))
	assert.NilError(t, os.Symlink(m.Volume, second.Volume))
	second.Order(api.MemberOrders{Role: api.RolePrimary, Primary: "pg-1b", Members: []string{"pg-1b"}})
	second.Start()
	second.Await("words that name the holder", func(s api.MemberStatus) bool {
		return s.State == api.StateWaiting && strings.Contains(s.Message, "task task-of-pg-1,")
	})
	// The engine outlives its agent, as it can where the agent is not PID 1.
	m.Signal(syscall.SIGKILL)
	m.Wait()
	assert.Assert(t, len(m.Engines()) > 0)
	for range 5 {
		s := second.Await("a report", func(api.MemberStatus) bool { return true })
		assert.Equal(t, s.State, api.StateWaiting)
	}
	m.KillAll()
	second.Await("its turn", running)
}

func TestLeavingGivesUpOnAStubbornServerAfterItsGrace(t *testing.T) {
	t.Parallel()
	m := started(t, memberagent.EnvStopGrace+"=300ms")
	m.Signal(syscall.SIGTERM)
	assert.Equal(t, m.Wait(), 0)
	assert.Equal(t, len(m.Engines()), 0)
	assert.Equal(t, m.Status().State, api.StateStopped)
}

func TestLeavingEndsACopy(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn")
	m.Order(api.MemberOrders{Role: api.RoleStandby, Primary: "pg-2", Members: []string{"pg-1", "pg-2"}, Initialized: true})
	m.Start()
	m.Await("the copy", func(s api.MemberStatus) bool { return s.Message == "copying for ever" })
	m.Signal(syscall.SIGINT)
	assert.Equal(t, m.Wait(), 0)
	assert.Equal(t, len(m.Engines()), 0)
}

func TestServerThatIsKilledIsStartedAgain(t *testing.T) {
	t.Parallel()
	m := started(t)
	killAndWait := func(starts int) time.Duration {
		killed := time.Now()
		for _, pid := range m.Engines() {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		agenttest.Eventually(t, func() error {
			data, err := os.ReadFile(filepath.Join(m.Volume, "starts"))
			if err == nil && len(data) < starts {
				err = errors.New("it has not been started again")
			}
			return err
		})
		return time.Since(killed)
	}
	first := killAndWait(2)
	m.Await("the engine again", running)
	// Again and again: it waits longer each time.
	second := killAndWait(3)
	assert.Assert(t, first < second, "started again after %s, and then after %s", first, second)
	m.Await("the engine again", running)
	for _, pid := range m.Engines() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	m.Await("the failure", func(s api.MemberStatus) bool { return strings.Contains(s.Message, "ended by itself") })
	m.Await("the engine again", running)
}

func TestAStandbyThatDoesNotFollowThoughItCouldIsStartedAgain(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn", memberagent.EnvStopGrace+"=100ms")
	assert.NilError(t, os.WriteFile(filepath.Join(m.Volume, "role"), []byte(api.RoleStandby), 0o600))
	m.Order(api.MemberOrders{Role: api.RoleStandby, Primary: "pg-2", Members: []string{"pg-1", "pg-2"}, Initialized: true, Term: 3})
	m.Start()
	m.Await("a standby", running)
	assert.NilError(t, os.WriteFile(filepath.Join(m.Volume, "stuck"), nil, 0o600))
	agenttest.Eventually(t, func() error {
		starts, err := os.ReadFile(filepath.Join(m.Volume, "starts"))
		if err == nil && len(starts) < 2 {
			err = errors.New("it was not started again")
		}
		return err
	})
	assert.NilError(t, os.Remove(filepath.Join(m.Volume, "stuck")))
	m.Await("a standby again", running)
}

func TestAnotherRoleEndsTheServer(t *testing.T) {
	m := started(t, memberagent.EnvStopGrace+"=100ms")
	m.Order(api.MemberOrders{Role: api.RoleStandby, Members: []string{"pg-1", "pg-2"}, Term: 4})
	s := m.Await("the end", func(s api.MemberStatus) bool { return s.Term == 4 })
	assert.Equal(t, len(m.Engines()), 0, "the term was claimed while the server ran")
	assert.Assert(t, strings.Contains(s.Message, "handing over"), s.Message)
	// A leader of before does not bring it back.
	m.Order(alone)
	for range 3 {
		m.Await("a report", func(api.MemberStatus) bool { return true })
	}
	assert.Equal(t, len(m.Engines()), 0)
}

func TestOrdersAreFetchedAtOnce(t *testing.T) {
	m := started(t)
	const rounds = 6
	soonest := time.Minute
	for term := alone.Term + 1; term <= alone.Term+rounds; term++ {
		orders := alone
		orders.Term = term
		began := time.Now()
		m.Order(orders) // just after a report
		m.Await("the term", func(s api.MemberStatus) bool { return s.Term == term })
		soonest = min(soonest, time.Since(began))
	}
	// By the reports alone each would have taken half a second.
	assert.Assert(t, soonest < 300*time.Millisecond, soonest)
}

func TestPluginThatKnowsNoNewsIsReportedToAsEver(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn")
	m.NoNews = true
	m.Start()
	m.Await("waiting", func(s api.MemberStatus) bool { return strings.Contains(s.Message, "orders") })
	m.Order(alone)
	m.Await("the engine", running)
	assert.Assert(t, m.Asked() < 20, "asked %d times for news", m.Asked())
}

func TestOrdersWithoutARoleLeaveAServerAsItIs(t *testing.T) {
	t.Parallel()
	m := started(t)
	before := m.Engines()
	for _, orders := range []api.MemberOrders{
		{Members: alone.Members, Term: 4},
		{Role: api.RoleStandby, Primary: "pg-1", Members: alone.Members, Term: 5}, // makes no sense
	} {
		m.Order(orders)
		for range 3 {
			s := m.Await("a report", func(api.MemberStatus) bool { return true })
			assert.Assert(t, running(s) && s.Term == alone.Term, "%+v", s)
		}
	}
	for _, pid := range before {
		assert.NilError(t, syscall.Kill(pid, 0), "process %d has ended", pid)
	}
	orders := alone
	orders.Term = 6
	m.Order(orders)
	m.Await("the term", func(s api.MemberStatus) bool { return s.Term == 6 })
}

func TestOrdersEndACopyThatTheyMakePointless(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn")
	orders := api.MemberOrders{Role: api.RoleStandby, Primary: "pg-2", Members: []string{"pg-1", "pg-2"}, Initialized: true, Term: 1}
	m.Order(orders)
	m.Start()
	m.Await("the copy", func(s api.MemberStatus) bool { return s.Message == "copying for ever" && s.Term == 1 })
	orders.Primary, orders.Term = "", 2
	m.Order(orders)
	m.Await("its end", func(s api.MemberStatus) bool { return s.Term == 2 })
	assert.Equal(t, len(m.Engines()), 0)
}

func TestOrphansAreReaped(t *testing.T) {
	t.Parallel()
	m := started(t)
	agenttest.Eventually(t, func() error {
		out, err := exec.Command("ps", "-o", "stat=", "--ppid", fmt.Sprint(m.Pid())).CombinedOutput()
		if err != nil {
			return err
		}
		if strings.Contains(string(out), "Z") {
			return fmt.Errorf("zombies: %s", out)
		}
		return nil
	})
}

func TestHealthSpeaksOfAWaitingMemberAsHealthy(t *testing.T) {
	t.Parallel()
	m := agenttest.New(t, "pg-1", "stubborn")
	config := memberagent.Config{Application: m.Application, Member: "pg-1"}
	_, err := memberagent.Health(t.Context(), config)
	assert.ErrorContains(t, err, "no agent of pg-1")
	m.Answer(func(a *api.AgentAnswer) { a.Lease, a.Reason = 0, "node2 holds the volume" })
	m.Start()
	m.Await("waiting", func(s api.MemberStatus) bool { return s.Message == "node2 holds the volume" && !s.Named })
	line, err := memberagent.Health(t.Context(), config)
	assert.NilError(t, err)
	assert.Equal(t, line, "waiting (node2 holds the volume)")
	m.Await("Docker knows it", func(s api.MemberStatus) bool { return s.Named })
}

func TestAMemberThatIsAskedToStopWaitsForItsTurn(t *testing.T) {
	m := started(t)
	m.Stay(true)
	m.Signal(syscall.SIGTERM)
	m.Await("that it waits", func(s api.MemberStatus) bool { return s.Leaving && s.State == api.StateRunning })
	for range 3 {
		m.Await("that it runs", func(s api.MemberStatus) bool { return s.Leaving && running(s) })
	}
	m.Stay(false)
	m.Await("that it stops", func(s api.MemberStatus) bool { return s.State == api.StateStopping })
}

// A server that runs and does not answer is not one that has stopped.
func TestAMemberWhoseServerDoesNotAnswerWaitsForItsTurnToo(t *testing.T) {
	m := started(t)
	m.Stay(true)
	role := filepath.Join(m.Volume, "role")
	assert.NilError(t, os.Symlink("role", role+".loop"))
	assert.NilError(t, os.Rename(role+".loop", role)) // in one step: it cannot be read from then on
	m.Await("that its role is not known", func(s api.MemberStatus) bool { return s.State == api.StateRunning && s.Role == "" })
	m.Signal(syscall.SIGTERM)
	for range 3 {
		m.Await("that it runs", func(s api.MemberStatus) bool { return s.Leaving && s.State == api.StateRunning })
	}
	m.Stay(false)
	m.Await("that it stops", func(s api.MemberStatus) bool { return s.State == api.StateStopping })
}

func TestAMemberThatIsAskedToStopGoesWhenAnotherHasTakenItsPlace(t *testing.T) {
	m := started(t)
	m.Stay(true)
	m.Signal(syscall.SIGTERM)
	m.Await("that it waits", func(s api.MemberStatus) bool { return s.Leaving })
	m.Order(api.MemberOrders{Role: api.RoleStandby, Immediate: true, Members: []string{"pg-1", "pg-2"}, Term: 4})
	assert.Equal(t, m.Wait(), 0)
	assert.Assert(t, m.Seen(func(s api.MemberStatus) bool { return s.Term == 4 && s.Role == "" }), "the leader has to hear that it has stopped")
}

func TestAMemberThatIsAskedToStopDoesNotWaitForEver(t *testing.T) {
	m := started(t, memberagent.EnvStopGrace+"=20s") // nothing beyond the reserve
	m.Stay(true)
	m.Signal(syscall.SIGTERM)
	m.Await("that it stops", func(s api.MemberStatus) bool { return s.State == api.StateStopping })
}

// Nobody waits for a member that was taken away, and nobody gives it a turn.
func TestWhoIsNoMemberAnyMoreStopsWithoutATurn(t *testing.T) {
	t.Parallel()
	m := started(t, memberagent.EnvStopGrace+"=1h")
	m.Stay(true)
	m.Signal(syscall.SIGTERM)
	m.Await("that it waits", func(s api.MemberStatus) bool { return s.Leaving })
	m.Order(api.MemberOrders{Members: []string{"pg-2"}, Term: alone.Term, Reason: "it is not a member any more"})
	m.Await("that it stops", func(s api.MemberStatus) bool { return s.State == api.StateStopping })
}
