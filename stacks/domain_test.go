package stacks

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
)

func TestADomainIsGivenToWhatBrowsersLookAt(t *testing.T) {
	catalog, err := Builtin()
	assert.NilError(t, err)
	for id, port := range map[string]string{"zabbix": "8080", "prometheus": "9090", "rabbitmq": "15672"} {
		app, err := catalog.Find(id)
		assert.NilError(t, err)
		stack, err := app.Generate(Options{Name: "app", Domain: "app.example.org"})
		assert.NilError(t, err)
		found := 0
		for _, s := range stack.Config.Services {
			labels := s.Deploy.Labels
			if labels["traefik.enable"] == "" {
				assert.Assert(t, labels[api.LabelComponent] != "" || id == "zabbix", "a member without a route")
				continue
			}
			found++
			assert.Equal(t, labels["traefik.http.routers.app.rule"], "Host(`app.example.org`)")
			assert.Equal(t, labels["traefik.http.services.app.loadbalancer.server.port"], port)
			assert.Equal(t, labels["traefik.swarm.network"], "traefik_default")
		}
		assert.Assert(t, found > 0, id)
		there := false
		for _, n := range stack.Config.Networks {
			there = there || n.Name == "traefik_default"
		}
		assert.Assert(t, there)
		plain, err := app.Generate(Options{Name: "app"})
		assert.NilError(t, err)
		assert.Assert(t, !strings.Contains(string(plain.YAML), "traefik"), "without a domain")
	}
	app, err := catalog.Find("etcd")
	assert.NilError(t, err)
	_, err = app.Generate(Options{Name: "app", Domain: "app.example.org"})
	assert.ErrorContains(t, err, "etcd has no web interface")
	app, err = catalog.Find("zabbix")
	assert.NilError(t, err)
	for _, bad := range []string{"zabbix", "http://zabbix.example.org", "zabbix.example.org.", "-x.example.org", "a`b.example.org", strings.Repeat("a", 64) + ".org", "UPPER.example.org", "1.2.3.4"} {
		_, err := app.Generate(Options{Name: "app", Domain: bad})
		assert.ErrorContains(t, err, "expected a name such as zabbix.example.org", bad)
	}
}
