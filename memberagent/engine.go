package memberagent

import (
	"context"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/openmanage/openmanage/internal/api"
)

// What is obliged here is tried on a real server by the suite in enginetest, which
// every engine of the first class must pass. There are three classes:
//
//   - The leader chooses the primary (PostgreSQL, MySQL with plain replication): all
//     of it is obligatory.
//   - There is nothing to choose (api.RoleMember): the members are equals, or know only
//     of each other. What is said of contexts and Processes is obligatory, and Data.Role
//     and Probe.Role are RoleMember. stacks/plain is the one.
//   - The servers elect for themselves (MongoDB, Group Replication, Galera): the leader's
//     orders have no place for them yet. What is said of the data (Open, Inspect,
//     Bootstrap, Join, Start, Stop, Flush), of contexts and of Processes is obligatory
//     for them too. Promote, what Adapt and Start say of whom to follow, and
//     Probe.Position are about a choice that they do not leave to the leader.

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
	Command     []string          // of the image, if the stack says it
	Parameters  map[string]string // of the environment; those of the orders win
	Getenv      func(string) string
	// Processes is the only way to start a process.
	Processes *Processes
	Log       hclog.Logger
}

// Server is the database server of one member. The agent calls one method at a
// time, and only while the lease is held: the context of each call ends when the
// lease does, and everything that Processes started is killed then without
// asking. It also ends when other orders make the work pointless. So every method
// must leave a data directory that Inspect understands if the process is killed at
// any point of it, and must return soon after its context ends: within a second or
// two, also if the server hangs. Nothing is written outside Member.Data but what a
// new container can do without, such as a socket in a folder of the image.
//
// What the server has acknowledged is there after a kill -9 of everything.
//
// Errors are shown to people as the member's message: they say what happened, to
// what, and what to do next.
type Server interface {
	// Inspect says what is in the data directory. It changes nothing, but that it
	// finishes a replacement of the data that Join or Rejoin was killed in. What it
	// cannot read or does not know is an error, never "empty".
	Inspect(context.Context) (Data, error)
	// Bootstrap makes the application's database. It is called only on a primary
	// whose data directory is empty, when no database of the application has ever
	// existed. Killed half-way, the directory must still be Empty.
	Bootstrap(context.Context, api.MemberOrders, Progress) error
	// Join copies the database from orders.Primary, waiting for it as long as it
	// takes. It is called only on a standby whose data directory is empty, when
	// the application's database exists. Killed half-way, the directory must still
	// be Empty. It must refuse a database whose system ID is not orders.SystemID, with
	// an error and without waiting for another.
	Join(context.Context, api.MemberOrders, Progress) error
	// Rejoin makes data that cannot simply follow orders.Primary able to: that of a
	// former primary, which may have been killed, of a standby that Probe called
	// Diverged, or Stale data. It waits as long as it takes until orders.Primary
	// answers and is itself a primary, of the same system ID, and changes nothing
	// before. What only this member has is lost by it: that is its purpose. It
	// should keep what is the same on both, and copies all anew if it cannot, with
	// the old data in place until the copy is whole where there is space for both.
	// With orders.Rebuild it keeps nothing and looks at nothing: the data is replaced by
	// a copy whatever it is, damaged or not. With orders.CopyOnOrder and without a
	// Rebuild it copies nothing: where only that helps it returns a *NeedsCopyError, and
	// the data may be Stale by then. When it returns, Inspect finds data of a standby to Start from. Killed
	// half-way, Inspect must find either the data as it was, or Stale or Empty data,
	// or the data of a standby: never data that looks whole and is not, and never
	// a primary's that is not the old one.
	Rejoin(context.Context, api.MemberOrders, Progress) error
	// Start writes the configuration, with orders.Parameters or, if the orders have no
	// word of them, Member.Parameters, and starts the server on a directory that is
	// not empty, in the role that its data has. A standby follows orders.Primary if
	// the orders make it a standby and name one, else nobody: it receives nothing
	// and waits, also if it is to be promoted. It returns the process as soon as it
	// runs, before it answers.
	Start(context.Context, api.MemberOrders) (*Process, error)
	// Probe asks the running server how it is, about once a second. It must be
	// cheap, and return within a second or two even if the server hangs.
	Probe(context.Context, api.MemberOrders) Probe
	// Adapt brings the running server in line with changed orders for the role it
	// has, without a restart: members that came or went, another primary to follow
	// or none, other members to wait for, other settings. Settings that the server
	// would refuse it leaves as they were, which is no error but Probe.Refused. When it returns without error, nothing is
	// received any more from a primary of older orders, and with orders.Primary ""
	// nothing at all. It is called when orders have changed and from time to time;
	// it is tried again if it fails.
	Adapt(context.Context, api.MemberOrders) error
	// Promote makes the running standby the primary, and returns when it takes
	// writes and waits for orders.Sync before it acknowledges the first of them. The
	// agent has compared the data with orders.Timeline and Position before. It may
	// be called again after an error, also when the server is the primary already.
	Promote(context.Context, api.MemberOrders) error
	// Flush writes to the data directory what the running server holds in memory,
	// while it goes on serving, so that the Stop that follows is short. Whether it
	// fails or not, the server is stopped afterwards.
	Flush(context.Context) error
	// Stop asks the running server to stop in order, and returns without waiting. A
	// primary that stops in order has sent all it wrote to the standbys that are
	// connected, and Inspect then says in Data.Position where that ended.
	Stop(context.Context) error
}

// NeedsCopyError says that data can follow the primary only when all of it is replaced.
type NeedsCopyError struct{ Why error }

func (e *NeedsCopyError) Error() string { return e.Why.Error() }
func (e *NeedsCopyError) Unwrap() error { return e.Why }

// Data is what a data directory holds.
type Data struct {
	Empty bool
	// Stale: what is there must not be started, because a Rejoin began to change
	// it, or because it can never follow; Rejoin makes it a standby's. Role means
	// nothing.
	Stale bool
	// Role that the server would have on this data.
	Role     api.Role
	SystemID string
	Timeline int
	// Position that the data has reached at least, in the engine's log, bytes. Of a
	// primary's data that was stopped in order: whoever reports it, or more, on the
	// same timeline has all that is in it; else 0.
	Position uint64
}

// Probe is what a server says of itself. Healthy: a primary takes connections
// and may write; a standby follows its primary.
type Probe struct {
	// Up: the server answers. If it is not, all but Message means nothing.
	Up      bool
	Healthy bool
	Role    api.Role
	Message string // why it is not Up or not Healthy, in plain words
	// Timeline and Position are what the data has for certain, over a kill too.
	Timeline   int
	Position   uint64  // in the engine's log, bytes
	LagBytes   int64   // behind the primary; -1: unknown
	LagSeconds float64 // behind the primary; -1: unknown
	Streaming  bool
	Sync       bool // a standby: the primary counts on it before it acknowledges
	// SyncNames are the members any one of which a primary waits for, as the
	// server itself has it in force.
	SyncNames []string
	// Diverged: the standby can never follow orders.Primary, which answers and is a
	// primary of the same system ID, as it is; only Rejoin helps.
	Diverged bool
	// Stuck: for a while nothing has stood in the way of the standby's following
	// orders.Primary, and it does not; the agent starts its server again. An engine that
	// says so begins to count anew with the next start.
	Stuck   bool
	Version string
	// Refused: why the server keeps its former settings instead of orders.Parameters.
	Refused string
	// PendingRestart are the settings that take a restart to be in force. PrimaryFirst
	// are those that the primary must have in force before a standby may: of a
	// primary those of PendingRestart, of a standby those it holds back until then.
	PendingRestart, PrimaryFirst []string
}

// Progress tells people how far a long step has come.
type Progress func(message string)

// ImmediateSignal makes a server end at once without a shutdown of its own. What
// does not understand it is killed a moment later.
const ImmediateSignal = syscall.SIGQUIT
