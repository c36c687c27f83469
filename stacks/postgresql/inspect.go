package postgresql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// Inspect tells an empty volume from one with a database, and a primary's data
// from a standby's. Only the absence of pgdata, or an empty folder of that name,
// is empty: anything else that is not whole is damage, and an error.
func (s *server) Inspect(ctx context.Context) (memberagent.Data, error) {
	if err := s.finishSwap(); err != nil {
		return memberagent.Data{}, err
	}
	if id, err := s.rejoining(); err != nil || id != "" {
		return memberagent.Data{Stale: true, SystemID: id}, err
	}
	empty, err := isEmpty(s.dir)
	if err != nil {
		return memberagent.Data{}, fmt.Errorf("look into the data directory: %w", err)
	}
	if empty {
		// A database that a user put into the volume's root must not be passed over.
		if found, err := exists(s.volume, "PG_VERSION"); err != nil || found {
			return memberagent.Data{}, errors.Join(err, fmt.Errorf("there is a PostgreSQL database in the root of the data volume (%s) and none in %s; move it into %s, or use another volume", s.volume, s.dir, filepath.Base(s.dir)))
		}
		return memberagent.Data{Empty: true}, nil
	}
	if err := s.checkMajor(ctx); err != nil {
		return memberagent.Data{}, err
	}
	control, err := s.controlData(ctx, s.dir)
	if err != nil {
		return memberagent.Data{}, err
	}
	data := memberagent.Data{SystemID: control["Database system identifier"]}
	if data.SystemID == "" {
		return memberagent.Data{}, fmt.Errorf("pg_controldata does not say the system identifier of %s", s.dir)
	}
	data.Timeline = control.timeline()
	standby, err := exists(s.dir, "standby.signal")
	if err != nil {
		return memberagent.Data{}, err
	}
	recovery, err := exists(s.dir, "recovery.signal")
	if err != nil {
		return memberagent.Data{}, err
	}
	switch state := control["Database cluster state"]; {
	case standby:
		data.Role = api.RoleStandby
		data.Position = max(parseLSN(control["Latest checkpoint location"]), parseLSN(control["Minimum recovery ending location"]))
		data.Stale, err = s.cannotStart(control)
	case recovery:
		return memberagent.Data{}, fmt.Errorf("%s asks for a recovery by hand (recovery.signal); finish it, or remove that file", s.dir)
	case (state == "in archive recovery" || state == "shut down in recovery") && s.promoting():
		// Killed in the moment in which it became the primary (finishPromotion).
		data.Role = api.RoleStandby
	case state == "shut down in recovery" && parseLSN(control["Minimum recovery ending location"]) == 0:
		// A primary whose recovery from a crash was interrupted by a shutdown: only a
		// standby's recovery has an end that it must reach (xlogrecovery.c, minRecoveryPoint).
		data.Role = api.RolePrimary
	case state == "in archive recovery", state == "shut down in recovery":
		// Started as it is, it would become a primary with data of a standby.
		return memberagent.Data{}, fmt.Errorf("the data in %s was a standby's (%s) and its standby.signal is missing; make that file again if it is a standby", s.dir, state)
	case state == "shut down":
		data.Role = api.RolePrimary
		// The last record is that of the shutdown's checkpoint, which begins there. Its
		// end is not in the control file, but nobody has more than the beginning
		// without the whole, and a standby that has all reports the end.
		data.Position = parseLSN(control["Latest checkpoint location"]) + 1
	default:
		data.Role = api.RolePrimary
	}
	return data, err
}

// cannotStart tells whether a standby's server would refuse this data: when it has
// learned of a timeline that left its own before what it has already applied.
func (s *server) cannotStart(control controlData) (bool, error) {
	paths, err := filepath.Glob(filepath.Join(s.dir, "pg_wal", "*.history"))
	if err != nil {
		return false, err
	}
	newest := 0
	for _, path := range paths {
		id, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(path), ".history"), 16, 32)
		if err == nil {
			newest = max(newest, int(id))
		}
	}
	if newest == 0 {
		return false, nil
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "pg_wal", fmt.Sprintf("%08X.history", newest)))
	if err != nil {
		return false, fmt.Errorf("read the history of timeline %d: %w", newest, err)
	}
	forks := parseHistory(string(text))
	for _, has := range []struct {
		timeline int
		position uint64
	}{
		{control.timeline(), parseLSN(control["Latest checkpoint location"])},
		{atoi(control["Min recovery ending loc's timeline"]), parseLSN(control["Minimum recovery ending location"])},
	} {
		if has.timeline != 0 && has.timeline != newest && has.position > forks[has.timeline] {
			return true, nil
		}
	}
	return false, nil
}

// checkMajor: data of one major version cannot be opened by another's server.
func (s *server) checkMajor(ctx context.Context) error {
	data, err := os.ReadFile(filepath.Join(s.dir, "PG_VERSION"))
	if err != nil {
		return fmt.Errorf("%s is not empty, but no whole database: %w; restore it, or look at what is there; nothing is changed", s.dir, err)
	}
	if s.major == "" {
		text, err := s.processes.Output(ctx, s.quiet("postgres", "--version"))
		if err != nil {
			return fmt.Errorf("ask the image's postgres for its version: %w", err)
		}
		// postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)
		_, version, _ := strings.Cut(text, "(PostgreSQL) ")
		s.major = version[:len(version)-len(strings.TrimLeft(version, "0123456789"))]
	}
	if have := strings.TrimSpace(string(data)); have != s.major {
		return fmt.Errorf("the data is of PostgreSQL %s, the image of %s; changing the image does not upgrade a major version: go back to an image postgres:%s", have, s.major, have)
	}
	return nil
}

// controlData is what pg_controldata prints, by label.
type controlData map[string]string

func (c controlData) timeline() int { return atoi(c["Latest checkpoint's TimeLineID"]) }

func (s *server) controlData(ctx context.Context, dir string) (controlData, error) {
	text, err := s.processes.Output(ctx, s.quiet("pg_controldata", "-D", dir))
	if err != nil {
		return nil, fmt.Errorf("read the control file of %s: %w", dir, err)
	}
	control := controlData{}
	for line := range strings.Lines(text) {
		if label, value, ok := strings.Cut(line, ":"); ok {
			control[label] = strings.TrimSpace(value)
		}
	}
	return control, nil
}

func isEmpty(dir string) (bool, error) {
	// A link to where nothing is mounted is no empty folder.
	if _, err := os.Lstat(dir); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return true, nil
		}
		return false, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer d.Close()
	_, err = d.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}

func exists(dir, name string) (bool, error) {
	_, err := os.Lstat(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
