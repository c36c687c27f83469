package e2e

import (
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
)

// What a user gets wrong is refused in words, before anything is made.
func TestBadInputIsRefusedAndLeavesNothing(t *testing.T) {
	s, ctx := swarm(t)
	listing := func() string {
		var all []string
		for _, kind := range []string{"service", "secret", "network"} {
			out, err := s.Docker(ctx, kind, "ls", "--format", "{{.Name}}")
			assert.NilError(t, err)
			all = append(all, out)
		}
		volumes, err := s.CLI(ctx, "volume", "ls", "--quiet")
		assert.NilError(t, err)
		return strings.Join(append(all, volumes), "\n")
	}
	before := listing()
	for _, tc := range []struct {
		args string
		says string
	}{
		{"create postgresql Pg", "hostname"},
		{"create postgresql " + strings.Repeat("x", 40), "36 at most"},
		{"create postgresql openmanage", "openmanage"},
		{"create postgresl x", "postgresql"},
		{"create postgresql x --replicas 0", "replicas"},
		{"create postgresql x --replicas -1", "replicas"},
		{"create postgresql x --replicas 1000", "replicas"},
		{"create postgresql x --volume-size big", "size"},
		{"create postgresql x --volume-size 1KiB", "at least"},
		{"create postgresql x --volume-size 100TiB", "free"},
		{"create postgresql x --set max_conections=5", "max_connections"},
		{"create postgresql x --image openmanage/does-not-exist:17", "cannot be pulled"},
		{"ps nothing", "nothing"},
		{"connect nothing", "nothing"},
		{"volume rm nothing --yes-delete-data", "nothing"},
	} {
		out, stderr, err := s.Input(ctx, nil, append([]string{"openmanage"}, strings.Fields(tc.args)...)...)
		assert.Check(t, err != nil, "%s succeeded: %s", tc.args, out)
		assert.Check(t, is.Contains(stderr, tc.says), "%s", tc.args)
	}
	assert.Equal(t, listing(), before, "something was left behind")
}
