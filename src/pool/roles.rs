//! Pools and the roles of servers: which host may be dialled, whose connection may be handed out, and what happens
//! when the monitor sees another primary.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::core::{CloseReason, Effects, WaitEnd};
use super::registry::Registry;
use super::{Pool, PoolKey};
use crate::clock::Clock;
use crate::config::resolved::{HostAddr, PoolMode, Role};
use crate::config::routing::Hosts;
use crate::error::{Error, OpenFailure};
use crate::monitor::Routes;
use crate::relay::state::RoleWatch;
use crate::server::conn::ServerConn;

impl Pool {
    pub fn mode(&self) -> PoolMode {
        self.spec.read().settings.mode
    }

    /// Its database's routes; asked for only where something is opened or lost.
    fn routes(&self) -> Option<Arc<Routes>> {
        self.pooling.monitor.routes(&self.key.database)
    }

    /// Whether a host has the role that this pool's servers must have, as far as anybody knows.
    pub(super) fn may_dial(&self, host: &HostAddr) -> bool {
        self.routes().is_none_or(|r| r.may_dial(host, self.key.role))
    }

    /// Sees to it that a new connection is of the role that its server says, and keeps telling.
    pub(super) fn check_role(&self, conn: &mut ServerConn) -> Result<(), OpenFailure> {
        let Some(routes) = self.routes() else { return Ok(()) };
        if self.key.role == Role::Admin || !routes.watches_roles() {
            return Ok(());
        }
        let standby = self.key.role == Role::Replica;
        let shown = routes.shown_standby();
        conn.state.watch_role(RoleWatch { standby, shown, contradicts: false });
        if !conn.state.contradicts_role() {
            return Ok(());
        }
        self.shared.counters.count("fences_total", "login");
        let is = if standby {
            "is not in recovery, which a replica is"
        } else {
            "is in recovery, which a primary is not"
        };
        let e = Error::ServerUnreachable { host: conn.host.to_string(), reason: format!("the server {is}") };
        // Which host is the primary is being found out: that is worth a wait.
        Err(OpenFailure::Transient(e))
    }

    /// Where the primary is found out, its clients wait for the next one: a failover is no error of theirs.
    pub(super) fn patient(&self, f: OpenFailure) -> OpenFailure {
        let waits = |r: &Arc<Routes>| r.watches_roles() && r.routing.hosts == Hosts::Auto;
        match f {
            OpenFailure::Unreachable(e)
                if self.key.role == Role::Primary && self.routes().is_some_and(|r| waits(&r)) =>
            {
                OpenFailure::Transient(e)
            }
            f => f,
        }
    }

    /// A connection was lost: what the monitor knows of the host may not hold any more.
    pub(super) fn tell_monitor(&self, host: &HostAddr) {
        if let Some(routes) = self.routes() {
            routes.connection_lost(host);
        }
    }

    /// Nothing is open, and opening fails: a choice among several hosts passes it by.
    pub fn has_run_dry(&self) -> bool {
        self.inner.lock().core.is_dry(Clock::now())
    }

    /// No connection that is open now is handed out again.
    fn fence(self: &Arc<Self>) {
        self.shared.counters.count("fences_total", "role_change");
        let mut fx = Effects::default();
        {
            let mut inner = self.inner.lock();
            self.epoch.fetch_add(1, Ordering::Relaxed);
            inner.core.doom_all(CloseReason::Reconfigured, &mut fx);
        }
        self.apply(fx);
        self.end_sessions();
    }

    /// Another host serves from now on: nothing of the failures before counts.
    fn try_at_once(self: &Arc<Self>) {
        self.inner.lock().core.forget_failures();
        self.look();
    }

    /// Those who wait here choose again.
    fn send_on(self: &Arc<Self>, host: &HostAddr) {
        let reason = "the monitor has lost the server".to_owned();
        let e = Error::ServerUnreachable { host: host.to_string(), reason };
        let mut fx = Effects::default();
        self.inner.lock().core.send_on(&WaitEnd::Failed(e), &mut fx);
        self.apply(fx);
    }
}

impl Registry {
    /// A host of these routes has changed; `elected`: another one is the primary now.
    pub fn follow_roles(&self, routes: &Routes, elected: bool) {
        let of_database = |k: &PoolKey| k.database == routes.database;
        for pool in self.all().into_iter().filter(|p| of_database(&p.key)) {
            match (&pool.key.host, pool.key.role) {
                (None, Role::Primary) if elected => {
                    if let Some(p) = routes.primary() {
                        pool.pooling.ledger.host_reached(&p.addr);
                    }
                    if routes.primary_moved() {
                        pool.fence();
                    }
                    pool.try_at_once();
                }
                (Some(host), Role::Replica) => {
                    let Some(in_recovery) = routes.in_recovery(host) else {
                        pool.send_on(host);
                        continue;
                    };
                    if in_recovery {
                        pool.pooling.ledger.host_reached(host);
                        pool.try_at_once();
                    } else {
                        pool.fence();
                        pool.send_on(host);
                    }
                }
                _ => {}
            }
        }
    }
}
