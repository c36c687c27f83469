package commands

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/docker/cli/cli/command"

	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// offered returns all that can be created on this Swarm: what comes with OpenManage, and
// what was added. What was added and cannot be had is named in trouble; without a Swarm
// that is all of it.
func offered(ctx context.Context, dockerCLI command.Cli) (catalog *stacks.Catalog, trouble []error, err error) {
	builtin, err := stacks.Builtin()
	if err != nil {
		return nil, nil, err
	}
	added, trouble, err := addedTypes(ctx, dockerCLI)
	if err != nil {
		return builtin, []error{fmt.Errorf("types that were added to the Swarm are not shown: %w", err)}, nil
	}
	catalog, hidden := builtin.With(added...)
	for _, id := range slices.Sorted(maps.Keys(hidden)) {
		trouble = append(trouble, fmt.Errorf("the type %s, which was added, is not shown: %s\nTo take it out: docker openmanage catalog rm %s", id, hidden[id], id))
	}
	return catalog, trouble, nil
}

// addedTypes reads those that did not come with OpenManage. One that cannot be read is left
// out and named in trouble.
func addedTypes(ctx context.Context, dockerCLI command.Cli) (added []*stacks.App, trouble []error, err error) {
	records, err := store.List[store.CatalogEntry](ctx, store.New(dockerCLI.Client()), store.KindCatalog)
	if broken := (store.Unreadable{}); errors.As(err, &broken) {
		for _, name := range slices.Sorted(maps.Keys(broken)) {
			trouble = append(trouble, broken[name])
		}
	} else if err != nil {
		return nil, nil, preflight.Explain(ctx, dockerCLI.Client(), err)
	}
	for _, r := range records {
		app, err := readEntry(r)
		if err != nil {
			trouble = append(trouble, err)
			continue
		}
		added = append(added, app)
	}
	return added, trouble, nil
}

func readEntry(r store.Record[store.CatalogEntry]) (*stacks.App, error) {
	e := r.Value
	app, err := stacks.ReadAdded(r.Name, stacks.Source{App: e.App, Template: e.Template, Readme: e.Readme}, stacks.Added{By: e.By, At: e.Added, Allowed: e.Allowed})
	if err != nil {
		return nil, fmt.Errorf("the type %s, which was added, cannot be read: %w\nAdd it again: docker openmanage catalog add --replace DIR", r.Name, err)
	}
	return app, nil
}

// findType returns the type of an ID or alias. For one that comes with OpenManage no
// daemon is asked.
func findType(ctx context.Context, dockerCLI command.Cli, name string) (*stacks.App, error) {
	builtin, err := stacks.Builtin()
	if err != nil {
		return nil, err
	}
	if app, err := builtin.Find(name); err == nil {
		return app, nil
	}
	catalog, trouble, err := offered(ctx, dockerCLI)
	if err != nil {
		return nil, err
	}
	app, err := catalog.Find(name)
	if err != nil {
		return nil, errors.Join(append([]error{err}, trouble...)...)
	}
	return app, nil
}

// typeOf returns the catalog's entry of an application.
func typeOf(ctx context.Context, dockerCLI command.Cli, app store.Application) (*stacks.App, error) {
	return findType(ctx, dockerCLI, app.Type)
}
