package stacks

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"testing"
	"testing/fstest"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"
)

const plainTemplate = `[[ template "head" . ]]

services:
[[- range .Members ]][[ template "member" . ]]
      LANG: C
[[ end ]][[ template "tail" . ]]
`

func lintOf(source Source) string {
	_, demands, problems := Lint(source)
	var b strings.Builder
	for _, p := range problems {
		b.WriteString(p.String() + "\n")
	}
	for _, d := range demands {
		b.WriteString("demand " + d.String() + "\n")
	}
	return b.String()
}

func builtinSource(t *testing.T, id string) Source {
	t.Helper()
	folder, err := fs.Sub(builtin, id)
	assert.NilError(t, err)
	source, err := ReadFolder(folder)
	assert.NilError(t, err)
	return source
}

// What types that come with OpenManage reach beyond their own application, since they need it.
var builtinDemands = map[string]string{
	"artifactory": "demand foreign-network: network example-db_default\ndemand foreign-secret: secret example-db_superuser-password\n",
	"grafana": "demand docker-socket: example-prometheus: service members: mount at /var/run/docker.sock: /var/run/docker.sock\n" +
		"demand foreign-network: network example-prometheus_default\n" +
		"demand global: example-prometheus: service node: mode global\n" +
		"demand managers: example-prometheus: service members: node.role == manager\n",
	"graylog": "demand docker-socket: service shipper: mount at /var/run/docker.sock: /var/run/docker.sock\n" +
		"demand foreign-network: network example-mongodb_default\ndemand foreign-network: network example-search_default\n" +
		"demand foreign-secret: secret example-mongodb_root-password\n" +
		"demand global: service shipper: mode global\n" +
		"demand sysctls: example-search: members: sysctl net.ipv4.tcp_retries2=5\n",
	"logstash": "demand foreign-network: network example-search_default\ndemand foreign-secret: secret example-search_elastic-password\n" +
		"demand sysctls: example-search: members: sysctl net.ipv4.tcp_retries2=5\n",
	"elasticsearch": "demand sysctls: members: sysctl net.ipv4.tcp_retries2=5\n",
	"opensearch":    "demand sysctls: members: sysctl net.ipv4.tcp_retries2=5\n",
	"prometheus": "demand docker-socket: service members: mount at /var/run/docker.sock: /var/run/docker.sock\n" +
		"demand global: service node: mode global\n" +
		"demand managers: service members: node.role == manager\n",
	"rundeck": "demand docker-socket: service nodes: mount at /var/run/docker.sock: /var/run/docker.sock\n" +
		"demand foreign-network: network example-db_default\ndemand foreign-secret: secret example-db_superuser-password\n" +
		"demand managers: service nodes: node.role == manager\n",
	"wireguard": "demand capabilities: members: cap_add NET_ADMIN\ndemand sysctls: members: sysctl net.ipv4.ip_forward=1\n",
	"telegraf":  "demand global: service node: mode global\n",
	"ntp":       "demand latest-image: members: image cturra/ntp:latest\n", // it has no other tags
	"traefik": "demand docker-socket: members: mount at /var/run/docker.sock: /var/run/docker.sock\n" +
		"demand managers: members: node.role == manager\n",
	"zabbix": "demand docker-socket: service provisioner: mount at /var/run/docker.sock: /var/run/docker.sock\n" +
		"demand foreign-network: network example-db_default\ndemand foreign-secret: secret example-db_superuser-password\n" +
		"demand global: service agent: mode global\n" +
		"demand managers: service provisioner: node.role == manager\n",
}

// What comes with OpenManage is what Lint asks of others, and takes nothing of others but what it needs.
func TestEveryTypeIsFitForTheCatalog(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		want := builtinDemands[app.ID]
		if !app.Plain() {
			_, demands, problems := Lint(builtinSource(t, app.ID))
			assert.Equal(t, len(problems), 1, "%v", problems)
			assert.Assert(t, strings.Contains(problems[0].Text, "engine: leave it out"), problems[0])
			assert.Equal(t, len(demands), 0)
			return
		}
		assert.Equal(t, lintOf(builtinSource(t, app.ID)), want)
	})
}

func TestLintOfAPlainType(t *testing.T) {
	app := strings.Replace(plainApp, "command: [web]", "command: [sh, -c, 'echo $HOME']\nresources: {memory: 256MiB}", 1)
	assert.Equal(t, lintOf(Source{App: app, Template: plainTemplate}), "")
}

// What the documentation shows is fit, and as short as it says.
func TestLintOfTheDocumentedExample(t *testing.T) {
	const dir = "../docs/examples/site/"
	app, err := os.ReadFile(dir + "app.yaml")
	assert.NilError(t, err)
	template, err := os.ReadFile(dir + "stack.yaml.tmpl")
	assert.NilError(t, err)
	assert.Equal(t, lintOf(Source{App: string(app), Template: string(template)}), "")
	page, err := os.ReadFile("../docs/catalog.md")
	assert.NilError(t, err)
	lines := strings.Count(string(app)+string(template), "\n")
	assert.Check(t, lines <= 40)
	assert.Check(t, strings.Contains(string(page), fmt.Sprintf("is %d lines", lines)), "docs/catalog.md does not say that it is %d lines", lines)
}

// All that is wrong is said at once, a line each, with its place.
func TestLint(t *testing.T) {
	for _, name := range []string{"fields", "values", "syntax", "template-syntax", "template-field", "no-stack", "careless", "bare", "demanding", "sealed", "branches"} {
		t.Run(name, func(t *testing.T) {
			doc := golden.Get(t, path.Join("lint", name+".txt"))
			app, template, ok := strings.Cut(string(doc), "---- stack.yaml.tmpl\n")
			assert.Assert(t, ok)
			golden.Assert(t, lintOf(Source{App: app, Template: template}), path.Join("lint", name+".golden"))
		})
	}
}

// A template that never ends does not eat up the memory.
func TestAStackHasALimit(t *testing.T) {
	endless := plainTemplate + `[[ define "more" ]][[ range 1000000000 ]]xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx[[ end ]][[ end ]][[ template "more" ]]`
	assert.Assert(t, strings.Contains(lintOf(Source{App: plainApp, Template: endless}), "the stack becomes larger than 4MiB"))
}

// A few aliases, each of a list of others, would be millions of fields.
func TestLintOfAliases(t *testing.T) {
	app := plainApp + "components:\n  - &c {ports: [&q {zzz: 1}" + strings.Repeat(", *q", 3000) + "]}\n" + strings.Repeat("  - *c\n", 3000)
	text := lintOf(Source{App: app, Template: plainTemplate})
	assert.Assert(t, strings.Contains(text, "components.ports: write it out instead of *q"), text[:min(len(text), 500)])
	assert.Assert(t, strings.Count(text, "\n") <= 2*maxProblems)
}

// A template cannot show lint another stack than everybody else.
func TestLintLooksUnderAnotherName(t *testing.T) {
	app := strings.Replace(plainApp, "command: [web]", "command: [web]\nresources: {memory: 256MiB}", 1)
	hidden := strings.Replace(plainTemplate, "      LANG: C\n", "      LANG: C\n[[ if ne .Application \"example\" ]]      ADMIN_PASSWORD: hunter2\n    cap_add: [SYS_ADMIN]\n[[ end ]]", 1)
	text := lintOf(Source{App: app, Template: hidden})
	assert.Assert(t, strings.Contains(text, "ADMIN_PASSWORD"), text)
	assert.Assert(t, strings.Contains(text, "demand capabilities: members: cap_add SYS_ADMIN"), text)
}

// What is created along is the type's choice, and so is what that reaches.
func TestLintLooksAtWhatIsCreatedAlong(t *testing.T) {
	app := strings.Replace(plainApp, "command: [web]", "command: [web]\nresources: {memory: 256MiB}", 1) +
		"needs: [{name: door, type: traefik, image: \"evil.example/traefik:v3.5\", description: its door}]\n"
	text := lintOf(Source{App: app, Template: plainTemplate})
	assert.Assert(t, strings.Contains(text, "demand docker-socket: example-door: members: mount at /var/run/docker.sock"), text)
	assert.Assert(t, strings.Contains(text, "demand managers: example-door: members: node.role == manager"), text)
	text = lintOf(Source{App: strings.Replace(app, "traefik:v3.5", "traefik:v9", 1), Template: plainTemplate})
	assert.Assert(t, strings.Contains(text, "need door: invalid option --image"), text)
	text = lintOf(Source{App: strings.Replace(app, "evil.example/traefik:v3.5", "evil.example/traefik", 1), Template: plainTemplate})
	assert.Assert(t, strings.Contains(text, "demand latest-image: example-door: members: image evil.example/traefik"), text)
}

func TestAComponentIsNotCalledLikeAMember(t *testing.T) {
	app := plainApp + "components: [{name: pg-1, description: d, image: 'a:1', resources: {memory: 64MiB}, health: {test: [CMD, 'true']}}]\n"
	assert.Assert(t, strings.Contains(lintOf(Source{App: app, Template: plainTemplate}), "component pg-1: a dash and a number at the end are how members are called"))
}

func TestReadFolderRefuses(t *testing.T) {
	_, err := ReadFolder(fstest.MapFS{"README.md": {Data: []byte("x")}})
	assert.ErrorContains(t, err, "there is no app.yaml\nthere is no stack.yaml.tmpl")
	_, err = ReadFolder(fstest.MapFS{"app.yaml": {Data: []byte("id: x")}, "stack.yaml.tmpl": {Data: bytes.Repeat([]byte("x"), 500<<10)}})
	assert.ErrorContains(t, err, "more than 400KiB together")
	_, err = ReadFolder(fstest.MapFS{"app.yaml": {Data: []byte("id: x")}, "stack.yaml.tmpl": {Data: bytes.Repeat([]byte("<"), 300<<10)}})
	assert.ErrorContains(t, err, "more than 800KiB together as JSON")
}
