//! A client that listens. While it has no server connection, the listener receives its notifications
//! (`session_listen = "share"`). See [`crate::listener`].

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::channels;
use super::session::{Goodbye, Session};
use crate::config::resolved::{HostAddr, PoolMode, Role};
use crate::error::{Error, report};
use crate::listener::core::Turn;
use crate::listener::inbox::Ended;
use crate::listener::{self, Fence, Home, Lost, Subscription};
use crate::pool::{Lease, Pool, PoolSpec};
use crate::proto::holdings::Holdings;
use crate::proto::pipeline::TxStatus;
use crate::proto::sql::TextEffects;
use crate::relay::broken::Broken;
use crate::relay::state::{ServerState, TxStats};
use crate::server;
use crate::session_state::Way;

/// Bytes to take from an inbox at a time. The rest stays in the inbox, where `listen_buffer` counts it.
const PORTION: usize = 64 * 1024;

/// A client that listens.
#[derive(Debug)]
pub(super) struct Listening {
    part: Subscription,
    /// The listener receives its notifications now, not its server connection.
    away: bool,
}

/// Whether the client can take notifications as the listener gets them, in the encoding of the database.
fn takes_them_as_they_are(state: &ServerState) -> bool {
    let of = |name| state.view.get(name).unwrap_or_default();
    let (client, server) = (of("client_encoding"), of("server_encoding"));
    client == server || client == b"SQL_ASCII" || server == b"SQL_ASCII"
}

impl Session {
    /// Whether the channels of this server connection's session move to the listener after the transaction.
    pub(super) fn shares(&self, lease: &mut Lease) -> bool {
        let rules = &self.hot.session;
        rules.asks
            && rules.ways.listen == Way::Share
            && lease.pool().key.role != Role::Replica
            && lease.conn().is_some_and(|c| takes_them_as_they_are(&c.state))
    }

    // ---- without a server connection

    /// Passes a part of what the listener has received to the client; true if there is more. `Err`: the client cannot be
    /// served any longer.
    pub(super) fn hear(&mut self) -> Result<bool, Error> {
        let Some(listening) = &self.listening else { return Ok(false) };
        if !listening.away {
            let reason = "its server connection was lost while that listened for it".into();
            return Err(self.deaf(&Lost(reason)));
        }
        // Not while the client believes that it is in a transaction.
        if !listening.part.inbox.has_stirred() || self.status() != TxStatus::Idle {
            return Ok(false);
        }
        let inbox = listening.part.inbox.clone();
        inbox.take(self.down_lane().insert(), PORTION);
        match inbox.ended() {
            None => Ok(inbox.has_stirred()),
            Some(Ended::Lost(why)) => Err(self.deaf(&Lost(why))),
            Some(Ended::Slow { messages, bytes, limit }) => {
                self.services.counters.count("listen_clients_ended_total", "slow");
                Err(Error::ListenBuffer { messages, bytes, limit })
            }
        }
    }

    /// Whether the listener has something for it, for a task that waits.
    #[inline]
    pub(super) fn has_news(listening: Option<&Listening>) -> bool {
        listening.is_some_and(|s| s.away && s.part.inbox.has_stirred())
    }

    /// Writes what the client is owed, and what the listener has received for it.
    pub(super) async fn flush_heard(&mut self) -> Result<(), Goodbye> {
        loop {
            let heard = self.hear();
            let written = self.flush().await;
            // A client that reads too slowly is told why its connection ends.
            let heard = if written.is_err() { self.hear() } else { heard };
            if let Err(e) = heard {
                return Err(self.ends_with(&e).await);
            }
            written?;
            if heard == Ok(false) {
                return Ok(());
            }
        }
    }

    /// Waits for a write to the client, and gives up when the client's inbox has overflowed.
    pub(super) fn unless_deaf<'a, T: 'a>(
        listening: Option<&'a Listening>,
        mut what: BoxFuture<'a, Result<T, Goodbye>>,
    ) -> BoxFuture<'a, Result<T, Goodbye>> {
        let Some(listening) = listening else { return what };
        Box::pin(std::future::poll_fn(move |cx| match what.as_mut().poll(cx) {
            Poll::Pending if matches!(listening.part.inbox.ended(), Some(Ended::Slow { .. })) => {
                Poll::Ready(Err("listen_buffer"))
            }
            other => other,
        }))
    }

    fn deaf(&self, lost: &Lost) -> Error {
        self.services.counters.count("listen_clients_ended_total", "lost");
        Error::ListenerLost { reason: lost.0.to_string() }
    }

    // ---- with one

    /// Before a transaction: the server connection listens for the client from here on. What the listener has received
    /// before goes to the client first.
    pub(super) async fn recall(&mut self, mut lease: Lease) -> Result<Lease, Option<Goodbye>> {
        // A standby refuses LISTEN.
        if self.listening.is_none() || lease.pool().key.role == Role::Replica {
            return Ok(lease);
        }
        self.flush_at_once().await;
        match self.recalled(&mut lease).await {
            Ok(()) => Ok(lease),
            Err(lost) => Err(self.hears_no_more(lease, &lost).await),
        }
    }

    async fn recalled(&mut self, lease: &mut Lease) -> Result<(), Lost> {
        let rules = self.hot.session;
        if !rules.asks && self.hot.mode != PoolMode::Session {
            return Err(Lost("a reload has changed what becomes of its session state".into()));
        }
        let Some(listening) = &mut self.listening else { return Ok(()) };
        let Some(conn) = lease.conn() else { return Err(Lost("there is no server connection".into())) };
        if !takes_them_as_they_are(&conn.state) && listening.part.channels.iter().any(|c| !c.is_ascii()) {
            return Err(Lost("its client_encoding is not that of the database any more".into()));
        }
        let fence = listening.part.fence(Turn::Ends);
        let begun = channels::begin(conn, &listening.part.channels, &fence);
        let behind = in_time(rules.timeout, "LISTEN", begun).await?;
        arrived(&listening.part, fence, rules.timeout).await?;
        listening.away = false;
        let inbox = listening.part.inbox.clone();
        if let Some(Ended::Slow { bytes, limit, .. }) = inbox.ended() {
            return Err(Lost(format!("{bytes} bytes waited for it, and listen_buffer is {limit}").into()));
        }
        let out = self.down_lane().insert();
        inbox.take(out, usize::MAX);
        out.extend_from_slice(&behind);
        // So that the server is asked after the transaction which channels are left.
        self.proto.effects.add(TextEffects::HIDDEN);
        Ok(())
    }

    /// After a transaction: the listener receives the client's notifications from here on. The caller awaits the fence.
    pub(super) async fn share(&mut self, lease: &mut Lease, held: &Holdings) -> Result<Option<Fence>, Lost> {
        let names = held.channels();
        if names.is_empty() {
            self.listening = None;
            return Ok(None);
        }
        let pool = lease.pool().clone();
        let Some(conn) = lease.conn() else { return Err(Lost("there is no server connection".into())) };
        let limit = self.hot.session.timeout;
        let old = self.listening.take().map(|s| s.part);
        // A listener may have to be opened first.
        let most = limit + pool.spec().settings.server_connect_timeout;
        let client = listener::Client {
            id: self.ctl.id,
            key: (pool.key.database.clone(), conn.host.clone()),
            limit: self.services.config().limits.listen_buffer,
            wake: &|| {
                let ctl = self.ctl.clone();
                Box::new(move || ctl.waker.wake())
            },
            home: &|| home(&pool, &conn.host),
        };
        let wanted = self.services.listeners.want(old, client, names);
        let part = tokio::time::timeout(most, wanted).await.map_err(|_| late(most))??;
        let fence = part.fence(Turn::Begins);
        let before = in_time(limit, "UNLISTEN", channels::end(conn, &part.channels, &fence)).await?;
        self.down_lane().insert().extend_from_slice(&before);
        self.listening = Some(Box::new(Listening { part, away: true }));
        Ok(Some(fence))
    }

    /// Waits until the listener has reached the fence. Before that, the client could miss a notification.
    pub(super) async fn await_fence(&mut self, fence: Option<Fence>) -> Option<Goodbye> {
        let (Some(fence), Some(listening)) = (fence, &self.listening) else { return None };
        let lost = arrived(&listening.part, fence, self.hot.session.timeout).await.err()?;
        let e = self.deaf(&lost);
        Some(self.ends_with(&e).await)
    }

    /// Ends the client, and closes the server connection, which may still listen.
    pub(super) async fn hears_no_more(&mut self, lease: Lease, lost: &Lost) -> Option<Goodbye> {
        let e = self.deaf(lost);
        lease.discard(report(&e).code, TxStats::default());
        Some(self.ends_with(&e).await)
    }
}

/// Runs a change of channels on a server connection within a time limit. `what` names the statement in the error.
async fn in_time(
    limit: Duration,
    what: &str,
    said: impl Future<Output = Result<Vec<u8>, Broken>>,
) -> Result<Vec<u8>, Lost> {
    let said = tokio::time::timeout(limit, said).await.map_err(|_| late(limit))?;
    said.map_err(|why| Lost(format!("{what} on a server connection: {why}").into()))
}

/// How to open a listener: it logs in as the pool whose client was the first to listen, on the host of that client's server
/// connection.
fn home(pool: &Arc<Pool>, host: &HostAddr) -> Home {
    let (dials, key, at) = (pool.clone(), pool.key.clone(), host.clone());
    let open = async move {
        let (pooling, spec) = (&dials.pooling, dials.spec());
        let mut target = dials.target(&spec);
        target.on_connect.clear();
        target.startup = vec![
            ("application_name".to_owned(), server::own::LISTENER.to_owned()),
            // So that the server does not convert names and payloads: the clients have the encoding of the database.
            ("client_encoding".to_owned(), "SQL_ASCII".to_owned()),
        ];
        let room = pooling.ledger.take(&[], pooling).map_err(|(k, _)| k.to_string())?;
        let (nothing, beside) = (pooling.nothing.clone(), &pooling.handshakes.servers);
        let opened = server::connect::open(at, &target, 0, Box::new(room), nothing, beside).await;
        opened.map_err(|f| f.error().to_string())
    };
    let (pooling, host, dbname) = (pool.pooling.clone(), host.clone(), pool.target(&pool.spec()).dbname);
    let check = move || {
        let gone = || format!("the configuration leads to another server than {host} now");
        let config = pooling.config();
        let db = config.database(&key.database).ok_or_else(gone)?;
        let spec = PoolSpec::resolve(&config, &db, &key).ok_or_else(gone)?;
        if !spec.hosts.contains(&host) || db.dbname != dbname {
            return Err(gone());
        }
        let routes = pooling.monitor.routes(&key.database).filter(|_| key.role == Role::Primary);
        match routes.as_ref().and_then(|r| r.primary()) {
            Some(primary) if primary.addr != host => {
                Err(format!("the primary of the database is {} now", primary.addr))
            }
            _ => Ok(()),
        }
    };
    Home { open: Box::pin(open), check: Box::new(check) }
}

async fn arrived(part: &Subscription, fence: Fence, limit: Duration) -> Result<(), Lost> {
    tokio::time::timeout(limit, part.came(fence)).await.unwrap_or_else(|_| Err(late(limit)))
}

fn late(limit: Duration) -> Lost {
    let limit = limit.as_secs_f64();
    Lost(format!("it was not in step within {limit:.3} s (session_check_timeout)").into())
}
