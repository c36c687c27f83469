package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/inventory"
	"github.com/openmanage/openmanage/stacks/zabbix"
)

// What the provisioner finds in its container (stacks/zabbix/app.yaml).
const (
	envZabbixApplication = "OPENMANAGE_ZABBIX_APPLICATION"
	envZabbixAPI         = "OPENMANAGE_ZABBIX_API"
	zabbixAdminFile      = "/run/secrets/admin-password"
	zabbixGood           = "/run/openmanage/zabbix-good"
)

// runZabbixProvision keeps Zabbix in line with the Swarm, or, with --check, tells whether it is.
func runZabbixProvision(ctx context.Context, args []string) (int, error) {
	switch {
	case len(args) == 1 && args[0] == "--check":
		return failed(zabbix.Check(zabbixGood))
	case len(args) > 0:
		return 2, fmt.Errorf("usage: openmanage zabbix-provision [--check]")
	}
	password, err := os.ReadFile(zabbixAdminFile)
	if err != nil {
		return 1, fmt.Errorf("read the password of Zabbix's user Admin: %w", err)
	}
	docker, err := client.New(client.WithHost(client.DefaultDockerHost))
	if err != nil {
		return 1, err
	}
	return failed(zabbix.Run(ctx, zabbix.Config{
		Application: os.Getenv(envZabbixApplication), API: os.Getenv(envZabbixAPI), Password: strings.TrimSpace(string(password)),
		State: inventory.Reader{Docker: docker}.State, Good: zabbixGood, Log: logger("zabbix-provision"),
	}))
}
