package memberagent_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
	"github.com/openmanage/openmanage/memberagent/agenttest"
)

// hungry is stubborn, but its server needs 8 MiB of space, and ends without. Its
// standby streams while the file streaming is beside the volume, and it does not
// answer while the file down is there.
type hungry struct{}

func (hungry) Name() string { return "hungry" }
func (hungry) Open(m memberagent.Member) (memberagent.Server, error) {
	return &hungryServer{stubbornServer{member: m}}, nil
}

type hungryServer struct{ stubbornServer }

func (s *hungryServer) Start(ctx context.Context, _ api.MemberOrders) (*memberagent.Process, error) {
	cmd := exec.Command("sh", "-c", `echo -n . >> ../starts
dd if=/dev/zero of=log bs=1M count=8 2>/dev/null || { rm log; exit 1; }
while :; do sleep 1000; done`)
	cmd.Dir = s.member.Data
	var err error
	s.process, err = s.member.Processes.Start(ctx, cmd)
	return s.process, err
}

func (s *hungryServer) Probe(ctx context.Context, o api.MemberOrders) memberagent.Probe {
	p := s.stubbornServer.Probe(ctx, o)
	if p.Role == api.RoleStandby {
		_, err := os.Stat(s.path("../streaming"))
		p.Streaming, p.Healthy = err == nil, err == nil
	}
	_, err := os.Stat(s.path("log"))
	_, hangs := os.Stat(s.path("../down"))
	p.Up = p.Up && err == nil && hangs != nil
	return p
}

// smallVolume is a member whose volume is a filesystem of 64 MiB with free MiB free.
func smallVolume(t *testing.T, role api.Role, free int64) *agenttest.Member {
	t.Helper()
	m := agenttest.New(t, "pg-1", "hungry")
	m.Limit("64m")
	assert.NilError(t, os.WriteFile(filepath.Join(m.Volume, "role"), []byte(role), 0o600))
	fillUp(t, m, free)
	return m
}

// fillUp leaves so many MiB free.
func fillUp(t *testing.T, m *agenttest.Member, free int64) {
	t.Helper()
	f, err := os.Create(filepath.Join(m.Volume, "filler"))
	assert.NilError(t, err)
	defer f.Close()
	for {
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			assert.Assert(t, errors.Is(err, unix.ENOSPC), err)
			break
		}
	}
	size, err := f.Seek(0, 2)
	assert.NilError(t, err)
	assert.NilError(t, f.Truncate(size-free<<20))
}

func starts(m *agenttest.Member) int {
	data, _ := os.ReadFile(filepath.Join(filepath.Dir(m.Volume), "starts"))
	return len(data)
}

func untilStarts(t *testing.T, m *agenttest.Member, n int) {
	t.Helper()
	agenttest.Eventually(t, func() error {
		if got := starts(m); got < n {
			return fmt.Errorf("%d starts", got)
		}
		return nil
	})
}

func TestAServerThatEndsForWantOfRoomSaysSoAndIsBackWithRoom(t *testing.T) {
	t.Parallel()
	m := smallVolume(t, api.RolePrimary, 0) // not even the lock's words fit
	m.Order(alone)
	m.Start()
	m.Await("the reason", func(s api.MemberStatus) bool {
		return s.State == api.StateFailed &&
			strings.HasPrefix(s.Message, "volume pg-1 is full, enlarge it with docker openmanage volume expand "+m.Application+" --size SIZE; the server ended by itself")
	})
	// Starts come at 0, 0, 0.5, 1.5, 3.5 and 7.5 s.
	untilStarts(t, m, 2)
	began := time.Now()
	untilStarts(t, m, 5)
	assert.Assert(t, time.Since(began) > 3*time.Second, "it is started again and again without a pause")
	untilStarts(t, m, 6)
	began = time.Now()
	m.Await("the next end", func(s api.MemberStatus) bool { return s.State == api.StateFailed })
	assert.NilError(t, unix.Mount("tmpfs", m.Volume, "tmpfs", unix.MS_REMOUNT, "size=128m"))
	m.Await("the server", running)
	assert.Assert(t, time.Since(began) < 7*time.Second, "it waited out its pause of 8 s: %s", time.Since(began))
}

func TestAPrimaryThatRunsOnAFullVolumeIsHealthyUntilItFails(t *testing.T) {
	t.Parallel()
	m := smallVolume(t, api.RolePrimary, 10)
	m.Order(alone)
	m.Start()
	m.Await("a word of the volume", func(s api.MemberStatus) bool {
		return running(s) && strings.HasPrefix(s.Message, "volume pg-1 is full, enlarge it with")
	})
	down := filepath.Join(filepath.Dir(m.Volume), "down")
	assert.NilError(t, os.WriteFile(down, nil, 0o600))
	m.Await("that it does not answer", func(s api.MemberStatus) bool { return !s.Healthy })
	assert.NilError(t, os.Remove(down))
	m.Await("that it is up again for a moment", func(s api.MemberStatus) bool { return s.Role == api.RolePrimary && !s.Healthy })
	for range 6 {
		m.Await("the same", func(s api.MemberStatus) bool {
			assert.Check(t, !s.Healthy && strings.Contains(s.Message, "it has ended for it"), "%+v", s)
			return true
		})
	}
	assert.NilError(t, os.Remove(filepath.Join(m.Volume, "filler")))
	m.Await("that it is well", func(s api.MemberStatus) bool { return running(s) && s.Message == "" })
}

func TestAStandbyThatCanReceiveNoMoreIsNotCountedOnAtEachTry(t *testing.T) {
	t.Parallel()
	m := smallVolume(t, api.RoleStandby, 20)
	streaming := filepath.Join(filepath.Dir(m.Volume), "streaming")
	streams := func() { assert.NilError(t, os.WriteFile(streaming, nil, 0o600)) }
	follows := func(s api.MemberStatus) bool { return running(s) && s.Streaming }
	streams()
	m.Order(api.MemberOrders{Role: api.RoleStandby, Primary: "pg-9", Members: []string{"pg-1", "pg-9"}, Term: 3})
	m.Start()
	m.Await("a standby that streams", follows)

	fillUp(t, m, 1)
	m.Await("that it still streams", follows)
	starved := func(s api.MemberStatus) bool {
		return s.State == api.StateRunning && !s.Healthy && !s.Streaming && strings.Contains(s.Message, "volume pg-1 is full") && strings.Contains(s.Message, "receives nothing any more")
	}
	assert.NilError(t, os.Remove(streaming))
	m.Await("that it starves", starved)
	streams() // for a moment, as its receiver does
	for range 6 {
		m.Await("the same", func(s api.MemberStatus) bool {
			assert.Check(t, starved(s), "%+v", s)
			return true
		})
	}
	assert.NilError(t, os.Remove(filepath.Join(m.Volume, "filler")))
	m.Await("that it streams again", follows)
}
