package stackdeploy

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/docker/cli/cli-plugins/metadata"
	"github.com/spf13/cobra"
	"gotest.tools/v3/assert"
)

// The docker program is a script that writes down how it was called.
func TestDeployCallsTheSameDockerWithTheSameFlags(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "docker")
	script := "#!/bin/sh\n(echo \"$@\"; cat; env | grep DOCKER_CLI_PLUGIN) > " + dir + "/called\ncase \"$*\" in *broken) echo 'no such secret' >&2; exit 1;; esac\n"
	assert.NilError(t, os.WriteFile(program, []byte(script), 0o755))
	t.Setenv(metadata.ReexecEnvvar, program)

	root := &cobra.Command{Use: "docker"}
	root.Flags().String("context", "", "")
	root.Flags().String("host", "", "")
	assert.NilError(t, root.Flags().Set("context", "openmanage"))
	cmd := &cobra.Command{Use: "openmanage"}
	root.AddCommand(cmd)

	deployer := NewDocker(cmd)
	assert.NilError(t, deployer.Deploy(t.Context(), "pg", []byte("services: {}\n"), Options{ResolveImage: "always", WithRegistryAuth: true}))
	called, err := os.ReadFile(filepath.Join(dir, "called"))
	assert.NilError(t, err)
	assert.Equal(t, string(called), "--context=openmanage stack deploy --compose-file - --resolve-image always --with-registry-auth pg\nservices: {}\n")

	err = deployer.Deploy(t.Context(), "broken", nil, Options{ResolveImage: "never"})
	assert.ErrorContains(t, err, "docker stack deploy broken: exit status 1\nno such secret")
}
