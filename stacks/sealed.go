package stacks

import (
	"errors"
	"fmt"
	"slices"

	"github.com/docker/cli/cli/compose/types"
)

// A stack is the same wherever it is deployed: it takes nothing of the machine that
// deploys it, neither files nor environment variables. What was looked at is then what
// is deployed, and a type that somebody else wrote gets at nothing of the user's.

// checkFiles refuses files that the loader would read.
func checkFiles(dict map[string]any) error {
	services, _ := dict["services"].(map[string]any)
	for _, name := range sortedKeys(services) {
		if service, ok := services[name].(map[string]any); ok && service["env_file"] != nil {
			return fmt.Errorf("service %s: env_file is a file of the machine that deploys the stack; write environment instead", name)
		}
	}
	return nil
}

// checkSealed says what a loaded stack takes of the machine, or nil. variables are those
// that the loader has looked up to fill them in.
func checkSealed(config *types.Config, variables []string) error {
	var errs []error
	slices.Sort(variables)
	for _, name := range slices.Compact(variables) {
		errs = append(errs, fmt.Errorf("$%s is a variable of the machine that deploys the stack; for a $ write $$", name))
	}
	for _, s := range config.Services {
		for _, name := range sortedKeys(s.Environment) {
			if s.Environment[name] == nil {
				errs = append(errs, fmt.Errorf("%s: variable %s has no value, so that it would be that of the machine that deploys the stack; give it one", subject(s), name))
			}
		}
	}
	for _, name := range sortedKeys(config.Secrets) {
		if s := config.Secrets[name]; !s.External.External && s.Driver == "" {
			errs = append(errs, fmt.Errorf("secret %s comes from a file of the machine that deploys the stack; name it in app.yaml and write external: true", name))
		}
	}
	for _, name := range sortedKeys(config.Configs) {
		if c := config.Configs[name]; !c.External.External && c.Driver == "" {
			errs = append(errs, fmt.Errorf("config %s comes from a file of the machine that deploys the stack; write what the server reads as OPENMANAGE_FILE_%s", name, name))
		}
	}
	return errors.Join(errs...)
}
