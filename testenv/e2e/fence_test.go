package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// inside runs a command in the container of a member.
func (s *suite) inside(t *testing.T, ctx context.Context, m product.Member, command string) (string, error) {
	t.Helper()
	out, stderr, err := s.node(t, m.Node).Exec(ctx, "sh", "-c",
		"docker exec $(docker ps -q --filter label=com.docker.swarm.service.name=pg_"+strings.TrimPrefix(m.Member, "pg-")+") sh -c '"+command+"'")
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr)
	}
	return strings.TrimSpace(out), err
}

// standbyApart returns the primary, which has its node for itself, and a standby.
func (s *suite) standbyApart(t *testing.T, ctx context.Context) (p, standby product.Member) {
	t.Helper()
	members := s.apart(t, ctx)
	p = primary(t, members)
	for _, m := range members {
		if m.Member != p.Member {
			standby = m
		}
	}
	return p, standby
}

// untilMember waits for a state of a member.
func (s *suite) untilMember(t *testing.T, ctx context.Context, name, what string, check func(product.Member) bool) product.Member {
	t.Helper()
	var found product.Member
	err := product.Until(ctx, 3*time.Minute, what, func(ctx context.Context) error {
		members, err := s.Members(ctx, "pg")
		if err != nil {
			return err
		}
		for _, m := range members {
			if found = m; m.Member == name && check(m) {
				return nil
			}
		}
		return fmt.Errorf("%+v", members)
	})
	assert.NilError(t, err)
	return found
}

// A fenced standby runs no server, whatever node it comes to; nothing is lost by it.
func TestAFencedStandbyStaysSoOnAnotherNode(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 100)
	p, standby := s.standbyApart(t, ctx)
	node := s.node(t, standby.Node)
	s.lookFrom(t, node)
	c := s.startClient(t, ctx, s.other(t, node))
	_, err := s.CLI(ctx, "fence", p.Member, "on")
	assert.ErrorContains(t, err, "docker openmanage switchover pg")

	began := time.Now()
	_, err = s.CLI(ctx, "fence", standby.Member, "on")
	assert.NilError(t, err)
	t.Cleanup(func() { // the next test wants all members
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
		defer cancel()
		_, err := s.CLI(ctx, "fence", standby.Member, "off")
		assert.Check(t, err)
	})
	t.Logf("fenced after %s; %s without a write", time.Since(began).Round(time.Second), c.lostNothing(t, ctx))
	isFenced := func(m product.Member) bool {
		return m.State == "fenced" && strings.HasPrefix(m.Message, "fenced by ")
	}
	standby = s.untilMember(t, ctx, standby.Member, "a fenced member", isFenced)
	looked, err := s.inside(t, ctx, standby, "ls /var/lib/postgresql/data/pgdata/PG_VERSION; pgrep -x postgres || echo no server")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(looked, "PG_VERSION"))
	assert.Check(t, is.Contains(looked, "no server"))
	_, err = s.CLI(ctx, "restart", "pg")
	assert.ErrorContains(t, err, standby.Member+" is fenced; take it back with docker openmanage fence "+standby.Member+" off")
	_, err = s.CLI(ctx, "switchover", "pg", "--to", standby.Member)
	assert.ErrorContains(t, err, "it is fenced")

	assert.NilError(t, node.Kill(ctx))
	moved := s.untilMember(t, ctx, standby.Member, "the fenced member on another node", func(m product.Member) bool { return isFenced(m) && m.Node != node.Name })
	looked, err = s.inside(t, ctx, moved, "pgrep -x postgres || echo no server")
	assert.NilError(t, err)
	assert.Equal(t, looked, "no server")
	t.Logf("its node killed: %s without a write", c.lostNothing(t, ctx))
	assert.NilError(t, node.Start(ctx))
	assert.NilError(t, s.c.WaitReady(ctx))

	_, err = s.CLI(ctx, "fence", standby.Member, "off")
	assert.NilError(t, err)
	s.sameDatabase(t, ctx, 100)
	c.lostNothing(t, ctx)
	history, err := s.CLI(ctx, "events", "pg")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(history, "fenced by "), history)
	assert.Check(t, is.Contains(history, "taken back by "), history)
}

// A rebuilt standby has the files that it lacked, and the same rows: from a snapshot of
// the other standby.
func aStandbyIsRebuilt(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 100)
	p, standby := s.standbyApart(t, ctx)
	c := s.startClient(t, ctx, s.other(t))
	_, err := s.CLI(ctx, "rebuild", p.Member)
	assert.ErrorContains(t, err, "docker openmanage switchover pg")

	// Damage that it would not get over by itself.
	_, err = s.inside(t, ctx, standby, "rm -r /var/lib/postgresql/data/pgdata/base/1")
	assert.NilError(t, err)
	began := time.Now()
	_, err = s.CLI(ctx, "rebuild", standby.Member)
	assert.NilError(t, err)
	t.Logf("rebuilt after %s; %s without a write", time.Since(began).Round(time.Second), c.lostNothing(t, ctx))
	s.sameDatabase(t, ctx, 100)
	standby = s.untilMember(t, ctx, standby.Member, "the standby", func(m product.Member) bool { return m.Health == "healthy" })
	whole, err := s.inside(t, ctx, standby, `ls /var/lib/postgresql/data/pgdata/base/1/PG_VERSION; psql -U postgres -Atc "SELECT count(*) FROM kept"`)
	assert.NilError(t, err)
	assert.Check(t, is.Contains(whole, "100"))
	operations, err := s.CLI(ctx, "operation", "ls", "--format", "{{.Name}} {{.Kind}} {{.State}}")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(operations, s.operations(t, ctx)[0]+" rebuild done"))
	story := s.lastOperation(t, ctx)
	assert.Check(t, is.Contains(story, "replacing the data of "+standby.Member+" by a snapshot of "), story)
	assert.NilError(t, product.Until(ctx, time.Minute, "the former device deleted", func(ctx context.Context) error {
		images, _, err := s.node(t, standby.Node).Exec(ctx, "sh", "-c", "ls "+cluster.StoragePath+"/openmanage/"+standby.Volume+"-*")
		if err == nil && len(strings.Fields(images)) != 1 {
			err = errors.New(images)
		}
		return err
	}))
	// What it has is counted on again.
	_, err = s.CLI(ctx, "switchover", "pg", "--to", standby.Member)
	assert.NilError(t, err)
	s.sameDatabase(t, ctx, 100)
	c.lostNothing(t, ctx)
	if !long() {
		return
	}

	// With nobody to make a snapshot of, it is copied. Commits wait meanwhile.
	members := s.sameDatabase(t, ctx, 100)
	var standbys []string
	for _, m := range members {
		if m.Role == "standby" {
			standbys = append(standbys, m.Member)
		}
	}
	_, err = s.CLI(ctx, "fence", standbys[0], "on")
	assert.NilError(t, err)
	_, err = s.CLI(ctx, "rebuild", standbys[1], "--force", "--yes")
	assert.NilError(t, err)
	story = s.lastOperation(t, ctx)
	assert.Check(t, is.Contains(story, "replacing the data of "+standbys[1]+" by a copy of "), story)
	_, err = s.CLI(ctx, "fence", standbys[0], "off")
	assert.NilError(t, err)
	s.sameDatabase(t, ctx, 100)
	c.lostNothing(t, ctx)
}

func aFormerPrimaryThatCannotBeRewoundGetsASnapshot(t *testing.T) {
	s, ctx := swarm(t)
	s.database(t, ctx, 100)
	p, _ := s.standbyApart(t, ctx)
	c := s.startClient(t, ctx, s.other(t))
	before := len(s.operations(t, ctx))
	// Without its log it can neither start nor be rewound.
	_, err := s.inside(t, ctx, p, "cd /var/lib/postgresql/data/pgdata && rm pg_wal/0* && kill -9 $(head -n 1 postmaster.pid)")
	assert.NilError(t, err)
	began := time.Now()
	s.untilMember(t, ctx, p.Member, "the former primary as a standby", func(m product.Member) bool {
		return m.Health == "healthy" && m.Role == "standby"
	})
	t.Logf("back after %s; %s without a write", time.Since(began).Round(time.Second), c.lostNothing(t, ctx))
	s.sameDatabase(t, ctx, 100)
	assert.Equal(t, len(s.operations(t, ctx)), before+1)
	story := s.lastOperation(t, ctx)
	assert.Check(t, is.Contains(story, "OpenManage"), story)
	assert.Check(t, is.Contains(story, "replacing the data of "+p.Member+" by a snapshot of "), story)
	history, err := s.CLI(ctx, "events", "pg")
	assert.NilError(t, err)
	assert.Check(t, is.Contains(history, "its data cannot be made to follow the primary"))
}
