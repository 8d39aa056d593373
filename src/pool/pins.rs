//! Clients that keep a connection between their transactions, because its session holds what cannot go with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Pool;
use crate::clock::Clock;
use crate::session_state::{Kind, PinPlace, PinPlaces};

/// One client's.
#[derive(Debug, Clone)]
struct Row {
    client: u64,
    kinds: Vec<Kind>,
    since: Instant,
}

/// Those of one pool.
#[derive(Debug, Default)]
pub struct Pins {
    rows: Mutex<Vec<Row>>,
    pub places: Arc<PinPlaces>,
}

impl Pins {
    /// What pins this client's connection, and for how long it has.
    pub fn of(&self, client: u64) -> Option<(Vec<Kind>, Duration)> {
        let rows = self.rows.lock();
        let row = rows.iter().find(|r| r.client == client)?;
        Some((row.kinds.clone(), Clock::now().saturating_duration_since(row.since)))
    }
}

/// A client's pin; it ends when this is dropped.
#[derive(Debug)]
pub struct Pin {
    pool: Arc<Pool>,
    client: u64,
    _place: PinPlace,
}

impl Pin {
    pub fn new(pool: &Arc<Pool>, client: u64, kinds: &[Kind], place: PinPlace) -> Self {
        pool.pins.rows.lock().push(Row { client, kinds: kinds.to_vec(), since: Clock::now() });
        for kind in kinds {
            pool.shared.counters.count("pins_total", kind.label());
        }
        Self { pool: pool.clone(), client, _place: place }
    }

    /// Other kinds hold it now.
    pub fn hold(&self, kinds: &[Kind]) {
        let mut rows = self.pool.pins.rows.lock();
        let Some(row) = rows.iter_mut().find(|r| r.client == self.client) else { return };
        for new in kinds.iter().filter(|k| !row.kinds.contains(k)) {
            self.pool.shared.counters.count("pins_total", new.label());
        }
        row.kinds = kinds.to_vec();
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pool.pins.rows.lock().retain(|r| r.client != self.client);
    }
}
