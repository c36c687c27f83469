package networkplugin

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
)

// members returns the running containers of members on this node: those that
// mount a runtime volume.
func (h *helper) members(ctx context.Context) ([]api.MemberContainer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res, err := h.Docker.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list this node's containers: %w", err)
	}
	var members []api.MemberContainer
	for _, c := range res.Items {
		volume, ok := memberOf(c)
		if !ok {
			continue
		}
		m := api.MemberContainer{Volume: volume, Container: c.ID, Addresses: map[string]string{}}
		if c.NetworkSettings != nil {
			for name, n := range c.NetworkSettings.Networks {
				if n != nil && n.IPAddress.IsValid() {
					m.Addresses[name] = n.IPAddress.String()
				}
			}
		}
		members = append(members, m)
	}
	return members, nil
}

// memberOf returns the data volume of the member that c is the container of.
func memberOf(c container.Summary) (volume string, ok bool) {
	for _, m := range c.Mounts {
		if m.Destination != api.RuntimeDir {
			continue
		}
		if volume, ok := api.DataVolumeOf(m.Name); ok {
			return volume, true
		}
	}
	return "", false
}
