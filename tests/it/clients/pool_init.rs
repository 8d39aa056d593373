//! What an application's pool does once for each of its connections holds for each of its clients, on server connections
//! that many of them share.

use std::process::Command;

use crate::harness::proxy::Howdah;
use crate::harness::replicas::{Replicated, eligible};
use crate::harness::tools::succeed;
use crate::harness::{cache, connections, left_out, metric, root};

const POOL_SIZE: usize = 20;
const CLIENTS: usize = 200;

/// `tests/drivers/pool_init_check.py` with 200 clients on 20 connections: on a database whose host is a replica, and on
/// one whose transactions that only read go to its replicas while PREPARE has run on the primary.
fn prepared_in_init(major: u32) {
    if !cache().join("venv/.asyncpg").exists() {
        left_out("asyncpg", "not installed; tests/support/setup.sh installs it where it can");
        return;
    }
    let Some(servers) = Replicated::start(major) else { return };
    let mut direct = servers.primary.connect("app", "app").expect("direct");
    direct.query("CREATE TABLE quotes (id int PRIMARY KEY, body jsonb)").expect("a table");
    direct
        .query("INSERT INTO quotes SELECT n, jsonb_build_object('quote', n) FROM generate_series(1, 100) n")
        .expect("rows");
    for r in &servers.replicas {
        r.await_replay(&servers.primary).expect("it follows");
    }
    let [replica, _] = &servers.replicas;
    let pool = format!("pool_size = {POOL_SIZE}");
    let reads = format!("[databases.reads]\nhost = \"{}\"\ndbname = \"app\"\n{pool}\n", replica.tcp());
    let config = servers.config("capacity_check = \"off\"", "when_no_replica = \"error\"", &reads);
    let howdah = Howdah::start(&config.replace("pool_size = 5", &pool));
    eligible(&howdah, 2);
    for (database, how) in [("reads", "reset"), ("app", "keep")] {
        let mut command = Command::new(cache().join("venv/bin/python"));
        command.arg(root().join("tests/drivers/pool_init_check.py")).arg(howdah.dsn("app", database));
        command.arg(CLIENTS.to_string()).arg(how).env("PYTHONDONTWRITEBYTECODE", "1");
        succeed(&mut command, how);
        // Two pools, and the connection that monitors.
        let here = connections(replica, "app");
        assert!(here <= 2 * POOL_SIZE + 1, "{here} connections of two pools of {POOL_SIZE}");
    }
    assert!(metric(&howdah, "howdah_routed_transactions_total", &[("reason", "read_only_default")]) > 0.0);
}

#[test]
fn what_init_has_prepared_is_there_for_two_hundred_clients_on_postgres_15() {
    prepared_in_init(15);
}

#[test]
fn what_init_has_prepared_is_there_for_two_hundred_clients_on_postgres_18() {
    prepared_in_init(18);
}
