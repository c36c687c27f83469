package api

import "time"

// Phase is how far a volume has come. It only goes forward.
type Phase string

const (
	// PhaseDeclared: the record exists, the backend has nothing yet.
	PhaseDeclared Phase = "declared"
	// PhaseProvisioned: the backend has the device; from here on a device that
	// cannot be found is an error, never a reason to make one.
	PhaseProvisioned Phase = "provisioned"
	// PhaseFormatting: the owner saw the device blank and makes the filesystem.
	// Nothing has ever been mounted.
	PhaseFormatting Phase = "formatting"
	// PhaseReady: the filesystem exists; mkfs is never run again.
	PhaseReady Phase = "ready"
)

// VolumeSpec is what a volume was created with.
type VolumeSpec struct {
	Name       string `json:"name"`
	Size       int64  `json:"size"`    // bytes
	Filesystem string `json:"fs"`      // ext4 or xfs
	Backend    string `json:"backend"` // file
	// Owners are the user and the group, as numbers, that the volume's root folder is
	// given to when it is made: "1000:1000". "": root.
	Owners string `json:"owners,omitempty"`
	// Application and Member are empty for a volume made without the catalog.
	Application string `json:"application,omitempty"`
	Member      string `json:"member,omitempty"`
}

// Owner is who may write to a volume.
type Owner struct {
	Node     string    `json:"node"`             // Swarm node ID
	Hostname string    `json:"hostname"`         // of the node, for people
	MountID  string    `json:"mount"`            // Docker's ID of the mount that asked
	Tenure   string    `json:"tenure,omitempty"` // AttachRequest.Tenure
	Task     string    `json:"task,omitempty"`   // name of the Swarm task, e.g. pg_1.1, or "" for docker run
	Since    time.Time `json:"since"`
}

// Volume is the record of a volume, kept in Swarm's Raft store and written by
// the leading manager only.
type Volume struct {
	VolumeSpec
	Phase Phase `json:"phase"`
	// UUID is the filesystem's, drawn when the volume is declared, so that a
	// filesystem found on a device can be told to be this volume's own.
	UUID string `json:"uuid"`
	// Device names the backend's device: for file, the image's file name.
	Device string `json:"device"`
	// Former is a device that Device has taken the place of, and that is to be deleted.
	Former string `json:"former,omitempty"`
	// Location is where the device lies: for file, the ID of the folder.
	Location string `json:"location,omitempty"`
	// Epoch grows with each new owner. A device of an older epoch is fenced.
	Epoch uint64 `json:"epoch"`
	Owner *Owner `json:"owner,omitempty"` // nil: free
	// Fence: Device may still be written by a former owner that did not hand
	// over; set with the new owner, cleared by ProgressRequest.Fenced.
	Fence bool `json:"fence,omitempty"`
	// Lease is the longest lease that may be out for this epoch; 0: LeaseDuration. It
	// is longer before a longer one is given, and shorter only with the next owner.
	Lease time.Duration `json:"lease,omitempty"`
	// LastNode is the node ID of the last owner.
	LastNode string `json:"lastNode,omitempty"`
	// Retained: its application or Docker volume was removed, the data is kept.
	Retained bool      `json:"retained,omitempty"`
	Purging  bool      `json:"purging,omitempty"` // being deleted on request
	Created  time.Time `json:"created"`
}

// LeaseTime is how long a lease of the volume lasts at most.
func (v Volume) LeaseTime() time.Duration { return min(max(v.Lease, LeaseDuration), MaxLease) }

// State is the word for people: attached, free, retained or purging.
func (v Volume) State() string {
	switch {
	case v.Purging:
		return "purging"
	case v.Owner != nil:
		return "attached"
	case v.Retained:
		return "retained"
	}
	return "free"
}

// CreateRequest declares a volume: POST /v1/volumes/create. It is idempotent;
// options that differ from an existing record's are refused (409).
type CreateRequest struct {
	Name    string            `json:"name"`
	Options map[string]string `json:"options"`
}

// Options of a volume, as `docker volume create -o` and driver_opts spell them.
const (
	OptionSize        = "size"        // 10GiB; default 1GiB
	OptionFilesystem  = "fs"          // ext4 (default) or xfs
	OptionOwner       = "owner"       // UID:GID of the root folder; default 0:0
	OptionApplication = "application" // set by the catalog
	OptionMember      = "member"      // set by the catalog
)

// NameRequest names a volume: POST /v1/volumes/remove (marks it retained; 409
// while it is attached).
type NameRequest struct {
	Name string `json:"name"`
}

// AttachRequest asks for a volume: POST /v1/volumes/attach. It is idempotent by
// (node, MountID, Tenure). Refused with 409 and code ErrHeld while another mount
// holds it.
type AttachRequest struct {
	Name    string `json:"name"`
	MountID string `json:"mount"`
	// Tenure is drawn by the plugin each time it sets out to hold the volume. Docker
	// can mount with the same MountID again: without it the epoch that was given up
	// would be granted once more, and a release of it that is still under way would
	// free the volume under the new mount.
	Tenure string `json:"tenure,omitempty"`
	// Location is the folder the caller has, so that a volume is not given to a
	// node that cannot reach it.
	Location string `json:"location"`
}

// Attachment answers an AttachRequest. The lease that comes with it is counted
// like a report's: from when the request was sent. If Volume.Fence is set, a
// backend that can, makes the device of this epoch from a point-in-time copy of
// Volume.Device and reports it (ProgressRequest.Fenced) before mounting; one that
// cannot reports Fenced with the same device: the lease alone protects it.
type Attachment struct {
	Volume Volume        `json:"volume"`
	Lease  time.Duration `json:"lease"`
}

// ProgressRequest is what the owner reports before it goes on: POST
// /v1/volumes/progress. Refused with 409 and code ErrEpoch if Epoch is no longer
// the record's or the caller not its owner; the caller must then let go.
type ProgressRequest struct {
	Name     string `json:"name"`
	Epoch    uint64 `json:"epoch"`
	Phase    Phase  `json:"phase"`
	Device   string `json:"device,omitempty"`   // if it changed
	Location string `json:"location,omitempty"` // with PhaseProvisioned
	Fenced   bool   `json:"fenced,omitempty"`   // Device replaces the fenced one
}

// ReleaseRequest gives a volume back: POST /v1/volumes/release. It is idempotent.
type ReleaseRequest struct {
	Name  string `json:"name"`
	Epoch uint64 `json:"epoch"`
}

// Codes in Error.Code.
const (
	ErrHeld        = "held"        // the volume is held by another mount
	ErrEpoch       = "stale-epoch" // the caller is no longer the owner
	ErrNotFound    = "not-found"   // no such volume
	ErrNotLeader   = "not-leader"  // this manager does not lead and reached no leader
	ErrForbidden   = "forbidden"   // the certificate does not allow this
	ErrInvalid     = "invalid"     // the request makes no sense
	ErrConflict    = "conflict"    // it contradicts what is recorded
	ErrUnreachable = "unreachable" // the volume lies where the caller cannot reach it
	ErrNotYet      = "not-yet"     // ask again: the leader is new, or waits for a lease to run out
)

// Error is the body of every answer with a status of 400 and above.
type Error struct {
	Code    string `json:"code"`
	Message string `json:"message"` // what happened, to what, and what to do next
}

func (e *Error) Error() string { return e.Message }
