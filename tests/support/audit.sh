#!/usr/bin/env bash
# What the dependencies are held to, by cargo-deny (deny.toml) and cargo-machete, and the oldest Rust that Cargo.toml
# names. Says what it could not do where a tool is not here; with the argument `install` it installs the tools first.
set -euo pipefail
cd "$(dirname "$0")/../.."

mkdir -p target
missing() {
    echo "LEFT OUT: $1: $2" >&2
    echo "$1: $2" >>target/left-out
}

has() {
    cargo "$1" --version >/dev/null 2>&1
}

if [ "${1:-}" = install ]; then
    has deny || cargo install --locked cargo-deny
    has machete || cargo install --locked cargo-machete
fi

if has deny; then
    cargo deny --locked check licenses bans sources
    # The database of advisories is fetched: a machine without a way to it goes without.
    cargo deny --locked check advisories 2>target/advisories.log ||
        if grep -q 'failed to fetch advisory database' target/advisories.log; then
            missing "advisories" "their database could not be fetched"
        else
            cat target/advisories.log >&2
            exit 1
        fi
else
    missing "licences and versions of dependencies" "cargo-deny is not installed: run 'make audit'"
fi

if has machete; then
    cargo machete
else
    missing "unused dependencies" "cargo-machete is not installed: run 'make audit'"
fi

oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if rustup run "$oldest" cargo --version >/dev/null 2>&1; then
    rustup run "$oldest" cargo check --locked --target-dir target/oldest
else
    # Clippy's lint incompatible_msrv still refuses what the standard library did not have then.
    missing "Rust $oldest" "the toolchain is not installed: run 'rustup toolchain install $oldest --profile minimal'"
fi
