package stacks

import (
	"bytes"
	"fmt"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
	"gotest.tools/v3/assert"
)

func schema(t *testing.T) (compiled *jsonschema.Schema, raw map[string]any) {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(Schema))
	assert.NilError(t, err)
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	assert.NilError(t, compiler.AddResource("app.schema.json", doc))
	compiled, err = compiler.Compile("app.schema.json")
	assert.NilError(t, err)
	return compiled, doc.(map[string]any)
}

// asJSON makes of YAML what an editor gives to its validator.
func asJSON(t *testing.T, doc string) any {
	t.Helper()
	var value any
	assert.NilError(t, yaml.Unmarshal([]byte(doc), &value))
	return stringKeys(value)
}

func stringKeys(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key := range v {
			v[key] = stringKeys(v[key])
		}
	case map[any]any:
		converted := map[string]any{}
		for key := range v {
			converted[fmt.Sprint(key)] = stringKeys(v[key])
		}
		return converted
	case []any:
		for i := range v {
			v[i] = stringKeys(v[i])
		}
	}
	return value
}

func TestEveryTypeFitsTheSchema(t *testing.T) {
	compiled, _ := schema(t)
	each(t, func(t *testing.T, app *App) {
		doc, err := fs.ReadFile(builtin, app.ID+"/app.yaml")
		assert.NilError(t, err)
		assert.NilError(t, compiled.Validate(asJSON(t, string(doc))))
	})
	assert.NilError(t, compiled.Validate(asJSON(t, plainApp)))
}

// The schema has what Go reads, and nothing else.
func TestTheSchemaHasTheFieldsOfAppYAML(t *testing.T) {
	_, raw := schema(t)
	compare(t, "app.yaml", reflect.TypeFor[App](), raw, raw["$defs"].(map[string]any))
}

// compare follows references to what is defined once.
func compare(t *testing.T, path string, typ reflect.Type, node, defs map[string]any) {
	t.Helper()
	if ref, ok := node["$ref"].(string); ok {
		node = defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
	}
	switch typ.Kind() {
	case reflect.Slice:
		if items, ok := node["items"].(map[string]any); ok {
			compare(t, path+"[]", typ.Elem(), items, defs)
		}
	case reflect.Struct:
		properties, ok := node["properties"].(map[string]any)
		assert.Assert(t, ok, "%s: the schema has no fields", path)
		assert.Equal(t, node["additionalProperties"], false, path)
		assert.DeepEqual(t, sortedKeys(properties), fieldNames(typ))
		for i := range typ.NumField() {
			name := fieldName(typ.Field(i))
			if name == "" {
				continue
			}
			compare(t, path+"."+name, typ.Field(i).Type, properties[name].(map[string]any), defs)
		}
	}
}

func TestTheSchemaRefuses(t *testing.T) {
	compiled, _ := schema(t)
	for _, tc := range []struct{ doc, without, with string }{
		{"unknown field", "category: Web", "categori: Web"},
		{"id", "id: web", "id: Web"},
		{"missing", "title: Web\n", ""},
		{"no command and no engine", "command: [web]\n", ""},
		{"size", "size: 1GiB", "size: big"},
		{"filesystem", "min_size: 64MiB", "min_size: 64MiB, filesystems: [zfs]"},
		{"members", "min: 1", "min: none"},
		{"check", "tcp://127.0.0.1:80", "ftp://127.0.0.1"},
		{"parameter without description", "command: [web]", "command: [web]\nparameters: [{name: p, type: integer}]"},
		{"parameter of no type", "command: [web]", "command: [web]\nparameters: [{name: p, type: float, description: d}]"},
		{"choice of nothing", "command: [web]", "command: [web]\nparameters: [{name: p, type: choice, description: d}]"},
		{"port", "command: [web]", "command: [web]\nports: [{port: 70000, description: d}]"},
		{"component without an image", "command: [web]", "command: [web]\ncomponents: [{name: c, description: d, resources: {memory: 64MiB}, health: {test: [CMD, c]}}]"},
		{"own component without a command", "command: [web]", "command: [web]\ncomponents: [{name: c, description: d, own: true, resources: {memory: 64MiB}, health: {test: [CMD, c]}}]"},
		{"own component with an image", "command: [web]", "command: [web]\ncomponents: [{name: c, description: d, own: true, command: [c], image: c:1, resources: {memory: 64MiB}, health: {test: [CMD, c]}}]"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			doc := strings.Replace(plainApp, tc.without, tc.with, 1)
			assert.Assert(t, doc != plainApp)
			assert.Assert(t, compiled.Validate(asJSON(t, doc)) != nil)
			// Lint is no milder.
			_, _, problems := Lint(Source{App: doc, Template: plainTemplate})
			assert.Assert(t, slices.ContainsFunc(problems, func(p Problem) bool { return p.File == appFile }), problems)
		})
	}
}
