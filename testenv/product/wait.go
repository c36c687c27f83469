package product

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Until asks again and again until done says yes, or the time is up; then the
// error holds what done said last.
func Until(ctx context.Context, limit time.Duration, what string, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("it was never asked")
	for {
		err := done(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, limit, last)
		case <-tick.C:
		}
	}
}

// WaitHealthy waits until all members of an application are healthy.
func (p *Product) WaitHealthy(ctx context.Context, application string, members int, limit time.Duration) ([]Member, error) {
	var found []Member
	err := Until(ctx, limit, "application "+application+" healthy", func(ctx context.Context) error {
		var err error
		if found, err = p.Members(ctx, application); err != nil {
			return err
		}
		healthy := 0
		for _, m := range found {
			if m.Health == "healthy" {
				healthy++
			}
		}
		if healthy != members || len(found) != members {
			return fmt.Errorf("%d of %d members are healthy: %+v", healthy, members, found)
		}
		return nil
	})
	return found, err
}
