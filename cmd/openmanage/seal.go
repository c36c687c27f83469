package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/openmanage/openmanage/internal/seal"
)

// runSeal is the task of `docker openmanage credentials`. It prints one line: what the
// files hold, and only the one who asked can open it, since anybody who may read the
// service's log sees it.
func runSeal(_ context.Context, args []string) (int, error) {
	if len(args) < 2 {
		return 2, errors.New("usage: openmanage seal PUBLIC_KEY FILE [FILE...]")
	}
	line, err := seal.Files(args[0], args[1:])
	if err != nil {
		return 1, err
	}
	_, err = fmt.Println(line)
	return failed(err)
}
