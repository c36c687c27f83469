// Package credentials reads the values of Docker secrets. Docker gives them to
// containers and to nobody else, its API included, so a task of one service reads them
// on a manager, prints them sealed for a key that only this process has, and is removed.
package credentials

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/cli-plugin/internal/follow"
	"github.com/openmanage/openmanage/cli-plugin/internal/stackdeploy"
	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/seal"
)

var (
	// ErrTimeout: the secrets could not be read in time.
	ErrTimeout = errors.New("the secrets could not be read in time")
	// ErrFailed: the task that reads the secrets failed.
	ErrFailed = errors.New("the task that reads the secrets failed")
	// ErrSuperseded: somebody else has removed the service.
	ErrSuperseded = errors.New("the service that reads the secrets was removed meanwhile")
)

const (
	interval        = 200 * time.Millisecond // between two looks at the task
	reasonPatience  = 5 * time.Second        // for what a failed task has said
	removePatience  = 10 * time.Second       // for removing the service after Ctrl-C
	secretsDir      = "/run/secrets"
	nobody          = "65534"
	exitUnknownWord = 2 // of the openmanage binary
)

// Request is what is to be read.
type Request struct {
	Application string
	Image       string // OpenManage's own
	Secrets     []swarm.Secret
}

// Read returns the values by the secrets' names. It first removes what an earlier run
// for the application has left, and in any case removes what it has made: values may
// come together with an error that says that this did not work.
func Read(ctx context.Context, docker client.APIClient, r Request, screen *follow.Screen, timeout time.Duration) (values map[string][]byte, err error) {
	key, err := seal.NewKey()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrTimeout)
	defer cancel()
	if err := RemoveServices(ctx, docker, r.Application); err != nil {
		return nil, err
	}
	spec := r.spec(key.Public())
	defer func() { err = errors.Join(err, removeAfter(ctx, docker, spec.Name)) }()
	// No registry is asked: managers run this image already.
	created, err := docker.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec})
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("make the service that reads the secrets of %s: %w", r.Application, err)
	}
	run := &run{docker: docker, request: r, id: created.ID, screen: screen, timeout: timeout}
	if err := run.await(ctx); err != nil {
		return nil, err
	}
	line, err := run.answer(ctx)
	if err != nil {
		return nil, err
	}
	run.show("read", "", true)
	return key.Open(line)
}

// RemoveServices removes the services that runs which were killed have left for an
// application, or for any if application is "".
func RemoveServices(ctx context.Context, docker client.APIClient, application string) error {
	label := api.LabelCredentials
	if application != "" {
		label += "=" + application
	}
	res, err := docker.ServiceList(ctx, client.ServiceListOptions{Filters: make(client.Filters).Add("label", label)})
	if err != nil {
		return fmt.Errorf("look for what an earlier `credentials` has left: %w", err)
	}
	for _, s := range res.Items {
		if err := remove(ctx, docker, s.ID); err != nil {
			return fmt.Errorf("remove the service %s, which an earlier `credentials` has left: %w", s.Spec.Name, err)
		}
	}
	return nil
}

func remove(ctx context.Context, docker client.APIClient, service string) error {
	_, err := docker.ServiceRemove(ctx, service, client.ServiceRemoveOptions{})
	if cerrdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// removeAfter removes our own service, by its name: whether it was made is not known if
// the request to make it was cut short.
func removeAfter(ctx context.Context, docker client.APIClient, name string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removePatience)
	defer cancel()
	if err := remove(ctx, docker, name); err != nil {
		return fmt.Errorf("the service %s could not be removed: %w\nRemove it with: docker service rm %s", name, err, name)
	}
	return nil
}

// spec is the service. Nothing in it is secret: it names the secrets, and Swarm mounts
// them into the task.
func (r Request) spec(publicKey string) swarm.ServiceSpec {
	args := []string{"seal", publicKey}
	references := make([]*swarm.SecretReference, 0, len(r.Secrets))
	for _, s := range r.Secrets {
		args = append(args, path.Join(secretsDir, s.Spec.Name))
		references = append(references, &swarm.SecretReference{
			SecretID: s.ID, SecretName: s.Spec.Name,
			File: &swarm.SecretReferenceFileTarget{Name: s.Spec.Name, UID: nobody, GID: nobody, Mode: 0o400},
		})
	}
	var suffix [4]byte
	_, _ = rand.Read(suffix[:]) // never fails
	one, grace := uint64(1), time.Second
	return swarm.ServiceSpec{
		Annotations: swarm.Annotations{
			Name: "openmanage-credentials-" + hex.EncodeToString(suffix[:]),
			// Not that of members: it is no part of the application.
			Labels: map[string]string{api.LabelCredentials: r.Application},
		},
		Mode: swarm.ServiceMode{ReplicatedJob: &swarm.ReplicatedJob{MaxConcurrent: &one, TotalCompletions: &one}},
		TaskTemplate: swarm.TaskSpec{
			ContainerSpec: &swarm.ContainerSpec{
				Image: r.Image, Args: args, Secrets: references,
				User: nobody + ":" + nobody, ReadOnly: true, CapabilityDrop: []string{"ALL"},
				Privileges:      &swarm.Privileges{NoNewPrivileges: true},
				StopGracePeriod: &grace,
			},
			Resources:     &swarm.ResourceRequirements{Limits: &swarm.Limit{MemoryBytes: 64 << 20}},
			RestartPolicy: &swarm.RestartPolicy{Condition: swarm.RestartPolicyConditionNone},
			Placement:     &swarm.Placement{Constraints: []string{"node.role==manager"}},
			// Networks: none of the Swarm's. Docker refuses its network "none" to services.

			// The daemon's own driver may send logs elsewhere.
			LogDriver: &swarm.Driver{Name: "json-file", Options: map[string]string{"max-size": "10m", "max-file": "1"}},
		},
	}
}

// run is one service from when it was made.
type run struct {
	docker  client.APIClient
	request Request
	id      string
	screen  *follow.Screen
	timeout time.Duration
	task    swarm.Task // as it was seen last
	node    string     // hostname of the task's node
}

// await waits until the task has done its work.
func (r *run) await(ctx context.Context) error {
	for {
		tasks, err := r.docker.TaskList(ctx, client.TaskListOptions{Filters: make(client.Filters).Add("service", r.id)})
		switch {
		case ctx.Err() != nil:
			return r.late(ctx)
		case cerrdefs.IsNotFound(err):
			return r.superseded()
		case err != nil:
			r.screen.Note("tasks cannot be read: " + err.Error()) // Swarm elects a leader, or the connection broke
		case len(tasks.Items) > 0:
			r.see(ctx, tasks.Items)
		}
		switch state := r.task.Status.State; {
		case state == swarm.TaskStateComplete:
			return nil
		case stackdeploy.Over(state):
			return r.failure(ctx)
		}
		if pause(ctx) != nil {
			return r.late(ctx)
		}
	}
}

func (r *run) superseded() error {
	return fmt.Errorf("%w\nSomebody else may read the secrets of %s at the same time: run the same command again", ErrSuperseded, r.request.Application)
}

// see takes up the newest task and shows it.
func (r *run) see(ctx context.Context, tasks []swarm.Task) {
	newest := tasks[0]
	for _, t := range tasks[1:] {
		if t.CreatedAt.After(newest.CreatedAt) {
			newest = t
		}
	}
	if newest.NodeID != r.task.NodeID {
		r.node = r.hostname(ctx, newest.NodeID)
	}
	r.task = newest
	detail := newest.Status.Err
	switch {
	case detail == "" && r.node != "":
		detail = "on " + r.node
	case detail == "":
		detail = "waits for a node"
	}
	r.show(string(newest.Status.State), detail, false)
}

func (r *run) show(state, detail string, done bool) {
	r.screen.Show([]follow.Line{{Member: "secrets of " + r.request.Application, State: state, Detail: detail, Healthy: done}})
}

func (r *run) hostname(ctx context.Context, id string) string {
	nodes, err := r.docker.NodeList(ctx, client.NodeListOptions{})
	if err == nil {
		for _, n := range nodes.Items {
			if n.ID == id {
				return n.Description.Hostname
			}
		}
	}
	return id
}

// late says what the task was waiting for when ctx ended, unless the user ended it.
func (r *run) late(ctx context.Context) error {
	cause := context.Cause(ctx)
	if !errors.Is(cause, ErrTimeout) {
		return cause
	}
	if r.node == "" {
		why := r.task.Status.Err
		if why == "" {
			why = "Swarm has given it to no node"
		}
		return fmt.Errorf("%w (%s): %s\nThe task needs a manager node that is up and active: docker node ls; docker node update --availability active NODE", cause, r.timeout, why)
	}
	return fmt.Errorf("%w (%s): the task is %s on %s\nSee how that node is: docker node ls. Then run the same command again, with a longer --timeout if it is slow", cause, r.timeout, r.task.Status.State, r.node)
}

// failure says why the task failed.
func (r *run) failure(ctx context.Context) error {
	status := r.task.Status
	why := status.Err
	if why == "" {
		why = string(status.State)
	}
	err := fmt.Errorf("%w on %s: %s", ErrFailed, r.node, why)
	if follow.NoImage(why) {
		return fmt.Errorf("%w\nThe task runs the image of OpenManage's manager, %s. If its registry wants a login, install again as before: docker openmanage install --with-registry-auth …",
			err, r.request.Image)
	}
	if c := status.ContainerStatus; c != nil && c.ExitCode == exitUnknownWord {
		return fmt.Errorf("%w\nThe OpenManage on this Swarm (%s) seems to be older than this command. Upgrade it with: docker openmanage install", err, r.request.Image)
	}
	ctx, cancel := context.WithTimeout(ctx, reasonPatience)
	defer cancel()
	var said bytes.Buffer
	_ = r.log(ctx, client.ServiceLogsOptions{ShowStderr: true}, io.Discard, &said) // what there is
	if reason := bytes.TrimSpace(said.Bytes()); len(reason) > 0 {
		return fmt.Errorf("%w: %s\nRun the same command again", err, reason)
	}
	return fmt.Errorf("%w\nRun the same command again, or see what that node's engine says", err)
}

// errLine ends the reading of a log: its first line is there.
var errLine = errors.New("a whole line")

// firstLine keeps what is written up to the first line's end.
type firstLine struct{ bytes.Buffer }

func (l *firstLine) Write(p []byte) (int, error) {
	line, _, whole := bytes.Cut(p, []byte{'\n'})
	l.Buffer.Write(line)
	if whole {
		return len(line), errLine
	}
	return len(p), nil
}

// answer returns the line that the task has printed. Docker asks the task's node for it,
// and waits without end for one that does not answer.
func (r *run) answer(ctx context.Context) (string, error) {
	what := "no answer"
	for {
		var line firstLine
		err := r.log(ctx, client.ServiceLogsOptions{ShowStdout: true}, &line, io.Discard)
		switch {
		case errors.Is(err, errLine):
			return line.String(), nil
		case cerrdefs.IsNotFound(err):
			return "", r.superseded()
		case err != nil && ctx.Err() == nil: // what ends with ctx says nothing
			what = err.Error()
		}
		if pause(ctx) == nil {
			continue // the node has not told all yet
		}
		cause := context.Cause(ctx)
		if !errors.Is(cause, ErrTimeout) {
			return "", cause
		}
		return "", fmt.Errorf("%w (%s): the task is complete on %s, but its log cannot be had: %s\nSee how that node is: docker node ls. Then run the same command again; Swarm may choose another manager",
			cause, r.timeout, r.node, what)
	}
}

// log copies the service's log until it ends, a writer has enough, or ctx ends.
func (r *run) log(ctx context.Context, o client.ServiceLogsOptions, stdout, stderr io.Writer) error {
	body, err := r.docker.ServiceLogs(ctx, r.id, o)
	if err != nil {
		return err
	}
	defer body.Close()
	stop := context.AfterFunc(ctx, func() { _ = body.Close() }) // a read does not heed the context
	defer stop()
	_, err = stdcopy.StdCopy(stdout, stderr, body)
	return err
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(interval):
		return nil
	}
}
