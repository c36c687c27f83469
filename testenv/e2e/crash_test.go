package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/testenv/product"
)

// withFailpoints has the managers look for failpoints.
func (s *suite) withFailpoints(t *testing.T, ctx context.Context) {
	t.Helper()
	const manager = "openmanage_manager"
	env, err := s.Docker(ctx, "service", "inspect", manager, "--format", "{{.Spec.TaskTemplate.ContainerSpec.Env}}")
	assert.NilError(t, err)
	if strings.Contains(env, failpoint.Variable) {
		return
	}
	_, err = s.Docker(ctx, "service", "update", "--quiet", "--env-add", failpoint.Variable+"=/host/run/"+filepath.Base(failpoints), manager)
	assert.NilError(t, err)
}

// The leading manager dies at every step of an attach and of a release; whoever
// leads next, or the same one again, goes on, and the volume is made once.
func TestManagerKilledAtEachStepOfAnAttach(t *testing.T) {
	s, ctx := swarm(t)
	s.withFailpoints(t, ctx)
	for _, point := range []string{
		"create:volume-declared", "attach:decided", "attach:owner-written",
		"attach:provisioned", "attach:formatting", "attach:ready", "release:decided",
	} {
		t.Run(point, func(t *testing.T) {
			// A volume of another run would not be made any more.
			name := fmt.Sprintf("crash-%d-%s", time.Now().Unix()%1e6, strings.ReplaceAll(point[strings.Index(point, ":")+1:], ":", "-"))
			s.arm(t, ctx, point)
			err := product.Until(ctx, 3*time.Minute, "a container with a new volume", func(ctx context.Context) error {
				_, err := s.Docker(ctx, "run", "--rm", "--volume-driver", "openmanage", "--volume", name+":/data", "debian:trixie-slim",
					"sh", "-c", "test -e /data/kept && cat /data/kept; echo kept >> /data/kept; sync")
				return err
			})
			assert.NilError(t, err)
			var out string
			err = product.Until(ctx, time.Minute, "the volume again", func(ctx context.Context) error {
				out, err = s.Docker(ctx, "run", "--rm", "--volume", name+":/data", "debian:trixie-slim", "cat", "/data/kept")
				return err
			})
			assert.NilError(t, err)
			assert.Assert(t, strings.HasPrefix(out, "kept"), out)
			assert.Assert(t, s.disarm(t, ctx, point) > 0, "no manager died at %s: nothing was shown", point)
			err = product.Until(ctx, time.Minute, "the volume deleted", func(ctx context.Context) error {
				_, err := s.CLI(ctx, "volume", "rm", name, "--yes-delete-data")
				return err
			})
			assert.NilError(t, err)
		})
	}
}

// The CLI and the leading manager die at every step of a create; run again, the
// same command goes on to a healthy application.
func TestCreateGoesOnAfterACrashAtEachStep(t *testing.T) {
	s, ctx := swarm(t)
	s.withFailpoints(t, ctx)
	s.removeLeftovers(t, ctx, "cc")
	dir := t.TempDir()
	arguments := []string{"openmanage", "create", "postgresql", "cc", "--replicas", "1", "--volume-size", "256MiB", "--yes"}
	for _, point := range []string{"create:claimed", "create:secret.superuser-password", "create:deployed", "create:healthy"} {
		assert.NilError(t, os.WriteFile(filepath.Join(dir, point), nil, 0o600))
		cmd := s.Command(ctx, arguments...)
		cmd.Env = append(os.Environ(), failpoint.Variable+"="+dir)
		out, err := cmd.CombinedOutput()
		assert.Assert(t, err != nil, "at %s the CLI was not killed:\n%s", point, out)
		_, err = os.Stat(filepath.Join(dir, point))
		assert.ErrorIs(t, err, os.ErrNotExist, "the CLI failed otherwise than at %s:\n%s", point, out)
	}
	_, err := s.CLI(ctx, arguments[1:]...)
	assert.NilError(t, err)
	_, err = s.SQL(ctx, "cc", "CREATE TABLE kept AS SELECT 1")
	assert.NilError(t, err)
	s.removeApplication(t, ctx, "cc")

	for _, point := range []string{"create:events-written", "create:application-recorded", "create:application-updated"} {
		s.arm(t, ctx, point)
	}
	_, err = s.CLI(ctx, arguments[1:]...)
	assert.NilError(t, err)
	for _, point := range []string{"create:events-written", "create:application-recorded", "create:application-updated"} {
		assert.Check(t, s.disarm(t, ctx, point) > 0, "no manager died at %s", point)
	}
	history, err := s.CLI(ctx, "events", "cc")
	assert.NilError(t, err)
	assert.Equal(t, strings.Count(history, "created with 1 member"), 1, history)
	s.removeApplication(t, ctx, "cc")
	secrets, err := s.Docker(ctx, "secret", "ls", "--format", "{{.Name}}")
	assert.NilError(t, err)
	assert.Assert(t, !strings.Contains(secrets, "cc_"), "secrets outlived the last volume: %s", secrets)
}

// Databases do not notice that all managers are gone, as long as nothing is cut.
func TestDatabasesOutliveTheManagers(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 30)
	started := s.startTime(t, ctx)
	_, err := s.Docker(ctx, "service", "update", "--quiet", "--detach", "--constraint-add", "node.labels.nowhere == true", "openmanage_manager")
	assert.NilError(t, err)
	restore := func() {
		_, err := s.Docker(ctx, "service", "update", "--quiet", "--constraint-rm", "node.labels.nowhere == true", "openmanage_manager")
		assert.NilError(t, err)
	}
	err = product.Until(ctx, time.Minute, "no manager", func(ctx context.Context) error {
		for _, n := range s.c.Nodes() {
			out, _, err := n.Exec(ctx, "sh", "-c", "docker ps --filter label=com.docker.swarm.service.name=openmanage_manager --format '{{.ID}}'")
			if err != nil || strings.TrimSpace(out) != "" {
				return fmt.Errorf("%s: %s %w", n.Name, out, err)
			}
		}
		return nil
	})
	assert.Check(t, err)
	// Four leases without a leader.
	gone, cancel := context.WithTimeout(ctx, 20*time.Second)
	<-gone.Done()
	cancel()
	restore()
	s.sameDatabase(t, ctx, 30)
	assert.Equal(t, s.startTime(t, ctx), started, "the server was restarted")
}
