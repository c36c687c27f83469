package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/product"
)

const (
	createRepeat = 5 // at most
	createGoal   = 1.1
	createLimit  = 5 * time.Minute
	// handStack is the stack of the applications that are written by hand.
	handStack = prefix + "-hand"
)

// createdTypes are the applications that create is measured with: the type, and what makes it
// as small as the one in the folder handwritten.
var createdTypes = []struct {
	typ, image string
	members    int
	perNode    int    // containers by hand on every node, beside the members
	ask        string // for bash: whether a server by hand serves, beside what Docker says; "": that is enough
	options    []string
}{
	{typ: "etcd", image: "etcd:3.5", members: 3, ask: `exec 3<>/dev/tcp/127.0.0.1/2379; printf 'GET /health HTTP/1.0\r\n\r\n' >&3; timeout 1 grep -q '"health":"true"' <&3`, options: []string{"--volume-size", "256MiB", "--memory", "512MiB"}},
	{typ: "rabbitmq", image: "rabbitmq:4-management", members: 3, ask: "exec 3<>/dev/tcp/127.0.0.1/5672", options: []string{"--volume-size", "1GiB", "--memory", "768MiB"}},
	{typ: "kafka", image: "apache/kafka:4.1.0", members: 3, ask: "exec 3<>/dev/tcp/127.0.0.1/9092", options: []string{"--volume-size", "512MiB", "--memory", "1GiB", "--set", "heap=512m"}},
	{typ: "prometheus", image: "prom/prometheus:v3.5.0", members: 1, perNode: 1, options: []string{"--volume-size", "256MiB", "--memory", "512MiB"}},
}

// createdImages are what they run.
func createdImages() []string {
	images := []string{"prom/node-exporter:v1.9.1"} // a component of Prometheus, and of the stack by hand
	for _, one := range createdTypes {
		images = append(images, one.image)
	}
	return images
}

// handwritten are the stacks that an administrator would write for the same servers.
//
//go:embed handwritten
var handwritten embed.FS

// create measures the time from `docker openmanage create` until the application is
// healthy against `docker stack deploy` of a stack that is written by hand.
func create(ctx context.Context, b *bench) (measure.Result, error) {
	var result measure.Result
	dir, err := os.MkdirTemp("", "openmanage-bench-")
	if err != nil {
		return result, err
	}
	defer os.RemoveAll(dir)
	if err := os.CopyFS(dir, handwritten); err != nil {
		return result, err
	}
	repeat := min(b.repeat, createRepeat)
	for _, one := range createdTypes {
		var took [2]measure.Sample
		for i := range repeat {
			err := inTurn(i, func(side int) error {
				b.say.Step("create: %s, %d of %d, %s", one.typ, i+1, repeat, [...]string{"OpenManage", "by hand"}[side])
				ms, err := timed(func() error {
					if side == referenceSide {
						return b.deployByHand(ctx, filepath.Join(dir, "handwritten", one.typ+".yml"), one.members+one.perNode*len(b.c.Nodes()), one.ask)
					}
					_, err := b.CLI(ctx, append([]string{"create", one.typ, prefix, "--image", one.image, "--yes"}, one.options...)...)
					return err
				})
				took[side] = append(took[side], ms/1000)
				return errors.Join(err, b.tidy(ctx))
			})
			if err != nil {
				return result, fmt.Errorf("%s: %w", one.typ, err)
			}
		}
		result.Measurements = append(result.Measurements, measure.Ratio(
			fmt.Sprintf("%s, %d members: from `create` to healthy, against `docker stack deploy` of a stack by hand", one.typ, one.members),
			"s", took[ourSide], took[referenceSide], measure.AtMost(createGoal)))
	}
	result.Note("%d repetitions in turn; the stacks by hand are in testenv/bench/handwritten, with local volumes. A stack by hand is healthy when Docker says so, which asks them every second while they start. RabbitMQ and Kafka have no health check, which would keep their names from each other, and are healthy when all answer on their ports; etcd has one of its port, and is healthy when all say so at /health besides. Every node has the images.", repeat)
	return result, nil
}

// deployByHand deploys a stack and waits until that many containers are healthy, if they have a health
// check, and serve, as far as ask tells.
func (b *bench) deployByHand(ctx context.Context, file string, members int, ask string) error {
	if _, err := b.Docker(ctx, "stack", "deploy", "--detach=true", "--compose-file", file, handStack); err != nil {
		return err
	}
	return product.Until(ctx, createLimit, handStack+" healthy", func(ctx context.Context) error {
		healthy := 0
		var states []string
		for _, node := range b.c.Nodes() {
			found, err := node.Client().ContainerList(ctx, client.ContainerListOptions{Filters: make(client.Filters).Add("label", stackLabel+"="+handStack)})
			if err != nil {
				return err
			}
			for _, c := range found.Items {
				states = append(states, c.Status)
				if strings.Contains(c.Status, "(") && !strings.Contains(c.Status, "(healthy)") { // Docker Engine 26 does not say it apart
					continue
				}
				if ask != "" {
					if _, _, err := node.Exec(ctx, "docker", "exec", c.ID, "bash", "-c", ask); err != nil {
						continue
					}
				}
				healthy++
			}
		}
		if healthy != members {
			return fmt.Errorf("%d of %d are: %s", healthy, members, strings.Join(states, "; "))
		}
		return nil
	})
}
