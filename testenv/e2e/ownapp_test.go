package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/product"
)

// An application of a user's own: it notes each of its starts on its volume.
const (
	ownApp = `id: diary
title: Diary
category: Web
description: Notes when it was started.
image: {default: "debian:trixie-slim"}
command: [bash, -c, "trap 'exit 0' TERM; echo \"$GREETING $HOSTNAME\" >> /data/starts; while :; do sleep 1 & wait $!; done"]
members: {min: 1, max: 1, default: 1}
volume: {path: /data, data: ., size: 64MiB, min_size: 64MiB}
resources: {cpus: "0.5", memory: 128MiB}
health: {check: '["test", "-s", "/data/starts"]'}
parameters:
  - {name: greeting, type: choice, allowed: [hello, servus], default: hello, description: What it notes.}
`
	ownTemplate = `[[ template "head" . ]]

services:
[[- range .Members ]][[ template "member" . ]]
      GREETING: [[ .Set "greeting" ]]
[[ end ]][[ template "tail" . ]]
`
	// greedyTemplate has another service, with the Docker socket.
	greedyTemplate = `[[ template "head" . ]]

services:
[[- range .Members ]][[ template "member" . ]]
      GREETING: [[ .Set "greeting" ]]
[[ end ]]
  greedy:
    <<: *member
    volumes: ["/var/run/docker.sock:/var/run/docker.sock"]
    deploy: *deploy
[[ template "tail" . ]]
`
)

// A user's own application is added as data, seen by every manager, created and kept as
// those that come with OpenManage are. One that mounts the Docker socket is refused until
// it is allowed, by who adds it and by who creates it.
func aUsersOwnApplication(t *testing.T) {
	s, ctx := swarm(t)
	forget := func() {
		s.removeLeftovers(t, ctx, "mine")
		for _, typ := range []string{"diary", "greedy"} {
			_, _ = s.CLI(ctx, "catalog", "rm", typ) // it may not be there
		}
	}
	forget()
	t.Cleanup(func() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		forget()
	})
	folder := func(app, template string) string {
		dir := t.TempDir()
		for name, content := range map[string]string{"app.yaml": app, "stack.yaml.tmpl": template} {
			assert.NilError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
		}
		return dir
	}
	dir := folder(ownApp, ownTemplate)
	out, err := s.CLI(ctx, "catalog", "lint", dir)
	assert.NilError(t, err, out)
	_, err = s.CLI(ctx, "catalog", "add", dir)
	assert.NilError(t, err)
	_, err = s.CLI(ctx, "catalog", "add", dir)
	assert.ErrorContains(t, err, "diary was added before")

	// Every manager offers it.
	for _, n := range s.c.Nodes() {
		if n.Local {
			continue
		}
		out, err := exec.CommandContext(ctx, "docker", "--host", "unix://"+n.Socket(), "openmanage", "catalog", "--quiet").CombinedOutput()
		assert.NilError(t, err, string(out))
		assert.Check(t, is.Contains(strings.Fields(string(out)), "diary"), n.Name)
	}

	_, err = s.CLI(ctx, "create", "diary", "mine", "--set", "greeting=servus", "--yes")
	assert.NilError(t, err)
	members, err := s.WaitHealthy(ctx, "mine", 1, time.Minute)
	assert.NilError(t, err)
	assert.Equal(t, members[0].Member, "mine-1")
	_, err = s.CLI(ctx, "restart", "mine")
	assert.NilError(t, err)
	assert.NilError(t, product.Until(ctx, time.Minute, "two starts on the volume", func(ctx context.Context) error {
		members, err := s.Members(ctx, "mine")
		if err != nil {
			return err
		}
		n, err := s.named(members[0].Node)
		if err != nil {
			return err
		}
		out, stderr, err := n.Exec(ctx, "sh", "-c", "docker exec $(docker ps -q --filter label=com.docker.swarm.service.name=mine_1) cat /data/starts")
		if err == nil && out != "servus mine-1\nservus mine-1\n" {
			err = errors.New(out + stderr)
		}
		return err
	}))
	_, err = s.CLI(ctx, "catalog", "rm", "diary")
	assert.ErrorContains(t, err, "there are applications of the type diary: mine")

	// One that wants more than its own.
	greedy := folder(strings.Replace(ownApp, "id: diary", "id: greedy", 1), greedyTemplate)
	_, err = s.CLI(ctx, "catalog", "add", greedy)
	assert.ErrorContains(t, err, "docker-socket: the Docker socket")
	_, err = s.Docker(ctx, "config", "inspect", "openmanage.catalog.greedy")
	assert.ErrorContains(t, err, "openmanage.catalog.greedy")
	_, err = s.CLI(ctx, "catalog", "add", greedy, "--allow", "docker-socket")
	assert.NilError(t, err)
	_, err = s.CLI(ctx, "create", "greedy", "taken", "--yes")
	assert.ErrorContains(t, err, "docker openmanage create greedy taken --allow docker-socket")
	services, err := s.Docker(ctx, "service", "ls", "--quiet", "--filter", "label=com.docker.stack.namespace=taken")
	assert.NilError(t, err)
	assert.Equal(t, services, "", "nothing is made")

	s.removeApplication(t, ctx, "mine")
	for _, typ := range []string{"diary", "greedy"} {
		_, err = s.CLI(ctx, "catalog", "rm", typ)
		assert.NilError(t, err)
	}
	left, err := s.Docker(ctx, "config", "ls", "--quiet", "--filter", "label=openmanage.kind=catalog")
	assert.NilError(t, err)
	assert.Equal(t, left, "")
}
