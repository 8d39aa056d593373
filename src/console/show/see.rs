//! What nobody else's console has: the statements that take the time, and who holds the connections.

use crate::console::rows::{Column, Row, big, row, text};
use crate::console::view::View;

/// Times in microseconds.
pub(in crate::console) const QUERIES: &[Column] = &[
    text("database"),
    text("id"),
    big("calls"),
    big("errors"),
    big("rows"),
    big("total_time"),
    big("queue_time"),
    big("mean_time"),
    big("p95_time"),
    big("p99_time"),
    big("bytes_received"),
    big("bytes_sent"),
    text("applications"),
    text("query"),
];

/// Statements without their constants, those that took the most time first.
pub(in crate::console) fn queries(view: &View) -> Vec<Row> {
    let all = view.services.queries.all();
    all.iter()
        .map(|(e, f)| {
            let applications: Vec<String> = f.applications().into_iter().map(|(name, _)| name).collect();
            row![
                &e.database,
                e.name(),
                f.calls,
                f.errors,
                f.rows,
                f.total_us(),
                f.queue_us,
                f.server_us / f.calls.max(1),
                f.server_percentile(95),
                f.server_percentile(99),
                f.received,
                f.sent,
                applications.join(", "),
                &*e.text
            ]
        })
        .collect()
}

pub(in crate::console) const LISTENERS: &[Column] =
    &[text("database"), text("host"), big("channels"), big("clients")];

/// Connections of Howdah's own that listen for clients (`session_listen = "share"`).
pub(in crate::console) fn listeners(view: &View) -> Vec<Row> {
    let all = view.services.listeners.rows();
    all.iter().map(|l| row![&l.database, l.host.to_string(), l.channels, l.clients]).collect()
}

/// Times in microseconds.
pub(in crate::console) const HOLDERS: &[Column] = &[
    text("database"),
    text("user"),
    text("role"),
    big("client"),
    text("address"),
    text("application_name"),
    text("state"),
    big("held_time"),
    big("state_time"),
    big("waiter_time"),
    text("pinned_by"),
    big("pinned_time"),
    text("server"),
    big("server_pid"),
    text("query"),
];

fn labels(kinds: &[crate::session_state::Kind]) -> String {
    kinds.iter().map(|k| k.label()).collect::<Vec<_>>().join(",")
}

/// Who holds server connections, those that made others wait the most first.
pub(in crate::console) fn holders(view: &View) -> Vec<Row> {
    let mut all: Vec<_> = view.pools().iter().flat_map(|p| p.holders()).collect();
    all.sort_by_key(|h| std::cmp::Reverse((h.caused, h.held)));
    all.iter()
        .map(|h| {
            let (server, pid) = h.server.clone().unwrap_or_default();
            row![
                &h.pool.database,
                &h.pool.user,
                h.pool.role.as_str(),
                h.ctl.id,
                h.ctl.peer.to_string(),
                &h.application,
                h.state.as_str(),
                crate::number::micros(h.held),
                crate::number::micros(h.in_state),
                crate::number::micros(h.caused),
                h.pinned.as_ref().map(|(kinds, _)| labels(kinds)).unwrap_or_default(),
                h.pinned.as_ref().map_or(0, |(_, since)| crate::number::micros(*since)),
                server,
                pid.unsigned_abs() as u64,
                h.statement.clone().unwrap_or_default()
            ]
        })
        .collect()
}
