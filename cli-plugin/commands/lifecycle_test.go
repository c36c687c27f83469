package commands

import (
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/cli-plugin/internal/component"
	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/store"
)

// answering returns a Swarm with pg whose manager ends each operation as end says.
func answering(t *testing.T, end func(*store.Operation)) (*fakeswarm.Client, *[]store.Operation) {
	t.Helper()
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(0))
	var asked []store.Operation
	busy := false
	docker.OnConfigChange = func() {
		if busy {
			return
		}
		busy = true
		defer func() { busy = false }()
		for _, name := range docker.Records() {
			short, ok := strings.CutPrefix(name, "openmanage.operation.")
			if !ok {
				continue
			}
			_, _ = store.Modify(t.Context(), store.New(docker), store.KindOperation, short, func(op *store.Operation) (bool, error) {
				if op.Ended != nil {
					return false, nil
				}
				asked = append(asked, *op)
				now := time.Now()
				op.Ended, op.State = &now, store.OperationDone
				op.Steps = []store.OperationStep{{Time: now, Text: "doing it"}}
				if end != nil {
					end(op)
				}
				return true, nil
			})
		}
	}
	return docker, &asked
}

func TestOperationsAreAskedForAndFollowed(t *testing.T) {
	for _, tc := range []struct {
		args string
		kind string
		want string // in the request
		out  string
	}{
		{"switchover pg --to pg-2", store.OperationSwitchover, `{"to":"pg-2"}`, "is the primary of pg"},
		{"promote pg --force --yes", store.OperationPromote, `{}`, "is the primary of pg"},
		{"restart pg --order primary-first", store.OperationRestart, `{"order":"primary-first"}`, "is the primary of pg"},
		{"restart pg --now", store.OperationRestart, `{"now":true}`, "is the primary of pg"},
		{"upgrade pg --image postgres:17.9", store.OperationUpgrade, `"image":"postgres:17.9`, "pg runs postgres:17.9"},
		{"scale pg --replicas 5", store.OperationScale, `{"members":5}`, "pg has 3 members"},
		{"scale pg --remove pg-3", store.OperationScale, `{"remove":"pg-3"}`, "pg has 3 members"},
		{"volume expand pg --size 20GiB", store.OperationExpand, `{"size":21474836480}`, "the volumes of pg have 20GiB"},
		{"stop pg", store.OperationStop, `{}`, "docker openmanage start pg"},
		{"start pg", store.OperationStart, `{}`, "is the primary of pg"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			docker, asked := answering(t, nil)
			s := session{docker: docker}
			assert.NilError(t, s.run(t, strings.Fields(tc.args)...))
			assert.Equal(t, len(*asked), 1)
			assert.Equal(t, (*asked)[0].Kind, tc.kind)
			assert.Equal(t, (*asked)[0].Target, "pg")
			assert.Check(t, is.Contains((*asked)[0].Request, tc.want))
			assert.Check(t, is.Contains(s.out.String(), tc.out))
			assert.Check(t, is.Contains(s.err.String(), "doing it"))
		})
	}
}

func TestAFailedOperationFailsTheCommand(t *testing.T) {
	docker, _ := answering(t, func(op *store.Operation) { op.State, op.Error = store.OperationFailed, "no standby is ready" })
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "switchover", "pg"), "switchover of pg failed: no standby is ready")
	assert.NilError(t, s.run(t, "operation", "ls", "--format", "{{.Kind}} {{.Target}} {{.State}} {{.Step}}"))
	assert.Equal(t, s.out.String(), "switchover pg failed no standby is ready\n")
}

func TestAnOperationThatTakesLongGoesOn(t *testing.T) {
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(0))
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "restart", "pg", "--timeout", "10ms"), "has not ended within 10ms; it goes on")
	assert.NilError(t, s.run(t, "restart", "pg", "--detach"))
	name := strings.TrimSpace(s.out.String())
	assert.Assert(t, strings.HasPrefix(name, "pg."), name)

	s = session{docker: docker}
	assert.NilError(t, s.run(t, "operation", "cancel", name))
	op, err := store.Get[store.Operation](t.Context(), store.New(docker), store.KindOperation, name)
	assert.NilError(t, err)
	assert.Assert(t, op.Value.Cancel)
	assert.NilError(t, s.run(t, "operation", "inspect", name))
	assert.Check(t, is.Contains(s.out.String(), "Kind:      restart"))
	assert.ErrorContains(t, s.run(t, "operation", "cancel", "pg.000000"), "no such operation")
}

func TestPromoteNamesWhatCanBeLost(t *testing.T) {
	docker, asked := answering(t, nil)
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "promote", "pg"), "would be lost, for good")
	assert.ErrorContains(t, s.run(t, "promote", "pg", "--force"), "add --yes")
	s = session{docker: docker, terminal: true, stdin: "n\n"}
	assert.ErrorContains(t, s.run(t, "promote", "pg", "--force"), "nothing was changed")
	assert.Equal(t, len(*asked), 0)
}

func TestUpgradeDryRunPrintsThePlan(t *testing.T) {
	docker, asked := answering(t, nil)
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "upgrade", "pg", "--image", "postgres:17.9", "--dry-run"))
	assert.Equal(t, s.out.String(), `1. pull postgres:17.9 on the nodes of the members
2. restart with postgres:17.9 the standby pg-3, wait until it is healthy
3. restart with postgres:17.9 the standby pg-2, wait until it is healthy
4. hand over from pg-1 to the most advanced standby
5. restart with postgres:17.9 pg-1, now a standby, wait until it is healthy
`)

	app := pg(0)
	app.UpgradeOrder, app.Window = "primary-first", "Sat 02:00-05:00"
	fakeswarm.Put(t, docker, store.KindApplication, "pg", app)
	s = session{docker: docker}
	assert.NilError(t, s.run(t, "upgrade", "pg", "--image", "postgres:17.9", "--dry-run"))
	assert.Equal(t, s.out.String(), `1. pull postgres:17.9 on the nodes of the members
2. wait for the maintenance window, Sat 02:00-05:00, now and before each member
3. restart with postgres:17.9 pg-1, the primary, wait until it is healthy
4. restart with postgres:17.9 the standby pg-3, wait until it is healthy
5. restart with postgres:17.9 the standby pg-2, wait until it is healthy
`)
	s = session{docker: docker}
	assert.NilError(t, s.run(t, "upgrade", "pg", "--image", "postgres:17.9", "--dry-run", "--order", "primary-last", "--now"))
	assert.Check(t, is.Contains(s.out.String(), "4. hand over"))
	assert.Equal(t, len(*asked), 0)
}

func TestAnUpgradeThatCannotWorkIsRefused(t *testing.T) {
	docker, asked := answering(t, nil)
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "upgrade", "pg", "--image", "postgres:18"), "PostgreSQL 18 cannot open the data of PostgreSQL 17")
	assert.ErrorContains(t, s.run(t, "upgrade", "pg", "--image", "postgres:16.1", "--dry-run"), "cannot open the data")
	assert.Equal(t, len(*asked), 0)

	app := pg(0)
	app.Image = "postgres:17.9"
	docker = installed(t)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", app)
	s = session{docker: docker}
	assert.NilError(t, s.run(t, "upgrade", "pg", "--image", "postgres:17.5", "--dry-run"))
	assert.Check(t, is.Contains(s.err.String(), "17.5 is older than 17.9"))
}

func TestBadInputToOperations(t *testing.T) {
	docker, asked := answering(t, nil)
	docker.DistributionInspectFunc = func(string) error { return errNoImage{} }
	for args, want := range map[string]string{
		"switchover no-such":            "no-such",
		"upgrade pg":                    "--image is missing",
		"upgrade pg --image postgres:x": "cannot be pulled",
		"scale pg":                      "either --replicas N or --remove",
		"scale pg --replicas 0":         "has 1 to",
		"scale pg --remove pg-9":        "has no member pg-9",
		"volume expand pg":              "it is no size",
		"volume expand pg --size big":   "it is no size",
		"restart pg --order reverse":    "choose primary-last or primary-first",
		"operation inspect pg.000000":   "no such operation",
		"switchover":                    "requires 1 argument",
	} {
		s := session{docker: docker}
		assert.Check(t, is.ErrorContains(s.run(t, strings.Fields(args)...), want), args)
	}
	assert.Equal(t, len(*asked), 0)
}

// withWeb returns a Swarm with an application kv of equals, which has a component web.
func withWeb(t *testing.T) (*fakeswarm.Client, *[]store.Operation) {
	t.Helper()
	docker, asked := answering(t, nil)
	fakeswarm.Put(t, docker, store.KindApplication, "kv", store.Application{Name: "kv", Type: "ntp", NoRoles: true, Image: "cturra/ntp:latest", Members: []store.Member{member("kv-1", "node1", api.RoleMember)}})
	web := service("kv_web", "kv", map[string]string{api.LabelApplication: "kv", api.LabelComponent: "web"})
	two := uint64(2)
	web.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &two}
	web.Spec.TaskTemplate.ContainerSpec.Image = "web:1"
	docker.Services = append(docker.Services, web)
	return docker, asked
}

func webOf(docker *fakeswarm.Client) swarm.ServiceSpec {
	return docker.Services[len(docker.Services)-1].Spec
}

// stopWeb is what `stop` does to the component.
func stopWeb(docker *fakeswarm.Client) {
	spec := &docker.Services[len(docker.Services)-1].Spec
	component.Stop(spec)
}

func TestUpgradeOfAComponent(t *testing.T) {
	docker, asked := withWeb(t)
	upgrade := []string{"upgrade", "kv", "--component", "web", "--image", "web:2"}
	s := session{docker: docker}
	assert.NilError(t, s.run(t, append(upgrade, "--dry-run")...))
	assert.Equal(t, s.out.String(), "1. restart kv-web with web:2, one task at a time; Swarm rolls it back if one does not get healthy\n")
	assert.Equal(t, webOf(docker).TaskTemplate.ContainerSpec.Image, "web:1")

	s = session{docker: docker}
	assert.NilError(t, s.run(t, append(upgrade, "--detach")...))
	assert.Equal(t, s.out.String(), "kv-web\n")
	assert.Equal(t, shortImage(webOf(docker).TaskTemplate.ContainerSpec.Image), "web:2")

	// Swarm says nothing of its own: it waits no longer than it may.
	s = session{docker: docker}
	assert.ErrorContains(t, s.run(t, "upgrade", "kv", "--component", "web", "--image", "web:3", "--timeout", "10ms"), "the components of kv are not done within 10ms")

	stopWeb(docker)
	s = session{docker: docker}
	assert.NilError(t, s.run(t, "upgrade", "kv", "--component", "web", "--image", "web:4"))
	assert.Equal(t, shortImage(webOf(docker).TaskTemplate.ContainerSpec.Image), "web:4")
	assert.Check(t, is.Contains(s.out.String(), "kv-web is stopped, and starts with web:4"))
	assert.Equal(t, len(*asked), 0)
}

// Who does not wait has components started and restarted all the same.
func TestDetachedStartAndRestartReachComponents(t *testing.T) {
	docker, _ := withWeb(t)
	stopWeb(docker)
	s := session{docker: docker}
	assert.NilError(t, s.run(t, "start", "kv", "--detach"))
	assert.Equal(t, *webOf(docker).Mode.Replicated.Replicas, uint64(2))
	assert.NilError(t, s.run(t, "restart", "kv", "--detach"))
	assert.Equal(t, webOf(docker).TaskTemplate.ForceUpdate, uint64(1))
}

func TestScaleOfEqualsSaysHow(t *testing.T) {
	docker, asked := withWeb(t)
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "scale", "kv", "--replicas", "3"), "docker openmanage generate ntp kv --replicas N")
	assert.Equal(t, len(*asked), 0)
}

type errNoImage struct{}

func (errNoImage) Error() string { return "no such image" }
