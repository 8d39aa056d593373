//! Books the statements of a round trip whose time is known. Called where the time was asked for anyway.

use std::time::Instant;

use crate::client::ctl::ClientCtl;
use crate::queries::Scope;
use crate::relay::state::ServerState;

/// What has been answered since `began` took until `now`.
#[inline]
pub fn book(q: &Scope, ctl: &ClientCtl, s: &mut ServerState, began: Instant, now: Instant) {
    if !s.calls.any_answered() {
        return;
    }
    let took = now.saturating_duration_since(began).as_micros() as u64;
    s.calls.book(q, took, &ctl.application_name(), |entry, call| {
        tracing::warn!(
            statement = %entry.name(),
            database = %ctl.database,
            user = %ctl.user,
            application = ?ctl.application_name(),
            client = ctl.id,
            peer = %ctl.peer,
            queue_ms = call.queue_us as f64 / 1e3,
            server_ms = call.server_us as f64 / 1e3,
            rows = call.rows,
            failed = call.failed,
            text = %entry.text,
            "slow statement"
        );
    });
}
