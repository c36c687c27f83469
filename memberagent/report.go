package memberagent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/openmanage/openmanage/internal/api"
)

// reportInterval is the contract of AgentReport.
const reportInterval = 500 * time.Millisecond

// reportTimeout lets several reports fail within one lease.
const reportTimeout = time.Second

// The plugin answers a question for news within about 10 s. An older one that
// knows no such question is asked again after newsPause.
const (
	newsTimeout = 20 * time.Second
	newsPause   = time.Second
)

// plugin is the volume plugin's end of the unix socket in the runtime volume.
type plugin struct {
	socket string
	client http.Client
	waiter http.Client // for news, so that a report never waits for that connection
}

func newPlugin(socket string) *plugin {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	// A plugin that restarts makes its socket anew at the same path.
	client := func() http.Client {
		return http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConns: 1, DisableCompression: true}}
	}
	return &plugin{socket: socket, client: client(), waiter: client()}
}

// news returns when the plugin has other news for this member than those that
// are numbered known, or after about 10 s, with the number of its newest.
func (p *plugin) news(ctx context.Context, known uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, newsTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://plugin/v1/news?seq=%d", known), nil)
	if err != nil {
		return 0, err
	}
	response, err := p.waiter.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, api.MaxBody))
	if err != nil {
		return 0, err
	}
	if response.StatusCode != http.StatusOK {
		return 0, errors.New(response.Status)
	}
	var answer struct {
		Seq uint64 `json:"seq"`
	}
	err = json.Unmarshal(data, &answer)
	return answer.Seq, err
}

// listen keeps a question for news open until ctx ends and has the reporter report,
// and so fetch its orders, as soon as there are some. Without an answer the
// ordinary reports do.
func (a *agent) listen(ctx context.Context) {
	var known uint64
	for {
		asked := a.lease.now()
		seq, err := a.plugin.news(ctx, known)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && seq != known:
			known = seq
			a.hurry()
			continue
		case err != nil:
			a.log.Debug("the volume plugin does not tell its news; asking again", "error", err)
		case a.lease.now()-asked > newsPause:
			continue
		}
		timer := time.NewTimer(newsPause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// hurry has the reporter report at once.
func (a *agent) hurry() {
	select {
	case a.urgent <- struct{}{}:
	default:
	}
}

// report sends the status and returns the plugin's answer.
func (p *plugin) report(ctx context.Context, status api.MemberStatus) (*api.AgentAnswer, error) {
	body, err := json.Marshal(api.AgentReport{Status: status})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/v1/agent", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := p.client.Do(request)
	if err != nil {
		if cause := errors.Unwrap(err); cause != nil {
			err = cause // without method and URL, which mean nothing to people
		}
		return nil, fmt.Errorf("the volume plugin does not answer on %s: %w", p.socket, err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, api.MaxBody))
	if err != nil {
		return nil, fmt.Errorf("read the volume plugin's answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		var refusal api.Error
		if json.Unmarshal(data, &refusal) != nil || refusal.Message == "" {
			refusal.Message = response.Status
		}
		return nil, fmt.Errorf("the volume plugin refuses the report: %w", &refusal)
	}
	var answer api.AgentAnswer
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, fmt.Errorf("the volume plugin's answer makes no sense: %w", err)
	}
	return &answer, nil
}

// report tells the plugin the member's status every reportInterval until ctx
// ends, and takes lease and orders from its answers.
func (a *agent) report(ctx context.Context) {
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for {
		a.reportOnce(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-a.urgent: // a state that the leader waits for
		}
	}
}

func (a *agent) reportOnce(ctx context.Context) {
	sent := a.lease.now() // before anything else: the lease counts from here
	answer, err := a.plugin.report(ctx, a.status.get())
	a.alive.touch()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		a.heard.failed(err)
		a.wake()
		return
	}
	lease, why := answer.Lease, errors.New("the volume plugin took the lease away")
	if answer.Reason != "" {
		why = errors.New(answer.Reason)
	}
	var misplaced error
	if lease > 0 {
		if misplaced = checkDevice(a.config.Data, answer.Device); misplaced != nil {
			lease, why = 0, misplaced
		}
	}
	if o := answer.Orders; o != nil && o.Member != a.config.Member {
		a.log.Error("ignoring orders for another member", "for", o.Member)
		answer.Orders = nil
	}
	a.lease.renew(sent, lease, answer.Epoch, why)
	a.heard.answered(answer, misplaced)
	a.wake()
}
