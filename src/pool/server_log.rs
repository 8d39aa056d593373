//! What a pool counts and tells of logins to its servers, and how connections begin and end in PgBouncer's words.

use std::sync::Arc;
use std::time::Duration;

use super::departure::Departure;
use super::{PoolKey, PoolSpec};
use crate::clock::Clock;
use crate::config::resolved::HostAddr;
use crate::error::{Error, OpenFailure};
use crate::journal::{self, Who};
use crate::server::conn::ServerConn;
use crate::shared::Shared;
use crate::tls::Mode;

/// The log of one pool's server connections.
#[derive(Debug)]
pub(super) struct ServerLog {
    key: PoolKey,
    shared: Arc<Shared>,
}

impl ServerLog {
    pub(super) fn new(key: PoolKey, shared: Arc<Shared>) -> Self {
        Self { key, shared }
    }

    /// How the login went: what the server proved, and whether TLS was agreed on.
    pub(super) fn count_login(&self, conn: &ServerConn, spec: &PoolSpec) {
        let counters = &self.shared.counters;
        counters.count("server_logins_total", conn.proved);
        let mode = spec.target.tls.as_ref().map_or(Mode::Disable, |c| c.mode);
        if conn.tls.is_some() {
            counters.count("tls_handshakes_total", "server");
        }
        match (mode, conn.tls.is_some()) {
            (Mode::Allow, true) => counters.count("server_tls_fallbacks_total", "tls"),
            (Mode::Prefer, false) if matches!(conn.host, HostAddr::Tcp { .. }) => {
                counters.count("server_tls_fallbacks_total", "plain");
            }
            _ => {}
        }
    }

    /// A connection was opened, in PgBouncer's words.
    pub(super) fn opened(&self, conn: &ServerConn, spec: &PoolSpec) {
        if spec.pgbouncer {
            let from = conn.stream.addresses().0.map_or_else(|| "unix".to_owned(), |a| a.to_string());
            let who = Who::server(conn.serial, &self.key.database, &spec.target.user, &conn.host);
            journal::line(&self.shared, &who, format_args!("new connection to server (from {from})"));
        }
    }

    pub(super) fn who(&self, serial: u64, spec: &PoolSpec, host: usize) -> Who {
        let nowhere = HostAddr::Tcp { host: String::new(), port: 0 };
        let host = spec.hosts.get(host).unwrap_or(&nowhere);
        Who::server(serial, &self.key.database, &spec.target.user, host)
    }

    /// A login that failed, in PgBouncer's words; of a replication connection it tells less.
    pub(super) fn failed(&self, f: &OpenFailure, spec: &PoolSpec, host: usize, replication: bool) {
        let who = self.who(0, spec, host);
        let reason = match f.error() {
            Error::ServerLogin(e) => {
                let message = e.message();
                journal::warning(&self.shared, &who, format_args!("server login failed: FATAL {message}"));
                if replication { "login failed".to_owned() } else { message }
            }
            Error::ServerUnreachable { reason, .. } => crate::error::pgbouncer::cached(reason).to_owned(),
            Error::ServerTls { reason, .. } => {
                let failed = if reason.contains("certificate") { "certificate verify failed: " } else { "" };
                journal::warning(&self.shared, &who, format_args!("TLS handshake error: {failed}{reason}"));
                "TLS startup failed".to_owned()
            }
            e => journal::words(e),
        };
        journal::closing(&self.shared, &who, &reason, Duration::ZERO);
    }

    /// A connection ends, in PgBouncer's words.
    pub(super) fn ended(&self, conn: &ServerConn, reason: &str, behind: Option<&Departure>) {
        if !self.shared.pgbouncer() {
            return;
        }
        let behind = behind.map(|d| d.words(conn, reason));
        let words = match behind.as_deref().unwrap_or(reason) {
            "lifetime" => "server lifetime over",
            "idle_timeout" => "server idle timeout",
            "excess" => "too many servers in the pool",
            "evicted" => "evicted",
            "replication_end" => "replication client was closed",
            "reconnect" | "reconfigured" => "database configuration changed",
            "pool_closed" => "database removed",
            "check_failed" => "test query failed",
            "reset_failed" => "reset query failed",
            "idle_eof" | "idle_error" | "server_lost" | "eof" | "read_failed" | "write_failed" => {
                "server conn crashed?"
            }
            other => other,
        };
        let age = Clock::now().saturating_duration_since(conn.opened);
        let who = Who::server(conn.serial, &self.key.database, &conn.user, &conn.host);
        journal::closing(&self.shared, &who, words, age);
    }
}
