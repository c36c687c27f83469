package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
				out, err = s.Docker(ctx, "run", "--rm", "--volume-driver", "openmanage", "--volume", name+":/data", "debian:trixie-slim", "cat", "/data/kept")
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

// The CLI dies at every step of a create; run again, the same command goes on to a
// healthy application. The next one waits for some seconds until the first shows no sign
// of life any more: all at once.
func TestCreateGoesOnAfterACrashAtEachStep(t *testing.T) {
	s, ctx := swarm(t)
	points := []string{"create:claimed", "create:secret.superuser-password", "create:deployed", "create:healthy"}
	create := func(i int) []string {
		return []string{"openmanage", "create", "postgresql", fmt.Sprintf("cc%d", i), "--replicas", "1", "--volume-size", "256MiB", "--yes"}
	}
	crashes := func(i int) error {
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			return err
		}
		file := filepath.Join(dir, points[i])
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			return err
		}
		cmd := s.Command(ctx, create(i)...)
		cmd.Env = append(os.Environ(), failpoint.Variable+"="+dir)
		out, err := cmd.CombinedOutput()
		if err == nil {
			return fmt.Errorf("at %s the CLI was not killed:\n%s", points[i], out)
		}
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the CLI failed otherwise than at %s:\n%s", points[i], out)
		}
		if _, err = s.CLI(ctx, create(i)[1:]...); err != nil {
			return fmt.Errorf("after %s: %w", points[i], err)
		}
		_, err = s.SQL(ctx, fmt.Sprintf("cc%d", i), "CREATE TABLE kept AS SELECT 1")
		return err
	}
	errs := make([]error, len(points))
	var group sync.WaitGroup
	for i := range points {
		s.removeLeftovers(t, ctx, fmt.Sprintf("cc%d", i))
		group.Go(func() { errs[i] = crashes(i) })
	}
	group.Wait()
	for i := range points {
		assert.Check(t, errs[i])
		group.Go(func() { _, errs[i] = s.CLI(ctx, "rm", fmt.Sprintf("cc%d", i), "--yes") })
	}
	group.Wait()
	for i := range points {
		assert.Check(t, errs[i])
		s.deleteVolumes(t, ctx, fmt.Sprintf("cc%d", i))
	}
	secrets, err := s.Docker(ctx, "secret", "ls", "--format", "{{.Name}}")
	assert.NilError(t, err)
	assert.Assert(t, !strings.Contains(secrets, "cc"), "secrets outlived the last volume: %s", secrets)
}

// The leading manager dies at every write that a create makes it do.
func TestManagerKilledAtEachStepOfACreate(t *testing.T) {
	s, ctx := swarm(t)
	s.withFailpoints(t, ctx)
	s.removeLeftovers(t, ctx, "cc")
	points := []string{"create:events-written", "create:application-recorded", "create:application-updated"}
	for _, point := range points {
		s.arm(t, ctx, point)
	}
	_, err := s.CLI(ctx, "create", "postgresql", "cc", "--replicas", "1", "--volume-size", "256MiB", "--yes")
	assert.NilError(t, err)
	for _, point := range points {
		assert.Check(t, s.disarm(t, ctx, point) > 0, "no manager died at %s", point)
	}
	history, err := s.CLI(ctx, "events", "cc")
	assert.NilError(t, err)
	assert.Equal(t, strings.Count(history, "created with 1 member"), 1, history)
	s.removeApplication(t, ctx, "cc")
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
