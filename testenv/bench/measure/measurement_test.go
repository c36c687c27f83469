package measure

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestGoalIsAboutTheMedianOfWhatIsJudged(t *testing.T) {
	for _, c := range []struct {
		doc string
		m   Measurement
		met bool
	}{
		{"one bad pair of three does not decide", Ratio("a", "s", Sample{1, 1, 9}, Sample{1, 1, 1}, AtMost(1.25)), true},
		{"pairs count, not the medians of each side", Ratio("a", "s", Sample{10, 20, 40}, Sample{5, 20, 20}, AtMost(1.25)), false},
		{"the bound itself meets it", Ratio("a", "s", Sample{5}, Sample{4}, AtMost(1.25)), true},
		{"at least", Ratio("a", "tps", Sample{96}, Sample{100}, AtLeast(0.97)), false},
		{"a difference", Difference("a", "ms", Sample{200}, Sample{60}, AtMost(150)), true},
		{"the worst of several", Absolute("a", "MiB", Sample{10, 30}, 30, AtMost(25)), false},
		{"nothing was measured", Ratio("a", "s", nil, nil, AtMost(1)), false},
	} {
		assert.Equal(t, c.m.Met(), c.met, c.doc)
	}
	assert.Assert(t, !Figure("a", "MiB", Sample{1}).HasGoal())
	assert.Assert(t, Absolute("a", "MiB", Sample{1}, 1, AtMost(1)).HasGoal())
}
