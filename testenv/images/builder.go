// Package images makes the images that a test environment runs: its nodes, the
// official images that stacks name, and OpenManage's own image and plugin.
// Official images come from Docker Hub where it can be reached; elsewhere they
// are made from Debian packages, with the official image's paths, user and
// ports. What was built is kept, and built again only when its recipe changes.
package images

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/openmanage/openmanage/testenv/host"
)

// Builder makes images on one machine.
type Builder struct {
	// Host has a Docker engine and a registry on the loopback address.
	Host *host.Host
}

// imported returns the name under which the machine's engine has the recipe's
// image.
func (b *Builder) imported(ctx context.Context, r Recipe) (string, error) {
	tag := imageName(r)
	if _, err := host.Docker(ctx, "image", "inspect", "--format", "{{.Id}}", tag); err == nil {
		return tag, nil
	}
	if len(r.Config) > 0 {
		bare := r
		bare.Config = nil
		from, err := b.imported(ctx, bare)
		if err != nil {
			return "", err
		}
		return tag, b.configure(ctx, from, r.Config, tag)
	}
	tar, err := b.rootfs(ctx, r)
	if err != nil {
		return "", err
	}
	if _, err := host.Docker(ctx, "import", tar, tag); err != nil {
		// A tar cut short by a full disk is of no use next time either.
		os.Remove(tar)
		return "", fmt.Errorf("image %s cannot be imported: %w", r.Name, err)
	}
	return tag, nil
}

// imageName carries the recipe's hash, so that an image made from another
// version of the recipe is never taken for this one.
func imageName(r Recipe) string { return "openmanage-testenv/" + r.Name + ":" + r.Hash() }

// configure makes an image from another by Dockerfile instructions.
func (b *Builder) configure(ctx context.Context, from string, instructions []string, tag string) error {
	dockerfile := "FROM " + from + "\n" + strings.Join(instructions, "\n") + "\n"
	return b.build(ctx, tag, map[string]File{"Dockerfile": {Content: dockerfile, Mode: 0o644}})
}

// build makes an image from a Dockerfile and other files.
func (b *Builder) build(ctx context.Context, tag string, files map[string]File) error {
	dir, err := os.MkdirTemp(b.Host.CacheDir(), ".build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := writeFiles(dir, files); err != nil {
		return err
	}
	// The classic builder is in every engine; buildx is a package of its own.
	_, err = host.Run(ctx, "env", "DOCKER_BUILDKIT=0", "docker", "--host", host.EngineHost, "build", "--quiet", "--tag", tag, dir)
	return err
}

// Node makes the image of the environment's nodes and returns its name on the
// machine's engine.
func (b *Builder) Node(ctx context.Context) (string, error) {
	return b.imported(ctx, nodeRecipe())
}

// registryName is how the machine's engine calls an image in the registry that
// the nodes know by its short name, as a mirror of Docker Hub.
func (b *Builder) registryName(name string) string {
	if !strings.Contains(name, "/") {
		name = "library/" + name
	}
	return fmt.Sprintf("127.0.0.1:%d/%s", b.Host.RegistryPort, name)
}
