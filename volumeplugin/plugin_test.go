package volumeplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/go-plugins-helpers/volume"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/blockstore"
	"github.com/openmanage/openmanage/volumeplugin/filesystem"
)

func TestAVolumeIsMadeAtItsFirstMountAndKeepsItsDataOverTheNext(t *testing.T) {
	for _, fs := range []string{filesystem.Ext4, filesystem.XFS} {
		t.Run(fs, func(t *testing.T) {
			l := newLeader()
			l.declare("v", func(v *api.Volume) { v.Filesystem, v.Size = fs, 512<<20 })
			n := newNode(t, "a", t.TempDir(), l)
			path := n.mustMount("v", "id1")
			entries, err := os.ReadDir(path)
			assert.NilError(t, err)
			assert.Equal(t, len(entries), 0, "a new volume is an empty folder: no lost+found")
			writeFile(t, filepath.Join(path, "row"), "1")
			assert.NilError(t, n.unmount("v", "id1"))
			assert.Assert(t, !n.mounted("v"))
			assert.Assert(t, l.record("v").Owner == nil, "released")

			path = n.mustMount("v", "id2")
			assert.Equal(t, readFile(t, filepath.Join(path, "row")), "1")
			assert.Equal(t, l.record("v").Phase, api.PhaseReady)
			var phases []api.Phase
			for _, p := range l.progress {
				phases = append(phases, p.Phase)
			}
			assert.DeepEqual(t, phases, []api.Phase{api.PhaseProvisioned, api.PhaseFormatting, api.PhaseReady})
		})
	}
}

// Pitfall 5.
func TestTheSameMountIDIsCountedAndNotRefused(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	first := n.mustMount("v", "id")
	assert.Equal(t, n.mustMount("v", "id"), first)
	assert.NilError(t, n.unmount("v", "id"))
	assert.Assert(t, n.mounted("v"))
	assert.NilError(t, n.unmount("v", "id"))
	assert.Assert(t, !n.mounted("v"))
	assert.NilError(t, n.unmount("v", "id"), "one too many is harmless")
}

func TestTheSameMountIDAfterAnUnmountIsAnotherTenure(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	l.refuse = func(_, path string, _ any) error {
		if path == "/v1/volumes/release" {
			return errDown // and may still arrive
		}
		return nil
	}
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id")
	assert.NilError(t, n.unmount("v", "id"))
	path := n.mustMount("v", "id")
	assert.Equal(t, l.record("v").Epoch, uint64(2))
	l.set(func() { l.refuse = nil })
	n.plugin.reconcileAll(t.Context())
	assert.Assert(t, l.record("v").Owner != nil, "the late release freed the volume under the mount")
	writeFile(t, filepath.Join(path, "row"), "1")
}

// Invariant 1, on one node.
func TestASecondMountIDWaitsForTheFirstAndIsToldWhoHoldsTheVolume(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.engine.set("v", user{ID: "c1", Name: "pg_1.1.abc", Live: true})
	n.mustMount("v", "id1")
	_, err := n.mount("v", "id2")
	assert.ErrorContains(t, err, "pg_1.1.abc")
	assert.Assert(t, n.mounted("v"))

	got := make(chan error)
	go func() { _, err := n.mount("v", "id2"); got <- err }()
	n.engine.set("v")
	assert.NilError(t, n.unmount("v", "id1"))
	assert.NilError(t, <-got)
	assert.Equal(t, l.record("v").Epoch, uint64(2), "each mount ID has its own epoch")
}

func TestRequestsForOneMountIDShareOneMount(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() { n.mustMount("v", "id") })
	}
	wait.Wait()
	assert.Equal(t, l.record("v").Epoch, uint64(1))
	assert.Equal(t, n.plugin.volume("v").holding().saved().Count, 8)
}

func TestAVolumeHeldElsewhereIsRefusedInTheLeadersWords(t *testing.T) {
	l := newLeader()
	l.declare("v", func(v *api.Volume) { v.Owner = &api.Owner{Node: "b"} })
	n := newNode(t, "a", t.TempDir(), l)
	_, err := n.mount("v", "id")
	assert.ErrorContains(t, err, "held by task t.1 on node b")
	assert.Assert(t, !n.mounted("v"))
}

// Pitfall 14.
func TestOneVolumeThatHangsDelaysNoOther(t *testing.T) {
	l := newLeader()
	l.declare("slow", nil)
	l.declare("fast", nil)
	n := newNode(t, "a", t.TempDir(), l)
	slow := n.plugin.volume("slow")
	slow.work.Lock() // as while an mkfs hangs on a dead disk
	hanging := make(chan error)
	go func() { _, err := n.mount("slow", "id"); hanging <- err }()
	n.mustMount("fast", "id")
	_, err := driver{n.plugin}.List()
	assert.NilError(t, err)
	slow.work.Unlock()
	assert.NilError(t, <-hanging)
}

// Invariant 2: the whole way through the plugin.
func TestWhatMayHoldDataIsNeverFormatted(t *testing.T) {
	fill := func(text string, at int64) func(t *testing.T, image string) {
		return func(t *testing.T, image string) {
			f, err := os.OpenFile(image, os.O_RDWR|os.O_CREATE, 0o600)
			assert.NilError(t, err)
			_, err = f.WriteAt([]byte(text), at)
			assert.NilError(t, errors.Join(err, f.Truncate(64<<20), f.Close()))
		}
	}
	mkfs := func(args ...string) func(t *testing.T, image string) {
		return func(t *testing.T, image string) {
			fill("", 0)(t, image)
			out, err := exec.Command(args[0], append(args[1:], image)...).CombinedOutput()
			assert.NilError(t, err, "%s", out)
		}
	}
	for _, c := range []struct {
		doc   string
		phase api.Phase
		make  func(t *testing.T, image string)
		want  string
	}{
		{"no device though there was one", api.PhaseProvisioned, func(*testing.T, string) {}, "missing"},
		{"no device though it was formatted", api.PhaseReady, func(*testing.T, string) {}, "missing"},
		{"no device while formatting", api.PhaseFormatting, func(*testing.T, string) {}, "missing"},
		{"data of an unknown kind", api.PhaseProvisioned, fill("x", 3<<20), "unknown kind"},
		{"data of an unknown kind, never provisioned", api.PhaseDeclared, fill("x", 3<<20), "unknown kind"},
		{"another ext4", api.PhaseProvisioned, mkfs("mkfs.ext4", "-q"), "holds ext4"},
		{"another ext4 while formatting", api.PhaseFormatting, mkfs("mkfs.ext4", "-q"), "holds ext4"},
		{"another ext4 where ours should be", api.PhaseReady, mkfs("mkfs.ext4", "-q"), "should hold ext4 with UUID b6a1"},
		{"nothing where ours should be", api.PhaseReady, fill("", 0), "holds nothing"},
		{"swap while formatting", api.PhaseFormatting, mkfs("mkswap"), "holds swap"},
		{"a phase of the future", "encrypted", fill("", 0), "upgrade the plugin"},
	} {
		t.Run(c.doc, func(t *testing.T) {
			l := newLeader()
			n := newNode(t, "a", t.TempDir(), l)
			eventually(t, "the folder is there", func() bool { _, err := os.Stat(n.image("folder-id")); return err == nil })
			c.make(t, n.image("v.img"))
			l.declare("v", func(v *api.Volume) { v.Phase, v.Device = c.phase, "v.img" })
			before, _ := os.ReadFile(n.image("v.img"))
			_, err := n.mount("v", "id")
			assert.ErrorContains(t, err, c.want)
			after, _ := os.ReadFile(n.image("v.img"))
			assert.Assert(t, bytes.Equal(before, after), "not a byte was changed")
			assert.Assert(t, l.record("v").Owner == nil, "given back")
		})
	}
}

func TestFormattingThatWasCutShortIsFinished(t *testing.T) {
	for _, c := range []struct {
		doc  string
		make func(t *testing.T, image string)
	}{
		{"before it began", func(t *testing.T, image string) {}},
		{"when it was complete", func(t *testing.T, image string) {
			out, err := exec.Command("mkfs.ext4", "-q", "-F", "-b", "4096", "-U", "b6a1b0c8-6d8c-4a77-9a34-2f0d6f5d1a11", image).CombinedOutput()
			assert.NilError(t, err, "%s", out)
		}},
		{"with half of it written", func(t *testing.T, image string) {
			out, err := exec.Command("mkfs.ext4", "-q", "-F", "-b", "4096", "-U", "b6a1b0c8-6d8c-4a77-9a34-2f0d6f5d1a11", image).CombinedOutput()
			assert.NilError(t, err, "%s", out)
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			assert.NilError(t, err)
			_, err = f.WriteAt(make([]byte, 1<<20), 4096)
			assert.NilError(t, errors.Join(err, f.Close()))
		}},
	} {
		t.Run(c.doc, func(t *testing.T) {
			l := newLeader()
			n := newNode(t, "a", t.TempDir(), l)
			eventually(t, "the folder is there", func() bool { _, err := os.Stat(n.image("folder-id")); return err == nil })
			assert.NilError(t, os.WriteFile(n.image("v.img"), nil, 0o600))
			assert.NilError(t, os.Truncate(n.image("v.img"), 64<<20))
			c.make(t, n.image("v.img"))
			l.declare("v", func(v *api.Volume) { v.Phase, v.Device = api.PhaseFormatting, "v.img" })
			writeFile(t, filepath.Join(n.mustMount("v", "id"), "row"), "1")
			assert.Equal(t, l.record("v").Phase, api.PhaseReady)
		})
	}
}

func TestNothingIsFormattedBeforeTheLeaderHasRecordedIt(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	l.refuse = func(_, path string, in any) error {
		if r, ok := in.(api.ProgressRequest); ok && r.Phase == api.PhaseFormatting {
			return &api.Error{Code: api.ErrEpoch, Message: "another owner"}
		}
		return nil
	}
	n := newNode(t, "a", t.TempDir(), l)
	_, err := n.mount("v", "id")
	assert.ErrorContains(t, err, "another owner")
	doc, err := os.ReadFile(n.image("v-0123.img"))
	assert.NilError(t, err)
	assert.Assert(t, bytes.Equal(doc, make([]byte, len(doc))), "still blank")
}

// Invariant 1: the lease.
func TestANodeThatFindsNoLeaderFencesItselfWhenItsLeaseEnds(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	path := n.mustMount("v", "id")
	n.engine.set("v", user{ID: "c1", Name: "pg_1", Live: true})
	f, err := os.Create(filepath.Join(path, "log"))
	assert.NilError(t, err)
	defer f.Close()

	h := n.plugin.volume("v").holding()
	l.set(func() { l.down = true })
	write := func() error { _, err := f.WriteString("x"); return errors.Join(err, f.Sync()) }
	var failed time.Duration
	eventually(t, "writes fail", func() bool {
		before := bootClock()
		if write() == nil {
			assert.Assert(t, before < h.until()+300*time.Millisecond, "a write got through %v after the end of the lease", before-h.until())
			return false
		}
		failed = bootClock()
		return true
	})
	assert.Assert(t, failed > h.until()-100*time.Millisecond, "fenced too early: %v before the end of the lease", h.until()-failed)
	f.Close()
	eventually(t, "everything is cleaned up", func() bool { return !n.mounted("v") && n.plugin.volume("v").holding() == nil })
	assert.DeepEqual(t, n.engine.killed(), []string{"c1"})
}

func TestAnEngineIsToldToStopBeforeTheFence(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id")
	h := n.plugin.volume("v").holding()
	end := h.until()
	assert.Equal(t, h.soft(end-2*time.Second), 500*time.Millisecond)
	assert.Equal(t, h.soft(end-time.Second), time.Duration(0))
	assert.Equal(t, h.soft(end+time.Second), time.Duration(0))
	assert.Assert(t, h.valid(end-time.Second) == nil, "but it may still write")
}

func TestAfterAPauseTheLeaseIsCheckedFirst(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	path := n.mustMount("v", "id")
	n.skew.Store(int64(time.Hour)) // the machine slept
	eventually(t, "fenced", func() bool { return os.WriteFile(filepath.Join(path, "x"), nil, 0o600) != nil })
}

func TestALostVolumeIsFencedAtOnceAndForgotten(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id")
	n.engine.set("v", user{ID: "c1", Live: true})
	h := n.plugin.volume("v").holding()
	l.set(func() { l.records["v"].Owner, l.records["v"].Epoch = &api.Owner{Node: "b"}, 9 })
	eventually(t, "let go", func() bool { return n.plugin.volume("v").holding() == nil && !n.mounted("v") })
	assert.Assert(t, n.plugin.now() < h.until(), "long before its lease would have ended")
	assert.Equal(t, l.record("v").Owner.Node, "b", "the new owner is left alone")
	assert.DeepEqual(t, n.engine.killed(), []string{"c1"})
}

// Docker was about to start a container when its volume was fenced: it would run on
// nothing for ever.
func TestAContainerThatStartsOnAFencedVolumeIsKilled(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id")
	l.set(func() { l.records["v"].Owner, l.records["v"].Epoch = &api.Owner{Node: "b"}, 9 })
	eventually(t, "let go", func() bool { return n.plugin.volume("v").holding() == nil && !n.mounted("v") })
	n.engine.set("v", user{ID: "late", Live: true}, user{ID: "old"})
	n.engine.set("w", user{ID: "another", Live: true})
	eventually(t, "killed", func() bool { return slices.Contains(n.engine.killed(), "late") })
	assert.DeepEqual(t, n.engine.killed(), []string{"late"})

	// The next one has a mount of its own.
	l.set(func() { l.records["v"].Owner = nil })
	n.mustMount("v", "next")
	n.engine.set("v", user{ID: "next", Live: true})
	n.plugin.reconcileAll(context.Background())
	assert.DeepEqual(t, n.engine.killed(), []string{"late"})
}

func TestALeaseIsCountedFromWhenTheReportWasSent(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id")
	h := n.plugin.volume("v").holding()
	report := n.plugin.buildReport()
	sent := n.plugin.now() + time.Hour
	n.plugin.take(report, api.ReportAnswer{Lease: time.Second, Renewed: []string{"v"}}, sent)
	assert.Equal(t, h.until(), sent+time.Second)
	n.plugin.take(report, api.ReportAnswer{Lease: time.Second, Renewed: []string{"v"}, Longer: map[string]time.Duration{"v": time.Minute, "w": time.Hour}}, sent)
	assert.Equal(t, h.until(), sent+time.Minute)
	// An answer to a report on another epoch says nothing about this one.
	report.Volumes[0].Epoch++
	n.plugin.take(report, api.ReportAnswer{Lost: []string{"v"}}, sent)
	assert.Assert(t, !h.isFenced())
}

func TestAMountWhoseLeaseRanOutMeanwhileDoesNotSucceed(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	l.set(func() {
		l.refuse = func(_, path string, in any) error {
			if r, ok := in.(api.ProgressRequest); ok && r.Phase == api.PhaseReady {
				n.skew.Add(int64(time.Minute)) // the machine slept during mkfs
			}
			return nil
		}
	})
	_, err := n.mount("v", "id")
	assert.Assert(t, err != nil)
	eventually(t, "let go", func() bool { return n.plugin.volume("v").holding() == nil && !n.mounted("v") })
}

// The witnesses promise again once their bar is over: who was paused for so long
// has no lease left that they could renew.
func TestALeaseThatRanOutIsNotRevived(t *testing.T) {
	h := newHold(api.Volume{}, "id", 10*time.Second)
	h.renew(14*time.Second, 9*time.Second)
	assert.Equal(t, h.until(), 14*time.Second)
	h.renew(40*time.Second, 14*time.Second)
	assert.Equal(t, h.until(), 14*time.Second, "renewed after its end, before the fence came to it")
}

func TestARefusedPromiseDoesNotTakeBackAnother(t *testing.T) {
	l := newLeader()
	l.declare("held", nil)
	n := newNode(t, "b", t.TempDir(), l)
	n.mustMount("held", "id")
	l.set(func() { l.down, l.promises = true, 3 })
	eventually(t, "the leader is gone", func() bool { return n.plugin.sinceLeader() > failsafeAfter })
	many := []string{"v"}
	for i := range maxPromised - 2 {
		many = append(many, fmt.Sprint("v", i))
	}
	many = append(many, "held") // looked at last
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(func() {
			for range 100 {
				assert.Check(t, n.plugin.promise("a", api.Promise{Lease: api.LeaseDuration, Volumes: many}) != nil)
			}
		})
	}
	for range 200 {
		n.plugin.mu.Lock()
		delete(n.plugin.promised, "v")
		n.plugin.mu.Unlock()
		assert.Assert(t, n.plugin.promise("a", api.Promise{Lease: api.LeaseDuration, Volumes: []string{"v"}}) == nil)
		assert.Assert(t, n.plugin.promisedReason("v") != "", "a promise that was given is forgotten")
	}
	wait.Wait()
}

func TestAPromiseThatCannotBeWrittenDownIsNotGiven(t *testing.T) {
	n := newNode(t, "b", t.TempDir(), newLeader())
	eventually(t, "started", n.plugin.rebuilt.Load)
	n.leader.set(func() { n.leader.down = true })
	eventually(t, "the leader is gone", func() bool { return n.plugin.sinceLeader() > failsafeAfter })
	assert.NilError(t, n.plugin.state.times.Close()) // a kill would forget it
	refused := n.plugin.promise("a", api.Promise{Lease: api.LeaseDuration, Volumes: []string{"v"}})
	assert.Assert(t, refused != nil)
	assert.Equal(t, refused.Code, api.ErrNotYet)
}

func TestAMajorityOfManagersKeepsTheLeaseWithoutALeader(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	path := n.mustMount("v", "id")
	l.set(func() { l.down, l.promises = true, 2 })
	end := n.plugin.volume("v").holding().until()
	eventually(t, "the lease is renewed beyond its end", func() bool { return n.plugin.now() > end+time.Second })
	writeFile(t, filepath.Join(path, "row"), "1")
	l.set(func() { l.promises = 1 })
	eventually(t, "a minority does not keep it", func() bool { return !n.mounted("v") })
}

func TestAllOtherNodesKeepTheLeaseWithoutManagers(t *testing.T) {
	l, dir := newLeader(), t.TempDir()
	l.declare("v", nil)
	l.nodes = []api.Node{{ID: "a"}, {ID: "b"}}
	a, b := newNode(t, "a", dir, l), newNode(t, "b", dir, l)
	a.peers["b"] = b
	a.mustMount("v", "id")
	eventually(t, "a report told of the nodes", func() bool {
		a.plugin.mu.Lock()
		defer a.plugin.mu.Unlock()
		return len(a.plugin.nodes) == 2
	})
	l.set(func() { l.down = true })
	end := a.plugin.volume("v").holding().until()
	eventually(t, "the lease is renewed beyond its end", func() bool { return a.plugin.now() > end+time.Second })
	assert.Assert(t, a.mounted("v"))
	assert.Assert(t, b.plugin.promisedReason("v") != "")
}

func TestANodeThatReachesAPeerButNotThePeersLeaderStopsWithItsLease(t *testing.T) {
	l, dir := newLeader(), t.TempDir()
	l.declare("v", nil)
	l.nodes = []api.Node{{ID: "a"}, {ID: "b"}}
	a, b := newNode(t, "a", dir, l), newNode(t, "b", dir, l)
	a.peers["b"] = b
	a.mustMount("v", "id")
	eventually(t, "a report told of the nodes", func() bool {
		a.plugin.mu.Lock()
		defer a.plugin.mu.Unlock()
		return len(a.plugin.nodes) == 2
	})
	l.set(func() {
		l.refuse = func(node, _ string, _ any) error {
			if node == "a" {
				return errDown
			}
			return nil
		}
	})
	end := a.plugin.volume("v").holding().until()
	eventually(t, "fenced", func() bool { return !a.mounted("v") })
	assert.Assert(t, a.plugin.now() < end+3*time.Second)
	assert.Equal(t, b.plugin.promisedReason("v"), "")
}

// What a node promises to another may come too late when it first waits for as long as the other
// has waited already: a manager that says that nobody leads is believed at once, one that does not
// answer is not.
func TestANodePromisesAsSoonAsNoManagerLeads(t *testing.T) {
	l := newLeader()
	n := newNode(t, "b", t.TempDir(), l)
	eventually(t, "the leader has answered", n.plugin.hearsLeader)
	l.set(func() { l.down = true })
	eventually(t, "a report has failed", n.plugin.leaderless.Load)
	assert.Equal(t, n.plugin.denied.Load(), int64(0), "a silence is taken for an answer")
	l.set(func() {
		l.down = false
		l.refuse = func(string, string, any) error { return &api.Error{Code: api.ErrNotLeader, Message: "none leads"} }
	})
	eventually(t, "none leads", func() bool { return n.plugin.denied.Load() > n.plugin.last.Load() })
	n.plugin.last.Store(n.plugin.denied.Load() - 1) // however long that took
	assert.Assert(t, !n.plugin.hearsLeader())
	assert.Assert(t, n.plugin.promise("a", api.Promise{Lease: api.LeaseDuration, Volumes: []string{"v"}}) == nil)
}

func TestANodeThatRefusesAPromiseAsksTheLeaderAtOnce(t *testing.T) {
	p, err := newPlugin(Config{Propagated: t.TempDir(), Log: hclog.NewNullLogger()}, nil, nil, nil)
	assert.NilError(t, err)
	p.last.Store(int64(p.now()))
	refused := p.promise("a", api.Promise{Lease: api.LeaseDuration, Volumes: []string{"v"}})
	assert.ErrorContains(t, refused, "hears the leading manager")
	assert.Equal(t, len(p.report), 1, "no report is asked for")
}

func TestANodeKeepsItsPromiseOverAKill(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "b", t.TempDir(), l)
	eventually(t, "started", n.plugin.rebuilt.Load)
	l.set(func() { l.down = true })
	eventually(t, "the leader is gone", func() bool { return n.plugin.sinceLeader() > failsafeAfter })
	assert.Assert(t, n.plugin.promise("a", api.Promise{Lease: api.LeaseDuration, Volumes: []string{"v"}}) == nil)
	promised := bootClock()
	n.kill()
	l.set(func() { l.down = false })
	n.mustMount("v", "id")
	assert.Assert(t, bootClock()-promised >= api.LeaseDuration-100*time.Millisecond, "mounted within the promise")
	l.set(func() { l.down = true })
	eventually(t, "the leader is gone", func() bool { return n.plugin.sinceLeader() > failsafeAfter })
	refused := n.plugin.promise("a", api.Promise{Lease: api.LeaseDuration, Volumes: []string{"v"}})
	assert.ErrorContains(t, refused, "holds volume v itself")
	assert.Equal(t, n.plugin.promisedReason("v"), "")
}

func TestAPromiseThatMakesNoSenseIsRefused(t *testing.T) {
	n := newNode(t, "b", t.TempDir(), newLeader())
	eventually(t, "started", n.plugin.rebuilt.Load)
	n.leader.set(func() { n.leader.down = true })
	eventually(t, "the leader is gone", func() bool { return n.plugin.sinceLeader() > failsafeAfter })
	for _, c := range []struct {
		caller, code string
		req          api.Promise
	}{
		{"a", api.ErrInvalid, api.Promise{Lease: -1, Volumes: []string{"x"}}},
		{"a", api.ErrInvalid, api.Promise{Lease: 1, Volumes: []string{"../x"}}},
		{"a", api.ErrInvalid, api.Promise{Lease: 1, Volumes: make([]string, 5000)}},
		{"b", api.ErrForbidden, api.Promise{Lease: 1, Volumes: []string{"x"}}},
	} {
		refused := n.plugin.promise(c.caller, c.req)
		assert.Assert(t, refused != nil, "%+v", c)
		assert.Equal(t, refused.Code, c.code)
	}
	assert.Assert(t, n.plugin.promise("a", api.Promise{Lease: time.Hour, Volumes: []string{"x"}}) == nil)
	n.plugin.cache.put(api.Volume{VolumeSpec: api.VolumeSpec{Name: "x"}, Owner: &api.Owner{Node: "c"}})
	assert.Assert(t, n.plugin.promise("a", api.Promise{Lease: time.Hour, Volumes: []string{"x"}}) == nil,
		"x had moved to a when the leader was lost, and this node has not heard of it")
	n.skew.Store(int64(api.LeaseDuration))
	assert.Equal(t, n.plugin.promisedReason("x"), "", "a promise is for a lease at most")
}

// Invariant 5 and pitfall 4.
func TestAKilledPluginFindsWhatIsMountedAndKeepsIt(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	path := n.mustMount("v", "id")
	n.engine.set("v", user{ID: "c1", Live: true})
	f, err := os.Create(filepath.Join(path, "log"))
	assert.NilError(t, err)
	defer f.Close()
	n.kill()
	eventually(t, "renewed", func() bool {
		h := n.plugin.volume("v").holding()
		return h != nil && h.until() > n.plugin.now()+3*time.Second
	})
	_, err = f.WriteString("still writing")
	assert.NilError(t, errors.Join(err, f.Sync(), f.Close()))
	assert.Equal(t, n.plugin.volume("v").holding().epoch, uint64(1))
	assert.NilError(t, n.unmount("v", "id"))
	assert.Assert(t, !n.mounted("v"))
	assert.Assert(t, l.record("v").Owner == nil)
}

func TestAMountThatTheStateFileDoesNotKnowIsTakenUpByTheRecordOrFenced(t *testing.T) {
	for _, mine := range []bool{true, false} {
		l := newLeader()
		l.declare("v", nil)
		n := newNode(t, "a", t.TempDir(), l)
		n.mustMount("v", "id")
		n.engine.set("v", user{ID: "c1", Live: true})
		n.stop()
		assert.NilError(t, os.Remove(n.plugin.state.path()))
		if !mine {
			l.records["v"].Owner, l.records["v"].Epoch = &api.Owner{Node: "b"}, 2
		}
		n.start()
		eventually(t, "rebuilt", n.plugin.rebuilt.Load)
		if mine {
			h := n.plugin.volume("v").holding()
			assert.Equal(t, h.mountID, "id")
			assert.Equal(t, h.epoch, uint64(1))
			continue
		}
		eventually(t, "gone", func() bool { return !n.mounted("v") && n.plugin.volume("v").holding() == nil })
	}
}

// What `docker plugin disable -f` does to the host's view, and `rm -f` to the state.
func TestAFilesystemThatOnlyContainersStillSeeIsHeldAgain(t *testing.T) {
	for doc, removed := range map[string]bool{"disabled": false, "removed and installed again": true} {
		t.Run(doc, func(t *testing.T) { heldAgain(t, removed) })
	}
}

func heldAgain(t *testing.T, removed bool) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	path := n.mustMount("v", "id")
	container := filepath.Join(t.TempDir(), "c")
	assert.NilError(t, os.Mkdir(container, 0o755))
	assert.NilError(t, unix.Mount(path, container, "", unix.MS_BIND, ""))
	defer unix.Unmount(container, unix.MNT_DETACH)
	n.engine.set("v", user{ID: "c1", Live: true})
	n.stop()
	assert.NilError(t, filesystem.Detach(filepath.Join(n.root, "v")))
	if removed {
		assert.NilError(t, os.RemoveAll(filepath.Join(n.root, ".openmanage")))
		l.down = true
	}
	n.start()
	if removed {
		assert.Assert(t, n.plugin.state.fresh() && !n.plugin.rebuilt.Load(), "without a word of the leader it cannot know")
		l.set(func() { l.down = false })
	}
	eventually(t, "held", func() bool { return n.plugin.rebuilt.Load() && n.plugin.volume("v").holding() != nil })
	l.set(func() { l.lost["v"] = true })
	eventually(t, "and can be fenced", func() bool { return os.WriteFile(filepath.Join(container, "x"), nil, 0o600) != nil })
}

func TestAVolumeWhoseContainerIsGoneIsGivenUpThoughDockerNeverSaysSo(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id1")
	n.engine.set("v", user{ID: "c1", Live: true})
	n.plugin.reconcileAll(t.Context())
	n.engine.set("v", user{ID: "c1"}) // exited
	n.mustMount("v", "id2")
	assert.Equal(t, l.record("v").Owner.MountID, "id2")
}

func TestWithoutAWordFromDockerNothingIsGivenUp(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id")
	n.engine.set("v", user{ID: "c1", Live: true})
	n.plugin.reconcileAll(t.Context())
	n.engine.mu.Lock()
	n.engine.use, n.engine.err = map[string][]user{}, errDown
	n.engine.mu.Unlock()
	v := n.plugin.volume("v")
	for range 5 {
		n.skew.Add(int64(time.Second)) // the lease is renewed meanwhile by no one: stay below it
		v.reconcile(t.Context(), v.holding())
		n.skew.Add(-int64(time.Second))
	}
	assert.Assert(t, n.mounted("v"))
}

// clinging is a backend whose devices do not go away.
type clinging struct {
	backend
	off atomic.Bool
}

func (c *clinging) Detach(ctx context.Context, device string) error {
	if c.off.Load() {
		return c.backend.Detach(ctx, device)
	}
	return blockstore.ErrBusy
}

func TestWhatCouldNotBePreparedIsNotHandedOutAlthoughItCannotBeDroppedYet(t *testing.T) {
	l := newLeader()
	l.declare("v", func(v *api.Volume) { v.Phase, v.Device = "encrypted", "v.img" })
	n := newNode(t, "a", t.TempDir(), l)
	c := &clinging{}
	n.wrap = func(b backend) backend { c.backend = b; return c }
	n.kill()
	eventually(t, "started", n.plugin.rebuilt.Load)
	writeFile(t, n.image("v.img"), "")
	assert.NilError(t, os.Truncate(n.image("v.img"), 64<<20))
	_, err := n.mount("v", "id")
	assert.ErrorContains(t, err, "upgrade the plugin")
	v := n.plugin.volume("v")
	assert.Assert(t, v.holding().isLeaving())
	c.off.Store(true)
	eventually(t, "dropped at the next look", func() bool { n.plugin.reconcileAll(t.Context()); return v.holding() == nil })
	assert.Assert(t, l.record("v").Owner == nil)
}

// Pitfall 12.
func TestAStaleMountIsReplaced(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	eventually(t, "rebuilt", n.plugin.rebuilt.Load)
	target := filepath.Join(n.root, "v")
	assert.NilError(t, os.Mkdir(target, 0o755))
	assert.NilError(t, unix.Mount("tmpfs", target, "tmpfs", unix.MS_RDONLY, ""))
	writeFile(t, filepath.Join(n.mustMount("v", "id"), "row"), "1")
	mounts, err := filesystem.Mounts(target, false)
	assert.NilError(t, err)
	assert.Equal(t, len(mounts), 1)
	assert.Equal(t, mounts[0].Type, filesystem.Ext4)
}

func TestAFencedWriterIsLeftBehindOnTheOldDevice(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	dir := reflinkFolder(t)
	a := newNode(t, "a", dir, l)
	path := a.mustMount("v", "id")
	writeFile(t, filepath.Join(path, "row"), "1")
	f, err := os.OpenFile(filepath.Join(path, "row"), os.O_WRONLY, 0)
	assert.NilError(t, err)
	defer f.Close()
	a.stop() // hangs, with everything mounted
	l.set(func() { l.records["v"].Owner, l.records["v"].Fence = nil, true })
	b := newNode(t, "b", dir, l)
	b.mustMount("v", "id2")
	rec := l.record("v")
	assert.Equal(t, rec.Device, "v-0123.e2.img")
	assert.Assert(t, !rec.Fence)
	_, err = f.WriteString("OLD")
	assert.NilError(t, errors.Join(err, f.Sync()))
	assert.NilError(t, b.unmount("v", "id2"))
	other := b.mustMount("v", "id3")
	assert.Equal(t, readFile(t, filepath.Join(other, "row")), "1")
	_, err = os.Stat(b.image("v-0123.img"))
	assert.Assert(t, os.IsNotExist(err), "the abandoned device has no name any more")
}

func TestWhereNoCopyCanBeMadeAFenceKeepsTheDevice(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	if n.reflinks() {
		t.Skip("the temporary folder is on a filesystem with reflink")
	}
	writeFile(t, filepath.Join(n.mustMount("v", "id"), "row"), "1")
	assert.NilError(t, n.unmount("v", "id"))
	l.set(func() { l.records["v"].Fence = true })
	path := n.mustMount("v", "id2")
	assert.Equal(t, readFile(t, filepath.Join(path, "row")), "1")
	assert.Equal(t, l.record("v").Device, "v-0123.img")
	assert.Assert(t, !l.record("v").Fence)
	_, err := os.Stat(n.image("v-0123.img"))
	assert.NilError(t, err, "the device in use keeps its name")
}

func TestTheOldDeviceStaysUntilTheLeaderHasRecordedTheNewOne(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", reflinkFolder(t), l)
	writeFile(t, filepath.Join(n.mustMount("v", "id"), "row"), "1")
	assert.NilError(t, n.unmount("v", "id"))
	l.set(func() {
		l.records["v"].Fence = true
		l.refuse = func(_, path string, in any) error {
			if r, ok := in.(api.ProgressRequest); ok && r.Fenced {
				return &api.Error{Code: api.ErrConflict, Message: "crash"}
			}
			return nil
		}
	})
	_, err := n.mount("v", "id2")
	assert.ErrorContains(t, err, "crash")
	_, err = os.Stat(n.image("v-0123.img"))
	assert.NilError(t, err)
	l.set(func() { l.refuse = nil })
	assert.Equal(t, readFile(t, filepath.Join(n.mustMount("v", "id3"), "row")), "1")
}

func TestTwoNodesOfOneKernelNeverMountOneImage(t *testing.T) {
	l, dir := newLeader(), t.TempDir()
	l.declare("v", nil)
	a := newNode(t, "a", dir, l)
	a.mustMount("v", "id")
	l.set(func() { l.records["v"].Owner = nil }) // a leader that is wrong
	b := newNode(t, "b", dir, l)
	_, err := b.mount("v", "id2")
	assert.Assert(t, errors.Is(err, blockstore.ErrBusy), "%v", err)
	assert.ErrorContains(t, err, "on node a")
}

func TestAPurgeOrderDeletesTheDeviceUnlessItIsInUse(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id")
	order := api.PurgeOrder{Name: "v", Device: "v-0123.img", Location: n.plugin.backend.Storage().Location}
	l.set(func() { l.purge = []api.PurgeOrder{order} })
	seen := func() int { l.mu.Lock(); defer l.mu.Unlock(); return len(l.reports) }
	before := seen()
	eventually(t, "two more reports", func() bool { n.plugin.kick(); return seen() > before+2 })
	_, err := os.Stat(n.image("v-0123.img"))
	assert.NilError(t, err, "it is mounted")
	assert.NilError(t, n.unmount("v", "id"))
	eventually(t, "deleted and reported", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		_, err := os.Stat(n.image("v-0123.img"))
		return os.IsNotExist(err) && slices.Contains(l.reports[len(l.reports)-1].Purged, order)
	})
}

// The volume has another device by now, a snapshot of another one's.
func TestAFormerDeviceIsDeletedWhileTheVolumeIsInUse(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id")
	assert.NilError(t, os.WriteFile(n.image("v-4567.img"), []byte("former"), 0o600))
	order := api.PurgeOrder{Name: "v", Device: "v-4567.img", Location: n.plugin.backend.Storage().Location}
	l.set(func() { l.purge = []api.PurgeOrder{order} })
	eventually(t, "deleted and reported", func() bool {
		n.plugin.kick()
		l.mu.Lock()
		defer l.mu.Unlock()
		_, err := os.Stat(n.image("v-4567.img"))
		return os.IsNotExist(err) && slices.Contains(l.reports[len(l.reports)-1].Purged, order)
	})
	_, err := os.Stat(n.image("v-0123.img"))
	assert.NilError(t, err, "it is mounted")
	assert.Assert(t, n.mounted("v"))
}

// A share is mounted over the folder, or away from it, between report and order.
func TestAPurgeOrderForAnotherFolderIsNeitherCarriedOutNorReported(t *testing.T) {
	l := newLeader()
	n := newNode(t, "a", t.TempDir(), l)
	eventually(t, "started", n.plugin.rebuilt.Load)
	for _, name := range []string{"v-0123.img", "v-0123.e2.img"} {
		writeFile(t, n.image(name), "data")
	}
	order := api.PurgeOrder{Name: "v", Device: "v-0123.e2.img", Location: "another folder"}
	n.plugin.purge(order)
	assert.Equal(t, len(n.plugin.buildReport().Purged), 0)
	assert.Equal(t, readFile(t, n.image("v-0123.e2.img")), "data")

	order.Location = n.plugin.backend.Storage().Location
	n.plugin.purge(order)
	assert.DeepEqual(t, n.plugin.buildReport().Purged, []api.PurgeOrder{order})
	for _, name := range []string{"v-0123.img", "v-0123.e2.img"} {
		_, err := os.Stat(n.image(name))
		assert.Assert(t, os.IsNotExist(err), "%s is of the volume, too", name)
	}
	later := api.PurgeOrder{Name: "v", Device: "v-4567.img", Location: order.Location}
	writeFile(t, n.image(later.Device), "a volume of the same name, made since")
	n.plugin.purge(later)
	assert.DeepEqual(t, n.plugin.buildReport().Purged, []api.PurgeOrder{later})
	_, err := os.Stat(n.image(later.Device))
	assert.Assert(t, os.IsNotExist(err))
}

func TestDevicesThatAKilledOwnerLeftBehindGoWithTheNextMount(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	n := newNode(t, "a", t.TempDir(), l)
	n.mustMount("v", "id")
	assert.NilError(t, n.unmount("v", "id"))
	// It was killed between the leader's acknowledgement and the removal.
	assert.NilError(t, os.Rename(n.image("v-0123.img"), n.image("v-0123.e1.img")))
	l.set(func() { l.records["v"].Device = "v-0123.e1.img" })
	stay := []string{"v-0123.e1.img", "v-0123.e7.img", "w-0123.img", "v-01234.img", "v-0123.img.bak"}
	for _, name := range append(stay[1:], "v-0123.img", "v-0123.e0.img", "v-0123.e1.img.tmp-0123abcd") {
		writeFile(t, n.image(name), "x")
	}
	n.mustMount("v", "id2")
	for _, name := range stay {
		_, err := os.Stat(n.image(name))
		assert.Check(t, err)
	}
	left, err := filepath.Glob(n.image("*"))
	assert.NilError(t, err)
	assert.Equal(t, len(left), len(stay)+1, "%v", left) // and folder-id
}

func TestDockerIsAnsweredFromMemoryAndNeverToldThatAnUnknownVolumeIsAbsent(t *testing.T) {
	l := newLeader()
	l.declare("v", nil)
	l.declare("old", func(v *api.Volume) { v.Retained = true })
	n := newNode(t, "a", t.TempDir(), l)
	d := driver{n.plugin}
	list, err := d.List()
	assert.NilError(t, err)
	assert.Equal(t, len(list.Volumes), 1, "retained volumes are not listed")
	_, err = d.Get(&volume.GetRequest{Name: "old"})
	assert.ErrorContains(t, err, "there is no volume old")
	_, err = d.Get(&volume.GetRequest{Name: "nope"})
	assert.ErrorContains(t, err, "there is no volume nope")
	l.set(func() { l.down = true })
	_, err = d.Get(&volume.GetRequest{Name: "v"})
	assert.NilError(t, err)
	_, err = d.Get(&volume.GetRequest{Name: "nope"})
	assert.ErrorContains(t, err, "cannot be looked up: no manager answers")
	assert.Equal(t, d.Capabilities().Capabilities.Scope, "global")
}

// Two builds of one version can have the same size and time: images are made
// reproducible.
func TestAnUpgradedPluginGivesItsMembersItsOwnAgent(t *testing.T) {
	l := newLeader()
	l.declare("pg-1", func(v *api.Volume) { v.Application, v.Member = "pg", "pg-1" })
	n := newNode(t, "a", t.TempDir(), l)
	name := "pg-1" + api.RuntimeSuffix
	agent := func(id string) string {
		t.Helper()
		text, err := os.ReadFile(filepath.Join(n.mustMount(name, id), "agent"))
		assert.NilError(t, err)
		return string(text)
	}
	before := agent("id")
	assert.Equal(t, agent("id2"), before)
	binary := filepath.Join(n.root, "agent.bin")
	old, err := os.Stat(binary)
	assert.NilError(t, err)
	for range 2 {
		n.stop()
		n.agent = map[bool]string{true: "# b\n", false: "# a\n"}[n.agent == "# a\n"]
		n.start()
		assert.NilError(t, os.Chtimes(binary, old.ModTime(), old.ModTime()))
		assert.Equal(t, agent(n.agent), "#!/bin/sh\n"+n.agent)
	}
}

func TestARuntimeVolumeGivesItsMemberAgentAndLease(t *testing.T) {
	l := newLeader()
	l.declare("pg-1", func(v *api.Volume) { v.Application, v.Member = "pg", "pg-1" })
	l.orders = []api.MemberOrders{{Member: "pg-1", Role: api.RolePrimary, Term: 3}}
	n := newNode(t, "a", t.TempDir(), l)
	d := driver{n.plugin}
	name := "pg-1" + api.RuntimeSuffix
	_, err := d.Get(&volume.GetRequest{Name: name})
	assert.Assert(t, err != nil)
	assert.NilError(t, d.Create(&volume.CreateRequest{Name: name}))
	path := n.mustMount(name, "id")
	st, err := os.Stat(filepath.Join(path, "agent"))
	assert.NilError(t, err)
	assert.Equal(t, st.Mode().Perm(), os.FileMode(0o755))
	st, err = os.Stat(filepath.Join(path, "plugin.sock"))
	assert.NilError(t, err)
	assert.Equal(t, st.Mode().Perm(), os.FileMode(0o666))

	answer := ask(t, path, api.MemberStatus{Member: "liar", Volume: "other"})
	assert.Equal(t, answer.Lease, time.Duration(0))
	assert.ErrorContains(t, errors.New(answer.Reason), "not mounted on this node")

	n.mustMount("pg-1", "id")
	eventually(t, "orders", func() bool {
		answer = ask(t, path, api.MemberStatus{Member: "liar", Volume: "other", State: api.StateRunning})
		return answer.Orders != nil
	})
	assert.Assert(t, answer.Lease > 0 && answer.Lease <= api.LeaseDuration-softFence, "%v", answer.Lease)
	assert.Equal(t, answer.Orders.Term, uint64(3))
	var dev unix.Stat_t
	assert.NilError(t, unix.Stat(filepath.Join(n.root, "pg-1", "data"), &dev))
	assert.Equal(t, answer.Device, strings.Join([]string{"7", itoa(unix.Minor(dev.Dev))}, ":"))
	eventually(t, "the leader hears it under its own name", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		last := l.reports[len(l.reports)-1]
		return len(last.Members) == 1 && last.Members[0].Volume == "pg-1" && last.Members[0].Member == "pg-1"
	})

	n.kill()
	eventually(t, "the socket is made again after a kill", func() bool {
		a, err := tryAsk(path, api.MemberStatus{})
		return err == nil && a.Lease > 0
	})
	assert.NilError(t, d.Remove(&volume.RemoveRequest{Name: name}))
}

func ask(t *testing.T, dir string, s api.MemberStatus) api.AgentAnswer {
	t.Helper()
	a, err := tryAsk(dir, s)
	assert.NilError(t, err)
	return a
}

func tryAsk(dir string, s api.MemberStatus) (api.AgentAnswer, error) {
	var a api.AgentAnswer
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, "plugin.sock"))
	}}}
	doc, _ := json.Marshal(api.AgentReport{Status: s})
	res, err := c.Post("http://plugin/v1/agent", "application/json", bytes.NewReader(doc))
	if err != nil {
		return a, err
	}
	defer res.Body.Close()
	return a, json.NewDecoder(res.Body).Decode(&a)
}

func itoa(n uint32) string { return strings.TrimPrefix(blockDevice(n), "/dev/loop") }

// reflinkFolder returns a folder on XFS.
func reflinkFolder(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: it makes loop devices and mounts")
	}
	dir := t.TempDir()
	image, mount := filepath.Join(dir, "fs.img"), filepath.Join(dir, "m")
	assert.NilError(t, os.WriteFile(image, nil, 0o600))
	assert.NilError(t, os.Truncate(image, 600<<20))
	assert.NilError(t, os.Mkdir(mount, 0o755))
	for _, c := range [][]string{{"mkfs.xfs", "-q", image}, {"mount", "-o", "loop", image, mount}} {
		out, err := exec.Command(c[0], c[1:]...).CombinedOutput()
		assert.NilError(t, err, "%s", out)
	}
	t.Cleanup(func() { _ = filesystem.Detach(mount) })
	return filepath.Join(mount, "openmanage")
}
