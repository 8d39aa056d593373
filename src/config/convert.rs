//! `howdah convert`: the TOML that a `pgbouncer.ini` comes to, and a report of what became of its keys. It behaves
//! as the ini did, which is proved by loading both; only with `--modernise` it takes Howdah's own defaults.

mod compare;
#[cfg(test)]
mod tests;

use std::fmt::{Display, Write as _};
use std::path::Path;
use std::sync::Arc;

use super::build::join;
use super::load::{Start, finish};
use super::pgbouncer::{self, STARTUP, WITHOUT_MEANING};
use super::problem::ConfigError;
use super::raw::{self, Node, Raw, Source, Table};
use super::resolved::{Config, Profile};
use super::setting::{Level, Setting};
use super::settings::{self, SETTINGS};
use super::value::Kind;
use super::{Overrides, is_ini, load};

/// The settings that `--modernise` leaves at Howdah's own default where the ini does not state them, and what the
/// change does.
const MODERNISED: &[(&str, &str)] = &[
    ("compatibility", "errors have SQLSTATEs of their own, and sessions survive a query_timeout"),
    ("reset_state", "a SET or a temporary table of one client is gone before the next one gets the server"),
    ("client_write_timeout", "a client that reads nothing of its results for so long is closed"),
    ("ops_listen", "metrics and health are served over HTTP on this address"),
    ("drain_timeout", "SIGTERM ends Howdah after this time at the latest"),
    ("reserved_client_connections", "admin_users come in when all places are taken"),
    ("max_login_failures", "failed logins of one user from one address have a limit in each minute"),
    ("max_client_statement_memory", "prepared statements of one client may take this much memory"),
    ("max_statement_memory", "prepared statements of all clients may take this much memory"),
    ("max_statement_size", "a larger statement cannot be prepared by name"),
    ("track_extra_parameters", "every parameter is tracked for each client"),
    ("server_check_query", "an idle server connection is not asked before it is handed out"),
    ("query_wait_notify", "a client that waits is sent no notice"),
    ("syslog_ident", "the program's name in the syslog"),
];

/// The settings whose values are paths, which are relative to the file in TOML and to the process in an ini.
const PATHS: &[&str] = &[
    "auth_file",
    "auth_hba_file",
    "auth_ident_file",
    "client_tls_ca",
    "client_tls_cert",
    "client_tls_key",
    "log_file",
    "pid_file",
    "server_tls_ca",
    "server_tls_cert",
    "server_tls_key",
    "unix_socket_dir",
];

/// PgBouncer's keys of settings that are not one key there.
const COMPOSED: &[(&str, &str)] = &[
    ("listen", "listen_addr and listen_port"),
    ("log_level", "verbose"),
    ("unix_socket_port", "listen_port"),
];

/// Whose defaults hold where the ini states nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// PgBouncer's: what is written behaves as the ini did.
    Keep,
    /// Howdah's.
    Modernise,
}

/// A TOML text, and the report in lines.
#[derive(Debug)]
pub struct Converted {
    pub toml: String,
    pub report: String,
    /// Whether a line of the report says that something is left to decide.
    pub undecided: bool,
}

/// Reads a `pgbouncer.ini` and writes what it says as TOML.
pub fn convert(path: &Path, aim: Aim) -> Result<Converted, Vec<ConfigError>> {
    let origin: Arc<str> = Arc::from(path.display().to_string().as_str());
    let whole = Source::File { path: origin.clone(), line: None };
    let text = std::fs::read_to_string(path)
        .map_err(|e| vec![ConfigError::new(&whole, "", format!("cannot be read: {e}"))])?;
    if !is_ini(path) {
        let why = "is not a pgbouncer.ini: its name does not end in .ini, and it has no section [pgbouncer]";
        return Err(vec![ConfigError::new(&whole, "", why)]);
    }
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    let tree = pgbouncer::read(&text, &origin, Path::new(""), &mut errors, &mut warnings);
    if !errors.is_empty() {
        return Err(errors);
    }
    let before = load(path, &Overrides::default());
    let mut c = Writer { aim, toml: String::new(), report: String::new(), undecided: false };
    c.head(&origin);
    c.global(&tree);
    for (section, level) in [("users", Level::User), ("databases", Level::Database), ("peers", Level::Peer)] {
        c.sections(&tree, section, level, before.as_ref().ok());
    }
    for (key, why) in WITHOUT_MEANING.iter().filter(|(key, _)| states(&text, key)) {
        c.tell("without meaning", format_args!("{key}: {why}"));
    }
    for warning in before.as_ref().map_or(&warnings, |c| &c.notes.warnings) {
        c.tell("note", warning);
    }
    c.judge(before);
    Ok(Converted { toml: c.toml, report: c.report, undecided: c.undecided })
}

/// Whether a line of the text sets this key.
fn states(text: &str, key: &str) -> bool {
    let of = |l: &str| l.split_once('=').map(|(k, _)| k.trim().to_owned());
    text.lines().any(|l| of(l).is_some_and(|k| k == key))
}

struct Writer {
    aim: Aim,
    toml: String,
    report: String,
    undecided: bool,
}

impl Writer {
    fn tell(&mut self, what: &str, said: impl Display) {
        let _ = writeln!(self.report, "{what}: {said}");
    }

    fn decide(&mut self, said: impl Display) {
        self.undecided = true;
        self.tell("to decide", said);
    }

    fn head(&mut self, origin: &str) {
        let _ = writeln!(self.toml, "# Converted from {origin} by howdah convert.");
        let how = match self.aim {
            Aim::Keep => {
                "# It behaves as that file did. `howdah convert --modernise` takes Howdah's own defaults instead."
            }
            Aim::Modernise => {
                "# Where that file stated nothing, some of Howdah's own defaults hold; see the report."
            }
        };
        let _ = writeln!(self.toml, "{how}\n");
    }

    fn global(&mut self, tree: &Table) {
        for s in SETTINGS.iter().filter(|s| s.at(Level::Global)) {
            if let Some(node) = tree.get(s.key) {
                self.setting(s, node);
                self.became(s.key, s.pgbouncer.main);
                continue;
            }
            let Some(preset) = s.pgbouncer.preset else { continue };
            let node = Node::loose(preset, &Source::Default);
            match (self.aim, MODERNISED.iter().find(|(k, _)| *k == s.key)) {
                (Aim::Modernise, Some((_, effect))) => {
                    let (key, before) = (s.key, value(s, &node.raw));
                    let now = s.preset(false).map_or_else(String::new, |own| {
                        format!(" is {}", value(s, &Raw::Loose(own.to_owned())))
                    });
                    self.tell("changed", format_args!("{key}{now}: {effect}; as before: {key} = {before}"));
                }
                _ => {
                    let _ = writeln!(self.toml, "# PgBouncer's default.");
                    self.setting(s, &node);
                }
            }
        }
    }

    /// Says what a key of `[pgbouncer]` is called now.
    fn became(&mut self, key: &str, theirs: Option<&str>) {
        let composed = COMPOSED.iter().find(|(k, _)| *k == key).map(|(_, theirs)| *theirs);
        match theirs.or(composed) {
            Some(theirs) if theirs != key => self.tell("renamed", format_args!("{theirs} is {key}")),
            _ => self.tell("kept", key),
        }
    }

    fn setting(&mut self, s: &Setting, node: &Node) {
        let _ = writeln!(self.toml, "{} = {}", s.key, value(s, &node.raw));
    }

    fn sections(&mut self, tree: &Table, section: &str, level: Level, before: Option<&Config>) {
        let Some(Node { raw: Raw::Table(entries), .. }) = tree.get(section) else { return };
        for (name, node) in entries {
            let Raw::Table(table) = &node.raw else { continue };
            let path = join(section, name);
            let _ = writeln!(self.toml, "\n[{path}]");
            let mut keys = Vec::new();
            for (key, node) in table {
                if let Some(s) = settings::find(level, key) {
                    self.setting(s, node);
                    keys.push(told(s, level, node));
                }
            }
            self.tell("kept", format_args!("{path}: {}", keys.join(", ")));
            match level {
                Level::User => self.unlisted(name, before),
                Level::Database => self.balance(name, table, before),
                _ => {}
            }
        }
    }

    /// A section `[users]` of an ini makes nobody known who is not in the user list; one in TOML does.
    fn unlisted(&mut self, name: &str, before: Option<&Config>) {
        if before.and_then(|c| c.users.get(name)).is_some_and(|u| !u.listed) {
            let _ = writeln!(self.toml, "listed = false");
        }
    }

    /// PgBouncer takes its hosts in turn; natively the first one that works is used.
    fn balance(&mut self, name: &str, table: &Table, before: Option<&Config>) {
        let database =
            before.and_then(|c| c.databases.get(name).or_else(|| c.autodb.as_ref().filter(|_| name == "*")));
        let several = database.is_some_and(|d| d.load_balance && d.roles.values().any(|r| r.hosts.len() > 1));
        if several && !table.contains_key("load_balance_hosts") {
            let _ = writeln!(self.toml, "# PgBouncer's default.\nload_balance_hosts = \"round-robin\"");
        }
    }

    /// Loads what was written. What stops it, and what does not come to the same where it should, is the operator's
    /// to decide.
    fn judge(&mut self, before: Result<Config, Vec<ConfigError>>) {
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
        match (before, finish(tree, start, &Overrides::default())) {
            // The ini would not start either.
            (Err(errors), _) | (Ok(_), Err(errors)) => errors.iter().for_each(|e| self.decide(e)),
            (Ok(before), Ok(after)) if self.aim == Aim::Keep => {
                compare::differences(&before, &after).iter().for_each(|d| self.decide(d));
            }
            (Ok(_), Ok(_)) => {}
        }
    }
}

/// A key of a section, with its name there where that is another one.
fn told(s: &Setting, level: Level, node: &Node) -> String {
    if let ("startup", Raw::Table(t)) = (s.key, &node.raw) {
        let theirs: Vec<&str> = STARTUP.iter().copied().filter(|k| t.contains_key(*k)).collect();
        return format!("{} (now in startup)", theirs.join(" and "));
    }
    let theirs = if level == Level::User { s.pgbouncer.user } else { s.pgbouncer.database };
    match theirs {
        Some(theirs) if theirs != s.key => format!("{theirs} (now {})", s.key),
        _ => s.key.to_owned(),
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
