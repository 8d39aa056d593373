//! The one table from [`Error`] to what goes over the wire; exhaustive, so that a new error does not compile
//! until it has its row. `docs/src/reference/errors.md` is generated from it.

use std::time::Duration;

use crate::session_state::{Kind, list};

use super::{Error, PoolFigures, SqlState, Standstill};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The session goes on.
    Error,
    /// The connection closes after the message.
    Fatal,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
        }
    }
}

/// An ErrorResponse before it is encoded (PostgreSQL documentation, 54.8 Error and Notice Message Fields).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub severity: Severity,
    pub sqlstate: SqlState,
    /// Howdah's stable name of the error: the label in metrics and logs, and the start of the DETAIL.
    pub code: &'static str,
    pub message: String,
    pub detail: Option<String>,
    pub hint: Option<String>,
    /// A server's own ErrorResponse body, sent as it is instead of the fields above.
    pub verbatim: Option<Vec<u8>>,
}

const PINS_HINT: &str = "Raise max_pins (half of pool_size where it is not stated), and pool_size with it. SHOW HOLDERS \
                         names the clients that keep connections. Or let such state be dropped after each transaction: \
                         session_objects, session_listen or session_statements = \"reset\".";

const REJECT_HINT: &str = "Do without them, use a session pool, or have the setting changed to \"pin\" (\"follow\" for \
                           session_statements, \"share\" for session_listen).";

fn reject_setting(kinds: &[Kind]) -> String {
    let mut settings: Vec<_> = kinds.iter().map(|k| format!("{} = \"reject\"", k.setting())).collect();
    settings.dedup();
    format!("The pool has {}.", settings.join(" and "))
}

fn pins_taken(taken: usize, bound: usize) -> String {
    format!("{taken} of {bound} clients that may keep one (max_pins) do so in this pool.")
}

fn secs(d: Duration) -> String {
    format!("{:.3} s", d.as_secs_f64())
}

fn figures_text(f: &PoolFigures) -> String {
    let mut s = format!(
        "pool {}: {}/{} in use, {} connecting, {} waiting",
        f.pool, f.in_use, f.size, f.connecting, f.waiting
    );
    if f.closing > 0 {
        s.push_str(&format!(", {} closing", f.closing));
    }
    if f.pinned > 0 {
        s.push_str(&format!(", {} kept by what their sessions hold", f.pinned));
    }
    if let Some(why) = &f.standstill {
        s.push_str(&format!("; it serves nobody: {}", why.words(&f.database)));
    }
    if let Some(l) = &f.limited_by {
        s.push_str(&format!("; limited by {l}"));
    }
    if let Some(h) = &f.oldest_holder {
        s.push_str(&format!("; oldest holder: {h}"));
    }
    // Where nobody is served because of it, it is told already.
    if let Some(e) = f.last_connect_error.as_ref().filter(|_| f.standstill.is_none()) {
        s.push_str(&format!("; last connection attempt: {e}"));
    }
    s
}

/// `what`, and why nobody was served meanwhile.
fn because(what: &str, f: &PoolFigures) -> String {
    match &f.standstill {
        Some(why) => format!("{what}: {}", why.headline(&f.database)),
        None => what.to_owned(),
    }
}

/// What helps against a wait: `usual` only where nothing but the pool's own size stands in the way.
fn wait_hint(f: &PoolFigures, usual: &str) -> String {
    match (&f.standstill, &f.limited_by) {
        (Some(why), _) => why.hint(&f.database),
        (None, Some(limit)) => format!(
            "Shorten the transactions that hold connections, or raise the limit that stands in the way ({limit}) if the server has room; a larger pool_size alone does not help."
        ),
        (None, None) if f.in_use < f.size && f.last_connect_error.is_some() => {
            "Connections to the server cannot be opened as they are wanted: mend what the last attempt met; a larger pool_size does not help.".to_owned()
        }
        (None, None) => usual.to_owned(),
    }
}

/// A headline as a sentence.
fn sentence(words: &str) -> String {
    let mut chars = words.chars();
    chars.next().map(|c| c.to_uppercase().collect::<String>() + chars.as_str() + ".").unwrap_or_default()
}

/// What the client is told. Addresses of servers, secrets and paths never appear in it.
pub fn report(error: &Error) -> Report {
    use Severity::{Error as E, Fatal as F};
    use SqlState as S;

    let r = |severity, sqlstate, code, message: String| Report {
        severity,
        sqlstate,
        code,
        message,
        detail: None,
        hint: None,
        verbatim: None,
    };
    let d = |mut r: Report, detail: String| {
        r.detail = Some(detail);
        r
    };
    let h = |mut r: Report, hint: &str| {
        r.hint = Some(hint.to_owned());
        r
    };
    match error {
        Error::ProtocolViolation(why) => {
            r(F, S::PROTOCOL_VIOLATION, "client_protocol_violation", why.clone())
        }
        Error::UnsupportedProtocol { major, minor } => h(
            r(
                F,
                S::FEATURE_NOT_SUPPORTED,
                "unsupported_protocol",
                format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2"),
            ),
            "Use a driver that speaks protocol 3.",
        ),
        Error::NoPinLeft { kinds, taken, bound } => h(
            d(
                r(
                    E,
                    S::PROGRAM_LIMIT_EXCEEDED,
                    "no_pin_left",
                    format!(
                        "refused: {} would keep a server connection, and no more clients of this pool may keep one",
                        list(kinds)
                    ),
                ),
                pins_taken(*taken, *bound),
            ),
            PINS_HINT,
        ),
        Error::NoPinLeftBehind { kinds, taken, bound } => h(
            d(
                r(
                    F,
                    S::PROGRAM_LIMIT_EXCEEDED,
                    "no_pin_left_behind",
                    format!(
                        "terminating connection: the transaction has left {}, and no more clients of this pool may keep \
                         a server connection",
                        list(kinds)
                    ),
                ),
                format!("{} What the transaction has left is gone with its server connection.", pins_taken(*taken, *bound)),
            ),
            PINS_HINT,
        ),
        Error::SessionStateRejected { kinds } => h(
            d(
                r(
                    E,
                    S::FEATURE_NOT_SUPPORTED,
                    "session_state_rejected",
                    format!("refused: {} are not kept for clients of this pool", list(kinds)),
                ),
                reject_setting(kinds),
            ),
            REJECT_HINT,
        ),
        Error::SessionStateRejectedBehind { kinds } => h(
            d(
                r(
                    F,
                    S::FEATURE_NOT_SUPPORTED,
                    "session_state_rejected_behind",
                    format!(
                        "terminating connection: the transaction has left {}, which are not kept for clients of this pool",
                        list(kinds)
                    ),
                ),
                format!(
                    "{} What the transaction has left is gone with its server connection.",
                    reject_setting(kinds)
                ),
            ),
            REJECT_HINT,
        ),
        Error::PinIdleTimeout { kinds, idle, limit } => h(
            d(
                r(
                    F,
                    S::IDLE_SESSION_TIMEOUT,
                    "pin_idle_timeout",
                    format!("terminating connection: it was idle and kept a server connection for {}", list(kinds)),
                ),
                format!("It was idle for {}; pin_idle_timeout is {}.", secs(*idle), secs(*limit)),
            ),
            "Drop, close or unlock what the session holds before it is idle, or raise pin_idle_timeout.",
        ),
        Error::ListenerLost { reason } => h(
            d(
                r(
                    F,
                    S::ADMIN_SHUTDOWN,
                    "listener_lost",
                    "terminating connection: it listens, and notifications may have been missed".to_owned(),
                ),
                format!("The listener of its database: {reason}."),
            ),
            "Connect and LISTEN again. SHOW LISTENERS lists the listeners; session_listen = \"pin\" gives each client that \
             listens a server connection of its own.",
        ),
        Error::ListenBuffer { messages, bytes, limit } => h(
            d(
                r(
                    F,
                    S::PROGRAM_LIMIT_EXCEEDED,
                    "listen_buffer",
                    "terminating connection: it takes its notifications too slowly".to_owned(),
                ),
                format!("{messages} notifications of {bytes} bytes waited for it; listen_buffer is {limit}."),
            ),
            "Read notifications as they come, or raise listen_buffer.",
        ),
        Error::SessionUnknown { reason, limit } => h(
            d(
                r(
                    F,
                    S::CONNECTION_FAILURE,
                    "session_unknown",
                    "terminating connection: the server does not say what the transaction has left in its session"
                        .to_owned(),
                ),
                format!(
                    "{reason}. It has {} for the answer (session_check_timeout). The server connection was closed, and \
                     what the session has set is gone.",
                    secs(*limit)
                ),
            ),
            "Raise session_check_timeout if the server is slow; its log tells what it has refused.",
        ),
        Error::StatementTooLarge { size, limit } => h(
            d(
                r(
                    E,
                    S::PROGRAM_LIMIT_EXCEEDED,
                    "statement_too_large",
                    "named prepared statement is too large to be kept".to_owned(),
                ),
                format!("The Parse message has {size} bytes; max_statement_size is {limit}."),
            ),
            "Raise max_statement_size, or use an unnamed statement, which is not limited.",
        ),
        Error::TooManyStatements { limit } => h(
            d(
                r(
                    E,
                    S::PROGRAM_LIMIT_EXCEEDED,
                    "too_many_statements",
                    "too many prepared statements in this session".to_owned(),
                ),
                format!("This client holds {limit} named statements, which is max_client_statements."),
            ),
            "Close statements that are no longer used, or raise max_client_statements.",
        ),
        Error::StatementMemory { held, count, size, limit } => h(
            d(
                r(
                    E,
                    S::PROGRAM_LIMIT_EXCEEDED,
                    "statement_memory",
                    "prepared statements of this session take too much memory".to_owned(),
                ),
                format!(
                    "This client holds {count} named statements, which take {held} bytes with those that are being \
                     closed; this one takes {size} bytes; max_client_statement_memory is {limit}."
                ),
            ),
            "Close statements that are no longer used, or raise max_client_statement_memory.",
        ),
        Error::StatementMemoryInAll { held, size, limit } => h(
            d(
                r(
                    E,
                    S::OUT_OF_MEMORY,
                    "statement_memory_in_all",
                    "prepared statements of all sessions take too much memory".to_owned(),
                ),
                format!(
                    "Texts and names of all clients' and servers' statements take {held} bytes; this one takes {size} \
                     bytes; max_statement_memory is {limit}."
                ),
            ),
            "SHOW CLIENTS tells who holds how many. Have them closed, lower max_client_statement_memory, or raise \
             max_statement_memory.",
        ),
        Error::UnnamedNotKept { statement, client, all } => h(
            d(
                r(
                    E,
                    S::INVALID_SQL_STATEMENT_NAME,
                    "unnamed_not_kept",
                    "unnamed prepared statement was too long to be kept for another transaction".to_owned(),
                ),
                format!(
                    "Its text was longer than max_statement_size ({statement}), or than what \
                     max_client_statement_memory ({client}) or max_statement_memory ({all}) left."
                ),
            ),
            "Prepare and run it in one transaction, or raise the setting.",
        ),
        Error::UnsupportedStartupOption(what) => h(
            r(
                F,
                S::FEATURE_NOT_SUPPORTED,
                "unsupported_startup_option",
                format!("unsupported startup option: {what}"),
            ),
            "Only `-c name=value` and `--name=value` are understood in `options`.",
        ),
        Error::FeatureNotSupported(what) => {
            r(F, S::FEATURE_NOT_SUPPORTED, "feature_not_supported", (*what).to_owned())
        }
        Error::TransactionInStatementMode => h(
            r(
                F,
                S::FEATURE_NOT_SUPPORTED,
                "transaction_in_statement_mode",
                "transaction blocks not allowed in statement pooling mode".to_owned(),
            ),
            "Set pool_mode = \"transaction\" for this database or user.",
        ),
        Error::TransactionFailed => h(
            r(
                E,
                S::IN_FAILED_TRANSACTION,
                "transaction_failed",
                "current transaction is aborted, commands ignored until end of transaction block".to_owned(),
            ),
            "No server could be had for it; the error before this one says why. Send ROLLBACK and begin again.",
        ),
        Error::NoUserName => r(
            F,
            S::INVALID_AUTHORIZATION,
            "no_user_name",
            "no PostgreSQL user name specified in startup packet".to_owned(),
        ),
        Error::TlsRequired => h(
            r(F, S::INVALID_AUTHORIZATION, "tls_required", "SSL required".to_owned()),
            "Connect with sslmode=require or stronger; client_tls_mode lets nobody in without TLS.",
        ),
        Error::DirectoryBusy { method, limit } => h(
            d(
                r(
                    F,
                    S::TOO_MANY_CONNECTIONS,
                    "directory_busy",
                    format!("too many {method} requests are under way"),
                ),
                format!("max_pam_requests is {limit}, and none of them ended before client_login_timeout."),
            ),
            "Try again shortly; see why the modules answer slowly, or raise max_pam_requests.",
        ),
        Error::NoSuchUser { user } => r(
            F,
            S::INVALID_PASSWORD,
            "no_such_user",
            format!("password authentication failed for user \"{user}\""),
        ),
        Error::AuthenticationFailed { user } => r(
            F,
            S::INVALID_PASSWORD,
            "authentication_failed",
            format!("password authentication failed for user \"{user}\""),
        ),
        Error::NoHbaRule { from, user, database, tls } => h(
            r(
                F,
                S::INVALID_AUTHORIZATION,
                "no_hba_rule",
                hba("no pg_hba.conf entry for", from, user, database, *tls),
            ),
            "Add a rule to auth_hba_file and reload; the first one that fits decides.",
        ),
        Error::HbaReject { from, user, database, tls } => r(
            F,
            S::INVALID_AUTHORIZATION,
            "hba_reject",
            hba("pg_hba.conf rejects connection for", from, user, database, *tls),
        ),
        Error::IdentityUnproved { method, user } => h(
            r(
                F,
                S::INVALID_AUTHORIZATION,
                "identity_unproved",
                format!("{method} authentication failed for user \"{user}\""),
            ),
            "The name that the socket or the certificate shows must be the user, or be mapped to it in auth_ident_file.",
        ),
        Error::DirectoryRefused { method, user } => h(
            r(
                F,
                S::INVALID_AUTHORIZATION,
                "directory_refused",
                format!("{method} authentication failed for user \"{user}\""),
            ),
            "The user or password is wrong there, or the directory could not be asked, which the pooler's log says; see the rule's ldap or pam options, auth_ldap_options or auth_pam_service.",
        ),
        Error::NoForcedUser { database } => h(
            r(
                F,
                S::INVALID_AUTHORIZATION,
                "no_forced_user",
                format!(
                    "database \"{database}\" does not state the server's user, which auth_type = any needs"
                ),
            ),
            "Add user= to the entry of the database.",
        ),
        Error::CertificateRequired => r(
            F,
            S::INVALID_AUTHORIZATION,
            "certificate_required",
            "connection requires a valid client certificate".to_owned(),
        ),
        Error::LookupFailed { reason } => h(
            d(
                r(
                    F,
                    S::CONNECTION_FAILURE,
                    "lookup_failed",
                    "the secret of this user could not be asked for".to_owned(),
                ),
                reason.clone(),
            ),
            "auth_user must be able to log in and to run auth_query; the log and the counter auth_lookups_total tell more.",
        ),
        Error::TooManyClients { current, limit } => h(
            d(
                r(
                    F,
                    S::TOO_MANY_CONNECTIONS,
                    "too_many_clients",
                    "no more connections allowed (max_client_connections)".to_owned(),
                ),
                format!("{current} clients are connected; max_client_connections is {limit}."),
            ),
            "Raise max_client_connections, or let clients share connections.",
        ),
        Error::TooManyDatabaseClients { database, current, limit } => h(
            d(
                r(
                    F,
                    S::TOO_MANY_CONNECTIONS,
                    "too_many_database_clients",
                    format!("no more connections to database \"{database}\" allowed"),
                ),
                format!(
                    "{current} clients are connected; max_client_connections of this database is {limit}."
                ),
            ),
            "Raise max_client_connections in the database's section.",
        ),
        Error::TooManyUserClients { user, current, limit } => h(
            d(
                r(
                    F,
                    S::TOO_MANY_CONNECTIONS,
                    "too_many_user_clients",
                    format!("no more connections of user \"{user}\" allowed"),
                ),
                format!("{current} clients are connected; max_client_connections of this user is {limit}."),
            ),
            "Raise max_client_connections in the user's section.",
        ),
        Error::TooManyLogins { current, limit } => h(
            d(
                r(
                    F,
                    S::TOO_MANY_CONNECTIONS,
                    "too_many_logins",
                    "the connection made room for another: it was not logged in for too long".to_owned(),
                ),
                format!("{current} connections had not logged in; max_login_connections is {limit}."),
            ),
            "Log in as soon as the connection is made. The log of the pooler tells where the others come from; raise \
             max_login_connections if so many are expected.",
        ),
        Error::TooManyFailures { user, from, limit } => h(
            d(
                r(
                    F,
                    S::INVALID_AUTHORIZATION,
                    "too_many_failures",
                    format!("too many failed logins of user \"{user}\" from {from}"),
                ),
                format!(
                    "max_login_failures is {limit} in a minute; more logins are refused meanwhile, whatever the password, unless this user has logged in from there within the last day."
                ),
            ),
            "Correct the password and try again in a minute; raise max_login_failures, or 0 for no limit.",
        ),
        Error::UnknownDatabase { database } => h(
            r(
                F,
                S::INVALID_CATALOG_NAME,
                "unknown_database",
                format!("database \"{database}\" does not exist"),
            ),
            match database.as_str() {
                // Before version 17 whatever they are told.
                "replication" => {
                    "pg_basebackup and pg_receivewal ask for this name, and there is more than one server: add [databases.replication] with the host of the one that is meant, or (from version 17 on) name a database of it with -d."
                }
                _ => "Add it under [databases] in Howdah's configuration and reload.",
            },
        ),
        Error::LoginTimeout { after } => d(
            r(F, S::PROTOCOL_VIOLATION, "client_login_timeout", "login was not finished in time".to_owned()),
            format!("client_login_timeout is {}.", secs(*after)),
        ),
        Error::LoginUnserved { after, figures } => h(
            d(
                r(
                    F,
                    S::CANNOT_CONNECT_NOW,
                    "login_unserved",
                    because("the login timed out while it waited for a server connection", figures),
                ),
                format!("client_login_timeout is {}; {}", secs(*after), figures_text(figures)),
            ),
            &wait_hint(
                figures,
                "Shorten the transactions that hold connections, raise pool_size if the server has room, or raise client_login_timeout.",
            ),
        ),
        Error::LoginUnanswered { after, what } => h(
            d(
                r(F, S::CANNOT_CONNECT_NOW, "login_unanswered", format!("the login timed out while {what}")),
                format!("client_login_timeout is {}.", secs(*after)),
            ),
            "The pooler had no answer in time; its log says more.",
        ),
        Error::ClientLeft { .. } => {
            r(F, S::CONNECTION_FAILURE, "client_left", "the client has left during its login".to_owned())
        }
        Error::ShuttingDown => h(
            r(F, S::CANNOT_CONNECT_NOW, "shutting_down", "the pooler is shutting down".to_owned()),
            "Connect again; another instance or the next start will answer.",
        ),
        Error::WaitTimeout { waited, limit, figures } => h(
            d(
                r(
                    E,
                    S::TOO_MANY_CONNECTIONS,
                    "query_wait_timeout",
                    because("timed out while waiting for a server connection", figures),
                ),
                format!(
                    "waited {} (query_wait_timeout is {}); {}",
                    secs(*waited),
                    secs(*limit),
                    figures_text(figures)
                ),
            ),
            &wait_hint(
                figures,
                "Shorten the transactions that hold connections, raise pool_size if the server has room, or raise query_wait_timeout.",
            ),
        ),
        Error::LoadShed { estimate, limit, figures } => h(
            d(
                r(
                    E,
                    S::TOO_MANY_CONNECTIONS,
                    "load_shed",
                    because("no server connection can be free in time", figures),
                ),
                format!(
                    "The wait would be {} at least, and query_wait_timeout is {}; {}",
                    secs(*estimate),
                    secs(*limit),
                    figures_text(figures)
                ),
            ),
            &wait_hint(
                figures,
                "Try again later; shorten the transactions, raise pool_size if the server has room, or set shed_load = false to wait nevertheless.",
            ),
        ),
        Error::NoReplica { database, why } => h(
            d(
                r(
                    E,
                    S::CANNOT_CONNECT_NOW,
                    "no_replica",
                    format!("no replica of database \"{database}\" can serve this transaction"),
                ),
                match *why {
                    "lag" => sentence(&Standstill::ReplicaLag.headline(database)),
                    "own_writes" => "No replica has replayed what this session has written.".to_owned(),
                    _ => sentence(&Standstill::NoReplica.headline(database)),
                },
            ),
            &Standstill::NoReplica.hint(database),
        ),
        Error::CancelledWhileWaiting { waited } => d(
            r(
                E,
                S::QUERY_CANCELED,
                "cancelled_while_waiting",
                "canceling statement due to user request".to_owned(),
            ),
            format!("The request had waited {} for a server connection and has not run.", secs(*waited)),
        ),
        Error::ServerUnreachable { reason, .. } => h(
            d(
                r(
                    F,
                    S::CANNOT_CONNECT_NOW,
                    "server_unreachable",
                    Standstill::Unreachable { reason: String::new() }.headline(""),
                ),
                reason.clone(),
            ),
            &Standstill::Backoff.hint(""),
        ),
        Error::ServerTls { .. } => h(
            r(
                F,
                S::CONNECTION_FAILURE,
                "server_tls_failed",
                "no secure connection to the database server".to_owned(),
            ),
            "The pooler's log says what was wrong; see server_tls_mode and server_tls_ca.",
        ),
        Error::ServerLogin(e) => Report {
            verbatim: Some(e.body.clone()),
            ..r(F, S::CANNOT_CONNECT_NOW, "server_login_failed", e.summary())
        },
        Error::ReplicationLogin(e) => Report {
            verbatim: Some(e.body.clone()),
            ..r(F, S::CANNOT_CONNECT_NOW, "replication_login_failed", e.summary())
        },
        Error::ServerAuthNotAllowed { host, user, word, channel } => h(
            d(
                r(
                    F,
                    S::INVALID_AUTHORIZATION,
                    "server_auth_not_allowed",
                    match *word {
                        "none" => format!(
                            "the server lets \"{user}\" in without any authentication, which server_require_auth does not allow"
                        ),
                        word => {
                            let method = if word == "password" { "clear-text password" } else { word };
                            format!(
                                "the server asks for {method} authentication of \"{user}\", which server_require_auth does not allow"
                            )
                        }
                    },
                ),
                format!(
                    "The connection to {host} is {channel}. Natively any method is allowed over a Unix socket, loopback and TLS with a verified certificate, and md5 and scram-sha-256 elsewhere."
                ),
            ),
            match *word {
                "none" => {
                    "Let the server ask for scram-sha-256, or verify it (server_tls_mode = \"verify-full\" with server_tls_ca), or allow this with server_require_auth = [\"by-channel\", \"none\"]."
                }
                "password" => {
                    "Let the server ask for scram-sha-256, or verify it (server_tls_mode = \"verify-full\" with server_tls_ca), or allow this with server_require_auth = [\"by-channel\", \"password\"]."
                }
                "md5" => "Let the server ask for what server_require_auth lists, or add \"md5\" to it.",
                _ => "Let the server ask for what server_require_auth lists, or add \"scram-sha-256\" to it.",
            },
        ),
        Error::ServerAuth { method, user } => h(
            r(
                F,
                S::INVALID_AUTHORIZATION,
                "server_auth_unanswerable",
                format!(
                    "the server asks for {method} authentication of \"{user}\" and the pooler has no secret that can answer"
                ),
            ),
            "Give the user a plain password (or, for md5, an md5 secret) in the configuration.",
        ),
        Error::ServerLost { reason, .. } => h(
            d(
                r(
                    F,
                    S::CONNECTION_FAILURE,
                    "server_lost",
                    "server closed the connection unexpectedly".to_owned(),
                ),
                reason.clone(),
            ),
            "The transaction's outcome is unknown if COMMIT was under way; otherwise it was rolled back.",
        ),
        Error::ServerProtocol { reason, .. } => d(
            r(
                F,
                S::CONNECTION_FAILURE,
                "server_protocol_violation",
                "the server sent something that cannot be understood".to_owned(),
            ),
            reason.clone(),
        ),
        Error::QueryTimeout { ran, limit } => h(
            d(
                r(
                    E,
                    S::QUERY_CANCELED,
                    "query_timeout",
                    "canceling statement due to query_timeout".to_owned(),
                ),
                format!("It ran {}; query_timeout is {}.", secs(*ran), secs(*limit)),
            ),
            "Make the statement faster, or raise query_timeout for this database, user or pool.",
        ),
        Error::QueryTimeoutUnanswered { ran, limit, grace } => h(
            d(
                r(
                    F,
                    S::CONNECTION_FAILURE,
                    "query_timeout_unanswered",
                    "query_timeout, and the server did not stop the statement".to_owned(),
                ),
                format!(
                    "It ran {}; query_timeout is {}; the server did not answer the cancel within cancel_wait_timeout, {}.",
                    secs(*ran),
                    secs(*limit),
                    secs(*grace)
                ),
            ),
            "The server connection was closed; the statement may still run there.",
        ),
        Error::TransactionTimeout { ran, limit } => h(
            d(
                r(
                    F,
                    S::TRANSACTION_TIMEOUT,
                    "transaction_timeout",
                    "terminating connection due to transaction_timeout".to_owned(),
                ),
                format!("The transaction ran {}; transaction_timeout is {}.", secs(*ran), secs(*limit)),
            ),
            "Shorten the transaction, or raise transaction_timeout for this database, user or pool.",
        ),
        Error::IdleTransactionTimeout { idle, limit } => h(
            d(
                r(
                    F,
                    S::IDLE_IN_TRANSACTION_TIMEOUT,
                    "idle_transaction_timeout",
                    "terminating connection due to idle_transaction_timeout".to_owned(),
                ),
                format!(
                    "The transaction was idle {}; idle_transaction_timeout is {}.",
                    secs(*idle),
                    secs(*limit)
                ),
            ),
            "Commit or roll back sooner, or raise idle_transaction_timeout for this database, user or pool.",
        ),
        Error::TransactionLeak { idle, threshold } => h(
            d(
                r(
                    F,
                    S::IDLE_IN_TRANSACTION_TIMEOUT,
                    "leak_threshold",
                    "terminating connection because its transaction was left open".to_owned(),
                ),
                format!(
                    "The transaction was idle {}; leak_threshold is {}, and leak_action is end.",
                    secs(*idle),
                    secs(*threshold)
                ),
            ),
            "Commit or roll back on every path, or raise leak_threshold, or set leak_action to report.",
        ),
        Error::ClientIdleTimeout { idle, limit } => d(
            r(
                F,
                S::IDLE_SESSION_TIMEOUT,
                "client_idle_timeout",
                "terminating connection due to client_idle_timeout".to_owned(),
            ),
            format!("The session was idle {}; client_idle_timeout is {}.", secs(*idle), secs(*limit)),
        ),
        Error::ClientWriteTimeout { limit } => d(
            r(
                F,
                S::CONNECTION_FAILURE,
                "client_write_timeout",
                "the client did not read its results".to_owned(),
            ),
            format!("client_write_timeout is {}.", secs(*limit)),
        ),
        Error::ParameterRejected(e) => Report {
            verbatim: Some(e.body.clone()),
            ..r(E, S::INTERNAL_ERROR, "parameter_rejected", e.summary())
        },
        Error::AdminShutdown { by } => d(
            r(
                F,
                S::ADMIN_SHUTDOWN,
                "admin_shutdown",
                "terminating connection due to administrator command".to_owned(),
            ),
            by.detail().to_owned(),
        ),
        Error::DatabaseRemoved { database } => d(
            r(
                F,
                S::ADMIN_SHUTDOWN,
                "database_removed",
                "terminating connection due to administrator command".to_owned(),
            ),
            format!("Database \"{database}\" was removed from the pooler's configuration."),
        ),
        Error::ServerReplaced => h(
            r(
                F,
                S::ADMIN_SHUTDOWN,
                "server_replaced",
                "terminating connection because its server connection is replaced".to_owned(),
            ),
            "server_fast_close ends sessions when the settings of their database change; connect again.",
        ),
        Error::ServersShuttingDown => h(
            r(F, S::CANNOT_CONNECT_NOW, "servers_shutting_down", "the pooler is shutting down".to_owned()),
            "No transaction begins while the shutdown waits for servers; connect to another instance.",
        ),
        Error::ConsoleNotAllowed { user } => h(
            d(
                r(F, S::INSUFFICIENT_PRIVILEGE, "console_not_allowed", "not allowed".to_owned()),
                format!("User \"{user}\" is neither in admin_users nor in stats_users."),
            ),
            "Add the user to stats_users (who may look) or admin_users (who may do everything) and reload.",
        ),
        Error::DatabaseDisabled { database } => h(
            r(
                F,
                S::OBJECT_NOT_IN_PREREQUISITE_STATE,
                "database_disabled",
                Standstill::Disabled.headline(database),
            ),
            &Standstill::Disabled.hint(database),
        ),
        Error::DatabaseKilled { database } => d(
            r(
                F,
                S::ADMIN_SHUTDOWN,
                "database_killed",
                "terminating connection due to administrator command".to_owned(),
            ),
            format!("The operator has ended every connection of database \"{database}\"."),
        ),
        Error::Console(refusal) => super::console::report(refusal),
        Error::Internal(what) => h(
            r(F, S::INTERNAL_ERROR, "internal_error", format!("internal error of the pooler: {what}")),
            "Please report this with the log around it.",
        ),
    }
}

/// PostgreSQL's sentence about who came from where.
fn hba(what: &str, from: &str, user: &str, database: &str, tls: bool) -> String {
    let encryption = if tls { "SSL encryption" } else { "no encryption" };
    format!("{what} host \"{from}\", user \"{user}\", database \"{database}\", {encryption}")
}
