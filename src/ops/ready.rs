//! /readyz: whether new clients can be served, from what is known already. Nothing is tried here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::config::resolved::Role;
use crate::error::{Error, report};
use crate::services::Services;

/// The answer's body; not ready is told with 503.
#[derive(Debug, Serialize)]
pub(super) struct Readiness {
    pub(super) ready: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    databases: Vec<Seen>,
}

/// What the pools of one role of a database last saw.
#[derive(Debug, Serialize)]
struct Seen {
    database: String,
    role: &'static str,
    /// `connected`, `failing`, or `unknown`: nobody has tried lately.
    state: &'static str,
    connections: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// How long ago the reason was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
}

/// Of the process, and of what `ready_requires` asks for. `detail` says whether the asker may know of hosts.
pub(super) fn whole(services: &Services, detail: bool) -> Readiness {
    let config = services.config();
    let seen =
        config.process.ready_requires.iter().filter_map(|r| find(services, &config, r, detail)).collect();
    with(services, seen)
}

/// Of `DATABASE` (its primary) or `DATABASE/ROLE` besides; `None` where there is none such.
pub(super) fn one(services: &Services, path: &str, detail: bool) -> Option<Readiness> {
    let config = services.config();
    let path = decoded(path)?;
    let mut seen: Vec<Seen> =
        config.process.ready_requires.iter().filter_map(|r| find(services, &config, r, detail)).collect();
    seen.insert(0, find(services, &config, &path, detail)?);
    Some(with(services, seen))
}

fn with(services: &Services, databases: Vec<Seen>) -> Readiness {
    let draining = services.draining.load(Ordering::Relaxed);
    let failing = databases.iter().find(|s| s.state == "failing");
    let reason = if draining {
        Some("draining: new clients are refused".to_owned())
    } else if let Some((part, reason)) = services.not_ready.lock().first_key_value() {
        Some(format!("{part}: {reason}"))
    } else if services.starting.load(Ordering::Relaxed) {
        Some("starting: servers are asked and minimums opened".to_owned())
    } else {
        failing.map(|s| format!("database {} ({}) cannot be reached", s.database, s.role))
    };
    Readiness { ready: reason.is_none(), reason, databases }
}

/// The database and role that a text names, if they are configured.
pub(super) fn named<'a>(config: &'a Config, text: &'a str) -> Option<(&'a str, Role)> {
    if config.databases.contains_key(text) {
        return Some((text, Role::Primary));
    }
    let (database, role) = text.rsplit_once('/')?;
    let role = Role::ALL.into_iter().find(|r| r.as_str() == role)?;
    config.databases.get(database)?.roles.contains_key(&role).then_some((database, role))
}

fn find(services: &Services, config: &Config, text: &str, detail: bool) -> Option<Seen> {
    let (database, role) = named(config, text)?;
    let mut connections = 0;
    let mut newest: Option<(Error, Duration, Duration)> = None;
    for p in services.pools.all().iter().filter(|p| &*p.key.database == database && p.key.role == role) {
        let (open, failure) = p.seen();
        connections += open;
        if let Some((e, age)) = failure
            && newest.as_ref().is_none_or(|(_, a, _)| age < *a)
        {
            newest = Some((e, age, p.spec().settings.server_login_retry));
        }
    }
    // Where nobody tries any more, what was seen last says less each moment; a balancer that sends nobody because
    // of it would keep it so for ever.
    let fresh = |(_, age, retry): &(Error, Duration, Duration)| *age <= *retry * 2 + Duration::from_secs(1);
    let state = match &newest {
        _ if connections > 0 => "connected",
        Some(f) if fresh(f) => "failing",
        _ => "unknown",
    };
    Some(Seen {
        database: database.to_owned(),
        role: role.as_str(),
        state,
        connections,
        code: newest.as_ref().map(|(e, _, _)| report(e).code),
        reason: newest.as_ref().filter(|_| detail).map(|(e, _, _)| e.to_string()),
        age_seconds: newest.as_ref().map(|(_, age, _)| age.as_secs_f64()),
    })
}

/// With `%41` read as `A`.
fn decoded(path: &str) -> Option<String> {
    let mut out = Vec::new();
    let mut bytes = path.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn paths_are_decoded() {
        assert_eq!(decoded("app/primary").as_deref(), Some("app/primary"));
        assert_eq!(decoded("a%20b%C3%A4").as_deref(), Some("a bä"));
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
