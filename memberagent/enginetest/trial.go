package enginetest

import (
	"fmt"
	"runtime"
	"sync"
)

// trial is a T whose failures are looked for.
type trial struct {
	log func(format string, args ...any)

	mu      sync.Mutex
	failed  bool
	cleanup []func()
}

// run runs a check to its end, or to where it gives up, and cleans up after it.
func (t *trial) run(check func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		check()
	}()
	<-done
	for i := len(t.cleanup) - 1; i >= 0; i-- {
		t.cleanup[i]()
	}
}

func (t *trial) Helper() {}

func (t *trial) Logf(format string, args ...any) { t.log(format, args...) }

func (t *trial) Errorf(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failed = true
	t.log("found: %s", fmt.Sprintf(format, args...))
}

func (t *trial) Fatalf(format string, args ...any) {
	t.Errorf(format, args...)
	runtime.Goexit()
}

func (t *trial) Cleanup(f func()) { t.cleanup = append(t.cleanup, f) }

func (t *trial) Failed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed
}
