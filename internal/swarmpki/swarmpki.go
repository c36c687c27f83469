// Package swarmpki makes TLS of the certificates that every Swarm node already
// holds, so that OpenManage's parts know each other without any secret of their own.
//
// Swarm's CA signs for each node a certificate with CN = node ID, O = cluster ID
// and OU = swarm-manager or swarm-worker, valid for server and client. It lies
// with its key and the CA's root under the daemon's data root in
// swarm/certificates and is renewed from time to time; therefore the files are
// read again for each handshake.
package swarmpki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	ouManager = "swarm-manager"
	ouWorker  = "swarm-worker"
)

var (
	// ErrLocked: the node's key is encrypted, as on managers with autolock.
	ErrLocked = errors.New("the Swarm key of this node is locked")
	// ErrPeer: the other side's certificate is not good for what it is used for.
	ErrPeer = errors.New("certificate refused")
)

// Peer is the other side of a connection, or the node itself, as Swarm's CA
// certifies it.
type Peer struct {
	NodeID  string
	Cluster string
	Manager bool
}

// Identity is the node's own certificate and trust. It is safe for concurrent use.
type Identity struct{ dir string }

// New returns the identity whose files lie in dir, which is DATA_ROOT/swarm/certificates.
func New(dir string) *Identity { return &Identity{dir: dir} }

// Self tells who this node is.
func (id *Identity) Self() (Peer, error) {
	m, err := id.load()
	if err != nil {
		return Peer{}, err
	}
	return m.self, nil
}

// ServerConfig is for a listener: it asks for a certificate of the same Swarm and
// refuses any other, an expired one, and none.
func (id *Identity) ServerConfig() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m, err := id.load()
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{m.cert},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    m.roots,
				NextProtos:   []string{"http/1.1"},
				// Resumed sessions would outlive a certificate that was renewed or revoked.
				SessionTicketsDisabled: true,
				VerifyConnection: func(cs tls.ConnectionState) error {
					_, err := m.accept(cs)
					return err
				},
			}, nil
		},
	}
}

// ClientConfig is for a connection to a manager of the same Swarm, whatever its address.
func (id *Identity) ClientConfig() *tls.Config {
	return id.clientConfig(func(p Peer) error {
		if !p.Manager {
			return fmt.Errorf("%w: node %s answered where a manager was expected", ErrPeer, p.NodeID)
		}
		return nil
	})
}

// NodeConfig is for a connection to the node with that ID and no other.
func (id *Identity) NodeConfig(nodeID string) *tls.Config {
	return id.clientConfig(func(p Peer) error {
		if p.NodeID != nodeID {
			return fmt.Errorf("%w: node %s answered where node %s was expected", ErrPeer, p.NodeID, nodeID)
		}
		return nil
	})
}

func (id *Identity) clientConfig(want func(Peer) error) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			m, err := id.load()
			if err != nil {
				return nil, err
			}
			return &m.cert, nil
		},
		// Names in Swarm's certificates are node IDs, not addresses, so the
		// standard check is replaced, not left out: VerifyConnection verifies
		// the chain, the time, the cluster and who it is.
		InsecureSkipVerify: true, //nolint:gosec // see above
		VerifyConnection: func(cs tls.ConnectionState) error {
			m, err := id.load()
			if err != nil {
				return err
			}
			if err := m.verify(cs.PeerCertificates, x509.ExtKeyUsageServerAuth); err != nil {
				return err
			}
			p, err := m.accept(cs)
			if err != nil {
				return err
			}
			return want(p)
		},
	}
}

// PeerFrom tells who is on the other side of a connection made with one of the
// configurations of this package.
func PeerFrom(cs *tls.ConnectionState) (Peer, error) {
	if cs == nil || len(cs.PeerCertificates) == 0 {
		return Peer{}, fmt.Errorf("%w: there is none", ErrPeer)
	}
	return peerOf(cs.PeerCertificates[0])
}

func peerOf(c *x509.Certificate) (Peer, error) {
	p := Peer{NodeID: c.Subject.CommonName}
	if len(c.Subject.Organization) == 1 {
		p.Cluster = c.Subject.Organization[0]
	}
	ou := strings.Join(c.Subject.OrganizationalUnit, ",")
	switch ou {
	case ouManager:
		p.Manager = true
	case ouWorker:
	default:
		return p, fmt.Errorf("%w: its role is %q, neither %s nor %s", ErrPeer, ou, ouManager, ouWorker)
	}
	if p.NodeID == "" || p.Cluster == "" {
		return p, fmt.Errorf("%w: it names no node or no cluster", ErrPeer)
	}
	return p, nil
}

// material is what the files hold at one moment.
type material struct {
	cert  tls.Certificate
	roots *x509.CertPool
	self  Peer
}

func (id *Identity) load() (*material, error) {
	read := func(name string) ([]byte, error) {
		b, err := os.ReadFile(filepath.Join(id.dir, name))
		if errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("no Swarm certificate: %w; is this node in a Swarm, and DATA_ROOT/swarm mounted here?", err)
		}
		return b, err
	}
	crt, err := read("swarm-node.crt")
	if err != nil {
		return nil, err
	}
	key, err := read("swarm-node.key")
	if err != nil {
		return nil, err
	}
	ca, err := read("swarm-root-ca.crt")
	if err != nil {
		return nil, err
	}
	if block, _ := pem.Decode(key); block != nil && strings.Contains(block.Type, "ENCRYPTED") {
		return nil, fmt.Errorf("%w: autolock is on; turn it off with `docker swarm update --autolock=false`", ErrLocked)
	}
	m := &material{roots: x509.NewCertPool()}
	if m.cert, err = tls.X509KeyPair(crt, key); err != nil {
		return nil, fmt.Errorf("the Swarm certificate in %s: %w", id.dir, err)
	}
	if !m.roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("the Swarm root certificate in %s holds no certificate", id.dir)
	}
	if m.self, err = peerOf(m.cert.Leaf); err != nil {
		return nil, fmt.Errorf("the Swarm certificate in %s: %w", id.dir, err)
	}
	return m, nil
}

func (m *material) verify(chain []*x509.Certificate, usage x509.ExtKeyUsage) error {
	if len(chain) == 0 {
		return fmt.Errorf("%w: there is none", ErrPeer)
	}
	intermediates := x509.NewCertPool() // while Swarm rotates its CA
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: m.roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}}); err != nil {
		return fmt.Errorf("%w: %w", ErrPeer, err)
	}
	return nil
}

// accept checks what a chain of trust alone does not say: that the certificate
// was made for this cluster.
func (m *material) accept(cs tls.ConnectionState) (Peer, error) {
	p, err := PeerFrom(&cs)
	if err != nil {
		return p, err
	}
	if p.Cluster != m.self.Cluster {
		return p, fmt.Errorf("%w: it is of Swarm %s, this is Swarm %s", ErrPeer, p.Cluster, m.self.Cluster)
	}
	return p, nil
}
