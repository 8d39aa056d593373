# Sourced by the scripts beside it, from the root of the tree: Howdah and the bench as they are built, the canned backend (or
# the PostgreSQL at BACKEND), a load, and a directory that is gone at the end.
profile=${PROFILE:-quick}
cargo build -q --locked --profile "$profile" --bin howdah
bench=$(cargo bench --locked --profile "$profile" --bench compare --no-run --message-format=json 2>/dev/null |
    grep -o '"executable":"[^"]*compare[^"]*"' | tail -1 | cut -d'"' -f4)
howdah=${HOWDAH:-${CARGO_TARGET_DIR:-target}/$profile/howdah}
work=$(mktemp -d)
canned=
trap '[ -z "$canned" ] || kill "$canned" 2>/dev/null; rm -rf "$work"' EXIT
backend=${BACKEND:-127.0.0.1:17010}
if [ -z "${BACKEND:-}" ]; then
    "$bench" canned --listen "$backend" >"$work/canned.log" 2>&1 &
    canned=$!
fi

load() {
    "$bench" load --address 127.0.0.1:17011 --clients 100 --in-flight 40 "$@"
}

# Starts Howdah behind the words of $2 and on, with the settings of $1; sets pid.
start() {
    cat >"$work/howdah.toml" <<TOML
listen = ["127.0.0.1:17011"]
ops_listen = "127.0.0.1:17012"
auth_method = "trust"
log_connections = false
log_disconnections = false
$1
[users.bench]
password = "bench"
[databases.bench]
host = "$backend"
pool_size = 40
TOML
    shift
    "$@" "$howdah" "$work/howdah.toml" >"$work/log" 2>&1 &
    pid=$!
    until (exec 3<>/dev/tcp/127.0.0.1/17011) 2>/dev/null; do sleep 0.1; done
}

stop() {
    kill -INT "$pid"
    wait "$pid" 2>/dev/null || :
}
