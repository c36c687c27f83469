package enginetest

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/memberagent"
)

// mutant is an engine with something wrong, which one check must find.
type mutant struct {
	check string
	wrap  func(memberagent.Server, memberagent.Member) memberagent.Server
}

// changed is a server of which some methods are others.
type changed struct {
	memberagent.Server
	inspect func(context.Context) (memberagent.Data, error)
	make    func(ctx context.Context, orders api.MemberOrders, do func(context.Context, api.MemberOrders) error) error // Bootstrap, Join and Rejoin
	start   func(context.Context, api.MemberOrders) (*memberagent.Process, error)
	probe   func(context.Context, api.MemberOrders) memberagent.Probe
	adapt   func(context.Context, api.MemberOrders) error
	promote func(context.Context, api.MemberOrders) error
	stop    func(context.Context) error
}

func (c *changed) Inspect(ctx context.Context) (memberagent.Data, error) {
	if c.inspect != nil {
		return c.inspect(ctx)
	}
	return c.Server.Inspect(ctx)
}

func (c *changed) making(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress, method func(context.Context, api.MemberOrders, memberagent.Progress) error) error {
	do := func(ctx context.Context, orders api.MemberOrders) error { return method(ctx, orders, progress) }
	if c.make != nil {
		return c.make(ctx, orders, do)
	}
	return do(ctx, orders)
}

func (c *changed) Bootstrap(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	return c.making(ctx, orders, progress, c.Server.Bootstrap)
}

func (c *changed) Join(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	return c.making(ctx, orders, progress, c.Server.Join)
}

func (c *changed) Rejoin(ctx context.Context, orders api.MemberOrders, progress memberagent.Progress) error {
	return c.making(ctx, orders, progress, c.Server.Rejoin)
}

func (c *changed) Start(ctx context.Context, orders api.MemberOrders) (*memberagent.Process, error) {
	if c.start != nil {
		return c.start(ctx, orders)
	}
	return c.Server.Start(ctx, orders)
}

func (c *changed) Probe(ctx context.Context, orders api.MemberOrders) memberagent.Probe {
	if c.probe != nil {
		return c.probe(ctx, orders)
	}
	return c.Server.Probe(ctx, orders)
}

func (c *changed) Adapt(ctx context.Context, orders api.MemberOrders) error {
	if c.adapt != nil {
		return c.adapt(ctx, orders)
	}
	return c.Server.Adapt(ctx, orders)
}

func (c *changed) Promote(ctx context.Context, orders api.MemberOrders) error {
	if c.promote != nil {
		return c.promote(ctx, orders)
	}
	return c.Server.Promote(ctx, orders)
}

func (c *changed) Stop(ctx context.Context) error {
	if c.stop != nil {
		return c.stop(ctx)
	}
	return c.Server.Stop(ctx)
}

// with makes a mutant of a change.
func with(check string, change func(c *changed, m memberagent.Member)) mutant {
	return mutant{check: check, wrap: func(s memberagent.Server, m memberagent.Member) memberagent.Server {
		c := &changed{Server: s}
		change(c, m)
		return c
	}}
}

// remove empties the volume.
func remove(volume string) {
	entries, _ := os.ReadDir(volume)
	for _, entry := range entries {
		if entry.Name() != "openmanage.lock" {
			_ = os.RemoveAll(filepath.Join(volume, entry.Name()))
		}
	}
}

var mutants = map[string]mutant{
	"Inspect says empty where it is in doubt": with(strangeData, func(c *changed, _ memberagent.Member) {
		c.inspect = func(ctx context.Context) (memberagent.Data, error) {
			data, err := c.Server.Inspect(ctx)
			if err != nil {
				data.Empty = true
			}
			return data, nil
		}
	}),
	"Inspect clears up what it does not know": with(strangeData, func(c *changed, m memberagent.Member) {
		c.inspect = func(ctx context.Context) (memberagent.Data, error) {
			data, err := c.Server.Inspect(ctx)
			if err != nil {
				remove(m.Data)
			}
			return data, err
		}
	}),
	"Inspect leaves a note": with(strangeData, func(c *changed, m memberagent.Member) {
		c.inspect = func(ctx context.Context) (memberagent.Data, error) {
			_ = os.WriteFile(filepath.Join(m.Data, "inspected"), nil, 0o600)
			return c.Server.Inspect(ctx)
		}
	}),
	"Bootstrap is taken for done where it was begun": with(killedBootstrap, func(c *changed, m memberagent.Member) {
		begun := filepath.Join(m.Data, "begun")
		c.make = func(ctx context.Context, orders api.MemberOrders, do func(context.Context, api.MemberOrders) error) error {
			_ = os.WriteFile(begun, nil, 0o600)
			return do(ctx, orders)
		}
		c.inspect = func(ctx context.Context) (memberagent.Data, error) {
			data, err := c.Server.Inspect(ctx)
			if _, missing := os.Stat(begun); missing == nil && data.Empty {
				data = memberagent.Data{Role: api.RolePrimary}
			}
			return data, err
		}
	}),
	"Bootstrap goes on when its context has ended": with(punctual, func(c *changed, _ memberagent.Member) {
		c.make = func(ctx context.Context, orders api.MemberOrders, do func(context.Context, api.MemberOrders) error) error {
			err := do(ctx, orders)
			if ctx.Err() != nil {
				time.Sleep(2 * soon)
			}
			return err
		}
	}),
	"Join takes any database": with(otherDatabase, func(c *changed, _ memberagent.Member) {
		c.make = func(ctx context.Context, orders api.MemberOrders, do func(context.Context, api.MemberOrders) error) error {
			orders.SystemID = ""
			return do(ctx, orders)
		}
	}),
	"Rejoin removes the data first": with(patientRejoin, func(c *changed, m memberagent.Member) {
		c.make = func(ctx context.Context, orders api.MemberOrders, _ func(context.Context, api.MemberOrders) error) error {
			remove(m.Data)
			return c.Server.Join(ctx, orders, func(string) {})
		}
	}),
	"Rejoin replaces the data in place": with(killedRejoin, func(c *changed, m memberagent.Member) {
		// The primary's data begins to look like a standby's and is none yet.
		c.make = func(ctx context.Context, orders api.MemberOrders, do func(context.Context, api.MemberOrders) error) error {
			if data, err := c.Server.Inspect(ctx); err == nil && data.Role == api.RolePrimary {
				_ = os.WriteFile(filepath.Join(m.Data, "rejoining"), nil, 0o600)
			}
			return do(ctx, orders)
		}
		c.inspect = func(ctx context.Context) (memberagent.Data, error) {
			data, err := c.Server.Inspect(ctx)
			if _, missing := os.Stat(filepath.Join(m.Data, "rejoining")); missing == nil && !data.Stale && data.Role == api.RolePrimary {
				data.Timeline++
			}
			return data, err
		}
	}),
	"Start follows whom it followed before": with(follows, func(c *changed, m memberagent.Member) {
		c.start = func(ctx context.Context, orders api.MemberOrders) (*memberagent.Process, error) {
			if data, err := c.Inspect(ctx); err == nil && data.Role == api.RoleStandby {
				orders.Role, orders.Primary = api.RoleStandby, other(m.Name)
			}
			return c.Server.Start(ctx, orders)
		}
		c.adapt = func(ctx context.Context, orders api.MemberOrders) error {
			if orders.Primary == "" {
				return nil
			}
			return c.Server.Adapt(ctx, orders)
		}
	}),
	"Adapt goes on receiving": with(follows, func(c *changed, _ memberagent.Member) {
		c.adapt = func(ctx context.Context, orders api.MemberOrders) error {
			if orders.Primary == "" {
				return nil
			}
			return c.Server.Adapt(ctx, orders)
		}
	}),
	"Adapt returns before the receiver has ended": with(follows, func(c *changed, _ memberagent.Member) {
		c.adapt = func(ctx context.Context, orders api.MemberOrders) error {
			if orders.Primary != "" {
				return c.Server.Adapt(ctx, orders)
			}
			go func() {
				time.Sleep(time.Second)
				_ = c.Server.Adapt(context.WithoutCancel(ctx), orders)
			}()
			return nil
		}
	}),
	"Promote returns early": with(promotion, func(c *changed, _ memberagent.Member) {
		c.promote = func(ctx context.Context, orders api.MemberOrders) error {
			if orders.Sync != nil {
				return c.Server.Promote(ctx, orders)
			}
			go func() {
				time.Sleep(time.Second)
				_ = c.Server.Promote(context.WithoutCancel(ctx), orders)
			}()
			return nil
		}
	}),
	"Promote works once": with(promotion, func(c *changed, _ memberagent.Member) {
		done := false
		c.promote = func(ctx context.Context, orders api.MemberOrders) error {
			if done {
				return errors.New("it is the primary already")
			}
			done = true
			return c.Server.Promote(ctx, orders)
		}
	}),
	"Promote waits for nobody at first": with(promotion, func(c *changed, _ memberagent.Member) {
		c.promote = func(ctx context.Context, orders api.MemberOrders) error {
			early := orders
			early.Sync = nil
			if err := c.Server.Promote(ctx, early); err != nil {
				return err
			}
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			return c.Server.Adapt(ctx, orders)
		}
	}),
	"Stop kills": with(orderlyStop, func(c *changed, _ memberagent.Member) {
		var server *memberagent.Process
		c.start = func(ctx context.Context, orders api.MemberOrders) (process *memberagent.Process, err error) {
			server, err = c.Server.Start(ctx, orders)
			return server, err
		}
		c.stop = func(context.Context) error { return server.Signal(syscall.SIGKILL) }
	}),
	"Stop waits": with(orderlyStop, func(c *changed, _ memberagent.Member) {
		c.stop = func(ctx context.Context) error {
			err := c.Server.Stop(ctx)
			time.Sleep(2 * soon)
			return err
		}
	}),
	"Probe waits for a server that hangs": with(punctual, func(c *changed, _ memberagent.Member) {
		c.probe = func(ctx context.Context, orders api.MemberOrders) memberagent.Probe {
			p := c.Server.Probe(ctx, orders)
			if !p.Up && ctx.Err() != nil {
				time.Sleep(2 * soon)
			}
			return p
		}
	}),
	"Probe counts what is under way": with(acknowledged, func(c *changed, _ memberagent.Member) {
		c.probe = func(ctx context.Context, orders api.MemberOrders) memberagent.Probe {
			p := c.Server.Probe(ctx, orders)
			if p.Streaming {
				p.Position += 16 << 20
			}
			return p
		}
	}),
	"the server begins without Processes": with(fence, func(c *changed, m memberagent.Member) {
		c.start = func(ctx context.Context, orders api.MemberOrders) (*memberagent.Process, error) {
			process, err := c.Server.Start(ctx, orders)
			if err == nil {
				aside := exec.Command("sleep", "1000")
				aside.Dir = m.Data
				err = aside.Start()
			}
			return process, err
		}
	}),
	"something is kept outside the volume": with(promotion, func(c *changed, _ memberagent.Member) {
		c.start = func(ctx context.Context, orders api.MemberOrders) (*memberagent.Process, error) {
			if err := os.WriteFile("/var/tmp/openmanage-kept", nil, 0o600); err != nil { //nolint:gosec // nothing can be written there
				return nil, err
			}
			return c.Server.Start(ctx, orders)
		}
	}),
}
