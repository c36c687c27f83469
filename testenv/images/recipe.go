package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/openmanage/openmanage/testenv/host"
)

// A Recipe makes the root filesystem of an image from Debian packages. It is
// data, so that its hash says whether a cached result is still the right one.
type Recipe struct {
	// Name names the result in the cache.
	Name string
	// Suite is the Debian release.
	Suite string
	// Variant is mmdebstrap's: minbase, or extract for bare files.
	Variant string
	// Packages are added to what the variant brings.
	Packages []string
	// Before are shell commands that run when only essential packages are there;
	// "$1" is the root filesystem.
	Before []string
	// Artifacts are added from Maven Central, if not nil.
	Artifacts *Artifacts `json:",omitempty"`
	// Program is built and added, if not nil.
	Program *Program `json:",omitempty"`
	// Files are written into the result, by path: what they hold and their mode.
	Files map[string]File
	// After are shell commands that run last; "$1" is the root filesystem.
	After []string
	// Select is a shell script that runs when mmdebstrap has ended, and may
	// rebuild all of "$1", the root filesystem.
	Select string `json:",omitempty"`
	// Config are Dockerfile instructions that the image gets (ENV, CMD, …).
	Config []string
}

// A File of a Recipe.
type File struct {
	Content string
	Mode    os.FileMode
}

// Hash identifies what the recipe makes.
func (r Recipe) Hash() string {
	text, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and maps of strings cannot fail
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:6])
}

// rootfs returns the path of a tar with the recipe's root filesystem, from the
// cache or made now.
func (b *Builder) rootfs(ctx context.Context, r Recipe) (string, error) {
	result := filepath.Join(b.Host.CacheDir(), r.Name+"-"+r.Hash()+".tar")
	if _, err := os.Stat(result); err == nil {
		return result, nil
	}
	if err := host.RequireFree(b.Host.StateDir, 4<<30, "building image "+r.Name); err != nil {
		return "", err
	}
	b.Host.Progress.Step("building %s from Debian packages", r.Name)
	work, err := os.MkdirTemp(b.Host.CacheDir(), ".build-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(work)
	partial := filepath.Join(work, "rootfs.tar")
	if err := mmdebstrap(ctx, r, work, partial); err != nil {
		return "", fmt.Errorf("image %s: %w", r.Name, err)
	}
	b.forget(r.Name)
	return result, os.Rename(partial, result)
}

// forget removes what older versions of a recipe have left in the cache.
func (b *Builder) forget(name string) {
	old, _ := filepath.Glob(filepath.Join(b.Host.CacheDir(), name+"-????????????.tar"))
	for _, file := range old {
		os.Remove(file)
	}
}

func mmdebstrap(ctx context.Context, r Recipe, work, result string) error {
	sources, err := readSources("/etc/apt")
	if err != nil {
		return err
	}
	lines, err := linesFor(r.Suite, sources)
	if err != nil {
		return err
	}
	options, err := aptOptions(ctx)
	if err != nil {
		return err
	}
	tree := filepath.Join(work, "files")
	if err := writeFiles(tree, r.Files); err != nil {
		return err
	}
	if r.Artifacts != nil {
		if err := r.Artifacts.fetch(ctx, work, tree); err != nil {
			return err
		}
	}
	if r.Program != nil {
		if err := r.Program.build(ctx, work, tree); err != nil {
			return err
		}
	}
	args := []string{"--quiet", "--mode=root", "--variant=" + r.Variant}
	for _, option := range options {
		args = append(args, "--aptopt="+option)
	}
	for _, name := range r.Packages {
		args = append(args, "--include="+name)
	}
	for _, command := range r.Before {
		args = append(args, "--essential-hook="+command)
	}
	args = append(args, "--customize-hook=cp -a '"+tree+"/.' \"$1/\"")
	for _, command := range r.After {
		args = append(args, "--customize-hook="+command)
	}
	// The machine's download settings are no part of the image.
	args = append(args, `--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"`)
	if r.Select == "" {
		args = append(append(args, "--format=tar", r.Suite, result), lines...)
		_, err = host.Run(ctx, "nice", append([]string{"-n", "5", "mmdebstrap"}, args...)...)
		return err
	}
	root := filepath.Join(work, "root")
	args = append(append(args, "--format=directory", r.Suite, root), lines...)
	if _, err = host.Run(ctx, "nice", append([]string{"-n", "5", "mmdebstrap"}, args...)...); err != nil {
		return err
	}
	if _, err := host.Run(ctx, "sh", "-c", r.Select, "sh", root); err != nil {
		return err
	}
	_, err = host.Run(ctx, "tar", "--directory", root, "--sort=name", "--numeric-owner", "--create", "--file", result, ".")
	return err
}

func writeFiles(tree string, files map[string]File) error {
	if err := os.MkdirAll(tree, 0o755); err != nil {
		return err
	}
	for path, file := range files {
		target := filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, []byte(file.Content), file.Mode); err != nil {
			return err
		}
	}
	return nil
}
