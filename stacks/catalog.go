// Package stacks is the catalog: what `docker openmanage create` can create. Each
// application type is a folder with
//
//	app.yaml         what it is: members, parameters, ports, volumes, secrets
//	stack.yaml.tmpl  the Compose file of one application, as a text/template
//	README.md        for people
//
// and, for a database engine, its Go code, which this package does not know. A
// folder is data: reading one runs nothing. A parameter is written once, in
// app.yaml, and becomes a --set key, its check, its help and its completion.
package stacks

import (
	"bytes"
	"cmp"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"

	"github.com/distribution/reference"
	units "github.com/docker/go-units"
	"go.yaml.in/yaml/v3"

	"github.com/openmanage/openmanage/internal/api"
)

//go:embed common.yaml common.tmpl */app.yaml */stack.yaml.tmpl
var builtin embed.FS

// ErrUnknownType is what an error about an application type that is not in the
// catalog wraps.
var ErrUnknownType = errors.New("unknown application type")

// App is one application type, as its app.yaml says.
type App struct {
	ID          string   `yaml:"id" json:"id"`
	Title       string   `yaml:"title" json:"title"`
	Category    string   `yaml:"category" json:"category"`
	Description string   `yaml:"description" json:"description"`
	Aliases     []string `yaml:"aliases" json:"aliases,omitempty"`
	Links       []string `yaml:"links" json:"links,omitempty"`
	// Engine is the code that knows this database. "": there is none, and the members
	// run Command, what the image runs by itself, as User.
	Engine  string   `yaml:"engine" json:"engine,omitempty"`
	Command []string `yaml:"command" json:"command,omitempty"`
	// User is the image's own, UID:GID, who also owns the volume; "": root.
	User       string      `yaml:"user" json:"user,omitempty"`
	Image      Image       `yaml:"image" json:"image"`
	Members    Members     `yaml:"members" json:"members"`
	Volume     Volume      `yaml:"volume" json:"volume"`
	Resources  Resources   `yaml:"resources" json:"resources"`
	Parameters []Parameter `yaml:"parameters" json:"parameters,omitempty"`
	// Reserved are settings that the engine keeps for itself.
	Reserved []string `yaml:"reserved" json:"reserved,omitempty"`
	Secrets  []Secret `yaml:"secrets" json:"secrets,omitempty"`
	Ports    []Port   `yaml:"ports" json:"ports,omitempty"`
	Health   Health   `yaml:"health" json:"health"`
	// DockerSocket: the members ask Docker what there is. They run on managers, with its socket, and so
	// can do whatever Docker can.
	DockerSocket bool `yaml:"docker_socket" json:"dockerSocket,omitempty"`
	// Capabilities are rights of root that the members need and containers do not have by themselves, such
	// as NET_ADMIN; Sysctls are settings of the kernel in their network.
	Capabilities []string          `yaml:"capabilities" json:"capabilities,omitempty"`
	Sysctls      map[string]string `yaml:"sysctls" json:"sysctls,omitempty"`
	// Components are services beside the members, Needs other applications that there must be.
	Components []Component `yaml:"components" json:"components,omitempty"`
	Needs      []Need      `yaml:"needs" json:"needs,omitempty"`
	// Added: it did not come with OpenManage.
	Added *Added `yaml:"-" json:"added,omitempty"`

	template, common string
	leftOut          []Component // by parameters (For)
}

// Plain tells whether the type has no engine: its members are equals.
func (a *App) Plain() bool { return a.Engine == "" }

// UID is the number of the image's own user.
func (a *App) UID() string {
	uid, _, _ := strings.Cut(a.User, ":")
	return uid
}

// EngineName is what the agent knows the engine by.
func (a *App) EngineName() string { return cmp.Or(a.Engine, plainEngine) }

// plainEngine runs an image's own command (stacks/plain).
const plainEngine = "plain"

// Image is what the members run.
type Image struct {
	Default string `yaml:"default" json:"default"`
	// Majors are the major versions that are supported; a tag that begins with
	// another number is refused. A tag without a number is the user's affair.
	Majors []int `yaml:"majors" json:"majors,omitempty"`
	// Downgrade says why a member may get an older minor version; "": it may not.
	Downgrade string `yaml:"downgrade" json:"downgrade,omitempty"`
}

// Members is how many of them there can be.
type Members struct {
	Min     int `yaml:"min" json:"min"`
	Max     int `yaml:"max" json:"max"`
	Default int `yaml:"default" json:"default"`
	// Odd: only odd numbers, because a majority of them decides.
	Odd bool `yaml:"odd" json:"odd,omitempty"`
	// Scale says why their number cannot be changed later; "": it can.
	Scale string `yaml:"scale" json:"scale,omitempty"`
}

// Allow tells whether there can be so many.
func (m Members) Allow(n int) bool { return n >= m.Min && n <= m.Max && (!m.Odd || n%2 == 1) }

// String is for people: 1 to 9 members.
func (m Members) String() string {
	switch {
	case m.Min == m.Max && m.Min == 1:
		return "1 member"
	case m.Min == m.Max:
		return fmt.Sprintf("%d members", m.Min)
	case m.Odd:
		return fmt.Sprintf("%d to %d members, an odd number", m.Min, m.Max)
	}
	return fmt.Sprintf("%d to %d members", m.Min, m.Max)
}

// Resources are a member's limits, unless the user says others.
type Resources struct {
	CPUs   string `yaml:"cpus" json:"cpus,omitempty"`
	Memory Size   `yaml:"memory" json:"memory,omitempty"`
}

// Volume is what each member stores.
type Volume struct {
	// Path is where a member's volume is mounted, unless PathByMajor says
	// otherwise for the image's major version.
	Path        string         `yaml:"path" json:"path"`
	PathByMajor map[int]string `yaml:"path_by_major" json:"pathByMajor,omitempty"`
	// Data is the folder below it that holds the state.
	Data        string   `yaml:"data" json:"data"`
	Size        Size     `yaml:"size" json:"size"` // default
	MinSize     Size     `yaml:"min_size" json:"minSize"`
	Filesystems []string `yaml:"filesystems" json:"filesystems"` // the first is the default
}

// Port is one on which a member answers.
type Port struct {
	Name        string `yaml:"name" json:"name"`
	Port        int    `yaml:"port" json:"port"`
	Protocol    string `yaml:"protocol" json:"protocol,omitempty"` // tcp or udp; "": tcp
	Description string `yaml:"description" json:"description"`
	// Web: people look at it with a browser, so --domain gives it a name.
	Web bool `yaml:"web" json:"web,omitempty"`
}

// Health says how Docker asks a member whether it is well. What Docker asks is the
// agent; without an engine, Check is what the agent asks the server: an http:// or
// tcp:// URL, or a command as a JSON array. The rest can be left out then.
type Health struct {
	Check       string `yaml:"check" json:"check,omitempty"`
	HealthCheck `yaml:",inline"`
}

// HealthCheck is what Docker asks in a container, and when, in the spelling of a Compose file.
type HealthCheck struct {
	Test        []string `yaml:"test" json:"test"`
	Interval    string   `yaml:"interval" json:"interval"`
	Timeout     string   `yaml:"timeout" json:"timeout"`
	Retries     int      `yaml:"retries" json:"retries"`
	StartPeriod string   `yaml:"start_period" json:"startPeriod"`
	// StartInterval is how often until it is well for the first time, or StartPeriod has
	// passed. Swarm's DNS knows a container only then, so it is short. Docker 25 and newer.
	StartInterval string `yaml:"start_interval" json:"startInterval"`
}

// complete fills in what is left out of when Docker asks.
func (h *HealthCheck) complete(interval, startInterval string) {
	h.Interval, h.Timeout, h.Retries = cmp.Or(h.Interval, interval), cmp.Or(h.Timeout, "5s"), cmp.Or(h.Retries, 6)
	h.StartPeriod, h.StartInterval = cmp.Or(h.StartPeriod, "60s"), cmp.Or(h.StartInterval, startInterval)
}

// Size is a number of bytes, written like 10GiB.
type Size int64

// UnmarshalYAML reads 10GiB as docker does.
func (s *Size) UnmarshalYAML(node *yaml.Node) error {
	n, err := units.RAMInBytes(node.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is no size; write it like 10GiB", node.Line, node.Value)
	}
	*s = Size(n)
	return nil
}

func (s Size) String() string { return FormatSize(int64(s)) }

// FormatSize writes bytes so that no information is lost: 10GiB, 1536MiB, or the
// number of bytes.
func FormatSize(n int64) string {
	for _, u := range []struct {
		name string
		size int64
	}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size && n%u.size == 0 {
			return fmt.Sprintf("%d%s", n/u.size, u.name)
		}
	}
	return fmt.Sprintf("%d", n)
}

// Catalog is a set of application types.
type Catalog struct{ apps []*App }

// Builtin returns the catalog that comes with OpenManage. It is read once; nobody
// changes what is in it.
var Builtin = sync.OnceValues(func() (*Catalog, error) { return Load(builtin) })

// Load reads every folder of fsys that has an app.yaml. A template is parsed when a
// stack is made of it.
func Load(fsys fs.FS) (*Catalog, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("read the catalog: %w", err)
	}
	shared, err := readShared(fsys)
	if err != nil {
		return nil, err
	}
	c := &Catalog{}
	names := map[string]string{}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if _, err := fs.Stat(fsys, path.Join(e.Name(), "app.yaml")); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		app, err := loadApp(fsys, e.Name(), shared)
		if err != nil {
			return nil, err
		}
		for _, name := range append([]string{app.ID}, app.Aliases...) {
			if other, taken := names[name]; taken {
				return nil, fmt.Errorf("%s/app.yaml: the name %q is taken by %s; choose another id or alias", e.Name(), name, other)
			}
			names[name] = app.ID
		}
		c.apps = append(c.apps, app)
	}
	return c, nil
}

// Apps returns all application types in the order of their IDs.
func (c *Catalog) Apps() []*App { return c.apps }

// Find returns the application type of an ID or alias, or an error that names the
// nearest one.
func (c *Catalog) Find(name string) (*App, error) {
	var names []string
	for _, app := range c.apps {
		if app.ID == name || slices.Contains(app.Aliases, name) {
			return app, nil
		}
		names = append(append(names, app.ID), app.Aliases...)
	}
	hint := ""
	if near := Nearest(name, names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return nil, fmt.Errorf("%w %q%s\nRun 'docker openmanage catalog' to see what can be created", ErrUnknownType, name, hint)
}

var (
	appID      = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	secretName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
)

// maxID keeps an ID within the name of a record.
const maxID = 40

// oneLine tells whether a text is one that a terminal only shows, as it is written.
func oneLine(text string) bool { return !strings.ContainsFunc(text, hides) }

// hides tells whether a terminal does something with a character but show it.
func hides(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) }

// visible makes a text one that a terminal only shows: nothing in it can hide the rest.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if hides(r) {
			return '?'
		}
		return r
	}, text)
}

func loadApp(fsys fs.FS, folder string, shared shared) (*App, error) {
	file := path.Join(folder, "app.yaml")
	doc, err := fs.ReadFile(fsys, file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	app, err := parseApp(doc, shared.parameters...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if app.ID != folder {
		return nil, fmt.Errorf("%s: its id is %q; it must be the folder's name, %q", file, app.ID, folder)
	}
	tmpl, err := fs.ReadFile(fsys, path.Join(folder, "stack.yaml.tmpl"))
	if err != nil {
		return nil, fmt.Errorf("read the template beside %s: %w", file, err)
	}
	app.template, app.common = string(tmpl), shared.template
	return app, nil
}

// shared is what all types have in common.
type shared struct {
	parameters []Parameter // common.yaml
	template   string      // common.tmpl
}

// builtinShared is that of the types that come with OpenManage, and of those that are added.
var builtinShared = sync.OnceValues(func() (shared, error) { return readShared(builtin) })

func readShared(fsys fs.FS) (s shared, err error) {
	if s.parameters, err = commonParameters(fsys); err != nil {
		return s, err
	}
	text, err := fs.ReadFile(fsys, "common.tmpl")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("read what all templates share: %w", err)
	}
	s.template = string(text)
	return s, nil
}

// commonParameters are those of every type.
func commonParameters(fsys fs.FS) ([]Parameter, error) {
	doc, err := fs.ReadFile(fsys, "common.yaml")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what all types share: %w", err)
	}
	var common struct {
		Parameters []Parameter `yaml:"parameters"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(doc))
	dec.KnownFields(true)
	if err := dec.Decode(&common); err != nil {
		return nil, fmt.Errorf("common.yaml: %w", err)
	}
	return common.Parameters, nil
}

// parseApp reads an app.yaml, of a type that has these parameters beside its own. A field that it does not know is an error that names
// the line, so that a slip of the pen does not pass in silence.
func parseApp(doc []byte, shared ...Parameter) (*App, error) {
	app := &App{}
	dec := yaml.NewDecoder(bytes.NewReader(doc))
	dec.KnownFields(true)
	if err := dec.Decode(app); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is empty")
		}
		return nil, err
	}
	app.Parameters = append(app.Parameters, shared...)
	app.complete()
	return app, app.validate()
}

// complete fills in what is the same for all types without an engine.
func (a *App) complete() {
	for i := range a.Components {
		a.Components[i].complete()
	}
	if !a.Plain() || len(a.Health.Test) > 0 {
		return
	}
	a.Health.Test = []string{"CMD", api.AgentBinary, "health"}
	a.Health.complete("5s", "250ms")
	if len(a.Volume.Filesystems) == 0 {
		a.Volume.Filesystems = []string{"ext4", "xfs"}
	}
}

// validate says what is wrong with a type. What it says of a field begins with the
// field's path, and of a parameter with its name, so that Lint finds the line.
func (a *App) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(appID.MatchString(a.ID) && len(a.ID) <= maxID, "id %q: expected lower-case letters, digits and dashes, a letter first, %d at most", a.ID, maxID)
	for _, alias := range a.Aliases {
		check(appID.MatchString(alias) && len(alias) <= maxID, "aliases: %q: expected lower-case letters, digits and dashes, a letter first, %d at most", alias, maxID)
	}
	for _, field := range []struct{ name, text string }{{"title", a.Title}, {"category", a.Category}, {"description", a.Description}} {
		check(field.text != "", "%s is missing", field.name)
		check(oneLine(field.text), "%s: expected one line without control characters", field.name)
	}
	check(oneLine(strings.Join(a.Links, "")), "links: expected one line each, without control characters")
	check(oneLine(a.Members.Scale), "members.scale: expected one line without control characters")
	check(oneLine(a.Image.Downgrade), "image.downgrade: expected one line without control characters")
	_, err := reference.ParseNormalizedNamed(a.Image.Default)
	check(a.Image.Default != "", "image.default is missing")
	check(a.Image.Default == "" || err == nil, "image.default %q: expected something like registry.example.com/name:1.2", a.Image.Default)
	check(a.Members.Allow(a.Members.Default), "members.default %d is not among %s", a.Members.Default, a.Members)
	if a.Plain() {
		check(len(a.Command) > 0, "command is missing: what the image runs by itself, its entrypoint included")
		check(a.Health.Check != "", "health.check is missing: an http:// or tcp:// URL in the container, or a command as a JSON array")
		_, err := api.ParseHealthCheck(a.Health.Check)
		check(a.Health.Check == "" || err == nil, "health.check: %v", err)
		_, _, err = api.ParseOwners(a.User)
		check(err == nil, "user: %v", err)
	}
	check(a.Members.Min >= 1 && a.Members.Min <= a.Members.Default && a.Members.Default <= a.Members.Max,
		"members: expected 1 <= min <= default <= max, it is min %d, default %d, max %d", a.Members.Min, a.Members.Default, a.Members.Max)
	check(path.IsAbs(a.Volume.Path), "volume.path %q: expected an absolute path", a.Volume.Path)
	check(a.Volume.MinSize > 0 && a.Volume.Size >= a.Volume.MinSize, "volume: expected 0 < min_size <= size, it is min_size %s, size %s", a.Volume.MinSize, a.Volume.Size)
	check(len(a.Volume.Filesystems) > 0, "volume.filesystems is missing")
	for _, fs := range a.Volume.Filesystems {
		check(fs == "ext4" || fs == "xfs", "volume.filesystems: %q: expected ext4 or xfs", fs)
	}
	check(len(a.Health.Test) > 0, "health.test is missing")
	names := map[string]bool{}
	for _, s := range a.Secrets {
		check(secretName.MatchString(s.Name) && !names[s.Name], "secrets: name %q: expected lower-case letters, digits and dashes, each name once", s.Name)
		check(s.Description != "" && oneLine(s.Description), "secrets: %s: description is missing, or is no line", s.Name)
		names[s.Name] = true
	}
	for _, p := range a.AllPorts() {
		check(p.Port >= 1 && p.Port <= 65535, "ports: %s: port %d: expected 1 to 65535", p.Name, p.Port)
		check(p.Protocol == "" || p.Protocol == "udp" || p.Protocol == "tcp", "ports: %s: protocol %q: expected tcp or udp", p.Name, p.Protocol)
		check(p.Description != "" && oneLine(p.Description), "ports: %s: description is missing, or is no line", p.Name)
	}
	components := map[string]bool{}
	for i := range a.Components {
		c := &a.Components[i]
		check(!components[c.Name], "component %s is there twice", c.Name)
		components[c.Name] = true
		c.validate(a, check)
	}
	for _, n := range a.Needs {
		n.validate(check)
	}
	for _, s := range a.Secrets {
		s.validate(check)
	}
	seen := map[string]bool{}
	for i := range a.Parameters {
		p := &a.Parameters[i]
		check(!seen[p.Name], "parameter %s is there twice", p.Name)
		seen[p.Name] = true
		if err := p.validate(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Nearest returns the candidate that name is most likely meant to be, or "" if
// none is near.
func Nearest(name string, candidates []string) string {
	best, bestDistance := "", max(2, len(name)/3)+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to make b of a.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
