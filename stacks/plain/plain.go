// Package plain is the engine of applications that need no knowledge of their own:
// it runs the command of the image as it is. What such a member needs nevertheless
// comes as environment variables of the stack, which the server does not see:
//
//	OPENMANAGE_HEALTH       how to ask the server whether it is well: an http:// or
//	                        tcp:// URL in this container, or a command as a JSON array
//	OPENMANAGE_FILE_NAME    a file NAME in FilesDir, written before each start; NAME can
//	                        have folders in it. ((secret NAME)) in the text becomes the
//	                        value of a Docker secret, ((sha256 NAME)) the hexadecimal
//	                        digest of one, ((key NAME)) and ((certificate NAME)) the parts
//	                        of one that has both in PEM
//	OPENMANAGE_SECRETS      a JSON object: variables of the server's environment, each
//	                        with the name of a Docker secret, for images that know no
//	                        other way
//	OPENMANAGE_STOP_SIGNAL  what asks the server to stop in order; SIGTERM if absent
//
// So no password is in the stack, in a label, in the container's configuration or
// on the volume.
package plain

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// Variables of a member's environment.
const (
	EnvHealth     = "OPENMANAGE_HEALTH"
	EnvSecrets    = "OPENMANAGE_SECRETS" //nolint:gosec // the name of a variable
	EnvStopSignal = "OPENMANAGE_STOP_SIGNAL"
	EnvFilePrefix = "OPENMANAGE_FILE_"
)

// FilesDir is where the stack mounts a tmpfs for the files.
const FilesDir = "/run/openmanage"

// ownPrefix begins the variables that are for the agent.
const ownPrefix = "OPENMANAGE_"

// Engine runs an image's own command.
type Engine struct{}

// Name is what OPENMANAGE_ENGINE says.
func (Engine) Name() string { return "plain" }

// Open reads what the stack says.
func (Engine) Open(m memberagent.Member) (memberagent.Server, error) {
	return open(m, os.Environ(), FilesDir)
}

func open(m memberagent.Member, environ []string, filesDir string) (*server, error) {
	s := &server{member: m, filesDir: filesDir, files: map[string]string{}, stop: syscall.SIGTERM}
	if len(m.Command) == 0 {
		return nil, errors.New("there is nothing to run: the stack's entrypoint must be [/openmanage/agent, --] and its command what the image runs by itself")
	}
	var errs []error
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		switch file, isFile := strings.CutPrefix(name, EnvFilePrefix); {
		case isFile && (!filepath.IsLocal(file) || filepath.Clean(file) != file || file == "."):
			errs = append(errs, fmt.Errorf("%s: %q is no file name", name, file))
		case isFile:
			s.files[file] = value
		case !strings.HasPrefix(name, ownPrefix):
			s.environ = append(s.environ, variable)
		}
	}
	if text := m.Getenv(EnvSecrets); text != "" {
		if err := json.Unmarshal([]byte(text), &s.secrets); err != nil {
			errs = append(errs, fmt.Errorf(`%s must be a JSON object of strings, such as {"PASSWORD":"admin-password"}: %w`, EnvSecrets, err))
		}
	}
	if name := m.Getenv(EnvStopSignal); name != "" {
		if s.stop = unix.SignalNum(name); s.stop == 0 {
			errs = append(errs, fmt.Errorf("%s=%q is no signal; write it like SIGINT", EnvStopSignal, name))
		}
	}
	var err error
	if s.check, err = parseCheck(m.Getenv(EnvHealth), m.Processes); err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", EnvHealth, err))
	}
	return s, errors.Join(errs...)
}

// server is the server of one member.
type server struct {
	member   memberagent.Member
	filesDir string
	environ  []string
	files    map[string]string // content by name
	secrets  map[string]string // name of a secret by variable
	stop     syscall.Signal
	check    check

	process *memberagent.Process
	watch   *watch
}

// Inspect knows nothing of the data: it is the server's own affair, also when
// there is none yet.
func (s *server) Inspect(context.Context) (memberagent.Data, error) {
	return memberagent.Data{Role: api.RoleMember}, nil
}

// Start writes the files and starts the command, as the container's user.
func (s *server) Start(ctx context.Context, _ api.MemberOrders) (*memberagent.Process, error) {
	if s.watch != nil {
		s.watch.end()
	}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		content, err := s.fill(s.files[name])
		if err != nil {
			return nil, fmt.Errorf("file %s: %w", name, err)
		}
		file := filepath.Join(s.filesDir, name)
		if err = os.MkdirAll(filepath.Dir(file), 0o700); err == nil {
			err = os.WriteFile(file, []byte(content), 0o600)
		}
		if err != nil {
			return nil, fmt.Errorf("write what the server reads: %w; the stack must mount a tmpfs at %s", err, s.filesDir)
		}
	}
	program, err := exec.LookPath(s.member.Command[0])
	if err != nil {
		return nil, fmt.Errorf("the image has no %s: %w; the stack's command must be what the image runs by itself", s.member.Command[0], err)
	}
	cmd := exec.Command(program, s.member.Command[1:]...)
	cmd.Args[0] = s.member.Command[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = slices.Clone(s.environ)
	for _, variable := range slices.Sorted(maps.Keys(s.secrets)) {
		value, err := s.secret(s.secrets[variable])
		if err != nil {
			return nil, fmt.Errorf("variable %s: %w", variable, err)
		}
		cmd.Env = append(cmd.Env, variable+"="+value)
	}
	if s.process, err = s.member.Processes.Start(ctx, cmd); err != nil {
		return nil, err
	}
	s.watch = s.check.watch(s.process.Done())
	return s.process, nil
}

var secretMark = regexp.MustCompile(`\(\((secret|sha256|key|certificate) ([a-z0-9-]+)\)\)`)

// fill puts secrets, or what follows from them, where a text names them.
func (s *server) fill(text string) (string, error) {
	var errs []error
	filled := secretMark.ReplaceAllStringFunc(text, func(mark string) string {
		words := secretMark.FindStringSubmatch(mark)
		value, err := s.secret(words[2])
		if err == nil {
			value, err = derive(words[1], value)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", mark, err))
		}
		return value
	})
	return filled, errors.Join(errs...)
}

// derive is what a mark asks of a secret's value.
func derive(what, value string) (string, error) {
	switch what {
	case "sha256":
		return fmt.Sprintf("%x", sha256.Sum256([]byte(value))), nil
	case "key":
		return pemBlock(value, "PRIVATE KEY")
	case "certificate":
		return pemBlock(value, "CERTIFICATE")
	}
	return value, nil
}

// pemBlock is the first part of a PEM document whose kind ends so, such as EC PRIVATE KEY.
func pemBlock(doc, kind string) (string, error) {
	for rest := []byte(doc); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return "", fmt.Errorf("there is no %s in it, in PEM", strings.ToLower(kind))
		}
		if strings.HasSuffix(block.Type, kind) {
			return string(pem.EncodeToMemory(block)), nil
		}
	}
}

// secret reads a Docker secret, without the line end that one made by hand may have.
func (s *server) secret(name string) (string, error) {
	value, err := os.ReadFile(filepath.Join(s.member.SecretsDir, name))
	if err != nil {
		return "", fmt.Errorf("secret %s: %w; the stack must give it to the member", name, err)
	}
	return strings.TrimRight(string(value), "\r\n"), nil
}

// Probe says what the last check has found. It waits for nothing.
func (s *server) Probe(context.Context, api.MemberOrders) memberagent.Probe {
	p := memberagent.Probe{Role: api.RoleMember, LagBytes: -1, LagSeconds: -1}
	if s.watch == nil {
		p.Message = "the server has not been started"
		return p
	}
	p.Up, p.Message = s.watch.well()
	p.Healthy = p.Up
	return p
}

// Stop asks the server to stop in its own order.
func (s *server) Stop(context.Context) error { return s.process.Signal(s.stop) }

// Flush has nothing to do: what a stop writes is the server's own affair.
func (s *server) Flush(context.Context) error { return nil }

// Adapt has nothing to do: no orders change how an image runs.
func (s *server) Adapt(context.Context, api.MemberOrders) error { return nil }

// What follows is never called for a member without a role.

var errNoRoles = errors.New("the members of this application have no roles")

func (s *server) Bootstrap(context.Context, api.MemberOrders, memberagent.Progress) error {
	return errNoRoles
}

func (s *server) Join(context.Context, api.MemberOrders, memberagent.Progress) error {
	return errNoRoles
}

func (s *server) Rejoin(context.Context, api.MemberOrders, memberagent.Progress) error {
	return errNoRoles
}

func (s *server) Promote(context.Context, api.MemberOrders) error { return errNoRoles }
