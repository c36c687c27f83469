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
	for id, want := range map[string]struct{ port, service string }{ // service: a component, or "": the members
		"zabbix": {"8080", "web"}, "elasticsearch": {"5601", "kibana"},
		"prometheus": {"9090", ""}, "rabbitmq": {"15672", ""}, "grafana": {"3000", ""}, "rundeck": {"4440", ""},
		"artifactory": {"8082", ""}, "graylog": {"9000", ""}, "couchdb": {"5984", ""}, "consul": {"8500", ""}, "clamav-mirror": {"8080", ""},
	} {
		app, err := catalog.Find(id)
		assert.NilError(t, err)
		stack, err := app.Generate(Options{Name: "app", Domain: "app.example.org"})
		assert.NilError(t, err)
		for _, s := range stack.Config.Services {
			labels := s.Deploy.Labels
			if labels[api.LabelComponent] != want.service {
				assert.Equal(t, labels["traefik.enable"], "", "%s: service %s", id, s.Name)
				continue
			}
			assert.Equal(t, labels["traefik.http.routers.app.rule"], "Host(`app.example.org`)", id)
			assert.Equal(t, labels["traefik.http.services.app.loadbalancer.server.port"], want.port)
			assert.Equal(t, labels["traefik.swarm.network"], "traefik_default")
		}
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

// Servers that have to know where browsers reach them are told by --domain, unless a parameter says another.
func TestServersKnowTheirDomain(t *testing.T) {
	catalog, err := Builtin()
	assert.NilError(t, err)
	for _, tc := range []struct{ id, parameter, variable, want string }{
		{"grafana", "root_url", "GF_SERVER_ROOT_URL", "https://app.example.org"},
		{"rundeck", "url", "RUNDECK_GRAILS_URL", "https://app.example.org"},
		{"rundeck", "url", "RUNDECK_SERVER_FORWARDED", "true"},
		{"graylog", "external_uri", "GRAYLOG_HTTP_EXTERNAL_URI", "https://app.example.org/"},
		{"elasticsearch", "kibana_url", "SERVER_PUBLICBASEURL", "https://app.example.org"},
	} {
		app, err := catalog.Find(tc.id)
		assert.NilError(t, err)
		value := func(o Options) string {
			o.Name, o.Domain = "app", "app.example.org"
			stack, err := app.Generate(o)
			assert.NilError(t, err)
			for _, s := range stack.Config.Services {
				if v := s.Environment[tc.variable]; v != nil {
					return *v
				}
			}
			return ""
		}
		assert.Equal(t, value(Options{}), tc.want, tc.variable)
		if tc.want != "true" {
			const other = "https://other.example.org:8443/"
			assert.Equal(t, value(Options{Parameters: map[string]string{tc.parameter: other}}), other)
		}
	}
}
