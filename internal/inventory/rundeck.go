package inventory

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// rundeckNode is a node entry of Rundeck's format resource-json
// (https://docs.rundeck.com/docs/manual/document-format-reference/resource-json-v10.html). What
// is not Rundeck's own there is an attribute that people can filter by.
type rundeckNode struct {
	Nodename    string   `json:"nodename"`
	Hostname    string   `json:"hostname"` // where it is reached by SSH
	Description string   `json:"description"`
	Tags        []string `json:"tags"`

	OSFamily string `json:"osFamily,omitempty"`
	OSName   string `json:"osName,omitempty"`
	OSArch   string `json:"osArch,omitempty"`

	ID     string `json:"swarm-id"`
	State  string `json:"swarm-state"`
	Engine string `json:"docker-version,omitempty"`
}

// pinPrefix begins labels that are OpenManage's own and come and go.
const pinPrefix = "openmanage.pin."

// rundeck is the resource model of a project: the nodes by their names, which must be unique. Of
// nodes with one hostname, such as a machine that joined anew, one has it as its name.
func rundeck(nodes []Node) map[string]rundeckNode {
	model := map[string]rundeckNode{}
	for _, n := range nodes {
		name := n.Hostname
		if _, taken := model[name]; taken || name == "" {
			name = strings.TrimPrefix(n.Hostname+"."+n.ID, ".")
		}
		tags := []string{n.Role, n.Availability, n.State}
		for _, key := range slices.Sorted(maps.Keys(n.Labels)) {
			switch value := n.Labels[key]; {
			case strings.HasPrefix(key, pinPrefix):
			case value == "":
				tags = append(tags, key)
			default:
				tags = append(tags, key+"="+value)
			}
		}
		host := n.Address
		if host == "" {
			host = n.Hostname
		}
		model[name] = rundeckNode{
			Nodename: name, Hostname: host, Tags: tags,
			Description: fmt.Sprintf("%s of the Swarm, Docker %s", n.Role, n.Engine),
			OSFamily:    osFamily(n.OS), OSName: n.OS, OSArch: n.Arch,
			ID: n.ID, State: n.State, Engine: n.Engine,
		}
	}
	return model
}

// osFamily is the family, in Rundeck's words, of a system in Docker's.
func osFamily(system string) string {
	switch system {
	case "", "windows":
		return system
	}
	return "unix"
}
