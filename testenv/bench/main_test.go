package main

import (
	"os"
	"path/filepath"
	"testing"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/bench/measure"
)

func TestOnlyChoosesByName(t *testing.T) {
	all := benchmarks()
	chosen, err := choose(all, "")
	assert.NilError(t, err)
	assert.Equal(t, len(chosen), len(all))

	chosen, err = choose(all, "mount, list")
	assert.NilError(t, err)
	assert.DeepEqual(t, names(chosen), []string{"mount", "list"})

	_, err = choose(all, "mont")
	assert.ErrorContains(t, err, "choose from size, list, mount")
}

func TestPageHasASectionForEachBenchmark(t *testing.T) {
	page, err := os.ReadFile("../../docs/benchmarks.md")
	assert.NilError(t, err)
	for _, benchmark := range benchmarks() {
		_, err := measure.Replace(string(page), benchmark.name, "")
		assert.NilError(t, err)
	}
}

func TestRateIsReadFromPgbench(t *testing.T) {
	rate, err := parseTPS("number of failed transactions: 0 (0.000%)\ntps = 1234.5 (without initial connection time)\n")
	assert.NilError(t, err)
	assert.Equal(t, rate, 1234.5)
	_, err = parseTPS("nothing")
	assert.ErrorContains(t, err, "no rate")
}

func TestBothSidesComeFirstInTurn(t *testing.T) {
	var order []int
	for i := range 2 {
		assert.NilError(t, inTurn(i, func(side int) error {
			order = append(order, side)
			return nil
		}))
	}
	assert.DeepEqual(t, order, []int{ourSide, referenceSide, referenceSide, ourSide})
}

func TestPlotsAreWrittenBesideThePageThatShowsThem(t *testing.T) {
	page := filepath.Join(t.TempDir(), "benchmarks.md")
	assert.NilError(t, os.WriteFile(page, []byte("<!-- begin join -->\n<!-- end join -->\n"), 0o600))
	result := measure.Result{Plots: []measure.Plot{{Name: "join", Shows: "bars", SVG: "<svg/>"}}}
	assert.NilError(t, write(page, "join", result.Markdown(), result.Plots))
	text, err := os.ReadFile(page)
	assert.NilError(t, err)
	assert.Check(t, is.Contains(string(text), "![bars](benchmarks/join.svg)"))
	drawn, err := os.ReadFile(filepath.Join(filepath.Dir(page), "benchmarks/join.svg"))
	assert.NilError(t, err)
	assert.Equal(t, string(drawn), "<svg/>")
}

func TestSizesAreReadAndWritten(t *testing.T) {
	sizes, err := parseSizes(defaultSizes)
	assert.NilError(t, err)
	assert.DeepEqual(t, sizes, []int64{1 << 30, 5 << 30})
	assert.Equal(t, formatSizes(sizes), defaultSizes)
	_, err = parseSizes("5GiB,much")
	assert.ErrorContains(t, err, `"much" is no size`)
}
