package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/openmanage/openmanage/testenv/bench/measure"
)

const (
	generateRepeat = 10
	generateGoal   = 1 // s
)

// generate measures `docker openmanage generate` of every type of the catalog, one
// command after the other, as a script would have it.
func generate(ctx context.Context, b *bench) (measure.Result, error) {
	var result measure.Result
	out, err := b.CLI(ctx, "catalog", "--quiet")
	if err != nil {
		return result, err
	}
	types := strings.Fields(out)
	var took, nothing measure.Sample
	for range generateRepeat {
		ms, err := timed(func() error {
			for _, typ := range types {
				if _, err := b.CLI(ctx, "generate", typ, prefix); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return result, err
		}
		took = append(took, ms/1000)
		ms, err = timed(func() error {
			for range types {
				if _, err := b.CLI(ctx, "generate", "--help"); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return result, err
		}
		nothing = append(nothing, ms/1000)
	}
	result.Measurements = []measure.Measurement{
		measure.Absolute(fmt.Sprintf("`docker openmanage generate` of all %d types, one after the other", len(types)), "s", took, took.Median(), measure.AtMost(generateGoal)),
		measure.Figure("of it, `docker` finding and starting the plugin (`generate --help`, as often)", "s", nothing),
	}
	result.Note("%d repetitions.", generateRepeat)
	return result, nil
}
