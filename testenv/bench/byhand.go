package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
)

// byHand is a filesystem that an administrator would have made on a node without
// OpenManage: an image in the same folder, with the same options of loop device,
// mkfs and mount.
type byHand struct {
	node  *cluster.Node
	image string // on the node
	dir   string // where it is mounted on the node
	loop  string
}

const (
	byHandImages = cluster.StoragePath + "/" + prefix + "-byhand-"
	byHandDirs   = "/mnt/" + prefix + "-"
)

// mkfs has the options of the plugin's own.
var mkfs = []string{"mkfs.ext4", "-q", "-b", "4096", "-m", "1", "-E", "nodiscard"}

// makeByHand makes the image and its filesystem and mounts it.
func makeByHand(ctx context.Context, node *cluster.Node, name, size string) (*byHand, error) {
	h := &byHand{node: node, image: byHandImages + name + ".img", dir: byHandDirs + name}
	for _, args := range [][]string{
		{"truncate", "-s", size, h.image},
		append(mkfs, h.image),
		{"mkdir", "-p", h.dir},
	} {
		if _, _, err := node.Exec(ctx, args...); err != nil {
			return nil, err
		}
	}
	out, _, err := node.Exec(ctx, "losetup", "--find", "--show", "--direct-io=on", h.image)
	if err != nil {
		return nil, err
	}
	h.loop = strings.TrimSpace(out)
	_, _, err = node.Exec(ctx, "mount", "-t", "ext4", "-o", "noatime", h.loop, h.dir)
	return h, err
}

// path is the mounted folder as this machine sees it.
func (h *byHand) path(ctx context.Context) (string, error) {
	root, err := nodeRoot(ctx, h.node)
	return filepath.Join(root, h.dir), err
}

// dropByHand unmounts and deletes what makeByHand made on any node, also in an
// earlier run, and also before that node was killed.
func (b *bench) dropByHand(ctx context.Context) error {
	for _, node := range b.c.Nodes() {
		_, _, err := node.Exec(ctx, "sh", "-c", `
			for dir in `+byHandDirs+`*; do
				if mountpoint -q "$dir"; then umount "$dir" || exit 1; fi
				if [ -d "$dir" ]; then rmdir "$dir"; fi
			done
			for image in `+byHandImages+`*; do
				[ -e "$image" ] || continue
				for loop in $(losetup --noheadings --output NAME --associated "$image"); do losetup -d "$loop"; done
				rm "$image"
			done`)
		if err != nil {
			return err
		}
	}
	return nil
}

// sameLoops makes sure that the loop devices behind two images in the storage
// folder work alike: a comparison would say nothing else.
func sameLoops(a, b string) error {
	loops, err := host.Loops()
	if err != nil {
		return err
	}
	describe := func(image string) (string, error) {
		for _, loop := range loops {
			if filepath.Base(loop.BackingPath()) != filepath.Base(image) {
				continue
			}
			dio, err := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/loop/dio", loop.Minor))
			block, err2 := os.ReadFile(fmt.Sprintf("/sys/block/loop%d/queue/logical_block_size", loop.Minor))
			return fmt.Sprintf("direct I/O %s, blocks of %s bytes", strings.TrimSpace(string(dio)), strings.TrimSpace(string(block))), errors.Join(err, err2)
		}
		return "", fmt.Errorf("no loop device has %s", image)
	}
	left, err := describe(a)
	if err != nil {
		return err
	}
	right, err := describe(b)
	if err != nil {
		return err
	}
	if left != right {
		return fmt.Errorf("the loop devices differ: ours has %s, the other %s", left, right)
	}
	return nil
}
