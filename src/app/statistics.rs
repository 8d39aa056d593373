//! Ends a period of statistics each `stats_period`, and logs what it came to, in PgBouncer's words, which
//! monitoring looks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::CONSOLE;
use crate::pool::stats::Figures;
use crate::services::Services;

/// The averages' period where nothing is logged.
const UNLOGGED: Duration = Duration::from_secs(60);
/// How soon a new `stats_period` is seen.
const TICK: Duration = Duration::from_millis(500);

/// Runs until the task is aborted.
pub(super) async fn run(services: Arc<Services>) {
    let mut begun = Clock::now();
    services.pools.statistics.mark(begun, all(&services));
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        interval.tick().await;
        let now = Clock::now();
        let logged = services.config().process.stats_period;
        if now.saturating_duration_since(begun) < logged.unwrap_or(UNLOGGED) {
            continue;
        }
        begun = now;
        let ended = services.pools.statistics.mark(now, all(&services));
        if let Some((over, grown)) = ended.filter(|_| logged.is_some()) {
            tracing::info!("{}", line(&grown.averaged(over)));
        }
    }
}

/// What every database stands at.
fn all(services: &Services) -> HashMap<String, Figures> {
    let figures = |name: String| {
        let figures = services.figures_of(&name);
        (name, figures)
    };
    let mut all: HashMap<_, _> = services.databases().into_iter().map(figures).collect();
    all.insert(CONSOLE.to_owned(), services.figures_of_console());
    all
}

fn line(f: &Figures) -> String {
    format!(
        "stats: {} xacts/s, {} queries/s, {} client parses/s, {} server parses/s, {} binds/s, in {} B/s, \
         out {} B/s, xact {} us, query {} us, wait {} us",
        f.transactions,
        f.queries,
        f.client_parses,
        f.server_parses,
        f.binds,
        f.received,
        f.sent,
        f.transaction_us,
        f.query_us,
        f.wait_us
    )
}
