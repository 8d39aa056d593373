//! Whether a pool, or the pools of a database, serve anybody, and why they do not: see [`Standstill`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pool;
use super::pooling::Pooling;
use crate::clock::Clock;
use crate::config::resolved::Role;
use crate::error::{Error, Standstill};
use crate::monitor::Routes;
use crate::monitor::core::Standing;

/// What is known of a pool at one moment.
#[derive(Debug)]
pub(super) struct Known {
    /// By order of the operator.
    pub held: Option<Standstill>,
    /// Connections that somebody uses, or may use.
    pub open: usize,
    /// Clients in the queue; where there are some, servers are tried.
    pub waiting: usize,
    /// The last attempt failed so, so long ago, and none has succeeded since.
    pub failure: Option<(Error, Duration)>,
    /// The longest pause between two attempts.
    pub retry: Duration,
    pub role: Role,
    /// Every host is of another role, as far as anybody knows.
    pub no_host_of_role: bool,
    /// Every host is left alone for a while.
    pub no_dial_yet: bool,
}

/// Why such a pool serves nobody; `None` where it does, or where nobody has tried.
pub(super) fn why(k: Known) -> Option<Standstill> {
    if k.held.is_some() {
        return k.held;
    }
    if k.open > 0 {
        return None;
    }
    if k.no_host_of_role {
        return match k.role {
            Role::Primary => Some(Standstill::NoPrimary),
            Role::Replica => Some(Standstill::NoReplica),
            Role::Admin => None,
        };
    }
    // Where nobody tries any more, what was seen last says less each moment; a balancer that sends nobody because of
    // it would keep it so for ever.
    let fresh = |age: Duration| k.waiting > 0 || age <= k.retry * 2 + Duration::from_secs(1);
    match k.failure {
        Some((e, age)) if fresh(age) => Some(Standstill::of_failure(&e)),
        _ if k.no_dial_yet => Some(Standstill::Backoff),
        _ => None,
    }
}

impl Pool {
    /// Why it gives nobody a connection now.
    pub fn standstill(&self) -> Option<Standstill> {
        let now = Clock::now();
        let held = self.shared.control.held(&self.key.database);
        if held.is_some() {
            return held;
        }
        let (open, waiting, failure) = {
            let inner = self.inner.lock();
            let c = inner.core.counts();
            let failure = inner.core.last_failure();
            let failure = failure.map(|(e, at)| (e.clone(), now.saturating_duration_since(at)));
            (c.live() - c.opening, c.waiting, failure)
        };
        if open > 0 {
            return None;
        }
        let spec = self.spec();
        let all = |fits: &dyn Fn(&crate::config::resolved::HostAddr) -> bool| {
            !spec.hosts.is_empty() && spec.hosts.iter().all(fits)
        };
        why(Known {
            held,
            open,
            waiting,
            failure,
            retry: spec.settings.server_login_retry,
            role: self.key.role,
            no_host_of_role: all(&|h| !self.may_dial(h)),
            no_dial_yet: all(&|h| !self.pooling.ledger.may_dial(h, now)),
        })
    }
}

impl Pool {
    /// The same for clients that come in now.
    pub fn serves_nobody(&self) -> Option<Standstill> {
        let disabled = || self.shared.control.is_disabled(&self.key.database).then_some(Standstill::Disabled);
        self.standstill().or_else(disabled)
    }
}

/// Why a database, in one role, takes no new clients or serves none of them.
pub fn of_database(pooling: &Pooling, database: &str, role: Role) -> Option<Standstill> {
    let control = &pooling.shared.control;
    if let Some(held) = control.held(database) {
        return Some(held);
    }
    if control.is_disabled(database) {
        return Some(Standstill::Disabled);
    }
    let pools: Vec<Arc<Pool>> = pooling
        .pools
        .all()
        .into_iter()
        .filter(|p| &*p.key.database == database && p.key.role == role)
        .collect();
    if pools.iter().any(|p| p.seen().0 > 0) {
        return None;
    }
    if role == Role::Replica
        && let Some(routes) = pooling.monitor.routes(database)
        && let Some(why) = no_replica(&routes, Clock::now())
    {
        return Some(why);
    }
    pools.iter().find_map(|p| p.standstill())
}

/// A database in one role, and why it serves nobody where it does not.
pub type Seen = (String, Role, Option<Standstill>);

/// Every database in every role that it has.
pub fn all(pooling: &Pooling) -> Vec<Seen> {
    let config = pooling.shared.config();
    let mut found = Vec::new();
    for database in pooling.databases() {
        let Some(db) = config.database(&database) else { continue };
        for role in db.roles.keys() {
            found.push((database.clone(), *role, of_database(pooling, &database, *role)));
        }
    }
    found
}

/// Why no replica may serve.
fn no_replica(routes: &Routes, now: Instant) -> Option<Standstill> {
    match routes.nobody(now)? {
        Standing::Lag => Some(Standstill::ReplicaLag),
        Standing::Unconfirmed | Standing::Eligible => Some(Standstill::NoReplica),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreachable() -> Error {
        Error::ServerUnreachable { host: "db".to_owned(), reason: "connection refused".to_owned() }
    }

    const QUIET: Known = Known {
        held: None,
        open: 0,
        waiting: 0,
        failure: None,
        retry: Duration::from_secs(1),
        role: Role::Primary,
        no_host_of_role: false,
        no_dial_yet: false,
    };

    fn failing(age: u64) -> Known {
        let failure = Some((unreachable(), Duration::from_secs(age)));
        Known { failure, ..QUIET }
    }

    #[test]
    fn each_reason_is_told_and_the_operators_first() {
        let told = |k: Known| why(k).map(|w| w.code());
        assert_eq!(told(QUIET), None);
        for held in Standstill::samples().into_iter().filter(Standstill::is_ordered) {
            let known = Known { held: Some(held.clone()), open: 3, ..failing(0) };
            assert_eq!(told(known), Some(held.code()));
        }
        assert_eq!(told(failing(3)), Some("unreachable"));
        assert_eq!(told(Known { open: 1, ..failing(0) }), None, "somebody is served");
        assert_eq!(told(failing(4)), None, "nobody has tried for long");
        assert_eq!(told(Known { waiting: 1, ..failing(4) }), Some("unreachable"), "somebody waits for it");
        let refused = (Error::ServerAuth { method: "md5".to_owned(), user: "a".to_owned() }, Duration::ZERO);
        assert_eq!(told(Known { failure: Some(refused), ..QUIET }), Some("login_refused"));
        assert_eq!(told(Known { no_dial_yet: true, ..QUIET }), Some("backoff"));
        let of_role = |role| Known { role, no_host_of_role: true, ..failing(0) };
        assert_eq!(told(of_role(Role::Primary)), Some("no_primary"));
        assert_eq!(told(of_role(Role::Replica)), Some("no_replica"));
    }
}
