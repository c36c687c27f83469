package images

import (
	"context"
	"fmt"
	"maps"
	"strings"
)

// Changed makes an image that is another official one with other files in it, by
// path, and has it in the registry as name. Tests upgrade to what is broken so.
func (b *Builder) Changed(ctx context.Context, name, from string, files map[string]File) error {
	if err := b.EnsureOfficial(ctx, from); err != nil {
		return err
	}
	tree := maps.Clone(files)
	dockerfile := "FROM " + b.registryName(from) + "\n"
	for path := range files {
		dockerfile += fmt.Sprintf("COPY %s %s\n", strings.TrimPrefix(path, "/"), path)
	}
	tree["Dockerfile"] = File{Content: dockerfile, Mode: 0o644}
	local := b.registryName(name)
	if err := b.build(ctx, local, tree); err != nil {
		return fmt.Errorf("image %s: %w", name, err)
	}
	return b.push(ctx, local)
}
