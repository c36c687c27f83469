package procfs

import (
	"os"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func TestMemoryIsReadInBytes(t *testing.T) {
	m, err := parseMemory("55d0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:      20480 kB\nPss:      10240 kB\nPss_Anon:  1 kB\n")
	assert.NilError(t, err)
	assert.Equal(t, m, Memory{RSS: 20 << 20, PSS: 10 << 20})
	_, err = parseMemory("")
	assert.ErrorContains(t, err, "no memory")
}

func TestProcessorTimeIsThatOfTheProcessAndItsChildren(t *testing.T) {
	took, err := parseCPU("7 (a) b (c)) S 1 7 7 0 -1 4194560 9 8 7 6 100 20 3 4 20 0 5 0 1 2 3")
	assert.NilError(t, err)
	assert.Equal(t, took, 1270*time.Millisecond)
	_, err = parseCPU("7 (a) S 1")
	assert.ErrorContains(t, err, "no processor time")
}

func TestOwnProcessCanBeRead(t *testing.T) {
	pid := os.Getpid()
	m, err := MemoryOf(pid)
	assert.NilError(t, err)
	assert.Assert(t, m.PSS > 0 && m.PSS <= m.RSS)
	_, err = CPUOf(pid)
	assert.NilError(t, err)
	assert.DeepEqual(t, Arguments(pid), os.Args)
	assert.Assert(t, Arguments(1<<30) == nil)
}
