package measure

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestSystemsStandSideBySide(t *testing.T) {
	c := Comparison{Systems: []string{"ours", "theirs", "none"}, Unit: "s"}
	c.Add("kill", "ours", 1.5)
	c.Add("kill", "ours", 0.5, 1).Goal = AtMost(1)
	c.Add("kill", "theirs", 8, 10)
	slow := c.Add("copy", "ours", 3)
	slow.Goal, slow.Against = AtMost(0.1), "theirs"
	c.Add("copy", "theirs", 20)
	c.Add("nobody did it", "none")
	assert.Equal(t, c.Markdown(), `| s: median (worst) | ours | theirs | none | goal | met |
|---|---|---|---|---|---|
| kill | 1.00 (1.50) | 9.00 (10.0) | – | ≤ 1 s | yes |
| copy | 3.00 (3.00) | 20.0 (20.0) | – | ≤ 0.1 of theirs (0.15) | no |
| nobody did it | – | – | – | – | – |
`)
}

func TestGoalOfWhatWasNotMeasuredIsNotMet(t *testing.T) {
	c := Comparison{Systems: []string{"ours"}, Unit: "s"}
	c.Add("kill", "theirs", 1).Goal = AtMost(1)
	assert.Equal(t, c.Markdown(), "| s: median (worst) | ours | goal | met |\n|---|---|---|---|\n| kill | – | ≤ 1 s | no |\n")
}

func TestOneBadValueMissesAGoalAboutTheWorst(t *testing.T) {
	c := Comparison{Systems: []string{"ours"}, Unit: "writes"}
	c.Add("lost", "ours", 0, 0, 1).Goal = WorstAtMost(0)
	c.Add("kept", "ours", 0, 0, 0).Goal = WorstAtMost(0)
	assert.Equal(t, c.Markdown(), "| writes: median (worst) | ours | goal | met |\n|---|---|---|---|\n"+
		"| lost | 0.00 (1.00) | ≤ 0 writes, the worst | no |\n| kept | 0.00 (0.00) | ≤ 0 writes, the worst | yes |\n")
}
