//! How a cancel reaches what a client of a pool has or waits for.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::{CancelTarget, Pool};
use crate::clients::link::{Cancels, CancelsOwn};
use crate::ids::{ConnId, WaiterId};

impl Cancels for Pool {
    fn cancel_waiter(&self, id: WaiterId) {
        Self::cancel_waiter(self, id);
    }

    fn cancel_holder(self: Arc<Self>, id: ConnId, lease: u64) -> Option<JoinHandle<()>> {
        Self::cancel_holder(&self, id, lease)
    }
}

/// A connection that a client of the pool has for its own.
#[derive(Debug)]
pub(super) struct OwnLink {
    pub(super) pool: Arc<Pool>,
    pub(super) to: CancelTarget,
}

impl CancelsOwn for OwnLink {
    fn cancel(&self) -> JoinHandle<()> {
        self.pool.cancel_own(&self.to)
    }
}
