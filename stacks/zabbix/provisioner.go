// Package zabbix is what OpenManage does for an application of type zabbix beside its
// containers: it gives the user Admin the password of the application's secret, and keeps a
// host in Zabbix for each node of the Swarm and each member of an application.
//
// It speaks the API of Zabbix 7.0 (https://www.zabbix.com/documentation/7.0/en/manual/api),
// and keeps nothing: every round compares what there is with what Zabbix has. What it has not
// made, it does not touch.
package zabbix

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/openmanage/openmanage/internal/inventory"
)

const (
	// Interval is the time between two rounds.
	Interval = 30 * time.Second
	// MaxAge is how old the last good round may be for Check.
	MaxAge = 10 * Interval

	firstDelay = 2 * time.Second
	// deniedDelay is longer: after five wrong passwords Zabbix lets nobody in as Admin for a
	// while, the right one or not.
	deniedDelay    = time.Minute
	maxDeniedDelay = 10 * time.Minute

	admin = "Admin"
	// initialPassword is what Zabbix's database begins with.
	initialPassword = "zabbix"

	callTimeout = 30 * time.Second
	// pushAtOnce is how many values go with one call.
	pushAtOnce = 1000
	// untilKnown is how long Zabbix's server may take to learn of a new host.
	untilKnown = 2 * time.Minute
)

// Config of a provisioner.
type Config struct {
	Application string // of type zabbix
	API         string // URL of api_jsonrpc.php
	Password    string // of Admin
	State       func(context.Context) (inventory.State, error)
	Good        string // file that tells of the last good round
	Log         hclog.Logger

	// For tests; 0: as above.
	interval, first, denied time.Duration
}

// provisioner is a Config with what it remembers.
type provisioner struct {
	Config
	api      client
	known    bool                 // Zabbix has taken the password once
	made     map[string]time.Time // hosts, and since when they are there
	observed string               // what was logged last of hosts and values
}

// errDenied: Zabbix lets the provisioner in with no password that it has.
var errDenied = errors.New("access denied")

// Run works until ctx ends. What fails is tried again.
func Run(ctx context.Context, c Config) error {
	if c.Application == "" || c.API == "" || c.Password == "" {
		return errors.New("the application, the URL of its API or the password of Admin is missing")
	}
	p := newProvisioner(c)
	p.Log.Info("started", "application", p.Application, "api", p.API)
	defer p.end(ctx)
	delay := time.Duration(0)
	for {
		err := p.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		switch {
		case err == nil:
			delay = 0
		case errors.Is(err, errDenied):
			delay = min(max(2*delay, p.denied), maxDeniedDelay)
		default:
			delay = min(max(2*delay, p.first), p.interval)
		}
		wait := p.interval
		if err != nil {
			wait = delay
			p.Log.Error("a round failed", "error", p.clean(err), "again_in", wait.String())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

func newProvisioner(c Config) *provisioner {
	or := func(d *time.Duration, value time.Duration) {
		if *d == 0 {
			*d = value
		}
	}
	or(&c.interval, Interval)
	or(&c.first, firstDelay)
	or(&c.denied, deniedDelay)
	return &provisioner{Config: c, api: client{url: c.API, http: &http.Client{Timeout: callTimeout}}, made: map[string]time.Time{}}
}

// Check tells whether the last good round was not long ago.
func Check(good string) error {
	info, err := os.Stat(good)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("nothing is set up in Zabbix yet; see why in the log")
	}
	if err == nil && time.Since(info.ModTime()) > MaxAge {
		err = fmt.Errorf("the last time that all was well was %s; see why in the log", info.ModTime().UTC().Format(time.DateTime+" UTC"))
	}
	return err
}

// clean is the text of an error in one line. Zabbix never repeats a password, and if it did,
// it would not be shown.
func (p *provisioner) clean(err error) string {
	return strings.ReplaceAll(strings.Join(strings.Split(err.Error(), "\n"), "; "), p.Password, "***")
}

// end closes the session.
func (p *provisioner) end(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := p.api.logout(ctx); err != nil {
		p.Log.Warn("the session stays open", "error", p.clean(err))
	}
	p.Log.Info("ended")
}

// round does all that there is to do once.
func (p *provisioner) round(ctx context.Context) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	state, err := p.State(ctx)
	if err != nil {
		return err
	}
	members, err := p.reconcile(ctx, state)
	problems, err := parted(err)
	if state.Incomplete != "" {
		problems = append(problems, state.Incomplete+"; hosts of members that are gone stay until it can be read")
	}
	var refusals []string
	var pushErr error
	if state.Unheard == "" {
		refusals, pushErr = p.push(ctx, state, members)
	} else { // what the records say may have been true long ago
		problems = append(problems, state.Unheard+"; nothing is sent of members until it can be")
	}
	p.tell(append(problems, refusals...))
	if err := errors.Join(err, pushErr); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p.Good), 0o755); err != nil {
		return err
	}
	return os.WriteFile(p.Good, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o644)
}

// parted parts what only a user can settle, which is no reason to try again sooner, from the rest.
func parted(err error) (problems []string, rest error) {
	var several interface{ Unwrap() []error }
	all := []error{err}
	if errors.As(err, &several) {
		all = several.Unwrap()
	}
	var others []error
	for _, e := range all {
		var c conflict
		if errors.As(e, &c) {
			problems = append(problems, c.Error())
			continue
		}
		others = append(others, e)
	}
	return problems, errors.Join(others...)
}

// tell logs problems that last once, and not each round.
func (p *provisioner) tell(problems []string) {
	all := strings.Join(problems, "\n")
	if all == p.observed {
		return
	}
	p.observed = all
	for _, problem := range problems {
		p.Log.Warn("not everything is monitored", "problem", problem)
	}
	if all == "" {
		p.Log.Info("everything is monitored")
	}
}

// enter makes sure of a session, and that the password of Admin is the secret's.
func (p *provisioner) enter(ctx context.Context) error {
	if ok, err := p.api.alive(ctx); ok || err != nil {
		return err
	}
	_, err := p.api.login(ctx, admin, p.Password)
	if err == nil {
		p.known = true
	}
	if !refused(err) {
		return err
	}
	denied := fmt.Errorf("%w: Zabbix does not let %s in with the password of the secret %s_admin-password (%w); "+
		"if it was changed in the web front end, change it back there to what `docker openmanage credentials %s` shows, and give people users of their own",
		errDenied, admin, p.Application, err, p.Application)
	if p.known { // it was taken before, so the initial one is gone
		return denied
	}
	user, err := p.api.login(ctx, admin, initialPassword)
	if refused(err) {
		return denied
	}
	if err != nil {
		return err
	}
	err = p.api.call(ctx, "user.update", map[string]any{"userid": user, "current_passwd": initialPassword, "passwd": p.Password}, nil)
	if err != nil {
		_ = p.api.logout(ctx) // nothing is done with the initial password but this
		return fmt.Errorf("change the initial password of %s: %w", admin, err)
	}
	p.Log.Info("the initial password was changed to the secret's", "user", admin)
	if _, err = p.api.login(ctx, admin, p.Password); err == nil { // all sessions have ended
		p.known = true
	}
	return err
}

// push sends what is known of the members that have a host. refusals are values that Zabbix
// does not take of hosts that it must know by now.
func (p *provisioner) push(ctx context.Context, state inventory.State, hosts map[string]bool) (refusals []string, err error) {
	type value struct {
		Host  string `json:"host"`
		Key   string `json:"key"`
		Value any    `json:"value"`
	}
	var values []value
	for _, m := range state.Members {
		if !hosts[m.Name] {
			continue
		}
		add := func(key string, v any) { values = append(values, value{m.Name, key, v}) }
		healthy := 0
		if m.Healthy {
			healthy = 1
		}
		add(keyHealthy, healthy)
		if m.Role != "" {
			add(keyRole, m.Role)
		}
		if m.State != "" {
			add(keyState, m.State)
		}
		if m.Usage.Known() {
			add(keyDisk, m.Usage.Percent())
		}
	}
	for len(values) > 0 {
		some := values[:min(pushAtOnce, len(values))]
		values = values[len(some):]
		var answer struct {
			Data []struct {
				Error string `json:"error"`
			} `json:"data"`
		}
		if err := p.api.call(ctx, "history.push", some, &answer); err != nil {
			return refusals, err
		}
		for i, one := range answer.Data {
			if i < len(some) && one.Error != "" && time.Since(p.made[some[i].Host]) > untilKnown {
				refusals = append(refusals, fmt.Sprintf("%s of host %s: Zabbix does not take it: %s", some[i].Key, some[i].Host, one.Error))
			}
		}
	}
	return refusals, nil
}
