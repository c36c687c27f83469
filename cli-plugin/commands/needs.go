package commands

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/spf13/pflag"

	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// parseUses reads --use NEED=APPLICATION[:MEMBERS], with the need's name or its type.
func parseUses(app *stacks.App, words []string) (map[string]stacks.Uses, error) {
	uses := map[string]stacks.Uses{}
	var errs []error
	for _, word := range words {
		refuse := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("%w --use %q: "+format, append([]any{stacks.ErrOption, word}, args...)...))
		}
		key, value, _ := strings.Cut(word, "=")
		name, count, counted := strings.Cut(value, ":")
		members := 0
		if counted {
			var err error
			if members, err = strconv.Atoi(count); err != nil || members < 1 {
				refuse("%q is no number of members", count)
				continue
			}
		}
		if key == "" || name == "" {
			refuse("expected NEED=APPLICATION, such as postgresql=pg")
			continue
		}
		found := ""
		for _, n := range app.Needs {
			if n.Name == key || n.Type == key {
				found = n.Name
			}
		}
		switch {
		case found == "" && len(app.Needs) == 0:
			refuse("%s needs no other application", app.ID)
		case found == "":
			refuse("%s needs %s", app.ID, needsOf(app))
		default:
			uses[found] = stacks.Uses{Name: name, Members: members}
		}
	}
	return uses, errors.Join(errs...)
}

// needsOf lists what an application needs: db (postgresql).
func needsOf(app *stacks.App) string {
	var words []string
	for _, n := range app.Needs {
		words = append(words, fmt.Sprintf("%s (%s)", n.Name, n.Type))
	}
	return strings.Join(words, ", ")
}

// lookForNeeds finds the applications that fill the needs, and plans those that are to be made along.
func (c *creation) lookForNeeds(ctx context.Context, dockerCLI command.Cli, o *createOptions) error {
	given, err := parseUses(c.app, o.use)
	if err != nil {
		return err
	}
	for _, n := range c.app.Needs {
		if err := inCatalog(ctx, dockerCLI, c.app, n); err != nil {
			return err
		}
	}
	for _, n := range c.app.Needs {
		u := c.options.Uses[n.Name]
		r, err := store.Get[store.Application](ctx, store.New(dockerCLI.Client()), store.KindApplication, u.Name)
		switch {
		case err != nil && !errors.Is(err, store.ErrNotFound):
			return err
		case err == nil && r.Value.Type != n.Type:
			return fmt.Errorf("%s needs an application of type %s, and %s is of type %s\nName another one: --use %s=NAME", c.app.Title, n.Type, u.Name, r.Value.Type, n.Name)
		case err == nil && r.Value.Removed == nil:
			u.Members = len(r.Value.Members)
			c.options.Uses[n.Name] = u
			continue
		case given[n.Name].Name != "":
			return fmt.Errorf("there is no application %s that %s could use\nCreate it: docker openmanage create %s %s; or leave --use out, and one is made", u.Name, c.options.Name, n.Type, u.Name)
		}
		along, err := planAlong(ctx, dockerCLI, n, u)
		if err != nil {
			return err
		}
		if err := along.preflight(ctx, dockerCLI, pflag.NewFlagSet("", pflag.ContinueOnError), o); err != nil {
			return fmt.Errorf("%s, which %s needs: %w", u.Name, c.options.Name, err)
		}
		c.options.Uses[n.Name] = stacks.Uses{Name: u.Name, Members: along.options.Members}
		c.along = append(c.along, along)
	}
	return nil
}

// inCatalog says that a type cannot be created yet, because another that it needs is still to come.
func inCatalog(ctx context.Context, dockerCLI command.Cli, app *stacks.App, n stacks.Need) error {
	if _, err := findType(ctx, dockerCLI, n.Type); errors.Is(err, stacks.ErrUnknownType) {
		return fmt.Errorf("%s needs an application of type %s (%s), which is not in the catalog of this version: it comes later\nNothing was made. 'docker openmanage generate %s NAME' shows the stack", app.Title, n.Type, n.Description, app.ID)
	}
	return nil
}

// planAlong is the creation of what fills a need, with the defaults of its type.
func planAlong(ctx context.Context, dockerCLI command.Cli, n stacks.Need, u stacks.Uses) (*creation, error) {
	app, err := findType(ctx, dockerCLI, n.Type)
	if err != nil {
		return nil, err
	}
	parameters := maps.Clone(n.Parameters)
	if parameters == nil {
		parameters = map[string]string{}
	}
	options := app.Complete(stacks.Options{Name: u.Name, Members: n.Members, Image: n.Image, Parameters: parameters})
	return &creation{app: app.For(options), options: options}, app.Check(options)
}
