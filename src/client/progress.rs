//! What a login waits for while its client has nothing to do: known outside of the login, so that one that runs out of
//! time can be told why.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::error::Error;
use crate::pool::Pool;

#[derive(Debug, Clone, Default)]
enum Waits {
    /// For the client.
    #[default]
    Client,
    /// For a connection of this pool.
    Server(Arc<Pool>),
    /// For an answer of somebody else; what is being done, as the end of "while".
    Answer(&'static str),
}

/// See the module. Clones are one. It is set and not guarded: whoever gives up on a login drops it, and asks behind
/// that what it waited for.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<Mutex<Waits>>);

impl Progress {
    pub(super) fn server(&self, pool: &Arc<Pool>) {
        *self.0.lock() = Waits::Server(pool.clone());
    }

    pub(super) fn answer(&self, what: &'static str) {
        *self.0.lock() = Waits::Answer(what);
    }

    pub(super) fn client(&self) {
        *self.0.lock() = Waits::Client;
    }

    /// The login took longer than it may.
    pub(super) fn timed_out(&self, after: Duration) -> Error {
        let waits = self.0.lock().clone();
        match waits {
            Waits::Client => Error::LoginTimeout { after },
            Waits::Server(pool) => Error::LoginUnserved { after, figures: Box::new(pool.figures()) },
            Waits::Answer(what) => Error::LoginUnanswered { after, what: what.to_owned() },
        }
    }
}
