#!/usr/bin/env bash
# What workers share, counted: the calls by which threads wait for and wake each other, for each simple transaction.
#     benches/scaling.sh
#     WORKERS="1 2 4 8 16" COUNT=50000 benches/scaling.sh
# strace writes the stack of each futex call and of each write to a reactor's eventfd. A futex call comes from a worker of
# the runtime that goes to sleep or wakes another (parking), from a lock of Howdah's that two threads wanted at once
# (parking_lot), or from the runtime's own locks (std). Needs strace with -k.
set -euo pipefail
cd "$(dirname "$0")/.."
count=${COUNT:-20000}
strace -k -o /dev/null true 2>/dev/null || { echo "strace with -k (stacks) is not installed" >&2; exit 1; }
. benches/rig.sh

printf '%-8s %14s %14s %14s %14s\n' workers parking "Howdah's locks" "runtime's" "reactor woken"
for workers in ${WORKERS:-1 2 4 8}; do
    start "workers = $workers" env
    coproc driven { load --driven --workload simple; }
    # All have logged in and have been served once.
    read -r _ <&"${driven[0]}"
    strace -f -k -qq -e trace=futex,write -e signal=none -o "$work/trace" -p "$pid" 2>/dev/null &
    tracer=$!
    until ! grep -L "TracerPid:[[:space:]]*$tracer" /proc/"$pid"/task/*/status | grep -q .; do sleep 0.1; done
    echo "transactions $count" >&"${driven[1]}"
    read -r _ <&"${driven[0]}"
    kill -INT "$tracer"
    wait "$tracer" 2>/dev/null || :
    kill "$driven_PID"
    wait "$driven_PID" 2>/dev/null || :
    stop
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
