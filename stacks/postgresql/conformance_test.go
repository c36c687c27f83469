package postgresql

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/openmanage/openmanage/memberagent/enginetest"
)

func TestEngineKeepsItsContract(t *testing.T) { enginetest.Run(t, factory) }

func TestTheSuiteFindsWhatIsWrong(t *testing.T) { enginetest.RunMutants(t, factory) }

var factory = enginetest.Factory{
	Application: newApplication,
	Strange: map[string]func(volume string) error{
		"a folder that is no whole database": func(volume string) error {
			return files(volume, "pgdata/base/1", "15")
		},
		"a database in the volume's root": func(volume string) error {
			return files(volume, "PG_VERSION", "15\n")
		},
		"a database of another major version": func(volume string) error {
			return files(volume, "pgdata/PG_VERSION", "9.6\n")
		},
		"a file in the place of the database": func(volume string) error {
			return files(volume, "pgdata", "")
		},
		"a link that leads nowhere": func(volume string) error {
			return os.Symlink(filepath.Join(volume, "nowhere"), filepath.Join(volume, "pgdata"))
		},
		"a half replaced database of nobody knows whom": func(volume string) error {
			return errors.Join(files(volume, "pgdata/PG_VERSION", "15\n"), files(volume, "pgdata.rejoin", ""))
		},
	},
}

func files(volume, name, text string) error {
	path := filepath.Join(volume, name)
	return errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
}

// application is PostgreSQL as the suite of the contract uses it.
type application struct {
	ports   map[string]int
	sockets map[string]string
}

const conformancePassword = "conformance"

func newApplication(t enginetest.T, members []string) enginetest.Application {
	t.Helper()
	ports, err := freePorts(members)
	if err != nil {
		t.Fatalf("%v", err)
	}
	a := &application{ports: ports, sockets: map[string]string{}}
	for _, member := range members {
		dir, err := os.MkdirTemp("", "pgsock")
		if err == nil {
			err = os.Chmod(dir, 0o777)
		}
		if err != nil {
			t.Fatalf("%v", err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		a.sockets[member] = dir
	}
	return a
}

func (a *application) Secrets(dir string) error {
	return errors.Join(
		os.WriteFile(filepath.Join(dir, superuserSecret), []byte(conformancePassword), 0o444),
		os.WriteFile(filepath.Join(dir, replicatorSecret), []byte("replication"), 0o444))
}

func (a *application) Environment(member string) []string {
	return []string{"PGTEST_SOCKETS=" + a.sockets[member], envPorts + "=" + portList(a.ports), fmt.Sprintf("%s=%d", envPort, a.ports[member])}
}

func (a *application) Writable(member string) []string { return []string{a.sockets[member]} }

func (a *application) Create(ctx context.Context, member string) error {
	_, err := a.sql(ctx, member, "CREATE TABLE numbers (n int PRIMARY KEY)")
	return err
}

func (a *application) Write(ctx context.Context, member string, row int) error {
	_, err := a.sql(ctx, member, fmt.Sprintf("INSERT INTO numbers VALUES (%d)", row))
	return err
}

func (a *application) Rows(ctx context.Context, member string) ([]int, error) {
	table, err := a.sql(ctx, member, "SELECT n FROM numbers")
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, row := range table {
		n, err := strconv.Atoi(row[0])
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}

func (a *application) sql(ctx context.Context, member, statement string) ([][]string, error) {
	config, err := pgconn.ParseConfig(fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=postgres sslmode=disable connect_timeout=5", a.ports[member]))
	if err != nil {
		return nil, err
	}
	config.Password = conformancePassword
	conn, err := pgconn.ConnectConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	return rows(ctx, conn, statement)
}
