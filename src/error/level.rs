//! How grave an error is in the log.

use super::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A fault of Howdah's own.
    Error,
    /// A client was refused, ended, or not served.
    Warning,
    /// An operator on the console has the answer before him.
    Info,
}

impl Level {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// The one rule for every error that somebody is told.
pub const fn level(error: &Error) -> Level {
    match error {
        Error::Internal(_) => Level::Error,
        Error::Console(_) => Level::Info,
        _ => Level::Warning,
    }
}
