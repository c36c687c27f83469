package memberagent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/openmanage/openmanage/internal/api"
)

// What "healthy" means to Docker is not what it means to people.
//
// Swarm replaces the task of an unhealthy container, which takes 20 s and more,
// takes the volume away and ends a standby's copy half-way. So a container is
// unhealthy only if a new one would be better off: when the agent hangs, or when
// Docker mounted something else than the member's volume. A member that waits, a
// server that copies, recovers or cannot start would do the same in a new
// container; the agent itself tries again, and the member's status, which `docker
// openmanage ps` shows, says what is wrong.
//
// Until the first check succeeds, the task is "starting" and Swarm's DNS does not
// know it by any name. That check comes start_interval after the start (5 s if the
// stack does not say it, both only within start_period), so start_interval should be short, or there be no health
// check at all; and no state of the server may fail the check: a primary is found by
// its standbys as soon as its container runs. Ours is 250 ms: with a second, the
// members of etcd elected before they found each other, and lost 7 s by it.

// agentSilence is after how long without a round of the reporter, each of which
// takes a second or two at most, the agent is taken to hang.
const agentSilence = 15 * time.Second

const healthTimeout = 3 * time.Second

// healthAddress is an abstract unix socket (unix(7)): it lives in the container's
// network namespace, needs no folder and is gone with the process.
func healthAddress(c Config) string {
	return "@openmanage/" + c.Application + "/" + c.Member
}

func listenHealth(c Config) (net.Listener, error) {
	l, err := net.Listen("unix", healthAddress(c))
	if err != nil {
		return nil, fmt.Errorf("listen for health checks (does another agent of %s run in this container?): %w", c.Member, err)
	}
	return l, nil
}

// answerHealth answers each connection with one line, until l is closed.
func (a *agent) answerHealth(l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(100 * time.Millisecond) // out of file descriptors, perhaps
			continue
		}
		_ = conn.SetDeadline(time.Now().Add(healthTimeout))
		ok, why := a.health()
		word := "unhealthy"
		if ok {
			word = "ok"
		}
		fmt.Fprintf(conn, "%s: %s\n", word, why)
		conn.Close()
		if ok {
			time.AfterFunc(nameTakes, a.named)
		}
	}
}

// namedAtLatest is when a container counts as known to Swarm's DNS though nobody has asked
// how it is: it may have no health check.
const namedAtLatest = 15 * time.Second

// nameTakes is how long it takes from the answer to the check until Swarm's DNS knows the
// container on every node.
const nameTakes = time.Second

// named notes that clients find this container by its name.
func (a *agent) named() {
	if a.status.change(func(s *api.MemberStatus) { s.Named = true }) {
		a.hurry()
	}
}

func (a *agent) health() (ok bool, why string) {
	if silence := a.alive.silence(); silence > agentSilence {
		return false, fmt.Sprintf("the agent has hung for %s", silence.Round(time.Second))
	}
	if _, _, _, misplaced := a.heard.last(); errors.Is(misplaced, errMisplaced) {
		return false, misplaced.Error()
	}
	return true, describe(a.status.get())
}

// describe says a status in one line.
func describe(s api.MemberStatus) string {
	words := []string{string(s.State)}
	if s.Role != "" {
		words = append(words, "as "+string(s.Role))
	}
	if s.Message != "" {
		words = append(words, "("+strings.ReplaceAll(s.Message, "\n", "; ")+")")
	}
	return strings.Join(words, " ")
}

// Health asks the agent that runs in this container how it is. It returns a line
// for people, or an error if the container should be replaced.
func Health(ctx context.Context, c Config) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", healthAddress(c))
	if err != nil {
		return "", fmt.Errorf("no agent of %s answers in this container: %w", c.Member, err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	line, err := io.ReadAll(io.LimitReader(conn, 4096))
	if err != nil {
		return "", fmt.Errorf("the agent of %s does not answer: %w", c.Member, err)
	}
	answer := strings.TrimSpace(string(line))
	if why, ok := strings.CutPrefix(answer, "ok: "); ok {
		return why, nil
	}
	return "", errors.New(answer)
}
