package stacks

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErrParameter is what every error about a --set parameter wraps.
var ErrParameter = errors.New("invalid parameter")

// Parameter is something a user may set with --set NAME=VALUE.
type Parameter struct {
	Name string `yaml:"name" json:"name"`
	// Type is integer, size (as the application spells sizes), duration, boolean,
	// choice (one of Allowed) or text (matches Pattern).
	Type        string `yaml:"type" json:"type"`
	Description string `yaml:"description" json:"description"`
	// Default is what the application does when nothing is set. It is said, not
	// written into the stack.
	Default string   `yaml:"default" json:"default,omitempty"`
	Allowed []string `yaml:"allowed" json:"allowed,omitempty"`
	Pattern string   `yaml:"pattern" json:"pattern,omitempty"`
	Min     *int64   `yaml:"min" json:"min,omitempty"` // of an integer
	Max     *int64   `yaml:"max" json:"max,omitempty"`
	// Label makes the parameter that label of the members' services, instead of a
	// setting of the application.
	Label string `yaml:"label" json:"label,omitempty"`
	// Restart: a change takes a restart of the member.
	Restart bool `yaml:"restart" json:"restart,omitempty"`
}

// forms are what values of a type look like.
var forms = map[string]struct {
	pattern *regexp.Regexp
	say     string
}{
	"integer":  {regexp.MustCompile(`^-?[0-9]+$`), "a whole number"},
	"size":     {regexp.MustCompile(`^[0-9]+(kB|MB|GB|TB)$`), "a size with its unit, kB, MB, GB or TB, such as 256MB"},
	"duration": {regexp.MustCompile(`^(-1|0|[0-9]+(us|ms|s|min|h|d))$`), "a duration with its unit, us, ms, s, min, h or d, such as 250ms"},
	"boolean":  {regexp.MustCompile(`^(on|off)$`), "on or off"},
}

func (p *Parameter) validate() error {
	if p.Name == "" {
		return errors.New("a parameter has no name")
	}
	if p.Description == "" {
		return fmt.Errorf("parameter %s: description is missing", p.Name)
	}
	if !oneLine(p.Name + p.Description + p.Default + strings.Join(p.Allowed, "") + p.Label) {
		return fmt.Errorf("parameter %s: expected one line each, without control characters", p.Name)
	}
	switch p.Type {
	case "integer", "size", "duration", "boolean":
	case "choice":
		if len(p.Allowed) == 0 {
			return fmt.Errorf("parameter %s: a choice needs allowed values", p.Name)
		}
	case "text":
		if p.Pattern == "" {
			return fmt.Errorf("parameter %s: a text needs a pattern", p.Name)
		}
		if _, err := regexp.Compile(p.Pattern); err != nil {
			return fmt.Errorf("parameter %s: pattern: %w", p.Name, err)
		}
	default:
		return fmt.Errorf("parameter %s: type %q: expected integer, size, duration, boolean, choice or text", p.Name, p.Type)
	}
	if p.Default != "" {
		if err := p.Check(p.Default); err != nil {
			return fmt.Errorf("parameter %s: its own default: %w", p.Name, err)
		}
	}
	return nil
}

// CheckLine says why value cannot be that of any parameter, or nil.
func CheckLine(name, value string) error {
	// Swarm expands templates in environment variables, where the value goes.
	if strings.Contains(value, "{{") || strings.ContainsAny(value, "\n\r\x00") {
		return fmt.Errorf("%w %s=%s: expected a single line without {{", ErrParameter, name, value)
	}
	return nil
}

// Check says why value cannot be the parameter's, or nil.
func (p *Parameter) Check(value string) error {
	refuse := func(expected string) error {
		return fmt.Errorf("%w %s=%s: expected %s", ErrParameter, p.Name, value, expected)
	}
	if err := CheckLine(p.Name, value); err != nil {
		return err
	}
	switch p.Type {
	case "choice":
		if !slices.Contains(p.Allowed, value) {
			return refuse("one of " + strings.Join(p.Allowed, ", "))
		}
	case "text":
		if !regexp.MustCompile(p.Pattern).MatchString(value) {
			return refuse("what matches " + p.Pattern)
		}
	default:
		if form := forms[p.Type]; !form.pattern.MatchString(value) {
			return refuse(form.say)
		}
	}
	if p.Type == "integer" {
		n, err := strconv.ParseInt(value, 10, 64)
		switch {
		case err != nil:
			return refuse("a whole number")
		case p.Min != nil && n < *p.Min:
			return refuse(fmt.Sprintf("%d or more", *p.Min))
		case p.Max != nil && n > *p.Max:
			return refuse(fmt.Sprintf("%d or less", *p.Max))
		}
	}
	return nil
}

// Parameter returns the parameter of a name, or an error that names the nearest
// one and lists all.
func (a *App) Parameter(name string) (*Parameter, error) {
	names := make([]string, 0, len(a.Parameters))
	for i := range a.Parameters {
		if a.Parameters[i].Name == name {
			return &a.Parameters[i], nil
		}
		names = append(names, a.Parameters[i].Name)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%w %q: %s has none", ErrParameter, name, a.ID)
	}
	hint := ""
	if near := Nearest(name, names); near != "" {
		hint = fmt.Sprintf(" Did you mean %q?", near)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("%w: %s has no %q.%s It has:\n  %s", ErrParameter, a.ID, name, hint, strings.Join(names, "\n  "))
}

// Reserves tells whether the engine keeps a setting for itself.
func (a *App) Reserves(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(a.Reserved, func(own string) bool {
		prefix, all := strings.CutSuffix(own, "*")
		return name == own || all && strings.HasPrefix(name, prefix)
	})
}

// CheckParameters says what is wrong with the parameters that a user set, all of
// it at once, or nil.
func (a *App) CheckParameters(set map[string]string) error {
	var errs []error
	for _, name := range sortedKeys(set) {
		p, err := a.Parameter(name)
		if err == nil {
			err = p.Check(set[name])
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// valueIn is the value that is given for the parameter, or its default.
func (p *Parameter) valueIn(given map[string]string) string {
	if value, ok := given[p.Name]; ok {
		return value
	}
	return p.Default
}
