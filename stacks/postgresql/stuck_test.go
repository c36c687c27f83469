package postgresql

import (
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// A standby is stuck when its primary is ready for it and it applies nothing, all the time.
func TestAStandbyIsStuckOnlyIfNothingStandsInItsWay(t *testing.T) {
	ready := standbyDiagnosis{ready: true, primary: "pg-2"}
	other := standbyDiagnosis{ready: true, primary: "pg-3"}
	waits := standbyDiagnosis{primary: "pg-2"}
	now := time.Now()
	after := func(i *idleness, why standbyDiagnosis, applied string) bool {
		now = now.Add(stuckAfter/2 + time.Second)
		return i.stuck(why, applied, now)
	}
	for _, tc := range []struct {
		doc   string
		looks []standbyDiagnosis
		at    []string
		stuck bool
	}{
		{"nothing happens", []standbyDiagnosis{ready, ready, ready}, []string{"5", "5", "5"}, true},
		{"it applies what it has", []standbyDiagnosis{ready, ready, ready}, []string{"5", "6", "7"}, false},
		{"the primary was not ready", []standbyDiagnosis{ready, waits, ready}, []string{"5", "5", "5"}, false},
		{"another is to be followed", []standbyDiagnosis{ready, ready, other}, []string{"5", "5", "5"}, false},
	} {
		var i idleness
		stuck := false
		for n, why := range tc.looks {
			stuck = after(&i, why, tc.at[n])
		}
		assert.Equal(t, stuck, tc.stuck, tc.doc)
	}
}
