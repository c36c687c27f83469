package measure

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestTableSaysHonestlyWhatIsMet(t *testing.T) {
	r := Result{Measurements: []Measurement{
		Ratio("failover", "s", Sample{22, 20, 24}, Sample{20, 20, 20}, AtMost(1.25)),
		Difference("mount", "ms", Sample{300}, Sample{100}, AtMost(150)),
		Absolute("memory", "MiB", Sample{10, 20}, 20, AtMost(40)),
		Figure("size", "MiB", Sample{12.5}),
	}}
	r.Note("%s was killed", "node2")
	assert.Equal(t, r.Markdown(), `| what | ours | reference | compared | goal | met |
|---|---|---|---|---|---|
| failover | 22.0 (20.0–24.0) s | 20.0 (20.0–20.0) s | 1.10 (1.00–1.20) | ≤ 1.25 | yes |
| mount | 300 ms | 100 ms | 200 ms | ≤ 150 ms | no |
| memory | 15.0 (10.0–20.0) MiB | – | 20.0 MiB | ≤ 40 MiB | yes |
| size | 12.5 MiB | – | – | – | – |

- node2 was killed
`)
}

func TestTablesComeBeforePlotsAndNotes(t *testing.T) {
	r := Result{
		Comparisons: []Comparison{{Systems: []string{"ours"}, Unit: "s"}},
		Plots:       []Plot{{Name: "join", Shows: "seconds"}},
	}
	r.Note("one")
	r.Note("two")
	assert.Equal(t, r.Markdown(), "| s: median (worst) | ours | goal | met |\n|---|---|---|---|\n\n![seconds](benchmarks/join.svg)\n\n- one\n- two\n")
}

func TestReplaceKeepsWhatIsWrittenByHand(t *testing.T) {
	const document = "before\n<!-- begin a -->\nold\n<!-- end a -->\nafter\n<!-- begin b -->\n<!-- end b -->\n"
	got, err := Replace(document, "a", "new\n")
	assert.NilError(t, err)
	assert.Equal(t, got, "before\n<!-- begin a -->\nnew\n<!-- end a -->\nafter\n<!-- begin b -->\n<!-- end b -->\n")

	_, err = Replace(document, "c", "new\n")
	assert.ErrorContains(t, err, "begin c")
	_, err = Replace("<!-- begin a -->\n", "a", "new\n")
	assert.ErrorContains(t, err, "end a")
}
