//! The text of a first configuration.

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::config::Hidden;

/// Where the password is.
#[derive(Debug, Clone)]
pub(super) enum Secret {
    File(PathBuf),
    Variable(String),
    Text(Hidden),
}

impl Secret {
    /// Whether it is in this variable.
    pub(super) fn is_in(&self, name: &str) -> bool {
        matches!(self, Self::Variable(v) if v == name)
    }
}

/// What the configuration says.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    pub(super) host: String,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) secret: Secret,
    pub(super) replicas: Vec<String>,
    pub(super) when_no_replica: Option<String>,
    pub(super) listen: String,
    pub(super) ops_listen: String,
    pub(super) instances: u32,
    pub(super) admins: Vec<String>,
    pub(super) pool_size: Option<u32>,
    pub(super) replica_pool_size: Option<u32>,
    /// The sizes are those of `howdah plan`.
    pub(super) planned: bool,
}

/// A text as a basic string of TOML, which may also be a key. JSON escapes the same, but for one control character.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

fn list(all: &[String]) -> String {
    all.iter().map(|t| quoted(t)).collect::<Vec<_>>().join(", ")
}

impl Draft {
    /// With the smallest size, for the question how large it can be.
    pub(super) fn with_a_size(&self) -> Self {
        Self { pool_size: Some(1), replica_pool_size: Some(1), ..self.clone() }
    }

    /// The configuration, whole.
    pub(super) fn text(&self) -> zeroize::Zeroizing<String> {
        let mut out = zeroize::Zeroizing::new(String::with_capacity(4096));
        self.top(&mut out);
        self.people(&mut out);
        self.databases(&mut out);
        out
    }

    fn top(&self, out: &mut String) {
        let _ = write!(
            out,
            "# Written by `howdah init`. `howdah check FILE` says what it comes to, with every default; SIGHUP puts a\n\
             # change in force. All settings: config/reference.toml, or the page of settings in the documentation.\n\n\
             # Where clients connect: applications change host and port in their DSN, and nothing else.\n\
             listen = [{}]\n\n\
             # Metrics (/metrics), health (/healthz, /readyz) and a page to look at. Elsewhere than on loopback it\n\
             # answers metrics and health alone, unless ops_token_file says what must be shown.\n\
             ops_listen = {}\n\n",
            quoted(&self.listen),
            quoted(&self.ops_listen),
        );
        if self.instances > 1 {
            let _ = write!(
                out,
                "# So many Howdahs serve before the same server, and share what it can carry.\n\
                 instances = {}\n\n",
                self.instances
            );
        }
        out.push_str(
            "# Who may use the console: psql to the database `pgbouncer`, or `howdah show pools`.\n",
        );
        if self.admins.is_empty() {
            let _ = writeln!(out, "# admin_users = [{}]\n", quoted(&self.user));
        } else {
            let _ = writeln!(out, "admin_users = [{}]\n", list(&self.admins));
        }
        out.push_str(
            "# How long a client waits for a server connection before it gets an error that says who holds them.\n\
             # query_wait_timeout = \"10s\"\n\
             # Ends a transaction that its client has left open.\n\
             # idle_transaction_timeout = \"5min\"\n\n",
        );
    }

    fn people(&self, out: &mut String) {
        let user = quoted(&self.user);
        let _ = write!(
            out,
            "# Logs in to Howdah with this password, and Howdah to the server by the same name and password.\n\
             [users.{user}]\n"
        );
        let _ = match &self.secret {
            Secret::File(path) => {
                writeln!(out, "password_file = {}\n", quoted(&path.display().to_string()))
            }
            Secret::Variable(name) => writeln!(out, "password_env = {}\n", quoted(name)),
            Secret::Text(text) => writeln!(
                out,
                "# `password_file` keeps it elsewhere; this file is readable for its owner alone.\n\
                 password = {}\n",
                quoted(text)
            ),
        };
        for admin in self.admins.iter().filter(|a| **a != self.user) {
            let _ = write!(
                out,
                "# An operator: state a password, a password_file or a password_env before it can log in.\n\
                 [users.{}]\n\n",
                quoted(admin)
            );
        }
    }

    fn databases(&self, out: &mut String) {
        let name = quoted(&self.database);
        let why = if self.planned {
            "# What the server could carry when this was written, as `howdah plan` derives it: run that again when\n\
             # max_connections, the number of Howdahs or the load changes.\n"
        } else {
            "# As it was stated; `howdah plan FILE` says what the server can carry.\n"
        };
        let _ = write!(
            out,
            "# Clients ask for it by this name; `dbname` names it otherwise on the server.\n\
             [databases.{name}]\n\
             host = {}\n\
             # How many server connections its pool may have; all clients share them, transaction by transaction.\n\
             {why}pool_size = {}\n",
            quoted(&self.host),
            self.pool_size.unwrap_or(1),
        );
        if self.replicas.is_empty() {
            return;
        }
        let _ = write!(
            out,
            "# What a transaction that only reads does while no replica can serve.\n\
             when_no_replica = {}\n\n\
             # These take the transactions that say READ ONLY.\n\
             [databases.{name}.replica]\n\
             host = [{}]\n\
             pool_size = {}\n",
            quoted(self.when_no_replica.as_deref().unwrap_or("error")),
            list(&self.replicas),
            self.replica_pool_size.or(self.pool_size).unwrap_or(1),
        );
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::{Overrides, load};

    fn draft(name: &str, password: &str) -> Draft {
        Draft {
            host: "db.internal:5433".to_owned(),
            database: name.to_owned(),
            user: name.to_owned(),
            secret: Secret::Text(password.into()),
            replicas: vec!["r1.internal".to_owned(), "r2.internal".to_owned()],
            when_no_replica: Some("primary".to_owned()),
            listen: "127.0.0.1:6432".to_owned(),
            ops_listen: "off".to_owned(),
            instances: 3,
            admins: vec![name.to_owned()],
            pool_size: Some(7),
            replica_pool_size: Some(9),
            planned: true,
        }
    }

    proptest! {
        #[test]
        fn whatever_names_and_passwords_are_the_text_says_them(
            name in "[a-zA-Z0-9 _.'\"\\\\#=äß-]{1,20}",
            password in "[ -~äß]{1,40}",
        ) {
            // The console's own names, and the entry for all others.
            prop_assume!(!["pgbouncer", "howdah", "*"].contains(&name.trim()));
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("howdah.toml");
            std::fs::write(&file, &*draft(&name, &password).text()).unwrap();
            let config = load(&file, &Overrides::default()).map_err(|e| TestCaseError::fail(format!("{e:?}")))?;
            let database = config.databases.get(&name).expect("the database");
            prop_assert_eq!(database.pool.size, 7);
            prop_assert_eq!(config.capacity.instances, 3);
            let user = config.users.get(&name).expect("the user");
            let expected = crate::config::resolved::Secret::classify(&password);
            prop_assert_eq!(user.secret.as_ref(), Some(&expected));
        }
    }
}
