package commands

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// fenced is pg with a member that somebody has fenced.
func fenced(member int) store.Application {
	app := pg(time.Hour)
	m := &app.Members[member-1]
	m.Fenced = &store.Fence{By: "anna@desk", Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	m.State, m.Healthy, m.Message = api.StateFenced, false, m.Fenced.String()+"; its server does not run, its container and its volume stay"
	return app
}

func TestMembersAreFencedTakenBackAndRebuilt(t *testing.T) {
	for _, tc := range []struct {
		args    string
		app     store.Application
		kind    string
		request string
		out     string
	}{
		{"fence pg-2 on", pg(0), store.OperationFence, `{"member":"pg-2"}`, "docker openmanage fence pg-2 off"},
		{"fence pg-2 on --force --yes", pg(0), store.OperationFence, `{"member":"pg-2","force":true}`, "pg-2 is fenced"},
		{"fence pg-1 on --force --yes", pg(0), store.OperationFence, `{"member":"pg-1","force":true}`, "pg-1 is fenced"},
		{"fence pg-2 off", fenced(2), store.OperationUnfence, `{"member":"pg-2"}`, "pg-2 is not fenced any more"},
		{"rebuild pg-3", pg(0), store.OperationRebuild, `{"member":"pg-3"}`, "pg-3 has a fresh copy"},
		{"rebuild pg-3 --force --yes", pg(0), store.OperationRebuild, `{"member":"pg-3","force":true}`, "pg-3 has a fresh copy"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			docker, asked := answering(t, nil)
			fakeswarm.Put(t, docker, store.KindApplication, "pg", tc.app)
			s := session{docker: docker}
			assert.NilError(t, s.run(t, strings.Fields(tc.args)...))
			assert.Equal(t, len(*asked), 1)
			assert.Equal(t, (*asked)[0].Kind, tc.kind)
			assert.Equal(t, (*asked)[0].Target, "pg")
			assert.Equal(t, (*asked)[0].Request, tc.request)
			assert.Check(t, is.Contains(s.out.String(), tc.out))
			assert.Check(t, is.Contains(s.err.String(), "doing it"))
		})
	}
}

func TestWhatCannotBeFencedOrRebuiltIsSaidBeforeAnythingIsAsked(t *testing.T) {
	for _, tc := range []struct {
		args string
		app  store.Application
		want string
	}{
		{"fence pg-2 maybe", pg(0), `fence pg-2 "maybe": say on or off`},
		{"fence pg-2", pg(0), "requires 2 arguments"},
		{"fence pg-9 on", pg(0), "pg has no member pg-9; it has pg-1, pg-2, pg-3"},
		{"fence pg on", pg(0), "pg is an application; name one of its members: pg-1, pg-2, pg-3"},
		{"fence gp-2 on", pg(0), `no such member: gp-2; did you mean "pg-2"?`},
		{"fence pg-1 on", pg(0), "Hand over first with: docker openmanage switchover pg"},
		{"fence pg-1 on --force", pg(0), "add --yes"},
		{"fence pg-2 on --force", pg(0), "add --yes"},
		{"rebuild pg-1", pg(0), "Hand over first with: docker openmanage switchover pg"},
		{"rebuild pg-2", fenced(2), "Take it back first with: docker openmanage fence pg-2 off"},
		{"rebuild pg-2 --force", pg(0), "add --yes"},
		{"rebuild pg-9", pg(0), "pg has no member pg-9; it has pg-1, pg-2, pg-3"},
		{"rebuild", pg(0), "requires 1 argument"},
	} {
		docker, asked := answering(t, nil)
		fakeswarm.Put(t, docker, store.KindApplication, "pg", tc.app)
		s := session{docker: docker}
		assert.Check(t, is.ErrorContains(s.run(t, strings.Fields(tc.args)...), tc.want), tc.args)
		assert.Equal(t, len(*asked), 0, tc.args)
	}
	docker, asked := answering(t, nil)
	s := session{docker: docker, terminal: true, stdin: "n\n"}
	assert.ErrorContains(t, s.run(t, "fence", "pg-1", "on", "--force"), "nothing was changed")
	assert.Check(t, is.Contains(s.err.String(), "nothing can be written."))
	assert.Equal(t, len(*asked), 0)
}

func TestWhoIsFencedAlreadyOrNotIsLeftAlone(t *testing.T) {
	docker, asked := answering(t, nil)
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "fence", "pg-2", "off"))
	assert.Equal(t, s.out.String(), "pg-2 is not fenced\n")
	fakeswarm.Put(t, docker, store.KindApplication, "pg", fenced(2))
	s = session{docker: docker}
	assert.NilError(t, s.run(t, "fence", "pg-2", "on"))
	assert.Check(t, is.Contains(s.out.String(), "pg-2 is fenced by anna@desk since 2026-01-02 03:04:05 UTC already"))
	assert.Equal(t, len(*asked), 0)
}

func TestPSSaysWhoFencedAMember(t *testing.T) {
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", fenced(2))
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "ps", "pg", "--format", "{{.Member}} {{.State}} {{.Message}}"))
	assert.Check(t, is.Contains(s.out.String(), "pg-2 fenced fenced by anna@desk since 2026-01-02 03:04:05 UTC; its server does not run"))
}

// complete runs what a shell does to complete the last of the arguments.
func (s *session) complete(t *testing.T, args ...string) error {
	t.Helper()
	root := &cobra.Command{Use: "docker", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(New(s.cli(), "1.2.3"))
	root.SetArgs(append([]string{cobra.ShellCompRequestCmd, "openmanage"}, args...))
	root.SetOut(&s.out)
	root.SetErr(&s.err)
	return root.ExecuteContext(t.Context())
}

func TestMembersAreCompleted(t *testing.T) {
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(0))
	for args, want := range map[string]string{"fence|": "pg-1\npg-2\npg-3\n:4\n", "fence|pg-2|": "on\noff\n:4\n", "rebuild|p": "pg-1\npg-2\npg-3\n:4\n"} {
		s := session{docker: docker}
		assert.NilError(t, s.complete(t, strings.Split(args, "|")...))
		assert.Check(t, is.Contains(s.out.String(), want), args)
	}
}
