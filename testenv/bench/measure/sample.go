// Package measure holds what a benchmark has found: samples with their median and
// spread, what they are compared with, and whether that meets a goal. It also
// writes them as the tables of docs/benchmarks.md.
package measure

import (
	"fmt"
	"math"
	"slices"
)

// Sample is the values of one quantity, in the order in which they were measured.
type Sample []float64

// Median is the middle value, or the mean of the two in the middle; NaN if there
// is no value.
func (s Sample) Median() float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// String is the median with the spread, such as "1.5 (1.2–2)".
func (s Sample) String() string {
	switch len(s) {
	case 0:
		return "–"
	case 1:
		return number(s[0])
	}
	return fmt.Sprintf("%s (%s–%s)", number(s.Median()), number(slices.Min(s)), number(slices.Max(s)))
}

// number writes three significant digits, and no fraction from 100 on.
func number(v float64) string {
	switch size := math.Abs(v); {
	case math.IsNaN(v):
		return "–"
	case size >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case size >= 9.995:
		return fmt.Sprintf("%.1f", v)
	case size == 0 || size >= 0.0995:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// Ratios divides each value by the one that was measured beside it, so that what
// changes on the machine in between changes both.
func Ratios(ours, reference Sample) Sample {
	return pairwise(ours, reference, func(a, b float64) float64 { return a / b })
}

// Differences subtracts from each value the one that was measured beside it.
func Differences(ours, reference Sample) Sample {
	return pairwise(ours, reference, func(a, b float64) float64 { return a - b })
}

func pairwise(a, b Sample, combine func(a, b float64) float64) Sample {
	pairs := make(Sample, 0, min(len(a), len(b)))
	for i := range min(len(a), len(b)) {
		pairs = append(pairs, combine(a[i], b[i]))
	}
	return pairs
}
