// Package enginetest is the suite that every engine with one primary, which the
// leader chooses, must pass: the obligations of memberagent.Engine and Server, tried
// on real servers. Engines call it from a conformance test; CONTRIBUTING.md says how.
//
// Each member has a process of its own (driver.go), which stands for its container:
// the engine's methods are called there, and with it dies all that they started, as
// on a node that loses power. Nothing can be written there but the volume.
//
// kill -9 loses nothing that a server has handed to the kernel. Whether it also waits
// for the disk, the suite cannot see.
package enginetest

import (
	"context"
	"os"
	"testing"
)

// Factory is what the suite has to know of an engine.
type Factory struct {
	// Application makes one of members with these names, for one check.
	Application func(t T, members []string) Application
	// Strange are volumes, by what is wrong with them, that hold something which is
	// neither nothing nor a whole database.
	Strange map[string]func(volume string) error
}

// Application is how the suite reaches the servers of an application's members, as a
// client does. A table of numbers is all that it needs.
type Application interface {
	// Secrets writes a member's secrets into a folder.
	Secrets(dir string) error
	// Environment is what a member's container has beside the suite's own.
	Environment(member string) []string
	// Writable are folders beside the volume in which the image lets the server write,
	// such as that of its socket. They begin empty in each container.
	Writable(member string) []string
	// Create makes the table. It waits for no standby.
	Create(ctx context.Context, member string) error
	// Write adds a row and returns when the server has acknowledged it.
	Write(ctx context.Context, member string, row int) error
	// Rows returns all rows that the member has.
	Rows(ctx context.Context, member string) ([]int, error)
}

// T is the part of testing.T that checks use.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
	Failed() bool
}

// Run checks an engine.
func Run(t *testing.T, f Factory) {
	p := prepare(t, f)
	for _, c := range checks {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(&stage{T: t, prepared: p})
		})
	}
}

// RunMutants shows that the suite finds what is wrong: the engine is changed in one
// way after the other, and the check that is about it must fail.
func RunMutants(t *testing.T, f Factory) {
	p := prepare(t, f)
	for name, m := range mutants {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			trial := &trial{log: t.Logf}
			trial.run(func() { checkNamed(m.check).run(&stage{T: trial, prepared: p, mutant: name}) })
			if !trial.Failed() {
				t.Errorf("the check %q finds nothing wrong with it", m.check)
			}
		})
	}
}

// long tells whether the long forms are to run.
func long() bool { return os.Getenv("OPENMANAGE_LONG") != "" }

// rounds is how often something is killed at a random moment.
func rounds(short int) int {
	if long() {
		return 20 * short
	}
	return short
}

type check struct {
	name string
	run  func(*stage)
}

func checkNamed(name string) check {
	for _, c := range checks {
		if c.name == name {
			return c
		}
	}
	panic("there is no check " + name)
}
