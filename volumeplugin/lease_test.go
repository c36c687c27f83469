package volumeplugin

import (
	"context"
	"testing"
	"testing/synctest"

	"gotest.tools/v3/assert"
)

// Nobody's word waits for the next tick because two reports are under way.
func TestWhatIsAskedForWhileTwoAreUnderWayIsDoneAfterThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		ask, release := make(chan struct{}, 1), make(chan struct{})
		begun := 0
		go inRounds(ctx, nil, ask, func() {
			begun++
			<-release
		})
		for range 4 {
			synctest.Wait()
			kick(ask)
		}
		synctest.Wait()
		assert.Equal(t, begun, 2)
		release <- struct{}{}
		synctest.Wait()
		assert.Equal(t, begun, 3, "it was asked for and forgotten")
		cancel()
		close(release)
	})
}
