package volumeplugin

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
)

// savedHold is a hold as the state file keeps it over a kill -9.
type savedHold struct {
	Volume  api.Volume `json:"volume"`
	MountID string     `json:"mount"`
	Count   int        `json:"count"`
	Mounted bool       `json:"mounted"`
	Since   time.Time  `json:"since"`
}

// stateFiles keeps two files in a folder of the propagated mount. One, replaced
// by rename on each transition, says what is mounted here. The other is
// overwritten in place every second without waiting for the disk, which is enough
// to survive a kill: the times until which leases and promises hold.
type stateFiles struct {
	dir  string
	boot string // ID of the kernel's boot: clocks of another boot mean nothing

	mu    sync.Mutex // one writer at a time
	times *os.File
	last  int
}

// savedTimes are points of CLOCK_BOOTTIME.
type savedTimes struct {
	Boot     string                   `json:"boot"`
	Leases   map[string]time.Duration `json:"leases"`
	Promises map[string]time.Duration `json:"promises"`
}

func openState(dir string) (*stateFiles, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, err
	}
	times, err := os.OpenFile(filepath.Join(dir, "times.json"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return &stateFiles{dir: dir, boot: strings.TrimSpace(string(boot)), times: times}, nil
}

func (s *stateFiles) path() string { return filepath.Join(s.dir, "holds.json") }

// fresh says that no plugin has ever saved its holds here.
func (s *stateFiles) fresh() bool {
	_, err := os.Stat(s.path())
	return errors.Is(err, fs.ErrNotExist)
}

func (s *stateFiles) load() ([]savedHold, savedTimes, error) {
	var holds []savedHold
	var times savedTimes
	doc, err := os.ReadFile(s.path())
	if err == nil {
		err = json.Unmarshal(doc, &holds)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, times, err
	}
	// A torn or foreign file of times is as none: no lease is believed to hold.
	if doc, err := os.ReadFile(s.times.Name()); err != nil || json.Unmarshal(doc, &times) != nil || times.Boot != s.boot {
		times = savedTimes{}
	}
	return holds, times, nil
}

func (s *stateFiles) saveHolds(holds []savedHold) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, err := json.Marshal(holds)
	if err != nil {
		return err
	}
	return renameio.WriteFile(s.path(), doc, 0o600)
}

func (s *stateFiles) saveTimes(leases, promises map[string]time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	doc, err := json.Marshal(savedTimes{Boot: s.boot, Leases: leases, Promises: promises})
	if err != nil {
		return err
	}
	// Spaces over what a longer document left; JSON does not mind them.
	n := len(doc)
	for len(doc) < s.last {
		doc = append(doc, ' ')
	}
	s.last = n
	_, err = s.times.WriteAt(doc, 0)
	return err
}

// clock tells a time that only grows, also while the machine is suspended.
type clock func() time.Duration

func bootClock() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail with a valid clock
	return time.Duration(ts.Nano())
}
