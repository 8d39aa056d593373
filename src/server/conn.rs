//! One server connection as the pool keeps it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::config::resolved::HostAddr;
use crate::net::lane::Lane;
use crate::net::stream::Stream;
use crate::proto::frame::{self, be};
use crate::proto::params::Excess;
use crate::relay::down;
use crate::relay::state::ServerState;
use crate::tls::Connector;

/// Bytes that a server may send while nobody has its connection: notices, notifications, and parameters after a reload
/// of its configuration.
const MOST_IDLE: usize = 1024 * 1024;

/// A place among the limits that a connection counts against; given back when it is dropped.
pub trait Place: std::fmt::Debug + Send + Sync {
    /// The login is over: the server counts the connection itself. False if the place has been taken back meanwhile;
    /// the connection must then be closed.
    #[must_use]
    fn arrived(&mut self) -> bool;
}

#[derive(Debug)]
pub struct ServerConn {
    pub stream: Stream,
    pub state: ServerState,
    pub host: HostAddr,
    pub user: Arc<str>,
    pub pid: i32,
    pub cancel_key: Vec<u8>,
    pub opened: Instant,
    /// What its TLS was made with, where it has TLS: a cancel for it goes the same way.
    pub tls: Option<Arc<Connector>>,
    /// How we proved ourselves to the server: a label of `howdah_server_logins_total`.
    pub proved: &'static str,
    /// When it was last given back.
    pub released: Instant,
    /// It is reset when it is given back, whatever was done on it.
    pub reset_always: bool,
    /// Its number, for people.
    pub serial: u64,
    /// The pool's generation of connection settings under which it was opened.
    pub epoch: u64,
    /// Part of a message that came while nobody had the connection.
    idle_bytes: Vec<u8>,
    /// Counts it among the sockets of pools; one of Howdah's own is not.
    pub counted: Option<Socket>,
    /// Given back to the shared limits when the connection is gone.
    _place: Box<dyn Place>,
}

/// What an idle connection turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quiet {
    Yes,
    /// It cannot be used any more; the label says why.
    Dead(&'static str),
}

impl ServerConn {
    #[expect(clippy::too_many_arguments, reason = "one constructor, called once")]
    pub fn new(
        stream: Stream,
        state: ServerState,
        host: HostAddr,
        user: Arc<str>,
        pid: i32,
        cancel_key: Vec<u8>,
        opened: Instant,
        epoch: u64,
        place: Box<dyn Place>,
    ) -> Self {
        Self {
            stream,
            state,
            host,
            user,
            pid,
            cancel_key,
            opened,
            tls: None,
            proved: "none",
            released: opened,
            reset_always: false,
            serial: 0,
            epoch,
            idle_bytes: Vec::new(),
            counted: None,
            _place: place,
        }
    }

    /// Takes in what the server said while idle. Costs no system call when the reactor saw nothing: what the
    /// kernel has for us is known to the reactor before a client's next message is, unless it came meanwhile.
    pub fn quiet(&mut self, notifies_dropped: &mut u64) -> Quiet {
        if self.idle_bytes.is_empty() && !self.stream.may_read() {
            return Quiet::Yes;
        }
        let mut chunk = [0; 1024];
        loop {
            if self.idle_bytes.len() > MOST_IDLE {
                let (host, bytes) = (&self.host, self.idle_bytes.len());
                tracing::warn!(%host, bytes, "an idle server sends without end: its connection is closed");
                return Quiet::Dead("idle_flood");
            }
            match self.stream.try_read(&mut chunk) {
                Ok(0) => return Quiet::Dead("idle_eof"),
                Ok(n) => self.idle_bytes.extend_from_slice(chunk.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return Quiet::Dead("idle_error"),
            }
        }
        if self.idle_bytes.is_empty() {
            return Quiet::Yes;
        }
        self.digest_idle(notifies_dropped)
    }

    fn digest_idle(&mut self, notifies_dropped: &mut u64) -> Quiet {
        let bytes = std::mem::take(&mut self.idle_bytes);
        let mut rest = bytes.as_slice();
        loop {
            let h = match frame::header(rest, 1024 * 1024) {
                Ok(Some(h)) if rest.len() >= h.total => h,
                // The rest will come; until then the connection is not handed out.
                Ok(_) if rest.is_empty() => return Quiet::Yes,
                Ok(_) => {
                    self.idle_bytes = rest.to_vec();
                    return Quiet::Dead("idle_partial");
                }
                Err(_) => return Quiet::Dead("protocol"),
            };
            let (message, after) = rest.split_at(h.total);
            let body = message.get(frame::HEADER..).unwrap_or_default();
            match h.tag {
                be::PARAMETER_STATUS => match down::parameter(body) {
                    Ok((name, value)) => {
                        if let Err(e) = self.state.on_parameter_idle(name, value) {
                            return Quiet::Dead(self.reports_too_much(&e));
                        }
                    }
                    Err(_) => return Quiet::Dead("protocol"),
                },
                be::NOTICE => {}
                be::NOTIFICATION => *notifies_dropped += 1,
                be::ERROR => return Quiet::Dead("idle_fatal"),
                _ => return Quiet::Dead("protocol"),
            }
            rest = after;
        }
    }

    /// Says that the connection is discarded because of the parameters that the server reports on it; returns the reason
    /// as it is counted.
    pub fn reports_too_much(&self, excess: &Excess) -> &'static str {
        tracing::warn!(host = %self.host, "a server connection is discarded: {excess}");
        "parameters"
    }

    /// Takes over what a relay has read beyond its boundary: nothing may be left of it.
    pub fn is_clean(&self, down: &Lane) -> bool {
        self.state.pipeline.at_boundary() && down.unscanned().is_empty() && !down.mid_message()
    }
}

/// Counts one server connection of a pool for as long as it exists.
#[derive(Debug)]
pub struct Socket(Arc<AtomicUsize>);

impl Socket {
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
