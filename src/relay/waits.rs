//! What a client's next message waits for; no I/O.

use std::sync::Arc;

use crate::proto::prepared::Statement;

/// What the next message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stalled {
    No,
    ByNames,
    ByUnnamed,
    /// What is executed in its own batch may drop prepared statements: what names mean is known when it is answered.
    ByDrop,
    /// What is owed may end a transaction that has failed.
    ByFailure,
    /// A statement that was prepared for it is described, and may turn out to be another than its client has.
    ByCheck,
}

/// Of a statement that the server lacked: whether it has the columns there that its client knows.
#[derive(Debug)]
pub enum Check {
    /// Of the statement with this number, and not answered yet.
    Asked(u64),
    /// It has others, and is to be closed.
    Other(Arc<Statement>),
}

/// A text that may drop prepared statements, in a batch of the extended protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drops {
    No,
    /// A portal of it was bound.
    Bound,
    /// An Execute was sent behind that, and is not known to be answered.
    Runs,
}

/// The next message waits for answers that the server keeps back until it is asked for them. Howdah asks by a Flush of
/// its own, and keeps the answers back in the server's place: a client that hears early what it has not asked for may
/// go another way than it would on a connection of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnFlush {
    /// It is to be sent.
    pub due: bool,
    /// It was sent, and the client has not asked yet.
    pub keeps_back: bool,
}
