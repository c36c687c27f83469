package postgresql

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"github.com/docker/go-units"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// Join copies the primary's database with pg_basebackup into a folder of its own
// and renames it when it is whole.
func (s *server) Join(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	if err := s.writePassfile(); err != nil {
		return err
	}
	for {
		d := s.askPrimary(ctx, orders, 0, 0)
		if d.hopeless {
			return fmt.Errorf("%s", d.message)
		}
		if d.ready {
			break
		}
		progress(d.message)
		if err := wait(ctx, time.Second); err != nil {
			return err
		}
	}
	dir := s.temporary()
	if err := s.freshDirectory(dir); err != nil {
		return err
	}
	progress("copying the database of " + orders.Primary)
	// The application name must not be the member's: a copy that streams WAL with
	// a slot reports what it has flushed, and by that name the primary would take
	// it for a synchronous standby and acknowledge commits that only a half-made
	// copy has.
	backup := s.command("pg_basebackup", "-D", dir, "-X", "stream", "-S", slotName(s.member),
		"-c", "fast", "-P", "--no-password", "-d", s.conninfo(orders.Primary, s.member+" copy"))
	backup.Stderr = &progressWriter{primary: orders.Primary, progress: progress}
	if err := s.processes.Run(ctx, backup); err != nil {
		return fmt.Errorf("copy the database of %s with pg_basebackup: %w; its output is in the container's log; it is tried again", orders.Primary, err)
	}
	control, err := s.controlData(ctx, dir)
	if err != nil {
		return err
	}
	if id := control["Database system identifier"]; orders.SystemID != "" && id != orders.SystemID {
		return fmt.Errorf("%s gave a copy of another database (system ID %s) than the application's (%s); the copy is not used", orders.Primary, id, orders.SystemID)
	}
	// Before the rename: without it the copy would be a second primary.
	if err := s.write(filepath.Join(dir, "standby.signal"), ""); err != nil {
		return err
	}
	return s.takeOver(dir)
}

// progressWriter takes pg_basebackup's standard error: its progress becomes the
// member's message, the rest goes to the container's log.
type progressWriter struct {
	primary  string
	progress memberagent.Progress
	line     []byte
}

// "  40963/1056786 kB (3%), 0/1 tablespace"
var progressLine = regexp.MustCompile(`^\s*(\d+)/(\d+) kB \((\d+)%\)`)

func (w *progressWriter) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\n' && c != '\r' {
			w.line = append(w.line, c)
			continue
		}
		if m := progressLine.FindSubmatch(w.line); m != nil {
			done, _ := strconv.ParseFloat(string(m[1]), 64)
			total, _ := strconv.ParseFloat(string(m[2]), 64)
			w.progress(fmt.Sprintf("copying the database of %s: %s of %s (%s%%)", w.primary, units.BytesSize(done*1024), units.BytesSize(total*1024), m[3]))
		} else if len(w.line) > 0 {
			fmt.Fprintf(os.Stderr, "%s\n", w.line)
		}
		w.line = w.line[:0]
	}
	return len(p), nil
}
