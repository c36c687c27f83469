package stacks

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

// A secret looks as its application wants it, whether create makes it or the command in the stack file does.
func TestSecretsHaveTheirForm(t *testing.T) {
	byHand := func(s Secret) []byte {
		out, err := exec.Command("sh", "-c", s.Shell("app")).Output()
		assert.NilError(t, err, s.Shell("app"))
		return out
	}
	_, err := exec.LookPath("openssl")
	hasOpenSSL := err == nil
	for _, tc := range []struct {
		secret Secret
		check  func(t *testing.T, value string)
	}{
		{Secret{Name: "password"}, hexDigits(24)},
		{Secret{Name: "key", Form: "hex32"}, hexDigits(32)},
		{Secret{Name: "prefixed", Prefix: "Om1!"}, func(t *testing.T, value string) {
			rest, ok := strings.CutPrefix(value, "Om1!")
			assert.Assert(t, ok, value)
			hexDigits(24)(t, rest)
		}},
		{Secret{Name: "gossip", Form: "base64"}, func(t *testing.T, value string) {
			doc, err := base64.StdEncoding.DecodeString(value)
			assert.NilError(t, err)
			assert.Equal(t, len(doc), 32)
		}},
		{Secret{Name: "id", Form: "uuid"}, func(t *testing.T, value string) {
			assert.Assert(t, regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(value), value)
		}},
		{Secret{Name: "tls", Form: "certificate"}, func(t *testing.T, value string) {
			pair, err := tls.X509KeyPair([]byte(value), []byte(value))
			assert.NilError(t, err)
			assert.Equal(t, pair.Leaf.Subject.CommonName, "app")
			pool := x509.NewCertPool()
			pool.AddCert(pair.Leaf) // as members do: each trusts the one that all have
			for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
				_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}})
				assert.NilError(t, err)
			}
		}},
	} {
		t.Run(tc.secret.Name, func(t *testing.T) {
			one, err := tc.secret.Make("app")
			assert.NilError(t, err)
			tc.check(t, string(one))
			other, err := tc.secret.Make("app")
			assert.NilError(t, err)
			assert.Assert(t, string(one) != string(other))
			if hasOpenSSL {
				tc.check(t, string(byHand(tc.secret)))
			}
		})
	}

	_, err = parseApp([]byte(plainApp + "secrets: [{name: x, description: x, form: hex}]\n"))
	assert.ErrorContains(t, err, `secret x: form "hex": expected one of base64, certificate, hex32, uuid`)
	_, err = parseApp([]byte(plainApp + "secrets: [{name: x, description: x, form: certificate, prefix: y}]\n"))
	assert.ErrorContains(t, err, "secret x: a certificate has no prefix")
}

func hexDigits(n int) func(t *testing.T, value string) {
	return func(t *testing.T, value string) {
		doc, err := hex.DecodeString(value)
		assert.NilError(t, err)
		assert.Equal(t, len(doc), n)
	}
}
