package seal

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gotest.tools/v3/assert"
)

func key(t *testing.T) *Key {
	t.Helper()
	k, err := NewKey()
	assert.NilError(t, err)
	return k
}

func TestWhatIsSealedOnlyItsKeyOpens(t *testing.T) {
	mine, other := key(t), key(t)
	values := map[string][]byte{"pg_superuser-password": []byte("correct horse"), "pg_binary": {0, 255, '\n'}, "pg_empty": {}}
	sealed, err := Seal(mine.Public(), values)
	assert.NilError(t, err)
	assert.Assert(t, !strings.ContainsAny(sealed, " \n"), "it is one word: %q", sealed)

	opened, err := mine.Open(sealed)
	assert.NilError(t, err)
	assert.DeepEqual(t, opened, values)

	_, err = other.Open(sealed)
	assert.ErrorIs(t, err, ErrClosed)
}

func TestTheSameSecretsSealedTwiceDoNotLookAlike(t *testing.T) {
	k := key(t)
	first, err := Seal(k.Public(), map[string][]byte{"a": []byte("b")})
	assert.NilError(t, err)
	second, err := Seal(k.Public(), map[string][]byte{"a": []byte("b")})
	assert.NilError(t, err)
	assert.Assert(t, first != second)
}

func TestASealedDocumentThatWasTouchedStaysClosed(t *testing.T) {
	k := key(t)
	sealed, err := Seal(k.Public(), map[string][]byte{"a": []byte("b")})
	assert.NilError(t, err)
	last := "A"
	if strings.HasSuffix(sealed, last) {
		last = "B"
	}
	for _, touched := range []string{"", "words", "x y", sealed[:len(sealed)-4], "A" + sealed, sealed[:len(sealed)-1] + last, strings.ToLower(sealed)} {
		_, err := k.Open(touched)
		assert.ErrorIs(t, err, ErrClosed, "%q", touched)
	}
}

func TestFilesAreSealedUnderTheirNames(t *testing.T) {
	k, dir := key(t), t.TempDir()
	path := filepath.Join(dir, "pg_superuser-password")
	assert.NilError(t, os.WriteFile(path, []byte("s3cret"), 0o600))
	sealed, err := Files(k.Public(), []string{path})
	assert.NilError(t, err)
	opened, err := k.Open(sealed)
	assert.NilError(t, err)
	assert.DeepEqual(t, opened, map[string][]byte{"pg_superuser-password": []byte("s3cret")})

	_, err = Files(k.Public(), []string{path, filepath.Join(dir, "missing")})
	assert.ErrorIs(t, err, os.ErrNotExist)
	for _, bad := range []string{"", "short", k.Public() + "A"} {
		_, err = Files(bad, []string{path})
		assert.ErrorContains(t, err, "is none")
	}
}
