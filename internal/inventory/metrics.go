package inventory

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/openmanage/openmanage/internal/api"
)

func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("openmanage_"+name, help, labels, nil)
}

// Labels of what is of a member and of a node. A hostname can be there twice, when a machine has
// left the Swarm and joined anew.
var (
	ofMember = []string{"application", "type", "member"}
	ofNode   = []string{"node", "node_id"}
)

var (
	complete = metric("inventory_complete", "Whether all of this could be read: nodes, records of applications, the members' own word (status).", "source")

	nodeReady = metric("node_ready", "Whether Swarm hears from the node.", ofNode...)
	nodeInfo  = metric("node_info", "A node of the Swarm.", append(ofNode, "role", "availability", "state", "address", "engine_version", "os", "arch")...)

	memberInfo    = metric("member_info", "A member of an application, where it is and how.", append(ofMember, "node", "role", "state")...)
	memberHealthy = metric("member_healthy", "Whether the member is healthy. Missing while nobody can tell.", ofMember...)
	memberPrimary = metric("member_primary", "Whether the member says that it is the primary, of applications that have one.", ofMember...)
	memberSync    = metric("member_sync", "Whether commits may wait for this standby.", ofMember...)
	timeline      = metric("member_timeline", "Timeline of the member's data, which counts the changes of the primary.", ofMember...)
	lagBytes      = metric("member_lag_bytes", "How far the standby is behind the primary, in bytes of its log.", ofMember...)
	lagSeconds    = metric("member_lag_seconds", "How far the standby is behind the primary, in seconds.", ofMember...)

	volumeUsed = metric("volume_used_bytes", "Space in use on the member's volume.", append(ofMember, "volume")...)
	volumeSize = metric("volume_size_bytes", "Space on the member's volume, used or not, without what is kept for root.", append(ofMember, "volume")...)
)

// unknown is the role and the state of a member that was not heard.
const unknown = "unknown"

// collector gives a State to Prometheus. err: there is none.
type collector struct {
	state State
	err   error
}

// Describe says nothing, so that what is collected is not checked against it.
func (collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends all metrics.
func (c collector) Collect(to chan<- prometheus.Metric) {
	send := func(desc *prometheus.Desc, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
	}
	send(complete, number(c.err == nil), "nodes")
	send(complete, number(c.err == nil && c.state.Incomplete == ""), "records")
	send(complete, number(c.err == nil && c.state.Unheard == ""), "status")
	for _, n := range c.state.Nodes {
		send(nodeReady, number(n.Ready()), n.Hostname, n.ID)
		send(nodeInfo, 1, n.Hostname, n.ID, n.Role, n.Availability, n.State, n.Address, n.Engine, n.OS, n.Arch)
	}
	for _, m := range c.state.Members {
		c.member(m, func(desc *prometheus.Desc, value float64, labels ...string) {
			send(desc, value, append([]string{m.Application, m.Type, m.Name}, labels...)...)
		})
	}
}

// member sends what is known of one. What is not known is left out: a missing value is no
// healthy member, and no lag of 0.
func (c collector) member(m Member, send func(desc *prometheus.Desc, value float64, labels ...string)) {
	role, state := api.Role(unknown), api.MemberState(unknown)
	switch {
	case m.Live != nil:
		role, state = m.Live.Role, m.Live.State
	case c.state.Unheard == "" && !m.Healthy: // why the leading manager takes it for lost
		state = m.State
	}
	send(memberInfo, 1, m.Node, string(role), string(state))
	if m.Usage.Known() {
		send(volumeUsed, float64(m.Usage.Used), m.Volume)
		send(volumeSize, float64(m.Usage.Size()), m.Volume)
	}
	if c.state.Unheard != "" {
		return // the records may be old
	}
	switch {
	case m.Live != nil:
		send(memberHealthy, number(m.Live.Healthy))
	case !m.Healthy:
		send(memberHealthy, 0)
	default: // a new leader has not heard it yet
	}
	if m.Role == api.RolePrimary || m.Role == api.RoleStandby {
		send(memberPrimary, number(role == api.RolePrimary))
	}
	if m.Live == nil || state != api.StateRunning {
		return
	}
	if m.Live.Timeline > 0 {
		send(timeline, float64(m.Live.Timeline))
	}
	if role != api.RoleStandby {
		return
	}
	send(memberSync, number(m.Live.Sync))
	if m.Live.LagBytes >= 0 {
		send(lagBytes, float64(m.Live.LagBytes))
	}
	if m.Live.LagSeconds >= 0 {
		send(lagSeconds, m.Live.LagSeconds)
	}
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
