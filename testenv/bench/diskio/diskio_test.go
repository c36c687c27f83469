package diskio

import (
	"context"
	"os"
	"testing"
	"time"

	"gotest.tools/v3/assert"
)

func TestPatternsCountWhatTheyDo(t *testing.T) {
	dir := t.TempDir()
	file, err := Create(dir, 4<<20)
	if err != nil {
		t.Skip("the filesystem of the temporary folder has no O_DIRECT:", err)
	}
	defer file.Close()
	for _, p := range []Pattern{
		{Name: "read", Block: 1 << 20, Workers: 1},
		{Name: "random write", Write: true, Random: true, Block: 4096, Workers: 4},
	} {
		rate, err := file.Run(context.Background(), p, 50*time.Millisecond, 1)
		assert.NilError(t, err)
		assert.Assert(t, rate > 0, p.Name)
	}
	// Nothing was written beyond its end.
	info, err := os.Stat(dir + "/diskio")
	assert.NilError(t, err)
	assert.Equal(t, info.Size(), int64(4<<20))
}

func TestThroughputFollowsFromTheBlock(t *testing.T) {
	assert.Equal(t, Pattern{Block: 4096}.MiBPerSecond(256), 1.0)
}
