package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// bareName names the service, its network, its volume and its secret.
const bareName = prefix + "-bare"

// bare is one PostgreSQL as a plain Swarm service with a volume of the plugin: Swarm
// starts it again elsewhere, and that is all that happens for it.
type bare struct{ b *bench }

func (s *bare) label() string   { return "bare Swarm service" }
func (s *bare) network() string { return bareName }
func (s *bare) hosts() []string { return []string{bareName} }

// deploy has the restart delay of a generated stack's services, less than Swarm's
// own default.
func (s *bare) deploy(ctx context.Context) error {
	if _, err := s.b.Docker(ctx, "network", "create", "--driver", "overlay", "--attachable", bareName); err != nil {
		return err
	}
	if _, err := s.b.Docker(ctx, "secret", "create", bareName, filepath.Join(s.b.writerDir(), writerPassword)); err != nil {
		return err
	}
	if err := s.b.label(ctx, s.nodeNames()...); err != nil {
		return err
	}
	_, err := s.b.Docker(ctx, "service", "create", "--detach", "--quiet", "--no-resolve-image", "--name", bareName, "--network", bareName,
		"--endpoint-mode", "dnsrr", "--restart-delay", "2s", "--constraint", "node.labels."+hereLabel+"==true",
		"--secret", "source="+bareName+",target=password", "--env", "POSTGRES_PASSWORD_FILE=/run/secrets/password",
		"--env", "PGDATA="+pgbenchData+"/pgdata", "--mount", volumeMount(bareName, pgbenchData, lifecycleVolume), postgresImage)
	return err
}

func (s *bare) nodeNames() []string {
	var names []string
	for _, n := range s.b.c.Nodes() {
		names = append(names, n.Name)
	}
	return names
}

func (s *bare) members(ctx context.Context) ([]member, error) {
	for _, n := range s.b.c.Nodes() {
		containers, err := runningContainers(ctx, n, bareName)
		if err != nil {
			return nil, err
		}
		if len(containers) == 0 {
			continue
		}
		// The image's entrypoint first runs a server without TCP to make the database.
		m := member{name: bareName, node: n, container: containers[0], primary: true}
		_, err = s.b.docker(ctx, n, "exec", m.container, "pg_isready", "--quiet", "--host", "127.0.0.1")
		return []member{m}, err
	}
	return nil, errors.New(bareName + " runs nowhere")
}

// lead moves the service: a label holds it there, and a task stays where it is when
// others may have it too.
func (s *bare) lead(ctx context.Context, node *cluster.Node) error {
	if err := s.b.label(ctx, node.Name); err != nil {
		return err
	}
	err := product.Until(ctx, wholeLimit, fmt.Sprintf("%s on %s", bareName, node.Name), func(ctx context.Context) error {
		members, err := s.members(ctx)
		if err == nil && members[0].node.Number != node.Number {
			err = fmt.Errorf("it is on %s", members[0].node.Name)
		}
		return err
	})
	return errors.Join(err, s.b.label(ctx, s.nodeNames()...))
}

func (s *bare) sql(ctx context.Context, statements string) (string, error) {
	members, err := s.members(ctx)
	if err != nil {
		return "", err
	}
	return memberDatabase{s.b, members[0]}.sql(ctx, statements)
}
