package plain

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

const (
	// While a server starts it is asked often, so that nobody waits for the next
	// time; afterwards seldom.
	startingInterval = 200 * time.Millisecond
	runningInterval  = 5 * time.Second
	// Commands may be programs that take a second of a processor to start.
	startingCommandInterval = 500 * time.Millisecond
	commandInterval         = 10 * time.Second
	checkTimeout            = 5 * time.Second
	commandTimeout          = 30 * time.Second
	// failuresAllowed is how many checks in a row may fail before a server that was
	// well is not: one can get lost on a busy machine.
	failuresAllowed = 2
)

// check asks a server whether it is well. With nothing to ask, one that runs is.
type check struct {
	ask      func(context.Context) error
	timeout  time.Duration
	starting time.Duration // between two checks, until one succeeds
	interval time.Duration // and after that
}

// parseCheck reads OPENMANAGE_HEALTH.
func parseCheck(text string, processes *memberagent.Processes) (check, error) {
	quick := check{timeout: checkTimeout, starting: startingInterval, interval: runningInterval}
	if text == "" {
		quick.ask = func(context.Context) error { return nil }
		return quick, nil
	}
	asked, err := api.ParseHealthCheck(text)
	switch {
	case err != nil:
		return check{}, err
	case asked.Command != nil:
		return check{ask: runCommand(asked.Command, processes), timeout: commandTimeout, starting: startingCommandInterval, interval: commandInterval}, nil
	case asked.URL != "":
		quick.ask = getHTTP(asked.URL)
	default:
		quick.ask = dialTCP(asked.Address)
	}
	return quick, nil
}

func getHTTP(address string) func(context.Context) error {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return plainError(err)
		}
		defer response.Body.Close()
		if response.StatusCode < 400 {
			return nil
		}
		body, _ := io.ReadAll(io.LimitReader(response.Body, 200)) // for people
		return fmt.Errorf("it answers %s %s", response.Status, oneLine(string(body)))
	}
}

func dialTCP(address string) func(context.Context) error {
	return func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			return plainError(err)
		}
		return conn.Close()
	}
}

func runCommand(command []string, processes *memberagent.Processes) func(context.Context) error {
	return func(ctx context.Context) error {
		out, err := processes.Output(ctx, exec.Command(command[0], command[1:]...))
		if err != nil {
			return fmt.Errorf("%s: %s", command[0], oneLine(err.Error()+" "+out))
		}
		return nil
	}
}

// plainError is an error of the network without the URL, which people know.
func plainError(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return err
}

// oneLine is the end of a text, where programs say what is wrong.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if r := []rune(text); len(r) > 200 {
		text = "…" + string(r[len(r)-199:])
	}
	return text
}

// watch asks again and again. It is safe for concurrent use.
type watch struct {
	cancel context.CancelFunc

	mu       sync.Mutex
	was      bool // well once
	failures int
	err      error
}

// watch asks until ended is closed or end is called.
func (c check) watch(ended <-chan struct{}) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{cancel: cancel, err: errors.New("not asked yet")}
	go func() {
		defer cancel()
		for {
			interval := c.starting
			if w.ask(ctx, c) {
				interval = c.interval
			}
			timer := time.NewTimer(interval)
			select {
			case <-ctx.Done():
			case <-ended:
			case <-timer.C:
				continue
			}
			timer.Stop()
			return
		}
	}()
	return w
}

func (w *watch) end() { w.cancel() }

// ask asks once, and tells whether the server was ever well.
func (w *watch) ask(ctx context.Context, c check) bool {
	within, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	err := c.ask(within)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
	if err == nil {
		w.was, w.failures = true, 0
	} else {
		w.failures++
	}
	return w.was
}

// well tells whether the server is, and if not why.
func (w *watch) well() (ok bool, why string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.err == nil, w.was && w.failures <= failuresAllowed:
		return true, ""
	case w.was:
		return false, fmt.Sprintf("it has not been well for %d checks: %v", w.failures, w.err)
	}
	return false, fmt.Sprintf("it is not well yet: %v", w.err)
}
