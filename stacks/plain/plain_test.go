package plain

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"
	"gotest.tools/v3/poll"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// bench is an engine with a member's folders, under an agent that is alone.
type bench struct {
	*memberagent.Alone
	files, secrets, data string
}

// testEngine is Engine with an environment of a test's own.
type testEngine struct {
	environ  []string
	filesDir string
}

func (testEngine) Name() string { return Engine{}.Name() }

func (e testEngine) Open(m memberagent.Member) (memberagent.Server, error) {
	return open(m, e.environ, e.filesDir)
}

func start(t *testing.T, command []string, environ ...string) (*bench, error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	b := &bench{files: t.TempDir(), secrets: t.TempDir(), data: t.TempDir()}
	getenv := func(name string) string {
		for _, v := range environ {
			if value, ok := cutName(v, name); ok {
				return value
			}
		}
		return ""
	}
	var err error
	b.Alone, err = memberagent.NewAlone(ctx, testEngine{environ, b.files}, memberagent.Member{
		Application: "app", Name: "app-1", Data: b.data, SecretsDir: b.secrets, Command: command, Getenv: getenv, Log: hclog.NewNullLogger(),
	})
	if err != nil {
		return nil, err
	}
	assert.NilError(t, b.Hold())
	t.Cleanup(b.Clear)
	return b, nil
}

func cutName(variable, name string) (string, bool) {
	if len(variable) > len(name) && variable[:len(name)] == name && variable[len(name)] == '=' {
		return variable[len(name)+1:], true
	}
	return "", false
}

func until(t *testing.T, what string, check func() error) {
	t.Helper()
	poll.WaitOn(t, func(poll.LogT) poll.Result {
		if err := check(); err != nil {
			return poll.Continue("%s: %v", what, err)
		}
		return poll.Success()
	}, poll.WithTimeout(20*time.Second), poll.WithDelay(20*time.Millisecond))
}

func TestCommandRunsWithItsOwnEnvironmentFilesAndSecrets(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	b, err := start(t, []string{"sh", "-c", `env > "` + out + `.new" && cat "$CONF" >> "` + out + `.new" && mv "` + out + `.new" "` + out + `" && exec sleep 60`},
		"PATH="+os.Getenv("PATH"), "COLOUR=blue", "OPENMANAGE_MEMBER=app-1", "CONF="+filepath.Join(filepath.Dir(out), "conf"),
		"OPENMANAGE_FILE_app.conf=user admin\npass ((secret admin-password))\n", `OPENMANAGE_SECRETS={"APP_PASSWORD":"admin-password"}`)
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(b.secrets, "admin-password"), []byte("s3cret\n"), 0o600))
	assert.NilError(t, os.Symlink(filepath.Join(b.files, "app.conf"), filepath.Join(filepath.Dir(out), "conf")))
	ctx := context.Background()
	process, err := b.Server.Start(ctx, api.MemberOrders{})
	assert.NilError(t, err)
	var text []byte
	until(t, "its output", func() (err error) {
		text, err = os.ReadFile(out)
		return err
	})
	assert.Check(t, is.Contains(string(text), "COLOUR=blue\n"))
	assert.Check(t, is.Contains(string(text), "APP_PASSWORD=s3cret\n"))
	assert.Check(t, is.Contains(string(text), "user admin\npass s3cret\n"))
	assert.Check(t, !is.Contains(string(text), "OPENMANAGE_")().Success(), string(text))
	info, err := os.Stat(filepath.Join(b.files, "app.conf"))
	assert.NilError(t, err)
	assert.Equal(t, info.Mode().Perm(), os.FileMode(0o600))

	until(t, "a server that is well", func() error { return wellOf(b) })
	assert.NilError(t, b.Server.Stop(ctx))
	<-process.Done()
}

func wellOf(b *bench) error {
	if p := b.Server.Probe(context.Background(), api.MemberOrders{}); !p.Up || !p.Healthy || p.Role != api.RoleMember {
		return errors.New(p.Message)
	}
	return nil
}

func TestStopSendsTheImagesSignal(t *testing.T) {
	b, err := start(t, []string{"sh", "-c", `trap 'exit 7' INT; echo up > "` + filepath.Join(t.TempDir(), "x") + `"; while :; do sleep 0.05; done`},
		"PATH="+os.Getenv("PATH"), "OPENMANAGE_STOP_SIGNAL=SIGINT")
	assert.NilError(t, err)
	process, err := b.Server.Start(context.Background(), api.MemberOrders{})
	assert.NilError(t, err)
	until(t, "well", func() error { return wellOf(b) })
	for range 50 { // the trap may not be set yet
		assert.NilError(t, b.Server.Stop(context.Background()))
		select {
		case <-process.Done():
			assert.ErrorContains(t, process.Err(), "exit status 7")
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatal("it did not stop")
}

func TestHealthIsWhatTheServerAnswers(t *testing.T) {
	sick := make(chan bool, 1)
	sick <- false
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		is := <-sick
		sick <- is
		if is {
			http.Error(w, "no quorum", http.StatusServiceUnavailable)
		}
	}))
	defer web.Close()
	b, err := start(t, []string{"sleep", "60"}, "PATH="+os.Getenv("PATH"), "OPENMANAGE_HEALTH="+web.URL)
	assert.NilError(t, err)
	assert.ErrorContains(t, wellOf(b), "not been started")
	_, err = b.Server.Start(context.Background(), api.MemberOrders{})
	assert.NilError(t, err)
	until(t, "well", func() error { return wellOf(b) })

	s := b.Server.(*server)
	<-sick
	sick <- true
	for range failuresAllowed {
		s.watch.ask(context.Background(), s.check)
	}
	assert.NilError(t, wellOf(b)) // one may get lost
	s.watch.ask(context.Background(), s.check)
	assert.ErrorContains(t, wellOf(b), "503 Service Unavailable no quorum")
	<-sick
	sick <- false
	s.watch.ask(context.Background(), s.check)
	assert.NilError(t, wellOf(b))
}

func TestChecksOfEachKind(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	assert.NilError(t, err)
	defer listener.Close()
	b, err := start(t, []string{"sleep", "60"}, "PATH="+os.Getenv("PATH"))
	assert.NilError(t, err)
	processes := b.Server.(*server).member.Processes
	for _, tc := range []struct{ text, fails, parse string }{
		{text: ""},
		{text: "tcp://" + listener.Addr().String()},
		{text: "tcp://127.0.0.1:1", fails: "connection refused"},
		{text: "http://127.0.0.1:1/", fails: "connection refused"},
		{text: `["true"]`},
		{text: `["sh","-c","echo why >&2; exit 3"]`, fails: "why"},
		{text: `["sh"`, parse: "no JSON array"},
		{text: "tcp://host", parse: "expected http://HOST:PORT/PATH"},
		{text: "udp://host:1", parse: "expected http://HOST:PORT/PATH"},
	} {
		c, err := parseCheck(tc.text, processes)
		if tc.parse != "" {
			assert.ErrorContains(t, err, tc.parse)
			continue
		}
		assert.NilError(t, err, tc.text)
		err = c.ask(context.Background())
		if tc.fails != "" {
			assert.ErrorContains(t, err, tc.fails)
			continue
		}
		assert.NilError(t, err, tc.text)
	}
}

func TestWhatCanNeverWorkIsRefusedAtOnce(t *testing.T) {
	for _, tc := range []struct {
		command []string
		environ []string
		why     string
	}{
		{nil, nil, "there is nothing to run"},
		{[]string{"x"}, []string{"OPENMANAGE_FILE_../x=y"}, "is no file name"},
		{[]string{"x"}, []string{"OPENMANAGE_FILE_/etc/x=y"}, "is no file name"},
		{[]string{"x"}, []string{"OPENMANAGE_FILE_a//x=y"}, "is no file name"},
		{[]string{"x"}, []string{"OPENMANAGE_FILE_.=y"}, "is no file name"},
		{[]string{"x"}, []string{"OPENMANAGE_SECRETS=x"}, "must be a JSON object"},
		{[]string{"x"}, []string{"OPENMANAGE_STOP_SIGNAL=9"}, "is no signal"},
		{[]string{"x"}, []string{"OPENMANAGE_HEALTH=x"}, "expected http"},
	} {
		_, err := start(t, tc.command, tc.environ...)
		assert.ErrorContains(t, err, tc.why)
	}
}

func TestAMissingSecretIsNamed(t *testing.T) {
	b, err := start(t, []string{"true"}, "OPENMANAGE_FILE_a=((secret nobody))")
	assert.NilError(t, err)
	_, err = b.Server.Start(context.Background(), api.MemberOrders{})
	assert.ErrorContains(t, err, "file a: ((secret nobody)): secret nobody")
	b, err = start(t, []string{"true"}, `OPENMANAGE_SECRETS={"A":"nobody"}`)
	assert.NilError(t, err)
	_, err = b.Server.Start(context.Background(), api.MemberOrders{})
	assert.ErrorContains(t, err, "variable A: secret nobody")
	b, err = start(t, []string{"no-such-program"})
	assert.NilError(t, err)
	_, err = b.Server.Start(context.Background(), api.MemberOrders{})
	assert.ErrorContains(t, err, "the image has no no-such-program")
}

// A file can stand in a folder, and have what follows from a secret in it.
func TestFilesHaveWhatFollowsFromSecrets(t *testing.T) {
	const key = "-----BEGIN EC PRIVATE KEY-----\na2V5\n-----END EC PRIVATE KEY-----\n"
	const certificate = "-----BEGIN CERTIFICATE-----\nY2VydA==\n-----END CERTIFICATE-----\n"
	b, err := start(t, []string{"true"}, "PATH="+os.Getenv("PATH"),
		"OPENMANAGE_FILE_etc/tls/key=((key tls))", "OPENMANAGE_FILE_etc/tls/certificate=((certificate tls))", "OPENMANAGE_FILE_digest=((sha256 password))")
	assert.NilError(t, err)
	assert.NilError(t, os.WriteFile(filepath.Join(b.secrets, "tls"), []byte(key+certificate), 0o600))
	assert.NilError(t, os.WriteFile(filepath.Join(b.secrets, "password"), []byte("abc\n"), 0o600))
	_, err = b.Server.Start(context.Background(), api.MemberOrders{})
	assert.NilError(t, err)
	for name, want := range map[string]string{
		"etc/tls/key": key, "etc/tls/certificate": certificate,
		"digest": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", // of abc, FIPS 180-2
	} {
		text, err := os.ReadFile(filepath.Join(b.files, name))
		assert.NilError(t, err)
		assert.Equal(t, string(text), want)
	}

	assert.NilError(t, os.WriteFile(filepath.Join(b.secrets, "tls"), []byte(certificate), 0o600))
	_, err = b.Server.Start(context.Background(), api.MemberOrders{})
	assert.ErrorContains(t, err, "file etc/tls/key: ((key tls)): there is no private key in it, in PEM")
}
