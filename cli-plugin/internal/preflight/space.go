package preflight

import (
	"fmt"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/swarm"
)

// Space says whether count new volumes of size bytes fit where the nodes have
// room, or nil. Nodes that report the same location share it.
func Space(nodes []NodeState, count int, size int64) error {
	free := map[string]int64{}
	for _, n := range nodes {
		if n.Record == nil || !n.Record.Reporting || n.Record.Storage.Error != "" || !n.Expected() {
			continue
		}
		if n.Node.Spec.Availability == swarm.NodeAvailabilityDrain {
			continue
		}
		free[n.Record.Storage.Location] = n.Record.Storage.Free
	}
	fit, largest := int64(0), int64(0)
	for _, bytes := range free {
		fit += bytes / max(size, 1)
		largest = max(largest, bytes)
	}
	if fit >= int64(count) {
		return nil
	}
	return &SpaceError{Count: count, Size: size, Fit: int(fit), Largest: largest}
}

// SpaceError says that volumes do not fit.
type SpaceError struct {
	Count   int
	Size    int64
	Fit     int
	Largest int64 // free bytes of the emptiest place
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("not enough free space: %d volumes of %s are asked for, %d fit; the most that is free in one place is %s\nTake a smaller --volume-size or fewer --replicas, or free space on the nodes",
		e.Count, units.BytesSize(float64(e.Size)), e.Fit, units.BytesSize(float64(e.Largest)))
}
