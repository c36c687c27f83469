// Package installation is OpenManage's own stack: the manager and the network
// helper, which brings the volume plugin to each node; and the check that all of
// it works on every node.
package installation

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/docker/cli/cli/compose/loader"
	"github.com/docker/cli/cli/compose/types"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/pluginref"
	"github.com/openmanage/openmanage/internal/store"
)

//go:embed stack.yaml.tmpl
var source string

// VersionLabel says of which version OpenManage's own services are.
const VersionLabel = "openmanage.version"

// Foreign returns the name of a service in the stack openmanage that is not
// OpenManage's, or "": somebody else may have taken the name for a stack.
func Foreign(services []swarm.Service) string {
	for _, s := range services {
		if s.Spec.Name != preflight.ManagerService && s.Spec.Name != preflight.NetworkService {
			return s.Spec.Name
		}
	}
	return ""
}

// Image returns the image that OpenManage's manager runs with on this Swarm.
func Image(ctx context.Context, docker client.APIClient) (string, error) {
	res, err := docker.ServiceList(ctx, client.ServiceListOptions{Filters: make(client.Filters).Add("name", preflight.ManagerService)})
	if err != nil {
		return "", preflight.Explain(ctx, docker, err)
	}
	for _, s := range res.Items { // the filter matches prefixes
		if c := s.Spec.TaskTemplate.ContainerSpec; s.Spec.Name == preflight.ManagerService && c != nil {
			return c.Image, nil
		}
	}
	return "", fmt.Errorf("%w\nInstall it with: docker openmanage install", preflight.ErrNotInstalled)
}

// Options of an installation.
type Options struct {
	Version  string
	Image    string
	Plugin   string // reference of the volume plugin
	DataDir  string // folder on every node for the images of volumes; "": the plugin's default
	RootDir  string // the engine's data root
	LogLevel string
}

// DefaultRootDir is where the engine keeps its data if nothing else is said; the
// plugin's own default agrees with it.
const DefaultRootDir = "/var/lib/docker"

// PluginSettings are what is set of the plugin, KEY=VALUE separated by blanks.
func (o Options) PluginSettings() string {
	var settings []string
	if o.DataDir != "" {
		settings = append(settings, "data.source="+o.DataDir)
	}
	if o.RootDir != DefaultRootDir {
		settings = append(settings, "swarm.source="+o.SwarmDir())
	}
	return strings.Join(settings, " ")
}

// SwarmDir is where the node's Swarm certificate lies.
func (o Options) SwarmDir() string { return path.Join(o.RootDir, "swarm") }

// Stack renders OpenManage's stack.
func Stack(o Options) ([]byte, error) {
	for what, dir := range map[string]string{"--data": o.DataDir, "the engine's data root": o.RootDir} {
		if dir != "" && (!path.IsAbs(dir) || strings.ContainsAny(dir, " \t\n")) {
			return nil, fmt.Errorf("%s: %q: expected an absolute path without blanks", what, dir)
		}
	}
	tmpl, err := template.New("openmanage").Delims("[[", "]]").Funcs(template.FuncMap{
		"quote": func(s string) string {
			return "'" + strings.NewReplacer("'", "''", "$", "$$").Replace(s) + "'"
		},
	}).Parse(source)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := tmpl.Execute(&out, o); err != nil {
		return nil, err
	}
	dict, err := loader.ParseYAML(out.Bytes())
	if err != nil {
		return nil, err
	}
	_, err = loader.Load(types.ConfigDetails{WorkingDir: "/", ConfigFiles: []types.ConfigFile{{Filename: "openmanage.yml", Config: dict}}})
	return out.Bytes(), err
}

// ErrAutolock: the Swarm encrypts the keys of its managers.
var ErrAutolock = errors.New("the Swarm has autolock on")

// CheckAutolock refuses a Swarm with autolock: its managers' keys are encrypted, so
// that OpenManage cannot prove who it is.
func CheckAutolock(ctx context.Context, docker client.APIClient) error {
	res, err := docker.SwarmInspect(ctx, client.SwarmInspectOptions{})
	if err != nil {
		return preflight.Explain(ctx, docker, err)
	}
	if !res.Swarm.Spec.EncryptionConfig.AutoLockManagers {
		return nil
	}
	return fmt.Errorf("%w: the private keys of its managers are encrypted on disk, and OpenManage uses them to prove who it is\nSwitch it off with: docker swarm update --autolock=false", ErrAutolock)
}

// NodeReport is how OpenManage is on one node.
type NodeReport struct {
	Hostname string
	Version  string
	OK       bool
	Problem  string
	Note     string // what remains to be done on a node that is ready
}

// Check looks once at every node that is up. ready is true when all are well and a
// manager leads.
func Check(ctx context.Context, docker client.APIClient, plugin string, now time.Time) (reports []NodeReport, leader string, ready bool, err error) {
	nodes, err := preflight.Nodes(ctx, docker)
	if err != nil {
		return nil, "", false, err
	}
	tasks, err := stackdeploy.Tasks(ctx, docker, api.StackName)
	if err != nil {
		return nil, "", false, err
	}
	services, err := docker.ServiceList(ctx, client.ServiceListOptions{Filters: make(client.Filters).Add("label", stackdeploy.NamespaceLabel+"="+api.StackName), Status: true})
	if err != nil {
		return nil, "", false, err
	}
	ready = len(services.Items) >= 2
	for _, s := range services.Items {
		if s.UpdateStatus != nil && s.UpdateStatus.State == swarm.UpdateStateUpdating {
			ready = false
		}
	}
	record, err := store.Get[store.Leader](ctx, store.New(docker), store.KindLeader, store.LeaderName)
	switch {
	case errors.Is(err, store.ErrNotFound):
		ready = false
	case err != nil:
		return nil, "", false, err
	case preflight.Fresh(record, now):
		leader = record.Value.Hostname
	default:
		ready = false
	}
	for _, n := range nodes {
		if !n.Expected() {
			continue
		}
		r := NodeReport{Hostname: n.Node.Description.Hostname, Problem: taskProblem(n, services.Items, tasks)}
		if n.Record != nil {
			r.Version = n.Record.Version
		}
		if r.Problem == "" {
			r.Problem = n.Problem()
		}
		if r.Problem == "" && plugin != "" && !pluginref.Same(n.Record.Plugin, plugin) {
			// In use it is replaced later: the node works, and the user is told.
			switch r.Note = n.Record.Problem; {
			case r.Note != "":
			case !n.Active():
				r.Note = fmt.Sprintf("it is set to %s: its volume plugin is replaced when it is active again", n.Node.Spec.Availability)
			default:
				r.Problem = "the volume plugin is being replaced by " + plugin
			}
		}
		r.OK = r.Problem == ""
		ready = ready && r.OK
		reports = append(reports, r)
	}
	return reports, leader, ready, nil
}

// taskProblem says which of our services does not run on a node as it should, and why.
func taskProblem(node preflight.NodeState, services []swarm.Service, tasks []swarm.Task) string {
	var problems []string
	for _, s := range slices.SortedFunc(slices.Values(services), func(a, b swarm.Service) int { return strings.Compare(a.Spec.Name, b.Spec.Name) }) {
		name := s.Spec.Name
		if name == preflight.ManagerService && node.Node.Spec.Role != swarm.NodeRoleManager {
			continue
		}
		var newest, running *swarm.Task
		for _, t := range tasks {
			if t.ServiceID != s.ID || t.NodeID != node.Node.ID {
				continue
			}
			if t.Status.State == swarm.TaskStateRunning && t.DesiredState == swarm.TaskStateRunning {
				running = &t
			}
			if newest == nil || t.CreatedAt.After(newest.CreatedAt) {
				newest = &t
			}
		}
		switch {
		case running != nil && image(running.Spec) != image(s.Spec.TaskTemplate):
			problem := fmt.Sprintf("%s runs %s, and not %s yet", name, image(running.Spec), image(s.Spec.TaskTemplate))
			if u := s.UpdateStatus; u != nil && u.State == swarm.UpdateStatePaused {
				problem += ": Swarm has stopped its update: " + u.Message + "; see why with docker service ps --no-trunc " + name + ", and install again"
			}
			problems = append(problems, problem)
		case running != nil:
		case newest == nil && !node.Active():
			// Swarm takes services off a drained node. Its plugin goes on.
		case newest == nil:
			problems = append(problems, name+" is not there yet")
		case newest.Status.Err != "":
			problems = append(problems, fmt.Sprintf("%s is %s: %s", name, newest.Status.State, newest.Status.Err))
		default:
			problems = append(problems, fmt.Sprintf("%s is %s", name, newest.Status.State))
		}
	}
	return strings.Join(problems, "; ")
}

// image is what a task runs.
func image(spec swarm.TaskSpec) string {
	if spec.ContainerSpec == nil {
		return ""
	}
	return spec.ContainerSpec.Image
}
