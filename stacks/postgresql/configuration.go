package postgresql

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
)

const (
	configName    = "openmanage.conf"
	passfileName  = "replication.pgpass" //nolint:gosec // a file's name
	superfileName = "superuser.pgpass"   //nolint:gosec // a file's name; exists while pg_rewind runs
	configInclude = "include '" + configName + "' # by OpenManage: written at each start"
)

// configure writes the configuration into a data directory and returns the text
// of openmanage.conf.
func (s *server) configure(dir string, role api.Role, orders api.MemberOrders) (string, error) {
	text, err := s.settings(role, orders)
	if err != nil {
		return "", err
	}
	files := []struct{ name, text string }{
		{configName, text},
		{"pg_hba.conf", s.hba()},
		{"pg_ident.conf", s.ident()},
	}
	for _, file := range files {
		if err := s.keep(filepath.Join(dir, file.name), file.text); err != nil {
			return "", err
		}
	}
	main := filepath.Join(dir, "postgresql.conf")
	data, err := os.ReadFile(main)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the server's configuration: %w", err)
	}
	// It must be the last line, because the last setting of a name wins.
	if conf := strings.TrimRight(string(data), "\n"); !strings.HasSuffix(conf, configInclude) {
		conf = strings.ReplaceAll(conf, configInclude+"\n", "")
		if err := s.write(main, strings.TrimLeft(conf+"\n\n", "\n")+configInclude+"\n"); err != nil {
			return "", err
		}
	}
	return text, s.cleanAuto(filepath.Join(dir, "postgresql.auto.conf"))
}

// settings returns openmanage.conf: first what a user may set otherwise, then
// what the user has set, then what must be as it is.
func (s *server) settings(role api.Role, orders api.MemberOrders) (string, error) {
	var volume unix.Statfs_t
	if err := unix.Statfs(s.volume, &volume); err != nil {
		return "", fmt.Errorf("ask for the size of the data volume: %w", err)
	}
	total := int64(volume.Blocks) * volume.Bsize >> 20 // MiB

	var b strings.Builder
	b.WriteString("# Written by OpenManage: changes here are lost. Settings are changed with\n# docker openmanage config, and others in postgresql.conf.\n")
	set := func(name, value string) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.ReplaceAll(value, "'", "''"))
	}
	b.WriteString("\n# Defaults.\n")
	set("wal_level", "replica")
	set("max_wal_senders", "20")
	set("max_replication_slots", "20")
	if atoi(s.major) >= 14 {
		// After a crash all files are forced to the device before the server recovers: one
		// call for the whole volume, which has nothing else on it.
		set("recovery_init_sync_method", "syncfs")
	}
	// A standby that has gone is noticed within seconds, and comes back as fast.
	set("wal_sender_timeout", "5s")
	set("wal_receiver_timeout", "5s")
	set("wal_receiver_status_interval", "1s")
	set("wal_retrieve_retry_interval", "200ms")
	// WAL never fills the volume: neither between two checkpoints, nor for an
	// absent standby, which has to copy anew after that.
	set("max_wal_size", fmt.Sprintf("%dMB", min(max(total/10, 128), 1024)))
	set("max_slot_wal_keep_size", fmt.Sprintf("%dMB", max(total/4, 128)))
	// A new primary has no slots from before: what the others have not yet received
	// must still be there, and what pg_rewind wants to read of a former one.
	set("wal_keep_size", fmt.Sprintf("%dMB", min(max(total/20, 64), 1024)))

	b.WriteString("\n# The user's.\n")
	for _, name := range slices.Sorted(maps.Keys(s.parameters)) {
		set(name, s.parameters[name])
	}
	if raised := s.raised(role); len(raised) > 0 {
		b.WriteString("\n# The primary's, below which a standby must not be.\n")
		for _, name := range slices.Sorted(maps.Keys(raised)) {
			set(name, raised[name])
		}
	}

	b.WriteString("\n# OpenManage's.\n")
	set("cluster_name", s.member)
	set("listen_addresses", "*")
	set("port", strconv.Itoa(s.port))
	set("unix_socket_directories", s.socketDir)
	set("hot_standby", "on")
	set("wal_log_hints", "on")       // for pg_rewind
	set("restart_after_crash", "on") // of a backend: the server recovers faster than it restarts
	set("synchronous_standby_names", s.synchronous(role, orders))
	if role == api.RoleStandby {
		set("primary_conninfo", s.primaryConninfo(role, orders))
		set("primary_slot_name", slotName(s.member))
	}
	return b.String(), nil
}

// nobody is a standby that never comes. No member's name has a capital.
const nobody = `ANY 1 ("Nobody")`

// synchronous is the primary's synchronous_standby_names: a commit waits for any
// one of those that the leader counts on (documentation of PostgreSQL, "Synchronous
// Replication").
func (s *server) synchronous(role api.Role, orders api.MemberOrders) string {
	var names []string
	for _, member := range orders.Sync {
		if member != s.member {
			names = append(names, `"`+member+`"`)
		}
	}
	switch {
	case len(orders.Sync) == 0 || names == nil && role == api.RolePrimary:
		return ""
	case role != api.RolePrimary:
		// Whether commits wait at all is a flag that the checkpointer sets, which may be
		// busy for seconds. It has to be set before this server can become a primary.
		return nobody
	}
	return "ANY 1 (" + strings.Join(names, ", ") + ")"
}

var quotedName = regexp.MustCompile(`"([^"]+)"`)

// synchronousNames are the members in a value that synchronous has made.
func synchronousNames(value string) []string {
	var names []string
	for _, match := range quotedName.FindAllStringSubmatch(value, -1) {
		names = append(names, match[1])
	}
	return names
}

// follows is the member that a standby receives from under these orders; "": from
// nobody.
func (s *server) follows(orders api.MemberOrders) string {
	if orders.Role != api.RoleStandby || orders.Primary == s.member {
		return ""
	}
	return orders.Primary
}

// primaryConninfo is a server's primary_conninfo in this role.
func (s *server) primaryConninfo(role api.Role, orders api.MemberOrders) string {
	if primary := s.follows(orders); primary != "" && role == api.RoleStandby {
		return s.conninfo(primary, s.member)
	}
	return ""
}

// conninfo tells libpq how to reach another member as the replicator. Values of
// member names and paths need no quoting beyond this.
func (s *server) conninfo(member, applicationName string) string {
	host, port := s.address(member)
	return fmt.Sprintf("host=%s port=%d user=%s passfile='%s' application_name='%s' connect_timeout=5 keepalives_idle=5 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=5000",
		host, port, replicator, s.passfile(), applicationName)
}

// slotName is the name of a member's replication slot, which may have letters,
// digits and underscores only. Member names have no underscore, so that two
// members never share a slot.
func slotName(member string) string { return strings.ReplaceAll(member, "-", "_") }

func (s *server) passfile() string { return filepath.Join(s.volume, passfileName) }

// writePassfile writes the replicator's password where libpq takes it from. A
// password in primary_conninfo could be read with SHOW.
func (s *server) writePassfile() error {
	return s.keep(s.passfile(), passLine(replicator, s.replicatorPassword))
}

func passLine(user, password string) string {
	escaped := strings.NewReplacer(`\`, `\\`, `:`, `\:`).Replace(password)
	return "*:*:*:" + user + ":" + escaped + "\n"
}

// hba lets the superuser in on the socket by the operating system's user, and
// everyone else by password. The agent is root, so peer alone would not do.
func (s *server) hba() string {
	return `# Written by OpenManage at each start: changes are lost.
local all         "` + s.superuser + `" peer map=openmanage
local replication "` + s.superuser + `" peer map=openmanage
local all         all scram-sha-256
host  replication ` + replicator + ` all scram-sha-256
host  all         all all scram-sha-256
`
}

func (s *server) ident() string {
	return `# Written by OpenManage at each start: changes are lost.
openmanage root "` + s.superuser + `"
openmanage ` + systemUser + ` "` + s.superuser + `"
`
}

// cleanAuto removes from postgresql.auto.conf (ALTER SYSTEM, pg_basebackup -R)
// the settings that are OpenManage's: it is read last and would win.
func (s *server) cleanAuto(path string) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the settings of ALTER SYSTEM: %w", err)
	}
	var kept strings.Builder
	var removed []string
	for line := range strings.Lines(string(data)) {
		name, _, _ := strings.Cut(line, "=")
		if name = strings.ToLower(strings.TrimSpace(name)); slices.Contains(owned, name) || strings.HasPrefix(name, "recovery_") {
			removed = append(removed, name)
			continue
		}
		kept.WriteString(line)
	}
	if removed == nil {
		return nil
	}
	s.log.Warn("removed settings of ALTER SYSTEM that are OpenManage's own", "settings", removed)
	return s.write(path, kept.String())
}

// keep is write for a file that may be as it should be: each write waits for the
// disk, and a promotion for each write, and on a full volume none succeeds.
func (s *server) keep(path, text string) error {
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err == nil && stat.Uid == s.credential.Uid && stat.Mode == unix.S_IFREG|0o600 {
		if have, err := os.ReadFile(path); err == nil && string(have) == text {
			return nil
		}
	}
	return s.write(path, text)
}

// write replaces a file of the server by one that is whole on the disk, readable
// by the server's user alone.
func (s *server) write(path, text string) error {
	temporary := path + ".new"
	err := func() error {
		file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer file.Close()
		if err := file.Chown(int(s.credential.Uid), int(s.credential.Gid)); err != nil {
			return err
		}
		if _, err := file.WriteString(text); err != nil {
			return err
		}
		if err := file.Sync(); err != nil {
			return err
		}
		return os.Rename(temporary, path)
	}()
	if err != nil {
		_ = os.Remove(temporary) // it takes space, perhaps the last
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// ownDirectory gives the data directory to the image's user, whose number differs
// between variants of the image. The server refuses another's.
func (s *server) ownDirectory() error {
	var stat unix.Stat_t
	if err := unix.Stat(s.dir, &stat); err != nil {
		return fmt.Errorf("look at %s: %w", s.dir, err)
	}
	if stat.Uid == s.credential.Uid {
		return nil
	}
	s.log.Info("giving the data directory to the image's user", "from", stat.Uid, "to", s.credential.Uid)
	// The top last, so that a walk that was cut short is done again.
	own := func(path string) error { return os.Lchown(path, int(s.credential.Uid), int(s.credential.Gid)) }
	err := filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == s.dir {
			return err
		}
		return own(path)
	})
	if err == nil {
		err = own(s.dir)
	}
	if err != nil {
		return fmt.Errorf("give %s to the image's user %s: %w", s.dir, systemUser, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write the folder %s to the disk: %w", dir, err)
	}
	return nil
}
