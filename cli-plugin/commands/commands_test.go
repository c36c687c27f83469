package commands

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/streams"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/golden"

	"github.com/openmanage/openmanage/cli-plugin/internal/claim"
	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/cli-plugin/internal/installation"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// session is one command run against a fake Swarm.
type session struct {
	docker   *fakeswarm.Client
	stdin    string
	terminal bool
	out, err bytes.Buffer
}

// fakeCLI is the docker program's side; what has no method here panics.
type fakeCLI struct {
	command.Cli
	docker   client.APIClient
	in       *streams.In
	out, err *streams.Out
}

func (c *fakeCLI) Client() client.APIClient           { return c.docker }
func (c *fakeCLI) In() *streams.In                    { return c.in }
func (c *fakeCLI) Out() *streams.Out                  { return c.out }
func (c *fakeCLI) Err() *streams.Out                  { return c.err }
func (c *fakeCLI) ConfigFile() *configfile.ConfigFile { return configfile.New("") }

func (s *session) cli() command.Cli {
	c := &fakeCLI{docker: s.docker, in: streams.NewIn(io.NopCloser(strings.NewReader(s.stdin))), out: streams.NewOut(&s.out), err: streams.NewOut(&s.err)}
	c.in.SetIsTerminal(s.terminal)
	c.out.SetIsTerminal(s.terminal)
	return c
}

// run runs `docker openmanage ARGS`.
func (s *session) run(t *testing.T, args ...string) error {
	t.Helper()
	root := s.root()
	args = append([]string{"openmanage"}, args...)
	AddParameterFlags(root.Commands()[0], args)
	root.SetArgs(args)
	return root.ExecuteContext(t.Context())
}

// root is `docker`.
func (s *session) root() *cobra.Command {
	root := &cobra.Command{Use: "docker", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(New(s.cli(), "1.2.3"))
	root.SetOut(&s.out)
	root.SetErr(&s.err)
	return root
}

// installed returns a Swarm of three nodes with OpenManage on it.
func installed(t *testing.T) *fakeswarm.Client {
	t.Helper()
	docker := fakeswarm.New("node1", "node2", "node3")
	for _, name := range []string{preflight.ManagerService, preflight.NetworkService} {
		docker.Services = append(docker.Services, service(name, api.StackName, map[string]string{installation.VersionLabel: "1.2.3"}))
	}
	fakeswarm.Put(t, docker, store.KindLeader, store.LeaderName, store.Leader{Node: "id-node1", Hostname: "node1"})
	for _, n := range []string{"node1", "node2", "node3"} {
		fakeswarm.Put(t, docker, store.KindNode, "id-"+n, store.Node{
			ID: "id-" + n, Hostname: n, Reporting: true, Version: "1.2.3",
			Storage: api.Storage{Backend: "file", Location: "folder", Free: 100 << 30, Total: 200 << 30},
		})
	}
	return docker
}

func service(name, stack string, labels map[string]string) swarm.Service {
	s := swarm.Service{ID: "id-" + name}
	s.Spec.Name = name
	s.Spec.Labels = map[string]string{stackdeploy.NamespaceLabel: stack}
	for k, v := range labels {
		s.Spec.Labels[k] = v
	}
	s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{}
	return s
}

// memberService is what `docker stack deploy` makes of a member.
func memberService(application, slot string) swarm.Service {
	member := application + "-" + slot
	s := service(application+"_"+slot, application, map[string]string{
		api.LabelApplication: application, api.LabelType: "postgresql", api.LabelMember: member, api.LabelSlot: slot, api.LabelVolume: member,
		api.LabelParameters: `{"max_connections":"200"}`,
	})
	s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{
		Image: "postgres:17@sha256:abc", Hostname: member,
		Mounts: []mount.Mount{{Source: member, VolumeOptions: &mount.VolumeOptions{DriverConfig: &mount.Driver{Options: map[string]string{"size": "10GiB", "fs": "ext4"}}}}},
	}
	return s
}

func member(name, node string, role api.Role) store.Member {
	return store.Member{
		Name: name, Volume: name, Hostname: node, Role: role, State: api.StateRunning, Healthy: true, Since: time.Now().Add(-time.Hour),
	}
}

func pg(created time.Duration) store.Application {
	return store.Application{
		Name: "pg", Type: "postgresql", Image: "postgres:17@sha256:abc", Primary: "pg-1", Created: time.Now().Add(-created),
		Members: []store.Member{member("pg-1", "node1", api.RolePrimary), member("pg-2", "node2", api.RoleStandby), member("pg-3", "node3", api.RoleStandby)},
	}
}

func TestList(t *testing.T) {
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(25*time.Hour))
	sick := pg(time.Hour)
	sick.Name, sick.Members[2].Healthy = "shop", false
	fakeswarm.Put(t, docker, store.KindApplication, "shop", sick)
	gone, removed := pg(time.Hour), time.Now()
	gone.Name, gone.Removed = "old", &removed
	fakeswarm.Put(t, docker, store.KindApplication, "old", gone)
	for _, tc := range []struct {
		doc, golden string
		args        []string
	}{
		{doc: "table", golden: "list.golden", args: []string{"ls"}},
		{doc: "removed ones too", golden: "list-all.golden", args: []string{"ls", "--all"}},
		{doc: "names", golden: "list-quiet.golden", args: []string{"ls", "--quiet"}},
		{doc: "template", golden: "list-template.golden", args: []string{"ls", "--format", "{{.Name}}: {{.Members}}"}},
		{doc: "table template", golden: "list-table-template.golden", args: []string{"ls", "--format", `table {{.Name}}\t{{.Status}}`}},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			s := session{docker: docker}
			assert.NilError(t, s.run(t, tc.args...))
			golden.Assert(t, s.out.String(), tc.golden)
			assert.Equal(t, s.err.String(), "")
		})
	}
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "ls", "--format", "json"))
	assert.Assert(t, strings.HasPrefix(s.out.String(), `{"CreatedAt":"`), s.out.String())
}

func TestListWarnsIfNoManagerLeads(t *testing.T) {
	docker := installed(t)
	docker.Age(store.KindLeader, store.LeaderName, time.Minute)
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "ls"))
	assert.Assert(t, strings.HasPrefix(s.err.String(), "warning: what is shown may be out of date: OpenManage's manager cannot be reached: node1 led last, 1m"), s.err.String())
}

func TestPS(t *testing.T) {
	docker := installed(t)
	app := pg(time.Hour)
	app.Members[1].Pinned = true
	app.Members[2].Healthy, app.Members[2].State, app.Members[2].Message = false, api.StateWaiting, "volume pg-3 is held by pg_3.1 on node1"
	app.Members[1].Disk, app.Members[2].Disk = store.DiskAlmostFull, store.DiskFull
	app.Problems = []string{`label openmanage.sync.mode="maybe": expected quorum or off`}
	fakeswarm.Put(t, docker, store.KindApplication, "pg", app)
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "ps", "pg"))
	golden.Assert(t, s.out.String(), "ps.golden")
	assert.Equal(t, s.err.String(), "problem: label openmanage.sync.mode=\"maybe\": expected quorum or off\n")

	err := s.run(t, "ps", "gp")
	assert.ErrorContains(t, err, "no such application: gp; did you mean \"pg\"?\nSee what there is with: docker openmanage ls")
}

func TestUsageIsOfSpaceOrOfFiles(t *testing.T) {
	assert.Equal(t, usageText(api.Usage{}), "-")
	assert.Equal(t, usageText(api.Usage{Used: 87 << 30, Free: 13 << 30, Files: 100, FilesFree: 90}), "87% of 100GiB")
	assert.Equal(t, usageText(api.Usage{Used: 87 << 30, Free: 13 << 30, Files: 100, FilesFree: 3}), "97% of files")
}

func volume(name, application string, owner *api.Owner) api.Volume {
	return api.Volume{
		VolumeSpec: api.VolumeSpec{Name: name, Size: 10 << 30, Filesystem: "ext4", Backend: "file", Application: application, Member: name},
		Owner:      owner, Created: time.Now().Add(-time.Hour),
	}
}

func TestVolumeList(t *testing.T) {
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindVolume, "pg-1", volume("pg-1", "pg", &api.Owner{Hostname: "node1", Task: "pg_1.1"}))
	kept := volume("pg-2", "pg", nil)
	kept.Retained, kept.LastNode = true, "id-node2"
	fakeswarm.Put(t, docker, store.KindVolume, "pg-2", kept)
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "volume", "ls"))
	golden.Assert(t, s.out.String(), "volume-list.golden")
}

func TestVolumeRemove(t *testing.T) {
	for _, tc := range []struct {
		doc  string
		args []string
		want string
	}{
		{doc: "no such volume", args: []string{"nope", "--yes-delete-data"}, want: "no such volume: nope"},
		{doc: "attached", args: []string{"pg-1", "--yes-delete-data"}, want: "the volume pg-1 is attached (pg_1.1 on node1)\nRemove what uses it first: docker openmanage rm pg"},
		{doc: "not confirmed", args: []string{"pg-2"}, want: "the volume pg-2 (10GiB) would be deleted with all data on it, for good\nTo do so: docker openmanage volume rm pg-2 --yes-delete-data"},
		{doc: "one of two is attached", args: []string{"pg-2", "pg-1", "--yes-delete-data"}, want: "pg-1 is attached"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := installed(t)
			fakeswarm.Put(t, docker, store.KindVolume, "pg-1", volume("pg-1", "pg", &api.Owner{Hostname: "node1", Task: "pg_1.1"}))
			fakeswarm.Put(t, docker, store.KindVolume, "pg-2", volume("pg-2", "pg", nil))
			s := session{docker: docker}
			err := s.run(t, append([]string{"volume", "rm"}, tc.args...)...)
			assert.ErrorContains(t, err, tc.want)
			assert.Assert(t, !strings.Contains(strings.Join(docker.Records(), " "), "openmanage.operation."), "nothing is asked for")
		})
	}
	t.Run("asks the leader and waits", func(t *testing.T) {
		docker := installed(t)
		fakeswarm.Put(t, docker, store.KindVolume, "pg-2", volume("pg-2", "pg", nil))
		go func() {
			for t.Context().Err() == nil {
				_, err := store.Modify(t.Context(), store.New(docker), store.KindOperation, "purge.pg-2", func(o *store.Operation) (bool, error) {
					assert.Check(t, o.Kind == store.OperationPurge && o.Target == "pg-2")
					o.State = store.OperationDone
					return true, nil
				})
				if err == nil {
					return
				}
			}
		}()
		s := session{docker: docker}
		assert.NilError(t, s.run(t, "volume", "rm", "pg-2", "--yes-delete-data"))
		assert.Equal(t, s.out.String(), "pg-2\n")
	})
}

// fakeDeployer stands for the docker program: what it deploys is healthy at once,
// unless it fails.
type fakeDeployer struct {
	t       *testing.T
	docker  *fakeswarm.Client
	fail    error
	deploys []string
}

func (d *fakeDeployer) Deploy(_ context.Context, name string, file []byte, _ stackdeploy.Options) error {
	d.deploys = append(d.deploys, string(file))
	if d.fail != nil {
		return d.fail
	}
	d.docker.Services = append(d.docker.Services, memberService(name, "1"), memberService(name, "2"), memberService(name, "3"))
	fakeswarm.Put(d.t, d.docker, store.KindApplication, name, pg(0))
	return nil
}

// create runs `create ARGS` with a fake deployer.
func (s *session) create(t *testing.T, deployer stackdeploy.Deployer, args ...string) error {
	t.Helper()
	dockerCLI := s.cli()
	var o createOptions
	cmd := &cobra.Command{Use: "create", SilenceUsage: true, SilenceErrors: true, RunE: func(cmd *cobra.Command, args []string) error {
		o.typeName, o.name = args[0], args[1]
		return runCreate(cmd.Context(), dockerCLI, cmd.Flags(), deployer, &o)
	}}
	o.addTo(cmd, dockerCLI)
	allowFlag(cmd, &o.allow)
	cmd.Flags().BoolVar(&o.yes, "yes", false, "")
	cmd.Flags().DurationVar(&o.timeout, "timeout", 5*time.Second, "")
	cmd.Flags().StringVar(&o.resolveImage, "resolve-image", "always", "")
	cmd.SetArgs(args)
	return cmd.ExecuteContext(t.Context())
}

func TestCreate(t *testing.T) {
	docker := installed(t)
	deployer := &fakeDeployer{t: t, docker: docker}
	s := session{docker: docker}
	assert.NilError(t, s.create(t, deployer, "postgres", "pg", "--set", "max_connections=200"))
	assert.Equal(t, s.out.String(), "pg is healthy. Next: docker openmanage connect pg\n")
	golden.Assert(t, s.err.String(), "create-progress.golden")

	assert.Equal(t, len(docker.Secrets), 2)
	for _, secret := range docker.Secrets {
		assert.Equal(t, len(secret.Spec.Data), 48)
		assert.Equal(t, secret.Spec.Labels[api.LabelApplication], "pg")
		for _, file := range deployer.deploys {
			assert.Assert(t, !strings.Contains(file, string(secret.Spec.Data)), "no password in the stack")
		}
	}
	op, err := store.Get[store.Operation](t.Context(), store.New(docker), store.KindOperation, claim.Name("pg"))
	assert.NilError(t, err)
	assert.Equal(t, op.Value.State, store.OperationDone)

	t.Run("again changes nothing", func(t *testing.T) {
		s := session{docker: docker}
		// As of a member that was added by scale.
		found := false
		for _, service := range docker.Services {
			for _, m := range service.Spec.TaskTemplate.ContainerSpec.Mounts {
				if service.Spec.Labels[api.LabelMember] == "pg-1" && m.VolumeOptions != nil && m.VolumeOptions.DriverConfig != nil {
					m.VolumeOptions.DriverConfig.Options[api.OptionSize] = "10737418240"
					found = true
				}
			}
		}
		assert.Assert(t, found)
		assert.NilError(t, s.create(t, deployer, "postgresql", "pg", "--set", "max_connections=200", "--replicas", "3", "--volume-size", "10GiB"))
		assert.Equal(t, len(deployer.deploys), 1)
	})
	t.Run("again with other options is refused and says which", func(t *testing.T) {
		s := session{docker: docker}
		err := s.create(t, deployer, "postgresql", "pg", "--replicas", "2", "--image", "postgres:16", "--volume-size", "20GiB", "--memory", "1GiB",
			"--publish", "15432", "--network", "apps", "--set", "max_connections=300", "--set", "work_mem=8MB")
		assert.ErrorContains(t, err, "pg exists already, with other options:\n"+
			"  --replicas is 3, you ask for 2\n  --image is postgres:17, you ask for postgres:16\n  --volume-size is 10GiB, you ask for 20GiB\n"+
			"  --memory is 0, you ask for 1GiB\n  --publish is nothing, you ask for 15432:5432\n  --set max_connections is 200, you ask for 300\n  --set work_mem is not set, you ask for 8MB\n  --network apps is not attached\n")
		assert.Equal(t, len(deployer.deploys), 1)
	})
}

func TestCreateGoesOnAfterAFailure(t *testing.T) {
	docker := installed(t)
	deployer := &fakeDeployer{t: t, docker: docker, fail: errors.New("the network broke")}
	s := session{docker: docker}
	err := s.create(t, deployer, "postgresql", "pg")
	assert.ErrorContains(t, err, "the network broke\nWhat was made stays. To go on, run the same command again; to undo: docker openmanage rm pg")
	first := docker.Secrets
	deployer.fail = nil
	assert.NilError(t, s.create(t, deployer, "postgresql", "pg"))
	assert.DeepEqual(t, docker.Secrets, first, cmpopts.EquateEmpty())
	assert.Equal(t, deployer.deploys[0], deployer.deploys[1])
}

func TestCreateInterrupted(t *testing.T) {
	docker := installed(t)
	ctx, interrupt := context.WithCancel(t.Context())
	c := &creation{}
	c.options.Name = "pg"
	interrupt()
	err := c.explainFailure(ctx, ctx, context.Canceled)
	assert.ErrorContains(t, err, "interrupted: pg is not yet healthy")
	assert.ErrorContains(t, err, "to undo: docker openmanage rm pg")
	_ = docker
}

func TestCreateRefuses(t *testing.T) {
	unreachable := func(docker *fakeswarm.Client) {
		docker.InfoFunc = func() (system.Info, error) { return system.Info{}, errors.New("connection refused") }
	}
	swarmInfo := func(i swarm.Info) func(*fakeswarm.Client) {
		return func(docker *fakeswarm.Client) {
			docker.InfoFunc = func() (system.Info, error) { return system.Info{Name: "node1", Swarm: i}, nil }
		}
	}
	for _, tc := range []struct {
		doc   string
		typ   string // postgresql, unless it says another
		args  []string
		setup func(*fakeswarm.Client)
		want  string
	}{
		{doc: "no daemon", setup: unreachable, want: "the Docker daemon cannot be reached at unix:///var/run/docker.sock: connection refused"},
		{doc: "no Swarm", setup: swarmInfo(swarm.Info{LocalNodeState: swarm.LocalNodeStateInactive}), want: "not part of a Swarm (node1)\nMake one with: docker swarm init"},
		{doc: "a worker", setup: swarmInfo(swarm.Info{LocalNodeState: swarm.LocalNodeStateActive, RemoteManagers: []swarm.Peer{{Addr: "10.0.0.1:2377"}}}), want: "node1 is a worker (managers: 10.0.0.1:2377)"},
		{doc: "a locked Swarm", setup: swarmInfo(swarm.Info{LocalNodeState: swarm.LocalNodeStateLocked}), want: "docker swarm unlock"},
		{doc: "not installed", setup: func(d *fakeswarm.Client) { d.Services = nil }, want: "not installed on this Swarm\nInstall it with: docker openmanage install"},
		{doc: "no leader", setup: func(d *fakeswarm.Client) { d.Age(store.KindLeader, store.LeaderName, time.Hour) }, want: "OpenManage's manager cannot be reached: node1 led last, 1h0m"},
		{doc: "plugin missing on a node", setup: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindNode, "id-node2", store.Node{ID: "id-node2", Problem: "cannot pull the plugin"})
		}, want: "node2: cannot pull the plugin"},
		{doc: "storage broken on a node", setup: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindNode, "id-node3", store.Node{ID: "id-node3", Reporting: true, Storage: api.Storage{Error: "read-only"}})
		}, want: "node3: its storage: read-only"},
		{doc: "a stack that is not ours", setup: func(d *fakeswarm.Client) { d.Services = append(d.Services, service("pg_web", "pg", nil)) }, want: "the name pg is taken by a stack that is not OpenManage's (service pg_web)"},
		{doc: "a service of the name", setup: func(d *fakeswarm.Client) { d.Services = append(d.Services, service("pg_2", "", nil)) }, want: "the service name pg_2 is taken"},
		{doc: "an application of another type", setup: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindApplication, "pg", store.Application{Name: "pg", Type: "redis"})
		}, want: "the name pg is taken: its kept volumes are of type redis"},
		{doc: "a volume that is not of it", setup: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindVolume, "pg-2", volume("pg-2", "", nil))
		}, want: "the volume name pg-2 is taken"},
		{doc: "a port that is taken", args: []string{"--publish", "5432"}, setup: func(d *fakeswarm.Client) {
			other := service("web_1", "web", nil)
			other.Spec.EndpointSpec = &swarm.EndpointSpec{Ports: []swarm.PortConfig{{Protocol: "tcp", PublishedPort: 5432, TargetPort: 80}}}
			d.Services = append(d.Services, other)
		}, want: "port 5432 of the nodes is taken: service web_1 publishes it\nChoose another one, such as --publish 15432:5432"},
		{doc: "a domain that is taken", typ: "prometheus", args: []string{"--domain", "metrics.example.org"}, setup: func(d *fakeswarm.Client) {
			d.Services = append(d.Services, service("web_1", "web", map[string]string{"traefik.http.routers.web.rule": "Host(`metrics.example.org`)"}))
		}, want: "the domain metrics.example.org is taken: service web_1 answers there\nChoose another --domain"},
		{doc: "beyond free space", args: []string{"--volume-size", "40GiB"}, want: "3 volumes of 40GiB are asked for, 2 fit"},
		{doc: "network missing", args: []string{"--network", "apps"}, want: "docker network create --driver overlay --attachable apps"},
		{doc: "image that cannot be pulled", args: []string{"--image", "postgres:17.99"}, setup: func(d *fakeswarm.Client) {
			d.DistributionInspectFunc = func(string) error { return errors.New("manifest unknown") }
		}, want: "the image postgres:17.99 cannot be pulled: manifest unknown"},
		{doc: "kept volumes", setup: func(d *fakeswarm.Client) {
			v := volume("pg-1", "pg", nil)
			v.Retained = true
			fakeswarm.Put(t, d, store.KindVolume, "pg-1", v)
		}, want: "volumes of an earlier pg are kept: pg-1\nTo take them up with their data, add --yes"},
		{doc: "kept volume of another size", args: []string{"--volume-size", "20GiB"}, setup: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindVolume, "pg-1", volume("pg-1", "pg", nil))
		}, want: "the volume pg-1 exists with 10GiB, you ask for 20GiB"},
		{doc: "no members", args: []string{"--replicas", "0"}, want: "--replicas 0: postgresql has 1 to 9 members"},
		{doc: "negative members", args: []string{"--replicas", "-1"}, want: "--replicas -1: postgresql has 1 to 9 members"},
		{doc: "no size", args: []string{"--volume-size", "big"}, want: `--volume-size "big": it is no size`},
		{doc: "size 0", args: []string{"--volume-size", "0"}, want: "postgresql needs 256MiB at least"},
		{doc: "no key", args: []string{"--set", "work_mem"}, want: "expected KEY=VALUE"},
		{doc: "several mistakes at once", args: []string{"--publish", "x", "--set", "nope=1"}, want: "invalid parameter: postgresql has no \"nope\""},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := installed(t)
			if tc.setup != nil {
				tc.setup(docker)
			}
			deployer := &fakeDeployer{t: t, docker: docker}
			s := session{docker: docker}
			typ := "postgresql"
			if tc.typ != "" {
				typ = tc.typ
			}
			err := s.create(t, deployer, append([]string{typ, "pg"}, tc.args...)...)
			assert.ErrorContains(t, err, tc.want)
			assert.Equal(t, len(deployer.deploys)+len(docker.Secrets), 0, "nothing is made")
			assert.Assert(t, !strings.Contains(strings.Join(docker.Records(), " "), "openmanage.operation."), "nothing is claimed")
		})
	}
}

func TestCreateTakesUpKeptVolumes(t *testing.T) {
	kept := volume("pg-2", "pg", nil)
	kept.Retained, kept.Size, kept.Filesystem = true, 20<<30, "xfs"
	for _, tc := range []struct {
		doc    string
		args   []string
		answer string
		want   string
	}{
		{doc: "asked and yes", answer: "y\n"},
		{doc: "asked and no", answer: "\n", want: "nothing was made"},
		{doc: "told to", args: []string{"--yes"}},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := installed(t)
			fakeswarm.Put(t, docker, store.KindVolume, "pg-2", kept)
			deployer := &fakeDeployer{t: t, docker: docker}
			s := session{docker: docker, stdin: tc.answer, terminal: tc.answer != ""}
			err := s.create(t, deployer, append([]string{"postgresql", "pg"}, tc.args...)...)
			if tc.want != "" {
				assert.ErrorContains(t, err, tc.want)
				assert.Equal(t, len(deployer.deploys), 0)
				return
			}
			assert.NilError(t, err)
			assert.Assert(t, strings.Contains(deployer.deploys[0], "driver_opts: {size: 20GiB, fs: xfs, application: pg, member: pg-2}"))
			assert.Assert(t, strings.Contains(deployer.deploys[0], "driver_opts: {size: 10GiB, fs: ext4, application: pg, member: pg-1}"))
		})
	}
}

func TestRemove(t *testing.T) {
	docker := installed(t)
	docker.Services = append(docker.Services, memberService("pg", "1"), memberService("pg10", "1"))
	docker.Secrets = []swarm.Secret{{Spec: swarm.SecretSpec{Annotations: swarm.Annotations{Name: "pg_superuser-password", Labels: map[string]string{api.LabelApplication: "pg"}}}}}
	fakeswarm.Put(t, docker, store.KindVolume, "pg-1", volume("pg-1", "pg", nil))
	fakeswarm.Put(t, docker, store.KindOperation, claim.Name("pg"), store.Operation{State: store.OperationDone})

	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "rm", "pg"), "Add --yes to do so; its volumes and secrets are kept")
	assert.NilError(t, s.run(t, "rm", "--yes", "pg"))
	assert.Equal(t, s.out.String(), "kept volume pg-1 (10GiB)\nkept secret pg_superuser-password\n")
	var left []string
	for _, service := range docker.Services {
		left = append(left, service.Spec.Name)
	}
	assert.DeepEqual(t, left, []string{preflight.ManagerService, preflight.NetworkService, "pg10_1"})
	assert.Assert(t, cmp.Equal(len(docker.Secrets), 1))

	docker.Services = append(docker.Services, service("web_1", "web", nil))
	assert.ErrorContains(t, s.run(t, "rm", "--yes", "web"), "the stack web is not OpenManage's")
}

// An rm that was cut short is gone on with by the next one.
func TestRemoveGoesOn(t *testing.T) {
	docker := installed(t)
	docker.Networks = []network.Network{{ID: "net-pg", Name: "pg_default", Labels: map[string]string{stackdeploy.NamespaceLabel: "pg"}}}
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(0))
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "rm", "pg"))
	assert.Equal(t, len(docker.Networks), 0)
	assert.Check(t, is.Contains(s.err.String(), "pg is removed"))
}

// What somebody still deploys goes too.
func TestRemoveTakesWhatIsMadeMeanwhile(t *testing.T) {
	docker := installed(t)
	docker.Services = append(docker.Services, memberService("pg", "1"))
	docker.ServiceRemoveFunc = func(string) error {
		docker.ServiceRemoveFunc = nil
		docker.Services = append(docker.Services, memberService("pg", "2"))
		return nil
	}
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "rm", "--yes", "pg"))
	assert.Equal(t, len(docker.Services), 2, "those of OpenManage")
}

// The network of an application cannot go while others are attached: said before anything is removed.
func TestRemoveOfWhatOthersUse(t *testing.T) {
	docker := installed(t)
	docker.Networks = []network.Network{{ID: "net-pg", Name: "pg_default", Labels: map[string]string{stackdeploy.NamespaceLabel: "pg"}}}
	user := service("zb_web", "zb", nil)
	user.Spec.TaskTemplate.Networks = []swarm.NetworkAttachmentConfig{{Target: "net-zb"}, {Target: "net-pg"}}
	docker.Services = append(docker.Services, memberService("pg", "1"), user)
	before := len(docker.Services)
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "rm", "--yes", "pg"), "pg is in use: other services are attached to its network: zb_web\nNothing was removed")
	assert.Equal(t, len(docker.Services), before)
}

func TestInstallRefusesAutolock(t *testing.T) {
	docker := fakeswarm.New("node1")
	docker.Autolock = true
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "install"), "docker swarm update --autolock=false")
}

func TestUninstallRefuses(t *testing.T) {
	for _, tc := range []struct {
		doc   string
		setup func(*fakeswarm.Client)
		want  string
	}{
		{doc: "not installed", setup: func(d *fakeswarm.Client) { d.Services = nil }, want: "there is nothing to remove"},
		{doc: "a stack of somebody else", setup: func(d *fakeswarm.Client) {
			d.Services = append(d.Services, service("openmanage_web", api.StackName, nil))
		}, want: "the stack openmanage is not ours (service openmanage_web)"},
		{doc: "an application", setup: func(d *fakeswarm.Client) { fakeswarm.Put(t, d, store.KindApplication, "pg", pg(0)) }, want: "there are applications: pg\n"},
		{doc: "a volume in use", setup: func(d *fakeswarm.Client) {
			fakeswarm.Put(t, d, store.KindVolume, "data", volume("data", "", &api.Owner{Hostname: "node2"}))
		}, want: "volumes are in use: data on node2"},
		{doc: "nobody said yes", setup: func(*fakeswarm.Client) {}, want: "Add --yes"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := installed(t)
			tc.setup(docker)
			before := len(docker.Services)
			s := session{docker: docker}
			assert.ErrorContains(t, s.run(t, "uninstall"), tc.want)
			assert.Equal(t, len(docker.Services), before)
		})
	}
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindVolume, "kept", volume("kept", "", nil))
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "uninstall", "--yes"))
	assert.Equal(t, len(docker.Services), 0)
	assert.DeepEqual(t, docker.Records(), []string{"openmanage.volume.kept"})
}

func TestLogsAreOfTheNamedApplicationOnly(t *testing.T) {
	docker := installed(t)
	docker.Services = append(docker.Services, memberService("pg", "1"), memberService("pg", "2"))
	var asked []string
	docker.ServiceLogsFunc = func(service string, o client.ServiceLogsOptions) (io.ReadCloser, error) {
		asked = append(asked, service+" "+o.Tail)
		return io.NopCloser(strings.NewReader("")), nil
	}
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "logs", "pg", "pg-2", "--tail", "5"))
	assert.DeepEqual(t, asked, []string{"id-pg_2 5"})
	assert.ErrorContains(t, s.run(t, "logs", "pg", "pg-9"), "pg has no such member: [pg-9]")
}

func TestEvents(t *testing.T) {
	docker := installed(t)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.Local)
	fakeswarm.Put(t, docker, store.KindEvents, "pg", store.Events{Events: []store.Event{
		{Time: at, Kind: "created", Text: "3 members"}, {Time: at.Add(time.Hour), Member: "pg-1", Kind: "moved", Text: "node1 to node2"},
	}})
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "events", "pg", "--format", "{{.Member}} {{.Kind}} {{.Text}}"))
	assert.Equal(t, s.out.String(), "- created 3 members\npg-1 moved node1 to node2\n")
}

func TestInspect(t *testing.T) {
	docker := installed(t)
	docker.Services = append(docker.Services, memberService("pg", "1"))
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(0))
	fakeswarm.Put(t, docker, store.KindVolume, "pg-1", volume("pg-1", "pg", nil))
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "inspect", "pg", "--format", "{{.Primary}} {{len .Members}} {{(index .Volumes 0).Name}} {{.Parameters.max_connections}} {{index .Services 0}}"))
	assert.Equal(t, s.out.String(), "pg-1 3 pg-1 200 pg_1\n")
}

func TestConnectNeedsAManagerOnThisNode(t *testing.T) {
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(0))
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "connect", "pg"), "OpenManage's manager does not run on this node")
}

func TestGenerateAsksNoDaemon(t *testing.T) {
	s := session{} // any call would panic
	assert.NilError(t, s.run(t, "generate", "postgres", "pg", "--replicas", "1", "--publish", "15432"))
	assert.Assert(t, strings.Contains(s.out.String(), "- {target: 5432, published: 15432, protocol: tcp, mode: host}"))
}

func TestASwarmThatDoesNotAnswerIsExplained(t *testing.T) {
	err := errors.New("Error response from daemon: rpc error: code = DeadlineExceeded desc = context deadline exceeded")
	cmd := &cobra.Command{Use: "parent", SilenceErrors: true, SilenceUsage: true}
	cmd.AddCommand(&cobra.Command{Use: "child", RunE: func(*cobra.Command, []string) error { return err }})
	explainErrors(cmd)
	cmd.SetArgs([]string{"child"})
	got := cmd.ExecuteContext(t.Context())
	assert.ErrorIs(t, got, err)
	assert.ErrorContains(t, got, "no leader: see `docker node ls`")
	err = errors.New("another")
	assert.Equal(t, cmd.ExecuteContext(t.Context()), err)
}
