package main

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/testenv/bench/diskio"
	"github.com/openmanage/openmanage/testenv/bench/measure"
	"github.com/openmanage/openmanage/testenv/cluster"
)

const (
	diskVolumeSize  = "1GiB"
	diskByHandSize  = "1G"
	diskFile        = 512 << 20
	diskRepetitions = 160 // pairs differ by a third, their median by less than the goal allows
	diskSlice       = 75 * time.Millisecond
	diskGoal        = 0.97
)

func diskPatterns() []diskio.Pattern {
	return []diskio.Pattern{
		{Name: "sequential read, 1 MiB, 2 at once", Block: 1 << 20, Workers: 2},
		{Name: "sequential write, 1 MiB, 2 at once", Write: true, Block: 1 << 20, Workers: 2},
		{Name: "random read, 4 KiB, 8 at once", Random: true, Block: 4096, Workers: 8},
		{Name: "random write, 4 KiB, 8 at once", Write: true, Random: true, Block: 4096, Workers: 8},
	}
}

// disk measures reads and writes on a volume against the same filesystem mounted
// by hand, in the same folder of the same node.
func disk(ctx context.Context, b *bench) (measure.Result, error) {
	var result measure.Result
	node, _, err := b.notLeading(ctx)
	if err != nil {
		return result, err
	}
	files, err := b.diskFiles(ctx, node)
	for _, file := range files {
		defer file.Close()
	}
	if err != nil {
		return result, err
	}
	for _, pattern := range diskPatterns() {
		var rates [2]measure.Sample
		for i := range diskRepetitions {
			err := inTurn(i, func(side int) error {
				unix.Sync() // what the other one wrote is not to be written in our time
				rate, err := files[side].Run(ctx, pattern, diskSlice, uint64(i))
				rates[side] = append(rates[side], pattern.MiBPerSecond(rate))
				return err
			})
			if err != nil {
				return result, err
			}
		}
		result.Measurements = append(result.Measurements,
			measure.Ratio(pattern.Name, "MiB/s", rates[ourSide], rates[referenceSide], measure.AtLeast(diskGoal)))
	}
	result.Note("%d slices of %s for each side, in turn; O_DIRECT on a file of %d MiB that is there in full; ext4 on a loop device with direct I/O.",
		diskRepetitions, diskSlice, diskFile>>20)
	return result, nil
}

// diskFiles makes the two files: on a volume that a container holds, and by hand.
func (b *bench) diskFiles(ctx context.Context, node *cluster.Node) ([]*diskio.File, error) {
	const volume = prefix + "-disk"
	if err := b.hold(ctx, node, volume, diskVolumeSize); err != nil {
		return nil, err
	}
	plugin, err := openPlugin(ctx, node)
	if err != nil {
		return nil, err
	}
	defer plugin.Close()
	hand, err := makeByHand(ctx, node, "disk", diskByHandSize)
	if err != nil {
		return nil, err
	}
	device, err := b.device(ctx, volume)
	if err != nil {
		return nil, err
	}
	if err := sameLoops(device, hand.image); err != nil {
		return nil, err
	}
	handPath, err := hand.path(ctx)
	if err != nil {
		return nil, err
	}
	var files []*diskio.File
	for _, dir := range []string{plugin.path(volume), handPath} {
		if err := isExt4(dir); err != nil {
			return files, err
		}
		file, err := diskio.Create(dir, diskFile)
		if err != nil {
			return files, err
		}
		files = append(files, file)
	}
	return files, nil
}

// hold starts a container that does nothing but to have a volume.
func (b *bench) hold(ctx context.Context, node *cluster.Node, volume, size string) error {
	_, err := b.docker(ctx, node, "run", "--detach", "--name", volume, "--stop-timeout", "1",
		"--mount", volumeMount(volume, "/data", size), plainImage, "sleep", "infinity")
	return err
}

func volumeMount(volume, target, size string) string {
	return "type=volume,source=" + volume + ",target=" + target + ",volume-driver=" + api.PluginName +
		",volume-opt=" + api.OptionSize + "=" + size
}
