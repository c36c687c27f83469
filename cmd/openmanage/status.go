package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/execstream"
	"github.com/openmanage/openmanage/internal/managers"
	"github.com/openmanage/openmanage/internal/store"
)

// exitNoPrimary is the exit code of `openmanage exec` if there is nobody to run
// the command; the command's own codes are passed on.
const exitNoPrimary = 125

// runStatus prints what the leading manager knows at this moment. It works in a
// manager's container: only a manager's certificate may ask.
func runStatus(ctx context.Context, _ []string) (int, error) {
	live, err := liveStatus(ctx)
	if err != nil {
		return 1, err
	}
	return failed(json.NewEncoder(os.Stdout).Encode(live))
}

func liveStatus(ctx context.Context) (api.LiveStatus, error) {
	var live api.LiveStatus
	docker, err := engine()
	if err != nil {
		return live, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return live, managers.New(docker, identity()).Call(ctx, http.MethodGet, "/v1/status", nil, &live)
}

// runExec runs a command in the container of a member, by default the primary,
// on whichever node that is.
func runExec(ctx context.Context, args []string) (int, error) {
	flags := flag.NewFlagSet("exec", flag.ContinueOnError)
	application := flags.String("application", "", "application whose primary runs the command")
	member := flags.String("member", "", "member that runs it, instead of the primary")
	user := flags.String("user", "postgres", "user that runs the command")
	tty := flags.Bool("tty", false, "with a terminal")
	if err := flags.Parse(args); err != nil {
		return 2, nil // flag has said why
	}
	if *application == "" || flags.NArg() == 0 {
		return 2, errors.New("usage: openmanage exec --application NAME [--member NAME] [--tty] -- COMMAND [ARG...]")
	}
	target, err := findMember(ctx, *application, *member)
	if err != nil {
		return exitNoPrimary, err
	}
	req := api.ExecRequest{Volume: target.Volume, User: *user, Cmd: flags.Args(), TTY: *tty}
	stdin := int(os.Stdin.Fd())
	if *tty && term.IsTerminal(stdin) {
		if width, height, err := term.GetSize(stdin); err == nil {
			req.Width, req.Height = uint(width), uint(height)
		}
	}
	conn, frames, err := dialExec(ctx, target, req)
	if err != nil {
		return exitNoPrimary, fmt.Errorf("run %s in %s on node %s: %w", req.Cmd[0], target.Member, target.Hostname, err)
	}
	defer conn.Close()
	if *tty && term.IsTerminal(stdin) {
		if state, err := term.MakeRaw(stdin); err == nil {
			defer func() { _ = term.Restore(stdin, state) }()
		}
		go followSize(frames, stdin)
	}
	go func() {
		_, _ = io.Copy(frames.Writer(execstream.Stdin), os.Stdin)
		_ = frames.Write(execstream.Stdin, nil)
	}()
	return carry(frames)
}

// findMember returns where the member runs that is to execute a command.
func findMember(ctx context.Context, application, member string) (api.LiveMember, error) {
	docker, err := engine()
	if err != nil {
		return api.LiveMember{}, err
	}
	app, err := store.Get[store.Application](ctx, store.New(docker), store.KindApplication, application)
	if errors.Is(err, store.ErrNotFound) {
		return api.LiveMember{}, fmt.Errorf("there is no application %s; see `docker openmanage ls`", application)
	}
	if err != nil {
		return api.LiveMember{}, err
	}
	if member == "" {
		member = app.Value.Primary
	}
	live, err := liveStatus(ctx)
	if err != nil {
		return api.LiveMember{}, err
	}
	for _, m := range live.Members {
		if m.Application == application && m.Member == member && m.Age < api.LeaseDuration {
			return m, nil
		}
	}
	return api.LiveMember{}, fmt.Errorf("member %s is not running; see `docker openmanage ps %s`", member, application)
}

// dialExec asks the network helper of the member's node to run the command.
func dialExec(ctx context.Context, m api.LiveMember, req api.ExecRequest) (net.Conn, *execstream.Conn, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: identity().NodeConfig(m.Node)}
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(m.Addr, strconv.Itoa(api.NodePort)))
	if err != nil {
		return nil, nil, err
	}
	body, err := json.Marshal(req)
	if err != nil {
		return nil, nil, err
	}
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+m.Addr+"/v1/exec", bytes.NewReader(body))
	if err != nil {
		return nil, nil, err
	}
	if err := post.Write(conn); err != nil {
		conn.Close()
		return nil, nil, err
	}
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, post) //nolint:bodyclose // the body is the connection
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		refused := &api.Error{Message: res.Status}
		_ = json.NewDecoder(res.Body).Decode(refused)
		conn.Close()
		return nil, nil, refused
	}
	return conn, execstream.New(reader, conn), nil
}

func followSize(frames *execstream.Conn, terminal int) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, syscall.SIGWINCH)
	for {
		if width, height, err := term.GetSize(terminal); err == nil {
			if frames.Write(execstream.Resize, execstream.Size(uint(width), uint(height))) != nil {
				return
			}
		}
		<-changes
	}
}

// carry prints what the command prints, and returns its exit code.
func carry(frames *execstream.Conn) (int, error) {
	for {
		kind, payload, err := frames.Read()
		if err != nil {
			return exitNoPrimary, fmt.Errorf("the connection to the member's node broke: %w", err)
		}
		switch kind {
		case execstream.Stdout:
			_, err = os.Stdout.Write(payload)
		case execstream.Stderr:
			_, err = os.Stderr.Write(payload)
		case execstream.Exit:
			return execstream.ParseExitCode(payload), nil
		case execstream.Error:
			return exitNoPrimary, errors.New(string(payload))
		}
		if err != nil {
			return exitNoPrimary, err
		}
	}
}
