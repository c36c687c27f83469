package cluster

import (
	"context"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/progress"
)

// realCluster gives a test a healthy Swarm of this machine, which it may break.
func realCluster(t *testing.T) *Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Swarm: not with -short")
	}
	options := Options{Progress: progress.To(t.Output())}
	release, err := Exclusive(t.Context(), options)
	assert.NilError(t, err)
	t.Cleanup(release)
	c, err := Up(t.Context(), options)
	assert.NilError(t, err)
	assert.NilError(t, c.Heal(t.Context()))
	// The test's own context has ended by then.
	t.Cleanup(func() { assert.NilError(t, c.Heal(context.WithoutCancel(t.Context()))) })
	return c
}

func TestAKilledNodeHoldsNothingAndLosesWhatItHadNotWritten(t *testing.T) {
	c := realCluster(t)
	victim, err := c.Node(3)
	assert.NilError(t, err)
	witness, err := c.Node(2)
	assert.NilError(t, err)
	run := func(n *Node, script string) string {
		t.Helper()
		stdout, _, err := n.Exec(context.WithoutCancel(t.Context()), "bash", "-ec", script)
		assert.NilError(t, err)
		return strings.TrimSpace(stdout)
	}
	folder := StoragePath + "/kill-test"
	run(victim, `
		rm -rf `+folder+`; mkdir -p `+folder+` /mnt/kill
		truncate -s 200M `+folder+`/a.img; mkfs.ext4 -q `+folder+`/a.img
		device=$(losetup --find --show `+folder+`/a.img)
		mount $device /mnt/kill
		echo kept > /mnt/kill/synced; sync -f /mnt/kill/synced
		echo gone > /mnt/kill/unsynced
		truncate -s 200M `+folder+`/b.img; losetup --find --show `+folder+`/b.img`)
	t.Cleanup(func() { run(witness, "rm -rf "+folder) })

	assert.NilError(t, victim.Kill(t.Context()))

	loops, err := c.Host.StorageLoops()
	assert.NilError(t, err)
	for _, loop := range loops {
		assert.Assert(t, !strings.Contains(loop.BackingPath(), "/kill-test/"), "a dead node holds %s", loop.Path())
	}
	got := run(witness, `mkdir -p /mnt/kill; mount -o loop `+folder+`/a.img /mnt/kill; ls /mnt/kill; umount /mnt/kill`)
	assert.Equal(t, got, "lost+found\nsynced")
}

func TestADeadNodesMountsAreNowhere(t *testing.T) {
	c := realCluster(t)
	victim, err := c.Node(3)
	assert.NilError(t, err)
	_, _, err = victim.Exec(t.Context(), "sh", "-ec", `mkdir -p /mnt/mark; mount -t tmpfs openmanage-kill-test /mnt/mark`)
	assert.NilError(t, err)
	marked := func() []int {
		pids, err := host.PIDs(func(pid int) bool {
			text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mountinfo")
			return err == nil && strings.Contains(string(text), "openmanage-kill-test")
		})
		assert.NilError(t, err)
		return pids
	}
	pid, err := victim.pid(t.Context())
	assert.NilError(t, err)
	assert.Assert(t, slices.Contains(marked(), pid), "the mount is not seen at all")

	assert.NilError(t, victim.Kill(t.Context()))
	assert.Equal(t, len(marked()), 0)
}

func TestANodeComesBackAsTheMachineItWas(t *testing.T) {
	c := realCluster(t)
	node, err := c.Node(3)
	assert.NilError(t, err)
	id, err := node.SwarmID(t.Context())
	assert.NilError(t, err)

	assert.NilError(t, node.Kill(t.Context()))
	assert.NilError(t, node.Start(t.Context()))
	assert.NilError(t, node.WaitReady(t.Context()))

	now, err := node.SwarmID(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, now, id)
}

func TestACutIsSeenFromItsSideOnlyAndHealed(t *testing.T) {
	c := realCluster(t)
	one, err := c.Node(1)
	assert.NilError(t, err)
	two, err := c.Node(2)
	assert.NilError(t, err)
	listen := func(from, to *Node) error {
		_, _, err := from.Exec(t.Context(), "timeout", "2", "bash", "-c", "</dev/tcp/"+to.IP().String()+"/2377")
		return err
	}
	assert.NilError(t, listen(one, two))

	assert.NilError(t, one.Cut(t.Context(), two))
	assert.Assert(t, listen(one, two) != nil, "packets pass a cut")
	cuts, err := one.Cuts(t.Context())
	assert.NilError(t, err)
	assert.DeepEqual(t, cuts, []CutOff{{From: "node2", To: "node1"}, {From: "node1", To: "node2"}})

	assert.NilError(t, two.Heal(t.Context()))
	assert.NilError(t, listen(one, two))
}

func TestAnEngineRestartsOnALivingNode(t *testing.T) {
	c := realCluster(t)
	node, err := c.Node(2)
	assert.NilError(t, err)
	before, err := node.pid(t.Context())
	assert.NilError(t, err)

	assert.NilError(t, node.RestartDocker(t.Context(), true))
	assert.NilError(t, node.RestartDocker(t.Context(), false))

	after, err := node.pid(t.Context())
	assert.NilError(t, err)
	assert.Equal(t, after, before, "the whole node restarted")
}
