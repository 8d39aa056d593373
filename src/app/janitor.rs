//! The one timer of the process: waits that are over, deadlines of leases, idle connections, dead servers.
//!
//! One coarse tick for everything costs nothing per query; a timer armed and disarmed for each would cost a
//! lock each time. Timeouts are therefore late by up to [`TICK`].

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::pool::holders;
use crate::services::Services;

/// How late a timeout may be.
pub(super) const TICK: Duration = Duration::from_millis(25);
/// Idle servers are looked at every so many ticks, and idle clients every four times as many.
const SWEEP: u32 = 10;

/// How often transactions that were left open, queues and leaks are looked for.
const WATCH: Duration = Duration::from_millis(500);

/// Runs until the task is aborted.
pub(super) async fn run(services: Arc<Services>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut n: u32 = 0;
    let mut watched = Clock::now();
    loop {
        interval.tick().await;
        n = n.wrapping_add(1);
        let now = Clock::now();
        let pools = services.pools.all();
        for p in &pools {
            p.tick(now);
        }
        services.control.tick.notify_waiters();
        if now.saturating_duration_since(watched) >= WATCH {
            watched = now;
            for p in &pools {
                p.watch();
                p.adapt(now);
            }
            holders::audit(&services);
        }
        if n.is_multiple_of(SWEEP) {
            for p in &pools {
                p.sweep();
            }
        }
        drop(pools);
        if n.is_multiple_of(SWEEP * 4) {
            services.pools.free_idle(&services);
            let ms = services.clock.ms(now);
            services.clients.each(|c| c.wake_if_due(ms));
        }
    }
}
