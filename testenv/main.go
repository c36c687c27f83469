// Command testenv runs a real multi-node Docker Swarm on one machine, for tests,
// for the demo, and for anybody who wants to try things:
//
//	go run ./testenv up --nodes 3 --managers 3
//	docker --context openmanage node ls
//	go run ./testenv kill 1
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := rootCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "testenv:", err)
		os.Exit(1)
	}
}
