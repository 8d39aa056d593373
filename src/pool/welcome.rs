//! What a server of a pool reports to a login, which clients that log in are told.

use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::proto::params::{ParamInterner, ParamSet};
use crate::server::conn::ServerConn;

/// The parameters, once a connection has reported them. What a connection says that was begun before they were last
/// forgotten is out of date.
#[derive(Debug)]
pub struct Welcome(Mutex<Known>);

#[derive(Debug)]
struct Known {
    /// When they were last forgotten.
    since: Instant,
    params: Option<Arc<ParamSet>>,
}

impl Welcome {
    pub(super) fn new(now: Instant) -> Self {
        Self(Mutex::new(Known { since: now, params: None }))
    }

    pub fn get(&self) -> Option<Arc<ParamSet>> {
        self.0.lock().params.clone()
    }

    /// A connection that was begun at `began` has reported these.
    pub(super) fn reported(&self, began: Instant, params: Arc<ParamSet>) {
        let mut known = self.0.lock();
        if began >= known.since {
            known.params = Some(params);
        }
    }

    /// A server's configuration was reloaded: what has changed on this connection is so for logins as well.
    pub fn heard(&self, conn: &mut ServerConn, interner: &ParamInterner) {
        let Some(before) = conn.state.defaults_before.take() else { return };
        let mut welcome = self.0.lock();
        let Some(known) = welcome.params.as_ref() else { return };
        let mut now = (**known).clone();
        for (name, value) in conn.state.defaults.iter().filter(|(n, v)| before.get(n) != Some(*v)) {
            now.set(name, value);
        }
        if now != **known {
            welcome.params = Some(interner.intern(now));
        }
    }

    /// The next connection reports them anew.
    pub(super) fn forget(&self, now: Instant) {
        *self.0.lock() = Known { since: now, params: None };
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_connection_from_before_does_not_say_what_logins_are_told() {
        let before = Clock::now();
        let now = before + Duration::from_secs(1);
        let welcome = Welcome::new(before);
        welcome.reported(before, Arc::default());
        assert!(welcome.get().is_some());
        welcome.forget(now);
        assert!(welcome.get().is_none());
        welcome.reported(before, Arc::default());
        assert!(welcome.get().is_none(), "it was begun before");
        welcome.reported(now, Arc::default());
        assert!(welcome.get().is_some());
    }
}
