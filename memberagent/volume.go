package memberagent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockName is the file in the volume's root that a running engine's agent locks.
const lockName = "openmanage.lock"

// errMisplaced: the data directory is not on the volume that the plugin mounted.
// Only a new container, with a new mount, mends it.
var errMisplaced = errors.New("the data directory is not on this member's volume")

// checkDevice compares the device of the file system at dir with the one that
// the plugin mounted, "major:minor". Docker replaces the volume of a plugin that
// does not answer by a local one without a word; a database must not begin there.
func checkDevice(dir, device string) error {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return fmt.Errorf("look at the data volume's mount %s: %w", dir, err)
	}
	switch here := fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev)); {
	case device == "":
		return errors.New("the volume plugin does not say on which device the data volume is")
	case here != device:
		return fmt.Errorf("%w: %s is on device %s, the volume plugin mounted %s; Docker may have put a local volume in its place, remove this container so that a new one mounts the right one", errMisplaced, dir, here, device)
	}
	return nil
}

// busyError: another agent has locked the volume.
type busyError struct{ holder string }

func (e *busyError) Error() string {
	return fmt.Sprintf("another agent runs on this volume (%s); waiting until it ends", e.holder)
}

// lockVolume locks dir for this agent and whatever inherits the file, so that two
// agents that both see the volume never both run an engine. Closing the file in
// all of them unlocks. If it is locked, the error is a *busyError that says by whom.
func lockVolume(dir, holder string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data volume: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			other, _ := io.ReadAll(io.LimitReader(file, 1024))
			return nil, &busyError{holder: string(other)}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	// The words are for people, and on a full volume there is no space for them. The
	// lock is what counts.
	if err := file.Truncate(0); err == nil {
		_, _ = file.WriteAt([]byte(holder), 0)
	}
	return file, nil
}
