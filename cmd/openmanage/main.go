// Command openmanage is every part of OpenManage that runs in the Swarm, in one
// binary: the manager, the network helper, the managed volume plugin, and the
// agent in members' containers. The CLI plugin is cmd/docker-openmanage.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/swarmpki"
	"github.com/openmanage/openmanage/internal/version"
	"github.com/openmanage/openmanage/networkplugin"
	"github.com/openmanage/openmanage/swarmmanager"
)

// Where services and plugin find the host's folders.
const (
	hostRun   = "/host/run"   // /var/run, for the engine's socket
	hostSwarm = "/host/swarm" // DATA_ROOT/swarm
)

// Environment of the services, set by `docker openmanage install`.
const (
	envLogLevel       = "OPENMANAGE_LOG_LEVEL"
	envPlugin         = "OPENMANAGE_PLUGIN"          // reference of the volume plugin
	envPluginSettings = "OPENMANAGE_PLUGIN_SETTINGS" // KEY=VALUE, separated by blanks
)

// command is one of the parts. It returns the exit code.
type command struct {
	about string
	run   func(ctx context.Context, args []string) (int, error)
}

func commands() map[string]command {
	return map[string]command{
		"manager":          {"answers nodes, decides who holds a volume, keeps records", runManager},
		"network":          {"installs the volume plugin on its node, knows its members", runNetwork},
		"volume-plugin":    {"the managed volume plugin", runVolumePlugin},
		"agent":            {"PID 1 in a member's container; `agent health` is its health check", runAgent},
		"status":           {"asks the leading manager for members' newest state, as JSON", runStatus},
		"exec":             {"runs a command in the container of an application's primary", runExec},
		"inventory":        {"serves nodes and members to Prometheus and Rundeck; `--check` is its health check", runInventory},
		"zabbix-provision": {"gives a Zabbix its password and its hosts; `--check` is its health check", runZabbixProvision},
		"seal":             {"prints secrets that it finds as files, sealed for who asks", runSeal},
		"version":          {"prints the version", runVersion},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code, err := dispatch(ctx, os.Args)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "openmanage:", err)
	}
	os.Exit(code)
}

// dispatch runs the part that the first argument names, or the name of the
// binary: in a member's container it is called agent.
func dispatch(ctx context.Context, args []string) (int, error) {
	all := commands()
	if c, ok := all[filepath.Base(args[0])]; ok {
		return c.run(ctx, args[1:])
	}
	if len(args) > 1 {
		if c, ok := all[args[1]]; ok {
			return c.run(ctx, args[2:])
		}
	}
	fmt.Fprintln(os.Stderr, "Usage: openmanage COMMAND")
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(os.Stderr, "  %-16s %s\n", name, all[name].about)
	}
	return 2, nil
}

func logger(name string) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Name: name, Level: hclog.LevelFromString(os.Getenv(envLogLevel)), JSONFormat: true, Output: os.Stderr,
	})
}

// engine returns a client of the node's own Docker engine.
func engine() (*client.Client, error) {
	return client.New(client.WithHost("unix://" + filepath.Join(hostRun, "docker.sock")))
}

func identity() *swarmpki.Identity {
	return swarmpki.New(filepath.Join(hostSwarm, "certificates"))
}

func failed(err error) (int, error) {
	if err != nil {
		return 1, err
	}
	return 0, nil
}

func runManager(ctx context.Context, _ []string) (int, error) {
	docker, err := engine()
	if err != nil {
		return 1, err
	}
	return failed(swarmmanager.Run(ctx, swarmmanager.Config{
		Docker: docker, Identity: identity(), Log: logger("manager"), Version: version.Version,
		Listen: fmt.Sprintf(":%d", api.ManagerPort),
	}))
}

func runNetwork(ctx context.Context, _ []string) (int, error) {
	docker, err := engine()
	if err != nil {
		return 1, err
	}
	return failed(networkplugin.Run(ctx, networkplugin.Config{
		Docker: docker, Identity: identity(), Log: logger("network"), Version: version.Version,
		Listen: fmt.Sprintf(":%d", api.NodePort),
		Plugin: os.Getenv(envPlugin), PluginSettings: strings.Fields(os.Getenv(envPluginSettings)),
	}))
}

func runVersion(context.Context, []string) (int, error) {
	fmt.Println(version.Version)
	return 0, nil
}
