package commands

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// completeRecords offers the names of the records of a kind, up to limit
// arguments (0: any number).
func completeRecords[T any](dockerCLI command.Cli, kind store.Kind, limit int, offered func(T) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if limit > 0 && len(args) >= limit {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		records, err := store.List[T](ctx, store.New(dockerCLI.Client()), kind)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, r := range records {
			if offered(r.Value) && !slices.Contains(args, r.Name) {
				names = append(names, r.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeApplications(dockerCLI command.Cli, limit int) cobra.CompletionFunc {
	return completeRecords(dockerCLI, store.KindApplication, limit, func(a store.Application) bool { return a.Removed == nil })
}

func completeVolumes(dockerCLI command.Cli) cobra.CompletionFunc {
	return completeRecords(dockerCLI, store.KindVolume, 0, func(v api.Volume) bool { return v.Owner == nil })
}

func completeOperations(dockerCLI command.Cli) cobra.CompletionFunc {
	return completeRecords(dockerCLI, store.KindOperation, 1, func(o store.Operation) bool {
		return o.Kind != store.OperationCreate && o.Kind != store.OperationPurge
	})
}

// completeMembers offers the members of the application in the first argument.
func completeMembers(dockerCLI command.Cli) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		if len(args) == 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		r, err := store.Get[store.Application](ctx, store.New(dockerCLI.Client()), store.KindApplication, args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, m := range r.Value.Members {
			names = append(names, m.Name)
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeAllMembers offers the members of all applications for the first argument.
func completeAllMembers(dockerCLI command.Cli) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		records, err := store.List[store.Application](ctx, store.New(dockerCLI.Client()), store.KindApplication)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, r := range records {
			for _, m := range r.Value.Members {
				if r.Value.Removed == nil {
					names = append(names, m.Name)
				}
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeTypes offers the application types for the first argument.
func completeTypes(dockerCLI command.Cli) cobra.CompletionFunc {
	return completeSomeTypes(dockerCLI, func(*stacks.App) bool { return true })
}

// completeAddedTypes offers those that did not come with OpenManage.
func completeAddedTypes(dockerCLI command.Cli) cobra.CompletionFunc {
	return completeSomeTypes(dockerCLI, func(app *stacks.App) bool { return app.Added != nil })
}

func completeSomeTypes(dockerCLI command.Cli, wanted func(*stacks.App) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		catalog, _, err := offered(ctx, dockerCLI)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		var names []string
		for _, app := range catalog.Apps() {
			if wanted(app) {
				names = append(names, cobra.CompletionWithDesc(app.ID, app.Title))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeParameters offers the --set keys of the type in the first argument, and
// the values of a key that has a fixed set.
func completeParameters(dockerCLI command.Cli) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		directive := cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		if len(args) == 0 {
			return nil, directive
		}
		app, err := findType(ctx, dockerCLI, args[0])
		if err != nil {
			return nil, directive
		}
		return offerPairs(app, toComplete)
	}
}

// offerPairs offers KEY=, or KEY=VALUE once there is a key with a fixed set of values.
func offerPairs(app *stacks.App, toComplete string) (offers []string, directive cobra.ShellCompDirective) {
	directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	if key, _, hasValue := strings.Cut(toComplete, "="); hasValue {
		p, err := app.Parameter(key)
		if err != nil {
			return nil, directive
		}
		values := p.Allowed
		if p.Type == "boolean" {
			values = []string{"on", "off"}
		}
		for _, v := range values {
			offers = append(offers, key+"="+v)
		}
		return offers, cobra.ShellCompDirectiveNoFileComp
	}
	for _, p := range app.Parameters {
		offers = append(offers, cobra.CompletionWithDesc(p.Name+"=", p.Description))
	}
	return offers, directive
}

// completeSettings offers an application, set and unset, and what each of them takes.
func completeSettings(dockerCLI command.Cli) cobra.CompletionFunc {
	applications := completeApplications(dockerCLI, 1)
	return func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return applications(cmd, args, toComplete)
		}
		mode := ""
		for _, word := range args[1:] {
			if word == "set" || word == "unset" {
				mode = word
			}
		}
		if mode == "" {
			return []string{"set", "unset"}, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		r, err := store.Get[store.Application](ctx, store.New(dockerCLI.Client()), store.KindApplication, args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		if mode == "unset" {
			return slices.Sorted(maps.Keys(settingsOf(r.Value))), cobra.ShellCompDirectiveNoFileComp
		}
		kind, err := typeOf(ctx, dockerCLI, r.Value)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return offerPairs(kind, toComplete)
	}
}

// completeCredentials offers an application, removed ones too, and then its secrets.
func completeCredentials(dockerCLI command.Cli) cobra.CompletionFunc {
	applications := completeRecords(dockerCLI, store.KindApplication, 1, func(store.Application) bool { return true })
	return func(cmd *cobra.Command, args []string, toComplete string) (names []string, directive cobra.ShellCompDirective) {
		if len(args) == 0 {
			return applications(cmd, args, toComplete)
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		found, _, err := credentialsOf(ctx, dockerCLI, args[0])
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		for _, c := range found {
			if !slices.Contains(args[1:], c.name) {
				names = append(names, cobra.CompletionWithDesc(c.name, c.description))
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeFormat(_ *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return []string{formatter.TableFormatKey, formatter.JSONFormatKey}, cobra.ShellCompDirectiveNoFileComp
}

// completeFixed offers a fixed set of values for a flag.
func completeFixed(values ...string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return values, cobra.ShellCompDirectiveNoFileComp
	}
}
