package commands

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/opts"
	units "github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/stacks"
)

// applicationOptions are the flags that describe an application: those of create
// and generate.
type applicationOptions struct {
	replicas   int
	volumeSize string
	filesystem string
	image      string
	networks   []string
	publish    []string
	encrypt    bool
	cpus       string
	memory     opts.MemBytes
	set        []string
	use        []string
	images     []string
	domain     string
	via        string
}

func (o *applicationOptions) addTo(cmd *cobra.Command, dockerCLI command.Cli) {
	flags := cmd.Flags()
	flags.IntVar(&o.replicas, "replicas", 0, "Number of members (default: the type's)")
	flags.StringVar(&o.volumeSize, "volume-size", "", "Size of each member's volume, such as 10GiB (default: the type's)")
	flags.StringVar(&o.filesystem, "filesystem", "", "Filesystem of the volumes: ext4 or xfs")
	flags.StringVar(&o.image, "image", "", "Image of the members (default: the type's)")
	flags.StringArrayVar(&o.networks, "network", nil, "Attach the members to an existing overlay network too")
	flags.StringArrayVarP(&o.publish, "publish", "p", nil, "Publish a port on the nodes: PUBLISHED[:TARGET] (default target: the port of that number, or the first of the type)")
	flags.BoolVar(&o.encrypt, "encrypt-network", false, "Encrypt the application's own network between nodes")
	flags.StringVar(&o.cpus, "cpus", "", "Limit of processors for each member, such as 1.5")
	flags.Var(&o.memory, "memory", "Limit of memory for each member, such as 2GiB")
	flags.StringArrayVar(&o.set, "set", nil, "Set a parameter of the type: KEY=VALUE")
	flags.StringArrayVar(&o.use, "use", nil, "Use an application that exists for what this one needs: NEED=APPLICATION[:MEMBERS]")
	flags.StringVar(&o.domain, "domain", "", "Name under which browsers find it, through the application traefik")
	flags.StringVar(&o.via, "via", "", "Name of another Traefik application for --domain")
	flags.StringArrayVar(&o.images, "component-image", nil, "Image of a component: COMPONENT=IMAGE (default: the type's)")
	_ = cmd.RegisterFlagCompletionFunc("set", completeParameters(dockerCLI))
	_ = cmd.RegisterFlagCompletionFunc("filesystem", completeFixed("ext4", "xfs"))
}

// resolve turns the flags into options of the type, completed and checked.
func (o *applicationOptions) resolve(ctx context.Context, dockerCLI command.Cli, flags *pflag.FlagSet, typeName, name string) (*stacks.App, stacks.Options, error) {
	app, err := findType(ctx, dockerCLI, typeName)
	if err != nil {
		return nil, stacks.Options{}, err
	}
	result := stacks.Options{
		Name: name, Members: o.replicas, Image: o.image, Filesystem: o.filesystem, CPUs: o.cpus,
		Domain: o.domain, Via: o.via, Memory: o.memory.Value(), Networks: o.networks, Encrypted: o.encrypt, Parameters: map[string]string{},
	}
	var errs []error
	if flags.Changed("replicas") && o.replicas == 0 {
		errs = append(errs, fmt.Errorf("%w --replicas 0: %s has %s", stacks.ErrOption, app.ID, app.Members))
	}
	if o.volumeSize != "" {
		size, err := units.RAMInBytes(o.volumeSize)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%w --volume-size %q: it is no size; write it like 10GiB", stacks.ErrOption, o.volumeSize))
		case size == 0:
			errs = append(errs, fmt.Errorf("%w --volume-size %q: %s needs %s at least", stacks.ErrOption, o.volumeSize, app.ID, app.Volume.MinSize))
		}
		result.VolumeSize = size
	}
	for _, s := range o.publish {
		p, err := app.ParsePublish(s)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		result.Publish = append(result.Publish, p)
	}
	for _, s := range o.set {
		key, value, ok := strings.Cut(s, "=")
		if !ok || key == "" {
			errs = append(errs, fmt.Errorf("%w --set %q: expected KEY=VALUE", stacks.ErrParameter, s))
			continue
		}
		result.Parameters[key] = value
	}
	if err := takeParameters(app, flags, result.Parameters); err != nil {
		errs = append(errs, err)
	}
	if len(o.images) > 0 {
		result.Images = map[string]string{}
	}
	for _, s := range o.images {
		name, image, ok := strings.Cut(s, "=")
		if !ok || name == "" {
			errs = append(errs, fmt.Errorf("%w --component-image %q: expected COMPONENT=IMAGE", stacks.ErrOption, s))
			continue
		}
		result.Images[name] = image
	}
	if result.Uses, err = parseUses(app, o.use); err != nil {
		errs = append(errs, err)
	}
	result = app.Complete(result)
	return app.For(result), result, errors.Join(append(errs, app.Check(result))...)
}

// application reads an application's record, or says what there is instead.
func application(ctx context.Context, dockerCLI command.Cli, name string) (store.Application, error) {
	records := store.New(dockerCLI.Client())
	r, err := store.Get[store.Application](ctx, records, store.KindApplication, name)
	if err == nil {
		return r.Value, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return store.Application{}, preflight.Explain(ctx, dockerCLI.Client(), err)
	}
	all, err := store.List[store.Application](ctx, records, store.KindApplication)
	if err != nil {
		return store.Application{}, err
	}
	names := make([]string, 0, len(all))
	for _, a := range all {
		names = append(names, a.Name)
	}
	hint := ""
	if near := stacks.Nearest(name, names); near != "" {
		hint = fmt.Sprintf("; did you mean %q?", near)
	}
	return store.Application{}, fmt.Errorf("no such application: %s%s\nSee what there is with: docker openmanage ls", name, hint)
}
