//! Who may use which server connection, decided without I/O.
//!
//! `C` is a server connection, `W` what wakes a waiter, `H` who holds a lease; the core only moves them around.
//!
//! Invariants, asserted by `PoolCore::check` and held by the random-operation tests:
//! * every connection is in exactly one state, and `idle + leased + opening + parked + repairing + closing == tracked`;
//! * `tracked <= size + reserve` at every open (a smaller size after a reload closes on release); a connection that
//!   is being closed keeps its place until the server has let go of it, or a server that is full would refuse the
//!   next one;
//! * a waiter is granted at most once, in the order of arrival;
//! * nobody waits while a connection is idle.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use slab::Slab;
use smallvec::SmallVec;

use crate::control::Hold;
use crate::error::{Error, OpenFailure};
pub use crate::ids::{ConnId, WaiterId};

/// The part of the settings that the core decides by.
#[derive(Debug, Clone, PartialEq)]
pub struct CoreSettings {
    pub size: usize,
    pub min: usize,
    pub reserve: usize,
    pub reserve_delay: Duration,
    pub wait_timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    /// The connection that has been idle longest is handed out, not the one used last.
    pub round_robin: bool,
    pub max_parallel_opens: usize,
    /// A pool that had a connection within this time treats a refused one as a restart, not as a failure.
    pub restart_grace: Duration,
    /// Ceiling of the backoff.
    pub max_backoff: Duration,
    /// As PgBouncer does: while logins fail and nothing is open, who asks is refused at once, and one attempt runs
    /// at a time until one has worked.
    pub fast_fail: bool,
}

/// What a server connection is used for.
pub type ServerState = State;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Opening,
    Idle,
    Leased,
    /// Released while a cancel for it is under way.
    Parked,
    /// Being cleaned; not available, still counted.
    Repairing,
    /// Of no use any more; counted until [`PoolCore::closed`].
    Closing,
}

#[derive(Debug)]
struct Tracked<H, T> {
    generation: u32,
    state: State,
    /// Counts the leases, so that a late cancel finds out that its lease is over.
    lease: u64,
    cancels: u32,
    holder: Option<H>,
    since: Instant,
    /// The share of this lease in the time that clients have waited during it.
    caused: Duration,
    expires: Option<Instant>,
    /// Close at the next release, and why.
    doomed: Option<CloseReason>,
    /// What a cancel needs to know of it.
    target: Option<T>,
}

#[derive(Debug)]
enum WaiterState<C> {
    Waiting,
    Granted(ConnId, u64, C),
    Ended(WaitEnd),
    /// The slot is free of its owner but still named in the queue.
    Abandoned,
}

#[derive(Debug)]
struct Waiter<C, W> {
    generation: u32,
    since: Instant,
    state: WaiterState<C>,
    waker: Option<W>,
}

/// Why a wait ended without a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum WaitEnd {
    TimedOut,
    Failed(Error),
    /// Nobody was asked: the last attempt failed so.
    Failing(Error),
    Cancelled,
    /// The pool is being removed.
    Closed,
}

/// A connection in the hands of a client.
#[derive(Debug)]
pub struct Grant<C> {
    pub id: ConnId,
    pub lease: u64,
    pub conn: C,
}

#[derive(Debug)]
pub enum Acquire<C> {
    Granted(Grant<C>),
    Queued(WaiterId),
    Refused(WaitEnd),
}

/// What the caller has to do after an event, with the lock released.
#[derive(Debug)]
pub struct Effects<C, W> {
    /// Nearly always one or none.
    pub wake: SmallVec<[W; 1]>,
    /// To be closed; [`PoolCore::closed`] gives the place of each back.
    pub close: Vec<(ConnId, C, CloseReason)>,
    /// The owner of the pool should look whether to open connections.
    pub look: bool,
}

impl<C, W> Default for Effects<C, W> {
    fn default() -> Self {
        Self { wake: SmallVec::new(), close: Vec::new(), look: false }
    }
}

/// Why the pool closed a connection that was in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    Lifetime,
    IdleTimeout,
    /// More connections than the size allows.
    Excess,
    /// The operator has paused the database.
    Paused,
    /// Another pool that shares a limit needs the room.
    Evicted,
    Reconnect,
    /// It was opened under another configuration.
    Reconfigured,
    /// A cancel for it was sent and given up on: it may strike yet.
    CancelUnanswered,
    PoolClosed,
}

impl CloseReason {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Lifetime => "lifetime",
            Self::IdleTimeout => "idle_timeout",
            Self::Excess => "excess",
            Self::Paused => "paused",
            Self::Evicted => "evicted",
            Self::Reconnect => "reconnect",
            Self::Reconfigured => "reconfigured",
            Self::CancelUnanswered => "cancel_unanswered",
            Self::PoolClosed => "pool_closed",
        }
    }
}

/// A tracked connection, for those who look.
#[derive(Debug)]
pub struct ServerView<'a, H, T> {
    pub state: ServerState,
    /// Since when it is in this state.
    pub since: Instant,
    pub holder: Option<&'a H>,
    pub doomed: bool,
    pub cancels: u32,
    pub target: Option<&'a T>,
}

/// A lease as others may see it.
#[derive(Debug)]
pub struct Held<'a, H, T> {
    pub holder: &'a H,
    pub since: Instant,
    pub caused: Duration,
    pub target: Option<&'a T>,
    pub id: ConnId,
    pub lease: u64,
}

/// Counts by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub idle: usize,
    pub leased: usize,
    pub opening: usize,
    pub parked: usize,
    pub repairing: usize,
    pub closing: usize,
    pub waiting: usize,
}

impl Counts {
    pub fn tracked(&self) -> usize {
        self.live() + self.closing
    }

    /// Those that do something, or may.
    pub fn busy(&self) -> usize {
        self.leased + self.opening + self.parked + self.repairing
    }

    /// Those that serve, or will.
    pub fn live(&self) -> usize {
        self.idle + self.leased + self.opening + self.parked + self.repairing
    }
}

/// See the module.
#[derive(Debug)]
pub struct PoolCore<C, W, H, T = ()> {
    settings: CoreSettings,
    conns: Slab<Tracked<H, T>>,
    /// Connections on hand, the most recently used last.
    idle: Vec<(ConnId, C)>,
    parked: HashMap<ConnId, C>,
    queue: VecDeque<WaiterId>,
    waiters: Slab<Waiter<C, W>>,
    generation: u32,
    counts: Counts,
    failures: u32,
    /// No open before this.
    not_before: Option<Instant>,
    last_alive: Option<Instant>,
    last_error: Option<Error>,
    last_failure: Option<Instant>,
    last_tick: Option<Instant>,
    /// The last attempt failed, other than for a server that is starting or for our own fault.
    failing: bool,
    /// Waiters were refused because of `last_error`, and nothing has worked since.
    down: bool,
    closed: bool,
    hold: Hold,
    /// Somebody was refused without an attempt of their own: the next one is made all the same.
    probe: bool,
    /// Connections that another pool has asked for.
    asked_to_yield: usize,
}

impl<C, W, H: Clone, T: Clone> PoolCore<C, W, H, T> {
    pub fn new(settings: CoreSettings) -> Self {
        Self {
            settings,
            conns: Slab::new(),
            idle: Vec::new(),
            parked: HashMap::new(),
            queue: VecDeque::new(),
            waiters: Slab::new(),
            generation: 0,
            counts: Counts::default(),
            failures: 0,
            not_before: None,
            last_alive: None,
            last_error: None,
            last_failure: None,
            last_tick: None,
            failing: false,
            down: false,
            closed: false,
            hold: Hold::No,
            probe: false,
            asked_to_yield: 0,
        }
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    pub fn settings(&self) -> &CoreSettings {
        &self.settings
    }

    /// The failure of the last attempt to open a connection, if none has succeeded since.
    pub fn last_failure(&self) -> Option<(&Error, Instant)> {
        self.last_error.as_ref().zip(self.last_failure)
    }

    /// Waiters are refused because of that failure.
    pub fn is_down(&self) -> bool {
        self.down
    }

    pub fn last_error(&self) -> Option<&Error> {
        self.last_error.as_ref()
    }

    /// The lease that has lasted longest.
    pub fn oldest_holder(&self) -> Option<(&H, Instant)> {
        self.conns
            .iter()
            .filter(|(_, c)| c.state == State::Leased)
            .filter_map(|(_, c)| c.holder.as_ref().map(|h| (h, c.since)))
            .min_by_key(|(_, since)| *since)
    }

    /// Every lease, with its holder.
    pub fn held(&self) -> impl Iterator<Item = Held<'_, H, T>> {
        self.conns.iter().filter(|(_, c)| c.state == State::Leased).filter_map(|(index, c)| {
            Some(Held {
                holder: c.holder.as_ref()?,
                since: c.since,
                caused: c.caused,
                target: c.target.as_ref(),
                id: ConnId { index: crate::number::count(index), generation: c.generation },
                lease: c.lease,
            })
        })
    }

    pub fn holders(&self) -> impl Iterator<Item = (&H, Instant)> {
        self.conns
            .iter()
            .filter(|(_, c)| c.state == State::Leased)
            .filter_map(|(_, c)| c.holder.as_ref().map(|h| (h, c.since)))
    }

    /// When the first in the queue came.
    pub fn oldest_wait(&self) -> Option<Instant> {
        self.queue.iter().find_map(|w| self.waiter(*w).map(|w| w.since))
    }

    fn waiter(&self, id: WaiterId) -> Option<&Waiter<C, W>> {
        self.waiters
            .get(id.index as usize)
            .filter(|w| w.generation == id.generation && matches!(w.state, WaiterState::Waiting))
    }

    fn tracked(&mut self, id: ConnId) -> Option<&mut Tracked<H, T>> {
        self.conns.get_mut(id.index as usize).filter(|c| c.generation == id.generation)
    }

    fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.wrapping_add(1);
        self.generation
    }

    fn count(&mut self, state: State) -> &mut usize {
        match state {
            State::Opening => &mut self.counts.opening,
            State::Idle => &mut self.counts.idle,
            State::Leased => &mut self.counts.leased,
            State::Parked => &mut self.counts.parked,
            State::Repairing => &mut self.counts.repairing,
            State::Closing => &mut self.counts.closing,
        }
    }

    fn set_state(&mut self, id: ConnId, to: State, now: Instant) -> bool {
        let Some(c) = self.tracked(id) else { return false };
        let from = std::mem::replace(&mut c.state, to);
        c.since = now;
        *self.count(from) -= 1;
        *self.count(to) += 1;
        true
    }

    fn forget(&mut self, id: ConnId) {
        let Some(c) = self.tracked(id) else { return };
        let state = c.state;
        *self.count(state) -= 1;
        if !matches!(state, State::Opening | State::Closing) {
            self.asked_to_yield = self.asked_to_yield.saturating_sub(1);
        }
        self.conns.remove(id.index as usize);
    }

    /// Nobody gets it any more; its place is given back by [`Self::closed`].
    fn begin_close(&mut self, id: ConnId) {
        let Some(c) = self.tracked(id) else { return };
        let from = std::mem::replace(&mut c.state, State::Closing);
        c.holder = None;
        *self.count(from) -= 1;
        self.counts.closing += 1;
        // Whatever ends it, there will be room.
        self.asked_to_yield = self.asked_to_yield.saturating_sub(1);
    }

    // ---- clients

    /// Asks for a connection. `fresh` refuses at once while the server is known to be down.
    #[inline]
    pub fn acquire(&mut self, now: Instant, holder: &H) -> Acquire<C> {
        if self.closed {
            return Acquire::Refused(WaitEnd::Closed);
        }
        if self.counts.waiting == 0
            && self.hold == Hold::No
            && let Some((id, conn)) = self.next_idle()
        {
            let lease = self.lease_to(id, now, Some(holder.clone()));
            return Acquire::Granted(Grant { id, lease, conn });
        }
        if self.settings.fast_fail
            && self.failing
            && self.hold == Hold::No
            && self.counts.live() == self.counts.opening
            && let Some(e) = &self.last_error
        {
            self.probe = true;
            return Acquire::Refused(WaitEnd::Failing(e.clone()));
        }
        if self.down
            && self.hold == Hold::No
            && self.counts.live() == self.counts.opening
            && self.not_before.is_some_and(|t| now < t)
            && let Some(e) = &self.last_error
        {
            return Acquire::Refused(WaitEnd::Failed(e.clone()));
        }
        let id = self.new_waiter(now);
        self.queue.push_back(id);
        Acquire::Queued(id)
    }

    /// [`Self::acquire`] for one that has waited since `since` and whose connection died on its way: it keeps its
    /// place and its deadline.
    pub fn acquire_again(&mut self, now: Instant, since: Instant, holder: &H) -> Acquire<C> {
        if self.closed {
            return Acquire::Refused(WaitEnd::Closed);
        }
        // Where one is idle, nobody waits.
        if self.hold == Hold::No
            && let Some((id, conn)) = self.next_idle()
        {
            let lease = self.lease_to(id, now, Some(holder.clone()));
            return Acquire::Granted(Grant { id, lease, conn });
        }
        let id = self.new_waiter(since);
        let came_later = |q: &WaiterId| self.waiters.get(q.index as usize).is_some_and(|w| w.since >= since);
        let at = self.queue.iter().position(came_later).unwrap_or(self.queue.len());
        self.queue.insert(at, id);
        Acquire::Queued(id)
    }

    fn new_waiter(&mut self, since: Instant) -> WaiterId {
        let generation = self.next_generation();
        let waiter = Waiter { generation, since, state: WaiterState::Waiting, waker: None };
        self.counts.waiting += 1;
        WaiterId { index: crate::number::count(self.waiters.insert(waiter)), generation }
    }

    #[inline]
    fn next_idle(&mut self) -> Option<(ConnId, C)> {
        if self.settings.round_robin && !self.idle.is_empty() {
            return Some(self.idle.remove(0));
        }
        self.idle.pop()
    }

    fn lease_to(&mut self, id: ConnId, now: Instant, holder: Option<H>) -> u64 {
        self.set_state(id, State::Leased, now);
        match self.tracked(id) {
            Some(c) => {
                c.lease += 1;
                c.caused = Duration::ZERO;
                c.holder = holder;
                c.lease
            }
            None => 0,
        }
    }

    /// What became of a waiter. `None` means that it still waits, and `waker` will be handed back when it does
    /// not any more.
    pub fn poll_waiter(
        &mut self,
        now: Instant,
        id: WaiterId,
        holder: &H,
        waker: impl FnOnce(Option<W>) -> W,
    ) -> Option<Result<Grant<C>, WaitEnd>> {
        let w = self.waiters.get_mut(id.index as usize).filter(|w| w.generation == id.generation)?;
        if matches!(w.state, WaiterState::Waiting) {
            w.waker = Some(waker(w.waker.take()));
            return None;
        }
        let w = self.waiters.remove(id.index as usize);
        match w.state {
            WaiterState::Granted(id, lease, conn) => {
                if let Some(c) = self.tracked(id) {
                    c.holder = Some(holder.clone());
                    c.since = now;
                }
                Some(Ok(Grant { id, lease, conn }))
            }
            WaiterState::Ended(end) => Some(Err(end)),
            WaiterState::Waiting | WaiterState::Abandoned => Some(Err(WaitEnd::Cancelled)),
        }
    }

    /// The client no longer wants to wait. A connection that was already granted goes to the next.
    pub fn abandon(&mut self, now: Instant, id: WaiterId) -> Effects<C, W> {
        let mut fx = Effects::default();
        let Some(w) = self.waiters.get_mut(id.index as usize).filter(|w| w.generation == id.generation)
        else {
            return fx;
        };
        match std::mem::replace(&mut w.state, WaiterState::Abandoned) {
            WaiterState::Waiting => {
                self.counts.waiting -= 1;
                self.queue.retain(|q| *q != id);
                self.waiters.remove(id.index as usize);
            }
            WaiterState::Granted(conn_id, _, conn) => {
                self.waiters.remove(id.index as usize);
                self.put(now, conn_id, conn, &mut fx);
            }
            WaiterState::Ended(_) | WaiterState::Abandoned => {
                self.waiters.remove(id.index as usize);
            }
        }
        fx
    }

    /// Ends one wait because of a CancelRequest.
    pub fn cancel_waiter(&mut self, id: WaiterId) -> Option<W> {
        self.waiter(id)?;
        self.queue.retain(|q| *q != id);
        self.end_waiter(id, WaitEnd::Cancelled)
    }

    fn end_waiter(&mut self, id: WaiterId, end: WaitEnd) -> Option<W> {
        let w = self.waiters.get_mut(id.index as usize).filter(|w| w.generation == id.generation)?;
        w.state = WaiterState::Ended(end);
        self.counts.waiting -= 1;
        w.waker.take()
    }

    fn fail_all(&mut self, end: &WaitEnd, fx: &mut Effects<C, W>) {
        while let Some(id) = self.queue.pop_front() {
            if self.waiter(id).is_some() {
                fx.wake.extend(self.end_waiter(id, end.clone()));
            }
        }
    }

    /// A lease has ended and the connection is in order.
    #[inline]
    pub fn release(&mut self, now: Instant, id: ConnId, conn: C, fx: &mut Effects<C, W>) {
        if let Some(conn) = self.park(now, id, conn) {
            self.put(now, id, conn, fx);
        }
    }

    /// Keeps a connection whose lease has ended while a cancel for it is under way; gives back any other.
    #[inline]
    fn park(&mut self, now: Instant, id: ConnId, conn: C) -> Option<C> {
        if let Some(c) = self.tracked(id) {
            c.holder = None;
            if c.cancels > 0 {
                self.set_state(id, State::Parked, now);
                self.parked.insert(id, conn);
                return None;
            }
        }
        Some(conn)
    }

    /// Gives a connection in order to the first waiter, or keeps it, or closes it.
    fn put(&mut self, now: Instant, id: ConnId, conn: C, fx: &mut Effects<C, W>) {
        let reason = self.close_reason(id, now);
        self.put_or_close(now, id, conn, reason, fx);
    }

    /// A lease has ended in which nothing was run: whoever comes next may well be the same client, so that its
    /// lifetime does not count yet.
    pub fn release_unused(&mut self, now: Instant, id: ConnId, conn: C, fx: &mut Effects<C, W>) {
        let Some(conn) = self.park(now, id, conn) else { return };
        let reason = self.close_reason(id, now).filter(|r| *r != CloseReason::Lifetime);
        self.put_or_close(now, id, conn, reason, fx);
    }

    fn put_or_close(
        &mut self,
        now: Instant,
        id: ConnId,
        conn: C,
        reason: Option<CloseReason>,
        fx: &mut Effects<C, W>,
    ) {
        if let Some(reason) = reason {
            self.begin_close(id);
            fx.close.push((id, conn, reason));
            fx.look = true;
            return;
        }
        while self.hold == Hold::No
            && let Some(w) = self.queue.pop_front()
        {
            if self.waiter(w).is_none() {
                continue;
            }
            let lease = self.lease_to(id, now, None);
            if let Some(slot) = self.waiters.get_mut(w.index as usize) {
                slot.state = WaiterState::Granted(id, lease, conn);
                self.counts.waiting -= 1;
                fx.wake.extend(slot.waker.take());
            }
            return;
        }
        if self.set_state(id, State::Idle, now) {
            self.idle.push((id, conn));
        } else {
            fx.close.push((id, conn, CloseReason::PoolClosed));
        }
    }

    fn close_reason(&mut self, id: ConnId, now: Instant) -> Option<CloseReason> {
        let (closed, paused, live) = (self.closed, self.hold == Hold::Paused, self.counts.live());
        let max = self.settings.size + self.settings.reserve;
        let asked = self.asked_to_yield > 0;
        let c = self.tracked(id)?;
        Some(if closed {
            CloseReason::PoolClosed
        } else if paused {
            CloseReason::Paused
        } else if let Some(why) = c.doomed {
            why
        } else if live > max {
            CloseReason::Excess
        } else if asked {
            CloseReason::Evicted
        } else if c.expires.is_some_and(|t| now >= t) {
            CloseReason::Lifetime
        } else {
            return None;
        })
    }

    // ---- connections

    /// Whether a connection should be opened now. The caller then takes room in the shared limits, calls
    /// [`Self::begin_open`] and dials.
    pub fn wants_open(&self, now: Instant) -> bool {
        let unsure = self.settings.fast_fail && (self.last_alive.is_none() || self.last_error.is_some());
        let parallel = if unsure { 1 } else { self.settings.max_parallel_opens };
        if self.closed
            || self.hold != Hold::No
            || self.counts.opening >= parallel
            || self.not_before.is_some_and(|t| now < t)
        {
            return false;
        }
        let tracked = self.counts.tracked();
        if self.counts.live() < self.settings.min && tracked < self.settings.size {
            return true;
        }
        if self.probe && self.counts.opening == 0 && tracked < self.settings.size {
            return true;
        }
        // Connections under repair come back, too, but nobody knows when.
        if self.counts.waiting <= self.counts.opening {
            return false;
        }
        if tracked < self.settings.size {
            return true;
        }
        let waited = self.oldest_wait().map(|t| now.saturating_duration_since(t));
        tracked < self.settings.size + self.settings.reserve
            && waited.is_some_and(|w| w >= self.settings.reserve_delay)
    }

    /// The next open would use the reserve.
    pub fn opens_from_reserve(&self) -> bool {
        self.counts.tracked() >= self.settings.size
    }

    pub fn begin_open(&mut self, now: Instant) -> ConnId {
        self.probe = false;
        let generation = self.next_generation();
        let index = self.conns.insert(Tracked {
            generation,
            state: State::Opening,
            lease: 0,
            cancels: 0,
            holder: None,
            since: now,
            caused: Duration::ZERO,
            expires: None,
            doomed: None,
            target: None,
        });
        self.counts.opening += 1;
        ConnId { index: crate::number::count(index), generation }
    }

    pub fn opened(
        &mut self,
        now: Instant,
        id: ConnId,
        conn: C,
        expires: Option<Instant>,
        target: T,
    ) -> Effects<C, W> {
        let mut fx = Effects::default();
        self.failures = 0;
        self.not_before = None;
        self.last_alive = Some(now);
        self.last_error = None;
        self.failing = false;
        self.down = false;
        if let Some(c) = self.tracked(id) {
            c.expires = expires;
            c.target = Some(target);
        }
        self.put(now, id, conn, &mut fx);
        fx.look = true;
        fx
    }

    /// `jitter` is a number from 0 to 1 that spreads the retries of many pools and instances.
    pub fn open_failed(
        &mut self,
        now: Instant,
        id: ConnId,
        failure: OpenFailure,
        jitter: f64,
    ) -> Effects<C, W> {
        let mut fx = Effects::default();
        self.forget(id);
        // One that will be replaced serves nobody else.
        let alive = self
            .conns
            .iter()
            .any(|(_, c)| c.doomed.is_none() && !matches!(c.state, State::Opening | State::Closing));
        if alive {
            self.last_alive = Some(now);
        }
        let restart =
            self.last_alive.is_some_and(|t| now.saturating_duration_since(t) < self.settings.restart_grace);
        let tell = match &failure {
            OpenFailure::Transient(_) | OpenFailure::Local(_) => false,
            OpenFailure::Unreachable(_) => !alive && !restart,
            OpenFailure::Fatal(_) => !alive,
        };
        if matches!(failure, OpenFailure::Local(_)) {
            self.not_before = Some(now + Duration::from_millis(100));
        } else {
            self.failures = self.failures.saturating_add(1);
            let base = Duration::from_millis(50) * 2u32.pow(self.failures.min(16) - 1);
            let delay = base.min(self.settings.max_backoff);
            self.not_before = Some(now + delay.mul_f64(0.75 + 0.25 * jitter.clamp(0.0, 1.0)));
        }
        self.failing = !matches!(failure, OpenFailure::Local(_)) && !failure.is_start();
        self.last_error = Some(failure.error().clone());
        self.last_failure = Some(now);
        // Whoever asked for the pause has stopped the server, most likely.
        if tell && self.hold == Hold::No {
            self.down = true;
            let end = WaitEnd::Failed(failure.error().clone());
            self.fail_all(&end, &mut fx);
        }
        fx
    }

    /// The server has let go of a connection that was to be closed, or was given up on.
    pub fn closed(&mut self, id: ConnId) {
        self.forget(id);
    }

    /// A leased or repaired connection is of no use any more, but the server has not closed it yet.
    pub fn broken(&mut self, now: Instant, id: ConnId) {
        if self.tracked(id).is_some() {
            self.last_alive = Some(now);
        }
        self.begin_close(id);
        self.parked.remove(&id);
    }

    /// A leased or repaired connection is gone.
    pub fn lost(&mut self, now: Instant, id: ConnId) {
        if self.tracked(id).is_some() {
            self.last_alive = Some(now);
        }
        self.forget(id);
        self.parked.remove(&id);
    }

    /// The lease has ended, but the connection must be cleaned before anybody gets it.
    pub fn repairing(&mut self, now: Instant, id: ConnId) {
        if let Some(c) = self.tracked(id) {
            c.holder = None;
        }
        self.set_state(id, State::Repairing, now);
    }

    /// Changes the settings; connections too many go as they are released.
    pub fn reconfigure(&mut self, settings: CoreSettings) {
        self.settings = settings;
    }

    /// The operator's PAUSE, SUSPEND and RESUME. A pause is complete when nothing is tracked any more, a suspension
    /// when nothing is [`Counts::busy`]; a wait's own limit runs on meanwhile.
    pub fn set_hold(&mut self, now: Instant, hold: Hold, fx: &mut Effects<C, W>) {
        if self.hold == hold {
            return;
        }
        self.hold = hold;
        match hold {
            Hold::Suspended => {}
            Hold::Paused => self.close_idle(CloseReason::Paused, fx),
            Hold::No => {
                // What was found while nobody could be served says nothing about now.
                self.not_before = None;
                self.failures = 0;
                // Those that waited are served in their order.
                while self.counts.waiting > 0
                    && let Some((id, conn)) = self.idle.pop()
                {
                    self.put(now, id, conn, fx);
                }
                fx.look = true;
            }
        }
    }

    pub fn hold(&self) -> Hold {
        self.hold
    }

    /// Every tracked connection.
    pub fn servers(&self) -> impl Iterator<Item = ServerView<'_, H, T>> {
        self.conns.iter().map(|(_, c)| ServerView {
            state: c.state,
            since: c.since,
            holder: c.holder.as_ref(),
            doomed: c.doomed.is_some(),
            cancels: c.cancels,
            target: c.target.as_ref(),
        })
    }

    /// Nothing is open, and opening has just failed.
    pub fn is_dry(&self, now: Instant) -> bool {
        self.not_before.is_some_and(|t| now < t) && self.counts.live() <= self.counts.opening
    }

    /// What failed before says nothing about what is dialled next.
    pub fn forget_failures(&mut self) {
        self.failures = 0;
        self.not_before = None;
        self.failing = false;
        self.down = false;
    }

    /// Nobody waits here any more.
    pub fn send_on(&mut self, end: &WaitEnd, fx: &mut Effects<C, W>) {
        self.fail_all(end, fx);
    }

    /// Closes all that is idle, and everything else at its release.
    pub fn doom_all(&mut self, why: CloseReason, fx: &mut Effects<C, W>) {
        for (_, c) in &mut self.conns {
            c.doomed = Some(why);
        }
        self.close_idle(why, fx);
    }

    fn close_idle(&mut self, reason: CloseReason, fx: &mut Effects<C, W>) {
        for (id, conn) in std::mem::take(&mut self.idle) {
            self.begin_close(id);
            fx.close.push((id, conn, reason));
        }
        fx.look = true;
    }

    /// The pool ends: waiters are told, idle connections closed, leased ones when they come back.
    pub fn close(&mut self) -> Effects<C, W> {
        let mut fx = Effects::default();
        self.closed = true;
        self.fail_all(&WaitEnd::Closed, &mut fx);
        self.close_idle(CloseReason::PoolClosed, &mut fx);
        fx
    }

    /// Gives up one idle connection, the least recently used, for another pool; or promises one at the next
    /// release. Returns whether something will become free.
    pub fn evict(&mut self, keep: usize, promise: bool, fx: &mut Effects<C, W>) -> bool {
        if self.counts.live() <= keep {
            return false;
        }
        if self.idle.is_empty() {
            // One at a time: who still needs another asks again when this one has come.
            if promise && self.counts.leased > 0 {
                self.asked_to_yield = 1;
                return true;
            }
            return false;
        }
        let (id, conn) = self.idle.remove(0);
        self.begin_close(id);
        fx.close.push((id, conn, CloseReason::Evicted));
        true
    }

    /// Connections that could be kept busy, and those that would be opened at once if there were room.
    pub fn demand(&self, now: Instant) -> (usize, usize) {
        let (c, s) = (self.counts, &self.settings);
        if self.closed {
            return (0, 0);
        }
        let waited = self.oldest_wait().map(|t| now.saturating_duration_since(t));
        let reserve = if waited.is_some_and(|w| w >= s.reserve_delay) { s.reserve } else { 0 };
        let most = s.size + reserve;
        let min = s.min.min(s.size);
        let busy = (c.leased + c.parked + c.repairing + c.waiting).min(most).max(min);
        let room = most.saturating_sub(c.tracked());
        let lack = c.waiting.saturating_sub(c.opening).max(min.saturating_sub(c.live())).min(room);
        let pause = self.not_before.is_some_and(|t| now < t);
        (busy, if pause { 0 } else { lack })
    }

    /// Gives up `n` connections: the idle ones now, others at their release. Returns how many are closed now.
    pub fn give_back(&mut self, n: usize, fx: &mut Effects<C, W>) -> usize {
        let closed = n.min(self.idle.len());
        for (id, conn) in self.idle.drain(..closed).collect::<Vec<_>>() {
            self.begin_close(id);
            fx.close.push((id, conn, CloseReason::Evicted));
        }
        self.asked_to_yield = (n - closed).min(self.counts.leased);
        closed
    }

    /// Since when the least recently used idle connection is idle.
    pub fn idle_since(&self) -> Option<Instant> {
        let (id, _) = self.idle.first()?;
        self.conns.get(id.index as usize).map(|c| c.since)
    }

    /// Looks at every idle connection; `keep` says whether it is still in order. What is not is to be closed.
    pub fn sweep_idle(&mut self, mut keep: impl FnMut(&mut C) -> bool) -> Vec<(ConnId, C)> {
        let mut dead = Vec::new();
        let mut i = 0;
        while let Some((_, conn)) = self.idle.get_mut(i) {
            if keep(conn) {
                i += 1;
                continue;
            }
            let (id, conn) = self.idle.remove(i);
            self.begin_close(id);
            dead.push((id, conn));
        }
        dead
    }

    // ---- cancel

    /// A CancelRequest for a lease is about to be sent. Refused when the lease is over: it must not hit the next.
    pub fn begin_cancel(&mut self, id: ConnId, lease: u64) -> bool {
        match self.tracked(id) {
            Some(c) if c.state == State::Leased && c.lease == lease => {
                c.cancels += 1;
                true
            }
            _ => false,
        }
    }

    /// [`Self::begin_cancel`], for a lease of which only the numbers are known.
    pub fn begin_cancel_of(&mut self, id: ConnId, lease: u64) -> Option<T> {
        if !self.begin_cancel(id, lease) {
            return None;
        }
        self.tracked(id).and_then(|c| c.target.clone())
    }

    /// The server has closed the cancel's connection, or it was given up. One that was sent and given up `may_strike`
    /// whatever runs on this connection later, so that nobody else gets the connection any more.
    pub fn end_cancel(&mut self, now: Instant, id: ConnId, may_strike: bool) -> Effects<C, W> {
        let mut fx = Effects::default();
        let Some(c) = self.tracked(id) else { return fx };
        c.cancels = c.cancels.saturating_sub(1);
        if may_strike {
            c.doomed = Some(CloseReason::CancelUnanswered);
        }
        if c.cancels == 0
            && c.state == State::Parked
            && let Some(conn) = self.parked.remove(&id)
        {
            self.put(now, id, conn, &mut fx);
        }
        fx
    }

    /// Who holds a connection.
    pub fn holder(&mut self, id: ConnId) -> Option<H> {
        self.tracked(id).and_then(|c| c.holder.clone())
    }

    /// Cancels under way for one connection.
    pub fn cancels(&mut self, id: ConnId) -> u32 {
        self.tracked(id).map_or(0, |c| c.cancels)
    }

    // ---- time

    /// Ends waits that are over and closes what has been idle or alive too long.
    pub fn tick(&mut self, now: Instant) -> Effects<C, W> {
        let mut fx = Effects::default();
        self.charge(now);
        if let Some(limit) = self.settings.wait_timeout {
            while let Some(&front) = self.queue.front() {
                match self.waiter(front) {
                    Some(w) if now.saturating_duration_since(w.since) < limit => break,
                    Some(_) => {
                        self.queue.pop_front();
                        fx.wake.extend(self.end_waiter(front, WaitEnd::TimedOut));
                    }
                    None => {
                        self.queue.pop_front();
                    }
                }
            }
        }
        self.expire_idle(now, &mut fx);
        fx.look = fx.look || self.counts.waiting > 0 || self.counts.live() < self.settings.min;
        fx
    }

    /// The time that clients have waited since the last tick is shared by those who held connections.
    fn charge(&mut self, now: Instant) {
        let since = self.last_tick.replace(now).unwrap_or(now);
        let (waiting, leased) =
            (crate::number::count(self.counts.waiting), crate::number::count(self.counts.leased));
        if waiting == 0 || leased == 0 {
            return;
        }
        for (_, c) in self.conns.iter_mut().filter(|(_, c)| c.state == State::Leased) {
            let lasted = now.saturating_duration_since(since.max(c.since));
            c.caused += lasted.saturating_mul(waiting) / leased;
        }
    }

    fn expire_idle(&mut self, now: Instant, fx: &mut Effects<C, W>) {
        let mut i = 0;
        while let Some((id, _)) = self.idle.get(i) {
            let id = *id;
            let Some(c) = self.conns.get(id.index as usize) else { break };
            let idle = now.saturating_duration_since(c.since);
            let live = self.counts.live();
            let reason = if c.expires.is_some_and(|t| now >= t) {
                Some(CloseReason::Lifetime)
            } else if live > self.settings.size && idle >= self.settings.reserve_delay {
                Some(CloseReason::Excess)
            } else if live > self.settings.min && self.settings.idle_timeout.is_some_and(|t| idle >= t) {
                Some(CloseReason::IdleTimeout)
            } else {
                None
            };
            let Some(reason) = reason else {
                i += 1;
                continue;
            };
            let (id, conn) = self.idle.remove(i);
            self.begin_close(id);
            fx.close.push((id, conn, reason));
        }
    }

    /// Panics when an invariant does not hold.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        let mut seen = Counts { waiting: self.counts.waiting, ..Counts::default() };
        for (_, c) in &self.conns {
            match c.state {
                State::Opening => seen.opening += 1,
                State::Idle => seen.idle += 1,
                State::Leased => seen.leased += 1,
                State::Parked => seen.parked += 1,
                State::Repairing => seen.repairing += 1,
                State::Closing => seen.closing += 1,
            }
        }
        assert_eq!(seen, self.counts);
        assert_eq!(self.idle.len(), self.counts.idle);
        assert_eq!(self.parked.len(), self.counts.parked);
        let waiting = self.queue.iter().filter(|w| self.waiter(**w).is_some()).count();
        assert_eq!(waiting, self.counts.waiting);
        let held = self.hold == Hold::Suspended;
        assert!(waiting == 0 || self.idle.is_empty() || held, "somebody waits beside an idle connection");
        assert!(self.hold != Hold::Paused || self.idle.is_empty(), "idle in a pause");
    }
}

#[cfg(test)]
mod tests;
