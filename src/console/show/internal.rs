//! What PgBouncer tells of its inside: versions, state, lists, memory, names, descriptors, peers.

use std::sync::atomic::Ordering;

use super::databases::hosts;
use crate::config::resolved::{HostAddr, Profile};
use crate::console::rows::{Cell, Column, Row, big, bytea, int, row, text};
use crate::console::view::{PGBOUNCER, View};
use crate::control::Hold;

pub(in crate::console) const VERSION: &[Column] = &[text("version")];

pub(in crate::console) fn version(view: &View) -> Vec<Row> {
    let ours = env!("CARGO_PKG_VERSION");
    let like_pgbouncer = view.config.profile == Profile::PgBouncer || &*view.console == PGBOUNCER;
    vec![if like_pgbouncer {
        // What monitoring parses comes first.
        row![format!("PgBouncer 1.25.2 (Howdah {ours})")]
    } else {
        row![format!("Howdah {ours}")]
    }]
}

pub(in crate::console) const STATE: &[Column] = &[text("key"), text("value")];

pub(in crate::console) fn state(view: &View) -> Vec<Row> {
    let halt = view.services.control.halt();
    let yes = |b: bool| if b { "yes" } else { "no" };
    vec![
        row!["active", yes(halt == Hold::No)],
        row!["paused", yes(halt == Hold::Paused)],
        row!["suspended", yes(halt == Hold::Suspended)],
    ]
}

pub(in crate::console) const LISTS: &[Column] = &[text("list"), int("items")];

pub(in crate::console) fn lists(view: &View) -> Vec<Row> {
    let clients = &view.services.clients;
    let pools = view.pools();
    let servers: usize = pools.iter().map(|p| p.counts().live()).sum();
    let idle: usize = pools.iter().map(|p| p.counts().idle).sum();
    vec![
        row!["databases", view.services.databases().len() + 1],
        row!["users", view.config.users.len() + usize::from(!view.config.users.contains_key(PGBOUNCER))],
        row!["peers", view.config.compat.peers.others.len()],
        row!["pools", pools.len() + 1],
        row!["peer_pools", view.config.compat.peers.others.len()],
        row!["free_clients", 0],
        row!["used_clients", clients.len()],
        row!["login_clients", clients.logging_in.load(Ordering::Relaxed)],
        row!["free_servers", idle],
        row!["used_servers", servers - idle.min(servers)],
        row!["dns_names", 0],
        row!["dns_zones", 0],
        row!["dns_queries", 0],
        row!["dns_pending", 0],
    ]
}

pub(in crate::console) const MEM: &[Column] =
    &[text("name"), int("size"), int("used"), int("free"), int("memtotal")];

/// Things that are kept, and the bytes of each without what hangs off it.
pub(in crate::console) fn mem(view: &View) -> Vec<Row> {
    let of = |name: &str, size: usize, used: usize| row![name, size, used, 0, size * used];
    let servers: usize = view.pools().iter().map(|p| p.counts().live()).sum();
    vec![
        of("user_cache", size_of::<crate::config::resolved::User>(), view.config.users.len()),
        of("db_cache", size_of::<crate::config::resolved::Database>(), view.config.databases.len()),
        of("pool_cache", size_of::<crate::pool::Pool>(), view.pools().len()),
        of("server_cache", size_of::<crate::server::conn::ServerConn>(), servers),
        of("client_cache", size_of::<crate::client::session::Session>(), view.services.clients.len()),
        of("prepared_statement_cache", size_of::<usize>(), view.services.statements.len()),
    ]
}

pub(in crate::console) const DNS_HOSTS: &[Column] = &[text("hostname"), big("ttl"), text("addrs")];

/// The system's resolver answers at each dial; nothing is kept.
pub(in crate::console) fn dns_hosts(_: &View) -> Vec<Row> {
    Vec::new()
}

pub(in crate::console) const DNS_ZONES: &[Column] = &[text("zonename"), big("serial"), int("count")];

pub(in crate::console) fn dns_zones(_: &View) -> Vec<Row> {
    Vec::new()
}

pub(in crate::console) const PEERS: &[Column] =
    &[int("peer_id"), text("host"), int("port"), int("pool_size")];

/// A connection to a peer lasts as long as the one cancel that it carries, so that there is no pool to size.
pub(in crate::console) fn peers(view: &View) -> Vec<Row> {
    let one = |(id, host): (&u16, &HostAddr)| {
        let (host, port) = hosts(std::slice::from_ref(host));
        row![i64::from(*id), host, port, Cell::Null]
    };
    view.config.compat.peers.others.iter().map(one).collect()
}

pub(in crate::console) const PEER_POOLS: &[Column] = &[
    int("peer_id"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active_cancel"),
    int("sv_login"),
];

pub(in crate::console) fn peer_pools(view: &View) -> Vec<Row> {
    view.config.compat.peers.others.keys().map(|id| row![i64::from(*id), 0, 0, 0, 0]).collect()
}

pub(in crate::console) const FDS: &[Column] = &[
    int("fd"),
    text("task"),
    text("user"),
    text("database"),
    text("addr"),
    int("port"),
    big("cancel"),
    int("link"),
    text("client_encoding"),
    text("std_strings"),
    text("datestyle"),
    text("timezone"),
    text("password"),
    bytea("scram_client_key"),
    bytea("scram_server_key"),
];

/// Descriptors and secrets are handed to nobody: the rows are the listening sockets, without either.
pub(in crate::console) fn fds(view: &View) -> Vec<Row> {
    let listening = |addr: String, port: u16| {
        let mut row = row![Cell::Null, "pooler", Cell::Null, Cell::Null, addr, port, 0, 0];
        row.extend(std::iter::repeat_n(Cell::Null, FDS.len() - row.len()));
        row
    };
    let listen = &view.config.listen;
    let mut rows: Vec<Row> = listen.tcp.iter().map(|a| listening(a.ip().to_string(), a.port())).collect();
    if listen.unix_dir.is_some() {
        rows.push(listening("unix".to_owned(), view.port()));
    }
    rows
}
