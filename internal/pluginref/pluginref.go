// Package pluginref compares references of managed plugins.
package pluginref

import "github.com/distribution/reference"

// Same tells whether a and b are the same reference, as Docker understands them:
// registry, library and the tag latest are implied.
func Same(a, b string) bool { return normal(a) == normal(b) }

func normal(r string) string {
	named, err := reference.ParseNormalizedNamed(r)
	if err != nil {
		return r
	}
	return reference.TagNameOnly(named).String()
}
