//! Connections that have not proved who they are. They have places of their own, `max_login_connections` over TCP and as
//! many over the Unix socket, so that they take none of the clients'. Where all are taken, the newcomer gets the place of
//! one that has said nothing: the oldest of the address that has most of them. Nobody is refused for an address alone,
//! since a whole cluster can be behind one.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::auth::failures::{network, origin};
use crate::clock::Clock;
use crate::net::stream::Peer;

/// A login that has begun and is not over for so long can lose its place, too, where there is no silent one.
const SLOW: Duration = Duration::from_secs(5);
/// A connection counts as silent only after so long: what its peer has sent at once may not have been read yet.
const SILENT: Duration = Duration::from_millis(50);
/// How often the log tells that places are taken away.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// `None` is the Unix socket.
type Address = Option<IpAddr>;

/// Which of a crowd has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Victim {
    id: u64,
    from: Address,
    /// Silent ones of that address.
    silent: usize,
    /// It had begun to log in.
    begun: bool,
}

/// The decisions; no I/O.
#[derive(Debug, Default)]
struct Crowd {
    next: u64,
    /// Those that have said nothing, by address; the lowest number is the oldest.
    silent: HashMap<Address, BTreeMap<u64, Instant>>,
    /// The same by how many each address has.
    ranks: BTreeSet<(usize, Address)>,
    /// Those that have begun to log in, and when.
    begun: BTreeMap<u64, (Instant, Address)>,
    quiet: usize,
}

impl Crowd {
    fn len(&self) -> usize {
        self.quiet + self.begun.len()
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

    fn add(&mut self, from: Address, now: Instant) -> u64 {
        self.next += 1;
        let id = self.next;
        self.change(from, |of| of.insert(id, now).is_none());
        id
    }

    /// It has said something.
    fn spoke(&mut self, id: u64, from: Address, now: Instant) {
        // One that has just lost its place is not cut any more: it goes on, as one too many.
        self.change(from, |of| of.remove(&id).is_some());
        self.begun.entry(id).or_insert((now, from));
    }

    fn remove(&mut self, id: u64, from: Address) -> bool {
        self.change(from, |of| of.remove(&id).is_some()) || self.begun.remove(&id).is_some()
    }

    /// Whose place is taken away, or after what time there may be one.
    fn victim(&self, now: Instant) -> Result<Victim, Duration> {
        let most = self.ranks.last().and_then(|(n, from)| {
            let (id, since) = self.silent.get(from)?.first_key_value()?;
            Some((*since, Victim { id: *id, from: *from, silent: *n, begun: false }))
        });
        if let Some((since, victim)) = most {
            let silent = now.saturating_duration_since(since);
            return if silent < SILENT { Err(SILENT - silent) } else { Ok(victim) };
        }
        // In the order of their numbers, which is that of their arrival and nearly that of their beginning.
        let slowest = self.begun.iter().min_by_key(|(_, (since, _))| *since);
        let Some((id, (since, from))) = slowest else { return Err(SLOW) };
        let took = now.saturating_duration_since(*since);
        if took < SLOW {
            return Err(SLOW - took);
        }
        Ok(Victim { id: *id, from: *from, silent: 0, begun: true })
    }
}

#[derive(Debug, Default)]
struct Inner {
    tcp: Crowd,
    unix: Crowd,
    /// How to tell those that lose their place.
    cuts: HashMap<(bool, u64), Arc<Notify>>,
    told: Option<Instant>,
    /// Places that were taken away since then.
    untold: u64,
}

impl Inner {
    fn crowd(&mut self, unix: bool) -> &mut Crowd {
        if unix { &mut self.unix } else { &mut self.tcp }
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
    /// Places that were taken away, since the start.
    pub cut: u64,
}

impl Strangers {
    pub fn places(&self) -> Places {
        let inner = self.inner.lock();
        Places {
            taken: inner.tcp.len() + inner.unix.len(),
            silent: inner.tcp.quiet + inner.unix.quiet,
            cut: self.cut_silent.load(Ordering::Relaxed) + self.cut_slow.load(Ordering::Relaxed),
        }
    }

    /// Places that were taken away, of silent connections and of slow logins.
    pub fn cut(&self) -> (u64, u64) {
        (self.cut_silent.load(Ordering::Relaxed), self.cut_slow.load(Ordering::Relaxed))
    }

    /// A place for who has just connected. Waits only where every place is taken by a login under way: who comes next
    /// stays in the listener's backlog meanwhile.
    pub async fn enter(self: &Arc<Self>, peer: Peer, limit: usize) -> Stranger {
        let from = match peer {
            Peer::Tcp(a) => Some(network(a.ip())),
            Peer::Unix => None,
        };
        loop {
            let freed = self.free.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            match self.try_enter(from, limit, Clock::now()) {
                Ok(stranger) => return stranger,
                Err(wait) => drop(tokio::time::timeout(wait, freed).await),
            }
        }
    }

    fn try_enter(self: &Arc<Self>, from: Address, limit: usize, now: Instant) -> Result<Stranger, Duration> {
        let mut inner = self.inner.lock();
        let unix = from.is_none();
        let taken = inner.crowd(unix).len();
        if taken >= limit {
            let victim = inner.crowd(unix).victim(now)?;
            inner.crowd(unix).remove(victim.id, victim.from);
            if let Some(cut) = inner.cuts.remove(&(unix, victim.id)) {
                cut.notify_one();
            }
            let count = if victim.begun { &self.cut_slow } else { &self.cut_silent };
            count.fetch_add(1, Ordering::Relaxed);
            inner.untold += 1;
            if inner.told.is_none_or(|t| now.saturating_duration_since(t) >= TOLD_EVERY) {
                inner.told = Some(now);
                let cut = std::mem::take(&mut inner.untold);
                let what = if victim.begun { "the slowest login" } else { "the oldest silent connection" };
                tracing::warn!(
                    from = %origin(victim.from),
                    silent_from_there = victim.silent,
                    taken,
                    cut,
                    "max_login_connections ({limit}): all places of connections that have not logged in are taken; \
                     {what} of the address with most of them loses its place to the next that comes"
                );
            }
        }
        let id = inner.crowd(unix).add(from, now);
        let cut = Arc::new(Notify::new());
        inner.cuts.insert((unix, id), cut.clone());
        let (begun, revived) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Stranger { strangers: self.clone(), id, from, cut, begun, revived })
    }

    fn leave(&self, id: u64, from: Address) {
        let mut inner = self.inner.lock();
        let unix = from.is_none();
        inner.cuts.remove(&(unix, id));
        let left = inner.crowd(unix).remove(id, from);
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
    /// It has said something: it is not silent any more.
    pub fn spoke(&self) {
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut inner = self.strangers.inner.lock();
        if let Entry::Vacant(gone) = inner.cuts.entry((self.from.is_none(), self.id)) {
            gone.insert(self.cut.clone());
            // What it was told before is void.
            self.revived.store(true, Ordering::Relaxed);
        }
        inner.crowd(self.from.is_none()).spoke(self.id, self.from, Clock::now());
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
mod tests {
    use super::*;

    fn at(last: u8) -> Address {
        Some(IpAddr::from([10, 0, 0, last]))
    }

    fn ids(v: Result<Victim, Duration>) -> Result<(u64, usize, bool), Duration> {
        v.map(|v| (v.id, v.silent, v.begun))
    }

    #[test]
    fn the_oldest_silent_one_of_the_address_that_has_most_goes_first() {
        let (mut c, began) = (Crowd::default(), Clock::now());
        let now = began + SILENT;
        let first = c.add(at(1), began);
        let many: Vec<u64> = (0..3).map(|_| c.add(at(2), began)).collect();
        let two: Vec<u64> = (0..2).map(|_| c.add(at(3), began)).collect();
        assert_eq!(ids(c.victim(began)), Err(SILENT), "they have hardly come");
        assert_eq!(ids(c.victim(now)), Ok((many[0], 3, false)));
        // Logins under way do not count.
        c.spoke(many[0], at(2), now);
        c.spoke(many[1], at(2), now);
        assert_eq!(ids(c.victim(now)), Ok((two[0], 2, false)));
        assert!(c.remove(two[0], at(3)) && c.remove(two[1], at(3)) && !c.remove(two[1], at(3)));
        assert_eq!(c.len(), 4);
        c.remove(many[2], at(2));
        assert_eq!(ids(c.victim(now)), Ok((first, 1, false)));
        c.remove(first, at(1));
        // Nobody is silent: whoever has taken long goes, and nobody before.
        assert_eq!(ids(c.victim(now)), Err(SLOW));
        assert_eq!(ids(c.victim(now + SLOW)), Ok((many[0], 0, true)));
        c.remove(many[0], at(2));
        c.remove(many[1], at(2));
        assert_eq!((c.len(), c.silent.len(), c.ranks.len()), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_newcomer_gets_a_place_and_a_login_under_way_keeps_its_own() {
        let strangers = Arc::new(Strangers::default());
        let peer = |port: u16| Peer::Tcp(([127, 0, 0, 1], port).into());
        let login = strangers.enter(peer(1), 3).await;
        login.spoke();
        let silent = strangers.enter(peer(2), 3).await;
        let other = strangers.enter(peer(3), 3).await;
        // The Unix socket has places of its own.
        let unix = strangers.enter(Peer::Unix, 1).await;
        unix.spoke();
        let newcomer = strangers.enter(peer(4), 3).await;
        silent.cut().await;
        assert_eq!((strangers.places().taken, strangers.places().silent, strangers.cut()), (4, 2, (1, 0)));
        let kept = tokio::time::timeout(Duration::from_millis(1), login.cut()).await;
        assert!(kept.is_err(), "a login under way keeps its place");
        // One that has spoken when it was about to lose its place goes on.
        let next = strangers.enter(peer(6), 3).await;
        other.spoke();
        let kept = tokio::time::timeout(Duration::from_millis(1), other.cut()).await;
        assert!(kept.is_err(), "it was heard in time");
        assert_eq!(strangers.places().taken, 5);
        drop(next);
        // Where all are under way, the next one waits until one of them is over.
        newcomer.spoke();
        let waits = strangers.enter(peer(5), 3);
        tokio::pin!(waits);
        assert!(tokio::time::timeout(Duration::from_millis(1), waits.as_mut()).await.is_err());
        login.leave();
        let fifth = waits.await;
        drop((fifth, newcomer, login, silent, other, unix));
        assert_eq!(strangers.places().taken, 0);
    }
}
