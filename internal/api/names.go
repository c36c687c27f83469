package api

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Ports on a node's address. All speak TLS 1.3 with the Swarm's certificates.
const (
	// ManagerPort is where managers answer nodes and each other.
	ManagerPort = 27040
	// NodePort is where the network helper answers managers (exec into a member).
	NodePort = 27041
	// PeerPort is where the volume plugins of a Swarm ask each other for the
	// promise not to mount (see Promise).
	PeerPort = 27042
)

// PluginName is the one alias under which the volume plugin is installed on
// every node. Swarm places a task only on nodes that have a plugin of exactly
// the name in the mount, so it never varies.
const PluginName = "openmanage"

// StackName is the name of the stack that `docker openmanage install` deploys.
const StackName = "openmanage"

// Labels on member services (deploy.labels), secrets and networks of an
// application. They are the desired state, written by users and the CLI.
const (
	LabelApplication = "openmanage.application"     // application name, e.g. "pg"
	LabelType        = "openmanage.type"            // catalog type, e.g. "postgresql"
	LabelMember      = "openmanage.member"          // member name, e.g. "pg-1"
	LabelSlot        = "openmanage.slot"            // member number, from 1
	LabelVolume      = "openmanage.volume"          // name of the member's data volume
	LabelSyncMode    = "openmanage.sync.mode"       // quorum (default: from 3 members on), strict (from 2 on), off
	LabelFailover    = "openmanage.failover.enable" // true (default), false: no member is made the primary by itself
	LabelLease       = "openmanage.failover.lease"  // LeaseDuration (default) to MaxLease: after how long a silent node has lost the member
	LabelAlertDisk   = "openmanage.alert.disk"      // percent of a volume's space from which on its use is reported; default 85
	LabelParameters  = "openmanage.parameters"      // the settings of its servers, a JSON object of strings
	LabelRoles       = "openmanage.roles"           // none: the leader chooses no primary among its members
	LabelComponent   = "openmanage.component"       // name of a service beside the members, e.g. "web"

	LabelUpgradeOrder = "openmanage.upgrade.order"      // primary-last (default), primary-first
	LabelWindow       = "openmanage.maintenance.window" // when members may be restarted by an operation
	LabelApart        = "openmanage.placement.apart"    // true (default), false: members may share a node
)

// LabelCredentials is on the service that reads an application's secrets for `docker
// openmanage credentials`; its value is the application.
const LabelCredentials = "openmanage.credentials"

// PinLabel is the node label that keeps a member with node-local data away from
// the nodes that do not have it, and one that leaves a node which it shares with
// another member from going back there; the label's value is PinElsewhere. A
// generated stack carries the matching constraint. The pin lives on nodes, not
// in the service, so that a `docker stack deploy` does not lose it.
func PinLabel(member string) string { return "openmanage.pin." + member }

// PinElsewhere is the value of a PinLabel on a node that must not run the member.
const PinElsewhere = "elsewhere"

// LeaseDuration is how long a leader's answer to a report renews the leases of
// a node, counted on the node's own monotonic clock from when it sent the report.
const LeaseDuration = 5 * time.Second

// MaxLease is the longest lease that an application can ask for with LabelLease.
const MaxLease = time.Minute

// LeaseMargin is what a leader waits beyond LeaseDuration, by its own clock,
// before it gives a silent node's volume away. It covers the difference of clock
// rates and the time a node needs to fence itself.
const LeaseMargin = 2 * time.Second

// LeaderWriteBound is how recent a leader's own write through Raft must be for it
// to renew leases. A new leader waits this bound beyond a whole lease before it
// gives anything away.
const LeaderWriteBound = 2 * time.Second

// ReportInterval is the time between two reports of a node.
const ReportInterval = time.Second

// Limits on names. A record is a Swarm config object, whose name has 64
// characters at most; "openmanage.operation.create." takes the most of them.
const (
	MaxVolumeName      = 40
	MaxApplicationName = 36
	// MaxBody is the largest request body that a manager reads, in bytes, and
	// MaxReport that of a report: one that says all takes 600 bytes for a member with
	// its volume, and a report that is refused costs the node its leases.
	MaxBody   = 1 << 20
	MaxReport = 8 << 20
)

var (
	applicationName = regexp.MustCompile(`^[a-z]([a-z0-9-]*[a-z0-9])?$`)
	volumeName      = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)
)

// ErrName is what every error about a name wraps.
var ErrName = errors.New("invalid name")

// ValidateApplicationName says why name cannot name an application, or nil. The
// name becomes part of hostnames (RFC 1123) and of a Swarm config's name.
func ValidateApplicationName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("%w: it is empty; choose letters, digits and dashes, such as \"pg\"", ErrName)
	case len(name) > MaxApplicationName:
		return fmt.Errorf("%w %q: it has %d characters, %d at most; members are named NAME-1, NAME-2 and Swarm limits names to 64", ErrName, name, len(name), MaxApplicationName)
	case !applicationName.MatchString(name):
		return fmt.Errorf("%w %q: it must be a hostname: lower-case letters, digits and dashes, a letter first, no dash last", ErrName, name)
	case name == StackName:
		return fmt.Errorf("%w %q: it is the name of OpenManage's own stack; choose another", ErrName, name)
	}
	return nil
}

// ValidateVolumeName says why name cannot name a volume, or nil. Names are never
// shortened: two volumes must not become one.
func ValidateVolumeName(name string) error {
	switch {
	case len(name) > MaxVolumeName:
		return fmt.Errorf("%w: volume %q has %d characters, %d at most", ErrName, name, len(name), MaxVolumeName)
	case !volumeName.MatchString(name):
		return fmt.Errorf("%w: volume %q: letters, digits, dot, dash and underscore, a letter or digit first", ErrName, name)
	}
	return nil
}

// ParseOwners reads VolumeSpec.Owners; "" is root.
func ParseOwners(s string) (uid, gid int, err error) {
	if s == "" {
		return 0, 0, nil
	}
	user, group, _ := strings.Cut(s, ":")
	u, errUser := strconv.ParseUint(user, 10, 31)
	g, errGroup := strconv.ParseUint(group, 10, 31)
	if errUser != nil || errGroup != nil {
		return 0, 0, fmt.Errorf("owner %q: expected UID:GID, two numbers, such as 1000:1000", s)
	}
	return int(u), int(g), nil
}

// RuntimeSuffix ends the name of a member's runtime volume: agent binary and
// socket of the plugin. The part before it is the member's data volume.
const RuntimeSuffix = ".runtime"

// DataVolumeOf returns the data volume that the runtime volume name belongs to.
func DataVolumeOf(name string) (string, bool) { return strings.CutSuffix(name, RuntimeSuffix) }

// Paths inside a member's container.
const (
	// RuntimeDir is where the stack mounts the runtime volume, read-only.
	RuntimeDir = "/openmanage"
	// AgentBinary is the entrypoint of a member's container.
	AgentBinary = RuntimeDir + "/agent"
	// AgentSocket is the plugin's socket for this member.
	AgentSocket = RuntimeDir + "/plugin.sock"
)
