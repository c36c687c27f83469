// Package follow shows how the members of an application come up, from the
// records of OpenManage and the tasks of Swarm, until all are healthy.
//
// On a terminal each member has a line that is drawn again; elsewhere a line is
// printed when it changes.
package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/cli-plugin/internal/component"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

var (
	// ErrTimeout: the members were not healthy in time.
	ErrTimeout = errors.New("not healthy in time")
	// ErrFailing: a member fails again and again for a reason that time does not mend.
	ErrFailing = errors.New("cannot start")
)

// Interval is the time between two looks.
const Interval = 250 * time.Millisecond

// Line is what is shown of a member.
type Line struct {
	Member  string
	State   string
	Detail  string
	Healthy bool
}

// Healthy follows the members of an application until every one is healthy.
func Healthy(ctx context.Context, docker client.APIClient, application string, members []string, screen *Screen, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrTimeout)
	defer cancel()
	records := store.New(docker)
	var lines []Line
	var before map[string]bool // tasks that had failed already: of an earlier try, which has another image or another login
	for {
		app, err := store.Get[store.Application](ctx, records, store.KindApplication, application)
		if err != nil && !errors.Is(err, store.ErrNotFound) && ctx.Err() == nil {
			// Swarm elects a leader, or the connection broke: the next look tells.
			screen.Note("records cannot be read: " + err.Error())
		}
		tasks, err := stackdeploy.Tasks(ctx, docker, application)
		var services []swarm.Service
		if err == nil {
			services, err = stackdeploy.Services(ctx, docker, application)
		}
		if err == nil {
			lines = append(Lines(members, app.Value, tasks), componentLines(component.Of(services), tasks)...)
			screen.Show(lines)
			if len(lines) > 0 && !slices.ContainsFunc(lines, func(l Line) bool { return !l.Healthy }) {
				return nil
			}
			if before == nil {
				before = map[string]bool{}
				for _, t := range tasks {
					before[t.ID] = hasFailed(t)
				}
			}
			fresh := slices.DeleteFunc(tasks, func(t swarm.Task) bool { return before[t.ID] })
			for _, m := range members {
				if err := failing(m, failures(m, fresh)); err != nil {
					return err
				}
			}
			for _, c := range component.Of(services) {
				if err := failing(component.Name(c), failuresOf(fresh, func(t swarm.Task) bool { return t.ServiceID == c.ID })); err != nil {
					return err
				}
			}
		}
		select {
		case <-time.After(Interval):
		case <-ctx.Done():
			if errors.Is(context.Cause(ctx), ErrTimeout) {
				return fmt.Errorf("%w (%s):\n%s", ErrTimeout, timeout, unhealthy(lines))
			}
			return context.Cause(ctx)
		}
	}
}

// Lines says how each member is, from the application's record and Swarm's tasks.
func Lines(members []string, app store.Application, tasks []swarm.Task) []Line {
	lines := make([]Line, 0, len(members))
	for _, name := range members {
		line := Line{Member: name, State: "new"}
		task, has := current(name, tasks)
		if has {
			line.State = string(task.Status.State)
			line.Detail = task.Status.Err
			if task.Status.State == swarm.TaskStatePending && line.Detail == "" {
				line.Detail = "waits for a node"
			}
		}
		i := slices.IndexFunc(app.Members, func(m store.Member) bool { return m.Name == name })
		if i >= 0 && app.Removed == nil && (!has || task.Status.State == swarm.TaskStateRunning || task.Status.State == swarm.TaskStateStarting) {
			m := app.Members[i]
			if m.State != "" {
				line.State = string(m.State)
			}
			line.Healthy = m.Healthy && m.State == api.StateRunning
			line.Detail = memberDetail(m)
		}
		if f := failures(name, tasks); len(f) > 0 && !line.Healthy && !strings.Contains(line.Detail, f[0]) {
			line.Detail = strings.TrimPrefix(line.Detail+"; before: "+f[0], "; ")
		}
		lines = append(lines, line)
	}
	return lines
}

// componentLines say how the services beside the members are.
func componentLines(components []swarm.Service, tasks []swarm.Task) []Line {
	lines := make([]Line, 0, len(components))
	for _, c := range component.States(components, tasks, func(id string) string { return id }) {
		lines = append(lines, Line{Member: c.Name, State: c.String(), Detail: c.Problem, Healthy: c.Healthy()})
	}
	return lines
}

func memberDetail(m store.Member) string {
	var parts []string
	if m.Role != "" {
		parts = append(parts, string(m.Role))
	}
	if m.Hostname != "" {
		parts = append(parts, "on "+m.Hostname)
	}
	detail := strings.Join(parts, " ")
	if m.Message != "" {
		detail = strings.TrimPrefix(detail+": "+m.Message, ": ")
	}
	return detail
}

// current returns the newest task of a member that is to run.
func current(member string, tasks []swarm.Task) (swarm.Task, bool) {
	var newest swarm.Task
	found := false
	for _, t := range tasks {
		if memberOf(t) != member || stackdeploy.Over(t.DesiredState) {
			continue
		}
		if !found || t.CreatedAt.After(newest.CreatedAt) {
			newest, found = t, true
		}
	}
	return newest, found
}

// memberOf returns the member that a task runs: the hostname of its container.
func memberOf(t swarm.Task) string {
	if t.Spec.ContainerSpec == nil {
		return ""
	}
	return t.Spec.ContainerSpec.Hostname
}

// failures returns the errors of a member's failed tasks, newest first.
func failures(member string, tasks []swarm.Task) []string {
	return failuresOf(tasks, func(t swarm.Task) bool { return memberOf(t) == member })
}

func failuresOf(tasks []swarm.Task, of func(swarm.Task) bool) []string {
	var failed []swarm.Task
	for _, t := range tasks {
		if of(t) && hasFailed(t) {
			failed = append(failed, t)
		}
	}
	slices.SortFunc(failed, func(a, b swarm.Task) int { return b.CreatedAt.Compare(a.CreatedAt) })
	reasons := make([]string, 0, len(failed))
	for _, t := range failed {
		reasons = append(reasons, t.Status.Err)
	}
	return reasons
}

func hasFailed(t swarm.Task) bool {
	return t.Status.State == swarm.TaskStateRejected || t.Status.State == swarm.TaskStateFailed
}

// imageErrors are what Docker says when there is no such image to run.
var imageErrors = []string{"No such image", "pull access denied", "manifest unknown", "repository does not exist", "no matching manifest", "invalid reference format"}

// NoImage tells whether a task failed with this error for want of its image.
func NoImage(taskErr string) bool {
	return slices.ContainsFunc(imageErrors, func(known string) bool { return strings.Contains(taskErr, known) })
}

// failing returns an error if a member or component has failed twice in a row, newest first, for want of
// its image, which waiting does not mend. Anything else may heal: a volume that is
// still held, a node that is being prepared.
func failing(name string, failures []string) error {
	if len(failures) < 2 || failures[0] != failures[1] || !NoImage(failures[0]) {
		return nil
	}
	return fmt.Errorf("%s %w: %s", name, ErrFailing, failures[0])
}

func unhealthy(lines []Line) string {
	var out []string
	for _, l := range lines {
		if !l.Healthy {
			out = append(out, strings.TrimRight(fmt.Sprintf("  %s: %s %s", l.Member, l.State, l.Detail), " "))
		}
	}
	return strings.Join(out, "\n")
}

// Screen is where lines are shown.
type Screen struct {
	out   io.Writer
	width func() int // nil: not a terminal
	drawn int
	last  map[string]string
	note  string
}

// NewScreen returns a screen on out; width is of the terminal, nil if out is none.
func NewScreen(out io.Writer, width func() int) *Screen {
	return &Screen{out: out, width: width, last: map[string]string{}}
}

// Show draws the lines again, or prints those that changed.
func (s *Screen) Show(lines []Line) {
	names := 0
	for _, l := range lines {
		names = max(names, len(l.Member))
	}
	var text strings.Builder
	if s.width != nil && s.drawn > 0 {
		fmt.Fprintf(&text, "\x1b[%dA", s.drawn)
	}
	for _, l := range lines {
		mark := " "
		if l.Healthy {
			mark = "✔"
		}
		line := strings.TrimRight(fmt.Sprintf("%s %-*s  %-13s  %s", mark, names, l.Member, l.State, l.Detail), " ")
		line = strings.ReplaceAll(line, "\n", " ")
		switch {
		case s.width != nil:
			if w := s.width(); w > 1 {
				if r := []rune(line); len(r) > w-1 {
					line = string(r[:w-2]) + "…"
				}
			}
			text.WriteString(line + "\x1b[K\n")
		case s.last[l.Member] != line:
			text.WriteString(line + "\n")
		}
		s.last[l.Member] = line
	}
	s.drawn = len(lines)
	_, _ = io.WriteString(s.out, text.String())
}

// Note prints a line that is not a member's, once for each change.
func (s *Screen) Note(text string) {
	if text == s.note {
		return
	}
	s.note = text
	fmt.Fprintln(s.out, text)
	s.drawn = 0
}
