//! What others may know of a pool's servers, and how an operator stops and starts them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::core::{CloseReason, Effects, ServerState};
use super::{CancelTarget, Pool};
use crate::clients::handle::ClientCtl;
use crate::clock::Clock;
use crate::net::stream::Stream;
use crate::tls::Agreed;

/// What stays the same while a server connection lasts.
#[derive(Debug, Clone)]
pub struct Facts {
    pub cancel: CancelTarget,
    /// Of this process, never used again.
    pub serial: u64,
    pub opened: Instant,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    pub tls: Option<Agreed>,
}

impl Facts {
    pub(super) fn of(cancel: CancelTarget, serial: u64, opened: Instant, stream: &Stream) -> Self {
        let (local, remote) = stream.addresses();
        Self { cancel, serial, opened, local, remote, tls: stream.tls().and_then(Agreed::of) }
    }
}

/// One server connection of a pool.
#[derive(Debug, Clone)]
pub struct Server {
    pub state: ServerState,
    pub since: Instant,
    pub holder: Option<Arc<ClientCtl>>,
    /// To be closed when it is free.
    pub doomed: bool,
    pub cancels: u32,
    /// Not while it is being opened.
    pub facts: Option<Facts>,
}

impl Pool {
    pub fn servers(&self) -> Vec<Server> {
        let own = self.own_servers();
        let inner = self.inner.lock();
        inner
            .core
            .servers()
            .map(|s| Server {
                state: s.state,
                since: s.since,
                holder: s.holder.cloned(),
                doomed: s.doomed,
                cancels: s.cancels,
                facts: s.target.cloned(),
            })
            .chain(own)
            .collect()
    }

    /// Cancels that are under way for its servers.
    pub fn cancelling(&self) -> usize {
        self.inner.lock().core.servers().map(|s| s.cancels as usize).sum()
    }

    /// Brings the pool to what the operator has put in force.
    pub fn follow_control(self: &Arc<Self>) {
        loop {
            let hold = self.shared.control.hold(&self.key.database);
            let mut fx = Effects::default();
            self.inner.lock().core.set_hold(Clock::now(), hold, &mut fx);
            self.apply(fx);
            // Whoever changed it meanwhile may have been here before us.
            if self.shared.control.hold(&self.key.database) == hold {
                return;
            }
        }
    }

    /// Replaces every server connection: those that are idle now, the others as they come back.
    pub fn reconnect(self: &Arc<Self>) {
        let mut fx = Effects::default();
        self.forget_welcome();
        self.inner.lock().core.doom_all(CloseReason::Reconnect, &mut fx);
        fx.look = true;
        self.apply(fx);
        self.end_sessions();
    }

    /// No server connection is left, nor is one being opened.
    pub fn is_empty(&self) -> bool {
        self.counts().tracked() == 0
    }

    /// For how long nobody has used it, as seen whenever this is asked; `now` is in milliseconds of the clock.
    pub(super) fn unused_for(&self, now: u64, used: bool) -> Duration {
        if used {
            self.unused.store(0, Ordering::Relaxed);
            return Duration::ZERO;
        }
        let now = now.max(1);
        let since = self.unused.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        Duration::from_millis(now.saturating_sub(since.err().unwrap_or(now)))
    }

    /// Server connections that are to be replaced and still there.
    pub fn doomed(&self) -> usize {
        self.inner.lock().core.servers().filter(|s| s.doomed).count()
    }
}
