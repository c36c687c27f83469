package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/component"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// errDemands: a type that somebody else wrote wants more than it was allowed.
var errDemands = errors.New("not allowed")

func allowFlag(cmd *cobra.Command, allow *[]string) {
	cmd.Flags().StringArrayVar(allow, "allow", nil, "What a type that was added may reach beyond its own application, such as host-path")
	_ = cmd.RegisterFlagCompletionFunc("allow", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		var offers []string
		for _, name := range stacks.PermissionNames() {
			offers = append(offers, cobra.CompletionWithDesc(name, stacks.Permissions[name]))
		}
		return offers, cobra.ShellCompDirectiveNoFileComp
	})
}

// sayDemands shows what a type wants beyond its own application.
func sayDemands(out io.Writer, app *stacks.App, demands []stacks.Demand) {
	if len(demands) > 0 {
		fmt.Fprintf(out, "%s reaches beyond its own application:\n%s", app.ID, demandLines(demands))
	}
}

// demandLines has, for each permission, what it means and where it is wanted.
func demandLines(demands []stacks.Demand) string {
	var b strings.Builder
	last := ""
	for _, d := range demands {
		if d.Allow != last {
			fmt.Fprintf(&b, "  %s: %s\n", d.Allow, stacks.Permissions[d.Allow])
			last = d.Allow
		}
		fmt.Fprintf(&b, "    %s\n", d.What)
	}
	return b.String()
}

// refuseDemands says what is wanted and not allowed, or nil. next is the command that
// would allow it.
func refuseDemands(app *stacks.App, missing []stacks.Demand, next string) error {
	if len(missing) == 0 {
		return nil
	}
	last := ""
	for _, d := range missing {
		if d.Allow != last {
			next += " --allow " + d.Allow
			last = d.Allow
		}
	}
	return fmt.Errorf("%w: %s reaches beyond its own application:\n%sIf you trust it: %s", errDemands, app.ID, demandLines(missing), next)
}

// unfit says that a stack is not what lint has seen.
func unfit(app *stacks.App, err error) error {
	return fmt.Errorf("%w: %s makes a stack that is not as it was when it was added:\n%w", errLint, app.ID, err)
}

// isForeign tells whether somebody else than OpenManage has chosen what is created.
func (c *creation) isForeign() bool { return c.app.Added != nil || c.foreign }

// generate makes the stack that will be deployed, once all is known that it follows from, and finds out
// what it reaches. It refuses what a type that was added was not allowed to, when it was added and now.
func (c *creation) generate() (err error) {
	if c.stack, err = c.app.Generate(c.options); err != nil || !c.isForeign() {
		return err
	}
	c.demands = c.app.Demands(c.options, c.stack.Config)
	for _, one := range c.along {
		for _, d := range one.demands {
			d.What = one.options.Name + ": " + d.What
			c.demands = append(c.demands, d)
		}
	}
	slices.SortStableFunc(c.demands, func(a, b stacks.Demand) int { return strings.Compare(a.Allow, b.Allow) })
	if c.app.Added == nil {
		return nil // who needs it answers for it
	}
	if err := c.app.Fit(c.options, c.stack); err != nil {
		return unfit(c.app, err)
	}
	if err := refuseDemands(c.app, stacks.Missing(c.demands, c.app.Added.Allowed), "docker openmanage catalog add --replace DIR"); err != nil {
		return fmt.Errorf("%w\nIt did not say so when it was added", err)
	}
	return refuseDemands(c.app, stacks.Missing(c.demands, c.allow), fmt.Sprintf("docker openmanage create %s %s", c.app.ID, c.options.Name))
}

// lookForOthers refuses what begins with the application's name but is another's: the
// names of pg-db in a stack called pg. Types that come with OpenManage have none such.
func (c *creation) lookForOthers(ctx context.Context, docker client.APIClient) error {
	if c.app.Added == nil {
		return nil
	}
	records := store.New(docker)
	volumes, err := store.List[api.Volume](ctx, records, store.KindVolume)
	if err != nil {
		return err
	}
	whose := map[string]string{}
	for _, v := range volumes {
		whose[v.Name], whose[v.Name+api.RuntimeSuffix] = cmp.Or(v.Value.Application, "somebody else"), cmp.Or(v.Value.Application, "somebody else")
	}
	name := c.options.Name
	for key, v := range c.stack.Config.Volumes {
		volume := cmp.Or(v.Name, name+"_"+key)
		owner := whose[volume]
		if strings.HasPrefix(volume, name) && owner != "" && owner != name {
			return fmt.Errorf("the volume %s is of %s, not of %s\nChoose another name", volume, owner, name)
		}
	}
	applications, err := store.List[store.Application](ctx, records, store.KindApplication)
	if err != nil {
		return err
	}
	for _, a := range applications {
		for _, m := range a.Value.Members {
			if a.Name != name && named(c.stack, m.Name) {
				return fmt.Errorf("the name %s is that of a member of %s, and %s would answer to it\nChoose another name", m.Name, a.Name, name)
			}
		}
	}
	for _, s := range component.Of(c.others) {
		if named(c.stack, component.Name(s)) {
			return fmt.Errorf("the name %s is that of a component of %s, and %s would answer to it\nChoose another name", component.Name(s), s.Spec.Labels[api.LabelApplication], name)
		}
	}
	return nil
}

// named tells whether a service of the stack answers to a name: Docker gives it that of its key too.
func named(stack *stacks.Stack, name string) bool {
	for _, s := range stack.Config.Services {
		if s.Name == name || s.Hostname == name {
			return true
		}
		for _, n := range s.Networks {
			if n == nil {
				continue
			}
			for _, alias := range n.Aliases {
				if alias == name {
					return true
				}
			}
		}
	}
	return false
}
