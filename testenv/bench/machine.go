package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"

	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/testenv/host"
)

// about describes what was measured on.
func (b *bench) about(ctx context.Context) (string, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return "", err
	}
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return "", err
	}
	engine, err := b.Via.Client().ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return "", err
	}
	cli, err := host.Run(ctx, "docker", "version", "--format", "{{.Client.Version}}")
	if cli = strings.TrimSpace(cli); cli == "" { // it fails where no engine is the user's own
		return "", err
	}
	memory := float64(info.Totalram) * float64(info.Unit) / (1 << 30)
	return fmt.Sprintf("%d cores, %.0f GiB, Linux %s, %d nodes with Docker Engine %s, docker %s, OpenManage %s",
		runtime.NumCPU(), memory, unix.ByteSliceToString(uname.Release[:]), len(b.c.Nodes()), engine.Version, cli, b.Version), nil
}

// loadAverage is that of the last minute. Two cores are busy at 2.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(text), " ")
	return first
}
