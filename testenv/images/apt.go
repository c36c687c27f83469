package images

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/openmanage/openmanage/testenv/host"
)

// A source is one place that the machine's apt takes Debian packages from.
type source struct {
	uri      string
	suite    string
	signedBy string
}

// readSources reads the machine's apt sources, in both formats. Images are made
// from the mirrors that the machine itself uses; no mirror is named here.
func readSources(etcApt string) ([]source, error) {
	lists, _ := filepath.Glob(filepath.Join(etcApt, "sources.list.d", "*.list"))
	lists = append([]string{filepath.Join(etcApt, "sources.list")}, lists...)
	deb822, _ := filepath.Glob(filepath.Join(etcApt, "sources.list.d", "*.sources"))
	var sources []source
	for _, file := range append(lists, deb822...) {
		text, err := os.ReadFile(file)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if strings.HasSuffix(file, ".sources") {
			sources = append(sources, parseDeb822(string(text))...)
		} else {
			sources = append(sources, parseList(string(text))...)
		}
	}
	return sources, nil
}

// parseList reads one-line entries: deb [options] URI SUITE COMPONENT...
func parseList(text string) []source {
	var sources []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, isDeb := strings.CutPrefix(strings.TrimSpace(line), "deb")
		if !isDeb || rest == "" || (rest[0] != ' ' && rest[0] != '\t') {
			continue
		}
		rest = strings.TrimSpace(rest)
		var entry source
		if strings.HasPrefix(rest, "[") {
			options, after, found := strings.Cut(rest[1:], "]")
			if !found {
				continue
			}
			for _, option := range strings.Fields(options) {
				if value, ok := strings.CutPrefix(option, "signed-by="); ok {
					entry.signedBy = value
				}
			}
			rest = after
		}
		fields := strings.Fields(rest)
		if len(fields) < 3 || !slices.Contains(fields[2:], "main") {
			continue
		}
		entry.uri, entry.suite = fields[0], fields[1]
		sources = append(sources, entry)
	}
	return sources
}

// parseDeb822 reads stanzas of "Key: value" lines.
func parseDeb822(text string) []source {
	var sources []source
	stanza := map[string]string{}
	flush := func() {
		defer clear(stanza)
		if strings.EqualFold(stanza["enabled"], "no") ||
			!slices.Contains(strings.Fields(stanza["types"]), "deb") ||
			!slices.Contains(strings.Fields(stanza["components"]), "main") {
			return
		}
		for _, uri := range strings.Fields(stanza["uris"]) {
			for _, suite := range strings.Fields(stanza["suites"]) {
				entry := source{uri: uri, suite: suite}
				// A key may also stand here in full; then it is not a path.
				if signed := stanza["signed-by"]; strings.HasPrefix(signed, "/") {
					entry.signedBy = signed
				}
				sources = append(sources, entry)
			}
		}
	}
	key := ""
	scanner := bufio.NewScanner(strings.NewReader(text))
	for scanner.Scan() {
		line := scanner.Text()
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			stanza[key] += " " + strings.TrimSpace(line)
		default:
			name, value, _ := strings.Cut(line, ":")
			key = strings.ToLower(strings.TrimSpace(name))
			stanza[key] = strings.TrimSpace(value)
		}
	}
	flush()
	return sources
}

// linesFor derives the lines that install a Debian suite from the mirrors in
// sources: the archive and, where the machine has it, the security archive.
func linesFor(suite string, sources []source) ([]string, error) {
	var archive, security *source
	for i, s := range sources {
		release, _, _ := strings.Cut(s.suite, "-")
		if !debianSuites[strings.TrimSuffix(release, "/updates")] {
			continue
		}
		switch {
		case strings.Contains(s.suite, "-security") || strings.HasSuffix(s.suite, "/updates"):
			if security == nil {
				security = &sources[i]
			}
		case !strings.Contains(s.suite, "-") && archive == nil:
			archive = &sources[i]
		}
	}
	if archive == nil {
		return nil, fmt.Errorf("the apt sources of this machine (/etc/apt/sources.list, sources.list.d) name no Debian archive with component main to make %s images from; add one", suite)
	}
	lines := []string{line(*archive, suite)}
	if security != nil && suite != "sid" {
		lines = append(lines, line(*security, suite+"-security"))
	}
	return lines, nil
}

// debianSuites tells Debian's own entries from those of other vendors.
var debianSuites = map[string]bool{
	"bullseye": true, "bookworm": true, "trixie": true, "forky": true, "sid": true,
	"oldstable": true, "stable": true, "testing": true, "unstable": true,
}

func line(s source, suite string) string {
	if s.signedBy != "" {
		return fmt.Sprintf("deb [signed-by=%s] %s %s main", s.signedBy, s.uri, suite)
	}
	return fmt.Sprintf("deb %s %s main", s.uri, suite)
}

// aptOptions returns the machine's own settings for downloads (proxy,
// certificates, retries), which mmdebstrap does not take over by itself.
func aptOptions(ctx context.Context) ([]string, error) {
	dump, err := host.Run(ctx, "apt-config", "dump", "Acquire")
	if err != nil {
		return nil, err
	}
	return downloadSettings(dump), nil
}

func downloadSettings(dump string) []string {
	var settings []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		name, value, _ := strings.Cut(line, " ")
		if value == `"";` || value == "" {
			continue
		}
		for _, prefix := range []string{"Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv"} {
			if strings.HasPrefix(name, prefix) {
				settings = append(settings, line)
				break
			}
		}
	}
	return settings
}
