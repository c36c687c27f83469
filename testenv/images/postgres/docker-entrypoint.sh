#!/bin/bash
# Starts PostgreSQL the way the documentation of the official image describes:
# as user postgres, on a database cluster that is made at the first start.
#
#   POSTGRES_PASSWORD        password of the superuser; needed at the first start
#   POSTGRES_USER            the superuser's name (postgres)
#   POSTGRES_DB              a database to make (the superuser's name)
#   POSTGRES_INITDB_ARGS     more arguments for initdb
#   POSTGRES_INITDB_WALDIR   where WAL goes, if not into PGDATA
#   POSTGRES_HOST_AUTH_METHOD  for pg_hba.conf (the server's password_encryption)
#   PGDATA                   where the database cluster lies
#
# The POSTGRES_ variables but the last two can also name a file: POSTGRES_PASSWORD_FILE.
# At the first start, what lies in /docker-entrypoint-initdb.d is run.
set -Eeuo pipefail

# from_file sets variable $1 from the file that ${1}_FILE names, else to $2.
from_file() {
	local name=$1 file=${1}_FILE
	if [ -n "${!name:-}" ] && [ -n "${!file:-}" ]; then
		echo "error: both $name and $file are set; set one of them" >&2
		exit 1
	fi
	if [ -n "${!file:-}" ]; then
		printf -v "$name" '%s' "$(<"${!file}")"
	elif [ -z "${!name:-}" ]; then
		printf -v "$name" '%s' "${2:-}"
	fi
	export "${name?}"
	unset "$file"
}

make_folders() {
	mkdir -p "$PGDATA" /var/run/postgresql
	chmod 0700 "$PGDATA" || true
	chmod 03775 /var/run/postgresql || true
	if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then
		mkdir -p "$POSTGRES_INITDB_WALDIR"
		chmod 0700 "$POSTGRES_INITDB_WALDIR"
	fi
	if [ "$(id -u)" = 0 ]; then
		find "$PGDATA" ${POSTGRES_INITDB_WALDIR:+"$POSTGRES_INITDB_WALDIR"} \! -user postgres -exec chown postgres '{}' +
		find /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
	fi
}

require_password() {
	if [ -z "$POSTGRES_PASSWORD" ] && [ "${POSTGRES_HOST_AUTH_METHOD:-}" != trust ]; then
		cat >&2 <<-'TEXT'
			Error: Database is uninitialized and superuser password is not specified.
			       Set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE, for example
			       "-e POSTGRES_PASSWORD=password" on "docker run".
		TEXT
		exit 1
	fi
}

make_cluster() {
	local wal=()
	[ -n "${POSTGRES_INITDB_WALDIR:-}" ] && wal=(--waldir "$POSTGRES_INITDB_WALDIR")
	# The arguments are meant to be split into words.
	# shellcheck disable=SC2086
	eval "initdb --username=\"\$POSTGRES_USER\" --pwfile=<(printf '%s\n' \"\$POSTGRES_PASSWORD\") \"\${wal[@]}\" ${POSTGRES_INITDB_ARGS:-}"
	local method=${POSTGRES_HOST_AUTH_METHOD:-}
	[ -n "$method" ] || method=$(postgres -C password_encryption "$@")
	printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

sql() {
	PGHOST= PGHOSTADDR= psql -v ON_ERROR_STOP=1 --no-psqlrc --username "$POSTGRES_USER" --no-password \
		${database:+--dbname "$database"} "$@"
}

run_init_files() {
	local file
	for file in /docker-entrypoint-initdb.d/*; do
		case $file in
		*.sh)
			if [ -x "$file" ]; then
				"$file"
			else
				# shellcheck disable=SC1090
				. "$file"
			fi
			;;
		*.sql) database=$POSTGRES_DB sql -f "$file" ;;
		*.sql.gz) gunzip -c "$file" | database=$POSTGRES_DB sql ;;
		esac
	done
}

first_start() {
	require_password
	make_cluster "$@"
	export PGPASSWORD="${PGPASSWORD:-$POSTGRES_PASSWORD}"
	# Nobody else gets in before all is made.
	pg_ctl -D "$PGDATA" -o "-c listen_addresses='' -p ${PGPORT:-5432}" -w start
	if [ "$POSTGRES_DB" != postgres ]; then
		database=postgres sql -v db="$POSTGRES_DB" <<<'CREATE DATABASE :"db";'
	fi
	run_init_files
	pg_ctl -D "$PGDATA" -m fast -w stop
	unset PGPASSWORD
	printf '\nPostgreSQL init process complete; ready for start up.\n\n'
}

# An option alone is one for the server.
if [ "${1:0:1}" = - ]; then
	set -- postgres "$@"
fi

if [ "$1" = postgres ]; then
	make_folders
	if [ "$(id -u)" = 0 ]; then
		exec setpriv --reuid=postgres --regid=postgres --init-groups -- "${BASH_SOURCE[0]}" "$@"
	fi
	if [ ! -s "$PGDATA/PG_VERSION" ]; then
		from_file POSTGRES_PASSWORD
		from_file POSTGRES_USER postgres
		from_file POSTGRES_DB "$POSTGRES_USER"
		from_file POSTGRES_INITDB_ARGS
		shift
		first_start "$@"
		set -- postgres "$@"
	fi
fi
exec "$@"
