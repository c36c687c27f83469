package swarmmanager

import (
	"encoding/json"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/store"
)

// at reads a time of the form 2026-11-28T02:00Z.
func at(t *testing.T, text string) time.Time {
	t.Helper()
	parsed, err := time.Parse("2006-01-02T15:04Z07:00", text)
	assert.NilError(t, err)
	return parsed
}

func TestAWindowIsOpenByTheClockOnTheWall(t *testing.T) {
	for _, tc := range []struct {
		doc, window, at string
		open            bool
		opens           string // if it is not open
	}{
		{doc: "inside", window: "Sat,Sun 02:00-05:00", at: "2026-11-28T02:00Z", open: true},
		{doc: "its last minute", window: "Sat,Sun 02:00-05:00", at: "2026-11-28T04:59Z", open: true},
		{doc: "its end", window: "Sat,Sun 02:00-05:00", at: "2026-11-28T05:00Z", opens: "2026-11-29T02:00Z"},
		{doc: "another day", window: "Sat,Sun 02:00-05:00", at: "2026-11-30T03:00Z", opens: "2026-12-05T02:00Z"},
		{doc: "a range of days", window: "mon-fri 09:00-17:00", at: "2026-11-27T10:00Z", open: true},
		{doc: "after a range of days", window: "Mon-Fri 09:00-17:00", at: "2026-11-27T17:00Z", opens: "2026-11-30T09:00Z"},
		{doc: "a range over the week's end", window: "Fri-Mon 09:00-17:00", at: "2026-11-29T10:00Z", open: true},
		{doc: "the whole day", window: "Wed 00:00-24:00", at: "2026-11-25T23:59Z", open: true},
		{doc: "over midnight, before it", window: "Fri 22:00-04:00", at: "2026-11-27T23:00Z", open: true},
		{doc: "over midnight, after it", window: "Fri 22:00-04:00", at: "2026-11-28T03:59Z", open: true},
		{doc: "over midnight, the day named is that of the opening", window: "Fri 22:00-04:00", at: "2026-11-27T03:00Z", opens: "2026-11-27T22:00Z"},
		{doc: "over midnight, every day", window: "* 22:00-04:00", at: "2026-11-29T12:00Z", opens: "2026-11-29T22:00Z"},
		{doc: "until midnight", window: "* 22:00-00:00", at: "2026-11-29T23:59Z", open: true},
		{doc: "in a zone", window: "* 02:00-05:00 Europe/Vienna", at: "2026-11-28T01:30Z", open: true},
		{doc: "in a zone where it is another day", window: "Sun 01:00-03:00 Asia/Tokyo", at: "2026-11-28T16:30Z", open: true},
		{doc: "in a zone behind", window: "Fri 22:00-23:00 America/New_York", at: "2026-11-27T12:00Z", opens: "2026-11-28T03:00Z"},
		{doc: "a zone off the full hour", window: "* 01:00-02:00 Asia/Kathmandu", at: "2026-11-27T12:00Z", opens: "2026-11-27T19:15Z"},
		{doc: "summer time", window: "* 02:00-05:00 Europe/Vienna", at: "2026-07-01T00:30Z", open: true},
		// 2026-03-29: 02:00 CET is 03:00 CEST.
		{doc: "what summer time cuts off", window: "Sun 02:30-05:00 Europe/Vienna", at: "2026-03-29T00:00Z", opens: "2026-03-29T01:00Z"},
		{doc: "what summer time leaves out", window: "Sun 02:00-03:00 Europe/Vienna", at: "2026-03-29T00:00Z", opens: "2026-04-05T00:00Z"},
		// 2026-10-25: 03:00 CEST is 02:00 CET.
		{doc: "the hour that comes twice, first", window: "* 02:00-03:00 Europe/Vienna", at: "2026-10-25T00:30Z", open: true},
		{doc: "the hour that comes twice, second", window: "* 02:00-03:00 Europe/Vienna", at: "2026-10-25T01:30Z", open: true},
		{doc: "seconds", window: "* 02:00-03:00", at: "2026-10-25T01:59Z", opens: "2026-10-25T02:00Z"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			w, err := parseWindow(tc.window)
			assert.NilError(t, err)
			now := at(t, tc.at).Add(30 * time.Second)
			assert.Equal(t, w.open(now), tc.open)
			if tc.open {
				assert.Equal(t, w.opens(now), now)
				return
			}
			assert.Equal(t, w.opens(now).UTC(), at(t, tc.opens))
			assert.Assert(t, w.open(w.opens(now)))
		})
	}
}

func TestABadWindowIsToldFromAGoodOne(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "it needs days and times",
		"02:00-05:00":                      "it needs days and times",
		"* 02:00-05:00 Europe/Vienna dst":  "it needs days and times",
		"Sam 02:00-05:00":                  `"Sam" is no day`,
		"Sat- 02:00-05:00":                 `"Sat-" is no day`,
		"Sat,,Sun 02:00-05:00":             `"" is no day`,
		"* 02:00":                          "not from when to when",
		"* 2:00-05:00":                     `"2:00" is no time`,
		"* 02:60-05:00":                    `"02:60" is no time`,
		"* 02:00-24:01":                    `"24:01" is no time`,
		"* +2:00-05:00":                    `"+2:00" is no time`,
		"* 02:00-02:00":                    "is never",
		"* 24:00-05:00":                    "is never",
		"* 02:00-05:00 Europe/Springfield": "no time zone",
		"* 02:00-05:00 Local":              "no time zone",
		"* 02:00-05:00 ../../etc/passwd":   "no time zone",
		"0 2 * * *":                        "it needs days and times",
	} {
		_, err := parseWindow(text)
		assert.Check(t, is.ErrorContains(err, want), text)
		assert.Check(t, is.ErrorContains(err, "write it like"), text)
	}
}

func TestOnlyWhatRestartsMembersWaitsForTheWindow(t *testing.T) {
	p := newPlan(t)
	p.app.Window = "Sat 02:00-05:00"
	p.o.precise = at(t, "2026-11-27T12:00Z")
	pulled, under, back := &store.Roll{Pulled: true}, &store.Roll{Pulled: true, Member: "pg-3"}, &store.Roll{Pulled: true, Member: "pg-3", Back: "why"}
	between := &store.Roll{Pulled: true, Done: []string{"pg-3"}}
	for _, tc := range []struct {
		doc   string
		op    store.Operation
		req   store.RollRequest
		now   string
		waits bool
	}{
		{doc: "a restart", op: store.Operation{Kind: store.OperationRestart}, waits: true},
		{doc: "a restart at once", op: store.Operation{Kind: store.OperationRestart}, req: store.RollRequest{Now: true}},
		{doc: "a restart in the window", op: store.Operation{Kind: store.OperationRestart}, now: "2026-11-28T02:00Z"},
		{doc: "a restart that is cancelled", op: store.Operation{Kind: store.OperationRestart, Cancel: true}},
		{doc: "an upgrade pulls the image before", op: store.Operation{Kind: store.OperationUpgrade}, req: store.RollRequest{Image: "x"}},
		{doc: "an upgrade", op: store.Operation{Kind: store.OperationUpgrade, Roll: pulled}, req: store.RollRequest{Image: "x"}, waits: true},
		{doc: "the member under way", op: store.Operation{Kind: store.OperationUpgrade, Roll: under}, req: store.RollRequest{Image: "x"}},
		{doc: "the member that is rolled back", op: store.Operation{Kind: store.OperationUpgrade, Roll: back}, req: store.RollRequest{Image: "x"}},
		{doc: "the next member", op: store.Operation{Kind: store.OperationUpgrade, Roll: between}, req: store.RollRequest{Image: "x"}, waits: true},
		{doc: "a switchover", op: store.Operation{Kind: store.OperationSwitchover}},
		{doc: "a stop", op: store.Operation{Kind: store.OperationStop}},
		{doc: "a scaling", op: store.Operation{Kind: store.OperationScale}},
	} {
		o := *p.o
		o.records = map[string]store.Record[store.Application]{"pg": {Name: "pg", Value: p.app}}
		if tc.now != "" {
			o.precise = at(t, tc.now)
		}
		body, err := json.Marshal(tc.req)
		assert.NilError(t, err)
		tc.op.Target, tc.op.Request = "pg", string(body)
		why := waitsForWindow(&o, tc.op)
		assert.Check(t, is.Equal(why != "", tc.waits), "%s: %s", tc.doc, why)
		if tc.waits {
			assert.Check(t, is.Contains(why, "which opens at Sat 2026-11-28 02:00 UTC"))
		}
	}
}
