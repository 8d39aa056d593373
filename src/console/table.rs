//! Every command of the console in one table: its words, who may use it, and for each SHOW its columns and rows.
//! A command that is not here does not exist.
//!
//! **To add a SHOW**: write its columns (a `&[Column]`, those that PgBouncer does not have marked `own`) and one
//! function from a [`View`] to rows in a file of `show/`, and add a line to [`SHOWS`]. Nothing else: both protocols,
//! rights, HELP, the reference and the test of rights take it from here.

use super::protocol::Answer;
use super::rows::{Column, Row};
use super::show::{clients, config, databases, internal, own, pools, routes, see, stats, users};
use super::view::View;
use crate::config::Hidden;
use crate::config::hidden::{PLACEHOLDER, without_passwords};
use crate::error::Refusal;

use super::command::{Statement, invalid};
use Argument::{Database, Forbidden, Text, Wish};
use Right::{Admin, Stats};

/// What a user of the console may do; the greater includes the smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Right {
    /// To look: `stats_users`.
    Stats,
    /// Everything: `admin_users`.
    Admin,
}

/// One SHOW.
pub struct Show {
    pub name: &'static str,
    pub right: Right,
    pub columns: &'static [Column],
    pub rows: fn(&View) -> Vec<Row>,
    /// What it answers, for the reference.
    pub tells: &'static str,
}

impl PartialEq for Show {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl std::fmt::Debug for Show {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

const fn show(
    name: &'static str,
    right: Right,
    columns: &'static [Column],
    rows: fn(&View) -> Vec<Row>,
    tells: &'static str,
) -> Show {
    Show { name, right, columns, rows, tells }
}

/// Sorted by name.
pub const SHOWS: &[Show] = &[
    show(
        "ACTIVE_SOCKETS",
        Stats,
        clients::SOCKETS,
        clients::active_sockets,
        "The rows of SHOW SOCKETS without idle connections.",
    ),
    show(
        "CLIENTS",
        Stats,
        clients::CLIENTS,
        clients::clients,
        "One row for each connected client: who it is, from where, what it does, and since when.",
    ),
    show(
        "CONFIG",
        Stats,
        config::CONFIG,
        config::config,
        "Every setting with its value, its default, and whether it can be changed while Howdah runs.",
    ),
    show(
        "DATABASES",
        Stats,
        databases::DATABASES,
        databases::databases,
        "One row for each database and role: its server, its limits, and whether it is paused or disabled.",
    ),
    show(
        "DNS_HOSTS",
        Stats,
        internal::DNS_HOSTS,
        internal::dns_hosts,
        "Always empty: each new server connection asks the system's resolver, and no answer is kept.",
    ),
    show(
        "DNS_ZONES",
        Stats,
        internal::DNS_ZONES,
        internal::dns_zones,
        "Always empty: no DNS zone is watched.",
    ),
    show(
        "FDS",
        Admin,
        internal::FDS,
        internal::fds,
        "The listening sockets. File descriptors and secrets are not shown.",
    ),
    show(
        "HOLDERS",
        Stats,
        see::HOLDERS,
        see::holders,
        "Who holds each server connection: the client, its state, since when, how long others have waited because of it, and its last statement.",
    ),
    show(
        "LISTENERS",
        Stats,
        see::LISTENERS,
        see::listeners,
        "The connections on which Howdah listens for clients, with their channels and clients.",
    ),
    show(
        "LISTS",
        Stats,
        internal::LISTS,
        internal::lists,
        "Counts of databases, users, pools, clients and servers.",
    ),
    show(
        "MEM",
        Stats,
        internal::MEM,
        internal::mem,
        "How many objects of each kind there are, and the bytes that they take.",
    ),
    show(
        "PEERS",
        Stats,
        internal::PEERS,
        internal::peers,
        "The configured peers, to which cancel requests can be passed.",
    ),
    show(
        "PEER_POOLS",
        Stats,
        internal::PEER_POOLS,
        internal::peer_pools,
        "One row for each peer, with zeros: each cancel request has a connection of its own.",
    ),
    show(
        "POOLS",
        Stats,
        pools::POOLS,
        pools::pools,
        "One row for each database and user: clients that work and wait, server connections by state, and the longest wait.",
    ),
    show(
        "PREPARED_STATEMENTS",
        Stats,
        own::PREPARED_STATEMENTS,
        own::prepared_statements,
        "How many named prepared statements clients hold, by database and user.",
    ),
    show(
        "QUERIES",
        Stats,
        see::QUERIES,
        see::queries,
        "Statements without their constants, those that took most time first; times are in microseconds.",
    ),
    show(
        "ROUTES",
        Stats,
        routes::ROUTES,
        routes::routes,
        "How each host stands: its role, its lag, and whether it takes reads.",
    ),
    show("SERVERS", Stats, clients::CLIENTS, clients::servers, "One row for each server connection."),
    show(
        "SOCKETS",
        Stats,
        clients::SOCKETS,
        clients::sockets,
        "The rows of SHOW CLIENTS and SHOW SERVERS, with the state of their buffers.",
    ),
    show("STATE", Stats, internal::STATE, internal::state, "Whether Howdah is active, paused or suspended."),
    show("STATS", Stats, stats::STATS, stats::stats, "Totals and averages for each database."),
    show("STATS_AVERAGES", Stats, stats::AVERAGES, stats::averages, "The averages of SHOW STATS."),
    show("STATS_TOTALS", Stats, stats::TOTALS, stats::totals, "The totals of SHOW STATS."),
    show("TOTALS", Stats, stats::SUMS, stats::sums, "Totals and averages over all databases."),
    show(
        "USERS",
        Stats,
        users::USERS,
        users::users,
        "The users with their limits and the connections that count towards these.",
    ),
    show("VERSION", Stats, internal::VERSION, internal::version, "The version."),
];

/// What clients ask for although there is nothing to set: name and value.
const VARIABLES: &[(&str, &str, &[Column])] = &[
    ("client_encoding", "UTF-8", &[super::rows::text("client_encoding")]),
    ("datestyle", "ISO", &[super::rows::text("datestyle")]),
    (
        "default_transaction_isolation",
        "read committed",
        &[super::rows::text("default_transaction_isolation")],
    ),
    ("standard_conforming_strings", "on", &[super::rows::text("standard_conforming_strings")]),
    ("timezone", "GMT", &[super::rows::text("timezone")]),
];

/// The column of `SELECT 1`, as PostgreSQL calls it.
const ALIVE: &[Column] = &[super::rows::int("?column?")];

/// What acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Disable,
    Enable,
    Kill,
    KillClient,
    Pause,
    Reconnect,
    Reload,
    Resume,
    ShutDown,
    Suspend,
    WaitClose,
}

/// What may stand behind a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Argument {
    Forbidden,
    /// `true`: one must be named.
    Database(bool),
    Text,
    /// Nothing, or one of these words.
    Wish(&'static [&'static str]),
}

/// All of them, with what HELP says, and what they do.
const VERBS: &[(&str, Verb, Right, Argument, &str, &str)] = &[
    (
        "DISABLE",
        Verb::Disable,
        Admin,
        Database(true),
        "DISABLE db",
        "New clients of the database are refused; those that are connected go on.",
    ),
    ("ENABLE", Verb::Enable, Admin, Database(true), "ENABLE db", "Ends DISABLE."),
    (
        "KILL",
        Verb::Kill,
        Admin,
        Database(false),
        "KILL [db]",
        "Ends the clients of the database (or of all) and its server connections at once, and keeps it closed until RESUME.",
    ),
    (
        "KILL_CLIENT",
        Verb::KillClient,
        Admin,
        Text,
        "KILL_CLIENT id",
        "Closes the connection of one client; SHOW CLIENTS has its id.",
    ),
    (
        "PAUSE",
        Verb::Pause,
        Admin,
        Database(false),
        "PAUSE [db]",
        "Lets open transactions end, closes the server connections of the database (or of all), and lets clients wait until RESUME. It returns when all server connections are closed.",
    ),
    (
        "RECONNECT",
        Verb::Reconnect,
        Admin,
        Database(false),
        "RECONNECT [db]",
        "Replaces the server connections of the database (or of all), each when its transaction is over.",
    ),
    (
        "RELOAD",
        Verb::Reload,
        Admin,
        Forbidden,
        "RELOAD",
        "Reads the configuration again, as SIGHUP does. It applies whole or not at all.",
    ),
    ("RESUME", Verb::Resume, Admin, Database(false), "RESUME [db]", "Ends PAUSE, KILL and SUSPEND."),
    (
        "SHUTDOWN",
        Verb::ShutDown,
        Admin,
        Wish(&["WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"]),
        "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
        "Ends the process. Without a word: at once. WAIT_FOR_SERVERS: when the open transactions are over. WAIT_FOR_CLIENTS: when the clients have left.",
    ),
    (
        "SUSPEND",
        Verb::Suspend,
        Admin,
        Forbidden,
        "SUSPEND",
        "Lets open transactions end and lets clients wait until RESUME. Server connections stay open.",
    ),
    (
        "WAIT_CLOSE",
        Verb::WaitClose,
        Admin,
        Database(false),
        "WAIT_CLOSE [db]",
        "Returns when the server connections that RECONNECT or a reload replaces are closed.",
    ),
];

/// A statement that means something.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Command {
    Empty,
    Help,
    Show(&'static Show),
    /// The place in [`VARIABLES`].
    Variable(usize),
    /// SET of one of [`VARIABLES`].
    SetVariable,
    /// `SELECT 1`, by which drivers and tools find out whether anybody is there.
    Alive,
    Set {
        key: String,
        value: Hidden,
    },
    /// SHOW ADVICE, which asks the servers.
    Advice,
    /// SHOW ROUTES of a statement: the database, if one is named, and the text.
    Explain(Option<String>, String),
    Do(Verb, Option<String>),
}

impl Command {
    /// The one place that says who may do what.
    pub(super) fn right(&self) -> Right {
        match self {
            Self::Empty
            | Self::Help
            | Self::Alive
            | Self::Variable(_)
            | Self::SetVariable
            | Self::Explain(..) => Stats,
            Self::Show(s) => s.right,
            Self::Set { .. } | Self::Advice => Admin,
            Self::Do(verb, _) => VERBS.iter().find(|v| v.1 == *verb).map_or(Admin, |v| v.2),
        }
    }

    /// What it does, in the metrics; nothing for what only looks.
    pub(super) fn label(&self) -> Option<&'static str> {
        match self {
            Self::Set { .. } => Some("SET"),
            Self::Do(verb, _) => VERBS.iter().find(|v| v.1 == *verb).map(|v| v.0),
            _ => None,
        }
    }

    /// The command as it would be typed, for the log: without what is, or may be, a secret.
    pub(super) fn sql(&self) -> String {
        match self {
            Self::Empty => String::new(),
            Self::Help => "SHOW HELP".to_owned(),
            Self::Show(s) => format!("SHOW {}", s.name),
            Self::Variable(n) => format!("SHOW {}", VARIABLES.get(*n).map_or("", |v| v.0)),
            Self::SetVariable => "SET".to_owned(),
            Self::Alive => "SELECT 1".to_owned(),
            Self::Set { key, value } => format!("SET {} = {}", name(key), set_value(key, value)),
            Self::Advice => "SHOW ADVICE".to_owned(),
            Self::Explain(Some(database), _) => format!("SHOW ROUTES {} {PLACEHOLDER}", name(database)),
            Self::Explain(None, _) => format!("SHOW ROUTES {PLACEHOLDER}"),
            Self::Do(verb, argument) => {
                let word = VERBS.iter().find(|v| v.1 == *verb).map_or("", |v| v.0);
                argument.as_ref().map_or_else(|| word.to_owned(), |a| format!("{word} {}", name(a)))
            }
        }
    }

    /// Of its answer, where it has rows.
    pub(super) fn columns(&self) -> Option<&'static [Column]> {
        match self {
            Self::Show(s) => Some(s.columns),
            Self::Explain(..) => Some(routes::ROUTES),
            Self::Advice => Some(super::advice::ADVICE),
            Self::Variable(n) => VARIABLES.get(*n).map(|v| v.2),
            Self::Alive => Some(ALIVE),
            _ => None,
        }
    }

    /// The answer of what only looks; `None` for what acts.
    pub(super) fn look(&self, view: &View) -> Option<Answer> {
        Some(match self {
            Self::Show(s) => Answer::Rows { columns: s.columns, rows: (s.rows)(view) },
            Self::Explain(database, text) => {
                let rows = routes::explain(view, database.as_deref(), text);
                Answer::Rows { columns: routes::ROUTES, rows }
            }
            Self::Variable(n) => {
                let (_, value, columns) = VARIABLES.get(*n)?;
                Answer::Rows { columns, rows: vec![super::rows::row![*value]] }
            }
            Self::Alive => Answer::Rows { columns: ALIVE, rows: vec![super::rows::row![1]] },
            Self::SetVariable => Answer::Told {
                notice: "SET ignored".to_owned(),
                detail: String::new(),
                tag: "SET".to_owned(),
            },
            Self::Help => {
                Answer::Told { notice: "Console usage".to_owned(), detail: help(), tag: "SHOW".to_owned() }
            }
            Self::Empty => Answer::done(""),
            Self::Set { .. } | Self::Do(..) | Self::Advice => return None,
        })
    }
}

/// A name as it is typed: in double quotes where it must be.
fn name(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.*-".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        return text.to_owned();
    }
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// The value of a SET as it is typed. What is not known to be no secret is not shown.
fn set_value(key: &str, value: &Hidden) -> String {
    if crate::config::is_public(key) {
        format!("'{}'", without_passwords(value).replace('\'', "''"))
    } else {
        PLACEHOLDER.to_owned()
    }
}

/// What acts, for the reference: as HELP writes it, who may, and what it does.
pub(super) fn verbs() -> impl Iterator<Item = (&'static str, Right, &'static str)> {
    VERBS.iter().map(|v| (v.4, v.2, v.5))
}

fn help() -> String {
    let mut out = String::new();
    let names: Vec<&str> = std::iter::once("HELP").chain(SHOWS.iter().map(|s| s.name)).collect();
    for line in names.chunks(6) {
        out.push_str(&format!("\n\tSHOW {}", line.join("|")));
    }
    out.push_str("\n\tSHOW ADVICE");
    out.push_str("\n\tSHOW ROUTES [db] 'statement'");
    out.push_str("\n\tSET key = value");
    for verb in VERBS {
        out.push_str(&format!("\n\t{}", verb.4));
    }
    out
}

fn variable(name: &str) -> Option<usize> {
    VARIABLES.iter().position(|v| v.0.eq_ignore_ascii_case(name))
}

/// Finds the command of a statement; `text` is what was written.
pub(super) fn resolve(text: &str, statement: Statement) -> Result<Command, Refusal> {
    let invalid = || invalid(text);
    let (verb, argument) = match statement {
        Statement::Empty => return Ok(Command::Empty),
        Statement::Set { key, .. } if variable(&key).is_some() => return Ok(Command::SetVariable),
        Statement::Set { key, value } => return Ok(Command::Set { key, value }),
        Statement::ShowAbout { name, database, text } if name == "ROUTES" => {
            return Ok(Command::Explain(database, text));
        }
        Statement::ShowAbout { .. } => return Err(invalid()),
        Statement::Words { verb, argument } => (verb, argument),
    };
    if verb == "SHOW" || verb == "SELECT" {
        let name = argument.ok_or_else(invalid)?;
        if name.eq_ignore_ascii_case("help") {
            return Ok(Command::Help);
        }
        if verb == "SELECT" && name == "1" {
            return Ok(Command::Alive);
        }
        if name.eq_ignore_ascii_case("advice") {
            return Ok(Command::Advice);
        }
        let show = SHOWS.iter().find(|s| s.name.eq_ignore_ascii_case(&name)).map(Command::Show);
        return show.or_else(|| variable(&name).map(Command::Variable)).ok_or_else(invalid);
    }
    let row = VERBS.iter().find(|v| v.0 == verb).ok_or_else(invalid)?;
    let argument = match (row.3, argument) {
        (Forbidden, Some(_)) => return Err(invalid()),
        (Database(true), None) => return Err(Refusal::DatabaseRequired),
        (Text, None) => return Err(Refusal::InvalidClientId { text: String::new() }),
        (Wish(words), Some(a)) => {
            let word = words.iter().find(|w| w.eq_ignore_ascii_case(&a)).ok_or_else(invalid)?;
            Some((*word).to_owned())
        }
        (_, argument) => argument,
    };
    Ok(Command::Do(row.1, argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_complete() {
        assert!(SHOWS.windows(2).all(|w| w[0].name < w[1].name));
        assert!(VERBS.windows(2).all(|w| w[0].0 < w[1].0));
        for s in SHOWS {
            assert!(!s.columns.is_empty(), "{}", s.name);
            assert!(s.name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{}", s.name);
        }
    }

    /// Whoever adds a command says here that only looking is for everybody.
    #[test]
    fn only_looking_is_for_stats_users() {
        for (word, verb, right, ..) in VERBS {
            assert_eq!(*right, Admin, "{word}");
            assert_eq!(Command::Do(*verb, None).right(), Admin, "{word}");
        }
        assert_eq!(Command::Set { key: "x".to_owned(), value: Hidden::default() }.right(), Admin);
        let admin_only: Vec<_> = SHOWS.iter().filter(|s| s.right == Admin).map(|s| s.name).collect();
        assert_eq!(admin_only, ["FDS"]);
    }

    #[test]
    fn a_command_is_logged_as_it_is_typed_without_secrets() {
        for (typed, logged) in [
            ("pause \"a \"\"b\"", "PAUSE \"a \"\"b\""),
            ("pause app;", "PAUSE app"),
            ("reload", "RELOAD"),
            ("set query_timeout to '5''s'", "SET query_timeout = '5''s'"),
            ("set ops_token = hunter2", "SET ops_token = …"),
            ("set ops_tokn = hunter2", "SET ops_tokn = …"),
            ("set reset_query = 'SET app.key = hunter2'", "SET reset_query = …"),
            ("set server_reset_query to 'x'", "SET server_reset_query = …"),
            (
                "set databases.app.host = 'postgres://a:hunter2@h'",
                "SET databases.app.host = 'postgres://a:…@h'",
            ),
            ("show pools", "SHOW POOLS"),
        ] {
            let command = super::super::command::parse(typed).and_then(|s| resolve(typed, s)).unwrap();
            assert_eq!(command.sql(), logged);
        }
    }

    #[test]
    fn unknown_words_are_refused() {
        let try_it = |text: &str| super::super::command::parse(text).and_then(|s| resolve(text, s));
        for text in ["show", "show nothing", "begin", "show 1", "select 2", "reload now", "shutdown soon"] {
            assert_eq!(try_it(text), Err(Refusal::InvalidCommand { text: text.to_owned() }));
        }
        assert_eq!(
            try_it("show pools 'x'"),
            Err(Refusal::InvalidCommand { text: "show pools 'x'".to_owned() })
        );
        let explain = Command::Explain(Some("db".to_owned()), "SELECT 'x'".to_owned());
        assert_eq!(try_it("show advice;"), Ok(Command::Advice));
        assert_eq!(Command::Advice.right(), Admin, "it asks the servers");
        assert_eq!(try_it("show routes db 'SELECT ''x''';"), Ok(explain));
        assert_eq!(try_it("disable"), Err(Refusal::DatabaseRequired));
        assert!(matches!(try_it("select Version;"), Ok(Command::Show(s)) if s.name == "VERSION"));
        assert_eq!(try_it("SELECT 1;"), Ok(Command::Alive));
        assert_eq!(try_it("set TimeZone = 'UTC'"), Ok(Command::SetVariable));
    }
}
