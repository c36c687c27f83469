package api

import (
	"crypto/sha256"
	"encoding/hex"
	"time"
)

// Report is what the plugin of a node tells the leader every ReportInterval:
// POST /v1/report. The node is the one of the certificate.
type Report struct {
	Boot    string  `json:"boot"`    // random, drawn when the plugin starts
	Version string  `json:"version"` // of the plugin
	Storage Storage `json:"storage"`
	// Volumes that this node holds. One that the leader believes this node to
	// own and that is missing for 5 s from the reports of a plugin that has
	// finished Rebuilding is released.
	Volumes []HeldVolume   `json:"volumes"`
	Members []MemberStatus `json:"members"`
	// Rebuilding: the plugin has just started and does not know yet what is
	// mounted; absence from Volumes means nothing.
	Rebuilding bool `json:"rebuilding,omitempty"`
	// Seq numbers the reports of a Boot, from 1. If Since is not 0, Volumes and
	// Members are what has changed since report Since, which the leader has answered,
	// and what is no more is in the other two, by volume. See internal/delta.
	Seq         uint64   `json:"seq,omitempty"`
	Since       uint64   `json:"since,omitempty"`
	GoneVolumes []string `json:"goneVolumes,omitempty"`
	GoneMembers []string `json:"goneMembers,omitempty"`
	// Purged are the orders that this node has carried out.
	Purged []PurgeOrder `json:"purged,omitempty"`
	// Snapshots are the orders that this node has carried out, or could not.
	Snapshots []SnapshotResult `json:"snapshots,omitempty"`
}

// Storage is what a node's backend offers.
type Storage struct {
	Backend  string `json:"backend"`  // file
	Location string `json:"location"` // ID of the folder; nodes that report the same share it
	Path     string `json:"path"`     // of the folder on the node, for people
	Free     int64  `json:"free"`     // bytes
	Total    int64  `json:"total"`    // bytes
	Reflink  bool   `json:"reflink"`  // point-in-time copies in O(1)
	Error    string `json:"error,omitempty"`
}

// HeldVolume is a volume as the node that holds it sees it.
type HeldVolume struct {
	Name    string `json:"name"`
	Epoch   uint64 `json:"epoch"`
	MountID string `json:"mount"`
	Mounted bool   `json:"mounted"`
	// Size of the device with its filesystem in bytes, 0 while it is not known.
	Size int64 `json:"size,omitempty"`
	// GrowsAtMount: the device has become larger, and the filesystem can only follow
	// before the next mount.
	GrowsAtMount bool `json:"growsAtMount,omitempty"`
	// Problem is why an order about the volume could not be carried out.
	Problem string `json:"problem,omitempty"`
	// Usage of the mounted filesystem, as it was when the report was made.
	Usage
}

// ReportAnswer renews leases and carries what the node is to do.
type ReportAnswer struct {
	Leader string `json:"leader"` // node ID
	// Lease is for how long the volumes in Renewed are held, from when the
	// report was sent. 0: the leader cannot renew now.
	Lease time.Duration `json:"lease"`
	// Renewed are the volumes whose epoch is the record's. A held volume that is
	// in Lost has another owner or epoch: fence at once. One in neither list
	// keeps the lease it has.
	Renewed []string `json:"renewed,omitempty"`
	// Longer are those of Renewed whose lease is another than Lease.
	Longer map[string]time.Duration `json:"longer,omitempty"`
	Lost   []string                 `json:"lost,omitempty"`
	Orders []MemberOrders           `json:"orders,omitempty"` // for the members this node reported
	// Seq is the report's that is answered. Again: the leader does not know report
	// Since; nothing is renewed, and all is to be reported. Same are the members whose
	// orders are as they were in the answers up to that to report Since.
	Seq   uint64       `json:"seq,omitempty"`
	Again bool         `json:"again,omitempty"`
	Same  []string     `json:"same,omitempty"`
	Purge []PurgeOrder `json:"purge,omitempty"`
	// Grow and Snapshot are orders about volumes in Renewed. Each is repeated until
	// HeldVolume.Size, or Report.Snapshots, shows that it was carried out.
	Grow     []GrowOrder     `json:"grow,omitempty"`
	Snapshot []SnapshotOrder `json:"snapshot,omitempty"`
	// Nodes are all nodes of the Swarm that could mount a volume, the caller
	// included, for the failsafe when no leader answers.
	Nodes []Node `json:"nodes,omitempty"`
}

// Node is a node of the Swarm.
type Node struct {
	ID       string `json:"id"`
	Hostname string `json:"hostname"`
	Addr     string `json:"addr"` // IP address
	Manager  bool   `json:"manager,omitempty"`
}

// PurgeOrder has a node delete a volume's device. It is repeated until the node
// reports it in Report.Purged. Location: in another folder, which the node may
// have by the time it reads the order, the device is missing and yet not deleted.
type PurgeOrder struct {
	Name     string `json:"name"`
	Device   string `json:"device"`
	Location string `json:"location"`
}

// GrowOrder has the owner of a volume enlarge its device and filesystem to Size
// bytes, while it is in use.
type GrowOrder struct {
	Name  string `json:"name"`
	Epoch uint64 `json:"epoch"`
	Size  int64  `json:"size"`
}

// SnapshotOrder has the owner of a volume make Device, a point-in-time copy of it,
// beside it: what a power cut at that moment would have left.
type SnapshotOrder struct {
	Name   string `json:"name"`
	Epoch  uint64 `json:"epoch"`
	Device string `json:"device"`
}

// SnapshotResult says that a SnapshotOrder was carried out, or why not.
type SnapshotResult struct {
	Device string `json:"device"`
	Error  string `json:"error,omitempty"`
}

// Promise is asked of managers (POST /v1/promise on ManagerPort) and of other
// nodes' plugins (same path, PeerPort) by a node that finds no leader. Who
// answers 200 promises: a manager, not to take part in giving away a volume of
// the caller within Lease from now; a plugin, not to mount any of Volumes within
// Lease from now. A manager that leads answers 409 with ErrConflict: report to it.
type Promise struct {
	Lease   time.Duration `json:"lease"`
	Volumes []string      `json:"volumes"`
}

// PromiseAge answers a BarRequest, by which a leader learns whether a silent
// node was promised anything.
type PromiseAge struct {
	// Known is false while the manager has run for less than a lease and a
	// margin, and therefore cannot say.
	Known bool `json:"known"`
	// Remaining is how long the latest promise to that node still holds; 0: none.
	Remaining time.Duration `json:"remaining"`
}

// Role of a member, as far as OpenManage decides it.
type Role string

const (
	RolePrimary Role = "primary"
	RoleStandby Role = "standby"
	// RoleMember is of an application without roles (LabelRoles): each member is what
	// the others are, or they settle among themselves who leads.
	RoleMember Role = "member"
)

// MemberState is where a member's engine is in its life.
type MemberState string

const (
	StateWaiting       MemberState = "waiting" // for its lease, its role or another member
	StateBootstrapping MemberState = "bootstrapping"
	StateJoining       MemberState = "joining" // copying or catching up for the first time
	StateStarting      MemberState = "starting"
	StateRunning       MemberState = "running"
	StateStopping      MemberState = "stopping"
	StateStopped       MemberState = "stopped"
	StateFailed        MemberState = "failed"
	StateFenced        MemberState = "fenced" // stopped on a user's word, until it is taken back
)

// MemberStatus is what an agent says of its member.
type MemberStatus struct {
	Application string `json:"application"`
	Member      string `json:"member"`
	Engine      string `json:"engine"`
	Volume      string `json:"volume"`
	Task        string `json:"task,omitempty"` // Swarm task ID
	Container   string `json:"container,omitempty"`
	Image       string `json:"image,omitempty"`
	Role        Role   `json:"role,omitempty"` // as the server itself says
	// Term is that of the orders which the member is in line with: of orders that
	// follow nobody no WAL is received any more, of orders that make it a standby
	// no primary runs.
	Term    uint64      `json:"term,omitempty"`
	State   MemberState `json:"state"`
	Healthy bool        `json:"healthy"`
	Message string      `json:"message,omitempty"` // in plain words, if not healthy
	// Initialized: the data directory holds a database of this application. Empty:
	// it was looked at and holds nothing. Neither: it is not known.
	Initialized bool `json:"initialized,omitempty"`
	Empty       bool `json:"empty,omitempty"`
	// SystemID tells databases of the same name apart.
	SystemID string `json:"systemID,omitempty"`
	Timeline int    `json:"timeline,omitempty"`
	Position uint64 `json:"position,omitempty"` // in the engine's log, bytes
	// LagBytes and LagSeconds are behind the primary; -1: unknown.
	LagBytes   int64   `json:"lagBytes"`
	LagSeconds float64 `json:"lagSeconds"`
	Streaming  bool    `json:"streaming,omitempty"`
	Sync       bool    `json:"sync,omitempty"`
	Version    string  `json:"version,omitempty"` // of the server
	// Address is the member's own IP address in the application's network.
	Address string `json:"address,omitempty"`
	// Named: Docker has been told that the container is healthy. Before that Swarm's DNS
	// does not know it, and clients do not find it.
	Named bool `json:"named,omitempty"`
	// Leaving: the container was asked to stop, and the member waits until it may
	// (MemberOrders.Leave).
	Leaving bool `json:"leaving,omitempty"`
	// SyncNames are the members, comma-separated, any one of which a running
	// primary waits for before it acknowledges a commit; "": it waits for none.
	SyncNames string `json:"syncNames,omitempty"`
	// Rebuilt is the last MemberOrders.Rebuild that was carried out on this volume.
	Rebuilt string `json:"rebuilt,omitempty"`
	// NeedsCopy says why the data can follow MemberOrders.Primary only when all of it
	// is replaced: the member waits for the order (MemberOrders.CopyOnOrder).
	NeedsCopy string `json:"needsCopy,omitempty"`
	// Parameters identifies the settings (ParametersID) that the running server has
	// read, and StartedWith those with which it was started; "": none yet. Refused:
	// it has not taken them, and why.
	Parameters  string `json:"parameters,omitempty"`
	StartedWith string `json:"startedWith,omitempty"`
	Refused     string `json:"refused,omitempty"`
	// PendingRestart are the settings, comma-separated, that take a restart to be in
	// force. PrimaryFirst are those that the primary must have in force before its
	// standbys may: a primary that has still to be restarted for them names them, and
	// a standby that keeps the former value until then.
	PendingRestart string `json:"pendingRestart,omitempty"`
	PrimaryFirst   string `json:"primaryFirst,omitempty"`
}

// MemberOrders is what the leader wants of a member.
type MemberOrders struct {
	Member string `json:"member"`
	Role   Role   `json:"role"` // "": wait
	// Term is the application's epoch: it grows with each step of a change of the
	// primary. Orders of an older term than one seen are void.
	Term uint64 `json:"term"`
	// Primary is the member, by the name that is also its hostname, that the
	// standbys follow. "": they follow nobody and receive nothing; a member that
	// was the primary stops its server.
	Primary string `json:"primary"`
	// Leave: the member may stop now. One at a time may, a primary when another has
	// taken its place, if there is one that can.
	Leave bool `json:"leave,omitempty"`
	// PrimaryAddress is the IP address of Primary, if it is known. Swarm takes a
	// task that is to stop out of its DNS at once, though it runs on for a while.
	PrimaryAddress string `json:"primaryAddress,omitempty"`
	// Immediate: a primary that is to be a standby ends its server at once instead
	// of in order.
	Immediate bool `json:"immediate,omitempty"`
	// Timeline and Position are what the data of a standby that becomes the
	// primary must have reached. Timeline 0: no standby may become the primary.
	Timeline int    `json:"timeline,omitempty"`
	Position uint64 `json:"position,omitempty"`
	// Sync are the members any one of which the primary waits for before it
	// acknowledges a commit; none: it waits for nobody.
	Sync []string `json:"sync,omitempty"`
	// Members of the application, all of them, in order.
	Members []string `json:"members"`
	// Initialized: the application's database exists. A primary with an empty
	// data directory must then refuse to make a new one.
	Initialized bool   `json:"initialized"`
	SystemID    string `json:"systemID,omitempty"`
	// Parameters are the engine's settings, a JSON object of strings. "": there is no
	// word of them, and those of the container's environment count.
	Parameters string `json:"parameters,omitempty"`
	// Restart: the server is to have been started with Parameters, all of them in
	// force. One that was not is stopped in order and started again.
	Restart bool `json:"restart,omitempty"`
	// Reason says in plain words why Role is what it is, if it is not obvious.
	Reason string `json:"reason,omitempty"`
	// Fenced says in plain words by whom and since when the member is fenced: its
	// server stops in order and does not start, whatever the role. "": it is not.
	Fenced string `json:"fenced,omitempty"`
	// Rebuild names an operation that wants the data of a standby replaced by a fresh
	// copy of Primary's, once: MemberStatus.Rebuilt says that it was.
	Rebuild string `json:"rebuild,omitempty"`
	// CopyOnOrder: a standby whose data can follow only when all of it is replaced
	// says so (MemberStatus.NeedsCopy) and leaves it to the leader how, by Rebuild or by
	// a snapshot on its volume. If nothing comes of that for a while, it copies.
	CopyOnOrder bool `json:"copyOnOrder,omitempty"`
}

// ParametersID tells MemberOrders.Parameters apart; it is never "".
func ParametersID(parameters string) string {
	sum := sha256.Sum256([]byte(parameters))
	return hex.EncodeToString(sum[:6])
}

// AgentReport is what an agent sends to the plugin: POST /v1/agent on AgentSocket,
// every half second.
type AgentReport struct {
	Status MemberStatus `json:"status"`
}

// AgentAnswer is the plugin's answer to an AgentReport.
type AgentAnswer struct {
	// Lease is how long the container holds its data volume's lease, counted
	// from when the report was sent; 0: it does not, the engine must not run.
	Lease time.Duration `json:"lease"`
	Epoch uint64        `json:"epoch"`
	// Device is the major:minor of the mounted data volume. The agent compares
	// it with its data directory's before it touches anything there: Docker
	// replaces a missing plugin's volume by a local one without a word.
	Device string        `json:"device"`
	Node   string        `json:"node"`             // hostname of the node
	Orders *MemberOrders `json:"orders,omitempty"` // nil: none received yet
	Reason string        `json:"reason,omitempty"` // why Lease is 0 or Orders nil
}

// BarRequest is a leader's question to the other managers before it gives away a
// volume of the silent node Node: POST /v1/bar on ManagerPort, managers only. A
// manager that answers also refuses new promises to that node for Bar.
type BarRequest struct {
	Node string        `json:"node"`
	Bar  time.Duration `json:"bar"`
}

// HelperReport is what the network helper of a node tells the leader: POST
// /v1/helper.
type HelperReport struct {
	Version string `json:"version"` // of the helper
	// Plugin is the reference of the installed volume plugin, "" if there is none.
	Plugin string `json:"plugin"`
	// Problem says in plain words why the plugin is not installed and enabled.
	Problem string `json:"problem,omitempty"`
	// Members are the containers of members that run on the node.
	Members []MemberContainer `json:"members,omitempty"`
	// Pulls are the orders of the last answer and how far they are.
	Pulls []PullResult `json:"pulls,omitempty"`
}

// HelperAnswer carries what the helper is to do.
type HelperAnswer struct {
	// Pull is repeated until the image is not needed any more; the helper forgets
	// what is not in it.
	Pull []PullOrder `json:"pull,omitempty"`
}

// PullOrder has the helper pull an image, so that a member's restart does not wait
// for it.
type PullOrder struct {
	Operation string `json:"operation"` // that needs it; another one asks anew
	Image     string `json:"image"`
}

// PullResult is how far a PullOrder is.
type PullResult struct {
	PullOrder
	Done  bool   `json:"done,omitempty"` // pulled, or Error says why not
	Error string `json:"error,omitempty"`
	// Denied: the registry wants credentials, which this node's engine does not
	// have by itself. Swarm may have them, of the service.
	Denied bool `json:"denied,omitempty"`
}

// MemberContainer is where a member runs.
type MemberContainer struct {
	Volume    string            `json:"volume"` // the member's data volume
	Container string            `json:"container"`
	Addresses map[string]string `json:"addresses"` // by network name
}

// ExecRequest asks the network helper for a command in a member's container:
// POST /v1/exec on NodePort, managers only. The connection is upgraded and
// carries frames (internal/execstream).
type ExecRequest struct {
	Volume string   `json:"volume"` // the member's data volume
	User   string   `json:"user,omitempty"`
	Cmd    []string `json:"cmd"`
	TTY    bool     `json:"tty,omitempty"`
	Width  uint     `json:"width,omitempty"`
	Height uint     `json:"height,omitempty"`
}

// LiveStatus answers GET /v1/status (managers only) and `openmanage status --json`.
type LiveStatus struct {
	Leader   string       `json:"leader"` // hostname
	Members  []LiveMember `json:"members"`
	Volumes  []LiveVolume `json:"volumes"`
	Problems []string     `json:"problems,omitempty"`
}

// LiveVolume is a volume as the node that holds it saw it last.
type LiveVolume struct {
	HeldVolume
	Node string `json:"node"` // ID
}

// LiveMember is the newest word of a member.
type LiveMember struct {
	MemberStatus
	Node     string        `json:"node"` // ID
	Hostname string        `json:"hostname"`
	Addr     string        `json:"addr"` // of the node
	Age      time.Duration `json:"age"`  // since it was said
}
