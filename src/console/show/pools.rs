//! SHOW POOLS.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::config::resolved::PoolMode;
use crate::console::rows::{Cell, Column, Row, int, own, row, text};
use crate::console::view::{PGBOUNCER, View};
use crate::error::Standstill;
use crate::pool::core::Counts;

pub(in crate::console) const POOLS: &[Column] = &[
    text("database"),
    text("user"),
    int("cl_active"),
    int("cl_waiting"),
    int("cl_active_cancel_req"),
    int("cl_waiting_cancel_req"),
    int("sv_active"),
    int("sv_active_cancel"),
    int("sv_being_canceled"),
    int("sv_idle"),
    int("sv_used"),
    int("sv_tested"),
    int("sv_login"),
    int("maxwait"),
    int("maxwait_us"),
    text("pool_mode"),
    text("load_balance_hosts"),
    own(text("roles")),
    own(int("pool_size")),
    own(int("effective_size")),
    own(int("reserve_pool_size")),
    own(text("last_connect_error")),
    own(text("serves_nobody")),
    own(text("why")),
];

/// Pools of one database and user: one for each role. PgBouncer knows no roles, and what reads its rows takes
/// database and user for a key.
#[derive(Default)]
struct Together {
    counts: Counts,
    cancelling: usize,
    longest_wait: Duration,
    mode: Option<PoolMode>,
    roles: Vec<&'static str>,
    hosts: usize,
    balanced: bool,
    size: u64,
    effective: u64,
    reserve: u64,
    last_error: Option<String>,
    /// Of the first of them that stands still.
    standstill: Option<Standstill>,
}

pub(in crate::console) fn pools(view: &View) -> Vec<Row> {
    let mut all: BTreeMap<(Arc<str>, Arc<str>), Together> = BTreeMap::new();
    for pool in view.pools() {
        let spec = pool.spec();
        let together = all.entry((pool.key.database.clone(), pool.key.user.clone())).or_default();
        let c = pool.counts();
        together.counts.idle += c.idle;
        together.counts.leased += c.leased;
        together.counts.opening += c.opening;
        together.counts.parked += c.parked;
        together.counts.repairing += c.repairing;
        together.cancelling += pool.cancelling();
        together.longest_wait = together.longest_wait.max(pool.longest_wait());
        together.mode.get_or_insert(spec.settings.mode);
        together.roles.push(pool.key.role.as_str());
        together.hosts = together.hosts.max(spec.hosts.len());
        together.balanced |= spec.load_balance;
        together.size += u64::from(spec.settings.size);
        together.effective += pool.sized().0 as u64;
        together.reserve += u64::from(spec.settings.reserve_size);
        together.standstill = together.standstill.take().or_else(|| pool.serves_nobody());
        let error = pool.figures().last_connect_error;
        together.last_error = together.last_error.take().or(error);
    }
    let mut clients = view.client_counts();
    let mut rows = Vec::new();
    let mut console = 0;
    clients.retain(|(database, _), n| {
        if view.is_console(database) {
            console += n.active;
        }
        !view.is_console(database)
    });
    let mut console_row = Some(row![
        PGBOUNCER,
        PGBOUNCER,
        console,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        "statement",
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
        Cell::Null,
    ]);
    for ((database, user), t) in all {
        if &*database > PGBOUNCER {
            rows.extend(console_row.take());
        }
        let n = clients.get(&(database.clone(), user.clone())).copied().unwrap_or_default();
        rows.push(row![
            &database,
            &user,
            n.active,
            n.waiting,
            t.cancelling,
            0,
            t.counts.leased,
            t.cancelling,
            t.counts.parked,
            t.counts.idle,
            0,
            t.counts.repairing,
            t.counts.opening,
            t.longest_wait.as_secs(),
            t.longest_wait.subsec_micros(),
            t.mode.map(PoolMode::as_str),
            super::databases::policy(t.hosts, t.balanced),
            t.roles.join(","),
            t.size,
            t.effective,
            t.reserve,
            t.last_error,
            t.standstill.as_ref().map(Standstill::code),
            t.standstill.as_ref().map(|w| w.words(&database)),
        ]);
    }
    rows.extend(console_row);
    rows
}
