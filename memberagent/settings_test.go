package memberagent_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
	"github.com/openmanage/openmanage/memberagent/agenttest"
)

func TestAServerIsRestartedOnceForSettingsIfThatIsOrdered(t *testing.T) {
	t.Parallel()
	m := started(t, memberagent.EnvStopGrace+"=100ms")
	starts := func(want int) { // the script writes a moment after it began
		t.Helper()
		agenttest.Eventually(t, func() error {
			data, err := os.ReadFile(filepath.Join(m.Volume, "starts"))
			if err == nil && len(data) != want {
				err = fmt.Errorf("it was started %d times, want %d", len(data), want)
			}
			return err
		})
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
	starts(1)

	orders.Restart = true
	m.Order(orders)
	m.Await("a server started with them", func(s api.MemberStatus) bool { return running(s) && s.StartedWith == id && s.Parameters == id })
	starts(2)
	orders.Sync = []string{"pg-2"} // other orders, and the same still stands
	m.Order(orders)
	for range 4 {
		s = m.Await("a report", func(api.MemberStatus) bool { return true })
		assert.Assert(t, running(s), "it was restarted again: %+v", s)
	}
	starts(2)
}
