//! SHOW USERS.

use std::collections::BTreeSet;

use crate::config::resolved::PoolMode;
use crate::console::rows::{Column, Row, int, row, text};
use crate::console::view::{PGBOUNCER, View};
use crate::pool::ledger::LimitKey;

pub(in crate::console) const USERS: &[Column] = &[
    text("name"),
    text("pool_size"),
    text("reserve_pool_size"),
    text("pool_mode"),
    int("max_user_connections"),
    int("current_connections"),
    int("max_user_client_connections"),
    int("current_client_connections"),
];

pub(in crate::console) fn users(view: &View) -> Vec<Row> {
    let mut names: BTreeSet<&str> = view.config.users.keys().map(String::as_str).collect();
    names.insert(PGBOUNCER);
    let padded = |n: Option<u32>| n.map_or(String::new(), |n| format!("{n:9}"));
    names
        .into_iter()
        .map(|name| {
            let user = view.config.users.get(name);
            row![
                name,
                padded(user.and_then(|u| u.overrides.size)),
                padded(user.and_then(|u| u.overrides.reserve_size)),
                user.and_then(|u| u.overrides.mode).map(PoolMode::as_str),
                user.and_then(|u| u.max_connections).unwrap_or(0),
                view.services.ledger.used(&LimitKey::User(name.into())),
                user.and_then(|u| u.max_client_connections).unwrap_or(0),
                view.services.clients.of_user(name),
            ]
        })
        .collect()
}
