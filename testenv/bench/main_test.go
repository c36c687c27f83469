package main

import (
	"os"
	"testing"

	"gotest.tools/v3/assert"

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
