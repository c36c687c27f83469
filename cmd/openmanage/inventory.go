package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/inventory"
)

// envInventoryTargets is SERVICE:PORT, what /targets.json lists; without it there is no such page.
const envInventoryTargets = "OPENMANAGE_INVENTORY_TARGETS"

// runInventory serves what there is to Prometheus and Rundeck, or, with --check, tells whether it does.
func runInventory(ctx context.Context, args []string) (int, error) {
	switch {
	case len(args) == 1 && args[0] == "--check":
		return failed(inventory.Check(ctx))
	case len(args) > 0:
		return 2, errors.New("usage: openmanage inventory [--check]")
	}
	docker, err := client.New(client.WithHost(client.DefaultDockerHost))
	if err != nil {
		return 1, err
	}
	reader := inventory.Reader{Docker: docker}
	server := &inventory.Server{State: reader.State, Log: logger("inventory")}
	if of := os.Getenv(envInventoryTargets); of != "" {
		service, port, err := inventory.ParseService(of)
		if err != nil {
			return 2, fmt.Errorf("%s: %w", envInventoryTargets, err)
		}
		server.Targets = func(ctx context.Context) ([]inventory.Target, error) { return reader.Targets(ctx, service, port) }
	}
	return failed(server.Serve(ctx, fmt.Sprintf(":%d", inventory.Port)))
}
