use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::monitor::core::{Change, Facts, HostCore, Lsn, replayed};

#[expect(clippy::disallowed_methods, reason = "a test needs some instant")]
fn start() -> Instant {
    Instant::now()
}

const fn at(lsn: u64) -> Bound {
    Bound { timeline: 1, lsn }
}

#[test]
fn a_key_that_writes_is_the_primarys_until_its_place_is_known() {
    let t = start();
    let later = t + Duration::from_secs(1);
    let mut w = Written::default();
    assert_eq!(w.need(Some(1)), Ok(Need::Nothing));
    w.begin();
    w.begin();
    w.end(t);
    assert_eq!(w.need(Some(1)), Ok(Need::Primary), "the other one may be committed already");
    w.end(later);
    assert_eq!(w.need(Some(1)), Err(later));
    assert_eq!(w.placed(t, Some(at(5))), Need::Primary, "the place of an earlier write");
    assert_eq!(w.placed(later, None), Need::Primary);
    assert_eq!(w.placed(later, Some(at(7))), Need::Replayed(at(7)));
    assert_eq!(w.need(Some(1)), Ok(Need::Replayed(at(7))));
    assert_eq!(w.need(None), Ok(Need::Replayed(at(7))), "without a primary its place stays what it was");
    assert_eq!(w.need(Some(2)), Err(later), "promoted: sought again");
    // A write that ended earlier than the last one changes nothing about that.
    w.wrote(t);
    assert_eq!(w.need(Some(1)), Err(later));
}

#[test]
fn keys_are_shared_by_name_and_bounded() {
    let t = start();
    let mut keys = Keys::default();
    let a = keys.get("a");
    a.lock().wrote(t);
    assert_eq!(keys.get("a").lock().need(None), Err(t));
    assert_eq!(keys.get("b").lock().need(None), Ok(Need::Nothing));
    keys.get("gone").lock().wrote(t + Duration::from_secs(1));
    for n in 0..10 * Keys::KEPT {
        drop(keys.get(&n.to_string()));
        assert!(keys.len() <= Keys::KEPT);
    }
    // The one in use is still itself; a new one may be any of those that were forgotten.
    assert_eq!(a.lock().need(None), Err(t));
    assert!(Arc::ptr_eq(&a, &keys.get("a")));
    assert_eq!(keys.get("gone").lock().need(None), Err(t + Duration::from_secs(1)));
}

#[test]
fn one_question_serves_all_who_wait() {
    let t = start();
    let s = Duration::from_secs(1);
    let mut d = Demand::default();
    assert!(!d.placed(t, at(1)), "nobody waits");
    d.wrote(t + s);
    d.wrote(t + s * 2);
    assert!(d.placed(t + s, at(2)), "sent before");
    assert!(d.placed(t + s * 3, at(3)), "sent behind both");
    assert!(!d.placed(t + s * 4, at(4)));
    assert!(d.awaits(at(2)) && !d.awaits(at(3)));
    assert!(!d.awaits(Bound { timeline: 2, lsn: 0 }));
}

/// What can happen, in any order.
#[derive(Debug, Clone)]
enum Event {
    /// Somebody else's WAL.
    Noise(u8),
    /// The key's transaction commits, and its ReadyForQuery is read.
    Write,
    AskPrimary,
    /// The answer says how far it had come at some moment between question and answer.
    PrimaryAnswers,
    Replay(u8),
    AskReplica,
    ReplicaAnswers,
    /// A pool's connection to the replica is opened.
    Open,
    /// The replica comes back with less than it had; its connections are lost, which is noticed or not yet.
    Restart(u8),
    Notice,
    /// The primary is gone; another one, which has what was replayed, is on a new timeline.
    Promote,
    Read,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1u8..9).prop_map(Event::Noise),
        3 => Just(Event::Write),
        4 => Just(Event::AskPrimary),
        4 => Just(Event::PrimaryAnswers),
        4 => (1u8..40).prop_map(Event::Replay),
        4 => Just(Event::AskReplica),
        4 => Just(Event::ReplicaAnswers),
        2 => Just(Event::Open),
        1 => (1u8..20).prop_map(Event::Restart),
        1 => Just(Event::Notice),
        1 => Just(Event::Promote),
        6 => Just(Event::Read),
    ]
}

/// Servers as they are, and what Howdah knows of them.
struct World {
    now: Instant,
    timeline: u32,
    head: u64,
    replica: (u32, u64),
    /// The key's last write that is not lost with a timeline.
    written: u64,
    asked: [Option<(Instant, u32, u64)>; 2],
    cores: [HostCore; 2],
    /// Of the connection in the pool, and the replica's life that it belongs to.
    open: Option<(Instant, u32)>,
    life: u32,
    monitor_life: u32,
    key: Written,
}

impl World {
    fn step(&mut self, e: &Event) {
        self.now += Duration::from_millis(1);
        let facts =
            |in_recovery, timeline, lsn| Facts { in_recovery, lsn: Lsn(lsn), timeline, ..Facts::default() };
        match *e {
            Event::Noise(n) => self.head += u64::from(n),
            Event::Write => {
                self.key.begin();
                self.head += 1;
                self.written = self.head;
                self.key.end(self.now);
            }
            Event::AskPrimary => self.asked[0] = Some((self.now, self.timeline, self.head)),
            Event::PrimaryAnswers => {
                if let Some((asked, timeline, lsn)) = self.asked[0].take()
                    && timeline == self.timeline
                {
                    self.cores[0].sampled(asked, self.now, facts(false, timeline, lsn));
                }
            }
            Event::Replay(n) => {
                // It follows the primary that there is.
                self.replica.0 = self.timeline;
                self.replica.1 = self.head.min(self.replica.1 + u64::from(n));
            }
            Event::AskReplica => {
                self.monitor_life = self.life;
                self.asked[1] = Some((self.now, self.replica.0, self.replica.1));
            }
            Event::ReplicaAnswers => {
                // The answer of a server that has gone down meanwhile does not come.
                if let Some((asked, timeline, lsn)) = self.asked[1].take()
                    && self.monitor_life == self.life
                {
                    self.cores[1].sampled(asked, self.now, facts(true, timeline, lsn));
                }
            }
            Event::Open => self.open = Some((self.now, self.life)),
            Event::Restart(n) => {
                self.life += 1;
                self.replica.1 = self.replica.1.saturating_sub(u64::from(n));
            }
            Event::Notice => self.cores[1].connection_lost(self.now),
            Event::Promote => {
                self.timeline += 1;
                self.head = self.head.saturating_sub(3).max(self.replica.1);
                if self.written > self.head {
                    // Never acknowledged by a synchronous replica: lost, as PostgreSQL says.
                    self.written = 0;
                }
                assert_eq!(self.cores[0].failed("gone".to_owned()), Change::Down);
                self.asked[0] = None;
            }
            Event::Read => self.read(),
        }
    }

    fn read(&mut self) {
        let timeline = self.cores[0].sample().map(|s| s.facts.timeline);
        let need = self.key.need(timeline).unwrap_or_else(|then| {
            let mark = self.cores[0].mark_after(then);
            let place = mark.map(|m| Bound { timeline: self.cores[0].timeline(), lsn: m.lsn.0 });
            self.key.placed(then, place)
        });
        let Need::Replayed(b) = need else { return };
        let since = replayed(&self.cores[1], b.timeline, Lsn(b.lsn));
        // A connection of an earlier life is dead, and shows it when it is used.
        let Some((opened, life)) = self.open.filter(|(_, life)| *life == self.life) else { return };
        if since.is_some_and(|asked| opened < asked) {
            assert!(self.replica.1 >= self.written, "stale: {:?} {} {life}", self.replica, self.written);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_order_of_events_shows_the_past(events in proptest::collection::vec(event(), 1..80)) {
        let now = start();
        let mut w = World {
            now,
            timeline: 1,
            head: 100,
            replica: (1, 100),
            written: 0,
            asked: [None; 2],
            cores: [HostCore::default(), HostCore::default()],
            open: None,
            life: 0,
            monitor_life: 0,
            key: Written::default(),
        };
        w.cores[0].sampled(now, now, Facts { timeline: 1, lsn: Lsn(100), ..Facts::default() });
        for e in &events {
            if matches!(e, Event::Promote) && w.cores[0].sample().is_none() {
                continue;
            }
            w.step(e);
        }
    }
}

#[test]
fn what_is_no_read_after_all_shows() {
    use crate::relay::state::TxStats;
    let wrote = |tags: &[&str]| {
        let mut s = TxStats::default();
        tags.iter().for_each(|t| s.see(t.as_bytes()));
        s.wrote
    };
    assert!(!wrote(&["BEGIN", "SELECT 3", "SHOW", "FETCH 1", "COMMIT"]));
    assert!(!wrote(&["SELECT 1"]));
    assert!(wrote(&["BEGIN", "SET", "INSERT 0 1", "COMMIT"]));
    assert!(wrote(&["BEGIN", "COMMIT", "SELECT 1"]), "behind the end of its block");
    assert!(wrote(&["CALL"]) && wrote(&["DO"]));
}
