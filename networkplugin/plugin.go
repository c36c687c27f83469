package networkplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/plugin"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/pluginref"
)

// enableTimeout is how long Docker waits for the plugin to answer, in seconds.
const enableTimeout = 30

// ensurePlugin installs, updates and enables the volume plugin of this node, as
// far as that is safe now, and returns the reference that is installed. It can be
// repeated at any time.
func (h *helper) ensurePlugin(ctx context.Context) (reference string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	res, err := h.Docker.PluginInspect(ctx, api.PluginName, client.PluginInspectOptions{})
	switch {
	case cerrdefs.IsNotFound(err):
		if h.Plugin == "" {
			return "", errors.New("the volume plugin is not installed; install it with `docker plugin install --alias openmanage …`")
		}
		return h.Plugin, h.installPlugin(ctx)
	case err != nil:
		return "", fmt.Errorf("ask the engine for its plugin %s: %w", api.PluginName, err)
	}
	p := res.Plugin
	if h.Plugin != "" && (!pluginref.Same(p.PluginReference, h.Plugin) || !h.hasSettings(p)) {
		if err := h.upgradePlugin(ctx, p); err != nil {
			return p.PluginReference, err
		}
		return h.Plugin, nil
	}
	if !p.Enabled {
		if _, err := h.Docker.PluginEnable(ctx, api.PluginName, client.PluginEnableOptions{Timeout: enableTimeout}); err != nil {
			return p.PluginReference, fmt.Errorf("the volume plugin is disabled and cannot be enabled: %w; see the engine's log on this node", err)
		}
		h.Log.Info("volume plugin enabled", "reference", p.PluginReference)
	}
	return p.PluginReference, nil
}

func (h *helper) installPlugin(ctx context.Context) error {
	progress, err := h.Docker.PluginInstall(ctx, api.PluginName, client.PluginInstallOptions{
		RemoteRef: h.Plugin, AcceptAllPermissions: true, Disabled: true, Args: h.PluginSettings,
	})
	if err == nil {
		err = drain(progress)
	}
	if err != nil {
		return fmt.Errorf("install the volume plugin %s: %w; can this node reach its registry?", h.Plugin, err)
	}
	if _, err := h.Docker.PluginEnable(ctx, api.PluginName, client.PluginEnableOptions{Timeout: enableTimeout}); err != nil {
		return fmt.Errorf("enable the volume plugin %s: %w; see the engine's log on this node", h.Plugin, err)
	}
	h.Log.Info("volume plugin installed", "reference", h.Plugin)
	return nil
}

// upgradePlugin replaces the plugin while no container on this node uses it:
// containers would keep mounts that nobody guards. Docker counts every volume it
// has heard of as a use, mounted or not, so it is asked to disable by force, after
// a look at what is really in use. A mount that begins between the two is ended
// like one by a plugin that was killed: Swarm starts the task again.
func (h *helper) upgradePlugin(ctx context.Context, p plugin.Plugin) error {
	user, err := h.pluginUser(ctx)
	if err != nil {
		return err
	}
	if user != "" {
		return fmt.Errorf("the volume plugin here is %s; it is replaced by %s when no container uses it, and %s does: drain the node and make it active again (`docker node update --availability drain`, then `active`)", p.PluginReference, h.Plugin, user)
	}
	if p.Enabled {
		if _, err := h.Docker.PluginDisable(ctx, api.PluginName, client.PluginDisableOptions{Force: true}); err != nil {
			return fmt.Errorf("disable the volume plugin %s, to replace it by %s: %w", p.PluginReference, h.Plugin, err)
		}
	}
	progress, err := h.Docker.PluginUpgrade(ctx, api.PluginName, client.PluginUpgradeOptions{
		RemoteRef: h.Plugin, AcceptAllPermissions: true, Disabled: true,
	})
	if err == nil {
		err = drain(progress)
	}
	if err == nil && len(h.PluginSettings) > 0 {
		_, err = h.Docker.PluginSet(ctx, api.PluginName, client.PluginSetOptions{Args: h.PluginSettings})
	}
	// Whichever version is there now, it is enabled: a node without the plugin
	// runs no member.
	_, enableErr := h.Docker.PluginEnable(ctx, api.PluginName, client.PluginEnableOptions{Timeout: enableTimeout})
	if err = errors.Join(err, enableErr); err != nil {
		return fmt.Errorf("upgrade the volume plugin to %s: %w", h.Plugin, err)
	}
	h.Log.Info("volume plugin upgraded", "from", p.PluginReference, "to", h.Plugin)
	return nil
}

// hasSettings tells whether the plugin's mounts come from where they should.
// Other settings are the operator's.
func (h *helper) hasSettings(p plugin.Plugin) bool {
	for _, setting := range h.PluginSettings {
		key, want, _ := strings.Cut(setting, "=")
		name, ok := strings.CutSuffix(key, ".source")
		if !ok {
			continue
		}
		for _, m := range p.Settings.Mounts {
			if m.Name == name && m.Source != nil && *m.Source != want {
				return false
			}
		}
	}
	return true
}

// pluginUser names a container that runs, or is about to, on a volume of the plugin.
func (h *helper) pluginUser(ctx context.Context) (string, error) {
	res, err := h.Docker.ContainerList(ctx, client.ContainerListOptions{
		All: true, Filters: make(client.Filters).Add("status", "created", "restarting", "running", "paused"),
	})
	if err != nil {
		return "", fmt.Errorf("list this node's containers: %w", err)
	}
	for _, c := range res.Items {
		if usesPlugin(c, time.Now()) {
			return "container " + strings.TrimPrefix(strings.Join(c.Names, ","), "/"), nil
		}
	}
	return "", nil
}

// startsWithin is how long after its creation a container may still be started. An engine
// that is killed between the two leaves one that Swarm has forgotten, which no drain ends.
const startsWithin = 10 * time.Minute

// usesPlugin tells whether a container that is not stopped has, or is about to have, a volume of the plugin.
func usesPlugin(c container.Summary, now time.Time) bool {
	if c.State == container.StateCreated && now.Sub(time.Unix(c.Created, 0)) > startsWithin {
		return false
	}
	return slices.ContainsFunc(c.Mounts, func(m container.MountPoint) bool {
		return strings.TrimSuffix(m.Driver, ":latest") == api.PluginName
	})
}

// drain reads a progress stream to its end; the work goes on only while it is read.
func drain(r io.ReadCloser) error {
	defer r.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if i := strings.LastIndex(string(out), `"error":`); i >= 0 {
		return errors.New(strings.TrimSpace(string(out)[i:]))
	}
	return nil
}
