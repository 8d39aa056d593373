//! Why a server connection is closed or repaired behind its client: it goes along with the lease when that ends, so
//! that the log tells each end in words of its own.

use crate::error::Error;
use crate::journal;
use crate::server::conn::ServerConn;

/// How a client's hold on a server connection has ended before its work there was over.
#[derive(Debug, Clone, PartialEq)]
pub enum Departure {
    /// The client has left by itself.
    Left,
    /// Howdah has ended it, and this is what it was told.
    Ended(Box<Error>),
}

impl Departure {
    pub fn ended(by: &Error) -> Self {
        Self::Ended(Box::new(by.clone()))
    }

    /// What PgBouncer's log says of the server connection, which is as its client has left it.
    pub(super) fn words(&self, conn: &ServerConn, reason: &str) -> String {
        let left = match self {
            Self::Ended(e) => return journal::words(e),
            Self::Left if reason == HALF_SENT => "client disconnect before everything was sent to the server",
            Self::Left => match conn.state.pipeline.ready_owed() {
                0 if conn.state.pipeline.is_empty() => "client disconnect while server was not ready",
                0 | 1 => "client disconnected with query in progress",
                _ => "client disconnected with queries in progress",
            },
        };
        left.to_owned()
    }
}

/// The reason, for the metric, of a connection that has got a part of a message whose rest will not come.
pub const HALF_SENT: &str = "partial_message";
