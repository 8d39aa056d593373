//! Lines of PgBouncer's log that monitoring greps for, in its words. They are written in its profile alone; the
//! native log says the same in fields.

pub mod told;

use std::fmt;
use std::time::Duration;

use crate::clients::handle::ClientCtl;
use crate::config::resolved::HostAddr;
use crate::error::{Error, pgbouncer};
use crate::net::stream::Peer;
use crate::shared::Shared;

/// What a line is about: `C-0x7f: db/user@host:port`.
#[derive(Debug, Clone)]
pub struct Who {
    kind: char,
    id: u64,
    database: String,
    user: String,
    at: String,
}

impl Who {
    pub fn client(ctl: &ClientCtl) -> Self {
        Self {
            kind: 'C',
            id: ctl.id,
            database: ctl.database.to_string(),
            user: ctl.user.to_string(),
            at: at(ctl.peer),
        }
    }

    /// One that is not logged in; what it has not said yet is empty.
    pub fn stranger(peer: Peer, database: &str, user: &str) -> Self {
        let or = |name: &str, none: &str| if name.is_empty() { none.to_owned() } else { name.to_owned() };
        Self { kind: 'C', id: 0, database: or(database, "(nodb)"), user: or(user, "(nouser)"), at: at(peer) }
    }

    pub fn server(id: u64, database: &str, user: &str, host: &HostAddr) -> Self {
        Self { kind: 'S', id, database: database.to_owned(), user: user.to_owned(), at: host.to_string() }
    }
}

fn at(peer: Peer) -> String {
    match peer {
        Peer::Tcp(a) => a.to_string(),
        Peer::Unix => "unix".to_owned(),
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let clean = |s: &str| s.escape_debug().to_string();
        let Self { kind, id, .. } = self;
        write!(f, "{kind}-0x{id:012x}: {}/{}@{}", clean(&self.database), clean(&self.user), self.at)
    }
}

/// A line of PgBouncer's log, in its profile.
pub fn line(shared: &Shared, who: &Who, text: impl fmt::Display) {
    if shared.pgbouncer() {
        tracing::info!(target: "pgbouncer", "{who} {text}");
    }
}

pub fn warning(shared: &Shared, who: &Who, text: impl fmt::Display) {
    if shared.pgbouncer() {
        tracing::warn!(target: "pgbouncer", "{who} {text}");
    }
}

/// A connection has ended, and why.
pub fn closing(shared: &Shared, who: &Who, reason: &str, age: Duration) {
    if shared.log_disconnections() {
        line(shared, who, format_args!("closing because: {reason} (age={}s)", age.as_secs()));
    }
}

/// A client was told an error and its connection ends; `reason` is the error in PgBouncer's words.
pub fn told(shared: &Shared, who: &Who, reason: &str, age: Duration) {
    closing(shared, who, reason, age);
    if shared.log_pooler_errors() {
        warning(shared, who, format_args!("pooler error: {reason}"));
    }
}

/// The error as the lines above have it.
pub fn words(e: &Error) -> String {
    match e {
        Error::ServerLogin(e) => e.message(),
        // What the client is told names no more than the command.
        Error::AdminShutdown { by } => by.words().to_owned(),
        Error::DatabaseKilled { .. } => "database removed".to_owned(),
        e => pgbouncer::words(e).unwrap_or_else(|| crate::error::report(e).message),
    }
}
