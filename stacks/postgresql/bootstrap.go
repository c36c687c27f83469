package postgresql

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// Bootstrap makes the database in a folder of its own, with its roles, and
// renames it when it is whole: the rename is the moment from which there is one.
func (s *server) Bootstrap(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	dir := s.temporary()
	if err := s.freshDirectory(dir); err != nil {
		return err
	}
	progress("making the database (initdb)")
	// Local connections are by peer and get no password; syncRoles sets the
	// superuser's without it ever lying in a file.
	initdb := s.command("initdb", "-D", dir, "-U", s.superuser, "-E", "UTF8", "--data-checksums",
		"--auth-local=peer", "--auth-host=scram-sha-256", "--no-instructions")
	if err := s.processes.Run(ctx, initdb); err != nil {
		return fmt.Errorf("make the database with initdb: %w; its output is in the container's log", err)
	}
	if err := s.begin(orders); err != nil {
		return err
	}
	// Alone, nothing must wait for a standby.
	alone := orders
	alone.Sync = nil
	if _, err := s.configure(dir, api.RolePrimary, alone); err != nil {
		return err
	}
	if err := s.checkConfiguration(ctx, dir); err != nil {
		return err
	}
	progress("making roles and the database " + s.database)
	if err := s.fill(ctx, dir); err != nil {
		return err
	}
	return s.takeOver(dir)
}

// fill starts a server that nobody else can reach and makes roles and database.
func (s *server) fill(ctx context.Context, dir string) error {
	if err := s.removeStale(); err != nil {
		return err
	}
	process, err := s.processes.Start(ctx, s.command("postgres", "-D", dir, "-c", "listen_addresses="))
	if err != nil {
		return err
	}
	defer func() {
		_ = process.Signal(syscall.SIGKILL) // no-op after the shutdown below
		<-process.Done()
	}()
	for {
		if _, err = s.connect(ctx); err == nil {
			break
		}
		select {
		case <-process.Done():
			return fmt.Errorf("the new server ended before it answered: %w; its own log says why", process.Err())
		default:
		}
		if err := wait(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	defer s.disconnect()
	if err := s.syncRoles(ctx); err != nil {
		return err
	}
	if s.database != "postgres" {
		if _, err := s.query(ctx, "CREATE DATABASE "+quoteIdentifier(s.database)+" OWNER "+quoteIdentifier(s.superuser)); err != nil {
			return fmt.Errorf("make the database %s: %w", s.database, err)
		}
	}
	s.disconnect()
	if err := process.Signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case <-process.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := process.Err(); err != nil {
		return fmt.Errorf("stop the new server: %w", err)
	}
	return nil
}

// freshDirectory makes dir empty and the server's. What is in it was half made
// when somebody was killed.
func (s *server) freshDirectory(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	if err == nil {
		err = os.Chown(dir, int(s.credential.Uid), int(s.credential.Gid))
	}
	// The server's user has to pass through the volume's root.
	if err == nil {
		err = os.Chmod(s.volume, 0o755)
	}
	if err != nil {
		return fmt.Errorf("prepare %s: %w", dir, err)
	}
	return nil
}

// takeOver makes a whole directory the data directory. It never replaces one that
// is not empty (rename(2), ENOTEMPTY).
func (s *server) takeOver(dir string) error {
	if err := os.Remove(s.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("make way for the data directory: %w", err)
	}
	if err := os.Rename(dir, s.dir); err != nil {
		return fmt.Errorf("put the data directory in its place: %w", err)
	}
	return syncDir(filepath.Dir(s.dir))
}
