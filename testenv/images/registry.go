package images

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/openmanage/openmanage/testenv/host"
)

// InRegistry lists the images and plugins that nodes can have, by the names that
// nodes know them by.
func InRegistry(ctx context.Context, machine *host.Host) ([]string, error) {
	var catalog struct{ Repositories []string }
	if err := registryGet(ctx, machine, "_catalog?n=1000", &catalog); err != nil {
		return nil, err
	}
	var names []string
	for _, repository := range catalog.Repositories {
		var list struct{ Tags []string }
		if err := registryGet(ctx, machine, repository+"/tags/list", &list); err != nil {
			return nil, err
		}
		for _, tag := range list.Tags {
			names = append(names, strings.TrimPrefix(repository, "library/")+":"+tag)
		}
	}
	slices.Sort(names)
	return names, nil
}

func registryGet(ctx context.Context, machine *host.Host, path string, into any) error {
	url := fmt.Sprintf("http://127.0.0.1:%d/v2/%s", machine.RegistryPort, path)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := (&http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return fmt.Errorf("the image registry: %w; `testenv up` starts it", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the image registry answers %s for %s", response.Status, path)
	}
	return json.NewDecoder(response.Body).Decode(into)
}
