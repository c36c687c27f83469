package networkplugin

import (
	"context"
	"errors"
	"io"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
)

// engine is an engine with some images and a registry that answers as pull says.
type engine struct {
	there string
	pull  func(ctx context.Context) error

	mu    sync.Mutex
	asked []string
}

func (e *engine) ImageInspect(_ context.Context, image string, _ ...client.ImageInspectOption) (client.ImageInspectResult, error) {
	if image != e.there {
		return client.ImageInspectResult{}, errors.New("no such image")
	}
	return client.ImageInspectResult{}, nil
}

func (e *engine) ImagePull(_ context.Context, image string, _ client.ImagePullOptions) (client.ImagePullResponse, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.asked = append(e.asked, image)
	return progress{e.pull}, nil
}

// progress ends as the registry says.
type progress struct{ wait func(context.Context) error }

func (progress) Read([]byte) (int, error)                                          { return 0, io.EOF }
func (progress) Close() error                                                      { return nil }
func (progress) JSONMessages(context.Context) iter.Seq2[jsonstream.Message, error] { return nil }
func (p progress) Wait(ctx context.Context) error                                  { return p.wait(ctx) }

// ended waits until all orders have ended and returns the results.
func ended(t *testing.T, p *puller) []api.PullResult {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		results, all := p.report(), true
		for _, r := range results {
			all = all && r.Done
		}
		if all {
			return results
		}
		select {
		case <-p.news:
		case <-deadline:
			t.Fatalf("pulls do not end: %+v", results)
		}
	}
}

func TestImagesAreAsWellThereAsSwarmNeedsThem(t *testing.T) {
	for _, tc := range []struct {
		doc, image, there string
		registry          error
		pulled            bool
		want              string // of the error
		denied            bool
	}{
		{doc: "a new one is pulled", image: "postgres:17.9@sha256:1", pulled: true},
		{doc: "what is there under its digest is not asked for", image: "postgres:17.9@sha256:1", there: "postgres:17.9@sha256:1", registry: errors.New("no route to host")},
		{doc: "what is there under its tag may be out of date", image: "postgres:17.9", there: "postgres:17.9", pulled: true},
		{doc: "and will do without a registry", image: "postgres:17.9", there: "postgres:17.9", registry: errors.New("no route to host"), pulled: true},
		{doc: "what nobody has is an error", image: "postgres:17.9", registry: errors.New("manifest for postgres:17.9 not found"), pulled: true, want: "manifest for postgres:17.9 not found"},
		{doc: "Docker Hub wants credentials", image: "me/db:1", registry: errors.New("pull access denied for me/db, repository does not exist or may require 'docker login': denied: requested access to the resource is denied"), pulled: true, want: "pull access denied", denied: true},
		{doc: "another registry wants credentials", image: "r.example.com/db:1", registry: errors.New("Head \"https://r.example.com/v2/db/manifests/1\": no basic auth credentials"), pulled: true, want: "no basic auth", denied: true},
		{doc: "a registry that is away wants none", image: "r.example.com/db:1", registry: errors.New("dial tcp: connection refused"), pulled: true, want: "refused"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := &engine{there: tc.there, pull: func(context.Context) error { return tc.registry }}
			p := newPuller(docker, hclog.NewNullLogger())
			order := api.PullOrder{Operation: "pg.1", Image: tc.image}
			p.follow(t.Context(), []api.PullOrder{order})
			results := ended(t, p)
			assert.Equal(t, len(results), 1)
			assert.Equal(t, results[0].PullOrder, order)
			assert.Equal(t, results[0].Denied, tc.denied)
			assert.Assert(t, is.Contains(results[0].Error, tc.want))
			assert.Equal(t, results[0].Error == "", tc.want == "")
			assert.Equal(t, len(docker.asked) > 0, tc.pulled)
		})
	}
}

func TestAnOrderIsCarriedOutOnceAndForgottenWhenItIsNoLongerGiven(t *testing.T) {
	docker := &engine{pull: func(context.Context) error { return errors.New("no such tag") }}
	p := newPuller(docker, hclog.NewNullLogger())
	now := time.Now()
	p.now = func() time.Time { return now }
	order := []api.PullOrder{{Operation: "pg.1", Image: "postgres:x"}}
	for range 3 {
		p.follow(t.Context(), order)
		assert.Equal(t, ended(t, p)[0].Error, "no such tag")
	}
	assert.DeepEqual(t, docker.asked, []string{"postgres:x"})
	p.follow(t.Context(), nil)
	assert.Equal(t, len(p.report()), 1, "a new leader has not found the operation yet")
	now = now.Add(pullKept + time.Second)
	p.follow(t.Context(), nil)
	assert.Equal(t, len(p.report()), 0)

	// Another operation does not get the old answer.
	p.follow(t.Context(), order)
	ended(t, p)
	p.follow(t.Context(), []api.PullOrder{{Operation: "pg.2", Image: "postgres:x"}})
	ended(t, p)
	assert.Equal(t, len(docker.asked), 3)
}

func TestAPullThatIsNoLongerWantedEnds(t *testing.T) {
	begun, over := make(chan struct{}), make(chan error, 1)
	docker := &engine{pull: func(ctx context.Context) error {
		close(begun)
		<-ctx.Done()
		over <- ctx.Err()
		return ctx.Err()
	}}
	p := newPuller(docker, hclog.NewNullLogger())
	now := time.Now()
	p.now = func() time.Time { return now }
	p.follow(t.Context(), []api.PullOrder{{Operation: "pg.1", Image: "postgres:x"}})
	<-begun
	assert.Assert(t, !p.report()[0].Done)
	now = now.Add(pullKept + time.Second)
	p.follow(t.Context(), nil)
	select {
	case err := <-over:
		assert.Assert(t, strings.Contains(err.Error(), "canceled"))
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
}
