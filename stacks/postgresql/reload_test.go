package postgresql

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/go-hclog"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
)

// Orders may change back while the server is told of others: what is on the disk is then not
// what it was told to read last.
func TestAReloadThatIsCutShortIsRepeated(t *testing.T) {
	volume := t.TempDir()
	s := &server{
		member: "pg-2", volume: volume, dir: filepath.Join(volume, "pgdata"), port: 1, socketDir: volume, log: hclog.NewNullLogger(),
		address: func(member string) (string, int) { return member, 1 }, credential: &syscall.Credential{Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid())},
	}
	assert.NilError(t, os.Mkdir(s.dir, 0o700))
	former := api.MemberOrders{Role: api.RoleStandby, Primary: "pg-1"}
	text, err := s.settings(api.RoleStandby, former)
	assert.NilError(t, err)
	s.loaded, s.settled = text, true
	assert.NilError(t, s.reload(t.Context(), api.RoleStandby, former))
	other := api.MemberOrders{Role: api.RoleStandby}
	assert.Assert(t, s.reload(t.Context(), api.RoleStandby, other) != nil, "there is no server")
	assert.Assert(t, s.reload(t.Context(), api.RoleStandby, former) != nil)
	written, err := os.ReadFile(filepath.Join(s.dir, configName))
	assert.NilError(t, err)
	assert.Equal(t, string(written), text, "the file is that of other orders, and is taken for its own")
}
