package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/openmanage/openmanage/testenv/host"
)

// Cutting drops packets on the node that is cut, in its own network namespace:
// before routing what comes in and after routing what goes out, so that traffic
// of its containers and of overlay networks is cut as well. Only traffic between
// nodes is; this machine and its registry stay reachable. The rules are the only
// record of a cut, so it ends with the node's life.
const (
	chainIn  = "OPENMANAGE-CUT-IN"
	chainOut = "OPENMANAGE-CUT-OUT"
)

// Cut lets no traffic pass between the node and the others given, or all others
// if none is given.
func (n *Node) Cut(ctx context.Context, from ...*Node) error {
	return n.cut(ctx, []string{chainIn, chainOut}, from)
}

// CutOneWay drops what the node sends to the others; it still hears them.
func (n *Node) CutOneWay(ctx context.Context, from ...*Node) error {
	return n.cut(ctx, []string{chainOut}, from)
}

// CutPort drops what the others send to a TCP port of the node, and nothing else: one
// service is away while the network is whole.
func (n *Node) CutPort(ctx context.Context, port int) error {
	script := prepareChains
	for _, other := range n.cluster.Nodes() {
		if other.Number != n.Number {
			script += ruleCommand(chainIn, other.IP(), fmt.Sprintf(" -p tcp -m tcp --dport %d", port))
		}
	}
	return n.iptables(ctx, script)
}

// Heal lets all traffic of the node pass again, from whichever side it was cut.
func (n *Node) Heal(ctx context.Context) error {
	return n.cluster.each(func(other *Node) error {
		if other.Number == n.Number {
			return other.heal(ctx, netip.Addr{})
		}
		return other.heal(ctx, n.IP())
	})
}

// A CutOff is one direction that is cut: what From sends does not reach To, which is
// a node, or a port of it.
type CutOff struct{ From, To string }

// Cuts lists the directions that are cut on this node.
func (n *Node) Cuts(ctx context.Context) ([]CutOff, error) {
	rules, err := n.rules(ctx)
	if err != nil {
		return nil, err
	}
	var cuts []CutOff
	for _, rule := range parseRules(rules) {
		peer := rule.peer.String()
		for _, other := range n.cluster.Nodes() {
			if other.IP() == rule.peer {
				peer = other.Name
			}
		}
		if rule.port != "" {
			cuts = append(cuts, CutOff{From: peer, To: n.Name + ":" + rule.port})
		} else if rule.chain == chainIn {
			cuts = append(cuts, CutOff{From: peer, To: n.Name})
		} else {
			cuts = append(cuts, CutOff{From: n.Name, To: peer})
		}
	}
	return cuts, nil
}

func (n *Node) cut(ctx context.Context, chains []string, from []*Node) error {
	if len(from) == 0 {
		from = n.cluster.Nodes()
	}
	script := prepareChains
	for _, other := range from {
		if other.Number == n.Number {
			continue
		}
		for _, chain := range chains {
			script += ruleCommand(chain, other.IP(), "")
		}
	}
	return n.iptables(ctx, script)
}

// prepareChains makes our chains and the jumps to them, once.
const prepareChains = `set -e
for chain in ` + chainIn + ` ` + chainOut + `; do iptables -w -t mangle -N $chain 2>/dev/null || true; done
iptables -w -t mangle -C PREROUTING -j ` + chainIn + ` 2>/dev/null || iptables -w -t mangle -I PREROUTING -j ` + chainIn + `
iptables -w -t mangle -C POSTROUTING -j ` + chainOut + ` 2>/dev/null || iptables -w -t mangle -I POSTROUTING -j ` + chainOut + `
`

func ruleCommand(chain string, peer netip.Addr, match string) string {
	direction := "-s"
	if chain == chainOut {
		direction = "-d"
	}
	rule := fmt.Sprintf("%s %s %s%s -j DROP", chain, direction, peer, match)
	return fmt.Sprintf("iptables -w -t mangle -C %s 2>/dev/null || iptables -w -t mangle -A %s\n", rule, rule)
}

// heal removes the node's rules about peer, or all for the zero address.
func (n *Node) heal(ctx context.Context, peer netip.Addr) error {
	if state, err := n.State(ctx); err != nil || (state != "running" && state != "paused") {
		return err // a node that is off has no rules
	}
	text, err := n.rules(ctx)
	if err != nil {
		return err
	}
	script := ""
	for _, rule := range parseRules(text) {
		if !peer.IsValid() || rule.peer == peer {
			script += "iptables -w -t mangle -D " + rule.text + "\n"
		}
	}
	if script == "" {
		return nil
	}
	return n.iptables(ctx, "set -e\n"+script)
}

func (n *Node) rules(ctx context.Context) (string, error) {
	pid, err := n.pid(ctx)
	if err != nil {
		return "", err
	}
	return host.Run(ctx, "nsenter", "--net", "--target", strconv.Itoa(pid), "iptables", "-w", "-t", "mangle", "-S")
}

// iptables runs a script in the node's network but from this machine, so that it
// also works on a node that is paused.
func (n *Node) iptables(ctx context.Context, script string) error {
	pid, err := n.pid(ctx)
	if err != nil {
		return err
	}
	if _, err := host.Run(ctx, "nsenter", "--net", "--target", strconv.Itoa(pid), "sh", "-c", script); err != nil {
		return fmt.Errorf("%s: cannot change its packet filter: %w", n.Name, err)
	}
	return nil
}

// pid is the node's first process as this machine numbers it.
func (n *Node) pid(ctx context.Context) (int, error) {
	out, err := host.Docker(ctx, "inspect", "--format", "{{.State.Pid}}", n.Container())
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil || pid == 0 {
		return 0, fmt.Errorf("%s is not running; start it with `testenv start %d`", n.Name, n.Number)
	}
	return pid, nil
}

type rule struct {
	chain string
	peer  netip.Addr
	port  string // "": all
	text  string // as -D takes it
}

// parseRules reads our rules out of what iptables -S prints.
func parseRules(text string) []rule {
	var rules []rule
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[0] != "-A" || !slices.Contains([]string{chainIn, chainOut}, fields[1]) {
			continue
		}
		address, _, _ := strings.Cut(fields[3], "/")
		peer, err := netip.ParseAddr(address)
		if err != nil {
			continue
		}
		port := ""
		if i := slices.Index(fields, "--dport"); i > 0 && i+1 < len(fields) {
			port = fields[i+1]
		}
		rules = append(rules, rule{chain: fields[1], peer: peer, port: port, text: strings.Join(fields[1:], " ")})
	}
	return rules
}
