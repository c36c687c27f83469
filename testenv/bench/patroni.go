package main

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/template"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// Images with Patroni, to upgrade from one to the other.
const (
	patroniImage = "patroni:17"
	patroniNext  = "patroni:17.7"
)

// patroniStack is the name of the stack, and begins the names of all it makes.
const patroniStack = prefix + "-patroni"

//go:embed patroni
var patroniFiles embed.FS

// patroniSettings are what decides how soon Patroni notices.
type patroniSettings struct {
	// Name of the cluster: its scope and its volumes.
	Name                        string
	Label                       string
	TTL, LoopWait, RetryTimeout int
	Port, API                   int // on the nodes
}

// Patroni's defaults, and the least values that its documentation allows. There
// must be loop_wait + 2 * retry_timeout <= ttl.
var (
	patroniDefaults = patroniSettings{Name: "default", Label: "Patroni, defaults", TTL: 30, LoopWait: 10, RetryTimeout: 10, Port: 15433, API: 18009}
	patroniTightest = patroniSettings{Name: "tight", Label: "Patroni, tightest", TTL: 20, LoopWait: 1, RetryTimeout: 3, Port: 15432, API: 18008}
)

// patroni is one Patroni cluster with a member on each node.
type patroni struct {
	b        *bench
	settings patroniSettings
	image    string // what the members run
}

// deployPatroni deploys the stack with a cluster for each of the settings, and
// returns them.
func (b *bench) deployPatroni(ctx context.Context, password string, settings ...patroniSettings) ([]*patroni, error) {
	dir, err := os.MkdirTemp("", patroniStack+"-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var nodes []patroniNode
	for _, n := range b.c.Nodes() {
		nodes = append(nodes, patroniNode{n.Number, n.Name, n.IP().String()})
	}
	if err := writePatroni(dir, nodes, password, settings); err != nil {
		return nil, err
	}
	if _, err := b.Docker(ctx, "stack", "deploy", "--detach", "--resolve-image", "never", "--compose-file", filepath.Join(dir, "stack.yml"), patroniStack); err != nil {
		return nil, err
	}
	var clusters []*patroni
	for _, s := range settings {
		clusters = append(clusters, &patroni{b: b, settings: s, image: patroniImage})
	}
	return clusters, nil
}

// patroniNode is a node with a member of each cluster.
type patroniNode struct {
	Number        int
	Name, Address string
}

// patroniMember is one member of one cluster, for the templates.
type patroniMember struct {
	patroniSettings
	Name, Cluster, Password string
	Node                    patroniNode
	Nodes                   []patroniNode
}

// writePatroni writes the stack and the members' configurations, which become
// secrets.
func writePatroni(dir string, nodes []patroniNode, password string, settings []patroniSettings) error {
	stack := struct {
		Image    string
		Nodes    []patroniNode
		Clusters []patroniSettings
		Members  []patroniMember
	}{Image: patroniImage, Nodes: nodes, Clusters: settings}
	files, err := template.New("").Delims("[[", "]]").ParseFS(patroniFiles, "patroni/*.tmpl")
	if err != nil {
		return err
	}
	for _, s := range settings {
		for _, n := range nodes {
			m := patroniMember{patroniSettings: s, Cluster: s.Name, Name: memberName(s, n.Number), Node: n, Password: password, Nodes: nodes}
			stack.Members = append(stack.Members, m)
			if err := render(files, "member.yml.tmpl", m, filepath.Join(dir, m.Name+".yml")); err != nil {
				return err
			}
		}
	}
	return render(files, "stack.yml.tmpl", stack, filepath.Join(dir, "stack.yml"))
}

func render(files *template.Template, name string, data any, to string) error {
	var text bytes.Buffer
	if err := files.ExecuteTemplate(&text, name, data); err != nil {
		return err
	}
	return os.WriteFile(to, text.Bytes(), 0o600)
}

func memberName(s patroniSettings, node int) string {
	return fmt.Sprintf("patroni-%s-%d", s.Name, node)
}

func (p *patroni) label() string   { return p.settings.Label }
func (p *patroni) network() string { return "host" }

func (p *patroni) hosts() []string {
	var hosts []string
	for _, n := range p.b.c.Nodes() {
		hosts = append(hosts, fmt.Sprintf("%s:%d", n.IP(), p.settings.Port))
	}
	return hosts
}

// deploy waits for what deployPatroni has started.
func (p *patroni) deploy(ctx context.Context) error {
	_, err := waitWhole(ctx, p)
	return err
}

func (p *patroni) service(member string) string { return patroniStack + "_" + member }

// members asks a member's REST API. A cluster is whole when it has a leader and the
// others stream from it and count for the quorum.
func (p *patroni) members(ctx context.Context) ([]member, error) {
	var found []member
	for _, n := range p.b.c.Nodes() {
		name := memberName(p.settings, n.Number)
		container, err := p.b.runningOn(ctx, n, p.service(name))
		if err != nil {
			return nil, err
		}
		found = append(found, member{name: name, node: n, container: container})
	}
	out, err := p.b.docker(ctx, found[0].node, "exec", found[0].container, "curl", "--silent", "--show-error", "--max-time", "5", fmt.Sprintf("http://localhost:%d/cluster", p.settings.API))
	if err != nil {
		return nil, err
	}
	var state struct {
		Members []struct{ Name, Role, State string }
	}
	if err := json.Unmarshal([]byte(out), &state); err != nil {
		return nil, fmt.Errorf("patroni answered %q: %w", out, err)
	}
	leaders := 0
	for i := range found {
		at := slices.IndexFunc(state.Members, func(m struct{ Name, Role, State string }) bool { return m.Name == found[i].name })
		if at < 0 {
			return nil, fmt.Errorf("patroni does not know %s", found[i].name)
		}
		switch m := state.Members[at]; {
		case m.Role == "leader" && m.State == "running":
			found[i].primary = true
			leaders++
		case m.Role != "quorum_standby" || m.State != "streaming":
			return nil, fmt.Errorf("%s is %s and %s", m.Name, m.Role, m.State)
		}
	}
	if leaders != 1 {
		return nil, fmt.Errorf("there are %d leaders", leaders)
	}
	leader, _ := primaryOf(found)
	return found, follows(ctx, p.on(leader), len(found)-1)
}

// lead asks for the switchover until it has happened: that patronictl ends well is not
// enough.
func (p *patroni) lead(ctx context.Context, node *cluster.Node) error {
	return product.Until(ctx, wholeLimit, fmt.Sprintf("%s on %s", p.label(), node.Name), func(ctx context.Context) error {
		leader, err := wholePrimary(ctx, p)
		if err != nil || leader.node.Number == node.Number {
			return err
		}
		err = p.switchover(ctx, memberName(p.settings, node.Number))
		return errors.Join(fmt.Errorf("it is on %s", leader.node.Name), err)
	})
}

func (p *patroni) switchover(ctx context.Context, to string) error {
	members, err := p.members(ctx)
	if err != nil {
		return err
	}
	leader, err := primaryOf(members)
	if err != nil {
		return err
	}
	_, err = p.b.docker(ctx, leader.node, "exec", leader.container, "patronictl", "--config-file", "/run/secrets/patroni.yml",
		"switchover", "--leader", leader.name, "--candidate", to, "--force")
	return err
}

// upgrade does what an administrator does: the standbys one after the other, a
// switchover, the former primary.
func (p *patroni) upgrade(ctx context.Context) error {
	next := otherImage(p.image, patroniImage, patroniNext)
	members, err := p.members(ctx)
	if err != nil {
		return err
	}
	slices.SortStableFunc(members, func(a, b member) int {
		switch {
		case a.primary == b.primary:
			return 0
		case a.primary:
			return 1
		}
		return -1
	})
	for _, m := range members {
		if m.primary {
			if err := p.switchover(ctx, members[0].name); err != nil {
				return err
			}
			if _, err := waitWhole(ctx, p); err != nil {
				return err
			}
		}
		if _, err := p.b.Docker(ctx, "service", "update", "--quiet", "--no-resolve-image", "--image", next, p.service(m.name)); err != nil {
			return err
		}
		err := product.Until(ctx, wholeLimit, m.name+" back", func(ctx context.Context) error {
			now, err := p.members(ctx)
			if err == nil && slices.ContainsFunc(now, func(n member) bool { return n.container == m.container }) {
				err = errors.New("the old container still runs")
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	p.image = next
	return nil
}

func (p *patroni) sql(ctx context.Context, statements string) (string, error) {
	members, err := p.members(ctx)
	if err != nil {
		return "", err
	}
	leader, err := primaryOf(members)
	if err != nil {
		return "", err
	}
	return p.on(leader).sql(ctx, statements)
}

// on is the database as one member has it.
func (p *patroni) on(m member) memberDatabase { return memberDatabase{p.b, m} }
