package networkplugin

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/client"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/internal/execstream"
	"github.com/openmanage/openmanage/internal/swarmpki"
)

// serve answers managers until ctx ends.
func (h *helper) serve(ctx context.Context) error {
	server := h.server(ctx)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", h.Listen)
	if err != nil {
		return fmt.Errorf("listen for managers on %s: %w; is another program on this port?", h.Listen, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	h.Log.Info("listening", "address", listener.Addr().String(), "version", h.Version)
	if err := server.ServeTLS(listener, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (h *helper) server(ctx context.Context) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/exec", h.exec)
	return &http.Server{
		Handler: mux, TLSConfig: h.Identity.ServerConfig(), BaseContext: func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: h.Log.Named("http").StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
}

// exec runs a command in a member's container for a manager.
func (h *helper) exec(w http.ResponseWriter, r *http.Request) {
	peer, err := swarmpki.PeerFrom(r.TLS)
	if err != nil || !peer.Manager {
		h.refuse(w, http.StatusForbidden, api.ErrForbidden, "commands in containers are for managers only")
		return
	}
	var req api.ExecRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, api.MaxBody)).Decode(&req); err != nil || len(req.Cmd) == 0 {
		h.refuse(w, http.StatusBadRequest, api.ErrInvalid, "the request cannot be read")
		return
	}
	id, err := h.container(r.Context(), req.Volume)
	if err != nil {
		h.refuse(w, http.StatusNotFound, api.ErrNotFound, err.Error())
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		h.refuse(w, http.StatusInternalServerError, api.ErrInvalid, err.Error())
		return
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Time{})
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: openmanage-exec\r\n\r\n"); err != nil {
		return
	}
	frames := execstream.New(buffered.Reader, conn)
	h.Log.Info("exec", "volume", req.Volume, "container", id[:12], "command", req.Cmd[0], "manager", peer.NodeID)
	// The request's context ends with the handler, the command with the connection.
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if code, err := h.run(ctx, id, req, frames, cancel); err != nil {
		_ = frames.Write(execstream.Error, []byte(err.Error()))
	} else {
		_ = frames.Write(execstream.Exit, execstream.ExitCode(code))
	}
}

func (h *helper) refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(api.Error{Code: code, Message: message})
}

// container returns the ID of the running container of the member with that volume.
func (h *helper) container(ctx context.Context, volume string) (string, error) {
	members, err := h.members(ctx)
	if err != nil {
		return "", err
	}
	for _, m := range members {
		if m.Volume == volume {
			return m.Container, nil
		}
	}
	return "", fmt.Errorf("no container of the member with volume %s runs on this node", volume)
}

// run executes the command and carries its streams until it ends. hangUp is
// called when the other side goes away.
func (h *helper) run(ctx context.Context, container string, req api.ExecRequest, frames *execstream.Conn, hangUp func()) (int, error) {
	size := client.ConsoleSize{Height: req.Height, Width: req.Width}
	if !req.TTY {
		size = client.ConsoleSize{}
	}
	created, err := h.Docker.ExecCreate(ctx, container, client.ExecCreateOptions{
		User: req.User, TTY: req.TTY, Cmd: req.Cmd, ConsoleSize: size,
		AttachStdin: true, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return 0, err
	}
	attached, err := h.Docker.ExecAttach(ctx, created.ID, client.ExecAttachOptions{TTY: req.TTY, ConsoleSize: size})
	if err != nil {
		return 0, err
	}
	defer attached.Close()
	go func() {
		defer hangUp()
		h.feed(ctx, created.ID, frames, attached.HijackedResponse)
	}()
	if err := copyOut(frames, attached.Reader, req.TTY); err != nil && !errors.Is(err, io.EOF) {
		return 0, err
	}
	state, err := h.Docker.ExecInspect(ctx, created.ID, client.ExecInspectOptions{})
	if err != nil {
		return 0, err
	}
	return state.ExitCode, nil
}

// feed passes what the other side sends to the command.
func (h *helper) feed(ctx context.Context, exec string, frames *execstream.Conn, to client.HijackedResponse) {
	for {
		kind, payload, err := frames.Read()
		if err != nil {
			_ = to.CloseWrite()
			return
		}
		switch kind {
		case execstream.Stdin:
			if len(payload) == 0 {
				_ = to.CloseWrite()
			} else if _, err := to.Conn.Write(payload); err != nil {
				return
			}
		case execstream.Resize:
			if width, height, ok := execstream.ParseSize(payload); ok {
				_, _ = h.Docker.ExecResize(ctx, exec, client.ExecResizeOptions{Width: width, Height: height})
			}
		}
	}
}

func copyOut(frames *execstream.Conn, from *bufio.Reader, tty bool) error {
	if tty {
		_, err := io.Copy(frames.Writer(execstream.Stdout), from)
		return err
	}
	_, err := stdcopy.StdCopy(frames.Writer(execstream.Stdout), frames.Writer(execstream.Stderr), from)
	return err
}
