// Package seal carries secrets over a way that others can read. Who wants them makes a
// key for one use and gives away its public half; who has them seals them so that only
// that key opens them again.
package seal

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/nacl/box"
)

// ErrClosed is what an error about a document that a key does not open wraps.
var ErrClosed = errors.New("the sealed document cannot be opened")

var encoding = base64.RawURLEncoding.Strict()

// Key opens what was sealed for it. It lives in memory only, for one document.
type Key struct{ public, private *[32]byte }

// NewKey makes a key.
func NewKey() (*Key, error) {
	public, private, err := box.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return &Key{public: public, private: private}, nil
}

// Public is the half to give away, one word.
func (k *Key) Public() string { return encoding.EncodeToString(k.public[:]) }

// Seal returns values by their names as one word, which the key of public opens.
func Seal(public string, values map[string][]byte) (string, error) {
	raw, err := encoding.DecodeString(public)
	if err != nil || len(raw) != 32 {
		return "", fmt.Errorf("the public key %q is none", public)
	}
	document, err := json.Marshal(values)
	if err != nil {
		return "", err
	}
	sealed, err := box.SealAnonymous(nil, document, (*[32]byte)(raw), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("seal: %w", err)
	}
	return encoding.EncodeToString(sealed), nil
}

// Files seals the content of files by their base names.
func Files(public string, paths []string) (string, error) {
	values := map[string][]byte{}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		values[filepath.Base(path)] = content
	}
	return Seal(public, values)
}

// Open returns what Seal was given.
func (k *Key) Open(sealed string) (map[string][]byte, error) {
	raw, err := encoding.DecodeString(sealed)
	if err != nil {
		return nil, fmt.Errorf("%w: it is cut off or changed", ErrClosed)
	}
	document, ok := box.OpenAnonymous(nil, raw, k.public, k.private)
	if !ok {
		return nil, fmt.Errorf("%w: it is changed, or sealed for another key", ErrClosed)
	}
	var values map[string][]byte
	// What is wrong with it is not said: the error would quote it.
	if json.Unmarshal(document, &values) != nil {
		return nil, fmt.Errorf("%w: it holds no secrets", ErrClosed)
	}
	return values, nil
}
