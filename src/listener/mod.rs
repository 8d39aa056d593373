//! LISTEN of many clients through one connection of Howdah's own to each database's server (`session_listen = "share"`).
//!
//! A client's LISTEN and UNLISTEN run on the server connection that it has for their transaction, and so does all else:
//! while a client has a server connection, that connection listens for it. Behind the transaction the client's channels
//! move to the listener, and before its next one they move back. [`core`] says how nothing is lost or doubled on the way;
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

/// For the task of a listener. What a client says comes before what its server connection says after it.
#[derive(Debug)]
enum Order {
    Want {
        client: u64,
        inbox: Arc<Inbox>,
        channels: Vec<Name>,
        done: Done,
    },
    Expect {
        mark: u64,
        client: u64,
        turn: Turn,
        done: Done,
    },
    Forget {
        client: u64,
    },
    /// For this reason, or where nobody listens now.
    End(Option<String>),
}

type Done = oneshot::Sender<()>;

/// A database of Howdah's, at a server.
pub type Key = (Arc<str>, HostAddr);

/// How a listener gets its connection, and how it learns that this is not the server of its database any more.
pub struct Home {
    pub open: BoxFuture<'static, Result<Box<ServerConn>, String>>,
    pub check: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for Home {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Home(..)")
    }
}

/// Where one listener is reached.
#[derive(Debug, Clone)]
struct Handle {
    orders: mpsc::UnboundedSender<Order>,
    /// The channel of marks.
    channel: Arc<str>,
    figures: Arc<Figures>,
}

/// What a listener stands at.
#[derive(Debug, Default)]
struct Figures {
    channels: AtomicUsize,
    clients: AtomicUsize,
}

/// What there is, for people and for metrics.
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
    marks: AtomicU64,
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
    /// The listener of this key; it is opened where there is none.
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

    /// Ends those of a database, or of all, to which nobody listens now. False as long as one of them is there.
    pub fn let_go(&self, database: Option<&str>) -> bool {
        let all = self.0.all.lock();
        let mut gone = true;
        for (_, h) in all.iter().filter(|((d, _), _)| database.is_none_or(|name| **d == *name)) {
            if h.figures.clients.load(Ordering::Relaxed) == 0 {
                gone = false;
                // It ends already where nobody takes the order.
                let _ = h.orders.send(Order::End(None));
            }
        }
        gone
    }

    /// Ends those at these hosts, whoever listens.
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

    /// The client's channels are these from now on: returns when the server listens to them. A client that has a part in
    /// a listener that is still there keeps it.
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
                // It had ended before, or had nothing to do and ended: there is another one.
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

/// A client's part in a listener.
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

/// A mark that is about to be sent.
#[derive(Debug)]
pub struct Mark {
    pub channel: Arc<str>,
    /// What the notification says.
    pub text: String,
    came: oneshot::Receiver<()>,
}

impl Subscription {
    /// Announces a mark, at which this client's turn begins or ends.
    pub fn mark(&self, turn: Turn) -> Mark {
        let mark = self.shared.marks.fetch_add(1, Ordering::Relaxed);
        let (done, came) = oneshot::channel();
        // Where nobody takes the order, `came` says so.
        let _ = self.handle.orders.send(Order::Expect { mark, client: self.client, turn, done });
        Mark { channel: self.handle.channel.clone(), text: format!("{mark:016x}"), came }
    }

    /// Returns when the listener has come to the mark.
    pub async fn came(&self, mark: Mark) -> Result<(), Lost> {
        mark.came.await.map_err(|_| match self.inbox.ended() {
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
