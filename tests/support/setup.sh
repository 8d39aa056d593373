#!/usr/bin/env bash
# Installs what the demo and the tests need and this machine lacks:
#     tests/support/setup.sh demo    a PostgreSQL server
#     tests/support/setup.sh bench   PgBouncer, to compare with
#     tests/support/setup.sh test    that, a newer server beside it, psql, pgbench, PgBouncer, the drivers, and the other
#                                    programs that the tests ask
# Says what it could not do; the tests then leave that out. Fails only where nothing could run at all. Prints the
# server's directory, for HOWDAH_PG_BIN, where that is a downloaded one, and nothing else, on standard output.
set -euo pipefail
cd "$(dirname "$0")/../.."

what=${1:-test}
cache=${HOWDAH_TEST_CACHE:-$PWD/tests/.cache}
psycopg=3.3.9
asyncpg=0.32.0
node_pg=8.23.1
sqlalchemy=2.1.9
mkdir -p "$cache" target

missing() {
    echo "LEFT OUT: $1: $2" >&2
    echo "$1: $2" >>target/left-out
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo -n "$@"
    else
        return 1
    fi
}

updated=
apt_install() {
    command -v apt-get >/dev/null || return 1
    if [ -z "$updated" ]; then
        as_root apt-get update -qq >&2 || return 1
        updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2
}

# Packages that come with a service, by the services' names: none of them starts, now or at the next boot. The programs
# are all that is wanted, and one that was here before stays as it is.
policy=/usr/sbin/policy-rc.d
without_services() {
    local services=$1 done=0
    shift
    local ours=
    if ! [ -e $policy ]; then
        ours=yes
        printf '#!/bin/sh\n# Made by the set-up of a test, for the time of an installation.\nexit 101\n' |
            as_root sh -c "cat >$policy && chmod 755 $policy" || return 1
    fi
    apt_install "$@" || done=1
    [ -z "$ours" ] || as_root rm -f $policy
    local service
    for service in $services; do
        if [ -d /run/systemd/system ]; then
            as_root systemctl disable --now --quiet "$service" >&2 2>/dev/null || true
        elif [ -e "/etc/init.d/$service" ]; then
            as_root "/etc/init.d/$service" stop >/dev/null 2>&1 || true
            as_root update-rc.d "$service" disable >/dev/null 2>&1 || true
        fi
    done
    return $done
}

old_pooler() {
    command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || [ -n "${PGBOUNCER:-}" ] ||
        without_services pgbouncer pgbouncer || missing "PgBouncer" "not installed, and could not be: $1"
}

have_server() {
    [ -z "${HOWDAH_PG_BIN:-}${PG_BIN:-}" ] || return 0
    command -v initdb >/dev/null && return
    for initdb in /usr/lib/postgresql/*/bin/initdb /usr/pgsql-*/bin/initdb /usr/local/pgsql/bin/initdb; do
        [ -x "$initdb" ] && return
    done
    return 1
}

server() {
    if have_server || { echo "Installing PostgreSQL ..." >&2 && without_services postgresql postgresql postgresql-client; }; then
        return
    fi
    # Without packages or without the right to install them, a downloaded server does for the demo.
    tests/support/fetch-postgres.sh 18 && return
    echo "There is no PostgreSQL server, and none could be installed: run 'apt-get install postgresql' as root," >&2
    echo "or set HOWDAH_PG_BIN to the directory that holds initdb and postgres." >&2
    exit 1
}

client_tools() {
    for tool in psql pgbench; do
        command -v $tool >/dev/null || ls /usr/lib/postgresql/*/bin/$tool >/dev/null 2>&1 ||
            without_services postgresql postgresql postgresql-client || missing "$tool" "not installed, and could not be"
    done
}

python_driver() {
    local stamp=$cache/venv/.$1
    [ "$(cat "$stamp" 2>/dev/null)" = "$3" ] && return
    rm -f "$stamp"
    if "$cache/venv/bin/pip" install --quiet --disable-pip-version-check "$2==$3" >&2; then
        echo "$3" >"$stamp"
    else
        missing "$1 $3" "pip could not install it"
    fi
}

python_drivers() {
    command -v python3 >/dev/null || apt_install python3 || { missing "psycopg, asyncpg" "no Python"; return; }
    if ! [ -x "$cache/venv/bin/pip" ]; then
        rm -rf "$cache/venv"
        python3 -m venv "$cache/venv" >/dev/null 2>&1 ||
            { apt_install python3-venv && python3 -m venv --clear "$cache/venv"; } ||
            { missing "psycopg, asyncpg" "no Python venv could be made"; rm -rf "$cache/venv"; return; }
    fi
    python_driver psycopg 'psycopg[binary]' "$psycopg"
    python_driver asyncpg asyncpg "$asyncpg"
    python_driver sqlalchemy sqlalchemy "$sqlalchemy"
}

# pgjdbc, and a JDK that runs a program from its source.
java_driver() {
    [ -e /usr/share/java/postgresql.jar ] || apt_install libpostgresql-jdbc-java ||
        { missing "pgjdbc" "not installed, and could not be"; return; }
    command -v javac >/dev/null || apt_install default-jdk-headless || missing "pgjdbc" "no JDK, and none could be installed"
}

node_driver() {
    if ! command -v npm >/dev/null || ! command -v node >/dev/null; then
        apt_install nodejs npm || { missing "node-postgres" "no Node.js"; return; }
    fi
    local stamp=$cache/node/node_modules/pg/package.json
    grep -q "\"version\": \"$node_pg\"" "$stamp" 2>/dev/null && return
    rm -rf "$cache/node"
    mkdir -p "$cache/node"
    npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$cache/node" "pg@$node_pg" >&2 ||
        { missing "node-postgres $node_pg" "npm could not install it"; rm -rf "$cache/node"; }
}

if ! command -v cargo >/dev/null; then
    echo "Howdah is built with cargo, which is not here: install Rust 1.89 or newer with rustup." >&2
    exit 1
fi
server
if [ "$what" = bench ]; then
    old_pooler "there is nothing to compare with"
fi
if [ "$what" = test ]; then
    client_tools
    python_drivers
    node_driver
    java_driver
    # The poolers change places under load.
    old_pooler "the move from it is not tried"
    # Certificates of the tests' own.
    command -v openssl >/dev/null || apt_install openssl || missing "TLS" "openssl is not installed, and could not be"
    # What the dashboards, alerts and the page are checked with; the tests go without where they cannot be had.
    command -v promtool >/dev/null || without_services prometheus prometheus || missing "promtool" "not installed, and could not be"
    command -v chromium >/dev/null || apt_install chromium fonts-dejavu-core ||
        missing "chromium" "not installed, and could not be: the page is not tried"
    # What a transaction costs is counted with these.
    command -v strace >/dev/null || apt_install strace || missing "system calls" "strace is not installed, and could not be"
    command -v valgrind >/dev/null || apt_install valgrind ||
        missing "instructions" "valgrind is not installed, and could not be"
    # A directory for logins; the tests start one of their own.
    [ -x /usr/sbin/slapd ] || without_services slapd slapd || missing "LDAP" "slapd is not installed, and could not be"
    # Modules that know users of the test's own, and what PAM is linked with.
    { [ -e /usr/include/security/pam_appl.h ] && ls /usr/lib/*/libpam_wrapper.so >/dev/null 2>&1; } ||
        apt_install libpam-wrapper libpam0g-dev || missing "PAM" "libpam-wrapper is not installed, and could not be"
    tests/support/fetch-postgres.sh 18 >/dev/null || missing "PostgreSQL 18" "could not be downloaded"
fi
