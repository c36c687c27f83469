package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarmpki"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// A worker that joins later, with a storage folder of its own: it runs members
// without a hand, they are pinned to it, and its certificate opens nothing that is
// not its own.
func TestNodeThatJoinsLater(t *testing.T) {
	s, ctx := swarm(t)
	node, err := s.c.Add(ctx, cluster.AddOptions{LocalStorage: true})
	assert.NilError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
		defer cancel()
		assert.Check(t, s.c.Remove(ctx, node))
	})
	err = product.Until(ctx, 2*time.Minute, "the plugin on "+node.Name, func(ctx context.Context) error {
		out, _, err := node.Exec(ctx, "docker", "plugin", "inspect", "openmanage", "--format", "{{.Enabled}}")
		if err == nil && strings.TrimSpace(out) != "true" {
			err = fmt.Errorf("enabled: %s", out)
		}
		return err
	})
	assert.NilError(t, err)
	t.Run("its certificate opens nothing that is not its own", func(t *testing.T) { s.workerIsRefused(t, ctx, node) })
	t.Run("a member with node-local data is pinned", func(t *testing.T) { s.memberIsPinned(t, ctx, node) })
}

func (s *suite) memberIsPinned(t *testing.T, ctx context.Context, node *cluster.Node) {
	s.removeLeftovers(t, ctx, "local")
	for _, name := range []string{"local_superuser-password", "local_replication-password"} {
		_, stderr, err := s.Input(ctx, strings.NewReader("0123456789abcdef"), "secret", "create", "--label", "openmanage.application=local", name, "-")
		assert.NilError(t, err, stderr)
	}
	stack, err := s.CLI(ctx, "generate", "postgresql", "local", "--replicas", "1", "--volume-size", "256MiB")
	assert.NilError(t, err)
	const pin = "node.labels.openmanage.pin.local-1 != elsewhere"
	assert.Assert(t, is.Contains(stack, pin))
	stack = strings.ReplaceAll(stack, "["+pin+"]", `["`+pin+`", "node.hostname == `+node.Name+`"]`)
	file := filepath.Join(t.TempDir(), "local.yml")
	assert.NilError(t, os.WriteFile(file, []byte(stack), 0o600))
	_, err = s.Docker(ctx, "stack", "deploy", "--detach=true", "-c", file, "local")
	assert.NilError(t, err)
	defer s.removeApplication(t, ctx, "local")
	members, err := s.WaitHealthy(ctx, "local", 1, 2*time.Minute)
	assert.NilError(t, err)
	assert.Equal(t, members[0].Node, node.Name)
	_, err = s.SQL(ctx, "local", "CREATE TABLE kept AS SELECT 42 AS n")
	assert.NilError(t, err)
	err = product.Until(ctx, time.Minute, "the pin", func(ctx context.Context) error {
		out, err := s.CLI(ctx, "ps", "local")
		if err == nil && !strings.Contains(out, "pinned") {
			err = fmt.Errorf("ps says %s", out)
		}
		return err
	})
	assert.NilError(t, err)

	// Nothing but the pin keeps it there now.
	_, err = s.Docker(ctx, "service", "update", "--detach", "--constraint-rm", "node.hostname == "+node.Name, "local_1")
	assert.NilError(t, err)
	_, err = s.WaitHealthy(ctx, "local", 1, 2*time.Minute)
	assert.NilError(t, err)
	assert.NilError(t, node.Kill(ctx))
	err = product.Until(ctx, time.Minute, "ps says for which node the member waits", func(ctx context.Context) error {
		out, err := s.CLI(ctx, "ps", "local")
		if err == nil && !strings.Contains(out, "on node "+node.Name+" alone") {
			err = fmt.Errorf("ps says %s", out)
		}
		return err
	})
	assert.NilError(t, err)
	assert.NilError(t, node.Start(ctx))
	_, err = s.WaitHealthy(ctx, "local", 1, 2*time.Minute)
	assert.NilError(t, err)
	// Swarm may replace the task of a node that is back once more.
	err = product.Until(ctx, time.Minute, "the row", func(ctx context.Context) error {
		got, err := s.SQL(ctx, "local", "SELECT n FROM kept")
		if err == nil && got != "42" {
			t.Fatalf("the row is %q", got)
		}
		return err
	})
	assert.NilError(t, err)
}

// workerIsRefused calls the running managers with the certificate of a worker.
func (s *suite) workerIsRefused(t *testing.T, ctx context.Context, node *cluster.Node) {
	dir := t.TempDir()
	for _, name := range []string{"swarm-node.crt", "swarm-node.key", "swarm-root-ca.crt"} {
		content, _, err := node.Exec(ctx, "cat", "/var/lib/docker/swarm/certificates/"+name)
		assert.NilError(t, err)
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	manager, err := s.c.Node(1)
	assert.NilError(t, err)
	url := fmt.Sprintf("https://%s:%d", manager.IP(), api.ManagerPort)
	worker := &http.Client{Transport: &http.Transport{TLSClientConfig: swarmpki.New(dir).ClientConfig()}}
	call := func(method, path string, in any, header ...string) (int, string) {
		body, err := json.Marshal(in)
		assert.NilError(t, err)
		req, err := http.NewRequestWithContext(ctx, method, url+path, bytes.NewReader(body))
		assert.NilError(t, err)
		if len(header) == 2 {
			req.Header.Set(header[0], header[1])
		}
		res, err := worker.Do(req)
		assert.NilError(t, err)
		defer res.Body.Close()
		answer, err := io.ReadAll(res.Body)
		assert.NilError(t, err)
		return res.StatusCode, string(answer)
	}
	status, answer := call(http.MethodGet, "/v1/volumes", nil)
	assert.Equal(t, status, 200, answer)
	status, answer = call(http.MethodGet, "/v1/status", nil)
	assert.Equal(t, status, 403, answer)
	status, answer = call(http.MethodPost, "/v1/bar", api.BarRequest{Node: "x"})
	assert.Equal(t, status, 403, answer)
	status, answer = call(http.MethodPost, "/v1/report", api.Report{}, "Openmanage-Node", "another")
	assert.Equal(t, status, 403, answer)

	// A volume that another node holds.
	_, err = s.Docker(ctx, "run", "-d", "--name", "theirs", "--volume-driver", "openmanage", "-v", "theirs:/data", "debian:trixie-slim", "sleep", "600")
	assert.NilError(t, err)
	defer func() {
		_, err := s.Docker(ctx, "rm", "-f", "theirs")
		assert.Check(t, err)
		_, err = s.CLI(ctx, "volume", "rm", "theirs", "--yes-delete-data")
		assert.Check(t, err)
	}()
	status, answer = call(http.MethodPost, "/v1/volumes/attach", api.AttachRequest{Name: "theirs", MountID: "m", Location: "somewhere"})
	assert.Assert(t, status >= 400 && status < 500, "%d %s", status, answer)
	status, answer = call(http.MethodPost, "/v1/volumes/progress", api.ProgressRequest{Name: "theirs", Epoch: 1, Phase: api.PhaseReady, Device: "mine.img"})
	assert.Assert(t, status >= 400 && status < 500, "%d %s", status, answer)
	_, _ = call(http.MethodPost, "/v1/volumes/release", api.ReleaseRequest{Name: "theirs", Epoch: 1})
	out, err := s.CLI(ctx, "volume", "ls", "--format", "{{.Name}} {{.State}}")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(out, "theirs attached"))
	status, answer = call(http.MethodPost, "/v1/volumes/release", strings.Repeat("x", api.MaxBody))
	assert.Equal(t, status, 413, answer)
	status, answer = call(http.MethodPost, "/v1/report", strings.Repeat("x", api.MaxReport))
	assert.Equal(t, status, 413, answer)

	none := &http.Client{Transport: &http.Transport{TLSClientConfig: swarmpki.New(t.TempDir()).ClientConfig()}}
	res, err := none.Get(url + "/v1/volumes")
	if err == nil {
		res.Body.Close()
	}
	assert.Assert(t, err != nil, "without a certificate it was let in")
}
