//! The console: every command with its columns, its rights, and what it does, through real clients.

#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]

mod common;
mod kit;

use std::collections::BTreeMap;

use common::proxy::Howdah;
use common::{Client, Cluster, shared};
use kit::{config, refusal};

const MAJOR: u32 = 15;

const USERS: &str = "[users.boss]\n[users.watch]\n[users.nobody]\n";
const TOP: &str = "admin_users = [\"boss\"]\nstats_users = [\"watch\"]";

fn start(cluster: &Cluster, top: &str, database: &str) -> Howdah {
    Howdah::start(&config(cluster, &format!("{TOP}\n{top}"), database, USERS))
}

fn console(howdah: &Howdah, user: &str) -> Client {
    howdah.connect(user, "pgbouncer").unwrap_or_else(|e| panic!("{user} comes in: {e}"))
}

/// The rows of a SHOW, each by column.
fn show(client: &mut Client, what: &str) -> Vec<BTreeMap<String, String>> {
    let reply = client.query(&format!("SHOW {what}")).unwrap_or_else(|e| panic!("SHOW {what}: {e}"));
    assert_eq!(reply.tags, ["SHOW"], "{what}");
    let by_column = |row: Vec<Option<String>>| {
        reply.columns.iter().cloned().zip(row.into_iter().map(Option::unwrap_or_default)).collect()
    };
    reply.rows.clone().into_iter().map(by_column).collect()
}

/// The one row in which these columns have these values.
fn one<'a>(rows: &'a [BTreeMap<String, String>], have: &[(&str, &str)]) -> &'a BTreeMap<String, String> {
    let fits =
        |row: &&BTreeMap<String, String>| have.iter().all(|(c, v)| row.get(*c).is_some_and(|r| r == v));
    let found: Vec<_> = rows.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{have:?} in {rows:?}");
    found[0]
}

#[test]
fn who_may_come_in() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2");
    for database in ["pgbouncer", "howdah"] {
        let mut boss = howdah.connect("boss", database).expect("an admin");
        assert_eq!(boss.parameters().get("server_version").map(String::as_str), Some("1.25.2/bouncer"));
        assert!(boss.query("SHOW POOLS").is_ok());
        let error = refusal(howdah.connect("nobody", database));
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "42501"), "{error}");
        assert_eq!(error.message, "not allowed");
    }
    // Looking is all that a stats user may do; asking for more does not end the session.
    let mut watch = console(&howdah, "watch");
    assert!(watch.query("SHOW CLIENTS").is_ok());
    let error = refusal(watch.query("RELOAD"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "42501"), "{error}");
    assert_eq!(error.message, "admin access needed");
    assert!(watch.query("SHOW VERSION").is_ok());
}

#[test]
fn pools_and_clients_are_shown() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2");
    let mut held = kit::app(&howdah);
    held.query("BEGIN").expect("it begins");
    let _idle = kit::app(&howdah);
    let mut boss = console(&howdah, "boss");
    let pools = show(&mut boss, "POOLS");
    let app = one(&pools, &[("database", "app"), ("user", "app")]);
    assert_eq!((app["cl_active"].as_str(), app["sv_active"].as_str()), ("2", "1"), "{app:?}");
    assert_eq!(app["pool_mode"], "transaction");
    assert_eq!(one(&pools, &[("database", "pgbouncer")])["cl_active"], "1");
    let clients = show(&mut boss, "CLIENTS");
    let active = one(&clients, &[("database", "app"), ("state", "active")]);
    let servers = show(&mut boss, "SERVERS");
    let server = one(&servers, &[("state", "active")]);
    assert_eq!((&active["link"], &active["ptr"]), (&server["ptr"], &server["link"]));
    assert_eq!(server["remote_pid"], kit::backend(&mut held));
    let database = show(&mut boss, "DATABASES");
    let app = one(&database, &[("name", "app")]);
    assert_eq!((app["current_client_connections"].as_str(), app["current_connections"].as_str()), ("2", "1"));
    held.query("COMMIT").expect("it ends");
    let stats = show(&mut boss, "STATS");
    let app = one(&stats, &[("database", "app")]);
    assert_eq!(app["total_xact_count"], "1", "{app:?}");
    let query: u64 = app["total_query_time"].parse().expect("a number");
    let xact: u64 = app["total_xact_time"].parse().expect("a number");
    assert!(query < xact, "what the client took is not the query's: {query} of {xact}");
}

#[test]
fn a_reload_tells_how_it_went() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2");
    let mut boss = console(&howdah, "boss");
    howdah.rewrite_config(&config(cluster, TOP, "pool_size = 7", USERS));
    assert_eq!(boss.query("RELOAD;").expect("it reloads").tags, ["RELOAD"]);
    assert_eq!(one(&show(&mut boss, "DATABASES"), &[("name", "app")])["pool_size"], "7");
    howdah.rewrite_config(&config(cluster, TOP, "pool_size = \"x\"", USERS));
    let error = refusal(boss.query("RELOAD"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "F0000"), "{error}");
    assert!(error.detail.as_deref().is_some_and(|d| d.contains("pool_size")), "{error}");
    assert_eq!(one(&show(&mut boss, "DATABASES"), &[("name", "app")])["pool_size"], "7");
}
