//! SHOW DATABASES.

use crate::config::resolved::{Database, HostAddr, Role};
use crate::console::rows::{Cell, Column, Row, int, own, row, text};
use crate::console::view::{PGBOUNCER, View};
use crate::error::Standstill;
use crate::pool::ledger::LimitKey;
use crate::pool::standstill;

pub(in crate::console) const DATABASES: &[Column] = &[
    text("name"),
    text("host"),
    int("port"),
    text("database"),
    text("force_user"),
    int("pool_size"),
    int("min_pool_size"),
    int("reserve_pool_size"),
    int("server_lifetime"),
    text("pool_mode"),
    text("load_balance_hosts"),
    int("max_connections"),
    int("current_connections"),
    int("max_client_connections"),
    int("current_client_connections"),
    int("paused"),
    int("disabled"),
    own(text("replicas")),
    own(text("serves_nobody")),
    own(text("why")),
];

pub(in crate::console) fn databases(view: &View) -> Vec<Row> {
    let mut rows: Vec<(String, Row)> = Vec::new();
    for name in view.services.databases() {
        if let Some(db) = view.config.database(&name) {
            let row = database(view, &db);
            rows.push((name, row));
        }
    }
    rows.push((PGBOUNCER.to_owned(), console(view)));
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    rows.into_iter().map(|(_, row)| row).collect()
}

pub(super) fn hosts(hosts: &[HostAddr]) -> (String, u16) {
    let names: Vec<String> = hosts
        .iter()
        .map(|h| match h {
            HostAddr::Tcp { host, .. } => host.clone(),
            HostAddr::Unix { dir, .. } => dir.display().to_string(),
        })
        .collect();
    let port = hosts.first().map_or(0, |h| match h {
        HostAddr::Tcp { port, .. } | HostAddr::Unix { port, .. } => *port,
    });
    (names.join(","), port)
}

/// load_balance_hosts, where there is something to balance.
pub(super) fn policy(hosts: usize, balanced: bool) -> Option<&'static str> {
    (hosts > 1).then_some(if balanced { "round-robin" } else { "disable" })
}

fn database(view: &View, db: &Database) -> Row {
    let control = &view.services.control;
    let primary = db.roles.get(&Role::Primary).map(|r| r.hosts.as_slice()).unwrap_or_default();
    let (host, port) = hosts(primary);
    let replicas = db.roles.get(&Role::Replica).map(|r| hosts(&r.hosts).0);
    // Of its replicas, where the primary serves: the words say of whom.
    let why = [Role::Primary, Role::Replica]
        .into_iter()
        .filter(|role| *role == Role::Primary || db.roles.contains_key(role))
        .find_map(|role| standstill::of_database(&view.services, &db.name, role));
    let name: std::sync::Arc<str> = db.name.as_str().into();
    row![
        db.name.as_str(),
        host,
        port,
        db.dbname.as_str(),
        db.server_user.as_deref(),
        db.pool.size,
        db.pool.min_size,
        db.pool.reserve_size,
        db.pool.server_lifetime.map_or(0, |d| d.as_secs()),
        view.stated_mode(db),
        policy(primary.len(), db.load_balance),
        db.max_connections.unwrap_or(0),
        view.services.ledger.used(&LimitKey::Database(name)),
        db.max_client_connections.unwrap_or(0),
        view.services.clients.of_database(&db.name),
        control.is_paused(&db.name),
        control.is_disabled(&db.name),
        replicas,
        why.as_ref().map(Standstill::code),
        why.as_ref().map(|w| w.words(&db.name)),
    ]
}

fn console(view: &View) -> Row {
    let mut clients = 0;
    view.services.clients.each(|c| clients += usize::from(view.is_console(&c.database)));
    row![
        PGBOUNCER,
        Cell::Null,
        view.port(),
        PGBOUNCER,
        PGBOUNCER,
        2,
        0,
        0,
        view.config.pool.server_lifetime.map_or(0, |d| d.as_secs()),
        "statement",
        Cell::Null,
        0,
        0,
        view.config.limits.max_database_client_connections.unwrap_or(0),
        clients,
        0,
        0,
        Cell::Null,
        Cell::Null,
        Cell::Null,
    ]
}
