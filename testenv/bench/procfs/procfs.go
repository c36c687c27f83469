// Package procfs reads from /proc what a process takes of the machine.
package procfs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of processor time in /proc: 1/100 s on every Linux that
// Docker runs on.
const clockTick = 10 * time.Millisecond

// Memory is what a process has in memory, in bytes.
type Memory struct {
	// RSS counts every page, PSS a page that several processes share in parts.
	RSS, PSS int64
}

// MemoryOf returns the memory of a process.
func MemoryOf(pid int) (Memory, error) {
	text, err := os.ReadFile(path(pid, "smaps_rollup"))
	if err != nil {
		return Memory{}, err
	}
	return parseMemory(string(text))
}

func parseMemory(text string) (Memory, error) {
	var m Memory
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		into := map[string]*int64{"Rss:": &m.RSS, "Pss:": &m.PSS}[fields[0]]
		if into == nil {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return m, err
		}
		*into = kib << 10
	}
	if m.RSS == 0 {
		return m, fmt.Errorf("no memory is listed in %q", text)
	}
	return m, nil
}

// CPUOf returns the processor time that a process has had, with that of its
// children that have ended.
func CPUOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(path(pid, "stat"))
	if err != nil {
		return 0, err
	}
	return parseCPU(string(text))
}

func parseCPU(text string) (time.Duration, error) {
	// The name before it may hold anything, also blanks and brackets.
	_, after, _ := strings.Cut(text[strings.LastIndex(text, ")")+1:], " ")
	fields := strings.Fields(after)
	const utime, times = 11, 4 // utime, stime, cutime, cstime
	if len(fields) < utime+times {
		return 0, fmt.Errorf("no processor time in %q", text)
	}
	var ticks int64
	for _, field := range fields[utime : utime+times] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// Arguments returns a process' command line, nil if it has ended.
func Arguments(pid int) []string {
	text, err := os.ReadFile(path(pid, "cmdline"))
	if err != nil || len(text) == 0 {
		return nil
	}
	return strings.Split(strings.TrimRight(string(text), "\x00"), "\x00")
}

func path(pid int, file string) string { return filepath.Join("/proc", strconv.Itoa(pid), file) }
