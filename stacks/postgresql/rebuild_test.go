package postgresql

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
)

// rebuild orders a member to replace its data.
func (c *cluster) rebuild(member, name string) {
	c.t.Helper()
	c.orders.Term++
	c.orders.Sync = c.others("pg-1")[1:] // not for pg-2
	c.order()
	orders := c.orders
	orders.Role, orders.Rebuild = api.RoleStandby, name
	c.members[member].Order(orders)
}

func rebuiltBy(name string) func(api.MemberStatus) bool {
	return func(s api.MemberStatus) bool { return healthy(s) && s.Streaming && s.Rebuilt == name }
}

func TestAStandbyIsRebuiltOnOrderWhateverItsDataIs(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(dir string) error{
		"whole":                 func(string) error { return nil },
		"without a version":     func(dir string) error { return os.Remove(filepath.Join(dir, "PG_VERSION")) },
		"without control file":  func(dir string) error { return os.Remove(filepath.Join(dir, "global", "pg_control")) },
		"with a broken catalog": func(dir string) error { return os.RemoveAll(filepath.Join(dir, "base", "1")) },
		"gone":                  os.RemoveAll,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := replicating(t, 2)
			m := c.members["pg-2"]
			dir := filepath.Join(m.Volume, "pgdata")
			before := inode(t, dir)
			m.KillAll()
			assert.NilError(t, damage(dir))
			c.rebuild("pg-2", "pg.one")
			m.Start()
			m.Await("the rebuild", rebuiltBy("pg.one"))
			if name != "gone" { // the number of what is gone can be given again
				assert.Assert(t, inode(t, dir) != before, "it was not copied")
			}
			c.must("pg-1", "INSERT INTO t VALUES (1001)")
			c.eventually("pg-2", countAll, "1001 1 1001")
		})
	}
}

func TestARebuildThatIsKilledAtAnyStepEndsInAGoodStandby(t *testing.T) {
	t.Parallel()
	armed := t.TempDir()
	assert.NilError(t, os.Chmod(armed, 0o777))
	c := replicating(t, 2, failpoint.Variable+"="+armed)
	m := c.members["pg-2"]
	dir := filepath.Join(m.Volume, "pgdata")
	before := inode(t, dir)
	c.rebuild("pg-2", "pg.one")
	for i, point := range []string{"rejoin:copied", "rejoin:parted", "rejoin:swapped", "rebuild:copied"} {
		assert.NilError(t, os.WriteFile(filepath.Join(armed, point), nil, 0o600))
		if i > 0 {
			m.Start()
		}
		assert.Equal(t, m.Wait(), -1, point)
		m.KillAll()
	}
	assert.Assert(t, !m.Seen(func(s api.MemberStatus) bool { return s.Rebuilt != "" }), "it was called done before it was")
	m.Start()
	m.Await("the rebuild", rebuiltBy("pg.one"))
	done := inode(t, dir)
	assert.Assert(t, done != before, "it was not copied")
	m.KillAll()
	m.Start()
	m.Await("the standby", rebuiltBy("pg.one"))
	assert.Equal(t, inode(t, dir), done, "it was copied again")
	c.eventually("pg-2", countAll, "1000 1 1000")
	left, err := filepath.Glob(filepath.Join(m.Volume, "pgdata*"))
	assert.NilError(t, err)
	assert.Equal(t, fmt.Sprint(left), fmt.Sprint([]string{dir}))
}
