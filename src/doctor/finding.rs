//! What an examination finds.

use serde::Serialize;

/// In the order of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Urgency {
    /// Clients are refused or wait too long, now or at the next peak.
    High,
    /// Something costs more than it has to.
    Medium,
    Low,
}

impl Urgency {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Medium => "medium",
            Self::Low => "low",
        }
    }
}

/// Every piece of advice that there is; the words are stable, for scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    CacheHitsLow,
    CapacityTight,
    CapacityTooLarge,
    ConnectionsNearLimit,
    IdleInTransaction,
    IndexMissing,
    IndexUnused,
    MaterializedViewStale,
    PoolTooLarge,
    PoolTooSmall,
    ReadsOnPrimary,
    ReplicationLag,
    SessionStateHidden,
    StatementCacheThrash,
    StatisticsMissing,
}

impl Code {
    pub const ALL: [Self; 15] = [
        Self::CacheHitsLow,
        Self::CapacityTight,
        Self::CapacityTooLarge,
        Self::ConnectionsNearLimit,
        Self::IdleInTransaction,
        Self::IndexMissing,
        Self::IndexUnused,
        Self::MaterializedViewStale,
        Self::PoolTooLarge,
        Self::PoolTooSmall,
        Self::ReadsOnPrimary,
        Self::ReplicationLag,
        Self::SessionStateHidden,
        Self::StatementCacheThrash,
        Self::StatisticsMissing,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CacheHitsLow => "cache_hits_low",
            Self::CapacityTight => "capacity_tight",
            Self::CapacityTooLarge => "capacity_too_large",
            Self::ConnectionsNearLimit => "connections_near_limit",
            Self::IdleInTransaction => "idle_in_transaction",
            Self::IndexMissing => "index_missing",
            Self::IndexUnused => "index_unused",
            Self::MaterializedViewStale => "materialized_view_stale",
            Self::PoolTooLarge => "pool_too_large",
            Self::PoolTooSmall => "pool_too_small",
            Self::ReadsOnPrimary => "reads_on_primary",
            Self::ReplicationLag => "replication_lag",
            Self::SessionStateHidden => "session_state_hidden",
            Self::StatementCacheThrash => "statement_cache_thrash",
            Self::StatisticsMissing => "statistics_missing",
        }
    }
}

/// A part of a change that a program can make, in the order of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "do", rename_all = "lowercase")]
pub enum Step {
    /// A statement for a server; without a database, for any of its databases.
    Sql {
        host: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        database: Option<String>,
        sql: String,
    },
    /// Settings of Howdah's configuration, then a reload. The section is as it is written, and empty for the top level;
    /// an entry of `[[pools]]` for the same database, user and role is changed where there is one, else added.
    Set { section: String, lines: Vec<String> },
    /// The server is to be restarted.
    Restart { host: String },
}

impl Step {
    pub(super) fn sql(host: &str, database: Option<&str>, sql: impl Into<String>) -> Self {
        Self::Sql { host: host.to_owned(), database: database.map(str::to_owned), sql: sql.into() }
    }

    /// Of the section of a database.
    pub(super) fn set_database(database: &str, line: impl Into<String>) -> Self {
        Self::Set { section: format!("[databases.{}]", key(database)), lines: vec![line.into()] }
    }
}

/// One piece of advice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub urgency: Urgency,
    pub code: Code,
    pub subject: String,
    /// The database that it is about; nothing where it is about a server as a whole.
    pub database: Option<String>,
    pub evidence: String,
    /// For people; the steps are the part of it that needs nobody's judgement.
    pub change: String,
    pub steps: Vec<Step>,
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The same as a part of a section's name.
fn key(text: &str) -> String {
    let bare = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if bare { text.to_owned() } else { quoted(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_the_same_word_everywhere() {
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).unwrap(), code.as_str());
        }
        assert!(Code::ALL.is_sorted_by_key(|c| c.as_str()));
    }

    #[test]
    fn names_of_any_kind_are_toml() {
        for name in ["app", "my-db_1", "my db", "", "quote\" \\ \n", "ü.x"] {
            let section = format!("[databases.{}]\nx = {}\n", key(name), quoted(name));
            let read: toml::Table = section.parse().unwrap();
            assert_eq!(read["databases"][name]["x"].as_str(), Some(name));
        }
    }
}
