package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// The passwords that `credentials` shows are those of the database, and nothing is left
// of how they were read, also not of a run that was killed.
func credentialsLogIn(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 1)
	const left = "openmanage-credentials-left"
	_, err := s.Docker(ctx, "service", "create", "--detach", "--name", left, "--label", "openmanage.credentials=pg", "--replicas", "0", "debian:trixie-slim", "true")
	assert.NilError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, _ = s.Docker(ctx, "service", "rm", left) // it is gone if all is well
	})

	_, err = s.CLI(ctx, "credentials", "pg")
	assert.ErrorContains(t, err, "Add --yes to have them")
	out, err := s.CLI(ctx, "credentials", "pg", "--yes", "--format", "json")
	assert.NilError(t, err)
	passwords := map[string]string{}
	for line := range strings.Lines(out) {
		var shown struct{ Name, Value string }
		assert.NilError(t, json.Unmarshal([]byte(line), &shown))
		passwords[shown.Name] = shown.Value
	}
	assert.Equal(t, len(passwords), 2)

	// By TCP, since the socket asks for no password.
	logIn := func(user, password string) (string, error) {
		conninfo := fmt.Sprintf("host=127.0.0.1 dbname=postgres user=%s password=%s", user, password)
		out, err := s.CLI(ctx, "connect", "pg", "--", "-X", "-A", "-t", "-d", conninfo, "-c", "SELECT current_user")
		return strings.TrimSpace(out), err
	}
	for name, user := range map[string]string{"superuser-password": "postgres", "replication-password": "replicator"} {
		as, err := logIn(user, passwords[name])
		assert.NilError(t, err)
		assert.Equal(t, as, user)
	}
	_, err = logIn("postgres", "x"+passwords["superuser-password"])
	assert.ErrorContains(t, err, "password authentication failed")

	one, err := s.CLI(ctx, "credentials", "pg", "superuser-password", "--yes", "--format", "{{.Value}}")
	assert.NilError(t, err)
	assert.Equal(t, strings.TrimSpace(one), passwords["superuser-password"])
	services, err := s.Docker(ctx, "service", "ls", "--format", "{{.Name}}")
	assert.NilError(t, err)
	assert.Assert(t, !strings.Contains(services, "openmanage-credentials"), services)
}
