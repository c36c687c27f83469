package commands

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/docker/cli/cli/command"
)

// ask asks a question on the terminal; only yes is yes.
func ask(ctx context.Context, dockerCLI command.Cli, question string) (bool, error) {
	fmt.Fprintf(dockerCLI.Err(), "%s [y/N] ", question)
	answers := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(dockerCLI.In()).ReadString('\n')
		answers <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case a := <-answers:
		return a == "y" || a == "yes", nil
	case <-ctx.Done():
		fmt.Fprintln(dockerCLI.Err())
		return false, ctx.Err()
	}
}
