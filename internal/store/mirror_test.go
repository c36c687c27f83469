package store_test

import (
	"errors"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/internal/store"
	"github.com/openmanage/openmanage/internal/store/storetest"
)

func TestAMirrorReadsAgainWhatHasChanged(t *testing.T) {
	lists := 0
	configs := &storetest.Configs{Fail: func(call string) error {
		if call == "list" {
			lists++
		}
		return nil
	}}
	s := store.New(configs)
	ctx := t.Context()
	a, err := store.Create(ctx, s, kind, "a", counter{1})
	assert.NilError(t, err)
	b, err := store.Create(ctx, s, kind, "b", counter{1})
	assert.NilError(t, err)
	m := store.NewMirror[counter](s, kind)
	value := func(name string) int {
		all, err := m.All(ctx, time.Hour)
		assert.NilError(t, err)
		r, ok := all[name]
		if !ok {
			return -1
		}
		return r.Value.N
	}
	assert.Equal(t, value("a"), 1)
	before := lists
	assert.Equal(t, value("a"), 1)
	assert.Equal(t, lists, before, "nothing had changed")

	// Another program writes.
	_, err = store.Update(ctx, s, kind, a, counter{2})
	assert.NilError(t, err)
	m.Changed("a")
	assert.Equal(t, value("a"), 2)
	assert.NilError(t, store.Delete(ctx, s, kind, b))
	m.Changed("b")
	assert.Equal(t, value("b"), -1)
	_, err = store.Create(ctx, s, kind, "c", counter{3})
	assert.NilError(t, err)
	m.Changed("c")
	assert.Equal(t, value("c"), 3)
}

func TestWhatAMirrorMissesIsFoundByTheNextList(t *testing.T) {
	s := store.New(&storetest.Configs{})
	m := store.NewMirror[counter](s, kind)
	_, err := m.All(t.Context(), time.Hour)
	assert.NilError(t, err)
	_, err = store.Create(t.Context(), s, kind, "a", counter{1})
	assert.NilError(t, err)
	all, err := m.All(t.Context(), 0)
	assert.NilError(t, err)
	assert.Equal(t, len(all), 1)
}

func TestAnOldRecordOfAMirrorIsNeverWrittenOverANewerOne(t *testing.T) {
	s := store.New(&storetest.Configs{})
	first, err := store.Create(t.Context(), s, kind, "a", counter{1})
	assert.NilError(t, err)
	m := store.NewMirror[counter](s, kind)
	all, err := m.All(t.Context(), time.Hour)
	assert.NilError(t, err)
	_, err = store.Update(t.Context(), s, kind, first, counter{2})
	assert.NilError(t, err)
	_, err = store.Update(t.Context(), s, kind, all["a"], counter{3})
	assert.ErrorIs(t, err, store.ErrStale)
}

func TestAMirrorThatCannotReadForgetsNoChange(t *testing.T) {
	configs := &storetest.Configs{}
	s := store.New(configs)
	a, err := store.Create(t.Context(), s, kind, "a", counter{1})
	assert.NilError(t, err)
	m := store.NewMirror[counter](s, kind)
	_, err = m.All(t.Context(), time.Hour)
	assert.NilError(t, err)
	_, err = store.Update(t.Context(), s, kind, a, counter{2})
	assert.NilError(t, err)
	m.Changed("a")
	configs.Fail = func(string) error { return errors.New("the Swarm has no leader") }
	_, err = m.All(t.Context(), time.Hour)
	assert.ErrorContains(t, err, "no leader")
	configs.Fail = nil
	all, err := m.All(t.Context(), time.Hour)
	assert.NilError(t, err)
	assert.Equal(t, all["a"].Value.N, 2)
}
