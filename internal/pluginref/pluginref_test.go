package pluginref_test

import (
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/pluginref"
)

func TestSame(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"openmanage/volume:1", "docker.io/openmanage/volume:1", true},
		{"openmanage/volume", "openmanage/volume:latest", true},
		{"10.0.0.1:5000/openmanage/volume", "10.0.0.1:5000/openmanage/volume:latest", true},
		{"openmanage/volume:1", "openmanage/volume:2", false},
		{"openmanage/volume:1", "10.0.0.1:5000/openmanage/volume:1", false},
		{"", "openmanage/volume:1", false},
	} {
		assert.Equal(t, pluginref.Same(tc.a, tc.b), tc.want, "%s and %s", tc.a, tc.b)
	}
}
