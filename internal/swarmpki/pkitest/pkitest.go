// Package pkitest makes Swarm CAs and node certificates for tests, with the
// subjects, usages and file names that Swarm uses.
package pkitest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

// CA is the root of one Swarm.
type CA struct {
	cluster string
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// NewCA makes the CA of a Swarm with that cluster ID.
func NewCA(t testing.TB, cluster string) *CA {
	t.Helper()
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "swarm-ca"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	assert.NilError(t, err)
	cert, err := x509.ParseCertificate(der)
	assert.NilError(t, err)
	return &CA{cluster: cluster, cert: cert, key: key}
}

// Node is what a certificate is made for.
type Node struct {
	ID      string
	Role    string        // swarm-manager or swarm-worker
	Cluster string        // the CA's if empty
	Expires time.Duration // from now; an hour if 0, in the past if negative
}

// Write makes the certificate folder of a node and returns its path.
func (ca *CA) Write(t testing.TB, n Node) string {
	t.Helper()
	if n.Cluster == "" {
		n.Cluster = ca.cluster
	}
	if n.Expires == 0 {
		n.Expires = time.Hour
	}
	key := newKey(t)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: n.ID, Organization: []string{n.Cluster}, OrganizationalUnit: []string{n.Role}},
		NotBefore:    time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(n.Expires),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{n.Role, n.ID},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	assert.NilError(t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	assert.NilError(t, err)
	dir := t.TempDir()
	write := func(name, kind string, headers map[string]string, der []byte) {
		block := pem.EncodeToMemory(&pem.Block{Type: kind, Headers: headers, Bytes: der})
		assert.NilError(t, os.WriteFile(filepath.Join(dir, name), block, 0o600))
	}
	write("swarm-node.crt", "CERTIFICATE", nil, der)
	write("swarm-node.key", "PRIVATE KEY", map[string]string{"kek-version": "0"}, keyDER)
	write("swarm-root-ca.crt", "CERTIFICATE", nil, ca.cert.Raw)
	return dir
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	assert.NilError(t, err)
	return key
}
