//! How an attempt to open a server connection failed.

use super::Error;

/// How an attempt to open a connection failed.
#[derive(Debug, Clone, PartialEq)]
pub enum OpenFailure {
    /// The server is starting or full: waiters stay.
    Transient(Error),
    /// We ran out of something ourselves: waiters stay, the server is not to blame.
    Local(Error),
    /// The server cannot be reached; for a while after it was, this is taken for a restart.
    Unreachable(Error),
    /// Waiters are told, unless another connection of the pool may still serve them.
    Fatal(Error),
}

impl OpenFailure {
    /// The server is there, and takes nobody yet, or nobody more.
    pub fn is_start(&self) -> bool {
        matches!(self, Self::Transient(Error::ServerLogin(_)))
    }

    /// In the metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Transient(_) => "transient",
            Self::Local(_) => "local",
            Self::Unreachable(_) => "unreachable",
            Self::Fatal(_) => "refused",
        }
    }

    pub fn into_error(self) -> Error {
        match self {
            Self::Transient(e) | Self::Local(e) | Self::Unreachable(e) | Self::Fatal(e) => e,
        }
    }

    pub fn error(&self) -> &Error {
        match self {
            Self::Transient(e) | Self::Local(e) | Self::Unreachable(e) | Self::Fatal(e) => e,
        }
    }
}
