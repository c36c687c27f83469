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
		"prom/prometheus:v3.5.0": prometheusRecipe, "prom/prometheus:v3.5.99": prometheusRecipe,
	} {
		_, tag, _ := strings.Cut(name, ":")
		recipes[name] = recipe(tag)
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
