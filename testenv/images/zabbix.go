package images

// zabbixUser is that of Zabbix's official images.
const zabbixUser = `echo 'zabbix:x:1997:1995::/var/lib/zabbix:/usr/sbin/nologin' >> "$1/etc/passwd"; echo 'zabbix:x:1995:' >> "$1/etc/group"`

func zabbixRecipes() map[string]func(version string) Recipe {
	return map[string]func(version string) Recipe{
		"zabbix/zabbix-server-pgsql": zabbixServerRecipe, "zabbix/zabbix-web-nginx-pgsql": zabbixWebRecipe, "zabbix/zabbix-agent2": zabbixAgentRecipe,
	}
}

// zabbixServerEntrypoint does what the official one does for the variables of the catalog's stack:
// it waits for the database, fills it once and writes the configuration.
const zabbixServerEntrypoint = `#!/bin/bash
set -e
export PGHOST=$DB_SERVER_HOST PGUSER=$POSTGRES_USER
PGPASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
export PGPASSWORD
until psql --dbname postgres --command 'SELECT 1' >/dev/null; do sleep 2; done
if [ -z "$(psql --dbname postgres --tuples-only --no-align --command "SELECT 1 FROM pg_database WHERE datname = '$POSTGRES_DB'")" ]; then
	createdb "$POSTGRES_DB"
fi
if [ -z "$(psql --dbname "$POSTGRES_DB" --tuples-only --no-align --command "SELECT 1 FROM pg_tables WHERE tablename = 'dbversion'")" ]; then
	for part in schema images data; do zcat "/usr/share/zabbix-server-pgsql/$part.sql.gz"; done |
		psql --quiet --single-transaction --set ON_ERROR_STOP=1 --dbname "$POSTGRES_DB" >/dev/null
fi
cat >/etc/zabbix/zabbix_server.conf <<END
DBHost=$DB_SERVER_HOST
DBName=$POSTGRES_DB
DBUser=$POSTGRES_USER
DBPassword=$PGPASSWORD
LogType=console
PidFile=/tmp/zabbix_server.pid
SocketDir=/tmp
CacheSize=${ZBX_CACHESIZE:-32M}
StartPollers=${ZBX_STARTPOLLERS:-5}
END
unset PGPASSWORD
exec "$@"
`

func zabbixServerRecipe(version string) Recipe {
	return Recipe{
		Name: "zabbix-server", Suite: "trixie", Variant: "minbase",
		Packages: []string{"zabbix-server-pgsql", "postgresql-client"},
		Before:   []string{zabbixUser},
		Files:    map[string]File{"/usr/bin/docker-entrypoint.sh": {Content: zabbixServerEntrypoint, Mode: 0o755}},
		After: []string{
			`chroot "$1" install --directory --owner=zabbix --group=zabbix /etc/zabbix /var/lib/zabbix /var/lib/zabbix/export`,
			`chroot "$1" chown zabbix:zabbix /etc/zabbix/zabbix_server.conf`, dropDocumentation,
		},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"USER 1997", "EXPOSE 10051", "VOLUME /var/lib/zabbix/export",
			`ENTRYPOINT ["/usr/bin/docker-entrypoint.sh"]`, `CMD ["/usr/sbin/zabbix_server", "--foreground", "-c", "/etc/zabbix/zabbix_server.conf"]`,
		},
	}
}

const zabbixWebEntrypoint = `#!/bin/bash
set -e
password=$(cat "$POSTGRES_PASSWORD_FILE")
cat >/etc/zabbix/zabbix.conf.php <<END
<?php
\$DB = ['TYPE' => 'POSTGRESQL', 'SERVER' => '$DB_SERVER_HOST', 'PORT' => '5432', 'DATABASE' => '$POSTGRES_DB', 'USER' => '$POSTGRES_USER',
	'PASSWORD' => '$password', 'SCHEMA' => '', 'ENCRYPTION' => false, 'DOUBLE_IEEE754' => true];
\$ZBX_SERVER = '$ZBX_SERVER_HOST';
\$ZBX_SERVER_PORT = '10051';
\$ZBX_SERVER_NAME = '$ZBX_SERVER_NAME';
\$IMAGE_FORMAT_DEFAULT = IMAGE_FORMAT_PNG;
END
sed -i "s|^;*date.timezone.*|date.timezone = $PHP_TZ|" /tmp/php.ini 2>/dev/null || true
php-fpm --fpm-config /etc/zabbix/fpm.conf --nodaemonize &
exec nginx -c /etc/zabbix/nginx.conf -g 'daemon off;'
`

const zabbixFPM = `[global]
error_log = /dev/stderr
pid = /tmp/fpm.pid
[zabbix]
listen = /tmp/fpm.sock
clear_env = no
pm = ondemand
pm.max_children = 8
php_value[post_max_size] = 16M
php_value[max_execution_time] = 300
php_value[max_input_time] = 300
php_value[session.save_path] = /tmp
`

const zabbixNginx = `pid /tmp/nginx.pid;
error_log /dev/stderr;
events {}
http {
	include /etc/nginx/mime.types;
	access_log off;
	client_body_temp_path /tmp/body;
	fastcgi_temp_path /tmp/fastcgi;
	proxy_temp_path /tmp/proxy;
	scgi_temp_path /tmp/scgi;
	uwsgi_temp_path /tmp/uwsgi;
	server {
		listen 8080;
		root /usr/share/zabbix;
		index index.php;
		location = /ping { return 200 "pong"; }
		location ~ \.php$ {
			include /etc/nginx/fastcgi_params;
			fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
			fastcgi_pass unix:/tmp/fpm.sock;
		}
	}
}
`

func zabbixWebRecipe(version string) Recipe {
	return Recipe{
		Name: "zabbix-web", Suite: "trixie", Variant: "minbase",
		Packages: []string{"zabbix-frontend-php", "php-pgsql", "php-fpm", "php-curl", "nginx-light", "curl"},
		Before:   []string{zabbixUser},
		Files: map[string]File{
			"/usr/bin/docker-entrypoint.sh": {Content: zabbixWebEntrypoint, Mode: 0o755},
			"/etc/zabbix/fpm.conf":          {Content: zabbixFPM, Mode: 0o644},
			"/etc/zabbix/nginx.conf":        {Content: zabbixNginx, Mode: 0o644},
		},
		After: []string{
			`chroot "$1" chown zabbix:zabbix /etc/zabbix`,
			`ln -s "$(cd "$1" && ls usr/sbin/php-fpm* | head -n 1 | sed 's|^|/|')" "$1/usr/local/bin/php-fpm"`, dropDocumentation,
		},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"USER 1997", "EXPOSE 8080", `ENTRYPOINT ["docker-entrypoint.sh"]`,
		},
	}
}

const zabbixAgentEntrypoint = `#!/bin/bash
set -e
cat >/tmp/zabbix_agent2.conf <<END
Server=$ZBX_SERVER_HOST
ServerActive=$ZBX_SERVER_HOST
Hostname=$ZBX_HOSTNAME
LogType=console
PidFile=/tmp/zabbix_agent2.pid
ControlSocket=/tmp/agent.sock
END
exec zabbix_agent2 --foreground -c /tmp/zabbix_agent2.conf
`

func zabbixAgentRecipe(version string) Recipe {
	return Recipe{
		Name: "zabbix-agent2", Suite: "trixie", Variant: "minbase",
		Packages: []string{"zabbix-agent2"},
		Before:   []string{zabbixUser},
		Files:    map[string]File{"/usr/bin/docker-entrypoint.sh": {Content: zabbixAgentEntrypoint, Mode: 0o755}},
		After:    []string{dropDocumentation},
		Config: []string{
			"ENV PATH=" + defaultPath, "LABEL org.opencontainers.image.version=" + version,
			"USER 1997", "EXPOSE 10050", `ENTRYPOINT ["/usr/bin/docker-entrypoint.sh"]`,
		},
	}
}
