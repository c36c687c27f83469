// Command client writes a row every 50 ms and prints what became of each. It runs
// inside the Swarm's network, beside what is measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/openmanage/openmanage/testenv/bench/outage"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	members := flag.String("members", "", "hosts of the members, separated by commas")
	user := flag.String("user", "postgres", "who to connect as")
	database := flag.String("database", "postgres", "where the table is")
	passwordFile := flag.String("password-file", "", "`file` with the password")
	flag.Parse()
	password, err := os.ReadFile(*passwordFile)
	if err == nil {
		c := outage.Client{
			Members: strings.Split(*members, ","), User: *user, Database: *database,
			Password: strings.TrimSpace(string(password)), Out: os.Stdout,
		}
		err = c.Run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		stop()
		os.Exit(1)
	}
}
