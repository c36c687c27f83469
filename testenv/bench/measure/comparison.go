package measure

import (
	"fmt"
	"slices"
	"strings"
)

// Comparison is several systems side by side: a table with a column for each.
type Comparison struct {
	// Systems are the columns. The goals are about the first.
	Systems []string
	Unit    string
	Rows    []Row
}

// Row is one quantity.
type Row struct {
	Name string
	// Samples are those of each system; one may be missing.
	Samples map[string]Sample
	// Goal is about the first system's, or about that divided by Against's.
	Goal    Goal
	Against string
}

// Add adds values to what a system has in a row of that name, which is made if it
// is missing, and returns the row.
func (c *Comparison) Add(row, system string, values ...float64) *Row {
	r := c.row(row)
	r.Samples[system] = append(r.Samples[system], values...)
	return r
}

func (c *Comparison) row(name string) *Row {
	i := slices.IndexFunc(c.Rows, func(r Row) bool { return r.Name == name })
	if i < 0 {
		i = len(c.Rows)
		c.Rows = append(c.Rows, Row{Name: name, Samples: map[string]Sample{}})
	}
	return &c.Rows[i]
}

// judged is what a row's goal is about.
func (c Comparison) judged(r Row) Measurement {
	ours := r.Samples[c.Systems[0]]
	value := ours.Median()
	if r.Goal.worst && len(ours) > 0 {
		value = slices.Max(ours)
	}
	if r.Against == "" {
		return Measurement{Judged: Judged{Sample: Sample{value}, Unit: c.Unit}, Goal: r.Goal}
	}
	ratio := value / r.Samples[r.Against].Median()
	return Measurement{Judged: Judged{Sample: Sample{ratio}}, Goal: r.Goal}
}

// Markdown is the comparison as a table. A cell is the median and the worst, which
// is the largest.
func (c Comparison) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s: median (worst) | %s | goal | met |\n|---%s|---|---|\n", c.Unit, strings.Join(c.Systems, " | "), strings.Repeat("|---", len(c.Systems)))
	for _, r := range c.Rows {
		cells := []string{r.Name}
		for _, system := range c.Systems {
			cells = append(cells, r.Samples[system].worst())
		}
		goal, met := "–", "–"
		if m := c.judged(r); m.HasGoal() {
			goal, met = m.Goal.text(m.Judged.Unit), "no"
			if m.Goal.worst {
				goal += ", the worst"
			}
			if r.Against != "" {
				goal = fmt.Sprintf("%s of %s (%s)", goal, r.Against, m.Judged.Sample)
			}
			if m.Met() {
				met = "yes"
			}
		}
		fmt.Fprintf(&b, "| %s |\n", strings.Join(append(cells, goal, met), " | "))
	}
	return b.String()
}

// worst is the median with the largest value, such as "1.5 (2)".
func (s Sample) worst() string {
	if len(s) == 0 {
		return "–"
	}
	return fmt.Sprintf("%s (%s)", number(s.Median()), number(slices.Max(s)))
}
