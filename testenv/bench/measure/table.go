package measure

import (
	"fmt"
	"strings"
)

// Result is what one benchmark has found.
type Result struct {
	Measurements []Measurement
	// Comparisons are of several systems; nil if there are none.
	Comparisons []Comparison
	// Plots are drawn below the tables.
	Plots []Plot
	// Notes say what a reader must know about this run.
	Notes []string
}

// Plot is a drawing of what was found.
type Plot struct {
	Name string // of its file, without .svg
	// Shows is for who cannot see it.
	Shows string
	SVG   string
}

// Note adds a note.
func (r *Result) Note(format string, args ...any) {
	r.Notes = append(r.Notes, fmt.Sprintf(format, args...))
}

// Markdown is the result as tables with plots and notes below. It names plots as
// files in the folder that PlotsDir names.
func (r Result) Markdown() string {
	var parts []string
	if len(r.Measurements) > 0 {
		parts = append(parts, r.table())
	}
	for _, c := range r.Comparisons {
		parts = append(parts, c.Markdown())
	}
	for _, p := range r.Plots {
		parts = append(parts, fmt.Sprintf("![%s](%s/%s.svg)\n", p.Shows, PlotsDir, p.Name))
	}
	if len(r.Notes) > 0 {
		parts = append(parts, "- "+strings.Join(r.Notes, "\n- ")+"\n")
	}
	return strings.Join(parts, "\n")
}

// PlotsDir is where plots lie, seen from the page that shows them.
const PlotsDir = "benchmarks"

func (r Result) table() string {
	var b strings.Builder
	b.WriteString("| what | ours | reference | compared | goal | met |\n|---|---|---|---|---|---|\n")
	for _, m := range r.Measurements {
		goal, met := "–", "–"
		if m.HasGoal() {
			goal, met = m.Goal.text(m.Judged.Unit), "no"
			if m.Met() {
				met = "yes"
			}
		}
		cells := []string{
			m.Name, quantity(m.Ours, m.Unit), quantity(m.Reference, m.Unit), quantity(m.Judged.Sample, m.Judged.Unit), goal, met,
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | "))
	}
	return b.String()
}

func quantity(s Sample, unit string) string {
	if len(s) == 0 {
		return "–"
	}
	return withUnit(s.String(), unit)
}

// Replace puts content between the markers of a section of a document. What is
// around the markers was written by hand and stays.
func Replace(document, section, content string) (string, error) {
	begin, end := "<!-- begin "+section+" -->\n", "<!-- end "+section+" -->"
	before, rest, ok := strings.Cut(document, begin)
	if !ok {
		return "", fmt.Errorf("there is no line %q", strings.TrimSpace(begin))
	}
	_, after, ok := strings.Cut(rest, end)
	if !ok {
		return "", fmt.Errorf("there is no %q after %q", end, strings.TrimSpace(begin))
	}
	return before + begin + content + end + after, nil
}
