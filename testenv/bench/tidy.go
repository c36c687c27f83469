package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/testenv/product"
)

// prefix starts the name of all that the benchmarks make: applications, services,
// containers, volumes. By it purge finds what an earlier run has left, too.
const prefix = "bench"

// empty removes every service and container but OpenManage's own: whatever else
// runs is measured, too, and volumes in use keep the plugin from being replaced.
// Volumes stay.
func (b *bench) empty(ctx context.Context) error {
	return errors.Join(b.dropWriters(ctx), b.removeServices(ctx), b.removeContainers(ctx), b.dropByHand(ctx))
}

// tidy removes what benchmarks have made, with the data.
func (b *bench) tidy(ctx context.Context) error {
	if err := b.empty(ctx); err != nil {
		return err
	}
	if err := errors.Join(b.purge(ctx), b.dropLocalVolumes(ctx), b.dropSecrets(ctx)); err != nil {
		return err
	}
	return b.label(ctx)
}

// stackLabel is what Docker marks a stack's services with.
const stackLabel = "com.docker.stack.namespace"

func (b *bench) removeServices(ctx context.Context) error {
	docker := b.Via.Client()
	services, err := docker.ServiceList(ctx, client.ServiceListOptions{})
	if err != nil {
		return err
	}
	err = inParallel(len(services.Items), func(i int) error {
		if services.Items[i].Spec.Labels[stackLabel] == api.StackName {
			return nil
		}
		_, err := docker.ServiceRemove(ctx, services.Items[i].ID, client.ServiceRemoveOptions{})
		return err
	})
	if err != nil {
		return err
	}
	return product.Until(ctx, 2*time.Minute, "networks removed", func(ctx context.Context) error {
		networks, err := docker.NetworkList(ctx, client.NetworkListOptions{})
		for _, n := range networks.Items {
			if strings.HasPrefix(n.Name, prefix) {
				_, failed := docker.NetworkRemove(ctx, n.ID, client.NetworkRemoveOptions{})
				err = errors.Join(err, failed)
			}
		}
		return err
	})
}

// removeContainers ends those that are no task of a service, and waits for the
// tasks of removed services to leave their volumes.
func (b *bench) removeContainers(ctx context.Context) error {
	for _, node := range b.c.Nodes() {
		err := product.Until(ctx, 2*time.Minute, node.Name+" empty", func(ctx context.Context) error {
			left, err := node.Client().ContainerList(ctx, client.ContainerListOptions{All: true})
			if err != nil {
				return err
			}
			for _, c := range left.Items {
				if _, task := c.Labels["com.docker.swarm.task.id"]; !task {
					if _, err := b.docker(ctx, node, "rm", "--force", c.ID); err != nil {
						return err
					}
					continue
				}
				if c.Labels[stackLabel] != api.StackName && c.State == container.StateRunning {
					err = fmt.Errorf("%v still runs", c.Names)
				}
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// purge deletes the volumes as `docker openmanage volume rm --yes-delete-data`
// does, all at once, and waits until their applications are forgotten.
func (b *bench) purge(ctx context.Context) error {
	records := store.New(b.Via.Client())
	return product.Until(ctx, 4*time.Minute, "volumes and applications deleted", func(ctx context.Context) error {
		volumes, err := store.List[api.Volume](ctx, records, store.KindVolume)
		if err != nil {
			return err
		}
		left := 0
		var free []string
		for _, v := range volumes {
			if !strings.HasPrefix(v.Name, prefix) {
				continue
			}
			left++
			if v.Value.Owner == nil && !v.Value.Purging {
				free = append(free, v.Name)
			}
		}
		if err := inParallel(len(free), func(i int) error { return ask(ctx, records, free[i]) }); err != nil {
			return err
		}
		applications, err := store.List[store.Application](ctx, records, store.KindApplication)
		if err != nil {
			return err
		}
		for _, a := range applications {
			if strings.HasPrefix(a.Name, prefix) {
				left++
			}
		}
		if left > 0 {
			return fmt.Errorf("%d are left", left)
		}
		return b.dropRequests(ctx, records)
	})
}

// dropRequests deletes the records of deletions that were done, which would be kept for
// a day: thousands of them are measured, too.
func (b *bench) dropRequests(ctx context.Context, records *store.Store) error {
	operations, err := store.List[store.Operation](ctx, records, store.KindOperation)
	if err != nil {
		return err
	}
	return inParallel(len(operations), func(i int) error {
		r := operations[i]
		if r.Value.Kind != store.OperationPurge || !strings.HasPrefix(r.Value.Target, prefix) || r.Value.Ended == nil {
			return nil
		}
		return store.Delete(ctx, records, store.KindOperation, r)
	})
}

// dropLocalVolumes removes the volumes of Docker's own driver.
func (b *bench) dropLocalVolumes(ctx context.Context) error {
	for _, node := range b.c.Nodes() {
		err := product.Until(ctx, time.Minute, "local volumes of "+node.Name+" removed", func(ctx context.Context) error {
			names, err := b.docker(ctx, node, "volume", "ls", "--quiet", "--filter", "driver=local", "--filter", "name="+prefix+"-")
			for _, name := range strings.Fields(names) {
				if !strings.HasPrefix(name, prefix+"-") { // Docker finds it anywhere in a name
					continue
				}
				_, failed := b.docker(ctx, node, "volume", "rm", name)
				err = errors.Join(err, failed)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// dropSecrets removes those of plain services. An application's go with it.
func (b *bench) dropSecrets(ctx context.Context) error {
	ids, err := b.Docker(ctx, "secret", "ls", "--quiet", "--filter", "name="+prefix+"-")
	if err != nil || ids == "" {
		return err
	}
	_, err = b.Docker(ctx, append([]string{"secret", "rm"}, strings.Fields(ids)...)...)
	return err
}

// ask requests the deletion of a volume, again if it has failed before.
func ask(ctx context.Context, records *store.Store, volume string) error {
	request := store.Operation{
		Kind: store.OperationPurge, Target: volume, By: "bench", State: store.OperationRequested, Started: time.Now().UTC().Truncate(time.Second),
	}
	name := store.OperationPurge + "." + volume
	_, err := store.Create(ctx, records, store.KindOperation, name, request)
	if !errors.Is(err, store.ErrExists) {
		return err
	}
	_, err = store.Modify(ctx, records, store.KindOperation, name, func(o *store.Operation) (bool, error) {
		if o.State == store.OperationRequested || o.State == store.OperationRunning {
			return false, nil
		}
		*o = request
		return true, nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil // done meanwhile
	}
	return err
}

// hereLabel marks the nodes that a service may run on.
const hereLabel = "bench-here"

// label has exactly these nodes carry hereLabel.
func (b *bench) label(ctx context.Context, names ...string) error {
	want := map[string]bool{}
	for _, name := range names {
		want[name] = true
	}
	return product.Until(ctx, time.Minute, "nodes labelled", func(ctx context.Context) error {
		nodes, err := b.Via.Client().NodeList(ctx, client.NodeListOptions{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Items {
			_, has := n.Spec.Labels[hereLabel]
			wanted := want[n.Description.Hostname]
			switch {
			case has == wanted:
				continue
			case wanted && n.Spec.Labels == nil:
				n.Spec.Labels = map[string]string{hereLabel: "true"}
			case wanted:
				n.Spec.Labels[hereLabel] = "true"
			default:
				delete(n.Spec.Labels, hereLabel)
			}
			if _, err := b.Via.Client().NodeUpdate(ctx, n.ID, client.NodeUpdateOptions{Version: n.Version, Spec: n.Spec}); err != nil {
				return err
			}
		}
		return nil
	})
}
