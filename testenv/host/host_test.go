package host

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func TestEachMissingPackageIsNamedOnce(t *testing.T) {
	got := missingPackages(tools, func(command string) bool {
		return command != "docker" && command != "dockerd" && command != "mkfs.xfs"
	})
	assert.DeepEqual(t, got, []string{"docker.io", "xfsprogs"})
	assert.Equal(t, len(missingPackages(tools, func(string) bool { return true })), 0)
}

func TestMissingSpaceIsSaidInGiB(t *testing.T) {
	err := checkFree("/somewhere", 1<<30, 4<<30, "building image node")
	assert.Error(t, err, "building image node needs 4.0 GiB below /somewhere, only 1.0 GiB are free; free 3.0 GiB or choose another place with --state-dir")
	assert.NilError(t, checkFree("/somewhere", 4<<30, 4<<30, "x"))
}

func TestACommandsErrorSaysWhatItSaid(t *testing.T) {
	_, err := Run(t.Context(), "sh", "-c", "echo reason >&2; exit 3")
	assert.ErrorContains(t, err, "exit status 3: reason")
}

func TestPollGivesTheLastReason(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := Poll(ctx, time.Millisecond, "the cake is not ready", func() (bool, error) { return false, errors.New("still liquid") })
	assert.Error(t, err, "the cake is not ready: still liquid")
}

func TestADaemonOutlivesTheCallAndIsStopped(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	process, err := startDaemon(log, "sh", "-c", "echo started; exec sleep 60")
	assert.NilError(t, err)
	err = Poll(t.Context(), 5*time.Millisecond, "no output", func() (bool, error) {
		text, _ := os.ReadFile(log)
		return string(text) == "started\n", nil
	})
	assert.NilError(t, err)
	assert.Assert(t, alive(process.Pid))
	assert.NilError(t, stop(t.Context(), 5*time.Second, process.Pid))
	assert.Assert(t, !alive(process.Pid))
}
