// Package memberlog merges the logs of an application's members into one, in the
// order of time, under the members' names.
package memberlog

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

// Source is a member and the service whose logs are its own.
type Source struct {
	Member  string
	Service string // ID
}

// Options of the logs.
type Options struct {
	Follow     bool
	Tail       string
	Since      string
	Timestamps bool
	// Patience is for how long a log may stand still that is not followed; 0: 15 s. Docker waits
	// for a node that does not answer, also for one that only a former container ran on.
	Patience time.Duration
}

// defaultPatience is more than Swarm needs to call a node down.
const defaultPatience = 15 * time.Second

// API is the part of the Docker client that is needed.
type API interface {
	ServiceLogs(ctx context.Context, serviceID string, options client.ServiceLogsOptions) (client.ServiceLogsResult, error)
}

// settle is how long a line waits, while following, for an older one of another
// member to arrive.
const settle = 300 * time.Millisecond

type line struct {
	at     time.Time
	stamp  string
	member string
	text   string
	stderr bool
	came   time.Time
}

// Write writes the members' logs to stdout and stderr until they end, or, when
// following, until ctx ends.
func Write(ctx context.Context, docker API, sources []Source, o Options, stdout, stderr io.Writer) error {
	width := 0
	for _, s := range sources {
		width = max(width, len(s.Member))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lines := make(chan line)
	ends := make(chan error, len(sources))
	var readers sync.WaitGroup
	for _, s := range sources {
		readers.Go(func() {
			if err := read(ctx, docker, s, o, lines); err != nil && ctx.Err() == nil {
				ends <- fmt.Errorf("logs of %s: %w", s.Member, err)
			}
		})
	}
	go func() {
		readers.Wait()
		close(lines)
	}()
	print := func(l line) error {
		out := stdout
		if l.stderr {
			out = stderr
		}
		stamp := ""
		if o.Timestamps {
			stamp = l.stamp + " "
		}
		_, err := fmt.Fprintf(out, "%-*s | %s%s\n", width, l.member, stamp, l.text)
		return err
	}
	err := merge(lines, o.Follow, print)
	cancel()
	for range lines { // a reader may be writing
	}
	close(ends)
	errs := []error{err}
	for e := range ends {
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}

// merge prints lines in the order of time: all at once when they end, or, when
// following, each after it has settled.
func merge(lines <-chan line, follow bool, print func(line) error) error {
	var held []line
	flush := func(before time.Time) error {
		slices.SortStableFunc(held, func(a, b line) int { return a.at.Compare(b.at) })
		n := 0
		// An older line that came later holds back what is younger than itself.
		for n < len(held) && held[n].came.Before(before) {
			if err := print(held[n]); err != nil {
				return err
			}
			n++
		}
		held = slices.Delete(held, 0, n)
		return nil
	}
	ticker := time.NewTicker(settle / 3)
	defer ticker.Stop()
	for {
		select {
		case l, ok := <-lines:
			if !ok {
				return flush(time.Now().Add(time.Hour))
			}
			held = append(held, l)
		case now := <-ticker.C:
			if !follow {
				continue
			}
			if err := flush(now.Add(-settle)); err != nil {
				return err
			}
		}
	}
}

// read sends one member's lines.
func read(ctx context.Context, docker API, s Source, o Options, lines chan<- line) error {
	body, err := docker.ServiceLogs(ctx, s.Service, client.ServiceLogsOptions{
		ShowStdout: true, ShowStderr: true, Timestamps: true, Follow: o.Follow, Tail: o.Tail, Since: o.Since,
	})
	if err != nil {
		return err
	}
	defer body.Close()
	stop := context.AfterFunc(ctx, func() { _ = body.Close() })
	defer stop()
	var from io.Reader = body
	var silent atomic.Bool
	patience := cmp.Or(o.Patience, defaultPatience)
	if !o.Follow {
		watch := time.AfterFunc(patience, func() {
			silent.Store(true)
			_ = body.Close()
		})
		defer watch.Stop()
		from = readerFunc(func(p []byte) (int, error) {
			n, err := body.Read(p)
			watch.Reset(patience)
			return n, err
		})
	}
	send := func(stderr bool) *splitter {
		return &splitter{emit: func(text string) error {
			stamp, rest, _ := strings.Cut(text, " ")
			at, err := time.Parse(time.RFC3339Nano, stamp)
			if err != nil {
				stamp, rest = "", text
			}
			select {
			case lines <- line{at: at, stamp: stamp, member: s.Member, text: rest, stderr: stderr, came: time.Now()}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
	}
	out, errs := send(false), send(true)
	_, err = stdcopy.StdCopy(out, errs, from)
	if silent.Load() {
		err = fmt.Errorf("nothing more came for %s: a node that it runs on, or ran on, does not answer (docker node ls)", patience)
	}
	return errors.Join(err, out.end(), errs.end())
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// splitter cuts what is written into lines.
type splitter struct {
	rest []byte
	emit func(string) error
}

func (s *splitter) Write(p []byte) (int, error) {
	s.rest = append(s.rest, p...)
	for {
		text, rest, found := bytes.Cut(s.rest, []byte{'\n'})
		if !found {
			return len(p), nil
		}
		if err := s.emit(strings.TrimSuffix(string(text), "\r")); err != nil {
			return 0, err
		}
		s.rest = rest
	}
}

func (s *splitter) end() error {
	if len(s.rest) == 0 {
		return nil
	}
	return s.emit(string(s.rest))
}
