// Package managers is how a node's parts reach the leading manager: over TLS with
// the node's Swarm certificate, at whichever manager answers; managers forward to
// the leader.
package managers

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

// InfoAPI is the part of the Docker client by which a node learns its Swarm's managers.
type InfoAPI interface {
	Info(ctx context.Context, options client.InfoOptions) (client.SystemInfoResult, error)
}

// Client calls the leading manager. It is safe for concurrent use.
type Client struct {
	docker InfoAPI
	http   *http.Client

	mu        sync.Mutex
	addresses []string // of managers, the one that answered last first
	read      time.Time
}

// addressesKept is for how long the list of managers is believed.
const addressesKept = 10 * time.Second

// New returns a client with the identity of the node whose engine docker is.
func New(docker InfoAPI, id *swarmpki.Identity) *Client {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: time.Second}, Config: id.ClientConfig()}
		return d.DialContext(ctx, network, addr)
	}
	return &Client{docker: docker, http: &http.Client{
		Transport: &http.Transport{DialTLSContext: dial, MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second},
	}}
}

// Addresses returns the IP addresses of the Swarm's managers. If the engine does
// not answer, those that are known already.
func (c *Client) Addresses(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	known, fresh := slices.Clone(c.addresses), time.Since(c.read) < addressesKept
	c.mu.Unlock()
	if fresh && len(known) > 0 {
		return known, nil
	}
	return c.Members(ctx)
}

// Members is Addresses without the belief in what is known already, as long as
// the engine answers. A majority is one of the managers that there are now: two
// that are reckoned from lists more than one change of the managers apart need
// not share a manager.
func (c *Client) Members(ctx context.Context) ([]string, error) {
	c.mu.Lock()
	known := slices.Clone(c.addresses)
	c.mu.Unlock()
	// A Swarm manager that has lost its leader can take long to answer. That is not
	// waited for where the managers are known already.
	patience := 5 * time.Second
	if len(known) > 0 {
		patience = 300 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	res, err := c.docker.Info(ctx, client.InfoOptions{})
	if err != nil {
		if len(known) > 0 {
			return known, nil
		}
		return nil, fmt.Errorf("ask the Docker engine for the Swarm's managers: %w", err)
	}
	var found []string
	for _, m := range res.Info.Swarm.RemoteManagers {
		if host, _, err := net.SplitHostPort(m.Addr); err == nil {
			found = append(found, host)
		}
	}
	if len(found) == 0 {
		return nil, errors.New("this node is in no Swarm, or its Swarm has no manager; see `docker info`")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.addresses) > 0 { // keep who answered last in front
		if i := slices.Index(found, c.addresses[0]); i > 0 {
			found[0], found[i] = found[i], found[0]
		}
	}
	c.addresses, c.read = found, time.Now()
	return slices.Clone(found), nil
}

func (c *Client) prefer(address string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.addresses, address); i > 0 {
		c.addresses[0], c.addresses[i] = c.addresses[i], c.addresses[0]
	}
}

// Call asks the leader, through each manager in turn until one answers for it.
// An answer of the leader that is a refusal comes back as *api.Error; each
// manager gets at most two seconds.
func (c *Client) Call(ctx context.Context, method, path string, in, out any) error {
	addresses, err := c.Addresses(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, address := range addresses {
		call, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := c.CallOne(call, address, method, path, in, out)
		cancel()
		var refused *api.Error
		if err == nil || errors.As(err, &refused) && refused.Code != api.ErrNotLeader {
			c.prefer(address)
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", address, err))
	}
	return fmt.Errorf("no manager answered for the leader: %w", errors.Join(errs...))
}

// CallOne asks the manager at address itself.
func (c *Client) CallOne(ctx context.Context, address, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		doc, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(doc)
	}
	url := "https://" + net.JoinHostPort(address, strconv.Itoa(api.ManagerPort)) + path
	req, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 16*api.MaxBody))
	if err != nil {
		return err
	}
	if res.StatusCode >= 400 {
		refused := &api.Error{}
		if json.Unmarshal(answer, refused) != nil || refused.Message == "" {
			return fmt.Errorf("%s: %.200s", res.Status, answer)
		}
		return refused
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(answer, out)
}
