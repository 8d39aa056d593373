#!/usr/bin/env bash
# What workers share, counted: the calls by which threads wait for and wake each other, for each simple transaction.
#     benches/scaling.sh
#     WORKERS="1 2 4 8 16" COUNT=50000 benches/scaling.sh
# strace writes the stack of each futex call and of each write to a reactor's eventfd. A futex call comes from a worker of
# the runtime that goes to sleep or wakes another (parking), from a lock of Howdah's that two threads wanted at once
# (parking_lot), or from the runtime's own locks (std). Needs strace with -k.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${PROFILE:-quick}
count=${COUNT:-20000}
strace -k -o /dev/null true 2>/dev/null || { echo "strace with -k (stacks) is not installed" >&2; exit 1; }
cargo build -q --locked --profile "$profile" --bin howdah
bench=$(cargo bench --locked --profile "$profile" --bench compare --no-run --message-format=json 2>/dev/null |
    grep -o '"executable":"[^"]*compare[^"]*"' | tail -1 | cut -d'"' -f4)
howdah=${HOWDAH:-${CARGO_TARGET_DIR:-target}/$profile/howdah}
work=$(mktemp -d)
canned=
trap '[ -z "$canned" ] || kill "$canned" 2>/dev/null; rm -rf "$work"' EXIT
"$bench" canned --listen 127.0.0.1:17020 >"$work/canned.log" 2>&1 &
canned=$!

printf '%-8s %14s %14s %14s %14s\n' workers parking "Howdah's locks" "runtime's" "reactor woken"
for workers in ${WORKERS:-1 2 4 8}; do
    cat >"$work/howdah.toml" <<TOML
listen = ["127.0.0.1:17021"]
ops_listen = "off"
auth_method = "trust"
workers = $workers
log_connections = false
log_disconnections = false
[users.bench]
password = "bench"
[databases.bench]
host = "127.0.0.1:17020"
pool_size = 40
TOML
    "$howdah" "$work/howdah.toml" >"$work/log" 2>&1 &
    pid=$!
    until (exec 3<>/dev/tcp/127.0.0.1/17021) 2>/dev/null; do sleep 0.1; done
    coproc load { "$bench" load --driven --address 127.0.0.1:17021 --clients 100 --in-flight 40 --workload simple; }
    # All have logged in and have been served once.
    read -r _ <&"${load[0]}"
    strace -f -k -qq -e trace=futex,write -e signal=none -o "$work/trace" -p "$pid" 2>/dev/null &
    tracer=$!
    until ! grep -L "TracerPid:[[:space:]]*$tracer" /proc/"$pid"/task/*/status | grep -q .; do sleep 0.1; done
    echo "transactions $count" >&"${load[1]}"
    read -r _ <&"${load[0]}"
    kill -INT "$tracer"
    wait "$tracer" 2>/dev/null || :
    kill "$load_PID" "$pid"
    wait "$load_PID" "$pid" 2>/dev/null || :
    # A call that another interrupts is written in two pieces, with its stack behind the second.
    awk -v workers="$workers" -v n="$count" '
        function over() {
            if (call == "futex") {
                if (stack ~ /parking_lot|howdah::/ && stack !~ /tokio::runtime/) locks++
                else if (stack ~ /park|run_task/) parking++
                else runtime++
            } else if (call == "write" && stack ~ /Waker::wake/) reactor++
            call = stack = ""
        }
        /^ > / { sub(/.*howdah\(/, ""); stack = stack " " $0; next }
        { over() }
        / unfinished \.\.\.>$/ { next }
        /futex/ { call = "futex" }
        /write/ { call = "write" }
        END {
            over()
            printf "%-8s %14.4f %14.4f %14.4f %14.4f\n", workers, parking / n, locks / n, runtime / n, reactor / n
        }' "$work/trace"
done
