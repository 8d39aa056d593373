//! Byte-level test support: a scripted client ([`raw`]), a scripted server ([`fake`]), differential
//! scripts ([`script`], [`run`], [`generate`]) and the nonce-checking swarm ([`nonce`]).
//!
//! Nothing here uses the crate under test: a bug shared by the code and its test would hide itself.
//! Everything but the swarm is blocking and has a deadline on every read, so a hang is a failed
//! assertion with a name and never a stuck job.

// Every test binary that says `mod wire;` compiles all of it and uses a part.

pub mod auth;
pub mod check;
pub mod fake;
pub mod fake_conn;
pub mod generate;
pub mod msg;
pub mod nonce;
pub mod raw;
pub mod run;
pub mod script;

use std::str::FromStr;

/// Where to connect and as whom: `host:port:user:database[:password]`.
///
/// A host that starts with `/` is the directory of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dsn {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub database: String,
    pub password: Option<String>,
}

impl Dsn {
    pub fn local(port: u16, user: &str, database: &str) -> Self {
        Dsn { host: "127.0.0.1".into(), port, user: user.into(), database: database.into(), password: None }
    }
}

impl FromStr for Dsn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(5, ':');
        let mut next = |what: &str| {
            parts.next().filter(|p| !p.is_empty()).map(str::to_owned).ok_or(format!("no {what} in {text:?}"))
        };
        let (host, port) = (next("host")?, next("port")?);
        let port = port.parse().map_err(|e| format!("port {port:?}: {e}"))?;
        let (user, database) = (next("user")?, next("database")?);
        let password = next("password").ok();
        Ok(Dsn { host, port, user, database, password })
    }
}
