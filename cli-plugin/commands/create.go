package commands

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/openmanage/openmanage/cli-plugin/internal/claim"
	"github.com/openmanage/openmanage/cli-plugin/internal/follow"
	"github.com/openmanage/openmanage/cli-plugin/internal/installation"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/failpoint"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

type createOptions struct {
	applicationOptions
	typeName         string
	name             string
	yes              bool
	timeout          time.Duration
	resolveImage     string
	withRegistryAuth bool
	allow            []string
}

func createCommand(dockerCLI command.Cli) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] TYPE [NAME]",
		Short: "Create an application and wait until it is healthy",
		Long: `Create an application: its secrets and its stack, and wait until every member
is healthy. What it needs, such as a database, is created along, or is an application
that exists already (--use). Run again after a failure, it goes on where it stopped.
Without a name it is called as its type is. 'create TYPE --help' lists the parameters
of the type too.`,
		Example: `  docker openmanage create postgresql pg --replicas 3 --volume-size 10GiB
  docker openmanage create postgresql pg --set max_connections=200
  docker openmanage create zabbix --use postgresql=pg --publish 8080`,
		Args: cli.RequiresRangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.typeName, o.name = args[0], args[len(args)-1]
			return runCreate(cmd.Context(), dockerCLI, cmd.Flags(), stackdeploy.NewDocker(cmd), &o)
		},
		ValidArgsFunction:     completeTypes(dockerCLI),
		DisableFlagsInUseLine: true,
	}
	o.addTo(cmd, dockerCLI)
	flags := cmd.Flags()
	flags.BoolVarP(&o.yes, "yes", "y", false, "Ask nothing; take up volumes that were kept")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Minute, "How long to wait until every member is healthy")
	flags.StringVar(&o.resolveImage, "resolve-image", "always", `Ask the registry for the image ("always", "changed", "never")`)
	flags.BoolVar(&o.withRegistryAuth, "with-registry-auth", false, "Send registry authentication details to the nodes")
	allowFlag(cmd, &o.allow)
	_ = cmd.RegisterFlagCompletionFunc("resolve-image", completeFixed("always", "changed", "never"))
	return cmd
}

// creation is what a create has found out before it makes anything.
type creation struct {
	app      *stacks.App
	options  stacks.Options
	allow    []string        // what a type that was added may reach beyond itself
	foreign  bool            // a type that was added has chosen to have it made along
	services []swarm.Service // of its members, if it is there already
	parts    []swarm.Service // of its components
	others   []swarm.Service // of other stacks
	retained []api.Volume    // kept volumes that will be taken up
	finished bool            // an earlier create has made it
	along    []*creation     // of what it needs
	stack    *stacks.Stack   // that will be deployed
	demands  []stacks.Demand // what it reaches beyond itself, if that was somebody else's choice
}

func runCreate(ctx context.Context, dockerCLI command.Cli, flags *pflag.FlagSet, deployer stackdeploy.Deployer, o *createOptions) error {
	app, options, err := o.resolve(ctx, dockerCLI, flags, o.typeName, o.name)
	if err != nil {
		return err
	}
	if !slices.Contains([]string{"always", "changed", "never"}, o.resolveImage) {
		return fmt.Errorf("%w --resolve-image %q: expected always, changed or never", stacks.ErrOption, o.resolveImage)
	}
	if err := stacks.CheckAllow(o.allow); err != nil {
		return err
	}
	c := &creation{app: app, options: options, allow: o.allow}
	if err := c.preflight(ctx, dockerCLI, flags, o); err != nil {
		return err
	}
	if c.finished {
		return c.followExisting(ctx, dockerCLI, o)
	}
	sayDemands(dockerCLI.Err(), app, c.demands)
	if err := c.confirm(ctx, dockerCLI, o.yes); err != nil {
		return err
	}
	return c.run(ctx, dockerCLI, deployer, o)
}

// runOrFollow makes the application, or waits for it if it is there.
func (c *creation) runOrFollow(ctx context.Context, dockerCLI command.Cli, deployer stackdeploy.Deployer, o *createOptions) error {
	if c.finished {
		return c.followExisting(ctx, dockerCLI, o)
	}
	return c.run(ctx, dockerCLI, deployer, o)
}

// preflight checks, before anything is made, all that can be checked.
func (c *creation) preflight(ctx context.Context, dockerCLI command.Cli, flags *pflag.FlagSet, o *createOptions) error {
	docker := dockerCLI.Client()
	info, err := preflight.Manager(ctx, docker)
	if err != nil {
		return err
	}
	if _, err := preflight.Installed(ctx, docker, info); err != nil {
		return err
	}
	nodes, err := preflight.AwaitPlugins(ctx, docker, preflight.Clock(info), func(line string) { fmt.Fprintln(dockerCLI.Err(), line) })
	if err != nil {
		return err
	}
	if c.app.RunsOwn() { // what is installed, which the nodes have
		if c.options.Own, err = installation.Image(ctx, docker); err != nil {
			return err
		}
	}
	if err := c.lookForName(ctx, docker); err != nil {
		return err
	}
	if err := c.lookForEarlier(ctx, docker, flags); err != nil || c.finished {
		return err
	}
	if err := c.lookForNeeds(ctx, dockerCLI, o); err != nil {
		return err
	}
	fresh, err := c.lookForVolumes(ctx, docker, flags)
	if err != nil {
		return err
	}
	if fresh > 0 {
		if err := preflight.Space(nodes, fresh, c.options.VolumeSize); err != nil {
			return err
		}
	}
	if err := c.lookForNetworks(ctx, docker); err != nil {
		return err
	}
	if err := c.generate(); err != nil {
		return err
	}
	if err := c.lookForOthers(ctx, docker); err != nil {
		return err
	}
	if o.resolveImage == "never" {
		return nil
	}
	return c.lookForImage(ctx, dockerCLI)
}

// lookForName refuses a name that belongs to something that is not ours.
func (c *creation) lookForName(ctx context.Context, docker client.APIClient) error {
	name := c.options.Name
	// One list for both: the stack's services, and services that only have the names.
	res, err := docker.ServiceList(ctx, client.ServiceListOptions{})
	if err != nil {
		return preflight.Explain(ctx, docker, err)
	}
	for _, s := range res.Items {
		mine := s.Spec.Labels[api.LabelApplication] == name
		inStack := s.Spec.Labels[stackdeploy.NamespaceLabel] == name
		switch {
		case inStack && !mine:
			return fmt.Errorf("the name %s is taken by a stack that is not OpenManage's (service %s)\nChoose another name, or see it with: docker stack services %s", name, s.Spec.Name, name)
		case inStack:
			if s.Spec.Labels[api.LabelMember] != "" {
				c.services = append(c.services, s)
			} else {
				c.parts = append(c.parts, s)
			}
		case mine:
			return fmt.Errorf("the name %s is taken: service %s says that it is its application, but is not of the stack %s\nChoose another name, or remove it: docker service rm %s", name, s.Spec.Name, name, s.Spec.Name)
		case serviceOf(name, s.Spec.Name, c.options.Members):
			return fmt.Errorf("the service name %s is taken by another service\nChoose another name than %s", s.Spec.Name, name)
		default:
			if err := c.lookForDoors(s); err != nil {
				return err
			}
			c.others = append(c.others, s)
		}
	}
	for _, s := range c.services {
		if t := s.Spec.Labels[api.LabelType]; t != c.app.ID {
			return fmt.Errorf("the name %s is taken by an application of type %s\nChoose another name", name, t)
		}
	}
	return nil
}

// lookForDoors refuses a port or a domain that the service of another has. Swarm would accept the
// stack, and leave the tasks that find no node without the port pending.
func (c *creation) lookForDoors(s swarm.Service) error {
	if s.Spec.EndpointSpec != nil {
		for _, taken := range s.Spec.EndpointSpec.Ports {
			for _, p := range c.options.Publish {
				if int(taken.PublishedPort) == p.Published && string(taken.Protocol) == c.app.ProtocolOf(p.Target) {
					return fmt.Errorf("port %d of the nodes is taken: service %s publishes it\nChoose another one, such as --publish %d:%d", p.Published, s.Spec.Name, otherPort(p.Published), p.Target)
				}
			}
		}
	}
	if domain := c.options.Domain; domain != "" && stacks.Answers(s.Spec.Labels, domain) {
		return fmt.Errorf("the domain %s is taken: service %s answers there\nChoose another --domain", domain, s.Spec.Name)
	}
	return nil
}

// otherPort is one that people recognize: 15432 for 5432.
func otherPort(port int) int {
	if port+10000 <= 65535 {
		return port + 10000
	}
	return port - 10000
}

func serviceOf(application, service string, members int) bool {
	for slot := 1; slot <= members; slot++ {
		if service == fmt.Sprintf("%s_%d", application, slot) {
			return true
		}
	}
	return false
}

// lookForEarlier finds out whether the application exists, and refuses options
// that differ from what it was created with.
func (c *creation) lookForEarlier(ctx context.Context, docker client.APIClient, flags *pflag.FlagSet) error {
	records := store.New(docker)
	app, err := store.Get[store.Application](ctx, records, store.KindApplication, c.options.Name)
	switch {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return err
	case app.Value.Type != c.app.ID:
		return fmt.Errorf("the name %s is taken: its kept volumes are of type %s\nChoose another name, or delete them: docker openmanage volume rm", c.options.Name, app.Value.Type)
	}
	if len(c.services) == 0 {
		return nil
	}
	op, err := store.Get[store.Operation](ctx, records, store.KindOperation, claim.Name(c.options.Name))
	switch {
	case errors.Is(err, store.ErrNotFound): // deployed by hand from a file
	case err != nil:
		return err
	case op.Value.State != store.OperationDone:
		return nil // it failed or was cut short: go on
	}
	c.finished = true
	diff := differences(c.app, c.options, flags, c.services, c.parts)
	attached := func(name string) bool {
		res, err := docker.NetworkInspect(ctx, name, client.NetworkInspectOptions{Scope: "swarm"})
		return err == nil && stackdeploy.IsAttached(c.services[0], res.Network.ID)
	}
	for _, name := range c.options.Networks {
		if !attached(name) {
			diff = append(diff, "--network "+name+" is not attached")
		}
	}
	for _, n := range c.app.Needs {
		if u := c.options.Uses[n.Name]; flags.Changed("use") && !attached(u.Network()) {
			diff = append(diff, fmt.Sprintf("--use %s=%s: it uses another one", n.Name, u.Name))
		}
	}
	if c.options.Encrypted {
		res, err := docker.NetworkInspect(ctx, stacks.Uses{Name: c.options.Name}.Network(), client.NetworkInspectOptions{Scope: "swarm"})
		if _, encrypted := res.Network.Options["encrypted"]; err != nil || !encrypted {
			diff = append(diff, "--encrypt-network: its network is not encrypted")
		}
	}
	if len(diff) > 0 {
		n := c.options.Name
		return fmt.Errorf("%s exists already, with other options:\n  %s\n"+
			"create does not change what exists. To change settings: docker openmanage config %s set …\n"+
			"To change anything, edit its stack and deploy it again:\n"+
			"  docker openmanage generate %s %s … > %s.yml && docker stack deploy -c %s.yml %s",
			n, strings.Join(diff, "\n  "), n, c.app.ID, n, n, n, n)
	}
	return nil
}

// differences says how the options that were given as flags differ from deployed
// services.
func differences(app *stacks.App, o stacks.Options, flags *pflag.FlagSet, services, components []swarm.Service) []string {
	var diff []string
	say := func(flag string, given, is any) {
		if g, i := fmt.Sprint(given), fmt.Sprint(is); g != i {
			diff = append(diff, fmt.Sprintf("--%s is %s, you ask for %s", flag, i, g))
		}
	}
	spec := services[0].Spec
	container := spec.TaskTemplate.ContainerSpec
	if container == nil {
		return nil
	}
	if flags.Changed("replicas") {
		say("replicas", o.Members, len(services))
	}
	if flags.Changed("image") {
		say("image", o.Image, shortImage(container.Image))
	}
	for _, m := range container.Mounts {
		if m.Source != spec.Labels[api.LabelVolume] || m.VolumeOptions == nil || m.VolumeOptions.DriverConfig == nil {
			continue
		}
		options := m.VolumeOptions.DriverConfig.Options
		if flags.Changed("volume-size") {
			is := options[api.OptionSize]
			if bytes, err := units.RAMInBytes(is); err == nil { // a member that was added later has it in bytes
				is = stacks.FormatSize(bytes)
			}
			say("volume-size", stacks.FormatSize(o.VolumeSize), is)
		}
		if flags.Changed("filesystem") {
			say("filesystem", o.Filesystem, options[api.OptionFilesystem])
		}
	}
	limits := swarm.Limit{}
	if r := spec.TaskTemplate.Resources; r != nil && r.Limits != nil {
		limits = *r.Limits
	}
	if flags.Changed("memory") {
		say("memory", stacks.FormatSize(o.Memory), stacks.FormatSize(limits.MemoryBytes))
	}
	if flags.Changed("cpus") {
		say("cpus", o.CPUs, fmt.Sprint(float64(limits.NanoCPUs)/1e9))
	}
	// A member has what all have; a component has its own.
	parts := append([]swarm.Service{services[0]}, components...)
	if flags.Changed("publish") {
		var published []stacks.Publish
		for _, s := range parts {
			if s.Spec.EndpointSpec == nil {
				continue
			}
			for _, p := range s.Spec.EndpointSpec.Ports {
				published = append(published, stacks.Publish{Published: int(p.PublishedPort), Target: int(p.TargetPort)})
			}
		}
		say("publish", portList(o.Publish), portList(published))
	}
	if o.Domain != "" && !slices.ContainsFunc(parts, func(s swarm.Service) bool { return app.IsRouted(o, s.Spec.Labels) }) {
		diff = append(diff, fmt.Sprintf("--domain %s: it does not answer there through %s", o.Domain, o.Via))
	}
	for _, name := range slices.Sorted(maps.Keys(o.Images)) {
		i := slices.IndexFunc(components, func(s swarm.Service) bool { return s.Spec.Labels[api.LabelComponent] == name })
		is := "not there"
		if i >= 0 && components[i].Spec.TaskTemplate.ContainerSpec != nil {
			is = shortImage(components[i].Spec.TaskTemplate.ContainerSpec.Image)
		}
		say("component-image "+name, o.Images[name], is)
	}
	deployed := map[string]string{}
	if label := spec.Labels[api.LabelParameters]; label != "" {
		_ = json.Unmarshal([]byte(label), &deployed) // a label that was spoilt differs in every key
	}
	for _, key := range slices.Sorted(maps.Keys(o.Parameters)) {
		is, ok := deployed[key]
		if p, err := app.Parameter(key); err == nil && p.Label != "" {
			is, ok = spec.Labels[p.Label]
		}
		if !ok {
			is = "not set"
		}
		say("set "+key, o.Parameters[key], is)
	}
	return diff
}

// portList writes ports as --publish spells them, in order.
func portList(ports []stacks.Publish) string {
	words := make([]string, 0, len(ports))
	for _, p := range ports {
		words = append(words, fmt.Sprintf("%d:%d", p.Published, p.Target))
	}
	if len(words) == 0 {
		return "nothing"
	}
	slices.Sort(words)
	return strings.Join(words, ", ")
}

// lookForVolumes finds the volumes of the members that exist, and returns how many
// are to be made.
func (c *creation) lookForVolumes(ctx context.Context, docker client.APIClient, flags *pflag.FlagSet) (fresh int, err error) {
	records, err := store.List[api.Volume](ctx, store.New(docker), store.KindVolume)
	if err != nil {
		return 0, err
	}
	byName := map[string]api.Volume{}
	for _, r := range records {
		byName[r.Name] = r.Value
	}
	c.options.Volumes = map[string]api.VolumeSpec{}
	for slot := 1; slot <= c.options.Members; slot++ {
		name := stacks.MemberName(c.options.Name, slot)
		v, ok := byName[name]
		if !ok {
			fresh++
			continue
		}
		switch {
		case v.Application != c.options.Name:
			return 0, fmt.Errorf("the volume name %s is taken by a volume that is not of %s\nChoose another name, or delete it: docker openmanage volume rm %s --yes-delete-data", name, c.options.Name, name)
		case v.Purging:
			return 0, fmt.Errorf("the volume %s is being deleted\nTry again in a moment", name)
		case flags.Changed("volume-size") && v.Size != c.options.VolumeSize:
			return 0, fmt.Errorf("the volume %s exists with %s, you ask for %s\nLeave --volume-size out to take it up as it is", name, stacks.FormatSize(v.Size), stacks.FormatSize(c.options.VolumeSize))
		case flags.Changed("filesystem") && v.Filesystem != c.options.Filesystem:
			return 0, fmt.Errorf("the volume %s exists with %s, you ask for %s\nLeave --filesystem out to take it up as it is", name, v.Filesystem, c.options.Filesystem)
		}
		c.options.Volumes[name] = v.VolumeSpec
		if v.Retained {
			c.retained = append(c.retained, v)
		}
	}
	return fresh, nil
}

func (c *creation) lookForNetworks(ctx context.Context, docker client.APIClient) error {
	if via := c.options.Via; via != "" {
		if _, err := docker.NetworkInspect(ctx, stacks.Uses{Name: via}.Network(), client.NetworkInspectOptions{Scope: "swarm"}); err != nil {
			return fmt.Errorf("--domain %s: there is no application %s that browsers come in by: %w\nCreate it: docker openmanage create traefik %s --publish 443 --publish 80", c.options.Domain, via, err, via)
		}
	}
	for _, name := range c.options.Networks {
		res, err := docker.NetworkInspect(ctx, name, client.NetworkInspectOptions{Scope: "swarm"})
		if err != nil {
			return fmt.Errorf("--network %s: %w\nMake it with: docker network create --driver overlay --attachable %s", name, err, name)
		}
		if res.Network.Driver != "overlay" {
			return fmt.Errorf("--network %s: its driver is %s; members on several nodes need an overlay network", name, res.Network.Driver)
		}
	}
	return nil
}

// lookForImage asks the registry, through the daemon, whether the image is there.
func (c *creation) lookForImage(ctx context.Context, dockerCLI command.Cli) error {
	auth, err := command.RetrieveAuthTokenFromImage(dockerCLI.ConfigFile(), c.options.Image)
	if err != nil {
		return fmt.Errorf("credentials for image %s: %w", c.options.Image, err)
	}
	_, err = dockerCLI.Client().DistributionInspect(ctx, c.options.Image, client.DistributionInspectOptions{EncodedRegistryAuth: auth})
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the image %s cannot be pulled: %w\nCheck its name. For a private registry: docker login, and add --with-registry-auth\nIf the nodes have the image and no registry does, add --resolve-image never", c.options.Image, err)
}

// confirm shows what will be made. It asks on a terminal; elsewhere it goes on
// unless there is something that only a person can decide.
func (c *creation) confirm(ctx context.Context, dockerCLI command.Cli, yes bool) error {
	out := dockerCLI.Err()
	if yes {
		return nil
	}
	terminal := dockerCLI.In().IsTerminal() && dockerCLI.Out().IsTerminal()
	if !terminal {
		for _, one := range append([]*creation{c}, c.along...) {
			if len(one.retained) > 0 {
				return fmt.Errorf("volumes of an earlier %s are kept: %s\nTo take them up with their data, add --yes; or choose another name", one.options.Name, volumeNames(one.retained))
			}
		}
		return nil
	}
	question := "Create it?"
	for _, one := range append(slices.Clone(c.along), c) {
		o := one.options
		fmt.Fprintf(out, "%s %s: %d members of %s, %s each (%s)\n", one.app.Title, o.Name, o.Members, o.Image, stacks.FormatSize(o.VolumeSize), o.Filesystem)
		if len(one.retained) > 0 {
			fmt.Fprintf(out, "Volumes of an earlier %s are kept and will be taken up with their data:\n", o.Name)
			for _, v := range one.retained {
				fmt.Fprintf(out, "  %s  %s\n", v.Name, stacks.FormatSize(v.Size))
			}
			question = "Take them up?"
		}
	}
	ok, err := ask(ctx, dockerCLI, question)
	if err == nil && !ok {
		return errors.New("nothing was made")
	}
	return err
}

func volumeNames(volumes []api.Volume) string {
	names := make([]string, 0, len(volumes))
	for _, v := range volumes {
		names = append(names, v.Name)
	}
	return strings.Join(names, ", ")
}

// run makes the application under a claim.
func (c *creation) run(ctx context.Context, dockerCLI command.Cli, deployer stackdeploy.Deployer, o *createOptions) (err error) {
	for _, one := range c.along {
		fmt.Fprintf(dockerCLI.Err(), "%s: what %s needs\n", one.options.Name, c.options.Name)
		if err := one.runOrFollow(ctx, dockerCLI, deployer, o); err != nil {
			return err
		}
	}
	docker, clock := dockerCLI.Client(), claim.SystemClock{}
	request, err := json.Marshal(c.options)
	if err != nil {
		return err
	}
	held, taken, err := claim.Take(ctx, store.New(docker), c.options.Name, string(request), clock, func(op store.Operation) {
		fmt.Fprintf(dockerCLI.Err(), "%s: looking whether %s still creates it\n", c.options.Name, op.By)
	})
	if err != nil {
		return err
	}
	defer func() {
		// The record of how it ended is worth a moment even after Ctrl-C.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if endErr := taken.End(end, clock, err); endErr != nil && err == nil {
			err = endErr
		}
	}()
	failpoint.Hit("create:claimed")
	err = c.make(held, dockerCLI, deployer, taken, o)
	if err != nil {
		return c.explainFailure(ctx, held, err)
	}
	fmt.Fprintln(dockerCLI.Out(), c.whereItIs())
	return nil
}

// whereItIs says how to reach the application.
func (c *creation) whereItIs() string {
	name := c.options.Name
	if !c.app.Plain() {
		return fmt.Sprintf("%s is healthy. Next: docker openmanage connect %s", name, name)
	}
	said := fmt.Sprintf("%s is healthy. In the network %s_default it is", name, name)
	for _, p := range c.app.Ports {
		var at []string
		for _, member := range memberNames(name, c.options.Members) {
			at = append(at, fmt.Sprintf("%s:%d", member, p.Port))
		}
		said += fmt.Sprintf("\n  %s  (%s)", strings.Join(at, " "), p.Description)
	}
	for _, one := range c.app.Components {
		for _, p := range one.Ports {
			said += fmt.Sprintf("\n  %s-%s:%d  (%s)", name, one.Name, p.Port, p.Description)
		}
	}
	for _, p := range c.options.Publish {
		where := "the nodes that its members run on"
		if c.app.OfComponent(p.Target) {
			where = "every node"
		}
		said += fmt.Sprintf("\n  port %d of %s, published for %d", p.Published, where, p.Target)
	}
	for _, s := range c.app.Secrets {
		said += fmt.Sprintf("\n  secret %s: %s", stacks.SecretName(name, s.Name), s.Description)
	}
	return said
}

func (c *creation) make(ctx context.Context, dockerCLI command.Cli, deployer stackdeploy.Deployer, taken *claim.Claim, o *createOptions) error {
	docker, name := dockerCLI.Client(), c.options.Name
	taken.Step(ctx, "secrets")
	for _, s := range c.app.Secrets {
		made, err := ensureSecret(ctx, docker, c.app.ID, name, s)
		if err != nil {
			return err
		}
		word := "made"
		if !made {
			word = "is there"
		}
		fmt.Fprintf(dockerCLI.Err(), "secret %s %s\n", stacks.SecretName(name, s.Name), word)
		failpoint.Hit("create:secret." + s.Name)
	}
	taken.Step(ctx, "stack")
	if err := deployer.Deploy(ctx, name, c.stack.YAML, stackdeploy.Options{ResolveImage: o.resolveImage, WithRegistryAuth: o.withRegistryAuth}); err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Err(), "stack %s deployed\n", name)
	failpoint.Hit("create:deployed")
	taken.Step(ctx, "members")
	if err := follow.Healthy(ctx, docker, name, memberNames(name, c.options.Members), screen(dockerCLI), o.timeout); err != nil {
		return err
	}
	failpoint.Hit("create:healthy")
	return nil
}

// explainFailure adds to an error what is there now and how to go on.
func (c *creation) explainFailure(ctx, held context.Context, err error) error {
	n := c.options.Name
	next := fmt.Sprintf("What was made stays. To go on, run the same command again; to undo: docker openmanage rm %s", n)
	switch {
	case ctx.Err() != nil:
		return cli.StatusError{StatusCode: 130, Cause: ctx.Err(), Status: fmt.Sprintf("interrupted: %s is not yet healthy. Swarm goes on starting what was deployed.\n%s", n, next)}
	case errors.Is(context.Cause(held), claim.ErrLost):
		return fmt.Errorf("%w\nSee how it is with: docker openmanage ps %s", context.Cause(held), n)
	}
	return fmt.Errorf("%w\n%s\nSee more with: docker openmanage ps %s; docker openmanage logs %s", err, next, n, n)
}

// followExisting waits for an application that was created before.
func (c *creation) followExisting(ctx context.Context, dockerCLI command.Cli, o *createOptions) error {
	fmt.Fprintf(dockerCLI.Err(), "%s exists already, as asked\n", c.options.Name)
	members := make([]string, 0, len(c.services))
	for _, s := range c.services {
		members = append(members, s.Spec.Labels[api.LabelMember])
	}
	slices.Sort(members)
	if err := follow.Healthy(ctx, dockerCLI.Client(), c.options.Name, members, screen(dockerCLI), o.timeout); err != nil {
		return err
	}
	fmt.Fprintf(dockerCLI.Out(), "%s is healthy\n", c.options.Name)
	return nil
}

func memberNames(application string, members int) []string {
	names := make([]string, 0, members)
	for slot := 1; slot <= members; slot++ {
		names = append(names, stacks.MemberName(application, slot))
	}
	return names
}

// screen shows progress on the error stream, so that the output can be piped.
func screen(dockerCLI command.Cli) *follow.Screen {
	var width func() int
	if dockerCLI.Err().IsTerminal() {
		width = func() int {
			_, w := dockerCLI.Err().GetTtySize()
			return int(w)
		}
	}
	return follow.NewScreen(dockerCLI.Err(), width)
}
