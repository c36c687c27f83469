package stacks

import (
	"fmt"
	"regexp"
	"strings"
)

// CommandFlags are the options that create and generate have for every type, and help. A parameter
// cannot have one of these names as its own option.
var CommandFlags = []string{
	"allow", "component-image", "cpus", "domain", "encrypt-network", "filesystem", "help", "image", "memory",
	"network", "publish", "replicas", "resolve-image", "set", "timeout", "use", "via", "volume-size",
	"with-registry-auth", "yes",
}

// flagName is what an option can be called.
var flagName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)

// Flag is the option of create and generate that sets a parameter: --cache-size for cache_size.
type Flag struct {
	Name      string
	Parameter *Parameter
}

// Flags are the options that set parameters, in their order. Without are the parameters that have none,
// so that only --set takes them, each with the reason.
func (a *App) Flags() (flags []Flag, without []string) {
	taken := map[string]string{}
	for _, name := range CommandFlags {
		taken[name] = "create has an option --" + name + " of its own"
	}
	for i := range a.Parameters {
		p := &a.Parameters[i]
		name := strings.ReplaceAll(p.Name, "_", "-")
		why := taken[name]
		if !flagName.MatchString(name) {
			why = "an option has lower-case letters, digits and dashes, a letter first"
		}
		if why != "" {
			without = append(without, fmt.Sprintf("parameter %s is set with --set %s=VALUE only: %s", p.Name, p.Name, why))
			continue
		}
		flags, taken[name] = append(flags, Flag{Name: name, Parameter: p}), "--"+name+" sets "+p.Name
	}
	return flags, without
}
