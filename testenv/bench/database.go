package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/openmanage/openmanage/testenv/bench/outage"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/product"
)

// database is PostgreSQL as one of the systems runs it that are compared.
type database interface {
	// label is the system's name in tables.
	label() string
	// network is the network that clients attach to.
	network() string
	// hosts are where the members are found in that network: HOST or HOST:PORT.
	hosts() []string
	// deploy starts it, with no data.
	deploy(ctx context.Context) error
	// members says where they run. The error says what is missing, if not all do what
	// they are there for.
	members(ctx context.Context) ([]member, error)
	// lead has the member on that node be the primary.
	lead(ctx context.Context, node *cluster.Node) error
	queryable
}

// queryable runs statements on the primary, as the superuser.
type queryable interface {
	sql(ctx context.Context, statements string) (string, error)
}

// changeable is a database whose primary can be changed in order.
type changeable interface {
	database
	// switchover hands over to that member.
	switchover(ctx context.Context, to string) error
	// upgrade gives all members another image, one after the other.
	upgrade(ctx context.Context) error
}

// member is one server of a database.
type member struct {
	name      string
	node      *cluster.Node
	container string
	primary   bool
}

func primaryOf(members []member) (member, error) {
	for _, m := range members {
		if m.primary {
			return m, nil
		}
	}
	return member{}, fmt.Errorf("nobody is the primary among %v", members)
}

// String names the member with its node and role.
func (m member) String() string {
	role := "standby"
	if m.primary {
		role = "primary"
	}
	return fmt.Sprintf("%s on %s (%s)", m.name, m.node.Name, role)
}

// wholeLimit is how long a database may take until all members are well again.
const wholeLimit = 4 * time.Minute

// waitWhole waits until all members do what they are there for.
func waitWhole(ctx context.Context, d database) ([]member, error) {
	var found []member
	err := product.Until(ctx, wholeLimit, d.label()+" whole", func(ctx context.Context) error {
		var err error
		found, err = d.members(ctx)
		return err
	})
	return found, err
}

// wholePrimary waits as waitWhole does, and returns the primary.
func wholePrimary(ctx context.Context, d database) (member, error) {
	members, err := waitWhole(ctx, d)
	if err != nil {
		return member{}, err
	}
	return primaryOf(members)
}

// follows checks that so many standbys stream, and that a commit waits for one.
func follows(ctx context.Context, d queryable, standbys int) error {
	out, err := d.sql(ctx, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'quorum'")
	if err == nil && out != fmt.Sprint(standbys) {
		err = fmt.Errorf("%s of %d standbys follow", out, standbys)
	}
	return err
}

// clientRole is whom the client connects as.
const clientRole = "client"

// admitClient makes the client's table and role. Its connections, of which there are
// many, cost the servers next to nothing.
func admitClient(ctx context.Context, d database, password string) error {
	_, err := d.sql(ctx, fmt.Sprintf("%s; SET scram_iterations = 1; CREATE ROLE %s LOGIN PASSWORD '%s'; GRANT INSERT ON %s TO %s",
		outage.Schema, clientRole, password, outage.Table, clientRole))
	return err
}

// lostRows counts the acknowledged rows that are not there.
func lostRows(ctx context.Context, d database, log outage.Log) (int, error) {
	const chunk = 2000 // of 20 characters: an argument has 128 KiB at most
	lost := 0
	for ids := range slices.Chunk(log.Acknowledged(), chunk) {
		var list []string
		for _, id := range ids {
			list = append(list, strconv.FormatInt(id, 10))
		}
		out, err := d.sql(ctx, fmt.Sprintf("SELECT count(*) FROM unnest(ARRAY[%s]) id WHERE id NOT IN (SELECT id FROM %s)",
			strings.Join(list, ","), outage.Table))
		if err != nil {
			return 0, err
		}
		var missing int
		if _, err := fmt.Sscan(out, &missing); err != nil {
			return 0, fmt.Errorf("%s answered %q: %w", d.label(), out, err)
		}
		lost += missing
	}
	return lost, nil
}

// memberDatabase is one member, for who knows that it is the one to ask.
type memberDatabase struct {
	b *bench
	m member
}

func (d memberDatabase) sql(ctx context.Context, statements string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return d.b.docker(ctx, d.m.node, "exec", "--user", "postgres", d.m.container,
		"psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", statements)
}
