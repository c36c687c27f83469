package swarmmanager

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// Who is the primary of an application, and how that changes.
//
// A commit is acknowledged when any one of the standbys that the primary waits for
// has it. So whoever has what all of them have, has all that was ever
// acknowledged: nobody becomes the primary before every voter was heard after it
// had stopped to receive from the former one. From that moment the former primary
// can acknowledge nothing more, whatever has become of it. That it also runs no
// more is a condition of its own (formerIsGone).
//
// All of it is steps of one record: the orders that follow from a step are given
// only after the record was written, and a step is taken only on what members
// have said under the orders of the step before (api.MemberStatus.Term).

const (
	// downAlive is how long a primary whose node answers may be unhealthy before
	// another member is made the primary: most servers recover faster.
	downAlive = 5 * time.Second
	// restartPatience is the same for one that restarts as it was ordered to.
	restartPatience = 20 * time.Second
	// downFree is the same for one whose container is gone, so that it is certain
	// not to run; Swarm needs seconds to start another.
	downFree = 200 * time.Millisecond
	// downSilent is the same for one whose agent is silent while its node answers.
	downSilent = 10 * time.Second
	// coldStart is added to both while the application starts, when the first
	// containers that run need not be the primary's.
	coldStart = 30 * time.Second
	// handoverPatience is how long a change of the primary may wait for the member
	// it needs before the former primary gets its place back.
	handoverPatience = 10 * time.Second
	// orderlyPatience is the same while the former primary is still stopping:
	// the last checkpoint of a large database takes its time.
	orderlyPatience = 60 * time.Second
	// retryPause is how long after a change that was given up the next one begins.
	retryPause = time.Minute
	// voterPatience is how long a standby may lag behind in a bad state before
	// the primary no longer counts on it, and after that how long a standby that
	// the primary was told not to count on stays a voter: orders that are still
	// under way have arrived or are void by then.
	voterPatience = 10 * time.Second
)

// eventFunc notes what has happened to a member.
type eventFunc func(member, kind, format string, args ...any)

// planPrimary decides about the primary and the voters of app, an application
// whose members are observed. It changes nothing but app.
func planPrimary(o *observed, old store.Application, app *store.Application, event eventFunc) {
	if app.Handover == nil && app.SyncOn != syncOn(app) {
		// What the primary says it waits for counts from these orders on.
		app.SyncOn, app.SyncInForce = syncOn(app), false
		if old.Initialized {
			app.Term++
		}
	}
	if !app.Initialized {
		app.Sync, app.Voters = nil, nil
		if app.SyncOn {
			app.Sync = others(app, app.Primary)
			app.Voters = app.Sync
		}
		return
	}
	if app.Handover != nil {
		planHandover(o, app, event)
	} else {
		planFailover(o, old, app, event)
	}
	if app.Handover == nil {
		planVoters(o, app)
	}
}

// syncOn tells whether a commit waits for a standby. With two members the loss of
// either would stop all writes, which only strict asks for.
func syncOn(app *store.Application) bool {
	switch app.SyncMode {
	case "strict":
		return len(app.Members) >= 2
	case "quorum":
		return len(app.Members) >= 3
	}
	return false
}

func others(app *store.Application, member string) []string {
	var names []string
	for _, m := range app.Members {
		if m.Name != member {
			names = append(names, m.Name)
		}
	}
	return names
}

func memberOf(app *store.Application, name string) (store.Member, bool) {
	for _, m := range app.Members {
		if m.Name == name {
			return m, true
		}
	}
	return store.Member{}, false
}

// word is what a member said within a lease.
func (o *observed) word(m store.Member) (liveStatus, bool) {
	s, ok := o.statuses[m.Volume]
	return s, ok && s.age < api.LeaseDuration
}

// planFailover begins a change of the primary if it is lost and another can take
// its place.
func planFailover(o *observed, old store.Application, app *store.Application, event eventFunc) {
	primary, known := memberOf(app, app.Primary)
	if !known { // its service was removed
		primary = store.Member{Name: app.Primary, Volume: app.Primary}
	}
	if known && primary.Fenced != nil {
		// A user wants it so. Taken back, it gets the time that a start gets.
		app.PrimaryDown, app.PrimaryCold, app.NotBefore = nil, true, nil
		app.Problems = append(app.Problems, fmt.Sprintf("the primary %s is %s: nobody takes its place and nothing can be written; take it back with `docker openmanage fence %s off`", primary.Name, primary.Fenced, primary.Name))
		return
	}
	if s, heard := o.word(primary); known && heard && s.Healthy && s.Role == api.RolePrimary {
		app.PrimaryDown, app.PrimaryCold, app.NotBefore = nil, false, nil
		return
	}
	if !o.steady {
		o.lookAgain() // of a node that was never heard there is no news
		return
	}
	if !othersHeard(o, app) {
		// The application is stopped, or everything is: who comes up first says
		// nothing about who does not.
		app.PrimaryDown, app.PrimaryCold = nil, true
		return
	}
	if app.PrimaryDown == nil {
		now, was := o.precise, false
		if m, ok := memberOf(&old, app.Primary); ok {
			was = m.Healthy
		}
		app.PrimaryDown, app.PrimaryCold = &now, app.PrimaryCold || !was
	}
	o.lookAgain()
	why := lost(o, app, primary, known)
	if why == "" {
		return
	}
	problem := func(format string, args ...any) {
		app.Problems = append(app.Problems, fmt.Sprintf("the primary %s is lost (%s)", primary.Name, why)+fmt.Sprintf(format, args...))
	}
	switch {
	case app.NoFailover:
		problem("; no other takes its place, as label %s=false wants it", api.LabelFailover)
		return
	case !app.SyncInForce:
		if len(app.Members) > 1 {
			problem("; without synchronous replication another member may lack what it acknowledged: it comes back with its own data, or choose another with `docker openmanage promote %s`", app.Name)
		}
		return
	}
	to, _, err := candidate(o, app, primary.Name, 0).choose(app, primary.Name)
	if err != nil {
		problem(" and nobody can take its place: %v", err)
		return
	}
	full := lostToFullDisk(o, primary)
	if kept := keptOutByFullDisk(o, app, primary, to); full && kept != "" {
		problem("; %s; enlarge the volumes: %s", kept, expandCommand(o, app))
		return
	}
	if app.NotBefore != nil && o.now.Before(*app.NotBefore) {
		problem("; the last change was given up, the next try is at %s", app.NotBefore.Format(time.TimeOnly))
		return
	}
	app.DiskFailover = app.DiskFailover || full
	beginHandover(o, app, store.Handover{From: primary.Name, Reason: why})
	event(primary.Name, "failover", "primary lost: %s; choosing another", why)
}

func othersHeard(o *observed, app *store.Application) bool {
	return slices.ContainsFunc(app.Members, func(m store.Member) bool {
		_, heard := o.word(m)
		return heard && m.Name != app.Primary
	})
}

// beginHandover is the first step of every change of the primary.
func beginHandover(o *observed, app *store.Application, h store.Handover) {
	h.Since = o.now
	if h.Operation != "" {
		app.LastChange, app.LastFrom = h.Operation, h.From
	}
	app.Handover = &h
	app.Term++
	o.lookAgain()
}

// lost says why the primary is lost, or "". It is asked while the primary is not
// healthy. known: it is still a member.
func lost(o *observed, app *store.Application, primary store.Member, known bool) string {
	v, exists := o.volumes[primary.Volume]
	if !exists && known {
		return ""
	}
	down := o.precise.Sub(*app.PrimaryDown)
	owner := v.Value.Owner
	status, heard := o.word(primary)
	if app.PrimaryCold {
		down -= coldStart
	}
	switch {
	case owner != nil && o.gone(v.Value):
		if o.bar(owner.Node) != nil {
			return "" // promised: it may go on for a while, and does its work
		}
		return fmt.Sprintf("node %s does not answer", owner.Hostname)
	case owner == nil && !known && down > downSilent:
		return "its service was removed"
	case owner == nil && known && down > downFree:
		return "its container is gone"
	case owner != nil && heard && restarts(app, primary, status) && down < restartPatience:
		return "" // as it was ordered to: it is back sooner than another would be
	case owner != nil && heard && down > downAlive:
		return fmt.Sprintf("its server is %s: %s", status.State, status.Message)
	case owner != nil && !heard && reports(o, owner.Node) && down > downSilent:
		return fmt.Sprintf("its agent on node %s does not answer", owner.Hostname)
	}
	return ""
}

// restarts tells whether a primary is away because it was ordered to restart.
func restarts(app *store.Application, primary store.Member, status liveStatus) bool {
	return app.Restart != nil && app.Restart.Member == primary.Name && status.State != api.StateFailed && status.State != api.StateRunning
}

// standing is what is known of those who could be the primary.
type standing struct {
	best    store.Member
	reached store.Promotion
	missing []string // voters of whom it is not known what they have
	slow    []string // heard, and not yet in line with the orders
}

// candidate looks for the standby that has what every voter has. term: only what
// was said under the orders of this term counts; 0: the receivers have not stopped
// yet, and the answer is only that there would be one.
func candidate(o *observed, app *store.Application, from string, term uint64) standing {
	var result standing
	names := others(app, from)
	for _, voter := range app.Voters {
		if voter != from && !slices.Contains(names, voter) {
			names = append(names, voter) // was removed, and may have the last commit
		}
	}
	for _, name := range names {
		m, known := memberOf(app, name)
		s, heard := o.word(m)
		heard = heard && known
		inLine := heard && s.Term >= term
		// Who is fenced or rebuilt is not chosen. As a voter it is missed: what its data
		// holds is not known while no server runs on it, or it is about to be replaced.
		spoken := m.Fenced != nil || m.Rebuild != ""
		placed := inLine && !spoken && s.Role == api.RoleStandby && (s.State == api.StateRunning || s.State == api.StateJoining) && s.Timeline > 0 && s.Position > 0
		if heard && !inLine && s.Initialized {
			result.slow = append(result.slow, name)
		}
		if !placed {
			// Who holds nothing has acknowledged nothing.
			if empty := inLine && s.Empty && m.Rebuild == ""; slices.Contains(app.Voters, name) && !empty {
				result.missing = append(result.missing, name+whyAside(m))
			}
			continue
		}
		at := store.Promotion{Timeline: s.Timeline, Position: s.Position}
		if result.best.Name == "" || at.Timeline > result.reached.Timeline || at.Timeline == result.reached.Timeline && at.Position > result.reached.Position {
			result.best, result.reached = m, at
		}
	}
	return result
}

// choose returns the one, or says why there is none.
func (s standing) choose(app *store.Application, from string) (store.Member, store.Promotion, error) {
	switch {
	case len(s.missing) > 0:
		return s.best, s.reached, fmt.Errorf("%s may have acknowledged writes that no other has, and it is not known what it has; bring it back, or lose them with `docker openmanage promote %s --force`", strings.Join(s.missing, ", "), app.Name)
	case s.best.Name == "":
		return s.best, s.reached, fmt.Errorf("no standby runs; see `docker openmanage ps %s`", app.Name)
	case app.Floor != nil && (s.reached.Timeline < app.Floor.Timeline || s.reached.Position < app.Floor.Position):
		// Voters are of the time since commits wait for them. What was acknowledged
		// before, the primary had then.
		return s.best, s.reached, fmt.Errorf("%s, the most advanced standby, lacks what %s had when it became the primary, or when commits began to wait; bring %s back, or lose that with `docker openmanage promote %s --force`", s.best.Name, from, from, app.Name)
	}
	return s.best, s.reached, nil
}

// force returns the best of those that are left, or the one asked for. While some
// that are heard have not come in line yet, there may be a better one.
func (s standing) force(o *observed, app *store.Application, to string, patient bool) (store.Member, store.Promotion, error) {
	if to != "" {
		m, ok := memberOf(app, to)
		word, heard := o.word(m)
		if ok && heard && word.Term == app.Term && word.Role == api.RoleStandby && m.Fenced == nil && m.Rebuild == "" {
			return m, store.Promotion{Timeline: word.Timeline, Position: word.Position}, nil
		}
		return m, s.reached, fmt.Errorf("%s does not run as a standby", to)
	}
	if patient && len(s.slow) > 0 {
		return s.best, s.reached, fmt.Errorf("waiting for %s", strings.Join(s.slow, ", "))
	}
	if s.best.Name == "" {
		return s.best, s.reached, fmt.Errorf("no standby runs; see `docker openmanage ps %s`", app.Name)
	}
	return s.best, s.reached, nil
}

// formerIsGone tells whether the former primary cannot run, and how that is known.
func formerIsGone(o *observed, app *store.Application, from store.Member) bool {
	v, ok := o.volumes[from.Volume]
	if !ok {
		return true
	}
	owner := v.Value.Owner
	if owner == nil {
		return true // to run it has to ask for its volume, and then for its role
	}
	if s, heard := o.word(from); heard && s.node == owner.Node {
		return s.Term == app.Term && s.Role != api.RolePrimary
	}
	// It was told that it leads no more, or its lease is over and nobody renews it.
	return o.steady && o.expired(v.Value) && o.bar(owner.Node) == nil
}

// planHandover takes the next step of a change of the primary.
func planHandover(o *observed, app *store.Application, event eventFunc) {
	h := app.Handover
	o.lookAgain()
	from, known := memberOf(app, h.From)
	if !known { // its service was removed meanwhile
		from = store.Member{Name: h.From, Volume: h.From}
	}
	waited := o.precise.Sub(h.Since)
	if h.Orderly {
		planOrderly(o, app, from, waited, event)
		return
	}
	is := candidate(o, app, h.From, app.Term)
	to, reached, err := is.choose(app, h.From)
	if h.Force {
		to, reached, err = is.force(o, app, h.To, waited < handoverPatience)
	}
	if err == nil && formerIsGone(o, app, from) {
		completeHandover(o, app, to, reached, event)
		return
	}
	if !o.steady {
		return // what was said counts, a silence does not
	}
	if err != nil && waited > handoverPatience {
		app.Problems = append(app.Problems, fmt.Sprintf("the primary %s is lost (%s), and nobody can take its place yet: %v", h.From, h.Reason, err))
	}
	status, heard := o.word(from)
	if v := o.volumes[from.Volume].Value; !heard && v.Owner != nil && reports(o, v.Owner.Node) && o.precise.Sub(v.Owner.Since) > downSilent {
		// Its node answers and its agent does not, though it has had the time: the
		// plugin ends it.
		o.revoke(v.Name, v.Epoch)
	}
	switch {
	case waited > handoverPatience && heard && status.Term == app.Term && err != nil:
		abandonHandover(o, app, fmt.Sprintf("nobody can take its place: %v", err), event)
	case waited > orderlyPatience && err != nil:
		// It is tried again when somebody can.
		abandonHandover(o, app, fmt.Sprintf("nobody could take its place: %v", err), event)
	case waited > orderlyPatience:
		abandonHandover(o, app, "it is not certain that it is gone", event)
	}
}

// planOrderly waits until the former primary has stopped and its successor has all
// it wrote.
func planOrderly(o *observed, app *store.Application, from store.Member, waited time.Duration, event eventFunc) {
	h := app.Handover
	to, ok := memberOf(app, h.To)
	status, heard := o.word(to)
	former, formerHeard := o.word(from)
	stopped := formerHeard && former.Term == app.Term && former.Role != api.RolePrimary
	healthy := ok && heard && status.Role == api.RoleStandby
	switch {
	case stopped && healthy && status.Term == app.Term && former.Position != 0 && status.Position >= former.Position && status.Timeline == former.Timeline:
		completeHandover(o, app, to, store.Promotion{Timeline: status.Timeline, Position: status.Position}, event)
	case !o.steady: // what was said counts, a silence does not
	case stopped && (!healthy || waited > handoverPatience+orderlyPatience):
		abandonHandover(o, app, fmt.Sprintf("%s did not get all that %s wrote", h.To, h.From), event)
	case stopped && waited > handoverPatience && former.Position == 0:
		abandonHandover(o, app, "it did not stop in order", event)
	case !stopped && !healthy:
		abandonHandover(o, app, h.To+" is no longer ready for it", event)
	case !stopped && waited > orderlyPatience && formerHeard:
		abandonHandover(o, app, "it did not stop in time", event)
	case !stopped && !formerHeard && (waited > orderlyPatience || formerIsGone(o, app, from)):
		// It died on the way: from here on it is a failover.
		next := *h
		next.Orderly, next.To, next.Reason = false, "", h.Reason+"; it was lost on the way"
		app.Handover = &next
		app.Term++
		event(h.From, "failover", "lost while it handed over; choosing another primary")
	}
}

// completeHandover names the new primary.
func completeHandover(o *observed, app *store.Application, to store.Member, reached store.Promotion, event eventFunc) {
	h := app.Handover
	// Voters are counted from the new primary's first commit on: it waits for those
	// that are ready to follow it. The others are counted when they do.
	app.Sync = nil
	for _, m := range app.Members {
		s, heard := o.word(m)
		if app.SyncOn && m.Name != to.Name && m.Name != h.From && !aside(m) && heard && s.Term == app.Term && s.Role == api.RoleStandby {
			app.Sync = append(app.Sync, m.Name)
		}
	}
	if app.SyncOn && app.Sync == nil {
		app.Sync = countable(app, to.Name)
	}
	app.Voters, app.SyncSince = app.Sync, nil
	app.Primary, app.Handover, app.PrimaryDown, app.PrimaryCold = to.Name, nil, nil, false
	app.Promotion, app.Floor = &reached, &reached
	app.Term++
	kind := "failover"
	if h.Orderly {
		kind = "switchover"
	}
	event(to.Name, kind, "primary instead of %s: %s", h.From, h.Reason)
}

// abandonHandover gives the former primary its place back.
func abandonHandover(o *observed, app *store.Application, why string, event eventFunc) {
	h := app.Handover
	app.Handover, app.PrimaryDown, app.PrimaryCold = nil, nil, false
	app.Term++
	again := o.now.Add(retryPause)
	app.NotBefore = &again
	event(h.From, "failover", "stays the primary: %s", why)
}

// planVoters keeps the set of standbys that commits wait for.
func planVoters(o *observed, app *store.Application) {
	if !app.SyncOn {
		app.Sync, app.Voters, app.SyncSince, app.Floor = nil, nil, nil, nil
		return
	}
	var want, streaming []string
	for _, m := range app.Members {
		if m.Name == app.Primary || aside(m) {
			continue
		}
		s, heard := o.word(m)
		counted := slices.Contains(app.Sync, m.Name)
		switch {
		case heard && s.Streaming:
			want, streaming = append(want, m.Name), append(streaming, m.Name)
		case counted && (!o.steady || o.now.Sub(m.Since) < voterPatience):
			want = append(want, m.Name)
		}
	}
	if len(streaming) == 0 {
		// There must be one: the last to be counted on stays, and commits wait.
		for _, name := range app.Sync {
			if m, there := memberOf(app, name); there && !aside(m) && !slices.Contains(want, name) {
				want = append(want, name)
			}
		}
	}
	if len(want) == 0 {
		want = countable(app, app.Primary)
	}
	slices.Sort(want)
	voters := slices.Clone(want)
	primary, _ := memberOf(app, app.Primary)
	s, heard := o.word(primary)
	settled := heard && s.Healthy && s.Term == app.Term && app.SyncSince != nil && o.now.Sub(*app.SyncSince) >= voterPatience
	// What one that leaves has acknowledged alone, one that stays must have by now:
	// another can follow and yet be far behind.
	covered := slices.ContainsFunc(streaming, func(name string) bool {
		m, _ := memberOf(app, name)
		standby, _ := o.word(m)
		return standby.Timeline == s.Timeline && standby.Position >= s.Position
	})
	for _, name := range app.Voters {
		if slices.Contains(want, name) || name == app.Primary {
			continue
		}
		if !slices.Contains(app.Sync, name) && settled && !slices.Contains(strings.Split(s.SyncNames, ","), name) {
			if covered {
				continue // the primary has not waited for it for long
			}
			o.lookAgain()
		}
		voters = append(voters, name)
	}
	slices.Sort(voters)
	if !slices.Equal(want, app.Sync) {
		now := o.now
		app.SyncSince = &now
	}
	app.Sync, app.Voters = want, slices.Compact(voters)
	if !app.SyncInForce && heard && s.Healthy && s.Term == app.Term && s.SyncNames != "" && s.Timeline > 0 && subset(strings.Split(s.SyncNames, ","), app.Voters) {
		app.SyncInForce, app.Floor = true, &store.Promotion{Timeline: s.Timeline, Position: s.Position}
	}
}

func subset(part, whole []string) bool {
	return !slices.ContainsFunc(part, func(name string) bool { return !slices.Contains(whole, name) })
}
