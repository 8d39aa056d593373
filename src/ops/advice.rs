//! What was found when the servers were last examined, for /metrics.

use std::sync::Arc;

use crate::metrics::advice::Look;
use crate::services::Services;

/// The look, and how many seconds ago it was.
pub(super) type Looked = Option<(Arc<Look>, f64)>;

pub(super) fn take(services: &Services) -> Looked {
    let look = services.advice.lock().clone()?;
    let age = services.clock.now_ms().saturating_sub(look.at_ms) as f64 / 1e3;
    Some((look, age))
}

pub(super) fn put(looked: &Looked, out: &mut dyn FnMut(&str, &[&str], f64)) {
    let Some((look, age)) = looked else { return };
    out("howdah_advice_age_seconds", &[], *age);
    for ((database, code), n) in &look.findings {
        out("howdah_advice_findings", &[database, code], *n as f64);
    }
    for d in &look.databases {
        let labels = [&*d.name, &*d.host];
        for (name, ratio) in [
            ("howdah_database_cache_hit_ratio", d.cache_hits),
            ("howdah_database_index_scan_ratio", d.index_scans),
        ] {
            if let Some(ratio) = ratio {
                out(name, &labels, ratio);
            }
        }
    }
    for h in &look.hosts {
        if let Some(lag) = h.lag {
            out("howdah_standby_replay_lag_seconds", &[&h.host], lag);
        }
    }
}
