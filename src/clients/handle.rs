//! What others may know of a client, and how they reach it: shared between its task, the janitor, cancel
//! requests and statistics. Its task owns everything else.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use atomic_waker::AtomicWaker;
use parking_lot::Mutex;
use smallvec::SmallVec;

use super::link::{Cancels, Link};
use crate::clock::Clock;
use crate::error::{Error, Shutdown};
use crate::ids::ConnId;
use crate::net::stream::{Peer, Stream};
use crate::proto::startup::Replication;
use crate::tls::Agreed;

/// Requests to a client's task; bits of [`ClientCtl`]'s signal word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// End now, with 57P01.
    Kill = 1,
    /// End at the next transaction boundary, with 57P01.
    Drain = 2,
    /// The database was removed: end at the next transaction boundary.
    Removed = 4,
    /// With [`Self::Kill`]: it was for the whole database.
    DatabaseKilled = 8,
    /// Its transaction has been idle for too long: end, with 25P03, if it is idle yet.
    Leak = 16,
    /// A session pool's server is to be replaced: end between transactions.
    ServerReplaced = 32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ClientState {
    Login = 0,
    Idle = 1,
    Waiting = 2,
    Active = 3,
    IdleInTransaction = 4,
}

impl ClientState {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Login => "logging in",
            Self::Idle => "idle",
            Self::Waiting => "waiting for a server",
            Self::Active => "running a query",
            Self::IdleInTransaction => "idle in transaction",
        }
    }

    fn from_u8(n: u8) -> Self {
        match n {
            0 => Self::Login,
            2 => Self::Waiting,
            3 => Self::Active,
            4 => Self::IdleInTransaction,
            _ => Self::Idle,
        }
    }
}

/// What a CancelRequest must name; before protocol 3.2 it is of four bytes, which need no place of their own.
pub type CancelSecret = SmallVec<[u8; 16]>;

#[derive(Debug)]
pub struct ClientCtl {
    pub id: u64,
    pub peer: Peer,
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub connected: Instant,
    pub secret: CancelSecret,
    state: AtomicU8,
    /// Milliseconds of the clock at which the task wants to be woken; 0 is never.
    deadline: AtomicU64,
    state_since: AtomicU64,
    signals: AtomicU32,
    pub waker: AtomicWaker,
    link: Mutex<Link>,
    application_name: Mutex<Arc<str>>,
    pub transactions: AtomicU64,
    /// Named statements that it holds.
    prepared: AtomicU32,
    place: OnceLock<Place>,
    /// The number of the statement that it sent last, see [`crate::queries`]; 0 before the first.
    statement: AtomicU64,
}

/// Where a client's connection ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Our end, where it has an address.
    pub local: Option<SocketAddr>,
    /// The process at the other end of a Unix socket.
    pub pid: Option<i32>,
    pub tls: Option<Agreed>,
    pub replication: Replication,
}

impl ClientCtl {
    pub fn new(
        id: u64,
        peer: Peer,
        user: Arc<str>,
        database: Arc<str>,
        application_name: Arc<str>,
        secret: CancelSecret,
        now: Instant,
    ) -> Self {
        Self {
            id,
            peer,
            user,
            database,
            connected: now,
            secret,
            state: AtomicU8::new(ClientState::Login as u8),
            deadline: AtomicU64::new(0),
            state_since: AtomicU64::new(0),
            signals: AtomicU32::new(0),
            waker: AtomicWaker::new(),
            link: Mutex::new(Link::None),
            application_name: Mutex::new(application_name),
            transactions: AtomicU64::new(0),
            prepared: AtomicU32::new(0),
            place: OnceLock::new(),
            statement: AtomicU64::new(0),
        }
    }

    /// Which of the lists of free buffers is its own: any number, of which the last bits count.
    #[inline]
    pub fn shard(&self) -> usize {
        #[expect(clippy::cast_possible_truncation, reason = "only the last bits count")]
        let shard = self.id as usize;
        shard
    }

    #[inline]
    pub fn set_state(&self, s: ClientState, now_ms: u64) {
        self.state.store(s as u8, Ordering::Relaxed);
        self.state_since.store(now_ms, Ordering::Relaxed);
    }

    pub fn state(&self) -> ClientState {
        ClientState::from_u8(self.state.load(Ordering::Relaxed))
    }

    /// Since when it is in its state, in milliseconds of the clock.
    pub fn state_since(&self) -> u64 {
        self.state_since.load(Ordering::Relaxed)
    }

    #[inline]
    pub fn set_deadline(&self, at_ms: u64) {
        if self.deadline.load(Ordering::Relaxed) != at_ms {
            self.deadline.store(at_ms, Ordering::Relaxed);
        }
    }

    /// Called by the janitor.
    pub fn wake_if_due(&self, now_ms: u64) {
        let d = self.deadline.load(Ordering::Relaxed);
        if d != 0 && now_ms >= d {
            self.waker.wake();
        }
    }

    pub fn signal(&self, s: Signal) {
        self.signals.fetch_or(s as u32, Ordering::Release);
        self.waker.wake();
    }

    /// A request that has become pointless.
    pub fn clear(&self, s: Signal) {
        self.signals.fetch_and(!(s as u32), Ordering::Release);
    }

    #[inline]
    pub fn has(&self, s: Signal) -> bool {
        self.signals.load(Ordering::Acquire) & s as u32 != 0
    }

    #[inline]
    pub fn any_signal(&self) -> bool {
        self.signals.load(Ordering::Acquire) != 0
    }

    /// What a client is told that a signal ends.
    pub fn ending(&self) -> Error {
        let database = || self.database.to_string();
        if self.has(Signal::Removed) {
            return Error::DatabaseRemoved { database: database() };
        }
        if self.has(Signal::DatabaseKilled) {
            return Error::DatabaseKilled { database: database() };
        }
        if self.has(Signal::Kill) {
            return Error::AdminShutdown { by: Shutdown::Operator };
        }
        if self.has(Signal::ServerReplaced) {
            return Error::ServerReplaced;
        }
        Error::AdminShutdown { by: Shutdown::Pooler }
    }

    pub fn set_link(&self, l: Link) {
        *self.link.lock() = l;
    }

    /// A lease of `pool` began; the pool's count of references is touched only when it is another pool.
    #[inline]
    pub fn set_lease<P: Cancels + 'static>(&self, pool: &Arc<P>, id: ConnId, lease: u64) {
        let mut link = self.link.lock();
        if let Link::Leased(p, i, l) = &mut *link
            && std::ptr::addr_eq(Arc::as_ptr(p), Arc::as_ptr(pool))
        {
            *i = id;
            *l = lease;
            return;
        }
        *link = Link::Leased(pool.clone(), id, lease);
    }

    pub fn set_place(&self, stream: &Stream, replication: Replication) {
        let pid = stream.unix_peer().and_then(|(_, pid)| pid);
        let tls = stream.tls().and_then(Agreed::of);
        let _ = self.place.set(Place { local: stream.addresses().0, pid, tls, replication });
    }

    pub fn place(&self) -> Place {
        self.place.get().copied().unwrap_or_default()
    }

    #[inline]
    pub fn set_prepared(&self, n: usize) {
        self.prepared.store(u32::try_from(n).unwrap_or(u32::MAX), Ordering::Relaxed);
    }

    pub fn prepared(&self) -> u32 {
        self.prepared.load(Ordering::Relaxed)
    }

    pub fn link(&self) -> Link {
        self.link.lock().clone()
    }

    #[inline]
    pub fn set_statement(&self, id: u64) {
        self.statement.store(id, Ordering::Relaxed);
    }

    pub fn statement(&self) -> u64 {
        self.statement.load(Ordering::Relaxed)
    }

    pub fn set_application_name(&self, name: &str) {
        *self.application_name.lock() = name.into();
    }

    pub fn application_name(&self) -> Arc<str> {
        self.application_name.lock().clone()
    }

    /// For who asks often, and lets go of it before it asks anything else here.
    #[inline]
    pub fn lock_application_name(&self) -> parking_lot::MutexGuard<'_, Arc<str>> {
        self.application_name.lock()
    }

    /// One phrase for an error's DETAIL: who holds, since when, doing what.
    pub fn describe(&self, clock: &Clock, held: std::time::Duration) -> String {
        let state_ms = clock.now_ms().saturating_sub(self.state_since());
        let app = self.application_name();
        format!(
            "client {} of user {} from {}{}, holding for {:.3} s, {} for {:.3} s",
            self.id,
            self.user,
            self.peer,
            if app.is_empty() {
                String::new()
            } else {
                format!(" (application_name {})", app.escape_default())
            },
            held.as_secs_f64(),
            self.state().as_str(),
            state_ms as f64 / 1e3,
        )
    }
}
