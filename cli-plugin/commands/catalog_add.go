package commands

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/claim"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

type catalogAddOptions struct {
	dir     string
	replace bool
	allow   []string
}

func catalogAddCommand(dockerCLI command.Cli) *cobra.Command {
	var o catalogAddOptions
	cmd := &cobra.Command{
		Use:   "add [OPTIONS] DIR",
		Short: "Add an application of your own to the Swarm's catalog",
		Long: `Add an application of your own, a folder with app.yaml and stack.yaml.tmpl, to the
Swarm's catalog. It is data: none of it runs before somebody creates an application of
it. What it would reach beyond that application has to be allowed, here and at create.`,
		Example: `  docker openmanage catalog add ./wiki
  docker openmanage create wiki docs`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.dir = args[0]
			return runCatalogAdd(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeFolders,
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().BoolVar(&o.replace, "replace", false, "Replace one of the same id that was added before; applications that exist stay as they are")
	allowFlag(cmd, &o.allow)
	return cmd
}

func runCatalogAdd(ctx context.Context, dockerCLI command.Cli, o catalogAddOptions) error {
	if err := stacks.CheckAllow(o.allow); err != nil {
		return err
	}
	app, source, demands, err := lint(dockerCLI, o.dir)
	if err != nil {
		return err
	}
	if _, err := preflight.Manager(ctx, dockerCLI.Client()); err != nil {
		return err
	}
	if err := refuseTakenType(ctx, dockerCLI, app); err != nil {
		return err
	}
	next := "docker openmanage catalog add " + o.dir
	if o.replace {
		next += " --replace"
	}
	if err := refuseDemands(app, stacks.Missing(demands, o.allow), next); err != nil {
		return err
	}
	sayDemands(dockerCLI.Err(), app, demands)
	slices.Sort(o.allow)
	entry := store.CatalogEntry{
		App: source.App, Template: source.Template, Readme: source.Readme, Allowed: slices.Compact(o.allow),
		By: claim.Me(), Added: time.Now().UTC().Truncate(time.Second),
	}
	records := store.New(dockerCLI.Client())
	_, err = store.Create(ctx, records, store.KindCatalog, app.ID, entry)
	word := "added"
	if errors.Is(err, store.ErrExists) {
		if !o.replace {
			return fmt.Errorf("%s was added before\nTo replace it: %s --replace", app.ID, next)
		}
		word = "replaced"
		_, err = store.Modify(ctx, records, store.KindCatalog, app.ID, func(e *store.CatalogEntry) (bool, error) { *e = entry; return true, nil })
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "%s %s. Next: docker openmanage create %s NAME\n", app.ID, word, app.ID)
	return nil
}

// refuseTakenType refuses an ID or alias that another type has.
func refuseTakenType(ctx context.Context, dockerCLI command.Cli, app *stacks.App) error {
	builtin, err := stacks.Builtin()
	if err != nil {
		return err
	}
	added, _, err := addedTypes(ctx, dockerCLI)
	if err != nil {
		return err
	}
	catalog, _ := builtin.With(added...)
	for _, name := range append([]string{app.ID}, app.Aliases...) {
		other, err := catalog.Find(name)
		switch {
		case err != nil: // nobody's
		case other.Added == nil:
			return fmt.Errorf("the name %s is taken: %s comes with OpenManage\nChoose another id or alias in app.yaml", name, other.ID)
		case other.ID != app.ID:
			return fmt.Errorf("the name %s is taken by %s, which was added before\nChoose another id or alias in app.yaml", name, other.ID)
		}
	}
	return nil
}

func catalogRemoveCommand(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:     "rm TYPE",
		Aliases: []string{"remove"},
		Short:   "Remove a type that was added to the Swarm's catalog",
		Args:    cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runCatalogRemove(cmd.Context(), dockerCLI, args[0])
		},
		ValidArgsFunction:     completeAddedTypes(dockerCLI),
		DisableFlagsInUseLine: true,
	}
}

func runCatalogRemove(ctx context.Context, dockerCLI command.Cli, name string) error {
	docker := dockerCLI.Client()
	if _, err := preflight.Manager(ctx, docker); err != nil {
		return err
	}
	records := store.New(docker)
	// By its record, so that one that cannot be read, or is hidden, can be removed too.
	r, err := store.Get[store.CatalogEntry](ctx, records, store.KindCatalog, name)
	if errors.Is(err, store.ErrNotFound) {
		app, err := findType(ctx, dockerCLI, name)
		switch {
		case err != nil:
			return err
		case app.Added == nil:
			return fmt.Errorf("%s comes with OpenManage and cannot be removed", app.ID)
		}
		return fmt.Errorf("%s is another name of %s\nTo remove it: docker openmanage catalog rm %s", name, app.ID, app.ID)
	}
	if err != nil && r.Name == "" {
		return err
	}
	of, err := applicationsOf(ctx, docker, records, name)
	if err != nil {
		return err
	}
	if len(of) > 0 {
		return fmt.Errorf("there are applications of the type %s: %s\nRemove them first, their volumes are kept: docker openmanage rm %s", name, strings.Join(of, ", "), strings.Join(of, " "))
	}
	if err := store.Delete(ctx, records, store.KindCatalog, r); err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "%s removed\n", name)
	return nil
}

// applicationsOf returns the applications of a type, also those that the manager has not
// seen yet.
func applicationsOf(ctx context.Context, docker client.APIClient, records *store.Store, typeID string) ([]string, error) {
	found := map[string]bool{}
	applications, err := store.List[store.Application](ctx, records, store.KindApplication)
	if err != nil {
		return nil, err
	}
	for _, a := range applications {
		if a.Value.Type == typeID && a.Value.Removed == nil {
			found[a.Name] = true
		}
	}
	services, err := docker.ServiceList(ctx, client.ServiceListOptions{Filters: make(client.Filters).Add("label", api.LabelType+"="+typeID)})
	if err != nil {
		return nil, preflight.Explain(ctx, docker, err)
	}
	for _, s := range services.Items {
		if name := s.Spec.Labels[api.LabelApplication]; name != "" {
			found[name] = true
		}
	}
	return slices.Sorted(maps.Keys(found)), nil
}
