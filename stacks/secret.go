package stacks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"time"
)

// Secret is a Docker secret that create generates, APPLICATION_NAME, and that the
// members find as /run/secrets/NAME.
type Secret struct {
	Name        string `yaml:"name" json:"name"`
	Description string `yaml:"description" json:"description"`
	// Prefix begins the value, for applications that want certain characters in it.
	Prefix string `yaml:"prefix" json:"prefix,omitempty"`
	// Form is what the application wants it to look like, one of secretForms. "": 48
	// hexadecimal digits.
	Form string `yaml:"form" json:"form,omitempty"`
}

// secretForm is a way to make a secret: here, and by hand.
type secretForm struct {
	make  func(application string) (string, error)
	shell func(application string) string
}

var secretForms = map[string]secretForm{
	"": {
		func(string) (string, error) { return hex.EncodeToString(randomBytes(24)), nil },
		func(string) string { return `openssl rand -hex 24 | tr -d '\n'` },
	},
	// A key of 256 bits, for servers that encrypt with it.
	"hex32": {
		func(string) (string, error) { return hex.EncodeToString(randomBytes(32)), nil },
		func(string) string { return `openssl rand -hex 32 | tr -d '\n'` },
	},
	"base64": {
		func(string) (string, error) { return base64.StdEncoding.EncodeToString(randomBytes(32)), nil },
		func(string) string { return `openssl rand -base64 32 | tr -d '\n'` },
	},
	"uuid": {
		func(string) (string, error) { return randomUUID(), nil },
		func(string) string { return `tr -d '\n' < /proc/sys/kernel/random/uuid` },
	},
	// A key and a certificate that it has signed itself, PEM, one after the other. All members have the
	// same: who has the key is one of them.
	"certificate": {
		keyAndCertificate,
		func(application string) string {
			return "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj /CN=" + application + " -keyout - 2>/dev/null"
		},
	},
}

// Make makes a new value for an application.
func (s Secret) Make(application string) ([]byte, error) {
	value, err := secretForms[s.Form].make(application)
	return []byte(s.Prefix + value), err
}

// Shell is the command that writes such a value.
func (s Secret) Shell(application string) string {
	if s.Prefix != "" {
		return fmt.Sprintf(`printf '%s%%s' "$(%s)"`, s.Prefix, strings.TrimSuffix(secretForms[s.Form].shell(application), ` | tr -d '\n'`))
	}
	return secretForms[s.Form].shell(application)
}

func (s Secret) validate(check func(ok bool, format string, args ...any)) {
	_, known := secretForms[s.Form]
	check(known, "secret %s: form %q: expected one of %s", s.Name, s.Form, strings.Join(slices.Sorted(maps.Keys(secretForms))[1:], ", "))
	check(s.Form != "certificate" || s.Prefix == "", "secret %s: a certificate has no prefix", s.Name)
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}

// randomUUID is one of version 4 (RFC 9562).
func randomUUID() string {
	b := randomBytes(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// certificateLife is long, because a secret cannot be changed while services use it.
const certificateLife = 10 * 365 * 24 * time.Hour

func keyAndCertificate(application string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make a key: %w", err)
	}
	doc, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", fmt.Errorf("encode a key: %w", err)
	}
	now := time.Now()
	certificate := x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(randomBytes(16)), Subject: pkix.Name{CommonName: application},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(certificateLife), // clocks differ
		BasicConstraintsValid: true, IsCA: true,
	}
	signed, err := x509.CreateCertificate(rand.Reader, &certificate, &certificate, key.Public(), key)
	if err != nil {
		return "", fmt.Errorf("make a certificate: %w", err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: doc})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed})), nil
}
