//! Whose command ends a client's connection.

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// An operator has ended this client.
    Operator,
    /// The whole pooler ends.
    Pooler,
    /// The same, for a client of the console.
    Console,
}

impl Shutdown {
    pub const fn detail(self) -> &'static str {
        match self {
            Self::Operator => "The connection was ended by the pooler's operator.",
            Self::Pooler => "The pooler is shutting down.",
            Self::Console => "The console is closed.",
        }
    }

    /// In PgBouncer's log.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Operator => "admin forced disconnect",
            Self::Pooler | Self::Console => "pooler is shutting down",
        }
    }
}
