//! `howdah doctor` before a real server: each scenario is advised on, and the printed change removes the advice.

#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]

mod common;
mod kit;

use common::proxy::Howdah;
use common::{Client, Cluster, app_options, cluster, eventually};
use kit::{app, program, start};

const MAJOR: u32 = 15;

/// Codes of the advice, the exit code, and the report as it was.
fn doctor(howdah: &Howdah) -> (Vec<(String, String)>, Option<i32>, String) {
    let out = program().arg("doctor").arg(howdah.config_path()).arg("--json").output().expect("it runs");
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    let read: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let advice = read["advice"].as_array().expect("a list").iter();
    let word = |v: &serde_json::Value| v.as_str().expect("a string").to_owned();
    let codes = advice.map(|a| (word(&a["code"]), word(&a["change"]))).collect();
    (codes, out.status.code(), text)
}

fn change(howdah: &Howdah, code: &str) -> Option<String> {
    doctor(howdah).0.into_iter().find(|(c, _)| c == code).map(|(_, change)| change)
}

fn run(client: &mut Client, sql: &str) {
    client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

fn owner(cluster: &Cluster) -> Client {
    cluster.connect("app", "app").expect("a login")
}

#[test]
fn a_server_in_order_gets_no_advice_and_others_do_until_they_follow_it() {
    let options = app_options().setting("autovacuum", "off");
    let Some(cluster) = cluster(MAJOR, options) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let (codes, exit, text) = doctor(&howdah);
    assert_eq!((codes.len(), exit), (0, Some(0)), "{text}");

    let mut direct = owner(&cluster);
    run(&mut direct, "CREATE TABLE \"Orders\" (id int, note text)");
    run(&mut direct, "INSERT INTO \"Orders\" SELECT i, 'note ' || i FROM generate_series(1, 60000) i");
    run(&mut direct, "CREATE INDEX orders_note ON \"Orders\" (note)");
    for _ in 0..25 {
        run(&mut direct, "SELECT count(*) FROM \"Orders\" WHERE id = 1");
    }
    drop(direct);
    for code in ["statistics_missing", "index_unused", "index_missing"] {
        eventually(code, || change(&howdah, code).is_some());
    }
    assert_eq!(doctor(&howdah).1, Some(1));

    // The printed changes, as they are where they are statements.
    let mut direct = owner(&cluster);
    let analyze = change(&howdah, "statistics_missing").expect("advice");
    assert_eq!(analyze, "ANALYZE \"Orders\"");
    run(&mut direct, &analyze);
    let unused = change(&howdah, "index_unused").expect("advice");
    run(&mut direct, unused.strip_suffix(", if no standby uses it").expect("a statement and a condition"));
    run(&mut direct, "CREATE INDEX ON \"Orders\" (id)");
    cluster.connect("postgres", "app").expect("a login").query("SELECT pg_stat_reset()").expect("it");
    run(&mut direct, "ANALYZE \"Orders\"");
    run(&mut direct, "SET enable_seqscan = off; SELECT count(*) FROM \"Orders\" WHERE id = 1");
    drop(direct);
    eventually("nothing is left", || doctor(&howdah).0.is_empty());
}

#[test]
fn clients_that_wait_too_long_are_advised_on() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let top = "query_wait_timeout = \"200ms\"\nadmin_users = [\"app\"]";
    let howdah = start(&cluster, top, "pool_size = 1", "");
    let mut holder = app(&howdah);
    run(&mut holder, "BEGIN");
    let mut waiter = app(&howdah);
    assert!(waiter.query("SELECT 1").is_err());
    assert_eq!(change(&howdah, "pool_too_small").map(|c| c.starts_with("pool_size = 2")), Some(true));
    // Another program that reads the same file: what cannot be asked is said.
    let text = String::from_utf8(
        program().arg("doctor").arg(howdah.config_path()).output().expect("it runs").stdout,
    );
    assert!(text.expect("UTF-8").contains("HIGH  pool_too_small"));

    // The console says the same of itself, although the pool is full.
    let mut console = howdah.connect("app", "howdah").expect("the console");
    let shown = console.query("SHOW ADVICE").expect("rows");
    assert_eq!(shown.columns, ["rank", "severity", "finding", "subject", "evidence", "change"]);
    let reported = doctor(&howdah).0;
    let word = |row: &howdah::demo::wire::Row, at: usize| row[at].clone().unwrap_or_default();
    let rows: Vec<_> = shown.rows.iter().map(|r| (word(r, 2), word(r, 5))).collect();
    assert_eq!(rows, reported);
    assert_eq!((word(&shown.rows[0], 0), word(&shown.rows[0], 1)), ("1".to_owned(), "high".to_owned()));
    run(&mut holder, "COMMIT");
}

/// Elsewhere than on loopback the figures are told to who shows the token, which the same file has.
#[test]
fn the_token_of_the_ops_port_is_shown() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let text = kit::config(&cluster, "ops_token = \"let-me-in\"", "pool_size = 2", "");
    let howdah = Howdah::start(&text.replace("127.0.0.1:{ops_port}", "0.0.0.0:{ops_port}"));
    let report = doctor(&howdah).2;
    assert!(report.contains("\"not_examined\": []"), "{report}");
}
