package stacks

import (
	"encoding/json"
	"testing"

	"gotest.tools/v3/assert"
)

// graylogValue is how a content pack of Graylog's writes a value.
type graylogValue struct {
	Type  string `json:"@type"`
	Value any    `json:"@value"`
}

// Each port of Graylog's that is no web front end has an input, in the form in which Graylog's loader
// takes it: values with their types, and each field that the input cannot do without.
func TestGraylogGetsAnInputForEachPort(t *testing.T) {
	catalog, err := Builtin()
	assert.NilError(t, err)
	app, err := catalog.Find("graylog")
	assert.NilError(t, err)
	environment := generated(t, app)[0].Environment
	assert.Equal(t, *environment["GRAYLOG_CONTENT_PACKS_AUTO_INSTALL"], "inputs.json")
	var pack struct {
		V        string `json:"v"`
		ID       string `json:"id"`
		Rev      int    `json:"rev"`
		Entities []struct {
			V    string            `json:"v"`
			ID   string            `json:"id"`
			Type map[string]string `json:"type"`
			Data struct {
				Title         graylogValue            `json:"title"`
				Type          graylogValue            `json:"type"`
				Global        graylogValue            `json:"global"`
				Configuration map[string]graylogValue `json:"configuration"`
			} `json:"data"`
		} `json:"entities"`
	}
	assert.NilError(t, json.Unmarshal([]byte(*environment["OPENMANAGE_FILE_contentpacks/inputs.json"]), &pack))
	assert.Equal(t, pack.V, "1")
	ids := map[string]bool{pack.ID: true}
	ports := map[int]string{}
	for _, e := range pack.Entities {
		assert.Assert(t, e.V == "1" && e.Type["name"] == "input" && e.Type["version"] == "1" && !ids[e.ID], e.ID)
		ids[e.ID] = true
		assert.Equal(t, e.Data.Global, graylogValue{"boolean", true}) // of whatever node Graylog is
		assert.Equal(t, e.Data.Title.Type, "string")
		for name, r := range e.Data.Configuration {
			kind := map[string]bool{}
			switch r.Value.(type) {
			case string:
				kind["string"] = true
			case bool:
				kind["boolean"] = true
			case float64:
				kind["integer"] = true
			}
			assert.Assert(t, kind[r.Type], "%s: %v", name, r)
		}
		assert.Equal(t, e.Data.Configuration["bind_address"].Value, "0.0.0.0")
		port, ok := e.Data.Configuration["port"].Value.(float64)
		assert.Assert(t, ok)
		ports[int(port)] = e.Data.Type.Value.(string)
	}
	want := map[int]string{
		5140: "org.graylog2.inputs.syslog.tcp.SyslogTCPInput", 12201: "org.graylog2.inputs.gelf.tcp.GELFTCPInput", 5044: "org.graylog.plugins.beats.Beats2Input",
	}
	assert.DeepEqual(t, ports, want)
	for _, p := range app.Ports {
		assert.Assert(t, p.Web || want[p.Port] != "", "port %d has no input", p.Port)
	}
}
