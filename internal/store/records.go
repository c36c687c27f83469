package store

import (
	"crypto/rand"
	"encoding/hex"
	"time"

	"github.com/openmanage/openmanage/internal/api"
)

// Kind of a record.
type Kind string

const (
	// KindVolume holds api.Volume, by volume name.
	KindVolume Kind = "volume"
	// KindApplication holds Application, by application name.
	KindApplication Kind = "application"
	// KindEvents holds Events, by application name.
	KindEvents Kind = "events"
	// KindNode holds Node, by Swarm node ID.
	KindNode Kind = "node"
	// KindOperation holds Operation, by operation name. The CLI writes it too: to ask
	// for something. (An uninstall deletes the records of leader and nodes.)
	KindOperation Kind = "operation"
	// KindCatalog holds CatalogEntry, by application type. Only the CLI writes it.
	KindCatalog Kind = "catalog"
	// KindLeader holds Leader; there is one, named "leader".
	KindLeader Kind = "leader"
)

// CatalogEntry is an application type that a user has added to the catalog: the files of
// its folder, as data.
type CatalogEntry struct {
	App      string    `json:"app"`      // app.yaml
	Template string    `json:"template"` // stack.yaml.tmpl
	Readme   string    `json:"readme,omitempty"`
	Allowed  []string  `json:"allowed,omitempty"` // what it may reach beyond itself
	By       string    `json:"by"`                // user@host, for people
	Added    time.Time `json:"added"`
}

// Application is what the leading manager observes and decides of an
// application. It outlives the application's stack as long as volumes are kept.
type Application struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Image string `json:"image"`
	// Primary is the member that is to be primary, and Term grows with each step
	// of a change of it.
	Primary string `json:"primary"`
	Term    uint64 `json:"term"`
	// Handover is the change of the primary that is under way; until it is done,
	// Primary is the former one and no member may run as primary anew.
	Handover *Handover `json:"handover,omitempty"`
	// Promotion is what the data of Primary had reached when it was chosen among
	// the standbys; nil: it is the first primary.
	Promotion *Promotion `json:"promotion,omitempty"`
	// LastChange is the operation that asked for a change of the primary last, and
	// LastFrom who was the primary then.
	LastChange string `json:"lastChange,omitempty"`
	LastFrom   string `json:"lastFrom,omitempty"`
	// PrimaryDown is since when the primary has not been healthy; nil: it is.
	// PrimaryCold: it was not healthy before either, since the application was
	// created or taken up again.
	PrimaryDown *time.Time `json:"primaryDown,omitempty"`
	PrimaryCold bool       `json:"primaryCold,omitempty"`
	// Sync are the standbys any one of which the primary is to wait for before it
	// acknowledges a commit, since SyncSince. Voters are all that it may still
	// wait for: a superset, in the record before the primary learns of them.
	// Whoever becomes the primary has what all voters have.
	Sync      []string   `json:"sync,omitempty"`
	SyncSince *time.Time `json:"syncSince,omitempty"`
	Voters    []string   `json:"voters,omitempty"`
	// SyncInForce: the primary has said that it waits, so that what was acknowledged
	// since is on a voter. Floor is what the primary had then, or when it was chosen:
	// who takes its place must have that too. SyncOn is whether commits are to wait;
	// Term grows when that changes.
	SyncInForce bool       `json:"syncInForce,omitempty"`
	SyncOn      bool       `json:"syncOn,omitempty"`
	Floor       *Promotion `json:"floor,omitempty"`
	// News are events that were recorded with the step they tell of, and may not be in
	// the history (Events) yet.
	News []Event `json:"news,omitempty"`
	// NotBefore is until when no failover begins, after one that was given up.
	NotBefore *time.Time `json:"notBefore,omitempty"`
	// DiskFailover: another was made the primary because the former one's volume was
	// full, and a volume still is: it is not done twice.
	DiskFailover bool `json:"diskFailover,omitempty"`
	// StorageLow are the folders (api.Volume.Location) of its volumes that have little
	// room left.
	StorageLow []string `json:"storageLow,omitempty"`
	// Initialized: the database was made once. An empty data directory is an
	// error from then on.
	Initialized bool `json:"initialized"`
	// NoRoles: nobody is the primary, and nothing is said above of one.
	NoRoles    bool   `json:"noRoles,omitempty"`
	SystemID   string `json:"systemID,omitempty"`
	SyncMode   string `json:"syncMode,omitempty"`   // quorum, strict or off
	NoFailover bool   `json:"noFailover,omitempty"` // as its label asks
	// Lease is how long the leases of its volumes shall be; 0: api.LeaseDuration.
	Lease time.Duration `json:"lease,omitempty"`
	// UpgradeOrder and Window are as the labels say: primary-last or primary-first,
	// and when operations may restart members; "": always. A window that cannot be
	// read is here too, and no operation takes it for an open one.
	UpgradeOrder string `json:"upgradeOrder,omitempty"`
	Window       string `json:"window,omitempty"`
	// Apart is the standby that is being moved off a node that it shares with
	// another member. Crowded is since when one could be; none is before ApartAfter.
	Apart      *Apart     `json:"apart,omitempty"`
	Crowded    *time.Time `json:"crowded,omitempty"`
	ApartAfter *time.Time `json:"apartAfter,omitempty"`
	// Parameters are the servers' settings that are wanted, a JSON object of strings.
	// Restart is who is to be restarted for them.
	Parameters string         `json:"parameters,omitempty"`
	Restart    *MemberRestart `json:"restart,omitempty"`
	Members    []Member       `json:"members"`
	Created    time.Time      `json:"created"`
	// Removed is when its services were gone; nil while it runs.
	Removed *time.Time `json:"removed,omitempty"`
	// Problems are things a user should mend, such as a label with a bad value.
	Problems []string `json:"problems,omitempty"`
}

// MemberRestart is the order to restart the server of a member, if it was not
// started with these settings (api.ParametersID).
type MemberRestart struct {
	Member     string `json:"member"`
	Parameters string `json:"parameters"`
}

// Handover is a change of the primary. While it lasts all members have orders to
// be standbys.
type Handover struct {
	From string `json:"from"`
	// To is who shall become the primary; "": the most advanced standby will.
	To string `json:"to,omitempty"`
	// Orderly: From stops in order and the others follow it to its last byte. If
	// not, they follow nobody, so that From cannot acknowledge anything any more.
	Orderly bool `json:"orderly,omitempty"`
	// Force: do without the voters that are not heard; what only they have is lost.
	Force     bool      `json:"force,omitempty"`
	Reason    string    `json:"reason"`
	Operation string    `json:"operation,omitempty"` // that asked for it
	Since     time.Time `json:"since"`
}

// Apart is the move of a member away from the nodes that have one of its application.
type Apart struct {
	Member string `json:"member"`
	From   string `json:"from"` // hostname, for people
	// Away are the IDs of the nodes that carry a label against the member meanwhile;
	// none: it sits elsewhere, and is not healthy yet.
	Away  []string  `json:"away,omitempty"`
	Since time.Time `json:"since"`
}

// Promotion is a position in the log of a database.
type Promotion struct {
	Timeline int    `json:"timeline"`
	Position uint64 `json:"position"` // bytes
}

// Member is one member as the leading manager last saw it change.
type Member struct {
	Name     string          `json:"name"`
	Slot     int             `json:"slot"`
	Service  string          `json:"service"`
	Volume   string          `json:"volume"`
	Node     string          `json:"node,omitempty"`     // Swarm node ID
	Hostname string          `json:"hostname,omitempty"` // of that node
	Role     api.Role        `json:"role,omitempty"`
	State    api.MemberState `json:"state,omitempty"`
	Healthy  bool            `json:"healthy"`
	Message  string          `json:"message,omitempty"`
	Pinned   bool            `json:"pinned,omitempty"` // to Node, by node-local data
	// Address is its IP address in the application's network.
	Address string `json:"address,omitempty"`
	// Leaving: it is to stop and waits for its turn; Left: it was told that it is.
	Leaving bool `json:"leaving,omitempty"`
	Left    bool `json:"left,omitempty"`
	// Disk is how full its volume was when it was measured last.
	Disk  DiskLevel `json:"disk,omitempty"`
	Since time.Time `json:"since"` // of Node, Role, State and Healthy together
	// PendingRestart are the settings, comma-separated, that take a restart.
	PendingRestart string `json:"pendingRestart,omitempty"`
	// Fenced: a user has stopped its server; nil: nobody has.
	Fenced *Fence `json:"fenced,omitempty"`
	// Aside is the operation for which commits are not to wait for it, though it may
	// follow; Rebuild the one that has its data replaced by a fresh copy.
	Aside   string `json:"aside,omitempty"`
	Rebuild string `json:"rebuild,omitempty"`
}

// Fence is a user's word that the server of a member does not run.
type Fence struct {
	By        string    `json:"by"` // user@host, for people
	Since     time.Time `json:"since"`
	Operation string    `json:"operation"` // that asked for it
}

// String is for people.
func (f Fence) String() string {
	return "fenced by " + f.By + " since " + f.Since.UTC().Format("2006-01-02 15:04:05 UTC")
}

// DiskLevel is how full a volume is, in the words that people read.
type DiskLevel string

const (
	DiskFine       DiskLevel = ""
	DiskFilling    DiskLevel = "filling up"
	DiskAlmostFull DiskLevel = "almost full"
	DiskFull       DiskLevel = "full"
)

// Events is the history of an application, oldest first, the last MaxEvents.
type Events struct {
	Events []Event `json:"events"`
}

// MaxEvents bounds Events, so that the record stays far below Swarm's limit of
// 1,000 KiB for a config.
const MaxEvents = 200

// Event is one thing that happened.
type Event struct {
	Time   time.Time `json:"time"`
	Member string    `json:"member,omitempty"`
	Kind   string    `json:"kind"` // created, moved, state, alert, failover, switchover, fence, rebuild, removed
	Text   string    `json:"text"`
}

// Node is what the leading manager knows of a node's plugin.
type Node struct {
	ID       string      `json:"id"`
	Hostname string      `json:"hostname"`
	Version  string      `json:"version"` // of the plugin
	Storage  api.Storage `json:"storage"`
	// Plugin is the reference of the installed plugin, as the network helper sees it.
	Plugin string `json:"plugin,omitempty"`
	// Problem is what the network helper says is wrong with the plugin, or "".
	Problem string `json:"problem,omitempty"`
	// Reporting: the plugin's reports arrive.
	Reporting bool      `json:"reporting"`
	Since     time.Time `json:"since"` // of Reporting
}

// Leader proves that a manager leads: it is rewritten every second.
type Leader struct {
	Node     string `json:"node"`
	Hostname string `json:"hostname"`
	Boot     string `json:"boot"` // random, drawn when the manager process starts
	Beat     uint64 `json:"beat"`
	Version  string `json:"version"`
	// Resigned: it leads no more, because it was asked to stop.
	Resigned bool `json:"resigned,omitempty"`
}

// LeaderName is the name of the one record of KindLeader.
const LeaderName = "leader"

// OperationState is how far an operation has come.
type OperationState string

const (
	OperationRequested OperationState = "requested"
	OperationRunning   OperationState = "running"
	OperationDone      OperationState = "done"
	OperationFailed    OperationState = "failed"
	OperationCancelled OperationState = "cancelled"
)

// Kinds of operations.
const (
	// OperationCreate is the claim of a CLI that creates an application. It is
	// named "create.APPLICATION" and renewed by the CLI while it works, so that a
	// second create of the name sees the first.
	OperationCreate = "create"
	// OperationPurge deletes the retained volume Target and its data. It is
	// named "purge.VOLUME", requested by the CLI, executed by the leader.
	OperationPurge = "purge"
	// The following are about the application Target. They are named
	// "APPLICATION.RANDOM" (OperationName), requested by the CLI and executed by
	// the leader, one of an application at a time.
	OperationSwitchover = "switchover" // Request: SwitchoverRequest
	OperationPromote    = "promote"    // Request: SwitchoverRequest
	OperationRestart    = "restart"    // Request: RollRequest
	OperationUpgrade    = "upgrade"    // Request: RollRequest
	OperationStop       = "stop"
	OperationStart      = "start"
	OperationExpand     = "expand"  // Request: ExpandRequest
	OperationScale      = "scale"   // Request: ScaleRequest
	OperationFence      = "fence"   // Request: MemberRequest
	OperationUnfence    = "unfence" // Request: MemberRequest
	OperationRebuild    = "rebuild" // Request: MemberRequest
	OperationConfig     = "config"  // Request: ConfigRequest
)

// OperationName returns a new name for an operation on an application.
func OperationName(application string) string {
	b := make([]byte, 3)
	_, _ = rand.Read(b) // never fails
	return application + "." + hex.EncodeToString(b)
}

// SwitchoverRequest is what is asked of a change of the primary.
type SwitchoverRequest struct {
	To string `json:"to,omitempty"` // "": the best standby
}

// MemberRequest is what is asked of one member. Force: though commits then wait, or
// nobody can write.
type MemberRequest struct {
	Member string `json:"member"`
	Force  bool   `json:"force,omitempty"`
}

// RollRequest is what is asked of a restart or an upgrade of all members, one at a
// time.
type RollRequest struct {
	Image string `json:"image,omitempty"` // "": restart with the present one
	Order string `json:"order,omitempty"` // primary-last or primary-first; "": as the label says
	Now   bool   `json:"now,omitempty"`   // without waiting for the maintenance window
}

// ExpandRequest is what is asked of the volumes of an application.
type ExpandRequest struct {
	Size int64 `json:"size"` // bytes
}

// ScaleRequest is what is asked of the number of members: so many, or without one.
type ScaleRequest struct {
	Members int    `json:"members,omitempty"`
	Remove  string `json:"remove,omitempty"`
}

// Scale is how far a scaling has come.
type Scale struct {
	// Adding is the member that is being added, with Device, a snapshot of the
	// volume Source. "": it copies the database by itself.
	Adding string `json:"adding,omitempty"`
	Source string `json:"source,omitempty"`
	Device string `json:"device,omitempty"`
	// Since is when it was begun.
	Since time.Time `json:"since,omitzero"`
}

// Reseed is how far a rebuild by a snapshot has come.
type Reseed struct {
	// Device is the snapshot of the volume Source that takes the place of the member's.
	// "": there is none, and the member copies the database by itself.
	Device string    `json:"device,omitempty"`
	Source string    `json:"source,omitempty"`
	Since  time.Time `json:"since,omitzero"`
}

// ConfigRequest is what is asked of the settings of an application.
type ConfigRequest struct {
	Set   map[string]string `json:"set,omitempty"`
	Unset []string          `json:"unset,omitempty"`
	// Labels of the members' services that are settings too; "": without it.
	Labels map[string]string `json:"labels,omitempty"`
	// Restart: it is known beforehand that members have to be restarted, which waits
	// for the maintenance window but for Now.
	Restart bool `json:"restart,omitempty"`
	Now     bool `json:"now,omitempty"`
}

// Config is how far a change of settings has come.
type Config struct {
	// From and To are the labels that change, before and after; a label that is
	// missing in one of them is not there then. Keys are the settings.
	From map[string]string `json:"from"`
	To   map[string]string `json:"to"`
	Keys []string          `json:"keys,omitempty"`
	// Written: all services had the labels of To, since Since.
	Written bool      `json:"written,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	// Restarting is the member that is being restarted, since Since.
	Restarting string `json:"restarting,omitempty"`
	// Back is why From and To have been exchanged: what was asked for is impossible.
	Back string `json:"back,omitempty"`
}

// OperationStep is one thing that an operation has begun to do.
type OperationStep struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// Roll is how far a restart or an upgrade has come.
type Roll struct {
	// Member is being restarted by a ForceUpdate of its service to Force, since
	// Since; before that it ran as task Task.
	Member string    `json:"member,omitempty"`
	Force  uint64    `json:"force,omitempty"`
	Task   string    `json:"task,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	Done   []string  `json:"done,omitempty"`
	// Back: the member did not come up, its service was rolled back, and nothing
	// more is changed.
	Back string `json:"back,omitempty"`
	// Pulling is since when the members' nodes pull the image, before the first
	// member is restarted; Pulled: that is over.
	Pulling *time.Time `json:"pulling,omitempty"`
	Pulled  bool       `json:"pulled,omitempty"`
	// Forced are the ForceUpdates of members that were restarted at once, since
	// they could not run before their volumes had grown.
	Forced map[string]uint64 `json:"forced,omitempty"`
}

// Operation is a longer piece of work: what was asked, by whom, and how far it is.
type Operation struct {
	Kind    string         `json:"kind"`
	Target  string         `json:"target"`
	By      string         `json:"by"` // user@host, for people
	State   OperationState `json:"state"`
	Step    string         `json:"step,omitempty"`
	Error   string         `json:"error,omitempty"`
	Request string         `json:"request,omitempty"` // what was asked, to compare when asked again
	Beat    uint64         `json:"beat,omitempty"`    // counts renewals of a claim
	Started time.Time      `json:"started"`
	Ended   *time.Time     `json:"ended,omitempty"`
	// Cancel asks to stop at the next point where the application is consistent.
	Cancel bool            `json:"cancel,omitempty"`
	Steps  []OperationStep `json:"steps,omitempty"` // begun, in order
	Roll   *Roll           `json:"roll,omitempty"`
	Scale  *Scale          `json:"scale,omitempty"`
	Reseed *Reseed         `json:"reseed,omitempty"`
	Config *Config         `json:"config,omitempty"`
}
