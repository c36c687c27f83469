// Package incontainer runs a command in a container that runs already, by Docker's API.
package incontainer

import (
	"bytes"
	"context"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"
)

// API is the part of the Docker client that Run uses.
type API interface {
	ExecCreate(ctx context.Context, container string, options client.ExecCreateOptions) (client.ExecCreateResult, error)
	ExecAttach(ctx context.Context, exec string, options client.ExecAttachOptions) (client.ExecAttachResult, error)
	ExecInspect(ctx context.Context, exec string, options client.ExecInspectOptions) (client.ExecInspectResult, error)
}

// Run runs a command to its end and returns what it prints and its exit code.
func Run(ctx context.Context, docker API, container string, cmd []string) (stdout, stderr string, code int, err error) {
	created, err := docker.ExecCreate(ctx, container, client.ExecCreateOptions{AttachStdout: true, AttachStderr: true, Cmd: cmd})
	if err != nil {
		return "", "", 0, err
	}
	res, err := docker.ExecAttach(ctx, created.ID, client.ExecAttachOptions{})
	if err != nil {
		return "", "", 0, err
	}
	defer res.Close()
	stop := context.AfterFunc(ctx, res.Close) // a read does not heed the context
	defer stop()
	var out, errs bytes.Buffer
	if _, err := stdcopy.StdCopy(&out, &errs, res.Reader); err != nil {
		return "", "", 0, err
	}
	inspect, err := docker.ExecInspect(ctx, created.ID, client.ExecInspectOptions{})
	return out.String(), errs.String(), inspect.ExitCode, err
}
