//! The timeouts of a pool's clients.

use std::time::Duration;

/// Timeouts that are on while a client holds a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timeouts {
    pub query: Option<Duration>,
    /// Of a session pool, whose client keeps its server while it is idle.
    pub session_idle: Option<Duration>,
    /// `client_idle_timeout`, whatever the mode.
    pub client_idle: Option<Duration>,
    pub transaction: Option<Duration>,
    pub idle_transaction: Option<Duration>,
    pub client_write: Option<Duration>,
    pub cancel_wait: Duration,
    /// `query_timeout` ends the client, as PgBouncer's does, not the statement alone.
    pub query_ends: bool,
    /// What a client that is gone has sent is run to its end, not cancelled.
    pub finish_for_gone: bool,
}
