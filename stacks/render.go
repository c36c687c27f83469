package stacks

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"text/template"
	"time"
)

// A template that somebody else wrote is data: it ends, and it takes no more than there is.
const (
	// maxStack is the largest stack that is generated, and the longest text that a template makes.
	maxStack = 4 << 20
	// renderTime is for how long a template may go on. Those of the catalog take milliseconds.
	renderTime = 10 * time.Second
	// maxWidth of printf.
	maxWidth = 999
)

var (
	errEndless = errors.New("the template does not come to an end")
	errLarge   = fmt.Errorf("the stack becomes larger than %s", FormatSize(maxStack))
)

// render executes the template. text/template cannot be interrupted: one that does not end within
// the time is left behind, and ends with the program.
func (a *App) render(d *data, within time.Duration) ([]byte, error) {
	tmpl, err := parseTemplate(a)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() { ended <- tmpl.Execute(&limited{to: &out, left: maxStack}, d) }()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case err = <-ended:
	case <-timer.C:
		return nil, fmt.Errorf("render the stack of %s: %w: it was given up after %s", a.ID, errEndless, within)
	}
	if err != nil {
		return nil, fmt.Errorf("render the stack of %s: %w", a.ID, err)
	}
	return out.Bytes(), nil
}

// parseTemplate reads an application's template. Its actions stand in [[ ]], so
// that Swarm's own placeholders, such as {{.Task.ID}}, stay as they are.
//
// Functions:
//
//	quote S   S as a YAML string. A $ is doubled, which `docker stack deploy`
//	          would otherwise take for a variable
//	secret S  the name of the application's Docker secret S
//	json V    V as JSON, with a $ doubled too
//	min A B   the smaller number
//	split S   the words of S
//	cut X S   S before and after the first X, as two words
//	flow L    labels L, each with a comma before it, for { }
//	uuid S    a UUID that follows from S, in 22 characters of base64url
//	printf    as in Go, of texts, numbers and booleans
//
// Of those that text/template has by itself, print, println, html, js and urlquery are missing.
// Beside an application's own there are the templates of common.tmpl.
func parseTemplate(a *App) (*template.Template, error) {
	tmpl := template.New(a.ID).Delims("[[", "]]").Option("missingkey=error").Funcs(template.FuncMap{
		"quote":  func(s string) (string, error) { return short(quote(s), nil) },
		"secret": func(application, secret string) (string, error) { return short(SecretName(application, secret), nil) },
		"json":   func(v any) (string, error) { return short(toJSON(v)) },
		"printf": formatted,
		"min":    func(a, b int) int { return min(a, b) },
		"split":  strings.Fields,
		"cut": func(sep, s string) []string {
			before, after, _ := strings.Cut(s, sep)
			return []string{before, after}
		},
		"flow": flow,
		"uuid": func(s string) string {
			sum := sha256.Sum256([]byte("openmanage\x00" + s))
			return strings.ReplaceAll(base64.RawURLEncoding.EncodeToString(sum[:16]), "-", "_")
		},
	})
	for _, name := range []string{"print", "println", "html", "js", "urlquery"} {
		tmpl.Funcs(template.FuncMap{name: func(...any) (string, error) {
			return "", fmt.Errorf("%s is no function of %s; there are quote, json and printf", name, templateFile)
		}})
	}
	if _, err := tmpl.New("common.tmpl").Parse(a.common); err != nil {
		return nil, err
	}
	return tmpl.Parse(a.template)
}

// toJSON leaves < > & as they are, unlike json.Marshal, since people read it.
func toJSON(v any) (string, error) {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.ReplaceAll(strings.TrimSuffix(out.String(), "\n"), "$", "$$"), err
}

func quote(s string) string {
	return "'" + strings.NewReplacer("'", "''", "$", "$$").Replace(s) + "'"
}

// short refuses a text that is longer than a stack may be. A template that doubles one again and
// again need not write any of it to use up the memory.
func short(s string, err error) (string, error) {
	if err == nil && len(s) > maxStack {
		err = errLarge
	}
	return s, err
}

// wide is a width or a precision of more than maxWidth, or one that is an argument.
var wide = regexp.MustCompile(`%[^a-zA-Z%]*([0-9]{4,}|\*)`)

// formatted is printf, with a bound on what comes of it before it does.
func formatted(format string, args ...any) (string, error) {
	longest, all := maxWidth, len(format)
	for _, arg := range args {
		switch v := reflect.ValueOf(arg); v.Kind() {
		case reflect.String:
			size := 8 * v.Len() // %+q of one byte is \x00, % #x takes five
			longest, all = max(longest, size), all+size
		case reflect.Bool, reflect.Int, reflect.Int64, reflect.Uint64, reflect.Float64:
		default:
			return "", fmt.Errorf("printf takes texts, numbers and booleans, and this is %T", arg)
		}
	}
	if wide.MatchString(format) {
		return "", fmt.Errorf("printf %q: a width of more than %d", format[:min(len(format), 40)], maxWidth)
	}
	if all+strings.Count(format, "%")*longest > maxStack { // %[1]s takes an argument any number of times
		return "", errLarge
	}
	return fmt.Sprintf(format, args...), nil
}

// limited refuses to become longer than it may.
type limited struct {
	to   *bytes.Buffer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errLarge
	}
	return l.to.Write(p)
}
