#!/usr/bin/env bash
# What the statistics cost, in instructions of Howdah's own for each transaction, counted by callgrind.
#     benches/statistics.sh
#     COUNT=20000 WORKLOADS=simple,prepared benches/statistics.sh
#     HOWDAH=target/release/howdah benches/statistics.sh      (another binary than the one that is built)
# For each workload: without statistics of statements and with them; in simple-distinct every query has another constant.
# Then what one scrape of /metrics costs, and what part of a transaction's instructions a scrape each 100 ms is at the
# rate that this machine reaches. What is done once (the start, the logins) is taken out by the difference of two runs.
# callgrind does not see the kernel, where most of a relay's time goes, and no latency: with PAIRS=9 so many pairs of runs
# follow, in turn without and with, and the CPU time and the 99th percentile of a transaction are compared; BACKEND=address
# asks a PostgreSQL there (user and database bench, trusted) in place of the canned answers.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 1; }
count=${COUNT:-10000}
. benches/rig.sh

# One worker, that keeps $1 statements, behind the words of $2 and on.
keeping() {
    local kept=$1
    shift
    start "workers = 1
query_statistics = $kept" "$@"
}

# Instructions of one run: $1 statements that are kept, $2 workload, $3 transactions, $4 more loads of a hundred behind
# them, and a scrape after each of those if $5 says so
run() {
    rm -f "$work/out"
    keeping "$1" valgrind --tool=callgrind --callgrind-out-file="$work/out"
    load --warmup 0 --workload "$2" --transactions "$3" >"$work/load.log" 2>&1 || { cat "$work/load.log" >&2; stop; exit 1; }
    for ((i = 0; i < $4; i++)); do
        load --warmup 0 --workload "$2" --transactions 100 >"$work/load.log" 2>&1
        [ "$5" = scraped ] || continue
        exec 3<>/dev/tcp/127.0.0.1/17012
        printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3
        cat <&3 >/dev/null
        exec 3>&-
    done
    stop
    awk '/^(summary|totals):/ { print $2; exit }' "$work/out"
}

per() {
    local few many
    few=$(run "$1" "$2" "$count" 0 none)
    many=$(run "$1" "$2" $((count * 3)) 0 none)
    echo $(((many - few) / (count * 2)))
}

printf '%-18s %12s %12s %8s\n' workload without with more
IFS=, read -ra workloads <<<"${WORKLOADS:-simple-distinct,simple,prepared}"
for w in "${workloads[@]}"; do
    off=$(per 0 "$w")
    on=$(per 1000 "$w")
    [ "$w" != simple-distinct ] || distinct=$on
    printf '%-18s %12s %12s %7s%%\n' "$w" "$off" "$on" "$(awk "BEGIN { printf \"%.1f\", ($on - $off) * 100 / $off }")"
done

few=$(run 1000 simple-distinct 1000 50 none)
many=$(run 1000 simple-distinct 1000 50 scraped)
scrape=$(((many - few) / 50))
keeping 1000 env
load --warmup 0 --workload simple-distinct --seconds 3 >"$work/load.log" 2>&1
stop
rate=$(grep -o '"transactions":[0-9]*\|transactions=[0-9]*\|^[0-9]*' "$work/load.log" | head -1 | grep -o '[0-9]*$')
rate=$((rate / 3))
printf 'a scrape: %s instructions; each 100 ms at %s transactions/s: %s%%\n' "$scrape" "$rate" \
    "$(awk "BEGIN { printf \"%.1f\", $scrape * 10 * 100 / ($rate * $distinct) }")"

# One run of $3 seconds with $1 statements that are kept and, if $2 says so, a scrape each 100 ms: microseconds of CPU for
# each transaction, and the 99th percentile of their time.
timed() {
    local scraper= line before after
    keeping "$1" env
    if [ "$2" = scraped ]; then
        "$bench" scrape --address 127.0.0.1:17012 &
        scraper=$!
    fi
    before=$(awk '{ print $14 + $15 }' "/proc/$pid/stat")
    line=$("$bench" load --address 127.0.0.1:17011 --warmup 0 --clients "${CLIENTS:-100}" --in-flight "${IN_FLIGHT:-40}" \
        --workload simple-distinct --seconds "$3" | grep '^result')
    after=$(awk '{ print $14 + $15 }' "/proc/$pid/stat")
    [ -z "$scraper" ] || kill "$scraper" 2>/dev/null || :
    stop
    sed 's/^result transactions=\([0-9]*\) .*p99=\([0-9.]*\) .*/\1 \2/' <<<"$line" |
        awk "{ printf \"%.3f %s\", ($after - $before) * 10000 / \$1, \$2 }"
}

# The median of the numbers that come, the least and the most.
spread() {
    sort -n | awk '{ a[NR] = $1 } END { printf "%.1f (%.1f to %.1f)", a[int((NR + 1) / 2)], a[1], a[NR] }'
}

# Pairs of runs: $1 what is compared, $2 and $3 the first's, $4 and $5 the second's.
pairs() {
    for ((i = 0; i < PAIRS; i++)); do
        echo "$(timed "$2" "$3" "${EACH:-4}") $(timed "$4" "$5" "${EACH:-4}")"
    done >"$work/pairs"
    printf '%s: CPU %s%% more; p99 without %s us, %s%% more\n' "$1" \
        "$(awk '{ print ($3 - $1) * 100 / $1 }' "$work/pairs" | spread)" \
        "$(awk '{ print $2 }' "$work/pairs" | spread)" "$(awk '{ print ($4 - $2) * 100 / $2 }' "$work/pairs" | spread)"
}

if [ "${PAIRS:-0}" -gt 0 ]; then
    pairs "statistics of statements" 0 none 1000 none
    pairs "a scrape each 100 ms" 1000 none 1000 scraped
fi
