// Package diskio measures how fast a filesystem's device reads and writes: past
// the page cache (O_DIRECT), for a fixed time, on a file that is there in full.
package diskio

import (
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Pattern is a way of reading or writing.
type Pattern struct {
	Name  string
	Write bool
	// Random: blocks anywhere, instead of one after the other.
	Random bool
	// Block is the size of one request, in bytes: a multiple of 4096.
	Block int
	// Workers is how many requests are under way at once.
	Workers int
}

// MiBPerSecond is the throughput of so many requests a second.
func (p Pattern) MiBPerSecond(requests float64) float64 {
	return requests * float64(p.Block) / (1 << 20)
}

// File is what patterns work on.
type File struct {
	file *os.File
	size int64
}

// Create writes a file of size bytes in full, so that what is measured later
// allocates nothing.
func Create(dir string, size int64) (*File, error) {
	file, err := os.OpenFile(filepath.Join(dir, "diskio"), os.O_CREATE|os.O_RDWR|unix.O_DIRECT, 0o600)
	if err != nil {
		return nil, err
	}
	buffer, free, err := aligned(1 << 20)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	defer free()
	for at := int64(0); at < size; at += int64(len(buffer)) {
		if _, err := file.WriteAt(buffer, at); err != nil {
			return nil, errors.Join(fmt.Errorf("fill %s: %w", file.Name(), err), file.Close())
		}
	}
	return &File{file: file, size: size}, file.Sync()
}

// Close ends the use of the file, which stays.
func (f *File) Close() error { return f.file.Close() }

// Run repeats the pattern for the duration and returns requests per second. What
// it wrote is on the device when it returns. seed makes the places of random
// requests the same ones in each run.
func (f *File) Run(ctx context.Context, p Pattern, duration time.Duration, seed uint64) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, duration)
	defer cancel()
	var next, done atomic.Int64
	blocks := f.size / int64(p.Block)
	errs := make([]error, p.Workers)
	var group sync.WaitGroup
	start := time.Now()
	for worker := range p.Workers {
		group.Go(func() {
			places := rand.New(rand.NewPCG(seed, uint64(worker))) //nolint:gosec // places on a disk are no secret
			buffer, free, err := aligned(p.Block)
			if err != nil {
				errs[worker] = err
				return
			}
			defer free()
			for ctx.Err() == nil && errs[worker] == nil {
				block := next.Add(1) % blocks
				if p.Random {
					block = places.Int64N(blocks)
				}
				errs[worker] = f.request(p.Write, buffer, block*int64(p.Block))
				done.Add(1)
			}
		})
	}
	group.Wait()
	if p.Write {
		errs = append(errs, f.file.Sync())
	}
	took := time.Since(start)
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	return float64(done.Load()) / took.Seconds(), nil
}

func (f *File) request(write bool, buffer []byte, at int64) error {
	var err error
	if write {
		_, err = f.file.WriteAt(buffer, at)
	} else {
		_, err = f.file.ReadAt(buffer, at)
	}
	return err
}

// aligned returns a buffer that O_DIRECT takes, filled with what does not
// compress to nothing, and what frees it.
func aligned(size int) (buffer []byte, free func(), err error) {
	buffer, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, err
	}
	_, _ = cryptorand.Read(buffer) // it never fails
	return buffer, func() { _ = unix.Munmap(buffer) }, nil
}
