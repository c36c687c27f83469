package swarmmanager

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

const (
	// pullSilence is how long a node's network helper may be silent about an image
	// before its member pulls it when its turn comes.
	pullSilence = time.Minute
	// pullWanted is for how long a node pulls an image after an executor has asked for
	// it last.
	pullWanted = 30 * time.Second
	// helperHeard is for how long a helper's word counts; it speaks every 3 s.
	helperHeard = 20 * time.Second
)

// pulls are the images that operations want on nodes. It is a leader's memory: who
// takes over wants them again. Safe for concurrent use.
type pulls struct {
	now clock

	mu     sync.Mutex
	wanted map[api.PullOrder]wantedPull
}

type wantedPull struct {
	nodes []string
	at    time.Duration
}

func newPulls(now clock) *pulls { return &pulls{now: now, wanted: map[api.PullOrder]wantedPull{}} }

// want has the helpers of nodes pull an image.
func (p *pulls) want(order api.PullOrder, nodes []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted[order] = wantedPull{nodes: nodes, at: p.now()}
}

// orders returns what the helper of node is to pull.
func (p *pulls) orders(node string) []api.PullOrder {
	p.mu.Lock()
	defer p.mu.Unlock()
	var orders []api.PullOrder
	for order, w := range p.wanted {
		switch {
		case p.now()-w.at > pullWanted:
			delete(p.wanted, order)
		case slices.Contains(w.nodes, node):
			orders = append(orders, order)
		}
	}
	slices.SortFunc(orders, func(a, b api.PullOrder) int {
		return cmp.Or(cmp.Compare(a.Operation, b.Operation), cmp.Compare(a.Image, b.Image))
	})
	return orders
}

// pulling is how far an image has come on some nodes. All name hosts.
type pulling struct {
	under  []string // at work, or not heard of yet
	silent []string // their helpers do not say anything of it
	denied []string // the registry wants credentials
	failed []string // with their words
}

// pullProgress works out how far the nodes are, from what their helpers said within
// helperHeard, since order was given waited ago.
func pullProgress(order api.PullOrder, nodes map[string]string, waited time.Duration, said func(node string) []api.PullResult) (p pulling) {
	for id, host := range nodes {
		results := said(id)
		i := slices.IndexFunc(results, func(r api.PullResult) bool { return r.PullOrder == order })
		switch {
		case i < 0 && waited > pullSilence:
			p.silent = append(p.silent, host)
		case i < 0 || !results[i].Done:
			p.under = append(p.under, host)
		case results[i].Denied:
			p.denied = append(p.denied, host)
		case results[i].Error != "":
			p.failed = append(p.failed, host+": "+results[i].Error)
		}
	}
	for _, list := range [][]string{p.under, p.silent, p.denied, p.failed} {
		slices.Sort(list)
	}
	return p
}

// pullFirst has every node with a member pull the new image before the first one is
// restarted. It takes the next step; that it is over shows in state.Pulled.
func (m *Manager) pullFirst(ctx context.Context, o *observed, op store.Record[store.Operation], app store.Application, req store.RollRequest, state store.Roll) error {
	nodes := map[string]string{}
	var ids, hosts []string
	for _, member := range app.Members {
		if member.Node != "" && nodes[member.Node] == "" {
			nodes[member.Node] = cmp.Or(member.Hostname, member.Node)
			ids, hosts = append(ids, member.Node), append(hosts, nodes[member.Node])
		}
	}
	slices.Sort(hosts)
	order := api.PullOrder{Operation: op.Name, Image: req.Image}
	m.pulls.want(order, ids)
	short := withoutDigest(req.Image)
	if state.Pulling == nil {
		now := o.now
		state.Pulling = &now
		_, err := m.step(ctx, op, fmt.Sprintf("pulling %s on %s", short, strings.Join(hosts, ", ")), func(v *store.Operation) { v.Roll = &state })
		return err
	}
	p := pullProgress(order, nodes, o.now.Sub(*state.Pulling), func(node string) []api.PullResult {
		report, age, ok := m.leases.helper(node)
		if !ok || age > helperHeard {
			return nil
		}
		return report.Pulls
	})
	switch {
	case len(p.failed) > 0:
		return m.fail(ctx, op, "the image %s cannot be pulled on %s; %s", short, strings.Join(p.failed, "; on "), doneSoFar(state))
	case len(p.under) > 0:
		return nil
	}
	state.Pulled = true
	_, err := m.step(ctx, op, p.String(short), func(v *store.Operation) { v.Roll = &state })
	return err
}

// String says what came of it.
func (p pulling) String(image string) string {
	var words []string
	if len(p.denied) > 0 {
		words = append(words, fmt.Sprintf("the registry wants credentials for it from %s: Swarm pulls it with the service's when a member's turn comes", strings.Join(p.denied, ", ")))
	}
	if len(p.silent) > 0 {
		words = append(words, fmt.Sprintf("the network helper on %s does not answer: it is pulled when a member's turn comes", strings.Join(p.silent, ", ")))
	}
	if len(words) == 0 {
		return image + " is there on all nodes with members"
	}
	return image + " is not pulled everywhere; " + strings.Join(words, "; ")
}
