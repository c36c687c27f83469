package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

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

// generate makes the stack, and refuses what a type that was added demands without being
// allowed to, when it was added and now.
func (c *creation) generate() (*stacks.Stack, []stacks.Demand, error) {
	stack, err := c.app.Generate(c.options)
	if err != nil || c.app.Added == nil {
		return stack, nil, err
	}
	demands := c.app.Demands(c.options, stack.Config)
	if err := refuseDemands(c.app, stacks.Missing(demands, c.app.Added.Allowed), "docker openmanage catalog add --replace DIR"); err != nil {
		return nil, nil, fmt.Errorf("%w\nIt did not say so when it was added", err)
	}
	again := fmt.Sprintf("docker openmanage create %s %s", c.app.ID, c.options.Name)
	return stack, demands, refuseDemands(c.app, stacks.Missing(demands, c.allow), again)
}

// lookForDemands shows what the application will reach, before anything is asked or made.
func (c *creation) lookForDemands(out io.Writer) error {
	if err := stacks.CheckAllow(c.allow); err != nil {
		return err
	}
	if c.app.Added == nil {
		return nil
	}
	_, demands, err := c.generate()
	if err == nil {
		sayDemands(out, c.app, demands)
	}
	return err
}

// lookForOthers refuses what begins with the application's name but is another's: the
// names of pg-db in a stack called pg. Types that come with OpenManage have none such.
func (c *creation) lookForOthers(ctx context.Context, docker client.APIClient) error {
	if c.app.Added == nil {
		return nil
	}
	stack, _, err := c.generate()
	if err != nil {
		return err
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
	for key, v := range stack.Config.Volumes {
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
			if a.Name != name && named(stack, m.Name) {
				return fmt.Errorf("the name %s is that of a member of %s, and %s would answer to it\nChoose another name", m.Name, a.Name, name)
			}
		}
	}
	return nil
}

// named tells whether a service of the stack answers to a name.
func named(stack *stacks.Stack, name string) bool {
	for _, s := range stack.Config.Services {
		if s.Hostname == name {
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
