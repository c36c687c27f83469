package stacks

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestAnImageOfAnotherMajorVersionIsRefused(t *testing.T) {
	catalog, err := Builtin()
	assert.NilError(t, err)
	app, err := catalog.Find("postgresql")
	assert.NilError(t, err)
	const digest = "@sha256:0123456789012345678901234567890123456789012345678901234567890123"
	for _, tc := range []struct{ from, to, note, err string }{
		{from: "postgres:17", to: "postgres:17.9"},
		{from: "postgres:17.5" + digest, to: "postgres:17.9"},
		{from: "postgres:17", to: "postgres:18", err: "PostgreSQL 18 cannot open the data of PostgreSQL 17"},
		{from: "postgres:17.5" + digest, to: "registry.example/db/postgres:16-alpine", err: "PostgreSQL 16 cannot open the data of PostgreSQL 17"},
		{from: "postgres:17.9", to: "postgres:17.5-bookworm", note: "17.5 is older than 17.9: minor versions of PostgreSQL share one format of data, so this is safe; what the newer one has mended is missing again"},
		{from: "postgres:17", to: "postgres:latest"},
		{from: "postgres:17", to: "timescale/timescaledb:2.21-pg17"},
		{from: "postgres", to: "postgres:18"},
	} {
		note, err := app.CheckUpgrade(tc.from, tc.to)
		if tc.err != "" {
			assert.ErrorContains(t, err, tc.err)
			assert.ErrorIs(t, err, ErrUpgrade)
			continue
		}
		assert.NilError(t, err)
		assert.Equal(t, note, tc.note)
	}
	app.Image.Downgrade = ""
	_, err = app.CheckUpgrade("postgres:17.9", "postgres:17.5")
	assert.ErrorContains(t, err, "cannot go back")
}
