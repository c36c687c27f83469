package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/openmanage/openmanage/testenv/bench/outage"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/product"
)

const (
	writerPackage  = "github.com/openmanage/openmanage/testenv/bench/outage/client"
	writerPrefix   = prefix + "-writer-"
	writerBinary   = "client"
	writerPassword = "password"
	// writerSteady is how many writes in a row show that they go on: a second of them.
	writerSteady = 20
	// writerLimit is how long an outage may last.
	writerLimit = 4 * time.Minute
	// writerStart is how long the first write may take before the names are looked at.
	writerStart = 45 * time.Second
)

// writer is outage's client in a container on a node, in the network of a database.
type writer struct {
	b         *bench
	node      *cluster.Node
	container string
}

// writerDir is where the client and its password lie, on this machine; every node
// has it below cluster.StoragePath.
func (b *bench) writerDir() string {
	return filepath.Join(b.c.Nodes()[0].Storage(), prefix+"-writer")
}

// writerMount has a container find that folder at /writer.
func (b *bench) writerMount() string {
	return "type=bind,readonly,source=" + cluster.StoragePath + "/" + filepath.Base(b.writerDir()) + ",target=/writer"
}

// prepareWriters builds the client where every node has it, and makes a password.
func (b *bench) prepareWriters(ctx context.Context) (password string, err error) {
	if err := os.MkdirAll(b.writerDir(), 0o755); err != nil {
		return "", err
	}
	_, err = host.Run(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-o", filepath.Join(b.writerDir(), writerBinary), writerPackage)
	if err != nil {
		return "", err
	}
	password = rand.Text()
	return password, os.WriteFile(filepath.Join(b.writerDir(), writerPassword), []byte(password), 0o600)
}

// startWriter starts a client on the node and waits until it writes. Swarm's DNS can
// have lost members' names with a node that was killed before: its nodes forget the
// entries of one that they take for dead, and do not always get them back with it.
// Such members are started anew; it is not what is measured.
func (b *bench) startWriter(ctx context.Context, d database, on *cluster.Node) (*writer, error) {
	w := &writer{b: b, node: on, container: writerPrefix + strings.ReplaceAll(d.hosts()[0], ":", "-")}
	_, err := b.docker(ctx, on, "run", "--detach", "--name", w.container, "--stop-timeout", "1", "--network", d.network(),
		"--mount", b.writerMount(), plainImage,
		"/writer/"+writerBinary, "--members", strings.Join(d.hosts(), ","), "--user", clientRole, "--password-file", "/writer/"+writerPassword)
	if err != nil {
		return nil, err
	}
	if w.within(ctx, writerStart, time.Time{}) == nil {
		return w, nil
	}
	members, err := waitWhole(ctx, d)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		if !slices.Contains(d.hosts(), m.name) { // it is not known by its name
			continue
		}
		if out, err := b.docker(ctx, on, "exec", w.container, "getent", "ahostsv4", m.name); err == nil && out != "" {
			continue
		}
		b.say.Step("Swarm's DNS does not know %s on %s; starting it anew", m, on.Name)
		if _, err := b.docker(ctx, m.node, "kill", m.container); err != nil {
			return nil, err
		}
	}
	return w, w.goesOn(ctx, time.Time{})
}

// goesOn waits until so many writes that began after t are acknowledged that
// there is a primary again, for good.
func (w *writer) goesOn(ctx context.Context, t time.Time) error {
	return w.within(ctx, writerLimit, t)
}

func (w *writer) within(ctx context.Context, limit time.Duration, t time.Time) error {
	return product.Until(ctx, limit, "writes of "+w.container, func(ctx context.Context) error {
		log, err := w.log(ctx)
		if err == nil && log.AcknowledgedSince(t) < writerSteady {
			err = fmt.Errorf("%d are acknowledged", log.AcknowledgedSince(t))
		}
		return err
	})
}

func (w *writer) log(ctx context.Context) (outage.Log, error) {
	out, err := w.b.docker(ctx, w.node, "logs", w.container)
	if err != nil {
		return nil, err
	}
	return outage.Parse(strings.NewReader(out))
}

// end stops the client and returns what it has seen.
func (w *writer) end(ctx context.Context) (outage.Log, error) {
	log, err := w.log(ctx)
	if err != nil {
		return nil, err
	}
	_, err = w.b.docker(ctx, w.node, "rm", "--force", w.container)
	return log, err
}

// dropWriters removes all containers that are attached to a database's network, so
// that it can go, and what they were made of.
func (b *bench) dropWriters(ctx context.Context) error {
	for _, node := range b.c.Nodes() {
		ids, err := b.docker(ctx, node, "ps", "--all", "--quiet", "--filter", "name="+writerPrefix, "--filter", "name="+joinCopy)
		if err != nil {
			return err
		}
		if ids == "" {
			continue
		}
		if _, err := b.docker(ctx, node, append([]string{"rm", "--force"}, strings.Fields(ids)...)...); err != nil {
			return err
		}
	}
	return os.RemoveAll(b.writerDir())
}
