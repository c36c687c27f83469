package networkplugin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
)

const (
	// pullTimeout bounds a pull that hangs; large images on slow lines take long.
	pullTimeout = time.Hour
	// pullKept is how long an order may be missing before it is dropped: a new leader
	// has to find the operation first.
	pullKept = time.Minute
)

// puller pulls images that the leading manager asks for, each in the background. It
// remembers nothing over a restart: the leader asks again. Safe for concurrent use.
type puller struct {
	docker imageAPI
	log    hclog.Logger
	now    func() time.Time
	news   chan struct{} // a pull has ended

	mu      sync.Mutex
	results map[api.PullOrder]*pull
}

// imageAPI is what puller uses of the node's engine.
type imageAPI interface {
	ImageInspect(ctx context.Context, image string, options ...client.ImageInspectOption) (client.ImageInspectResult, error)
	ImagePull(ctx context.Context, reference string, options client.ImagePullOptions) (client.ImagePullResponse, error)
}

type pull struct {
	result api.PullResult
	wanted time.Time // last
	cancel context.CancelFunc
}

func newPuller(docker imageAPI, log hclog.Logger) *puller {
	return &puller{docker: docker, log: log, now: time.Now, news: make(chan struct{}, 1), results: map[api.PullOrder]*pull{}}
}

// follow begins what is ordered, and drops what no longer is.
func (p *puller) follow(ctx context.Context, orders []api.PullOrder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	for _, order := range orders {
		if one := p.results[order]; one != nil {
			one.wanted = now
			continue
		}
		work, cancel := context.WithTimeout(ctx, pullTimeout)
		one := &pull{result: api.PullResult{PullOrder: order}, wanted: now, cancel: cancel}
		p.results[order] = one
		go p.run(work, one)
	}
	for order, one := range p.results {
		if now.Sub(one.wanted) > pullKept {
			one.cancel()
			delete(p.results, order)
		}
	}
}

// report says how far the orders are.
func (p *puller) report() []api.PullResult {
	p.mu.Lock()
	defer p.mu.Unlock()
	var results []api.PullResult
	for _, one := range p.results {
		results = append(results, one.result)
	}
	return results
}

func (p *puller) run(ctx context.Context, one *pull) {
	defer one.cancel()
	began := time.Now()
	image := one.result.Image
	err := p.pull(ctx, image)
	p.mu.Lock()
	one.result.Done = true
	if err != nil {
		one.result.Error, one.result.Denied = err.Error(), denied(err)
	}
	p.mu.Unlock()
	p.log.Info("image pulled", "image", image, "operation", one.result.Operation, "took", time.Since(began).Round(time.Millisecond), "error", err)
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// pull makes sure that the node has an image, as Swarm does before it starts a
// container: what is there under its digest is not asked for again, and what is there
// under its tag will do if the registry does not answer.
func (p *puller) pull(ctx context.Context, image string) error {
	_, err := p.docker.ImageInspect(ctx, image)
	there := err == nil
	if there && strings.Contains(image, "@") {
		return nil
	}
	response, err := p.docker.ImagePull(ctx, image, client.ImagePullOptions{})
	if err == nil {
		defer response.Close()
		err = response.Wait(ctx)
	}
	if err != nil && there && ctx.Err() == nil {
		p.log.Warn("image not pulled, what is there is used", "image", image, "error", err)
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("not there after %s", pullTimeout)
	}
	return err
}

// denied tells whether the registry has asked for credentials. Engines say so in
// several ways, and most registries do not tell a repository that is not there from
// one that is private.
func denied(err error) bool {
	if cerrdefs.IsUnauthorized(err) || cerrdefs.IsPermissionDenied(err) {
		return true
	}
	words := strings.ToLower(err.Error())
	for _, sign := range []string{"unauthorized", "authentication required", "no basic auth credentials", "access denied", "access to the resource is denied", "docker login"} {
		if strings.Contains(words, sign) {
			return true
		}
	}
	return false
}
