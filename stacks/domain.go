package stacks

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// DefaultTraefik is the name of the Traefik application that --domain takes if none is named.
const DefaultTraefik = "traefik"

// domainName is a name of DNS with at least one dot: letters, digits and dashes, 63 characters a label.
var domainName = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)

func (a *App) checkDomain(o Options) error {
	switch {
	case o.Domain == "":
		return nil
	case len(o.Domain) > 253 || !domainName.MatchString(o.Domain):
		return fmt.Errorf("%w --domain %q: expected a name such as %s.example.org", ErrOption, o.Domain, a.ID)
	case a.webPort() == nil:
		return fmt.Errorf("%w --domain %s: %s has no web interface", ErrOption, o.Domain, a.ID)
	}
	return nil
}

// webPort is where browsers look, or nil.
func (a *App) webPort() *Port {
	for _, p := range a.AllPorts() {
		if p.Web {
			return &p
		}
	}
	return nil
}

const (
	routerLabels = "traefik.http.routers."
	ruleLabel    = "rule"
)

func hostRule(domain string) string { return "Host(`" + domain + "`)" }

// Answers tells whether Traefik sends those who ask for a domain to the service with these labels.
func Answers(labels map[string]string, domain string) bool {
	for key, value := range labels {
		if strings.HasPrefix(key, routerLabels) && strings.HasSuffix(key, "."+ruleLabel) && strings.Contains(value, hostRule(domain)) {
			return true
		}
	}
	return false
}

// URL is where browsers reach the application by --domain, for a server that has to know; "" without it.
func (d *data) URL() string {
	if d.domain == "" {
		return ""
	}
	return "https://" + d.domain
}

// Label is a label of a service.
type Label struct{ Key, Value string }

// Routes are the labels by which Traefik finds the one of the given ports that browsers look at; none
// without --domain, or if none of them is. Documentation: Traefik's Docker Swarm provider.
func (d *data) Routes(ports []Port) []Label {
	web := d.App.webPort()
	if web == nil || !slices.ContainsFunc(ports, func(p Port) bool { return p.Port == web.Port }) {
		return nil
	}
	return d.App.routes(Options{Name: d.Name, Domain: d.domain, Via: d.via})
}

// routes are the labels of what browsers look at in an application with these options.
func (a *App) routes(o Options) []Label {
	web := a.webPort()
	if o.Domain == "" || web == nil {
		return nil
	}
	router := routerLabels + o.Name + "."
	return []Label{
		{"traefik.enable", "true"},
		{"traefik.swarm.network", o.door()},
		{router + ruleLabel, hostRule(o.Domain)},
		{router + "entrypoints", "websecure"},
		{router + "tls", "true"},
		{"traefik.http.services." + o.Name + ".loadbalancer.server.port", strconv.Itoa(web.Port)},
	}
}

// IsRouted tells whether a service with these labels is what browsers look at, as options say.
func (a *App) IsRouted(o Options, labels map[string]string) bool {
	routes := a.routes(o)
	return len(routes) > 0 && !slices.ContainsFunc(routes, func(l Label) bool { return labels[l.Key] != l.Value })
}

// door is the network in which Traefik finds an application with a domain; "" without.
func (o Options) door() string {
	if o.Domain == "" {
		return ""
	}
	return Uses{Name: o.Via}.Network()
}

// flow writes labels for a flow mapping of YAML, each with a comma before it.
func flow(labels []Label) string {
	var text strings.Builder
	for _, l := range labels {
		fmt.Fprintf(&text, ", %s: %s", l.Key, quote(l.Value))
	}
	return text.String()
}
