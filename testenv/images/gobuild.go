package images

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/openmanage/openmanage/testenv/host"
)

// Program is what a recipe builds of a Go module, for servers that are not in Debian.
type Program struct {
	Module, Version string
	// Package is a folder of the module, with ./ before it.
	Package string
	// Files are put into the module first, by path: what its makers generate.
	Files map[string]string `json:",omitempty"`
	// Into is the program's path in the result.
	Into string
}

// build puts the program into tree, a copy of what the result gets. It is linked statically.
func (p *Program) build(ctx context.Context, work, tree string) error {
	out, err := host.Run(ctx, "go", "mod", "download", "-json", p.Module+"@"+p.Version)
	if err != nil {
		return fmt.Errorf("fetch %s from the Go module proxy: %w", p.Module, err)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal([]byte(out), &module); err != nil {
		return err
	}
	source := filepath.Join(work, "source")
	if _, err := host.Run(ctx, "cp", "--recursive", "--no-preserve=mode", module.Dir, source); err != nil {
		return err
	}
	for path, content := range p.Files {
		file := filepath.Join(source, path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return err
		}
	}
	into := filepath.Join(tree, p.Into)
	if err := os.MkdirAll(filepath.Dir(into), 0o755); err != nil {
		return err
	}
	_, err = host.Run(ctx, "nice", "-n", "5", "env", "--chdir="+source, "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "go", "build", "-trimpath", "-ldflags=-s -w", "-o", into, p.Package)
	if err != nil {
		return fmt.Errorf("build %s: %w", p.Module, err)
	}
	return nil
}
