//! /metrics: the figures in Prometheus' text format, one family for each row of the catalog.

use std::collections::HashMap;
use std::fmt::Write as _;

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};
use rustc_hash::FxBuildHasher;

use super::exporter;
use super::process::Process;
use super::snapshot::{PoolFigures, Snapshot};
use super::stats::{PROFILE, seconds};
use crate::metrics::catalog::{EXPORTER, Kind, METRICS, Metric as Row, Source};
use crate::metrics::{self, BUCKETS_US};

pub(super) const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

/// What an event that was counted without a label has in place of it, where others of its name have one.
const OTHER: &str = "other";

fn rows() -> impl Iterator<Item = &'static Row> {
    METRICS.iter().chain(EXPORTER)
}

/// In the catalog's order; a family without a series is left out.
pub(super) fn render(s: &Snapshot, last: &mut Last) -> Result<String, String> {
    let Last { places, written } = last;
    let mut series = Series { places, all: Vec::new(), words: String::new(), ends: Vec::new() };
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
    series.encode(written)
}

/// Families as they were written last. Most are the same at the next scrape: what counts errors and events, what is
/// configured. Their text is used again, which costs a comparison.
#[derive(Debug)]
pub(super) struct Last {
    places: Places,
    written: Vec<Written>,
}

/// Where a name stands in the catalog.
type Places = HashMap<&'static str, usize, FxBuildHasher>;

impl Default for Last {
    fn default() -> Self {
        let places: Places = rows().enumerate().map(|(place, row)| (row.name, place)).collect();
        Self { written: places.values().map(|_| Written::default()).collect(), places }
    }
}

#[derive(Debug, Default)]
struct Written {
    labels: Vec<Box<str>>,
    values: Vec<Value<metrics::Histogram>>,
    text: String,
}

/// Series of each row of the catalog, as they come.
pub(super) struct Series<'s> {
    places: &'s Places,
    all: Vec<One<'s>>,
    /// The values of all labels, one behind the other, and where each ends.
    words: String,
    ends: Vec<usize>,
}

struct One<'s> {
    place: usize,
    /// The first in `ends`.
    labels: usize,
    value: Value<&'s metrics::Histogram>,
}

#[derive(Debug)]
enum Value<H> {
    Number(f64),
    Histogram(H),
}

impl Value<&metrics::Histogram> {
    fn kept(&self) -> Value<metrics::Histogram> {
        match self {
            Self::Number(n) => Value::Number(*n),
            Self::Histogram(h) => Value::Histogram((*h).clone()),
        }
    }
}

impl<'s> Series<'s> {
    /// One value, with the values of the row's labels in their order.
    pub(super) fn put(&mut self, name: &str, labels: &[&str], value: f64) {
        self.add(name, labels, Value::Number(value));
    }

    fn put_histogram(&mut self, name: &str, labels: &[&str], h: &'s metrics::Histogram) {
        self.add(name, labels, Value::Histogram(h));
    }

    /// A name without a row is not exported: the tests see to it that there is none.
    fn add(&mut self, name: &str, labels: &[&str], value: Value<&'s metrics::Histogram>) {
        let place = self.places.get(name).copied();
        debug_assert!(
            place.and_then(|p| rows().nth(p)).is_some_and(|r| r.labels.len() == labels.len()),
            "{name}{labels:?}"
        );
        let Some(place) = place else { return };
        self.all.push(One { place, labels: self.ends.len(), value });
        for label in labels {
            self.words.push_str(label);
            self.ends.push(self.words.len());
        }
    }

    fn encode(mut self, last: &mut [Written]) -> Result<String, String> {
        // Stable: series of one family stay in their order.
        self.all.sort_by_key(|one| one.place);
        let mut text = String::with_capacity(last.iter().map(|w| w.text.len()).sum::<usize>() + 4096);
        for found in self.all.chunk_by(|a, b| a.place == b.place) {
            let place = found.first().map_or(0, |one| one.place);
            let (Some(row), Some(written)) = (rows().nth(place), last.get_mut(place)) else { continue };
            if !self.is_as_written(row, found, written) {
                self.write(row, found, written)?;
            }
            text.push_str(&written.text);
        }
        Ok(text)
    }

    /// The values of a series' labels.
    fn labels(&self, row: &Row, one: &One<'_>) -> impl Iterator<Item = &str> {
        let before = one.labels.checked_sub(1).and_then(|last| self.ends.get(last));
        let mut from = before.copied().unwrap_or(0);
        self.ends.iter().skip(one.labels).take(row.labels.len()).map(move |end| {
            let begin = std::mem::replace(&mut from, *end);
            self.words.get(begin..*end).unwrap_or_default()
        })
    }

    fn is_as_written(&self, row: &Row, found: &[One<'_>], written: &Written) -> bool {
        let same = |(one, value): (&One<'_>, &Value<metrics::Histogram>)| match (&one.value, value) {
            (Value::Number(a), Value::Number(b)) => a == b,
            (Value::Histogram(a), Value::Histogram(b)) => *a == b,
            (Value::Number(_), Value::Histogram(_)) | (Value::Histogram(_), Value::Number(_)) => false,
        };
        found.len() == written.values.len()
            && found.iter().zip(&written.values).all(same)
            && found.iter().flat_map(|one| self.labels(row, one)).eq(written.labels.iter().map(|l| &**l))
    }

    fn write(&self, row: &'static Row, found: &[One<'_>], written: &mut Written) -> Result<(), String> {
        // What cannot be written must not be taken for written.
        written.values.clear();
        written.text.clear();
        if row.kind == Kind::Histogram {
            self.write_histograms(row, found, &mut written.text);
        } else {
            self.write_family(row, found, &mut written.text)?;
        }
        written.labels = found.iter().flat_map(|one| self.labels(row, one)).map(Into::into).collect();
        written.values = found.iter().map(|one| one.value.kept()).collect();
        Ok(())
    }

    /// As the encoder would: under load nearly all lines of a scrape that have changed are those of histograms, and it
    /// writes and escapes their labels anew for each bucket.
    fn write_histograms(&self, row: &'static Row, found: &[One<'_>], text: &mut String) {
        let name = row.name;
        // The catalog's own words: nothing in them needs an escape.
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} histogram", row.help);
        let (mut labels, mut head) = (String::new(), String::new());
        for one in found {
            let Value::Histogram(h) = &one.value else { continue };
            labels.clear();
            for (label, value) in self.shown(row, one) {
                let _ = write!(labels, "{label}=\"{}\",", Escaped(value));
            }
            head.clear();
            let _ = write!(head, "{name}_bucket{{{labels}le=\"");
            let mut below = 0;
            for (bound, count) in BOUNDS.iter().zip(&h.counts) {
                below += count;
                text.push_str(&head);
                text.push_str(bound);
                let _ = writeln!(text, "\"}} {below}");
            }
            let labels = labels.strip_suffix(',').map_or_else(String::new, |l| format!("{{{l}}}"));
            let (sum, count) = (seconds(h.sum_us), h.count());
            let _ = writeln!(text, "{head}+Inf\"}} {count}");
            let _ = writeln!(text, "{name}_sum{labels} {sum}\n{name}_count{labels} {count}");
        }
    }

    fn write_family(&self, row: &'static Row, found: &[One<'_>], text: &mut String) -> Result<(), String> {
        encode(row, found.iter().map(|one| self.metric(row, one)).collect(), text)
    }

    /// Only pools of replicas are of one host.
    fn shown(&self, row: &'static Row, one: &One<'_>) -> impl Iterator<Item = (&'static str, &str)> {
        let all = row.labels.iter().copied().zip(self.labels(row, one));
        all.filter(|(name, value)| *name != "host" || !value.is_empty())
    }

    /// A series with its labels, and no value yet.
    fn labelled(&self, row: &'static Row, one: &One<'_>) -> Metric {
        let pair = |(name, value): (&str, &str)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        };
        Metric::from_label(self.shown(row, one).map(pair).collect())
    }

    fn metric(&self, row: &'static Row, one: &One<'_>) -> Metric {
        let mut m = self.labelled(row, one);
        let Value::Number(n) = &one.value else { return m };
        if row.kind == Kind::Counter {
            let mut c = Counter::default();
            c.set_value(*n);
            m.set_counter(c);
        } else {
            let mut g = Gauge::default();
            g.set_value(*n);
            m.set_gauge(g);
        }
        m
    }
}

fn encode(row: &Row, metrics: Vec<Metric>, text: &mut String) -> Result<(), String> {
    let mut family = MetricFamily::default();
    family.set_name(row.name.to_owned());
    family.set_help(row.help.to_owned());
    family.set_field_type(match row.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    family.set_metric(metrics);
    TextEncoder::new().encode_utf8(&[family], text).map_err(|e| e.to_string())
}

/// [`BUCKETS_US`] in seconds, as they are written.
const BOUNDS: [&str; BUCKETS_US.len()] = [
    "0.00005", "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1",
    "0.25", "0.5", "1", "5", "10", "30", "60",
];

/// The value of a label.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(['\\', '"', '\n']) {
            let (plain, special) = rest.split_at(at);
            f.write_str(plain)?;
            f.write_str(match special.as_bytes().first() {
                Some(b'\n') => "\\n",
                Some(b'"') => "\\\"",
                _ => "\\\\",
            })?;
            rest = special.get(1..).unwrap_or_default();
        }
        f.write_str(rest)
    }
}

fn whole<'s>(out: &mut Series<'s>, s: &'s Snapshot) {
    out.put("howdah_build_info", &[env!("CARGO_PKG_VERSION"), PROFILE], 1.0);
    if s.marks.is_empty() {
        out.put("howdah_session_state_total", &["SET", ""], 0.0);
    }
    for ((mark, application), n) in &s.marks {
        out.put("howdah_session_state_total", &[mark, application], *n as f64);
    }
    out.put("howdah_log_lines_dropped_total", &[], s.log_dropped as f64);
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
    for l in &s.limits {
        out.put("howdah_limit_connections", &[l.kind, &l.name], l.limit as f64);
        out.put("howdah_limit_used", &[l.kind, &l.name], l.used as f64);
    }
    out.put_histogram("howdah_login_seconds", &[], &s.logins);
    out.put("howdah_statements", &[], s.statements.kept as f64);
    out.put("howdah_statements_dropped_total", &[], s.statements.fallen.statements as f64);
    out.put("howdah_statement_calls_total", &[], s.statements.calls as f64);
    for (setting, end) in &s.certificates {
        out.put("howdah_tls_certificate_not_after_seconds", &[setting], *end);
    }
    out.put("howdah_cancels_in_flight", &[], s.cancels_in_flight as f64);
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

fn pool<'s>(out: &mut Series<'s>, p: &'s PoolFigures) {
    let (database, user, role) = (&*p.key.database, &*p.key.user, p.key.role.as_str());
    let host = p.key.host.as_ref().map(ToString::to_string).unwrap_or_default();
    let labels = [database, user, role, &*host];
    let t = &p.totals;
    for (state, n) in p.by_state() {
        out.put("howdah_pool_servers", &[database, user, role, &host, state], n as f64);
    }
    for (direction, n) in [("received", t.from_client), ("sent", t.to_client)] {
        out.put("howdah_client_bytes_total", &[database, user, role, &host, direction], n as f64);
    }
    for (name, value) in [
        ("howdah_pool_size", f64::from(p.size)),
        ("howdah_pool_effective_size", p.effective_size as f64),
        ("howdah_pool_min_size", f64::from(p.min_size)),
        ("howdah_pool_reserve_size", f64::from(p.reserve_size)),
        ("howdah_pool_utilization_ratio", p.utilization()),
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

#[cfg(test)]
mod tests {
    use prometheus::proto::{Bucket, Histogram};

    use super::*;

    /// Ours counts each bucket for itself, Prometheus' with all below it.
    fn histogram(h: &metrics::Histogram) -> Histogram {
        let mut below = 0;
        let buckets = BUCKETS_US.iter().zip(&h.counts).map(|(bound, count)| {
            below += count;
            let mut b = Bucket::default();
            b.set_upper_bound(seconds(*bound));
            b.set_cumulative_count(below);
            b
        });
        let mut out = Histogram::default();
        out.set_bucket(buckets.collect());
        out.set_sample_count(h.count());
        out.set_sample_sum(seconds(h.sum_us));
        out
    }

    #[test]
    fn histograms_are_written_as_the_encoder_writes_them() {
        let row =
            METRICS.iter().find(|r| r.kind == Kind::Histogram && r.labels.contains(&"host")).expect("one");
        let last = Last::default();
        let mut series =
            Series { places: &last.places, all: Vec::new(), words: String::new(), ends: Vec::new() };
        let mut h = metrics::Histogram::default();
        [7, 50, 51, 1_234_567, 80_000_000].into_iter().for_each(|us| h.add(us));
        let empty = metrics::Histogram::default();
        series.put_histogram(row.name, &["a\"\\b\nc", "u", "replica", "db:5432"], &h);
        series.put_histogram(row.name, &["", "ü", "primary", ""], &empty);
        let (mut ours, mut theirs) = (String::new(), String::new());
        series.write_histograms(row, &series.all, &mut ours);
        let filled = |one: &One<'_>| {
            let mut m = series.labelled(row, one);
            if let Value::Histogram(h) = &one.value {
                m.set_histogram(histogram(h));
            }
            m
        };
        encode(row, series.all.iter().map(filled).collect(), &mut theirs).expect("written");
        assert_eq!(ours, theirs);
        for row in rows() {
            assert!(!row.help.contains(['\\', '\n']), "{}", row.name);
        }
    }
}
