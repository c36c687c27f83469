package commands

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/docker/cli/cli"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/client"
	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/cli-plugin/internal/fakeswarm"
	"github.com/openmanage/openmanage/cli-plugin/internal/preflight"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/seal"
	"github.com/openmanage/openmanage/internal/store"
)

const ownImage = "openmanage/openmanage:1.2.3@sha256:abc"

func secret(name, application, typeID, value string) swarm.Secret {
	s := swarm.Secret{ID: "id-" + name, Spec: swarm.SecretSpec{Annotations: swarm.Annotations{Name: name}, Data: []byte(value)}}
	if application != "" {
		s.Spec.Labels = map[string]string{api.LabelApplication: application, api.LabelType: typeID}
	}
	return s
}

// reader is a Swarm with pg, on which a service that reads secrets does so at once.
type reader struct {
	*fakeswarm.Client
	made []swarm.Service
	task swarm.TaskStatus // how its task ends
}

func newReader(t *testing.T) *reader {
	t.Helper()
	r := &reader{Client: installed(t), task: swarm.TaskStatus{State: swarm.TaskStateComplete}}
	r.Services[0].Spec.TaskTemplate.ContainerSpec.Image = ownImage
	r.Secrets = []swarm.Secret{
		secret("pg_superuser-password", "pg", "postgresql", "plain-super"), secret("pg_replication-password", "pg", "postgresql", "plain-repl"),
		secret("shop_superuser-password", "shop", "postgresql", "plain-shop"),
	}
	fakeswarm.Put(t, r.Client, store.KindApplication, "pg", pg(time.Hour))
	r.OnServiceCreate = func(s swarm.Service) {
		r.made = append(r.made, s)
		line := r.seal(t, s)
		r.ServiceLogsFunc = func(service string, o client.ServiceLogsOptions) (io.ReadCloser, error) {
			assert.Check(t, is.Equal(service, s.ID))
			var log bytes.Buffer
			if o.ShowStdout {
				log.Write(fakeswarm.Frame(1, line[:10])) // Docker cuts long lines
				log.Write(fakeswarm.Frame(1, line[10:]+"\n"))
			}
			return io.NopCloser(&log), nil
		}
		r.Tasks = append(r.Tasks, swarm.Task{ID: "task", ServiceID: s.ID, NodeID: "id-node2", Status: r.task})
	}
	return r
}

// seal does what the task does.
func (r *reader) seal(t *testing.T, s swarm.Service) string {
	t.Helper()
	container := s.Spec.TaskTemplate.ContainerSpec
	assert.Equal(t, container.Args[0], "seal")
	values := map[string][]byte{}
	for i, reference := range container.Secrets {
		assert.Equal(t, container.Args[2+i], path.Join("/run/secrets", reference.File.Name))
		for _, s := range r.Secrets {
			if s.ID == reference.SecretID && s.Spec.Name == reference.SecretName {
				values[reference.File.Name] = s.Spec.Data
			}
		}
	}
	line, err := seal.Seal(container.Args[1], values)
	assert.NilError(t, err)
	return line
}

// left are the services beside OpenManage's own.
func (r *reader) left() (names []string) {
	for _, s := range r.Services {
		if s.Spec.Name != preflight.ManagerService && s.Spec.Name != preflight.NetworkService {
			names = append(names, s.Spec.Name)
		}
	}
	return names
}

func TestCredentials(t *testing.T) {
	docker := newReader(t)
	s := session{docker: docker.Client, stdin: "y\n", terminal: true}
	assert.NilError(t, s.run(t, "credentials", "pg"))
	assert.Equal(t, s.out.String(), ""+
		"NAME                   VALUE         DESCRIPTION\n"+
		"superuser-password     plain-super   Password of the role postgres.\n"+
		"replication-password   plain-repl    Password with which standbys follow the primary.\n")
	assert.Assert(t, strings.HasPrefix(s.err.String(), "The passwords of pg will be shown on this terminal. Go on? [y/N] "), s.err.String())
	assert.Assert(t, !strings.Contains(s.err.String(), "plain-"), s.err.String())
	assert.Equal(t, len(docker.made), 1)
	assert.Equal(t, len(docker.left()), 0)

	for _, tc := range []struct {
		doc  string
		args []string
		want string
	}{
		{doc: "one of them", args: []string{"superuser-password", "--format", "{{.Value}}"}, want: "plain-super\n"},
		{doc: "by Docker's name, and twice", args: []string{"pg_replication-password", "replication-password", "--format", "{{.Secret}} {{.Value}}"}, want: "pg_replication-password plain-repl\n"},
		{doc: "json", args: []string{"superuser-password", "--format", "json"},
			want: `{"Description":"Password of the role postgres.","Name":"superuser-password","Secret":"pg_superuser-password","Value":"plain-super"}` + "\n"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			s := session{docker: docker.Client}
			assert.NilError(t, s.run(t, append([]string{"credentials", "pg", "--yes"}, tc.args...)...))
			assert.Equal(t, s.out.String(), tc.want)
			assert.Equal(t, len(docker.made[len(docker.made)-1].Spec.TaskTemplate.ContainerSpec.Secrets), 1, "no more is mounted than is asked for")
		})
	}
}

func TestCredentialsNeverLeaveTheTaskInPlainText(t *testing.T) {
	docker := newReader(t)
	s := session{docker: docker.Client}
	assert.NilError(t, s.run(t, "credentials", "pg", "--yes"))
	spec := docker.made[0].Spec
	document, err := json.Marshal(spec)
	assert.NilError(t, err)
	assert.Assert(t, !bytes.Contains(document, []byte("plain-")), "%s", document)

	container := spec.TaskTemplate.ContainerSpec
	assert.Equal(t, len(container.Secrets), 2)
	assert.Equal(t, len(container.Env)+len(container.Configs)+len(container.Mounts)+len(container.Labels), 0)
	assert.DeepEqual(t, container.Args[2:], []string{"/run/secrets/pg_superuser-password", "/run/secrets/pg_replication-password"})
	assert.DeepEqual(t, spec.Labels, map[string]string{api.LabelCredentials: "pg"})
	assert.Equal(t, container.Image, ownImage)
	assert.Assert(t, container.ReadOnly && container.User == "65534:65534" && container.Privileges.NoNewPrivileges)
	assert.DeepEqual(t, container.CapabilityDrop, []string{"ALL"})
	assert.DeepEqual(t, spec.TaskTemplate.Placement.Constraints, []string{"node.role==manager"})
	assert.Equal(t, spec.TaskTemplate.RestartPolicy.Condition, swarm.RestartPolicyConditionNone)
	assert.Equal(t, *spec.Mode.ReplicatedJob.TotalCompletions, uint64(1))
	assert.Equal(t, len(spec.TaskTemplate.Networks), 0)
	for _, r := range container.Secrets {
		assert.Equal(t, r.File.Mode.String()+" "+r.File.UID, "-r-------- 65534")
	}

	assert.NilError(t, s.run(t, "credentials", "pg", "--yes"))
	assert.Assert(t, docker.made[1].Spec.TaskTemplate.ContainerSpec.Args[1] != container.Args[1], "a key is used once")
	assert.Assert(t, docker.made[1].Spec.Name != spec.Name)
}

func TestCredentialsOfApplicationsThatAreNotThere(t *testing.T) {
	for _, tc := range []struct {
		doc  string
		name string
		set  func(*testing.T, *reader)
		says string // on standard error
		want string
	}{
		{doc: "removed", name: "pg", want: "superuser-password plain-super\nreplication-password plain-repl\n", says: "pg is removed; its passwords are kept with its data\n",
			set: func(t *testing.T, r *reader) {
				app, now := pg(time.Hour), time.Now()
				app.Removed = &now
				fakeswarm.Put(t, r.Client, store.KindApplication, "pg", app)
			}},
		{doc: "never deployed", name: "shop", want: "superuser-password plain-shop\n"},
		{doc: "of a type that is not in the catalog", name: "old", want: "token plain-old\n",
			set: func(_ *testing.T, r *reader) {
				r.Secrets = append(r.Secrets, secret("old_token", "old", "gone", "plain-old"))
			}},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := newReader(t)
			if tc.set != nil {
				tc.set(t, docker)
			}
			s := session{docker: docker.Client}
			assert.NilError(t, s.run(t, "credentials", tc.name, "--yes", "--format", "{{.Name}} {{.Value}}"))
			assert.Equal(t, s.out.String(), tc.want)
			assert.Assert(t, strings.HasPrefix(s.err.String(), tc.says), s.err.String())
		})
	}
}

// A Swarm that elects for a moment is not one without passwords.
func TestCredentialsWhoseRecordCannotBeReadForAMoment(t *testing.T) {
	docker := installed(t)
	fakeswarm.Put(t, docker, store.KindApplication, "pg", pg(0))
	before := len(docker.Services)
	docker.ConfigListFunc = func() error {
		docker.ConfigListFunc = nil
		return errors.New("rpc error: the swarm does not have a leader")
	}
	s := session{docker: docker}
	assert.ErrorContains(t, s.run(t, "credentials", "pg", "--yes"), "does not have a leader")
	assert.Equal(t, len(docker.Services), before)
}

func TestCredentialsMadeByHandAreFoundByNameAndShownWithTheirLineEnd(t *testing.T) {
	docker := newReader(t)
	docker.Secrets = []swarm.Secret{
		secret("pg_superuser-password", "", "", "by-hand\n"), secret("pg_superuser-password-old", "", "", "other"), secret("pg_mine", "", "", "mine"),
	}
	s := session{docker: docker.Client}
	assert.NilError(t, s.run(t, "credentials", "pg", "--yes"))
	assert.Assert(t, is.Contains(s.out.String(), `superuser-password   "by-hand\n"   Password`))
	assert.Equal(t, strings.Count(s.out.String(), "\n"), 2)
	s.out.Reset()
	assert.NilError(t, s.run(t, "credentials", "pg", "--yes", "--format", "json"))
	assert.Assert(t, is.Contains(s.out.String(), `"Value":"by-hand\n"`))
}

func TestCredentialsRefuses(t *testing.T) {
	for _, tc := range []struct {
		doc      string
		args     []string
		stdin    string
		terminal bool
		set      func(*testing.T, *reader)
		want     string
	}{
		{doc: "nobody to ask", args: []string{"pg"}, want: "the passwords of pg would be written in plain text\nAdd --yes to have them"},
		{doc: "answered no", args: []string{"pg"}, stdin: "n\n", terminal: true, want: "nothing was read"},
		{doc: "not answered", args: []string{"pg"}, stdin: "\n", terminal: true, want: "nothing was read"},
		{doc: "unknown application", args: []string{"gp", "-y"}, want: "no such application: gp; did you mean \"pg\"?\nSee what there is with: docker openmanage ls"},
		{doc: "unknown secret", args: []string{"pg", "superuser", "-y"}, want: "pg has no secret \"superuser\"\nIt has: superuser-password, replication-password"},
		{doc: "nearly a secret", args: []string{"pg", "superuser-pasword", "-y"}, want: "did you mean \"superuser-password\"?"},
		{doc: "another application's secret", args: []string{"pg", "shop_superuser-password", "-y"}, want: "pg has no secret \"shop_superuser-password\""},
		{doc: "a type without secrets", args: []string{"mon", "-y"}, want: "mon has no passwords: none is generated for an application of type prometheus",
			set: func(t *testing.T, r *reader) {
				fakeswarm.Put(t, r.Client, store.KindApplication, "mon", store.Application{Name: "mon", Type: "prometheus"})
			}},
		{doc: "secrets that somebody has removed", args: []string{"pg", "-y"}, want: "the passwords of pg are gone: there is no Docker secret pg_superuser-password\nSee what there is with: docker secret ls",
			set: func(_ *testing.T, r *reader) { r.Secrets = nil }},
		{doc: "not installed", args: []string{"pg", "-y"}, want: "OpenManage is not installed on this Swarm\nInstall it with: docker openmanage install",
			set: func(_ *testing.T, r *reader) { r.Services = nil }},
		{doc: "a worker", args: []string{"pg", "-y"}, want: "this node is not a Swarm manager", set: func(_ *testing.T, r *reader) {
			r.InfoFunc = func() (system.Info, error) {
				return system.Info{Swarm: swarm.Info{LocalNodeState: swarm.LocalNodeStateActive}}, nil
			}
		}},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := newReader(t)
			if tc.set != nil {
				tc.set(t, docker)
			}
			s := session{docker: docker.Client, stdin: tc.stdin, terminal: tc.terminal}
			assert.ErrorContains(t, s.run(t, append([]string{"credentials"}, tc.args...)...), tc.want)
			assert.Equal(t, len(docker.made), 0)
			assert.Equal(t, s.out.String(), "")
		})
	}
}

func TestCredentialsRemovesWhatARunThatWasKilledLeft(t *testing.T) {
	docker := newReader(t)
	docker.Services = append(docker.Services,
		service("openmanage-credentials-1", "", map[string]string{api.LabelCredentials: "pg"}),
		service("openmanage-credentials-2", "", map[string]string{api.LabelCredentials: "pg10"}), memberService("pg", "1"))
	create := docker.OnServiceCreate
	docker.OnServiceCreate = func(s swarm.Service) {
		assert.DeepEqual(t, docker.left(), []string{"openmanage-credentials-2", "pg_1", s.Spec.Name})
		create(s)
	}
	s := session{docker: docker.Client}
	assert.NilError(t, s.run(t, "credentials", "pg", "--yes"))
	assert.DeepEqual(t, docker.left(), []string{"openmanage-credentials-2", "pg_1"})
}

// A secret that a service uses cannot be removed, and those of an application go with it.
func TestWhatCredentialsLeftGoesWithTheApplicationAndWithOpenManage(t *testing.T) {
	leave := func(docker *fakeswarm.Client) {
		docker.Services = append(docker.Services, service("openmanage-credentials-1", "", map[string]string{api.LabelCredentials: "pg"}))
	}
	docker := newReader(t)
	leave(docker.Client)
	docker.Services = append(docker.Services, memberService("pg", "1"))
	s := session{docker: docker.Client}
	assert.NilError(t, s.run(t, "rm", "pg", "--yes"))
	assert.Equal(t, len(docker.left()), 0)

	docker = newReader(t)
	kept := volume("pg-1", "pg", nil)
	kept.Retained = true
	fakeswarm.Put(t, docker.Client, store.KindVolume, "pg-1", kept)
	leave(docker.Client)
	s = session{docker: docker.Client}
	assert.ErrorContains(t, s.run(t, "volume", "rm", "pg-1", "--yes-delete-data", "--timeout", "1ms"), "pg-1") // no manager is there to do it
	assert.Equal(t, len(docker.left()), 0)

	docker = &reader{Client: installed(t)}
	leave(docker.Client)
	s = session{docker: docker.Client}
	assert.NilError(t, s.run(t, "uninstall", "--yes"))
	assert.Equal(t, len(docker.left()), 0)
}

func TestCredentialsThatCannotBeRead(t *testing.T) {
	silent := func(r *reader) { // a log whose node does not answer: it hangs
		r.ServiceLogsFunc = func(string, client.ServiceLogsOptions) (io.ReadCloser, error) {
			hanging, _ := io.Pipe()
			return hanging, nil
		}
	}
	log := func(stream byte, text string) func(*reader) {
		return func(r *reader) {
			r.ServiceLogsFunc = func(_ string, o client.ServiceLogsOptions) (io.ReadCloser, error) {
				if stream == 1 && !o.ShowStdout || stream == 2 && !o.ShowStderr {
					return io.NopCloser(strings.NewReader("")), nil
				}
				return io.NopCloser(bytes.NewReader(fakeswarm.Frame(stream, text))), nil
			}
		}
	}
	for _, tc := range []struct {
		doc  string
		task swarm.TaskStatus
		node string        // of the task; "-": none
		then func(*reader) // after the task is there
		want string
	}{
		{doc: "no manager takes it", task: swarm.TaskStatus{State: swarm.TaskStatePending, Err: "no suitable node (1 node not available for new tasks)"}, node: "-",
			want: "the secrets could not be read in time (500ms): no suitable node (1 node not available for new tasks)\nThe task needs a manager node that is up and active: docker node ls"},
		{doc: "Swarm makes no task", then: func(r *reader) { r.Tasks = nil }, want: "in time (500ms): Swarm has given it to no node\n"},
		{doc: "a node that hangs", task: swarm.TaskStatus{State: swarm.TaskStatePreparing}, want: "in time (500ms): the task is preparing on node2\nSee how that node is: docker node ls."},
		{doc: "an image that cannot be pulled", task: swarm.TaskStatus{State: swarm.TaskStateRejected, Err: "No such image: " + ownImage},
			want: "the task that reads the secrets failed on node2: No such image: " + ownImage + "\nThe task runs the image of OpenManage's manager, " + ownImage + ". If its registry wants a login, install again as before: docker openmanage install --with-registry-auth …"},
		{doc: "a rejected task", task: swarm.TaskStatus{State: swarm.TaskStateRejected, Err: "no space left on device"}, then: log(2, ""),
			want: "failed on node2: no space left on device\nRun the same command again, or see what that node's engine says"},
		{doc: "an older OpenManage", task: swarm.TaskStatus{State: swarm.TaskStateFailed, Err: "task: non-zero exit (2)", ContainerStatus: &swarm.ContainerStatus{ExitCode: 2}},
			want: "failed on node2: task: non-zero exit (2)\nThe OpenManage on this Swarm (" + ownImage + ") seems to be older than this command. Upgrade it with: docker openmanage install"},
		{doc: "a program that fails", task: swarm.TaskStatus{State: swarm.TaskStateFailed, Err: "task: non-zero exit (1)", ContainerStatus: &swarm.ContainerStatus{ExitCode: 1}},
			then: log(2, "openmanage: open /run/secrets/x: permission denied\n"),
			want: "failed on node2: task: non-zero exit (1): openmanage: open /run/secrets/x: permission denied\nRun the same command again"},
		{doc: "a log that never comes", task: swarm.TaskStatus{State: swarm.TaskStateComplete}, then: silent,
			want: "in time (500ms): the task is complete on node2, but its log cannot be had: no answer\n"},
		{doc: "a log that is refused", task: swarm.TaskStatus{State: swarm.TaskStateComplete},
			then: func(r *reader) {
				r.ServiceLogsFunc = func(string, client.ServiceLogsOptions) (io.ReadCloser, error) {
					return nil, errors.New("incomplete log stream")
				}
			}, want: "its log cannot be had: incomplete log stream\nSee how that node is: docker node ls. Then run the same command again"},
		{doc: "a line without an end", task: swarm.TaskStatus{State: swarm.TaskStateComplete}, then: log(1, "abc"), want: "its log cannot be had: no answer\n"},
		{doc: "a line that is not for us", task: swarm.TaskStatus{State: swarm.TaskStateComplete}, then: log(1, "abcd\n"), want: "the sealed document cannot be opened"},
		{doc: "another run that removes the service", task: swarm.TaskStatus{State: swarm.TaskStateRunning}, then: func(r *reader) { r.Services = r.Services[:2] },
			want: "the service that reads the secrets was removed meanwhile\nSomebody else may read the secrets of pg at the same time: run the same command again"},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			docker := newReader(t)
			docker.task = tc.task
			create := docker.OnServiceCreate
			docker.OnServiceCreate = func(s swarm.Service) {
				create(s)
				if tc.node == "-" {
					docker.Tasks[0].NodeID = ""
				}
				if tc.then != nil {
					tc.then(docker)
				}
			}
			s := session{docker: docker.Client}
			assert.ErrorContains(t, s.run(t, "credentials", "pg", "--yes", "--timeout", "500ms"), tc.want)
			assert.Equal(t, s.out.String(), "")
			assert.Equal(t, len(docker.made), 1)
			assert.Equal(t, len(docker.left()), 0)
		})
	}
}

func TestCredentialsWaitsForALogThatComesLate(t *testing.T) {
	docker := newReader(t)
	create := docker.OnServiceCreate
	docker.OnServiceCreate = func(s swarm.Service) {
		create(s)
		whole, asked := docker.ServiceLogsFunc, 0
		docker.ServiceLogsFunc = func(service string, o client.ServiceLogsOptions) (io.ReadCloser, error) {
			if asked++; asked == 1 {
				return io.NopCloser(strings.NewReader("")), nil
			}
			return whole(service, o)
		}
	}
	s := session{docker: docker.Client}
	assert.NilError(t, s.run(t, "credentials", "pg", "--yes", "--format", "{{.Value}}"))
	assert.Equal(t, s.out.String(), "plain-super\nplain-repl\n")
}

// The line is taken when it is there: the log of a node that dies does not end.
func TestCredentialsDoesNotWaitForTheLogsEnd(t *testing.T) {
	docker := newReader(t)
	create := docker.OnServiceCreate
	docker.OnServiceCreate = func(s swarm.Service) {
		create(s)
		whole := docker.ServiceLogsFunc
		docker.ServiceLogsFunc = func(service string, o client.ServiceLogsOptions) (io.ReadCloser, error) {
			log, err := whole(service, o)
			out, in := io.Pipe()
			go func() { _, _ = io.Copy(in, log) }() // and does not close it
			return out, err
		}
	}
	s := session{docker: docker.Client}
	assert.NilError(t, s.run(t, "credentials", "pg", "--yes", "--timeout", "1m"))
}

func TestCredentialsInterruptedLeavesNoService(t *testing.T) {
	docker := newReader(t)
	docker.task.State = swarm.TaskStateRunning
	ctx, interrupt := context.WithCancel(t.Context())
	create := docker.OnServiceCreate
	docker.OnServiceCreate = func(s swarm.Service) {
		create(s)
		interrupt()
	}
	s := session{docker: docker.Client}
	root := s.root()
	root.SetArgs([]string{"openmanage", "credentials", "pg", "--yes"})
	var status cli.StatusError
	assert.Assert(t, errors.As(root.ExecuteContext(ctx), &status))
	assert.Equal(t, status.StatusCode, 130)
	assert.Assert(t, is.Contains(status.Status, "nothing is shown: "))
	assert.Equal(t, len(docker.made), 1)
	assert.Equal(t, len(docker.left()), 0)
}

func TestCredentialsSaysWhatItCouldNotRemove(t *testing.T) {
	docker := newReader(t)
	docker.ServiceRemoveFunc = func(string) error { return errors.New("no leader") }
	s := session{docker: docker.Client}
	err := s.run(t, "credentials", "pg", "--yes", "--format", "{{.Value}}")
	name := docker.made[0].Spec.Name
	assert.ErrorContains(t, err, "the service "+name+" could not be removed: no leader\nRemove it with: docker service rm "+name)
	assert.Equal(t, s.out.String(), "plain-super\nplain-repl\n", "what was read is shown")
}

func TestCredentialsCompletion(t *testing.T) {
	docker := newReader(t)
	gone, now := pg(time.Hour), time.Now()
	gone.Name, gone.Removed = "old", &now
	fakeswarm.Put(t, docker.Client, store.KindApplication, "old", gone)
	s := session{docker: docker.Client}
	complete := func(words ...string) {
		root := s.root()
		root.SetArgs(append([]string{"__complete", "openmanage", "credentials"}, words...))
		assert.NilError(t, root.ExecuteContext(t.Context()))
	}
	complete("")
	assert.Assert(t, is.Contains(s.out.String(), "pg\n"))
	assert.Assert(t, is.Contains(s.out.String(), "old\n"))
	s.out.Reset()
	complete("pg", "superuser-password", "")
	assert.Equal(t, s.out.String(), "replication-password\tPassword with which standbys follow the primary.\n:4\n")
	assert.Equal(t, len(docker.made), 0)
}
