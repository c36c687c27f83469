// Package product puts OpenManage on the test environment's Swarm from this
// source tree, and runs its CLI as a user would: the end-to-end tests, the
// benchmarks and the demo do nothing else with it.
package product

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/images"
)

// Product is OpenManage, built from source and installed on a Swarm.
type Product struct {
	Cluster *cluster.Cluster
	// Version is drawn from what was built, so that a change is a new version.
	Version string
	// Via is the node through whose engine commands go; node 1 at first.
	Via    *cluster.Node
	source string
}

// Build builds the binaries, installs the CLI plugin for the current user and
// has image and plugin in the registry. What is there already is used.
func Build(ctx context.Context, c *cluster.Cluster) (*Product, error) {
	source, err := sourceRoot()
	if err != nil {
		return nil, err
	}
	first, err := c.Node(1)
	if err != nil {
		return nil, err
	}
	p := &Product{Cluster: c, Via: first, source: source}
	builder, err := cluster.Prepare(ctx, c.Host)
	if err != nil {
		return nil, err
	}
	c.Host.Progress.Step("building OpenManage")
	binary, err := images.BuildBinary(ctx, c.Host, source)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(source, "volumeplugin", "config.json")
	if p.Version, err = digest(binary, config); err != nil {
		return nil, err
	}
	if _, err := host.Run(ctx, "make", "-C", source, "install"); err != nil {
		return nil, fmt.Errorf("install the CLI plugin: %w", err)
	}
	if !p.inRegistry(ctx, "openmanage/openmanage") {
		if err := builder.Product(ctx, binary, p.image()); err != nil {
			return nil, err
		}
	}
	if !p.inRegistry(ctx, "openmanage/volume") {
		if err := builder.Plugin(ctx, binary, config, p.plugin()); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// inRegistry tells whether repository has this version already.
func (p *Product) inRegistry(ctx context.Context, repository string) bool {
	url := fmt.Sprintf("http://%s:%d/v2/%s/manifests/%s", p.Cluster.Network.Gateway(), p.Cluster.Host.RegistryPort, repository, p.Version)
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return false
	}
	req.Header.Set("Accept", "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

func (p *Product) image() string  { return "openmanage/openmanage:" + p.Version }
func (p *Product) plugin() string { return "openmanage/volume:" + p.Version }

// PluginReference is where the nodes find the plugin.
func (p *Product) PluginReference() string {
	return fmt.Sprintf("%s:%d/%s", p.Cluster.Network.Gateway(), p.Cluster.Host.RegistryPort, p.plugin())
}

// ImageReference is where the nodes find the image.
func (p *Product) ImageReference() string {
	return fmt.Sprintf("%s:%d/%s", p.Cluster.Network.Gateway(), p.Cluster.Host.RegistryPort, p.image())
}

// Install runs `docker openmanage install`, which also verifies every node, and
// has every node run this version of the plugin.
func (p *Product) Install(ctx context.Context) error {
	if _, err := p.CLI(ctx, "install", "--image", p.ImageReference(), "--plugin", p.PluginReference(), "--data", cluster.StoragePath); err != nil {
		return err
	}
	for _, n := range p.Cluster.Nodes() {
		if err := p.replacePlugin(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// replacePlugin does what `install` advises where containers use an older plugin:
// drain the node and make it active again.
func (p *Product) replacePlugin(ctx context.Context, n *cluster.Node) error {
	replaced := func(ctx context.Context) error {
		out, _, err := n.Exec(ctx, "docker", "plugin", "inspect", "openmanage", "--format", "{{.PluginReference}} {{.Enabled}}")
		if err == nil && strings.TrimSpace(out) != p.PluginReference()+" true" {
			err = fmt.Errorf("it has %s", out)
		}
		return err
	}
	if replaced(ctx) == nil {
		return nil
	}
	var err error
	for range 3 { // members can be back before the helper is (known gap)
		p.Cluster.Host.Progress.Step("draining %s for its new volume plugin", n.Name)
		if err = p.Availability(ctx, n, "drain"); err != nil {
			return err
		}
		err = Until(ctx, 2*time.Minute, n.Name+" drained", func(ctx context.Context) error {
			out, _, err := n.Exec(ctx, "docker", "ps", "--quiet")
			if err == nil && strings.TrimSpace(out) != "" {
				err = errors.New("containers still run there")
			}
			return err
		})
		if err = errors.Join(err, p.Availability(ctx, n, "active")); err != nil {
			return err
		}
		if err = Until(ctx, 30*time.Second, "the new plugin on "+n.Name, replaced); err == nil {
			return nil
		}
	}
	return err
}

// Availability sets whether Swarm may place tasks on a node: active, pause or drain.
// Swarm refuses that if the node has changed in the same moment, as it does when its
// plugin has been replaced.
func (p *Product) Availability(ctx context.Context, n *cluster.Node, availability string) error {
	return Until(ctx, 30*time.Second, n.Name+" "+availability, func(ctx context.Context) error {
		_, err := p.Docker(ctx, "node", "update", "--availability", availability, n.Name)
		return err
	})
}

// CLI runs `docker openmanage args` on the Swarm and returns its standard output.
// The error holds what it wrote to standard error.
func (p *Product) CLI(ctx context.Context, args ...string) (string, error) {
	out, stderr, err := p.run(ctx, nil, append([]string{"openmanage"}, args...))
	if err != nil {
		return out, fmt.Errorf("docker openmanage %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr))
	}
	return out, nil
}

// Docker runs `docker args` on the Swarm.
func (p *Product) Docker(ctx context.Context, args ...string) (string, error) {
	out, stderr, err := p.run(ctx, nil, args)
	if err != nil {
		return out, fmt.Errorf("docker %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr))
	}
	return strings.TrimSpace(out), nil
}

// Input is like Docker, with standard input.
func (p *Product) Input(ctx context.Context, stdin io.Reader, args ...string) (stdout, stderr string, err error) {
	return p.run(ctx, stdin, args)
}

// Command is `docker args` on the Swarm, for those who need its streams.
func (p *Product) Command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "docker", append([]string{"--host", "unix://" + p.Via.Socket()}, args...)...)
}

func (p *Product) run(ctx context.Context, stdin io.Reader, args []string) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd := p.Command(ctx, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// SQL runs statements on the application's primary, as `docker openmanage
// connect` does, and returns the unaligned rows.
func (p *Product) SQL(ctx context.Context, application, sql string) (string, error) {
	out, err := p.CLI(ctx, "connect", application, "--", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql)
	return strings.TrimSpace(out), err
}

// Member is a line of `docker openmanage ps --format json`.
type Member struct {
	Member  string
	Role    string
	Node    string
	State   string
	Health  string
	Lag     string
	Volume  string
	Message string
}

// Members returns what `docker openmanage ps` says.
func (p *Product) Members(ctx context.Context, application string) ([]Member, error) {
	out, err := p.CLI(ctx, "ps", application, "--format", "json")
	if err != nil {
		return nil, err
	}
	var members []Member
	for line := range strings.Lines(out) {
		var m Member
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			return nil, fmt.Errorf("docker openmanage ps --format json printed %q: %w", line, err)
		}
		members = append(members, m)
	}
	return members, nil
}

// sourceRoot finds the module that this program was built from, from whichever
// of its folders it runs in.
func sourceRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, statErr := os.Stat(filepath.Join(dir, "go.mod")); statErr == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("no go.mod here or above: run it in a checkout of OpenManage")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

func digest(files ...string) (string, error) {
	h := sha256.New()
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(h, f)
		f.Close()
		if err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:12], nil
}
