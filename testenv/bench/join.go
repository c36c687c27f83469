package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/product"
)

const (
	joinRepeat = 3 // at most: a copy of some GiB takes its time
	joinLimit  = 10 * time.Minute
	// joinSpare is what a volume has beyond the data: WAL, mostly.
	joinSpare = 3 << 30
	// joinMembers are a primary and a standby: a snapshot is made of a standby.
	joinMembers  = 2
	joinGoal     = 0.1
	joinSizeGoal = 1.25
	// joinCopy names the container and the volume of a member that is made by hand.
	joinCopy = prefix + "-copy"

	bySnapshot   = "OpenManage, by snapshot"
	byBasebackup = "pg_basebackup by hand"
)

// parseSizes reads sizes such as 1GiB,5GiB.
func parseSizes(text string) ([]int64, error) {
	var sizes []int64
	for word := range strings.SplitSeq(text, ",") {
		size, err := units.RAMInBytes(strings.TrimSpace(word))
		if err != nil || size < 1<<20 {
			return nil, fmt.Errorf("--sizes %s: %q is no size such as 5GiB", text, word)
		}
		sizes = append(sizes, size)
	}
	return sizes, nil
}

func formatSizes(sizes []int64) string {
	var words []string
	for _, size := range sizes {
		words = append(words, units.CustomSize("%.4g%s", float64(size), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB"}))
	}
	return strings.Join(words, ",")
}

// join measures how long it takes until a new member follows the primary: ours,
// which begins with a snapshot, and one that copies all data as pg_basebackup does.
func join(ctx context.Context, b *bench) (measure.Result, error) {
	seconds := measure.Comparison{Unit: "s", Systems: []string{bySnapshot, byBasebackup}}
	var ours []measure.Sample
	for _, size := range b.sizes {
		samples, err := b.joinAt(ctx, size)
		if err != nil {
			return measure.Result{}, fmt.Errorf("%s: %w", formatSizes([]int64{size}), err)
		}
		name := "a new member of a database of " + formatSizes([]int64{size})
		seconds.Add(name, byBasebackup, samples[referenceSide]...)
		row := seconds.Add(name, bySnapshot, samples[ourSide]...)
		row.Goal, row.Against = measure.AtMost(joinGoal), byBasebackup
		ours = append(ours, samples[ourSide])
	}
	result := measure.Result{Comparisons: []measure.Comparison{seconds}}
	if last := len(ours) - 1; last > 0 {
		result.Measurements = append(result.Measurements, measure.Ratio(
			fmt.Sprintf("by snapshot, %s against %s", formatSizes(b.sizes[last:]), formatSizes(b.sizes[:1])), "s", ours[last], ours[0], measure.AtMost(joinSizeGoal)))
	}
	result.Plots = []measure.Plot{{
		Name: "join", Shows: "Seconds until a new member follows, median and worst, by snapshot and by pg_basebackup",
		SVG: barsOf("Seconds until a new member follows", seconds, true).SVG(),
	}}
	result.Note("%d repetitions in turn, a checkpoint before each. From the command until the primary streams to the new member, on a volume of the same size on another node.", b.joinRepeats())
	return result, nil
}

func (b *bench) joinRepeats() int { return min(b.repeat, joinRepeat) }

// joinAt measures both with a database of that size.
func (b *bench) joinAt(ctx context.Context, size int64) ([2]measure.Sample, error) {
	var samples [2]measure.Sample
	volume := size + joinSpare
	// Those of the members, and that of the copy; for the one by snapshot there must be as
	// much free space although it takes little.
	for _, dir := range []string{b.c.Host.StateDir, b.c.Nodes()[0].Storage()} {
		if err := host.RequireFree(dir, uint64((joinMembers+1)*volume), fmt.Sprintf("a database of %s and its copy", formatSizes([]int64{size}))); err != nil {
			return samples, err
		}
	}
	app := &openManage{b: b, name: prefix, replicas: joinMembers, volumeSize: formatSizes([]int64{volume})}
	b.say.Step("join: filling a database of %s", formatSizes([]int64{size}))
	if err := app.deploy(ctx); err != nil {
		return samples, err
	}
	members, err := waitWhole(ctx, app)
	if err != nil {
		return samples, err
	}
	primary, err := primaryOf(members)
	if err != nil {
		return samples, err
	}
	if err := fill(ctx, app, size); err != nil {
		return samples, err
	}
	for i := range b.joinRepeats() {
		err := inTurn(i, func(side int) error {
			if err := app.checkpoint(ctx, primary, members); err != nil {
				return err
			}
			unix.Sync() // what the other one wrote is not to be written in our time
			add := app.addMember
			if side == referenceSide {
				add = app.addByHand
			}
			took, err := add(ctx, primary)
			samples[side] = append(samples[side], took.Seconds())
			b.say.Step("join: %s in %.1f s (%s)", [2]string{bySnapshot, byBasebackup}[side], took.Seconds(), formatSizes([]int64{size}))
			return err
		})
		if err != nil {
			return samples, err
		}
	}
	return samples, b.tidy(ctx)
}

// fill makes a table of that size. Its pages are nearly empty: what is copied is
// pages, and this way they are soon written.
func fill(ctx context.Context, app *openManage, size int64) error {
	const page, row = 8192, 700 // one row a page
	_, err := app.sql(ctx, fmt.Sprintf("CREATE TABLE filler (id bigint, content text) WITH (fillfactor = 10, autovacuum_enabled = off); "+
		"INSERT INTO filler SELECT i, repeat(md5(i::text), %d) FROM generate_series(1, %d) i", row/32, size/page))
	if err != nil {
		return err
	}
	out, err := app.sql(ctx, "SELECT pg_relation_size('filler')")
	var got int64
	if err == nil {
		_, err = fmt.Sscan(out, &got)
	}
	if err == nil && (got < size*9/10 || got > size*11/10) {
		err = fmt.Errorf("the table has %d bytes, not %d", got, size)
	}
	return err
}

// checkpoint has what was written so far in the data of all members, not only in their WAL.
func (o *openManage) checkpoint(ctx context.Context, primary member, members []member) error {
	err := product.Until(ctx, joinLimit, "all has reached the standbys", func(ctx context.Context) error {
		out, err := memberDatabase{o.b, primary}.sql(ctx, "SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= pg_current_wal_lsn()")
		if err == nil && out != fmt.Sprint(len(members)-1) {
			err = errors.New(out + " have it")
		}
		return err
	})
	for _, m := range append([]member{primary}, members...) { // a standby's follows the primary's
		if err != nil {
			return err
		}
		// One that takes longer than a statement may goes on by itself.
		err = product.Until(ctx, joinLimit, "checkpoint of "+m.name, func(ctx context.Context) error {
			_, err := memberDatabase{o.b, m}.sql(ctx, "CHECKPOINT")
			return err
		})
	}
	return err
}

// addMember has OpenManage add a member, and takes it away again.
func (o *openManage) addMember(ctx context.Context, primary member) (time.Duration, error) {
	start := time.Now()
	if err := o.scaleTo(ctx, joinMembers+1); err != nil {
		return 0, err
	}
	err := o.streams(ctx, primary)
	took := time.Since(start)
	if err != nil {
		return took, err
	}
	return took, errors.Join(o.scaleTo(ctx, joinMembers), o.dropVolume(ctx, fmt.Sprintf("%s-%d", o.name, joinMembers+1)))
}

// streams waits until one more than the members of before follows the primary.
func (o *openManage) streams(ctx context.Context, primary member) error {
	return product.Until(ctx, joinLimit, "a member that follows "+primary.name, func(ctx context.Context) error {
		out, err := memberDatabase{o.b, primary}.sql(ctx, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'pg_basebackup'")
		if err == nil && out != fmt.Sprint(joinMembers) {
			err = fmt.Errorf("%s follow, of %d", out, joinMembers)
		}
		return err
	})
}

// addByHand does on another node what an administrator does who has no snapshots,
// and takes the member away again.
func (o *openManage) addByHand(ctx context.Context, primary member) (time.Duration, error) {
	node, err := o.prepareByHand(ctx, primary)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	_, err = o.b.docker(ctx, node, "run", "--detach", "--name", joinCopy, "--network", o.network(),
		"--mount", volumeMount(joinCopy, pgbenchData, o.volumeSize), "--mount", o.b.writerMount(),
		"--env", "PGDATA="+pgbenchData+"/pgdata", "--entrypoint", "bash", postgresImage, "-euc", `
			export PGPASSWORD=$(cat /writer/`+writerPassword+`)
			install --directory --owner postgres --group postgres --mode 700 "$PGDATA"
			install --directory --owner postgres --group postgres --mode 3777 /var/run/postgresql
			gosu postgres pg_basebackup --host `+primary.name+` --username replicator --pgdata "$PGDATA" --wal-method stream --checkpoint fast --write-recovery-conf
			exec gosu postgres postgres`)
	if err != nil {
		return 0, err
	}
	streams, end := context.WithCancel(ctx)
	defer end()
	go func() { // a copy that has failed does not follow later
		if _, err := o.b.docker(streams, node, "wait", joinCopy); err == nil {
			end()
		}
	}()
	err = o.streams(streams, primary)
	took := time.Since(start)
	if err != nil {
		logs, _ := o.b.docker(ctx, node, "logs", "--tail", "5", joinCopy)
		return took, fmt.Errorf("%w; its log ends with %q", err, logs)
	}
	if _, err := o.b.docker(ctx, node, "rm", "--force", joinCopy); err != nil {
		return took, err
	}
	return took, o.dropVolume(ctx, joinCopy)
}

// prepareByHand has the replicator's password where the copy reads it, and says on
// which node to make it.
func (o *openManage) prepareByHand(ctx context.Context, primary member) (*cluster.Node, error) {
	password, err := o.b.docker(ctx, primary.node, "exec", primary.container, "cat", "/run/secrets/replication-password")
	if err != nil {
		return nil, err
	}
	dir := o.b.writerDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, writerPassword), []byte(password), 0o600); err != nil {
		return nil, err
	}
	for _, n := range o.b.c.Nodes() {
		if n.Number != primary.node.Number {
			return n, nil
		}
	}
	return nil, errors.New("there is no other node")
}
