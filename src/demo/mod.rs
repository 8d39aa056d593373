//! `howdah demo`: a private primary and replica, Howdah before them, and a workload that one can watch.
//!
//! The proxy itself comes from the caller as a function, so that this module knows PostgreSQL and nothing of
//! Howdah but the text of its configuration. [`postgres`] and [`wire`] also serve the integration tests.

#![allow(
    clippy::disallowed_methods,
    reason = "a program of its own beside the proxy, with threads that wait for processes"
)]

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

pub mod install;
mod interrupt;
pub mod postgres;
pub mod process;
mod scratch;
pub mod wire;
mod workload;

use postgres::{Cluster, Options as ClusterOptions, SUPERUSER};
use workload::{Totals, Workload};

/// The configuration that the container images run: the demo runs it too, with its own addresses.
const CONFIG: &str = include_str!("../../docker/howdah.toml");
/// `pool_size` of that file.
const POOL_SIZE: usize = 5;
const CLIENTS: usize = 50;

/// An error of whatever starts the proxy.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server could not be made, started or stopped; the text says what to do.
    #[error("{0}")]
    Setup(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Sql(#[from] wire::Error),
    #[error("Howdah did not start: {0}")]
    Proxy(BoxError),
    /// The workload met errors, or the data is not what it must be.
    #[error("{0}")]
    Workload(String),
}

/// A proxy that serves; the demo stops it at its end.
pub trait Running {
    /// Stops at once and waits for the end.
    fn stop(self) -> Result<(), BoxError>;
}

/// Runs the demo until `duration` is over, or until SIGINT or SIGTERM where it is `None`.
///
/// `start` gets the configuration and returns when the proxy listens. It must leave the signals alone: they end
/// the demo, which then stops the proxy. The result is an error if any transaction was.
pub fn run<R: Running>(
    duration: Option<Duration>,
    out: &mut dyn Write,
    start: impl FnOnce(&str) -> Result<R, BoxError>,
) -> Result<(), Error> {
    let (_guard, interrupts) = interrupt::listen()?;
    writeln!(out, "\n  Howdah demo: {CLIENTS} clients share {POOL_SIZE} server connections\n")?;
    let mut primary = start_primary(out)?;
    let replica = primary.replica()?;
    replica.await_replay(&primary)?;
    step(out, "replica", &format!("streaming, on {}", replica.tcp()))?;

    let listen = preferred(6432)?;
    let ops = preferred(9127)?;
    let proxy = start(&config_text(listen, ops, primary.tcp(), replica.tcp())).map_err(Error::Proxy)?;
    step(out, "howdah", &format!("on {listen}"))?;
    print_addresses(out, listen, ops, duration)?;

    let workload = Workload::start(listen, CLIENTS)?;
    let watched = watch(&workload, &primary, &interrupts, duration, out);
    let totals = workload.finish();
    let stopped = proxy.stop().map_err(Error::Proxy);
    watched?;
    conclude(&totals, &primary, &replica, out)?;
    stopped
}

fn start_primary(out: &mut dyn Write) -> Result<Cluster, Error> {
    let options = ClusterOptions::default()
        .hba("host app app 127.0.0.1/32 trust")
        .sql("CREATE ROLE app LOGIN")
        .sql("CREATE DATABASE app OWNER app");
    let primary = Cluster::start_new(options)?;
    primary.connect("app", "app")?.query(&format!(
        "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, moves bigint NOT NULL);
         INSERT INTO accounts SELECT i, 0, 0 FROM generate_series(0, {} - 1) i",
        workload::ACCOUNTS
    ))?;
    step(out, "primary", &format!("PostgreSQL {}, on {}", primary.install().major(), primary.tcp()))?;
    Ok(primary)
}

/// The shipped configuration with the addresses of this run. A test holds that every one of them is replaced.
fn config_text(listen: SocketAddr, ops: SocketAddr, primary: SocketAddr, replica: SocketAddr) -> String {
    CONFIG
        .replace("0.0.0.0:6432", &listen.to_string())
        .replace("0.0.0.0:9127", &ops.to_string())
        .replace("primary:5432", &primary.to_string())
        .replace("replica:5432", &replica.to_string())
}

/// The well-known port if nobody has it.
fn preferred(port: u16) -> Result<SocketAddr, Error> {
    let known = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    if TcpListener::bind(known).is_ok() {
        return Ok(known);
    }
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, process::free_port()?)))
}

fn step(out: &mut dyn Write, what: &str, how: &str) -> Result<(), Error> {
    writeln!(out, "  {what:<8}  {how}")?;
    Ok(out.flush()?)
}

fn print_addresses(
    out: &mut dyn Write,
    listen: SocketAddr,
    ops: SocketAddr,
    duration: Option<Duration>,
) -> Result<(), Error> {
    let end = duration.map_or("until Ctrl-C".to_owned(), |d| format!("for {} s", d.as_secs_f64()));
    writeln!(out)?;
    step(out, "DSN", &format!("postgresql://app@{listen}/app"))?;
    step(out, "page", &format!("http://{ops}/"))?;
    step(out, "metrics", &format!("http://{ops}/metrics"))?;
    step(out, "psql", &format!("psql -h {} -p {} -U app app", listen.ip(), listen.port()))?;
    writeln!(out, "\n  Running {end}\n")?;
    writeln!(
        out,
        "  {:>6}  {:>12}  {:>7}  {:>9}  {:>9}  {:>7}  {:>11}  {:>6}",
        "time", "transactions", "tps", "p50", "p95", "servers", "replica lag", "errors"
    )?;
    Ok(out.flush()?)
}

/// One line a second, until the end of the time, a signal, or the first error of the workload.
fn watch(
    workload: &Workload,
    primary: &Cluster,
    interrupts: &Receiver<()>,
    duration: Option<Duration>,
    out: &mut dyn Write,
) -> Result<(), Error> {
    let started = Instant::now();
    let end = duration.map(|d| started + d);
    let mut direct = primary.connect(SUPERUSER, SUPERUSER)?;
    let mut last = started;
    loop {
        let next = last + Duration::from_secs(1);
        let next = end.map_or(next, |end| next.min(end));
        let waited = interrupts.recv_timeout(next.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        let totals = workload.totals();
        let interval = workload.interval();
        let reply = direct.query(
            "SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = 'app'),
                    (SELECT coalesce(pg_size_pretty(max(pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn))), '-')
                     FROM pg_stat_replication)",
        )?;
        let seen = reply.rows.into_iter().flatten().map(Option::unwrap_or_default).collect::<Vec<_>>();
        writeln!(
            out,
            "  {:>5.1}s  {:>12}  {:>7.0}  {:>6.2} ms  {:>6.2} ms  {:>7}  {:>11}  {:>6}",
            (now - started).as_secs_f64(),
            totals.transactions,
            interval.transactions as f64 / (now - last).as_secs_f64().max(0.001),
            interval.p50.as_secs_f64() * 1e3,
            interval.p95.as_secs_f64() * 1e3,
            seen.first().map_or("", String::as_str),
            seen.get(1).map_or("", String::as_str),
            totals.errors,
        )?;
        out.flush()?;
        last = now;
        let over = end.is_some_and(|end| now >= end);
        if over || totals.errors > 0 || waited != Err(RecvTimeoutError::Timeout) {
            return Ok(());
        }
    }
}

/// The last word: what the servers themselves say about the workload.
fn conclude(totals: &Totals, primary: &Cluster, replica: &Cluster, out: &mut dyn Write) -> Result<(), Error> {
    if let Some(error) = &totals.first_error {
        return Err(Error::Workload(format!("{} errors in the workload, first: {error}", totals.errors)));
    }
    if totals.transactions == 0 {
        return Err(Error::Workload("the workload finished no transaction".to_owned()));
    }
    replica.await_replay(primary)?;
    let wanted = format!("0 {}", totals.transfers * 2);
    for (name, server) in [("primary", primary), ("replica", replica)] {
        let mut client = server.connect("app", "app")?;
        let seen = client.value("SELECT sum(balance) || ' ' || sum(moves) FROM accounts")?;
        if seen != wanted {
            return Err(Error::Workload(format!("the {name} holds {seen:?} where {wanted:?} is right")));
        }
    }
    writeln!(
        out,
        "\n  {} transactions, no error; both servers hold exactly the {} transfers that were committed.\n",
        totals.transactions, totals.transfers
    )?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests;
