package stacks

import (
	"fmt"
	"strings"
	"testing"

	"github.com/docker/cli/cli/compose/types"
	"gotest.tools/v3/assert"
)

// demandsOf are those of a stack called web, of which a part stands in the service, at the
// end of its deploy section, or beside the services.
func demandsOf(t *testing.T, o Options, service, deploy, beside string) []string {
	t.Helper()
	app, err := parseApp([]byte(plainApp))
	assert.NilError(t, err)
	o.Name = "web"
	image := "    image: web:1.0\n"
	if strings.Contains(service, "image:") {
		image = ""
	}
	doc := "version: \"3.13\"\nservices:\n  app:\n" + image + indent(service, 4) + "    deploy:\n      replicas: 1\n" + indent(deploy, 6) + beside + "\n"
	config, err := validate([]byte(doc))
	assert.NilError(t, err, doc)
	return texts(app.Demands(app.Complete(o), config))
}

func texts(demands []Demand) []string {
	found := []string{}
	for _, d := range demands {
		found = append(found, d.String())
	}
	return found
}

func indent(text string, by int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(strings.Repeat(" ", by) + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}

func TestDemands(t *testing.T) {
	const socket = "docker-socket: service app: mount at /s: "
	for _, tc := range []struct {
		doc                     string
		service, deploy, beside string
		o                       Options
		want                    []string // none: it takes nothing of others
	}{
		{doc: "nothing"},
		{doc: "the socket", service: "volumes: ['/var/run/docker.sock:/s']", want: []string{socket + "/var/run/docker.sock"}},
		{doc: "the socket by its other path", service: "volumes: ['/run//docker.sock:/s:ro']", want: []string{socket + "/run//docker.sock"}},
		{doc: "a folder above the socket", service: "volumes: [{type: bind, source: /var, target: /s}]", want: []string{socket + "/var"}},
		{doc: "the whole node", service: "volumes: ['/:/s']", want: []string{socket + "/"}},
		{doc: "the socket of a rootless engine", service: "volumes: ['/run/user/1000/docker.sock:/s']", want: []string{socket + "/run/user/1000/docker.sock"}},
		{doc: "a host path", service: "volumes: ['/etc:/e']", want: []string{"host-path: service app: mount at /e: /etc"}},
		{doc: "a path of the user", service: "volumes: ['~/.ssh:/e']", want: []string{"host-path: service app: mount at /e: /~/.ssh"}},
		{doc: "a relative path", service: "volumes: ['./x:/e']", want: []string{"host-path: service app: mount at /e: /x"}},
		{doc: "a path that would hide the line", service: "volumes: [{type: bind, source: \"/e\\e[2Kx\\r\", target: /e}]", want: []string{"host-path: service app: mount at /e: /e?[2Kx?"}},
		{doc: "a host path behind a volume", service: "volumes: ['v:/e']", beside: "volumes: {v: {driver_opts: {type: none, o: bind, device: /etc}}}", want: []string{"host-path: volume web_v: /etc"}},
		{doc: "the socket behind a volume", service: "volumes: ['v:/e']", beside: "volumes: {v: {driver: local, driver_opts: {type: none, o: bind, device: /run}}}", want: []string{"docker-socket: volume web_v: /run"}},
		{doc: "its own volumes", service: "volumes: ['v:/e', 'web-1:/d', '/anonymous']", beside: "volumes: {v: {}, web-1: {name: web-1, driver: openmanage, driver_opts: {application: web}}}"},
		{doc: "tmpfs", service: "volumes: [{type: tmpfs, target: /t}]\ntmpfs: /tmp"},
		{doc: "another's volume", beside: "volumes: {v: {external: true, name: pg-1}}", want: []string{"foreign-volume: volume pg-1"}},
		{doc: "another's volume as its own", beside: "volumes: {v: {name: pg-1, driver: openmanage}}", want: []string{"foreign-volume: volume pg-1", `foreign-volume: volume pg-1: application ""`}},
		{doc: "another's socket to the plugin", beside: "volumes: {v: {name: pg-1.runtime, driver: openmanage}}", want: []string{"foreign-volume: volume pg-1.runtime"}},
		{doc: "a volume in another's name", beside: "volumes: {v: {driver: openmanage, driver_opts: {application: pg}}}", want: []string{`foreign-volume: volume web_v: application "pg"`}},
		{doc: "a volume that speaks for another's member", beside: "volumes: {web-1: {name: web-1, driver: openmanage, driver_opts: {application: web, member: pg-1}}}", want: []string{`foreign-volume: volume web-1: member "pg-1"`}},
		{doc: "a volume that says not whose it is", beside: "volumes: {web-1: {name: web-1, driver: openmanage}, web-1.runtime: {name: web-1.runtime, driver: openmanage}}", want: []string{`foreign-volume: volume web-1: application ""`}},
		{doc: "a name that is not known yet", beside: "volumes: {v: {name: 'web-{{.Task.Name}}', driver: openmanage}, w: {name: 'web_{{.Task.Slot}}'}}", want: []string{"foreign-volume: volume web-{{.Task.Name}}", `foreign-volume: volume web-{{.Task.Name}}: application ""`}},
		{doc: "a name that only begins alike", beside: "volumes: {v: {name: webmail-1, driver: openmanage}}", want: []string{"foreign-volume: volume webmail-1", `foreign-volume: volume webmail-1: application ""`}},
		{doc: "another plugin", beside: "volumes: {v: {driver: rclone}}", want: []string{"volume-driver: volume web_v with driver rclone"}},
		{doc: "capabilities", service: "cap_add: [SYS_ADMIN, NET_ADMIN]\ncap_drop: [ALL]", want: []string{"capabilities: service app: cap_add NET_ADMIN", "capabilities: service app: cap_add SYS_ADMIN"}},
		{doc: "sysctls", service: "sysctls: {net.core.somaxconn: '1024'}", want: []string{"sysctls: service app: sysctl net.core.somaxconn=1024"}},
		{doc: "a port", service: "ports: ['80:8080', '9090']", want: []string{"host-port: service app: a port of the nodes that Docker chooses, for its port 9090/tcp", "host-port: service app: port 80/tcp of the nodes, for its port 8080"}},
		{doc: "a port of the node that Docker chooses", service: "ports: [{target: 9090, mode: host}]", want: []string{"host-port: service app: a port of the nodes that Docker chooses, for its port 9090/tcp"}},
		{doc: "a port of another protocol than the user asked for", service: "ports: ['80:8080/udp']", o: Options{Publish: []Publish{{80, 8080}}}, want: []string{"host-port: service app: port 80/udp of the nodes, for its port 8080"}},
		{doc: "a port that the user asked for", service: "ports: ['80:8080']", o: Options{Publish: []Publish{{80, 8080}}}},
		{doc: "its own secret", service: "secrets: [s]", beside: "secrets: {s: {external: true, name: web_admin-password}}"},
		{doc: "another's secret", service: "secrets: [s]", beside: "secrets: {s: {external: true, name: pg_superuser-password}}", want: []string{"foreign-secret: secret pg_superuser-password"}},
		{doc: "a secret of an application that begins alike", beside: "secrets: {s: {external: true, name: web-db_superuser-password}}", want: []string{"foreign-secret: secret web-db_superuser-password"}},
		{doc: "a secret by its key", beside: "secrets: {pg_superuser-password: {external: true}}", want: []string{"foreign-secret: secret pg_superuser-password"}},
		{doc: "a secret of a plugin", beside: "secrets: {s: {driver: vault}}", want: []string{"foreign-secret: secret web_s with driver vault"}},
		{doc: "a record", beside: "configs: {c: {external: true, name: openmanage.application.pg}}", want: []string{"foreign-config: config openmanage.application.pg"}},
		{doc: "its own network", service: "networks: [default, back]", beside: "networks: {default: {driver: overlay}, back: {attachable: true}}"},
		{doc: "another's network", service: "networks: [n]", beside: "networks: {n: {external: true, name: pg_default}}", want: []string{"foreign-name: service app: it answers to app in the network pg_default", "foreign-network: network pg_default"}},
		{doc: "a network that the user named", beside: "networks: {n: {external: true, name: apps}}", o: Options{Networks: []string{"apps"}}},
		{doc: "a network in another's name", beside: "networks: {n: {name: pg_default}}", want: []string{"foreign-network: network pg_default"}},
		{doc: "the node's network", service: "networks: [n]", beside: "networks: {n: {external: true, name: host}}", want: []string{"host-network: network host"}},
		{doc: "a network of the node's interface", beside: "networks: {n: {driver: macvlan}}", want: []string{"host-network: network web_n with driver macvlan"}},
		{doc: "its own names", service: "hostname: web-1\nnetworks: {default: {aliases: [web, web-1]}}"},
		{doc: "others' names", service: "hostname: pg-1\nnetworks: {default: {aliases: [pg]}}", want: []string{"foreign-name: service app: alias pg", "foreign-name: service app: hostname pg-1"}},
		{doc: "a key that others would find", service: "networks: [default, n]", beside: "networks: {n: {external: true, name: apps}}", o: Options{Networks: []string{"apps"}}, want: []string{"foreign-name: service app: it answers to app in the network apps"}},
		{doc: "the domain of another", deploy: "labels: {traefik.http.routers.web.rule: 'Host(`zabbix.example.org`)'}", want: []string{"foreign-name: service app: label traefik.http.routers.web.rule=Host(`zabbix.example.org`)"}},
		{doc: "all that comes in by TLS", deploy: "labels: {Traefik.tcp.routers.x.rule: 'HostSNI(`*`)'}", want: []string{"foreign-name: service app: label Traefik.tcp.routers.x.rule=HostSNI(`*`)"}},
		{doc: "a log driver that keeps it on the node", service: "logging: {driver: local}"},
		{doc: "a log driver that sends it", service: "logging: {driver: syslog, options: {syslog-address: 'unix:///run/x'}}", want: []string{"log-driver: service app: logging driver syslog"}},
		{doc: "another's member", deploy: "labels: {openmanage.application: pg, openmanage.member: pg-9, openmanage.volume: web-1}", want: []string{"foreign-name: service app: label openmanage.application=pg", "foreign-name: service app: label openmanage.member=pg-9"}},
		{doc: "another's stack", deploy: "labels: {com.docker.stack.namespace: pg}", want: []string{"foreign-name: service app: label com.docker.stack.namespace=pg"}},
		{doc: "global", deploy: "placement: {constraints: [node.labels.a == b]}\nmode: replicated"},
		{doc: "managers", deploy: "placement: {constraints: ['node.role==manager']}", want: []string{"managers: service app: node.role==manager"}},
		{doc: "no workers", deploy: "placement: {constraints: ['node.role != Worker']}", want: []string{"managers: service app: node.role != Worker"}},
		{doc: "latest", service: "image: web:latest", want: []string{"latest-image: service app: image web:latest"}},
		{doc: "no tag", service: "image: registry.example.com:5000/web", want: []string{"latest-image: service app: image registry.example.com:5000/web"}},
		{doc: "a digest", service: "image: web@sha256:" + strings.Repeat("0", 64)},
		{doc: "latest, because the user said so", service: "image: web:latest", o: Options{Image: "web:latest"}},
	} {
		t.Run(tc.doc, func(t *testing.T) {
			if tc.want == nil {
				tc.want = []string{}
			}
			assert.DeepEqual(t, demandsOf(t, tc.o, tc.service, tc.deploy, tc.beside), tc.want)
		})
	}
}

// What Docker ignores in a Swarm today is a demand all the same.
func TestDemandsOfWhatDockerIgnores(t *testing.T) {
	app, err := parseApp([]byte(plainApp))
	assert.NilError(t, err)
	for i, s := range []types.ServiceConfig{{Privileged: true}, {Pid: "host"}, {SecurityOpt: []string{"seccomp=unconfined"}}, {Devices: []string{"/dev/sda"}}, {OomScoreAdj: -500}} {
		s.Name, s.Image = "app", "web:1.0"
		found := app.Demands(app.Complete(Options{Name: "web"}), &types.Config{Services: types.Services{s}})
		assert.Equal(t, len(Missing(found, []string{AllowCapabilities})), 1, fmt.Sprint(i))
		assert.Equal(t, found[0].Allow, AllowPrivileges)
		assert.Equal(t, len(Missing(found, []string{AllowPrivileges})), 0)
	}
	global := types.ServiceConfig{Name: "app", Image: "web:1.0", Deploy: types.DeployConfig{Mode: "global-job"}, NetworkMode: "host"}
	assert.DeepEqual(t, texts(app.Demands(app.Complete(Options{Name: "web"}), &types.Config{Services: types.Services{global}})),
		[]string{"global: service app: mode global-job", "host-network: service app: network_mode host"})
}

func TestEveryPermissionIsExplained(t *testing.T) {
	assert.NilError(t, CheckAllow(PermissionNames()))
	for name, why := range Permissions {
		assert.Assert(t, why != "", name)
	}
	assert.ErrorContains(t, CheckAllow([]string{"docker-sock"}), `--allow "docker-sock": expected one of capabilities, docker-socket, `)
	assert.ErrorContains(t, CheckAllow([]string{"docker-sock"}), `did you mean "docker-socket"?`)
}

func TestPasswordsInLabelsAreFound(t *testing.T) {
	config, err := validate([]byte("version: '3.8'\nservices: {app: {image: a, labels: {app.password: x}, deploy: {labels: {proxy.secret: y, openmanage.x.secret: z}}}}"))
	assert.NilError(t, err)
	assert.Equal(t, len(checkPasswords(config)), 2, "%v", checkPasswords(config))
}

// What --domain brings with it is the user's choice; another Traefik and another domain are not.
func TestTheDomainOfTheUserIsNoDemand(t *testing.T) {
	app, err := parseApp([]byte(plainApp + "ports: [{name: web, port: 8080, web: true, description: the site}]\n"))
	assert.NilError(t, err)
	app.template = plainTemplate
	shared, err := builtinShared()
	assert.NilError(t, err)
	app.common = shared.template
	o := app.Complete(Options{Name: "web", Domain: "web.example.org"})
	stack, err := app.Generate(o)
	assert.NilError(t, err)
	assert.Assert(t, strings.Contains(string(stack.YAML), "traefik.enable"))
	assert.DeepEqual(t, texts(app.Demands(o, stack.Config)), []string{})
	other := o
	other.Domain, other.Via = "other.example.org", "door"
	found := strings.Join(texts(app.Demands(other, stack.Config)), "\n")
	assert.Assert(t, strings.Contains(found, "foreign-network: network traefik_default"), found)
	assert.Assert(t, strings.Contains(found, "rule=Host(`web.example.org`)"), found)
}
