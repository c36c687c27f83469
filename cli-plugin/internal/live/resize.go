package live

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
)

// followSize gives the session the terminal's size, now and whenever it changes,
// until the returned function is called. A size that cannot be set is no reason
// to end the session.
func followSize(ctx context.Context, dockerCLI command.Cli, execID string) (stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		for {
			if height, width := dockerCLI.Out().GetTtySize(); height > 0 && width > 0 {
				_, _ = dockerCLI.Client().ExecResize(ctx, execID, client.ExecResizeOptions{Height: height, Width: width})
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		cancel()
	}
}
