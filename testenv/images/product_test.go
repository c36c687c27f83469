package images

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"gotest.tools/v3/assert"
)

var allowUnexported = cmp.AllowUnexported(source{})

func TestAPluginIsItsConfigurationAndTheRootFilesystemBelowRootfs(t *testing.T) {
	base := filepath.Join(t.TempDir(), "base.tar")
	var tarball bytes.Buffer
	out := tar.NewWriter(&tarball)
	for _, header := range []tar.Header{
		{Name: "./usr/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "./usr/a", Typeflag: tar.TypeReg, Size: 1, Mode: 0o644},
		{Name: "./usr/hard", Typeflag: tar.TypeLink, Linkname: "./usr/a"},
		{Name: "./bin", Typeflag: tar.TypeSymlink, Linkname: "usr/bin"},
	} {
		assert.NilError(t, out.WriteHeader(&header))
		if header.Size > 0 {
			_, err := out.Write([]byte("x"))
			assert.NilError(t, err)
		}
	}
	assert.NilError(t, out.Close())
	assert.NilError(t, os.WriteFile(base, tarball.Bytes(), 0o644))

	var plugin bytes.Buffer
	assert.NilError(t, writePlugin(&plugin, base, []byte("program"), []byte("{}")))

	var got []string
	for in := tar.NewReader(&plugin); ; {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		assert.NilError(t, err)
		got = append(got, header.Name+" "+header.Linkname)
	}
	assert.DeepEqual(t, got, []string{
		"config.json ", "rootfs/usr/ ", "rootfs/usr/a ", "rootfs/usr/hard rootfs/usr/a", "rootfs/bin usr/bin", "rootfs/usr/local/bin/openmanage ",
	})
}

func TestARecipesHashChangesWithWhatItMakes(t *testing.T) {
	recipe := baseRecipe()
	before := recipe.Hash()
	assert.Equal(t, baseRecipe().Hash(), before)
	recipe.Packages = append(recipe.Packages, "more")
	assert.Assert(t, recipe.Hash() != before)
}

func TestTagsOfPostgresShareTheirRootFilesystem(t *testing.T) {
	a, b := postgresRecipe("17"), postgresRecipe("17.7")
	assert.Assert(t, a.Hash() != b.Hash())
	a.Config, b.Config = nil, nil
	assert.Equal(t, a.Hash(), b.Hash())
}

func TestNodesInContainersGetAPluginTheyCanStart(t *testing.T) {
	config, err := os.ReadFile("../../volumeplugin/config.json")
	assert.NilError(t, err)
	assert.Assert(t, bytes.Contains(config, []byte(`"CAP_SYS_RESOURCE"`)))
	got, err := confined(config)
	assert.NilError(t, err)
	assert.Assert(t, !bytes.Contains(got, []byte("CAP_SYS_RESOURCE")))
	assert.Assert(t, bytes.Contains(got, []byte(`"CAP_SYS_ADMIN"`)))
}
