package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/moby/moby/api/types/swarm"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/live"
	"github.com/openmanage/openmanage/cli-plugin/internal/setting"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

type configOptions struct {
	lifecycleOptions
	changes []string
	all     bool
	now     bool
	format  string
}

func configCommand(dockerCLI command.Cli) *cobra.Command {
	var o configOptions
	cmd := &cobra.Command{
		Use:   "config [OPTIONS] APPLICATION [set KEY=VALUE...] [unset KEY...]",
		Short: "Show and change an application's settings",
		Long: `Without set and unset, list the settings that are set: the value that is wanted,
the value in force, and the members that have to be restarted for it.

set and unset change settings. Any that the server has can be set, apart from those
that OpenManage keeps for itself. The server is asked first whether it takes the
values. They are reloaded; only if a setting takes a restart, the servers are
restarted one at a time, in an order in which standbys can always follow. If one
does not start, the former settings are put back everywhere.
The settings in your stack file are not changed: do that too, or the next docker
stack deploy brings the old ones back.`,
		Example: `  docker openmanage config pg
  docker openmanage config pg set work_mem=16MB max_connections=200
  docker openmanage config pg set sync_mode=strict unset work_mem`,
		Args: cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.changes = args[0], args[1:]
			if len(o.changes) > 0 {
				return runConfigChange(cmd.Context(), dockerCLI, o)
			}
			return runConfigList(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeSettings(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, 30*time.Minute)
	cmd.Flags().BoolVarP(&o.all, "all", "a", false, "Also the type's parameters that are not set")
	cmd.Flags().BoolVar(&o.now, "now", false, "Do not wait for the maintenance window with what takes a restart")
	formatFlag(cmd.Flags(), &o.format)
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

// parseChanges reads what follows the application: set KEY=VALUE... and unset KEY...
func parseChanges(words []string) (set map[string]string, unset []string, err error) {
	set = map[string]string{}
	mode := ""
	for _, word := range words {
		key, value, hasValue := strings.Cut(word, "=")
		key = strings.ToLower(key) // a server does not tell capitals apart
		_, twice := set[key]
		switch {
		case word == "set", word == "unset":
			mode = word
		case mode == "":
			return nil, nil, fmt.Errorf("%q: expected set or unset; see docker openmanage config --help", word)
		case twice, slices.Contains(unset, key):
			return nil, nil, fmt.Errorf("%w: %s is named twice", stacks.ErrParameter, key)
		case mode == "set" && (!hasValue || key == ""):
			return nil, nil, fmt.Errorf("%w %q: expected KEY=VALUE", stacks.ErrParameter, word)
		case mode == "set":
			set[key] = value
		case hasValue || key == "":
			return nil, nil, fmt.Errorf("%w %q: unset takes names only", stacks.ErrParameter, word)
		default:
			unset = append(unset, key)
		}
	}
	if len(set)+len(unset) == 0 {
		return nil, nil, fmt.Errorf("%s what? Name at least one setting", mode)
	}
	return set, unset, nil
}

// change is a change of settings that is being looked at.
type change struct {
	kind   *stacks.App
	set    map[string]string // settings of the servers
	unset  []string
	labels map[string]string // those that are labels of the services
}

// sort tells the parameters that are labels from the settings of the servers, and
// checks all that the catalog knows.
func (c *change) sort(set map[string]string, unset []string) error {
	c.set, c.labels = map[string]string{}, map[string]string{}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(set)) {
		value := set[name]
		p, err := c.kind.Parameter(name)
		switch {
		case err == nil:
			err = p.Check(value)
		case c.kind.Reserves(name):
			err = fmt.Errorf("%w: %s is OpenManage's own and cannot be set", stacks.ErrParameter, name)
		default:
			p, err = nil, stacks.CheckLine(name, value)
		}
		errs = append(errs, err)
		if p != nil && p.Label != "" {
			c.labels[p.Label] = value
		} else {
			c.set[name] = value
		}
	}
	for _, name := range unset {
		if p, err := c.kind.Parameter(name); err == nil && p.Label != "" {
			c.labels[p.Label] = ""
		} else {
			c.unset = append(c.unset, name)
		}
	}
	return errors.Join(errs...)
}

// names are the settings of the servers that change.
func (c *change) names() []string {
	return append(slices.Sorted(maps.Keys(c.set)), c.unset...)
}

// check compares the change with what a server has, and tells whether it takes a
// restart.
func (c *change) check(server map[string]setting.Setting, wanted map[string]string) (restart bool, err error) {
	known := slices.Collect(maps.Keys(server))
	for _, p := range c.kind.Parameters {
		known = append(known, p.Name)
	}
	var errs []error
	for _, name := range c.names() {
		s, ok := server[name]
		_, is := wanted[name]
		switch {
		case ok && s.Fixed():
			errs = append(errs, fmt.Errorf("%w: %s cannot be changed: the server was built or its data made with %s", stacks.ErrParameter, name, s.Value))
		case ok:
			restart = restart || s.Restart()
		case strings.Contains(name, "."), is && slices.Contains(c.unset, name): // of a library
		default:
			hint := ""
			if near := stacks.Nearest(name, known); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			errs = append(errs, fmt.Errorf("%w: the server has no setting %q%s", stacks.ErrParameter, name, hint))
		}
	}
	return restart, errors.Join(errs...)
}

func runConfigChange(ctx context.Context, dockerCLI command.Cli, o configOptions) error {
	set, unset, err := parseChanges(o.changes)
	if err != nil {
		return err
	}
	app, err := o.begin(ctx, dockerCLI)
	if err != nil {
		return err
	}
	kind, err := typeOf(ctx, dockerCLI, app)
	if err != nil {
		return err
	}
	if kind.Plain() {
		return fmt.Errorf("the settings of %s are written in its stack, and members get them when they start\nChange them there; the members are restarted one at a time:\n  docker openmanage generate %s %s --set KEY=VALUE … > %s.yml && docker stack deploy -c %s.yml %s", app.Name, kind.ID, app.Name, app.Name, app.Name, app.Name)
	}
	c := &change{kind: kind}
	if err := c.sort(set, unset); err != nil {
		return err
	}
	req := store.ConfigRequest{Set: c.set, Unset: c.unset, Labels: c.labels, Now: o.now}
	if len(c.names()) > 0 {
		docker := dockerCLI.Client()
		server, err := setting.Read(ctx, docker, app.Name, "")
		if err != nil {
			return fmt.Errorf("%w\nNothing was changed", err)
		}
		if req.Restart, err = c.check(server, settingsOf(app)); err != nil {
			return err
		}
		if err := setting.Try(ctx, docker, app.Name, c.set); err != nil {
			return fmt.Errorf("%w%s\nNothing was changed", err, c.allowed(server, err))
		}
	}
	if err := o.carryOut(ctx, dockerCLI, store.OperationConfig, req); err != nil || o.detach {
		return err
	}
	var words []string
	for _, name := range slices.Sorted(maps.Keys(set)) {
		words = append(words, name+"="+set[name])
	}
	for _, name := range unset {
		words = append(words, name+" (no longer set)")
	}
	fmt.Fprintf(dockerCLI.Out(), "In force on %s: %s. Change it in the stack file too, if you keep one\n", app.Name, strings.Join(words, ", "))
	c.warnOfOverrides(ctx, dockerCLI, app.Name)
	return nil
}

// allowed says what those settings may be that a refusal names.
func (c *change) allowed(server map[string]setting.Setting, refusal error) string {
	text := ""
	for _, name := range c.names() {
		if allows := server[name].Allows(); allows != "" && strings.Contains(strings.ToLower(refusal.Error()), `"`+name+`"`) {
			text += fmt.Sprintf("\n%s=%s: allowed is %s", name, c.set[name], allows)
		}
	}
	return text
}

// warnOfOverrides names the settings that are in force otherwise, because ALTER
// SYSTEM wins over all files.
func (c *change) warnOfOverrides(ctx context.Context, dockerCLI command.Cli, application string) {
	if len(c.names()) == 0 {
		return
	}
	server, err := setting.Read(ctx, dockerCLI.Client(), application, "")
	if err != nil {
		return // it is a courtesy
	}
	for _, name := range c.names() {
		if s := server[name]; s.Overridden() {
			fmt.Fprintf(dockerCLI.Err(), "warning: %s is %s on the primary: ALTER SYSTEM has set it, which wins; take that back with: docker openmanage connect %s -- -c 'ALTER SYSTEM RESET %s' -c 'SELECT pg_reload_conf()'\n", name, s.Value, application, name)
		}
	}
}

// settingsOf are the settings that an application's servers are to have.
func settingsOf(app store.Application) map[string]string {
	values := map[string]string{}
	_ = json.Unmarshal([]byte(app.Parameters), &values) // the leader has checked it
	return values
}

// firstService is the service that the leader reads labels from.
func firstService(services []swarm.Service) (swarm.Service, bool) {
	var first swarm.Service
	for _, s := range services {
		if s.Spec.Labels[api.LabelMember] != "" && (first.ID == "" || slotBefore(s, first)) {
			first = s
		}
	}
	return first, first.ID != ""
}

func slotBefore(x, y swarm.Service) bool {
	a, b := x.Spec.Labels[api.LabelSlot], y.Spec.Labels[api.LabelSlot]
	return len(a) < len(b) || len(a) == len(b) && a < b
}

func runConfigList(ctx context.Context, dockerCLI command.Cli, o configOptions) error {
	app, err := application(ctx, dockerCLI, o.name)
	if err != nil {
		return err
	}
	kind, err := typeOf(ctx, dockerCLI, app)
	if err != nil {
		return err
	}
	services, err := stackdeploy.Services(ctx, dockerCLI.Client(), o.name)
	if err != nil {
		return err
	}
	wanted, modes := settingsOf(app), map[string]string{}
	if first, ok := firstService(services); ok {
		for _, p := range kind.Parameters {
			if value, ok := first.Spec.Labels[p.Label]; p.Label != "" && ok {
				wanted[p.Name] = value
			}
		}
	}
	for _, p := range kind.Parameters {
		if p.Label == api.LabelSyncMode {
			modes[p.Name] = app.SyncMode
		}
	}
	names := slices.Sorted(maps.Keys(wanted))
	if o.all {
		for _, p := range kind.Parameters {
			if _, ok := wanted[p.Name]; !ok {
				names = append(names, p.Name)
			}
		}
		slices.Sort(names)
	}
	servers, problems := readMembers(ctx, dockerCLI, app)
	rows := make([]*settingRow, 0, len(names))
	for _, name := range names {
		r := &settingRow{name: name, mode: modes[name], app: app, servers: servers}
		r.value, r.set = wanted[name]
		r.parameter, _ = kind.Parameter(name)
		rows = append(rows, r)
	}
	columns := `{{.Name}}\t{{.Value}}\t{{.InForce}}\t{{.PendingRestart}}`
	if o.all {
		columns += `\t{{.Default}}\t{{.Description}}`
	}
	err = writeTable(dockerCLI, o.format, columns, "", newSettingRow(), rows)
	for _, problem := range problems {
		fmt.Fprintln(dockerCLI.Err(), "warning:", problem)
	}
	return err
}

// readMembers asks each member that runs for its settings, all at once. A member that
// does not answer is missing, and why is among the problems.
func readMembers(ctx context.Context, dockerCLI command.Cli, app store.Application) (map[string]map[string]setting.Setting, []error) {
	ctx, cancel := context.WithTimeout(ctx, 3*livePatience)
	defer cancel()
	servers := map[string]map[string]setting.Setting{}
	var problems []error
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, m := range app.Members {
		if m.Role == "" || app.Removed != nil {
			continue
		}
		group.Go(func() {
			settings, err := setting.Read(ctx, dockerCLI.Client(), app.Name, m.Name)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				servers[m.Name] = settings
			} else if !slices.ContainsFunc(problems, func(p error) bool { return errors.Is(p, live.ErrNoManager) }) {
				problems = append(problems, err)
			}
		})
	}
	group.Wait()
	return servers, problems
}

type settingRow struct {
	formatter.HeaderContext
	name      string
	value     string // wanted
	set       bool
	mode      string // in force, of what the leader goes by
	parameter *stacks.Parameter
	app       store.Application
	servers   map[string]map[string]setting.Setting
}

func newSettingRow() *settingRow {
	return &settingRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Name": "NAME", "Value": "VALUE", "InForce": "IN FORCE", "PendingRestart": "RESTART PENDING", "Default": "DEFAULT", "Description": "DESCRIPTION",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *settingRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *settingRow) Name() string { return r.name }

// Value is what is wanted; "-": it is not set.
func (r *settingRow) Value() string {
	if !r.set {
		return "-"
	}
	return r.value
}

// InForce is one value, or, where members differ, each with its own.
func (r *settingRow) InForce() string {
	if r.mode != "" {
		return r.mode
	}
	var each, values []string
	for _, m := range r.app.Members {
		server, asked := r.servers[m.Name]
		s, known := server[r.name]
		switch {
		case !asked:
			each = append(each, m.Name+": ?")
			continue
		case !known:
			s.Value = "-" // of a library that is not loaded
		case s.Overridden():
			s.Value += " (ALTER SYSTEM)"
		}
		each, values = append(each, m.Name+": "+s.Value), append(values, s.Value)
	}
	slices.Sort(values)
	values = slices.Compact(values)
	switch {
	case len(values) == 0:
		return "?"
	case len(values) == 1:
		return values[0]
	}
	return strings.Join(each, ", ")
}

// PendingRestart names the members that have to be restarted for it.
func (r *settingRow) PendingRestart() string {
	var names []string
	for _, m := range r.app.Members {
		if slices.ContainsFunc(strings.Split(m.PendingRestart, ","), func(name string) bool { return strings.EqualFold(name, r.name) }) {
			names = append(names, m.Name)
		}
	}
	return dash(strings.Join(names, ", "))
}

func (r *settingRow) Default() string {
	if r.parameter == nil {
		return ""
	}
	return r.parameter.Default
}

func (r *settingRow) Description() string {
	if r.parameter == nil {
		return ""
	}
	return r.parameter.Description
}
