package memberagent

import (
	"context"
	"time"
)

const (
	// leaseTick is how often the fence looks at the clock.
	leaseTick = 50 * time.Millisecond
	// immediateGrace is what a server gets to end by itself, so that its clients
	// are told, before it is killed. Manager and plugin count on an engine being
	// gone within a second of its lease.
	immediateGrace = 300 * time.Millisecond
)

// guard ends everything when the lease does. It depends on nothing but the clock
// and the kernel: not on the engine's code, the supervisor, the plugin or the
// volume. It runs until ctx ends, and must be the only caller of settled.
func (a *agent) guard(ctx context.Context) {
	tick := time.NewTicker(leaseTick)
	defer tick.Stop()
	for {
		if a.lease.lost() {
			a.log.Warn("the lease is over: ending the engine at once")
			a.processes.kill(immediateGrace, func(left int) {
				a.log.Error("processes do not end; their disk may hang", "left", left)
			})
			a.lease.settled()
			a.wake()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
