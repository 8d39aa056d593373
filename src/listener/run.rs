//! The task of one listener.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;

use super::core::{Hub, LAG};
use super::inbox::{Ended, Inbox};
use super::{Done, Handle, Home, Key, Order, Shared};
use crate::clock::Clock;
use crate::error::ServerError;
use crate::proto::encode;
use crate::proto::frame::{self, be};
use crate::proto::sql::write_identifier;
use crate::server::close::{self, Goodbye};
use crate::server::conn::ServerConn;

/// How often the listener checks its host, and looks for channels that no client wants.
const LOOK: Duration = Duration::from_secs(1);

/// A message of the server may have this many bytes; a notification has fewer.
const MAX_MESSAGE: u32 = 1 << 20;

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

struct Listener {
    check: Check,
    shared: Arc<Shared>,
    handle: Handle,
    hub: Hub<Arc<Inbox>, Done>,
    conn: Option<Box<ServerConn>>,
    /// Since when no client has listened.
    idle: Option<Instant>,
    ordered: Option<End>,
}

/// Why a listener ends.
enum End {
    /// Nobody listens any more.
    Unwanted,
    Lost(String),
}

/// Runs until no client listens any more, or the connection is lost.
pub(super) async fn run(
    key: Key,
    home: Home,
    shared: Arc<Shared>,
    handle: Handle,
    mut orders: UnboundedReceiver<Order>,
) {
    let Home { open, check } = home;
    let mut l =
        Listener { check, shared, handle, hub: Hub::default(), conn: None, idle: None, ordered: None };
    let end = match open.await {
        Ok(conn) => {
            l.conn = Some(conn);
            l.serve(&mut orders).await
        }
        Err(why) => End::Lost(why),
    };
    orders.close();
    while let Ok(order) = orders.try_recv() {
        // A listener that ended because no client listened drops the order, and its client asks another listener.
        if matches!(end, End::Lost(_)) {
            l.take(order);
        }
    }
    if let Some(mut conn) = l.conn.take() {
        close::see_off(&mut conn.stream, Goodbye::Terminate).await;
    }
    {
        let mut all = l.shared.all.lock();
        if all.get(&key).is_some_and(|h| Arc::ptr_eq(&h.channel, &l.handle.channel)) {
            all.remove(&key);
        }
    }
    let End::Lost(why) = end else { return };
    l.shared.totals.lost.fetch_add(1, Ordering::Relaxed);
    let (database, host) = &key;
    tracing::warn!(%database, %host, error = %why, "the listener of a database is lost, and its clients are ended");
    let why: Arc<str> = why.into();
    for inbox in l.hub.lost() {
        inbox.end(Ended::Lost(why.clone()));
    }
}

impl Listener {
    async fn serve(&mut self, orders: &mut UnboundedReceiver<Order>) -> End {
        let mut first = b"LISTEN ".to_vec();
        write_identifier(&mut first, self.handle.channel.as_bytes());
        // Its answer is to come.
        let mut asked = true;
        let Some(conn) = self.conn.as_mut() else { return End::Unwanted };
        if let Err(why) = say(conn, &first).await {
            return End::Lost(why);
        }
        let mut buf = Vec::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            let Some(conn) = self.conn.as_mut() else { return End::Unwanted };
            let read = tokio::select! {
                order = orders.recv() => {
                    let Some(order) = order else { return End::Unwanted };
                    self.take(order);
                    None
                }
                read = conn.stream.read_some(&mut buf) => Some(read),
                _ = look.tick() => {
                    if let Err(why) = self.look() {
                        return End::Lost(why);
                    }
                    if self.is_unwanted() && orders.is_empty() {
                        return End::Unwanted;
                    }
                    None
                }
            };
            // A fence is announced before it is sent: read all announcements before the bytes.
            while let Ok(order) = orders.try_recv() {
                self.take(order);
            }
            if let Some(end) = self.ordered.take() {
                return end;
            }
            match read {
                Some(Ok(0)) => return End::Lost("the server closed the connection".to_owned()),
                Some(Err(e)) => return End::Lost(e.to_string()),
                Some(Ok(_)) => match self.digest(&mut buf) {
                    Ok(true) => asked = false,
                    Ok(false) => {}
                    Err(why) => return End::Lost(why),
                },
                None => {}
            }
            if !asked && let Some(text) = self.hub.say() {
                let Some(conn) = self.conn.as_mut() else { return End::Unwanted };
                if let Err(why) = say(conn, &text).await {
                    return End::Lost(why);
                }
                asked = true;
            }
            self.handle.figures.channels.store(self.hub.channels(), Ordering::Relaxed);
            self.handle.figures.clients.store(self.hub.clients(), Ordering::Relaxed);
        }
    }

    fn take(&mut self, order: Order) {
        let now = Clock::now();
        match order {
            Order::Want { client, inbox, channels, done } => {
                if let Some(done) = self.hub.want(client, inbox, &channels, done, now) {
                    // If nobody waits for it, the client has left.
                    let _ = done.send(());
                }
            }
            Order::Expect { fence, client, turn, done } => self.hub.expect(fence, client, turn, done),
            Order::Forget { client } => self.hub.forget(client, now),
            Order::End(Some(why)) => self.ordered = Some(End::Lost(why)),
            Order::End(None) if self.hub.clients() == 0 => self.ordered = Some(End::Unwanted),
            Order::End(None) => {}
        }
    }

    /// Reads what the server has sent. Returns true if it has answered the last text.
    fn digest(&mut self, buf: &mut Vec<u8>) -> Result<bool, String> {
        let (mut at, mut answered) = (0, false);
        loop {
            let rest = buf.get(at..).unwrap_or_default();
            let h = frame::header(rest, MAX_MESSAGE);
            let h = h.map_err(|b| format!("a message of the server announces {} bytes", b.length))?;
            let Some(message) = h.and_then(|h| rest.get(..h.total)) else { break };
            let body = message.get(frame::HEADER..).unwrap_or_default();
            match message.first().copied().unwrap_or_default() {
                be::NOTIFICATION => self.notified(message, body).ok_or("a malformed notification")?,
                be::READY => {
                    answered = true;
                    for done in self.hub.answered() {
                        let _ = done.send(());
                    }
                }
                be::ERROR => return Err(ServerError { body: body.to_vec() }.summary()),
                _ => {}
            }
            at += message.len();
        }
        buf.drain(..at);
        Ok(answered)
    }

    fn notified(&mut self, message: &[u8], body: &[u8]) -> Option<()> {
        let (channel, rest) = frame::cstr(body.get(4..)?)?;
        if channel == self.handle.channel.as_bytes() {
            let (text, _) = frame::cstr(rest)?;
            let number = std::str::from_utf8(text).ok().and_then(|t| u64::from_str_radix(t, 16).ok());
            if let Some(done) = number.and_then(|n| self.hub.fence(n)) {
                let _ = done.send(());
            }
            return Some(());
        }
        let shared = Bytes::copy_from_slice(message);
        let mut delivered = 0;
        for inbox in self.hub.hearing(channel) {
            delivered += u64::from(inbox.put(&shared));
        }
        self.shared.totals.delivered.fetch_add(delivered, Ordering::Relaxed);
        Some(())
    }

    /// Gives up channels that no client wants, and checks that this host still serves the database.
    fn look(&mut self) -> Result<(), String> {
        let now = Clock::now();
        self.hub.sweep(now);
        self.idle = (self.hub.clients() == 0).then(|| self.idle.unwrap_or(now));
        (self.check)()
    }

    fn is_unwanted(&self) -> bool {
        self.idle.is_some_and(|since| Clock::now().saturating_duration_since(since) >= LAG)
    }
}

/// Sends a text, which may be of several statements. Its bytes are in the encoding of the database.
async fn say(conn: &mut ServerConn, text: &[u8]) -> Result<(), String> {
    let message = encode::query_bytes(text).map_err(|e| e.to_string())?;
    conn.stream.write_all(&message).await.map_err(|e| e.to_string())
}
