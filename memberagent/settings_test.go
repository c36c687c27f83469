package memberagent_test

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

func TestAServerIsRestartedOnceForSettingsIfThatIsOrdered(t *testing.T) {
	t.Parallel()
	m := started(t, memberagent.EnvStopGrace+"=100ms")
	starts := func() int {
		data, err := os.ReadFile(filepath.Join(m.Volume, "starts"))
		assert.NilError(t, err)
		return len(data)
	}
	s := m.Await("no settings read", func(s api.MemberStatus) bool { return running(s) && s.Parameters != "" })
	assert.Equal(t, s.Parameters, api.ParametersID(""))
	assert.Equal(t, s.StartedWith, s.Parameters)

	orders := alone
	orders.Parameters = `{"a":"1"}`
	id := api.ParametersID(orders.Parameters)
	m.Order(orders)
	s = m.Await("the settings read", func(s api.MemberStatus) bool { return running(s) && s.Parameters == id })
	assert.Equal(t, s.StartedWith, api.ParametersID(""))
	assert.Equal(t, starts(), 1)

	orders.Restart = true
	m.Order(orders)
	m.Await("a server started with them", func(s api.MemberStatus) bool { return running(s) && s.StartedWith == id && s.Parameters == id })
	assert.Equal(t, starts(), 2)
	orders.Sync = []string{"pg-2"} // other orders, and the same still stands
	m.Order(orders)
	for range 4 {
		m.Await("a report", func(api.MemberStatus) bool { return true })
	}
	assert.Equal(t, starts(), 2, "it was restarted again and again")
}
