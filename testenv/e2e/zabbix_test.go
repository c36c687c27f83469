package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/product"
)

const (
	zabbixName   = "zb"
	zabbixServer = "zabbix/zabbix-server-pgsql:ubuntu-7.0.21"
	zabbixWeb    = "zabbix/zabbix-web-nginx-pgsql:ubuntu-7.0.21"
	zabbixAgent  = "zabbix/zabbix-agent2:ubuntu-7.0.21"
	zabbixNext   = "zabbix/zabbix-web-nginx-pgsql:ubuntu-7.0.99"
)

// Zabbix is created with its database, its password is the secret's and no other, every node
// and every member is a host that sends values; it stays so over a restart, an upgrade and the
// death of the server's node, and leaves nothing but volumes and secrets.
func TestZabbix(t *testing.T) {
	if !wholeCatalog() {
		t.Skip("with make test-catalog")
	}
	s, ctx := swarm(t)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Hour) // its images are large
	defer cancel()
	s.catalogImages(t, ctx, zabbixServer, zabbixWeb, zabbixAgent, zabbixNext)
	z := &zabbixAPI{suite: s}
	clean := func(ctx context.Context) {
		z.leave(ctx)
		s.removeLeftovers(t, ctx, zabbixName)
		s.removeLeftovers(t, ctx, zabbixName+"-db")
	}
	clean(ctx)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if t.Failed() {
			s.tell(t, ctx, zabbixName)
			out, err := s.Docker(ctx, "service", "logs", "--raw", "--tail", "100", zabbixName+"_provisioner")
			t.Logf("provisioner: %v\n%s", err, out)
		}
		clean(ctx)
	})
	// Smaller than the one that is made along.
	_, err := s.CLI(ctx, "create", "postgresql", zabbixName+"-db", "--replicas", "3", "--volume-size", "1GiB", "--yes")
	assert.NilError(t, err)
	out, err := s.CLI(ctx, "create", "zabbix", zabbixName, "--volume-size", "64MiB", "--set", "start_pollers=3", "--set", "timezone=Europe/Vienna", "--timeout", "15m", "--yes")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(out, zabbixName+" is healthy"))

	// At once, since it is called healthy: no password but that of the secret.
	z.password, err = s.CLI(ctx, "credentials", zabbixName, "admin-password", "--yes", "--format", "{{.Value}}")
	assert.NilError(t, err)
	z.password = strings.TrimSpace(z.password)
	z.enter(t, ctx, z.password)
	assert.ErrorContains(t, z.login(ctx, "zabbix"), "Incorrect user name or password")
	z.enter(t, ctx, z.password)

	z.monitors(t, ctx, "created")
	var kept struct {
		IDs []string `json:"groupids"`
	}
	assert.NilError(t, z.call(ctx, "hostgroup.create", map[string]any{"name": "Kept by a user"}, &kept))

	_, err = s.CLI(ctx, "restart", zabbixName)
	assert.NilError(t, err)
	z.monitors(t, ctx, "restarted")

	_, err = s.CLI(ctx, "upgrade", zabbixName, "--component", "web", "--image", zabbixNext)
	assert.NilError(t, err)
	image, err := s.Docker(ctx, "service", "inspect", zabbixName+"_web", "--format", "{{.Spec.TaskTemplate.ContainerSpec.Image}}")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(image, zabbixNext))
	z.monitors(t, ctx, "upgraded")

	server, err := z.member(ctx, zabbixName+"-1")
	assert.NilError(t, err)
	victim := s.node(t, server.Node)
	z.leave(ctx)
	s.lookFrom(t, victim)
	assert.NilError(t, victim.Kill(ctx))
	assert.NilError(t, product.Until(ctx, 5*time.Minute, "the server elsewhere", func(ctx context.Context) error {
		m, err := z.member(ctx, zabbixName+"-1")
		if err == nil && (m.Node == server.Node || m.Health != "healthy") {
			err = fmt.Errorf("it is %s on %s: %s", m.State, m.Node, m.Message)
		}
		return err
	}))
	z.speaks(t, ctx, "node killed")
	assert.NilError(t, victim.Start(ctx))
	assert.NilError(t, s.c.WaitReady(ctx))
	z.monitors(t, ctx, "node back")
	groups, err := z.names(ctx, "hostgroup.get", "name", map[string]any{"groupids": kept.IDs})
	assert.NilError(t, err)
	assert.DeepEqual(t, groups, []string{"Kept by a user"})

	logs, err := s.Docker(ctx, "service", "logs", "--raw", zabbixName+"_provisioner")
	assert.NilError(t, err)
	assert.Check(t, !strings.Contains(logs, z.password), "the password is in the provisioner's log")

	// A host of an application goes with it.
	z.leave(ctx)
	_, err = s.CLI(ctx, "rm", zabbixName, "--yes")
	assert.NilError(t, err)
	for _, kind := range []string{"service", "network", "config"} {
		left, err := s.Docker(ctx, kind, "ls", "--quiet", "--filter", "label=com.docker.stack.namespace="+zabbixName)
		assert.NilError(t, err)
		assert.Equal(t, left, "", kind)
	}
	secrets, err := s.Docker(ctx, "secret", "ls", "--format", "{{.Name}}")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(strings.Fields(secrets), zabbixName+"_admin-password"))
	volumes, err := s.CLI(ctx, "volume", "ls", "--format", "{{.Name}}")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(strings.Fields(volumes), zabbixName+"-1"))
}

// zabbixAPI is a client of the API, from a container in the application's network.
type zabbixAPI struct {
	*suite
	password, token string
}

// zabbixClient is the name of that container.
const zabbixClient = "use-" + zabbixName

func (z *zabbixAPI) leave(ctx context.Context) {
	_, _ = z.Docker(ctx, "rm", "--force", zabbixClient) // it may be gone
}

// call has a method carried out. The front end's name is that of its task: here Swarm's virtual
// addresses need not work.
func (z *zabbixAPI) call(ctx context.Context, method string, params, result any) error {
	if _, err := z.Docker(ctx, "container", "inspect", zabbixClient); err != nil {
		if _, err := z.Docker(ctx, "run", "--detach", "--name", zabbixClient, "--stop-timeout", "1", "--network", zabbixName+"_default", "--entrypoint", "sleep", zabbixWeb, "infinity"); err != nil {
			return err
		}
	}
	request, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	args := []string{"exec", "--interactive", zabbixClient, "curl", "--silent", "--show-error", "--max-time", "20", "--header", "Content-Type: application/json-rpc", "--data-binary", "@-"}
	if method != "user.login" {
		args = append(args, "--header", "Authorization: Bearer "+z.token)
	}
	out, stderr, err := z.Input(ctx, strings.NewReader(string(request)), append(args, "http://tasks."+zabbixName+"_web:8080/api_jsonrpc.php")...)
	if err != nil {
		return fmt.Errorf("%s: %w: %s", method, err, stderr)
	}
	var answer struct {
		Result json.RawMessage `json:"result"`
		Error  struct{ Message, Data string }
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return fmt.Errorf("%s: %w: %s", method, err, out)
	}
	if answer.Error.Message != "" {
		return fmt.Errorf("%s: %s %s", method, answer.Error.Message, answer.Error.Data)
	}
	return json.Unmarshal(answer.Result, result)
}

func (z *zabbixAPI) login(ctx context.Context, password string) error {
	return z.call(ctx, "user.login", map[string]any{"username": "Admin", "password": password}, &z.token)
}

func (z *zabbixAPI) enter(t *testing.T, ctx context.Context, password string) {
	t.Helper()
	assert.NilError(t, z.login(ctx, password))
}

// names returns a field of what is found.
func (z *zabbixAPI) names(ctx context.Context, method, field string, params map[string]any) ([]string, error) {
	params["output"] = []string{field}
	var found []map[string]any
	err := z.call(ctx, method, params, &found)
	names := make([]string, 0, len(found))
	for _, f := range found {
		names = append(names, fmt.Sprint(f[field]))
	}
	slices.Sort(names)
	return names, err
}

func (z *zabbixAPI) member(ctx context.Context, name string) (product.Member, error) {
	members, err := z.Members(ctx, zabbixName)
	for _, m := range members {
		if m.Member == name {
			return m, err
		}
	}
	return product.Member{}, errors.Join(err, fmt.Errorf("there is no %s: %+v", name, members))
}

// last returns the last value of an item for each host, and when it came.
func (z *zabbixAPI) last(ctx context.Context, key string) (values map[string]string, clocks map[string]int64, err error) {
	var items []struct {
		Value string `json:"lastvalue"`
		Clock string `json:"lastclock"`
		Hosts []struct {
			Host string `json:"host"`
		} `json:"hosts"`
	}
	err = z.call(ctx, "item.get", map[string]any{
		"output": []string{"lastvalue", "lastclock"}, "filter": map[string]any{"key_": key}, "selectHosts": []string{"host"}, "templated": false,
	}, &items)
	values, clocks = map[string]string{}, map[string]int64{}
	for _, i := range items {
		for _, h := range i.Hosts {
			values[h.Host] = i.Value
			clocks[h.Host], _ = strconv.ParseInt(i.Clock, 10, 64)
		}
	}
	return values, clocks, err
}

// monitors waits until all is healthy, each node and each member is a host and no other is, and
// values have come of all of them that are newer than this moment.
func (z *zabbixAPI) monitors(t *testing.T, ctx context.Context, what string) {
	t.Helper()
	assert.NilError(t, product.Until(ctx, 5*time.Minute, what+": all healthy", func(ctx context.Context) error {
		members, err := z.Members(ctx, zabbixName)
		for _, m := range members {
			if m.Health != "healthy" {
				err = errors.Join(err, fmt.Errorf("%s is %s: %s", m.Member, m.State, m.Message))
			}
		}
		if err == nil && len(members) != 4 { // server, web, agent, provisioner
			err = fmt.Errorf("there are %+v", members)
		}
		return err
	}))
	began := time.Now().Unix()
	z.speaks(t, ctx, what)
	out, err := z.Docker(ctx, "node", "ls", "--format", "{{.Hostname}}")
	assert.NilError(t, err)
	nodes := strings.Fields(out)
	slices.Sort(nodes)
	// Other tests' applications may be there too: pg.
	wanted := []string{zabbixName + "-1", zabbixName + "-db-1", zabbixName + "-db-2", zabbixName + "-db-3"}
	assert.NilError(t, product.Until(ctx, 4*time.Minute, what+": a host for each node and member, with values", func(ctx context.Context) error {
		hosts, err := z.names(ctx, "host.get", "host", map[string]any{"tags": []map[string]any{{"tag": "openmanage", "value": "node", "operator": 1}}})
		if err == nil && !slices.Equal(hosts, nodes) {
			err = fmt.Errorf("hosts %v, nodes %v", hosts, nodes)
		}
		pings, clocks, pingErr := z.last(ctx, "agent.ping")
		if err = errors.Join(err, pingErr); err != nil {
			return err
		}
		for _, n := range nodes {
			if pings[n] != "1" || clocks[n] <= began {
				return fmt.Errorf("the agent of %s said %q at %d, now is %d", n, pings[n], clocks[n], began)
			}
		}
		healthy, clocks, err := z.last(ctx, "openmanage.healthy")
		if err != nil {
			return err
		}
		for _, m := range wanted {
			if healthy[m] != "1" || clocks[m] <= began {
				return fmt.Errorf("member %s is %q since %d, now is %d; there are %v", m, healthy[m], clocks[m], began, slices.Sorted(maps.Keys(healthy)))
			}
		}
		return nil
	}))
}

// speaks waits until the API lets Admin in, by the secret's password.
func (z *zabbixAPI) speaks(t *testing.T, ctx context.Context, what string) {
	t.Helper()
	assert.NilError(t, product.Until(ctx, 5*time.Minute, what+": the API", func(ctx context.Context) error { return z.login(ctx, z.password) }))
}
