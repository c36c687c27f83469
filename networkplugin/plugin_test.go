package networkplugin

import (
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"gotest.tools/v3/assert"
)

func TestWhatKeepsThePluginFromBeingReplaced(t *testing.T) {
	now := time.Now()
	ours := []container.MountPoint{{Driver: "local"}, {Driver: "openmanage:latest"}}
	for name, c := range map[string]struct {
		state   container.ContainerState
		age     time.Duration
		mounts  []container.MountPoint
		isInUse bool
	}{
		"runs":                           {container.StateRunning, 24 * time.Hour, ours, true},
		"is paused":                      {container.StatePaused, 24 * time.Hour, ours, true},
		"is about to start":              {container.StateCreated, time.Minute, ours, true},
		"was created and never started":  {container.StateCreated, time.Hour, ours, false},
		"has no volume of the plugin":    {container.StateRunning, time.Minute, ours[:1], false},
		"has a volume by the plain name": {container.StateRunning, time.Minute, []container.MountPoint{{Driver: "openmanage"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			summary := container.Summary{State: c.state, Created: now.Add(-c.age).Unix(), Mounts: c.mounts}
			assert.Equal(t, usesPlugin(summary, now), c.isInUse)
		})
	}
}
