package stacks

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

var (
	link      = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading   = regexp.MustCompile("(?m)^#+ (.+)$")
	noAnchor  = regexp.MustCompile("[^a-z0-9_ -]")
	codeBlock = regexp.MustCompile("(?ms)^```.*?^```")
)

// anchors are what links into a document can name, as GitHub makes them of its headings.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, h := range heading.FindAllStringSubmatch(codeBlock.ReplaceAllString(text, ""), -1) {
		found[strings.ReplaceAll(noAnchor.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-")] = true
	}
	return found
}

// A part of a document that gets lost is noticed by the links that lead to it.
func TestLinksOfTheDocumentsLeadSomewhere(t *testing.T) {
	var documents []string
	for _, pattern := range []string{"../*.md", "../docs/*.md", "*/README.md"} {
		found, err := filepath.Glob(pattern)
		assert.NilError(t, err)
		documents = append(documents, found...)
	}
	checked := 0
	for _, document := range documents {
		text, err := os.ReadFile(document)
		assert.NilError(t, err)
		for _, l := range link.FindAllStringSubmatch(codeBlock.ReplaceAllString(string(text), ""), -1) {
			if strings.Contains(l[1], "://") {
				continue
			}
			path, anchor, _ := strings.Cut(l[1], "#")
			target := document
			if path != "" {
				target = filepath.Join(filepath.Dir(document), path)
			}
			content, err := os.ReadFile(target)
			if stat, statErr := os.Stat(target); statErr == nil && stat.IsDir() {
				err = nil
			}
			if err != nil {
				t.Errorf("%s: link %s: %v", document, l[1], err)
			} else if anchor != "" && !anchors(string(content))[anchor] {
				t.Errorf("%s: link %s: there is no such heading", document, l[1])
			}
			checked++
		}
	}
	assert.Assert(t, checked > 50, "%d links", checked)
}
