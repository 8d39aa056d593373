//! SHOW STATS and its parts: totals since the start and averages over the last period.

use crate::console::rows::{Column, Row, numeric, row, text};
use crate::console::view::{PGBOUNCER, View};
use crate::pool::stats::Figures;

pub(in crate::console) const STATS: &[Column] = &[
    text("database"),
    numeric("total_server_assignment_count"),
    numeric("total_xact_count"),
    numeric("total_query_count"),
    numeric("total_received"),
    numeric("total_sent"),
    numeric("total_xact_time"),
    numeric("total_query_time"),
    numeric("total_wait_time"),
    numeric("total_client_parse_count"),
    numeric("total_server_parse_count"),
    numeric("total_bind_count"),
    numeric("total_client_login_count"),
    numeric("avg_server_assignment_count"),
    numeric("avg_xact_count"),
    numeric("avg_query_count"),
    numeric("avg_recv"),
    numeric("avg_sent"),
    numeric("avg_xact_time"),
    numeric("avg_query_time"),
    numeric("avg_wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

pub(in crate::console) const TOTALS: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("client_parse_count"),
    numeric("server_parse_count"),
    numeric("bind_count"),
    numeric("client_login_count"),
];

pub(in crate::console) const AVERAGES: &[Column] = &[
    text("database"),
    numeric("server_assignment_count"),
    numeric("xact_count"),
    numeric("query_count"),
    numeric("bytes_received"),
    numeric("bytes_sent"),
    numeric("xact_time"),
    numeric("query_time"),
    numeric("wait_time"),
    numeric("avg_client_parse_count"),
    numeric("avg_server_parse_count"),
    numeric("avg_bind_count"),
    numeric("avg_client_login_count"),
];

pub(in crate::console) const SUMS: &[Column] = &[text("name"), numeric("value")];

/// The names in SHOW TOTALS, in the order of [`cells`].
const NAMES: [&str; 12] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
    "client_login_count",
];

fn cells(f: &Figures) -> [u64; 12] {
    [
        f.assignments,
        f.transactions,
        f.queries,
        f.received,
        f.sent,
        f.transaction_us,
        f.query_us,
        f.wait_us,
        f.client_parses,
        f.server_parses,
        f.binds,
        f.logins,
    ]
}

struct Of {
    name: String,
    total: Figures,
    average: Figures,
}

/// All databases by name, the console among them.
fn all(view: &View) -> Vec<Of> {
    let statistics = &view.services.pools.statistics;
    let mut all: Vec<Of> = view
        .services
        .databases()
        .into_iter()
        .map(|name| {
            let total = view.services.figures_of(&name);
            let (before, over) = statistics.before(&name, view.now);
            Of { name, average: total.since(&before).averaged(over), total }
        })
        .collect();
    let total = view.services.figures_of_console();
    let (before, over) = statistics.before(PGBOUNCER, view.now);
    let average = total.since(&before).averaged(over);
    all.push(Of { name: PGBOUNCER.to_owned(), total, average });
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn with_name(name: &str, figures: impl IntoIterator<Item = u64>) -> Row {
    let mut row = row![name];
    row.extend(figures.into_iter().map(Into::into));
    row
}

pub(in crate::console) fn stats(view: &View) -> Vec<Row> {
    all(view)
        .iter()
        .map(|o| with_name(&o.name, cells(&o.total).into_iter().chain(cells(&o.average))))
        .collect()
}

pub(in crate::console) fn totals(view: &View) -> Vec<Row> {
    all(view).iter().map(|o| with_name(&o.name, cells(&o.total))).collect()
}

pub(in crate::console) fn averages(view: &View) -> Vec<Row> {
    all(view).iter().map(|o| with_name(&o.name, cells(&o.average))).collect()
}

/// All databases together.
pub(in crate::console) fn sums(view: &View) -> Vec<Row> {
    let all = all(view);
    let total = all.iter().fold(Figures::default(), |sum, o| sum.plus(&o.total));
    let average = all.iter().fold(Figures::default(), |sum, o| sum.plus(&o.average));
    let rows = |prefix: &'static str, f: Figures| {
        NAMES.iter().zip(cells(&f)).map(move |(name, n)| row![format!("{prefix}_{name}"), n])
    };
    rows("total", total).chain(rows("avg", average)).collect()
}
