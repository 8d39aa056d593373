//! LISTEN of many clients through one connection of Howdah's own to each database's server (`session_listen = "share"`).
//!
//! A client's LISTEN and UNLISTEN run on its server connection, like every other statement, and while the client has a
//! server connection, that connection listens for it. After the transaction the client's channels move to the listener,
//! and before its next transaction they move back. [`core`] explains how no notification is lost or doubled on the way;
//! `client::listening` does the client's part.

pub mod core;
pub mod inbox;
mod run;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use self::core::{Name, Turn};
use self::inbox::{Ended, Inbox, Wake};
use crate::config::resolved::HostAddr;
use crate::server::conn::ServerConn;

/// A message to the task of a listener. A client sends its order first, and lets its server connection speak afterwards.
#[derive(Debug)]
enum Order {
    Want {
        client: u64,
        inbox: Arc<Inbox>,
        channels: Vec<Name>,
        done: Done,
    },
    Expect {
        fence: u64,
        client: u64,
        turn: Turn,
        done: Done,
    },
    Forget {
        client: u64,
    },
    /// End: for this reason, or, without one, only if no client listens.
    End(Option<String>),
}

type Done = oneshot::Sender<()>;

/// A database of the configuration, and the host of its server.
pub type Key = (Arc<str>, HostAddr);

/// How to open a listener's connection, and how to check that its host still serves the database.
pub struct Home {
    pub open: BoxFuture<'static, Result<Box<ServerConn>, String>>,
    pub check: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Home(..)")
    }
}

/// The way to reach one listener.
#[derive(Debug, Clone)]
struct Handle {
    orders: mpsc::UnboundedSender<Order>,
    /// The channel of fences.
    channel: Arc<str>,
    figures: Arc<Figures>,
}

/// The figures of one listener.
#[derive(Debug, Default)]
struct Figures {
    channels: AtomicUsize,
    clients: AtomicUsize,
}

/// One listener in SHOW LISTENERS and in the metrics.
#[derive(Debug, Clone)]
pub struct Row {
    pub database: Arc<str>,
    pub host: HostAddr,
    pub channels: usize,
    pub clients: usize,
}

/// The listeners of one Howdah, by database and server.
#[derive(Debug, Default)]
pub struct Listeners(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    all: Mutex<HashMap<Key, Handle>>,
    fences: AtomicU64,
    totals: Totals,
}

/// Counted since the start.
#[derive(Debug, Default)]
pub struct Totals {
    pub opened: AtomicU64,
    pub lost: AtomicU64,
    pub delivered: AtomicU64,
}

impl Listeners {
    /// Returns the listener of this key, and opens it if there is none.
    fn at(&self, key: &Key, home: impl FnOnce() -> Home) -> Handle {
        let mut all = self.0.all.lock();
        if let Some(h) = all.get(key).filter(|h| !h.orders.is_closed()) {
            return h.clone();
        }
        let (orders, received) = mpsc::unbounded_channel();
        let channel = format!("howdah_{:016x}", rand::random::<u64>()).into();
        let handle = Handle { orders, channel, figures: Arc::default() };
        all.insert(key.clone(), handle.clone());
        drop(all);
        self.0.totals.opened.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(run::run(key.clone(), home(), self.0.clone(), handle.clone(), received));
        handle
    }

    /// Ends the listeners of one database, or of all, that no client uses. Returns false as long as one of these is there.
    pub fn let_go(&self, database: Option<&str>) -> bool {
        let all = self.0.all.lock();
        let mut gone = true;
        for (_, h) in all.iter().filter(|((d, _), _)| database.is_none_or(|name| **d == *name)) {
            if h.figures.clients.load(Ordering::Relaxed) == 0 {
                gone = false;
                // If the order cannot be sent, the listener is ending already.
                let _ = h.orders.send(Order::End(None));
            }
        }
        gone
    }

    /// Ends all listeners at these hosts, with their clients.
    pub fn end(&self, is: &dyn Fn(&HostAddr) -> bool, why: &str) {
        for (_, h) in self.0.all.lock().iter().filter(|((_, host), _)| is(host)) {
            let _ = h.orders.send(Order::End(Some(why.to_owned())));
        }
    }

    pub fn totals(&self) -> &Totals {
        &self.0.totals
    }

    pub fn rows(&self) -> Vec<Row> {
        let all = self.0.all.lock();
        let mut rows: Vec<Row> = all
            .iter()
            .map(|((database, host), h)| Row {
                database: database.clone(),
                host: host.clone(),
                channels: h.figures.channels.load(Ordering::Relaxed),
                clients: h.figures.clients.load(Ordering::Relaxed),
            })
            .collect();
        rows.sort_by(|a, b| (&a.database, &a.host).cmp(&(&b.database, &b.host)));
        rows
    }

    /// Sets the client's channels, and returns when the server listens to all of them. A client that is subscribed to a
    /// listener that still runs stays with that one.
    pub async fn want(
        &self,
        old: Option<Subscription>,
        client: Client<'_>,
        channels: Vec<Name>,
    ) -> Result<Subscription, Lost> {
        let mut old = old.filter(|s| !s.handle.orders.is_closed());
        loop {
            let (mut s, is_old) = match old.take() {
                Some(s) => (s, true),
                None => {
                    let inbox = Arc::new(Inbox::new((client.wake)(), client.limit));
                    let handle = self.at(&client.key, client.home);
                    let shared = self.0.clone();
                    (Subscription { client: client.id, shared, handle, inbox, channels: Vec::new() }, false)
                }
            };
            let (done, answer) = oneshot::channel();
            let (inbox, wanted) = (s.inbox.clone(), channels.clone());
            let sent = s.handle.orders.send(Order::Want { client: s.client, inbox, channels: wanted, done });
            if sent.is_ok() && answer.await.is_ok() {
                s.channels = channels;
                return Ok(s);
            }
            match s.inbox.ended() {
                Some(Ended::Lost(why)) if !is_old => return Err(Lost(why)),
                // The old listener had ended, or this one ended because it had no clients: open another one.
                _ => {}
            }
        }
    }
}

/// Who listens.
pub struct Client<'a> {
    pub id: u64,
    pub key: Key,
    /// `listen_buffer`.
    pub limit: usize,
    pub wake: &'a (dyn Fn() -> Wake + Send + Sync),
    pub home: &'a (dyn Fn() -> Home + Send + Sync),
}

impl fmt::Debug for Client<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("id", &self.id).field("key", &self.key).finish_non_exhaustive()
    }
}

/// A client's subscription to a listener; it ends when this is dropped.
#[derive(Debug)]
pub struct Subscription {
    client: u64,
    shared: Arc<Shared>,
    handle: Handle,
    pub inbox: Arc<Inbox>,
    pub channels: Vec<Name>,
}

/// The listener was lost, or could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost(pub Arc<str>);

/// A fence that is about to be sent.
#[derive(Debug)]
pub struct Fence {
    pub channel: Arc<str>,
    /// What the notification says.
    pub text: String,
    came: oneshot::Receiver<()>,
}

impl Subscription {
    /// Announces a fence at which the listener begins or ceases to serve this client.
    pub fn fence(&self, turn: Turn) -> Fence {
        let fence = self.shared.fences.fetch_add(1, Ordering::Relaxed);
        let (done, came) = oneshot::channel();
        // If the order cannot be sent, `came` reports it.
        let _ = self.handle.orders.send(Order::Expect { fence, client: self.client, turn, done });
        Fence { channel: self.handle.channel.clone(), text: format!("{fence:016x}"), came }
    }

    /// Waits until the listener has received the fence.
    pub async fn came(&self, fence: Fence) -> Result<(), Lost> {
        fence.came.await.map_err(|_| match self.inbox.ended() {
            Some(Ended::Lost(why)) => Lost(why),
            _ => Lost("its connection has ended".into()),
        })
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let _ = self.handle.orders.send(Order::Forget { client: self.client });
    }
}
