//! /metrics: the figures in Prometheus' text format, one family for each row of the catalog.

use super::exporter;
use super::process::Process;
use super::snapshot::{PoolFigures, Snapshot};
use super::stats::PROFILE;
pub(super) use super::written::{Last, Series};
use crate::error::Standstill;
use crate::metrics::catalog::{METRICS, Source};

pub(super) const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// What an event that was counted without a label has in place of it, where others of its name have one.
const OTHER: &str = "other";

/// In the catalog's order; a family without a series is left out.
pub(super) fn render(s: &Snapshot, last: &mut Last) -> Result<String, String> {
    let mut series = last.begin();
    whole(&mut series, s);
    if let Some(p) = &s.process {
        process(&mut series, p);
    }
    for p in &s.pools {
        pool(&mut series, p);
    }
    if s.exporter_names {
        exporter::put(&mut series, s);
    }
    super::routes::put(&s.routes, &mut |name, labels, value| series.put(name, labels, value));
    super::advice::put(&s.advice, &mut |name, labels, value| series.put(name, labels, value));
    events(&mut series, &s.events);
    last.text()
}

fn whole(out: &mut Series<'_>, s: &Snapshot) {
    out.put("howdah_build_info", &[env!("CARGO_PKG_VERSION"), PROFILE], 1.0);
    if s.marks.is_empty() {
        out.put("howdah_session_state_total", &["SET", ""], 0.0);
    }
    for ((mark, application), n) in &s.marks {
        out.put("howdah_session_state_total", &[mark, application], *n as f64);
    }
    out.put("howdah_log_lines_dropped_total", &[], s.log_dropped as f64);
    for l in &s.listeners {
        let labels = [&*l.database, &l.host.to_string()];
        out.put("howdah_listener_clients", &labels, l.clients as f64);
        out.put("howdah_listener_channels", &labels, l.channels as f64);
    }
    let [opened, lost, delivered] = s.listened;
    out.put("howdah_listeners_opened_total", &[], opened as f64);
    out.put("howdah_listeners_lost_total", &[], lost as f64);
    out.put("howdah_notifications_delivered_total", &[], delivered as f64);
    out.put("howdah_restart_needed", &[], s.restart_needed.len() as f64);
    out.put("howdah_draining", &[], f64::from(u8::from(s.draining)));
    out.put("howdah_clients_connected", &[], s.clients.connected as f64);
    for (state, n) in s.clients.by_state() {
        out.put("howdah_clients", &[state], n as f64);
    }
    out.put("howdah_client_limit", &[], f64::from(s.clients.limit));
    let (leases, sockets) = s.leaked;
    for (kind, n) in [("lease", leases), ("socket", sockets)] {
        out.put("howdah_leaked_connections", &[kind], n as f64);
    }
    for h in &s.hosts {
        out.put("howdah_host_connections", &[&h.host], h.used as f64);
        out.put("howdah_host_unreachable", &[&h.host], f64::from(u8::from(h.unreachable)));
    }
    for (database, role, why) in &s.standing {
        let code = why.as_ref().map_or("", Standstill::code);
        let stands = f64::from(u8::from(why.is_some()));
        out.put("howdah_database_serves_nobody", &[database, role.as_str(), code], stands);
    }
    for l in &s.limits {
        out.put("howdah_limit_connections", &[l.kind, &l.name], l.limit as f64);
        out.put("howdah_limit_used", &[l.kind, &l.name], l.used as f64);
    }
    out.put_histogram("howdah_login_seconds", &[], &s.logins);
    out.put("howdah_statements", &[], s.statements.kept as f64);
    out.put("howdah_statements_dropped_total", &[], s.statements.fallen.statements as f64);
    out.put("howdah_statement_calls_total", &[], s.statements.calls as f64);
    for (kind, bytes) in [("text", s.prepared.texts), ("name", s.prepared.names)] {
        out.put("howdah_prepared_statement_memory_bytes", &[kind], bytes as f64);
    }
    for (setting, end) in &s.certificates {
        out.put("howdah_tls_certificate_not_after_seconds", &[setting], *end);
    }
    let strangers = s.strangers;
    for (state, n) in [
        ("silent", strangers.silent),
        ("waiting", strangers.waiting),
        ("begun", strangers.taken.saturating_sub(strangers.silent + strangers.waiting)),
    ] {
        out.put("howdah_strangers", &[state], n as f64);
    }
    for (reason, n) in [("silent", s.strangers_cut.0), ("slow", s.strangers_cut.1)] {
        out.put("howdah_strangers_cut_total", &[reason], n as f64);
    }
    out.put("howdah_cancels_in_flight", &[], s.cancels_in_flight as f64);
    for (side, steps, waiting) in s.handshakes {
        out.put("howdah_tls_handshake_steps_total", &[side], steps as f64);
        out.put("howdah_tls_handshakes_waiting", &[side], waiting as f64);
    }
    out.put("howdah_pam_requests_in_flight", &[], s.pam_requests_in_flight as f64);
}

fn process(out: &mut Series<'_>, p: &Process) {
    out.put("process_start_time_seconds", &[], p.start_time_seconds);
    out.put("process_cpu_seconds_total", &[], p.cpu_seconds);
    out.put("process_resident_memory_bytes", &[], p.resident_bytes as f64);
    out.put("process_virtual_memory_bytes", &[], p.virtual_bytes as f64);
    out.put("process_threads", &[], p.threads as f64);
    out.put("process_open_fds", &[], p.open_fds as f64);
    out.put("process_max_fds", &[], p.max_fds as f64);
}

fn pool(out: &mut Series<'_>, p: &PoolFigures) {
    let (database, user, role) = (&*p.key.database, &*p.key.user, p.key.role.as_str());
    let host = p.key.host.as_ref().map(ToString::to_string).unwrap_or_default();
    let labels = [database, user, role, &*host];
    let t = &p.totals;
    for (state, n) in p.by_state() {
        out.put("howdah_pool_servers", &[database, user, role, &host, state], n as f64);
    }
    let why = p.standstill.as_ref().map_or("", Standstill::code);
    let stands = f64::from(u8::from(p.standstill.is_some()));
    out.put("howdah_pool_serves_nobody", &[database, user, role, &host, why], stands);
    for (direction, n) in [("received", t.from_client), ("sent", t.to_client)] {
        out.put("howdah_client_bytes_total", &[database, user, role, &host, direction], n as f64);
    }
    for (name, value) in [
        ("howdah_pool_size", f64::from(p.size)),
        ("howdah_pool_effective_size", p.effective_size as f64),
        ("howdah_pool_min_size", f64::from(p.min_size)),
        ("howdah_pool_reserve_size", f64::from(p.reserve_size)),
        ("howdah_pool_utilization_ratio", p.utilization()),
        ("howdah_pool_pins", p.pins as f64),
        ("howdah_pool_waiting_clients", p.counts.waiting as f64),
        ("howdah_pool_longest_wait_seconds", p.longest_wait.as_secs_f64()),
        ("howdah_transactions_total", t.transactions as f64),
        ("howdah_queries_total", t.queries as f64),
        ("howdah_server_errors_total", t.errors as f64),
        ("howdah_client_parses_total", t.client_parses as f64),
        ("howdah_server_parses_total", t.server_parses as f64),
        ("howdah_binds_total", t.binds as f64),
        ("howdah_pool_queued_total", t.queued as f64),
        ("howdah_pool_exhausted_total", t.exhausted as f64),
        ("howdah_pool_leaking_transactions", p.leaking as f64),
        ("howdah_prepared_statement_hits_total", t.statement_hits as f64),
        ("howdah_prepared_statement_evictions_total", t.statement_evictions as f64),
        ("howdah_server_connections_opened_total", t.opened as f64),
        ("howdah_pool_server_connect_failures_total", t.open_failures as f64),
        ("howdah_wait_timeouts_total", t.wait_timeouts as f64),
    ] {
        out.put(name, &labels, value);
    }
    out.put_histogram("howdah_pool_wait_seconds", &labels, &t.wait);
    for (name, histogram) in [
        ("howdah_pool_transaction_seconds", &t.transaction),
        ("howdah_pool_server_seconds", &t.server),
        ("howdah_pool_client_seconds", &t.client),
        ("howdah_pool_stall_seconds", &t.stall),
        ("howdah_pool_query_seconds", &t.query),
        ("howdah_pool_connect_seconds", &t.connect),
    ] {
        out.put_histogram(name, &labels, histogram);
    }
}

/// Known labels first, then what else was counted.
fn events(out: &mut Series<'_>, counted: &[(&'static str, &'static str, u64)]) {
    for row in METRICS {
        let (Source::Event(known), Some(name)) = (row.source, row.event()) else { continue };
        // They come sorted by name.
        let from = counted.partition_point(|(n, _, _)| *n < name);
        let of_name = counted.iter().skip(from).take_while(|(n, _, _)| *n == name);
        if row.labels.is_empty() {
            // A label that the row does not know of must not hide a count.
            out.put(row.name, &[], of_name.map(|(_, _, n)| *n).sum::<u64>() as f64);
            continue;
        }
        // What was counted without a label is one with what is called so.
        let of_name = of_name.map(|(_, l, n)| (if l.is_empty() { OTHER } else { l }, *n));
        for label in known {
            let n: u64 = of_name.clone().filter(|(l, _)| l == label).map(|(_, n)| n).sum();
            out.put(row.name, &[label], n as f64);
        }
        for (label, n) in of_name.filter(|(l, _)| !known.contains(l)) {
            out.put(row.name, &[label], n as f64);
        }
    }
}
