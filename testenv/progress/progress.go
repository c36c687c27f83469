// Package progress tells a person what the test environment is doing, one line
// a step, with the time since the start. Lines are plain, so that they read the
// same on a terminal, in a log and in the output of go test.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// Reporter writes steps to w. A nil *Reporter is silent. It may be used by
// several goroutines at once.
type Reporter struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
}

// To returns a Reporter that writes to w and counts time from now.
func To(w io.Writer) *Reporter { return &Reporter{w: w, start: time.Now()} }

// Step reports one thing that has begun or is done.
func (r *Reporter) Step(format string, args ...any) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.w, "[%5.1fs] %s\n", time.Since(r.start).Seconds(), fmt.Sprintf(format, args...))
}
