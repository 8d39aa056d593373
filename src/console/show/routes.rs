//! SHOW ROUTES: the servers of each database as they stand, and for a statement where it would go now, and why.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::resolved::{HostAddr, Role, WhenNoReplica};
use crate::console::rows::{Cell, Column, Row, big, row, text};
use crate::console::view::View;
use crate::monitor::Routes;
use crate::monitor::core::Standing;
use crate::routing::classify::{Class, Reading, classify};
use crate::routing::{Stated, decide};

/// Lag in microseconds; empty where it is not known, or the host is no replica.
pub(in crate::console) const ROUTES: &[Column] = &[
    text("database"),
    text("statement"),
    text("role"),
    text("reason"),
    text("goes_to"),
    text("host"),
    text("host_role"),
    text("standing"),
    big("lag_bytes"),
    big("lag_time"),
    big("outstanding"),
];

pub(in crate::console) fn routes(view: &View) -> Vec<Row> {
    let all = view.services.monitor.all_routes();
    all.iter().flat_map(|r| hosts(view, r, &Answer::default())).collect()
}

/// For a statement's text as the first of a transaction of a client that has stated nothing and written nothing.
pub(in crate::console) fn explain(view: &View, database: Option<&str>, sql: &str) -> Vec<Row> {
    let all = view.services.monitor.all_routes();
    let chosen = all.iter().filter(|r| database.is_none_or(|d| *r.database == *d));
    let mut rows: Vec<Row> = chosen.flat_map(|r| hosts(view, r, &answer(view, r, sql))).collect();
    let unrouted = view
        .services
        .databases()
        .into_iter()
        .filter(|name| database.is_none_or(|d| d == name) && !all.iter().any(|r| *r.database == **name));
    rows.extend(unrouted.map(|name| only_primary(&name, sql)));
    if let Some(name) = database.filter(|_| rows.is_empty()) {
        rows.push(nowhere(name, "no such database"));
    }
    rows
}

/// Of a database without replicas there is nothing to decide, and the row says so.
fn only_primary(database: &str, sql: &str) -> Row {
    let verdict = classify(sql.as_bytes(), Reading { selects: true, ..Reading::default() });
    let none = Cell::Null;
    row![
        database,
        word(verdict.class),
        Role::Primary.as_str(),
        "no replica is configured",
        "the primary",
        "",
        "",
        "",
        none.clone(),
        none.clone(),
        none
    ]
}

fn nowhere(database: &str, reason: &str) -> Row {
    let none = Cell::Null;
    row![database, "", "", reason, "nobody", "", "", "", none.clone(), none.clone(), none]
}

#[derive(Default)]
struct Answer {
    class: &'static str,
    role: &'static str,
    reason: &'static str,
    goes_to: String,
}

fn answer(view: &View, r: &Routes, sql: &str) -> Answer {
    let routing = &r.routing;
    let reading = Reading { selects: routing.selects, hints: routing.hints, functions: &routing.functions };
    let verdict = classify(sql.as_bytes(), reading);
    let d = decide(routing, Stated { role: routing.fixed, ..Stated::default() }, verdict);
    let primary =
        || r.primary().map_or_else(|| "nobody: no primary is confirmed".to_owned(), |p| p.addr.to_string());
    let mut a = Answer {
        class: word(verdict.class),
        role: d.role.as_str(),
        reason: d.reason.as_str(),
        goes_to: match d.role {
            Role::Primary if !r.watches_roles() => "the primary".to_owned(),
            Role::Primary => primary(),
            Role::Admin => "the admin pool".to_owned(),
            Role::Replica => String::new(),
        },
    };
    if routing.defer_begin && verdict.class == Class::BareBlock && routing.fixed.is_none() {
        "where the statement behind it belongs".clone_into(&mut a.goes_to);
    }
    if d.role == Role::Replica {
        let busy = |i: usize| Some(outstanding(view, r, &r.replicas.get(i)?.host.addr));
        match r.choose(view.now, None, &busy) {
            Ok(i) => a.goes_to = r.replicas.get(i).map(|r| r.host.addr.to_string()).unwrap_or_default(),
            Err(nobody) => {
                a.reason = nobody.0.as_str();
                match r.when_no_replica {
                    WhenNoReplica::Primary => (a.role, a.goes_to) = (Role::Primary.as_str(), primary()),
                    WhenNoReplica::Wait => "nobody: it waits".clone_into(&mut a.goes_to),
                    WhenNoReplica::Error => "nobody: it is refused".clone_into(&mut a.goes_to),
                }
            }
        }
    }
    a
}

const fn word(class: Class) -> &'static str {
    match class {
        Class::ReadOnlyBlock => "read-only block",
        Class::SerializableReadOnlyBlock => "serializable read-only block",
        Class::WriteBlock => "block that may write",
        Class::BareBlock => "bare block",
        Class::SetReadOnly => "set transaction read only",
        Class::SetReadWrite => "set transaction read write",
        Class::SetOther => "set transaction",
        Class::EndBlock => "end of a block",
        Class::HarmlessSelect => "harmless select",
        Class::Other => "may write",
    }
}

/// Transactions on that host and waiting for it, over all pools of the database.
fn outstanding(view: &View, r: &Routes, host: &HostAddr) -> usize {
    let pools = view.pools();
    let of = |p: &&Arc<crate::pool::Pool>| p.key.database == r.database && p.key.host.as_ref() == Some(host);
    pools.iter().filter(of).map(|p| p.counts()).map(|c| c.leased + c.waiting).sum()
}

fn hosts(view: &View, r: &Routes, a: &Answer) -> Vec<Row> {
    let primaries = r.primaries.iter().map(|h| &h.addr);
    let all: BTreeSet<&HostAddr> = primaries.chain(r.replicas.iter().map(|r| &r.host.addr)).collect();
    let mut rows: Vec<Row> = all.iter().map(|host| one(view, r, a, host)).collect();
    if rows.is_empty() {
        let none = Cell::Null;
        rows.push(row![
            &r.database,
            a.class,
            a.role,
            a.reason,
            &*a.goes_to,
            "",
            "",
            "",
            none.clone(),
            none.clone(),
            none
        ]);
    }
    rows
}

fn one(view: &View, r: &Routes, a: &Answer, host: &HostAddr) -> Row {
    let index = r.replicas.iter().position(|x| x.host.addr == *host);
    let role = match r.in_recovery(host) {
        None => "unknown",
        Some(true) => "replica",
        Some(false) if r.primary().is_some_and(|p| p.addr == *host) => "primary",
        Some(false) => "primary, not followed",
    };
    let standing = match index.map(|i| r.standing(i, view.now)) {
        Some(Standing::Eligible) => "eligible",
        Some(Standing::Lag) => "lag",
        Some(Standing::Unconfirmed) if role != "primary" => "unconfirmed",
        _ => "",
    };
    let lag = index.and_then(|i| view.services.monitor.lag(r, i));
    let number = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok()).map_or(Cell::Null, Cell::Number);
    row![
        &r.database,
        a.class,
        a.role,
        a.reason,
        &*a.goes_to,
        host.to_string(),
        role,
        standing,
        number(lag.map(|l| l.bytes)),
        number(lag.map(|l| crate::number::micros(l.time))),
        outstanding(view, r, host)
    ]
}
