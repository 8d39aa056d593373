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
    /// Database, and the same since its routing was last set.
    since_change: Vec<(Arc<str>, Vec<Decisions>)>,
}

/// Role, reason, transactions.
pub(super) type Decisions = (&'static str, &'static str, u64);

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
        let since_change = |r: &Arc<Routes>| {
            let all = r.counted_since_change().into_iter();
            (r.database.clone(), all.map(|(role, reason, n)| (role.as_str(), reason.as_str(), n)).collect())
        };
        Self {
            since_change: all.iter().map(since_change).collect(),
            hosts: monitor.figures(),
            replicas: all.iter().flat_map(replicas).collect(),
            decisions: all.iter().flat_map(decisions).collect(),
        }
    }
}

impl RouteFigures {
    /// Whether a host said last that it is a replica, and the most seconds that it is behind a primary; where the monitor
    /// watches it.
    pub(super) fn host(&self, name: &str) -> (Option<bool>, Option<f64>) {
        let watched = self.hosts.iter().find(|h| h.host.to_string() == name);
        let lags = self.replicas.iter().filter(|r| r.host == name).filter_map(|r| r.lag);
        (watched.and_then(|h| h.in_recovery), lags.map(|(_, seconds)| seconds).max_by(f64::total_cmp))
    }

    /// Database, replicas that may serve, decisions since its routing was last set.
    pub(super) fn databases(&self) -> impl Iterator<Item = (&str, usize, &[Decisions])> {
        self.since_change.iter().map(|(database, decisions)| {
            let eligible = self.replicas.iter().filter(|r| r.database == *database && r.eligible).count();
            (&**database, eligible, &**decisions)
        })
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
