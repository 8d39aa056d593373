//! Books the statements of a round trip whose time is known. Called where the time was asked for anyway.

use crate::clients::handle::ClientCtl;
use crate::queries::{Call, Entry, Scope};
use crate::relay::state::ServerState;

/// What has been answered took so many microseconds.
#[inline(always)]
pub(super) fn book(q: &Scope, ctl: &ClientCtl, s: &mut ServerState, took_us: u64) {
    if s.calls.any_answered() {
        let application = ctl.lock_application_name();
        s.calls.book(q, took_us, &application, |entry, call| tell(ctl, &application, entry, call));
    }
}

#[cold]
fn tell(ctl: &ClientCtl, application: &str, entry: &Entry, call: &Call) {
    tracing::warn!(
        statement = %entry.name(),
        database = %ctl.database,
        user = %ctl.user,
        application,
        client = ctl.id,
        peer = %ctl.peer,
        queue_ms = call.queue_us as f64 / 1e3,
        server_ms = call.server_us as f64 / 1e3,
        rows = call.rows,
        failed = call.failed,
        text = %entry.text,
        "slow statement"
    );
}
