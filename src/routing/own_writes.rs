//! Read your writes: how far a replica must have replayed before it may serve those who have written. No I/O; time
//! is an argument.
//!
//! A commit is placed in the WAL afterwards, by a question that the monitor sends to the primary once the commit's
//! ReadyForQuery has been read: whatever the answer is, the commit is before it. One such question serves all who
//! have committed by then, and none of them waits for it. Until it is answered, nobody knows which replica will do.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

/// A place in the WAL of one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    pub timeline: u32,
    pub lsn: u64,
}

/// What a replica must have replayed to serve a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: the key has written nothing.
    Nothing,
    Replayed(Bound),
    /// A write is under way, or its place is not known yet: only the primary is sure to have it.
    Primary,
}

/// What all sessions of one key have written.
#[derive(Debug, Default)]
pub struct Written {
    /// Transactions that may write and are under way; any of them may have been committed, and its client told.
    writers: u32,
    /// When the last one ended.
    last: Option<Instant>,
    /// That moment's place, once it is known.
    bound: Option<Bound>,
}

impl Written {
    pub fn begin(&mut self) {
        self.writers = self.writers.saturating_add(1);
    }

    /// A transaction that may have written is over; its ReadyForQuery was read by `now`.
    pub fn end(&mut self, now: Instant) {
        self.writers = self.writers.saturating_sub(1);
        self.wrote(now);
    }

    pub fn wrote(&mut self, now: Instant) {
        self.last = self.last.max(Some(now));
        self.bound = None;
    }

    /// The servers are others: the place is sought again.
    pub fn forget_place(&mut self) {
        self.bound = None;
    }

    /// What is needed while the primary is on `timeline`, if there is one; or the moment whose place has to be found
    /// for that. A place on another timeline than the primary's is sought again: a promotion may have left it behind.
    pub fn need(&mut self, timeline: Option<u32>) -> Result<Need, Instant> {
        if self.writers > 0 {
            return Ok(Need::Primary);
        }
        let Some(last) = self.last else { return Ok(Need::Nothing) };
        match self.bound {
            Some(b) if timeline.is_none_or(|t| t == b.timeline) => Ok(Need::Replayed(b)),
            _ => Err(last),
        }
    }

    /// The place of `then`: from the first question that was sent to the primary after it, if it is answered.
    pub fn placed(&mut self, then: Instant, place: Option<Bound>) -> Need {
        if self.last != Some(then) || self.writers > 0 {
            return Need::Primary;
        }
        self.bound = place;
        place.map_or(Need::Primary, Need::Replayed)
    }
}

/// One key, as its sessions share it.
pub type Key = Arc<Mutex<Written>>;

/// The keys that clients have named. What a client says takes no more than bounded memory: of keys that no session
/// has any more only the moment of the last write is kept, for all of them together.
#[derive(Debug, Default)]
pub struct Keys {
    map: HashMap<Box<str>, Key>,
    /// The last write of all keys that were forgotten: a new key may be one of them.
    forgotten: Option<Instant>,
    tidy_at: usize,
}

impl Keys {
    /// Keys that are kept at least.
    pub const KEPT: usize = 4096;

    pub fn get(&mut self, name: &str) -> Key {
        if let Some(k) = self.map.get(name) {
            return k.clone();
        }
        if self.map.len() >= self.tidy_at.max(Self::KEPT) {
            self.tidy();
        }
        let key = Key::new(Mutex::new(Written { last: self.forgotten, ..Written::default() }));
        self.map.insert(name.into(), key.clone());
        key
    }

    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    fn tidy(&mut self) {
        let forgotten = &mut self.forgotten;
        self.map.retain(|_, k| {
            // In nobody else's hands: no session has it.
            match Arc::get_mut(k) {
                Some(unused) => {
                    *forgotten = (*forgotten).max(unused.get_mut().last);
                    false
                }
                None => true,
            }
        });
        // Where all of them are in use, not every new one looks through them again.
        self.tidy_at = self.map.len() * 2;
    }
}

/// What the monitor has to find out, for all keys of a database together.
#[derive(Debug, Default)]
pub struct Demand {
    /// The last write that no question was sent after.
    unplaced: Option<Instant>,
    /// How far replicas must come for all that has a place.
    wanted: Option<Bound>,
}

impl Demand {
    /// A write is over; the primary is to be asked.
    pub fn wrote(&mut self, now: Instant) {
        self.unplaced = self.unplaced.max(Some(now));
    }

    /// The primary's answer to a question that was sent at `asked`; true if it has placed somebody's write, so that
    /// the replicas are worth asking.
    pub fn placed(&mut self, asked: Instant, at: Bound) -> bool {
        let Some(last) = self.unplaced else { return false };
        if last < asked {
            self.unplaced = None;
        }
        self.wanted = Some(at);
        true
    }

    /// Whether a replica that stands at `at` has yet to come as far as somebody waits for.
    pub fn awaits(&self, at: Bound) -> bool {
        self.wanted.is_some_and(|w| w.timeline == at.timeline && w.lsn > at.lsn)
    }
}

#[cfg(test)]
mod tests;
