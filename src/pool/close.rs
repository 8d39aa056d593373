//! Closing server connections: a place comes back when the server has let go of its side.

use std::sync::Arc;

use super::Pool;
use super::core::ConnId;
use super::departure::Departure;
use crate::clock::Clock;
use crate::server::close::{self, Goodbye};
use crate::server::conn::ServerConn;

impl Pool {
    /// A leased connection is of no use any more.
    pub(super) fn lost(self: &Arc<Self>, id: ConnId, conn: Box<ServerConn>, reason: &'static str) {
        self.lost_behind(id, conn, reason, None);
    }

    /// The same behind a client whose work on it was not over.
    pub(super) fn lost_behind(
        self: &Arc<Self>,
        id: ConnId,
        conn: Box<ServerConn>,
        reason: &'static str,
        behind: Option<&Departure>,
    ) {
        self.shared.counters.count("server_disconnects_total", reason);
        tracing::debug!(pool = %self.key, host = %conn.host, pid = conn.pid, reason, "server connection closed");
        self.log.ended(&conn, reason, behind);
        self.inner.lock().core.broken(Clock::now(), id);
        self.tell_monitor(&conn.host);
        self.close_conn(id, conn, Goodbye::Silent);
    }

    /// Closes a connection that the core has given up.
    pub(super) fn close_conn(self: &Arc<Self>, id: ConnId, mut conn: Box<ServerConn>, goodbye: Goodbye) {
        let ended = close::has_ended(&mut conn.stream);
        let guard = CloseGuard { pool: self.clone(), id, conn: Some(conn) };
        // Without a runtime the process is ending, and nobody needs the place.
        if !ended && let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(guard.run(goodbye));
        }
    }
}

/// A connection that is being closed; however that ends, its place comes back.
struct CloseGuard {
    pool: Arc<Pool>,
    id: ConnId,
    conn: Option<Box<ServerConn>>,
}

impl CloseGuard {
    async fn run(mut self, goodbye: Goodbye) {
        let Some(conn) = self.conn.as_deref_mut() else { return };
        if !close::see_off(&mut conn.stream, goodbye).await {
            self.pool.shared.counters.count("server_close_timeouts_total", "");
            tracing::warn!(
                pool = %self.pool.key,
                host = %conn.host,
                pid = conn.pid,
                limit_ms = crate::number::millis(close::CLOSE_TIMEOUT),
                "the server has not closed its side of a connection; its place is given away"
            );
        }
    }
}

impl Drop for CloseGuard {
    fn drop(&mut self) {
        self.pool.inner.lock().core.closed(self.id);
        // Room in the shared limits: others that need it look first.
        self.conn = None;
        self.pool.look();
    }
}
