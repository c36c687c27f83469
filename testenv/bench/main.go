// Command bench measures OpenManage on a real Swarm on this machine, always
// against a reference in the same run, and prints the tables of
// docs/benchmarks.md. One file holds one benchmark.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/progress"
)

// benchmark is one thing to measure.
type benchmark struct {
	name string
	run  func(ctx context.Context, b *bench) (measure.Result, error)
	// images are those that it runs beside the ones that all have.
	images []string
}

// benchmarks are all, in the order in which they run.
func benchmarks() []benchmark {
	return []benchmark{
		{name: "size", run: size},
		{name: "list", run: list},
		{name: "mount", run: mount},
		{name: "disk", run: disk},
		{name: "pgbench", run: pgbench},
		{name: "idle", run: idle},
		{name: "thousand", run: thousand},
		{name: "failover", run: failover},
		{name: "lifecycle", run: lifecycle, images: []string{postgresNext, patroniImage, patroniNext}},
		{name: "nodekill", run: nodeKill, images: []string{patroniImage}},
		{name: "join", run: join},
		{name: "generate", run: generate},
		{name: "create", run: create, images: createdImages()},
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var o options
	flag.StringVar(&o.only, "only", "", "run only these benchmarks, separated by commas: "+strings.Join(names(benchmarks()), ", "))
	flag.StringVar(&o.write, "write", "", "also write the tables into this `file`, between its markers")
	flag.IntVar(&o.repeat, "repeat", defaultRepeat, "how often lifecycle, nodekill, join and create measure each thing")
	flag.StringVar(&o.sizes, "sizes", defaultSizes, "sizes of the databases of join, separated by commas")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench: failed:", err)
		stop()
		os.Exit(1)
	}
}

const (
	defaultRepeat = 10
	defaultSizes  = "1GiB,5GiB"
)

type options struct {
	only   string
	write  string
	repeat int
	sizes  string
}

func run(ctx context.Context, o options) error {
	chosen, err := choose(benchmarks(), o.only)
	if err != nil {
		return err
	}
	if o.repeat < 1 {
		return fmt.Errorf("--repeat %d measures nothing; give 1 or more", o.repeat)
	}
	sizes, err := parseSizes(o.sizes)
	if err != nil {
		return err
	}
	say := progress.To(os.Stderr)
	b, err := prepare(ctx, say, imagesOf(chosen))
	if err != nil {
		return err
	}
	b.repeat, b.sizes = o.repeat, sizes
	var errs []error
	for _, benchmark := range chosen {
		text, plots, err := b.measure(ctx, benchmark)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", benchmark.name, err))
			say.Step("%s: %v", benchmark.name, err)
			continue
		}
		fmt.Printf("## %s\n\n%s\n", benchmark.name, text)
		if o.write != "" {
			errs = append(errs, write(o.write, benchmark.name, text, plots))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// write replaces one section of the document, and the plots that it shows. A run that ends early has written
// what it has found.
func write(file, section, text string, plots []measure.Plot) error {
	document, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	next, err := measure.Replace(string(document), section, "\n"+text+"\n")
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, p := range plots {
		dir := filepath.Join(filepath.Dir(file), measure.PlotsDir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, p.Name+".svg"), []byte(p.SVG), 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(file, []byte(next), 0o644) //nolint:gosec // the user's own file
}

func choose(all []benchmark, only string) ([]benchmark, error) {
	if only == "" {
		return all, nil
	}
	var chosen []benchmark
	for name := range strings.SplitSeq(only, ",") {
		i := slices.Index(names(all), strings.TrimSpace(name))
		if i < 0 {
			return nil, fmt.Errorf("there is no benchmark %q; choose from %s", name, strings.Join(names(all), ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// imagesOf are the images that these benchmarks run.
func imagesOf(chosen []benchmark) []string {
	images := []string{postgresImage, plainImage}
	for _, benchmark := range chosen {
		images = append(images, benchmark.images...)
	}
	return images
}

func names(all []benchmark) []string {
	var list []string
	for _, benchmark := range all {
		list = append(list, benchmark.name)
	}
	return list
}
