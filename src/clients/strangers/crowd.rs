//! Who of the strangers has to go, and whose turn it is to log in. Decisions alone; no I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// A login that has begun and is not over for so long can lose its place, too, where others wait and fewer than a quarter of
/// the places have changed hands within this time. Where more have, the logins are many, and none of them is in the way.
pub(super) const SLOW: Duration = Duration::from_secs(5);
/// One that has said nothing for so long makes room where all places are taken.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Where there is no room at all, one that has said nothing for so long does: what its peer has sent at once may not
/// have been read yet.
pub(super) const SILENT: Duration = Duration::from_millis(50);
/// `None` is the Unix socket.
pub(super) type Address = Option<IpAddr>;

/// Which of a crowd has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Victim {
    pub(super) id: u64,
    pub(super) from: Address,
    /// Silent ones of that address.
    pub(super) silent: usize,
    /// It had begun to log in.
    pub(super) begun: bool,
}

/// The decisions; no I/O.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    next: u64,
    /// Those that have said nothing, by address; the lowest number is the oldest.
    pub(super) silent: HashMap<Address, BTreeMap<u64, Instant>>,
    /// The same by how many each address has.
    pub(super) ranks: BTreeSet<(usize, Address)>,
    pub(super) quiet: usize,
    /// Those that have said something and wait for their turn; the lowest number is the oldest.
    pub(super) waiting: BTreeMap<u64, (Address, Arc<Notify>)>,
    /// Those that log in, and since when.
    pub(super) begun: BTreeMap<u64, (Instant, Address)>,
    /// The same, the slowest first.
    pub(super) slowest: BTreeSet<(Instant, u64)>,
    /// When logins were over that nobody cut, as many of them as are a quarter of the places.
    over: VecDeque<Instant>,
}

impl Crowd {
    pub(super) fn len(&self) -> usize {
        self.quiet + self.waiting.len() + self.begun.len()
    }

    fn change(&mut self, from: Address, change: impl FnOnce(&mut BTreeMap<u64, Instant>) -> bool) -> bool {
        let of = self.silent.entry(from).or_default();
        let before = of.len();
        let changed = change(of);
        let after = of.len();
        if after == 0 {
            self.silent.remove(&from);
        }
        self.quiet = self.quiet + after - before;
        self.ranks.remove(&(before, from));
        if after > 0 {
            self.ranks.insert((after, from));
        }
        changed
    }

    pub(super) fn add(&mut self, from: Address, now: Instant) -> u64 {
        self.next += 1;
        let id = self.next;
        self.change(from, |of| of.insert(id, now).is_none());
        id
    }

    /// It has said something, and waits for its turn.
    pub(super) fn spoke(&mut self, id: u64, from: Address, turn: Arc<Notify>) {
        // One that has just lost its place is not cut any more: it goes on, as one too many.
        self.change(from, |of| of.remove(&id).is_some());
        self.waiting.insert(id, (from, turn));
    }

    /// Gives turns to those that wait, in the order in which they came.
    pub(super) fn give_turns(&mut self, limit: usize, now: Instant) {
        while self.begun.len() < limit {
            let Some((id, (from, turn))) = self.waiting.pop_first() else { return };
            self.begun.insert(id, (now, from));
            self.slowest.insert((now, id));
            turn.notify_one();
        }
    }

    pub(super) fn remove(&mut self, id: u64, from: Address) -> bool {
        if let Some((since, _)) = self.begun.remove(&id) {
            self.slowest.remove(&(since, id));
            return true;
        }
        self.waiting.remove(&id).is_some() || self.change(from, |of| of.remove(&id).is_some())
    }

    /// The oldest silent one of the address that has most of them, and since when it is there.
    pub(super) fn oldest_silent(&self) -> Option<(Instant, Victim)> {
        let (n, from) = self.ranks.last()?;
        let (id, since) = self.silent.get(from)?.first_key_value()?;
        Some((*since, Victim { id: *id, from: *from, silent: *n, begun: false }))
    }

    /// It leaves by itself; false where it had no place any more.
    pub(super) fn leave(&mut self, id: u64, from: Address, limit: usize, now: Instant) -> bool {
        if self.begun.contains_key(&id) {
            let most = (limit / 4).max(1);
            if self.over.capacity() == 0 {
                self.over.reserve(most.min(250));
            }
            while self.over.len() >= most {
                self.over.pop_front();
            }
            self.over.push_back(now);
        }
        self.remove(id, from)
    }

    /// The login that has taken longer than any other, if that is long and few others are over, or after what time it may be.
    pub(super) fn slow(&self, limit: usize, now: Instant) -> Result<Victim, Duration> {
        let since_first = self.over.front().map(|at| now.saturating_duration_since(*at));
        if let Some(since) = since_first.filter(|s| self.over.len() >= (limit / 4).max(1) && *s < SLOW) {
            return Err(SLOW.saturating_sub(since));
        }
        let (since, id) = self.slowest.first().ok_or(SLOW)?;
        let took = now.saturating_duration_since(*since);
        let (_, from) = self.begun.get(id).filter(|_| took >= SLOW).ok_or(SLOW.saturating_sub(took))?;
        Ok(Victim { id: *id, from: *from, silent: 0, begun: true })
    }

    /// Whose place is taken away, or after what time there may be one. `None` where the newcomer is one too many, and
    /// there is `room` for it.
    pub(super) fn victim(&self, now: Instant, limit: usize, room: bool) -> Result<Option<Victim>, Duration> {
        let patience = if room { PATIENCE } else { SILENT };
        match self.oldest_silent() {
            Some((since, victim)) if now.saturating_duration_since(since) >= patience => Ok(Some(victim)),
            _ if room => Ok(None),
            Some((since, _)) => Err(SILENT.saturating_sub(now.saturating_duration_since(since))),
            None => self.slow(limit, now).map(Some),
        }
    }
}
