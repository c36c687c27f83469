package memberagent

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
)

// A volume can get room between the end of the server, which found it full, and the
// pause after that.
func TestAPauseEndsThatBeganWhenAFullVolumeHadRoomAlready(t *testing.T) {
	orders := api.MemberOrders{Term: 1}
	a := &agent{room: room{dir: t.TempDir()}, stuck: true, news: make(chan struct{}, 1), heard: heard{orders: &orders}}
	ended := make(chan struct{})
	go func() {
		a.pause(t.Context(), t.Context(), orders, time.Hour)
		close(ended)
	}()
	a.wake()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("it is waited out")
	}
	assert.Assert(t, !a.stuck)
}
