//! What can go wrong, and what the client is told.
//!
//! [`Error`] is raised where the fact is known and carries the live numbers. [`report::report`] is the one
//! exhaustive table from it to SQLSTATE, code, message, DETAIL and HINT. `FATAL` means that the connection
//! closes; `ERROR` means that the session goes on (PostgreSQL documentation, 54.2 Message Flow).

pub mod catalog;
mod console;
mod level;
mod open_failure;
pub mod pgbouncer;
pub mod report;
mod shutdown;
pub mod sqlstate;
pub mod standstill;

use std::time::Duration;

use crate::session_state::{Kind, list};

pub use console::Refusal;
pub use level::{Level, level};
pub use open_failure::OpenFailure;
pub use pgbouncer::report_as_pgbouncer;
pub use report::{Report, Severity, report};
pub use shutdown::Shutdown;
pub use sqlstate::SqlState;
pub use standstill::Standstill;

/// A snapshot of a pool, for the DETAIL of an error about waiting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PoolFigures {
    /// `database/user/role`.
    pub pool: String,
    pub database: String,
    /// Why the pool serves nobody, where it does not.
    pub standstill: Option<Standstill>,
    pub in_use: usize,
    pub size: usize,
    pub connecting: usize,
    /// Of no use any more, but not yet let go by the server.
    pub closing: usize,
    /// Kept by their clients between transactions, because of what their sessions hold.
    pub pinned: usize,
    pub waiting: usize,
    /// The client that has held a server longest, as a sentence.
    pub oldest_holder: Option<String>,
    /// Why the last attempt to open a server failed, where it did.
    pub last_connect_error: Option<String>,
    /// Which limit other than the pool's own size stands in the way.
    pub limited_by: Option<String>,
}

/// An error or notice as the server worded it: the body of its ErrorResponse, forwarded byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerError {
    /// The message's body: fields, each a type byte and a cstring, and the final zero byte.
    pub body: Vec<u8>,
}

impl ServerError {
    /// A field's text, for example `b'C'` for the SQLSTATE; every field may be missing (CVE-2026-6666).
    pub fn field(&self, wanted: u8) -> Option<&[u8]> {
        let mut rest = self.body.as_slice();
        while let Some((&kind, tail)) = rest.split_first() {
            if kind == 0 {
                return None;
            }
            let end = memchr::memchr(0, tail)?;
            let (text, after) = tail.split_at(end);
            if kind == wanted {
                return Some(text);
            }
            rest = after.get(1..)?;
        }
        None
    }

    /// The body without a field.
    pub fn without(&self, unwanted: u8) -> Vec<u8> {
        let keeps = |field: &&[u8]| field.first() != Some(&unwanted);
        let fields = self.body.split_inclusive(|b| *b == 0);
        fields.filter(keeps).flatten().copied().collect()
    }

    /// What happened, in the server's words.
    pub fn message(&self) -> String {
        String::from_utf8_lossy(self.field(b'M').unwrap_or_default()).into_owned()
    }

    /// The same error as a login has it, where SET words it otherwise: an encoding that the database's cannot be converted
    /// to is named by a login's message, and by the detail of a SET.
    #[must_use]
    pub fn at_login(self) -> Self {
        let encoding = self
            .field(b'M')
            .is_some_and(|m| m.starts_with(b"invalid value for parameter \"client_encoding\""));
        let detail = self.field(b'D').filter(|_| encoding && self.sqlstate() == b"0A000");
        let Some((first, rest)) = detail.and_then(<[u8]>::split_first) else { return self };
        let mut body = b"C0A000\0M".to_vec();
        body.push(first.to_ascii_lowercase());
        body.extend_from_slice(rest.strip_suffix(b".").unwrap_or(rest));
        body.extend_from_slice(b"\0\0");
        Self { body }
    }

    /// The same error as one that ends the connection.
    #[must_use]
    pub fn fatal(&self) -> Self {
        let mut body = b"SFATAL\0VFATAL\0".to_vec();
        let mut rest = self.body.as_slice();
        while let Some((&kind, tail)) = rest.split_first() {
            let Some(end) = memchr::memchr(0, tail).filter(|_| kind != 0) else { break };
            if !matches!(kind, b'S' | b'V') {
                body.extend_from_slice(rest.get(..end + 2).unwrap_or_default());
            }
            rest = tail.get(end + 1..).unwrap_or_default();
        }
        body.push(0);
        Self { body }
    }

    /// The same error in at most some `most` bytes: fields that do not fit are cut, and those behind them left out.
    #[must_use]
    pub fn shortened(self, most: usize) -> Self {
        if self.body.len() <= most {
            return self;
        }
        let mut body = Vec::with_capacity(most);
        let mut rest = self.body.as_slice();
        while let Some((&kind, tail)) = rest.split_first() {
            let Some(end) = memchr::memchr(0, tail).filter(|_| kind != 0) else { break };
            let room = most.saturating_sub(body.len() + 3);
            if room == 0 {
                break;
            }
            let text = tail.get(..end).unwrap_or_default();
            // Not in the middle of a character.
            let cut =
                (0..=room.min(text.len())).rev().find(|n| text.get(*n).is_none_or(|b| b & 0xc0 != 0x80));
            body.push(kind);
            body.extend_from_slice(text.get(..cut.unwrap_or_default()).unwrap_or_default());
            body.push(0);
            rest = tail.get(end + 1..).unwrap_or_default();
        }
        body.push(0);
        Self { body }
    }

    pub fn sqlstate(&self) -> &[u8] {
        self.field(b'C').unwrap_or(b"XX000")
    }

    /// `SEVERITY: message (SQLSTATE)`, for logs and DETAIL.
    pub fn summary(&self) -> String {
        let text = |k, d: &'static [u8]| String::from_utf8_lossy(self.field(k).unwrap_or(d)).into_owned();
        format!("{}: {} ({})", text(b'S', b"ERROR"), text(b'M', b"no message"), text(b'C', b"no SQLSTATE"))
    }
}

/// Everything that Howdah itself can refuse, end or fail with.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    // --- the client broke the protocol, or asked for what cannot be
    #[error("protocol violation: {0}")]
    ProtocolViolation(String),
    #[error("unsupported frontend protocol {major}.{minor}")]
    UnsupportedProtocol { major: u16, minor: u16 },
    #[error("statement of {size} bytes exceeds max_statement_size {limit}")]
    StatementTooLarge { size: usize, limit: usize },
    /// What the statement makes would keep its client's connection.
    #[error("no pin is left for {}: {taken} of {bound} are taken", list(kinds))]
    NoPinLeft { kinds: Vec<Kind>, taken: usize, bound: usize },
    /// The same, but the state showed only after the statement had run.
    #[error("no pin is left for {}, which a transaction has left: {taken} of {bound} are taken", list(kinds))]
    NoPinLeftBehind { kinds: Vec<Kind>, taken: usize, bound: usize },
    /// The pool's settings refuse the session state that a statement would leave.
    #[error("{} are refused", list(kinds))]
    SessionStateRejected { kinds: Vec<Kind> },
    /// The same, but the state showed only after the statement had run.
    #[error("{}, which a transaction has left, are refused", list(kinds))]
    SessionStateRejectedBehind { kinds: Vec<Kind> },
    #[error("a client was idle for {idle:?} while it kept a connection because of {}", list(kinds))]
    PinIdleTimeout { kinds: Vec<Kind>, idle: Duration, limit: Duration },
    /// The connection that listened for the client is lost.
    #[error("a client that listens hears no more: {reason}")]
    ListenerLost { reason: String },
    #[error("{messages} notifications of {bytes} bytes wait for a client; listen_buffer is {limit}")]
    ListenBuffer { messages: usize, bytes: usize, limit: usize },
    #[error("the server did not say what a transaction has left in its session: {reason}")]
    SessionUnknown { reason: String, limit: Duration },
    #[error("client holds {limit} prepared statements already")]
    TooManyStatements { limit: usize },
    #[error(
        "prepared statements of one client take too much memory: {size} bytes beside {held}, at most {limit}"
    )]
    StatementMemory { held: usize, count: usize, size: usize, limit: usize },
    #[error("prepared statements take too much memory: {size} bytes beside {held}, at most {limit}")]
    StatementMemoryInAll { held: usize, size: usize, limit: usize },
    #[error("an unnamed prepared statement was too long to be kept")]
    UnnamedNotKept { statement: usize, client: usize, all: usize },
    #[error("unsupported startup option: {0}")]
    UnsupportedStartupOption(String),
    #[error("feature not supported: {0}")]
    FeatureNotSupported(&'static str),
    #[error("transaction blocks not allowed in statement pooling mode")]
    TransactionInStatementMode,
    /// No server could be had for a transaction that was begun; it waits for its ROLLBACK.
    #[error("current transaction is aborted, commands ignored until end of transaction block")]
    TransactionFailed,

    // --- the client may not come in
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUserName,
    #[error("SSL required")]
    TlsRequired,
    #[error("password authentication failed for user \"{user}\"")]
    AuthenticationFailed { user: String },
    #[error("no rule of auth_hba_file lets in user \"{user}\" to database \"{database}\" from {from}")]
    NoHbaRule { from: String, user: String, database: String, tls: bool },
    #[error("a rule of auth_hba_file rejects user \"{user}\" to database \"{database}\" from {from}")]
    HbaReject { from: String, user: String, database: String, tls: bool },
    #[error("{method} authentication failed for user \"{user}\"")]
    IdentityUnproved { method: &'static str, user: String },
    #[error("{method} authentication failed for user \"{user}\"")]
    DirectoryRefused { method: &'static str, user: String },
    /// Nobody could be asked in time, because too many others are.
    #[error("too many {method} requests under way")]
    DirectoryBusy { method: &'static str, limit: u32 },
    /// The server was asked, and has no such user; told in PgBouncer's profile alone.
    #[error("no such user: \"{user}\"")]
    NoSuchUser { user: String },
    /// `auth_type = any`, to a database that does not state the server's user.
    #[error("database \"{database}\" has no user, which auth_type = any needs")]
    NoForcedUser { database: String },
    #[error("connection requires a valid client certificate")]
    CertificateRequired,
    #[error("auth_query could not be asked: {reason}")]
    LookupFailed { reason: String },
    #[error("too many clients: {current} of {limit}")]
    TooManyClients { current: usize, limit: usize },
    #[error("too many clients of database \"{database}\"")]
    TooManyDatabaseClients { database: String, current: usize, limit: usize },
    #[error("too many clients of user \"{user}\"")]
    TooManyUserClients { user: String, current: usize, limit: usize },
    #[error("too many logins under way")]
    TooManyLogins { current: usize, limit: usize },
    #[error("too many failed logins of this user from {from}")]
    TooManyFailures { user: String, from: String, limit: u32 },
    #[error("database \"{database}\" does not exist")]
    UnknownDatabase { database: String },
    #[error("login timeout")]
    LoginTimeout { after: Duration },
    /// The client had done its part, and waited for a server connection.
    #[error("login timeout while waiting for a server connection")]
    LoginUnserved { after: Duration, figures: Box<PoolFigures> },
    /// The client had done its part, and somebody else was asked about it.
    #[error("login timeout while {what}")]
    LoginUnanswered { after: Duration, what: String },
    /// Nobody is there to be told; `at` is what it left at.
    #[error("the client has left during its login ({at})")]
    ClientLeft { at: &'static str },
    #[error("shutting down")]
    ShuttingDown,

    // --- the pool cannot serve
    #[error("query_wait_timeout")]
    WaitTimeout { waited: Duration, limit: Duration, figures: Box<PoolFigures> },
    #[error("load shed")]
    LoadShed { estimate: Duration, limit: Duration, figures: Box<PoolFigures> },
    #[error("no replica of database \"{database}\" can serve: {why}")]
    NoReplica { database: String, why: &'static str },
    #[error("cancelled while waiting for a server connection")]
    CancelledWhileWaiting { waited: Duration },
    #[error("cannot connect to server: {reason}")]
    ServerUnreachable { host: String, reason: String },
    /// For the log; the client learns that it was TLS and no more.
    #[error("no TLS with the server: {reason}")]
    ServerTls { host: String, reason: String },
    /// The server refused our login; forwarded verbatim.
    #[error("server refused login: {}", .0.summary())]
    ServerLogin(ServerError),
    /// The same of a replication connection, of which PgBouncer tells less.
    #[error("server refused the login of a replication connection: {}", .0.summary())]
    ReplicationLogin(ServerError),
    #[error("server asks for {method} authentication, and no usable secret is configured")]
    ServerAuth { method: String, user: String },
    /// `word` is that of `server_require_auth`.
    #[error(
        "the server {host} asks for {word} authentication over {channel}, which server_require_auth does not allow"
    )]
    ServerAuthNotAllowed { host: String, user: String, word: &'static str, channel: &'static str },

    // --- a transaction ended by Howdah or by a lost server
    #[error("server connection lost: {reason}")]
    ServerLost { host: String, reason: String },
    #[error("server broke the protocol: {reason}")]
    ServerProtocol { host: String, reason: String },
    #[error("query_timeout")]
    QueryTimeout { ran: Duration, limit: Duration },
    #[error("query_timeout, and the server did not answer the cancel")]
    QueryTimeoutUnanswered { ran: Duration, limit: Duration, grace: Duration },
    #[error("transaction_timeout")]
    TransactionTimeout { ran: Duration, limit: Duration },
    #[error("idle_transaction_timeout")]
    IdleTransactionTimeout { idle: Duration, limit: Duration },
    #[error("leak_threshold")]
    TransactionLeak { idle: Duration, threshold: Duration },
    #[error("client_idle_timeout")]
    ClientIdleTimeout { idle: Duration, limit: Duration },
    #[error("client_write_timeout")]
    ClientWriteTimeout { limit: Duration },
    #[error("a client parameter was rejected by the server: {}", .0.summary())]
    ParameterRejected(ServerError),
    #[error("administrator command")]
    AdminShutdown { by: Shutdown },
    #[error("database \"{database}\" was removed from the configuration")]
    DatabaseRemoved { database: String },
    /// `server_fast_close`: the connection settings of its database have changed.
    #[error("server connection replaced")]
    ServerReplaced,
    /// A shutdown that waits for servers: who has none gets none.
    #[error("servers are shutting down")]
    ServersShuttingDown,

    // --- the console
    #[error("not allowed")]
    ConsoleNotAllowed { user: String },
    #[error("database \"{database}\" is disabled")]
    DatabaseDisabled { database: String },
    #[error("database \"{database}\" was killed")]
    DatabaseKilled { database: String },
    #[error(transparent)]
    Console(Refusal),

    // --- our own fault
    #[error("internal error: {0}")]
    Internal(String),
}

#[cfg(test)]
mod tests {
    use super::ServerError;

    /// Whatever a server leaves out, or sends beside it.
    #[test]
    fn a_long_error_of_a_server_is_shortened_and_keeps_what_it_is() {
        let long = "\u{e9}".repeat(9000);
        let body = format!("SFATAL\0VFATAL\0C28000\0M{long}\0D{long}\0\0").into_bytes();
        let short = ServerError { body: body.clone() }.shortened(8192);
        assert!(short.body.len() <= 8192 && short.body.ends_with(&[0, 0]), "{}", short.body.len());
        assert_eq!((short.sqlstate(), short.field(b'S')), (&b"28000"[..], Some(&b"FATAL"[..])));
        let message = std::str::from_utf8(short.field(b'M').expect("a message")).expect("whole characters");
        assert!(message.len() > 8000 && long.starts_with(message));
        assert_eq!(short.field(b'D').unwrap_or_default(), b"");
        assert_eq!(ServerError { body: body.clone() }.shortened(100_000).body, body);
    }

    #[test]
    fn every_field_of_an_error_may_be_missing() {
        for body in [&b""[..], b"\0", b"C", b"Cx", b"C\0", b"M\0\0", b"Mtext\0", b"\0C42601\0"] {
            let e = ServerError { body: body.to_vec() };
            let code: &[u8] = if body == b"C\0" { b"" } else { b"XX000" };
            assert_eq!(e.sqlstate(), code, "{body:?}");
            let _ = (e.summary(), e.message(), e.fatal());
        }
        assert_eq!(ServerError { body: b"SERROR\0C42601\0\0".to_vec() }.sqlstate(), b"42601");
    }
}
