package memberagent

import (
	"context"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/openmanage/openmanage/internal/api"
)

// Engine is the knowledge of one kind of database.
type Engine interface {
	// Name is what OPENMANAGE_ENGINE says, such as "postgresql".
	Name() string
	// Open returns the server of a member. It looks at the image (binaries, user)
	// and the configuration, and must not touch the data volume: no lease is held
	// yet. Its error ends the agent: it is for a stack or an image that can never
	// work, and says what to change.
	Open(Member) (Server, error)
}

// Member is what an engine is told of the member it serves.
type Member struct {
	Application string
	Name        string // also the hostname by which other members reach it
	Data        string // mount point of the data volume
	SecretsDir  string
	Parameters  map[string]string
	Getenv      func(string) string
	// Processes is the only way to start a process.
	Processes *Processes
	Log       hclog.Logger
}

// Server is the database server of one member. The agent calls one method at a
// time, and only while the lease is held: the context of each call ends when the
// lease does, and everything that Processes started is killed then without
// asking. So every method must leave a data directory that Inspect understands
// if the process is killed at any point of it, and must return soon after its
// context ends.
//
// Errors are shown to people as the member's message: they say what happened, to
// what, and what to do next.
type Server interface {
	// Inspect says what is in the data directory and changes nothing. What it
	// cannot read or does not know is an error, never "empty".
	Inspect(context.Context) (Data, error)
	// Bootstrap makes the application's database. It is called only on a primary
	// whose data directory is empty, when no database of the application has ever
	// existed. Killed half-way, the directory must still be Empty.
	Bootstrap(context.Context, api.MemberOrders, Progress) error
	// Join copies the database from orders.Primary, waiting for it as long as it
	// takes. It is called only on a standby whose data directory is empty, when
	// the application's database exists. Killed half-way, the directory must still
	// be Empty. It must refuse a database whose system ID is not orders.SystemID.
	Join(context.Context, api.MemberOrders, Progress) error
	// Start writes the configuration and starts the server on a directory that is
	// not empty, in the role that its data has. It returns the process as soon as
	// it runs, before it answers.
	Start(context.Context, api.MemberOrders) (*Process, error)
	// Probe asks the running server how it is, about once a second. It must be
	// cheap, and return within a second or two even if the server hangs.
	Probe(context.Context, api.MemberOrders) Probe
	// Adapt brings the running server in line with changed orders, without a
	// restart: members that came or went, another primary to follow. It is called
	// after a Probe that found the server up, when orders have changed and from
	// time to time; it is tried again if it fails.
	Adapt(context.Context, api.MemberOrders) error
	// Stop asks the running server to stop in order, and returns without waiting.
	Stop(context.Context) error
}

// Data is what a data directory holds.
type Data struct {
	Empty bool
	// Role that the server would have on this data.
	Role     api.Role
	SystemID string
	Timeline int
}

// Probe is what a server says of itself. Healthy: a primary takes connections
// and may write; a standby follows its primary.
type Probe struct {
	// Up: the server answers. If it is not, all but Message means nothing.
	Up         bool
	Healthy    bool
	Role       api.Role
	Message    string // why it is not Up or not Healthy, in plain words
	Timeline   int
	Position   uint64  // in the engine's log, bytes
	LagBytes   int64   // behind the primary; -1: unknown
	LagSeconds float64 // behind the primary; -1: unknown
	Streaming  bool
	Sync       bool
	Version    string
}

// Progress tells people how far a long step has come.
type Progress func(message string)

// ImmediateSignal makes a server end at once without a shutdown of its own. What
// does not understand it is killed a moment later.
const ImmediateSignal = syscall.SIGQUIT
