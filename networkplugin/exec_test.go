package networkplugin

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarmpki"
	"github.com/openmanage/openmanage/internal/swarmpki/pkitest"
)

// servedHelper is the helper of node w1 with a Docker engine that has no
// containers and counts what it is asked.
func servedHelper(t *testing.T) (url string, ca *pkitest.CA, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/_ping") {
			asked.Add(1)
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, "[]")
	}))
	t.Cleanup(engine.Close)
	docker, err := client.New(client.WithHost("tcp://" + strings.TrimPrefix(engine.URL, "http://")))
	assert.NilError(t, err)
	ca = pkitest.NewCA(t, "swarm-1")
	h := &helper{Config: Config{
		Docker: docker, Identity: swarmpki.New(ca.Write(t, pkitest.Node{ID: "w1", Role: "swarm-worker"})), Log: hclog.NewNullLogger(),
	}}
	server := h.server(t.Context())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	go func() { _ = server.ServeTLS(l, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	return "https://" + l.Addr().String() + "/v1/exec", ca, asked
}

const command = `{"volume":"pg-1","cmd":["id"]}`

func post(config *tls.Config, url, body string) (int, string, error) {
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	res, err := c.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	return res.StatusCode, string(answer), err
}

func TestCommandsInContainersAreForManagersOnly(t *testing.T) {
	url, ca, asked := servedHelper(t)
	as := func(ca *pkitest.CA, n pkitest.Node) *tls.Config { return swarmpki.New(ca.Write(t, n)).NodeConfig("w1") }
	status, body, err := post(as(ca, pkitest.Node{ID: "m1", Role: "swarm-manager"}), url, command)
	assert.NilError(t, err)
	assert.Equal(t, status, http.StatusNotFound, body)
	assert.Assert(t, strings.Contains(body, "no container of the member with volume pg-1"), body)
	assert.Assert(t, asked.Load() > 0)
	asked.Store(0)

	for _, worker := range []string{"w1", "w2"} { // its own node's, too
		status, body, err = post(as(ca, pkitest.Node{ID: worker, Role: "swarm-worker"}), url, command)
		assert.NilError(t, err)
		assert.Equal(t, status, http.StatusForbidden, body)
	}
	none := as(ca, pkitest.Node{ID: "m1", Role: "swarm-manager"})
	none.GetClientCertificate = nil
	foreign := as(pkitest.NewCA(t, "swarm-1"), pkitest.Node{ID: "m1", Role: "swarm-manager"})
	foreign.VerifyConnection = nil // it would refuse the server first
	for doc, config := range map[string]*tls.Config{
		"no certificate":                      none,
		"a certificate of another Swarm's CA": foreign,
		"an expired certificate":              as(ca, pkitest.Node{ID: "m1", Role: "swarm-manager", Expires: -time.Minute}),
	} {
		_, _, err := post(config, url, command)
		assert.Assert(t, err != nil, "%s was let in", doc)
	}
	assert.Equal(t, asked.Load(), int64(0), "the engine was asked for who may not")
}

func TestBadCommandsAreRefused(t *testing.T) {
	url, ca, asked := servedHelper(t)
	manager := swarmpki.New(ca.Write(t, pkitest.Node{ID: "m1", Role: "swarm-manager"})).NodeConfig("w1")
	for doc, body := range map[string]string{
		"nothing": "", "no JSON": "{", "another type": `["id"]`, "binary": "\x00\xff", "no command": `{"volume":"pg-1"}`,
		"over the limit": `{"volume":"` + strings.Repeat("x", api.MaxBody) + `"}`,
	} {
		status, answer, err := post(manager, url, body)
		assert.NilError(t, err)
		assert.Equal(t, status, http.StatusBadRequest, "%s: %s", doc, answer)
	}
	assert.Equal(t, asked.Load(), int64(0))
}
