package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gotest.tools/v3/assert"

	"github.com/openmanage/openmanage/testenv/product"
)

// writer appends its task and a counter to a file on the volume, each line
// forced to the device before the next.
const writer = `n=0; while :; do n=$((n+1)); echo "$TASK $n" >> /data/log || exit 1; sync /data/log || exit 1; sleep 0.05; done`

const writers = 2

// A node that is cut off while its containers go on writing: once its lease has
// run out nothing of it reaches the volume, and nothing is ever attached twice.
func TestCutOffNodeNeverWritesBesideItsSuccessor(t *testing.T) {
	s, ctx := swarm(t)
	rounds := 8
	if long() {
		rounds = 200
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(rounds)*time.Minute)
	defer cancel()
	for i := range writers {
		s.startWriter(t, ctx, i)
	}
	defer s.removeWriters(t)
	watch := watchAttachments()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		s.cutRound(t, ctx, random, round)
	}
	for i := range writers {
		s.waitWriting(t, ctx, i, "")
	}
	for _, twice := range watch.stop() {
		t.Error(twice)
	}
	moves := 0
	for i := range writers {
		moves += s.checkLog(t, ctx, i)
	}
	t.Logf("%d rounds, %d takeovers", rounds, moves)
	assert.Assert(t, moves >= rounds/4, "too few takeovers to prove anything")
}

// cutRound cuts the node of a writer off in a random way for a random time.
func (s *suite) cutRound(t *testing.T, ctx context.Context, random *rand.Rand, round int) {
	t.Helper()
	task := s.waitWriting(t, ctx, round%writers, "")
	node := s.node(t, task.node)
	s.lookFrom(t, node)
	// Some of the cuts last longer than Swarm waits before it gives a node up (15 s).
	longest := 18 * time.Second
	if long() {
		longest = 30 * time.Second
	}
	d := time.Duration(random.Int64N(int64(longest)))
	if round%4 >= 2 { // one of each writer's: chance alone once drew too many short ones to see a takeover
		d = longest - time.Duration(random.Int64N(int64(time.Second)))
	}
	way := random.IntN(4)
	switch way {
	case 0:
		assert.NilError(t, node.CutOneWay(ctx))
	case 1:
		assert.NilError(t, node.Cut(ctx, s.other(t, node)))
	default:
		assert.NilError(t, node.Cut(ctx))
	}
	t.Logf("round %d: %s cut off, way %d, for %.1f s", round, node.Name, way, d.Seconds())
	timer := time.NewTimer(d)
	defer timer.Stop()
	select { // the length of a cut is what the round varies
	case <-timer.C:
	case <-ctx.Done():
	}
	assert.NilError(t, node.Heal(ctx))
}

func writerName(i int) string { return "writer" + strconv.Itoa(i) }

func (s *suite) startWriter(t *testing.T, ctx context.Context, i int) {
	t.Helper()
	_, err := s.Docker(ctx, "service", "create", "--detach", "--name", writerName(i), "--env", "TASK={{.Task.ID}}",
		"--restart-delay", "1s", "--stop-grace-period", "1s",
		"--mount", "type=volume,volume-driver=openmanage,source="+writerName(i)+",target=/data,volume-opt=size=100MiB",
		"debian:trixie-slim", "sh", "-c", writer)
	assert.NilError(t, err)
	s.waitWriting(t, ctx, i, "")
}

func (s *suite) removeWriters(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for i := range writers {
		err := product.Until(ctx, time.Minute, "volume of a writer removed", func(ctx context.Context) error {
			_, _ = s.Docker(ctx, "service", "rm", writerName(i)) // gone already, the second time
			_, err := s.CLI(ctx, "volume", "rm", writerName(i), "--yes-delete-data")
			return err
		})
		assert.Check(t, err)
	}
}

type task struct{ id, node string }

// waitWriting waits until the service has a running task, other than not.
func (s *suite) waitWriting(t *testing.T, ctx context.Context, i int, not string) task {
	t.Helper()
	var found task
	err := product.Until(ctx, 3*time.Minute, writerName(i)+" running", func(ctx context.Context) error {
		out, err := s.Docker(ctx, "service", "ps", writerName(i), "--no-trunc", "--filter", "desired-state=running", "--format", "{{.ID}} {{.Node}} {{.CurrentState}} {{.Error}}")
		if err != nil {
			return err
		}
		fields := strings.Fields(out)
		if len(fields) < 3 || fields[2] != "Running" || fields[0] == not {
			return fmt.Errorf("tasks: %s", out)
		}
		// Swarm calls a task running for a while after its node is gone.
		state, err := s.Docker(ctx, "node", "inspect", fields[1], "--format", "{{.Status.State}}")
		if err != nil || state != "ready" {
			return fmt.Errorf("node %s is %s: %w", fields[1], state, err)
		}
		found = task{id: fields[0], node: fields[1]}
		return nil
	})
	assert.NilError(t, err)
	return found
}

// checkLog reads what the writers left and checks that each had the volume for
// itself, from its first line to its last; it returns the number of takeovers.
func (s *suite) checkLog(t *testing.T, ctx context.Context, i int) int {
	t.Helper()
	// Swarm may still elect after the last cut.
	err := product.Until(ctx, time.Minute, writerName(i)+" stopped", func(ctx context.Context) error {
		_, err := s.Docker(ctx, "service", "scale", writerName(i)+"=0")
		return err
	})
	assert.NilError(t, err)
	var content string
	err = product.Until(ctx, time.Minute, "the log of "+writerName(i), func(ctx context.Context) error {
		// Without the driver's name Docker puts a local volume in the place of one whose plugin
		// cannot ask the leader at that moment.
		content, err = s.Docker(ctx, "run", "--rm", "--volume-driver", "openmanage", "--volume", writerName(i)+":/data", "debian:trixie-slim", "cat", "/data/log")
		return err
	})
	assert.NilError(t, err)
	problems, takeovers, lines := judge(content)
	for _, p := range problems {
		t.Errorf("%s: %s", writerName(i), p)
	}
	t.Logf("%s: %d lines, %d takeovers", writerName(i), lines, takeovers)
	return takeovers
}

// judge finds the places in a log where a writer wrote beside its successor, or
// a line in the middle is missing.
func judge(content string) (problems []string, takeovers, lines int) {
	last := map[string]int{}
	current := ""
	for line := range strings.Lines(content) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			problems = append(problems, fmt.Sprintf("line %d is torn: %q", lines+1, line))
			continue
		}
		lines++
		if name != current {
			if _, before := last[name]; before {
				problems = append(problems, fmt.Sprintf("line %d: %s writes again after %s has begun", lines, name, current))
			}
			if current != "" {
				takeovers++
			}
			current = name
		}
		if n != last[name]+1 {
			problems = append(problems, fmt.Sprintf("line %d: %s wrote %d after %d", lines, name, n, last[name]))
		}
		last[name] = n
	}
	return problems, takeovers, lines
}

func TestJudgeSeesAWriterBesideItsSuccessor(t *testing.T) {
	problems, takeovers, _ := judge("a 1\na 2\nb 1\nb 2\n")
	assert.Equal(t, len(problems), 0)
	assert.Equal(t, takeovers, 1)
	problems, _, _ = judge("a 1\na 2\nb 1\na 3\nb 2\n")
	assert.Assert(t, len(problems) > 0)
	problems, _, _ = judge("a 1\na 3\n")
	assert.Assert(t, len(problems) > 0)
}

// attachments watches the machine's loop devices, which all nodes share: two for
// one volume at the same time are what must never be.
type attachments struct {
	done  chan struct{}
	ended sync.WaitGroup
	mu    sync.Mutex
	twice []string
}

// image is the name of a volume's image, of whichever epoch.
var image = regexp.MustCompile(`^(.*-[0-9a-f]{8})(\.e[0-9]+)?\.img$`)

func watchAttachments() *attachments {
	a := &attachments{done: make(chan struct{})}
	a.ended.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			a.look()
			select {
			case <-a.done:
				return
			case <-tick.C:
			}
		}
	})
	return a
}

func (a *attachments) look() {
	seen := map[string]string{}
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			continue // detached meanwhile
		}
		name := strings.TrimSuffix(filepath.Base(strings.TrimSpace(string(content))), " (deleted)")
		match := image.FindStringSubmatch(name)
		if match == nil {
			continue
		}
		device := strings.Split(file, "/")[3]
		if other := seen[match[1]]; other != "" {
			a.mu.Lock()
			a.twice = append(a.twice, fmt.Sprintf("%s: %s is attached as %s and %s", time.Now().Format(time.TimeOnly), match[1], other, device))
			a.mu.Unlock()
		}
		seen[match[1]] = device
	}
}

// stop ends the watch and returns what it saw.
func (a *attachments) stop() []string {
	close(a.done)
	a.ended.Wait()
	return a.twice
}
