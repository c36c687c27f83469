package swarmpki_test

import (
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/swarmpki"
	"github.com/openmanage/openmanage/internal/swarmpki/pkitest"
)

const manager, worker = "swarm-manager", "swarm-worker"

// connect lets client call server and returns whom the server saw.
func connect(t *testing.T, server *tls.Config, client *tls.Config) (swarmpki.Peer, error) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	assert.NilError(t, err)
	defer l.Close()
	type result struct {
		peer swarmpki.Peer
		err  error
	}
	done := make(chan result, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- result{err: err}
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		tc := conn.(*tls.Conn)
		if err := tc.Handshake(); err != nil {
			done <- result{err: err}
			return
		}
		cs := tc.ConnectionState()
		peer, err := swarmpki.PeerFrom(&cs)
		_, _ = conn.Write([]byte{1})
		done <- result{peer, err}
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), client)
	if err == nil {
		// With TLS 1.3 a refusal of the client's certificate comes with the first read.
		_, err = io.ReadFull(conn, make([]byte, 1))
		conn.Close()
	} else {
		l.Close()
	}
	r := <-done
	if r.err != nil && !errors.Is(r.err, net.ErrClosed) {
		return r.peer, r.err
	}
	return r.peer, err
}

func TestNodesOfOneSwarmKnowEachOther(t *testing.T) {
	ca := pkitest.NewCA(t, "swarm-1")
	m := swarmpki.New(ca.Write(t, pkitest.Node{ID: "m1", Role: manager}))
	w := swarmpki.New(ca.Write(t, pkitest.Node{ID: "w1", Role: worker}))

	peer, err := connect(t, m.ServerConfig(), w.ClientConfig())
	assert.NilError(t, err)
	assert.Equal(t, peer, swarmpki.Peer{NodeID: "w1", Cluster: "swarm-1"})

	peer, err = connect(t, w.ServerConfig(), m.NodeConfig("w1"))
	assert.NilError(t, err)
	assert.Equal(t, peer, swarmpki.Peer{NodeID: "m1", Cluster: "swarm-1", Manager: true})
}

func TestRefusals(t *testing.T) {
	ca, other := pkitest.NewCA(t, "swarm-1"), pkitest.NewCA(t, "swarm-2")
	good := swarmpki.New(ca.Write(t, pkitest.Node{ID: "m1", Role: manager}))
	client := func(ca *pkitest.CA, n pkitest.Node) *tls.Config { return swarmpki.New(ca.Write(t, n)).ClientConfig() }
	anonymous := client(ca, pkitest.Node{ID: "w1", Role: worker})
	anonymous.GetClientCertificate = nil
	foreign := client(other, pkitest.Node{ID: "w1", Role: worker})
	foreign.VerifyConnection = nil // it would refuse the server first
	cluster := client(ca, pkitest.Node{ID: "w1", Role: worker, Cluster: "swarm-2"})
	cluster.VerifyConnection = nil
	for doc, config := range map[string]*tls.Config{
		"no certificate":                       anonymous,
		"a certificate of another Swarm":       foreign,
		"an expired certificate":               client(ca, pkitest.Node{ID: "w1", Role: worker, Expires: -time.Hour}),
		"a certificate for another cluster ID": cluster,
		"a certificate with no Swarm role":     client(ca, pkitest.Node{ID: "w1", Role: "admin"}),
	} {
		t.Run(doc, func(t *testing.T) {
			_, err := connect(t, good.ServerConfig(), config)
			assert.Assert(t, err != nil, "it was let in")
		})
	}
}

func TestClientRefusesServersThatAreNotWhoIsMeant(t *testing.T) {
	ca, other := pkitest.NewCA(t, "swarm-1"), pkitest.NewCA(t, "swarm-2")
	client := swarmpki.New(ca.Write(t, pkitest.Node{ID: "w1", Role: worker}))
	server := func(ca *pkitest.CA, n pkitest.Node) *tls.Config {
		c := swarmpki.New(ca.Write(t, n)).ServerConfig()
		return c
	}
	for doc, tc := range map[string]struct{ server, client *tls.Config }{
		"a worker in a manager's place":   {server(ca, pkitest.Node{ID: "w2", Role: worker}), client.ClientConfig()},
		"another node than the one asked": {server(ca, pkitest.Node{ID: "w2", Role: worker}), client.NodeConfig("w3")},
		"a manager of another Swarm":      {server(other, pkitest.Node{ID: "m1", Role: manager}), client.ClientConfig()},
		"an expired manager":              {server(ca, pkitest.Node{ID: "m1", Role: manager, Expires: -time.Minute}), client.ClientConfig()},
	} {
		t.Run(doc, func(t *testing.T) {
			_, err := connect(t, tc.server, tc.client)
			assert.Assert(t, err != nil, "it was believed")
		})
	}
}

func TestCertificateIsReadAgainForEachHandshake(t *testing.T) {
	ca := pkitest.NewCA(t, "swarm-1")
	dir := ca.Write(t, pkitest.Node{ID: "w1", Role: worker})
	m := swarmpki.New(ca.Write(t, pkitest.Node{ID: "m1", Role: manager}))
	config := swarmpki.New(dir).ClientConfig()
	_, err := connect(t, m.ServerConfig(), config)
	assert.NilError(t, err)

	renewed := ca.Write(t, pkitest.Node{ID: "w1-renewed", Role: worker})
	for _, name := range []string{"swarm-node.crt", "swarm-node.key"} {
		assert.NilError(t, os.Rename(filepath.Join(renewed, name), filepath.Join(dir, name)))
	}
	peer, err := connect(t, m.ServerConfig(), config)
	assert.NilError(t, err)
	assert.Equal(t, peer.NodeID, "w1-renewed")
}

func TestLockedKeyIsNamedAsSuch(t *testing.T) {
	ca := pkitest.NewCA(t, "swarm-1")
	dir := ca.Write(t, pkitest.Node{ID: "m1", Role: manager})
	locked := pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("sealed")})
	assert.NilError(t, os.WriteFile(filepath.Join(dir, "swarm-node.key"), locked, 0o600))
	_, err := swarmpki.New(dir).Self()
	assert.ErrorIs(t, err, swarmpki.ErrLocked)
	assert.ErrorContains(t, err, "--autolock=false")
}
