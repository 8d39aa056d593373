//! A server connection in the hands of one client. It is given back in one of three ways, each explicit; a lease
//! that is merely dropped (a panic, an aborted task) closes its connection and is counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::core::{ConnId, Grant};
use super::departure::Departure;
use super::{CancelTarget, LeaseReport, Pool, cancel_target};
use crate::clock::Clock;
use crate::journal::{self, Who};
use crate::net::lane::Unread;
use crate::proto::pipeline::TxStatus;
use crate::relay::state::{DISCARDED, TxStats};
use crate::server::conn::ServerConn;
use crate::server::repair;

#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    id: ConnId,
    lease: u64,
    conn: Option<Box<ServerConn>>,
    pub since: Instant,
}

impl Lease {
    #[inline]
    pub(super) fn new(pool: Arc<Pool>, g: Grant<Box<ServerConn>>, now: Instant) -> Self {
        Self { pool, id: g.id, lease: g.lease, conn: Some(g.conn), since: now }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    #[inline]
    pub fn conn(&mut self) -> Option<&mut ServerConn> {
        self.conn.as_deref_mut()
    }

    fn report(&self, stats: TxStats, completed: bool, now: Instant) -> LeaseReport {
        let transaction = now.saturating_duration_since(self.since);
        LeaseReport { stats, transaction, completed, partial: false, query_us: None }
    }

    /// The transaction is over and the connection at a boundary. Marked session state is reset first. The last
    /// round trip took `query_us`, if it is not booked yet.
    #[inline]
    pub fn release(self, stats: TxStats, query_us: Option<u64>, now: Instant) {
        let report = LeaseReport { query_us, ..self.report(stats, true, now) };
        self.give_back(report, now);
    }

    /// The same by a client that has kept the connection between its transactions, which are booked already.
    pub fn release_rested(self, stats: TxStats, now: Instant) {
        let report = LeaseReport { partial: true, ..self.report(stats, false, now) };
        self.give_back(report, now);
    }

    /// Its client keeps the connection after a transaction.
    pub fn book_rest(&self, stats: TxStats, query_us: Option<u64>, now: Instant) {
        self.pool.book_only(&LeaseReport { query_us, ..self.report(stats, true, now) });
    }

    #[inline]
    fn give_back(mut self, report: LeaseReport, now: Instant) {
        let Some(mut conn) = self.conn.take() else { return };
        if conn.reset_always {
            conn.reset_always = false;
            self.repair(conn, Unread::default(), report, None, true);
            return;
        }
        if !conn.state.lent.is_empty() {
            self.repair(conn, Unread::default(), report, None, false);
            return;
        }
        if let Some(mark) = conn.state.marked {
            let s = &self.pool.spec().settings;
            if s.reset_state && (mark != DISCARDED || !s.on_connect.is_empty()) {
                self.repair(conn, Unread::default(), report, None, false);
                return;
            }
            conn.state.marked = None;
            if matches!(mark, "SET" | "RESET") {
                // It stays, and may have replaced what was applied for its client.
                conn.state.doubt_unreported();
            }
        }
        self.pool.release(self.id, conn, &report, now);
    }

    /// Nothing was run.
    pub fn release_unused(mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.release_unused(self.id, conn);
        }
    }

    /// A session pool's client has left at a boundary: everything it left behind is reset.
    pub fn release_session(mut self, stats: TxStats) {
        let report = LeaseReport { partial: true, ..self.report(stats, false, Clock::now()) };
        if let Some(mut conn) = self.conn.take() {
            conn.state.calls.end_session();
            self.repair(conn, Unread::default(), report, None, true);
        }
    }

    /// The client has left in the middle: what runs is cancelled, the transaction rolled back. `unread` holds
    /// what was read from the server; `session` says that all of the session's state has to go.
    pub fn abandon(mut self, unread: Unread, stats: TxStats, session: bool, departure: Departure) {
        let report = LeaseReport { partial: session, ..self.report(stats, false, Clock::now()) };
        if let Some(mut conn) = self.conn.take() {
            conn.state.calls.end_session();
            // PgBouncer closes such a server, and what its client has left in the session goes with it.
            if self.pool.spec().pgbouncer && conn.state.pipeline.is_empty() {
                self.pool.book_only(&report);
                self.pool.lost_behind(self.id, conn, LEFT_INSIDE, Some(&departure));
                return;
            }
            self.repair(conn, unread, report, Some(departure), session);
        }
    }

    /// The connection cannot be used any more.
    pub fn discard(self, reason: &'static str, stats: TxStats) {
        self.discard_behind(reason, stats, None);
    }

    /// The same because of how its client's work on it has ended.
    pub fn discard_behind(mut self, reason: &'static str, stats: TxStats, behind: Option<&Departure>) {
        let report = self.report(stats, false, Clock::now());
        if let Some(conn) = self.conn.take() {
            self.pool.book_only(&report);
            self.pool.lost_behind(self.id, conn, reason, behind);
        }
    }

    fn repair(
        &self,
        conn: Box<ServerConn>,
        unread: Unread,
        report: LeaseReport,
        inside: Option<Departure>,
        session: bool,
    ) {
        let (pool, id, lease) = (self.pool.clone(), self.id, self.lease);
        // Whatever is owed may be running, with or without a Sync behind it.
        let running =
            inside.is_some() && !conn.state.pipeline.is_empty() && !conn.state.pipeline.wants_copy_data();
        let to = cancel_target(&conn);
        // While the lease still counts as one, a cancel for it may begin.
        let cancelling = running && pool.begin_cancel(id, lease);
        pool.inner.lock().core.repairing(Clock::now(), id);
        pool.book_only(&report);
        let guard = RepairGuard { pool, id, conn: Some(conn), inside };
        tokio::spawn(guard.run(unread, cancelling.then_some(to), session));
    }

    /// A transaction of a session pool's client is over, and the lease goes on.
    pub fn book_transaction(&self, stats: TxStats, transaction: Duration) {
        let report = LeaseReport { stats, transaction, completed: true, partial: false, query_us: None };
        self.pool.book_only(&report);
    }

    /// A cancel for it is under way.
    pub fn cancelling(&self) -> bool {
        self.pool.inner.lock().core.cancels(self.id) > 0
    }

    /// Asks the server to stop what it runs for this lease.
    pub fn cancel(&self) {
        if let Some(c) = &self.conn {
            let to = cancel_target(c);
            self.pool.cancel_lease(self.id, self.lease, to);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.shared.counters.count("leases_dropped_total", "");
            self.pool.lost(self.id, conn, "lease_dropped");
        }
    }
}

/// A connection under repair; if the task ends early, the connection is closed and its place given back.
struct RepairGuard {
    pool: Arc<Pool>,
    id: ConnId,
    conn: Option<Box<ServerConn>>,
    /// How its client has ended, unless it did so at a boundary.
    inside: Option<Departure>,
}

/// Its client has left in the middle, behind a pgbouncer.ini.
const LEFT_INSIDE: &str = "client_left_inside";

impl RepairGuard {
    async fn run(mut self, unread: Unread, cancel: Option<CancelTarget>, session: bool) {
        let pool = self.pool.clone();
        let spec = pool.spec();
        if let Some(to) = cancel {
            pool.run_cancel(self.id, to).await;
        }
        if spec.pgbouncer && self.inside.is_some() {
            if let Some(conn) = self.conn.take() {
                pool.lost_behind(self.id, conn, LEFT_INSIDE, self.inside.as_ref());
            }
            return;
        }
        let Some(conn) = self.conn.as_deref_mut() else { return };
        let rolled_back = conn.state.pipeline.status() != TxStatus::Idle;
        let reset = repair::Reset {
            query: &spec.settings.reset_query,
            always: session,
            if_marked: spec.settings.reset_state,
            on_connect: &spec.settings.on_connect,
        };
        let deadline = spec.process.server_repair_timeout;
        let nothing = pool.shared.nothing.clone();
        let outcome = repair::repair(conn, unread, reset, deadline, nothing).await;
        let Some(mut conn) = self.conn.take() else { return };
        match outcome {
            Ok(marked) => {
                if rolled_back {
                    pool.shared.counters.count("rollbacks_on_disconnect_total", "");
                }
                if let Some(tag) = marked {
                    pool.shared.counters.count("server_resets_total", tag);
                }
                conn.state.view_changed = false;
                pool.release_quietly(self.id, conn);
            }
            Err(why) => {
                self.tell(&conn, &why, deadline);
                pool.lost(self.id, conn, why.reason);
            }
        }
    }

    /// A connection that was not cleaned costs its pool a new one, and may mean that a setting is wrong.
    fn tell(&self, conn: &ServerConn, why: &repair::Failure, limit: Duration) {
        let pool = &self.pool;
        if let Some((e, setting)) = &why.refused {
            let sqlstate = String::from_utf8_lossy(e.sqlstate()).into_owned();
            let (key, message) = (&pool.key, e.message());
            if pool.shared.pgbouncer() {
                let who = Who::server(conn.serial, &key.database, &conn.user, &conn.host);
                journal::warning(&pool.shared, &who, format_args!("{setting} failed: {sqlstate} {message}"));
                return;
            }
            tracing::warn!(
                database = %key.database,
                user = %conn.user,
                host = %conn.host,
                pid = conn.pid,
                setting,
                sqlstate,
                message,
                "the server refuses {setting}; each connection that needs it is closed"
            );
            return;
        }
        let pipeline = &conn.state.pipeline;
        tracing::warn!(
            database = %pool.key.database,
            user = %conn.user,
            host = %conn.host,
            pid = conn.pid,
            reason = why.reason,
            owed = pipeline.len(),
            transaction = ?pipeline.status(),
            in_copy = pipeline.wants_copy_data(),
            limit_ms = crate::number::millis(limit),
            "a server connection could not be cleaned behind its client within server_repair_timeout; it is closed"
        );
    }
}

impl Drop for RepairGuard {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.lost(self.id, conn, "repair_aborted");
        }
    }
}
