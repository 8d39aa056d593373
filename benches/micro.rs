//! The parts of a transaction that are Howdah's own, each alone: framing, checkout, the lookup of a statement.
//! `cargo bench --bench micro`; with `-- FILTER` some of them.

#![allow(
    clippy::cast_possible_truncation,
    reason = "the numbers are the benchmark's own, and a panic ends no service"
)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use howdah::clock::Clock;
use howdah::net::lane::Lane;
use howdah::pool::core::{Acquire, CoreSettings, Effects, PoolCore};
use howdah::proto::frame;
use howdah::proto::params::ParamSet;
use howdah::proto::pipeline::Expect;
use howdah::proto::prepared::{Interner, Known, ServerStatements, Statement};
use howdah::queries::calls::Calls;
use howdah::queries::{Scope, Store};
use howdah::relay::state::{ClientProto, Env, ServerState};
use howdah::relay::{down, up};

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[tag], &length[..], body].concat()
}

/// The answer to a query of so many rows of 100 bytes.
fn answer(rows: usize) -> Vec<u8> {
    let row = message(b'D', &[&[0, 1, 0, 0, 0, 100][..], &[b'x'; 100]].concat());
    let mut all = message(b'T', b"\0\x01line\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    all.extend(row.repeat(rows));
    all.extend(message(b'C', format!("SELECT {rows}\0").as_bytes()));
    all.extend(message(b'Z', b"I"));
    all
}

fn query(n: u32) -> Vec<u8> {
    message(b'Q', format!("SELECT id, name FROM customer WHERE id = {n}\0").as_bytes())
}

struct Ends {
    client: ClientProto,
    server: ServerState,
    interner: Interner,
    scope: Scope,
}

impl Ends {
    fn new() -> Self {
        let nothing = Arc::new(ParamSet::default());
        Self {
            client: ClientProto::new(1, nothing.clone(), nothing.clone(), &Arc::default()),
            server: ServerState::new(nothing.clone(), nothing),
            interner: Interner::default(),
            scope: scope(),
        }
    }

    /// One pass over what is in a lane, in the direction of the server or of the client.
    fn scan(&mut self, lane: &mut Lane, towards_server: bool) {
        let env = Env {
            database: "app",
            user: "app",
            interner: &self.interner,
            max_message: 1 << 30,
            max_statement: 1 << 20,
            max_server_statements: 200,
            max_client_statements: 1000,
            max_server_memory: 1 << 30,
            max_client_memory: 1 << 30,
            max_memory: 1 << 30,
            share_statements: true,
            queries: Some(&self.scope),
            asks: false,
            pins: &Arc::default(),
            ways: &howdah::session_state::Ways::RESET,
        };
        match towards_server {
            true => drop(black_box(up::scan(lane, &mut self.client, &mut self.server, &env))),
            false => drop(black_box(down::scan(lane, &mut self.client, &mut self.server, &env))),
        }
    }
}

fn scope() -> Scope {
    Scope::new(Arc::new(Store::new(1000)), "app".into())
}

fn lane(bytes: &[u8]) -> Lane {
    let mut lane = Lane::default();
    lane.preload(bytes);
    lane
}

fn framing(c: &mut Criterion) {
    let mut group = c.benchmark_group("framing");
    for rows in [1, 1000] {
        let bytes = answer(rows);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("headers of {rows} rows"), |b| {
            b.iter(|| {
                let (mut at, mut n) = (0, 0);
                while let Some(Ok(Some(h))) = bytes.get(at..).map(|rest| frame::header(rest, 1 << 30)) {
                    at += h.total;
                    n += 1;
                }
                black_box(n)
            });
        });
        let mut ends = Ends::new();
        group.bench_function(format!("answer of {rows} rows"), |b| {
            b.iter_batched_ref(
                || lane(&bytes),
                |lane| {
                    ends.server.pipeline.sent(Expect::Query);
                    ends.client.statements.drop_sent();
                    ends.scan(lane, false);
                },
                BatchSize::SmallInput,
            );
        });
    }
    let bytes = query(17);
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("query", |b| {
        b.iter_batched_ref(
            || (Ends::new(), lane(&bytes)),
            |(ends, lane)| ends.scan(lane, true),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

type Core = PoolCore<u32, u32, u32>;

/// A pool of so many connections, all idle.
fn pool(size: usize, now: Instant) -> Core {
    let mut core = Core::new(CoreSettings {
        size,
        min: 0,
        reserve: 0,
        reserve_delay: Duration::from_secs(5),
        wait_timeout: Some(Duration::from_secs(120)),
        idle_timeout: None,
        round_robin: false,
        max_parallel_opens: size,
        restart_grace: Duration::from_secs(1),
        max_backoff: Duration::from_secs(2),
        fast_fail: false,
    });
    for n in 0..size as u32 {
        let id = core.begin_open(now);
        drop(core.opened(now, id, n, None, ()));
    }
    core
}

fn checkout(c: &mut Criterion) {
    let mut group = c.benchmark_group("checkout");
    let now = Clock::now();
    let mut core = pool(40, now);
    group.bench_function("of an idle connection, and back", |b| {
        b.iter(|| {
            let Acquire::Granted(g) = core.acquire(now, &7) else { return };
            let mut fx = Effects::default();
            core.release(now, g.id, g.conn, &mut fx);
            black_box(fx.look);
        });
    });
    // Each release serves the oldest of 200 that wait, and who was served waits again.
    let mut core = pool(1, now);
    let Acquire::Granted(first) = core.acquire(now, &0) else { return };
    let mut waiting = std::collections::VecDeque::new();
    for n in 1..=200 {
        if let Acquire::Queued(id) = core.acquire(now, &n) {
            core.poll_waiter(now, id, &n, |_| n);
            waiting.push_back((id, n));
        }
    }
    let mut held = Some(first);
    group.bench_function("of one that 200 wait for", |b| {
        b.iter(|| {
            let (Some(grant), Some((id, n))) = (held.take(), waiting.pop_front()) else { return };
            let mut fx = Effects::default();
            core.release(now, grant.id, grant.conn, &mut fx);
            if let Some(Ok(next)) = core.poll_waiter(now, id, &n, |_| n) {
                held = Some(next);
            }
            if let Acquire::Queued(id) = core.acquire(now, &n) {
                core.poll_waiter(now, id, &n, |_| n);
                waiting.push_back((id, n));
            }
        });
    });
    group.finish();
}

fn parsed(interner: &Interner, body: &[u8]) -> Arc<Statement> {
    match interner.look(body, &Default::default(), false, interner.now(), true) {
        Known::Same(s) | Known::New(s) | Known::Again(s) => s,
    }
}

fn statements(c: &mut Criterion) {
    let mut group = c.benchmark_group("statement");
    let interner = Interner::default();
    let bodies: Vec<Vec<u8>> =
        (0..1000).map(|n| format!("SELECT c{n} FROM customer WHERE id = $1\0\0\0").into_bytes()).collect();
    let kept: Vec<_> = bodies.iter().map(|b| parsed(&interner, b)).collect();
    let mut next = (0..1000).cycle();
    group.bench_function("of a Parse, among 1000", |b| {
        b.iter(|| {
            let n = next.next().unwrap_or(0);
            black_box(bodies.get(n).map(|body| interner.trusted(body, &Default::default(), interner.now())));
        });
    });
    let mut server = ServerStatements::default();
    kept.iter().take(200).for_each(|s| server.insert(s.clone()));
    group.bench_function("of a Bind, on a server that has 200", |b| {
        b.iter(|| {
            let n = next.next().unwrap_or(0) % 200;
            black_box(kept.get(n).map(|s| server.touch(s)));
        });
    });
    let (scope, mut calls) = (scope(), Calls::default());
    let texts: Vec<String> = (0..1000).map(|n| format!("SELECT name FROM t WHERE id = {n}")).collect();
    group.bench_function("by its text, other constants", |b| {
        b.iter(|| {
            let n = next.next().unwrap_or(0);
            black_box(texts.get(n).map(|t| calls.find(&scope, t.as_bytes())));
        });
    });
    group.bench_function("by its text, read anew", |b| {
        b.iter(|| {
            let n = next.next().unwrap_or(0);
            black_box(texts.get(n).map(|t| howdah::proto::sql::fingerprint::fingerprint(t.as_bytes())));
        });
    });
    group.finish();
}

criterion_group!(micro, framing, checkout, statements);
criterion_main!(micro);
