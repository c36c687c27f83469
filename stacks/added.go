package stacks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// Source is what a type is written in: the files of its folder.
type Source struct {
	App      string `json:"app"`              // app.yaml
	Template string `json:"template"`         // stack.yaml.tmpl
	Readme   string `json:"readme,omitempty"` // README.md, if there is one
}

// Added is by whom a type was added, and what it may demand.
type Added struct {
	By      string    `json:"by"` // user@host, for people
	At      time.Time `json:"at"`
	Allowed []string  `json:"allowed,omitempty"` // of Permissions
}

// maxSource and maxRecord keep a type, and the JSON that it is kept as, within a Swarm
// config and the transaction that writes it (1,000 KiB, 1.5 MiB).
const (
	maxSource = 400 << 10
	maxRecord = 800 << 10
)

// ReadFolder reads the files of a type. folder keeps to itself (os.Root): a link that leads out of it
// would put a file of the user's into the catalog, where others can read it.
func ReadFolder(folder fs.FS) (Source, error) {
	var s Source
	var errs []error
	left := maxSource
	for _, f := range []struct {
		name     string
		to       *string
		required bool
	}{{"app.yaml", &s.App, true}, {"stack.yaml.tmpl", &s.Template, true}, {"README.md", &s.Readme, false}} {
		info, err := fs.Stat(folder, f.name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !f.required:
			continue
		case errors.Is(err, fs.ErrNotExist):
			errs = append(errs, fmt.Errorf("there is no %s", f.name))
			continue
		case err != nil:
			errs = append(errs, err)
			continue
		case !info.Mode().IsRegular():
			errs = append(errs, fmt.Errorf("%s is no file", f.name))
			continue
		}
		doc, err := readAtMost(folder, f.name, left)
		if err != nil {
			errs = append(errs, err)
			break
		}
		left -= len(doc)
		*f.to = string(doc)
	}
	// JSON, in which it is kept, can be longer.
	if doc, err := json.Marshal(s); err != nil || len(doc) > maxRecord {
		errs = append(errs, err, fmt.Errorf("app.yaml, stack.yaml.tmpl and README.md have more than %s together as JSON", FormatSize(maxRecord)))
	}
	return s, errors.Join(errs...)
}

// readAtMost reads a file of the folder, if it is no larger than what is left.
func readAtMost(folder fs.FS, name string, left int) ([]byte, error) {
	file, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	doc, err := io.ReadAll(io.LimitReader(file, int64(left)+1))
	if err == nil && len(doc) > left {
		err = fmt.Errorf("app.yaml, stack.yaml.tmpl and README.md have more than %s together", FormatSize(maxSource))
	}
	return doc, err
}

// ReadAdded reads a type that did not come with OpenManage. It shares common.tmpl and
// common.yaml with those that did.
func ReadAdded(id string, source Source, added Added) (*App, error) {
	shared, err := builtinShared()
	if err != nil {
		return nil, err
	}
	app, err := loadApp(files{
		path.Join(id, "app.yaml"): []byte(source.App), path.Join(id, "stack.yaml.tmpl"): []byte(source.Template),
	}, id, shared)
	if err != nil {
		return nil, err
	}
	if _, err := parseTemplate(app); err != nil {
		return nil, fmt.Errorf("%s: %w", path.Join(id, "stack.yaml.tmpl"), err)
	}
	app.Added = &added
	return app, nil
}

// files are those of one type.
type files map[string][]byte

// Open opens none: they are read as a whole.
func (f files) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
}

// ReadFile reads one.
func (f files) ReadFile(name string) ([]byte, error) {
	doc, ok := f[name]
	if !ok {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	return doc, nil
}

// With returns the catalog with more types. One whose name is taken is left out and
// named in hidden, with whose it is.
func (c *Catalog) With(apps ...*App) (all *Catalog, hidden map[string]string) {
	all, hidden = &Catalog{apps: slices.Clone(c.apps)}, map[string]string{}
	for _, app := range apps {
		if name, owner := all.taken(app); name != "" {
			hidden[app.ID] = fmt.Sprintf("the name %s is that of %s", name, owner)
			continue
		}
		all.apps = append(all.apps, app)
	}
	slices.SortFunc(all.apps, func(a, b *App) int { return strings.Compare(a.ID, b.ID) })
	return all, hidden
}

// taken returns the name of app that another type has, and that type; "": none.
func (c *Catalog) taken(app *App) (name, owner string) {
	for _, other := range c.apps {
		for _, name := range append([]string{app.ID}, app.Aliases...) {
			if other.ID == name || slices.Contains(other.Aliases, name) {
				return name, other.ID
			}
		}
	}
	return "", ""
}

// Search returns the types that have all of the words, in what they are called and what is
// said of them, of their ports and their secrets.
func (c *Catalog) Search(words ...string) []*App {
	var found []*App
	for _, app := range c.apps {
		text := strings.Join(append([]string{app.ID, app.Title, app.Category, app.Description}, app.Aliases...), " ")
		for _, p := range app.Ports {
			text += " " + p.Description
		}
		for _, s := range app.Secrets {
			text += " " + s.Description
		}
		text = strings.ToLower(text)
		missing := slices.ContainsFunc(words, func(word string) bool {
			word = strings.ToLower(word)
			if single := strings.TrimSuffix(word, "s"); len(single) > 2 { // logs finds log
				word = single
			}
			return !strings.Contains(text, word)
		})
		if !missing {
			found = append(found, app)
		}
	}
	return found
}
