//! All figures at one moment. /metrics and /stats are both made of it, so that they cannot disagree.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::process::Process;
use crate::client::ctl::ClientState;
use crate::config::resolved::PoolMode;
use crate::pool::core::Counts;
use crate::pool::{Pool, PoolKey, PoolTotals};
use crate::services::Services;

#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) pools: Vec<PoolFigures>,
    pub(super) clients: Clients,
    pub(super) draining: bool,
    pub(super) log_dropped: u64,
    pub(super) marks: std::collections::BTreeMap<(&'static str, String), u64>,
    pub(super) cancels_in_flight: usize,
    /// Name, label, count.
    pub(super) events: Vec<(&'static str, &'static str, u64)>,
    pub(super) uptime: Duration,
    pub(super) process: Option<Process>,
}

/// Client connections by what they do.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Clients {
    pub(super) connected: usize,
    pub(super) limit: u32,
    pub(super) logging_in: usize,
    pub(super) idle: usize,
    pub(super) waiting: usize,
    pub(super) active: usize,
    pub(super) idle_in_transaction: usize,
}

#[derive(Debug, Clone)]
pub(super) struct PoolFigures {
    pub(super) key: PoolKey,
    pub(super) mode: PoolMode,
    pub(super) size: u32,
    pub(super) min_size: u32,
    pub(super) reserve_size: u32,
    pub(super) counts: Counts,
    pub(super) longest_wait: Duration,
    pub(super) totals: PoolTotals,
}

impl Snapshot {
    pub(super) fn take(services: &Arc<Services>) -> Self {
        Self {
            pools: services.pools.all().iter().map(|p| PoolFigures::of(p)).collect(),
            clients: Clients::of(services),
            draining: services.draining.load(Ordering::Relaxed),
            marks: services.marks.lock().clone(),
            log_dropped: services.log_dropped.get().map_or(0, |c| c.load(Ordering::Relaxed)),
            cancels_in_flight: services.cancels_in_flight.load(Ordering::Relaxed),
            events: services.counters.all(),
            uptime: Duration::from_millis(services.clock.now_ms()),
            process: Process::read(),
        }
    }
}

impl Clients {
    fn of(services: &Services) -> Self {
        let mut c = Self {
            connected: services.clients.connected.load(Ordering::Relaxed),
            limit: services.config().limits.max_client_connections,
            logging_in: services.clients.logging_in.load(Ordering::Relaxed),
            ..Self::default()
        };
        services.clients.each(|client| match client.state() {
            // Counted above, with those that nobody knows by a number yet.
            ClientState::Login => {}
            ClientState::Idle => c.idle += 1,
            ClientState::Waiting => c.waiting += 1,
            ClientState::Active => c.active += 1,
            ClientState::IdleInTransaction => c.idle_in_transaction += 1,
        });
        c
    }

    pub(super) fn by_state(&self) -> [(&'static str, usize); 5] {
        [
            ("login", self.logging_in),
            ("idle", self.idle),
            ("waiting", self.waiting),
            ("active", self.active),
            ("idle_in_transaction", self.idle_in_transaction),
        ]
    }
}

impl PoolFigures {
    /// The pool's lock is taken three times, each time for a copy.
    fn of(pool: &Pool) -> Self {
        let spec = pool.spec();
        let s = &spec.settings;
        Self {
            key: pool.key.clone(),
            mode: s.mode,
            size: s.size,
            min_size: s.min_size,
            reserve_size: s.reserve_size,
            counts: pool.counts(),
            longest_wait: pool.longest_wait(),
            totals: pool.totals(),
        }
    }

    pub(super) fn by_state(&self) -> [(&'static str, usize); 6] {
        let c = &self.counts;
        [
            ("idle", c.idle),
            ("active", c.leased),
            ("opening", c.opening),
            ("repairing", c.repairing),
            ("canceling", c.parked),
            ("closing", c.closing),
        ]
    }

    /// How much of the pool cannot be given to the next client; 0 where there is no limit.
    pub(super) fn utilization(&self) -> f64 {
        let busy = self.counts.leased + self.counts.repairing + self.counts.parked;
        if self.size == 0 { 0.0 } else { busy as f64 / f64::from(self.size) }
    }
}
