package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/product"
)

const (
	listApplications = 100
	listMembers      = 3
	listRepetitions  = 25
	listGoal         = 1.5
)

// list measures `docker openmanage ls` against `docker service ls`, with a hundred
// applications recorded. Their services exist, scaled to 0.
func list(ctx context.Context, b *bench) (measure.Result, error) {
	var result measure.Result
	if err := b.declareApplications(ctx); err != nil {
		return result, err
	}
	var took [2]measure.Sample
	for i := range listRepetitions {
		err := inTurn(i, func(side int) error {
			args := []string{"openmanage", "ls"}
			if side == referenceSide {
				args = []string{"service", "ls"}
			}
			ms, err := timed(func() error {
				_, err := b.Docker(ctx, args...)
				return err
			})
			took[side] = append(took[side], ms)
			return err
		})
		if err != nil {
			return result, err
		}
	}
	var plugin measure.Sample // what any CLI plugin costs before its command begins
	for range listRepetitions {
		ms, err := timed(func() error {
			_, err := b.CLI(ctx, "catalog", "--help")
			return err
		})
		if err != nil {
			return result, err
		}
		plugin = append(plugin, ms)
	}
	result.Measurements = []measure.Measurement{
		measure.Ratio("`docker openmanage ls` against `docker service ls`", "ms", took[ourSide], took[referenceSide], measure.AtMost(listGoal)),
		measure.Figure("of it, `docker` finding and starting a plugin (`openmanage catalog --help`)", "ms", plugin),
	}
	result.Note("%d repetitions in turn; %d applications with %d services each, none with a task.", listRepetitions, listApplications, listMembers)
	return result, nil
}

// declareApplications makes the services of a hundred applications, and waits
// until the manager has recorded them all.
func (b *bench) declareApplications(ctx context.Context) error {
	docker := b.Via.Client()
	none := uint64(0)
	for a := range listApplications {
		application := fmt.Sprintf("%s-%03d", prefix, a+1)
		for m := range listMembers {
			member := fmt.Sprintf("%s-%d", application, m+1)
			_, err := docker.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: swarm.ServiceSpec{
				Annotations: swarm.Annotations{
					Name: fmt.Sprintf("%s_%d", application, m+1),
					Labels: map[string]string{
						api.LabelApplication: application, api.LabelType: "postgresql",
						api.LabelMember: member, api.LabelSlot: fmt.Sprint(m + 1), api.LabelVolume: member,
						stackLabel: application, "com.docker.stack.image": postgresImage,
					},
				},
				TaskTemplate: swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: postgresImage}},
				Mode:         swarm.ServiceMode{Replicated: &swarm.ReplicatedService{Replicas: &none}},
			}})
			if err != nil {
				return err
			}
		}
	}
	return product.Until(ctx, 2*time.Minute, "all applications recorded", func(ctx context.Context) error {
		out, err := b.CLI(ctx, "ls", "--format", "{{.Name}} {{.Healthy}}")
		if err != nil {
			return err
		}
		whole := 0
		for line := range strings.Lines(out) {
			if strings.HasPrefix(line, prefix+"-") && strings.HasSuffix(strings.TrimSpace(line), fmt.Sprintf("/%d", listMembers)) {
				whole++
			}
		}
		if whole != listApplications {
			return fmt.Errorf("%d of %d are", whole, listApplications)
		}
		return nil
	})
}
