//! Why a pool serves nobody, and the words for it. They are declared here alone: the client's error, readiness, the
//! metrics, the page and the console all say the same.

use super::Error;

/// See the module. What a server or the network said is kept in its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standstill {
    /// PAUSE, of this database or of all.
    Paused {
        all: bool,
    },
    /// KILL, which pauses as well.
    Killed,
    Suspended,
    /// DISABLE: the clients that are in are served, and no others come in.
    Disabled,
    /// The server answers, and does not let the pooler in.
    LoginRefused {
        reason: String,
    },
    Unreachable {
        reason: String,
    },
    /// A dial of another pool failed, and the pause behind it is not over.
    Backoff,
    /// No host says that it is the primary.
    NoPrimary,
    NoReplica,
    /// Every replica is too far behind.
    ReplicaLag,
}

impl Standstill {
    /// What a failed attempt to open a connection says.
    pub fn of_failure(e: &Error) -> Self {
        match e {
            Error::ServerUnreachable { reason, .. } => Self::Unreachable { reason: reason.clone() },
            Error::ServerLogin(e) | Error::ReplicationLogin(e) => Self::LoginRefused { reason: e.summary() },
            other => Self::LoginRefused { reason: other.to_string() },
        }
    }

    /// Stable: the label in metrics, and the word in tables and JSON.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Paused { .. } => "paused",
            Self::Killed => "killed",
            Self::Suspended => "suspended",
            Self::Disabled => "disabled",
            Self::LoginRefused { .. } => "login_refused",
            Self::Unreachable { .. } => "unreachable",
            Self::Backoff => "backoff",
            Self::NoPrimary => "no_primary",
            Self::NoReplica => "no_replica",
            Self::ReplicaLag => "lag",
        }
    }

    /// The operator has it so, and nothing has failed.
    pub const fn is_ordered(&self) -> bool {
        matches!(self, Self::Paused { .. } | Self::Killed | Self::Suspended | Self::Disabled)
    }

    /// What everybody may read: nothing of what a server said.
    pub fn headline(&self, database: &str) -> String {
        match self {
            Self::Paused { all: false } => format!("database \"{database}\" is paused"),
            Self::Paused { all: true } => "all databases are paused".to_owned(),
            Self::Killed => format!("database \"{database}\" was killed and is paused since"),
            Self::Suspended => "all databases are suspended".to_owned(),
            Self::Disabled => format!("database \"{database}\" is disabled"),
            Self::LoginRefused { .. } => "the database server does not let the pooler in".to_owned(),
            Self::Unreachable { .. } => "cannot connect to the database server".to_owned(),
            Self::Backoff => {
                "cannot connect to the database server, and the next attempt comes after a pause".to_owned()
            }
            Self::NoPrimary => format!("no server of database \"{database}\" is confirmed as its primary"),
            Self::NoReplica => {
                format!("no replica of database \"{database}\" is confirmed as one and can be reached")
            }
            Self::ReplicaLag => format!(
                "every replica of database \"{database}\" is further behind than max_lag or max_lag_bytes allows"
            ),
        }
    }

    /// The headline, and the reason behind it where there is one.
    pub fn words(&self, database: &str) -> String {
        let headline = self.headline(database);
        match self {
            Self::LoginRefused { reason } | Self::Unreachable { reason } => format!("{headline}: {reason}"),
            _ => headline,
        }
    }

    /// What helps.
    pub fn hint(&self, database: &str) -> String {
        match self {
            Self::Paused { all: true } | Self::Suspended => {
                "RESUME on the console lets all databases serve again.".to_owned()
            }
            Self::Paused { all: false } | Self::Killed => {
                format!("RESUME {} on the console lets it serve again.", quoted(database))
            }
            Self::Disabled => {
                "The operator has closed it for new clients; ENABLE on the console opens it again.".to_owned()
            }
            Self::LoginRefused { .. } => {
                "Mend what the server says: the user or secret that the pooler logs in with, or the server's own limits; the log names the host.".to_owned()
            }
            Self::Unreachable { .. } | Self::Backoff => {
                "Check that the server runs and is reachable from the pooler; the log names the host.".to_owned()
            }
            Self::NoPrimary => {
                "SHOW ROUTES on the console says how each server stands; a primary must answer, or be promoted."
                    .to_owned()
            }
            Self::NoReplica | Self::ReplicaLag => {
                "See howdah_replica_lag_seconds and howdah_host_up; with when_no_replica = \"primary\" the primary serves.".to_owned()
            }
        }
    }

    /// One of each.
    #[cfg(test)]
    pub fn samples() -> Vec<Self> {
        vec![
            Self::Paused { all: false },
            Self::Paused { all: true },
            Self::Killed,
            Self::Suspended,
            Self::Disabled,
            Self::LoginRefused { reason: "FATAL: no (28000)".to_owned() },
            Self::Unreachable { reason: "connection refused".to_owned() },
            Self::Backoff,
            Self::NoPrimary,
            Self::NoReplica,
            Self::ReplicaLag,
        ]
    }
}

/// As a command of the console takes it.
fn quoted(database: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !database.is_empty() && database.chars().all(plain) {
        return database.to_owned();
    }
    format!("\"{}\"", database.replace('"', "\"\""))
}
