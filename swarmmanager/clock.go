package swarmmanager

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/store"
)

// clock tells a time that only grows, also while the machine is suspended, in
// which Go's own monotonic clock stands still.
type clock func() time.Duration

func bootClock() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail with a valid clock
	return time.Duration(ts.Nano())
}

// byThisClock is an application whose record was written by a manager with a clock that
// is ahead of ours: what we would wait for until our clock is there begins now.
func byThisClock(o *observed, app store.Application) store.Application {
	clamp := func(t **time.Time, latest time.Time) {
		if *t != nil && (*t).After(latest) {
			*t = &latest
		}
	}
	// Records have whole seconds, and our own last one may be of this second.
	now := o.precise.Add(time.Second).Truncate(time.Second)
	clamp(&app.PrimaryDown, now)
	clamp(&app.SyncSince, now)
	clamp(&app.Crowded, now)
	clamp(&app.NotBefore, now.Add(retryPause))
	clamp(&app.ApartAfter, now.Add(apartRetry))
	if app.Handover != nil && app.Handover.Since.After(now) {
		h := *app.Handover
		h.Since = now
		app.Handover = &h
	}
	if app.Apart != nil && app.Apart.Since.After(now) {
		a := *app.Apart
		a.Since = now
		app.Apart = &a
	}
	return app
}
