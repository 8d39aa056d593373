//! A client's channels, which the listener hears for it while it has no server connection (`session_listen = "share"`).
//! See [`crate::listener`].

use std::sync::Arc;
use std::task::Poll;

use futures_util::future::BoxFuture;

use super::channels;
use super::session::{Goodbye, Session};
use crate::config::resolved::{HostAddr, PoolMode, Role};
use crate::error::{Error, report};
use crate::listener::core::Turn;
use crate::listener::inbox::Ended;
use crate::listener::{self, Home, Lost, Mark, Subscription};
use crate::pool::{Lease, Pool, PoolSpec};
use crate::proto::holdings::Holdings;
use crate::proto::pipeline::TxStatus;
use crate::proto::sql::TextEffects;
use crate::relay::state::{ServerState, TxStats};
use crate::server;

use crate::session_state::Way;

/// Bytes that are taken from an inbox at one time; the rest stays there, where it is counted.
const PORTION: usize = 64 * 1024;

/// A client that listens.
#[derive(Debug)]
pub(super) struct Listening {
    part: Subscription,
    /// The listener hears for it, and not its server connection.
    away: bool,
}

/// The notifications of the listener are in the encoding of the database.
fn takes_them_as_they_are(state: &ServerState) -> bool {
    let of = |name| state.view.get(name).unwrap_or_default();
    let (client, server) = (of("client_encoding"), of("server_encoding"));
    client == server || client == b"SQL_ASCII" || server == b"SQL_ASCII"
}

impl Session {
    /// Whether the channels that its session holds on this server connection move to the listener.
    pub(super) fn shares(&self, lease: &mut Lease) -> bool {
        let rules = &self.hot.session;
        rules.asks
            && rules.ways.listen == Way::Share
            && lease.pool().key.role != Role::Replica
            && lease.conn().is_some_and(|c| takes_them_as_they_are(&c.state))
    }

    // ---- without a server connection

    /// What the listener has heard goes to the client, as far as that is little. `Err`: it hears no more.
    pub(super) fn hear(&mut self) -> Result<bool, Error> {
        let Some(listening) = &self.listening else { return Ok(false) };
        if !listening.away {
            let reason = "its server connection was lost while that listened for it".into();
            return Err(self.deaf(&Lost(reason)));
        }
        // Not in the middle of what it takes for a transaction.
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

    /// Writes what is owed, and what the listener has heard.
    pub(super) async fn flush_heard(&mut self) -> Result<(), Goodbye> {
        loop {
            let heard = self.hear();
            let written = self.flush().await;
            // Where it takes too little, it is told why it ends.
            let heard = if written.is_err() { self.hear() } else { heard };
            if let Err(e) = heard {
                let code = report(&e).code;
                self.count_error(code);
                self.farewell(&e).await;
                return Err(code);
            }
            written?;
            if heard == Ok(false) {
                return Ok(());
            }
        }
    }

    /// Waits for a write, which ends where the client takes too little for too long.
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

    /// Before a transaction: its server connection listens for it, and all that was heard before is with the client.
    pub(super) async fn recall(&mut self, mut lease: Lease) -> Result<Lease, Option<Goodbye>> {
        // A standby takes no LISTEN, and nobody can send a notification there.
        if self.listening.is_none() || lease.pool().key.role == Role::Replica {
            return Ok(lease);
        }
        let answer = self.flush_at_once();
        answer.await;
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
        let mark = listening.part.mark(Turn::Ends);
        let begun = channels::begin(conn, &listening.part.channels, own(&mark));
        let behind = match tokio::time::timeout(rules.timeout, begun).await {
            Ok(Ok(behind)) => behind,
            Ok(Err(why)) => return Err(Lost(format!("LISTEN on a server connection: {why}").into())),
            Err(_) => return Err(late(rules.timeout)),
        };
        arrived(&listening.part, mark, rules.timeout).await?;
        listening.away = false;
        let inbox = listening.part.inbox.clone();
        if let Some(Ended::Slow { bytes, limit, .. }) = inbox.ended() {
            return Err(Lost(format!("{bytes} bytes waited for it, and listen_buffer is {limit}").into()));
        }
        let out = self.down_lane().insert();
        inbox.take(out, usize::MAX);
        out.extend_from_slice(&behind);
        // What has become of its channels is asked behind the transaction.
        self.proto.effects.add(TextEffects::HIDDEN);
        Ok(())
    }

    /// Behind a transaction: the listener hears for the client from here on. The mark is to be awaited.
    pub(super) async fn share(&mut self, lease: &mut Lease, held: &Holdings) -> Result<Option<Mark>, Lost> {
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
        let mark = part.mark(Turn::Begins);
        let ended = channels::end(conn, &part.channels, own(&mark));
        let before = match tokio::time::timeout(limit, ended).await {
            Ok(Ok(before)) => before,
            Ok(Err(why)) => return Err(Lost(format!("UNLISTEN on a server connection: {why}").into())),
            Err(_) => return Err(late(limit)),
        };
        self.down_lane().insert().extend_from_slice(&before);
        self.listening = Some(Box::new(Listening { part, away: true }));
        Ok(Some(mark))
    }

    /// Until the listener has come to the mark, it is not known that it hears for the client.
    pub(super) async fn await_mark(&mut self, mark: Option<Mark>) -> Option<Goodbye> {
        let (Some(mark), Some(listening)) = (mark, &self.listening) else { return None };
        let lost = arrived(&listening.part, mark, self.hot.session.timeout).await.err()?;
        let e = self.deaf(&lost);
        self.count_error(report(&e).code);
        self.farewell(&e).await;
        Some(report(&e).code)
    }

    /// The server connection is closed, for it may listen.
    pub(super) async fn hears_no_more(&mut self, lease: Lease, lost: &Lost) -> Option<Goodbye> {
        let e = self.deaf(lost);
        let code = report(&e).code;
        self.count_error(code);
        lease.discard(code, TxStats::default());
        self.farewell(&e).await;
        Some(code)
    }
}

fn own(mark: &Mark) -> channels::Mark<'_> {
    channels::Mark { channel: &mark.channel, text: &mark.text }
}

/// A listener logs in as the pool whose client was the first to listen, where that client has its server connection.
fn home(pool: &Arc<Pool>, host: &HostAddr) -> Home {
    let (dials, key, at) = (pool.clone(), pool.key.clone(), host.clone());
    let open = async move {
        let (pooling, spec) = (&dials.pooling, dials.spec());
        let mut target = dials.target(&spec);
        target.on_connect.clear();
        target.startup = vec![
            ("application_name".to_owned(), server::own::LISTENER.to_owned()),
            // Names and payloads stay as they are in the database; its clients have no other encoding.
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

async fn arrived(part: &Subscription, mark: Mark, limit: std::time::Duration) -> Result<(), Lost> {
    tokio::time::timeout(limit, part.came(mark)).await.unwrap_or_else(|_| Err(late(limit)))
}

fn late(limit: std::time::Duration) -> Lost {
    let limit = limit.as_secs_f64();
    Lost(format!("it was not in step within {limit:.3} s (session_check_timeout)").into())
}
