//! One client after its login: idle, waiting, active, and round again. While idle it holds neither a server nor
//! a buffer.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::flow::{self, End, Flow, Silent, Timers};
use super::held::Front;
use super::listening::Listening;
use super::route::{Route, Unserved};
use super::{observe, params};
use crate::clients::Places;
use crate::clients::handle::{ClientCtl, ClientState, Signal};
use crate::clients::link::Link;
use crate::clock::Clock;
use crate::config::resolved::PoolMode;
use crate::error::{Error, Severity, report};
use crate::net::lane::Lane;
use crate::net::stream::Stream;
use crate::pool::departure::{Departure, HALF_SENT};
use crate::pool::{Checkout, HotSettings, Lease, Pool};
use crate::proto::encode;
use crate::proto::frame::fe;
use crate::proto::holdings::Holdings;
use crate::proto::params::ParamSet;
use crate::proto::pipeline::TxStatus;
use crate::proto::startup::Replication;
use crate::relay::broken::Broken;
use crate::relay::parting::{self, Parting, Step};
use crate::relay::state::{ClientProto, DISCARDED, Env, TxStats};
use crate::relay::up::{self, Alone};
use crate::server::questions;
use crate::services::Services;

/// Bytes that a waiting client may add to its request before they stay in its socket.
const WAIT_BUFFER: usize = 64 * 1024;

/// A client of this application_name panics with a server in its hands; in unit tests only.
#[cfg(test)]
pub(crate) const PANIC: &str = "panic in the relay";

/// Why a session ended; the label of the metric and the word in the log.
pub(super) type Goodbye = &'static str;

pub struct Session {
    pub(super) services: Arc<Services>,
    pub ctl: Arc<ClientCtl>,
    pub(super) pool: Arc<Pool>,
    pub(super) proto: ClientProto,
    stream: Option<Stream>,
    pub(super) up: Lane,
    down: Lane,
    /// An error was answered in the extended protocol: everything up to the next Sync is skipped.
    skip_to_sync: bool,
    places: Option<Box<Places>>,
    pub(super) hot: Arc<HotSettings>,
    /// Where its database has several servers to choose from.
    pub(super) route: Option<Box<Route>>,
    /// Where it listens, and the listener hears for it.
    pub(super) listening: Option<Box<Listening>>,
}

/// Looks for the end of a client that waits, where nothing more is read from it.
struct Watch {
    parting: Parting,
    /// It was just asked whether it is still there: until the next look it is not served.
    unsure: bool,
    pause: std::pin::Pin<Box<tokio::time::Sleep>>,
}

impl Watch {
    fn new() -> Self {
        let pause = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { parting: Parting::default(), unsure: false, pause }
    }

    fn again(&mut self, at: Instant) {
        self.pause.as_mut().reset(at.into());
    }

    /// Whether nothing reaches the client any more; arranges for the next look. A client that waits has been sent
    /// nothing for its request yet, so it is asked as soon as its end is seen.
    fn has_left(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
        down: &mut Lane,
        view: &ParamSet,
    ) -> bool {
        while self.pause.as_mut().poll(cx).is_ready() {
            let now = Clock::now();
            self.unsure = false;
            // Nothing is read as long as it waits.
            let unread_behind = (!self.parting.has_ended()).then_some(0);
            let next = match self.parting.look(stream.peer_end(), Duration::ZERO, unread_behind, now) {
                Step::Gone => return true,
                Step::Wait(at) => at,
                Step::Ask => {
                    if !down.has_output()
                        && let Some(question) = parting::question(view)
                    {
                        down.insert().extend_from_slice(&question);
                        if let Poll::Ready(Err(_)) = down.poll_flush(cx, stream) {
                            return true;
                        }
                    }
                    self.unsure = true;
                    self.parting.asked(now)
                }
            };
            self.again(next);
        }
        false
    }
}

/// When a server was lost.
const WHILE_SET: &str = "while its parameters were set";

/// What a client that waits is told, in PgBouncer's words.
const QUEUED: &str = "No server connection available in postgres backend, client being queued";

enum Next {
    Begin,
    End(Goodbye),
}

impl Session {
    pub fn new(services: Arc<Services>, ctl: Arc<ClientCtl>, pool: Arc<Pool>, proto: ClientProto) -> Self {
        let hot = pool.hot();
        Self {
            services,
            ctl,
            pool,
            proto,
            stream: None,
            up: Lane::default(),
            down: Lane::default(),
            skip_to_sync: false,
            places: None,
            hot,
            route: None,
            listening: None,
        }
    }

    /// The login is over; `early` are bytes that the client sent behind it.
    pub fn start(&mut self, stream: Stream, early: &[u8], places: Box<Places>) {
        self.ctl.set_place(&stream, Replication::No);
        self.stream = Some(stream);
        self.places = Some(places);
        if !early.is_empty() {
            self.up.preload(early);
        }
        self.services.clients.insert(self.ctl.clone());
        if self.services.seeing_off.load(Ordering::SeqCst) {
            self.ctl.signal(Signal::Drain);
        }
        self.set_state(ClientState::Idle);
    }

    pub(super) fn set_state(&self, s: ClientState) {
        self.ctl.set_state(s, self.services.shared.clock.ms(Clock::now()));
    }

    /// Runs to the end of the session; returns why it ended.
    pub async fn run(&mut self) -> Goodbye {
        loop {
            match self.idle().await {
                Next::Begin => {}
                Next::End(why) => return why,
            }
            let end = self.transaction().await;
            if let Some(r) = &mut self.route {
                r.over();
            }
            if let Some(why) = end {
                return why;
            }
        }
    }

    /// The panic of a session is told to its client and ends only that session.
    pub async fn after_panic(&mut self) {
        self.services.shared.counters.count("panics_total", "session");
        self.farewell(&Error::Internal("the session's task panicked".to_owned())).await;
    }

    // ---- idle

    /// Writes what is owed and waits for a message that needs a server.
    async fn idle(&mut self) -> Next {
        loop {
            match self.local() {
                Ok(Some(Next::Begin)) => return Next::Begin,
                Ok(Some(end)) => {
                    let _ = self.flush().await;
                    return end;
                }
                Ok(None) => {}
                Err(e) => {
                    self.farewell(&e).await;
                    return Next::End("protocol_violation");
                }
            }
            self.proto.statements.settle();
            let written = if self.listening.is_none() {
                self.flush().await
            } else {
                Box::pin(self.flush_heard()).await
            };
            if let Err(why) = written {
                return Next::End(why);
            }
            if let Some(e) = self.boundary_signal() {
                self.farewell(&e).await;
                return Next::End("admin");
            }
            let shard = self.ctl.shard();
            self.up.release(&self.services.shared.buffers, shard);
            self.down.release(&self.services.shared.buffers, shard);
            match self.read_idle().await {
                Ok(()) => {}
                Err(why) => return Next::End(why),
            }
        }
    }

    pub(super) async fn flush(&mut self) -> Result<(), Goodbye> {
        if !self.down.has_output() {
            return Ok(());
        }
        let Some(stream) = &mut self.stream else { return Err("no_stream") };
        // The usual case: there is room in the socket.
        let now = std::future::poll_fn(|cx| Poll::Ready(self.down.poll_flush(cx, stream))).await;
        let n = match now {
            Poll::Ready(Ok(n)) => n as u64,
            Poll::Ready(Err(_)) => return Err("write_error"),
            Poll::Pending => {
                let (shared, limit) =
                    (&self.services.shared, self.services.shared.config().limits.client_write_timeout);
                let flushing = Box::pin(flow::flush(&mut self.down, stream, &self.ctl, shared, limit, false));
                Self::unless_deaf(self.listening.as_deref(), flushing).await?
            }
        };
        self.proto.stats.to_client += n;
        Ok(())
    }

    /// Writes what the socket takes now, so that an answer does not wait for a question of ours.
    pub(super) async fn flush_at_once(&mut self) {
        let Some(stream) = &mut self.stream else { return };
        // An error shows again at the next write.
        let now = std::future::poll_fn(|cx| Poll::Ready(self.down.poll_flush(cx, stream))).await;
        if let Poll::Ready(Ok(n)) = now {
            self.proto.stats.to_client += n as u64;
        }
    }

    pub(super) fn down_lane(&mut self) -> &mut Lane {
        &mut self.down
    }

    /// What ends a session between transactions.
    fn boundary_signal(&self) -> Option<Error> {
        if !self.ctl.any_signal() {
            return None;
        }
        // The transaction that it was about is over.
        self.ctl.clear(Signal::Leak);
        if !self.ctl.any_signal() {
            return None;
        }
        Some(self.ctl.ending())
    }

    async fn read_idle(&mut self) -> Result<(), Goodbye> {
        let due = self.hot.client_idle.map(|l| {
            let now = Clock::now();
            self.ctl.set_deadline(self.services.shared.clock.deadline(now, l));
            now + l
        });
        let Some(stream) = &mut self.stream else { return Err("no_stream") };
        let (up, ctl, services) = (&mut self.up, &self.ctl, &self.services);
        let listening = self.listening.as_deref();
        let shard = ctl.shard();
        let read = std::future::poll_fn(|cx| {
            ctl.waker.register(cx.waker());
            if let Some(at) = due
                && Clock::now() >= at
            {
                return Poll::Ready(Err("client_idle_timeout"));
            }
            match up.poll_fill(cx, stream, &services.shared.buffers, shard) {
                Poll::Ready(Ok(0)) => Poll::Ready(Err("eof")),
                Poll::Ready(Ok(n)) => Poll::Ready(Ok(n)),
                Poll::Ready(Err(_)) => Poll::Ready(Err("read_error")),
                Poll::Pending if ctl.any_signal() || Self::has_news(listening) => Poll::Ready(Ok(0)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        match read {
            Ok(n) => {
                self.proto.stats.from_client += n as u64;
                Ok(())
            }
            Err("client_idle_timeout") => {
                let limit = self.hot.client_idle.unwrap_or_default();
                self.services.shared.counters.count("timeouts_total", "client_idle_timeout");
                self.farewell(&Error::ClientIdleTimeout { idle: limit, limit }).await;
                Err("client_idle_timeout")
            }
            Err(why) => Err(why),
        }
    }

    /// Reads more of a request that is not whole yet.
    pub(super) async fn more(&mut self) -> Result<(), Goodbye> {
        self.flush().await?;
        if let Some(e) = self.boundary_signal() {
            self.farewell(&e).await;
            return Err("admin");
        }
        let there = self.up.unscanned().len();
        self.up.reserve(there + 1024);
        self.read_idle().await
    }

    /// Deals with what needs no server. `None`: more bytes are needed.
    fn local(&mut self) -> Result<Option<Next>, Error> {
        let max = self.hot.max_message;
        loop {
            if self.up.mid_message() {
                self.up.continue_message();
                if self.up.mid_message() {
                    return Ok(None);
                }
            }
            let Some(h) = up::next_header(&self.up, max)? else { return Ok(None) };
            if self.route.is_some() && !self.skip_to_sync {
                match self.front(h) {
                    Front::Dealt => continue,
                    Front::NeedMore => return Ok(None),
                    Front::Pass => {}
                }
            }
            match h.tag {
                fe::TERMINATE => return Ok(Some(Next::End("terminate"))),
                fe::SYNC => {
                    self.up.discard(h.total);
                    self.skip_to_sync = false;
                    let status = self.status();
                    self.down.insert().extend_from_slice(&encode::ready_for_query(status));
                }
                // PostgreSQL ignores the rest of a COPY that has failed, and a Flush has nothing to flush.
                fe::COPY_DATA | fe::COPY_DONE | fe::COPY_FAIL | fe::FLUSH => self.up.discard(h.total),
                _ if self.skip_to_sync => self.up.discard(h.total),
                fe::PARSE | fe::CLOSE => {
                    let env = env(&self.services, &self.pool, &self.hot);
                    match up::alone(&mut self.up, h, &mut self.proto, &env)? {
                        Alone::Answered(bytes) => self.down.insert().extend_from_slice(bytes),
                        Alone::NeedsServer => return Ok(Some(Next::Begin)),
                        Alone::NeedMore => return Ok(None),
                    }
                }
                _ => return Ok(Some(Next::Begin)),
            }
        }
    }

    pub(super) fn tell(&mut self, bytes: &[u8]) {
        self.down.insert().extend_from_slice(bytes);
    }

    /// The rest of the batch is skipped.
    pub(super) fn skip(&mut self) {
        self.skip_to_sync = true;
    }

    // ---- with a server

    /// One transaction (in session mode: the rest of the session). `Some` ends the session.
    async fn transaction(&mut self) -> Option<Goodbye> {
        if let Some(e) = self.boundary_signal() {
            self.farewell(&e).await;
            return Some("admin");
        }
        if self.route.is_none() && self.pool.version() != self.hot.version {
            self.hot = self.pool.hot();
        }
        if self.hot.no_simple_query && self.asks_simply() {
            self.farewell(&Error::ProtocolViolation("PQexec disallowed".to_owned())).await;
            return Some("protocol_violation");
        }
        self.proto.stats.queued_us = 0;
        let got = if self.route.is_some() {
            Box::pin(self.routed()).await
        } else {
            match self.lease().await {
                Ok(l) => Ok(l),
                Err(why) => Err(Box::pin(self.unserved(why)).await),
            }
        };
        let mut lease = match got {
            Ok(l) => l,
            Err(out) => return out,
        };
        self.ctl.set_state(ClientState::Active, self.services.shared.clock.ms(lease.since));
        if let Some(after) = self.hot.check_after {
            match Box::pin(self.checked(lease, after)).await {
                Ok(l) => lease = l,
                Err(out) => return out,
            }
        }
        if self.hot.reset_always
            && let Some(conn) = lease.conn()
        {
            conn.reset_always = true;
        }
        let in_step = lease.conn().is_some_and(|c| params::in_step(&self.proto, c));
        if !in_step {
            match Box::pin(self.prepare(lease)).await {
                Ok(l) => lease = l,
                Err(out) => return out,
            }
        }
        if self.listening.is_some() {
            match Box::pin(self.recall(lease)).await {
                Ok(l) => lease = l,
                Err(out) => return out,
            }
        }
        if self.status() != TxStatus::Idle {
            match Box::pin(self.begin_held(lease)).await {
                Ok(l) => lease = l,
                Err(out) => return out,
            }
        }
        if let Some(conn) = lease.conn() {
            conn.state.calls.queue_us = self.proto.stats.queued_us;
        }
        let (mut lease, end) = match self.relay(&mut lease, false).await {
            End::Restore => match Box::pin(self.go_on(lease)).await {
                Ok(rest) => rest,
                Err(out) => return out,
            },
            end => (lease, end),
        };
        self.ctl.set_deadline(0);
        let rules = &self.hot.session;
        let certain = lease.conn().is_none_or(|c| !params::in_doubt(&self.proto, &c.state, rules));
        if matches!(end, End::Boundary) && certain {
            self.hand_back(lease);
            return None;
        }
        Box::pin(self.finish(lease, end)).await
    }

    /// A server for the request at the front. What it holds meanwhile is its own, and not room in every idle client's
    /// task; what is seldom is boxed for the same reason.
    async fn lease(&mut self) -> Result<Lease, Unserved> {
        let now = Clock::now();
        let mut waiting = match self.pool.checkout(&self.ctl, now) {
            Checkout::Ready(l) => return Ok(l),
            Checkout::Wait(w) => w,
            Checkout::Refused(e) => return Err(Unserved::Error(e)),
        };
        self.wait(&mut waiting).await
    }

    /// Tells the client, where there is still somebody to be told.
    pub(super) async fn unserved(&mut self, why: Unserved) -> Option<Goodbye> {
        match why {
            Unserved::Error(e) => self.not_served(e).await,
            Unserved::End(why) => Some(why),
        }
    }

    /// The usual end: nothing is owed.
    pub(super) fn hand_back(&mut self, mut lease: Lease) {
        let now = Clock::now();
        if let Some(conn) = lease.conn() {
            params::learn(&self.services.shared, &self.ctl, &mut self.proto, conn, &mut self.down);
        }
        let (stats, query_us) = self.over(&mut lease, now);
        if let Some(conn) = lease.conn()
            && let Some(tag) = conn.state.marked.filter(|m| *m != DISCARDED)
        {
            self.services.shared.count_mark(tag, &self.ctl.application_name());
        }
        lease.release(stats, query_us, now);
        self.ctl.set_state(ClientState::Idle, self.services.shared.clock.ms(now));
    }

    /// A transaction is over: its figures, and how long its last round trip took, for the pool to book.
    #[inline]
    pub(super) fn over(&mut self, lease: &mut Lease, now: Instant) -> (TxStats, Option<u64>) {
        let query_us = self.book(lease, now);
        let stats = self.reset_transaction();
        self.ctl.transactions.fetch_add(1, Ordering::Relaxed);
        self.ctl.set_prepared(self.proto.statements.len());
        self.after(lease, stats);
        (stats, query_us)
    }

    /// Forgets what belonged to one transaction, and returns its figures.
    pub(super) fn reset_transaction(&mut self) -> TxStats {
        self.proto.end_transaction();
        if let Some(told) = self.proto.words.take() {
            self.book_told(&told);
        }
        std::mem::take(&mut self.proto.stats)
    }

    #[cold]
    fn book_told(&self, told: &[Error]) {
        for e in told {
            self.count_error(report(e).code);
            self.services.told.in_session(&self.ctl, e);
        }
    }

    /// `resting`: a session goes on in which no transaction is open.
    pub(super) async fn relay(&mut self, lease: &mut Lease, resting: bool) -> End {
        #[cfg(test)]
        assert!(&*self.ctl.application_name() != PANIC, "a panic that a test asked for");
        let hot = &self.hot;
        let Some(stream) = &mut self.stream else { return End::ClientGone("no_stream") };
        let mut flow = Flow {
            services: &self.services,
            ctl: &self.ctl,
            client: stream,
            up: &mut self.up,
            down: &mut self.down,
            proto: &mut self.proto,
            timers: if resting { Timers::resting(Clock::now()) } else { Timers::new(lease.since) },
            silent: Silent::default(),
            lease,
            env: env(&self.services, &self.pool, hot),
            mode: if resting { PoolMode::Session } else { hot.mode },
            timeouts: &hot.timeouts,
        };
        let end = std::future::poll_fn(|cx| flow.poll(cx)).await;
        if !matches!(end, End::Boundary) {
            flow.interrupted();
        }
        end
    }

    /// For a wait that may be long: a waiting client keeps just the bytes that it has sent.
    pub(super) fn shrink(&mut self) {
        self.up.shrink(&self.services.shared.buffers, self.ctl.shard());
    }

    /// Awaits what is worth waiting for, and sees meanwhile whether the client leaves. Whatever a client waits for
    /// before it has a server, it waits here, and here the time of that is booked.
    pub(super) async fn while_waiting<T>(
        &mut self,
        mut what: impl FnMut(&mut Context<'_>, &Arc<ClientCtl>) -> Poll<T>,
    ) -> Result<T, Goodbye> {
        let began = Clock::now();
        let ctl = &self.ctl;
        let shard = ctl.shard();
        let Some(stream) = &mut self.stream else { return Err("no_stream") };
        let (up, down, services) = (&mut self.up, &mut self.down, &self.services);
        let mut notify_at = self.hot.wait_notify.map(|after| Clock::now() + after);
        if let Some(after) = self.hot.wait_notify {
            ctl.set_deadline(services.shared.clock.deadline(Clock::now(), after));
        }
        let view = &self.proto.view;
        // Made for a client whose end must be watched for: in the usual wait there is none.
        let mut watch: Option<Box<Watch>> = None;
        let got = std::future::poll_fn(|cx| {
            if notify_at.is_some_and(|at| Clock::now() >= at) {
                notify_at = None;
                ctl.set_deadline(0);
                down.insert().extend_from_slice(&encode::notice(QUEUED).unwrap_or_default());
            }
            // The answer to the request before is not kept back.
            if down.has_output()
                && let Poll::Ready(Err(_)) = down.poll_flush(cx, stream)
            {
                return Poll::Ready(Err("write_error"));
            }
            // Before it is served: what a client that has left wanted must not run.
            if let Some(w) = &mut watch {
                if w.has_left(cx, stream, down, view) {
                    return Poll::Ready(Err("eof_waiting"));
                }
                if w.unsure {
                    return Poll::Pending;
                }
            }
            if let Poll::Ready(r) = what(cx, ctl) {
                return Poll::Ready(Ok(r));
            }
            ctl.waker.register(cx.waker());
            if ctl.any_signal() && ctl.has(Signal::Kill) {
                return Poll::Ready(Err("admin"));
            }
            let mut ended = watch.as_ref().is_some_and(|w| w.parting.has_ended());
            while !ended && up.unscanned().len() < WAIT_BUFFER {
                match up.poll_fill(cx, stream, &services.shared.buffers, shard) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok(0)) => ended = true,
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) => return Poll::Ready(Err("read_error_waiting")),
                }
            }
            // Nothing more is read, and no read tells whether the client leaves.
            let w = watch.get_or_insert_with(|| Box::new(Watch::new()));
            if ended && !w.parting.has_ended() {
                w.parting.end(Clock::now());
                // Until it was asked, which takes a tick of the timer, it is not served.
                w.unsure = true;
                w.again(Clock::now());
            }
            if w.has_left(cx, stream, down, view) {
                return Poll::Ready(Err("eof_waiting"));
            }
            Poll::Pending
        })
        .await;
        self.proto.stats.queued_us += Clock::us(began, Clock::now());
        match got {
            Ok(r) => Ok(r),
            Err("admin") => Err(Box::pin(self.sent_away()).await),
            Err(why) => {
                self.services.shared.counters.count("waiters_cancelled_total", "client_gone");
                Err(why)
            }
        }
    }

    /// A signal ends the session of a client that waits.
    async fn sent_away(&mut self) -> Goodbye {
        if let Some(e) = self.boundary_signal() {
            self.farewell(&e).await;
        }
        "admin"
    }

    /// No server could be had: the request is answered with the error and forgotten, and nothing of it runs.
    pub(super) async fn not_served(&mut self, e: Error) -> Option<Goodbye> {
        let mut r = self.services.shared.report(&e);
        self.count_error(r.code);
        if self.has_begun() {
            // As far as the client knows, this is an error inside of its transaction.
            r = crate::error::Report { severity: Severity::Error, verbatim: None, ..r };
        }
        if r.severity == Severity::Fatal || r.verbatim.is_some() {
            self.farewell(&e).await;
            return Some("not_served");
        }
        self.services.told.in_session(&self.ctl, &e);
        self.answer_locally(&encode::error_response(&r));
        None
    }

    /// Answers the request at the front with `error` in place of a server.
    fn answer_locally(&mut self, error: &[u8]) {
        let max = self.hot.max_message;
        self.fail_held();
        let status = self.status();
        self.down.insert().extend_from_slice(error);
        match up::next_header(&self.up, max) {
            Ok(Some(h)) if matches!(h.tag, fe::QUERY | fe::FUNCTION_CALL) => {
                self.up.discard(h.total);
                self.down.insert().extend_from_slice(&encode::ready_for_query(status));
            }
            // A bad header is met again, and refused, by whoever looks next.
            _ => self.skip_to_sync = true,
        }
        self.set_state(ClientState::Idle);
    }

    /// Whether the message at the front is a simple Query.
    fn asks_simply(&self) -> bool {
        matches!(up::next_header(&self.up, self.hot.max_message), Ok(Some(h)) if h.tag == fe::QUERY)
    }

    /// A server that was idle for long answers a question first; one that does not is replaced.
    async fn checked(&mut self, mut lease: Lease, after: Duration) -> Result<Lease, Option<Goodbye>> {
        loop {
            let since = lease.since;
            let Some(conn) = lease.conn() else { return Err(Some("no_server")) };
            // A new one has answered at its login.
            let idle = since.saturating_duration_since(conn.released);
            if conn.released == conn.opened || idle < after {
                return Ok(lease);
            }
            let sql = self.pool.spec().servers.check_query.clone().unwrap_or_default();
            let limit = self.services.shared.config().limits.server_repair_timeout;
            let ok = matches!(tokio::time::timeout(limit, questions::ask(conn, &sql)).await, Ok(Ok(())));
            self.services.shared.counters.count("server_checks_total", if ok { "passed" } else { "failed" });
            if ok {
                return Ok(lease);
            }
            let pool = lease.pool().clone();
            lease.discard("check_failed", TxStats::default());
            lease = match self.from(&pool).await {
                Ok(l) => l,
                Err(why) => return Err(self.unserved(why).await),
            };
        }
    }

    /// Brings the server's parameters into step.
    async fn prepare(&mut self, mut lease: Lease) -> Result<Lease, Option<Goodbye>> {
        let limit = self.services.shared.config().limits.server_repair_timeout;
        let pool = lease.pool().clone();
        let Some(conn) = lease.conn() else { return Err(Some("no_server")) };
        pool.welcome.heard(conn, &self.services.shared.params);
        let done = params::bring_into_step(
            &self.services.shared,
            &self.ctl,
            &mut self.proto,
            conn,
            &mut self.down,
            limit,
        )
        .await;
        match done {
            Ok(None) => Ok(lease),
            Ok(Some(refused)) => {
                lease.release_unused();
                self.count_error("parameter_rejected");
                let e = Error::ParameterRejected(refused.0);
                let r = self.services.shared.report(&e);
                if r.severity == Severity::Fatal {
                    self.farewell(&e).await;
                    return Err(Some("parameter_rejected"));
                }
                self.services.told.in_session(&self.ctl, &e);
                self.answer_locally(&encode::error_response(&r));
                Err(None)
            }
            Err(why) => {
                let host = conn.host.to_string();
                lease.discard(why.label, TxStats::default());
                let e = why.error(host, WHILE_SET, limit);
                self.farewell(&e).await;
                Err(Some("server_lost"))
            }
        }
    }

    /// The rest of a session whose client has reset its parameters.
    async fn go_on(&mut self, mut lease: Lease) -> Result<(Lease, End), Option<Goodbye>> {
        loop {
            lease = self.restored(lease).await?;
            let end = self.relay(&mut lease, true).await;
            if !matches!(end, End::Restore) {
                return Ok((lease, end));
            }
        }
    }

    /// In session mode the connection is the client's own, and RESET leads to its startup packet's values there as well.
    async fn restored(&mut self, mut lease: Lease) -> Result<Lease, Option<Goodbye>> {
        self.flush_at_once().await;
        let done = Box::pin(self.attribute(&mut lease)).await;
        self.proto.forget_sets();
        if let Err(why) = done {
            let host = lease.conn().map(|c| c.host.to_string()).unwrap_or_default();
            lease.discard(why.label, TxStats::default());
            let limit = self.services.shared.config().limits.server_repair_timeout;
            let e = why.error(host, "when it was asked what a RESET has left", limit);
            self.farewell(&e).await;
            return Err(Some("server_lost"));
        }
        self.in_step_again(lease).await
    }

    /// What the client named at its login is in force again on the connection that it keeps.
    pub(super) async fn in_step_again(&mut self, mut lease: Lease) -> Result<Lease, Option<Goodbye>> {
        let limit = self.services.shared.config().limits.server_repair_timeout;
        let Some(conn) = lease.conn() else { return Err(Some("no_server")) };
        let (services, ctl, down) = (&self.services, &self.ctl, &mut self.down);
        let e = match params::bring_into_step(&services.shared, ctl, &mut self.proto, conn, down, limit).await
        {
            Ok(None) => return Ok(lease),
            Ok(Some(refused)) => Error::ParameterRejected(refused.0),
            Err(why) => why.error(conn.host.to_string(), WHILE_SET, limit),
        };
        let code = report(&e).code;
        self.count_error(code);
        lease.discard("server_lost", TxStats::default());
        self.farewell(&e).await;
        Err(Some(if matches!(e, Error::ParameterRejected(_)) { "parameter_rejected" } else { "server_lost" }))
    }

    /// Finds out what the transaction has left in the server's session.
    pub(super) async fn attribute(&mut self, lease: &mut Lease) -> Result<Holdings, Broken> {
        let rules = self.hot.session;
        let limit = if rules.asks {
            rules.timeout
        } else {
            self.services.shared.config().limits.server_repair_timeout
        };
        let pool = lease.pool().clone();
        let Some(conn) = lease.conn() else { return Err("no_server".into()) };
        let (services, ctl, down) = (&self.services, &self.ctl, &mut self.down);
        let held =
            params::attribute(&services.shared, ctl, &mut self.proto, conn, down, limit, &rules).await?;
        // What was in doubt is known.
        self.proto.discarded = false;
        self.proto.led_back = None;
        pool.welcome.heard(conn, &self.services.shared.params);
        Ok(held)
    }

    /// Gives the server back as the end demands.
    pub(super) async fn finish(&mut self, mut lease: Lease, end: End) -> Option<Goodbye> {
        if matches!(end, End::Boundary) {
            return Box::pin(self.settle(lease)).await;
        }
        let effects = self.proto.effects;
        if let Some(conn) = lease.conn() {
            conn.state.reserved = None;
        }
        self.book(&mut lease, Clock::now());
        let rules = self.hot.session;
        let doubt = lease.conn().is_some_and(|conn| params::left(&self.proto, conn, &rules));
        let stats = self.reset_transaction();
        self.after(&lease, stats);
        match end {
            End::Boundary | End::Restore | End::Check => None,
            End::ClientGone(why) => {
                let cancel = !self.hot.timeouts.finish_for_gone;
                self.leave(lease, stats, effects != Default::default(), doubt, cancel, Departure::Left);
                Some(why)
            }
            End::Fail(e) => {
                self.count_error(report(&e).code);
                if e == Error::TransactionInStatementMode && !self.down.mid_pass() {
                    // The server's word that a transaction is open is not passed on: it will not be.
                    self.down.drop_output();
                }
                let why = Departure::ended(&e);
                self.leave(lease, stats, effects != Default::default(), doubt, true, why);
                self.farewell(&e).await;
                Some(report(&e).code)
            }
            End::Server(e) => {
                let fatal = lease.conn().is_some_and(|c| c.state.fatal);
                lease.discard(report(&e).code, stats);
                if fatal {
                    // The client has the server's own last words already, or gets them now.
                    let _ = self.flush().await;
                } else {
                    self.count_error(report(&e).code);
                    self.farewell(&e).await;
                }
                Some("server_lost")
            }
        }
    }

    /// Counts the last round trip of a lease; returns how long it took.
    pub(super) fn book(&self, lease: &mut Lease, now: Instant) -> Option<u64> {
        let conn = lease.conn()?;
        let began = conn.state.calls.began.take();
        let took = began.map(|t| Clock::us(t, now));
        if let Some(q) = self.pool.queries.if_enabled() {
            if let Some(took) = took {
                observe::book(q, &self.ctl, &mut conn.state, took);
            }
            conn.state.calls.end();
        }
        took
    }

    /// The client leaves a server in an unknown place: it is cleaned, or closed if half a message is out.
    /// `marks`: a text that it sent leaves state behind, if it still runs. `doubt`: what it has set is not known.
    /// `cancel`: what runs on a connection that is closed is cancelled, too, for the server does not notice the end of a
    /// connection while it runs something.
    fn leave(
        &mut self,
        mut lease: Lease,
        stats: TxStats,
        marks: bool,
        doubt: bool,
        cancel: bool,
        why: Departure,
    ) {
        let half_sent = self.up.has_output() || self.up.mid_pass();
        let Some(conn) = lease.conn() else { return };
        if half_sent {
            let p = &conn.state.pipeline;
            if cancel && !p.is_empty() && !p.wants_copy_data() {
                lease.cancel();
            }
            lease.discard_behind(HALF_SENT, stats, Some(&why));
        } else if conn.state.fatal {
            lease.discard("server_fatal", stats);
        } else if conn.is_clean(&self.down) {
            if self.hot.mode == PoolMode::Session || conn.state.pinned.is_some() {
                lease.release_session(stats);
            } else if doubt && !lease.pool().spec().settings.reset_state {
                lease.discard("parameter_source", stats);
            } else {
                lease.release(stats, None, Clock::now());
            }
        } else {
            if marks {
                conn.state.mark("SET");
            }
            let session = self.hot.mode == PoolMode::Session || conn.state.pinned.is_some();
            lease.abandon(self.down.take_unread(), stats, session, why);
        }
    }

    /// Counts and tells the error that ends a session; returns its code.
    pub(super) async fn ends_with(&mut self, e: &Error) -> Goodbye {
        let code = report(e).code;
        self.count_error(code);
        self.farewell(e).await;
        code
    }

    pub(super) fn count_error(&self, code: &'static str) {
        self.services.shared.counters.count("errors_total", code);
    }

    /// A last message; what was approved for the client before goes first, half a message spoils it.
    pub(super) fn farewell<'a>(&'a mut self, e: &'a Error) -> BoxFuture<'a, ()> {
        // Rare, and it would make the task of every idle client larger.
        Box::pin(self.last_words(e))
    }

    async fn last_words(&mut self, e: &Error) {
        if let Some(stream) = &mut self.stream {
            last_words(&self.services, &self.ctl, &mut self.down, stream, e).await;
        }
    }
}

/// Tells a client, and the log, why its connection ends.
pub(super) async fn last_words(
    services: &Services,
    ctl: &ClientCtl,
    down: &mut Lane,
    stream: &mut Stream,
    e: &Error,
) {
    let r = crate::error::Report { severity: Severity::Fatal, ..services.shared.report(e) };
    services.told.end(ctl, e);
    if down.mid_pass() {
        return;
    }
    down.insert().extend_from_slice(&encode::error_response(&r));
    let limit = Some(Duration::from_secs(1));
    let _ = flow::flush(down, stream, ctl, &services.shared, limit, true).await;
}

fn env<'a>(services: &'a Services, pool: &'a Pool, hot: &'a HotSettings) -> Env<'a> {
    Env {
        interner: &services.shared.statements,
        database: &pool.key.database,
        user: &pool.key.user,
        max_message: hot.max_message,
        max_statement: hot.max_statement,
        max_server_statements: hot.max_server_statements,
        max_client_statements: hot.max_client_statements,
        max_server_memory: hot.max_server_memory,
        max_client_memory: hot.max_client_memory,
        max_memory: hot.max_memory,
        share_statements: hot.mode != PoolMode::Session && hot.max_server_statements > 0,
        queries: pool.queries.if_enabled(),
        asks: hot.session.asks,
        pins: &pool.pins.places,
        ways: &hot.session.ways,
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.ctl.set_link(Link::None);
        self.services.clients.remove(self.ctl.id);
        let shard = self.ctl.shard();
        for lane in [&mut self.up, &mut self.down] {
            lane.clear();
            lane.release(&self.services.shared.buffers, shard);
        }
    }
}
