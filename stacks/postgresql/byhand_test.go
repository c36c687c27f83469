package postgresql

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/memberagent"
	"github.com/openmanage/openmanage/memberagent/agenttest"
)

// runByHand makes a member's data a primary's, without the agent, and runs a
// statement on it.
func (c *cluster) runByHand(m *agenttest.Member, statement string) {
	c.t.Helper()
	dir := filepath.Join(m.Volume, "pgdata")
	bin, err := findBinaries(os.Getenv("PATH"))
	assert.NilError(c.t, err)
	credential, err := memberagent.User(systemUser)
	assert.NilError(c.t, err)
	run := func(name string, args ...string) {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir = m.Volume
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
		out, err := cmd.CombinedOutput()
		assert.NilError(c.t, err, "%s: %s", strings.Join(cmd.Args, " "), out)
	}
	assert.NilError(c.t, os.RemoveAll(filepath.Join(dir, "postmaster.pid")))
	run("pg_ctl", "-D", dir, "-w", "-l", filepath.Join(dir, "byhand.log"), "-o", "-c unix_socket_directories= -c synchronous_standby_names=", "start")
	run("pg_ctl", "-D", dir, "-w", "promote")
	_, err = c.sql(m.Name, statement)
	assert.NilError(c.t, err)
	run("pg_ctl", "-D", dir, "-w", "-m", "fast", "stop")
}

// stateOf is what pg_controldata calls the state of a member's data.
func (c *cluster) stateOf(m *agenttest.Member) string {
	c.t.Helper()
	bin, err := findBinaries(os.Getenv("PATH"))
	assert.NilError(c.t, err)
	cmd := exec.Command(filepath.Join(bin, "pg_controldata"), "-D", filepath.Join(m.Volume, "pgdata"))
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.Output()
	assert.NilError(c.t, err)
	for line := range strings.Lines(string(out)) {
		if label, value, _ := strings.Cut(line, ":"); label == "Database cluster state" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// recoverByHand starts the server of a member's data, without the agent, and returns
// it as soon as it recovers from a crash.
func (c *cluster) recoverByHand(m *agenttest.Member) *exec.Cmd {
	c.t.Helper()
	dir := filepath.Join(m.Volume, "pgdata")
	bin, err := findBinaries(os.Getenv("PATH"))
	assert.NilError(c.t, err)
	credential, err := memberagent.User(systemUser)
	assert.NilError(c.t, err)
	assert.NilError(c.t, os.RemoveAll(filepath.Join(dir, "postmaster.pid")))
	cmd := exec.Command(filepath.Join(bin, "postgres"), "-D", dir, "-c", "unix_socket_directories=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	assert.NilError(c.t, cmd.Start())
	agenttest.Eventually(c.t, func() error {
		if state := c.stateOf(m); state != "in crash recovery" {
			return errors.New(state)
		}
		return nil
	})
	return cmd
}
