// Command use is a client of the catalog's applications for the end-to-end tests: it
// writes values until it is killed and prints each one that was acknowledged, or it
// prints all values that are there. It runs in a container in the application's network.
//
//	use write|read amqp HOST,HOST,... USER PASSWORD_VARIABLE
//	use write|read kafka|opensearch HOST,HOST,...
//	use get URL [HOST]      ends well if there is a page, under the name HOST if it is given
//	use find URL TEXT       ends well if there is a page with that text in it
//	use time HOST           ends well if a time server answers
package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// store is an application as this client uses it. Its methods are called one at a time.
type store interface {
	// put returns nil only if the value is acknowledged to be kept.
	put(ctx context.Context, value string) error
	// all returns every value.
	all(ctx context.Context) ([]string, error)
}

// putTimeout is for one value. One that is not acknowledged by then may be kept or not.
const putTimeout = 5 * time.Second

// readTimeout is for all values, and for a member to be asked again that is on its way.
const readTimeout = 2 * time.Minute

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "use:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) >= 2 && args[0] == "get":
		_, err := get(args[1], args[2:]...)
		return err
	case len(args) == 3 && args[0] == "find":
		return find(args[1], args[2])
	case len(args) == 2 && args[0] == "time":
		return askTime(args[1])
	}
	s, err := open(args)
	if err != nil {
		return err
	}
	if args[0] == "read" {
		ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
		defer cancel()
		values, err := s.all(ctx)
		for err != nil && ctx.Err() == nil { // the member that was asked may be on its way
			fmt.Fprintln(os.Stderr, err)
			time.Sleep(200 * time.Millisecond)
			values, err = s.all(ctx)
		}
		fmt.Println(strings.Join(values, "\n"))
		return err
	}
	write(s)
	return nil
}

func open(args []string) (store, error) {
	switch {
	case len(args) == 5 && args[1] == "amqp":
		return &amqpStore{hosts: strings.Split(args[2], ","), user: args[3], password: os.Getenv(args[4])}, nil
	case len(args) == 3 && args[1] == "kafka":
		return &kafkaStore{seeds: strings.Split(args[2], ",")}, nil
	case len(args) == 3 && args[1] == "opensearch":
		return &searchStore{hosts: strings.Split(args[2], ",")}, nil
	}
	return nil, fmt.Errorf("unknown arguments %q", args)
}

// write writes without end. Values differ from those of any other run.
func write(s store) {
	prefix := strconv.FormatInt(time.Now().UnixNano(), 36) + "x"
	for i := 1; ; i++ {
		value := prefix + strconv.Itoa(i)
		ctx, cancel := context.WithTimeout(context.Background(), putTimeout)
		err := s.put(ctx, value)
		cancel()
		if err != nil {
			fmt.Fprintln(os.Stderr, value, err)
			time.Sleep(200 * time.Millisecond)
			continue
		}
		fmt.Println(value)
		time.Sleep(10 * time.Millisecond)
	}
}
