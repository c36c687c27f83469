package inventory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Port is where an inventory answers.
const Port = 9464

const (
	// fresh is for how long what was read is good enough for the next one who asks, so that
	// nobody in the network can keep the managers busy.
	fresh = 2 * time.Second
	// readTimeout is less than the 10 s for which Prometheus waits.
	readTimeout = 8 * time.Second

	checkTimeout = 4 * time.Second
)

// Server answers those who ask for the inventory.
type Server struct {
	State   func(context.Context) (State, error)
	Targets func(context.Context) ([]Target, error) // nil: there are none
	Log     hclog.Logger

	good atomic.Bool // something could be read once

	state   shared[State]
	targets shared[[]Target]
	told    string // what was logged last; with state
}

// shared is what was read last. Those who ask together share it.
type shared[T any] struct {
	mu    sync.Mutex // held while it is read
	at    time.Time  // of value and err
	value T
	err   error
}

// get returns what there is now, or was a moment ago. then is called, under the lock, after it was read.
func (s *shared[T]) get(ctx context.Context, read func(context.Context) (T, error), then func()) (T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.at.IsZero() && time.Since(s.at) < fresh {
		return s.value, s.err
	}
	// Others wait for it too, so it does not end with the one who asked first.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
	defer cancel()
	s.value, s.err = read(ctx)
	s.at = time.Now()
	then()
	return s.value, s.err
}

// Handler serves
//
//	/metrics       to Prometheus
//	/targets.json  to Prometheus's HTTP service discovery
//	/rundeck.json  to Rundeck, as a project's node source
//	/healthz       200 from when something could be read on; not a way to learn whether it can be now
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		state, err := s.read(r.Context())
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(collector{state, err})
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /rundeck.json", func(w http.ResponseWriter, r *http.Request) {
		state, err := s.read(r.Context())
		answer(w, rundeck(state.Nodes), err)
	})
	mux.HandleFunc("GET /targets.json", func(w http.ResponseWriter, r *http.Request) {
		if s.Targets == nil {
			http.NotFound(w, r)
			return
		}
		targets, err := s.targets.get(r.Context(), s.Targets, func() {})
		answer(w, targets, err)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.healthy(r.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

// answer writes a document. With an error there is none, and who asked keeps the one it has:
// both Prometheus and Rundeck do.
func answer(w http.ResponseWriter, doc any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json") // both go by it
	_ = json.NewEncoder(w).Encode(doc)                 // who asked may be gone
}

// read returns the state as it is now, or was a moment ago.
func (s *Server) read(ctx context.Context) (State, error) {
	return s.state.get(ctx, s.State, func() {
		if s.state.err == nil {
			s.good.Store(true)
		}
		s.tell()
	})
}

// tell logs what cannot be read, once for as long as it lasts.
func (s *Server) tell() {
	var problems []string
	for _, p := range []string{s.state.value.Incomplete, s.state.value.Unheard} {
		if p != "" {
			problems = append(problems, p)
		}
	}
	if s.state.err != nil {
		problems = []string{s.state.err.Error()}
	}
	now := strings.Join(problems, "\n")
	if now == s.told {
		return
	}
	s.told = now
	for _, p := range problems {
		s.Log.Warn("not everything can be read", "problem", p)
	}
	if now == "" {
		s.Log.Info("everything can be read again")
	}
}

// healthy: a Swarm without a quorum is no reason to end the one who tells of it. So this does not
// wait for what is being read either.
func (s *Server) healthy(ctx context.Context) error {
	if s.good.Load() {
		return nil
	}
	_, err := s.read(ctx)
	return err
}

// Serve answers on an address until ctx ends.
func (s *Server) Serve(ctx context.Context, listen string) error {
	server := &http.Server{Addr: listen, Handler: s.Handler(), ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() }) // who asks, asks again
	defer stop()
	s.Log.Info("started", "listen", listen)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the inventory on %s: %w", listen, err)
	}
	return nil
}

// Check asks the inventory of this container whether it is well.
func Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/healthz", Port), nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("the inventory does not answer: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(res.Body, 1<<10))
		return fmt.Errorf("nothing could be read yet: %s", strings.TrimSpace(string(why)))
	}
	return nil
}
