package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/docker/cli/cli/compose/loader"
	"github.com/docker/cli/cli/compose/types"
	"go.yaml.in/yaml/v3"
	"gotest.tools/v3/assert"
)

func TestPatroniStackIsOneThatDockerDeploys(t *testing.T) {
	dir := t.TempDir()
	var nodes []patroniNode
	for i := range 3 {
		nodes = append(nodes, patroniNode{i + 1, fmt.Sprintf("node%d", i+1), fmt.Sprintf("10.0.0.%d", i+1)})
	}
	settings := []patroniSettings{patroniDefaults, patroniTightest}
	assert.NilError(t, writePatroni(dir, nodes, "secret", settings))

	text, err := os.ReadFile(filepath.Join(dir, "stack.yml"))
	assert.NilError(t, err)
	dict, err := loader.ParseYAML(text)
	assert.NilError(t, err)
	stack, err := loader.Load(types.ConfigDetails{WorkingDir: dir, ConfigFiles: []types.ConfigFile{{Filename: "stack.yml", Config: dict}}})
	assert.NilError(t, err)
	assert.Equal(t, len(stack.Services), 3+2*3)
	for _, s := range stack.Services {
		assert.Equal(t, len(s.Deploy.Placement.Constraints), 1, "%s is free to move away from its volume", s.Name)
		for _, secret := range s.Secrets {
			assert.Equal(t, *secret.Mode, uint32(0o400), "others than the server's user read its passwords")
		}
	}
	for name, secret := range stack.Secrets {
		config, err := os.ReadFile(secret.File)
		assert.NilError(t, err)
		var member struct {
			Name, Scope string
			Bootstrap   struct {
				DCS struct {
					TTL             int    `yaml:"ttl"`
					LoopWait        int    `yaml:"loop_wait"`
					RetryTimeout    int    `yaml:"retry_timeout"`
					SynchronousMode string `yaml:"synchronous_mode"`
				} `yaml:"dcs"`
			}
		}
		assert.NilError(t, yaml.Unmarshal(config, &member))
		assert.Equal(t, member.Name, name)
		dcs := member.Bootstrap.DCS
		assert.Equal(t, dcs.SynchronousMode, "quorum")
		// What Patroni's documentation asks for; it corrects others in silence.
		assert.Assert(t, dcs.TTL >= 20 && dcs.LoopWait >= 1 && dcs.RetryTimeout >= 3 && dcs.LoopWait+2*dcs.RetryTimeout <= dcs.TTL, "%+v", dcs)
	}
}
