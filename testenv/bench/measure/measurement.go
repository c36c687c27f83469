package measure

import (
	"fmt"
	"math"
)

// Measurement is one line of a table.
type Measurement struct {
	Name string
	// Unit of Ours and Reference.
	Unit string
	Ours Sample
	// Reference was measured in the same run; empty if there is none.
	Reference Sample
	// Judged is what Goal is about.
	Judged Judged
	Goal   Goal
}

// Judged is the sample that a goal is about.
type Judged struct {
	Sample Sample
	Unit   string // "" for a ratio
}

// Ratio is a measurement whose goal is about ours through the reference.
func Ratio(name, unit string, ours, reference Sample, goal Goal) Measurement {
	return Measurement{
		Name: name, Unit: unit, Ours: ours, Reference: reference,
		Judged: Judged{Sample: Ratios(ours, reference)}, Goal: goal,
	}
}

// Difference is a measurement whose goal is about ours less the reference.
func Difference(name, unit string, ours, reference Sample, goal Goal) Measurement {
	return Measurement{
		Name: name, Unit: unit, Ours: ours, Reference: reference,
		Judged: Judged{Sample: Differences(ours, reference), Unit: unit}, Goal: goal,
	}
}

// Absolute is a measurement whose goal is about ours itself. worst is the value
// that is held against the goal.
func Absolute(name, unit string, ours Sample, worst float64, goal Goal) Measurement {
	return Measurement{Name: name, Unit: unit, Ours: ours, Judged: Judged{Sample: Sample{worst}, Unit: unit}, Goal: goal}
}

// Figure is a measurement without a goal.
func Figure(name, unit string, ours Sample) Measurement {
	return Measurement{Name: name, Unit: unit, Ours: ours}
}

// Goal is a bound on the median of what is judged. The zero value is no goal.
type Goal struct {
	bound float64
	set   bool
	least bool
	worst bool
}

// AtMost is the goal not to exceed v.
func AtMost(v float64) Goal { return Goal{bound: v, set: true} }

// AtLeast is the goal to reach v.
func AtLeast(v float64) Goal { return Goal{bound: v, set: true, least: true} }

// WorstAtMost is the goal never to exceed v. Only rows of a Comparison have it.
func WorstAtMost(v float64) Goal { return Goal{bound: v, set: true, worst: true} }

// Bound is what is to be reached or not to be exceeded.
func (g Goal) Bound() float64 { return g.bound }

// HasGoal says whether there is something to meet.
func (m Measurement) HasGoal() bool { return m.Goal.set }

// Met says whether the goal is met. What could not be measured meets none.
func (m Measurement) Met() bool {
	v := m.Judged.Sample.Median()
	switch {
	case math.IsNaN(v):
		return false
	case m.Goal.least:
		return v >= m.Goal.bound
	}
	return v <= m.Goal.bound
}

func (g Goal) text(unit string) string {
	sign := "≤"
	if g.least {
		sign = "≥"
	}
	return withUnit(fmt.Sprintf("%s %v", sign, g.bound), unit)
}

func withUnit(text, unit string) string {
	switch unit {
	case "":
		return text
	case "%":
		return text + unit
	}
	return text + " " + unit
}
