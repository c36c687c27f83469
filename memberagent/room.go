package memberagent

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/diskusage"
)

// room knows whether the data volume is full. Safe for concurrent use.
type room struct {
	dir string

	mu   sync.Mutex
	full bool
}

// isFull measures the volume. What cannot be measured is not full.
func (r *room) isFull() bool {
	usage, err := diskusage.Of(r.dir)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.full = err == nil && usage.Full(r.full)
	return r.full
}

// explain says why a turn has failed, first that there is no space, if so: what a
// server says of its end is in its own log.
func (a *agent) explain(err error) string {
	full := a.room.isFull()
	a.stuck = full
	if !full && !errors.Is(err, unix.ENOSPC) {
		return err.Error()
	}
	return a.fullMessage() + "; " + err.Error()
}

func (a *agent) fullMessage() string {
	return fmt.Sprintf("volume %s is full, enlarge it with docker openmanage volume expand %s --size SIZE", a.config.Volume, a.config.Application)
}

// judgeRoom adds to what a server says of itself what follows from a full volume.
// before is what was reported last.
func (a *agent) judgeRoom(p *Probe, before api.MemberStatus) {
	if !a.room.isFull() {
		a.stuck = false
		return
	}
	p.Stuck = false // there is the reason
	// A server that cannot make the next file of its log ends, comes up, and ends
	// again; a standby's receiver connects anew and ends again. Each time all seems
	// well for a moment, and nobody is to count on it.
	a.stuck = a.stuck || before.State == api.StateRunning && !p.Up || before.Streaming && !p.Streaming
	switch {
	case !p.Up:
		p.Message = a.fullMessage() + "; " + p.Message
	case a.stuck && p.Role == api.RoleStandby:
		p.Healthy, p.Streaming, p.Message = false, false, a.fullMessage()+"; it receives nothing any more"
	case a.stuck:
		p.Healthy, p.Message = false, a.fullMessage()+"; it has ended for it"
	case p.Healthy && p.Message == "":
		p.Message = a.fullMessage()
	}
}
