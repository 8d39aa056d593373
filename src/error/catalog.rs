//! One instance of every [`Error`], and the table of all errors that `docs/src/reference/errors.md` is made of.

use std::fmt::Write as _;
use std::time::Duration;

use crate::session_state::Kind;

use super::{Error, PoolFigures, Refusal, ServerError, Standstill, level, report};

/// The pattern of each row makes the match exhaustive, so that a new error does not compile without a sample.
macro_rules! samples {
    ($($pattern:pat => $sample:expr;)+) => {
        /// Every error once, in the order of its declaration, with numbers such as occur.
        pub fn samples() -> Vec<Error> {
            vec![$($sample),+]
        }

        /// The row that an error belongs to.
        #[cfg(test)]
        fn row(error: &Error) -> &'static str {
            match error {
                $($pattern => stringify!($pattern),)+
            }
        }

        #[cfg(test)]
        const ROWS: &[&str] = &[$(stringify!($pattern)),+];
    };
}

fn server_error() -> ServerError {
    ServerError { body: b"SFATAL\0C28000\0Mas the server worded it\0\0".to_vec() }
}

fn figures() -> Box<PoolFigures> {
    Box::new(PoolFigures {
        pool: "app/alice/primary".to_owned(),
        database: "app".to_owned(),
        standstill: None,
        in_use: 20,
        size: 20,
        connecting: 0,
        closing: 0,
        pinned: 0,
        waiting: 143,
        oldest_holder: Some("client 7 for 12.5 s, idle in transaction".to_owned()),
        last_connect_error: None,
        limited_by: None,
    })
}

/// Of a pool that serves nobody.
fn standing() -> Box<PoolFigures> {
    let reason = "connection refused".to_owned();
    Box::new(PoolFigures {
        in_use: 0,
        waiting: 1,
        oldest_holder: None,
        standstill: Some(Standstill::Unreachable { reason }),
        ..*figures()
    })
}

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(30);
const OVER: Duration = Duration::from_millis(30_004);

samples! {
    Error::ProtocolViolation(_) => Error::ProtocolViolation("unexpected message type".to_owned());
    Error::UnsupportedProtocol { .. } => Error::UnsupportedProtocol { major: 2, minor: 0 };
    Error::StatementTooLarge { .. } => Error::StatementTooLarge { size: 2_000_000, limit: 1_048_576 };
    Error::NoPinLeft { .. } => Error::NoPinLeft { kinds: vec![Kind::Temporary], taken: 5, bound: 5 };
    Error::NoPinLeftBehind { .. } => Error::NoPinLeftBehind { kinds: vec![Kind::Lock], taken: 5, bound: 5 };
    Error::SessionStateRejected { .. } => Error::SessionStateRejected { kinds: vec![Kind::Temporary] };
    Error::SessionStateRejectedBehind { .. } => Error::SessionStateRejectedBehind { kinds: vec![Kind::Lock] };
    Error::PinIdleTimeout { .. } =>
        Error::PinIdleTimeout { kinds: vec![Kind::Cursor], idle: OVER, limit: LIMIT };
    Error::ListenerLost { .. } =>
        Error::ListenerLost { reason: "the server closed the connection".to_owned() };
    Error::ListenBuffer { .. } => Error::ListenBuffer { messages: 131, bytes: 1_048_700, limit: 1_048_576 };
    Error::SessionUnknown { .. } =>
        Error::SessionUnknown { reason: "The server has not answered in time".to_owned(), limit: SECOND };
    Error::TooManyStatements { .. } => Error::TooManyStatements { limit: 10_000 };
    Error::StatementMemory { .. } =>
        Error::StatementMemory { held: 66_000_000, count: 70, size: 2_000_000, limit: 67_108_864 };
    Error::StatementMemoryInAll { .. } =>
        Error::StatementMemoryInAll { held: 2_147_000_000, size: 2_000_000, limit: 2_147_483_648 };
    Error::UnnamedNotKept { .. } =>
        Error::UnnamedNotKept { statement: 16_777_216, client: 67_108_864, all: 2_147_483_648 };
    Error::UnsupportedStartupOption(_) => Error::UnsupportedStartupOption("-x".to_owned());
    Error::FeatureNotSupported(_) => Error::FeatureNotSupported("what was asked for is not supported");
    Error::TransactionInStatementMode => Error::TransactionInStatementMode;
    Error::TransactionFailed => Error::TransactionFailed;
    Error::NoUserName => Error::NoUserName;
    Error::TlsRequired => Error::TlsRequired;
    Error::AuthenticationFailed { .. } => Error::AuthenticationFailed { user: "alice".to_owned() };
    Error::NoHbaRule { .. } => Error::NoHbaRule {
        from: "10.0.0.1".to_owned(), user: "alice".to_owned(), database: "app".to_owned(), tls: false };
    Error::HbaReject { .. } => Error::HbaReject {
        from: "10.0.0.1".to_owned(), user: "alice".to_owned(), database: "app".to_owned(), tls: true };
    Error::IdentityUnproved { .. } => Error::IdentityUnproved { method: "Peer", user: "alice".to_owned() };
    Error::DirectoryRefused { .. } => Error::DirectoryRefused { method: "LDAP", user: "alice".to_owned() };
    Error::DirectoryBusy { .. } => Error::DirectoryBusy { method: "PAM", limit: 16 };
    Error::NoSuchUser { .. } => Error::NoSuchUser { user: "alice".to_owned() };
    Error::NoForcedUser { .. } => Error::NoForcedUser { database: "app".to_owned() };
    Error::CertificateRequired => Error::CertificateRequired;
    Error::LookupFailed { .. } => Error::LookupFailed { reason: "db:5432: connection refused".to_owned() };
    Error::TooManyClients { .. } => Error::TooManyClients { current: 10_000, limit: 10_000 };
    Error::TooManyDatabaseClients { .. } =>
        Error::TooManyDatabaseClients { database: "app".to_owned(), current: 500, limit: 500 };
    Error::TooManyUserClients { .. } =>
        Error::TooManyUserClients { user: "alice".to_owned(), current: 100, limit: 100 };
    Error::TooManyLogins { .. } => Error::TooManyLogins { current: 1000, limit: 1000 };
    Error::TooManyFailures { .. } => Error::TooManyFailures {
        user: "alice".to_owned(), from: "2001:db8:0:1::/64".to_owned(), limit: 60 };
    Error::UnknownDatabase { .. } => Error::UnknownDatabase { database: "app".to_owned() };
    Error::LoginTimeout { .. } => Error::LoginTimeout { after: LIMIT };
    Error::LoginUnserved { .. } => Error::LoginUnserved { after: LIMIT, figures: standing() };
    Error::LoginUnanswered { .. } => Error::LoginUnanswered {
        after: LIMIT, what: "the secret of this user was asked for by auth_query".to_owned() };
    Error::ClientLeft { .. } => Error::ClientLeft { at: "password" };
    Error::ShuttingDown => Error::ShuttingDown;
    Error::WaitTimeout { .. } => Error::WaitTimeout { waited: OVER, limit: LIMIT, figures: figures() };
    Error::LoadShed { .. } => Error::LoadShed { estimate: OVER, limit: LIMIT, figures: figures() };
    Error::NoReplica { .. } => Error::NoReplica { database: "app".to_owned(), why: "lag" };
    Error::CancelledWhileWaiting { .. } => Error::CancelledWhileWaiting { waited: SECOND };
    Error::ServerUnreachable { .. } =>
        Error::ServerUnreachable { host: "db:5432".to_owned(), reason: "connection refused".to_owned() };
    Error::ServerTls { .. } =>
        Error::ServerTls { host: "db:5432".to_owned(), reason: "certificate expired".to_owned() };
    Error::ServerLogin(_) => Error::ServerLogin(server_error());
    Error::ReplicationLogin(_) => Error::ReplicationLogin(server_error());
    Error::ServerAuth { .. } =>
        Error::ServerAuth { method: "SCRAM-SHA-256".to_owned(), user: "alice".to_owned() };
    Error::ServerAuthNotAllowed { .. } => Error::ServerAuthNotAllowed {
        host: "db:5432".to_owned(), user: "alice".to_owned(), word: "none", channel: "TCP without TLS" };
    Error::ServerLost { .. } =>
        Error::ServerLost { host: "db:5432".to_owned(), reason: "connection reset".to_owned() };
    Error::ServerProtocol { .. } =>
        Error::ServerProtocol { host: "db:5432".to_owned(), reason: "unknown message type".to_owned() };
    Error::QueryTimeout { .. } => Error::QueryTimeout { ran: OVER, limit: LIMIT };
    Error::QueryTimeoutUnanswered { .. } =>
        Error::QueryTimeoutUnanswered { ran: OVER, limit: LIMIT, grace: Duration::from_secs(10) };
    Error::TransactionTimeout { .. } => Error::TransactionTimeout { ran: OVER, limit: LIMIT };
    Error::IdleTransactionTimeout { .. } => Error::IdleTransactionTimeout { idle: OVER, limit: LIMIT };
    Error::TransactionLeak { .. } => Error::TransactionLeak { idle: OVER, threshold: LIMIT };
    Error::ClientIdleTimeout { .. } => Error::ClientIdleTimeout { idle: OVER, limit: LIMIT };
    Error::ClientWriteTimeout { .. } => Error::ClientWriteTimeout { limit: LIMIT };
    Error::ParameterRejected(_) => Error::ParameterRejected(server_error());
    Error::AdminShutdown { .. } => Error::AdminShutdown { by: super::Shutdown::Pooler };
    Error::DatabaseRemoved { .. } => Error::DatabaseRemoved { database: "app".to_owned() };
    Error::ServerReplaced => Error::ServerReplaced;
    Error::ServersShuttingDown => Error::ServersShuttingDown;
    Error::ConsoleNotAllowed { .. } => Error::ConsoleNotAllowed { user: "alice".to_owned() };
    Error::DatabaseDisabled { .. } => Error::DatabaseDisabled { database: "app".to_owned() };
    Error::DatabaseKilled { .. } => Error::DatabaseKilled { database: "app".to_owned() };
    Error::Console(Refusal::InvalidCommand { .. }) =>
        Error::Console(Refusal::InvalidCommand { text: "show pool".to_owned() });
    Error::Console(Refusal::BadArguments { .. }) =>
        Error::Console(Refusal::BadArguments { limit: 63 });
    Error::Console(Refusal::NeedsAdmin { .. }) =>
        Error::Console(Refusal::NeedsAdmin { user: "alice".to_owned() });
    Error::Console(Refusal::NoSuchDatabase { .. }) =>
        Error::Console(Refusal::NoSuchDatabase { database: "app".to_owned() });
    Error::Console(Refusal::DatabaseRequired) =>
        Error::Console(Refusal::DatabaseRequired);
    Error::Console(Refusal::NotTheConsole { .. }) =>
        Error::Console(Refusal::NotTheConsole { what: "pause", database: "pgbouncer".to_owned() });
    Error::Console(Refusal::AlreadyPaused) =>
        Error::Console(Refusal::AlreadyPaused);
    Error::Console(Refusal::SuspendWhilePaused) =>
        Error::Console(Refusal::SuspendWhilePaused);
    Error::Console(Refusal::NotPaused) =>
        Error::Console(Refusal::NotPaused);
    Error::Console(Refusal::DatabaseNotPaused { .. }) =>
        Error::Console(Refusal::DatabaseNotPaused { database: "app".to_owned() });
    Error::Console(Refusal::ShuttingDown) =>
        Error::Console(Refusal::ShuttingDown);
    Error::Console(Refusal::ClientNotFound { .. }) =>
        Error::Console(Refusal::ClientNotFound { id: 7 });
    Error::Console(Refusal::InvalidClientId { .. }) =>
        Error::Console(Refusal::InvalidClientId { text: "x".to_owned() });
    Error::Console(Refusal::SetFailed { .. }) =>
        Error::Console(Refusal::SetFailed { why: "There is no setting \"x\".".to_owned() });
    Error::Console(Refusal::ReloadFailed { .. }) =>
        Error::Console(Refusal::ReloadFailed { why: "howdah.toml:3: pool_size: is missing".to_owned() });
    Error::Console(Refusal::NoSuchStatement { .. }) =>
        Error::Console(Refusal::NoSuchStatement { name: "s1".to_owned() });
    Error::Console(Refusal::NoSuchPortal { .. }) =>
        Error::Console(Refusal::NoSuchPortal { name: "p1".to_owned() });
    Error::Console(Refusal::StatementExists { .. }) =>
        Error::Console(Refusal::StatementExists { name: "s1".to_owned() });
    Error::Console(Refusal::Parameters { .. }) =>
        Error::Console(Refusal::Parameters { count: 1 });
    Error::Console(Refusal::WaitCancelled) =>
        Error::Console(Refusal::WaitCancelled);
    Error::Internal(_) => Error::Internal("what happened".to_owned());
}

const HEAD: &str = "\
# Errors

Every error that Howdah itself raises. Generated from `src/error/report.rs`; do not edit.

`FATAL` means that the connection closes, `ERROR` that the session goes on. The code is stable: it is the label
in metrics and logs. Numbers and names are examples. An error that came from a server is passed on as it is.

The column Log is the severity in Howdah's own log, in both profiles and by one rule: a fault of Howdah's own is an
error; whatever else refuses, ends or does not serve a client is a warning; what the console refuses an operator is told
to him, and is information. Each is a line of its own where the connection ends; of those after which the session goes
on, ten of each code in a second are written, and the next line says how many were left out (`suppressed`).
`log_pooler_errors = false` writes none of them.

| Code | Severity | Log | SQLSTATE | Message | Detail | Hint |
|---|---|---|---|---|---|---|
";

/// The table of all errors, as Markdown.
pub fn catalog() -> String {
    let mut out = HEAD.to_owned();
    for error in samples() {
        let r = report(&error);
        let log = level(&error).as_str();
        if r.verbatim.is_some() {
            let _ = writeln!(
                out,
                "| `{}` | as the server's | {log} | as the server's | *passed on* | | |",
                r.code
            );
            continue;
        }
        let cell = |text: Option<String>| text.unwrap_or_default().replace('|', "\\|").replace('\n', " ");
        let (severity, state) = (r.severity.as_str(), r.sqlstate);
        let (message, detail, hint) = (cell(Some(r.message)), cell(r.detail), cell(r.hint));
        let _ =
            writeln!(out, "| `{}` | {severity} | {log} | {state} | {message} | {detail} | {hint} |", r.code);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_its_own_sample() {
        let rows: Vec<&str> = samples().iter().map(row).collect();
        assert_eq!(rows, ROWS);
    }

    #[test]
    fn codes_are_unique() {
        let mut codes: Vec<&str> = samples().iter().map(|e| report(e).code).collect();
        codes.sort_unstable();
        let all = codes.len();
        codes.dedup();
        assert_eq!(codes.len(), all);
    }

    /// `UPDATE=1 cargo test` writes the file anew.
    #[test]
    fn the_committed_table_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/reference/errors.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, catalog()).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == catalog(), "run UPDATE=1 cargo test");
    }
}
