//! Operation sequences on the core, random and exhaustive, with a clock of their own; then its rules one by one.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::clock::Clock;

type TestCore = PoolCore<u32, u32, u32, ()>;

#[derive(Debug, Clone, Copy)]
enum Op {
    Acquire,
    Poll(u8),
    Abandon(u8),
    CancelWaiter(u8),
    Release(u8),
    Open,
    Opened(u8),
    OpenFailed(u8, u8),
    Lost(u8),
    Broken(u8),
    Closed(u8),
    DeadOnArrival(u8),
    Repair(u8),
    Repaired(u8),
    BeginCancel(u8),
    EndCancel(u8),
    Evict(bool),
    Sweep,
    Tick,
    Advance(u16),
    Resize(u8),
    Doom,
    Hold(u8),
    Close,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn settings(size: usize) -> CoreSettings {
    CoreSettings {
        size,
        min: 0,
        reserve: 0,
        reserve_delay: ms(50),
        wait_timeout: None,
        round_robin: false,
        idle_timeout: None,
        max_parallel_opens: 2,
        restart_grace: ms(1000),
        max_backoff: ms(2000),
        fast_fail: false,
    }
}

fn error() -> Error {
    Error::Internal("refused".to_owned())
}

fn pick<T>(v: &[T], i: u8) -> Option<usize> {
    (!v.is_empty()).then(|| usize::from(i) % v.len())
}

/// Drives a core as its owner would, and knows where every connection and every client has to be.
struct World {
    core: TestCore,
    now: Instant,
    next: u32,
    /// In the order of arrival: client, place.
    waiting: Vec<(u32, WaiterId)>,
    woken: HashSet<u32>,
    leased: Vec<Grant<u32>>,
    opening: Vec<ConnId>,
    repairing: Vec<Grant<u32>>,
    /// Closed by us, not yet by the server.
    closing: Vec<ConnId>,
    cancels: Vec<ConnId>,
    /// Every connection that was opened and not closed.
    alive: HashSet<u32>,
}

impl World {
    fn new(settings: CoreSettings) -> Self {
        Self {
            core: PoolCore::new(settings),
            now: Clock::now(),
            next: 0,
            waiting: Vec::new(),
            woken: HashSet::new(),
            leased: Vec::new(),
            opening: Vec::new(),
            repairing: Vec::new(),
            closing: Vec::new(),
            cancels: Vec::new(),
            alive: HashSet::new(),
        }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn took(&mut self, g: Grant<u32>) {
        assert!(self.alive.contains(&g.conn), "a closed connection was granted");
        let held = self.leased.iter().chain(&self.repairing).any(|l| l.conn == g.conn || l.id == g.id);
        assert!(!held, "leased twice");
        assert!(!self.cancels.contains(&g.id), "handed on with a cancel under way");
        self.leased.push(g);
    }

    fn apply(&mut self, fx: Effects<u32, u32>) {
        for w in fx.wake {
            assert!(self.woken.insert(w), "woken twice");
        }
        for (id, conn, _) in fx.close {
            assert!(self.alive.remove(&conn), "closed twice");
            self.closing.push(id);
        }
    }

    fn acquire(&mut self) {
        let client = self.number();
        match self.core.acquire(self.now, &client) {
            Acquire::Granted(g) => {
                assert!(!self.core.closed);
                assert_eq!(self.core.hold(), Hold::No, "given out while nothing may be");
                self.took(g);
            }
            Acquire::Queued(id) => {
                let r = self.core.poll_waiter(self.now, id, &client, |_| client);
                assert!(r.is_none());
                self.waiting.push((client, id));
            }
            Acquire::Refused(_) => assert!(self.core.closed || self.core.down),
        }
    }

    fn poll(&mut self, i: usize) {
        let (client, id) = self.waiting[i];
        match self.core.poll_waiter(self.now, id, &client, |_| client) {
            None => return,
            Some(Ok(g)) => {
                assert!(self.woken.remove(&client), "granted and not woken");
                self.took(g);
            }
            Some(Err(_)) => assert!(self.woken.remove(&client), "ended and not woken"),
        }
        self.waiting.remove(i);
    }

    /// Who takes what it was granted finds it dead, and is the first to be served again.
    fn dead_on_arrival(&mut self, i: usize) {
        let (client, id) = self.waiting[i];
        let state = |id: WaiterId| &self.core.waiters[id.index as usize].state;
        let later = self.waiting[i + 1..].iter().any(|(_, w)| matches!(state(*w), WaiterState::Granted(..)));
        if later || !matches!(state(id), WaiterState::Granted(..)) {
            return;
        }
        let since = self.core.waiters[id.index as usize].since;
        let Some(Ok(g)) = self.core.poll_waiter(self.now, id, &client, |_| client) else { unreachable!() };
        self.woken.remove(&client);
        self.alive.remove(&g.conn);
        self.core.lost(self.now, g.id);
        match self.core.acquire_again(self.now, since, &client) {
            Acquire::Granted(g) => {
                self.waiting.remove(i);
                self.took(g);
            }
            Acquire::Queued(id) => {
                assert_eq!(self.core.waiters[id.index as usize].since, since);
                assert!(self.core.poll_waiter(self.now, id, &client, |_| client).is_none());
                self.waiting[i].1 = id;
            }
            Acquire::Refused(_) => {
                assert!(self.core.closed);
                self.waiting.remove(i);
            }
        }
    }

    fn open(&mut self) {
        if !self.core.wants_open(self.now) {
            return;
        }
        assert_eq!(self.core.hold(), Hold::No, "opened while nothing may be");
        self.opening.push(self.core.begin_open(self.now));
        let (c, s) = (self.core.counts(), &self.core.settings);
        assert!(c.tracked() <= s.size + s.reserve, "more than the limit: {c:?}");
        assert!(c.opening <= s.max_parallel_opens);
    }

    fn opened(&mut self, i: usize) {
        let id = self.opening.remove(i);
        let conn = self.number();
        self.alive.insert(conn);
        let fx = self.core.opened(self.now, id, conn, Some(self.now + ms(3000)), ());
        self.apply(fx);
    }

    fn release(&mut self, i: usize) {
        let g = self.leased.remove(i);
        let mut fx = Effects::default();
        self.core.release(self.now, g.id, g.conn, &mut fx);
        self.apply(fx);
    }

    fn repaired(&mut self, i: usize) {
        let g = self.repairing.remove(i);
        let mut fx = Effects::default();
        self.core.release(self.now, g.id, g.conn, &mut fx);
        self.apply(fx);
    }

    fn closed(&mut self, i: usize) {
        let (id, before) = (self.closing.remove(i), self.core.counts().tracked());
        self.core.closed(id);
        assert_eq!(self.core.counts().tracked() + 1, before, "the place comes back, once");
    }

    fn end_cancel(&mut self, i: usize) {
        let id = self.cancels.remove(i);
        let fx = self.core.end_cancel(self.now, id, false);
        self.apply(fx);
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::Acquire => self.acquire(),
            Op::Poll(i) => {
                if let Some(i) = pick(&self.waiting, i) {
                    self.poll(i);
                }
            }
            Op::Abandon(i) => {
                if let Some(i) = pick(&self.waiting, i) {
                    let (client, id) = self.waiting.remove(i);
                    let fx = self.core.abandon(self.now, id);
                    self.apply(fx);
                    self.woken.remove(&client);
                }
            }
            Op::CancelWaiter(i) => {
                if let Some(i) = pick(&self.waiting, i) {
                    self.woken.extend(self.core.cancel_waiter(self.waiting[i].1));
                }
            }
            Op::Release(i) => {
                if let Some(i) = pick(&self.leased, i) {
                    self.release(i);
                }
            }
            Op::Open => self.open(),
            Op::Opened(i) => {
                if let Some(i) = pick(&self.opening, i) {
                    self.opened(i);
                }
            }
            Op::OpenFailed(i, kind) => {
                if let Some(i) = pick(&self.opening, i) {
                    let id = self.opening.remove(i);
                    let failure = match kind % 4 {
                        0 => OpenFailure::Transient(error()),
                        1 => OpenFailure::Local(error()),
                        2 => OpenFailure::Unreachable(error()),
                        _ => OpenFailure::Fatal(error()),
                    };
                    let fx = self.core.open_failed(self.now, id, failure, 0.5);
                    self.apply(fx);
                }
            }
            Op::Lost(i) => {
                if let Some(i) = pick(&self.leased, i) {
                    let g = self.leased.remove(i);
                    self.alive.remove(&g.conn);
                    self.core.lost(self.now, g.id);
                }
            }
            Op::Broken(i) => {
                if let Some(i) = pick(&self.leased, i) {
                    let g = self.leased.remove(i);
                    self.alive.remove(&g.conn);
                    self.core.broken(self.now, g.id);
                    self.closing.push(g.id);
                }
            }
            Op::DeadOnArrival(i) => {
                if let Some(i) = pick(&self.waiting, i) {
                    self.dead_on_arrival(i);
                }
            }
            Op::Closed(i) => {
                if let Some(i) = pick(&self.closing, i) {
                    self.closed(i);
                }
            }
            Op::Repair(i) => {
                if let Some(i) = pick(&self.leased, i) {
                    let g = self.leased.remove(i);
                    self.core.repairing(self.now, g.id);
                    assert!(!self.core.begin_cancel(g.id, g.lease), "a cancel for a lease that is over");
                    self.repairing.push(g);
                }
            }
            Op::Repaired(i) => {
                if let Some(i) = pick(&self.repairing, i) {
                    self.repaired(i);
                }
            }
            Op::BeginCancel(i) => {
                if let Some(i) = pick(&self.leased, i) {
                    let (id, lease) = (self.leased[i].id, self.leased[i].lease);
                    assert!(self.core.begin_cancel_of(id, lease).is_some());
                    assert!(!self.core.begin_cancel(id, lease + 1), "a cancel for a lease to come");
                    self.cancels.push(id);
                }
            }
            Op::EndCancel(i) => {
                if let Some(i) = pick(&self.cancels, i) {
                    self.end_cancel(i);
                }
            }
            Op::Evict(promise) => {
                let mut fx = Effects::default();
                let before = self.core.counts();
                let keep = self.core.settings.min;
                if self.core.evict(keep, promise, &mut fx) {
                    assert!(before.live() > keep);
                    assert!(!fx.close.is_empty() || (promise && before.leased > 0));
                }
                self.apply(fx);
            }
            Op::Sweep => {
                let dead = self.core.sweep_idle(|c| *c % 3 != 0);
                for (id, c) in dead {
                    assert!(self.alive.remove(&c));
                    self.closing.push(id);
                }
            }
            Op::Tick => {
                let fx = self.core.tick(self.now);
                self.apply(fx);
                if let (Some(limit), Some(oldest)) =
                    (self.core.settings.wait_timeout, self.core.oldest_wait())
                {
                    assert!(self.now - oldest < limit, "waits on after its timeout");
                }
            }
            Op::Advance(by) => self.now += ms(u64::from(by)),
            Op::Resize(n) => {
                let s = CoreSettings { size: usize::from(n % 4) + 1, ..self.core.settings.clone() };
                self.core.reconfigure(s);
            }
            Op::Doom => {
                let mut fx = Effects::default();
                self.core.doom_all(CloseReason::Reconnect, &mut fx);
                self.apply(fx);
            }
            Op::Hold(n) => {
                let hold = [Hold::No, Hold::Paused, Hold::Suspended][usize::from(n) % 3];
                let mut fx = Effects::default();
                self.core.set_hold(self.now, hold, &mut fx);
                self.apply(fx);
                // Whom a resumption could serve, it has served.
                let c = self.core.counts();
                assert!(hold != Hold::No || c.waiting == 0 || c.idle == 0);
            }
            Op::Close => {
                let fx = self.core.close();
                self.apply(fx);
            }
        }
        self.check();
    }

    fn check(&self) {
        self.core.check();
        // Every living connection is in one place, and no other is anywhere.
        let granted = self.core.waiters.iter().filter_map(|(_, w)| match &w.state {
            WaiterState::Granted(_, _, c) => Some(*c),
            _ => None,
        });
        let mut places: Vec<u32> = self.core.idle.iter().map(|(_, c)| *c).collect();
        places.extend(self.core.parked.values());
        places.extend(granted);
        places.extend(self.leased.iter().chain(&self.repairing).map(|g| g.conn));
        places.sort_unstable();
        let mut alive: Vec<u32> = self.alive.iter().copied().collect();
        alive.sort_unstable();
        assert_eq!(places, alive, "a connection is lost, or in two places");
        let places = alive.len() + self.opening.len() + self.closing.len();
        assert_eq!(self.core.counts.tracked(), places, "a place is given back too early, or not at all");
        // Every client that waits is known, once; who is served was woken, and came before who is not.
        assert_eq!(self.core.waiters.len(), self.waiting.len(), "a waiter is lost");
        let mut someone_waits = false;
        for (client, id) in &self.waiting {
            let w = &self.core.waiters[id.index as usize];
            assert_eq!(w.generation, id.generation);
            match w.state {
                WaiterState::Waiting => someone_waits = true,
                WaiterState::Granted(..) => assert!(!someone_waits, "served before its turn"),
                _ => {}
            }
            let served = !matches!(w.state, WaiterState::Waiting);
            assert_eq!(self.woken.contains(client), served, "client {client}");
        }
        assert!(!self.core.closed || (self.core.idle.is_empty() && !someone_waits));
    }

    /// Everybody gives back what he has; then everybody who waits is served.
    fn wind_down(&mut self) {
        self.step(Op::Hold(0));
        for _ in 0..10_000 {
            if let Some(i) = pick(&self.cancels, 0) {
                self.end_cancel(i);
            } else if let Some(i) = pick(&self.repairing, 0) {
                self.repaired(i);
            } else if let Some(i) = pick(&self.closing, 0) {
                self.closed(i);
            } else if let Some(i) = pick(&self.opening, 0) {
                self.opened(i);
            } else if let Some(i) = pick(&self.leased, 0) {
                self.release(i);
            } else if !self.waiting.is_empty() {
                for i in (0..self.waiting.len()).rev() {
                    self.poll(i);
                }
                self.now += ms(100);
                self.open();
            } else {
                break;
            }
            self.check();
        }
        let c = self.core.counts();
        assert_eq!(c, Counts { idle: c.idle, ..Counts::default() }, "not everything came back");
        assert!(c.idle <= self.core.settings.size.max(4) + self.core.settings.reserve);
    }
}

fn op() -> impl Strategy<Value = Op> {
    let i = any::<u8>();
    prop_oneof![
        10 => Just(Op::Acquire),
        8 => i.prop_map(Op::Poll),
        3 => i.prop_map(Op::Abandon),
        2 => i.prop_map(Op::CancelWaiter),
        10 => i.prop_map(Op::Release),
        8 => Just(Op::Open),
        8 => i.prop_map(Op::Opened),
        3 => (i, any::<u8>()).prop_map(|(i, k)| Op::OpenFailed(i, k)),
        2 => i.prop_map(Op::Lost),
        2 => i.prop_map(Op::Broken),
        6 => i.prop_map(Op::Closed),
        3 => i.prop_map(Op::DeadOnArrival),
        3 => i.prop_map(Op::Repair),
        3 => i.prop_map(Op::Repaired),
        3 => i.prop_map(Op::BeginCancel),
        3 => i.prop_map(Op::EndCancel),
        2 => any::<bool>().prop_map(Op::Evict),
        1 => Just(Op::Sweep),
        3 => Just(Op::Tick),
        4 => (0u16..400).prop_map(Op::Advance),
        1 => i.prop_map(Op::Resize),
        1 => Just(Op::Doom),
        3 => i.prop_map(Op::Hold),
    ]
}

fn any_settings() -> impl Strategy<Value = CoreSettings> {
    (1usize..5, 0usize..3, 0usize..3, any::<bool>(), any::<bool>()).prop_map(
        |(size, min, reserve, waits, idles)| CoreSettings {
            round_robin: false,
            min,
            reserve,
            wait_timeout: waits.then_some(ms(300)),
            idle_timeout: idles.then_some(ms(500)),
            ..settings(size)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_keeps_the_account(
        settings in any_settings(),
        ops in prop::collection::vec(op(), 1..200),
        close: bool,
    ) {
        let mut w = World::new(settings);
        for op in ops {
            w.step(op);
        }
        if close {
            w.step(Op::Close);
        }
        w.wind_down();
    }
}

#[test]
fn every_short_sequence_keeps_the_account() {
    const OPS: [Op; 13] = [
        Op::Acquire,
        Op::Poll(0),
        Op::Abandon(0),
        Op::CancelWaiter(0),
        Op::Release(0),
        Op::Open,
        Op::Opened(0),
        Op::OpenFailed(0, 3),
        Op::Repair(0),
        Op::Repaired(0),
        Op::BeginCancel(0),
        Op::EndCancel(0),
        Op::Evict(true),
    ];
    // From an empty pool, and from one whose only connection is leased with two behind it.
    let starts: [&[Op]; 2] =
        [&[], &[Op::Acquire, Op::Open, Op::Opened(0), Op::Poll(0), Op::Acquire, Op::Acquire]];
    for start in starts {
        for n in 0..OPS.len().pow(4) {
            let mut w = World::new(settings(1));
            let mut rest = n;
            for op in start {
                w.step(*op);
            }
            for _ in 0..4 {
                w.step(OPS[rest % OPS.len()]);
                rest /= OPS.len();
            }
            w.wind_down();
        }
    }
}

/// A world of this many connections, all idle.
fn warm(settings: CoreSettings, n: usize) -> World {
    let mut w = World::new(settings);
    for _ in 0..n {
        w.acquire();
        w.open();
        w.opened(0);
        w.poll(0);
    }
    while !w.leased.is_empty() {
        w.release(0);
    }
    w.check();
    w
}

fn fail(w: &mut World, failure: OpenFailure, jitter: f64) {
    let id = w.core.begin_open(w.now);
    let fx = w.core.open_failed(w.now, id, failure, jitter);
    w.apply(fx);
    w.check();
}

#[test]
fn the_reserve_opens_after_its_delay_and_goes_again() {
    let mut w = warm(CoreSettings { reserve: 1, ..settings(1) }, 1);
    w.acquire();
    w.acquire();
    assert!(!w.core.wants_open(w.now));
    w.now += ms(49);
    assert!(!w.core.wants_open(w.now));
    w.now += ms(1);
    assert!(w.core.wants_open(w.now));
    assert!(w.core.opens_from_reserve());
    w.open();
    w.opened(0);
    w.poll(0);
    w.acquire();
    w.now += ms(1000);
    assert!(!w.core.wants_open(w.now), "the reserve is used up");
    w.step(Op::Abandon(0));
    w.release(0);
    w.release(0);
    w.now += ms(50);
    w.step(Op::Tick);
    assert_eq!(w.core.counts(), Counts { idle: 1, closing: 1, ..Counts::default() });
}

#[test]
fn the_backoff_doubles_to_its_ceiling_and_is_spread_downwards() {
    for (jitter, part) in [(0.0, 0.75), (1.0, 1.0)] {
        let mut w = World::new(settings(1));
        w.acquire();
        for n in 0..10 {
            let want = ms(50 * (1 << n)).min(ms(2000)).mul_f64(part);
            fail(&mut w, OpenFailure::Transient(error()), jitter);
            assert_eq!(w.core.not_before.map(|t| t - w.now), Some(want), "failure {n}");
            assert!(!w.core.wants_open(w.now + want - ms(1)));
            w.now += want;
            assert!(w.core.wants_open(w.now));
        }
        w.open();
        w.opened(0);
        assert_eq!((w.core.failures, w.core.not_before), (0, None), "one success ends it");
    }
}

#[test]
fn who_hears_of_a_failed_open() {
    // Failure, within the grace of a living server, another connection alive: are waiters told?
    type Make = fn(Error) -> OpenFailure;
    let table: [(Make, bool, bool, bool); 9] = [
        (OpenFailure::Transient, false, false, false),
        (OpenFailure::Local, false, false, false),
        (OpenFailure::Unreachable, false, false, true),
        (OpenFailure::Unreachable, true, false, false),
        (OpenFailure::Unreachable, true, true, false),
        (OpenFailure::Fatal, false, false, true),
        (OpenFailure::Fatal, true, false, true),
        (OpenFailure::Fatal, true, true, false),
        (OpenFailure::Transient, true, true, false),
    ];
    for (make, recent, alive, told) in table {
        let mut w = World::new(settings(2));
        if recent || alive {
            w.acquire();
            w.open();
            w.opened(0);
            w.poll(0);
            if !alive {
                w.step(Op::Lost(0));
            }
        }
        w.acquire();
        let failure = make(error());
        fail(&mut w, failure.clone(), 0.5);
        assert_eq!(w.core.counts().waiting, usize::from(!told), "{failure:?} {recent} {alive}");
        assert_eq!(w.core.last_error(), Some(&error()));
        // A newcomer is told at once, for as long as no other attempt is due.
        let newcomer = w.core.acquire(w.now, &0);
        assert_eq!(matches!(newcomer, Acquire::Refused(WaitEnd::Failed(_))), told, "{failure:?}");
        if told {
            w.now += ms(2000);
            assert!(matches!(w.core.acquire(w.now, &0), Acquire::Queued(_)));
        }
    }
}

#[test]
fn after_the_grace_a_restart_is_a_failure() {
    let mut w = warm(settings(1), 1);
    w.acquire();
    w.step(Op::Lost(0));
    w.acquire();
    w.now += ms(999);
    fail(&mut w, OpenFailure::Unreachable(error()), 0.5);
    assert_eq!(w.core.counts().waiting, 1);
    w.now += ms(1);
    fail(&mut w, OpenFailure::Unreachable(error()), 0.5);
    assert_eq!(w.core.counts().waiting, 0);
}

#[test]
fn our_own_shortage_waits_a_fixed_time() {
    let mut w = World::new(settings(1));
    w.acquire();
    for _ in 0..5 {
        fail(&mut w, OpenFailure::Local(error()), 0.5);
        assert_eq!(w.core.not_before, Some(w.now + ms(100)));
    }
}

#[test]
fn a_connection_is_parked_until_its_cancels_have_ended() {
    let mut w = warm(settings(1), 1);
    w.acquire();
    w.step(Op::BeginCancel(0));
    w.step(Op::BeginCancel(0));
    w.acquire();
    w.release(0);
    assert_eq!(w.core.counts(), Counts { parked: 1, waiting: 1, ..Counts::default() });
    w.step(Op::EndCancel(0));
    assert_eq!(w.core.counts().parked, 1);
    w.step(Op::EndCancel(0));
    assert_eq!(w.core.counts(), Counts { leased: 1, ..Counts::default() });
    w.poll(0);
}

#[test]
fn a_connection_that_a_cancel_may_strike_is_closed_when_it_is_given_back() {
    for parked in [false, true] {
        let mut w = warm(settings(1), 1);
        w.acquire();
        let (id, lease) = (w.leased[0].id, w.leased[0].lease);
        assert!(w.core.begin_cancel(id, lease));
        let mut fx = Effects::default();
        if parked {
            w.core.release(w.now, id, 0, &mut fx);
            assert_eq!((w.core.counts().parked, fx.close.len()), (1, 0));
            fx = w.core.end_cancel(w.now, id, true);
        } else {
            assert!(w.core.end_cancel(w.now, id, true).close.is_empty(), "its holder goes on");
            assert_eq!(w.core.tracked(id).and_then(|c| c.doomed), Some(CloseReason::CancelUnanswered));
            w.core.release(w.now, id, 0, &mut fx);
        }
        let closed: Vec<_> = fx.close.iter().map(|(_, _, why)| *why).collect();
        assert_eq!(closed, [CloseReason::CancelUnanswered]);
    }
    // One that was given back unused waits for the end of the cancel like any other.
    let mut w = warm(settings(1), 1);
    w.acquire();
    let (id, lease) = (w.leased[0].id, w.leased[0].lease);
    assert!(w.core.begin_cancel(id, lease));
    let mut fx = Effects::default();
    w.core.release_unused(w.now, id, 0, &mut fx);
    assert_eq!(w.core.counts().parked, 1);
}

#[test]
fn a_cancel_knows_its_lease() {
    let mut w = warm(settings(1), 1);
    w.acquire();
    let (id, lease) = (w.leased[0].id, w.leased[0].lease);
    w.release(0);
    assert!(!w.core.begin_cancel(id, lease), "the lease is over");
    w.acquire();
    assert!(!w.core.begin_cancel(id, lease), "the connection is somebody else's");
    w.step(Op::Lost(0));
    w.acquire();
    w.open();
    w.opened(0);
    w.poll(0);
    assert!(!w.core.begin_cancel(id, w.leased[0].lease), "the slot is another connection's");
}

#[test]
fn the_least_recently_used_is_evicted() {
    let mut w = warm(settings(3), 3);
    w.now += ms(10);
    let oldest = w.core.idle[0].1;
    assert_eq!(w.core.idle_since(), w.core.conns.iter().map(|(_, c)| c.since).min());
    let mut fx = Effects::default();
    assert!(w.core.evict(1, false, &mut fx));
    assert!(matches!(&fx.close[..], [(_, c, CloseReason::Evicted)] if *c == oldest));
    w.apply(fx);
    w.step(Op::Evict(false));
    let mut fx = Effects::default();
    assert!(!w.core.evict(1, true, &mut fx), "the minimum stays");
}

#[test]
fn a_promise_is_kept_at_the_next_release_and_once() {
    let mut w = warm(settings(2), 2);
    w.acquire();
    w.acquire();
    let mut fx = Effects::default();
    assert!(!w.core.evict(0, false, &mut fx));
    assert!(w.core.evict(0, true, &mut fx));
    assert!(w.core.evict(0, true, &mut fx), "asked again, it is the same promise");
    w.release(0);
    w.release(0);
    assert_eq!((w.alive.len(), w.core.counts().idle), (1, 1), "one was promised, one was closed");
    assert_eq!(w.core.counts().closing, 1);
}

#[test]
fn a_promise_dies_with_the_connection_that_would_have_kept_it() {
    let mut w = warm(settings(1), 1);
    w.acquire();
    w.step(Op::Evict(true));
    w.step(Op::Lost(0));
    w.acquire();
    w.open();
    w.opened(0);
    w.poll(0);
    w.release(0);
    assert_eq!(w.core.counts().idle, 1, "the room was free already");
}

#[test]
fn lifetime_ends_at_release_and_while_idle() {
    let mut w = warm(settings(2), 2);
    w.acquire();
    w.now += ms(2999);
    w.step(Op::Tick);
    assert_eq!(w.core.counts().tracked(), 2);
    w.now += ms(1);
    w.step(Op::Tick);
    assert_eq!(w.core.counts(), Counts { leased: 1, closing: 1, ..Counts::default() });
    w.release(0);
    assert_eq!(w.core.counts(), Counts { closing: 2, ..Counts::default() });
}

/// A server that is full would refuse the successor of a connection that it has not let go of.
#[test]
fn a_place_is_free_once_the_server_has_let_go() {
    let mut w = warm(settings(1), 1);
    for ends in [Op::Broken(0), Op::Release(0)] {
        w.acquire();
        w.now += ms(3000);
        w.step(ends);
        w.acquire();
        assert_eq!(w.core.counts(), Counts { closing: 1, waiting: 1, ..Counts::default() });
        assert!(!w.core.wants_open(w.now));
        w.step(Op::Closed(0));
        assert!(w.core.wants_open(w.now));
        w.open();
        w.opened(0);
        w.poll(0);
        w.release(0);
    }
}

#[test]
fn the_idle_go_down_to_the_minimum_and_the_minimum_comes_back() {
    let mut w = warm(CoreSettings { min: 1, idle_timeout: Some(ms(100)), ..settings(3) }, 3);
    w.now += ms(99);
    w.step(Op::Tick);
    assert_eq!(w.core.counts().idle, 3);
    w.now += ms(1);
    w.step(Op::Tick);
    assert_eq!(w.core.counts().idle, 1);
    w.acquire();
    w.step(Op::Lost(0));
    assert!(w.core.wants_open(w.now), "kept warm with nobody waiting");
    let fx = w.core.tick(w.now);
    assert!(fx.look);
    w.open();
    w.opened(0);
    assert!(!w.core.wants_open(w.now));
}

#[test]
fn whose_connection_died_on_its_way_keeps_place_and_deadline() {
    let mut w = World::new(CoreSettings { wait_timeout: Some(ms(100)), ..settings(2) });
    w.acquire();
    w.open();
    w.opened(0);
    w.poll(0);
    for _ in 0..3 {
        w.now += ms(10);
        w.acquire();
    }
    let (first, second) = (w.waiting[0].0, w.waiting[1].0);
    w.release(0);
    w.now += ms(60);
    w.step(Op::DeadOnArrival(0));
    w.open();
    w.opened(0);
    assert!(w.woken.contains(&first), "it is still the first");
    w.step(Op::DeadOnArrival(0));
    w.now += ms(20);
    w.step(Op::Tick);
    assert!(w.woken.contains(&first) && !w.woken.contains(&second), "100 ms from its own arrival");
}

#[test]
fn waits_time_out_in_order_and_not_before() {
    let mut w = World::new(CoreSettings { wait_timeout: Some(ms(100)), ..settings(1) });
    w.acquire();
    w.now += ms(60);
    w.acquire();
    w.now += ms(39);
    w.step(Op::Tick);
    assert_eq!(w.core.counts().waiting, 2);
    w.now += ms(1);
    w.step(Op::Tick);
    assert_eq!(w.core.counts().waiting, 1);
    w.now += ms(60);
    w.step(Op::Tick);
    assert_eq!(w.core.counts().waiting, 0);
}

#[test]
fn a_smaller_size_closes_at_release() {
    let mut w = warm(settings(3), 3);
    for _ in 0..3 {
        w.acquire();
    }
    w.step(Op::Resize(0));
    w.release(0);
    w.release(0);
    assert_eq!(w.core.counts(), Counts { leased: 1, closing: 2, ..Counts::default() });
    w.release(0);
    assert_eq!(w.core.counts().idle, 1);
}

#[test]
fn the_last_used_is_the_next_used() {
    let mut w = warm(settings(3), 3);
    w.acquire();
    let conn = w.leased[0].conn;
    w.release(0);
    w.acquire();
    assert_eq!(w.leased[0].conn, conn);
}

#[test]
fn waiting_is_shared_by_those_who_hold() {
    let start = Clock::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let mut core: PoolCore<u32, (), u32> = PoolCore::new(settings(2));
    for n in 0..2 {
        let id = core.begin_open(start);
        let _ = core.opened(start, id, n, None, ());
    }
    core.tick(start);
    assert!(matches!(core.acquire(at(0), &10), Acquire::Granted(_)));
    let Acquire::Granted(second) = core.acquire(at(0), &20) else { panic!("one is idle") };
    core.tick(at(100));
    let caused = |core: &PoolCore<u32, (), u32>| {
        let mut all: Vec<_> = core.held().map(|h| (*h.holder, h.caused.as_millis())).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(caused(&core), [(10, 0), (20, 0)], "nobody has waited");
    for holder in [30, 40, 50] {
        assert!(matches!(core.acquire(at(100), &holder), Acquire::Queued(_)));
    }
    core.tick(at(300));
    assert_eq!(caused(&core), [(10, 300), (20, 300)], "three waited for 200 ms");
    let mut fx = Effects::default();
    core.release(at(300), second.id, second.conn, &mut fx);
    core.tick(at(400));
    // The connection is the first waiter's, who has not looked yet; two wait.
    assert_eq!(caused(&core), [(10, 400)]);
}
