package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gotest.tools/v3/assert"
	is "gotest.tools/v3/assert/cmp"

	"github.com/openmanage/openmanage/internal/api"
	"github.com/openmanage/openmanage/testenv/cluster"
	"github.com/openmanage/openmanage/testenv/host"
	"github.com/openmanage/openmanage/testenv/product"
)

// catalogued is an application of the catalog, and how a client uses it.
type catalogued struct {
	typ, name   string
	image, next string   // to be created with, and to upgrade to
	create      []string // options of create
	members     int
	set         string // a parameter for an edited stack
	// write is a shell command that writes values without end and prints those that were
	// acknowledged, read one that prints all that are there. They run in a container of
	// clientImage in the application's network, with testenv/use at /use/use and the
	// secrets as the variables that are named for them.
	clientImage, write, read string
	secrets                  map[string]string // variable: secret
	// answers is a shell command in such a container that ends well if the application does
	// what it is for, or what it does beside taking writes. clientArgs are options of that
	// container, known what only the Swarm knows, as variables.
	answers    string
	clientArgs []string
	known      func(ctx context.Context, s *suite) ([]string, error)
	// add is the folder of a type that does not come with OpenManage.
	add string
	// source is something outside of the Swarm that the application uses, and the options of
	// create for that.
	source func(t *testing.T, s *suite) []string
	// before is an application that is created first, behind one that makes use of this one:
	// arguments of create, the name second.
	before, behind []string
	// components is how many services there are beside the members, and images are those of them
	// that do not run OpenManage's own.
	components int
	images     []string
	only       bool // with make test-catalog
}

func catalogueds() []catalogued {
	const etcd = "etcdctl --endpoints=kv-1:2379,kv-2:2379,kv-3:2379 --dial-timeout=1s --command-timeout=3s "
	const amqp = "amqp mq-1,mq-2,mq-3 admin ADMIN_PASSWORD"
	return []catalogued{
		{
			typ: "etcd", name: "kv", image: "etcd:3.5", next: "etcd:3.5.99", members: 3, create: []string{"--volume-size", "256MiB", "--memory", "512MiB"},
			set: "snapshot_count=5000", clientImage: "etcd:3.5",
			write: "i=0; while :; do i=$((i+1)); if " + etcd + "put key-$RUN$i $RUN$i >/dev/null 2>&1; then echo $RUN$i; else sleep 0.2; fi; done",
			read:  etcd + "get --prefix --print-value-only key-",
		},
		{
			typ: "rabbitmq", name: "mq", image: "rabbitmq:4-management", next: "rabbitmq:4.99-management", members: 3, create: []string{"--volume-size", "1GiB", "--memory", "768MiB"},
			set: "heartbeat=30", clientImage: "debian:trixie-slim", write: "/use/use write " + amqp, read: "/use/use read " + amqp,
			answers: "for i in 1 2 3; do /use/use find http://mq-$i:15672/ 'RabbitMQ Management' || exit 1; done",
			secrets: map[string]string{"ADMIN_PASSWORD": "admin-password"}, only: true,
		},
		{
			typ: "kafka", name: "ka", image: "apache/kafka:4.1.0", next: "apache/kafka:4.1.99", members: 3, create: []string{"--volume-size", "512MiB", "--memory", "1GiB", "--set", "heap=512m"},
			set: "log_retention_hours=48", clientImage: "debian:trixie-slim", write: "/use/use write kafka ka-1:9092,ka-2:9092,ka-3:9092", read: "/use/use read kafka ka-1:9092,ka-2:9092,ka-3:9092", only: true,
		},
		{
			typ: "opensearch", name: "os", image: "opensearchproject/opensearch:3.2.0", next: "opensearchproject/opensearch:3.2.99", members: 3, create: []string{"--volume-size", "512MiB", "--memory", "1536MiB", "--set", "heap=512m"},
			set: "heap=600m", clientImage: "debian:trixie-slim", write: "/use/use write opensearch os-1,os-2,os-3", read: "/use/use read opensearch os-1,os-2,os-3", only: true,
		},
		{
			typ: "prometheus", name: "prom", image: "prom/prometheus:v3.5.0", next: "prom/prometheus:v3.5.99", members: 1, create: []string{"--volume-size", "256MiB", "--memory", "512MiB"},
			set: "scrape_interval=5s", clientImage: "debian:trixie-slim", components: 2, images: []string{"prom/node-exporter:v1.9.1"},
			// Of this moment: Prometheus answers with what it has kept for five minutes.
			answers: "/use/use find 'http://prom-1:9090/api/v1/query?query=count_over_time(openmanage_node_ready[30s])' '\"node\":\"' && " +
				"/use/use find 'http://prom-1:9090/api/v1/query?query=count_over_time(node_load1[30s])' '\"node\":\"'",
			only: true,
		},
		{
			typ: "ntp", name: "time", image: "cturra/ntp:latest", next: "cturra/ntp:next", members: 2,
			set: "allow=10.0.0.0/8", clientImage: "debian:trixie-slim", answers: "/use/use time time-1 && /use/use time time-2", only: true,
		},
		{
			typ: "traefik", name: "door", image: "traefik:v3.5", next: "traefik:v3.5.99", members: 1, create: []string{"--publish", "18443:443"},
			behind: []string{"prometheus", "site", "--image", "prom/prometheus:v3.5.0", "--volume-size", "256MiB", "--memory", "512MiB", "--domain", "site.example.test", "--via", "door"},
			set:    "log_level=WARN", clientImage: "debian:trixie-slim", answers: "/use/use get https://door-1/-/ready site.example.test", only: true,
		},
		{
			typ: "wireguard", name: "vpn", image: wireguardImage, next: "linuxserver/wireguard:1.0.99", members: 1,
			before: []string{"ntp", "behind", "--image", "cturra/ntp:latest", "--replicas", "1"},
			create: []string{"--network", "behind_default", "--set", "peers=" + peerPublic + "@10.99.0.2", "--publish", "51820"},
			set:    "address=10.99.0.1/25", clientImage: wireguardImage, clientArgs: []string{"--cap-add", "NET_ADMIN", "--device", "/dev/net/tun"},
			secrets: map[string]string{"SERVER_KEY": "private-key"}, known: behindVPN, answers: throughVPN, only: true,
		},
		{
			typ: "clamav-mirror", name: "av", image: "openmanage/clamav-mirror:1.0", next: "openmanage/clamav-mirror:1.0.99", members: 1, create: []string{"--volume-size", "256MiB"},
			source: signatures, set: "update_hours=6", clientImage: "debian:trixie-slim", answers: "/use/use get http://av-1:8080/ && /use/use get http://av-1:8080/house.hdb", only: true,
		},
		{
			typ: "site", name: "www", add: "../../docs/examples/site", image: "nginx:1.26", next: "nginx:1.26.99", members: 2, create: []string{"--replicas", "2", "--volume-size", "64MiB"},
			set: "listing=on", clientImage: "debian:trixie-slim", answers: "/use/use get http://www-1:8080/healthz && /use/use get http://www-2:8080/healthz", only: true,
		},
	}
}

func (a catalogued) member(i int) string { return fmt.Sprintf("%s-%d", a.name, i) }

// An application of the catalog answers by its members' names, keeps what it
// acknowledged while it is restarted, upgraded, changed and loses a node, refuses an
// image that does not run, and leaves nothing but its volumes.
func TestCatalogApplications(t *testing.T) {
	for _, a := range catalogueds() {
		t.Run(a.typ, func(t *testing.T) {
			if a.only && !wholeCatalog() {
				t.Skip("with make test-catalog")
			}
			s, ctx := swarm(t)
			s.catalogImages(t, ctx, append([]string{a.image, a.next, a.clientImage}, a.images...)...)
			s.removeAll(t, ctx, a)
			t.Cleanup(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
				defer cancel()
				if t.Failed() {
					s.tell(t, ctx, a.name)
				}
				s.removeAll(t, ctx, a)
			})
			if a.source != nil {
				a.create = append(a.create, a.source(t, s)...)
			}
			if a.add != "" {
				_, err := s.CLI(ctx, "catalog", "add", a.add)
				assert.NilError(t, err)
			}
			s.createOther(t, ctx, a.before)
			args := append([]string{"create", a.typ, a.name, "--image", a.image, "--yes"}, a.create...)
			out, err := s.CLI(ctx, args...)
			assert.NilError(t, err)
			assert.Check(t, is.Contains(out, a.name+" is healthy"))
			for i := range a.members {
				assert.Check(t, is.Contains(out, a.member(i+1)+":"))
			}
			s.createOther(t, ctx, a.behind)
			s.use(t, ctx, a)

			if wholeCatalog() {
				_, err = s.CLI(ctx, "restart", a.name)
				assert.NilError(t, err)
				s.keeps(t, ctx, a, "restart")
				s.keepsEdited(t, ctx, a)
			}
			_, err = s.CLI(ctx, "upgrade", a.name, "--image", a.next)
			assert.NilError(t, err)
			s.keeps(t, ctx, a, "upgrade")
			_, err = s.CLI(ctx, "upgrade", a.name, "--image", "debian:trixie-slim")
			assert.ErrorContains(t, err, "It was rolled back and is healthy; no other member was changed")
			s.keeps(t, ctx, a, "an image without the server")

			s.freeVia(t, ctx, a)
			s.killUnder(t, ctx, a)
			s.keeps(t, ctx, a, "node killed")

			// Taken away, and taken up again.
			s.stopUser(ctx, a)
			s.removeOther(t, ctx, a.behind)
			_, err = s.CLI(ctx, "rm", a.name, "--yes")
			assert.NilError(t, err)
			for _, kind := range []string{"service", "network"} {
				left, err := s.Docker(ctx, kind, "ls", "--quiet", "--filter", "label=com.docker.stack.namespace="+a.name)
				assert.NilError(t, err)
				assert.Equal(t, left, "", kind)
			}
			if !wholeCatalog() {
				return
			}
			args = append([]string{"create", a.typ, a.name, "--image", a.next, "--yes"}, a.create...)
			_, err = s.CLI(ctx, args...)
			assert.NilError(t, err)
			s.createOther(t, ctx, a.behind)
			s.use(t, ctx, a)
			s.keeps(t, ctx, a, "removed and created again")
		})
	}
}

// keepsEdited deploys an edited stack, which is a rolling change too.
func (s *suite) keepsEdited(t *testing.T, ctx context.Context, a catalogued) {
	t.Helper()
	args := append([]string{"generate", a.typ, a.name, "--image", a.image}, a.create...)
	args = append(args, "--set", a.set) // the last one counts
	stack, err := s.CLI(ctx, args...)
	assert.NilError(t, err)
	_, stderr, err := s.Input(ctx, strings.NewReader(stack), "stack", "deploy", "--detach", "--compose-file", "-", a.name)
	assert.NilError(t, err, stderr)
	assert.NilError(t, product.Until(ctx, 3*time.Minute, "the edited stack in all members", func(ctx context.Context) error {
		out, err := s.Docker(ctx, "stack", "services", a.name, "--filter", "label="+api.LabelMember, "--format", "{{.Name}}")
		if err != nil {
			return err
		}
		for _, service := range strings.Fields(out) {
			state, err := s.Docker(ctx, "service", "inspect", service, "--format", "{{if .UpdateStatus}}{{.UpdateStatus.State}}{{end}}")
			if err != nil || state != "completed" {
				return errors.Join(err, fmt.Errorf("%s is %s", service, state))
			}
		}
		return nil
	}))
	s.keeps(t, ctx, a, "edited stack")
}

// catalogImages has images made, which takes a while the first time, and only if a
// test wants them.
func (s *suite) catalogImages(t *testing.T, ctx context.Context, names ...string) {
	t.Helper()
	builder, err := cluster.Prepare(ctx, s.c.Host)
	assert.NilError(t, err)
	assert.NilError(t, builder.EnsureOfficial(ctx, names...))
}

// createOther creates an application that one of the catalog is tried with.
func (s *suite) createOther(t *testing.T, ctx context.Context, args []string) {
	t.Helper()
	if args == nil {
		return
	}
	s.catalogImages(t, ctx, args[slices.Index(args, "--image")+1])
	_, err := s.CLI(ctx, append([]string{"create", "--yes"}, args...)...)
	assert.NilError(t, err)
}

func (s *suite) removeOther(t *testing.T, ctx context.Context, args []string) {
	t.Helper()
	if args != nil {
		s.removeLeftovers(t, ctx, args[1])
	}
}

// removeAll removes what a test of the application makes.
func (s *suite) removeAll(t *testing.T, ctx context.Context, a catalogued) {
	t.Helper()
	s.stopUser(ctx, a)
	s.removeOther(t, ctx, a.behind)
	s.removeLeftovers(t, ctx, a.name)
	s.removeOther(t, ctx, a.before)
	if a.add != "" {
		_, _ = s.CLI(ctx, "catalog", "rm", a.typ) // it may not be there
	}
}

func (a catalogued) user() string { return "use-" + a.name }

// wholeCatalog tells whether every application is to be tried (make test-catalog).
func wholeCatalog() bool { return long() || os.Getenv("OPENMANAGE_CATALOG") != "" }

// useDir is where every node has the client, below the folder for volumes.
const useDir = "use"

// use has a client write without end, on the node that commands go through. It prints
// what was acknowledged.
func (s *suite) use(t *testing.T, ctx context.Context, a catalogued) {
	t.Helper()
	dir := filepath.Join(s.c.Nodes()[0].Storage(), useDir)
	assert.NilError(t, os.MkdirAll(dir, 0o755))
	_, err := host.Run(ctx, "env", "CGO_ENABLED=0", "go", "build", "-trimpath", "-o", filepath.Join(dir, "use"), "github.com/openmanage/openmanage/testenv/use")
	assert.NilError(t, err)
	s.answers(t, ctx, a, "created")
	if a.write == "" {
		return
	}
	options, err := s.clientOptions(ctx, a)
	assert.NilError(t, err)
	args := append([]string{"run", "--detach", "--name", a.user(), "--stop-timeout", "1", "--env", "RUN=" + strconv.FormatInt(time.Now().Unix(), 36) + "x"}, options...)
	_, err = s.Docker(ctx, append(args, a.clientImage, "sh", "-c", a.write)...)
	assert.NilError(t, err)
	s.writesOn(t, ctx, a)
}

// clientOptions are those of docker run for a client of the application, in its network.
func (s *suite) clientOptions(ctx context.Context, a catalogued) ([]string, error) {
	args := append([]string{
		"--network", a.name + "_default", "--mount", "type=bind,readonly,source=" + cluster.StoragePath + "/" + useDir + ",target=/use",
	}, a.clientArgs...)
	for variable, secret := range a.secrets {
		value, err := s.secretOf(ctx, a, secret)
		if err != nil {
			return nil, err
		}
		args = append(args, "--env", variable+"="+value)
	}
	if a.known != nil {
		variables, err := a.known(ctx, s)
		if err != nil {
			return nil, err
		}
		for _, v := range variables {
			args = append(args, "--env", v)
		}
	}
	return args, nil
}

// secretOf reads a secret where a member has it.
func (s *suite) secretOf(ctx context.Context, a catalogued, secret string) (string, error) {
	members, err := s.Members(ctx, a.name)
	if err != nil {
		return "", err
	}
	n, err := s.named(members[0].Node)
	if err != nil {
		return "", err
	}
	id := "$(docker ps -q --filter label=com.docker.swarm.service.name=" + a.name + "_1)"
	if members[0].Member != a.member(1) {
		return "", fmt.Errorf("the first member is %s", members[0].Member)
	}
	out, stderr, err := n.Exec(ctx, "sh", "-c", "docker exec "+id+" cat /run/secrets/"+secret)
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr)
	}
	return strings.TrimSpace(out), err
}

func (s *suite) acknowledged(ctx context.Context, a catalogued) ([]string, error) {
	out, err := s.Docker(ctx, "logs", a.user())
	return strings.Fields(out), err
}

func (s *suite) stopUser(ctx context.Context, a catalogued) {
	_, _ = s.Docker(ctx, "rm", "--force", a.user()) // it may be gone
}

// answers has a client ask the application until it does what it is for.
func (s *suite) answers(t *testing.T, ctx context.Context, a catalogued, what string) {
	t.Helper()
	if a.answers == "" {
		return
	}
	assert.NilError(t, product.Until(ctx, 2*time.Minute, a.name+" answers: "+what, func(ctx context.Context) error {
		options, err := s.clientOptions(ctx, a)
		if err == nil {
			_, err = s.Docker(ctx, append(append([]string{"run", "--rm"}, options...), a.clientImage, "sh", "-c", a.answers)...)
		}
		return err
	}))
}

// freeVia has a single member leave the node that the client needs, as for maintenance.
func (s *suite) freeVia(t *testing.T, ctx context.Context, a catalogued) {
	t.Helper()
	members, err := s.Members(ctx, a.name)
	assert.NilError(t, err)
	if a.members > 1 || members[0].Node != s.Via.Name {
		return
	}
	_, err = s.Docker(ctx, "node", "update", "--availability", "drain", s.Via.Name)
	assert.NilError(t, err)
	defer func() {
		_, err := s.Docker(ctx, "node", "update", "--availability", "active", s.Via.Name)
		assert.NilError(t, err)
		assert.NilError(t, s.c.WaitReady(ctx))
	}()
	assert.NilError(t, product.Until(ctx, 3*time.Minute, a.member(1)+" elsewhere", func(ctx context.Context) error {
		now, err := s.Members(ctx, a.name)
		if err == nil && (now[0].Node == s.Via.Name || now[0].Health != "healthy") {
			err = fmt.Errorf("it is %s on %s: %s", now[0].State, now[0].Node, now[0].Message)
		}
		return err
	}))
}

func (s *suite) writesOn(t *testing.T, ctx context.Context, a catalogued) {
	t.Helper()
	if a.write == "" {
		return
	}
	before, err := s.acknowledged(ctx, a)
	assert.NilError(t, err)
	assert.NilError(t, product.Until(ctx, time.Minute, "writes of "+a.user(), func(ctx context.Context) error {
		now, err := s.acknowledged(ctx, a)
		if err == nil && len(now) < len(before)+3 {
			err = fmt.Errorf("%d were acknowledged, %d before", len(now), len(before))
		}
		return err
	}))
}

// keeps checks that all is healthy, that writes go on, and that nothing that was
// acknowledged is missing.
func (s *suite) keeps(t *testing.T, ctx context.Context, a catalogued, what string) {
	t.Helper()
	_, err := s.WaitHealthy(ctx, a.name, a.members+a.components, 3*time.Minute)
	assert.NilError(t, err, what)
	s.answers(t, ctx, a, what)
	if a.write == "" {
		return
	}
	s.writesOn(t, ctx, a)
	written, err := s.acknowledged(ctx, a)
	assert.NilError(t, err)
	out, stderr, err := s.Input(ctx, nil, "exec", a.user(), "sh", "-c", a.read)
	assert.NilError(t, err, "%s: %s", what, stderr)
	there := map[string]bool{}
	for _, value := range strings.Fields(out) {
		there[value] = true
	}
	var lost []string
	for _, value := range written {
		if !there[value] {
			lost = append(lost, value)
		}
	}
	assert.Equal(t, len(lost), 0, "%s: of %d acknowledged writes %d are missing: %v", what, len(written), len(lost), lost[:min(10, len(lost))])
	t.Logf("%s: %d acknowledged writes are there", what, len(written))
}

// killUnder kills the node of a member that the client does not run on, waits until
// the member is back elsewhere, and starts the node again.
func (s *suite) killUnder(t *testing.T, ctx context.Context, a catalogued) {
	t.Helper()
	members, err := s.Members(ctx, a.name)
	assert.NilError(t, err)
	var victim product.Member
	for _, m := range members[:a.members] {
		if m.Node != s.Via.Name {
			victim = m
		}
	}
	if victim.Member == "" {
		t.Fatal("all members are on the client's node")
	}
	node := s.node(t, victim.Node)
	assert.NilError(t, node.Kill(ctx))
	s.writesOn(t, ctx, a)
	assert.NilError(t, product.Until(ctx, 3*time.Minute, victim.Member+" elsewhere", func(ctx context.Context) error {
		now, err := s.Members(ctx, a.name)
		for _, m := range now {
			if m.Member == victim.Member && (m.Node == victim.Node || m.Health != "healthy") {
				err = errors.Join(err, fmt.Errorf("it is %s on %s: %s", m.State, m.Node, m.Message))
			}
		}
		return err
	}))
	assert.NilError(t, node.Start(ctx))
	assert.NilError(t, s.c.WaitReady(ctx))
}
