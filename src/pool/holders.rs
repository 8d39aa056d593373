//! Who holds a pool's connections, what that costs others, and what was forgotten.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::core::ConnId;
use super::pooling::Pooling;
use super::{Pool, PoolKey};
use crate::clients::handle::{ClientCtl, ClientState, Signal};
use crate::clock::Clock;
use crate::session_state::{Kind, list};

/// Wait timeouts are told in the log once in this time for each pool, with the number of those between.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Holders that such an event names.
const WORST: usize = 3;
/// A queue that was not served for so long is worth an event.
const EXHAUSTED_AFTER: Duration = Duration::from_millis(250);

/// One client with a server connection in its hands.
#[derive(Debug, Clone)]
pub struct Holder {
    pub pool: PoolKey,
    pub ctl: Arc<ClientCtl>,
    pub application: Arc<str>,
    pub state: ClientState,
    pub held: Duration,
    pub in_state: Duration,
    /// Its share of the time that clients have waited meanwhile.
    pub caused: Duration,
    /// What it sent last, without constants.
    pub statement: Option<String>,
    /// Why it keeps the connection between its transactions, and for how long it has, where it does.
    pub pinned: Option<(Vec<Kind>, Duration)>,
    /// The server's address and process.
    pub server: Option<(String, i32)>,
    lease: (ConnId, u64),
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "client {} of user {} from {}", self.ctl.id, self.ctl.user, self.ctl.peer)?;
        if !self.application.is_empty() {
            write!(f, " (application_name {})", self.application.escape_default())?;
        }
        write!(
            f,
            ", holding for {:.3} s, {} for {:.3} s, {:.3} waiter-seconds caused",
            self.held.as_secs_f64(),
            self.state.as_str(),
            self.in_state.as_secs_f64(),
            self.caused.as_secs_f64()
        )?;
        if let Some((kinds, since)) = &self.pinned {
            write!(f, ", keeping it for {} since {:.3} s", list(kinds), since.as_secs_f64())?;
        }
        match &self.statement {
            Some(text) => write!(f, ", last sent: {text}"),
            None => Ok(()),
        }
    }
}

/// What a pool remembers of what it has told.
#[derive(Debug, Default)]
pub(super) struct Told {
    timeout_at: Option<Instant>,
    /// Timeouts since, which nobody was told of.
    suppressed: u64,
    /// Leases that were reported as leaks.
    leaks: Vec<(ConnId, u64)>,
    /// Since when the queue has not been served.
    exhausted: Option<Instant>,
}

impl Pool {
    /// All holders, those that caused the most waiting first.
    pub fn holders(&self) -> Vec<Holder> {
        let now = Clock::now();
        let ms = self.shared.clock.ms(now);
        let mut all: Vec<Holder> = {
            let inner = self.inner.lock();
            let one = |h: super::core::Held<'_, Arc<ClientCtl>, super::inspect::Facts>| Holder {
                pool: self.key.clone(),
                ctl: h.holder.clone(),
                application: Arc::default(),
                state: h.holder.state(),
                held: now.saturating_duration_since(h.since),
                in_state: Duration::from_millis(ms.saturating_sub(h.holder.state_since())),
                caused: h.caused,
                statement: None,
                pinned: None,
                server: h.target.map(|t| (t.cancel.host.to_string(), t.cancel.pid)),
                lease: (h.id, h.lease),
            };
            inner.core.held().map(one).collect()
        };
        for h in &mut all {
            h.application = h.ctl.application_name();
            h.pinned = self.pins.of(h.ctl.id);
            h.statement = self.shared.queries.text(h.ctl.statement());
            // Its state may be older than its lease, where a wait was between them.
            h.in_state = h.in_state.min(h.held);
        }
        all.sort_by_key(|h| std::cmp::Reverse((h.caused, h.held)));
        all
    }

    /// A client has waited in vain: the log says who held the connections, but not for each of a thousand clients.
    pub(super) fn tell_wait_timeout(&self, waited: Duration) {
        let now = Clock::now();
        let suppressed = {
            let mut told = self.told.lock();
            if told.timeout_at.is_some_and(|t| now.saturating_duration_since(t) < TELL_EVERY) {
                told.suppressed += 1;
                self.shared.counters.count("log_suppressed_total", "query_wait_timeout");
                return;
            }
            told.timeout_at = Some(now);
            std::mem::take(&mut told.suppressed)
        };
        let (c, size) = (self.counts(), self.spec().settings.size);
        let holders: Vec<String> = self.holders().iter().take(WORST).map(ToString::to_string).collect();
        let why = self.standstill().map(|w| w.words(&self.key.database));
        let worst = match &why {
            Some(why) => format!("it serves nobody: {why}"),
            None => format!(
                "worst holder: {}",
                holders.first().map_or("nobody holds a connection", String::as_str)
            ),
        };
        tracing::warn!(
            pool = %self.key,
            serves_nobody = why.as_deref().unwrap_or_default(),
            waited_ms = crate::number::millis(waited),
            in_use = c.leased + c.parked + c.repairing,
            size,
            waiting = c.waiting,
            suppressed,
            holders = holders.join("; "),
            "query_wait_timeout"
        );
        let text = format!(
            "pool {}: a client waited {:.3} s in vain, {} wait yet; {worst}",
            self.key,
            waited.as_secs_f64(),
            c.waiting
        );
        self.shared.event("query_wait_timeout", text);
    }

    /// Called twice a second: transactions that were left open, and a queue that is not served.
    pub fn watch(&self) {
        let settings = self.spec().settings.clone();
        let holders = self.holders();
        self.watch_queue(&holders, settings.size);
        let Some(threshold) = settings.leak_threshold else {
            self.leaking.store(0, Ordering::Relaxed);
            return;
        };
        let leaks: Vec<&Holder> = holders
            .iter()
            .filter(|h| h.state == ClientState::IdleInTransaction && h.in_state >= threshold)
            .collect();
        self.leaking.store(leaks.len(), Ordering::Relaxed);
        for h in &leaks {
            let known = {
                let mut told = self.told.lock();
                let known = told.leaks.contains(&h.lease);
                if !known {
                    told.leaks.push(h.lease);
                }
                known
            };
            if !known {
                self.tell_leak(h, settings.leak_end);
            }
        }
        self.told.lock().leaks.retain(|l| leaks.iter().any(|h| h.lease == *l));
    }

    fn tell_leak(&self, h: &Holder, end: bool) {
        let action = if end { "ended" } else { "reported" };
        self.shared.counters.count("transaction_leaks_total", action);
        tracing::warn!(
            pool = %self.key,
            client = h.ctl.id,
            peer = %h.ctl.peer,
            application = %h.application,
            idle_ms = crate::number::millis(h.in_state),
            waiter_seconds = h.caused.as_secs_f64(),
            statement = h.statement.as_deref().unwrap_or_default(),
            action,
            "leak_threshold"
        );
        self.pooling.event("leak", format!("pool {}: a transaction was left open ({action}): {h}", self.key));
        if end {
            h.ctl.signal(Signal::Leak);
        }
    }

    fn watch_queue(&self, holders: &[Holder], size: u32) {
        let (waiting, longest) = (self.counts().waiting, self.longest_wait());
        let mut told = self.told.lock();
        match told.exhausted {
            None if waiting > 0 && longest >= EXHAUSTED_AFTER => {
                told.exhausted = Some(Clock::now());
                drop(told);
                self.inner.lock().totals.exhausted += 1;
                let worst = match (self.standstill(), holders.first()) {
                    (Some(why), _) => format!("it serves nobody: {}", why.words(&self.key.database)),
                    (None, Some(h)) => format!("worst holder: {h}"),
                    (None, None) => "worst holder: nobody holds a connection".to_owned(),
                };
                let text = format!(
                    "pool {}: {waiting} clients wait, the first for {:.3} s; {} of {size} connections are held; \
                     {worst}",
                    self.key,
                    longest.as_secs_f64(),
                    holders.len()
                );
                self.shared.event("exhausted", text);
            }
            Some(since) if waiting == 0 => {
                told.exhausted = None;
                drop(told);
                let lasted = Clock::now().saturating_duration_since(since).as_secs_f64();
                self.pooling
                    .event("recovered", format!("pool {}: nobody waits, after {lasted:.1} s", self.key));
            }
            _ => {}
        }
    }
}

/// What was seen when the pools were last compared with what there is.
#[derive(Debug, Default)]
pub struct Audit {
    /// Leases without a client, and by how much sockets and places differ.
    leases: Vec<(PoolKey, (ConnId, u64))>,
    sockets: [usize; 2],
    leaked_leases: usize,
    leaked_sockets: usize,
}

impl Audit {
    /// Leases whose client is gone, and server sockets that no pool has a place for (or places without one).
    pub fn leaked(&self) -> (usize, usize) {
        (self.leaked_leases, self.leaked_sockets)
    }
}

/// Compares leases with the clients that there are, and the pools' places with the sockets that there are, which
/// are counted where they are made and dropped. What differs only for a moment is no leak.
pub fn audit(pooling: &Pooling) {
    let pools = pooling.pools.all_and_gone();
    let mut leases = Vec::new();
    for pool in &pools {
        for h in pool.holders() {
            let lives = pooling.clients.get(h.ctl.id).is_some_and(|c| Arc::ptr_eq(&c, &h.ctl));
            if !lives && h.state != ClientState::Login {
                leases.push((pool.key.clone(), h.lease));
            }
        }
    }
    let sockets = pooling.shared.server_sockets.load(Ordering::Relaxed);
    let places: usize = pools.iter().map(|p| p.counts()).map(|c| c.tracked() - c.opening).sum();
    let differ = sockets.abs_diff(places);
    let mut audit = pooling.audit.lock();
    audit.leaked_leases = leases.iter().filter(|l| audit.leases.contains(l)).count();
    audit.leaked_sockets = differ.min(audit.sockets[0]).min(audit.sockets[1]);
    audit.sockets = [differ, audit.sockets[0]];
    audit.leases = leases;
}
