package stacks

import (
	"strings"
	"testing"

	"github.com/docker/cli/cli/compose/types"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"
)

// optionalApp is partedApp whose probe is there when a parameter says so, with the socket of its node.
var optionalApp = strings.Replace(partedApp, "global: true", "global: true, node_socket: true, when: watch", 1) +
	"parameters: [{name: watch, type: boolean, description: Whether it is watched.}]\n"

func TestAComponentIsThereWhenAParameterSaysSo(t *testing.T) {
	app, err := ReadAdded("web", Source{App: optionalApp, Template: partedTemplate}, Added{})
	assert.NilError(t, err)
	services := func(o Options) map[string]types.ServiceConfig {
		o.Name = "web"
		stack, err := app.Generate(o)
		assert.NilError(t, err)
		found := map[string]types.ServiceConfig{}
		for _, s := range stack.Config.Services {
			found[s.Name] = s
		}
		return found
	}
	_, there := services(Options{})["probe"]
	assert.Assert(t, !there)
	on, off := Options{Parameters: map[string]string{"watch": "on"}}, Options{Parameters: map[string]string{"watch": "off"}}
	_, there = services(off)["probe"]
	assert.Assert(t, !there)
	probe, there := services(on)["probe"]
	assert.Assert(t, there)
	assert.Equal(t, probe.Deploy.Mode, "global")
	assert.Equal(t, len(probe.Deploy.Placement.Constraints), 0, "on workers too")
	assert.Equal(t, probe.Volumes[0].Source, "/var/run/docker.sock")
	assert.Assert(t, probe.Volumes[0].ReadOnly)
	assert.Equal(t, len(services(on)["front"].Volumes), 0)
	assert.DeepEqual(t, app.For(off).componentNames(), []string{"front"})
	assert.DeepEqual(t, app.componentNames(), []string{"front", "probe"}) // the type stays as it is

	_, err = app.Generate(Options{Name: "web", Images: map[string]string{"probe": "probe:3"}})
	assert.ErrorContains(t, err, "--component-image probe: that component is there only with --set watch=on")
	on.Images = map[string]string{"probe": "probe:3"}
	assert.Equal(t, services(on)["probe"].Image, "probe:3")

	for _, tc := range []struct{ without, with, want string }{
		{"when: watch", "when: watched", "component probe: when watched: expected a parameter of type boolean"},
		{"type: boolean", "type: integer", "component probe: when watch: expected a parameter of type boolean"},
		{"node_socket: true", "node_socket: true, docker_socket: true", "component probe: docker_socket, that of managers, and node_socket exclude each other"},
	} {
		_, err := parseApp([]byte(strings.Replace(optionalApp, tc.without, tc.with, 1)))
		assert.ErrorContains(t, err, tc.want)
	}
}

// A type that somebody added gets the socket of no node without being asked, also where only a parameter
// brings it in: lint finds it, and so does create with that parameter.
func TestTheSocketOfEveryNodeIsADemand(t *testing.T) {
	source := Source{App: strings.ReplaceAll(optionalApp, "volume: {path", "resources: {memory: 64MiB}\nvolume: {path"), Template: partedTemplate}
	app, demands, problems := Lint(source)
	assert.Equal(t, len(problems), 0, "%v", problems)
	var missing []string
	for _, d := range Missing(demands, []string{AllowForeignSecret, AllowForeignNetwork}) {
		missing = append(missing, d.String())
	}
	assert.DeepEqual(t, missing, []string{
		"docker-socket: service probe: mount at /var/run/docker.sock: /var/run/docker.sock",
		"global: service probe: mode global",
	})
	o := app.Complete(Options{Name: "web", Parameters: map[string]string{"watch": "on"}})
	stack, err := app.Generate(o)
	assert.NilError(t, err)
	assert.Equal(t, len(Missing(app.Demands(o, stack.Config), []string{AllowForeignSecret, AllowForeignNetwork})), 2)
}

// Graylog's shipper is there on request, on every node, and does not send on what it says itself.
func TestGraylogShipsLogsOnRequest(t *testing.T) {
	catalog, err := Builtin()
	assert.NilError(t, err)
	app, err := catalog.Find("graylog")
	assert.NilError(t, err)
	stack, err := app.Generate(Options{Name: "gl", Parameters: map[string]string{"ship_logs": "on"}})
	assert.NilError(t, err)
	golden.Assert(t, string(stack.YAML), "catalog/graylog-ship-logs.golden")
	for _, s := range stack.Config.Services {
		if s.Name == "shipper" {
			script := *s.Environment["OPENMANAGE_START"]
			assert.Assert(t, strings.Contains(script, "exclude_containers: [gl_shipper.]"), script)
			assert.Assert(t, strings.Contains(script, "address: gl-1:12201"), script)
		}
	}
}
