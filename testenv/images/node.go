package images

import _ "embed"

//go:embed node.sh
var nodeInit string

// nodeRecipe makes a machine: Debian with a Docker engine.
func nodeRecipe() Recipe {
	return Recipe{
		Name:    "node",
		Suite:   "trixie",
		Variant: "minbase",
		Packages: []string{
			"docker.io", "docker-cli", "iptables", "iproute2", "ca-certificates", "procps",
			"e2fsprogs", "xfsprogs", "util-linux",
		},
		Files: map[string]File{"/usr/local/sbin/openmanage-node": {Content: nodeInit, Mode: 0o755}},
		Config: []string{
			`ENTRYPOINT ["/usr/local/sbin/openmanage-node"]`,
		},
	}
}
