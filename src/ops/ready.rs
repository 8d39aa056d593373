//! /readyz: whether new clients can be served, from what is known already. Nothing is tried here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use crate::config::Config;
use crate::config::resolved::Role;
use crate::error::{Error, Standstill, report};
use crate::pool::standstill;
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
    /// `connected`, `failing`, `unknown` (nobody has tried lately), or what the operator has ordered: `paused`,
    /// `killed`, `suspended`, `disabled`.
    state: &'static str,
    connections: usize,
    /// Why nobody is served, where nobody is: one of [`Standstill::code`], and its words.
    #[serde(skip_serializing_if = "Option::is_none")]
    serves_nobody: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// How long ago the reason was seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
}

/// Of the process, and of what `ready_requires` asks for; what serves nobody besides is listed. `detail` says whether
/// the asker may know of hosts.
pub(super) fn whole(services: &Services, detail: bool) -> Readiness {
    let config = services.config();
    let required = required(services, &config, detail);
    let mut others = Vec::new();
    for (database, role, _) in standstill::all(services).into_iter().filter(|(_, _, why)| why.is_some()) {
        let listed = |s: &Seen| s.database == database && s.role == role.as_str();
        if !required.iter().any(listed) {
            others.push(seen(services, &database, role, detail));
        }
    }
    with(services, required, others)
}

fn required(services: &Services, config: &Config, detail: bool) -> Vec<Seen> {
    let all = config.process.ready_requires.iter();
    all.filter_map(|r| named(config, r)).map(|(d, role)| seen(services, d, role, detail)).collect()
}

/// Of `DATABASE` (its primary) or `DATABASE/ROLE` besides; `None` where there is none such.
pub(super) fn one(services: &Services, path: &str, detail: bool) -> Option<Readiness> {
    let config = services.config();
    let path = decoded(path)?;
    let (database, role) = named(&config, &path).or_else(|| of_pattern(services, &config, &path))?;
    let mut required = required(services, &config, detail);
    required.insert(0, seen(services, database, role, detail));
    Some(with(services, required, Vec::new()))
}

/// Ready where each of `required` serves; `others` are told.
fn with(services: &Services, mut required: Vec<Seen>, others: Vec<Seen>) -> Readiness {
    let draining = services.draining.load(Ordering::Relaxed);
    let standing = required.iter().find(|s| s.serves_nobody.is_some());
    let reason = if draining {
        Some("draining: new clients are refused".to_owned())
    } else if let Some((part, reason)) = services.not_ready.lock().first_key_value() {
        Some(format!("{part}: {reason}"))
    } else if services.starting.load(Ordering::Relaxed) {
        Some("starting: servers are asked and minimums opened".to_owned())
    } else if let Some(why) = services.control.held_all() {
        Some(why.headline(""))
    } else {
        standing.map(|s| {
            format!("database {} ({}): {}", s.database, s.role, s.why.as_deref().unwrap_or_default())
        })
    };
    required.extend(others);
    Readiness { ready: reason.is_none(), reason, databases: required }
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

/// One of a pattern, which has no section of its own, once it serves.
fn of_pattern<'a>(services: &Services, config: &Config, text: &'a str) -> Option<(&'a str, Role)> {
    let serves = services.pools.all().iter().any(|p| &*p.key.database == text);
    (serves && config.database(text).is_some()).then_some((text, Role::Primary))
}

fn seen(services: &Services, database: &str, role: Role, detail: bool) -> Seen {
    let mut connections = 0;
    let mut newest: Option<(Error, Duration)> = None;
    for p in services.pools.all().iter().filter(|p| &*p.key.database == database && p.key.role == role) {
        let (open, failure) = p.seen();
        connections += open;
        if let Some((e, age)) = failure
            && newest.as_ref().is_none_or(|(_, a)| age < *a)
        {
            newest = Some((e, age));
        }
    }
    let why = standstill::of_database(services, database, role);
    let state = match &why {
        Some(w) if w.is_ordered() => w.code(),
        Some(_) => "failing",
        None if connections > 0 => "connected",
        None => "unknown",
    };
    let words = |w: &Standstill| if detail { w.words(database) } else { w.headline(database) };
    Seen {
        database: database.to_owned(),
        role: role.as_str(),
        state,
        connections,
        serves_nobody: why.as_ref().map(Standstill::code),
        why: why.as_ref().map(words),
        code: newest.as_ref().map(|(e, _)| report(e).code),
        reason: newest.as_ref().filter(|_| detail).map(|(e, _)| e.to_string()),
        age_seconds: newest.as_ref().map(|(_, age)| age.as_secs_f64()),
    }
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
