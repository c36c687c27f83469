package stacks

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/distribution/reference"
)

// Component is a service of an application beside its members, such as a web front end. It keeps
// nothing, so it has no volume, and Swarm alone looks after it: any of its tasks can run anywhere.
type Component struct {
	Name        string `yaml:"name" json:"name"`
	Description string `yaml:"description" json:"description"`
	Image       string `yaml:"image" json:"image,omitempty"` // default
	// Own: it runs OpenManage's own image instead (Options.Own), for code that an application needs beside it.
	Own bool `yaml:"own" json:"own,omitempty"`
	// DockerSocket: it asks Docker what there is, as members with the same field do.
	DockerSocket bool `yaml:"docker_socket" json:"dockerSocket,omitempty"`
	// NodeSocket: it asks the Docker of the node that it runs on, a worker's too, about the containers there.
	NodeSocket bool `yaml:"node_socket" json:"nodeSocket,omitempty"`
	// When is the boolean parameter that says whether the component is there; "": it always is.
	When string `yaml:"when" json:"when,omitempty"`
	// Command replaces the image's own, if it is there. Its entrypoint stays.
	Command []string `yaml:"command" json:"command,omitempty"`
	// User is the image's own, UID:GID; "": what the image says.
	User string `yaml:"user" json:"user,omitempty"`
	// Global: one task on each node. Else there are Replicas, 1 if that is 0.
	Global   bool `yaml:"global" json:"global,omitempty"`
	Replicas int  `yaml:"replicas" json:"replicas,omitempty"`
	// Secrets are those of the application, and of what it needs, that it reads.
	Secrets   []string    `yaml:"secrets" json:"secrets,omitempty"`
	Resources Resources   `yaml:"resources" json:"resources"`
	Ports     []Port      `yaml:"ports" json:"ports,omitempty"`
	Health    HealthCheck `yaml:"health" json:"health"`
}

// Need is an application of another type that one cannot do without. `create` makes it along, unless it
// is given one with --use.
type Need struct {
	Name        string `yaml:"name" json:"name"` // of the need; APPLICATION-NAME is made
	Type        string `yaml:"type" json:"type"`
	Members     int    `yaml:"members" json:"members,omitempty"` // to be made; 0: the type's default
	Description string `yaml:"description" json:"description"`
	// Secrets are those of that application which this one reads: as NAME-SECRET.
	Secrets []string `yaml:"secrets" json:"secrets,omitempty"`
	// Image and Parameters are what it is made with, if not with its type's.
	Image      string            `yaml:"image" json:"image,omitempty"`
	Parameters map[string]string `yaml:"parameters" json:"parameters,omitempty"`
}

// Along is the application of a type that is created along to fill the need: the type as it then is, and
// its completed options.
func (n Need) Along(needed *App, name string) (*App, Options) {
	parameters := maps.Clone(n.Parameters)
	if parameters == nil {
		parameters = map[string]string{}
	}
	o := needed.Complete(Options{Name: name, Members: n.Members, Image: n.Image, Parameters: parameters})
	made := *needed.For(o)
	made.Image.Default = o.Image // no user asked for it
	return &made, o
}

// Uses is an application that fills a need.
type Uses struct {
	Name    string `json:"name"`
	Members int    `json:"members"`
}

// Hosts are the names of its members, as many clients take them: a,b,c.
func (u Uses) Hosts() (string, error) { return u.Join("%s") }

// Join writes each of these names as the format says, such as http://%s:9200, with commas between them.
func (u Uses) Join(format string) (string, error) {
	var all strings.Builder
	for slot := 1; slot <= u.Members; slot++ {
		if slot > 1 {
			all.WriteByte(',')
		}
		name := MemberName(u.Name, slot)
		if all.Len()+len(format)+strings.Count(format, "%s")*len(name) > maxStack {
			return "", errLarge
		}
		all.WriteString(strings.ReplaceAll(format, "%s", name))
	}
	return all.String(), nil
}

// Network is the one in which they answer.
func (u Uses) Network() string { return u.Name + "_default" }

// complete fills in what is the same for all components.
func (c *Component) complete() {
	c.Health.complete("10s", "500ms")
	if !c.Global {
		c.Replicas = cmp.Or(c.Replicas, 1)
	}
}

var memberLike = regexp.MustCompile(`-[0-9]+$`)

// validate says what is wrong with a component of a, if anything, through check.
func (c *Component) validate(a *App, check func(ok bool, format string, args ...any)) {
	where := "component " + c.Name + ": "
	// Docker has the service answer to its name, which is then nobody's member's.
	check(!memberLike.MatchString(c.Name), where+"a dash and a number at the end are how members are called")
	check(appID.MatchString(c.Name), "component %q: expected a name of lower-case letters, digits and dashes, a letter first", c.Name)
	check(c.Description != "", where+"description is missing")
	if c.Own {
		check(c.Image == "", where+"own and image exclude each other")
		check(len(c.Command) > 0, where+"command is missing: which part of OpenManage it is")
	} else {
		_, err := reference.ParseNormalizedNamed(c.Image)
		check(err == nil, where+"image %q: %v", c.Image, err)
	}
	check(len(c.Health.Test) > 1, where+"health.test is missing")
	check(!c.Global || c.Replicas == 0, where+"global and replicas exclude each other")
	check(!c.DockerSocket || !c.NodeSocket, where+"docker_socket, that of managers, and node_socket exclude each other")
	check(c.When == "" || a.isSwitch(c.When), where+"when %s: expected a parameter of type boolean", c.When)
	check(c.Resources.Memory > 0, where+"resources.memory is missing")
	for _, s := range c.Secrets {
		check(a.hasSecret(s), where+"secret %s is neither the application's nor of what it needs", s)
	}
}

// isSwitch tells whether a name is that of a boolean parameter.
func (a *App) isSwitch(name string) bool {
	p, err := a.Parameter(name)
	return err == nil && p.Type == "boolean"
}

// For is the type as an application with these options has it: without the components that its
// parameters leave out.
func (a *App) For(o Options) *App {
	leftOut := func(c Component) bool {
		if c.When == "" {
			return false
		}
		p, err := a.Parameter(c.When)
		return err != nil || p.valueIn(o.Parameters) != "on"
	}
	if !slices.ContainsFunc(a.Components, leftOut) {
		return a
	}
	made := *a
	made.Components = nil
	for _, c := range a.Components {
		if leftOut(c) {
			made.leftOut = append(made.leftOut, c)
		} else {
			made.Components = append(made.Components, c)
		}
	}
	return &made
}

// RunsOwn tells whether a component runs OpenManage's own image.
func (a *App) RunsOwn() bool {
	return slices.ContainsFunc(a.Components, func(c Component) bool { return c.Own })
}

// AllPorts are those of the components, which people look at first, and of the members.
func (a *App) AllPorts() []Port {
	var ports []Port
	for _, c := range a.Components {
		if !c.Global {
			ports = append(ports, c.Ports...)
		}
	}
	return append(ports, a.Ports...)
}

// OfComponent tells whether a component answers on a port, and no member.
func (a *App) OfComponent(port int) bool {
	return slices.ContainsFunc(a.Components, func(c Component) bool { return c.has(port) })
}

func (c *Component) has(port int) bool {
	return slices.ContainsFunc(c.Ports, func(p Port) bool { return p.Port == port })
}

// ProtocolOf is what the application speaks on a port.
func (a *App) ProtocolOf(port int) string {
	for _, p := range a.AllPorts() {
		if p.Port == port && p.Protocol != "" {
			return p.Protocol
		}
	}
	return "tcp"
}

func (a *App) hasSecret(name string) bool {
	return slices.ContainsFunc(a.Secrets, func(s Secret) bool { return s.Name == name }) ||
		slices.ContainsFunc(a.Needs, func(n Need) bool {
			secret, ok := strings.CutPrefix(name, n.Name+"-")
			return ok && slices.Contains(n.Secrets, secret)
		})
}

func (n Need) validate(check func(ok bool, format string, args ...any)) {
	check(appID.MatchString(n.Name), "need %q: expected a name of lower-case letters, digits and dashes, a letter first", n.Name)
	check(appID.MatchString(n.Type), "need %s: type %q: expected the id of a type of the catalog", n.Name, n.Type)
	check(n.Description != "", "need %s: description is missing", n.Name)
}

// componentData is what a template sees of a component.
type componentData struct {
	*data
	Component
	Service string // its name in the application's network
	Publish []publication
}

// Image is that of the component: the type's, or the one that was asked for.
func (c *componentData) Image() string { return c.Component.Image }

// UID is the number of the component's user.
func (c *componentData) UID() string {
	uid, _, _ := strings.Cut(c.User, ":")
	return uid
}

// Component is the one of a name, for the template "component"; nil if the parameters leave it out.
func (d *data) Component(name string) (*componentData, error) {
	for _, c := range d.App.Components {
		if c.Name != name {
			continue
		}
		if c.Own {
			c.Image = d.own
		}
		c.Image = cmp.Or(d.images[name], c.Image)
		made := &componentData{data: d, Component: c, Service: d.Name + "-" + name}
		for _, p := range d.published {
			if c.has(p.Target) {
				made.Publish = append(made.Publish, p)
			}
		}
		return made, nil
	}
	if slices.ContainsFunc(d.App.leftOut, func(c Component) bool { return c.Name == name }) {
		return nil, nil
	}
	return nil, fmt.Errorf("%s has no component %q", d.App.ID, name)
}

// Need is the application that fills a need.
func (d *data) Need(name string) (Uses, error) {
	u, ok := d.uses[name]
	if !ok {
		return u, fmt.Errorf("%s needs nothing that is called %q", d.App.ID, name)
	}
	return u, nil
}

// Foreign is a secret of another application, as this one knows it.
type Foreign struct{ Name, Secret string }

// Foreigns are the secrets of what is needed.
func (d *data) Foreigns() []Foreign {
	var all []Foreign
	for _, n := range d.App.Needs {
		for _, s := range n.Secrets {
			all = append(all, Foreign{Name: n.Name + "-" + s, Secret: SecretName(d.uses[n.Name].Name, s)})
		}
	}
	return all
}

// completeNeeds says which applications fill the needs of one that is called name. Of how many members
// they are taken to be, where nobody says it, is what they are made with.
func (a *App) completeNeeds(name string, given map[string]Uses) map[string]Uses {
	if len(a.Needs) == 0 {
		return nil
	}
	uses := map[string]Uses{}
	for _, n := range a.Needs {
		u := given[n.Name]
		members := cmp.Or(u.Members, n.Members)
		if members == 0 {
			members = defaultMembers(n.Type)
		}
		uses[n.Name] = Uses{Name: cmp.Or(u.Name, name+"-"+n.Name), Members: members}
	}
	return uses
}

// defaultMembers is how many members an application of a type has; 1 if the type did not come with
// OpenManage.
func defaultMembers(typeID string) int {
	builtin, err := Builtin()
	if err != nil {
		return 1
	}
	app, err := builtin.Find(typeID)
	if err != nil {
		return 1
	}
	return app.Members.Default
}
