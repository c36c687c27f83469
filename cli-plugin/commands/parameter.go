package commands

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/docker/cli/cli"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/openmanage/openmanage/stacks"
)

// AddParameterFlags gives create and generate, if args call one of them, the options that set parameters
// of the type that args name. Options have to be there before they are parsed, and which ones they are
// depends on what is parsed: hence args, those of the whole command line. Types that were added to a
// Swarm have none, since no daemon can be asked yet; --set takes their parameters.
func AddParameterFlags(root *cobra.Command, args []string) {
	cmd, words := called(root, args)
	if cmd == nil {
		return
	}
	word, app, unknown := typeAmong(words, cmd.Flags())
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return cli.FlagErrorFunc(cmd, explainFlag(cmd.Flags(), err, word, unknown))
	})
	if app == nil {
		return
	}
	flags, _ := app.Flags() // at least those of every type
	for _, f := range flags {
		if cmd.Flags().Lookup(f.Name) == nil {
			addParameterFlag(cmd, f.Name, app, f.Parameter)
		}
	}
	cmd.Flags().SortFlags = false // the type's come last
	cmd.Long = cmp.Or(cmd.Long, cmd.Short) + fmt.Sprintf("\n\nThe options from --%s on are the parameters of %s.", flags[0].Name, app.ID)
}

// called is the command with parameters that args call, with the words that follow it; nil if it is another.
func called(root *cobra.Command, args []string) (cmd *cobra.Command, words []string) {
	for i, word := range args {
		if word != root.Name() { // also the value of an option of docker's may be called so
			continue
		}
		found, rest, err := root.Find(args[i+1:])
		if err == nil && found.Parent() == root && slices.Contains([]string{"create", "generate"}, found.Name()) {
			return found, rest
		}
	}
	return nil, nil
}

// typeAmong finds the type in words: the first that is neither an option nor the value of one. After an
// option that is not known yet a word may be its value, and is taken for the type only if it is one.
// unknown says that the word is no type that comes with OpenManage.
func typeAmong(words []string, flags *pflag.FlagSet) (word string, app *stacks.App, unknown error) {
	catalog, err := stacks.Builtin()
	if err != nil {
		return "", nil, nil // said when the command runs
	}
	doubtful := false // whether the next word is a value
	for i := 0; i < len(words); i++ {
		word := words[i]
		if len(word) > 1 && word[0] == '-' && word != "--" {
			known, takesNext := option(word, flags)
			if known && takesNext {
				i++
			}
			doubtful = !known && !strings.Contains(word, "=")
			continue
		}
		if word == "--" {
			doubtful = false
			continue
		}
		app, err := catalog.Find(word)
		if err == nil || !doubtful {
			return word, app, err
		}
		doubtful = false
	}
	return "", nil, nil
}

// option tells whether an option is known, and whether its value is the next word.
func option(word string, flags *pflag.FlagSet) (known, takesNext bool) {
	if name, ok := strings.CutPrefix(word, "--"); ok {
		name, _, hasValue := strings.Cut(name, "=")
		f := flags.Lookup(name)
		return f != nil, f != nil && !hasValue && f.NoOptDefVal == ""
	}
	for i := 1; i < len(word); i++ { // -yp 80
		f := flags.ShorthandLookup(word[i : i+1])
		if f == nil {
			return word == "-h", false
		}
		if f.NoOptDefVal == "" {
			return true, i == len(word)-1
		}
	}
	return true, false
}

// parameterValue is the value of an option that sets a parameter. It is checked with all others.
type parameterValue struct {
	app   *stacks.App
	p     *stacks.Parameter
	value string
}

func (v *parameterValue) String() string { return v.value }

// Set takes true and false, as switches have them, for the on and off of parameters.
func (v *parameterValue) Set(value string) error {
	if v.IsBoolFlag() {
		switch value {
		case "true":
			value = "on"
		case "false":
			value = "off"
		}
	}
	v.value = value
	return nil
}

// Type is what help shows in the value's place.
func (v *parameterValue) Type() string {
	switch {
	case v.IsBoolFlag():
		return "bool"
	case len(v.p.Allowed) > 0:
		return strings.Join(v.p.Allowed, "|")
	}
	return v.p.Type
}

// IsBoolFlag makes it a switch.
func (v *parameterValue) IsBoolFlag() bool { return v.p.Type == "boolean" }

func addParameterFlag(cmd *cobra.Command, name string, app *stacks.App, p *stacks.Parameter) {
	value := &parameterValue{app: app, p: p}
	f := cmd.Flags().VarPF(value, name, "", p.Description)
	f.DefValue = p.Default
	values := p.Allowed
	if value.IsBoolFlag() {
		f.NoOptDefVal, values = "true", []string{"on", "off"}
		f.DefValue = strings.TrimPrefix(p.Default, "off")
	}
	_ = cmd.RegisterFlagCompletionFunc(name, completeFixed(values...))
}

// takeParameters adds to what --set has set what options of the type's have.
func takeParameters(app *stacks.App, flags *pflag.FlagSet, set map[string]string) error {
	var errs []error
	flags.Visit(func(f *pflag.Flag) {
		v, ok := f.Value.(*parameterValue)
		if !ok {
			return
		}
		other, given := set[v.p.Name]
		switch {
		case v.app.ID != app.ID:
			errs = append(errs, fmt.Errorf("%w --%s: it is an option of %s, not of %s\nGive the type before its options", stacks.ErrOption, f.Name, v.app.ID, app.ID))
		case given && other != v.value:
			errs = append(errs, fmt.Errorf("%w %s: it is given twice, --%s %s and --set %s=%s; give it once", stacks.ErrParameter, v.p.Name, f.Name, v.value, v.p.Name, other))
		default:
			set[v.p.Name] = v.value
		}
	})
	return errors.Join(errs...)
}

// explainFlag says of an option that is not known which one may be meant.
func explainFlag(flags *pflag.FlagSet, err error, word string, unknown error) error {
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) || len(missing.GetSpecifiedName()) < 2 {
		return err
	}
	var names []string
	flags.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	})
	if near := stacks.Nearest(missing.GetSpecifiedName(), names); near != "" {
		err = fmt.Errorf("%w; did you mean --%s?", err, near)
	}
	switch {
	case unknown != nil:
		return fmt.Errorf("%w\n%s is no type that comes with OpenManage. Of one that was added, parameters are given with --set KEY=VALUE", err, word)
	case word == "":
		return fmt.Errorf("%w\nOptions of a type need the type: TYPE NAME --OPTION", err)
	}
	return err
}
