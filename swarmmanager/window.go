package swarmmanager

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the image has no time zones

	"github.com/openmanage/openmanage/internal/store"
)

// window is when operations may begin to restart a member: on some days, named by
// their opening, between two times of the wall clock of a zone. An hour that summer
// time leaves out is not open, and one that it repeats is open twice.
type window struct {
	days     [7]bool // by time.Weekday
	from, to int     // minutes of the day; to before from: it closes on the next day
	zone     *time.Location
}

const windowForm = `write it like "Sat,Sun 02:00-05:00 Europe/Vienna", "Mon-Fri 22:00-04:00" or "* 01:00-05:00"; without a zone it is UTC`

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// parseWindow reads DAYS HH:MM-HH:MM [ZONE].
func parseWindow(text string) (window, error) {
	w, err := readWindow(strings.Fields(text))
	if err != nil {
		return w, fmt.Errorf("%q is no maintenance window: %w; %s", text, err, windowForm)
	}
	return w, nil
}

func readWindow(fields []string) (w window, err error) {
	if len(fields) < 2 || len(fields) > 3 {
		return w, errors.New("it needs days and times, and may have a zone")
	}
	if w.days, err = readDays(fields[0]); err != nil {
		return w, err
	}
	from, to, ok := strings.Cut(fields[1], "-")
	if !ok {
		return w, fmt.Errorf("%q is not from when to when", fields[1])
	}
	if w.from, err = readMinutes(from); err != nil {
		return w, err
	}
	if w.to, err = readMinutes(to); err != nil {
		return w, err
	}
	if w.from == w.to || w.from == 24*60 {
		return w, fmt.Errorf("%s is never; the whole day is 00:00-24:00", fields[1])
	}
	w.zone = time.UTC
	if len(fields) == 3 {
		// LoadLocation takes "Local" for the machine's zone, of which nobody knows here.
		if w.zone, err = time.LoadLocation(fields[2]); err != nil || fields[2] == "Local" {
			return w, fmt.Errorf("there is no time zone %q", fields[2])
		}
	}
	return w, nil
}

func readDays(text string) (days [7]bool, err error) {
	if text == "*" {
		return [7]bool{true, true, true, true, true, true, true}, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, to := slices.Index(weekdays, strings.ToLower(first)), slices.Index(weekdays, strings.ToLower(last))
		if from < 0 || to < 0 {
			return days, fmt.Errorf("%q is no day: there are Mon, Tue, Wed, Thu, Fri, Sat, Sun and *", part)
		}
		for day := from; ; day = (day + 1) % 7 {
			days[day] = true
			if day == to {
				break
			}
		}
	}
	return days, nil
}

// readMinutes reads HH:MM, from 00:00 to 24:00.
func readMinutes(text string) (int, error) {
	hour, minute, ok := strings.Cut(text, ":")
	h, hourErr := strconv.ParseUint(hour, 10, 8)
	m, minuteErr := strconv.ParseUint(minute, 10, 8)
	if !ok || hourErr != nil || minuteErr != nil || len(hour) != 2 || len(minute) != 2 || m > 59 || h*60+m > 24*60 {
		return 0, fmt.Errorf("%q is no time of day like 02:30", text)
	}
	return int(h*60 + m), nil
}

// open tells whether the window is open at t.
func (w window) open(t time.Time) bool {
	t = t.In(w.zone)
	now, today := t.Hour()*60+t.Minute(), t.Weekday()
	yesterday := (today + 6) % 7
	if w.from < w.to {
		return w.days[today] && w.from <= now && now < w.to
	}
	return w.days[today] && w.from <= now || w.days[yesterday] && now < w.to
}

// opens returns when the window is open next, from t on.
func (w window) opens(t time.Time) time.Time {
	if w.open(t) {
		return t
	}
	// Minute by minute: the wall clock jumps. A window of one day within an hour that
	// is left out this week is there the next one.
	at := t.Truncate(time.Minute)
	for range 15 * 24 * 60 {
		if at = at.Add(time.Minute); w.open(at) {
			break
		}
	}
	return at.In(w.zone)
}

// waitsForWindow returns what an operation waits for before it may begin to restart
// the next member; "": nothing. The member that is under way is finished, whatever
// the time, and so is what comes before the first one. A window that cannot be read
// is the executor's, which fails.
func waitsForWindow(o *observed, op store.Operation) string {
	req, _ := rollRequest(op)
	app, known := o.records[op.Target]
	if !betweenMembers(op) || req.Now || op.Cancel || !known || app.Value.Window == "" || app.Value.Handover != nil {
		return ""
	}
	if req.Image != "" && (op.Roll == nil || !op.Roll.Pulled) {
		return ""
	}
	w, err := parseWindow(app.Value.Window)
	if err != nil || w.open(o.precise) {
		return ""
	}
	return "waits for the maintenance window, which opens at " + w.opens(o.precise).Format("Mon 2006-01-02 15:04 MST") + "; to do it at once, cancel it and ask again with --now"
}

// betweenMembers tells whether an operation restarts members one at a time and has none
// under way.
func betweenMembers(op store.Operation) bool {
	_, rolls := rollRequest(op)
	return rolls && (op.Roll == nil || op.Roll.Member == "" && op.Roll.Back == "")
}

// othersBegun names, by application, what was begun while a restart or an upgrade has
// waited for its window: that goes on when the other has ended.
func othersBegun(records []store.Record[store.Operation]) map[string]string {
	begun := map[string]string{}
	for _, r := range records {
		if op := r.Value; op.Ended == nil && op.State == store.OperationRunning && op.Kind != store.OperationCreate && !betweenMembers(op) {
			begun[op.Target] = r.Name + " (" + op.Kind + ")"
		}
	}
	return begun
}
