package commands

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/swarm"
	"github.com/spf13/cobra"

	"github.com/openmanage/openmanage/cli-plugin/internal/component"
	"github.com/openmanage/openmanage/cli-plugin/internal/operation"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// lifecycleOptions are what the commands that ask for an operation have in common.
type lifecycleOptions struct {
	name    string
	timeout time.Duration
	detach  bool
}

func (o *lifecycleOptions) addTo(cmd *cobra.Command, timeout time.Duration) {
	cmd.Flags().DurationVar(&o.timeout, "timeout", timeout, "How long to wait for the end; the operation goes on after that")
	cmd.Flags().BoolVarP(&o.detach, "detach", "d", false, "Do not wait; print the operation's name")
}

// begin checks that there is an application of that name, and a manager to do
// something about it.
func (o *lifecycleOptions) begin(ctx context.Context, dockerCLI command.Cli) (store.Application, error) {
	docker := dockerCLI.Client()
	info, err := preflight.Manager(ctx, docker)
	if err != nil {
		return store.Application{}, err
	}
	app, err := application(ctx, dockerCLI, o.name)
	if err != nil {
		return app, err
	}
	if app.Removed != nil {
		return app, fmt.Errorf("%s was removed; its volumes are kept\nTake them up again with: docker openmanage create %s %s", app.Name, app.Type, app.Name)
	}
	_, err = preflight.Installed(ctx, docker, info)
	return app, err
}

// beginWithPrimary is begin for what makes no sense in an application of equals.
func (o *lifecycleOptions) beginWithPrimary(ctx context.Context, dockerCLI command.Cli) (store.Application, error) {
	app, err := o.begin(ctx, dockerCLI)
	if err == nil && app.NoRoles {
		err = fmt.Errorf("%s has no primary: the members of a %s are equals, or settle among themselves who leads", app.Name, app.Type)
	}
	return app, err
}

// carryOut asks for an operation and follows it. What else is to be done once it was asked for, also
// if nobody waits for its end, is done before that.
func (o *lifecycleOptions) carryOut(ctx context.Context, dockerCLI command.Cli, kind string, request any, also ...func() error) error {
	records := store.New(dockerCLI.Client())
	name, err := operation.Ask(ctx, records, kind, o.name, request)
	if err != nil {
		return err
	}
	for _, do := range also {
		if err := do(); err != nil {
			return fmt.Errorf("%w\nThe operation %s was begun before that\nSee it with: docker openmanage operation inspect %s", err, name, name)
		}
	}
	if o.detach {
		fmt.Fprintln(dockerCLI.Out(), name)
		return nil
	}
	late := fmt.Errorf("the %s of %s has not ended within %s", kind, o.name, o.timeout)
	within, cancel := context.WithTimeoutCause(ctx, o.timeout, late)
	defer cancel()
	err = operation.Follow(within, records, name, func(line string) { fmt.Fprintln(dockerCLI.Err(), line) })
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return cli.StatusError{StatusCode: 130, Cause: ctx.Err(), Status: fmt.Sprintf("interrupted; the operation %s goes on\nSee it with: docker openmanage operation inspect %s\nStop it with: docker openmanage operation cancel %s", name, name, name)}
	case errors.Is(err, late):
		return fmt.Errorf("%w; it goes on\nSee it with: docker openmanage operation inspect %s", err, name)
	}
	return err
}

// withComponents does something with the services beside the members, if there are any, within the time
// that the command has.
func (o *lifecycleOptions) withComponents(ctx context.Context, dockerCLI command.Cli, do func(context.Context, []swarm.Service) error) error {
	components, err := componentsOf(ctx, dockerCLI, o.name)
	if err != nil || len(components) == 0 {
		return err
	}
	ctx, cancel := o.forComponents(ctx)
	defer cancel()
	return do(ctx, components)
}

// forComponents ends after the time that the command has for components.
func (o *lifecycleOptions) forComponents(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, o.timeout, fmt.Errorf("the components of %s are not done within %s; Swarm goes on\nSee them with: docker openmanage ps %s", o.name, o.timeout, o.name))
}

// alsoComponents has Swarm change the components of the application, if there are any.
func (o *lifecycleOptions) alsoComponents(ctx context.Context, dockerCLI command.Cli, edit func(*swarm.ServiceSpec) bool) func() error {
	return func() error {
		return o.withComponents(ctx, dockerCLI, func(ctx context.Context, components []swarm.Service) error {
			return changeComponents(ctx, dockerCLI, components, edit)
		})
	}
}

func switchoverCommand(dockerCLI command.Cli) *cobra.Command {
	var o lifecycleOptions
	var req store.SwitchoverRequest
	cmd := &cobra.Command{
		Use:   "switchover [OPTIONS] APPLICATION",
		Short: "Hand the primary over to a standby, in order",
		Long: `Stop the primary in order, wait until the standby has its last byte, and make
that one the primary. Nothing is lost; clients see about a second without a primary.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if _, err := o.beginWithPrimary(cmd.Context(), dockerCLI); err != nil {
				return err
			}
			if err := o.carryOut(cmd.Context(), dockerCLI, store.OperationSwitchover, req); err != nil || o.detach {
				return err
			}
			return sayPrimary(cmd.Context(), dockerCLI, o.name)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, 2*time.Minute)
	cmd.Flags().StringVar(&req.To, "to", "", "Member that is to be the primary (default: the most advanced standby)")
	_ = cmd.RegisterFlagCompletionFunc("to", completeMembers(dockerCLI))
	return cmd
}

func promoteCommand(dockerCLI command.Cli) *cobra.Command {
	var o lifecycleOptions
	var req store.SwitchoverRequest
	var force, yes bool
	cmd := &cobra.Command{
		Use:   "promote --force [OPTIONS] APPLICATION",
		Short: "Make a standby the primary though others are missing; writes can be lost",
		Long: `A failover happens by itself when it is certain that nothing acknowledged is lost.
This is for when it is not: the primary is lost, and so are members that may have
acknowledged writes which no other has. The most advanced standby that is left
becomes the primary. What only the missing members have is lost.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return runPromote(cmd.Context(), dockerCLI, o, req, force, yes)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, 2*time.Minute)
	cmd.Flags().StringVar(&req.To, "to", "", "Member that is to be the primary (default: the most advanced one)")
	cmd.Flags().BoolVar(&force, "force", false, "Yes, lose what only the missing members have")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "Do not ask")
	_ = cmd.RegisterFlagCompletionFunc("to", completeMembers(dockerCLI))
	return cmd
}

func runPromote(ctx context.Context, dockerCLI command.Cli, o lifecycleOptions, req store.SwitchoverRequest, force, yes bool) error {
	app, err := o.beginWithPrimary(ctx, dockerCLI)
	if err != nil {
		return err
	}
	var missing, left []string
	for _, m := range app.Members {
		switch {
		case m.Name == app.Primary:
		case m.State == "" || m.Role == "":
			missing = append(missing, m.Name)
		default:
			left = append(left, m.Name)
		}
	}
	what := fmt.Sprintf("The primary of %s is %s. Left are the standbys %v; %v cannot be asked.\nWrites that %s acknowledged and that none of the standbys left has would be lost, for good.", app.Name, app.Primary, left, missing, app.Primary)
	switch {
	case !force:
		return fmt.Errorf("%s\nTo do so, add --force. To hand over in order instead: docker openmanage switchover %s", what, app.Name)
	case !yes && !dockerCLI.In().IsTerminal():
		return fmt.Errorf("%s\nTo do so without being asked, add --yes", what)
	case !yes:
		fmt.Fprintln(dockerCLI.Err(), what)
		ok, err := ask(ctx, dockerCLI, "Make one of them the primary?")
		if err != nil {
			return err
		}
		if !ok {
			return errors.New("nothing was changed")
		}
	}
	if err := o.carryOut(ctx, dockerCLI, store.OperationPromote, req); err != nil || o.detach {
		return err
	}
	return sayPrimary(ctx, dockerCLI, o.name)
}

func sayPrimary(ctx context.Context, dockerCLI command.Cli, name string) error {
	app, err := application(ctx, dockerCLI, name)
	if err != nil {
		return err
	}
	if app.NoRoles {
		fmt.Fprintf(dockerCLI.Out(), "%s is healthy\n", name)
		return nil
	}
	i := slices.IndexFunc(app.Members, func(m store.Member) bool { return m.Name == app.Primary })
	where := ""
	if i >= 0 {
		where = " on " + app.Members[i].Hostname
	}
	fmt.Fprintf(dockerCLI.Out(), "%s%s is the primary of %s\n", app.Primary, where, name)
	return nil
}

func restartCommand(dockerCLI command.Cli) *cobra.Command {
	var o lifecycleOptions
	var req store.RollRequest
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] APPLICATION",
		Short: "Restart the members one at a time, the primary last",
		Long: `Restart the members one at a time: the standbys first, each healthy before the
next, and the primary last, after it has handed over. If the application has a
maintenance window (label openmanage.maintenance.window), no member's restart is
begun outside it: the operation waits.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return runRoll(cmd.Context(), dockerCLI, o, store.OperationRestart, req, false)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, 30*time.Minute)
	rollFlags(cmd, &req)
	return cmd
}

func upgradeCommand(dockerCLI command.Cli) *cobra.Command {
	var o lifecycleOptions
	var req store.RollRequest
	var dryRun bool
	var one string
	cmd := &cobra.Command{
		Use:   "upgrade --image IMAGE [OPTIONS] APPLICATION",
		Short: "Give the members another image, one at a time, the primary last",
		Long: `Restart the members with another image, one at a time: the standbys first, each
healthy before the next, and the primary last, after it has handed over. A member
that does not come up is rolled back, and the upgrade stops with the reason. Another
major version is refused: it cannot open the data.
Before that the nodes of the members pull the image; if one cannot, nothing is
changed. If the application has a maintenance window (label
openmanage.maintenance.window), no member's restart is begun outside it.
The image in your stack file is not changed: do that too, or the next docker stack
deploy brings the old one back.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if req.Image == "" {
				return errors.New("--image is missing: which image are the members to have?")
			}
			if one != "" {
				if _, err := o.begin(cmd.Context(), dockerCLI); err != nil {
					return err
				}
				return o.upgradeComponent(cmd.Context(), dockerCLI, one, req.Image, dryRun)
			}
			return runRoll(cmd.Context(), dockerCLI, o, store.OperationUpgrade, req, dryRun)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, time.Hour)
	rollFlags(cmd, &req)
	cmd.Flags().StringVar(&req.Image, "image", "", "Image to upgrade to")
	cmd.Flags().StringVar(&one, "component", "", "Upgrade this component instead of the members")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "Only print what would be done")
	return cmd
}

// pinned is an image with its digest, which no tag can change.
func pinned(image, digest string) string {
	if digest == "" || strings.Contains(image, "@") {
		return image
	}
	return image + "@" + digest
}

func rollFlags(cmd *cobra.Command, req *store.RollRequest) {
	cmd.Flags().StringVar(&req.Order, "order", "", `Whose turn is when: "primary-last", after a switchover, or "primary-first", without one (default: the label openmanage.upgrade.order, or primary-last)`)
	cmd.Flags().BoolVar(&req.Now, "now", false, "Do not wait for the maintenance window")
	_ = cmd.RegisterFlagCompletionFunc("order", completeFixed("primary-last", "primary-first"))
}

func runRoll(ctx context.Context, dockerCLI command.Cli, o lifecycleOptions, kind string, req store.RollRequest, dryRun bool) error {
	if req.Order != "" && req.Order != "primary-last" && req.Order != "primary-first" {
		return fmt.Errorf("--order %q is not known; choose primary-last or primary-first", req.Order)
	}
	app, err := o.begin(ctx, dockerCLI)
	if err != nil {
		return err
	}
	if req.Image != "" {
		if err := checkUpgrade(ctx, dockerCLI, app, req.Image); err != nil {
			return err
		}
		if req.Image, err = resolvedImage(ctx, dockerCLI, req.Image); err != nil {
			return err
		}
	}
	if dryRun {
		for i, line := range rollPlan(app, req) {
			fmt.Fprintf(dockerCLI.Out(), "%d. %s\n", i+1, line)
		}
		return nil
	}
	var also []func() error
	if o.detach && req.Image == "" { // who waits sees one after the other
		also = append(also, o.alsoComponents(ctx, dockerCLI, component.Roll("")))
	}
	if err := o.carryOut(ctx, dockerCLI, kind, req, also...); err != nil || o.detach {
		return err
	}
	if req.Image == "" {
		if err := o.withComponents(ctx, dockerCLI, func(ctx context.Context, components []swarm.Service) error {
			return rollComponents(ctx, dockerCLI, components, component.Roll(""))
		}); err != nil {
			return err
		}
	}
	if req.Image != "" {
		fmt.Fprintf(dockerCLI.Out(), "%s runs %s. Change it in the stack file too, if you keep one\n", app.Name, shortImage(req.Image))
		return nil
	}
	return sayPrimary(ctx, dockerCLI, o.name)
}

// checkUpgrade refuses an image that cannot use the data, by its tag. What no tag
// says, each member finds out before it starts anything, and is rolled back.
func checkUpgrade(ctx context.Context, dockerCLI command.Cli, app store.Application, image string) error {
	kind, err := typeOf(ctx, dockerCLI, app)
	if err != nil {
		return err
	}
	note, err := kind.CheckUpgrade(app.Image, image)
	if note != "" {
		fmt.Fprintln(dockerCLI.Err(), note)
	}
	return err
}

// rollPlan says in which order members are restarted.
func rollPlan(app store.Application, req store.RollRequest) []string {
	what := "restart"
	if req.Image != "" {
		what = "restart with " + shortImage(req.Image)
	}
	var standbys []string
	for _, m := range app.Members {
		switch {
		case app.NoRoles:
			standbys = append(standbys, what+" "+m.Name+", wait until it is healthy")
		case m.Name != app.Primary:
			standbys = append(standbys, what+" the standby "+m.Name+", wait until it is healthy")
		}
	}
	slices.Reverse(standbys)
	primary := what + " " + app.Primary
	var plan []string
	if req.Image != "" {
		plan = append(plan, "pull "+shortImage(req.Image)+" on the nodes of the members")
	}
	if app.Window != "" && !req.Now {
		plan = append(plan, "wait for the maintenance window, "+app.Window+", now and before each member")
	}
	if app.NoRoles {
		return append(plan, standbys...)
	}
	if cmp.Or(req.Order, app.UpgradeOrder) == "primary-first" || len(app.Members) == 1 {
		return append(append(plan, primary+", the primary, wait until it is healthy"), standbys...)
	}
	return append(append(plan, standbys...), "hand over from "+app.Primary+" to the most advanced standby", primary+", now a standby, wait until it is healthy")
}

func stopCommand(dockerCLI command.Cli) *cobra.Command {
	var o lifecycleOptions
	cmd := &cobra.Command{
		Use:   "stop [OPTIONS] APPLICATION",
		Short: "Stop all members; volumes, names and settings are kept",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if _, err := o.begin(cmd.Context(), dockerCLI); err != nil {
				return err
			}
			if err := o.withComponents(cmd.Context(), dockerCLI, func(ctx context.Context, components []swarm.Service) error {
				if err := changeComponents(ctx, dockerCLI, components, component.Stop); err != nil {
					return err
				}
				return awaitComponents(ctx, dockerCLI, o.name, func(s component.State) bool { return s.Running == 0 })
			}); err != nil {
				return err
			}
			if err := o.carryOut(cmd.Context(), dockerCLI, store.OperationStop, struct{}{}); err != nil || o.detach {
				return err
			}
			fmt.Fprintf(dockerCLI.Out(), "%s is stopped. Start it with: docker openmanage start %s\n", o.name, o.name)
			return nil
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, 5*time.Minute)
	return cmd
}

func startCommand(dockerCLI command.Cli) *cobra.Command {
	var o lifecycleOptions
	cmd := &cobra.Command{
		Use:   "start [OPTIONS] APPLICATION",
		Short: "Start a stopped application: the same members with the same data",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			if _, err := o.begin(cmd.Context(), dockerCLI); err != nil {
				return err
			}
			// Those that wait for the members try again until they are there.
			also := o.alsoComponents(cmd.Context(), dockerCLI, component.Start)
			if err := o.carryOut(cmd.Context(), dockerCLI, store.OperationStart, struct{}{}, also); err != nil || o.detach {
				return err
			}
			if err := o.withComponents(cmd.Context(), dockerCLI, func(ctx context.Context, _ []swarm.Service) error {
				return awaitComponents(ctx, dockerCLI, o.name, component.State.Healthy)
			}); err != nil {
				return err
			}
			return sayPrimary(cmd.Context(), dockerCLI, o.name)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, 10*time.Minute)
	return cmd
}

func scaleCommand(dockerCLI command.Cli) *cobra.Command {
	var o lifecycleOptions
	var req store.ScaleRequest
	cmd := &cobra.Command{
		Use:   "scale APPLICATION --replicas N | --remove MEMBER",
		Short: "Add members, or take them away",
		Long: `Add members, each with a snapshot of a standby's volume, so that nothing is
copied; or take members away, the standby with the highest number first. The volumes
of members that are taken away are kept, and used again when they come back.
The members in your stack file are not changed: do that too, if you keep one.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return runScale(cmd.Context(), dockerCLI, o, req, cmd.Flags().Changed("replicas"))
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, 30*time.Minute)
	cmd.Flags().IntVar(&req.Members, "replicas", 0, "Number of members")
	cmd.Flags().StringVar(&req.Remove, "remove", "", "Member to take away")
	_ = cmd.RegisterFlagCompletionFunc("remove", completeMembers(dockerCLI))
	return cmd
}

func runScale(ctx context.Context, dockerCLI command.Cli, o lifecycleOptions, req store.ScaleRequest, replicas bool) error {
	if replicas == (req.Remove != "") {
		return errors.New("say either --replicas N or --remove MEMBER")
	}
	app, err := o.begin(ctx, dockerCLI)
	if err != nil {
		return err
	}
	kind, err := typeOf(ctx, dockerCLI, app)
	if err != nil {
		return err
	}
	switch {
	case kind.Members.Min == kind.Members.Max:
		return fmt.Errorf("the number of members of %s cannot be changed: %s has %s", app.Name, kind.ID, kind.Members)
	case kind.Members.Scale != "":
		return fmt.Errorf("the number of members of %s cannot be changed: %s", app.Name, kind.Members.Scale)
	case kind.Plain():
		return fmt.Errorf("scale adds members with a snapshot of another's data, and those of %s are each by themselves\nFor another number, deploy its stack again, with all that you have set:\n  docker openmanage generate %s %s --replicas N … > %s.yml && docker stack deploy -c %s.yml %s", app.Name, kind.ID, app.Name, app.Name, app.Name, app.Name)
	case replicas && !kind.Members.Allow(req.Members):
		return fmt.Errorf("--replicas %d: %s has %s", req.Members, kind.ID, kind.Members)
	}
	if req.Remove != "" && !slices.ContainsFunc(app.Members, func(m store.Member) bool { return m.Name == req.Remove }) {
		return fmt.Errorf("%s has no member %s\nSee them with: docker openmanage ps %s", app.Name, req.Remove, app.Name)
	}
	if err := o.carryOut(ctx, dockerCLI, store.OperationScale, req); err != nil || o.detach {
		return err
	}
	app, err = application(ctx, dockerCLI, o.name)
	if err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "%s has %d members\n", app.Name, len(app.Members))
	return nil
}

func volumeExpandCommand(dockerCLI command.Cli) *cobra.Command {
	var o lifecycleOptions
	var size string
	cmd := &cobra.Command{
		Use:   "expand --size SIZE [OPTIONS] APPLICATION",
		Short: "Enlarge the volumes of all members while they run",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.name = args[0]
			return runVolumeExpand(cmd.Context(), dockerCLI, o, size)
		},
		ValidArgsFunction:     completeApplications(dockerCLI, 1),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, 5*time.Minute)
	cmd.Flags().StringVar(&size, "size", "", "New size, such as 20GiB")
	return cmd
}

func runVolumeExpand(ctx context.Context, dockerCLI command.Cli, o lifecycleOptions, text string) error {
	size, err := units.RAMInBytes(text)
	if err != nil || size <= 0 {
		return fmt.Errorf("--size %q: it is no size; write it like 20GiB", text)
	}
	size = size / 4096 * 4096
	if _, err := o.begin(ctx, dockerCLI); err != nil {
		return err
	}
	volumes, err := volumesOf(ctx, dockerCLI, o.name)
	if err != nil {
		return err
	}
	more, smaller := int64(0), 0
	for _, v := range volumes {
		if v.Retained {
			continue
		}
		if v.Size > size {
			return fmt.Errorf("volume %s has %s already; volumes never become smaller", v.Name, stacks.FormatSize(v.Size))
		}
		if v.Size < size {
			smaller++
			more = max(more, size-v.Size)
		}
	}
	if smaller > 0 {
		nodes, err := preflight.Nodes(ctx, dockerCLI.Client())
		if err != nil {
			return err
		}
		if err := preflight.Space(nodes, smaller, more); err != nil {
			return err
		}
	}
	if err := o.carryOut(ctx, dockerCLI, store.OperationExpand, store.ExpandRequest{Size: size}); err != nil || o.detach {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "the volumes of %s have %s\n", o.name, stacks.FormatSize(size))
	return nil
}
