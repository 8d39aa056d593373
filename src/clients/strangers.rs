//! Connections that have not proved who they are. They have places of their own, `max_login_connections` over TCP and as
//! many over the Unix socket, so that they take none of the clients'. Where all are taken, the newcomer gets the place of
//! one that has said nothing for 5 s: the oldest of the address that has most of them. Where none has been silent for so
//! long, the newcomer is one too many as long as places of clients are free, since a program that opens thousands of
//! connections at once takes seconds to get round to each of them; where none is free, the oldest silent one goes
//! at once. Whoever has said something waits for a turn to log in: as many log in at a time as there are places, which
//! bounds the memory of strangers. Nobody is refused for an address alone, since a whole cluster can be behind one.

mod crowd;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

pub use self::crowd::PATIENCE;
use self::crowd::{Address, Crowd, SLOW, Victim};
use crate::auth::failures::{network, origin};
use crate::clock::Clock;
use crate::net::stream::Peer;

/// How often the log tells that places are taken away.
const TOLD_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Inner {
    tcp: Crowd,
    unix: Crowd,
    /// How to tell those that lose their place.
    cuts: BTreeMap<(bool, u64), Arc<Notify>>,
    /// When the log told last that places are taken away, and that all are taken.
    told: [Option<Instant>; 2],
    /// max_login_connections when somebody came last.
    limit: usize,
    /// Places that were taken away since then.
    untold: u64,
}

impl Inner {
    fn crowd(&mut self, unix: bool) -> &mut Crowd {
        if unix { &mut self.unix } else { &mut self.tcp }
    }

    fn give_turns(&mut self, unix: bool, now: Instant) {
        let limit = self.limit.max(1);
        self.crowd(unix).give_turns(limit, now);
    }

    /// Takes its place away, and tells it.
    fn cut(&mut self, unix: bool, victim: Victim, now: Instant) {
        self.crowd(unix).remove(victim.id, victim.from);
        if let Some(cut) = self.cuts.remove(&(unix, victim.id)) {
            cut.notify_one();
        }
        self.give_turns(unix, now);
        self.untold += 1;
    }

    /// Writes into the log that all places are taken, unless it has done so lately.
    fn tell(&mut self, unix: bool, cut: Option<Victim>, now: Instant) {
        let [of_cuts, of_crowds] = &mut self.told;
        let told = if cut.is_some() { of_cuts } else { of_crowds };
        if told.is_some_and(|t| now.saturating_duration_since(t) < TOLD_EVERY) {
            return;
        }
        *told = Some(now);
        let cut_so_far = std::mem::take(&mut self.untold);
        let (limit, crowd) = (self.limit, self.crowd(unix));
        let most = crowd.oldest_silent().map(|(_, v)| v);
        let waits = || crowd.waiting.first_key_value().map(|(_, (from, _))| *from);
        let from = cut.or(most).map(|v| v.from).or_else(waits).map_or_else(String::new, origin);
        let what = match cut {
            Some(v) if v.begun => "the slowest login loses its place to the next that comes",
            Some(_) => {
                "the oldest silent connection of the address with most of them loses its place to the next that comes"
            }
            None => {
                "the next ones have the room of clients that are not there, and silent connections are cut after 5 s"
            }
        };
        tracing::warn!(
            from,
            silent_from_there = cut.or(most).map_or(0, |v| v.silent),
            taken = crowd.len(),
            cut = cut_so_far,
            "max_login_connections ({limit}): all places of connections that have not logged in are taken; {what}"
        );
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct Strangers {
    inner: Mutex<Inner>,
    /// A place has become free.
    free: Notify,
    cut_silent: AtomicU64,
    cut_slow: AtomicU64,
}

/// Figures for those who look.
#[derive(Debug, Default, Clone, Copy)]
pub struct Places {
    /// Over TCP and over the Unix socket.
    pub taken: usize,
    /// Of those, the ones that have said nothing.
    pub silent: usize,
    /// The ones that wait for their turn to log in.
    pub waiting: usize,
    /// Places that were taken away, since the start.
    pub cut: u64,
}

impl Strangers {
    pub fn places(&self) -> Places {
        let inner = self.inner.lock();
        Places {
            taken: inner.tcp.len() + inner.unix.len(),
            silent: inner.tcp.quiet + inner.unix.quiet,
            waiting: inner.tcp.waiting.len() + inner.unix.waiting.len(),
            cut: self.cut_silent.load(Ordering::Relaxed) + self.cut_slow.load(Ordering::Relaxed),
        }
    }

    /// Places that were taken away, of silent connections and of slow logins.
    pub fn cut(&self) -> (u64, u64) {
        (self.cut_silent.load(Ordering::Relaxed), self.cut_slow.load(Ordering::Relaxed))
    }

    /// A place for who has just connected, of `limit`, or of the `spare` ones that no client has. Waits where there is
    /// neither, and nobody that has to make room: who comes next stays in the listener's backlog meanwhile.
    pub async fn enter(self: &Arc<Self>, peer: Peer, limit: usize, spare: impl Fn() -> usize) -> Stranger {
        let from = match peer {
            Peer::Tcp(a) => Some(network(a.ip())),
            Peer::Unix => None,
        };
        loop {
            let freed = self.free.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.try_enter(from, limit, spare(), Clock::now()) {
                Ok(stranger) => return stranger,
                Err(wait) => drop(tokio::time::timeout(wait, freed).await),
            }
        }
    }

    fn try_enter(
        self: &Arc<Self>,
        from: Address,
        limit: usize,
        spare: usize,
        now: Instant,
    ) -> Result<Stranger, Duration> {
        let mut inner = self.inner.lock();
        inner.limit = limit;
        let unix = from.is_none();
        if inner.crowd(unix).len() >= limit {
            let room = inner.tcp.len() + inner.unix.len() < limit.saturating_add(spare);
            let victim = inner.crowd(unix).victim(now, limit, room)?;
            if let Some(victim) = victim {
                self.count(victim);
                inner.cut(unix, victim, now);
            }
            inner.tell(unix, victim, now);
        }
        let id = inner.crowd(unix).add(from, now);
        let cut = Arc::new(Notify::new());
        inner.cuts.insert((unix, id), cut.clone());
        let (begun, revived) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Stranger { strangers: self.clone(), id, from, cut, begun, revived })
    }

    fn count(&self, victim: Victim) {
        let count = if victim.begun { &self.cut_slow } else { &self.cut_silent };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn leave(&self, id: u64, from: Address) {
        let mut inner = self.inner.lock();
        let unix = from.is_none();
        inner.cuts.remove(&(unix, id));
        let (now, limit) = (Clock::now(), inner.limit);
        let left = inner.crowd(unix).leave(id, from, limit, now);
        inner.give_turns(unix, now);
        drop(inner);
        if left {
            self.free.notify_one();
        }
    }
}

/// A connection's place among those that have not logged in; given back when dropped.
#[derive(Debug)]
pub struct Stranger {
    strangers: Arc<Strangers>,
    id: u64,
    from: Address,
    cut: Arc<Notify>,
    begun: AtomicBool,
    revived: AtomicBool,
}

impl Stranger {
    /// It has said something: it is not silent any more, and waits for its turn to log in. A login that has taken long ends
    /// where somebody waits. Returns whether it had to wait.
    pub async fn begin(&self) -> bool {
        if self.begun.swap(true, Ordering::Relaxed) {
            return false;
        }
        let turn = Arc::new(Notify::new());
        let unix = self.from.is_none();
        {
            let mut inner = self.strangers.inner.lock();
            if let Entry::Vacant(gone) = inner.cuts.entry((unix, self.id)) {
                gone.insert(self.cut.clone());
                // What it was told before is void.
                self.revived.store(true, Ordering::Relaxed);
            }
            inner.crowd(unix).spoke(self.id, self.from, turn.clone());
            inner.give_turns(unix, Clock::now());
            if inner.crowd(unix).begun.contains_key(&self.id) {
                return false;
            }
        }
        let mut wait = SLOW;
        while tokio::time::timeout(wait, turn.notified()).await.is_err() {
            let mut inner = self.strangers.inner.lock();
            let now = Clock::now();
            let limit = inner.limit;
            match inner.crowd(unix).slow(limit, now) {
                Ok(victim) => {
                    self.strangers.count(victim);
                    inner.cut(unix, victim, now);
                    inner.tell(unix, Some(victim), now);
                    wait = Duration::from_millis(1);
                }
                Err(later) => wait = later.max(Duration::from_millis(1)),
            }
        }
        true
    }

    /// Whether it has to go, having said nothing for [`PATIENCE`]: all places are taken.
    pub fn overstays(&self) -> bool {
        let mut inner = self.strangers.inner.lock();
        let (unix, limit) = (self.from.is_none(), inner.limit);
        let crowd = inner.crowd(unix);
        let silent = crowd.silent.get(&self.from);
        if crowd.len() <= limit || !silent.is_some_and(|of| of.contains_key(&self.id)) {
            return false;
        }
        let silent = silent.map_or(0, BTreeMap::len);
        let victim = Victim { id: self.id, from: self.from, silent, begun: false };
        let now = Clock::now();
        self.strangers.count(victim);
        inner.cut(unix, victim, now);
        inner.tell(unix, Some(victim), now);
        true
    }

    /// It is no stranger any more, or wants nothing but a cancel, of which there is a limit of its own.
    pub fn leave(&self) {
        self.strangers.leave(self.id, self.from);
    }

    /// Comes when its place has been taken away.
    pub async fn cut(&self) {
        self.cut.notified().await;
        if self.revived.swap(false, Ordering::Relaxed) {
            self.cut.notified().await;
        }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests;
