package stacks

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/compose/loader"
	"github.com/docker/cli/cli/compose/types"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/version"
)

// ErrOption is what an error about a value in Options wraps.
var ErrOption = errors.New("invalid option")

// Options are what a user chooses of an application. The zero value of a field
// means the type's default.
type Options struct {
	Name       string            `json:"name"`
	Members    int               `json:"members"`
	Image      string            `json:"image"`
	VolumeSize int64             `json:"volumeSize"`
	Filesystem string            `json:"filesystem"`
	CPUs       string            `json:"cpus,omitempty"`   // limit, such as 1.5
	Memory     int64             `json:"memory,omitempty"` // limit, bytes
	Networks   []string          `json:"networks,omitempty"`
	Publish    []Publish         `json:"publish,omitempty"`
	Encrypted  bool              `json:"encrypted,omitempty"` // the application's own network
	Parameters map[string]string `json:"parameters,omitempty"`
	// Uses are the applications that fill needs, by the need's name; those that are left out
	// are made along. Images are those of components that are not to have the type's.
	Uses   map[string]Uses   `json:"uses,omitempty"`
	Images map[string]string `json:"images,omitempty"`
	// Own is OpenManage's own image, for components that run it; "": that of this version.
	Own string `json:"-"`
	// Domain is the name under which browsers find the application, through the Traefik application Via.
	Domain string `json:"domain,omitempty"`
	Via    string `json:"via,omitempty"`
	// Volumes says what volumes of members exist already, by member name: they
	// keep their size and filesystem.
	Volumes map[string]api.VolumeSpec `json:"-"`
}

// ownImage is where OpenManage's own image is, but for its version.
const ownImage = "openmanage/openmanage:"

// Publish is a port of the members published on the nodes they run on.
type Publish struct {
	Published int `json:"published"`
	Target    int `json:"target"`
}

// publication is what a template sees of one.
type publication struct {
	Publish
	Protocol string // the port's own
}

// ParsePublish reads PUBLISHED[:TARGET]. Without a target it is the application's port of that number,
// or its first.
func (a *App) ParsePublish(s string) (Publish, error) {
	ports := a.AllPorts()
	first := 0
	if len(ports) > 0 {
		first = ports[0].Port
	}
	refuse := fmt.Errorf("%w --publish %q: expected PUBLISHED[:TARGET], two port numbers, such as %d or 15432:%d", ErrOption, s, first, first)
	published, rest, has := strings.Cut(s, ":")
	p := Publish{Target: first}
	var err error
	if p.Published, err = strconv.Atoi(published); err != nil {
		return p, refuse
	}
	switch {
	case has:
		if p.Target, err = strconv.Atoi(rest); err != nil {
			return p, refuse
		}
	case slices.ContainsFunc(ports, func(port Port) bool { return port.Port == p.Published }):
		p.Target = p.Published
	}
	if p.Published < 1 || p.Published > 65535 || p.Target < 1 || p.Target > 65535 {
		return p, refuse
	}
	return p, nil
}

// Stack is a generated stack.
type Stack struct {
	YAML   []byte
	Config *types.Config
}

// data is what a template sees.
type data struct {
	App       *App
	Name      string
	Image     string
	Path      string // where members mount their volumes
	Members   []member
	Settings  string // JSON of the parameters that are settings
	Labels    map[string]string
	CPUs      string
	Memory    string
	Networks  []string
	Publish   []publication
	Encrypted bool
	Driver    string
	// HasFiles: the template gives the members files.
	HasFiles bool

	parameters map[string]string
	images     map[string]string
	own        string
	uses       map[string]Uses
	domain     string
	via        string        // the Traefik application of the domain
	published  []publication // of members and components
}

// Application is its name, also where .Name is a member's.
func (d *data) Application() string { return d.Name }

// Set is the value of a parameter, or its default.
func (d *data) Set(name string) (string, error) {
	p, err := d.App.Parameter(name)
	if err != nil {
		return "", err
	}
	return p.valueIn(d.parameters), nil
}

type member struct {
	*data
	Slot       int
	Name       string
	Volume     string
	Runtime    string
	Pin        string // the node label that keeps it away
	Size       string
	Filesystem string
}

// MemberName is the name of a member, which is also its hostname and its volume's name.
func MemberName(application string, slot int) string { return fmt.Sprintf("%s-%d", application, slot) }

// SecretName is the name of an application's Docker secret.
func SecretName(application, secret string) string { return application + "_" + secret }

// Complete fills in the type's defaults.
func (a *App) Complete(o Options) Options {
	if o.Members == 0 {
		o.Members = a.Members.Default
	}
	if o.Image == "" {
		o.Image = a.Image.Default
	}
	if o.VolumeSize == 0 {
		o.VolumeSize = int64(a.Volume.Size)
	}
	if o.Filesystem == "" {
		o.Filesystem = a.Volume.Filesystems[0]
	}
	o.CPUs = cmp.Or(o.CPUs, a.Resources.CPUs)
	o.Memory = cmp.Or(o.Memory, int64(a.Resources.Memory))
	o.Own = cmp.Or(o.Own, ownImage+version.Version)
	if o.Domain != "" {
		o.Via = cmp.Or(o.Via, DefaultTraefik)
	}
	o.Uses = a.completeNeeds(o.Name, o.Uses)
	return o
}

// Check says what is wrong with completed options, all of it at once, or nil.
func (a *App) Check(o Options) error {
	a = a.For(o)
	errs := []error{api.ValidateApplicationName(o.Name)}
	refuse := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("%w "+format, append([]any{ErrOption}, args...)...))
	}
	if !a.Members.Allow(o.Members) {
		refuse("--replicas %d: %s has %s", o.Members, a.ID, a.Members)
	}
	if o.VolumeSize < int64(a.Volume.MinSize) {
		refuse("--volume-size %s: %s needs %s at least", FormatSize(o.VolumeSize), a.ID, a.Volume.MinSize)
	}
	// mkfs.xfs refuses less.
	if o.Filesystem == "xfs" && o.VolumeSize < 300<<20 {
		refuse("--volume-size %s: xfs needs 300MiB at least; take more, or --filesystem ext4", FormatSize(o.VolumeSize))
	}
	if !slices.Contains(a.Volume.Filesystems, o.Filesystem) {
		refuse("--filesystem %q: expected %s", o.Filesystem, strings.Join(a.Volume.Filesystems, " or "))
	}
	if o.CPUs != "" {
		if n, err := strconv.ParseFloat(o.CPUs, 64); err != nil || !(n > 0 && n < 1e6) {
			refuse("--cpus %q: expected a number of processors, such as 1.5", o.CPUs)
		}
	}
	if o.Memory != 0 && o.Memory < 64<<20 {
		refuse("--memory %s: a member needs 64MiB at least", FormatSize(o.Memory))
	}
	seen := map[int]bool{}
	for _, p := range o.Publish {
		if seen[p.Published] {
			refuse("--publish %d: given twice", p.Published)
		}
		seen[p.Published] = true
	}
	if err := a.checkDomain(o); err != nil {
		errs = append(errs, err)
	}
	for _, name := range sortedKeys(o.Images) {
		if i := slices.IndexFunc(a.leftOut, func(c Component) bool { return c.Name == name }); i >= 0 {
			refuse("--component-image %s: that component is there only with --set %s=on", name, a.leftOut[i].When)
		} else if !slices.ContainsFunc(a.Components, func(c Component) bool { return c.Name == name }) {
			refuse("--component-image %s: %s has no component of that name%s", name, a.ID, list("; it has ", a.componentNames()))
		} else if _, err := reference.ParseNormalizedNamed(o.Images[name]); err != nil {
			refuse("--component-image %s=%s: %v", name, o.Images[name], err)
		}
	}
	for _, n := range o.Networks {
		if !networkName.MatchString(n) {
			refuse("--network %q: not a network's name", n)
		}
	}
	if err := a.checkImage(o.Image); err != nil {
		errs = append(errs, err)
	}
	errs = append(errs, a.CheckParameters(o.Parameters))
	return errors.Join(errs...)
}

var (
	networkName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
	tagMajor    = regexp.MustCompile(`^v?([0-9]+)`)
)

// majorVersion reads the number that an image's tag begins with; ok is false if
// there is none.
func majorVersion(image string) (major int, ok bool) {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return 0, false
	}
	tagged, isTagged := ref.(reference.NamedTagged)
	if !isTagged {
		return 0, false
	}
	m := tagMajor.FindStringSubmatch(tagged.Tag())
	if m == nil {
		return 0, false
	}
	major, err = strconv.Atoi(m[1])
	return major, err == nil
}

func (a *App) checkImage(image string) error {
	if _, err := reference.ParseNormalizedNamed(image); err != nil {
		return fmt.Errorf("%w --image %q: %w; expected something like %s", ErrOption, image, err, a.Image.Default)
	}
	if major, ok := majorVersion(image); ok && len(a.Image.Majors) > 0 && !slices.Contains(a.Image.Majors, major) {
		list := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(a.Image.Majors)), ", "), "[]")
		return fmt.Errorf("%w --image %s: %s %d is not supported; major versions that are: %s", ErrOption, image, a.Title, major, list)
	}
	return nil
}

// Generate renders the stack of an application and has Docker's own loader of
// `docker stack deploy` check it. The same options give the same bytes.
func (a *App) Generate(o Options) (*Stack, error) {
	o = a.Complete(o)
	a = a.For(o)
	if err := a.Check(o); err != nil {
		return nil, err
	}
	d, err := a.data(o)
	if err != nil {
		return nil, err
	}
	doc, err := a.render(d, renderTime)
	if err != nil {
		return nil, err
	}
	config, err := validate(doc)
	if err != nil {
		return nil, fmt.Errorf("the template of %s renders a stack that Docker refuses: %w", a.ID, err)
	}
	return &Stack{YAML: doc, Config: config}, nil
}

func (a *App) data(o Options) (*data, error) {
	settings := map[string]string{}
	labels := map[string]string{}
	for name, value := range o.Parameters {
		p, err := a.Parameter(name)
		if err != nil {
			return nil, err
		}
		if p.Label != "" {
			labels[p.Label] = value
			continue
		}
		settings[name] = value
	}
	d := &data{
		App: a, Name: o.Name, Image: o.Image, Labels: labels, CPUs: o.CPUs,
		Networks: slices.Clone(o.Networks), Encrypted: o.Encrypted,
		Driver: api.PluginName, HasFiles: strings.Contains(a.template, "OPENMANAGE_FILE_"), parameters: o.Parameters,
		images: o.Images, own: o.Own, uses: o.Uses, domain: o.Domain, via: o.Via,
	}
	if door := o.door(); door != "" && !slices.Contains(d.Networks, door) {
		d.Networks = append(d.Networks, door)
	}
	for _, n := range a.Needs {
		if network := o.Uses[n.Name].Network(); !slices.Contains(d.Networks, network) {
			d.Networks = append(d.Networks, network)
		}
	}
	for _, p := range o.Publish {
		one := publication{p, a.ProtocolOf(p.Target)}
		d.published = append(d.published, one)
		if !a.OfComponent(p.Target) {
			d.Publish = append(d.Publish, one)
		}
	}
	if o.Memory > 0 {
		d.Memory = FormatSize(o.Memory)
	}
	d.Path = a.Volume.Path
	if major, ok := majorVersion(o.Image); ok && a.Volume.PathByMajor[major] != "" {
		d.Path = a.Volume.PathByMajor[major]
	}
	var err error
	if d.Settings, err = encode(settings); err != nil {
		return nil, err
	}
	for slot := 1; slot <= o.Members; slot++ {
		name := MemberName(o.Name, slot)
		m := member{
			data: d, Slot: slot, Name: name, Volume: name, Runtime: name + api.RuntimeSuffix,
			Pin: api.PinLabel(name), Size: FormatSize(o.VolumeSize), Filesystem: o.Filesystem,
		}
		if v, ok := o.Volumes[name]; ok {
			m.Size, m.Filesystem = FormatSize(v.Size), v.Filesystem
		}
		d.Members = append(d.Members, m)
	}
	return d, nil
}

// encode writes a map as JSON with sorted keys; nil as {}.
func encode(m map[string]string) (string, error) {
	if m == nil {
		m = map[string]string{}
	}
	doc, err := json.Marshal(m)
	return string(doc), err
}

// validate runs a Compose file through the loader of `docker stack deploy`.
func validate(doc []byte) (*types.Config, error) {
	dict, err := loader.ParseYAML(doc)
	if err != nil {
		return nil, err
	}
	if err := checkFiles(dict); err != nil {
		return nil, err
	}
	var variables []string
	config, err := loader.Load(types.ConfigDetails{
		WorkingDir:  "/",
		ConfigFiles: []types.ConfigFile{{Filename: "stack.yml", Config: dict}},
	}, func(o *loader.Options) {
		o.Interpolate.LookupValue = func(name string) (string, bool) {
			variables = append(variables, name)
			return "", false
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(config.Services, func(a, b types.ServiceConfig) int { return strings.Compare(a.Name, b.Name) })
	if err := checkSealed(config, variables); err != nil {
		return nil, err
	}
	if ignored := loader.GetUnsupportedProperties(dict); len(ignored) > 0 {
		return nil, fmt.Errorf("docker stack deploy ignores %s", strings.Join(ignored, ", "))
	}
	return config, nil
}

func (a *App) componentNames() []string {
	names := make([]string, len(a.Components))
	for i, c := range a.Components {
		names[i] = c.Name
	}
	return names
}

// list writes names after an introduction; nothing if there are none.
func list(introduction string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return introduction + strings.Join(names, ", ")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
