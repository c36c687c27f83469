package commands

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/credentials"
	"github.com/openmanage/openmanage/cli-plugin/internal/installation"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

type credentialsOptions struct {
	name    string
	secrets []string
	yes     bool
	format  string
	timeout time.Duration
}

func credentialsCommand(dockerCLI command.Cli) *cobra.Command {
	var o credentialsOptions
	cmd := &cobra.Command{
		Use:   "credentials [OPTIONS] APPLICATION [SECRET...]",
		Short: "Show the passwords that were generated for an application",
		Long: `Show the passwords that create generated for an application, also for one that was
removed and whose data is kept. They are read from the Docker secrets by a task that
runs on a manager for a moment; nothing else keeps them, and no log gets to see them.`,
		Example: `  docker openmanage credentials pg
  docker openmanage credentials pg superuser-password --yes --format '{{.Value}}'`,
		Args: cli.RequiresMinArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name, o.secrets = args[0], args[1:]
			return runCredentials(cmd.Context(), dockerCLI, o)
		},
		ValidArgsFunction:     completeCredentials(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	flags := cmd.Flags()
	flags.BoolVarP(&o.yes, "yes", "y", false, "Do not ask")
	flags.DurationVar(&o.timeout, "timeout", time.Minute, "How long to wait for the task that reads them")
	formatFlag(flags, &o.format)
	_ = cmd.RegisterFlagCompletionFunc("format", completeFormat)
	return cmd
}

func runCredentials(ctx context.Context, dockerCLI command.Cli, o credentialsOptions) error {
	docker := dockerCLI.Client()
	if _, err := preflight.Manager(ctx, docker); err != nil {
		return err
	}
	found, removed, err := credentialsOf(ctx, dockerCLI, o.name)
	if err != nil {
		return err
	}
	if found, err = choose(o.name, found, o.secrets); err != nil {
		return err
	}
	image, err := installation.Image(ctx, docker)
	if err != nil {
		return err
	}
	if removed {
		fmt.Fprintf(dockerCLI.Err(), "%s is removed; its passwords are kept with its data\n", o.name)
	}
	if err := confirmShowing(ctx, dockerCLI, o); err != nil {
		return err
	}
	request := credentials.Request{Application: o.name, Image: image}
	for _, c := range found {
		request.Secrets = append(request.Secrets, c.secret)
	}
	values, err := credentials.Read(ctx, docker, request, screen(dockerCLI), o.timeout)
	if values == nil && ctx.Err() != nil {
		return cli.StatusError{StatusCode: 130, Cause: ctx.Err(), Status: fmt.Sprintf("nothing is shown: %v", err)}
	}
	if values == nil {
		return err
	}
	return errors.Join(writeCredentials(dockerCLI, o.format, found, values), err)
}

// confirmShowing asks on a terminal whether to go on, and refuses elsewhere.
func confirmShowing(ctx context.Context, dockerCLI command.Cli, o credentialsOptions) error {
	if o.yes {
		return nil
	}
	if !dockerCLI.In().IsTerminal() {
		return fmt.Errorf("the passwords of %s would be written in plain text\nAdd --yes to have them", o.name)
	}
	where := "shown on this terminal"
	if !dockerCLI.Out().IsTerminal() {
		where = "written in plain text to where the output goes"
	}
	ok, err := ask(ctx, dockerCLI, fmt.Sprintf("The passwords of %s will be %s. Go on?", o.name, where))
	if err == nil && !ok {
		return errors.New("nothing was read")
	}
	return err
}

// credential is a secret of an application.
type credential struct {
	name        string // as app.yaml has it, without the application
	description string
	secret      swarm.Secret
}

// credentialsOf returns the secrets of an application in the order of its type, and
// whether it is removed. They are those that create has labelled, and those that were
// made by hand under the names that its stack wants. An application that has not come to
// a record has them too.
func credentialsOf(ctx context.Context, dockerCLI command.Cli, name string) (found []credential, removed bool, err error) {
	docker := dockerCLI.Client()
	all, err := docker.SecretList(ctx, client.SecretListOptions{})
	if err != nil {
		return nil, false, preflight.Explain(ctx, docker, err)
	}
	labelled := slices.DeleteFunc(slices.Clone(all.Items), func(s swarm.Secret) bool { return s.Spec.Labels[api.LabelApplication] != name })
	app, err := store.Get[store.Application](ctx, store.New(docker), store.KindApplication, name)
	typeID := app.Value.Type
	switch {
	case errors.Is(err, store.ErrNotFound) && len(labelled) > 0:
		typeID = labelled[0].Spec.Labels[api.LabelType]
	case errors.Is(err, store.ErrNotFound):
		_, err = application(ctx, dockerCLI, name) // says what there is instead
		return nil, false, err
	case err != nil:
		return nil, false, preflight.Explain(ctx, docker, err)
	}
	catalog, err := stacks.Builtin()
	if err != nil {
		return nil, false, err
	}
	var generated []stacks.Secret
	if kind, err := catalog.Find(typeID); err == nil { // one that is in the catalog no more has its labelled ones
		generated = kind.Secrets
	}
	for _, g := range generated {
		for _, s := range all.Items {
			if s.Spec.Name == stacks.SecretName(name, g.Name) {
				found = append(found, credential{name: g.Name, description: g.Description, secret: s})
			}
		}
	}
	slices.SortFunc(labelled, func(a, b swarm.Secret) int { return strings.Compare(a.Spec.Name, b.Spec.Name) })
	for _, s := range labelled {
		if !slices.ContainsFunc(found, func(c credential) bool { return c.secret.ID == s.ID }) {
			found = append(found, credential{name: strings.TrimPrefix(s.Spec.Name, stacks.SecretName(name, "")), secret: s})
		}
	}
	switch {
	case len(found) > 0:
		return found, app.Value.Removed != nil, nil
	case len(generated) == 0:
		return nil, false, fmt.Errorf("%s has no passwords: none is generated for an application of type %s", name, typeID)
	}
	return nil, false, fmt.Errorf("the passwords of %s are gone: there is no Docker secret %s\nSee what there is with: docker secret ls", name, stacks.SecretName(name, generated[0].Name))
}

// choose returns those of found that are named, all if none is. A name may be the Docker
// secret's own.
func choose(application string, found []credential, named []string) ([]credential, error) {
	if len(named) == 0 {
		return found, nil
	}
	var names []string
	for _, c := range found {
		names = append(names, c.name)
	}
	var chosen []credential
	for _, name := range named {
		i := slices.IndexFunc(found, func(c credential) bool { return name == c.name || name == c.secret.Spec.Name })
		if i < 0 {
			hint := ""
			if near := stacks.Nearest(name, names); near != "" {
				hint = fmt.Sprintf("; did you mean %q?", near)
			}
			return nil, fmt.Errorf("%s has no secret %q%s\nIt has: %s", application, name, hint, strings.Join(names, ", "))
		}
		if !slices.ContainsFunc(chosen, func(c credential) bool { return c.name == found[i].name }) {
			chosen = append(chosen, found[i])
		}
	}
	return chosen, nil
}

func writeCredentials(dockerCLI command.Cli, format string, found []credential, values map[string][]byte) error {
	table := format == "" || strings.HasPrefix(format, formatter.TableFormatKey)
	rows := make([]*credentialRow, 0, len(found))
	for _, c := range found {
		value, ok := values[c.secret.Spec.Name]
		if !ok {
			return fmt.Errorf("the task did not read the secret %s\nRun the same command again", c.secret.Spec.Name)
		}
		rows = append(rows, &credentialRow{c: c, value: string(value), table: table})
	}
	return writeTable(dockerCLI, format, `{{.Name}}\t{{.Value}}\t{{.Description}}`, "", newCredentialRow(), rows)
}

type credentialRow struct {
	formatter.HeaderContext
	c     credential
	value string
	table bool
}

func newCredentialRow() *credentialRow {
	return &credentialRow{HeaderContext: formatter.HeaderContext{Header: formatter.SubHeaderContext{
		"Name": "NAME", "Value": "VALUE", "Description": "DESCRIPTION", "Secret": "SECRET",
	}}}
}

// MarshalJSON makes --format json print the fields.
func (r *credentialRow) MarshalJSON() ([]byte, error) { return formatter.MarshalJSON(r) }

func (r *credentialRow) Name() string        { return r.c.name }
func (r *credentialRow) Secret() string      { return r.c.secret.Spec.Name }
func (r *credentialRow) Description() string { return dash(r.c.description) }

// Value is exact but in a table, where one that was made by hand with a line's end would
// break the rows.
func (r *credentialRow) Value() string {
	if r.table && strings.ContainsFunc(r.value, func(c rune) bool { return !unicode.IsPrint(c) }) {
		return strconv.Quote(r.value)
	}
	return r.value
}
