package main

import (
	"context"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/testenv/cluster"
)

// device is the name of a volume's image.
func (b *bench) device(ctx context.Context, volume string) (string, error) {
	record, err := store.Get[api.Volume](ctx, store.New(b.Via.Client()), store.KindVolume, volume)
	return record.Value.Device, err
}

// runningContainers lists the IDs of a service's containers that run on a node.
func runningContainers(ctx context.Context, node *cluster.Node, service string) ([]string, error) {
	found, err := node.Client().ContainerList(ctx, client.ContainerListOptions{
		Filters: make(client.Filters).Add("label", "com.docker.swarm.service.name="+service).Add("status", "running"),
	})
	var ids []string
	for _, c := range found.Items {
		ids = append(ids, c.ID)
	}
	return ids, err
}
