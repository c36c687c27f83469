package images

import (
	"testing"

	"gotest.tools/v3/assert"
)

func TestSourcesAreReadInBothFormats(t *testing.T) {
	list := parseList(`
# deb http://commented.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main contrib
deb http://vendor.example/apt stable nonfree
`)
	assert.DeepEqual(t, list, []source{{uri: "http://mirror.example/debian", suite: "bookworm", signedBy: "/usr/share/keyrings/k.gpg"}}, allowUnexported)

	deb822 := parseDeb822(`Types: deb deb-src
# a comment inside
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/k.gpg

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: http://mirror.example/security
Suites:
 bookworm-security
Components: main
`)
	assert.DeepEqual(t, deb822, []source{
		{uri: "http://mirror.example/debian", suite: "bookworm", signedBy: "/usr/share/keyrings/k.gpg"},
		{uri: "http://mirror.example/debian", suite: "bookworm-updates", signedBy: "/usr/share/keyrings/k.gpg"},
		{uri: "http://mirror.example/security", suite: "bookworm-security"},
	}, allowUnexported)
}

func TestLinesForASuiteComeFromTheMachinesMirrors(t *testing.T) {
	lines, err := linesFor("trixie", []source{
		{uri: "http://vendor.example/apt", suite: "nodistro"},
		{uri: "http://mirror.example/security", suite: "bookworm-security"},
		{uri: "http://mirror.example/debian", suite: "bookworm-updates"},
		{uri: "http://mirror.example/debian", suite: "bookworm", signedBy: "/k.gpg"},
	})
	assert.NilError(t, err)
	assert.DeepEqual(t, lines, []string{
		"deb [signed-by=/k.gpg] http://mirror.example/debian trixie main",
		"deb http://mirror.example/security trixie-security main",
	})
}

func TestAMachineWithoutADebianArchiveIsToldWhatToAdd(t *testing.T) {
	_, err := linesFor("trixie", []source{{uri: "http://vendor.example/apt", suite: "nodistro"}})
	assert.ErrorContains(t, err, "name no Debian archive with component main")
}

func TestProxyAndCertificateSettingsAreTakenOver(t *testing.T) {
	settings := downloadSettings(`Acquire "";
Acquire::Languages "none";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::https::CaInfo "/etc/ssl/own.pem";
Acquire::http "";
Acquire::Retries "3";
`)
	assert.DeepEqual(t, settings, []string{
		`Acquire::http::Proxy "http://proxy.example:3128";`,
		`Acquire::https::CaInfo "/etc/ssl/own.pem";`,
		`Acquire::Retries "3";`,
	})
}
