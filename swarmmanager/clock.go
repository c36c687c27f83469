package swarmmanager

import (
	"time"

	"golang.org/x/sys/unix"
)

// clock tells a time that only grows, also while the machine is suspended, in
// which Go's own monotonic clock stands still.
type clock func() time.Duration

func bootClock() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail with a valid clock
	return time.Duration(ts.Nano())
}
