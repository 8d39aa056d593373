//! In which ways a server may ask Howdah to prove who it is: `server_require_auth`.

use std::net::IpAddr;

use super::resolved::{Config, HostAddr, Profile};
use crate::tls::Mode;

/// One word of the setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerMethod {
    /// What the connection makes safe: see [`crate::config::settings`].
    ByChannel,
    Any,
    None,
    Password,
    Md5,
    ScramSha256,
}

impl ServerMethod {
    pub const WORDS: &'static [&'static str] =
        &["by-channel", "any", "none", "password", "md5", "scram-sha-256"];

    pub fn from_words(words: &[String]) -> Vec<Self> {
        let one = |word: &String| match word.as_str() {
            "any" => Self::Any,
            "none" => Self::None,
            "password" => Self::Password,
            "md5" => Self::Md5,
            "scram-sha-256" => Self::ScramSha256,
            _ => Self::ByChannel,
        };
        words.iter().map(one).collect()
    }
}

/// In PgBouncer's place any server is answered, as there. Whose servers nothing vouches for is told once, with what to do.
pub(super) fn warning(config: &Config) -> Option<String> {
    let tls = &config.tls.server;
    let verified = tls.ca.is_some() && tls.mode >= Mode::Require;
    if config.profile != Profile::PgBouncer || verified {
        return None;
    }
    let mut hosts: Vec<String> = Vec::new();
    for db in config.databases.values().chain(&config.autodb) {
        for stated in db.roles.values() {
            let any = db.pool.clone().with(&stated.overrides).require_auth.contains(&ServerMethod::Any);
            let far = stated.hosts.iter().filter(|h| any && !is_local(h)).map(ToString::to_string);
            hosts.extend(far);
        }
    }
    hosts.sort();
    hosts.dedup();
    let first = hosts.first()?;
    let more = match hosts.len() - 1 {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!(
        "nothing vouches for {first}{more}: whoever answers there may ask for a clear-text password, or for none at all, as \
         with PgBouncer; server_tls_sslmode = verify-full with server_tls_ca_file verifies servers, and \
         server_require_auth = by-channel (or scram-sha-256) as variable HOWDAH_SERVER_REQUIRE_AUTH narrows what they get"
    ))
}

/// By its name alone: nobody is asked what address it has.
fn is_local(host: &HostAddr) -> bool {
    match host {
        HostAddr::Unix { .. } => true,
        HostAddr::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.to_canonical().is_loopback())
        }
    }
}
