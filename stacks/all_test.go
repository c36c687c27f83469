package stacks

import (
	"strings"
	"testing"

	"github.com/docker/cli/cli/compose/types"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/version"
)

// each runs a test for every type of the catalog.
func each(t *testing.T, test func(t *testing.T, app *App)) {
	t.Helper()
	catalog, err := Builtin()
	assert.NilError(t, err)
	for _, app := range catalog.Apps() {
		t.Run(app.ID, func(t *testing.T) { test(t, app) })
	}
}

// Every type renders a stack that Docker takes, the same each time.
func TestEveryTypeGenerates(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		stack, err := app.Generate(Options{Name: "app"})
		assert.NilError(t, err)
		golden.Assert(t, string(stack.YAML), "catalog/"+app.ID+".golden")
		again, err := app.Generate(Options{Name: "app"})
		assert.NilError(t, err)
		assert.Equal(t, string(again.YAML), string(stack.YAML))
	})
}

// everything are options with which all components are there.
func everything(app *App) Options {
	o := Options{Name: "app", Parameters: map[string]string{}}
	for _, c := range app.Components {
		if c.When != "" {
			o.Parameters[c.When] = "on"
		}
	}
	return o
}

// What an operator expects of each service, whoever wrote its type.
func TestEveryServiceIsFitForProduction(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		stack, err := app.Generate(everything(app))
		assert.NilError(t, err)
		assert.Equal(t, len(stack.Config.Services), app.Members.Default+len(app.Components))
		assert.Equal(t, len(app.checkServices(stack.Config)), 0, "%v", app.checkServices(stack.Config))
		for _, s := range stack.Config.Services {
			if s.Deploy.Labels[api.LabelMember] == "" {
				assert.Equal(t, s.Deploy.Labels[api.LabelComponent], s.Name)
				continue
			}
			assert.Equal(t, s.Deploy.EndpointMode, "dnsrr")
			if app.Plain() {
				assert.Equal(t, s.User, app.User)
				assert.DeepEqual(t, []string(s.Entrypoint), []string{api.AgentBinary, "--"})
				assert.DeepEqual(t, []string(s.Command), app.Command)
				assert.Equal(t, s.Deploy.Labels[api.LabelRoles], "none")
				assert.Equal(t, *s.Environment["OPENMANAGE_ENGINE"], "plain")
				assert.Equal(t, *s.Environment["OPENMANAGE_HEALTH"], app.Health.Check)
			}
		}
	})
}

// Two applications of one type share nothing.
func TestTwoOfATypeShareNothing(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		names := func(application string) map[string]bool {
			stack, err := app.Generate(Options{Name: application})
			assert.NilError(t, err)
			all := map[string]bool{}
			for _, s := range stack.Config.Services {
				if s.Hostname != "" {
					all["host "+s.Hostname] = true
				}
				for _, n := range s.Networks {
					for _, alias := range n.Aliases {
						all["alias "+alias] = true
					}
				}
				for _, p := range s.Ports {
					all["port"] = p.Published != 0
				}
			}
			for _, v := range stack.Config.Volumes {
				all["volume "+v.Name] = true
			}
			for _, s := range stack.Config.Secrets {
				all["secret "+s.Name] = true
			}
			return all
		}
		others := names("two")
		for name := range names("one") {
			assert.Assert(t, !others[name], name)
		}
	})
}

// A secret is a Docker secret: the stack has its name, and nobody's value.
func TestNoTypeHasAPasswordInItsStack(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		stack, err := app.Generate(Options{Name: "app"})
		assert.NilError(t, err)
		assert.Equal(t, len(checkPasswords(stack.Config)), 0, "%v", checkPasswords(stack.Config))
		for _, s := range app.Secrets {
			assert.Check(t, is.Contains(string(stack.YAML), "docker secret create app_"+s.Name+" -"))
		}
	})
}

// What users may set of any member is said once, in common.yaml.
func TestEveryTypeHasTheCommonParameters(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		for _, name := range []string{"maintenance_window", "placement_apart", "alert_disk", "failover_lease"} {
			p, err := app.Parameter(name)
			assert.NilError(t, err)
			assert.Assert(t, p.Label != "")
		}
		stack, err := app.Generate(Options{Name: "app", Parameters: map[string]string{"alert_disk": "70"}})
		assert.NilError(t, err)
		for _, s := range stack.Config.Services {
			if s.Deploy.Labels[api.LabelMember] != "" {
				assert.Equal(t, s.Deploy.Labels[api.LabelAlertDisk], "70")
			}
		}
	})
}

const plainApp = `
id: web
title: Web
category: Web
description: A web application.
image: {default: "web:1.0"}
command: [web]
members: {min: 1, max: 5, default: 3, odd: true}
volume: {path: /data, data: ., size: 1GiB, min_size: 64MiB}
health: {check: "tcp://127.0.0.1:80"}
`

func TestAPlainTypeNeedsLittle(t *testing.T) {
	app, err := parseApp([]byte(plainApp))
	assert.NilError(t, err)
	assert.Assert(t, app.Plain())
	assert.Equal(t, app.EngineName(), "plain")
	assert.DeepEqual(t, app.Health.Test, []string{"CMD", api.AgentBinary, "health"})
	assert.DeepEqual(t, app.Volume.Filesystems, []string{"ext4", "xfs"})
	assert.Equal(t, app.Members.String(), "1 to 5 members, an odd number")
	assert.Assert(t, app.Members.Allow(3) && !app.Members.Allow(2) && !app.Members.Allow(7))

	for _, tc := range []struct{ doc, without, with, want string }{
		{"command", "command: [web]\n", "", "command is missing"},
		{"check", `health: {check: "tcp://127.0.0.1:80"}`, "", "health.check is missing"},
		{"user", "command: [web]", "command: [web]\nuser: nobody", "expected UID:GID"},
		{"default", "default: 3", "default: 2", "members.default 2 is not among 1 to 5 members, an odd number"},
		{"field", "category: Web", "categori: Web", "field categori not found"},
	} {
		doc := strings.Replace(plainApp, tc.without, tc.with, 1)
		_, err := parseApp([]byte(doc))
		assert.ErrorContains(t, err, tc.want, tc.doc)
	}
}

const partedApp = plainApp + `
secrets: [{name: admin-password, description: Password of admin.}]
needs: [{name: db, type: postgresql, members: 3, description: keeps it, secrets: [superuser-password]}]
components:
  - {name: front, description: a front end, image: "front:2", secrets: [admin-password, db-superuser-password], resources: {memory: 64MiB}, ports: [{name: web, port: 8080, description: web}], health: {test: [CMD, "true"]}}
  - {name: probe, description: on every node, image: "probe:2", global: true, resources: {memory: 64MiB}, health: {test: [CMD, "true"]}}
`

const partedTemplate = `[[ template "head" . ]]

services:
[[- range .Members ]][[ template "member" . ]]
      HOSTS: [[ (.Need "db").Hosts ]]
[[ end ]]
[[- with .Component "front" ]][[ template "component" . ]]
      APP: [[ .Application ]]
[[ end ]]
[[- with .Component "probe" ]][[ template "component" . ]]
      APP: [[ .Application ]]
[[ end ]][[ template "tail" . ]]`

// Services beside the members keep nothing, and what is needed is used by its own names.
func TestComponentsAndNeeds(t *testing.T) {
	app, err := parseApp([]byte(partedApp))
	assert.NilError(t, err)
	catalog, err := Builtin()
	assert.NilError(t, err)
	app.template, app.common = partedTemplate, catalog.Apps()[0].common
	service := func(o Options, name string) types.ServiceConfig {
		t.Helper()
		stack, err := app.Generate(o)
		assert.NilError(t, err)
		for _, s := range stack.Config.Services {
			if s.Name == name {
				return s
			}
		}
		t.Fatalf("no service %s in:\n%s", name, stack.YAML)
		return types.ServiceConfig{}
	}
	made := Options{Name: "web", Publish: []Publish{{Published: 80, Target: 8080}, {Published: 81, Target: 80}}}
	front, probe, member := service(made, "front"), service(made, "probe"), service(made, "1")
	assert.Equal(t, *member.Environment["HOSTS"], "web-db-1,web-db-2,web-db-3")
	assert.Equal(t, *front.Environment["APP"], "web")
	assert.Equal(t, len(front.Volumes), 0)
	assert.Equal(t, front.Ports[0].Published, uint32(80))
	assert.Equal(t, member.Ports[0].Published, uint32(81))
	assert.Equal(t, probe.Deploy.Mode, "global")
	assert.Equal(t, len(probe.Ports)+len(probe.Secrets), 0)
	assert.Equal(t, len(front.Secrets), 2)
	assert.Assert(t, front.Networks["attached0"] != nil || len(front.Networks) == 2)

	given := Options{Name: "web", Uses: map[string]Uses{"db": {Name: "pg", Members: 2}}, Images: map[string]string{"front": "front:3"}}
	stack, err := app.Generate(given)
	assert.NilError(t, err)
	assert.Equal(t, *service(given, "1").Environment["HOSTS"], "pg-1,pg-2")
	assert.Equal(t, service(given, "front").Image, "front:3")
	assert.Equal(t, stack.Config.Secrets["db-superuser-password"].Name, "pg_superuser-password")
	assert.Equal(t, stack.Config.Networks["attached0"].Name, "pg_default")

	// One of OpenManage's own code, which asks Docker what there is.
	assert.Assert(t, !app.RunsOwn())
	own := strings.Replace(partedApp, `image: "front:2"`, "own: true, docker_socket: true, command: [look]", 1)
	parted := app
	app, err = parseApp([]byte(own))
	assert.NilError(t, err)
	assert.Assert(t, app.RunsOwn())
	app.template, app.common = partedTemplate, parted.common
	front = service(Options{Name: "web", Own: "openmanage/openmanage:1.2"}, "front")
	assert.Equal(t, front.Image, "openmanage/openmanage:1.2")
	assert.DeepEqual(t, []string(front.Command), []string{"look"})
	assert.DeepEqual(t, front.Deploy.Placement.Constraints, []string{"node.role == manager"})
	assert.Equal(t, front.Volumes[0].Source, "/var/run/docker.sock")
	assert.Assert(t, front.Volumes[0].ReadOnly)
	assert.Equal(t, service(Options{Name: "web"}, "front").Image, "openmanage/openmanage:"+version.Version)
	assert.Equal(t, service(given, "front").Image, "front:3", "as asked")
	app = parted

	_, err = app.Generate(Options{Name: "web", Images: map[string]string{"frunt": "x"}})
	assert.ErrorContains(t, err, "web has no component of that name; it has front, probe")
	for _, tc := range []struct{ without, with, want string }{
		{"db-superuser-password]", "db-other]", "component front: secret db-other is neither the application's nor of what it needs"},
		{`image: "front:2"`, `image: "Front:2"`, "component front: image"},
		{`image: "front:2"`, `image: "front:2", own: true, command: [look]`, "component front: own and image exclude each other"},
		{`image: "front:2"`, "own: true", "component front: command is missing"},
		{"name: probe", "name: front", "component front is there twice"},
		{"global: true", "global: true, replicas: 2", "component probe: global and replicas exclude each other"},
		{"type: postgresql", "type: Postgres", `need db: type "Postgres"`},
		{"resources: {memory: 64MiB}, ports", "ports", "component front: resources.memory is missing"},
	} {
		_, err := parseApp([]byte(strings.Replace(partedApp, tc.without, tc.with, 1)))
		assert.ErrorContains(t, err, tc.want)
	}
}
