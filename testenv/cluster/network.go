package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/openmanage/openmanage/testenv/host"
)

const (
	networkName = "openmanage-testenv"
	bridgeName  = "openmanage0"
	// firstAddress is the host part of node 1's address less one: .11, .12, …
	firstAddress = 10
	maxNodes     = 50
)

// Network is what the nodes are attached to.
type Network struct {
	// Subnet is the nodes' network.
	Subnet netip.Prefix
}

// Gateway is this machine's address on the network, where the registry listens.
func (n Network) Gateway() netip.Addr { return n.Subnet.Masked().Addr().Next() }

// Address is that of a node: fixed, so that a node that restarts keeps it.
func (n Network) Address(number int) netip.Addr {
	bytes := n.Subnet.Masked().Addr().As4()
	bytes[3] += byte(firstAddress + number)
	return netip.AddrFrom4(bytes)
}

// ensureNetwork returns the network of the nodes and makes it if it is missing.
// The zero prefix leaves the choice to us.
func ensureNetwork(ctx context.Context, want netip.Prefix) (Network, error) {
	existing, err := findNetwork(ctx)
	if err == nil {
		if want.IsValid() && existing.Subnet != want.Masked() {
			return Network{}, fmt.Errorf("the network %s exists with subnet %s, not %s; remove it first with `testenv down`", networkName, existing.Subnet, want)
		}
		return existing, nil
	}
	if !errors.Is(err, ErrNotUp) {
		return Network{}, err
	}
	if !want.IsValid() {
		if want, err = freeSubnet(); err != nil {
			return Network{}, err
		}
	}
	if !want.Addr().Is4() || want.Bits() > 24 {
		return Network{}, fmt.Errorf("subnet %s: an IPv4 network of /24 or larger is needed", want)
	}
	network := Network{Subnet: want.Masked()}
	_, err = host.Docker(ctx, "network", "create", "--subnet", network.Subnet.String(), "--gateway", network.Gateway().String(),
		"--opt", "com.docker.network.bridge.name="+bridgeName, "--label", "openmanage.testenv=", networkName)
	if err != nil {
		return Network{}, fmt.Errorf("cannot make the nodes' network %s; another subnet can be given with --subnet: %w", network.Subnet, err)
	}
	return network, nil
}

func findNetwork(ctx context.Context) (Network, error) {
	_, stderr, err := host.Output(ctx, "docker", "--host", host.EngineHost, "version", "--format", "x")
	if err != nil {
		return Network{}, fmt.Errorf("%w (no Docker engine answers: %s)", ErrNotUp, strings.TrimSpace(stderr))
	}
	out, stderr, err := host.Output(ctx, "docker", "--host", host.EngineHost, "network", "inspect", "--format", "{{json .IPAM.Config}}", networkName)
	if err != nil {
		if strings.Contains(strings.ToLower(stderr), "no such network") || strings.Contains(stderr, "not found") {
			return Network{}, ErrNotUp
		}
		return Network{}, fmt.Errorf("network %s: %w: %s", networkName, err, strings.TrimSpace(stderr))
	}
	var config []struct{ Subnet netip.Prefix }
	if err := json.Unmarshal([]byte(out), &config); err != nil || len(config) == 0 {
		return Network{}, fmt.Errorf("network %s has no subnet; remove it with `docker network rm %s`", networkName, networkName)
	}
	return Network{Subnet: config[0].Subnet.Masked()}, nil
}

// freeSubnet chooses a private network that no interface of this machine has.
func freeSubnet() (netip.Prefix, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return netip.Prefix{}, err
	}
	var used []netip.Prefix
	for _, iface := range interfaces {
		if iface.Name == bridgeName {
			continue // left by an engine that was killed; the next one removes it
		}
		addresses, err := iface.Addrs()
		if err != nil {
			return netip.Prefix{}, err
		}
		for _, address := range addresses {
			if prefix, err := netip.ParsePrefix(address.String()); err == nil {
				used = append(used, prefix.Masked())
			}
		}
	}
	return chooseSubnet(used)
}

func chooseSubnet(used []netip.Prefix) (netip.Prefix, error) {
candidates:
	for second := range 40 {
		candidate := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(213 + second), 0, 0}), 24)
		for _, prefix := range used {
			if prefix.Overlaps(candidate) {
				continue candidates
			}
		}
		return candidate, nil
	}
	return netip.Prefix{}, errors.New("no free subnet between 10.213.0.0/24 and 10.252.0.0/24; give one with --subnet")
}
