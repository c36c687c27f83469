package enginetest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

const (
	// deadline is for slow machines; nothing is meant to take so long.
	deadline = time.Minute
	// soon is how long after the end of its context a method may take to return.
	soon = 3 * time.Second
	// fenced is how long after the end of the lease something may still run.
	fenced = time.Second

	first, second = "db-1", "db-2"
)

// prepared are volumes from which checks begin, made once by the engine as it is.
type prepared struct {
	f        Factory
	dir      string
	systemID string
	// How long the methods took that checks interrupt.
	bootstrap, join, rejoin time.Duration
}

// Volumes that are prepared, by name: of a primary with the rows 1 to 20 that has
// stopped in order, and of its standby; and of the two after the standby took the
// primary's place and got the row 21, while the primary was killed with the rows 101
// to 120, which only it has.
const (
	ofPrimary = "primary"
	ofStandby = "standby"
	ofFormer  = "former"
	ofHeir    = "heir"
)

func prepare(t *testing.T, f Factory) *prepared {
	t.Helper()
	dir, err := os.MkdirTemp("", "enginetest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	p := &prepared{f: f, dir: dir}
	s := &stage{T: t, prepared: p}
	s.cast("", "")
	a, b := s.nodes[first], s.nodes[second]
	p.bootstrap = a.must("Bootstrap", s.alone(first)).Took
	data := a.must("Inspect", api.MemberOrders{}).Data
	if data.Role != api.RolePrimary || data.SystemID == "" {
		t.Fatalf("a bootstrap leaves %+v and not a primary's data", data)
	}
	p.systemID = data.SystemID
	a.begin(s.alone(first))
	s.create(first)
	s.write(first, 1, 20)
	p.join = b.must("Join", s.standby(second)).Took
	b.begin(s.standby(second))
	s.rows(second, 1, 20)
	b.stop()
	b.keep(ofStandby)
	a.stop()
	a.keep(ofPrimary)

	a.must("Start", s.alone(first))
	a.healthy(s.alone(first))
	s.write(first, 101, 120)
	a.end()
	a.keep(ofFormer)
	b.begin(s.nobody(second))
	b.must("Promote", s.heir(b.certain()))
	b.healthy(s.alone(second))
	s.write(second, 21, 21)
	a.restart()
	p.rejoin = a.must("Rejoin", s.standby(first)).Took
	b.stop()
	b.keep(ofHeir)
	a.end()
	b.end()
	t.Logf("bootstrap %s, join %s, rejoin %s", p.bootstrap.Round(time.Millisecond), p.join.Round(time.Millisecond), p.rejoin.Round(time.Millisecond))
	return p
}

// stage is an application of two members for one check.
type stage struct {
	T
	*prepared
	mutant string
	app    Application
	nodes  map[string]*node
}

// cast makes the members and starts their containers, with volumes as prepared; "":
// empty.
func (s *stage) cast(primary, standby string) {
	s.Helper()
	s.app = s.f.Application(s.T, []string{first, second})
	s.nodes = map[string]*node{}
	for name, volume := range map[string]string{first: primary, second: standby} {
		s.nodes[name] = s.node(name, volume)
	}
}

// node makes one member.
func (s *stage) node(name, volume string) *node {
	s.Helper()
	dir, err := os.MkdirTemp("", "enginetest")
	s.ok(err)
	s.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.Errorf("%v", err)
		}
	})
	n := &node{stage: s, name: name, dir: dir, volume: filepath.Join(dir, "volume")}
	for _, d := range []string{dir, n.volume, n.secrets()} { // the server's own user must get through
		s.ok(os.MkdirAll(d, 0o755))
		s.ok(os.Chmod(d, 0o755))
	}
	if volume != "" {
		s.copy(filepath.Join(s.dir, volume)+"/.", n.volume)
	}
	s.ok(s.app.Secrets(n.secrets()))
	s.Cleanup(n.end)
	n.restart()
	return n
}

func (s *stage) copy(from, to string) {
	s.Helper()
	out, err := exec.Command("cp", "--archive", "--reflink=auto", from, to).CombinedOutput()
	if err != nil {
		s.Fatalf("%v: %s", err, out)
	}
}

func (s *stage) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatalf("%v", err)
	}
}

// Orders, as the leader gives them.

func (s *stage) orders(member, primary string, role api.Role) api.MemberOrders {
	return api.MemberOrders{Member: member, Role: role, Term: 1, Primary: primary, Members: []string{first, second}, Initialized: s.systemID != "", SystemID: s.systemID}
}

// alone: a primary that waits for nobody.
func (s *stage) alone(member string) api.MemberOrders {
	return s.orders(member, member, api.RolePrimary)
}

// waiting: a primary that waits for the other member.
func (s *stage) waiting(member string) api.MemberOrders {
	o := s.alone(member)
	o.Sync = []string{other(member)}
	return o
}

// standby: a standby of the other member.
func (s *stage) standby(member string) api.MemberOrders {
	return s.orders(member, other(member), api.RoleStandby)
}

// nobody: a standby that is to receive nothing.
func (s *stage) nobody(member string) api.MemberOrders {
	return s.orders(member, "", api.RoleStandby)
}

// heir: the second member is to become the primary, with what it has.
func (s *stage) heir(has memberagent.Probe) api.MemberOrders {
	o := s.alone(second)
	o.Term, o.Timeline, o.Position = 3, has.Timeline, has.Position
	return o
}

func other(member string) string {
	if member == first {
		return second
	}
	return first
}

// The database, as a client sees it.

func (s *stage) create(member string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	s.ok(s.app.Create(ctx, member))
}

func (s *stage) write(member string, from, to int) {
	s.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	for row := from; row <= to; row++ {
		if err := s.app.Write(ctx, member, row); err != nil {
			s.Fatalf("%s does not take row %d: %v", member, row, err)
		}
	}
}

// rows waits until a member has the rows from to to.
func (s *stage) rows(member string, from, to int) {
	s.Helper()
	var want []int
	for row := from; row <= to; row++ {
		want = append(want, row)
	}
	s.has(member, want)
}

// has waits until a member has at least these rows.
func (s *stage) has(member string, want []int) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s with what was acknowledged", member), func(ctx context.Context) error {
		have, err := s.app.Rows(ctx, member)
		if err != nil {
			return err
		}
		there := map[int]bool{}
		for _, row := range have {
			there[row] = true
		}
		var missing []int
		for _, row := range want {
			if !there[row] {
				missing = append(missing, row)
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("of %d rows these are missing: %v", len(want), missing)
		}
		return nil
	})
}

func (s *stage) eventually(what string, done func(context.Context) error) {
	s.Helper()
	limit := deadline
	if s.mutant != "" {
		limit = 10 * time.Second // it is to fail
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := done(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.Fatalf("%s: not within %s: %v", what, limit, err)
		case <-tick.C:
		}
	}
}

// writer writes rows, from 1001 on, until it is stopped, and notes those that were
// acknowledged.
type writer struct {
	cancel context.CancelFunc
	ended  chan struct{}
	acked  []int
	last   error
}

func (s *stage) writer(member string, from int) *writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &writer{cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(w.ended)
		for row := from; ctx.Err() == nil; row++ {
			if err := s.app.Write(ctx, member, row); err != nil {
				w.last = err
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
				continue
			}
			w.acked = append(w.acked, row)
		}
	}()
	s.Cleanup(func() { w.stop() })
	return w
}

// stop returns what was acknowledged.
func (w *writer) stop() []int {
	w.cancel()
	<-w.ended
	return w.acked
}

// node is a member: its volume, and its container if it has one.
type node struct {
	*stage
	name   string
	dir    string
	volume string
	cmd    *exec.Cmd
	client *rpc.Client
}

func (n *node) secrets() string { return filepath.Join(n.dir, "secrets") }

// restart has a new container begin, with the lease.
func (n *node) restart() {
	n.Helper()
	n.end()
	writable := n.app.Writable(n.name)
	for _, dir := range writable {
		entries, err := os.ReadDir(dir)
		n.ok(err)
		for _, entry := range entries {
			n.ok(os.RemoveAll(filepath.Join(dir, entry.Name())))
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	n.ok(err)
	mine, theirs := os.NewFile(uintptr(pair[0]), "driver"), os.NewFile(uintptr(pair[1]), "suite")
	defer mine.Close()
	defer theirs.Close()
	conn, err := net.FileConn(mine)
	n.ok(err)
	n.cmd = exec.Command(os.Args[0]) //nolint:gosec // the test binary itself
	n.cmd.Env = append(os.Environ(), envDriver+"="+n.name, envVolume+"="+n.volume, envSecrets+"="+n.secrets(),
		envWritable+"="+strings.Join(writable, ":"), envMutant+"="+n.mutant)
	n.cmd.Env = append(n.cmd.Env, n.app.Environment(n.name)...)
	n.cmd.ExtraFiles = []*os.File{theirs}
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	if testing.Verbose() {
		n.cmd.Stdout, n.cmd.Stderr = os.Stdout, os.Stderr
	}
	n.ok(n.cmd.Start())
	n.client = rpc.NewClient(conn)
	n.hold()
}

// end is kill -9 of everything in the container: the kernel kills all that is in a
// namespace with its first process.
func (n *node) end() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait() // says that it was killed
	n.client.Close()
	n.cmd = nil
}

func (n *node) hold() {
	n.Helper()
	if err := n.client.Call("Driver.Hold", Nothing{}, &Nothing{}); err != nil {
		n.Fatalf("the driver of %s: %v; its output is shown with -v", n.name, err)
	}
}

func (n *node) revoke() {
	n.Helper()
	n.ok(n.client.Call("Driver.Revoke", Nothing{}, &Nothing{}))
}

func (n *node) signal(signal syscall.Signal) {
	n.Helper()
	n.ok(n.client.Call("Driver.Signal", int(signal), &Nothing{}))
}

func (n *node) look() (found Processes) {
	n.Helper()
	n.ok(n.client.Call("Driver.Look", Nothing{}, &found))
	return found
}

// call calls a method of the engine; within ends its context, 0: nothing does.
func (n *node) call(method string, orders api.MemberOrders, within time.Duration) Reply {
	n.Helper()
	call := n.async(method, orders, within)
	select {
	case <-call.Done:
	case <-time.After(within + 2*deadline):
		n.Fatalf("%s of %s does not return", method, n.name)
	}
	n.ok(call.Error)
	reply := *call.Reply.(*Reply)
	if reply.Late > soon {
		n.Errorf("%s of %s returned %s after the end of its context", method, n.name, reply.Late)
	}
	return reply
}

func (n *node) async(method string, orders api.MemberOrders, within time.Duration) *rpc.Call {
	return n.client.Go("Driver.Do", Call{Method: method, Orders: orders, Timeout: within}, &Reply{}, make(chan *rpc.Call, 1))
}

// must calls a method that has to succeed.
func (n *node) must(method string, orders api.MemberOrders) Reply {
	n.Helper()
	reply := n.call(method, orders, deadline)
	if reply.Err != "" {
		n.Fatalf("%s of %s: %s", method, n.name, reply.Err)
	}
	return reply
}

// adapted adapts, and again if it fails, as the agent does.
func (n *node) adapted(orders api.MemberOrders) {
	n.Helper()
	n.eventually("Adapt of "+n.name, func(context.Context) error {
		if reply := n.call("Adapt", orders, 2*soon); reply.Err != "" {
			return errors.New(reply.Err)
		}
		return nil
	})
}

// begin starts the server and brings it in line with its orders.
func (n *node) begin(orders api.MemberOrders) {
	n.Helper()
	n.must("Start", orders)
	n.eventually(n.name+" answering", func(context.Context) error {
		if p := n.probe(orders); !p.Up {
			return errors.New(p.Message)
		}
		return nil
	})
	if orders.Role == api.RolePrimary && orders.Timeline != 0 {
		return // it is to be promoted
	}
	n.adapted(orders)
	if orders.Primary != "" {
		n.healthy(orders)
	}
}

// healthy waits until the server is.
func (n *node) healthy(orders api.MemberOrders) memberagent.Probe {
	n.Helper()
	var p memberagent.Probe
	n.eventually(n.name+" healthy", func(context.Context) error {
		if p = n.probe(orders); !p.Healthy || p.Role != orders.Role {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	return p
}

func (n *node) probe(orders api.MemberOrders) memberagent.Probe {
	n.Helper()
	return n.call("Probe", orders, soon).Probe
}

// certain is what a standby that receives nothing says that it has.
func (n *node) certain() memberagent.Probe {
	n.Helper()
	var p memberagent.Probe
	n.eventually("what "+n.name+" has", func(context.Context) error {
		if p = n.probe(n.nobody(n.name)); !p.Up || p.Timeline == 0 || p.Position == 0 {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	return p
}

// stop stops the server in order.
func (n *node) stop() {
	n.Helper()
	if reply := n.must("Stop", api.MemberOrders{}); reply.Took > soon {
		n.Errorf("Stop of %s took %s: it must not wait", n.name, reply.Took)
	}
	n.ended()
}

func (n *node) ended() {
	n.Helper()
	var ended bool
	n.ok(n.client.Call("Driver.Ended", Nothing{}, &ended))
	if !ended {
		n.Fatalf("the server of %s does not end", n.name)
	}
}

func (n *node) inspect() memberagent.Data {
	n.Helper()
	return n.must("Inspect", api.MemberOrders{}).Data
}

// keep keeps a copy of the volume for other checks.
func (n *node) keep(name string) {
	n.Helper()
	n.copy(n.volume, filepath.Join(n.prepared.dir, name))
	_ = os.Remove(filepath.Join(n.prepared.dir, name, "openmanage.lock"))
}

// interrupt lets a method work for a random part of the time that it usually takes,
// and then kills everything or takes the lease away. It tells whether the method had
// ended before.
func (n *node) interrupt(round int, method string, orders api.MemberOrders, usually time.Duration) (whole bool) {
	n.Helper()
	call := n.async(method, orders, 0)
	moment := time.Duration(rand.Int64N(int64(usually) + 1)) //nolint:gosec // a moment
	if round == 0 {
		moment /= 20 // once near its beginning
	}
	ended := make(chan struct{})
	go func() {
		<-call.Done // tells it once
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(moment):
	}
	if round%2 == 0 {
		n.restart()
		<-ended
		return call.Error == nil && call.Reply.(*Reply).Err == ""
	}
	n.revoke()
	n.gone()
	select {
	case <-ended:
	case <-time.After(soon):
		n.Fatalf("%s of %s has not returned %s after the lease ended", method, n.name, soon)
	}
	n.hold()
	return call.Reply.(*Reply).Err == ""
}

// gone checks that nothing is left a moment after the end of the lease.
func (n *node) gone() {
	n.Helper()
	began := time.Now()
	for {
		left := n.look().Running
		if len(left) == 0 {
			return
		}
		if time.Since(began) > fenced {
			n.Fatalf("%s after the end of the lease there is still %v", fenced, left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// picture is what a folder holds, down to the last byte.
func (n *node) picture() string {
	n.Helper()
	var lines []string
	err := filepath.WalkDir(n.volume, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == n.volume || entry.Name() == "openmanage.lock" {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %s", path, info.Mode())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path) //nolint:gosec // nobody else is there
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(data))
		}
		lines = append(lines, line)
		return nil
	})
	n.ok(err)
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// forget empties the volume of a member without a container.
func (n *node) forget() {
	n.Helper()
	entries, err := os.ReadDir(n.volume)
	n.ok(err)
	for _, entry := range entries {
		n.ok(os.RemoveAll(filepath.Join(n.volume, entry.Name())))
	}
}

// replace puts a prepared volume in the place of the member's, and a new container on it.
func (n *node) replace(volume string) {
	n.Helper()
	n.end()
	n.forget()
	n.copy(filepath.Join(n.prepared.dir, volume)+"/.", n.volume)
	n.restart()
}
