package images

import (
	"archive/tar"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/testenv/host"
)

// Names of OpenManage's own image and plugin in a registry.
const (
	ProductImage  = "openmanage/openmanage:dev"
	ProductPlugin = "openmanage/volume:dev"
)

// binaryPath is where image and plugin have OpenManage's binary.
const binaryPath = "/usr/local/bin/openmanage"

//go:embed base.sh
var baseScript string

// baseRecipe makes what OpenManage's binary needs around it: the tools for
// filesystems with their libraries, and certificate authorities.
func baseRecipe() Recipe {
	return Recipe{
		Name:    "base",
		Suite:   "trixie",
		Variant: "extract",
		Packages: []string{
			"base-files", "libc6", "dash", "coreutils", "e2fsprogs", "xfsprogs", "mount", "util-linux", "ca-certificates",
		},
		Select: baseScript,
	}
}

// Product makes OpenManage's image around a static binary and pushes it to the
// registry as name, where every node gets it.
func (b *Builder) Product(ctx context.Context, binary, name string) error {
	base, err := b.imported(ctx, baseRecipe())
	if err != nil {
		return err
	}
	program, err := readBinary(binary)
	if err != nil {
		return err
	}
	files := map[string]File{
		"openmanage": {Content: string(program), Mode: 0o755},
		"Dockerfile": {Content: "FROM " + base + "\nCOPY openmanage " + binaryPath + "\nENTRYPOINT [\"" + binaryPath + "\"]\n", Mode: 0o644},
	}
	local := b.registryName(name)
	before, _, _ := host.Output(ctx, "docker", "--host", host.EngineHost, "image", "inspect", "--format", "{{.Id}}", local)
	if err := b.build(ctx, local, files); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	// Every change of the code would leave one behind. It stays if it has
	// another name or is the same.
	if id := strings.TrimSpace(before); id != "" {
		_, _, _ = host.Output(ctx, "docker", "--host", host.EngineHost, "rmi", id)
	}
	if err := b.push(ctx, local); err != nil {
		return err
	}
	b.Host.Progress.Step("image %s is in the registry", name)
	return nil
}

// Plugin makes the managed volume plugin from the same files, with the
// configuration of Docker's plugin format in the file config, and pushes it to
// the registry as name. Nodes install it as GATEWAY:PORT/name.
func (b *Builder) Plugin(ctx context.Context, binary, config, name string) error {
	base, err := b.rootfs(ctx, baseRecipe())
	if err != nil {
		return err
	}
	program, err := readBinary(binary)
	if err != nil {
		return err
	}
	settings, err := os.ReadFile(config)
	if err != nil {
		return fmt.Errorf("configuration of the plugin: %w", err)
	}
	if settings, err = confined(settings); err != nil {
		return fmt.Errorf("configuration of the plugin: %w", err)
	}
	engine, err := client.New(client.WithHost(host.EngineHost))
	if err != nil {
		return err
	}
	defer engine.Close()

	local := b.registryName(name)
	// One made before has the name.
	_, _, _ = host.Output(ctx, "docker", "--host", host.EngineHost, "plugin", "rm", "--force", local)
	reader, writer := io.Pipe()
	go func() { writer.CloseWithError(writePlugin(writer, base, program, settings)) }()
	_, err = engine.PluginCreate(ctx, reader, client.PluginCreateOptions{RepoName: local})
	reader.CloseWithError(errors.New("the engine stopped reading"))
	if err != nil {
		return fmt.Errorf("plugin %s: the engine does not take it: %w", name, err)
	}
	if _, err := host.Docker(ctx, "plugin", "push", local); err != nil {
		return err
	}
	b.Host.Progress.Step("plugin %s is in the registry", name)
	// This machine does not use it; in the registry it stays.
	_, err = host.Docker(ctx, "plugin", "rm", "--force", local)
	return err
}

// confined takes from the plugin's configuration the capability that nodes in
// containers do not have, and without which an engine would not start the plugin.
// It is there for ext4, which then grows at its next mount only.
func confined(config []byte) ([]byte, error) {
	var settings map[string]any
	if err := json.Unmarshal(config, &settings); err != nil {
		return nil, err
	}
	linux, _ := settings["linux"].(map[string]any)
	all, _ := linux["capabilities"].([]any)
	linux["capabilities"] = slices.DeleteFunc(all, func(c any) bool { return c == "CAP_SYS_RESOURCE" })
	return json.Marshal(settings)
}

// writePlugin writes the tar that Docker makes a plugin from: config.json and
// the root filesystem below rootfs/.
func writePlugin(w io.Writer, base string, program, config []byte) error {
	out := tar.NewWriter(w)
	if err := addFile(out, "config.json", 0o644, config); err != nil {
		return err
	}
	file, err := os.Open(base)
	if err != nil {
		return err
	}
	defer file.Close()
	in := tar.NewReader(file)
	for {
		header, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", base, err)
		}
		header.Name = below(header.Name)
		if header.Typeflag == tar.TypeLink {
			header.Linkname = below(header.Linkname)
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := io.CopyN(out, in, header.Size); err != nil {
			return err
		}
	}
	if err := addFile(out, below(binaryPath), 0o755, program); err != nil {
		return err
	}
	return out.Close()
}

// below puts a path of the root filesystem under rootfs/, and keeps the slash
// that ends a directory's name.
func below(name string) string {
	path := filepath.Join("rootfs", name)
	if strings.HasSuffix(name, "/") {
		path += "/"
	}
	return path
}

func addFile(out *tar.Writer, name string, mode int64, content []byte) error {
	// Times do not vary, so that the same content makes the same layer.
	header := &tar.Header{Name: name, Mode: mode, Size: int64(len(content)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	_, err := out.Write(content)
	return err
}

func readBinary(path string) ([]byte, error) {
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("OpenManage's binary: %w; build it with `make build`", err)
	}
	return program, nil
}

// BuildBinary builds OpenManage's binary from the module in the folder source
// and returns its path. Go's build cache makes a second build quick.
func BuildBinary(ctx context.Context, machine *host.Host, source string) (string, error) {
	result := filepath.Join(machine.CacheDir(), "openmanage")
	_, err := host.Run(ctx, "env", "-C", source, "CGO_ENABLED=0",
		"go", "build", "-trimpath", "-ldflags", "-s -w", "-o", result, "./cmd/openmanage")
	if err != nil {
		return "", fmt.Errorf("OpenManage's binary cannot be built: %w", err)
	}
	return result, nil
}
