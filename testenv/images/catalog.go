package images

import "strings"

// catalogRecipes make what stands in for the official images of the catalog's
// applications: their programs from Debian, with the official images' paths, users
// and ports. Each has a second tag, which names the same programs, to upgrade to.
func catalogRecipes() map[string]Recipe {
	recipes := map[string]Recipe{}
	for name, recipe := range map[string]func(version string) Recipe{
		"etcd:3.5": etcdRecipe, "etcd:3.5.99": etcdRecipe,
		"rabbitmq:4-management": rabbitmqRecipe, "rabbitmq:4.99-management": rabbitmqRecipe,
		"apache/kafka:4.1.0": kafkaRecipe, "apache/kafka:4.1.99": kafkaRecipe,
		"opensearchproject/opensearch:3.2.0": opensearchRecipe, "opensearchproject/opensearch:3.2.99": opensearchRecipe,
		"cturra/ntp:latest": ntpRecipe, "cturra/ntp:next": ntpRecipe,
		"traefik:v3.5": traefikRecipe, "traefik:v3.5.99": traefikRecipe,
		"linuxserver/wireguard:1.0.20250521": wireguardRecipe, "linuxserver/wireguard:1.0.99": wireguardRecipe,
		"openmanage/clamav-mirror:1.0": clamavMirrorRecipe, "openmanage/clamav-mirror:1.0.99": clamavMirrorRecipe,
		"nginx:1.26": nginxRecipe, "nginx:1.26.99": nginxRecipe,
		"prom/prometheus:v3.5.0": prometheusRecipe, "prom/prometheus:v3.5.99": prometheusRecipe,
		"prom/node-exporter:v1.9.1": nodeExporterRecipe, "prom/node-exporter:v1.9.99": nodeExporterRecipe,
	} {
		_, tag, _ := strings.Cut(name, ":")
		recipes[name] = recipe(tag)
	}
	for name, recipe := range zabbixRecipes() {
		for _, tag := range []string{"ubuntu-7.0.21", "ubuntu-7.0.99"} {
			recipes[name+":"+tag] = recipe(tag)
		}
	}
	return recipes
}

// execEntrypoint is all that is left of an entrypoint whose image starts as its user.
const execEntrypoint = "#!/bin/sh\nexec \"$@\"\n"

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func etcdRecipe(version string) Recipe {
	return Recipe{
		Name: "etcd", Suite: "trixie", Variant: "minbase",
		Packages: []string{"etcd-server", "etcd-client"},
		After:    []string{`ln -s /usr/bin/etcd /usr/bin/etcdctl "$1/usr/local/bin/"`, dropDocumentation},
		Config: []string{
			"ENV PATH=" + defaultPath,
			"LABEL org.opencontainers.image.version=" + version,
			"EXPOSE 2379 2380", `CMD ["/usr/local/bin/etcd"]`,
		},
	}
}

func rabbitmqRecipe(version string) Recipe {
	const bin = "/usr/lib/rabbitmq/bin"
	return Recipe{
		Name: "rabbitmq", Suite: "trixie", Variant: "minbase",
		Packages: []string{"rabbitmq-server"},
		Before: []string{
			`echo 'rabbitmq:x:999:999::/var/lib/rabbitmq:/bin/bash' >> "$1/etc/passwd"`,
			`echo 'rabbitmq:x:999:' >> "$1/etc/group"`,
			`echo 'rabbitmq:*:20000:0:99999:7:::' >> "$1/etc/shadow"`,
		},
		Files: map[string]File{
			"/usr/local/bin/docker-entrypoint.sh": {Content: execEntrypoint, Mode: 0o755},
			"/etc/rabbitmq/enabled_plugins":       {Content: "[rabbitmq_management,rabbitmq_prometheus].\n", Mode: 0o644},
		},
		After: []string{
			`rm -rf "$1/var/lib/rabbitmq/mnesia" "$1/var/lib/rabbitmq/.erlang.cookie" "$1/etc/rabbitmq/rabbitmq-env.conf"`,
			`chroot "$1" install --directory --owner=rabbitmq --group=rabbitmq --mode=777 /var/lib/rabbitmq /etc/rabbitmq /var/log/rabbitmq`,
			dropDocumentation,
		},
		Config: []string{
			"ENV PATH=" + bin + ":" + defaultPath,
			"ENV RABBITMQ_LOGS=- HOME=/var/lib/rabbitmq LANG=C.UTF-8 LC_ALL=C.UTF-8",
			"LABEL org.opencontainers.image.version=" + version,
			"VOLUME /var/lib/rabbitmq", "EXPOSE 4369 5671 5672 15672 25672",
			`ENTRYPOINT ["docker-entrypoint.sh"]`, `CMD ["rabbitmq-server"]`,
		},
	}
}

func prometheusRecipe(version string) Recipe {
	return Recipe{
		Name: "prometheus", Suite: "trixie", Variant: "minbase",
		Packages: []string{"prometheus"},
		After: []string{
			`chroot "$1" install --directory --owner=nobody --group=nogroup /prometheus`,
			dropDocumentation,
		},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"USER nobody", "WORKDIR /prometheus", "VOLUME /prometheus", "EXPOSE 9090",
			`ENTRYPOINT ["/bin/prometheus"]`,
			`CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]`,
		},
	}
}

func nginxRecipe(version string) Recipe {
	return Recipe{
		Name: "nginx", Suite: "trixie", Variant: "minbase",
		Packages: []string{"nginx-light"},
		After:    []string{dropDocumentation},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"EXPOSE 80", `CMD ["nginx", "-g", "daemon off;"]`,
		},
	}
}

// nodeExporterRecipe has wget for the health check, which the official image has from busybox.
func nodeExporterRecipe(version string) Recipe {
	return Recipe{
		Name: "node-exporter", Suite: "trixie", Variant: "minbase",
		Packages: []string{"prometheus-node-exporter", "wget"},
		After:    []string{`ln -s prometheus-node-exporter "$1/usr/bin/node_exporter"`, dropDocumentation},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"USER nobody", "EXPOSE 9100", `ENTRYPOINT ["/bin/node_exporter"]`,
		},
	}
}

// javaHome is Debian's, for servers from Maven Central.
const javaHome = "/usr/lib/jvm/default-java"

// kafkaRun does for the stack of the catalog what the official image's script does: every
// variable KAFKA_SOME_NAME becomes the property some.name, the folder is formatted once.
const kafkaRun = `#!/bin/bash
set -e
properties=/opt/kafka/config/server.properties
env | grep '^KAFKA_' | grep -v '^KAFKA_\(HEAP_OPTS\|OPTS\)=' | while IFS='=' read -r name value; do
	name=${name#KAFKA_}
	name=${name,,}
	echo "${name//_/.}=$value"
done >"$properties"
kafka=(java $KAFKA_HEAP_OPTS -Dorg.slf4j.simpleLogger.defaultLogLevel=warn -cp '/opt/kafka/libs/*')
"${kafka[@]}" kafka.tools.StorageTool format --ignore-formatted --cluster-id "$CLUSTER_ID" --config "$properties"
exec "${kafka[@]}" kafka.Kafka "$properties"
`

func kafkaRecipe(version string) Recipe {
	return Recipe{
		Name: "kafka", Suite: "trixie", Variant: "minbase",
		Packages:  []string{"default-jre-headless"},
		Artifacts: &Artifacts{Jars: []string{"org.apache.kafka:kafka_2.13:4.1.0", "org.apache.kafka:kafka-tools:4.1.0", "org.slf4j:slf4j-simple:1.7.36"}, Into: "/opt/kafka/libs"},
		Files: map[string]File{
			"/__cacert_entrypoint.sh": {Content: execEntrypoint, Mode: 0o755},
			"/etc/kafka/docker/run":   {Content: kafkaRun, Mode: 0o755},
		},
		After: []string{
			`chroot "$1" useradd --uid 1000 --user-group appuser`,
			`chroot "$1" install --directory --owner=appuser --group=appuser /opt/kafka/config /var/lib/kafka/data`,
			dropDocumentation,
		},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"USER appuser", "EXPOSE 9092",
			`ENTRYPOINT ["/__cacert_entrypoint.sh"]`, `CMD ["/etc/kafka/docker/run"]`,
		},
	}
}

// opensearchRun does what the official image's entrypoint does: every variable with a dot in its
// name becomes a setting. OpenSearch refuses to start a member of a cluster that may open less than
// 65,535 files. On a machine that allows less, and that nobody may raise it on, the server is told that
// there is no limit: strace writes that over what the kernel answers.
const opensearchRun = `#!/bin/bash
settings=()
while IFS='=' read -r -d '' name value; do
	if [[ $name =~ ^[a-z0-9_]+\.[a-z0-9_.]+$ ]]; then settings+=("-E$name=$value"); fi
done < <(env --null)
unlimited=()
files=$(ulimit -Hn)
if [[ $files != unlimited ]] && ((files < 65535)); then
	ulimit -n "$files"
	unlimited=(strace -D -f --seccomp-bpf -qqq -o /dev/null -e trace=prlimit64 -e inject=prlimit64:poke_exit=@arg4=ffffffffffffffffffffffffffffffff)
fi
exec "${unlimited[@]}" bin/opensearch "${settings[@]}"
`

// opensearchRecipe is the server without the plugins of the official image: there is no
// security plugin, so neither TLS nor a password. It maps no files, so that it starts on a
// machine whose vm.max_map_count is the kernel's default.
func opensearchRecipe(version string) Recipe {
	const home = "/usr/share/opensearch"
	return Recipe{
		Name: "opensearch", Suite: "trixie", Variant: "minbase",
		Packages:  []string{"default-jre-headless", "strace"},
		Artifacts: &Artifacts{Zips: []string{"org.opensearch.distribution.integ-test-zip:opensearch:3.2.0"}, Into: home},
		Files: map[string]File{
			home + "/opensearch-docker-entrypoint.sh": {Content: opensearchRun, Mode: 0o755},
		},
		After: []string{
			`echo 'node.store.allow_mmap: false' >> "$1` + home + `/config/opensearch.yml"`,
			`chroot "$1" useradd --uid 1000 --user-group --home-dir ` + home + ` opensearch`,
			`chroot "$1" install --directory --owner=opensearch --group=opensearch ` + home + `/data ` + home + `/logs`,
			`chroot "$1" chown --recursive opensearch:opensearch ` + home,
			`chmod +x "$1` + home + `"/bin/*`,
			dropDocumentation,
		},
		Config: []string{
			"ENV PATH=" + home + "/bin:" + defaultPath + " JAVA_HOME=" + javaHome, "LABEL org.opencontainers.image.version=" + version,
			"USER 1000", "WORKDIR " + home, "EXPOSE 9200 9300",
			`ENTRYPOINT ["./opensearch-docker-entrypoint.sh"]`, `CMD ["opensearch"]`,
		},
	}
}

func ntpRecipe(version string) Recipe {
	return Recipe{
		Name: "ntp", Suite: "trixie", Variant: "minbase",
		Packages: []string{"chrony"},
		After:    []string{dropDocumentation},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"EXPOSE 123/udp", `ENTRYPOINT ["/bin/sh", "-c", "exec chronyd -d -x"]`,
		},
	}
}

// traefikRecipe builds the server from its module, without its dashboard, which is no Go.
func traefikRecipe(version string) Recipe {
	return Recipe{
		Name: "traefik", Suite: "trixie", Variant: "minbase",
		Packages: []string{"ca-certificates"},
		Program: &Program{
			Module: "github.com/traefik/traefik/v3", Version: "v3.5.0", Package: "./cmd/traefik", Into: "/usr/local/bin/traefik",
			Files: map[string]string{"webui/static/index.html": "no dashboard\n"},
		},
		After: []string{dropDocumentation},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"EXPOSE 80", `ENTRYPOINT ["/usr/local/bin/traefik"]`,
		},
	}
}

// wireguardRecipe has wireguard-go, which wg-quick takes where the kernel has no WireGuard.
func wireguardRecipe(version string) Recipe {
	return Recipe{
		Name: "wireguard", Suite: "trixie", Variant: "minbase",
		Packages: []string{"wireguard-tools", "wireguard-go", "iproute2", "iptables", "procps"},
		After:    []string{dropDocumentation},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"EXPOSE 51820/udp", "VOLUME /config", `CMD ["sleep", "infinity"]`,
		},
	}
}

// clamavMirrorRecipe makes what stacks/clamav-mirror/Dockerfile says, of Debian's nginx and Python, with
// cvdupdate from PyPI.
func clamavMirrorRecipe(version string) Recipe {
	return Recipe{
		Name: "clamav-mirror", Suite: "trixie", Variant: "minbase",
		Packages: []string{"nginx-light", "python3", "ca-certificates"},
		Files: map[string]File{
			"/usr/local/bin/cvd": {Content: "#!/bin/sh\nPYTHONPATH=/opt/cvdupdate exec python3 -m cvdupdate \"$@\"\n", Mode: 0o755},
		},
		After: []string{`python3 -m pip install --quiet --target "$1/opt/cvdupdate" cvdupdate==1.1.3`, dropDocumentation},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"USER 10001:10001", "EXPOSE 8080",
		},
	}
}
