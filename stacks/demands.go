package stacks

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/cli/cli/compose/types"

	"github.com/openmanage/openmanage/internal/api"
)

// What a stack can reach beyond its own application, as --allow spells it.
const (
	AllowDockerSocket   = "docker-socket"
	AllowHostPath       = "host-path"
	AllowHostPort       = "host-port"
	AllowHostNetwork    = "host-network"
	AllowCapabilities   = "capabilities"
	AllowPrivileges     = "privileges"
	AllowSysctls        = "sysctls"
	AllowForeignSecret  = "foreign-secret"
	AllowForeignConfig  = "foreign-config"
	AllowForeignNetwork = "foreign-network"
	AllowForeignVolume  = "foreign-volume"
	AllowForeignName    = "foreign-name"
	AllowVolumeDriver   = "volume-driver"
	AllowLogDriver      = "log-driver"
	AllowManagers       = "managers"
	AllowGlobal         = "global"
	AllowLatestImage    = "latest-image"
)

// Permissions are all that --allow takes, each with what it means.
var Permissions = map[string]string{
	AllowDockerSocket:   "the Docker socket: whoever has it is root on the node, and on the Swarm if the node is a manager",
	AllowHostPath:       "files of the nodes",
	AllowHostPort:       "ports of the nodes that the user did not ask for",
	AllowHostNetwork:    "the nodes' own network",
	AllowCapabilities:   "rights of root that containers do not have by themselves",
	AllowPrivileges:     "settings that weaken the wall between a container and its node",
	AllowSysctls:        "settings of the kernel",
	AllowForeignSecret:  "secrets that are not its own",
	AllowForeignConfig:  "configs that are not its own, such as OpenManage's records",
	AllowForeignNetwork: "networks that are not its own and that the user did not name",
	AllowForeignVolume:  "volumes that are not its own",
	AllowForeignName:    "names that are not its own: it could answer in the place of others, or be taken for one of theirs",
	AllowVolumeDriver:   "volume plugins other than OpenManage's",
	AllowLogDriver:      "log drivers that send what it says elsewhere: the node's Docker does so, from the node",
	AllowManagers:       "placement on manager nodes",
	AllowGlobal:         "a task on every node",
	AllowLatestImage:    "images without a version: what runs is whatever was pushed last",
}

// Demand is one thing that a stack wants to reach beyond its own application.
type Demand struct {
	Allow string `json:"allow"` // one of Permissions
	What  string `json:"what"`  // where it stands in the stack, and what it is
}

// String is for people.
func (d Demand) String() string { return d.Allow + ": " + d.What }

// Demands says what a stack, which was generated with completed options, wants to reach
// beyond its own application. What the user has named in the options is no demand.
func (a *App) Demands(o Options, config *types.Config) []Demand {
	d := &demands{app: a, o: o, config: config}
	for _, s := range config.Services {
		d.container(s)
		d.doors(s)
		d.mounts(s)
		d.names(s)
		d.labels(s)
		d.placement(s)
	}
	d.objects()
	sortDemands(d.found)
	return slices.Compact(d.found)
}

func sortDemands(demands []Demand) {
	slices.SortFunc(demands, func(a, b Demand) int {
		return cmp.Or(strings.Compare(a.Allow, b.Allow), strings.Compare(a.What, b.What))
	})
}

type demands struct {
	app    *App
	o      Options
	config *types.Config
	found  []Demand
}

func (d *demands) add(allow, format string, args ...any) {
	d.found = append(d.found, Demand{Allow: allow, What: visible(fmt.Sprintf(format, args...))})
}

// own tells whether a name is the application's: NAME, NAME-… (members), NAME_… (what
// Docker makes of a stack's keys). An application pg-db has the names of pg in that
// sense; create looks whose they are.
func (d *demands) own(name string) bool {
	rest, ok := strings.CutPrefix(name, d.o.Name)
	return ok && (rest == "" || rest[0] == '-' || rest[0] == '_')
}

// ownObject is the same of secrets, configs and networks, which are never NAME-….
func (d *demands) ownObject(name string) bool { return strings.HasPrefix(name, d.o.Name+"_") }

func (d *demands) container(s types.ServiceConfig) {
	for _, c := range s.CapAdd {
		d.add(AllowCapabilities, "%s: cap_add %s", subject(s), c)
	}
	for _, name := range sortedKeys(s.Sysctls) {
		d.add(AllowSysctls, "%s: sysctl %s=%s", subject(s), name, s.Sysctls[name])
	}
	if s.OomScoreAdj < 0 {
		d.add(AllowPrivileges, "%s: oom_score_adj %d has the kernel end others first", subject(s), s.OomScoreAdj)
	}
	if s.CredentialSpec != (types.CredentialSpecConfig{}) {
		d.add(AllowPrivileges, "%s: credential_spec", subject(s))
	}
	// These do nothing in a Swarm today, and Generate refuses them.
	if s.Privileged || s.Pid != "" || s.Ipc != "" || s.UserNSMode != "" || len(s.SecurityOpt) > 0 || len(s.Devices) > 0 || s.CgroupParent != "" {
		d.add(AllowPrivileges, "%s: privileged, pid, ipc, userns_mode, security_opt, devices or cgroup_parent", subject(s))
	}
	if l := s.Logging; l != nil && !slices.Contains([]string{"", "json-file", "local", "none"}, l.Driver) {
		d.add(AllowLogDriver, "%s: logging driver %s", subject(s), l.Driver)
	}
	if asked := d.o.Image != d.app.Image.Default && s.Image == d.o.Image; !asked && latest(s.Image) {
		d.add(AllowLatestImage, "%s: image %s", subject(s), s.Image)
	}
}

// doors looks at how others than the application's own reach it, and it them.
func (d *demands) doors(s types.ServiceConfig) {
	if s.NetworkMode != "" {
		d.add(AllowHostNetwork, "%s: network_mode %s", subject(s), s.NetworkMode)
	}
	for _, p := range s.Ports {
		p.Protocol = cmp.Or(p.Protocol, "tcp")
		asked := p.Protocol == d.app.ProtocolOf(int(p.Target)) &&
			slices.Contains(d.o.Publish, Publish{Published: int(p.Published), Target: int(p.Target)})
		switch {
		case asked:
		case p.Published == 0: // Docker publishes it all the same
			d.add(AllowHostPort, "%s: a port of the nodes that Docker chooses, for its port %d/%s", subject(s), p.Target, p.Protocol)
		default:
			d.add(AllowHostPort, "%s: port %d/%s of the nodes, for its port %d", subject(s), p.Published, p.Protocol, p.Target)
		}
	}
}

// latest tells whether an image has no version; so has one that cannot be read.
func latest(image string) bool {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return true
	}
	if _, digested := ref.(reference.Digested); digested {
		return false
	}
	tagged, ok := ref.(reference.Tagged)
	return !ok || tagged.Tag() == "latest"
}

// sockets are those by which containers are made, at the paths that lead there.
var sockets = []string{"/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/var/run/containerd/containerd.sock"}

// hostPath is a demand for a path of the nodes. A folder above the socket is as good as
// the socket.
func (d *demands) hostPath(where, source string) {
	clean := path.Clean("/" + source)
	for _, socket := range sockets {
		if clean == socket || strings.HasPrefix(socket, strings.TrimSuffix(clean, "/")+"/") {
			d.add(AllowDockerSocket, "%s: %s", where, source)
			return
		}
	}
	if strings.HasSuffix(clean, ".sock") && strings.Contains(clean, "docker") {
		d.add(AllowDockerSocket, "%s: %s", where, source)
		return
	}
	d.add(AllowHostPath, "%s: %s", where, source)
}

func (d *demands) mounts(s types.ServiceConfig) {
	for _, v := range s.Volumes {
		where := fmt.Sprintf("%s: mount at %s", subject(s), v.Target)
		switch v.Type {
		case "tmpfs", "image":
		case "volume":
			if v.Source == "" {
				continue // nobody else's: Docker makes it with the container
			}
			if _, declared := d.config.Volumes[v.Source]; !declared && !d.own(v.Source) {
				d.add(AllowForeignVolume, "%s: volume %s", where, v.Source)
			}
		case "cluster":
			d.add(AllowVolumeDriver, "%s: cluster volume %s", where, v.Source)
		default: // bind, npipe, and what is not known yet
			d.hostPath(where, v.Source)
		}
	}
}

// names looks at those under which others would find the service.
func (d *demands) names(s types.ServiceConfig) {
	if s.Hostname != "" && !d.own(s.Hostname) {
		d.add(AllowForeignName, "%s: hostname %s", subject(s), s.Hostname)
	}
	for _, key := range sortedKeys(s.Networks) {
		// Docker has a service answer to its key too, in each of its networks.
		n := d.config.Networks[key]
		if name := d.named(key, n.Name); n.External.External && name != "host" && !d.own(s.Name) && !d.part(s.Name) {
			d.add(AllowForeignName, "%s: it answers to %s in the network %s", subject(s), s.Name, name)
		}
		if s.Networks[key] == nil {
			continue
		}
		for _, alias := range s.Networks[key].Aliases {
			if !d.own(alias) {
				d.add(AllowForeignName, "%s: alias %s", subject(s), alias)
			}
		}
	}
}

// part tells whether a service's key is that of a member, which is its number, or of a component.
// Neither can be the name of another's member (Component.validate).
func (d *demands) part(key string) bool {
	slot, err := strconv.Atoi(key)
	return err == nil && slot >= 1 && slot <= d.o.Members ||
		slices.ContainsFunc(d.app.Components, func(c Component) bool { return c.Name == key })
}

// labels looks at those by which OpenManage, Docker or Traefik would take the service for another's.
func (d *demands) labels(s types.ServiceConfig) {
	routes := d.app.routes(d.o)
	for _, labels := range []map[string]string{s.Deploy.Labels, s.Labels} {
		for _, label := range sortedKeys(labels) {
			value := labels[label]
			switch {
			case label == api.LabelApplication && value == d.o.Name, label == api.LabelType && value == d.app.ID:
			case (label == api.LabelMember || label == api.LabelVolume) && d.own(value):
			case slices.Contains(routes, Label{label, value}):
			case slices.Contains([]string{api.LabelApplication, api.LabelType, api.LabelMember, api.LabelVolume}, label),
				strings.HasPrefix(label, "com.docker."), strings.HasPrefix(strings.ToLower(label), "traefik."):
				d.add(AllowForeignName, "%s: label %s=%s", subject(s), label, value)
			}
		}
	}
}

func (d *demands) placement(s types.ServiceConfig) {
	if strings.HasPrefix(s.Deploy.Mode, "global") {
		d.add(AllowGlobal, "%s: mode %s", subject(s), s.Deploy.Mode)
	}
	for _, constraint := range s.Deploy.Placement.Constraints {
		switch strings.ToLower(strings.Join(strings.Fields(constraint), "")) {
		case "node.role==manager", "node.role!=worker":
			d.add(AllowManagers, "%s: %s", subject(s), constraint)
		}
	}
}

// objects looks at what the stack names beside its services.
func (d *demands) objects() {
	for _, key := range sortedKeys(d.config.Secrets) {
		s := d.config.Secrets[key]
		if name := d.named(key, s.Name); !d.ownObject(name) || s.Driver != "" {
			d.add(AllowForeignSecret, "secret %s%s", name, driver(s.Driver))
		}
	}
	for _, key := range sortedKeys(d.config.Configs) {
		c := d.config.Configs[key]
		if name := d.named(key, c.Name); !d.ownObject(name) || c.Driver != "" {
			d.add(AllowForeignConfig, "config %s%s", name, driver(c.Driver))
		}
	}
	for _, key := range sortedKeys(d.config.Networks) {
		n := d.config.Networks[key]
		name := d.named(key, n.Name)
		switch {
		case name == "host" || !n.External.External && n.Driver != "" && n.Driver != "overlay":
			d.add(AllowHostNetwork, "network %s%s", name, driver(n.Driver))
		case n.External.External && (slices.Contains(d.o.Networks, name) || name == d.o.door()), d.ownObject(name):
		default:
			d.add(AllowForeignNetwork, "network %s", name)
		}
	}
	for _, key := range sortedKeys(d.config.Volumes) {
		d.volume(key, d.config.Volumes[key])
	}
}

func (d *demands) volume(key string, v types.VolumeConfig) {
	name := d.named(key, v.Name)
	// A placeholder after NAME- could become another's name; after NAME_ it cannot.
	hidden := strings.Contains(name, "{{") && !d.ownObject(name)
	if !d.own(name) || hidden {
		d.add(AllowForeignVolume, "volume %s", name)
	}
	switch v.Driver {
	case api.PluginName:
		// Whoever has a volume speaks for the member that it is of, and hears what is ordered of it.
		of, member := v.DriverOpts[api.OptionApplication], v.DriverOpts[api.OptionMember]
		if !strings.HasSuffix(name, api.RuntimeSuffix) && of != d.o.Name || of != "" && of != d.o.Name {
			d.add(AllowForeignVolume, "volume %s: application %q", name, of)
		}
		if member != "" && member != name {
			d.add(AllowForeignVolume, "volume %s: member %q", name, member)
		}
	case "", "local": // on the node, where nobody else knows it, unless it is said to be elsewhere
		if len(v.DriverOpts) > 0 {
			d.hostPath("volume "+name, cmp.Or(v.DriverOpts["device"], "driver_opts"))
		}
	default:
		d.add(AllowVolumeDriver, "volume %s%s", name, driver(v.Driver))
	}
	if v.Spec != nil {
		d.add(AllowVolumeDriver, "volume %s: x-cluster-spec", name)
	}
}

// named is the name that Docker gives to what has none of its own.
func (d *demands) named(key, name string) string { return cmp.Or(name, d.o.Name+"_"+key) }

func driver(name string) string {
	if name == "" {
		return ""
	}
	return " with driver " + name
}

// Missing are the demands that are not among what is allowed.
func Missing(found []Demand, allowed []string) []Demand {
	var missing []Demand
	for _, d := range found {
		if !slices.Contains(allowed, d.Allow) {
			missing = append(missing, d)
		}
	}
	return missing
}

// CheckAllow says what is no permission, or nil.
func CheckAllow(allowed []string) error {
	for _, name := range allowed {
		if _, ok := Permissions[name]; !ok {
			hint := ""
			if near := Nearest(name, sortedKeys(Permissions)); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			return fmt.Errorf("%w --allow %q: expected one of %s%s", ErrOption, name, strings.Join(sortedKeys(Permissions), ", "), hint)
		}
	}
	return nil
}

// PermissionNames are all that --allow takes, in order.
func PermissionNames() []string { return sortedKeys(Permissions) }
