package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
)

// nodeRoot is a node's root folder as this machine sees it.
func nodeRoot(ctx context.Context, node *cluster.Node) (string, error) {
	pid, err := host.Docker(ctx, "inspect", "--format", "{{.State.Pid}}", node.Container())
	return filepath.Join("/proc", strings.TrimSpace(pid), "root"), err
}

// pluginClient speaks to a node's volume plugin as Docker does, without Docker.
type pluginClient struct {
	http    *http.Client
	dir     *os.File // holds the socket
	volumes string   // folder of the mounted volumes, as this machine sees it
}

func openPlugin(ctx context.Context, node *cluster.Node) (*pluginClient, error) {
	root, err := nodeRoot(ctx, node)
	if err != nil {
		return nil, err
	}
	found, err := node.Client().PluginInspect(ctx, api.PluginName, client.PluginInspectOptions{})
	if err != nil {
		return nil, err
	}
	id := found.Plugin.ID
	// A socket's path is short, this folder's is not: it is reached as an open file.
	dir, err := os.Open(filepath.Join(root, "run/docker/plugins", id))
	if err != nil {
		return nil, err
	}
	socket := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), found.Plugin.Config.Interface.Socket)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &pluginClient{
		http: &http.Client{Transport: &http.Transport{DialContext: dial}}, dir: dir,
		volumes: filepath.Join(root, "var/lib/docker/plugins", id, "propagated-mount"),
	}, nil
}

func (p *pluginClient) Close() error {
	p.http.CloseIdleConnections()
	return p.dir.Close()
}

// path is where a mounted volume's data is, as this machine sees it.
func (p *pluginClient) path(volume string) string { return filepath.Join(p.volumes, volume, "data") }

// call makes one request of Docker's volume plugin protocol.
func (p *pluginClient) call(ctx context.Context, method string, request any) error {
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/VolumeDriver."+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := p.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var answer struct{ Err string }
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return fmt.Errorf("VolumeDriver.%s: status %s: %w", method, res.Status, err)
	}
	if answer.Err != "" {
		return errors.New("VolumeDriver." + method + ": " + answer.Err)
	}
	return nil
}

type pluginCreate struct {
	Name string
	Opts map[string]string
}

type pluginMount struct{ Name, ID string }

func (p *pluginClient) create(ctx context.Context, volume, size string) error {
	return p.call(ctx, "Create", pluginCreate{Name: volume, Opts: map[string]string{api.OptionSize: size}})
}

func (p *pluginClient) mount(ctx context.Context, volume, id string) error {
	return p.call(ctx, "Mount", pluginMount{Name: volume, ID: id})
}

func (p *pluginClient) unmount(ctx context.Context, volume, id string) error {
	return p.call(ctx, "Unmount", pluginMount{Name: volume, ID: id})
}
