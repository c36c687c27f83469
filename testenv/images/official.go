package images

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/openmanage/openmanage/testenv/host"
)

// recipes make what can stand in for official images, by their names.
func recipes() map[string]Recipe {
	all := map[string]Recipe{
		"debian:trixie-slim": {
			Name: "debian", Suite: "trixie", Variant: "minbase",
			After:  []string{dropDocumentation},
			Config: []string{`CMD ["bash"]`},
		},
		"postgres:17": postgresRecipe("17"),
		// The same server under a second name, to upgrade to.
		"postgres:17.7": postgresRecipe("17.7"),
		"patroni:17":    patroniRecipe("17"),
		"patroni:17.7":  patroniRecipe("17.7"),
	}
	maps.Copy(all, catalogRecipes())
	return all
}

// Names of the official images that can be had without Docker Hub.
func Names() []string {
	var names []string
	for name := range recipes() {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// EnsureOfficial has the official images of these names (as "postgres:17") in
// the registry: from Docker Hub where it can be reached, else made here.
func (b *Builder) EnsureOfficial(ctx context.Context, names ...string) error {
	known := recipes()
	var hub *bool // asked once, and only if an image is missing
	for _, name := range names {
		recipe, made := known[name]
		if made && b.isCurrent(ctx, name, imageName(recipe)) {
			continue
		}
		if b.isFromHub(ctx, name) {
			continue
		}
		if hub == nil {
			reachable := hubAnswers(ctx)
			hub = &reachable
		}
		if *hub {
			if err := b.fromHub(ctx, name); err == nil {
				continue
			} else if !made {
				return err
			}
		}
		if !made {
			return fmt.Errorf("image %s: Docker Hub cannot be reached, and there is no recipe to make it; there is one for %s", name, strings.Join(Names(), ", "))
		}
		if err := b.fromRecipe(ctx, name, recipe); err != nil {
			return err
		}
	}
	return nil
}

func (b *Builder) fromRecipe(ctx context.Context, name string, recipe Recipe) error {
	image, err := b.imported(ctx, recipe)
	if err != nil {
		return err
	}
	return b.tagAndPush(ctx, image, name)
}

func (b *Builder) fromHub(ctx context.Context, name string) error {
	b.Host.Progress.Step("pulling %s from Docker Hub", name)
	if _, err := host.Docker(ctx, "pull", "--quiet", name); err != nil {
		return err
	}
	return b.tagAndPush(ctx, name, name)
}

func (b *Builder) tagAndPush(ctx context.Context, image, name string) error {
	local := b.registryName(name)
	if _, err := host.Docker(ctx, "tag", image, local); err != nil {
		return err
	}
	if err := b.push(ctx, local); err != nil {
		return err
	}
	b.Host.Progress.Step("image %s is in the registry", name)
	return nil
}

func (b *Builder) push(ctx context.Context, local string) error {
	if err := host.RequireFree(b.Host.StateDir, 1<<30, "the image registry"); err != nil {
		return err
	}
	_, err := host.Docker(ctx, "push", "--quiet", local)
	return err
}

// isFromHub says whether the registry has an image that was pulled.
func (b *Builder) isFromHub(ctx context.Context, name string) bool {
	out, err := host.Docker(ctx, "image", "inspect", "--format", "{{json .RepoTags}}", b.registryName(name))
	return err == nil && !strings.Contains(out, "openmanage-testenv/") && b.isCurrent(ctx, name, b.registryName(name))
}

// isCurrent says whether the registry has, under name, the image that the
// machine's engine has as image.
func (b *Builder) isCurrent(ctx context.Context, name, image string) bool {
	id, err := host.Docker(ctx, "image", "inspect", "--format", "{{.Id}}", image)
	if err != nil {
		return false
	}
	digests, err := b.registryDigests(ctx, name)
	return err == nil && slices.Contains(digests, strings.TrimSpace(id))
}

// registryDigests returns the digests of a tag's manifest and of the image's
// configuration. One of them is what an engine calls the image's ID: which one
// depends on how the engine stores images.
func (b *Builder) registryDigests(ctx context.Context, name string) ([]string, error) {
	path, tag, _ := strings.Cut(name, ":")
	if !strings.Contains(path, "/") {
		path = "library/" + path
	}
	url := fmt.Sprintf("http://127.0.0.1:%d/v2/%s/manifests/%s", b.Host.RegistryPort, path, tag)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/vnd.docker.distribution.manifest.v2+json")
	response, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the registry answers %s for %s", response.Status, name)
	}
	var manifest struct{ Config struct{ Digest string } }
	if err := json.NewDecoder(response.Body).Decode(&manifest); err != nil {
		return nil, err
	}
	return []string{response.Header.Get("Docker-Content-Digest"), manifest.Config.Digest}, nil
}

// hubAnswers says whether Docker Hub can be reached: it asks who we are.
func hubAnswers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://registry-1.docker.io/v2/", nil)
	if err != nil {
		return false
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusUnauthorized || response.StatusCode == http.StatusOK
}
