package stacks

import (
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// rendered is what comes of a template, and why not.
func rendered(t *testing.T, template string, within time.Duration) (string, error) {
	t.Helper()
	app, err := parseApp([]byte(partedApp))
	assert.NilError(t, err)
	app.template = template
	d, err := app.data(app.Complete(Options{Name: "web"}))
	assert.NilError(t, err)
	doc, err := app.render(d, within)
	return string(doc), err
}

func TestATemplateEnds(t *testing.T) {
	_, err := rendered(t, `[[ range 20000000 ]][[ end ]]`, 20*time.Millisecond) // seconds, so that the tests after it have the processor again
	assert.ErrorIs(t, err, errEndless)
}

// A text that is made longer and longer need not be written to use up the memory.
func TestATemplateDoesNotEatUpTheMemory(t *testing.T) {
	for name, more := range map[string]string{
		"printf":            `printf "%s%s" $x $x`,
		"printf, quoted":    `printf "%+q" $x`,
		"printf, repeated":  `printf "%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s%[1]s" $x`,
		"printf, left over": `printf "" $x $x $x`,
		"quote":             `quote $x`,
		"json":              `json $x`,
		"secret":            `secret $x $x`,
		"hosts":             `(.Need "db").Join $x`,
	} {
		t.Run(name, func(t *testing.T) {
			_, err := rendered(t, `[[ $x := "''$$%s" ]][[ range 64 ]][[ $x = `+strings.Replace(more, ".Need", "$.Need", 1)+` ]][[ end ]]`, time.Minute)
			assert.ErrorIs(t, err, errLarge)
		})
	}
	_, err := formatted(strings.Repeat("%[1]s", 100), strings.Repeat("x", 400<<10))
	assert.ErrorIs(t, err, errLarge)
	for what, want := range map[string]string{
		`printf "%9999d" 1`: "a width of more than 999",
		`printf "%*d" 99 1`: "a width of more than 999",
		`printf "%v" .App`:  "printf takes texts, numbers and booleans",
		`print "a"`:         "print is no function of stack.yaml.tmpl",
		`html "a"`:          "html is no function of stack.yaml.tmpl",
	} {
		_, err := rendered(t, "[[ "+what+" ]]", time.Minute)
		assert.ErrorContains(t, err, want)
	}
	doc, err := rendered(t, `[[ printf "%-5s|%05.1f|%t %% %q" "a" 1.5 true "b" ]]`, time.Minute)
	assert.NilError(t, err)
	assert.Equal(t, doc, `a    |001.5|true % "b"`)
}
