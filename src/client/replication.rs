//! A replication connection, physical or logical (PostgreSQL documentation, 54.4 Streaming Replication Protocol): its
//! client has a server connection for itself, opened with all that its startup packet says, and closed behind it.
//! Messages pass as they are; their boundaries are known, so that a last word comes between two of them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use super::session::last_words;
use crate::clients::Places;
use crate::clients::handle::{ClientCtl, ClientState, Signal};
use crate::clients::link::Link;
use crate::clock::Clock;
use crate::config::resolved::{Config, Database, Profile, Role};
use crate::error::Error;
use crate::net::lane::Lane;
use crate::net::stream::{PeerEnd, Stream};
use crate::pool::Pool;
use crate::pool::direct::{Own, Traffic};
use crate::proto::frame::{self, BadLength, be, fe};
use crate::proto::params::ParamSet;
use crate::proto::startup::{Replication, Startup};
use crate::services::Services;

/// Bytes after which the pool's figures are brought up to date, for a stream never ends.
const BOOK_EVERY: u64 = 64 * 1024;

/// What the parameter `replication` said, and what else goes to the server.
fn params(config: &Config, startup: &Startup) -> Vec<(String, String)> {
    let wanted = if startup.replication == Replication::Logical { "database" } else { "true" };
    let ignored = |n: &str| config.ignore_startup_parameters.iter().any(|i| i.eq_ignore_ascii_case(n));
    let of_ours = |n: &str| n.starts_with("howdah.");
    let mut all = vec![("replication".to_owned(), wanted.to_owned())];
    all.extend(startup.params.iter().filter(|(n, _)| !ignored(n) && !of_ours(n)).cloned());
    all.extend(startup.options.as_ref().map(|o| ("options".to_owned(), o.clone())));
    all
}

/// A physical replication connection is to a server and no database; what it names as one says nothing, and programs before
/// PostgreSQL 17 always say `replication`. Where no section has that name, and all databases are on one server, it is that
/// server: the first of them stands for it, with its limits and its users. Otherwise only the operator can say which.
pub(super) fn settle_database(config: &Config, startup: &mut Startup) -> Result<(), Error> {
    let physical = startup.replication == Replication::Physical && config.profile == Profile::Native;
    if !physical || config.database(&startup.database).is_some() || config.is_console(&startup.database) {
        return Ok(());
    }
    let mut all = config.databases.values();
    let hosts = |db: &Database| db.roles.get(&Role::Primary).map(|r| r.hosts.clone());
    match all.next() {
        Some(first) if all.all(|db| hosts(db) == hosts(first)) => {
            first.name.clone_into(&mut startup.database);
            Ok(())
        }
        // Nobody could be asked for a secret, and the login would fail as one with a wrong password.
        _ if startup.database == "replication" => {
            Err(Error::UnknownDatabase { database: startup.database.clone() })
        }
        _ => Ok(()),
    }
}

/// What has gone by in both directions, as far as the end needs to know it.
#[derive(Debug, Default)]
struct Course {
    /// A command runs; a stream is none.
    busy: bool,
    /// A transaction is open.
    in_transaction: bool,
    terminate: bool,
    /// The server's last message was an error: its own last word, if it closes now.
    error: bool,
    queries: u64,
}

impl Course {
    /// Nothing would be cut in two: a stream goes on elsewhere from where it was.
    fn may_end(&self) -> bool {
        !self.busy && !self.in_transaction
    }

    /// Approves what the client sent.
    fn up(&mut self, lane: &mut Lane, max: u32) -> Result<(), BadLength> {
        loop {
            lane.continue_message();
            if lane.mid_message() {
                return Ok(());
            }
            let Some(h) = frame::header(lane.unscanned(), max)? else { return Ok(()) };
            match h.tag {
                fe::TERMINATE => self.terminate = true,
                fe::QUERY | fe::PARSE | fe::FUNCTION_CALL => self.busy = true,
                _ => {}
            }
            lane.forward(h.total);
        }
    }

    /// Approves what the server sent.
    fn down(&mut self, lane: &mut Lane, max: u32) -> Result<(), BadLength> {
        loop {
            lane.continue_message();
            if lane.mid_message() {
                return Ok(());
            }
            let Some(h) = frame::header(lane.unscanned(), max)? else { return Ok(()) };
            self.error = h.tag == be::ERROR;
            match h.tag {
                be::COPY_BOTH => self.busy = false,
                be::READY => {
                    let Some(status) = lane.unscanned().get(frame::HEADER) else { return Ok(()) };
                    self.in_transaction = *status != b'I';
                    self.busy = false;
                    self.queries += 1;
                }
                _ => {}
            }
            lane.forward(h.total);
        }
    }
}

/// Why the relay ended.
enum End {
    Client(&'static str),
    Server(String),
    Told(&'static str, Error),
}

#[derive(Debug)]
pub struct Walsender {
    services: Arc<Services>,
    pub ctl: Arc<ClientCtl>,
    stream: Stream,
    /// Gone when the connection is being closed.
    own: Option<Own>,
    up: Lane,
    down: Lane,
    course: Course,
    traffic: Traffic,
    max_message: u32,
    _places: Box<Places>,
}

/// What a login of this kind has got before its client hears of it.
#[derive(Debug)]
pub(super) struct Opened {
    own: Own,
    max_message: u32,
}

/// Opens the server connection; returns what it reported.
pub(super) async fn open(
    config: &Config,
    startup: &Startup,
    pool: &Arc<Pool>,
    ctl: &Arc<ClientCtl>,
) -> Result<(Opened, Arc<ParamSet>), Error> {
    let own = pool.open_own(ctl, params(config, startup)).await?;
    let reported = own.parameters();
    Ok((Opened { own, max_message: config.limits.max_message_size }, reported))
}

impl Walsender {
    pub(super) fn new(
        services: &Arc<Services>,
        ctl: Arc<ClientCtl>,
        stream: Stream,
        opened: Opened,
        early: &[u8],
        places: Box<Places>,
    ) -> Self {
        services.clients.insert(ctl.clone());
        if services.seeing_off.load(Ordering::SeqCst) {
            ctl.signal(Signal::Drain);
        }
        let mut up = Lane::default();
        if !early.is_empty() {
            up.preload(early);
        }
        ctl.set_state(ClientState::Idle, services.shared.clock.ms(Clock::now()));
        Self {
            services: services.clone(),
            ctl,
            stream,
            own: Some(opened.own),
            up,
            down: Lane::default(),
            course: Course::default(),
            traffic: Traffic::default(),
            max_message: opened.max_message,
            _places: places,
        }
    }

    /// Runs to the end of the connection; returns why it ended.
    pub async fn run(&mut self) -> &'static str {
        let end = match self.course.up(&mut self.up, self.max_message) {
            Ok(()) => std::future::poll_fn(|cx| self.poll(cx)).await,
            Err(bad) => bad_length(bad),
        };
        self.book(true);
        let half_sent = self.up.mid_pass() || self.up.has_output();
        let lost = matches!(end, End::Server(_));
        let reason = match end {
            End::Client(why) => why,
            End::Server(_) if self.course.error => "server_lost",
            End::Server(reason) => {
                let host = self.own.as_ref().map(Own::host).unwrap_or_default();
                self.farewell(&Error::ServerLost { host, reason }).await;
                "server_lost"
            }
            End::Told(why, e) => {
                self.farewell(&e).await;
                why
            }
        };
        if let Some(own) = self.own.take() {
            own.end(lost, half_sent).await;
        }
        reason
    }

    fn signalled(&self) -> Option<Error> {
        if !self.ctl.any_signal() {
            return None;
        }
        // No lease of a pool's is left open here.
        self.ctl.clear(Signal::Leak);
        let ends = self.ctl.has(Signal::Kill) || self.ctl.any_signal() && self.course.may_end();
        ends.then(|| self.ctl.ending())
    }

    /// Cancel safe: all state is in its fields.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.ctl.waker.register(cx.waker());
        loop {
            if let Some(e) = self.signalled() {
                return Poll::Ready(End::Told("admin", e));
            }
            let before = (self.course.busy, self.course.in_transaction);
            let down = match self.poll_down(cx) {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(end),
            };
            let up = match self.poll_up(cx) {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(end),
            };
            if before != (self.course.busy, self.course.in_transaction) {
                self.show_state();
            }
            self.book(false);
            if !down && !up {
                return self.look_at_client();
            }
        }
    }

    /// While the server takes nothing, nothing is read from the client either, and no read tells whether it leaves.
    fn look_at_client(&self) -> Poll<End> {
        let blind = self.up.has_output();
        if blind && self.stream.peer_end() != PeerEnd::Open {
            return Poll::Ready(End::Client("eof"));
        }
        self.ctl.set_deadline(if blind { self.services.shared.clock.ms(Clock::now()) + 1000 } else { 0 });
        Poll::Pending
    }

    /// Server to client. Returns whether anything moved.
    fn poll_down(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let own = self.own.as_mut().ok_or(End::Client("no_server"))?;
        let shard = self.ctl.shard();
        let buffers = &self.services.shared.buffers;
        let flushed =
            flushed(self.down.poll_flush(cx, &mut self.stream)).map_err(|_| End::Client("write_error"))?;
        self.traffic.to_client += flushed.unwrap_or_default();
        if flushed.is_none() {
            return Ok(false);
        }
        match self.down.poll_fill(cx, own.stream(), buffers, shard) {
            Poll::Pending => {
                self.down.release(buffers, shard);
                Ok(false)
            }
            Poll::Ready(Ok(0)) => Err(End::Server("the server closed the connection".to_owned())),
            Poll::Ready(Err(e)) => Err(End::Server(e.to_string())),
            Poll::Ready(Ok(_)) => match self.course.down(&mut self.down, self.max_message) {
                Ok(()) => Ok(true),
                Err(bad) => Err(End::Server(format!("a message announces {} bytes", bad.length))),
            },
        }
    }

    /// Client to server. Returns whether anything moved.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let own = self.own.as_mut().ok_or(End::Client("no_server"))?;
        let shard = self.ctl.shard();
        let buffers = &self.services.shared.buffers;
        match flushed(self.up.poll_flush(cx, own.stream())) {
            Ok(Some(_)) => {}
            Ok(None) => return Ok(false),
            // What the server said before it went is read first.
            Err(_) => self.up.clear(),
        }
        if self.course.terminate {
            return Err(End::Client("terminate"));
        }
        match self.up.poll_fill(cx, &mut self.stream, buffers, shard) {
            Poll::Pending => {
                self.up.release(buffers, shard);
                Ok(false)
            }
            Poll::Ready(Ok(0)) => Err(End::Client("eof")),
            Poll::Ready(Err(_)) => Err(End::Client("read_error")),
            Poll::Ready(Ok(n)) => {
                self.traffic.from_client += n as u64;
                self.course.up(&mut self.up, self.max_message).map_err(bad_length)?;
                Ok(true)
            }
        }
    }

    fn show_state(&self) {
        let state = match (self.course.busy, self.course.in_transaction) {
            (true, _) => ClientState::Active,
            (false, true) => ClientState::IdleInTransaction,
            (false, false) => ClientState::Idle,
        };
        self.ctl.set_state(state, self.services.shared.clock.ms(Clock::now()));
    }

    fn book(&mut self, all: bool) {
        self.traffic.queries += std::mem::take(&mut self.course.queries);
        let t = &mut self.traffic;
        if (all || t.queries > 0 || t.from_client + t.to_client >= BOOK_EVERY)
            && let Some(own) = &self.own
        {
            own.book(t);
            *t = Traffic::default();
        }
    }

    async fn farewell(&mut self, e: &Error) {
        self.services.shared.counters.count("errors_total", crate::error::report(e).code);
        last_words(&self.services, &self.ctl, &mut self.down, &mut self.stream, e).await;
    }
}

/// Bytes that were written; nothing where some still wait.
fn flushed(p: Poll<io::Result<usize>>) -> io::Result<Option<u64>> {
    match p {
        Poll::Ready(Ok(n)) => Ok(Some(n as u64)),
        Poll::Ready(Err(e)) => Err(e),
        Poll::Pending => Ok(None),
    }
}

fn bad_length(bad: BadLength) -> End {
    let why = format!("invalid message length {}", bad.length);
    End::Told("protocol_violation", Error::ProtocolViolation(why))
}

impl Drop for Walsender {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut m = vec![tag];
        m.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        m.extend_from_slice(body);
        m
    }

    /// All bytes pass, whatever the pieces in which they come, and the course is known at each boundary.
    #[test]
    fn a_stream_may_end_and_a_command_may_not() {
        let ready = |s: u8| message(be::READY, &[s]);
        for piece in [1, 2, 3, 7, 4096] {
            let (mut up, mut down, mut c) = (Lane::default(), Lane::default(), Course::default());
            let mut feed = |c: &mut Course, frontend: bool, bytes: &[u8]| {
                let mut out = Vec::new();
                for chunk in bytes.chunks(piece) {
                    let lane = if frontend { &mut up } else { &mut down };
                    lane.push(chunk);
                    if frontend { c.up(lane, 1000) } else { c.down(lane, 1000) }.expect("a length");
                    out.extend(lane.take_output());
                }
                assert_eq!(out, bytes);
            };
            assert!(c.may_end());
            feed(&mut c, true, &message(fe::QUERY, b"BASE_BACKUP\0"));
            assert!(!c.may_end(), "a backup runs");
            feed(&mut c, false, &message(b'H', &[0; 3]));
            assert!(!c.may_end());
            feed(&mut c, false, &ready(b'I'));
            assert!(c.may_end());
            feed(&mut c, true, &message(fe::QUERY, b"BEGIN\0"));
            feed(&mut c, false, &ready(b'T'));
            assert!(!c.may_end(), "in a transaction");
            feed(&mut c, true, &message(fe::QUERY, b"START_REPLICATION\0"));
            feed(&mut c, false, &ready(b'I'));
            feed(&mut c, false, &message(be::COPY_BOTH, &[0; 3]));
            feed(&mut c, false, &message(b'd', &[1; 600]));
            feed(&mut c, true, &message(fe::COPY_DATA, &[2; 34]));
            assert!(c.may_end() && !c.terminate && !c.error);
            feed(&mut c, false, &message(be::ERROR, b"SFATAL\0\0"));
            assert!(c.error, "its last word");
            feed(&mut c, true, &message(fe::TERMINATE, b""));
            assert!(c.terminate);
            assert_eq!(c.queries, 3);
        }
    }

    #[test]
    fn a_broken_length_is_no_message() {
        let (mut lane, mut c) = (Lane::default(), Course::default());
        lane.push(&[fe::QUERY, 0, 0, 0, 3]);
        assert!(c.up(&mut lane, 1000).is_err());
    }
}
