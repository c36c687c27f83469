package postgresql

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// findBinaries returns the folder of the server's programs: where postgres of the
// PATH really lies, else the newest of Debian's folders.
func findBinaries(path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if program, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil && hasPrograms(filepath.Dir(program)) {
			return filepath.Dir(program), nil
		}
	}
	dirs, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil {
		return "", err
	}
	slices.SortFunc(dirs, func(a, b string) int { return majorOf(b) - majorOf(a) })
	for _, dir := range dirs {
		if hasPrograms(dir) {
			return dir, nil
		}
	}
	return "", errors.New("the image has no PostgreSQL server (postgres, initdb, pg_basebackup and pg_controldata in PATH or /usr/lib/postgresql); use the official image, such as postgres:17")
}

func hasPrograms(dir string) bool {
	for _, name := range []string{"postgres", "initdb", "pg_basebackup", "pg_controldata"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil { //nolint:gosec // folders of the image's own PATH
			return false
		}
	}
	return true
}

func majorOf(dir string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
	return n
}

// readSecret reads a password. Printable ASCII is asked for because SCRAM
// normalises anything else (RFC 4013), and two programs must agree on how.
func readSecret(dir, name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return "", fmt.Errorf("the secret %s is missing: %w; the stack must mount it (docker openmanage generate shows how)", name, err)
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", fmt.Errorf("the secret %s is empty; make it anew with a password of printable ASCII characters", name)
	}
	for _, c := range password {
		if c < ' ' || c > '~' {
			return "", fmt.Errorf("the secret %s has characters other than printable ASCII; make it anew without them", name)
		}
	}
	return password, nil
}
