package cluster

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"
)

func TestOptions(t *testing.T) {
	cases := []struct {
		doc     string
		options Options
		nodes   int
		manager int
		err     string
	}{
		{doc: "three managers by default", nodes: 3, manager: 3},
		{doc: "all nodes manage by default", options: Options{Nodes: 5}, nodes: 5, manager: 5},
		{doc: "workers", options: Options{Nodes: 4, Managers: 1}, nodes: 4, manager: 1},
		{doc: "more managers than nodes", options: Options{Nodes: 2, Managers: 3}, err: "3 managers among 2 nodes"},
		{doc: "negative", options: Options{Nodes: -1}, err: "-1 nodes cannot be made"},
		{doc: "more than addresses", options: Options{Nodes: 51}, err: "51 nodes cannot be made: 1 to 50 can"},
	}
	for _, c := range cases {
		t.Run(c.doc, func(t *testing.T) {
			got, err := c.options.withDefaults()
			if c.err != "" {
				assert.ErrorContains(t, err, c.err)
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, got.Nodes, c.nodes)
			assert.Equal(t, got.Managers, c.manager)
		})
	}
}

func TestAddressesAreFixedByNumber(t *testing.T) {
	network := Network{Subnet: netip.MustParsePrefix("10.213.0.0/24")}
	assert.Equal(t, network.Gateway().String(), "10.213.0.1")
	assert.Equal(t, network.Address(1).String(), "10.213.0.11")
	assert.Equal(t, network.Address(maxNodes).String(), "10.213.0.60")
}

func TestASubnetThatTheMachineUsesIsNotChosen(t *testing.T) {
	got, err := chooseSubnet([]netip.Prefix{netip.MustParsePrefix("10.213.0.0/16"), netip.MustParsePrefix("10.214.0.128/25")})
	assert.NilError(t, err)
	assert.Equal(t, got.String(), "10.215.0.0/24")

	_, err = chooseSubnet([]netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")})
	assert.ErrorContains(t, err, "--subnet")
}

func TestOnlyOurRulesAreReadAsCuts(t *testing.T) {
	got := parseRules(`-P PREROUTING ACCEPT
-N OPENMANAGE-CUT-IN
-A PREROUTING -j OPENMANAGE-CUT-IN
-A FORWARD -s 10.213.0.12/32 -j DROP
-A OPENMANAGE-CUT-IN -s 10.213.0.12/32 -j DROP
-A OPENMANAGE-CUT-OUT -d 10.213.0.13/32 -j DROP
-A OPENMANAGE-CUT-IN -s 10.213.0.13/32 -p tcp -m tcp --dport 2377 -j DROP
`)
	assert.DeepEqual(t, got, []rule{
		{chain: chainIn, peer: netip.MustParseAddr("10.213.0.12"), text: "OPENMANAGE-CUT-IN -s 10.213.0.12/32 -j DROP"},
		{chain: chainOut, peer: netip.MustParseAddr("10.213.0.13"), text: "OPENMANAGE-CUT-OUT -d 10.213.0.13/32 -j DROP"},
		{chain: chainIn, peer: netip.MustParseAddr("10.213.0.13"), port: "2377", text: "OPENMANAGE-CUT-IN -s 10.213.0.13/32 -p tcp -m tcp --dport 2377 -j DROP"},
	}, cmp.AllowUnexported(rule{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b }))
}

func TestNodesAreReadByNumber(t *testing.T) {
	got, err := parseNodes("10 false true\n2 true false\n")
	assert.NilError(t, err)
	assert.DeepEqual(t, got, []nodeSpec{{Number: 2, Manager: true}, {Number: 10, Local: true}})

	_, err = parseNodes("one true false\n")
	assert.ErrorContains(t, err, `number "one"`)
}

func TestTheMajorityOfManagersNamesTheLeader(t *testing.T) {
	says := func(leader string) []swarm.Node {
		return []swarm.Node{{ID: leader, ManagerStatus: &swarm.ManagerStatus{Leader: true}}}
	}
	manager, worker := &Node{Name: "node1", Manager: true}, &Node{Name: "node4"}
	cases := []struct {
		doc     string
		answers []answer
		leader  string
		err     string
	}{
		{doc: "a leader that was cut off is outvoted", leader: "b", answers: []answer{
			{node: manager, view: says("a")}, {node: manager, view: says("b")}, {node: manager, view: says("b")}}},
		{doc: "a manager that hangs does not count", leader: "a", answers: []answer{
			{node: manager, err: errors.New("timeout")}, {node: manager, view: says("a")}, {node: manager, view: says("a")}}},
		{doc: "workers do not know and are not asked why", leader: "a", answers: []answer{
			{node: worker, err: errors.New("not a manager")}, {node: manager, view: says("a")}}},
		{doc: "during an election there is none", err: "node1 knows no leader", answers: []answer{
			{node: manager, view: []swarm.Node{{ID: "a"}}}}},
	}
	for _, c := range cases {
		t.Run(c.doc, func(t *testing.T) {
			answers := make(chan answer, len(c.answers))
			for _, a := range c.answers {
				answers <- a
			}
			got, err := poll(answers, len(c.answers), 2)
			if c.err != "" {
				assert.ErrorContains(t, err, c.err)
				return
			}
			assert.NilError(t, err)
			assert.Equal(t, leaderID(got), c.leader)
		})
	}
}
