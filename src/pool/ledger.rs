//! Limits on server connections that several pools share: per database, per user, per server host.
//!
//! Taken before a connection is dialled, given back when it is gone. A pool that finds no room is remembered,
//! first come first served, and looks again when something is given back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::direct::Ticket;
use super::pooling::Pooling;
use super::{Pool, PoolKey};
use crate::clock::Clock;
use crate::config::resolved::HostAddr;
use crate::server::conn::Place;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LimitKey {
    Database(Arc<str>),
    User(Arc<str>),
    Host(HostAddr),
    /// Places at a host that all instances share.
    Fleet(HostAddr),
    /// Of one pool, with the connections that clients of it have for their own.
    Pool(Box<PoolKey>),
}

impl std::fmt::Display for LimitKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Database(d) => write!(f, "max_connections of database {d}"),
            Self::User(u) => write!(f, "max_connections of user {u}"),
            Self::Host(_) => write!(f, "max_host_connections"),
            Self::Fleet(_) => write!(f, "fleet.budget"),
            Self::Pool(_) => write!(f, "pool_size, with replication connections,"),
        }
    }
}

/// Who looks again when something is given back.
#[derive(Debug)]
enum Starved {
    Pool(Weak<Pool>),
    Ticket(Weak<Ticket>),
}

#[derive(Debug, Default)]
struct Inner {
    used: HashMap<LimitKey, usize>,
    starved: VecDeque<Starved>,
    /// Hosts that cannot be reached, for all pools that dial them.
    down: HashMap<HostAddr, HostDown>,
    /// Hosts that cannot carry what the configuration allows, and what they can.
    caps: HashMap<HostAddr, usize>,
    places: HashMap<HostAddr, AtHost>,
}

/// Connections to one host, from the place that was granted to the connection that is open.
#[derive(Debug, Default)]
struct AtHost {
    /// Whether a dial needs a place that was granted.
    bounded: bool,
    granted: usize,
    dialling: usize,
    open: usize,
    /// Dials that failed: the server may not know it yet.
    failed: Vec<Instant>,
    /// How often what was granted has been taken back.
    revoked: u64,
    /// A dial found no place; said once, however many there are until somebody looks.
    wanted: Arc<tokio::sync::Notify>,
}

/// The same at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Places {
    pub granted: usize,
    pub dialling: usize,
    pub open: usize,
    pub lingering: usize,
}

#[derive(Debug)]
struct HostDown {
    failures: u32,
    not_before: Instant,
}

/// The first pause after a failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Default)]
pub struct Ledger {
    inner: Mutex<Inner>,
    /// Of those who ask a host something now and then.
    turns: Mutex<HashMap<HostAddr, Arc<tokio::sync::Mutex<()>>>>,
}

/// Room for one connection; given back when dropped.
#[derive(Debug)]
pub struct Room {
    keys: Vec<LimitKey>,
    at: Option<HostAddr>,
    /// [`AtHost::revoked`] when it was taken.
    revoked: u64,
    arrived: bool,
    pooling: Weak<Pooling>,
}

impl Ledger {
    /// Takes one of each, or says which limit is reached, with its figure.
    pub fn take(
        &self,
        wanted: &[(LimitKey, Option<usize>)],
        pooling: &Arc<Pooling>,
    ) -> Result<Room, (LimitKey, usize)> {
        let mut inner = self.inner.lock();
        for (key, limit) in wanted {
            let used = inner.used.get(key).copied().unwrap_or(0);
            let cap = match key {
                LimitKey::Host(h) => inner.caps.get(h).copied(),
                LimitKey::Database(_) | LimitKey::User(_) | LimitKey::Fleet(_) | LimitKey::Pool(_) => None,
            };
            if let Some(limit) = limit.iter().copied().chain(cap).min()
                && used >= limit
            {
                return Err((key.clone(), limit));
            }
        }
        let at = wanted.iter().find_map(|(key, _)| match key {
            LimitKey::Host(h) => Some(h.clone()),
            LimitKey::Database(_) | LimitKey::User(_) | LimitKey::Fleet(_) | LimitKey::Pool(_) => None,
        });
        let mut revoked = 0;
        if let Some(host) = &at {
            let places = inner.places.entry(host.clone()).or_default();
            if places.bounded {
                let Some(rest) = places.granted.checked_sub(1) else {
                    places.wanted.notify_one();
                    return Err((LimitKey::Fleet(host.clone()), 0));
                };
                places.granted = rest;
            }
            places.dialling += 1;
            revoked = places.revoked;
        }
        let keys: Vec<LimitKey> = wanted.iter().map(|(k, _)| k.clone()).collect();
        for k in &keys {
            *inner.used.entry(k.clone()).or_insert(0) += 1;
        }
        Ok(Room { keys, at, revoked, arrived: false, pooling: Arc::downgrade(pooling) })
    }

    /// Bounds a host below its configured limit, or lifts that; the bound before is returned.
    pub fn cap_host(&self, host: &HostAddr, cap: Option<usize>) -> Option<usize> {
        let mut inner = self.inner.lock();
        match cap {
            Some(n) => inner.caps.insert(host.clone(), n),
            None => inner.caps.remove(host),
        }
    }

    /// From now on a dial to the host needs a place that was granted. False if that was so before.
    pub fn bound(&self, host: &HostAddr) -> bool {
        let mut inner = self.inner.lock();
        !std::mem::replace(&mut inner.places.entry(host.clone()).or_default().bounded, true)
    }

    pub fn unbound(&self, host: &HostAddr) {
        if let Some(p) = self.inner.lock().places.get_mut(host) {
            p.bounded = false;
            p.granted = 0;
        }
    }

    /// So many more places may be dialled. Of those before some may have been taken since anybody looked.
    pub fn grant(&self, host: &HostAddr, more: usize) {
        if let Some(p) = self.inner.lock().places.get_mut(host) {
            p.granted += more;
        }
    }

    /// No more than so many places may be dialled.
    pub fn cap_grant(&self, host: &HostAddr, most: usize) {
        if let Some(p) = self.inner.lock().places.get_mut(host) {
            p.granted = p.granted.min(most);
        }
    }

    /// Takes back what was granted, also from dials that are under way: nobody counts them any more.
    pub fn revoke(&self, host: &HostAddr) {
        if let Some(p) = self.inner.lock().places.get_mut(host) {
            p.granted = 0;
            p.revoked += 1;
        }
    }

    /// Whether a dial would have to wait for a place.
    pub fn out_of_places(&self, host: &HostAddr) -> bool {
        self.inner.lock().places.get(host).is_some_and(|p| p.bounded && p.granted == 0)
    }

    /// Where the connections to a host are; a dial that failed lingers for `settle`.
    pub fn places(&self, host: &HostAddr, now: Instant, settle: Duration) -> Places {
        let mut inner = self.inner.lock();
        let Some(p) = inner.places.get_mut(host) else { return Places::default() };
        p.failed.retain(|at| now.saturating_duration_since(*at) < settle);
        Places { granted: p.granted, dialling: p.dialling, open: p.open, lingering: p.failed.len() }
    }

    /// Waits until a dial to the host finds no place, or has found none since the last call.
    pub async fn place_wanted(&self, host: &HostAddr) {
        let wanted = self.inner.lock().places.entry(host.clone()).or_default().wanted.clone();
        wanted.notified().await;
    }

    /// Waits until nobody else of this process has a connection for questions to the host, of which there is one at a
    /// time: so many are counted.
    pub async fn turn_to_ask(&self, host: &HostAddr) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = self.turns.lock().entry(host.clone()).or_default().clone();
        turn.lock_owned().await
    }

    pub fn used(&self, key: &LimitKey) -> usize {
        self.inner.lock().used.get(key).copied().unwrap_or(0)
    }

    /// Whether a host may be dialled: not while the pause after its last failure lasts.
    pub fn may_dial(&self, host: &HostAddr, now: Instant) -> bool {
        self.inner.lock().down.get(host).is_none_or(|d| now >= d.not_before)
    }

    /// A dial has failed, and none has succeeded since.
    pub fn is_unreachable(&self, host: &HostAddr) -> bool {
        self.inner.lock().down.contains_key(host)
    }

    /// A dial failed because the host cannot be reached. The pause grows to `max`; `jitter`, from 0 to 1, spreads
    /// the retries of many instances. Failures of dials that began together count once.
    pub fn host_unreachable(&self, host: &HostAddr, now: Instant, max: Duration, jitter: f64) {
        let mut inner = self.inner.lock();
        let d = inner.down.entry(host.clone()).or_insert(HostDown { failures: 0, not_before: now });
        if now >= d.not_before {
            let pause = (FIRST_PAUSE * 2u32.pow(d.failures.min(16))).min(max);
            d.failures += 1;
            d.not_before = now + pause.mul_f64(0.75 + 0.25 * jitter.clamp(0.0, 1.0));
        }
    }

    pub fn host_reached(&self, host: &HostAddr) {
        let mut inner = self.inner.lock();
        if !inner.down.is_empty() {
            inner.down.remove(host);
        }
    }

    pub(super) fn starve(&self, pool: &Arc<Pool>) {
        let mut inner = self.inner.lock();
        let weak = Arc::downgrade(pool);
        if !inner.starved.iter().any(|s| matches!(s, Starved::Pool(w) if w.ptr_eq(&weak))) {
            inner.starved.push_back(Starved::Pool(weak));
        }
    }

    pub(super) fn starve_ticket(&self, ticket: &Arc<Ticket>) {
        self.inner.lock().starved.push_back(Starved::Ticket(Arc::downgrade(ticket)));
    }

    /// Takes it out of the queue; whether it was there.
    pub(super) fn forget_ticket(&self, ticket: &Arc<Ticket>) -> bool {
        let mut inner = self.inner.lock();
        let before = inner.starved.len();
        let weak = Arc::downgrade(ticket);
        inner.starved.retain(|s| !matches!(s, Starved::Ticket(w) if w.ptr_eq(&weak)));
        inner.starved.len() != before
    }

    /// Those who wait for a place at the host outside of a pool's queue, and who would get it if there were one.
    pub fn tickets_without_place(&self, host: &HostAddr) -> usize {
        let starved = |s: &Starved| match s {
            Starved::Ticket(t) => t.upgrade(),
            Starved::Pool(_) => None,
        };
        // Let go of without the lock: the last one to hold a ticket ends it.
        let tickets: Vec<Arc<Ticket>> = self.inner.lock().starved.iter().filter_map(starved).collect();
        let mut ahead: HashMap<LimitKey, usize> = HashMap::new();
        let mut n = 0;
        for t in tickets.iter().filter(|t| t.is_for(host)) {
            let room = |(key, limit): &(LimitKey, Option<usize>)| {
                limit.is_none_or(|l| self.used(key) + ahead.get(key).copied().unwrap_or(0) < l)
            };
            if t.wanted().iter().all(room) {
                t.wanted().iter().for_each(|(key, _)| *ahead.entry(key.clone()).or_insert(0) += 1);
                n += 1;
            }
        }
        n
    }

    /// Whoever found no room looks again, in the order in which they came; who still finds none queues anew.
    pub fn look_again(&self) {
        let starved = std::mem::take(&mut self.inner.lock().starved);
        self.let_look(starved);
    }

    fn let_look(&self, starved: VecDeque<Starved>) {
        let mut served = Vec::new();
        for starved in starved {
            match starved {
                Starved::Pool(p) => served.extend(p.upgrade().filter(Pool::look)),
                Starved::Ticket(t) => {
                    if let Some(t) = t.upgrade() {
                        t.look();
                    }
                }
            }
        }
        for pool in &served {
            self.put_last(pool);
        }
    }

    /// Who has just been served is the last to be served again.
    fn put_last(&self, pool: &Arc<Pool>) {
        let mut inner = self.inner.lock();
        let weak = Arc::downgrade(pool);
        let same = |s: &Starved| matches!(s, Starved::Pool(w) if w.ptr_eq(&weak));
        if let Some(at) = inner.starved.iter().position(same) {
            inner.starved.remove(at);
            inner.starved.push_back(Starved::Pool(weak));
        }
    }

    fn give_back(&self, room: &Room) -> VecDeque<Starved> {
        let mut inner = self.inner.lock();
        if let Some(p) = room.at.as_ref().and_then(|h| inner.places.get_mut(h)) {
            if room.arrived {
                p.open = p.open.saturating_sub(1);
            } else {
                p.dialling = p.dialling.saturating_sub(1);
                if p.bounded {
                    p.failed.push(Clock::now());
                }
            }
        }
        for k in &room.keys {
            if let Some(n) = inner.used.get_mut(k) {
                *n = n.saturating_sub(1);
                if *n == 0 {
                    inner.used.remove(k);
                }
            }
        }
        std::mem::take(&mut inner.starved)
    }
}

impl Place for Room {
    fn arrived(&mut self) -> bool {
        let (Some(pooling), Some(host)) = (self.pooling.upgrade(), &self.at) else { return true };
        let mut inner = pooling.ledger.inner.lock();
        let Some(p) = inner.places.get_mut(host) else { return true };
        if p.bounded && p.revoked != self.revoked {
            return false;
        }
        p.dialling = p.dialling.saturating_sub(1);
        p.open += 1;
        self.arrived = true;
        true
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(s) = self.pooling.upgrade() {
            let starved = s.ledger.give_back(self);
            s.ledger.let_look(starved);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_down_is_left_alone_longer_each_time() {
        let ledger = Ledger::default();
        let host = HostAddr::Tcp { host: "db".to_owned(), port: 5432 };
        let (mut now, max) = (Clock::now(), Duration::from_millis(300));
        for pause in [50, 100, 200, 300, 300] {
            assert!(ledger.may_dial(&host, now));
            ledger.host_unreachable(&host, now, max, 1.0);
            // One of several dials that began together: no further failure.
            ledger.host_unreachable(&host, now, max, 1.0);
            assert!(!ledger.may_dial(&host, now + Duration::from_millis(pause - 1)));
            now += Duration::from_millis(pause);
        }
        ledger.host_unreachable(&host, now, max, 1.0);
        ledger.host_reached(&host);
        assert!(ledger.may_dial(&host, now));
    }
}
