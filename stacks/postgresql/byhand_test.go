package postgresql

import (
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
