//! One database's servers as its sessions see them: who is primary, which replicas may serve, and a count of every
//! decision by its reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Host;
use super::core::{self, Limits, Standing};
use crate::config::resolved::{Database, HostAddr, Role, WhenNoReplica};
use crate::config::routing::{Hosts, ReadYourWrites, Routing};
use crate::routing::choose::{Candidate, choose};
use crate::routing::own_writes::{Bound, Demand, Key, Keys, Need};
use crate::routing::{Decision, Reason};

/// A host that can be a replica.
#[derive(Debug)]
pub struct Replica {
    pub host: Arc<Host>,
    pub weight: u32,
    pub near: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Routes {
    /// Differs between databases and between configurations.
    pub generation: u32,
    pub database: Arc<str>,
    pub routing: Routing,
    pub when_no_replica: WhenNoReplica,
    /// Those that are or may become the primary.
    pub primaries: Vec<Arc<Host>>,
    pub replicas: Vec<Replica>,
    /// The one of `primaries` that is confirmed; as many as there are: none.
    primary: AtomicUsize,
    /// The one that was confirmed last, also while it is down.
    last_primary: Mutex<Option<HostAddr>>,
    /// It is another one than before; connections to that one must go.
    moved: AtomicBool,
    counts: Arc<Counts>,
    /// What they were when the routing was last set.
    before: Counted,
    turn: AtomicU64,
    /// Who has written what; see [`crate::routing::own_writes`].
    keys: Arc<Mutex<Keys>>,
    demand: Mutex<Demand>,
    /// The state of some host of this database has changed.
    pub changed: Notify,
}

/// Transactions by role and reason.
#[derive(Debug, Default)]
struct Counts([[AtomicU64; Reason::ALL.len()]; Role::ALL.len()]);

type Counted = [[u64; Reason::ALL.len()]; Role::ALL.len()];

impl Counts {
    fn read(&self) -> Counted {
        self.0.each_ref().map(|row| row.each_ref().map(|n| n.load(Ordering::Relaxed)))
    }
}

/// Why no replica could be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nobody(pub Reason);

impl Routes {
    pub(super) fn new(
        generation: u32,
        db: &Database,
        host: &mut dyn FnMut(&HostAddr) -> Arc<Host>,
        old: Option<&Self>,
    ) -> Self {
        let r = &db.routing;
        // Without replicas there are only places to choose from, and nobody to ask.
        let hosts = db.roles.get(&Role::Primary).filter(|_| db.has_replicas());
        let primaries: Vec<_> = hosts.map_or(&[][..], |c| &c.hosts).iter().map(&mut *host).collect();
        let replicas = db
            .replica_hosts()
            .iter()
            .map(|addr| Replica {
                host: host(addr),
                weight: r.weights.iter().find(|(h, _)| h == addr).map_or(1, |(_, w)| *w),
                near: r.zone.is_some()
                    && r.zones.iter().any(|(h, z)| h == addr && Some(z) == r.zone.as_ref()),
            })
            .collect();
        let counts = old.map_or_else(Arc::default, |o| o.counts.clone());
        let same = |o: &&Self| o.routing == *r && o.when_no_replica == db.no_replica();
        let before = old.filter(same).map_or_else(|| counts.read(), |o| o.before);
        Self {
            generation,
            before,
            database: db.name.as_str().into(),
            routing: r.clone(),
            when_no_replica: db.no_replica(),
            primary: AtomicUsize::new(primaries.len()),
            primaries,
            replicas,
            last_primary: Mutex::new(old.and_then(|o| o.last_primary.lock().clone())),
            moved: AtomicBool::new(false),
            counts,
            turn: AtomicU64::new(0),
            keys: old.map_or_else(Arc::default, |o| o.keys.clone()),
            demand: Mutex::default(),
            changed: Notify::new(),
        }
    }

    pub fn has_host(&self, addr: &HostAddr) -> bool {
        self.host(addr).is_some()
    }

    fn limits(&self) -> Limits {
        Limits { lag: self.routing.max_lag, lag_bytes: self.routing.max_lag_bytes }
    }

    /// What clients are told about in_hot_standby, whoever serves them.
    pub fn shown_standby(&self) -> bool {
        self.routing.fixed == Some(Role::Replica)
    }

    // ---- who is primary

    /// The confirmed primary.
    pub fn primary(&self) -> Option<&Arc<Host>> {
        self.primaries.get(self.primary.load(Ordering::Acquire))
    }

    /// Looks at the hosts again; true if another one is the primary now. Of two that say they are, the one on the
    /// younger timeline is; the other has been left behind by a promotion.
    pub(super) fn elect(&self) -> bool {
        let before = self.primary.load(Ordering::Acquire);
        let claims = self.primaries.iter().enumerate().filter_map(|(i, h)| {
            let core = h.core();
            (core.in_recovery() == Some(false)).then(|| (core.timeline(), i == before, i))
        });
        let now = claims.max().map_or(self.primaries.len(), |(_, _, i)| i);
        self.primary.store(now, Ordering::Release);
        if let Some(p) = self.primaries.get(now) {
            let last = self.last_primary.lock().replace(p.addr.clone());
            self.moved.store(last.is_some_and(|l| l != p.addr), Ordering::Release);
        } else {
            // The last one is no primary any more, by its own word.
            let demoted = |a: &HostAddr| self.in_recovery(a) == Some(true);
            self.moved.store(self.last_primary.lock().as_ref().is_some_and(demoted), Ordering::Release);
        }
        now != before
    }

    /// Whether the last election found another primary than the one before, or none in its place.
    pub fn primary_moved(&self) -> bool {
        self.moved.load(Ordering::Acquire)
    }

    /// Whether roles matter here: there are replicas.
    pub fn watches_roles(&self) -> bool {
        !self.replicas.is_empty()
    }

    fn host(&self, addr: &HostAddr) -> Option<&Arc<Host>> {
        self.primaries.iter().chain(self.replicas.iter().map(|r| &r.host)).find(|h| h.addr == *addr)
    }

    /// `None` where it is not known.
    pub fn in_recovery(&self, addr: &HostAddr) -> Option<bool> {
        self.host(addr)?.core().in_recovery()
    }

    /// A pool has lost a connection to a host.
    pub fn connection_lost(&self, addr: &HostAddr) {
        if let Some(h) = self.host(addr) {
            h.connection_lost();
        }
    }

    /// Whether connections for this role may be opened to a host. Where the monitor does not know, the server's
    /// own word at the login decides.
    pub fn may_dial(&self, addr: &HostAddr, role: Role) -> bool {
        match role {
            Role::Admin => true,
            Role::Replica => {
                let known = self.replicas.iter().find(|r| r.host.addr == *addr);
                known.is_none_or(|r| r.host.core().in_recovery() != Some(false))
            }
            Role::Primary => match self.primary() {
                Some(p) => p.addr == *addr,
                None => {
                    let known = self.primaries.iter().find(|h| h.addr == *addr);
                    // Where the configuration names the primary, only the host's own word is against it.
                    known.is_none_or(|h| h.core().in_recovery() != Some(true))
                        && (self.routing.hosts == Hosts::Primary || !self.left_behind(addr))
                }
            },
        }
    }

    /// A host that says that it is primary on a timeline that is not the youngest known.
    fn left_behind(&self, addr: &HostAddr) -> bool {
        let youngest = self.primaries.iter().map(|h| h.core().timeline()).max().unwrap_or_default();
        self.primaries.iter().any(|h| {
            h.addr == *addr && h.core().in_recovery() == Some(false) && h.core().timeline() < youngest
        })
    }

    // ---- choosing a replica

    /// Whether a replica may serve now.
    pub fn standing(&self, index: usize, now: Instant) -> Standing {
        let Some(r) = self.replicas.get(index) else { return Standing::Unconfirmed };
        let primary = self.primary().filter(|p| !Arc::ptr_eq(p, &r.host));
        let place = r.host.core().place();
        match primary {
            Some(p) => core::standing(place, Some(&p.core()), self.limits(), now),
            None => core::standing(place, None, self.limits(), now),
        }
    }

    /// A replica for one transaction. `outstanding` tells what a pool has to do, or that it has run dry; `bound`
    /// is what it must have replayed, and where.
    pub fn choose(
        &self,
        now: Instant,
        bound: Option<Bound>,
        outstanding: &dyn Fn(usize) -> Option<usize>,
    ) -> Result<usize, Nobody> {
        let mut why = Reason::NoReplica;
        let mut candidates = Vec::with_capacity(self.replicas.len());
        for (index, r) in self.replicas.iter().enumerate() {
            match self.standing(index, now) {
                Standing::Unconfirmed => continue,
                Standing::Lag => {
                    why = why.max(Reason::Lag);
                    continue;
                }
                Standing::Eligible => {}
            }
            if bound.is_some_and(|b| r.host.replayed(b).is_none()) {
                why = why.max(Reason::OwnWrites);
                continue;
            }
            if let Some(outstanding) = outstanding(index) {
                candidates.push(Candidate { index, weight: r.weight, outstanding, near: r.near });
            }
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        choose(self.routing.balance, turn, &candidates).ok_or(Nobody(why))
    }

    /// How the best of the replicas stands where none may serve now; `None` where one may, or where there are none.
    pub fn nobody(&self, now: Instant) -> Option<Standing> {
        let standings: Vec<Standing> = (0..self.replicas.len()).map(|i| self.standing(i, now)).collect();
        if standings.contains(&Standing::Eligible) {
            return None;
        }
        standings.iter().find(|s| **s == Standing::Lag).or_else(|| standings.first()).copied()
    }

    // ---- read your writes

    pub fn read_your_writes(&self) -> bool {
        self.routing.read_your_writes == ReadYourWrites::Session && self.watches_roles()
    }

    /// That of a session, or the one that sessions share by its name.
    pub fn key(&self, name: Option<&str>) -> Key {
        match name {
            Some(name) => self.keys.lock().get(name),
            None => Key::default(),
        }
    }

    /// A write is over: its place is asked for, once for all that wait.
    pub fn wrote(&self, now: Instant) {
        self.demand.lock().wrote(now);
        if let Some(p) = self.primary() {
            p.ask();
        }
    }

    /// What a replica must have replayed for this key. One lock at a time.
    pub fn need(&self, key: &Key) -> Need {
        let primary = self.primary();
        let timeline = primary.and_then(|p| p.core().sample().map(|s| s.facts.timeline));
        let need = key.lock().need(timeline);
        need.unwrap_or_else(|then| {
            let place = primary.and_then(|p| {
                let core = p.core();
                let mark = core.mark_after(then)?;
                Some(Bound { timeline: core.timeline(), lsn: mark.lsn.0 })
            });
            key.lock().placed(then, place)
        })
    }

    /// Whether a connection to a replica that was opened then is known to serve what is before a bound.
    pub fn covers(&self, index: usize, bound: Bound, opened: Instant) -> bool {
        let since = self.replicas.get(index).and_then(|r| r.host.replayed(bound));
        since.is_some_and(|asked| opened < asked)
    }

    /// A replica is asked where it stands.
    pub fn ask_replica(&self, index: usize) {
        if let Some(r) = self.replicas.get(index) {
            r.host.ask();
        }
    }

    /// A host has answered; true if the replicas are worth asking behind it.
    pub(super) fn sampled(&self, host: &Arc<Host>) -> bool {
        if !self.primary().is_some_and(|p| Arc::ptr_eq(p, host)) {
            return false;
        }
        let placed = self.read_your_writes() && {
            let at = host.core().sample().map(|s| (s.asked, s.facts.timeline, s.facts.lsn.0));
            at.is_some_and(|(asked, timeline, lsn)| self.demand.lock().placed(asked, Bound { timeline, lsn }))
        };
        placed || self.routing.max_lag.is_some()
    }

    /// Whether somebody waits for a replica to come further.
    pub(super) fn awaits(&self, host: &Host) -> bool {
        let place = host
            .core()
            .sample()
            .filter(|s| s.facts.in_recovery)
            .map(|s| &s.facts)
            .map(|f| Bound { timeline: f.timeline, lsn: f.lsn.0 });
        place.is_some_and(|at| self.demand.lock().awaits(at))
    }

    // ---- counting

    pub fn count(&self, d: Decision) {
        let role = Role::ALL.iter().position(|r| *r == d.role).unwrap_or_default();
        let reason = Reason::ALL.iter().position(|r| *r == d.reason).unwrap_or_default();
        if let Some(c) = self.counts.0.get(role).and_then(|r| r.get(reason)) {
            c.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Role, reason, transactions; those that never happened are left out.
    pub fn counted(&self) -> Vec<(Role, Reason, u64)> {
        listed(&self.counts.read())
    }

    /// The same since the routing of this database was last set: what was before tells nothing about it.
    pub fn counted_since_change(&self) -> Vec<(Role, Reason, u64)> {
        let mut counts = self.counts.read();
        for (n, before) in counts.iter_mut().flatten().zip(self.before.iter().flatten()) {
            *n = n.saturating_sub(*before);
        }
        listed(&counts)
    }
}

fn listed(counts: &Counted) -> Vec<(Role, Reason, u64)> {
    let rows = Role::ALL.into_iter().zip(counts);
    let all =
        rows.flat_map(|(role, row)| Reason::ALL.into_iter().zip(row).map(move |(why, n)| (role, why, *n)));
    all.filter(|(_, _, n)| *n > 0).collect()
}
