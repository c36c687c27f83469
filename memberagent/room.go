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
	if !a.room.isFull() && !errors.Is(err, unix.ENOSPC) {
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
		a.starved = false
		return
	}
	// A standby's receiver ends when it cannot make the next file of the log, connects
	// anew and ends again. The primary is not to count on it at each try.
	a.starved = a.starved || before.Streaming && !p.Streaming
	switch {
	case !p.Up:
		p.Message = a.fullMessage() + "; " + p.Message
	case a.starved && p.Role == api.RoleStandby:
		p.Healthy, p.Streaming, p.Message = false, false, a.fullMessage()+"; it receives nothing any more"
	case p.Healthy && p.Message == "":
		p.Message = a.fullMessage()
	}
}
