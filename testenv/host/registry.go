package host

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// EnsureRegistry runs the image registry on the address given: the loopback
// address for pushes from this machine, the nodes' gateway for pulls. It takes
// pushes from anybody, so it must never listen on the machine's other addresses;
// that is why there is a process for each address, over the same files.
func (h *Host) EnsureRegistry(ctx context.Context, address string) error {
	listen := net.JoinHostPort(address, strconv.Itoa(h.RegistryPort))
	config := h.registryConfig(address)
	pids, err := withArgument("docker-registry", config)
	if err != nil {
		return err
	}
	if len(pids) == 1 && registryAnswers(ctx, listen) == nil {
		return nil
	}
	if err := stop(ctx, 5*time.Second, pids...); err != nil {
		return err
	}
	if registryAnswers(ctx, listen) == nil {
		return fmt.Errorf("another program listens on %s, where the image registry should; end it", listen)
	}
	text := fmt.Sprintf(registryTemplate, filepath.Join(h.StateDir, "registry"), listen)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return err
	}
	log := h.logFile("registry-" + address)
	process, err := startDaemon(log, "docker-registry", "serve", config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return Poll(ctx, 50*time.Millisecond, "the image registry does not answer on "+listen+"; see "+log, func() (bool, error) {
		if !alive(process.Pid) {
			text, _ := os.ReadFile(log)
			return true, fmt.Errorf("the image registry ended at its start; the end of %s says:\n%s", log, lastLines(string(text), 4))
		}
		err := registryAnswers(ctx, listen)
		return err == nil, err
	})
}

// StopRegistry ends the registry on every address. What it stores stays.
func (h *Host) StopRegistry(ctx context.Context) error {
	pids, err := PIDs(func(pid int) bool {
		args := commandLine(pid)
		return len(args) == 3 && filepath.Base(args[0]) == "docker-registry" && strings.HasPrefix(args[2], h.registryConfig(""))
	})
	if err != nil || len(pids) == 0 {
		return err
	}
	return stop(ctx, 5*time.Second, pids...)
}

func (h *Host) registryConfig(address string) string {
	return filepath.Join(h.StateDir, "registry.yml") + ifSet("-", address)
}

func ifSet(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

const registryTemplate = `# Written by OpenManage's test environment.
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http:
  addr: %q
`

func registryAnswers(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/v2/", nil)
	if err != nil {
		return err
	}
	// Proxies of the environment are not for addresses of this machine.
	response, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return err
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("it answers %s", response.Status)
	}
	return nil
}
