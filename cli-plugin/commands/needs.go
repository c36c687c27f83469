package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/spf13/pflag"

	"github.com/openmanage/openmanage/cli-plugin/internal/claim"
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
		}
		there := err == nil && r.Value.Removed == nil
		done, asked, err := createOf(ctx, dockerCLI, u.Name)
		made := len(r.Value.Members)
		switch chosen := given[n.Name].Name != ""; {
		case err != nil:
			return err
		case there && (done || made >= asked.Members):
			u.Members = made
			c.options.Uses[n.Name] = u
			continue
		case there && chosen:
			return fmt.Errorf("the create of %s, which %s could use, has not come to its end\nSee it with: docker openmanage operation inspect %s; to go on: docker openmanage create %s %s", u.Name, c.options.Name, claim.Name(u.Name), n.Type, u.Name)
		case chosen:
			return fmt.Errorf("there is no application %s that %s could use\nCreate it: docker openmanage create %s %s; or leave --use out, and one is made", u.Name, c.options.Name, n.Type, u.Name)
		}
		along, err := c.planAlong(ctx, dockerCLI, n, u, asked)
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

// createOf tells whether the create of an application has come to its end, and what was asked of it. One
// that was cut short may have made some of the members only.
func createOf(ctx context.Context, dockerCLI command.Cli, application string) (done bool, asked stacks.Options, err error) {
	op, err := store.Get[store.Operation](ctx, store.New(dockerCLI.Client()), store.KindOperation, claim.Name(application))
	switch {
	case errors.Is(err, store.ErrNotFound): // deployed by hand
		return true, asked, nil
	case err != nil || op.Value.State == store.OperationDone:
		return err == nil, asked, err
	}
	err = json.Unmarshal([]byte(op.Value.Request), &asked)
	return false, asked, err
}

// inCatalog says that a type cannot be created yet, because another that it needs is still to come.
func inCatalog(ctx context.Context, dockerCLI command.Cli, app *stacks.App, n stacks.Need) error {
	if _, err := findType(ctx, dockerCLI, n.Type); errors.Is(err, stacks.ErrUnknownType) {
		return fmt.Errorf("%s needs an application of type %s (%s), which is not in the catalog of this version: it comes later\nNothing was made. 'docker openmanage generate %s NAME' shows the stack", app.Title, n.Type, n.Description, app.ID)
	}
	return nil
}

// planAlong is the creation of what fills a need, as it was asked for before, if it was, or with the
// defaults of its type. What it reaches counts as reached by who needs it, unless that came with OpenManage.
func (c *creation) planAlong(ctx context.Context, dockerCLI command.Cli, n stacks.Need, u stacks.Uses, asked stacks.Options) (*creation, error) {
	app, err := findType(ctx, dockerCLI, n.Type)
	if err != nil {
		return nil, err
	}
	made, options := n.Along(app, u.Name)
	if asked.Name == u.Name {
		options = app.Complete(asked)
		made = app.For(options)
	}
	return &creation{app: made, options: options, allow: c.allow, foreign: c.isForeign()}, made.Check(options)
}
