package commands

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// An application of somebody's own, in whose template parts can be replaced.
const (
	ownApp = `id: wiki
aliases: [notes]
title: Wiki
category: Web
description: Pages that everybody can edit.
image: {default: "example/wiki:1.0"}
command: [wiki]
members: {min: 1, max: 3, default: 1}
volume: {path: /data, data: ., size: 1GiB, min_size: 64MiB}
resources: {memory: 256MiB}
health: {check: "tcp://127.0.0.1:80"}
secrets: [{name: admin-password, description: Password of the user admin.}]
ports: [{name: web, port: 80, description: the pages}]
parameters:
  - {name: theme, type: choice, allowed: [light, dark], default: light, description: How pages look.}
`
	ownTemplate = `[[ template "head" . ]]

services:
[[- range .Members ]][[ template "member" . ]]
      THEME: [[ .Set "theme" ]]
[[ end ]][[ template "tail" . ]]
`
	// demanding has a service beside the members that is given the Docker socket.
	demanding = `[[ template "head" . ]]

services:
[[- range .Members ]][[ template "member" . ]]
      THEME: [[ .Set "theme" ]]
[[ end ]]
  helper:
    <<: *member
    image: example/helper:1.0
    volumes: ["/var/run/docker.sock:/var/run/docker.sock"]
    deploy: *deploy
[[ template "tail" . ]]
`
)

// takesAnother has application NAME mount a volume of application NAME-more.
const takesAnother = `[[ template "head" . ]]

services:
[[- range .Members ]][[ template "member" . ]]
      THEME: [[ .Set "theme" ]]
[[ end ]]
volumes:
[[- range .Members ]]
  [[ .Volume ]]: {name: [[ .Volume ]], driver: openmanage, driver_opts: {application: [[ .Application ]]}}
  [[ .Runtime ]]: {name: [[ .Runtime ]], driver: openmanage}
[[- end ]]
  theirs: {name: [[ .Name ]]-more-1, driver: openmanage, driver_opts: {application: [[ .Name ]]}}
secrets:
  admin-password: {external: true, name: [[ .Name ]]_admin-password}
networks: {default: {driver: overlay}}
`

// folder writes an application into a folder.
func folder(t *testing.T, app, template string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"app.yaml": app, "stack.yaml.tmpl": template} {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	return dir
}

// added returns a Swarm with the application in its catalog.
func added(t *testing.T, template string, allowed ...string) *fakeswarm.Client {
	t.Helper()
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindCatalog, "wiki", store.CatalogEntry{
		App: ownApp, Template: template, Allowed: allowed, By: "anna@desk", Added: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	})
	return docker
}

func TestCatalog(t *testing.T) {
	for _, tc := range []struct {
		golden string
		args   []string
		docker *fakeswarm.Client
	}{
		{golden: "catalog.golden", args: []string{"catalog"}, docker: installed(t)},
		{golden: "catalog-added.golden", args: []string{"catalog"}, docker: added(t, ownTemplate)},
		{golden: "catalog-search.golden", args: []string{"catalog", "search", "brokers", "messages"}, docker: installed(t)},
		{golden: "catalog-quiet.golden", args: []string{"catalog", "--quiet"}, docker: added(t, ownTemplate)},
		{golden: "catalog-show.golden", args: []string{"catalog", "show", "rabbit"}, docker: installed(t)},
		{golden: "catalog-show-parts.golden", args: []string{"catalog", "show", "zabbix"}, docker: installed(t)},
		{golden: "catalog-show-added.golden", args: []string{"catalog", "show", "wiki"}, docker: added(t, ownTemplate, stacks.AllowHostPath)},
	} {
		t.Run(tc.golden, func(t *testing.T) {
			s := session{docker: tc.docker}
			assert.NilError(t, s.run(t, tc.args...))
			golden.Assert(t, s.out.String(), tc.golden)
			assert.Equal(t, s.err.String(), "")
		})
	}
	s := session{docker: added(t, ownTemplate)}
	assert.NilError(t, s.run(t, "catalog", "--format", "{{.Type}} {{.Origin}} {{.Image}}"))
	assert.Check(t, is.Contains(s.out.String(), "wiki added example/wiki:1.0\n"))
	assert.ErrorContains(t, s.run(t, "catalog", "search", "wiki", "unheard-of"), "nothing in the catalog has wiki and unheard-of\nSee all with: docker openmanage catalog")
	assert.ErrorContains(t, s.run(t, "catalog", "show", "wikki"), `did you mean "wiki"?`)
}

// Without a Swarm there is what comes with OpenManage, and a word about the rest.
func TestCatalogWithoutASwarm(t *testing.T) {
	docker := installed(t)
	docker.ConfigListFunc = func() error { return errors.New("this node is not a swarm manager") }
	docker.Daemon.Swarm = swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "catalog", "--quiet"))
	assert.Check(t, is.Contains(s.out.String(), "postgresql\n"))
	assert.Check(t, is.Contains(s.err.String(), "warning: types that were added to the Swarm are not shown: this Docker daemon is not part of a Swarm"))
	err := s.run(t, "generate", "wiki", "docs")
	assert.ErrorContains(t, err, `unknown application type "wiki"`)
	assert.ErrorContains(t, err, "types that were added to the Swarm are not shown")
	assert.ErrorContains(t, s.run(t, "catalog", "add", folder(t, ownApp, ownTemplate)), "not part of a Swarm")
}

func TestCatalogNamesWhatCannotBeRead(t *testing.T) {
	docker := added(t, ownTemplate)
	fakeswarm.Put(t, docker, store.KindCatalog, "broken", store.CatalogEntry{App: "id: broken\nfrom_the_future: true\n"})
	fakeswarm.Put(t, docker, store.KindCatalog, "etcd", store.CatalogEntry{App: strings.Replace(ownApp, "id: wiki", "id: etcd", 1), Template: ownTemplate})
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "catalog", "--quiet"))
	assert.Check(t, is.Contains(s.out.String(), "wiki\n"))
	assert.Check(t, is.Contains(s.err.String(), "warning: the type broken, which was added, cannot be read: broken/app.yaml: yaml: unmarshal errors:\n  line 2: field from_the_future"))
	assert.Check(t, is.Contains(s.err.String(), "warning: the type etcd, which was added, is not shown: the name etcd is that of etcd\n"))
	assert.ErrorContains(t, s.run(t, "generate", "broken", "x"), "cannot be read")
	assert.NilError(t, s.run(t, "catalog", "rm", "broken"))
	assert.NilError(t, s.run(t, "catalog", "rm", "etcd"))
	assert.ErrorContains(t, s.run(t, "catalog", "rm", "etcd"), "etcd comes with OpenManage and cannot be removed")
}

func TestCatalogLint(t *testing.T) {
	s := session{} // no daemon is asked
	assert.NilError(t, s.run(t, "catalog", "lint", folder(t, ownApp, ownTemplate)))
	assert.Equal(t, s.out.String(), "wiki is fit for the catalog\n")

	s = session{}
	assert.NilError(t, s.run(t, "catalog", "lint", folder(t, ownApp, demanding)))
	golden.Assert(t, s.out.String(), "catalog-lint-demands.golden")

	s = session{}
	dir := folder(t, strings.Replace(ownApp, "title: Wiki", "titel: Wiki", 1), ownTemplate+"[[ end ]]")
	err := s.run(t, "catalog", "lint", dir)
	assert.ErrorIs(t, err, errLint)
	assert.ErrorContains(t, err, dir+" has 3 problems")
	assert.Equal(t, s.out.String(), "app.yaml: title is missing\napp.yaml:3:1: unknown field \"titel\"; did you mean \"title\"?\nstack.yaml.tmpl:7: unexpected {{end}}\n")

	assert.ErrorContains(t, s.run(t, "catalog", "lint", t.TempDir()), "there is no app.yaml")
	assert.ErrorContains(t, s.run(t, "catalog", "lint", dir+"/nothing"), "is no folder")
}

func TestCatalogSchema(t *testing.T) {
	s := session{}
	assert.NilError(t, s.run(t, "catalog", "schema"))
	assert.Equal(t, s.out.String(), string(stacks.Schema))
}

func TestCatalogAddAndRemove(t *testing.T) {
	docker := installed(t)
	s := session{docker: docker}
	dir := folder(t, ownApp, ownTemplate)
	assert.NilError(t, s.run(t, "catalog", "add", dir))
	assert.Equal(t, s.out.String(), "wiki added. Next: docker openmanage create wiki NAME\n")
	assert.Check(t, is.Contains(docker.Records(), "openmanage.catalog.wiki"))
	assert.ErrorContains(t, s.run(t, "catalog", "add", dir), "wiki was added before\nTo replace it: docker openmanage catalog add "+dir+" --replace")

	changed := folder(t, strings.Replace(ownApp, "wiki:1.0", "wiki:2.0", 1), ownTemplate)
	assert.NilError(t, s.run(t, "catalog", "add", changed, "--replace"))
	s = session{docker: docker}
	assert.NilError(t, s.run(t, "generate", "notes", "docs", "--set", "theme=dark"))
	assert.Check(t, is.Contains(s.out.String(), "example/wiki:2.0"))
	assert.Check(t, is.Contains(s.out.String(), "THEME: dark"))
	assert.Equal(t, s.err.String(), "")

	// Completion knows it too.
	s = session{docker: docker}
	assert.NilError(t, s.complete(t, "catalog", "rm", ""))
	assert.Check(t, is.Contains(s.out.String(), "wiki\tWiki\n"))
	assert.Check(t, !strings.Contains(s.out.String(), "postgresql"), s.out.String())
	s = session{docker: docker}
	assert.NilError(t, s.complete(t, "create", "wiki", "docs", "--set", "theme="))
	assert.Check(t, is.Contains(s.out.String(), "theme=dark\n"))

	// Not while there are applications of it, also those that only have services yet.
	fakeswarm.Put(t, docker, store.KindApplication, "docs", store.Application{Name: "docs", Type: "wiki"})
	docker.Services = append(docker.Services, service("more_1", "more", map[string]string{api.LabelApplication: "more", api.LabelType: "wiki"}))
	err := s.run(t, "catalog", "rm", "wiki")
	assert.ErrorContains(t, err, "there are applications of the type wiki: docs, more\nRemove them first, their volumes are kept: docker openmanage rm docs more")
	removed := time.Now()
	fakeswarm.Put(t, docker, store.KindApplication, "docs", store.Application{Name: "docs", Type: "wiki", Removed: &removed})
	docker.Services = docker.Services[:len(docker.Services)-1]
	assert.ErrorContains(t, s.run(t, "catalog", "rm", "notes"), "notes is another name of wiki")
	s = session{docker: docker}
	assert.NilError(t, s.run(t, "catalog", "rm", "wiki"))
	assert.Equal(t, s.out.String(), "wiki removed\n")
	assert.ErrorContains(t, s.run(t, "catalog", "rm", "wiki"), "unknown application type")
	assert.ErrorContains(t, s.run(t, "catalog", "rm", "postgres"), "postgresql comes with OpenManage and cannot be removed")
}

func TestCatalogAddRefuses(t *testing.T) {
	for _, tc := range []struct {
		doc           string
		app, template string
		args          []string
		want          string
	}{
		{doc: "an id that comes with OpenManage", app: strings.Replace(ownApp, "id: wiki", "id: etcd", 1), want: "the name etcd is taken: etcd comes with OpenManage"},
		{doc: "an alias that comes with OpenManage", app: strings.Replace(ownApp, "notes", "postgres", 1), want: "the name postgres is taken: postgresql comes with OpenManage"},
		{doc: "also if told to replace it", app: strings.Replace(ownApp, "id: wiki", "id: etcd", 1), args: []string{"--replace"}, want: "etcd comes with OpenManage"},
		{doc: "an alias of one that was added", app: strings.Replace(strings.Replace(ownApp, "id: wiki", "id: other", 1), "notes", "theirs", 1), want: "the name theirs is taken by first, which was added before"},
		{doc: "what lint refuses", template: ownTemplate + "[[ end ]]", want: "has a problem"},
		{doc: "an engine", app: ownApp + "engine: postgresql\n", want: "has 2 problems"},
		{doc: "an unknown permission", args: []string{"--allow", "everything"}, want: `--allow "everything": expected one of`},
		{doc: "the Docker socket", template: demanding, want: "not allowed: wiki reaches beyond its own application:\n  docker-socket: the Docker socket: whoever has it is root on the node, and on the Swarm if the node is a manager\n    service helper: mount at /var/run/docker.sock: /var/run/docker.sock\nIf you trust it: docker openmanage catalog add "},
		{doc: "the Docker socket with a permission for something else", template: demanding, args: []string{"--allow", "host-path"}, want: " --allow docker-socket"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := installed(t)
			fakeswarm.Put(t, docker, store.KindCatalog, "first", store.CatalogEntry{App: strings.Replace(strings.Replace(ownApp, "id: wiki", "id: first", 1), "notes", "theirs", 1), Template: ownTemplate})
			before := docker.Records()
			if tc.app == "" {
				tc.app = ownApp
			}
			if tc.template == "" {
				tc.template = ownTemplate
			}
			s := session{docker: docker}
			err := s.run(t, append([]string{"catalog", "add", folder(t, tc.app, tc.template)}, tc.args...)...)
			assert.ErrorContains(t, err, tc.want)
			assert.DeepEqual(t, docker.Records(), before)
		})
	}
}

// What was allowed when a type was added has to be allowed again by who creates it.
func TestCreateOfWhatWasAdded(t *testing.T) {
	const socket = "docker-socket: the Docker socket"
	for _, tc := range []struct {
		doc      string
		template string
		allowed  []string
		args     []string
		setup    func(*fakeswarm.Client)
		want     string // "": it is created
		says     string
	}{
		{doc: "nothing to allow", template: ownTemplate},
		{doc: "not allowed by who creates it", template: demanding, allowed: []string{"docker-socket"}, want: "not allowed: wiki reaches beyond its own application:\n  " + socket, says: ""},
		{doc: "allowed by both", template: demanding, allowed: []string{"docker-socket"}, args: []string{"--allow", "docker-socket"}, says: socket},
		{doc: "yes is no permission", template: demanding, allowed: []string{"docker-socket"}, args: []string{"--yes"}, want: "If you trust it: docker openmanage create wiki pg --allow docker-socket"},
		{doc: "hidden when it was added", template: demanding, args: []string{"--allow", "docker-socket"}, want: "It did not say so when it was added"},
		{doc: "an unknown permission", template: ownTemplate, args: []string{"--allow", "all"}, want: `--allow "all"`},
		{doc: "a volume of another application whose name begins alike", template: takesAnother, setup: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindVolume, "pg-more-1", volume("pg-more-1", "pg-more", nil))
		}, want: "the volume pg-more-1 is of pg-more, not of pg"},
		{doc: "a member's name of another application", template: ownTemplate, setup: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindApplication, "other", store.Application{Name: "other", Type: "etcd", Members: []store.Member{{Name: "pg-1"}}})
		}, want: "the name pg-1 is that of a member of other"},
		{doc: "the key of a service that is a member's name", template: strings.Replace(demanding, "  helper:", "  shop-1:", 1), allowed: []string{"docker-socket"}, args: []string{"--allow", "docker-socket"}, setup: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindApplication, "shop", store.Application{Name: "shop", Type: "etcd", Members: []store.Member{{Name: "shop-1"}}})
		}, want: "the name shop-1 is that of a member of shop"},
		{doc: "the key of a service that is a component's name", template: strings.Replace(demanding, "  helper:", "  zb-web:", 1), allowed: []string{"docker-socket"}, args: []string{"--allow", "docker-socket"}, setup: func(d *fakeswarm.Client) {
			d.Services = append(d.Services, service("zb_web", "zb", map[string]string{api.LabelApplication: "zb", api.LabelComponent: "web"}))
		}, want: "the name zb-web is that of a component of zb"},
		{doc: "a password that lint was not shown", template: strings.Replace(ownTemplate, "      THEME", "      ADMIN_PASSWORD: hunter2\n      THEME", 1), want: "wiki makes a stack that is not as it was when it was added"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := added(t, tc.template, tc.allowed...)
			if tc.setup != nil {
				tc.setup(docker)
			}
			deployer := &fakeDeployer{t: t, docker: docker}
			s := session{docker: docker}
			err := s.create(t, deployer, append([]string{"wiki", "pg", "--replicas", "3"}, tc.args...)...)
			assert.Check(t, is.Contains(s.err.String(), tc.says))
			if tc.want != "" {
				assert.ErrorContains(t, err, tc.want)
				assert.Equal(t, len(deployer.deploys)+len(docker.Secrets), 0, "nothing is made")
				return
			}
			assert.NilError(t, err)
			assert.Check(t, is.Contains(deployer.deploys[0], "THEME: light"))
		})
	}
}

// createAdded creates an application docs of a type that was added.
func createAdded(t *testing.T, app, template string, allowed []string, setup func(*fakeswarm.Client), args ...string) (*loading, *session, error) {
	t.Helper()
	docker := added(t, template, allowed...)
	fakeswarm.Put(t, docker, store.KindCatalog, "wiki", store.CatalogEntry{App: app, Template: template, Allowed: allowed})
	if setup != nil {
		setup(docker)
	}
	deployer := &loading{t: t, docker: docker, files: map[string]string{}}
	s := &session{docker: docker}
	for _, a := range allowed {
		args = append(args, "--allow", a)
	}
	err := s.create(t, deployer, append([]string{"wiki", "docs", "--yes"}, args...)...)
	return deployer, s, err
}

// What is created along for a type that was added is that type's doing.
func TestWhatIsCreatedAlongIsAllowedToo(t *testing.T) {
	needing := ownApp + "needs: [{name: door, type: traefik, image: \"evil.example/traefik:v3.5\", description: its door}]\n"
	deployer, s, err := createAdded(t, needing, ownTemplate, []string{stacks.AllowForeignNetwork}, nil)
	assert.ErrorContains(t, err, "    docs-door: members: mount at /var/run/docker.sock: /var/run/docker.sock\n")
	assert.ErrorContains(t, err, "It did not say so when it was added")
	assert.Equal(t, len(deployer.order)+len(s.docker.Secrets), 0, "nothing is made")

	deployer, s, err = createAdded(t, needing, ownTemplate, []string{stacks.AllowForeignNetwork, stacks.AllowDockerSocket, stacks.AllowManagers}, nil)
	assert.NilError(t, err)
	assert.DeepEqual(t, deployer.order, []string{"docs-door", "docs"})
	assert.Check(t, is.Contains(s.err.String(), "docs-door: members: mount at /var/run/docker.sock"))
}

// What is shown is what is deployed, though the template could tell the one time from the other.
func TestWhatIsShownIsWhatIsDeployed(t *testing.T) {
	needing := ownApp + "needs: [{name: db, type: postgresql, description: its data}]\n"
	template := strings.Replace(demanding, `    volumes: ["/var/run/docker.sock:/var/run/docker.sock"]`, `[[ if eq (.Need "db").Members 2 ]]
    cap_add: [SYS_ADMIN]
[[ end ]]`, 1)
	two := func(d *fakeswarm.Client) {
		app := pg(0)
		app.Members = app.Members[:2]
		fakeswarm.Put(t, d, store.KindApplication, "pg", app)
	}
	deployer, s, err := createAdded(t, needing, template, []string{stacks.AllowForeignNetwork}, two, "--use", "db=pg")
	assert.ErrorContains(t, err, "cap_add SYS_ADMIN")
	assert.Equal(t, len(deployer.order)+len(s.docker.Secrets), 0, "nothing is made")
}

// The documented example answers at a domain without being allowed anything.
func TestADomainOfWhatWasAdded(t *testing.T) {
	docker := installed(t)
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "catalog", "add", "../../docs/examples/site"))
	docker.Networks = append(docker.Networks, network.Network{ID: "id-traefik", Name: "traefik_default", Driver: "overlay", Scope: "swarm"})
	deployer := &loading{t: t, docker: docker, files: map[string]string{}}
	assert.NilError(t, s.create(t, deployer, "site", "www", "--domain", "site.example.org"))
	assert.Check(t, is.Contains(deployer.files["www"], "Host(`site.example.org`)"))
}

// A link out of the folder would put a file of the user's where others read it.
func TestAFolderKeepsToItself(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	assert.NilError(t, os.WriteFile(secret, []byte("hunter2"), 0o600))
	for _, name := range []string{"README.md", "app.yaml", "stack.yaml.tmpl"} {
		dir := folder(t, ownApp, ownTemplate)
		_ = os.Remove(filepath.Join(dir, name))
		assert.NilError(t, os.Symlink(secret, filepath.Join(dir, name)))
		docker := installed(t)
		before := docker.Records()
		s := session{docker: docker}
		assert.ErrorContains(t, s.run(t, "catalog", "add", dir), name)
		assert.DeepEqual(t, docker.Records(), before)
	}
}

// generate shows on the error stream what the file reaches.
func TestGenerateSaysWhatItReaches(t *testing.T) {
	s := session{docker: added(t, demanding)}
	assert.NilError(t, s.run(t, "generate", "wiki", "docs"))
	assert.Check(t, is.Contains(s.out.String(), "/var/run/docker.sock"))
	assert.Check(t, is.Contains(s.err.String(), "wiki reaches beyond its own application:\n  docker-socket: "))
}
