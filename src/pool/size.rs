//! `size = "auto"`: puts in force what [`super::adapt`] decides.

use std::sync::Arc;
use std::time::Instant;

use super::adapt::{Decision, Limiter, Reason, Sample};
use super::core::CoreSettings;
use super::{Pool, PoolSpec};

/// With the size that the limiter has decided on, where there is one.
pub(super) fn in_force(core: CoreSettings, limiter: Option<&Limiter>) -> CoreSettings {
    CoreSettings { size: limiter.map_or(core.size, Limiter::limit), ..core }
}

impl PoolSpec {
    /// For a size that moves.
    pub(super) fn limiter(&self) -> Option<Limiter> {
        let (lower, upper) = (self.settings.min_size as usize, self.core().size);
        self.settings.auto.then(|| Limiter::new(lower, upper))
    }
}

impl Pool {
    /// Moves the size where it is to move by what is measured; called twice a second.
    pub fn adapt(self: &Arc<Self>, now: Instant) {
        let decision = {
            let inner = &mut *self.inner.lock();
            let Some(limiter) = &mut inner.limiter else { return };
            let c = inner.core.counts();
            let decision = limiter.sample(
                now,
                Sample {
                    transactions: inner.totals.transactions,
                    server_us: inner.totals.server.sum_us,
                    waiting: c.waiting,
                    open: c.live() - c.opening,
                },
            );
            if decision.is_some() {
                let core = in_force(inner.core.settings().clone(), Some(limiter));
                inner.core.reconfigure(core);
            }
            decision
        };
        let Some(d) = decision else { return };
        self.shared.counters.count("pool_size_decisions_total", d.reason.as_str());
        tracing::info!(pool = %self.key, from = d.from, to = d.to, reason = d.reason.as_str(), "{d}");
        // Trials that failed would push all else out of the events.
        if matches!(d.reason, Reason::Faster | Reason::NoSlower | Reason::Slower) {
            self.shared.event("pool_size", format!("pool {}: {d}", self.key));
        }
        self.look_at(now);
    }

    /// The size in force, 0 without a limit, and the last decision about it where it moves.
    pub fn sized(&self) -> (usize, Option<Decision>) {
        let limited = self.spec().settings.size > 0;
        let inner = self.inner.lock();
        let size = if limited { inner.core.settings().size } else { 0 };
        (size, inner.limiter.as_ref().and_then(|l| l.last().copied()))
    }
}
