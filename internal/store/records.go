package store

import (
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
	// KindOperation holds Operation, by operation name. It is the one kind that
	// the CLI writes too: to ask for something. (An uninstall deletes the records
	// of leader and nodes.)
	KindOperation Kind = "operation"
	// KindLeader holds Leader; there is one, named "leader".
	KindLeader Kind = "leader"
)

// Application is what the leading manager observes and decides of an
// application. It outlives the application's stack as long as volumes are kept.
type Application struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Image string `json:"image"`
	// Primary is the member that is to be primary, and Term grows each time
	// another one is chosen.
	Primary string `json:"primary"`
	Term    uint64 `json:"term"`
	// Initialized: the database was made once. An empty data directory is an
	// error from then on.
	Initialized bool      `json:"initialized"`
	SystemID    string    `json:"systemID,omitempty"`
	SyncMode    string    `json:"syncMode,omitempty"`
	Members     []Member  `json:"members"`
	Created     time.Time `json:"created"`
	// Removed is when its services were gone; nil while it runs.
	Removed *time.Time `json:"removed,omitempty"`
	// Problems are things a user should mend, such as a label with a bad value.
	Problems []string `json:"problems,omitempty"`
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
	Since    time.Time       `json:"since"`            // of Node, Role, State and Healthy together
}

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
	Kind   string    `json:"kind"` // created, moved, state, removed
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
)

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
}
