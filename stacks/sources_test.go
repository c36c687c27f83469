package stacks

import (
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/docker/cli/cli/compose/types"
	"go.yaml.in/yaml/v3"
	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/api"
)

// fact is something that a stack takes for true of an image, and that nothing here can find out: what it
// is called in a type's sources.yaml.
type fact struct {
	What string `yaml:"what"` // env, path, port, user, command, health, file
	Name string `yaml:"name"`
}

// source is where the makers of an image say so. Run: it has been seen in a container too.
type source struct {
	fact   `yaml:",inline"`
	Source string `yaml:"source"`
	Run    bool   `yaml:"run"`
}

// What a type takes for true of its images stands in its sources.yaml, with where its makers say so.
func TestWhatStacksTakeForTrueHasASource(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		doc, err := os.ReadFile(filepath.Join(app.ID, "sources.yaml"))
		assert.NilError(t, err, "each type has a table of its sources; see docs/catalog.md")
		var table []source
		dec := yaml.NewDecoder(strings.NewReader(string(doc)))
		dec.KnownFields(true)
		assert.NilError(t, dec.Decode(&table))
		taken := factsOf(t, app)
		given := map[fact]bool{}
		for _, s := range table {
			u, err := url.Parse(s.Source)
			assert.Check(t, err == nil && u.Scheme == "https" && u.Host != "" && u.Path != "", "%s %s: source %q is no https URL of a page", s.What, s.Name, s.Source)
			assert.Check(t, !given[s.fact], "%s %s is there twice", s.What, s.Name)
			assert.Check(t, taken[s.fact], "%s %s is not in the stack", s.What, s.Name)
			given[s.fact] = true
		}
		for f := range taken {
			assert.Check(t, given[f], "%s %s has no source: add it to %s/sources.yaml", f.What, f.Name, app.ID)
		}
	})
}

// factsOf collects them from a stack in which all that can be left out is there.
func factsOf(t *testing.T, app *App) map[fact]bool {
	t.Helper()
	o := everything(app)
	for _, p := range app.Parameters {
		const address = "https://app.example.com"
		if p.Type == "text" && p.Default == "" && p.Label == "" && regexp.MustCompile(p.Pattern).MatchString(address) && app.Plain() {
			o.Parameters[p.Name] = address
		}
	}
	stack, err := app.Generate(o)
	assert.NilError(t, err)
	facts := map[fact]bool{}
	for _, s := range stack.Config.Services {
		if strings.HasPrefix(s.Image, "openmanage/openmanage:") {
			continue // what our own code takes is said there
		}
		member := s.Deploy.Labels[api.LabelMember] != ""
		start := []string{strings.Join(s.Command, " ")}
		for name, value := range s.Environment {
			file, isFile := strings.CutPrefix(name, "OPENMANAGE_FILE_")
			switch {
			case name == "OPENMANAGE_FILE_start" || name == "OPENMANAGE_START":
				start = append(start, *value)
			case isFile:
				facts[fact{"file", file}] = true
			case name == "OPENMANAGE_SECRETS":
				var secrets map[string]string
				assert.NilError(t, json.Unmarshal([]byte(*value), &secrets))
				for variable := range secrets {
					facts[fact{"env", variable}] = true
				}
			case !strings.HasPrefix(name, "OPENMANAGE_"):
				facts[fact{"env", name}] = true
			}
		}
		for _, v := range s.Volumes {
			if v.Type == "volume" && v.Target != "/openmanage" {
				facts[fact{"path", v.Target}] = true
			}
		}
		if s.User != "" {
			facts[fact{"user", s.User}] = true
		}
		// A script ends with what it stands before.
		command := start[len(start)-1]
		if i := strings.LastIndex(command, "exec "); i >= 0 {
			command = command[i+len("exec "):]
		}
		if command = strings.TrimSpace(command); command != "" {
			facts[fact{"command", command}] = true
		}
		if !member {
			facts[fact{"health", strings.Join(s.HealthCheck.Test, " ")}] = true
		}
	}
	if app.Plain() { // else it is the engine that asks
		facts[fact{"health", app.Health.Check}] = true
	}
	ports := app.Ports
	for _, c := range app.Components {
		ports = slices.Concat(ports, c.Ports)
	}
	for _, p := range ports {
		facts[fact{"port", strconv.Itoa(p.Port)}] = true
	}
	return facts
}

// A script of a stack is one that a shell understands, also where a $ is doubled for Docker.
func TestScriptsAreThose(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		for _, s := range generated(t, app) {
			for _, name := range []string{"OPENMANAGE_FILE_start", "OPENMANAGE_START"} {
				script := s.Environment[name]
				if script == nil {
					continue
				}
				check := exec.Command("bash", "-n")
				check.Stdin = strings.NewReader(*script)
				out, err := check.CombinedOutput()
				assert.NilError(t, err, "%s: %s\n%s", name, out, *script)
				assert.Check(t, strings.Contains(*script, "\nexec "), "%s does not end in the image's own command", name)
			}
		}
	})
}

// What a type needs is there to be made, with the secrets that are read. A type that comes later is named
// here, so that nobody forgets to look at those that wait for it.
func TestWhatTypesNeedIsThere(t *testing.T) {
	const later = "mongodb"
	catalog, err := Builtin()
	assert.NilError(t, err)
	_, err = catalog.Find(later)
	assert.ErrorIs(t, err, ErrUnknownType, "graylog can be created now: change its README.md, its description and this test")
	each(t, func(t *testing.T, app *App) {
		for _, n := range app.Needs {
			if n.Type == later {
				continue
			}
			needed, err := catalog.Find(n.Type)
			assert.NilError(t, err)
			for _, name := range n.Secrets {
				assert.Check(t, needed.hasSecret(name), "%s has no secret %s", n.Type, name)
			}
			_, err = needed.Generate(Options{Name: "app", Image: n.Image, Parameters: n.Parameters})
			assert.NilError(t, err)
		}
	})
}

// Swarm takes {{ in a variable for a placeholder of its own, and refuses a service that has another.
func TestSwarmFindsOnlyItsPlaceholders(t *testing.T) {
	each(t, func(t *testing.T, app *App) {
		for _, s := range generated(t, app) {
			for name, value := range s.Environment {
				if value == nil {
					continue
				}
				for _, m := range regexp.MustCompile(`{{[^}]*}}?`).FindAllString(*value, -1) {
					assert.Check(t, slices.Contains([]string{"{{.Task.ID}}", "{{.Node.Hostname}}"}, m), "%s: %s", name, m)
				}
			}
		}
	})
}

func generated(t *testing.T, app *App) types.Services {
	t.Helper()
	stack, err := app.Generate(everything(app))
	assert.NilError(t, err)
	return stack.Config.Services
}
