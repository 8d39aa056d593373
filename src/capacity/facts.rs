//! What a server can carry, as it says itself.

use std::collections::BTreeMap;

/// The answers of one server at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// `server_version_num`.
    pub version: u32,
    pub max_connections: u32,
    pub superuser_reserved: u32,
    /// `reserved_connections`; 0 before PostgreSQL 16.
    pub reserved: u32,
    pub in_recovery: bool,
    /// CONNECTION LIMIT of roles that have one. It does not bind superusers, who are not here.
    pub role_limits: BTreeMap<String, u32>,
    /// CONNECTION LIMIT of databases that have one.
    pub database_limits: BTreeMap<String, u32>,
    /// Client backends now, by role.
    pub in_use: BTreeMap<String, u32>,
    /// The same by role and database.
    pub in_use_by: BTreeMap<(String, String), u32>,
}

impl Facts {
    /// The connections that ordinary roles can have.
    pub fn ordinary(&self) -> u32 {
        self.max_connections.saturating_sub(self.superuser_reserved).saturating_sub(self.reserved)
    }

    /// [`Self::ordinary`] as a sum.
    pub fn ordinary_sum(&self) -> String {
        let mut sum = format!(
            "max_connections {} - superuser_reserved_connections {}",
            self.max_connections, self.superuser_reserved
        );
        if self.reserved > 0 {
            sum.push_str(&format!(" - reserved_connections {}", self.reserved));
        }
        format!("{sum} = {}", self.ordinary())
    }

    /// Who has what now, most first; so many are told one by one.
    pub fn in_use_told(&self, most: usize) -> String {
        let mut all: Vec<_> = self.in_use_by.iter().collect();
        all.sort_by_key(|(_, n)| std::cmp::Reverse(**n));
        let sum: u32 = all.iter().map(|(_, n)| **n).sum();
        let rest: u32 = all.iter().skip(most).map(|(_, n)| **n).sum();
        let mut told: Vec<String> =
            all.iter().take(most).map(|((role, database), n)| format!("{role} in {database} {n}")).collect();
        if rest > 0 {
            told.push(format!("others {rest}"));
        }
        if told.is_empty() { sum.to_string() } else { format!("{sum} ({})", told.join(", ")) }
    }

    /// Connections in use now by roles that are not among `ours`.
    pub fn used_by_others<'a>(&self, ours: impl Fn(&str) -> bool + 'a) -> u32 {
        self.in_use.iter().filter(|(role, _)| !ours(role)).map(|(_, n)| *n).sum()
    }
}
