package postgresql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/openmanage/openmanage/internal/api"
)

// owned are the settings that are OpenManage's alone: with others the members
// would not find, follow or tell each other apart. The catalog says the same
// (app.yaml, reserved).
var owned = []string{
	"cluster_name", "config_file", "data_directory", "external_pid_file", "hba_file", "hot_standby", "ident_file",
	"include", "include_dir", "include_if_exists", "listen_addresses", "port", "primary_conninfo", "primary_slot_name",
	"promote_trigger_file", "restart_after_crash", "synchronous_standby_names", "unix_socket_directories",
	"wal_log_hints",
}

var parameterName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]*(\.[a-zA-Z_][a-zA-Z0-9_]*)?$`)

// checkParameters says which of the user's settings cannot be written. Whether
// the server knows them, it says itself.
func checkParameters(parameters map[string]string) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		switch value := parameters[name]; {
		case !parameterName.MatchString(name):
			errs = append(errs, fmt.Errorf("%q is not the name of a setting of PostgreSQL", name))
		case slices.Contains(owned, strings.ToLower(name)), strings.HasPrefix(strings.ToLower(name), "recovery_"):
			errs = append(errs, fmt.Errorf("the setting %s is OpenManage's own and cannot be set", name))
		case strings.ContainsAny(value, "\n\r\x00"):
			errs = append(errs, fmt.Errorf("the value of %s must be one line", name))
		}
	}
	return errors.Join(errs...)
}

// wanted are the settings that orders ask for: without a word of them those of the
// container's environment.
func (s *server) wanted(orders api.MemberOrders) (map[string]string, error) {
	if orders.Parameters == "" {
		return s.initial, nil
	}
	parameters := map[string]string{}
	if err := json.Unmarshal([]byte(orders.Parameters), &parameters); err != nil {
		return nil, fmt.Errorf("the settings are no JSON object of strings: %w", err)
	}
	folded := map[string]string{} // the server does not tell capitals apart
	for _, name := range slices.Sorted(maps.Keys(parameters)) {
		folded[strings.ToLower(name)] = parameters[name]
	}
	return folded, checkParameters(parameters)
}

// begin takes the settings that orders ask for, for a server that is to be started.
func (s *server) begin(orders api.MemberOrders) error {
	parameters, err := s.wanted(orders)
	if err != nil {
		return err
	}
	s.parameters, s.considered, s.refused = parameters, orders.Parameters, ""
	s.pending, s.primaryFirst = nil, nil
	return nil
}

// consider takes the settings that orders ask for, for a server that runs, if it
// would take them itself: with one name that it does not know in its configuration
// it reads nothing of it any more, not even whom to follow. Else it keeps those it
// has, and why is in s.refused.
func (s *server) consider(ctx context.Context, orders api.MemberOrders) error {
	if orders.Parameters == s.considered {
		return nil
	}
	if err := s.learnMinimums(ctx); err != nil {
		return err
	}
	parameters, err := s.wanted(orders)
	if err == nil {
		args := []string{"-D", s.dir, "-C", "config_file"}
		for _, name := range slices.Sorted(maps.Keys(parameters)) {
			args = append(args, "-c", name+"="+parameters[name])
		}
		_, err = s.processes.Output(ctx, s.quiet("postgres", args...))
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.considered = orders.Parameters
	if err != nil {
		s.refused = "the server refuses the settings and keeps those it has: " + refusal(err)
		s.log.Warn(s.refused)
		return nil
	}
	s.parameters, s.refused = parameters, ""
	return nil
}

// refusal is what a program of PostgreSQL says of a setting that is wrong, without
// what stands before it in a log.
func refusal(err error) string {
	var said []string
	for line := range strings.Lines(err.Error()) {
		for _, mark := range []string{"FATAL:  ", "LOG:  ", "DETAIL:  ", "HINT:  "} {
			if _, text, ok := strings.Cut(line, mark); ok {
				said = append(said, strings.TrimRight(strings.TrimSpace(text), "."))
			}
		}
	}
	if said == nil {
		return err.Error()
	}
	return strings.Join(said, "; ")
}

// minimum are the settings that a standby must not have lower than its primary had
// when the WAL was written (documentation of PostgreSQL, "Hot Standby",
// "Administrator's Overview"), as pg_controldata names them.
var minimum = map[string]string{
	"max_connections":           "max_connections",
	"max_worker_processes":      "max_worker_processes",
	"max_wal_senders":           "max_wal_senders",
	"max_prepared_transactions": "max_prepared_xacts",
	"max_locks_per_transaction": "max_locks_per_xact",
}

// minimums are the primary's values of those settings, as far as its WAL has told
// them.
func (c controlData) minimums() map[string]int {
	values := map[string]int{}
	for name, label := range minimum {
		if n, err := strconv.Atoi(c[label+" setting"]); err == nil {
			values[name] = n
		}
	}
	return values
}

// raised are the settings that a standby has higher than the user wants, or that the
// user does not set, because the primary has them so. A lower value comes when the
// primary has it.
func (s *server) raised(role api.Role) map[string]string {
	raised := map[string]string{}
	if role != api.RoleStandby {
		return raised
	}
	for name, least := range s.minimums {
		if n, err := strconv.Atoi(s.parameters[name]); err != nil || n < least {
			raised[name] = strconv.Itoa(least)
		}
	}
	return raised
}

// learnMinimums reads what a standby's primary has now.
func (s *server) learnMinimums(ctx context.Context) error {
	if s.role != api.RoleStandby {
		return nil
	}
	control, err := s.controlData(ctx, s.dir)
	if err != nil {
		return err
	}
	s.minimums = control.minimums()
	return nil
}

// filesQuery asks what would be in force after a restart of the settings that wait for
// one and those in minimum: by default, and what the files say, in the order in which
// they are read, the last of which counts.
var filesQuery = `
SELECT s.name, s.setting, s.pending_restart, f.setting
FROM pg_catalog.pg_settings s
JOIN (SELECT name, boot_val AS setting, 0 AS seqno FROM pg_catalog.pg_settings
      UNION ALL SELECT lower(name), setting, seqno FROM pg_catalog.pg_file_settings) f ON f.name = lower(s.name)
WHERE s.pending_restart OR s.name IN ('` + strings.Join(slices.Sorted(maps.Keys(minimum)), "', '") + `')
ORDER BY s.name, f.seqno`

// lookForPending finds out which settings wait for a restart, of this server or
// of its primary.
func (s *server) lookForPending(ctx context.Context) error {
	table, err := s.query(ctx, filesQuery)
	if err != nil {
		return fmt.Errorf("ask which settings wait for a restart: %s", plain(err))
	}
	type setting struct {
		inForce string
		pending bool
		said    []string
	}
	settings := map[string]*setting{}
	for _, row := range table {
		name := row[0]
		if settings[name] == nil {
			settings[name] = &setting{inForce: row[1], pending: row[2] == "t"}
		}
		settings[name].said = append(settings[name].said, row[3])
	}
	raised := s.raised(s.role)
	s.pending, s.primaryFirst = nil, nil
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		is := settings[name]
		last := len(is.said) - 1
		// The server also calls pending what is no longer in a file and is as it was.
		if is.pending && is.said[last] != is.inForce {
			s.pending = append(s.pending, name)
		}
		if _, own := raised[name]; own && last > 0 {
			last-- // without the line that holds it back
		} else if s.role == api.RoleStandby || !is.pending {
			continue
		}
		_, shared := minimum[name]
		wanted, errWanted := strconv.Atoi(is.said[last])
		has, errHas := strconv.Atoi(is.inForce)
		if shared && errWanted == nil && errHas == nil && wanted < has {
			s.primaryFirst = append(s.primaryFirst, name)
		}
	}
	return nil
}
