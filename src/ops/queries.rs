//! /queries: statements by what they are apart from their constants, as JSON.

use std::sync::Arc;

use serde::Serialize;

use super::stats::seconds;
use crate::queries::{Entry, Fallen, Figures};
use crate::services::Services;

#[derive(Debug, Serialize)]
struct Queries {
    /// How many are kept at most; what falls off is added to `dropped`.
    limit: usize,
    dropped: Dropped,
    statements: Vec<Statement>,
}

#[derive(Debug, Serialize)]
struct Dropped {
    statements: u64,
    calls: u64,
    errors: u64,
    rows: u64,
    total_seconds: f64,
}

/// One statement of one database. Times are of the server unless they say otherwise.
#[derive(Debug, Serialize)]
struct Statement {
    id: String,
    database: String,
    text: String,
    comment: Option<String>,
    calls: u64,
    errors: u64,
    rows: u64,
    bytes_received: u64,
    bytes_sent: u64,
    total_seconds: f64,
    server_seconds: f64,
    queue_seconds: f64,
    mean_seconds: f64,
    p95_seconds: f64,
    p99_seconds: f64,
    longest_seconds: f64,
    queue_mean_seconds: f64,
    queue_p95_seconds: f64,
    queue_p99_seconds: f64,
    applications: Vec<Application>,
}

#[derive(Debug, Serialize)]
struct Application {
    name: String,
    calls: u64,
}

pub(super) fn render(services: &Services) -> Result<String, String> {
    let Fallen { statements, calls, errors, rows, total_us } = services.queries.fallen();
    let queries = Queries {
        limit: services.config().process.query_statistics,
        dropped: Dropped { statements, calls, errors, rows, total_seconds: seconds(total_us) },
        statements: services.queries.all().iter().map(statement).collect(),
    };
    serde_json::to_string_pretty(&queries).map(|text| text + "\n").map_err(|e| e.to_string())
}

fn statement((e, f): &(Arc<Entry>, Figures)) -> Statement {
    let calls = f.calls.max(1);
    Statement {
        id: e.name(),
        database: e.database.to_string(),
        text: e.text.to_string(),
        comment: e.comment.as_deref().map(str::to_owned),
        calls: f.calls,
        errors: f.errors,
        rows: f.rows,
        bytes_received: f.received,
        bytes_sent: f.sent,
        total_seconds: seconds(f.total_us()),
        server_seconds: seconds(f.server_us),
        queue_seconds: seconds(f.queue_us),
        mean_seconds: seconds(f.server_us / calls),
        p95_seconds: seconds(f.server_percentile(95)),
        p99_seconds: seconds(f.server_percentile(99)),
        longest_seconds: seconds(f.longest_us),
        queue_mean_seconds: seconds(f.queue_us / calls),
        queue_p95_seconds: seconds(f.queue_percentile(95)),
        queue_p99_seconds: seconds(f.queue_percentile(99)),
        applications: f.applications().into_iter().map(|(name, calls)| Application { name, calls }).collect(),
    }
}
