package swarmmanager

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// nudgeTimeout bounds a nudge. One that is lost costs a node's report interval.
const nudgeTimeout = time.Second

// nudge has the nodes of an application's members report at once, because there
// are new orders for them. It does not wait.
func (m *Manager) nudge(app store.Application) {
	nodes := map[string]bool{}
	for _, member := range app.Members {
		if member.Node != "" {
			nodes[member.Node] = true
		}
	}
	for id := range nodes {
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), nudgeTimeout)
			defer cancel()
			if err := m.nudgeNode(ctx, id); err != nil {
				m.log.Debug("nudge", "node", id, "error", err)
			}
		}()
	}
}

func (m *Manager) nudgeNode(ctx context.Context, id string) error {
	nodes, err := m.nodes.get(ctx, 5*time.Second)
	if err != nil {
		return err
	}
	url := "https://" + net.JoinHostPort(toNode(nodes[id]).Addr, strconv.Itoa(api.PeerPort)) + "/v1/nudge"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, http.NoBody)
	if err != nil {
		return err
	}
	transport := &http.Transport{TLSClientConfig: m.id.NodeConfig(id), DisableKeepAlives: true}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	return res.Body.Close()
}
