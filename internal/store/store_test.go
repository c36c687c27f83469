package store_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/store/storetest"
)

type counter struct {
	N int `json:"n"`
}

const kind = store.Kind("counter")

func TestCreateIsIfAbsent(t *testing.T) {
	s := store.New(&storetest.Configs{})
	ctx := context.Background()
	_, err := store.Create(ctx, s, kind, "a", counter{1})
	assert.NilError(t, err)
	_, err = store.Create(ctx, s, kind, "a", counter{2})
	assert.ErrorIs(t, err, store.ErrExists)
	r, err := store.Get[counter](ctx, s, kind, "a")
	assert.NilError(t, err)
	assert.Equal(t, r.Value.N, 1)
}

func TestUpdateRefusesAStaleVersion(t *testing.T) {
	s := store.New(&storetest.Configs{})
	ctx := context.Background()
	first, err := store.Create(ctx, s, kind, "a", counter{1})
	assert.NilError(t, err)
	_, err = store.Update(ctx, s, kind, first, counter{2})
	assert.NilError(t, err)
	_, err = store.Update(ctx, s, kind, first, counter{3})
	assert.ErrorIs(t, err, store.ErrStale)
}

func TestNamesAreComparedWhole(t *testing.T) {
	s := store.New(&storetest.Configs{})
	ctx := context.Background()
	_, err := store.Create(ctx, s, kind, "pg-10", counter{10})
	assert.NilError(t, err)
	_, err = store.Get[counter](ctx, s, kind, "pg-1")
	assert.ErrorIs(t, err, store.ErrNotFound)
}

func TestFailedLookupIsNotAbsence(t *testing.T) {
	s := store.New(&storetest.Configs{Fail: func(string) error { return errors.New("the Swarm has no leader") }})
	_, err := store.Get[counter](context.Background(), s, kind, "a")
	assert.ErrorContains(t, err, "no leader")
	assert.Assert(t, !errors.Is(err, store.ErrNotFound))
}

func TestNamesAreNeverShortened(t *testing.T) {
	s := store.New(&storetest.Configs{})
	_, err := store.Create(context.Background(), s, kind, strings.Repeat("x", 60), counter{})
	assert.ErrorContains(t, err, "1 to 64 characters")
}

func TestModifyLosesNoUpdate(t *testing.T) {
	s := store.New(&storetest.Configs{})
	ctx := context.Background()
	_, err := store.Create(ctx, s, kind, "a", counter{})
	assert.NilError(t, err)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			_, err := store.Modify(ctx, s, kind, "a", func(c *counter) (bool, error) { c.N++; return true, nil })
			assert.Check(t, err)
		})
	}
	group.Wait()
	r, err := store.Get[counter](ctx, s, kind, "a")
	assert.NilError(t, err)
	assert.Equal(t, r.Value.N, 20)
}
