package images

import _ "embed"

//go:embed postgres/docker-entrypoint.sh
var postgresEntrypoint string

// postgresRecipe makes an image that can stand in for the official postgres:17:
// its user, paths, variables, port and stop signal. version is only a label.
func postgresRecipe(version string) Recipe {
	const bin = "/usr/lib/postgresql/17/bin"
	return Recipe{
		Name:     "postgres",
		Suite:    "trixie",
		Variant:  "minbase",
		Packages: []string{"postgresql-17", "locales", "util-linux"},
		Before: []string{
			// The official image's numbers, which the files on volumes carry.
			`echo 'postgres:x:999:999::/var/lib/postgresql:/bin/bash' >> "$1/etc/passwd"`,
			`echo 'postgres:x:999:' >> "$1/etc/group"`,
			`echo 'postgres:*:20000:0:99999:7:::' >> "$1/etc/shadow"`,
			// The package makes a database cluster when it is installed.
			`mkdir -p "$1/etc/postgresql-common" && echo 'create_main_cluster = false' > "$1/etc/postgresql-common/createcluster.conf"`,
		},
		Files: map[string]File{
			"/usr/local/bin/docker-entrypoint.sh": {Content: postgresEntrypoint, Mode: 0o755},
			"/usr/local/bin/gosu":                 {Content: gosu, Mode: 0o755},
		},
		After: []string{
			`chroot "$1" localedef -i en_US -c -f UTF-8 -A /usr/share/locale/locale.alias en_US.UTF-8`,
			`rm -rf "$1/etc/postgresql/17" "$1/var/lib/postgresql/17"`,
			`chroot "$1" sed -ri "s!^#?(listen_addresses)\s*=\s*\S+.*!\1 = '*'!" /usr/share/postgresql/17/postgresql.conf.sample`,
			`chroot "$1" install --directory --owner=postgres --group=postgres --mode=1777 /var/lib/postgresql /var/lib/postgresql/data`,
			`chroot "$1" install --directory --owner=postgres --group=postgres --mode=3777 /var/run/postgresql`,
			`mkdir "$1/docker-entrypoint-initdb.d"`,
			dropDocumentation,
		},
		Config: []string{
			"ENV PG_MAJOR=17 PGDATA=/var/lib/postgresql/data LANG=en_US.utf8",
			"ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:" + bin,
			"LABEL org.opencontainers.image.version=" + version,
			"VOLUME /var/lib/postgresql/data",
			"EXPOSE 5432",
			"STOPSIGNAL SIGINT",
			`ENTRYPOINT ["docker-entrypoint.sh"]`,
			`CMD ["postgres"]`,
		},
	}
}

const gosu = `#!/bin/sh
# gosu USER COMMAND...: runs a command as another user, in our place.
user=$1
shift
exec setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups -- "$@"
`

// dropDocumentation makes an image smaller, as Debian's slim images are.
const dropDocumentation = `rm -rf "$1"/usr/share/doc/* "$1"/usr/share/man/* "$1"/usr/share/info/* "$1"/var/log/*.log "$1"/var/log/apt "$1"/var/cache/* && ` +
	`find "$1/usr/share/locale" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +`
