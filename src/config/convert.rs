//! `howdah convert`: the native TOML that a `pgbouncer.ini` comes to, and a report of what became of its keys.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use super::build::join;
use super::load::{Start, finish};
use super::pgbouncer::{self, WITHOUT_MEANING};
use super::problem::ConfigError;
use super::raw::{self, Node, Raw, Source, Table};
use super::resolved::Profile;
use super::setting::{Level, Setting};
use super::settings::{self, SETTINGS};
use super::value::Kind;
use super::{Overrides, is_ini};

/// What is left at Howdah's own default although PgBouncer's differs: key, what that gives, how to have it back.
const IMPROVED: &[(&str, &str, &str)] = &[
    ("compatibility", "errors with their own SQLSTATE, and sessions that survive a timeout", "\"pgbouncer\""),
    ("reset_state", "no client meets the session state that another has left", "false"),
    ("client_write_timeout", "a client that reads nothing of its results frees its server", "\"0\""),
    ("ops_listen", "metrics and health over HTTP, for this machine", "\"off\""),
    ("drain_timeout", "an end at SIGTERM that does not wait for ever", "\"365d\""),
    ("reserved_client_connections", "admin_users come in when all places are taken", "0"),
    ("max_login_failures", "passwords cannot be guessed at any speed", "0"),
    ("max_login_connections", "connections that say nothing cannot take every place", "1000000"),
    ("max_client_statements", "a leak of prepared statements is stopped", "1000000"),
    ("max_statement_size", "a huge prepared statement is not kept in memory", "\"1GB\""),
    ("track_extra_parameters", "every parameter is tracked for each client", "native profile only"),
    ("server_check_query", "an end of a server connection is noticed without asking", "\"<empty>\""),
    ("query_wait_notify", "the wait is in metrics and logs; no notice interrupts a driver", "\"5s\""),
    ("syslog_ident", "the program's own name", "\"pgbouncer\""),
];

/// The settings whose values are paths, which are relative to the file in TOML and to the process in an ini.
const PATHS: &[&str] =
    &["auth_file", "auth_hba_file", "auth_ident_file", "log_file", "pid_file", "unix_socket_dir"];

/// A TOML text, and the report in lines.
#[derive(Debug)]
pub struct Converted {
    pub toml: String,
    pub report: String,
}

/// Reads a `pgbouncer.ini` and writes what it says in native terms.
pub fn convert(path: &Path) -> Result<Converted, Vec<ConfigError>> {
    let origin: Arc<str> = Arc::from(path.display().to_string().as_str());
    let whole = Source::File { path: origin.clone(), line: None };
    if !is_ini(path) {
        return Err(vec![ConfigError::new(&whole, "", "is not a pgbouncer.ini")]);
    }
    let text = std::fs::read_to_string(path)
        .map_err(|e| vec![ConfigError::new(&whole, "", format!("cannot be read: {e}"))])?;
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let tree = pgbouncer::read(&text, &origin, Path::new(""), &mut errors, &mut warnings);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut c = Writer { toml: String::new(), report: String::new() };
    let _ = writeln!(c.toml, "# Converted from {origin} by howdah convert.\n");
    c.global(&tree);
    for (section, level) in [("users", Level::User), ("databases", Level::Database), ("peers", Level::Peer)] {
        c.sections(&tree, section, level);
    }
    for (key, why) in WITHOUT_MEANING.iter().filter(|(key, _)| states(&text, key)) {
        let _ = writeln!(c.report, "without meaning: {key}: {why}");
    }
    for warning in warnings {
        let _ = writeln!(c.report, "note: {warning}");
    }
    c.judge();
    Ok(Converted { toml: c.toml, report: c.report })
}

/// Whether a line of the text sets this key.
fn states(text: &str, key: &str) -> bool {
    let of = |l: &str| l.split_once('=').map(|(k, _)| k.trim().to_owned());
    text.lines().any(|l| of(l).is_some_and(|k| k == key))
}

struct Writer {
    toml: String,
    report: String,
}

impl Writer {
    fn global(&mut self, tree: &Table) {
        for s in SETTINGS.iter().filter(|s| s.at(Level::Global)) {
            if let Some(node) = tree.get(s.key) {
                self.setting(s, node);
                let name = s.pgbouncer.main.unwrap_or(s.key);
                let what = if name == s.key { "kept" } else { "renamed" };
                let now = if name == s.key { String::new() } else { format!(" is {}", s.key) };
                let _ = writeln!(self.report, "{what}: {name}{now}");
                continue;
            }
            let Some(preset) = s.pgbouncer.preset else { continue };
            if let Some((_, gain, before)) = IMPROVED.iter().find(|(k, ..)| *k == s.key) {
                let _ = writeln!(self.report, "improved: {}: {gain}; as before: {} = {before}", s.key, s.key);
            } else {
                let _ = writeln!(self.toml, "# PgBouncer's default.");
                self.setting(s, &Node::loose(preset, &Source::Default));
            }
        }
    }

    fn setting(&mut self, s: &Setting, node: &Node) {
        let _ = writeln!(self.toml, "{} = {}", s.key, value(s, &node.raw));
    }

    fn sections(&mut self, tree: &Table, section: &str, level: Level) {
        let Some(Node { raw: Raw::Table(entries), .. }) = tree.get(section) else { return };
        for (name, node) in entries {
            let Raw::Table(table) = &node.raw else { continue };
            let _ = writeln!(self.toml, "\n[{}]", join(section, name));
            for (key, node) in table {
                if let Some(s) = settings::find(level, key) {
                    self.setting(s, node);
                }
            }
        }
    }

    /// What the native profile would refuse is the operator's to decide.
    fn judge(&mut self) {
        let origin: Arc<str> = "the result".into();
        let mut errors = Vec::new();
        let tree = raw::from_toml(&self.toml, &origin, &mut errors);
        let start = Start {
            origin,
            dir: "".into(),
            profile: Profile::Native,
            ini: false,
            warnings: Vec::new(),
            errors,
        };
        if let Err(errors) = finish(tree, start, &Overrides::default()) {
            for e in errors {
                let _ = writeln!(self.report, "to decide: {e}");
            }
        }
    }
}

fn value(s: &Setting, raw: &Raw) -> String {
    let quoted = |t: &str| toml::Value::String(t.to_owned()).to_string();
    match raw {
        Raw::Loose(t) if s.kind == Kind::Secret => quoted(t),
        Raw::Loose(t) if PATHS.contains(&s.key) && !t.is_empty() && !t.starts_with('@') => {
            quoted(&std::path::absolute(t).map_or_else(|_| t.clone(), |p| p.display().to_string()))
        }
        raw => s.kind.read(raw).map_or_else(|_| quoted(""), |v| v.to_toml()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load;

    #[test]
    fn what_is_written_loads_and_means_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("userlist.txt");
        std::fs::write(&list, "\"app\" \"hunter2\"\n").unwrap();
        let ini = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\napp = host=db port=5433 dbname=appdb pool_size=7 password='it''s' user=reader\n\
             * = host=other\n[users]\napp = pool_mode=session\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             auth_type = md5\nauth_file = {}\nquery_wait_timeout = 10\ndns_nxdomain_ttl = 5\n",
            list.display()
        );
        std::fs::write(&ini, text).unwrap();
        let done = convert(&ini).unwrap();
        for line in [
            "kept: auth_file",
            "renamed: auth_type is auth_method",
            "without meaning: dns_nxdomain_ttl: ",
            "improved: reset_state: ",
        ] {
            assert!(done.report.contains(line), "{line}\n{}", done.report);
        }
        assert!(!done.report.contains("to decide"), "{}\n{}", done.report, done.toml);
        let native = dir.path().join("howdah.toml");
        std::fs::write(&native, &done.toml).unwrap();
        let (was, is) =
            (load(&ini, &Overrides::default()).unwrap(), load(&native, &Overrides::default()).unwrap());
        assert_eq!(is.profile, Profile::Native);
        assert_eq!((is.pool.mode, is.pool.size), (was.pool.mode, 20));
        assert_eq!(is.pool.query_wait_timeout, was.pool.query_wait_timeout);
        assert_eq!(is.limits.max_client_connections, 100);
        assert_eq!(is.databases["app"].roles, was.databases["app"].roles);
        assert_eq!(is.databases["app"].server_secret, was.databases["app"].server_secret);
        assert_eq!(is.users, was.users);
        assert!(is.autodb.is_some() && is.pool.reset_state);
    }
}
