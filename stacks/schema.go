package stacks

import _ "embed"

// Schema is the JSON schema of an app.yaml, for editors.
//
//go:embed app.schema.json
var Schema []byte
