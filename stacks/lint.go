package stacks

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Problem is one thing that is wrong with a type.
type Problem struct {
	File   string
	Line   int // 0: it is missing, or of the whole file
	Column int
	Text   string
}

// String is FILE:LINE:COLUMN: TEXT, as compilers and editors have it.
func (p Problem) String() string {
	at := p.File
	if p.Line > 0 {
		at += ":" + strconv.Itoa(p.Line)
		if p.Column > 0 {
			at += ":" + strconv.Itoa(p.Column)
		}
	}
	return at + ": " + visible(p.Text)
}

const (
	appFile      = "app.yaml"
	templateFile = "stack.yaml.tmpl"
)

const (
	// lintName is an application that nobody has.
	lintName = "example"
	// maxProblems of the fields of app.yaml are enough for once.
	maxProblems = 100
)

// Lint says all that is wrong with a type that somebody wrote, and what its stacks demand
// (Demands). app is nil if app.yaml cannot be used.
func Lint(source Source) (app *App, demands []Demand, problems []Problem) {
	l := &linter{}
	app = l.app([]byte(source.App))
	if app != nil {
		l.add(app.Engine == "", "engine", "engine: leave it out: an engine is code of OpenManage's, and a type that is added has none")
		l.template(app, source)
	} else {
		l.syntax(source)
	}
	slices.SortStableFunc(l.problems, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	sortDemands(l.demands)
	return app, l.demands, slices.Compact(l.problems)
}

type linter struct {
	root     *yaml.Node // of app.yaml
	problems []Problem
	demands  []Demand
	twice    bool // a field is, so that nothing can be read
	endless  bool // a stack was not rendered within its time: none of the others will be
}

// add notes a problem of the field at path in app.yaml, unless ok.
func (l *linter) add(ok bool, path, text string) {
	if ok {
		return
	}
	p := Problem{File: appFile, Text: text}
	if node := at(l.root, path); node != nil {
		p.Line, p.Column = node.Line, node.Column
	}
	l.problems = append(l.problems, p)
}

func (l *linter) node(node *yaml.Node, format string, args ...any) {
	if len(l.problems) >= maxProblems {
		return
	}
	l.problems = append(l.problems, Problem{File: appFile, Line: node.Line, Column: node.Column, Text: fmt.Sprintf(format, args...)})
}

var yamlLine = regexp.MustCompile(`^(?:yaml: )?(?:line (\d+): )?(?s:(.*))$`)

// app reads app.yaml: first whether its fields are known and of the right kind, each with
// its place, then what they say.
func (l *linter) app(doc []byte) *App {
	var file yaml.Node
	if err := yaml.Unmarshal(doc, &file); err != nil {
		m := yamlLine.FindStringSubmatch(err.Error())
		line, _ := strconv.Atoi(m[1])
		l.problems = append(l.problems, Problem{File: appFile, Line: line, Text: "no YAML: " + m[2]})
		return nil
	}
	if len(file.Content) == 0 {
		l.problems = append(l.problems, Problem{File: appFile, Text: "it is empty"})
		return nil
	}
	l.root = file.Content[0]
	l.fields(l.root, reflect.TypeFor[App](), "")
	shape := len(l.problems)
	if l.twice {
		return nil
	}
	shared, err := builtinShared()
	if err != nil {
		l.problems = append(l.problems, Problem{File: appFile, Text: err.Error()})
		return nil
	}
	app, err := parseLoosely(file.Content[0], shared.parameters)
	for _, text := range messages(err) {
		path, _, _ := strings.Cut(text, " ")
		if name, ok := strings.CutPrefix(text, "parameter "); ok {
			name, _, _ = strings.Cut(name, " ")
			path = "parameters " + strings.TrimSuffix(name, ":")
		}
		l.add(l.known(strings.TrimSuffix(path, ":"), shape), strings.TrimSuffix(path, ":"), text)
	}
	if len(l.problems) > 0 {
		return nil
	}
	return app
}

// known tells whether the field at path, or something in it, is among the first problems
// already: what is said of its value then only follows.
func (l *linter) known(path string, first int) bool {
	node := at(l.root, path)
	return node != nil && slices.ContainsFunc(l.problems[:first], func(p Problem) bool {
		return inside(node, p)
	})
}

// inside tells whether a problem is of a node or of one below it.
func inside(node *yaml.Node, p Problem) bool {
	if node.Line == p.Line && node.Column == p.Column {
		return true
	}
	return slices.ContainsFunc(node.Content, func(n *yaml.Node) bool { return inside(n, p) })
}

// parseLoosely reads what can be read of an app.yaml, and says what its fields say wrong.
func parseLoosely(node *yaml.Node, shared []Parameter) (*App, error) {
	app := &App{}
	if err, shape := node.Decode(app), (*yaml.TypeError)(nil); err != nil && !errors.As(err, &shape) {
		return app, nil // nothing was read; why was said already
	}
	app.Parameters = append(app.Parameters, shared...)
	app.complete()
	return app, app.validate()
}

// messages are the lines of a joined error.
func messages(err error) []string {
	if err == nil {
		return nil
	}
	// Joined errors, also below one that says where they come from.
	var several interface{ Unwrap() []error }
	if errors.As(err, &several) {
		var all, texts []string
		for _, e := range several.Unwrap() {
			texts = append(texts, e.Error())
			all = append(all, messages(e)...)
		}
		if strings.HasSuffix(err.Error(), strings.Join(texts, "\n")) { // not one text that names several
			return all
		}
	}
	return []string{strings.Join(strings.Fields(err.Error()), " ")}
}

// at returns the node at a path like volume.size, or "parameters NAME", or the nearest
// one above it that is there; nil: not even its first part is.
func at(root *yaml.Node, path string) *yaml.Node {
	list, name, inList := strings.Cut(path, " ")
	var found *yaml.Node
	node := root
	for part := range strings.SplitSeq(list, ".") {
		next := child(node, part)
		if next == nil {
			break
		}
		found, node = next, next
	}
	if !inList || found == nil {
		return found
	}
	for _, item := range found.Content {
		if n := child(item, "name"); n != nil && n.Value == name {
			return n
		}
	}
	return found
}

func child(node *yaml.Node, key string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

// fields looks whether node can be read as a typ, with no field that typ has not.
func (l *linter) fields(node *yaml.Node, typ reflect.Type, path string) {
	if node.Kind == yaml.AliasNode { // a few of them, each of others, stand for millions of fields
		l.node(node, "%s: write it out instead of *%s", cmp.Or(path, "app.yaml"), node.Value)
		return
	}
	if node.Tag == "!!null" { // as if it was not there
		return
	}
	where := path
	if where == "" {
		where = "app.yaml"
	}
	if reflect.PointerTo(typ).Implements(reflect.TypeFor[yaml.Unmarshaler]()) {
		if err := node.Decode(reflect.New(typ).Interface()); err != nil {
			l.node(node, "%s: %s", where, yamlLine.FindStringSubmatch(err.Error())[2])
		}
		return
	}
	switch typ.Kind() {
	case reflect.Pointer:
		l.fields(node, typ.Elem(), path)
	case reflect.Struct:
		if node.Kind != yaml.MappingNode {
			l.node(node, "%s: expected fields, such as %s", where, strings.Join(fieldNames(typ)[:min(3, len(fieldNames(typ)))], ", "))
			return
		}
		l.object(node, typ, path)
	case reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			l.node(node, "%s: expected a list", where)
			return
		}
		for _, item := range node.Content {
			l.fields(item, typ.Elem(), path)
		}
	case reflect.Map:
		if node.Kind != yaml.MappingNode {
			l.node(node, "%s: expected fields", where)
			return
		}
		for i := 0; i+1 < len(node.Content); i += 2 {
			l.fields(node.Content[i], typ.Key(), path)
			l.fields(node.Content[i+1], typ.Elem(), path+"."+node.Content[i].Value)
		}
	default:
		if node.Kind != yaml.ScalarNode || node.Decode(reflect.New(typ).Interface()) != nil {
			l.node(node, "%s: expected %s", where, kinds[typ.Kind()])
		}
	}
}

// kinds are what a single value is called.
var kinds = map[reflect.Kind]string{
	reflect.String: "a text", reflect.Bool: "true or false", reflect.Int: "a whole number", reflect.Int64: "a whole number",
}

func (l *linter) object(node *yaml.Node, typ reflect.Type, path string) {
	types := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(typ) {
		if name := fieldName(f); name != "" {
			types[name] = f.Type
		}
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		field := strings.TrimPrefix(path+"."+key.Value, ".")
		fieldType, ok := types[key.Value]
		switch {
		case !ok:
			hint := "expected one of " + strings.Join(fieldNames(typ), ", ")
			if near := Nearest(key.Value, fieldNames(typ)); near != "" {
				hint = fmt.Sprintf("did you mean %q?", near)
			}
			l.node(key, "unknown field %q; %s", field, hint)
		case seen[key.Value] > 0:
			l.twice = true
			l.node(key, "%s is there twice, first on line %d", field, seen[key.Value])
		default:
			seen[key.Value] = key.Line
			l.fields(value, fieldType, field)
		}
	}
}

// fieldName is how a field is spelled in app.yaml; "": it is not there.
func fieldName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	if name == "-" {
		return ""
	}
	return name
}

func fieldNames(typ reflect.Type) []string {
	var names []string
	for _, f := range reflect.VisibleFields(typ) {
		if name := fieldName(f); name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// templatePlace is where text/template says that something is wrong.
var templatePlace = regexp.MustCompile(`template: ([^:]+):(\d+)(?::(\d+))?: (?s:(.*))$`)

// syntax only reads the template, for a type that cannot be rendered yet.
func (l *linter) syntax(source Source) {
	if _, err := parseTemplate(&App{ID: lintName, template: source.Template}); err != nil {
		l.stack("", err)
	}
}

// template reads the template and looks at the stacks that it makes: of each number of
// members, and with each value that a parameter may be chosen to have.
func (l *linter) template(app *App, source Source) {
	full, err := ReadAdded(app.ID, source, Added{})
	if err != nil {
		l.stack("", err)
		return
	}
	*app = *full
	for i := range app.Parameters {
		p := &app.Parameters[i]
		used := p.Label != "" || slices.ContainsFunc(app.Components, func(c Component) bool { return c.When == p.Name }) || strings.Contains(source.Template, strconv.Quote(p.Name))
		l.add(used || !app.Plain(), "parameters "+p.Name, fmt.Sprintf(`parameter %s: the template does not use it; write [[ .Set %q ]] where it belongs`, p.Name, p.Name))
	}
	for _, n := range someMembers(app.Members) {
		if !l.render(app, Options{Name: lintName, Members: n}, fmt.Sprintf("with --replicas %d: ", n)) {
			return // all others would say the same, of another service
		}
	}
	// A name that the template cannot know: it may not be another with that of lint.
	sum := sha256.Sum256([]byte(source.App + source.Template))
	l.render(app, Options{Name: "x" + hex.EncodeToString(sum[:8])}, "with another name: ")
	l.render(app, Options{Name: lintName, Publish: publishAll(app), Networks: []string{"apps"}, Encrypted: true}, "with --publish, --network and --encrypt-network: ")
	if app.webPort() != nil {
		l.render(app, Options{Name: lintName, Domain: "example.example.org"}, "with --domain: ")
	}
	l.along(app)
	for _, p := range app.Parameters {
		values := p.Allowed
		if p.Type == "boolean" {
			values = []string{"on", "off"}
		}
		for _, v := range values {
			l.render(app, Options{Name: lintName, Parameters: map[string]string{p.Name: v}}, fmt.Sprintf("with --set %s=%s: ", p.Name, v))
		}
	}
}

// someMembers are the numbers to try: all, if they are few.
func someMembers(m Members) []int {
	var all []int
	for n := m.Min; n <= m.Max && len(all) <= 10; n++ {
		if m.Allow(n) {
			all = append(all, n)
		}
	}
	if len(all) > 10 {
		all = []int{m.Min, m.Default, m.Max}
	}
	slices.Sort(all)
	return slices.DeleteFunc(slices.Compact(all), func(n int) bool { return !m.Allow(n) })
}

func publishAll(app *App) []Publish {
	var ports []Publish
	for i, p := range app.Ports {
		ports = append(ports, Publish{Published: 20000 + i, Target: p.Port})
	}
	return ports
}

// render notes what is wrong with one stack, and what it demands. What is wrong with
// several is said once. It tells whether there is a stack.
func (l *linter) render(app *App, o Options, when string) bool {
	if l.endless {
		return false
	}
	o = app.Complete(o)
	stack, err := app.Generate(o)
	if err != nil {
		l.endless = errors.Is(err, errEndless)
		l.stack(when, err)
		return false
	}
	as := func(text string) string { return strings.ReplaceAll(text, o.Name, lintName) }
	for _, text := range app.checkStack(o, stack) {
		l.stack("", errors.New(as(text)))
	}
	l.demand(app.Demands(o, stack.Config), as)
	return true
}

// demand notes what was not noted yet, as it is called for lintName.
func (l *linter) demand(found []Demand, as func(string) string) {
	for _, d := range found {
		if d.What = as(d.What); !slices.Contains(l.demands, d) {
			l.demands = append(l.demands, d)
		}
	}
}

// along notes what is demanded by the applications that are created along with a type, as far as
// they come with OpenManage: what they are is the type's choice.
func (l *linter) along(app *App) {
	if len(app.Needs) == 0 {
		return
	}
	builtin, err := Builtin()
	if err != nil {
		l.stack("", err)
		return
	}
	for _, n := range app.Needs {
		needed, err := builtin.Find(n.Type)
		if err != nil { // it was added, or comes later: create looks at it
			continue
		}
		needed, o := n.Along(needed, lintName+"-"+n.Name)
		stack, err := needed.Generate(o)
		l.add(err == nil, "needs "+n.Name, fmt.Sprintf("need %s: %v", n.Name, err))
		if err == nil {
			l.demand(needed.Demands(o, stack.Config), func(text string) string { return o.Name + ": " + text })
		}
	}
}

// Fit says what is wrong with a stack of a type that was added, though lint found nothing, or nil: its
// template can make another one for each application.
func (a *App) Fit(o Options, stack *Stack) error {
	var errs []error
	for _, text := range a.checkStack(o, stack) {
		errs = append(errs, errors.New(text))
	}
	return errors.Join(errs...)
}

// checkStack is what is expected of every stack of the catalog.
func (a *App) checkStack(o Options, stack *Stack) []string {
	wrong := checkMembers(o, stack.Config)
	wrong = append(wrong, a.checkServices(stack.Config)...)
	return append(wrong, checkPasswords(stack.Config)...)
}

// stack notes what is wrong with the template or its stack, when it is like that.
func (l *linter) stack(when string, err error) {
	for _, text := range messages(err) {
		p := Problem{File: templateFile, Text: text}
		if m := templatePlace.FindStringSubmatch(text); m != nil {
			p.Text = m[4]
			if m[1] == "common.tmpl" {
				p.Text = "in what all types share: " + p.Text
			} else {
				p.Line, _ = strconv.Atoi(m[2])
				p.Column, _ = strconv.Atoi(m[3])
			}
		}
		if slices.ContainsFunc(l.problems, func(other Problem) bool {
			return other.File == p.File && other.Line == p.Line && strings.HasSuffix(other.Text, p.Text)
		}) {
			continue
		}
		p.Text = when + p.Text
		l.problems = append(l.problems, p)
	}
}
