package commands

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli/compose/loader"
	"github.com/docker/cli/cli/compose/types"
	"github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/cli-plugin/internal/claim"
	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// loading stands for the docker program, for stacks of any type: all that it deploys is healthy at once.
type loading struct {
	t      *testing.T
	docker *fakeswarm.Client
	order  []string
	files  map[string]string
}

func (d *loading) Deploy(_ context.Context, name string, file []byte, _ stackdeploy.Options) error {
	dict, err := loader.ParseYAML(file)
	assert.NilError(d.t, err)
	config, err := loader.Load(types.ConfigDetails{WorkingDir: "/", ConfigFiles: []types.ConfigFile{{Filename: "stack.yml", Config: dict}}})
	assert.NilError(d.t, err)
	d.order, d.files[name] = append(d.order, name), string(file)
	app := store.Application{Name: name}
	for _, one := range config.Services {
		s := service(name+"_"+one.Name, name, one.Deploy.Labels)
		s.Spec.TaskTemplate.ContainerSpec.Image, s.Spec.TaskTemplate.ContainerSpec.Hostname = one.Image, one.Hostname
		s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: one.Deploy.Replicas}
		if one.Deploy.Mode == "global" {
			s.Spec.Mode = swarm.ServiceMode{Global: &swarm.GlobalService{}}
		}
		for _, p := range one.Ports {
			if s.Spec.EndpointSpec == nil {
				s.Spec.EndpointSpec = &swarm.EndpointSpec{}
			}
			s.Spec.EndpointSpec.Ports = append(s.Spec.EndpointSpec.Ports, swarm.PortConfig{TargetPort: p.Target, PublishedPort: p.Published})
		}
		d.docker.Services = append(d.docker.Services, s)
		if m := one.Deploy.Labels[api.LabelMember]; m != "" {
			app.Type = one.Deploy.Labels[api.LabelType]
			app.Members = append(app.Members, member(m, "node1", api.RoleMember))
			continue
		}
		d.docker.Tasks = append(d.docker.Tasks, swarm.Task{
			ID: "task-" + s.ID, ServiceID: s.ID, NodeID: "id-node2", DesiredState: swarm.TaskStateRunning, Status: swarm.TaskStatus{State: swarm.TaskStateRunning},
			Annotations: swarm.Annotations{Labels: s.Spec.Labels}, Spec: s.Spec.TaskTemplate,
		})
	}
	fakeswarm.Put(d.t, d.docker, store.KindApplication, name, app)
	return nil
}

func TestCreateMakesWhatIsNeededFirst(t *testing.T) {
	docker := installed(t)
	docker.Services[0].Spec.TaskTemplate.ContainerSpec.Image = "registry.example.com/openmanage:1.2.3"
	deployer := &loading{t: t, docker: docker, files: map[string]string{}}
	s := session{docker: docker}
	assert.NilError(t, s.create(t, deployer, "zabbix", "zb", "--publish", "8080"))
	assert.DeepEqual(t, deployer.order, []string{"zb-db", "zb"})
	assert.Check(t, is.Contains(deployer.files["zb"], "name: zb-db_superuser-password"))
	assert.Check(t, is.Contains(deployer.files["zb"], "name: zb-db_default"))
	assert.Check(t, is.Contains(deployer.files["zb"], "image: registry.example.com/openmanage:1.2.3"), "what is installed")
	said := s.out.String()
	assert.Check(t, is.Contains(said, "zb-web:8080  (web front end)"))
	assert.Check(t, is.Contains(said, "port 8080 of every node, published for 8080"))
	assert.Check(t, is.Contains(s.err.String(), "zb-agent        1 of 1 running"))

	// Again: all is there.
	assert.Check(t, is.Contains(s.err.String(), "zb-provisioner  1 of 1 running"))
	assert.NilError(t, s.create(t, deployer, "zabbix", "zb", "--publish", "8080"))
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"--publish", "8081:8080"}, "--publish is 8080:8080, you ask for 8081:8080"},
		{[]string{"--domain", "zabbix.example.org"}, "--domain zabbix.example.org: it does not answer there through traefik"},
		{[]string{"--use", "db=other"}, "--use db=other: it uses another one"},
		{[]string{"--component-image", "web=example/web:7.0.1"}, "--component-image web is zabbix/zabbix-web-nginx-pgsql:ubuntu-7.0.21, you ask for example/web:7.0.1"},
		{[]string{"--encrypt-network"}, "--encrypt-network: its network is not encrypted"},
	} {
		assert.ErrorContains(t, s.create(t, deployer, append([]string{"zabbix", "zb"}, tc.args...)...), "zb exists already, with other options:\n  "+tc.want)
	}
	assert.Equal(t, len(deployer.order), 2)

	var ps session
	ps.docker = docker
	assert.NilError(t, ps.run(t, "ps", "zb", "--format", "{{.Member}} {{.Node}} {{.State}} {{.Volume}}"))
	assert.Check(t, is.Contains(ps.out.String(), "zb-agent node2 1 of 1 running -"))
	assert.Check(t, is.Contains(ps.out.String(), "zb-1 node1 running (healthy) zb-1"))
}

func TestCreateUsesWhatIsGiven(t *testing.T) {
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(0))
	deployer := &loading{t: t, docker: docker, files: map[string]string{}}
	s := session{docker: docker}
	assert.NilError(t, s.create(t, deployer, "zabbix", "zb", "--use", "postgresql=pg"))
	assert.DeepEqual(t, deployer.order, []string{"zb"})
	assert.Check(t, is.Contains(deployer.files["zb"], "DB_SERVER_HOST: pg-1,pg-2,pg-3"))

	fakeswarm.Put(t, docker, store.KindApplication, "kv", store.Application{Name: "kv", Type: "etcd"})
	for _, tc := range []struct{ use, want string }{
		{"db=mine", "there is no application mine that zz could use\nCreate it: docker openmanage create postgresql mine"},
		{"db=kv", "needs an application of type postgresql, and kv is of type etcd"},
		{"mysql=pg", "zabbix needs db (postgresql)"},
		{"db", "expected NEED=APPLICATION"},
		{"db=pg:x", `"x" is no number of members`},
	} {
		err := s.create(t, deployer, "zabbix", "zz", "--use", tc.use)
		assert.ErrorContains(t, err, tc.want)
	}
	err := s.create(t, deployer, "etcd", "zz", "--use", "db=pg")
	assert.ErrorContains(t, err, "etcd needs no other application")
	assert.Equal(t, len(deployer.order), 1, "nothing is made")
	assert.Assert(t, !strings.Contains(strings.Join(docker.Records(), " "), "operation.create.zz"))
}

// What is needed and was made by half is completed before it is used.
func TestCreateGoesOnWithWhatIsNeeded(t *testing.T) {
	docker := installed(t)
	docker.Services[0].Spec.TaskTemplate.ContainerSpec.Image = "registry.example.com/openmanage:1.2.3"
	docker.Services = append(docker.Services, service("zb-db_1", "zb-db", map[string]string{
		api.LabelApplication: "zb-db", api.LabelType: "postgresql", api.LabelMember: "zb-db-1", api.LabelSlot: "1", api.LabelVolume: "zb-db-1",
	}))
	half := store.Application{Name: "zb-db", Type: "postgresql", Members: []store.Member{member("zb-db-1", "node1", api.RolePrimary)}}
	fakeswarm.Put(t, docker, store.KindApplication, "zb-db", half)
	ended := time.Now()
	fakeswarm.Put(t, docker, store.KindOperation, claim.Name("zb-db"), store.Operation{Kind: store.OperationCreate, Target: "zb-db", State: store.OperationFailed, Request: `{"name":"zb-db","members":3,"image":"postgres:16"}`, Ended: &ended})
	deployer := &loading{t: t, docker: docker, files: map[string]string{}}
	s := session{docker: docker}
	err := s.create(t, deployer, "zabbix", "zb", "--use", "db=zb-db")
	assert.ErrorContains(t, err, "the create of zb-db, which zb could use, has not come to its end")
	assert.ErrorContains(t, err, "to go on: docker openmanage create postgresql zb-db")
	assert.Equal(t, len(deployer.order), 0)

	assert.NilError(t, s.create(t, deployer, "zabbix", "zb"))
	assert.DeepEqual(t, deployer.order, []string{"zb-db", "zb"})
	assert.Check(t, is.Contains(deployer.files["zb-db"], "image: postgres:16\n"), "as it was asked for")
	assert.Check(t, is.Contains(deployer.files["zb"], "DB_SERVER_HOST: zb-db-1,zb-db-2,zb-db-3"))
}

// A file for `docker stack deploy` has the members that create would make.
func TestGenerateNamesAllMembersOfWhatIsNeeded(t *testing.T) {
	s := session{docker: installed(t)}
	assert.NilError(t, s.run(t, "generate", "zabbix", "zb"))
	assert.Check(t, is.Contains(s.out.String(), "DB_SERVER_HOST: zb-db-1,zb-db-2,zb-db-3"))
	s = session{docker: installed(t)}
	assert.NilError(t, s.run(t, "generate", "zabbix", "zb", "--use", "db=pg:1"))
	assert.Check(t, is.Contains(s.out.String(), "DB_SERVER_HOST: pg-1\n"))
}

// What is needed is made as the type that needs it wants it.
func TestCreateMakesWhatIsNeededAsItIsWanted(t *testing.T) {
	s := session{docker: installed(t)}
	along, err := (&creation{app: &stacks.App{}}).planAlong(t.Context(), s.cli(), stacks.Need{Name: "search", Type: "opensearch", Image: "opensearchproject/opensearch:2.15.0", Parameters: map[string]string{"security": "false"}}, stacks.Uses{Name: "lg-search"}, stacks.Options{})
	assert.NilError(t, err)
	stack, err := along.app.Generate(along.options)
	assert.NilError(t, err)
	assert.Check(t, is.Contains(string(stack.YAML), "image: opensearchproject/opensearch:2.15.0"))
	assert.Check(t, is.Contains(string(stack.YAML), `DISABLE_SECURITY_PLUGIN: "true"`))
	_, err = (&creation{app: &stacks.App{}}).planAlong(t.Context(), s.cli(), stacks.Need{Name: "search", Type: "opensearch", Parameters: map[string]string{"security": "perhaps"}}, stacks.Uses{Name: "lg-search"}, stacks.Options{})
	assert.ErrorContains(t, err, "expected one of true, false")
}

// A type that needs one which is still to come says so before anything is made.
func TestCreateSaysWhatIsStillToCome(t *testing.T) {
	docker := installed(t)
	deployer := &loading{t: t, docker: docker, files: map[string]string{}}
	for _, args := range [][]string{{"graylog", "lg"}, {"graylog", "lg", "--use", "mongodb=mine"}} {
		s := session{docker: docker}
		err := s.create(t, deployer, args...)
		assert.ErrorContains(t, err, "Graylog needs an application of type mongodb (its configuration and users), which is not in the catalog of this version: it comes later\nNothing was made.")
	}
	assert.Equal(t, len(deployer.order), 0)
	assert.Equal(t, len(docker.Secrets), 0)
}

// Secrets are made in the form that the application wants.
func TestCreateMakesSecretsInTheirForm(t *testing.T) {
	docker := installed(t)
	deployer := &loading{t: t, docker: docker, files: map[string]string{}}
	s := session{docker: docker}
	assert.NilError(t, s.create(t, deployer, "consul", "cs"))
	lengths := map[string]int{}
	for _, secret := range docker.Secrets {
		lengths[secret.Spec.Name] = len(secret.Spec.Data)
	}
	assert.DeepEqual(t, lengths, map[string]int{"cs_management-token": len("86cddfb9-2760-d947-358d-a2811156bf31"), "cs_gossip-key": 44})
}
