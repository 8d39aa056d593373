//! Server connections that belong to one client from their opening to their end: those of replication. They take
//! places of their pool, which an idle connection of it makes room for, and are never handed on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::inspect::Server;
use super::ledger::{LimitKey, Room};
use super::links::OwnLink;
use super::{Pool, PoolSpec, registry};
use crate::clients::handle::{ClientCtl, ClientState};
use crate::clients::link::Link;
use crate::clock::Clock;
use crate::config::resolved::HostAddr;
use crate::control::Hold;
use crate::error::Error;
use crate::net::stream::Stream;
use crate::pool::core::{ServerState, WaitEnd};
use crate::proto::params::ParamSet;
use crate::server::close::{self, Goodbye};
use crate::server::conn::ServerConn;
use crate::server::connect;

/// Somebody who waits for a place outside of the pool's queue.
#[derive(Debug)]
pub(super) struct Ticket {
    pool: Arc<Pool>,
    wanted: Vec<(LimitKey, Option<usize>)>,
    room: Mutex<Option<oneshot::Sender<Room>>>,
}

impl Ticket {
    pub(super) fn wanted(&self) -> &[(LimitKey, Option<usize>)] {
        &self.wanted
    }

    /// Whether it waits for a place at this host, and may be given one.
    pub(super) fn is_for(&self, host: &HostAddr) -> bool {
        self.wanted.iter().any(|(key, _)| matches!(key, LimitKey::Host(h) if h == host))
            && self.room.lock().is_some()
            && self.pool.shared.control.hold(&self.pool.key.database) == Hold::No
    }

    /// Takes the place if there is one, or asks for it.
    pub(super) fn look(self: &Arc<Self>) {
        let pooling = &self.pool.pooling;
        if pooling.shared.control.hold(&self.pool.key.database) != Hold::No {
            return pooling.ledger.starve_ticket(self);
        }
        match pooling.ledger.take(&self.wanted, pooling) {
            Ok(room) => {
                // Who has left meanwhile leaves the place to the next, when `room` is dropped.
                if let Some(send) = self.room.lock().take() {
                    drop(send.send(room));
                }
            }
            Err((key, _)) => {
                pooling.ledger.starve_ticket(self);
                self.pool.make_room_for_own(&key);
            }
        }
    }
}

/// Bytes and round trips of such a connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traffic {
    pub from_client: u64,
    pub to_client: u64,
    pub queries: u64,
}

impl Pool {
    /// A place at host number `index`; waits as long as the pool's clients do.
    pub async fn own_place(self: &Arc<Self>, ctl: &Arc<ClientCtl>, index: usize) -> Result<Room, Error> {
        let since = Clock::now();
        ctl.set_state(ClientState::Waiting, self.shared.clock.ms(since));
        let (send, receive) = oneshot::channel();
        let wanted = self.spec().wanted(index);
        let ticket = Arc::new(Ticket { pool: self.clone(), wanted, room: Mutex::new(Some(send)) });
        ticket.look();
        let limit = self.spec().wait_limit().0;
        let pooling = self.pooling.clone();
        let granted = async {
            let held = || pooling.shared.control.hold(&self.key.database) != Hold::No;
            let (mut receive, mut was_held) = (receive, held());
            loop {
                // A RESUME gives nothing back that would make the ledger look.
                let tick = pooling.shared.control.tick.notified();
                tokio::select! {
                    room = &mut receive => return room.ok(),
                    () = tick => {
                        if std::mem::replace(&mut was_held, held())
                            && !was_held
                            && pooling.ledger.forget_ticket(&ticket)
                        {
                            ticket.look();
                        }
                    }
                }
            }
        };
        let room = match limit {
            Some(l) => tokio::time::timeout(l, granted)
                .await
                .map_err(|_| self.wait_error(WaitEnd::TimedOut, since))?,
            None => granted.await,
        };
        room.ok_or_else(|| Error::Internal("a place was promised and not given".to_owned()))
    }

    /// Whoever can spare a connection for one of a client's own.
    fn make_room_for_own(self: &Arc<Self>, key: &LimitKey) {
        // The fleet is asked first, and room is made if it has none.
        if matches!(key, LimitKey::Fleet(_)) {
            return;
        }
        if self.counts().closing > 0 || self.evict_down_to(0, false) {
            return;
        }
        match key {
            LimitKey::Pool(_) => {
                self.evict_down_to(0, true);
            }
            _ => registry::make_room(self, key),
        }
    }

    /// Opens a connection for one client alone, with what its startup packet says over what the pool's own are opened
    /// with. Not cancel safe: who gives up leaves nothing behind.
    pub async fn open_own(
        self: &Arc<Self>,
        ctl: &Arc<ClientCtl>,
        params: Vec<(String, String)>,
    ) -> Result<Own, Error> {
        let spec = self.spec();
        let index = self.next_index(&spec);
        let host =
            spec.hosts.get(index).ok_or_else(|| Error::Internal("a pool without a host".to_owned()))?;
        let room = self.own_place(ctl, index).await?;
        let began = Clock::now();
        let mut target = self.target(&spec);
        // A walsender knows no SQL, or not all of it.
        target.on_connect.clear();
        target.startup.retain(|(n, _)| !params.iter().any(|(p, _)| p.eq_ignore_ascii_case(n)));
        target.startup.extend(params);
        let epoch = self.epoch.load(Ordering::Relaxed);
        let opened = connect::open(
            host.clone(),
            &target,
            epoch,
            Box::new(room),
            self.shared.nothing.clone(),
            &self.shared.handshakes.servers,
        )
        .await;
        match opened {
            Ok(conn) => Ok(self.own_opened(ctl, conn, &spec, began)),
            Err(f) => {
                self.note_failure(&f, &spec, host, index, true);
                Err(match self.turns.failed(index, f, spec.hosts.len()).into_error() {
                    Error::ServerLogin(e) => Error::ReplicationLogin(e),
                    e => e,
                })
            }
        }
    }

    fn own_opened(
        self: &Arc<Self>,
        ctl: &Arc<ClientCtl>,
        mut conn: Box<ServerConn>,
        spec: &PoolSpec,
        began: Instant,
    ) -> Own {
        let facts = self.arrived(&mut conn, spec, began);
        ctl.set_link(Link::Own(Arc::new(OwnLink { pool: self.clone(), to: facts.cancel.clone() })));
        self.own.lock().push(Server {
            state: ServerState::Leased,
            since: Clock::now(),
            holder: Some(ctl.clone()),
            doomed: false,
            cancels: 0,
            facts: Some(facts),
        });
        Own { pool: self.clone(), conn }
    }

    /// Connections of clients' own at this host.
    pub fn owned_at(&self, host: &HostAddr) -> usize {
        let at = |s: &&Server| s.facts.as_ref().is_some_and(|f| f.cancel.host == *host);
        self.own.lock().iter().filter(at).count()
    }

    /// Connections of clients' own.
    pub fn own_servers(&self) -> Vec<Server> {
        self.own.lock().clone()
    }
}

/// A server connection that is one client's alone.
#[derive(Debug)]
pub struct Own {
    pool: Arc<Pool>,
    conn: Box<ServerConn>,
}

impl Own {
    pub fn stream(&mut self) -> &mut Stream {
        &mut self.conn.stream
    }

    pub fn host(&self) -> String {
        self.conn.host.to_string()
    }

    /// What the server reported at the login.
    pub fn parameters(&self) -> Arc<ParamSet> {
        self.conn.state.defaults.clone()
    }

    pub fn book(&self, t: &Traffic) {
        let mut inner = self.pool.inner.lock();
        inner.totals.from_client += t.from_client;
        inner.totals.to_client += t.to_client;
        inner.totals.queries += t.queries;
        inner.totals.transactions += t.queries;
    }

    /// It ends; its place comes back when the server has let go of it. `lost`: the server ended it.
    pub async fn end(mut self, lost: bool, half_sent: bool) {
        let reason = if lost { "server_lost" } else { "replication_end" };
        self.pool.shared.counters.count("server_disconnects_total", reason);
        self.pool.log.ended(&self.conn, reason, None);
        let goodbye = if half_sent { Goodbye::Silent } else { Goodbye::Terminate };
        if !close::see_off(&mut self.conn.stream, goodbye).await {
            self.pool.shared.counters.count("server_close_timeouts_total", "");
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let is_this = |s: &Server| s.facts.as_ref().is_some_and(|f| f.serial == self.conn.serial);
        self.pool.own.lock().retain(|s| !is_this(s));
    }
}
