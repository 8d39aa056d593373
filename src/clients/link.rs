//! Where a cancel for a client goes: to the pool for which it waits or whose server connection it has.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::ids::{ConnId, WaiterId};

#[derive(Debug, Clone)]
pub enum Link {
    None,
    Waiting(Arc<dyn Cancels>, WaiterId),
    /// Stays after the lease has ended: the pool knows by the lease's number that it has.
    Leased(Arc<dyn Cancels>, ConnId, u64),
    /// A connection that is this client's alone.
    Own(Arc<dyn CancelsOwn>),
    /// A command of the console that waits.
    Console(Arc<Notify>),
}

/// A pool, as a cancel sees it.
pub trait Cancels: std::fmt::Debug + Send + Sync {
    /// The client waits no longer.
    fn cancel_waiter(&self, id: WaiterId);

    /// Ends what runs under this lease; `None` where the lease is over. The task ends when the cancel was delivered.
    fn cancel_holder(self: Arc<Self>, id: ConnId, lease: u64) -> Option<JoinHandle<()>>;
}

/// A connection that is one client's own: nobody else can be hit.
pub trait CancelsOwn: std::fmt::Debug + Send + Sync {
    /// Ends what runs on it. The task ends when the cancel was delivered.
    fn cancel(&self) -> JoinHandle<()>;
}
