#!/usr/bin/env bash
# Everything that a change must pass; `make test` and .ci/run call this.
set -euo pipefail
cd "$(dirname "$0")/../.."

mkdir -p target
rm -f target/left-out
report() {
    if [ -s target/left-out ]; then
        echo
        echo "Left out on this machine:"
        sort -u target/left-out | sed 's/^/  - /'
    fi
}
trap report EXIT

bin=$(tests/support/setup.sh test)
export HOWDAH_PG_BIN=${HOWDAH_PG_BIN:-$bin}
cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings
cargo clippy --locked --features ldap,pam --lib --test it -- -D warnings
# As packages and images are built.
cargo clippy --locked --no-default-features --bin howdah -- -D warnings
RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --quiet
tests/support/audit.sh
cargo test --locked --doc --quiet
if cargo nextest --version >/dev/null 2>&1; then
    cargo nextest run --locked "$@"
    run='nextest run'
else
    cargo test --locked --lib --bins --tests "$@"
    run=test
fi
# What only a feature brings.
if [ $# = 0 ]; then
    features=ldap,pam
    [ -e /usr/include/security/pam_appl.h ] || features=ldap
    # shellcheck disable=SC2086
    cargo $run --locked --features "$features" --test it -- logins::ldap logins::pam
fi
