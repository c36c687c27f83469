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
	"github.com/moby/moby/api/types/plugin"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
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
	if h.Plugin != "" && !sameReference(p.PluginReference, h.Plugin) {
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

// upgradePlugin replaces the plugin while nothing on this node uses it. Docker
// itself refuses to disable a plugin whose volumes are in use (without force,
// which is never given: containers would keep mounts that nobody guards).
func (h *helper) upgradePlugin(ctx context.Context, p plugin.Plugin) error {
	if p.Enabled {
		if _, err := h.Docker.PluginDisable(ctx, api.PluginName, client.PluginDisableOptions{}); err != nil {
			return fmt.Errorf("the volume plugin is %s, %s is wanted, and it cannot be replaced now: %w; drain the node, then it is replaced", p.PluginReference, h.Plugin, err)
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

// sameReference compares references as Docker spells them: docker.io and the
// library are implied.
func sameReference(a, b string) bool {
	short := func(r string) string {
		r = strings.TrimPrefix(r, "docker.io/")
		if !slices.Contains([]byte(r[strings.LastIndex(r, "/")+1:]), ':') {
			r += ":latest"
		}
		return r
	}
	return short(a) == short(b)
}
