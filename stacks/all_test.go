package stacks

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/openmanage/openmanage/internal/api"
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

// What an operator expects of each service, whoever wrote its type.
func TestEveryServiceIsFitForProduction(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		stack, err := app.Generate(Options{Name: "app"})
		assert.NilError(t, err)
		assert.Equal(t, len(stack.Config.Services), app.Members.Default)
		assert.Equal(t, len(app.checkServices(stack.Config)), 0, "%v", app.checkServices(stack.Config))
		for _, s := range stack.Config.Services {
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
				all["host "+s.Hostname] = true
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
		assert.Equal(t, stack.Config.Services[0].Deploy.Labels[api.LabelAlertDisk], "70")
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
