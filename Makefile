# Each target does all the set-up that it needs; tests/support/setup.sh says what it could not do.
.PHONY: help demo test lint audit soak bench guards docs

help: ## What there is
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: ## A primary, a replica, Howdah and a workload, until Ctrl-C (or FOR=10s)
	@bin=$$(tests/support/setup.sh demo) && export HOWDAH_PG_BIN="$${HOWDAH_PG_BIN:-$$bin}" && \
	cargo build --release --locked && exec target/release/howdah demo $(if $(FOR),--for $(FOR))

test: ## Format, lints and every test; says at its end what this machine had to leave out
	@tests/support/test.sh

lint: ## Format and lints only
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings

audit: ## Licences, sources and versions of the dependencies, unused ones, and the oldest Rust; installs what it needs
	@tests/support/audit.sh install

soak: ## The long tests: many clients, faults under load
	@tests/support/setup.sh test
	cargo nextest run --locked --cargo-profile quick --profile soak --no-capture --run-ignored only soak
	HOWDAH_PGBENCH_SECONDS=30 cargo nextest run --locked --cargo-profile quick --profile soak --no-capture --test it with_pgbench

guards: ## Takes each guard of tests/pooler-bugs.md away and sees a test fail; takes an hour
	@tests/support/guards.sh $(ROWS)

bench: ## Howdah, PgBouncer and a bare relay side by side, in one table
	@tests/support/setup.sh bench
	cargo bench --locked --bench compare -- $(ARGS)

docs: ## The documentation as a site, in target/docs
	@command -v mdbook >/dev/null || { echo "make docs needs mdbook: cargo install mdbook --version 0.4.52 --locked"; exit 1; }
	mdbook build docs
