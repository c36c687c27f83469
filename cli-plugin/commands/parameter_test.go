package commands

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/stacks"
)

func TestParametersAreOptions(t *testing.T) {
	for _, tc := range []struct{ doc, args, want string }{
		{"after the name", "zabbix zb --cache-size 64M", "ZBX_CACHESIZE: 64M"},
		{"before the type", "--cache-size 64M zabbix zb", "ZBX_CACHESIZE: 64M"},
		{"between, after other options", "-p 8080 zabbix --cache-size=64M --replicas 1 zb", "ZBX_CACHESIZE: 64M"},
		{"beside --set", "zabbix zb --start-pollers 7 --set cache_size=64M", "ZBX_CACHESIZE: 64M"},
		{"twice the same", "zabbix zb --cache-size 64M --set cache_size=64M", "ZBX_CACHESIZE: 64M"},
		{"by an alias", "postgres pg --max-connections 200", `"max_connections":"200"`},
		{"a switch", "postgresql pg --log-connections", `"log_connections":"on"`},
		{"a switch before the type", "--log-connections postgresql pg", `"log_connections":"on"`},
		{"a switch that is off", "postgresql pg --jit=false", `"jit":"off"`},
		{"a switch as --set spells it", "postgresql pg --jit=off", `"jit":"off"`},
		{"a component on request", "graylog gl --ship-logs", "\n  shipper: # what sends"},
		{"what every type has", "etcd et --alert-disk 70", "openmanage.alert.disk: '70'"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			s := session{} // no daemon is asked
			assert.NilError(t, s.run(t, append([]string{"generate"}, strings.Fields(tc.args)...)...))
			assert.Check(t, is.Contains(s.out.String(), tc.want))
		})
	}
}

func TestOptionsOfParametersRefuse(t *testing.T) {
	for _, tc := range []struct{ doc, args, want string }{
		{"a value that is none", "zabbix zb --cache-size much", "invalid parameter cache_size=much"},
		{"two values", "zabbix zb --cache-size 64M --set cache_size=32M", "cache_size: it is given twice, --cache-size 64M and --set cache_size=32M; give it once"},
		{"a slip of the pen", "zabbix zb --cach-size 64M", "unknown flag: --cach-size; did you mean --cache-size?"},
		{"a slip in an option of create's own", "zabbix zb --replica 1", "did you mean --replicas?"},
		{"another type's", "etcd et --cache-size 64M", "unknown flag: --cache-size"},
		{"a value that is called like a type", "--cache-size zabbix etcd et", "--cache-size: it is an option of zabbix, not of etcd\nGive the type before its options"},
		{"an unknown type", "zabix zb --cache-size 64M", "zabix is no type that comes with OpenManage"},
		{"no type", "--cache-size 64M", "Options of a type need the type: TYPE NAME --OPTION"},
		{"an unknown option before the type", "--engine x zabbix zb --cache-size 64M", "unknown flag: --engine"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			for _, command := range []string{"create", "generate"} {
				s := session{docker: installed(t)}
				assert.ErrorContains(t, s.run(t, append([]string{command}, strings.Fields(tc.args)...)...), tc.want)
			}
		})
	}
}

// The type's options of a docker whose context is called as we are are found too.
func TestOptionsAreFoundBehindThoseOfDocker(t *testing.T) {
	root := New((&session{}).cli(), "1.2.3")
	AddParameterFlags(root, strings.Fields("--context openmanage openmanage generate zabbix zb"))
	cmd, _, err := root.Find([]string{"generate"})
	assert.NilError(t, err)
	assert.Assert(t, cmd.Flags().Lookup("cache-size") != nil)
	other, _, err := root.Find([]string{"create"})
	assert.NilError(t, err)
	assert.Assert(t, other.Flags().Lookup("cache-size") == nil)
}

func TestHelpAndCompletionKnowParameters(t *testing.T) {
	s := session{}
	assert.NilError(t, s.run(t, "create", "zabbix", "--help"))
	for _, want := range []string{"The options from --cache-size on are the parameters of zabbix.", "--cache-size text", "(default 32M)", "--start-pollers integer"} {
		assert.Check(t, is.Contains(s.out.String(), want))
	}
	s = session{}
	assert.NilError(t, s.run(t, "generate", "etcd", "--help"))
	assert.Check(t, is.Contains(s.out.String(), "Print an application's stack"))
	for words, want := range map[string]string{
		"create zabbix --cach":               "--cache-size\tMemory",
		"create zabbix zb --cach":            "--cache-size\tMemory",
		"generate etcd et --placement-apart": "--placement-apart\t",
		"create etcd et --placement-apart ":  "true\nfalse\n",
		"create postgresql pg --jit=":        "on\noff\n",
	} {
		s := session{docker: installed(t)}
		args := append([]string{"__complete", "openmanage"}, strings.Split(words, " ")...)
		root := s.root()
		AddParameterFlags(root.Commands()[0], args)
		root.SetArgs(args)
		assert.NilError(t, root.ExecuteContext(t.Context()))
		assert.Check(t, is.Contains(s.out.String(), want), words)
	}
}

// A component that a parameter leaves out is no matter of the application's.
func TestComponentsOnRequest(t *testing.T) {
	s := session{}
	assert.NilError(t, s.run(t, "generate", "graylog", "gl"))
	assert.Assert(t, !strings.Contains(s.out.String(), "shipper"))
	err := s.run(t, "generate", "graylog", "gl", "--component-image", "shipper=vector:1")
	assert.ErrorContains(t, err, "--component-image shipper: that component is there only with --set ship_logs=on")
	s = session{}
	assert.NilError(t, s.run(t, "catalog", "show", "graylog"))
	assert.Check(t, is.Contains(s.out.String(), "NAME-shipper, what sends the logs of its node's containers to Graylog (one on each node, with the Docker socket of its node, only with --set ship_logs=on, "))
}

// What create and generate have is what a parameter cannot be called.
func TestCommandFlagsAreThoseOfTheCommands(t *testing.T) {
	names := []string{"help"}
	cli := (&session{}).cli()
	for _, cmd := range []*pflag.FlagSet{createCommand(cli).Flags(), generateCommand(cli).Flags()} {
		cmd.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	}
	slices.Sort(names)
	assert.DeepEqual(t, slices.Compact(names), stacks.CommandFlags)
}

func TestLintSaysWhichParameterHasNoOption(t *testing.T) {
	s := session{}
	timeout := strings.ReplaceAll(ownApp, "name: theme", "name: timeout")
	assert.NilError(t, s.run(t, "catalog", "lint", folder(t, timeout, strings.ReplaceAll(ownTemplate, `"theme"`, `"timeout"`))))
	assert.Equal(t, s.out.String(), "wiki is fit for the catalog\nparameter timeout is set with --set timeout=VALUE only: create has an option --timeout of its own\n")
}
