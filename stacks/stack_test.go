package stacks

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/docker/cli/cli/compose/types"
	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"

	"github.com/openmanage/openmanage/internal/api"
)

func postgresql(t *testing.T) *App {
	t.Helper()
	catalog, err := Builtin()
	assert.NilError(t, err)
	app, err := catalog.Find("postgres")
	assert.NilError(t, err)
	return app
}

func TestGenerate(t *testing.T) {
	app := postgresql(t)
	for _, tc := range []struct {
		doc    string
		golden string
		o      Options
	}{
		{doc: "defaults", golden: "defaults.golden", o: Options{Name: "pg"}},
		{doc: "one member", golden: "single.golden", o: Options{Name: "db", Members: 1}},
		{
			doc: "every option", golden: "everything.golden",
			o: Options{
				Name: "shop-db", Members: 2, Image: "registry.example.com/postgres:16.4", VolumeSize: 1536 << 20, Filesystem: "xfs",
				CPUs: "1.5", Memory: 512 << 20, Networks: []string{"apps", "monitoring"}, Publish: []Publish{{15432, 5432}}, Encrypted: true,
				Parameters: map[string]string{"sync_mode": "off", "shared_buffers": "128MB", "max_connections": "200", "timezone": "Europe/Vienna"},
				Volumes:    map[string]api.VolumeSpec{"shop-db-2": {Size: 2 << 30, Filesystem: "ext4"}},
			},
		},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			stack, err := app.Generate(tc.o)
			assert.NilError(t, err)
			golden.Assert(t, string(stack.YAML), tc.golden)
			again, err := app.Generate(tc.o)
			assert.NilError(t, err)
			assert.Equal(t, string(again.YAML), string(stack.YAML))
		})
	}
}

// A generated stack says to Docker what the manager and the agent rely on.
func TestGeneratedStackKeepsTheContract(t *testing.T) {
	stack, err := postgresql(t).Generate(Options{Name: "pg", Parameters: map[string]string{"timezone": "GMT"}})
	assert.NilError(t, err)
	assert.Equal(t, len(stack.Config.Services), 3)
	slices.SortFunc(stack.Config.Services, func(a, b types.ServiceConfig) int { return strings.Compare(a.Name, b.Name) })
	for i, s := range stack.Config.Services {
		member := MemberName("pg", i+1)
		assert.Equal(t, s.Hostname, member)
		assert.DeepEqual(t, []string(s.Entrypoint), []string{api.AgentBinary})
		assert.Equal(t, s.Deploy.EndpointMode, "dnsrr")
		assert.Equal(t, *s.Deploy.Replicas, uint64(1))
		assert.Equal(t, s.Deploy.Labels[api.LabelApplication], "pg")
		assert.Equal(t, s.Deploy.Labels[api.LabelType], "postgresql")
		assert.Equal(t, s.Deploy.Labels[api.LabelMember], member)
		assert.Equal(t, s.Deploy.Labels[api.LabelVolume], member)
		assert.DeepEqual(t, s.Deploy.Placement.Constraints, []string{"node.labels." + api.PinLabel(member) + " != " + api.PinElsewhere})
		assert.Equal(t, *s.Environment["OPENMANAGE_TASK"], "{{.Task.ID}}")
		assert.Equal(t, *s.Environment["OPENMANAGE_MEMBER"], member)
		assert.Equal(t, *s.Environment["OPENMANAGE_PARAMETERS"], `{"timezone":"GMT"}`)
		assert.DeepEqual(t, s.Networks["default"].Aliases, []string{member})
		assert.Equal(t, s.Volumes[0].Source, member)
		assert.Equal(t, s.Volumes[1].Source, member+api.RuntimeSuffix)
		assert.Equal(t, s.Volumes[1].ReadOnly, true)
		assert.Equal(t, s.Volumes[1].Target, api.RuntimeDir)
		assert.Equal(t, stack.Config.Volumes[member].Driver, api.PluginName)
		assert.Equal(t, stack.Config.Volumes[member].DriverOpts[api.OptionMember], member)
	}
	assert.Equal(t, stack.Config.Secrets["superuser-password"].Name, "pg_superuser-password")
}

func TestGenerateRefuses(t *testing.T) {
	app := postgresql(t)
	for _, tc := range []struct {
		doc  string
		o    Options
		want string
	}{
		{doc: "name", o: Options{Name: "Pg"}, want: "must be a hostname"},
		{doc: "long name", o: Options{Name: strings.Repeat("p", 37)}, want: "37 characters, 36 at most"},
		{doc: "negative members", o: Options{Name: "pg", Members: -1}, want: "--replicas -1: postgresql has 1 to 9 members"},
		{doc: "too many members", o: Options{Name: "pg", Members: 10}, want: "1 to 9 members"},
		{doc: "small volume", o: Options{Name: "pg", VolumeSize: 1 << 20}, want: "--volume-size 1MiB: postgresql needs 256MiB at least"},
		{doc: "small xfs volume", o: Options{Name: "pg", VolumeSize: 260 << 20, Filesystem: "xfs"}, want: "xfs needs 300MiB"},
		{doc: "filesystem", o: Options{Name: "pg", Filesystem: "btrfs"}, want: "expected ext4 or xfs"},
		{doc: "image", o: Options{Name: "pg", Image: "Postgres:17"}, want: "--image"},
		{doc: "major version", o: Options{Name: "pg", Image: "postgres:9.6"}, want: "PostgreSQL 9 is not supported; major versions that are: 14, 15, 16, 17, 18"},
		{doc: "cpus", o: Options{Name: "pg", CPUs: "many"}, want: "--cpus"},
		{doc: "network", o: Options{Name: "pg", Networks: []string{"a b"}}, want: "--network"},
		{doc: "port twice", o: Options{Name: "pg", Publish: []Publish{{1, 5432}, {1, 5432}}}, want: "given twice"},
		{doc: "unknown parameter", o: Options{Name: "pg", Parameters: map[string]string{"max_conections": "1"}}, want: "Did you mean \"max_connections\"? It has:\n  alert_disk"},
		{doc: "integer", o: Options{Name: "pg", Parameters: map[string]string{"max_connections": "lots"}}, want: "expected a whole number"},
		{doc: "integer range", o: Options{Name: "pg", Parameters: map[string]string{"max_connections": "1"}}, want: "expected 10 or more"},
		{doc: "size", o: Options{Name: "pg", Parameters: map[string]string{"work_mem": "4 megs"}}, want: "kB, MB, GB or TB"},
		{doc: "choice", o: Options{Name: "pg", Parameters: map[string]string{"sync_mode": "maybe"}}, want: "one of quorum, strict, off"},
		{doc: "Swarm template", o: Options{Name: "pg", Parameters: map[string]string{"timezone": "{{.Node.ID}}"}}, want: "without {{"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			_, err := app.Generate(tc.o)
			assert.ErrorContains(t, err, tc.want)
		})
	}
}

func TestFindNamesTheNearest(t *testing.T) {
	catalog, err := Builtin()
	assert.NilError(t, err)
	_, err = catalog.Find("postgersql")
	assert.ErrorIs(t, err, ErrUnknownType)
	assert.ErrorContains(t, err, `did you mean "postgresql"?`)
	_, err = catalog.Find("zzz")
	assert.Check(t, !strings.Contains(err.Error(), "did you mean"))
}

func TestLoadRefuses(t *testing.T) {
	app, err := builtin.ReadFile("postgresql/app.yaml")
	assert.NilError(t, err)
	for _, tc := range []struct {
		doc  string
		app  string
		want string
	}{
		{doc: "unknown field", app: "id: x\ntitel: X\n", want: "x/app.yaml: yaml: unmarshal errors:\n  line 2: field titel not found"},
		{doc: "empty", app: "", want: "x/app.yaml: it is empty"},
		{doc: "missing fields", app: "id: x\n", want: "title is missing"},
		{doc: "no size", app: "id: x\nvolume:\n  size: big\n", want: "line 3: \"big\" is no size"},
		{doc: "parameter type", app: "id: x\nparameters: [{name: p, type: float, description: d}]\n", want: "parameter p: type \"float\""},
		{doc: "other folder", app: string(app), want: `it must be the folder's name, "x"`},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			_, err := Load(fstest.MapFS{"x/app.yaml": {Data: []byte(tc.app)}, "x/stack.yaml.tmpl": {}})
			assert.ErrorContains(t, err, tc.want)
		})
	}
	_, err = ReadAdded("x", Source{App: strings.Replace(string(app), "id: postgresql", "id: x", 1), Template: "[[ if ]]"}, Added{})
	assert.ErrorContains(t, err, "x/stack.yaml.tmpl: template")
}

func TestParsePublish(t *testing.T) {
	catalog, err := Builtin()
	assert.NilError(t, err)
	for _, tc := range []struct {
		typ, text string
		want      Publish
	}{
		{"postgresql", "15432:5432", Publish{Published: 15432, Target: 5432}},
		{"postgresql", "5433", Publish{Published: 5433, Target: 5432}},
		{"traefik", "443", Publish{Published: 443, Target: 443}},
		{"traefik", "80", Publish{Published: 80, Target: 80}}, // not the first of its ports
		{"traefik", "18443", Publish{Published: 18443, Target: 443}},
		{"zabbix", "10051", Publish{Published: 10051, Target: 10051}}, // of the members, beside the front end
		{"zabbix", "80", Publish{Published: 80, Target: 8080}},
	} {
		app, err := catalog.Find(tc.typ)
		assert.NilError(t, err)
		p, err := app.ParsePublish(tc.text)
		assert.NilError(t, err)
		assert.DeepEqual(t, p, tc.want)
	}
	for _, bad := range []string{"", "x", "1:", "70000", "0", "1:2:3"} {
		_, err := postgresql(t).ParsePublish(bad)
		assert.ErrorContains(t, err, "expected PUBLISHED[:TARGET]", bad)
	}
}

func TestFormatSizeLosesNothing(t *testing.T) {
	for n, want := range map[int64]string{10 << 30: "10GiB", 1536 << 20: "1536MiB", 1: "1", 1 << 40: "1TiB", 1<<30 + 1: "1073741825"} {
		assert.Equal(t, FormatSize(n), want)
	}
}

// From major version 18 on, the official image declares its volume one level up:
// mounted elsewhere, each member would leave an anonymous volume behind.
func TestGenerateMountsWhereTheImageExpects(t *testing.T) {
	for image, want := range map[string]string{
		"postgres:17": "/var/lib/postgresql/data", "postgres:18.1-alpine": "/var/lib/postgresql", "postgres:latest": "/var/lib/postgresql/data",
	} {
		stack, err := postgresql(t).Generate(Options{Name: "pg", Image: image})
		assert.NilError(t, err)
		s := stack.Config.Services[0]
		assert.Equal(t, s.Volumes[0].Target, want, image)
		assert.Equal(t, *s.Environment["PGDATA"], want+"/pgdata", image)
	}
}
