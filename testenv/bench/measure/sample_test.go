package measure

import (
	"math"
	"testing"

	"gotest.tools/v3/assert"
)

func TestMedianIsTheMiddleWhateverTheOrder(t *testing.T) {
	for _, c := range []struct {
		sample Sample
		want   float64
	}{
		{Sample{7}, 7},
		{Sample{9, 1, 5}, 5},
		{Sample{4, 1, 3, 2}, 2.5},
		{Sample{2, 2, 100}, 2},
	} {
		before := append(Sample{}, c.sample...)
		assert.Equal(t, c.sample.Median(), c.want, "%v", c.sample)
		assert.DeepEqual(t, c.sample, before) // it is not sorted in place
	}
	assert.Assert(t, math.IsNaN(Sample{}.Median()))
}

func TestSamplesAreWrittenWithTheirSpread(t *testing.T) {
	for _, c := range []struct {
		sample Sample
		want   string
	}{
		{nil, "–"},
		{Sample{0}, "0.00"},
		{Sample{0.0421}, "0.042"},
		{Sample{1.234}, "1.23"},
		{Sample{9.996}, "10.0"},
		{Sample{99.97}, "100"},
		{Sample{3, 1, 2}, "2.00 (1.00–3.00)"},
		{Sample{-0.5, 20}, "9.75 (-0.50–20.0)"},
	} {
		assert.Equal(t, c.sample.String(), c.want)
	}
}

func TestPairsAreCombinedInOrder(t *testing.T) {
	assert.DeepEqual(t, Ratios(Sample{2, 9}, Sample{1, 3}), Sample{2, 3})
	assert.DeepEqual(t, Differences(Sample{2, 9}, Sample{1, 3}), Sample{1, 6})
	// A value without its pair says nothing.
	assert.DeepEqual(t, Ratios(Sample{2, 9, 4}, Sample{1, 3}), Sample{2, 3})
}
