//! What the monitor knows and what routing has decided, for /metrics.

use std::sync::Arc;

use crate::clock::Clock;
use crate::monitor::core::Standing;
use crate::monitor::{HostFigures, Routes};
use crate::services::Services;

#[derive(Debug, Default)]
pub(super) struct RouteFigures {
    hosts: Vec<HostFigures>,
    replicas: Vec<ReplicaFigures>,
    /// Database, role, reason, transactions.
    decisions: Vec<(Arc<str>, &'static str, &'static str, u64)>,
}

#[derive(Debug)]
struct ReplicaFigures {
    database: Arc<str>,
    host: String,
    eligible: bool,
    /// Bytes and seconds.
    lag: Option<(u64, f64)>,
}

impl RouteFigures {
    pub(super) fn take(services: &Services) -> Self {
        let monitor = &services.monitor;
        let all = monitor.all_routes();
        let replicas = |r: &Arc<Routes>| {
            let figures = |(i, replica): (usize, &crate::monitor::routes::Replica)| ReplicaFigures {
                database: r.database.clone(),
                host: replica.host.addr.to_string(),
                eligible: r.standing(i, Clock::now()) == Standing::Eligible,
                lag: monitor.lag(r, i).map(|l| (l.bytes, l.time.as_secs_f64())),
            };
            r.replicas.iter().enumerate().map(figures).collect::<Vec<_>>()
        };
        let decisions = |r: &Arc<Routes>| {
            let all = r.counted().into_iter();
            all.map(|(role, reason, n)| (r.database.clone(), role.as_str(), reason.as_str(), n))
                .collect::<Vec<_>>()
        };
        Self {
            hosts: monitor.figures(),
            replicas: all.iter().flat_map(replicas).collect(),
            decisions: all.iter().flat_map(decisions).collect(),
        }
    }
}

pub(super) fn put(f: &RouteFigures, out: &mut dyn FnMut(&str, &[&str], f64)) {
    for h in &f.hosts {
        let host = h.host.to_string();
        out("howdah_host_up", &[&host], f64::from(u8::from(h.up)));
        if let Some(in_recovery) = h.in_recovery {
            out("howdah_host_in_recovery", &[&host], f64::from(u8::from(in_recovery)));
            out("howdah_host_timeline", &[&host], f64::from(h.timeline));
        }
    }
    for r in &f.replicas {
        let labels = [&*r.database, &*r.host];
        out("howdah_replica_eligible", &labels, f64::from(u8::from(r.eligible)));
        if let Some((bytes, seconds)) = r.lag {
            out("howdah_replica_lag_bytes", &labels, bytes as f64);
            out("howdah_replica_lag_seconds", &labels, seconds);
        }
    }
    for (database, role, reason, n) in &f.decisions {
        out("howdah_routed_transactions_total", &[database, role, reason], *n as f64);
    }
}
