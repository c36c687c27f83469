package stacks

import (
	"testing"

	"gotest.tools/v3/assert"
	"gotest.tools/v3/golden"
)

// Every application of the catalog renders a stack that Docker takes, the same
// each time.
func TestEveryApplicationGenerates(t *testing.T) {
	catalog, err := Builtin()
	assert.NilError(t, err)
	for _, app := range catalog.Apps() {
		t.Run(app.ID, func(t *testing.T) {
			stack, err := app.Generate(Options{Name: "app"})
			assert.NilError(t, err)
			golden.Assert(t, string(stack.YAML), "catalog/"+app.ID+".golden")
			again, err := app.Generate(Options{Name: "app"})
			assert.NilError(t, err)
			assert.Equal(t, string(again.YAML), string(stack.YAML))
		})
	}
}
