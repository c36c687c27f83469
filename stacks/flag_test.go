package stacks

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestAParameterIsAnOptionUnlessItsNameIsTaken(t *testing.T) {
	app, err := parseApp([]byte(plainApp + `
parameters:
  - {name: cache_size, type: integer, description: d}
  - {name: cache-size, type: integer, description: d}
  - {name: volume_size, type: integer, description: d}
  - {name: Level, type: integer, description: d}
  - {name: q, type: integer, description: d}
`))
	assert.NilError(t, err)
	flags, without := app.Flags()
	var names []string
	for _, f := range flags {
		names = append(names, f.Name+" "+f.Parameter.Name)
	}
	assert.DeepEqual(t, names, []string{"cache-size cache_size", "q q"})
	assert.DeepEqual(t, without, []string{
		"parameter cache-size is set with --set cache-size=VALUE only: --cache-size sets cache_size",
		"parameter volume_size is set with --set volume_size=VALUE only: create has an option --volume-size of its own",
		"parameter Level is set with --set Level=VALUE only: an option has lower-case letters, digits and dashes, a letter first",
	})
}

// Every parameter of the catalog has its option, but those that are named here.
func TestParametersOfTheCatalogHaveTheirOptions(t *testing.T) {
	only := map[string][]string{"ntp": {"parameter allow is set with --set allow=VALUE only: create has an option --allow of its own"}}
	each(t, func(t *testing.T, app *App) {
		_, without := app.Flags()
		assert.DeepEqual(t, without, only[app.ID])
	})
}
