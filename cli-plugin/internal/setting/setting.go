// Package setting asks the servers of an application for their settings: what is in
// force, and whether they would take others. PostgreSQL is the one type that has any.
package setting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/cli-plugin/internal/live"
)

// Setting is one setting as a server knows it (documentation of PostgreSQL,
// "pg_settings").
type Setting struct {
	Name    string   `json:"name"`
	Value   string   `json:"value"` // in force, as SHOW prints it
	Unit    string   `json:"unit"`
	Context string   `json:"context"`
	Type    string   `json:"type"`
	Min     string   `json:"min"`
	Max     string   `json:"max"`
	Allowed []string `json:"allowed"`
	Default string   `json:"default"`
	File    string   `json:"file"` // that set it, or ""
}

// Fixed tells whether nobody can change it.
func (s Setting) Fixed() bool { return s.Context == "internal" }

// Restart tells whether a change takes a restart of the server.
func (s Setting) Restart() bool { return s.Context == "postmaster" }

// Overridden tells whether ALTER SYSTEM has set it, which wins.
func (s Setting) Overridden() bool { return strings.HasSuffix(s.File, "/postgresql.auto.conf") }

// Allows says in words which values there are, or "".
func (s Setting) Allows() string {
	switch {
	case len(s.Allowed) > 0:
		return "one of " + strings.Join(s.Allowed, ", ")
	case s.Type == "bool":
		return "on or off"
	case s.Min != "" && s.Max != "":
		return strings.TrimRight(fmt.Sprintf("%s to %s %s", s.Min, s.Max, s.Unit), " ")
	}
	return ""
}

const query = `SELECT json_agg(json_build_object(
	'name', lower(name), 'value', current_setting(name), 'unit', unit, 'context', context, 'type', vartype, 'min', min_val, 'max', max_val,
	'allowed', enumvals, 'default', boot_val, 'file', sourcefile)) FROM pg_catalog.pg_settings`

// Read returns all settings of a member's server by name, in small letters; the
// primary's if member is "".
func Read(ctx context.Context, docker client.APIClient, application, member string) (map[string]Setting, error) {
	out, err := run(ctx, docker, application, member, `exec psql -X -A -t -q -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" -d postgres -c "$1"`, query)
	if err != nil {
		return nil, fmt.Errorf("ask %s for its settings: %w", who(application, member), err)
	}
	var list []Setting
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("the settings of %s cannot be read: %w", who(application, member), err)
	}
	settings := map[string]Setting{}
	for _, s := range list {
		settings[s.Name] = s
	}
	return settings, nil
}

// ErrRefused: the server would not take a setting.
var ErrRefused = errors.New("refused by the server")

// Try has the server program of the primary look at settings as it would at its start.
// Nothing is changed by it.
func Try(ctx context.Context, docker client.APIClient, application string, values map[string]string) error {
	args := []string{"-C", "config_file"}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		args = append(args, "-c", name+"="+values[name])
	}
	_, err := run(ctx, docker, application, "", `exec "$(command -v postgres || ls -d /usr/lib/postgresql/*/bin/postgres | tail -n 1)" "$@"`, args...)
	var failed *failedError
	if errors.As(err, &failed) {
		if said := refusal(failed.stderr); said != "" {
			return fmt.Errorf("%w: %s", ErrRefused, said)
		}
	}
	if err != nil {
		return fmt.Errorf("have the server of %s look at the settings: %w", application, err)
	}
	return nil
}

// refusal is what the server says of a setting that is wrong, without what stands
// before it in a log.
func refusal(stderr string) string {
	var said []string
	for line := range strings.Lines(stderr) {
		for _, mark := range []string{"FATAL:  ", "DETAIL:  ", "HINT:  "} {
			if _, text, ok := strings.Cut(line, mark); ok {
				said = append(said, strings.TrimRight(strings.TrimSpace(text), "."))
			}
		}
	}
	return strings.Join(said, "; ")
}

type failedError struct {
	code   int
	stderr string
}

func (e *failedError) Error() string {
	if text := strings.TrimSpace(e.stderr); text != "" {
		return text
	}
	return fmt.Sprintf("it ended with status %d", e.code)
}

func run(ctx context.Context, docker client.APIClient, application, member, script string, args ...string) (string, error) {
	out, stderr, code, err := live.Run(ctx, docker, application, member, append([]string{"sh", "-c", script, "sh"}, args...))
	if err == nil && code != 0 {
		err = &failedError{code, stderr}
	}
	return out, err
}

func who(application, member string) string {
	if member == "" {
		return "the primary of " + application
	}
	return member
}
