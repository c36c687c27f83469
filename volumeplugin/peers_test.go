package volumeplugin

import (
	"crypto/tls"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarmpki"
	"github.com/openmanage/openmanage/internal/swarmpki/pkitest"
)

// servedPeer is node b, which finds no leader, with the port on which other nodes ask.
func servedPeer(t *testing.T) (n *testNode, ca *pkitest.CA, url string) {
	t.Helper()
	n = newNode(t, "b", t.TempDir(), newLeader())
	eventually(t, "started", n.plugin.rebuilt.Load)
	n.leader.set(func() { n.leader.down = true })
	n.plugin.last.Store(int64(n.plugin.now() - failsafeAfter))
	eventually(t, "the leader is gone", func() bool { return n.plugin.sinceLeader() > failsafeAfter })
	ca = pkitest.NewCA(t, "swarm-1")
	server := n.plugin.peerServer(swarmpki.New(ca.Write(t, pkitest.Node{ID: "b", Role: "swarm-worker"})))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	return n, ca, "https://" + l.Addr().String() + "/v1/promise"
}

func asNode(ca *pkitest.CA, t *testing.T, n pkitest.Node) *tls.Config {
	if n.Role == "" {
		n.Role = "swarm-worker"
	}
	return swarmpki.New(ca.Write(t, n)).NodeConfig("b")
}

func dial(c *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: c, DisableKeepAlives: true}, Timeout: 5 * time.Second}
}

func TestANodeIsAskedForAPromiseWithASwarmCertificateOnly(t *testing.T) {
	n, ca, url := servedPeer(t)
	body := func(name string) string {
		doc, err := json.Marshal(api.Promise{Lease: api.LeaseDuration, Volumes: []string{name}})
		assert.NilError(t, err)
		return string(doc)
	}
	res, err := dial(asNode(ca, t, pkitest.Node{ID: "a"})).Post(url, "application/json", strings.NewReader(body("good")))
	assert.NilError(t, err)
	res.Body.Close()
	assert.Equal(t, res.StatusCode, http.StatusOK)
	assert.Assert(t, n.plugin.promisedReason("good") != "")

	none := asNode(ca, t, pkitest.Node{ID: "a"})
	none.GetClientCertificate = nil
	foreign := asNode(pkitest.NewCA(t, "swarm-1"), t, pkitest.Node{ID: "a"})
	foreign.VerifyConnection = nil // it would refuse the server first
	cluster := asNode(ca, t, pkitest.Node{ID: "a", Cluster: "swarm-2"})
	cluster.VerifyConnection = nil
	for doc, config := range map[string]*tls.Config{
		"no certificate":                        none,
		"a certificate of another Swarm's CA":   foreign,
		"a certificate of another cluster's ID": cluster,
		"an expired certificate":                asNode(ca, t, pkitest.Node{ID: "a", Expires: -time.Minute}),
		"a certificate without a Swarm role":    asNode(ca, t, pkitest.Node{ID: "a", Role: "admin"}),
	} {
		t.Run(doc, func(t *testing.T) {
			res, err := dial(config).Post(url, "application/json", strings.NewReader(body("bad")))
			if err == nil {
				res.Body.Close()
			}
			assert.Assert(t, err != nil, "it was let in")
			assert.Equal(t, n.plugin.promisedReason("bad"), "")
		})
	}
}

func TestBadRequestsForAPromiseAreRefusedAndPromiseNothing(t *testing.T) {
	n, ca, url := servedPeer(t)
	c := dial(asNode(ca, t, pkitest.Node{ID: "a"}))
	for doc, tc := range map[string]struct {
		body   string
		status int
	}{
		"nothing":         {"", http.StatusBadRequest},
		"no JSON":         {"{", http.StatusBadRequest},
		"another type":    {`["v"]`, http.StatusBadRequest},
		"binary":          {"\x00\xff", http.StatusBadRequest},
		"no time":         {`{"volumes":["v"]}`, http.StatusBadRequest},
		"no volume name":  {`{"lease":5000000000,"volumes":["v","../v"]}`, http.StatusBadRequest},
		"over the limit":  {`{"lease":5000000000,"volumes":["v","` + strings.Repeat("x", api.MaxBody) + `"]}`, http.StatusRequestEntityTooLarge},
		"too many names":  {`{"lease":5000000000,"volumes":["v"` + strings.Repeat(`,"v"`, maxPromised) + `]}`, http.StatusBadRequest},
		"a number beyond": {`{"lease":99999999999999999999,"volumes":["v"]}`, http.StatusBadRequest},
	} {
		t.Run(doc, func(t *testing.T) {
			res, err := c.Post(url, "application/json", strings.NewReader(tc.body))
			assert.NilError(t, err)
			defer res.Body.Close()
			assert.Equal(t, res.StatusCode, tc.status)
			var refused api.Error
			assert.NilError(t, json.NewDecoder(res.Body).Decode(&refused))
			assert.Assert(t, refused.Message != "")
			assert.Equal(t, n.plugin.promisedReason("v"), "")
		})
	}
	res, err := c.Get(url)
	assert.NilError(t, err)
	res.Body.Close()
	assert.Equal(t, res.StatusCode, http.StatusMethodNotAllowed)
}

// The real caller against the real port: it asks the node that it means and no other.
func TestANodeDoesNotTakeTheWordOfAnother(t *testing.T) {
	_, ca, url := servedPeer(t)
	res, err := dial(swarmpki.New(ca.Write(t, pkitest.Node{ID: "a", Role: "swarm-worker"})).NodeConfig("c")).Post(url, "application/json", strings.NewReader("{}"))
	if err == nil {
		res.Body.Close()
	}
	assert.ErrorContains(t, err, "node b answered where node c was expected")
}
