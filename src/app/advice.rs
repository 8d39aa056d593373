//! Examines the servers each `advice_interval`, and keeps what was found for /metrics.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::doctor;
use crate::services::Services;

/// How soon a new `advice_interval` is seen.
const TICK: Duration = Duration::from_millis(500);

/// Runs until the task is aborted.
pub(super) async fn run(services: Arc<Services>) {
    let mut last = None;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let now = Clock::now();
        let Some(interval) = services.config().process.advice_interval else {
            // What is old must not look as if it were true now.
            *services.advice.lock() = None;
            last = None;
            continue;
        };
        if last.is_some_and(|last| now.saturating_duration_since(last) < interval) {
            continue;
        }
        last = Some(now);
        look(&services).await;
    }
}

async fn look(services: &Arc<Services>) {
    let _turn = services.examining.lock().await;
    let config = services.config_as_served();
    let evidence = doctor::ask::collect_here(services, &config).await;
    let found = doctor::examine(&evidence);
    let mut look = doctor::figures::of(&evidence, &found);
    for name in services.databases() {
        doctor::figures::none(&mut look, &name);
    }
    look.at_ms = services.clock.now_ms();
    let complete = evidence.unasked.is_empty();
    services.counters.count("advice_looks_total", if complete { "complete" } else { "incomplete" });
    for why in &evidence.unasked {
        tracing::debug!("advice: not examined: {why}");
    }
    *services.advice.lock() = Some(Arc::new(look));
}
