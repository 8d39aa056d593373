//! Counters of the whole process. Those of pools are kept under their pools' locks and copied at a scrape. What
//! is exported under which name, and what it means, is in [`catalog`].

pub mod advice;
pub mod backends;
pub mod catalog;
pub mod events;

use std::sync::atomic::{AtomicU64, Ordering};
use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

/// Events that are rare enough to share a map; labels come from closed sets.
#[derive(Debug, Default)]
pub struct Counters {
    events: Mutex<BTreeMap<(&'static str, &'static str), Arc<AtomicU64>>>,
}

impl Counters {
    /// Adds one to `name{label}`; the name has a row in [`catalog::METRICS`], without its prefix.
    pub fn count(&self, name: &'static str, label: &'static str) {
        self.events.lock().entry((name, label)).or_default().fetch_add(1, Ordering::Relaxed);
    }

    pub fn get(&self, name: &'static str, label: &'static str) -> u64 {
        self.events.lock().get(&(name, label)).map_or(0, |c| c.load(Ordering::Relaxed))
    }

    pub fn all(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.events.lock().iter().map(|((n, l), c)| (*n, *l, c.load(Ordering::Relaxed))).collect()
    }
}

/// Buckets of a pooler, in microseconds: a local checkout takes 1, a slow report a minute.
pub const BUCKETS_US: [u64; 18] = [
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000, 10_000_000, 30_000_000, 60_000_000,
];

/// A histogram without atomics; whoever owns the lock adds to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    /// One more than the buckets: what is above the last.
    pub counts: [u64; BUCKETS_US.len() + 1],
    pub sum_us: u64,
}

impl Histogram {
    #[inline]
    pub fn add(&mut self, us: u64) {
        // Most of what is timed was over at once.
        let i = if us <= BUCKETS_US[0] { 0 } else { BUCKETS_US.partition_point(|b| *b < us) };
        if let Some(c) = self.counts.get_mut(i) {
            *c += 1;
        }
        self.sum_us += us;
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counts.iter_mut().zip(other.counts) {
            *mine += theirs;
        }
        self.sum_us += other.sum_us;
    }
}
