package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/bench/outage"
	"github.com/openmanage/openmanage/testenv/bench/plot"
	"github.com/openmanage/openmanage/testenv/cluster"
)

const (
	lifecycleVolume = "1GiB"

	// Seconds without a primary.
	engineKillGoal = 2
	switchoverGoal = 1
	upgradeGoal    = 1
)

// What is done to a database, as rows of the table.
const (
	engineKilled = "engine `kill -9`"
	switchedOver = "switchover"
	upgraded     = "upgrade of 3 members, in total"
)

// Rows about transactions.
const (
	lostWrites    = "acknowledged and then not there"
	failedAfter   = "failed in an upgrade outside its longest outage"
	failedIn      = "failed: "
	transactional = "transactions"
)

// lifecycle measures the time without a writable primary, as a client sees it, of
// an application of ours and of Patroni.
func lifecycle(ctx context.Context, b *bench) (measure.Result, error) {
	l, err := b.newLifecycle(ctx)
	if err != nil {
		return measure.Result{}, err
	}
	for _, change := range []struct {
		name string
		do   func(ctx context.Context, d changeable) error
	}{
		{engineKilled, b.killEngine},
		{switchedOver, switchOver},
		{upgraded, func(ctx context.Context, d changeable) error { return d.upgrade(ctx) }},
	} {
		for i := range b.repeat {
			for k := range l.changeables {
				d := l.changeables[(i+k)%len(l.changeables)] // each has each place
				if err := l.change(ctx, change.name, d, change.do); err != nil {
					return measure.Result{}, fmt.Errorf("%s of %s: %w", change.name, d.label(), err)
				}
			}
		}
	}
	return l.result("lifecycle", "Seconds without a writable primary, median and worst, of OpenManage and Patroni",
		map[string]float64{engineKilled: engineKillGoal, switchedOver: switchoverGoal, upgraded: upgradeGoal}, failedAfter, lostWrites), nil
}

// lifecycleRun is what is compared, and what was found.
type lifecycleRun struct {
	b           *bench
	all         []database
	changeables []changeable
	seconds     measure.Comparison
	counts      measure.Comparison
}

// newLifecycle starts an application of ours, Patroni and others, and waits until all are whole.
func (b *bench) newLifecycle(ctx context.Context, others ...database) (*lifecycleRun, error) {
	password, err := b.prepareWriters(ctx)
	if err != nil {
		return nil, err
	}
	l := &lifecycleRun{b: b, seconds: measure.Comparison{Unit: "s"}, counts: measure.Comparison{Unit: transactional}}
	ours := &openManage{b: b, name: prefix, replicas: 3, volumeSize: lifecycleVolume}
	l.changeables = append(l.changeables, ours)
	clusters, err := b.deployPatroni(ctx, password, patroniTightest, patroniDefaults)
	if err != nil {
		return nil, err
	}
	for _, p := range clusters {
		l.changeables = append(l.changeables, p)
	}
	for _, d := range l.changeables {
		l.all = append(l.all, d)
	}
	l.all = append(l.all, others...)
	for _, d := range l.all {
		b.say.Step("starting %s", d.label())
		if err := d.deploy(ctx); err != nil {
			return nil, fmt.Errorf("%s: %w", d.label(), err)
		}
		if _, err := waitWhole(ctx, d); err != nil {
			return nil, err
		}
		if err := admitClient(ctx, d, password); err != nil {
			return nil, fmt.Errorf("%s: %w", d.label(), err)
		}
		l.seconds.Systems = append(l.seconds.Systems, d.label())
		l.counts.Systems = append(l.counts.Systems, d.label())
	}
	return l, nil
}

// change does something to one database while a client writes to it, and waits
// until it is whole again.
func (l *lifecycleRun) change(ctx context.Context, name string, d changeable, do func(context.Context, changeable) error) error {
	primary, err := wholePrimary(ctx, d)
	if err != nil {
		return err
	}
	// Not beside the primary, which is what another machine's client would see.
	w, err := l.b.startWriter(ctx, d, l.other(primary.node))
	if err != nil {
		return err
	}
	from := time.Now()
	if err := do(ctx, d); err != nil {
		return err
	}
	if err := w.goesOn(ctx, time.Now()); err != nil {
		return err
	}
	if _, err := waitWhole(ctx, d); err != nil {
		return err
	}
	seen, err := w.end(ctx)
	if err != nil {
		return err
	}
	return l.take(ctx, name, d, seen, from)
}

// other is a node that is not this one.
func (l *lifecycleRun) other(not *cluster.Node) *cluster.Node {
	for _, n := range l.b.c.Nodes() {
		if n.Number != not.Number {
			return n
		}
	}
	return not
}

// killEngine kills the primary's server as the kernel does when memory is short.
func (b *bench) killEngine(ctx context.Context, d changeable) error {
	members, err := d.members(ctx)
	if err != nil {
		return err
	}
	primary, err := primaryOf(members)
	if err != nil {
		return err
	}
	_, err = b.docker(ctx, primary.node, "exec", primary.container, "sh", "-c", "kill -9 $(head -n 1 "+pgbenchData+"/pgdata/postmaster.pid)")
	return err
}

func switchOver(ctx context.Context, d changeable) error {
	members, err := d.members(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if !m.primary {
			return d.switchover(ctx, m.name)
		}
	}
	return fmt.Errorf("%s has no standby", d.label())
}

// take notes what the client has seen since from.
func (l *lifecycleRun) take(ctx context.Context, name string, d database, log outage.Log, from time.Time) error {
	lost, err := lostRows(ctx, d, log)
	if err != nil {
		return err
	}
	longest, failures := log.Longest(from), log.Failures(from)
	without := longest.Length()
	if name == upgraded {
		without = log.Total(from)
		l.counts.Add(failedAfter, d.label(), float64(len(failures.Outside(longest))))
	}
	l.seconds.Add(name, d.label(), without.Seconds())
	l.counts.Add(failedIn+name, d.label(), float64(len(failures)))
	l.counts.Add(lostWrites, d.label(), float64(lost))
	l.b.say.Step("%s: %s: %.2f s without a primary, %d failed, %d lost%s",
		name, d.label(), without.Seconds(), len(failures), lost, reasons(failures.Outside(longest)))
	return nil
}

// reasons are why transactions failed that no outage explains.
func reasons(failures outage.Log) string {
	if len(failures) == 0 {
		return ""
	}
	return fmt.Sprintf("; outside of the outage: %s", failures[0].Reason)
}

// result is all tables and the plot. Of goals, those in seconds are of the median, and nothing
// at all may be counted in the rows named last.
func (l *lifecycleRun) result(plotName, shows string, goals map[string]float64, never ...string) measure.Result {
	for name, goal := range goals {
		l.seconds.Add(name, l.all[0].label()).Goal = measure.AtMost(goal)
	}
	for _, name := range never {
		l.counts.Add(name, l.all[0].label()).Goal = measure.WorstAtMost(0)
	}
	r := measure.Result{Comparisons: []measure.Comparison{l.seconds, l.counts}}
	r.Plots = []measure.Plot{{Name: plotName, Shows: shows, SVG: barsOf("Seconds without a writable primary", l.seconds, false).SVG()}}
	r.Note("%d repetitions, in turn. A client on a node that stays writes a row every %s and connects anew when it has to. Without a primary is the longest time between two acknowledgements; for an upgrade all from %s on together.",
		l.b.repeat, outage.Interval, outage.Notable)
	for _, s := range []patroniSettings{patroniTightest, patroniDefaults} {
		r.Note("%s: ttl %d, loop_wait %d, retry_timeout %d.", s.Label, s.TTL, s.LoopWait, s.RetryTimeout)
	}
	r.Note("Patroni has synchronous_mode quorum, which is not its default: like OpenManage it loses no acknowledged write then.")
	return r
}

// barsOf draws a comparison, its rows as panels.
func barsOf(title string, c measure.Comparison, common bool) plot.Chart {
	chart := plot.Chart{Title: title, Unit: c.Unit, Common: common}
	for _, row := range c.Rows {
		panel := plot.Panel{Name: strings.ReplaceAll(row.Name, "`", ""), Goal: row.Goal.Bound()}
		if row.Against != "" { // a ratio has no place on the scale
			panel.Goal = 0
		}
		for _, system := range c.Systems {
			if sample := row.Samples[system]; len(sample) > 0 {
				panel.Bars = append(panel.Bars, plot.Bar{Series: system, Median: sample.Median(), Worst: slices.Max(sample)})
			}
		}
		chart.Panels = append(chart.Panels, panel)
	}
	return chart
}
