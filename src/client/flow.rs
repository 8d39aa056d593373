//! The loop between one client and one server: reads what is there, lets the scans decide, writes what they
//! approved, in both directions at once. Neither direction waits for the other, so that two peers that both
//! only write cannot stop each other for good.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::{observe, params};
use crate::clients::handle::{ClientCtl, ClientState, Signal};
use crate::clock::Clock;
use crate::config::resolved::PoolMode;
use crate::error::{Error, report};
use crate::net::buffer::LARGE;
use crate::net::lane::Lane;
use crate::net::stream::Stream;
use crate::pool::Lease;
use crate::pool::timeouts::Timeouts;
use crate::proto::encode;
use crate::proto::frame;
use crate::proto::pipeline::TxStatus;
use crate::relay::down::{self, Down};
use crate::relay::parting::{self, PATIENCE, Parting, Step};
use crate::relay::state::{ClientProto, Env, Pinned, Retry};
use crate::relay::up::{self, Up};
use crate::services::Services;
use crate::shared::Shared;

/// Bytes that are read from a client although they cannot be forwarded yet.
const READ_AHEAD: usize = 16 * 1024;

/// Why the relay ended.
#[derive(Debug)]
pub enum End {
    /// The transaction is over; the client may have bytes to be written yet.
    Boundary,
    /// A session pool's client has reset its parameters: those that it named at its login are put back.
    Restore,
    /// A client that keeps its connection may have changed what its session holds.
    Check,
    /// The client said Terminate, or its stream ended.
    ClientGone(&'static str),
    /// The client gets this and is closed; the server is cleaned.
    Fail(Error),
    /// The server is gone or broken; the client gets this, unless it heard a FATAL from the server itself.
    Server(Error),
}

/// The clocks of one lease.
#[derive(Debug, Clone)]
pub struct Timers {
    /// The transaction began; none is open in an idle session.
    transaction: Option<Instant>,
    /// An idle session's client said something last.
    session_idle: Option<Instant>,
    /// First message of the batch forwarded, less what the server waited for the client.
    batch: Option<Instant>,
    /// The server has waited for the client since.
    client_turn: Option<Instant>,
    /// Idle in transaction since.
    idle: Option<Instant>,
    /// A write to the client has been stuck since.
    blocked: Option<Instant>,
    /// A cancel of our own was sent then.
    cancelled: Option<Instant>,
    /// Nothing more of the client's is forwarded until that cancel is over: it must strike no later statement.
    hold: bool,
    copy_failed: bool,
    /// The server is at its boundary, but the client has sent it a part of a message that it will ignore.
    at_end: bool,
    /// Where the client's end is watched for, or was seen. Every idle client has room for what is here, and this is
    /// seldom there.
    leaving: Option<Box<Leaving>>,
}

/// What is known of a client that may be leaving.
#[derive(Debug, Clone, Copy, Default)]
struct Leaving {
    parting: Parting,
    /// Nothing reaches the client any more, and what it sent runs to its end: its answers are thrown away, so many bytes
    /// so far.
    deaf: Option<usize>,
}

impl Timers {
    fn leaving(&mut self) -> &mut Leaving {
        self.leaving.get_or_insert_default()
    }

    /// The end of the client's stream was read.
    #[inline]
    fn has_ended(&self) -> bool {
        self.leaving.as_ref().is_some_and(|l| l.parting.has_ended())
    }

    /// The end of the client's stream was seen, read or not.
    fn has_seen_end(&self) -> bool {
        self.leaving.as_ref().is_some_and(|l| l.parting.is_seen())
    }

    #[inline]
    fn is_deaf(&self) -> bool {
        self.leaving.as_ref().is_some_and(|l| l.deaf.is_some())
    }

    /// Between the transactions of a session.
    pub fn resting(now: Instant) -> Self {
        Self { transaction: None, batch: None, session_idle: Some(now), ..Self::new(now) }
    }

    pub fn new(now: Instant) -> Self {
        Self {
            transaction: Some(now),
            session_idle: None,
            batch: Some(now),
            client_turn: None,
            idle: None,
            blocked: None,
            cancelled: None,
            hold: false,
            copy_failed: false,
            at_end: false,
            leaving: None,
        }
    }
}

/// Everything that one poll of the relay needs.
pub struct Flow<'a> {
    pub services: &'a Services,
    pub ctl: &'a Arc<ClientCtl>,
    pub client: &'a mut Stream,
    pub up: &'a mut Lane,
    pub down: &'a mut Lane,
    pub proto: &'a mut ClientProto,
    pub lease: &'a mut Lease,
    pub env: Env<'a>,
    /// Session mode also for a client that keeps its connection because of what its session holds.
    pub mode: PoolMode,
    pub timeouts: &'a Timeouts,
    pub timers: Timers,
    pub silent: Silent,
}

/// Whose stream had nothing to read when it was last asked in this poll: what comes now wakes the task again, so
/// that nobody need ask twice.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent {
    client: bool,
    server: bool,
}

impl Flow<'_> {
    /// The relay has ended elsewhere than at a boundary: the client's turn, or a stall, may last yet.
    pub fn interrupted(&mut self) {
        let now = Clock::now();
        if let Some(idle) = self.timers.idle.or(self.timers.session_idle) {
            self.proto.stats.client_us += Clock::us(idle, now);
        }
        if let Some(stuck) = self.timers.blocked {
            self.proto.stats.stall_us += Clock::us(stuck, now);
        }
    }

    fn shard(&self) -> usize {
        self.ctl.shard()
    }

    /// Cancel safe: all state is in what the flow borrows.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.ctl.waker.register(cx.waker());
        self.silent = Silent::default();
        if self.ctl.any_signal() {
            let leaving = !self.ctl.has(Signal::Leak) && self.mode == PoolMode::Session;
            if self.ctl.has(Signal::Kill) || leaving && self.between_transactions() {
                return Poll::Ready(End::Fail(self.ctl.ending()));
            }
        }
        if self.ctl.any_signal() && self.ctl.has(Signal::Leak) {
            // It may have gone on meanwhile.
            self.ctl.clear(Signal::Leak);
            if let (Some(idle), Some(threshold)) =
                (self.timers.idle, self.lease.pool().spec().settings.leak_threshold)
            {
                let idle = Clock::now().saturating_duration_since(idle);
                return Poll::Ready(End::Fail(Error::TransactionLeak { idle, threshold }));
            }
        }
        loop {
            let mut progress = false;
            if let Some(end) = self.poll_down(cx, &mut progress) {
                return Poll::Ready(end);
            }
            if let Some(end) = self.poll_up(cx, &mut progress) {
                return Poll::Ready(end);
            }
            if !progress {
                break;
            }
        }
        match self.watch_time() {
            Some(end) => Poll::Ready(end),
            None => Poll::Pending,
        }
    }

    /// Of a session pool's client, which keeps its server while it is idle.
    fn between_transactions(&mut self) -> bool {
        let quiet = self.up.is_empty() && !self.up.mid_message() && !self.down.has_output();
        quiet && self.lease.conn().is_some_and(|c| c.state.pipeline.at_boundary())
    }

    /// Server to client.
    #[inline]
    fn poll_down(&mut self, cx: &mut Context<'_>, progress: &mut bool) -> Option<End> {
        if self.timers.is_deaf()
            && let Some(end) = self.drop_answers()
        {
            return Some(end);
        }
        if self.down.has_output() && !self.keeps_back() {
            match self.down.poll_flush(cx, self.client) {
                Poll::Ready(Ok(n)) => {
                    *progress = true;
                    self.proto.stats.to_client += n as u64;
                    if let Some(stuck) = self.timers.blocked.take() {
                        self.proto.stats.stall_us += Clock::us(stuck, Clock::now());
                    }
                }
                Poll::Ready(Err(_)) => {
                    if let Some(end) = self.unreachable("write_error") {
                        return Some(end);
                    }
                }
                Poll::Pending => {
                    if self.timers.blocked.is_none() {
                        self.timers.blocked = Some(Clock::now());
                    }
                    return None;
                }
            }
        }
        if self.silent.server {
            return None;
        }
        let shard = self.shard();
        let Some(conn) = self.lease.conn() else {
            return Some(End::Fail(Error::Internal("relay without a server".to_owned())));
        };
        match self.down.poll_fill(cx, &mut conn.stream, &self.services.shared.buffers, shard) {
            Poll::Pending => {
                self.silent.server = true;
                None
            }
            Poll::Ready(Ok(0)) => Some(self.server_lost("the server closed the connection")),
            Poll::Ready(Err(e)) => Some(self.server_lost(&e.to_string())),
            Poll::Ready(Ok(_)) => {
                *progress = true;
                self.scan_down()
            }
        }
    }

    #[inline]
    fn scan_down(&mut self) -> Option<End> {
        let conn = self.lease.conn()?;
        let owed = conn.state.pipeline.len();
        let answered = self.proto.stats.queries;
        match down::scan(self.down, self.proto, &mut conn.state, &self.env) {
            Ok(Down::Boundary) => {
                conn.state.calls.began = self.timers.batch.take();
                if self.mode == PoolMode::Session {
                    self.batch_over(false);
                    self.idle_session();
                    let busy = self.up.mid_pass() || self.up.has_output();
                    if self.pinned().is_some() {
                        return self.check_pinned(busy);
                    }
                    return (self.proto.may_have_reset() && !busy).then_some(End::Restore);
                }
                if self.up.mid_pass() || self.up.has_output() {
                    // The rest of a COPY that has failed: the next client must not begin inside of it.
                    self.timers.at_end = true;
                    self.timers.idle = Some(Clock::now());
                    return None;
                }
                return Some(End::Boundary);
            }
            Ok(Down::NeedMore) => {}
            Err(bad) => {
                let host = conn.host.to_string();
                return Some(End::Server(Error::ServerProtocol { host, reason: bad.0 }));
            }
        }
        if self.proto.retry == Retry::NeedsSync {
            let conn = self.lease.conn()?;
            up::end_for_retry(self.up, self.proto, &mut conn.state);
            return None;
        }
        if self.proto.retry == Retry::Now {
            self.proto.retry = Retry::No;
            self.services.shared.counters.count("statements_reprepared_total", "");
            let batch = std::mem::take(&mut self.proto.replay);
            self.up.unread(&batch);
            return None;
        }
        let began = self.timers.batch;
        if conn.state.calls.many_answered()
            && let Some(q) = self.env.queries
        {
            observe::book(q, self.ctl, &mut conn.state, 0);
        }
        let p = &conn.state.pipeline;
        let all_answered = p.len() != owed && p.is_empty();
        let in_transaction = all_answered && p.status() != TxStatus::Idle;
        if self.proto.stats.queries != answered || all_answered {
            self.batch_over(!all_answered);
        }
        if in_transaction {
            if self.mode == PoolMode::Statement {
                return Some(End::Fail(Error::TransactionInStatementMode));
            }
            let now = Clock::now();
            self.book(began, now);
            self.timers.idle = Some(now);
            self.ctl.set_state(ClientState::IdleInTransaction, self.services.shared.clock.ms(now));
        }
        None
    }

    /// A round trip inside of a transaction, or of a session pool's client, is over.
    fn book(&mut self, began: Option<Instant>, now: Instant) {
        let Some(began) = began else { return };
        let took = Clock::us(began, now);
        self.lease.pool().book_query(took);
        if let (Some(q), Some(conn)) = (self.env.queries, self.lease.conn()) {
            observe::book(q, self.ctl, &mut conn.state, took);
        }
    }

    /// A ReadyForQuery, or all that was owed, has come: what was timed and cancelled is over, and what is still owed
    /// is a batch of its own.
    fn batch_over(&mut self, more: bool) {
        if !more {
            self.timers.batch = None;
        } else if self.timeouts.query.is_some() {
            self.timers.batch = Some(Clock::now());
        }
        self.timers.client_turn = None;
        self.timers.cancelled = None;
        self.timers.copy_failed = false;
        self.proto.words.clear_cancel();
    }

    /// Why its client keeps the connection between transactions, where that is what its session holds.
    fn pinned(&mut self) -> Option<&Pinned> {
        self.lease.conn()?.state.pinned.as_deref()
    }

    /// After a transaction of a client that keeps its connection.
    fn check_pinned(&mut self, busy: bool) -> Option<End> {
        if busy {
            return None;
        }
        let conn = self.lease.conn()?;
        let rules = conn.state.pinned.as_ref().map(|p| p.rules)?;
        if params::in_doubt(self.proto, &conn.state, &rules) {
            return Some(End::Check);
        }
        params::learn(&self.services.shared, self.ctl, self.proto, conn, self.down);
        self.proto.end_transaction();
        None
    }

    /// A session pool's client keeps its server between transactions.
    fn idle_session(&mut self) {
        let now = Clock::now();
        let began = self.lease.conn().and_then(|c| c.state.calls.began.take());
        self.book(began, now);
        let s = self.proto.stats.take_figures();
        self.ctl.transactions.fetch_add(1, Ordering::Relaxed);
        if let Some(t) = self.timers.transaction {
            self.lease.book_transaction(s, now.saturating_duration_since(t));
        }
        self.timers.idle = None;
        self.timers.transaction = None;
        self.timers.session_idle = Some(now);
        self.ctl.set_state(ClientState::Idle, self.services.shared.clock.ms(now));
        self.ctl.set_deadline(0);
    }

    /// Client to server.
    #[inline]
    fn poll_up(&mut self, cx: &mut Context<'_>, progress: &mut bool) -> Option<End> {
        if let Some(conn) = self.lease.conn() {
            up::probe(self.up, &mut conn.state);
        }
        if self.timers.hold {
            self.timers.hold = self.lease.cancelling();
        }
        if !self.up.has_output() && !self.proto.terminating && !self.choked() {
            if !self.up.unscanned().is_empty() {
                // Of what was there for the client already, nothing may be written for long.
                let before = (self.up.unscanned().len(), self.down.backlog());
                if let Some(end) = self.scan_up() {
                    return Some(end);
                }
                if (self.up.unscanned().len(), self.down.backlog()) != before {
                    *progress = true;
                }
            }
            if !self.up.has_output() && !self.proto.terminating {
                // While nothing can be forwarded a little is read all the same, to see whether the client leaves. What
                // lies behind that is watched for by time.
                if !self.silent.client
                    && !self.timers.has_ended()
                    && (!self.full() || self.up.unscanned().len() < READ_AHEAD)
                {
                    let shard = self.shard();
                    match self.up.poll_fill(cx, self.client, &self.services.shared.buffers, shard) {
                        Poll::Pending => self.silent.client = true,
                        Poll::Ready(Ok(0)) => {
                            *progress = true;
                            self.timers.leaving().parting.end(Clock::now());
                        }
                        Poll::Ready(Err(_)) => {
                            *progress = true;
                            self.timers.leaving().parting.end(Clock::now());
                            if let Some(end) = self.unreachable("read_error") {
                                return Some(end);
                            }
                        }
                        Poll::Ready(Ok(n)) => {
                            *progress = true;
                            self.proto.stats.from_client += n as u64;
                            if !self.choked()
                                && let Some(end) = self.scan_up()
                            {
                                return Some(end);
                            }
                        }
                    }
                }
            }
        }
        if let Some(conn) = self.lease.conn() {
            up::flush_for_us(self.up, &mut conn.state, !self.down.has_output());
        }
        if self.up.has_output() {
            let conn = self.lease.conn()?;
            match self.up.poll_flush(cx, &mut conn.stream) {
                Poll::Ready(Ok(_)) => *progress = true,
                // What the server said before it went is read first.
                Poll::Ready(Err(_)) => self.up.clear(),
                Poll::Pending => {}
            }
        }
        if self.timers.at_end && !self.up.has_output() && !self.up.mid_pass() {
            return Some(End::Boundary);
        }
        if self.timers.has_ended() && !self.proto.terminating {
            return self.wind_up(progress);
        }
        if self.proto.terminating && !self.up.has_output() && !self.down.has_output() && self.nothing_comes()
        {
            let ended = self.timers.has_ended();
            return Some(End::ClientGone(if ended { "eof" } else { "terminate" }));
        }
        None
    }

    /// The client's stream has ended. PostgreSQL would read the end behind all that was sent before it: what is whole
    /// is forwarded first, and what is owed for it is awaited as behind a Terminate.
    #[cold]
    fn wind_up(&mut self, progress: &mut bool) -> Option<End> {
        if self.up.has_output() || self.proto.retry != Retry::No {
            return None;
        }
        if !self.up.unscanned().is_empty() {
            if self.full() || self.choked() {
                return None;
            }
            let before = self.up.unscanned().len();
            if let Some(end) = self.scan_up() {
                return Some(end);
            }
            if self.up.unscanned().len() != before || self.up.has_output() {
                *progress = true;
                return None;
            }
            if self.full() || self.proto.terminating {
                return None;
            }
        }
        if self.up.mid_pass() {
            // The server has got a part of a message whose rest will not come.
            return Some(End::ClientGone("eof"));
        }
        if let Some(conn) = self.lease.conn() {
            up::close_batch(self.up, &mut conn.state);
        }
        self.proto.terminating = true;
        *progress = true;
        None
    }

    /// Nothing reaches the client any more. Either that ends the relay, or what the client sent runs to its end.
    #[cold]
    fn unreachable(&mut self, why: &'static str) -> Option<End> {
        if !self.timeouts.finish_for_gone {
            return Some(End::ClientGone(why));
        }
        self.timers.blocked = None;
        self.timers.leaving().deaf.get_or_insert(0);
        self.drop_answers()
    }

    /// Throws away what the client cannot be told. PostgreSQL ends a statement whose rows nobody takes.
    #[cold]
    fn drop_answers(&mut self) -> Option<End> {
        let dropped = self.timers.leaving.as_mut()?.deaf.as_mut()?;
        *dropped += self.down.backlog();
        self.down.drop_output();
        (*dropped > LARGE).then_some(End::ClientGone("write_error"))
    }

    /// Bytes of the client lie unread, and its end may lie behind them.
    fn is_blind(&self) -> bool {
        !self.silent.client && !self.proto.terminating && !self.timers.has_ended()
    }

    /// Looks whether the client is still there, where no read would tell. Returns when to look again.
    #[cold]
    fn look_at_client(&mut self, now: Instant) -> Result<Instant, End> {
        // As long as anything moves, in either direction, there is no need to ask.
        let (stats, waiting) = (&self.proto.stats, self.up.backlog() as u64);
        let moved = stats.from_client.wrapping_add(stats.to_client).wrapping_sub(waiting);
        let unread_behind = self.is_blind().then_some(moved);
        match self.timers.leaving().parting.look(self.client.peer_end(), PATIENCE, unread_behind, now) {
            Step::Wait(at) => Ok(at),
            Step::Gone => {
                // What is behind a Terminate or an end that was read is awaited no longer, nor is what lies unread.
                self.unreachable("eof").map_or(Ok(now + parting::LOOK), Err)
            }
            Step::Ask => {
                if !self.down.mid_message()
                    && !self.down.has_output()
                    && let Some(question) = parting::question(&self.proto.view)
                {
                    self.down.insert().extend_from_slice(&question);
                    self.ctl.waker.wake();
                }
                Ok(self.timers.leaving().parting.asked(now))
            }
        }
    }

    #[inline]
    fn scan_up(&mut self) -> Option<End> {
        let conn = self.lease.conn()?;
        let was_idle = conn.state.pipeline.is_empty();
        let result = up::scan(self.up, self.proto, &mut conn.state, &self.env);
        self.ctl.set_statement(conn.state.calls.last);
        match result {
            Ok(Up::Terminate) => {
                self.proto.terminating = true;
                up::close_batch(self.up, &mut conn.state);
            }
            Ok(Up::NeedMore | Up::Full) => {}
            Err(e) => return Some(End::Fail(e)),
        }
        if was_idle && !conn.state.pipeline.is_empty() {
            self.timers.at_end = false;
            down::emit_local(self.down, self.proto, &mut conn.state);
            if self.timers.batch.is_none() {
                let now = Clock::now();
                self.timers.batch = Some(now);
                self.timers.transaction.get_or_insert(now);
                if let Some(idle) = self.timers.idle.take().or(self.timers.session_idle.take()) {
                    self.proto.stats.client_us += Clock::us(idle, now);
                }
                self.timers.session_idle = None;
                self.timers.copy_failed = false;
                self.ctl.set_state(ClientState::Active, self.services.shared.clock.ms(now));
            }
        }
        None
    }

    /// What waits to be written to the client it has not asked for, and its server would not have sent it yet.
    #[inline]
    fn keeps_back(&mut self) -> bool {
        let bytes = self.down.backlog();
        !self.proto.terminating && self.lease.conn().is_some_and(|c| c.state.keeps_back(bytes))
    }

    /// Nothing may be forwarded before answers have come.
    fn full(&mut self) -> bool {
        self.proto.retry != Retry::No || self.lease.conn().is_some_and(|c| c.state.full())
    }

    /// The client reads too little of what it gets, or a cancel must not strike what it sends next.
    fn choked(&self) -> bool {
        self.timers.hold || self.down.backlog() > LARGE
    }

    /// The server will say nothing more unless the client does first.
    fn nothing_comes(&mut self) -> bool {
        self.lease
            .conn()
            .is_none_or(|c| c.state.pipeline.ready_owed() == 0 || c.state.pipeline.wants_copy_data())
    }

    fn server_lost(&mut self, reason: &str) -> End {
        let host = self.lease.conn().map(|c| c.host.to_string()).unwrap_or_default();
        End::Server(Error::ServerLost { host, reason: reason.to_owned() })
    }

    // ---- time

    /// Nothing more can be done now: sees whether a limit has passed, and says when to look again.
    fn watch_time(&mut self) -> Option<End> {
        let mut t = *self.timeouts;
        if self.mode == PoolMode::Session
            && let Some(pinned) = self.pinned()
        {
            t.session_idle = pinned.idle.or(t.client_idle);
        }
        let none = t.query.is_none()
            && t.transaction.is_none()
            && t.idle_transaction.is_none()
            && t.session_idle.is_none();
        let watched = (self.is_blind() || self.timers.has_seen_end()) && !self.timers.is_deaf();
        if none && self.timers.blocked.is_none() && !self.timers.at_end && !watched {
            self.ctl.set_deadline(0);
            return None;
        }
        let now = Clock::now();
        let look_at = if watched {
            match self.look_at_client(now) {
                Ok(at) => Some(at),
                Err(end) => return Some(end),
            }
        } else {
            None
        };
        self.follow_turns(now);
        let mut next: Option<Instant> = look_at;
        let mut due = |at: Instant| {
            next = Some(next.map_or(at, |n| n.min(at)));
            now >= at
        };
        let since = |t: Instant| now.saturating_duration_since(t);
        if let (Some(limit), Some(at)) = (t.client_write, self.timers.blocked)
            && due(at + limit)
        {
            return Some(self.timed_out("client_write_timeout", Error::ClientWriteTimeout { limit }));
        }
        if let (Some(limit), Some(at)) = (t.transaction, self.timers.transaction)
            && due(at + limit)
        {
            let ran = since(at);
            return Some(self.timed_out("transaction_timeout", Error::TransactionTimeout { ran, limit }));
        }
        if let (Some(limit), Some(at)) = (t.idle_transaction, self.timers.idle)
            && due(at + limit)
        {
            let idle = since(at);
            let e = Error::IdleTransactionTimeout { idle, limit };
            return Some(self.timed_out("idle_transaction_timeout", e));
        }
        if let (Some(limit), Some(at)) = (t.session_idle, self.timers.session_idle)
            && due(at + limit)
        {
            let idle = since(at);
            return Some(match self.pinned().filter(|p| p.idle.is_some()).map(|p| p.kinds.clone()) {
                Some(kinds) => {
                    self.timed_out("pin_idle_timeout", Error::PinIdleTimeout { kinds, idle, limit })
                }
                None => self.timed_out("client_idle_timeout", Error::ClientIdleTimeout { idle, limit }),
            });
        }
        if let (true, Some(at)) = (self.timers.at_end && !t.cancel_wait.is_zero(), self.timers.idle)
            && due(at + t.cancel_wait)
        {
            let why = "the rest of a CopyData message did not come".to_owned();
            return Some(End::Fail(Error::ProtocolViolation(why)));
        }
        if let (Some(limit), Some(start)) = (t.query, self.timers.batch) {
            match (self.timers.cancelled, self.timers.client_turn) {
                (Some(at), _) => {
                    if due(at + t.cancel_wait) {
                        let e =
                            Error::QueryTimeoutUnanswered { ran: since(start), limit, grace: t.cancel_wait };
                        return Some(self.timed_out("query_timeout_unanswered", e));
                    }
                }
                // A COPY whose client sends nothing more.
                (None, Some(turn)) => {
                    if self.timers.blocked.is_none() && !self.timers.copy_failed && due(turn + limit) {
                        self.fail_copy(since(start), limit);
                    }
                }
                (None, None) => {
                    if due(start + limit) && t.query_ends {
                        let e = Error::QueryTimeout { ran: since(start), limit };
                        return Some(self.timed_out("query_timeout", e));
                    }
                    if now >= start + limit {
                        self.cancel_query(now, since(start), limit);
                        let at = now + t.cancel_wait;
                        next = Some(next.map_or(at, |n| n.min(at)));
                    }
                }
            }
        }
        self.ctl.set_deadline(next.map_or(0, |n| self.services.shared.clock.ms(n) + 1));
        None
    }

    /// While the server waits for the client the query's clock stands still.
    fn follow_turns(&mut self, now: Instant) {
        let Some(conn) = self.lease.conn() else { return };
        let p = &conn.state.pipeline;
        let clients_turn = p.wants_copy_data() || self.timers.blocked.is_some();
        match (self.timers.client_turn, clients_turn) {
            (None, true) => self.timers.client_turn = Some(now),
            (Some(t), false) => {
                self.timers.client_turn = None;
                if let Some(b) = &mut self.timers.batch {
                    *b += now.saturating_duration_since(t);
                }
            }
            _ => {}
        }
    }

    fn timed_out(&mut self, which: &'static str, e: Error) -> End {
        self.services.shared.counters.count("timeouts_total", which);
        End::Fail(e)
    }

    fn own_error(&mut self, ran: Duration, limit: Duration) {
        self.services.shared.counters.count("timeouts_total", "query_timeout");
        let e = Error::QueryTimeout { ran, limit };
        self.services.told.in_session(self.ctl, &e);
        let message = encode::error_response(&report(&e));
        self.proto.words.set_cancel(message.get(frame::HEADER..).map(Into::into));
    }

    fn cancel_query(&mut self, now: Instant, ran: Duration, limit: Duration) {
        self.timers.cancelled = Some(now);
        self.timers.hold = true;
        self.own_error(ran, limit);
        self.lease.cancel();
    }

    /// The server answers CopyFail with an error, which the client gets as a query timeout.
    fn fail_copy(&mut self, ran: Duration, limit: Duration) {
        self.timers.copy_failed = true;
        if self.up.mid_pass() || self.up.has_output() {
            // In the middle of a CopyData nothing can be inserted.
            self.cancel_query(Clock::now(), ran, limit);
            return;
        }
        self.own_error(ran, limit);
        let Some(conn) = self.lease.conn() else { return };
        let out = self.up.insert();
        let text = b"query_timeout\0";
        out.push(frame::fe::COPY_FAIL);
        out.extend_from_slice(&frame::length(text.len()));
        out.extend_from_slice(text);
        conn.state.pipeline.sent(crate::proto::pipeline::Expect::CopyEnd);
        self.ctl.waker.wake();
    }
}

/// Writes what `lane` has for the client, within `limit`. Cancel safe.
pub async fn flush(
    lane: &mut Lane,
    client: &mut Stream,
    ctl: &ClientCtl,
    shared: &Shared,
    limit: Option<Duration>,
    last_words: bool,
) -> Result<u64, &'static str> {
    let mut started = None::<Instant>;
    std::future::poll_fn(|cx| {
        ctl.waker.register(cx.waker());
        if !last_words && ctl.any_signal() && ctl.has(Signal::Kill) {
            return Poll::Ready(Err("killed"));
        }
        match lane.poll_flush(cx, client) {
            Poll::Pending => {
                let now = Clock::now();
                let since = *started.get_or_insert(now);
                if let Some(l) = limit {
                    if now >= since + l {
                        shared.counters.count("timeouts_total", "client_write_timeout");
                        return Poll::Ready(Err("client_write_timeout"));
                    }
                    ctl.set_deadline(shared.clock.ms(since + l) + 1);
                }
                Poll::Pending
            }
            other => {
                let n = ready!(other).map_err(|_| "write_error")?;
                ctl.set_deadline(0);
                Poll::Ready(Ok(n as u64))
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests;
