package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// openManage is an application of ours, with default settings.
type openManage struct {
	b          *bench
	name       string
	replicas   int
	volumeSize string
	image      string // what the members run
}

func (o *openManage) label() string   { return "OpenManage" }
func (o *openManage) network() string { return o.name + "_default" }

func (o *openManage) hosts() []string {
	var hosts []string
	for i := range o.replicas {
		hosts = append(hosts, fmt.Sprintf("%s-%d", o.name, i+1))
	}
	return hosts
}

func (o *openManage) deploy(ctx context.Context) error {
	o.image = postgresImage
	_, err := o.b.CLI(ctx, "create", "postgresql", o.name, "--replicas", fmt.Sprint(o.replicas), "--volume-size", o.volumeSize, "--yes")
	return err
}

func (o *openManage) members(ctx context.Context) ([]member, error) {
	listed, err := o.b.Members(ctx, o.name)
	if err != nil {
		return nil, err
	}
	var found []member
	for _, m := range listed {
		if m.Health != "healthy" {
			return nil, fmt.Errorf("%s is %s: %s", m.Member, m.Health, m.Message)
		}
		node, err := o.b.named(m.Node)
		if err != nil {
			return nil, err
		}
		container, err := o.b.runningOn(ctx, node, o.service(m.Member))
		if err != nil {
			return nil, err
		}
		found = append(found, member{name: m.Member, node: node, container: container, primary: m.Role == "primary"})
	}
	if len(found) != o.replicas {
		return nil, fmt.Errorf("%d of %d members are there", len(found), o.replicas)
	}
	if o.replicas < 3 {
		return found, nil
	}
	return found, follows(ctx, o, o.replicas-1)
}

// service is the Swarm service of a member: bench_1 of bench-1.
func (o *openManage) service(member string) string {
	return o.name + "_" + strings.TrimPrefix(member, o.name+"-")
}

func (o *openManage) lead(ctx context.Context, node *cluster.Node) error {
	if err := o.spread(ctx); err != nil {
		return err
	}
	members, err := waitWhole(ctx, o)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.node.Number == node.Number && !m.primary {
			return o.switchover(ctx, m.name)
		}
	}
	return nil
}

// spread has each member on a node of its own again. Swarm moves the member of a
// dead node to another, where it stays.
func (o *openManage) spread(ctx context.Context) error {
	for range 2 * o.replicas {
		members, err := waitWhole(ctx, o)
		if err != nil {
			return err
		}
		on := map[string]int{}
		for _, m := range members {
			on[m.node.Name]++
		}
		doubled := ""
		for _, m := range members {
			if on[m.node.Name] > 1 && !m.primary {
				doubled = m.name
			}
		}
		if doubled == "" {
			return nil
		}
		if _, err := o.b.Docker(ctx, "service", "update", "--force", "--quiet", o.service(doubled)); err != nil {
			return err
		}
	}
	return errors.New("two members always share a node")
}

func (o *openManage) switchover(ctx context.Context, to string) error {
	_, err := o.b.CLI(ctx, "switchover", o.name, "--to", to)
	return err
}

func (o *openManage) upgrade(ctx context.Context) error {
	next := otherImage(o.image, postgresImage, postgresNext)
	if _, err := o.b.CLI(ctx, "upgrade", o.name, "--image", next); err != nil {
		return err
	}
	o.image = next
	return nil
}

// otherImage is that of two which is not current.
func otherImage(current, a, b string) string {
	if current == a {
		return b
	}
	return a
}

func (o *openManage) sql(ctx context.Context, statements string) (string, error) {
	return o.b.SQL(ctx, o.name, statements)
}

// scaleTo changes the number of members.
func (o *openManage) scaleTo(ctx context.Context, replicas int) error {
	_, err := o.b.CLI(ctx, "scale", o.name, "--replicas", fmt.Sprint(replicas))
	o.replicas = replicas
	return err
}

// dropVolume deletes a volume that nobody has any more.
func (o *openManage) dropVolume(ctx context.Context, name string) error {
	return product.Until(ctx, time.Minute, "volume "+name+" deleted", func(ctx context.Context) error {
		_, err := o.b.CLI(ctx, "volume", "rm", name, "--yes-delete-data")
		return err
	})
}
