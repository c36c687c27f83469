package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

const (
	pgbenchScale       = 10
	pgbenchClients     = 4
	pgbenchSeconds     = 2
	pgbenchRepetitions = 30 // pairs differ by some percent, their median by less than the goal allows
	pgbenchGoal        = 0.97
	pgbenchData        = "/var/lib/postgresql/data"
)

// pgbench measures transactions on a volume against the same filesystem mounted by
// hand: two servers of the same image and settings on one node, one busy at a time.
func pgbench(ctx context.Context, b *bench) (measure.Result, error) {
	var result measure.Result
	node, _, err := b.notLeading(ctx)
	if err != nil {
		return result, err
	}
	hand, err := makeByHand(ctx, node, "pgbench", "2G")
	if err != nil {
		return result, err
	}
	const volume = prefix + "-pgbench"
	servers := [2]string{volume, volume + "-byhand"}
	mounts := [2]string{
		volumeMount(volume, pgbenchData, "2GiB"),
		"type=bind,source=" + hand.dir + ",target=" + pgbenchData,
	}
	for side, server := range servers {
		if err := b.startServer(ctx, node, server, mounts[side]); err != nil {
			return result, err
		}
	}
	device, err := b.device(ctx, volume)
	if err != nil {
		return result, err
	}
	if err := sameLoops(device, hand.image); err != nil {
		return result, err
	}
	var tps [2]measure.Sample
	for i := range pgbenchRepetitions {
		err := inTurn(i, func(side int) error {
			rate, err := b.transactions(ctx, node, servers[side])
			tps[side] = append(tps[side], rate)
			return err
		})
		if err != nil {
			return result, err
		}
	}
	result.Measurements = []measure.Measurement{
		measure.Ratio(fmt.Sprintf("pgbench, TPC-B-like, scale %d, %d clients", pgbenchScale, pgbenchClients), "tps", tps[ourSide], tps[referenceSide], measure.AtLeast(pgbenchGoal)),
	}
	result.Note("%d slices of %d s for each side, in turn, a checkpoint before each; fsync on.", pgbenchRepetitions, pgbenchSeconds)
	return result, nil
}

// startServer starts PostgreSQL and fills pgbench's tables. What runs in the
// background at times of its own choice is off.
func (b *bench) startServer(ctx context.Context, node *cluster.Node, name, mount string) error {
	_, err := b.docker(ctx, node, "run", "--detach", "--name", name, "--shm-size", "256m", "--mount", mount,
		"--env", "POSTGRES_HOST_AUTH_METHOD=trust", "--env", "PGDATA="+pgbenchData+"/pgdata", postgresImage,
		"postgres", "-c", "autovacuum=off", "-c", "checkpoint_timeout=1h", "-c", "max_wal_size=8GB")
	if err != nil {
		return err
	}
	// The image's entrypoint first runs a server without TCP to make the database.
	err = product.Until(ctx, time.Minute, name+" answers", func(ctx context.Context) error {
		_, err := b.docker(ctx, node, "exec", name, "pg_isready", "--quiet", "--host", "127.0.0.1")
		return err
	})
	if err != nil {
		return err
	}
	_, err = b.docker(ctx, node, "exec", name, "pgbench", "--initialize", "--quiet", "--username", "postgres", "--scale", strconv.Itoa(pgbenchScale), "postgres")
	return err
}

func (b *bench) transactions(ctx context.Context, node *cluster.Node, name string) (float64, error) {
	if _, err := b.docker(ctx, node, "exec", name, "psql", "--quiet", "--username", "postgres", "--command", "CHECKPOINT"); err != nil {
		return 0, err
	}
	unix.Sync() // what the other one wrote is not to be written in our time
	out, err := b.docker(ctx, node, "exec", name, "pgbench", "--username", "postgres", "--no-vacuum",
		"--client", strconv.Itoa(pgbenchClients), "--jobs", "1", "--time", strconv.Itoa(pgbenchSeconds), "postgres")
	if err != nil {
		return 0, err
	}
	return parseTPS(out)
}

// parseTPS reads the rate from what pgbench prints.
func parseTPS(out string) (float64, error) {
	for line := range strings.Lines(out) {
		if after, ok := strings.CutPrefix(line, "tps = "); ok {
			number, _, _ := strings.Cut(after, " ")
			return strconv.ParseFloat(number, 64)
		}
	}
	return 0, fmt.Errorf("pgbench printed no rate: %q", out)
}
