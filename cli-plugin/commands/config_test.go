package commands

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/cli-plugin/internal/setting"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// servers answers as the members' servers of pg do; their settings are those that
// change makes of a fresh server's.
func servers(t *testing.T, change func(member string, s map[string]*setting.Setting)) func(cmd []string) (string, string, int) {
	return func(cmd []string) (string, string, int) {
		line := strings.Join(cmd, " ")
		member := "pg-1"
		if i := slices.Index(cmd, "--member"); i >= 0 {
			member = cmd[i+1]
		}
		switch {
		case !strings.HasPrefix(line, "openmanage exec --application pg"):
			return "{}", "", 0 // status
		case strings.Contains(line, "work_mem=1kB"):
			return "", "2026-01-01 10:00:00 GMT [7] FATAL:  1 kB is outside the valid range for parameter \"work_mem\" (64 .. 2147483647)\n", 1
		case strings.Contains(line, "-C config_file"):
			return "/data/postgresql.conf\n", "", 0
		case member == "pg-3":
			return "", "member pg-3 is not running\n", 125
		}
		settings := map[string]*setting.Setting{
			"work_mem":          {Value: "4MB", Context: "user", Type: "integer", Unit: "kB", Min: "64", Max: "2147483647"},
			"max_connections":   {Value: "100", Context: "postmaster", Type: "integer", Min: "1", Max: "262143"},
			"vacuum_cost_limit": {Value: "200", Context: "user", Type: "integer", Min: "1", Max: "10000"},
			"block_size":        {Value: "8192", Context: "internal", Type: "integer"},
			"timezone":          {Value: "GMT", Context: "user", Type: "string"},
		}
		if change != nil {
			change(member, settings)
		}
		var list []setting.Setting
		for name, s := range settings {
			s.Name = name
			list = append(list, *s)
		}
		text, err := json.Marshal(list)
		assert.Check(t, err)
		return string(text), "", 0
	}
}

func TestSettingsAreCheckedAndAskedFor(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string // the request
		out  string
	}{
		{"set work_mem=16MB", `{"set":{"work_mem":"16MB"}}`, "In force on pg: work_mem=16MB. Change it in the stack file too"},
		{"set work_mem=16MB max_connections=200", `{"set":{"max_connections":"200","work_mem":"16MB"},"restart":true}`, "max_connections=200, work_mem=16MB"},
		{"set max_connections=200 --now", `{"set":{"max_connections":"200"},"restart":true,"now":true}`, "max_connections=200"},
		{"unset max_connections TimeZone", `{"unset":["max_connections","timezone"],"restart":true}`, "max_connections (no longer set)"},
		{"set vacuum_cost_limit=500 unset work_mem", `{"set":{"vacuum_cost_limit":"500"},"unset":["work_mem"]}`, "vacuum_cost_limit=500, work_mem (no longer set)"},
		{"set pg_stat_statements.max=500", `{"set":{"pg_stat_statements.max":"500"}}`, "pg_stat_statements.max=500"},
		{"set sync_mode=off", `{"labels":{"openmanage.sync.mode":"off"}}`, "sync_mode=off"},
		{"unset sync_mode", `{"labels":{"openmanage.sync.mode":""}}`, "sync_mode (no longer set)"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			docker, asked := answering(t, nil)
			docker.ExecFunc = servers(t, nil)
			s := session{docker: docker}
			assert.NilError(t, s.run(t, append([]string{"config", "pg"}, strings.Fields(tc.args)...)...))
			assert.Equal(t, len(*asked), 1)
			assert.Equal(t, (*asked)[0].Kind, store.OperationConfig)
			assert.Equal(t, (*asked)[0].Request, tc.want)
			assert.Check(t, is.Contains(s.out.String(), tc.out))
		})
	}
}

func TestSettingsThatCannotBeAreRefusedBeforeAnythingIsAskedFor(t *testing.T) {
	for args, want := range map[string]string{
		"set":                                "Name at least one setting",
		"work_mem=16MB":                      "expected set or unset",
		"set work_mem":                       "expected KEY=VALUE",
		"unset work_mem=1MB":                 "unset takes names only",
		"set work_mem=1MB unset work_mem":    "work_mem is named twice",
		"set work_mem=lots":                  "expected a size with its unit",
		"set work_mem=1kB":                   "refused by the server: 1 kB is outside the valid range for parameter \"work_mem\" (64 .. 2147483647)\nwork_mem=1kB: allowed is 64 to 2147483647 kB\nNothing was changed",
		"set max_conections=200":             `the server has no setting "max_conections"; did you mean "max_connections"?`,
		"set vacuum_cost_limt=200":           `did you mean "vacuum_cost_limit"?`,
		"unset no_such_thing":                `the server has no setting "no_such_thing"`,
		"set block_size=4096":                "block_size cannot be changed: the server was built or its data made with 8192",
		"set Port=5433":                      "port is OpenManage's own and cannot be set",
		"set recovery_target=immediate":      "recovery_target is OpenManage's own",
		"set vacuum_cost_limit={{.Task.ID}}": "expected a single line without {{",
		"set sync_mode=maybe":                "expected one of quorum, strict, off",
	} {
		docker, asked := answering(t, nil)
		docker.ExecFunc = servers(t, nil)
		s := session{docker: docker}
		assert.Check(t, is.ErrorContains(s.run(t, append([]string{"config", "pg"}, strings.Fields(args)...)...), want), args)
		assert.Equal(t, len(*asked), 0, args)
	}
	docker, asked := answering(t, nil)
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "config", "pg", "set", "work_mem=16MB"), "OpenManage's manager does not run on this node")
	assert.Equal(t, len(*asked), 0)
	assert.ErrorContains(t, s.run(t, "config", "no-such"), "no such application")
	docker.ExecFunc = func([]string) (string, string, int) { return "", "member pg-1 is not running", 125 }
	assert.ErrorContains(t, s.run(t, "config", "pg", "set", "work_mem=16MB"), "ask the primary of pg for its settings: member pg-1 is not running\nNothing was changed")
	assert.Equal(t, len(*asked), 0)
}

func TestASettingThatAlterSystemOverridesIsNamed(t *testing.T) {
	docker, _ := answering(t, nil)
	docker.ExecFunc = servers(t, func(_ string, s map[string]*setting.Setting) {
		s["work_mem"].File, s["work_mem"].Value = "/data/pgdata/postgresql.auto.conf", "1GB"
	})
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "config", "pg", "set", "work_mem=16MB"))
	assert.Check(t, is.Contains(s.err.String(), "warning: work_mem is 1GB on the primary: ALTER SYSTEM has set it"))
}

func TestSettingsAreListed(t *testing.T) {
	docker := installed(t)
	docker.Services = append(docker.Services, memberService("pg", "1"))
	docker.Services[len(docker.Services)-1].Spec.Labels[api.LabelSyncMode] = "off"
	app := pg(0)
	app.Parameters, app.SyncMode = `{"max_connections":"200","work_mem":"16MB"}`, "off"
	app.Members[0].PendingRestart = "max_connections"
	fakeswarm.Put(t, docker, store.KindApplication, "pg", app)
	docker.ExecFunc = servers(t, func(member string, s map[string]*setting.Setting) {
		s["work_mem"].Value = "16MB"
		if member == "pg-2" {
			s["max_connections"].Value = "200"
		}
	})
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "config", "pg"))
	assert.Equal(t, s.out.String(), `NAME              VALUE     IN FORCE                        RESTART PENDING
max_connections   200       pg-1: 100, pg-2: 200, pg-3: ?   pg-1
sync_mode         off       off                             -
work_mem          16MB      16MB                            -
`)
	assert.Check(t, is.Contains(s.err.String(), "warning: ask pg-3 for its settings: member pg-3 is not running"))

	s = session{docker: docker}
	assert.NilError(t, s.run(t, "config", "pg", "--format", "json"))
	first, _, _ := strings.Cut(s.out.String(), "\n")
	assert.Equal(t, first, `{"Default":"100","Description":"Connections at the same time.","InForce":"pg-1: 100, pg-2: 200, pg-3: ?","Name":"max_connections","PendingRestart":"pg-1","Value":"200"}`)

	s = session{docker: docker}
	assert.NilError(t, s.run(t, "config", "pg", "--all", "--format", "{{.Name}} {{.Value}} {{.InForce}} {{.Default}}"))
	assert.Check(t, is.Contains(s.out.String(), "\ntimezone - GMT GMT\n"))

	s = session{docker: docker}
	assert.NilError(t, s.run(t, "ps", "pg", "--format", "{{.Member}} {{.Message}}"))
	assert.Check(t, is.Contains(s.out.String(), "pg-1 takes a restart: max_connections\n"))

	s = session{docker: docker}
	assert.NilError(t, s.run(t, "inspect", "pg", "--format", "{{.Parameters.max_connections}} {{.Parameters.sync_mode}}"))
	assert.Equal(t, s.out.String(), "200 off\n")
}

func TestSettingsComplete(t *testing.T) {
	docker := installed(t)
	app := pg(0)
	app.Parameters = `{"work_mem":"16MB"}`
	fakeswarm.Put(t, docker, store.KindApplication, "pg", app)
	for words, want := range map[string]string{
		"":                           "pg\n",
		"pg ":                        "set\nunset\n",
		"pg set work":                "work_mem=\tMemory for one sort",
		"pg set work_mem=1MB wal_":   "wal_compression=\t",
		"pg set wal_compression=":    "wal_compression=lz4\n",
		"pg set work_mem=1MB unset ": "work_mem\n:4",
	} {
		s := session{docker: docker}
		args := append([]string{"__complete", "openmanage", "config"}, strings.Split(words, " ")...)
		root := s.root()
		root.SetArgs(args)
		assert.NilError(t, root.ExecuteContext(t.Context()))
		assert.Check(t, is.Contains(s.out.String(), want), words)
	}
}

func TestCreateComparesSettingsWithTheirLabels(t *testing.T) {
	docker := installed(t)
	docker.Services = append(docker.Services, memberService("pg", "1"))
	docker.Services[len(docker.Services)-1].Spec.Labels[api.LabelSyncMode] = "off"
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(0))
	s := session{docker: docker}
	err := s.run(t, "create", "postgresql", "pg", "--set", "sync_mode=strict", "--set", "max_connections=200")
	assert.ErrorContains(t, err, "--set sync_mode is off, you ask for strict\ncreate does not change")
	assert.ErrorContains(t, err, "docker openmanage config pg set")
}
