// Package operation asks the leading manager for operations on an application and
// follows them to their end.
package operation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/openmanage/openmanage/cli-plugin/internal/claim"
	"github.com/openmanage/openmanage/internal/store"
)

// Interval is the time between two looks at an operation.
const Interval = 250 * time.Millisecond

// ErrFailed: the operation ended without having done what was asked.
var ErrFailed = errors.New("failed")

// Ask requests an operation of a kind on an application and returns its name.
func Ask(ctx context.Context, records *store.Store, kind, application string, request any) (string, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return "", err
	}
	name := store.OperationName(application)
	_, err = store.Create(ctx, records, store.KindOperation, name, store.Operation{
		Kind: kind, Target: application, By: claim.Me(), State: store.OperationRequested,
		Request: string(body), Started: time.Now().UTC().Truncate(time.Second),
	})
	return name, err
}

// Follow tells each step of an operation once, until it has ended. An error of the
// Swarm, such as while it elects a leader, is told and waited out.
func Follow(ctx context.Context, records *store.Store, name string, tell func(string)) error {
	said, told := 0, ""
	once := func(line string) {
		if line != told {
			tell(line)
			told = line
		}
	}
	for {
		r, err := store.Get[store.Operation](ctx, records, store.KindOperation, name)
		op := r.Value
		switch {
		case errors.Is(err, store.ErrNotFound):
			return fmt.Errorf("operation %s: its record is gone; it ended some time ago, or was removed by hand", name)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			once("the operation's record cannot be read, trying again: " + err.Error())
		default:
			for ; said < len(op.Steps); said++ {
				once(op.Steps[said].Text)
			}
			if op.State == store.OperationRequested && op.Step != "" {
				once(op.Step)
			}
		}
		switch {
		case err != nil:
		case op.State == store.OperationDone:
			return nil
		case op.State == store.OperationFailed:
			return fmt.Errorf("%s of %s %w: %s", op.Kind, op.Target, ErrFailed, op.Error)
		case op.State == store.OperationCancelled:
			return fmt.Errorf("%s of %s was cancelled; %s", op.Kind, op.Target, op.Error)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(Interval):
		}
	}
}
