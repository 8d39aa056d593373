//! Who has a connection to the ops port. A newcomer always gets in: where there are many, one that only waits for its
//! peer makes room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::clock::Clock;

/// A request is being answered, or since when none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Answering,
    WaitingSince(Instant),
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    /// By their numbers: the lowest is the oldest.
    all: BTreeMap<u64, (Doing, Arc<Notify>)>,
}

impl Inner {
    /// Who has to go: the one that has waited longest for its peer, else the oldest.
    fn victim(&self) -> Option<u64> {
        let waiting = self.all.iter().filter_map(|(id, (doing, _))| match doing {
            Doing::WaitingSince(since) => Some((*since, *id)),
            Doing::Answering => None,
        });
        waiting.min().map(|(_, id)| id).or_else(|| self.all.keys().next().copied())
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Inner>);

impl Places {
    /// A place for a new connection, and whether another one had to make room.
    pub(super) fn enter(self: &Arc<Self>, most: usize) -> (Place, bool) {
        let mut inner = self.0.lock();
        let mut made_room = false;
        if inner.all.len() >= most
            && let Some(victim) = inner.victim()
            && let Some((_, cut)) = inner.all.remove(&victim)
        {
            cut.notify_one();
            made_room = true;
        }
        inner.next += 1;
        let (id, cut) = (inner.next, Arc::new(Notify::new()));
        inner.all.insert(id, (Doing::WaitingSince(Clock::now()), cut.clone()));
        (Place { busy: Busy { places: self.clone(), id }, cut }, made_room)
    }
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    busy: Busy,
    cut: Arc<Notify>,
}

impl Place {
    /// Comes when it has to make room.
    pub(super) async fn cut(&self) {
        self.cut.notified().await;
    }

    pub(super) fn busy(&self) -> Busy {
        self.busy.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.busy.places.0.lock().all.remove(&self.busy.id);
    }
}

/// Says whether a request is being answered.
#[derive(Debug, Clone)]
pub(super) struct Busy {
    places: Arc<Places>,
    id: u64,
}

impl Busy {
    pub(super) fn begin(&self) {
        self.set(Doing::Answering);
    }

    pub(super) fn end(&self) {
        self.set(Doing::WaitingSince(Clock::now()));
    }

    fn set(&self, doing: Doing) {
        if let Some((d, _)) = self.places.0.lock().all.get_mut(&self.id) {
            *d = doing;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_longest_makes_room_and_an_answer_is_not_cut_for_it() {
        let places = Arc::new(Places::default());
        let (answering, _) = places.enter(3);
        answering.busy().begin();
        let (idle, _) = places.enter(3);
        let (silent, made_room) = places.enter(3);
        assert!(!made_room);
        idle.busy().begin();
        idle.busy().end();
        let (fourth, made_room) = places.enter(3);
        assert!(made_room);
        silent.cut().await;
        let (fifth, _) = places.enter(3);
        idle.cut().await;
        // Nobody waits: the oldest has to go.
        fourth.busy().begin();
        fifth.busy().begin();
        let (_sixth, made_room) = places.enter(3);
        answering.cut().await;
        assert!(made_room && places.0.lock().all.len() == 3);
        drop((answering, idle, silent, fourth, fifth));
        assert_eq!(places.0.lock().all.len(), 1);
    }
}
