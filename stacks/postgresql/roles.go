package postgresql

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// syncRoles makes the passwords of the superuser and the replicator those of the
// secrets, which are the truth: a stack that is made anew over a volume that was
// kept has new secrets. It writes nothing if they are already. The server never
// sees a password, only its verifier, so that none can get into a log.
func (s *server) syncRoles(ctx context.Context) error {
	table, err := s.query(ctx, "SELECT rolname, coalesce(rolpassword, '') FROM pg_catalog.pg_authid")
	if err != nil {
		return fmt.Errorf("read the roles' passwords: %w", err)
	}
	verifiers := map[string]string{}
	for _, row := range table {
		verifiers[row[0]] = row[1]
	}
	for _, role := range []struct{ name, password, attributes string }{
		{s.superuser, s.superuserPassword, "LOGIN SUPERUSER"},
		{replicator, s.replicatorPassword, "LOGIN REPLICATION"},
	} {
		verb := "ALTER"
		switch verifier, ok := verifiers[role.name]; {
		case !ok:
			verb = "CREATE"
		case verifies(verifier, role.password):
			continue
		}
		verifier, err := newVerifier(role.password)
		if err != nil {
			return err
		}
		if _, err := s.query(ctx, fmt.Sprintf("%s ROLE %s %s PASSWORD %s", verb, quoteIdentifier(role.name), role.attributes, quoteLiteral(verifier))); err != nil {
			return fmt.Errorf("set the password of the role %s: %w", role.name, err)
		}
		s.log.Info("set a role's password from its secret", "role", role.name)
	}
	return nil
}

// iterations is PostgreSQL's own default (scram_iterations).
const iterations = 4096

// newVerifier returns what PostgreSQL keeps of a password (documentation of
// PostgreSQL, pg_authid; RFC 5802, section 3).
func newVerifier(password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt) // never fails
	return verifier(password, salt, iterations)
}

func verifier(password string, salt []byte, iterations int) (string, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive the verifier of a password: %w", err)
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}

// verifies reports whether a verifier is of this password.
func verifies(have, password string) bool {
	head, _, ok := strings.Cut(strings.TrimPrefix(have, "SCRAM-SHA-256$"), "$")
	count, encoded, cut := strings.Cut(head, ":")
	n, err := strconv.Atoi(count)
	if !ok || !cut || err != nil || n < 1 || n > 1<<20 {
		return false
	}
	salt, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return false
	}
	want, err := verifier(password, salt, n)
	return err == nil && subtle.ConstantTimeCompare([]byte(have), []byte(want)) == 1
}
