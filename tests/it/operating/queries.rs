//! Statistics of statements: what /queries says is what the clients sent and what PostgreSQL's own
//! pg_stat_statements counted.

use std::time::Duration;

use crate::harness::ops_port::json;
use crate::harness::proxy::Howdah;
use crate::harness::{self, Cluster, app_options, cluster, eventually};
use serde_json::Value;

const MAJOR: u32 = 15;

fn counting_cluster() -> Option<Cluster> {
    let options = app_options().setting("shared_preload_libraries", "pg_stat_statements");
    let cluster = cluster(MAJOR, options)?;
    let mut owner = cluster.connect("app", "app").expect("a login");
    owner.query("CREATE TABLE t (id int PRIMARY KEY, v text)").expect("a table");
    owner.query("INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 100) g").expect("rows");
    let mut admin = cluster.connect(harness::SUPERUSER, "app").expect("a login");
    admin.query("CREATE EXTENSION pg_stat_statements").expect("the extension is installed with the server");
    admin.query("SELECT pg_stat_statements_reset()").expect("a reset");
    Some(cluster)
}

fn howdah_before(cluster: &Cluster, more: &str) -> Howdah {
    Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         admin_users = [\"app\"]\n[users.app]\n[databases.app]\nhost = \"{}\"\npool_size = 3\n{more}\n",
        cluster.tcp()
    ))
}

fn queries(howdah: &Howdah) -> Value {
    json(howdah, "/queries")
}

fn find<'a>(json: &'a Value, text: &str) -> Option<&'a Value> {
    json["statements"].as_array().expect("an array").iter().find(|s| s["text"] == text)
}

fn calls(json: &Value, text: &str) -> u64 {
    find(json, text).map_or(0, |s| s["calls"].as_u64().expect("a count"))
}

/// Named and unnamed statements, with the driver's own pipelining.
fn extended(howdah: &Howdah, times: i32) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let dsn = format!("{}?application_name=driver", howdah.dsn("app", "app"));
        let (client, connection) =
            tokio_postgres::connect(&dsn, tokio_postgres::NoTls).await.expect("a login");
        tokio::spawn(connection);
        let statement = client.prepare("SELECT v FROM t WHERE id = $1").await.expect("it is prepared");
        for n in 0..times {
            let rows = client.query(&statement, &[&(n % 100 + 1)]).await.expect("an answer");
            assert_eq!(rows.len(), 1);
        }
        let piped: Vec<_> = (0..10).map(|_| client.query(&statement, &[&500])).collect();
        for answer in futures_util::future::join_all(piped).await {
            assert_eq!(answer.expect("an answer").len(), 0);
        }
        client.query("SELECT v, id FROM t WHERE id < $1", &[&11]).await.expect("an unnamed one");
        client.query("SELECT 1 / $1", &[&0]).await.expect_err("a division by zero");
    });
}

#[test]
fn statements_are_counted_as_the_clients_and_the_server_count_them() {
    let Some(cluster) = counting_cluster() else { return };
    let howdah = howdah_before(&cluster, "");
    let mut clients: Vec<_> = (0..3).map(|_| howdah.connect("app", "app").expect("a login")).collect();
    for (c, client) in clients.iter_mut().enumerate() {
        for n in 0..40 {
            client.query(&format!("SELECT v FROM t WHERE id = {}", n + c + 1)).expect("an answer");
        }
        for n in 1..6 {
            let list: Vec<_> = (1..=n).map(|i| i.to_string()).collect();
            client.query(&format!("SELECT id FROM t WHERE id IN ({})", list.join(", "))).expect("an answer");
        }
        client.query("BEGIN").expect("an answer");
        client.query(&format!("UPDATE t SET v = 'x{c}' WHERE id = {c}")).expect("an answer");
        client.query("COMMIT").expect("an answer");
        client.query("SELECT 1/0").expect_err("a division by zero");
        client.query("ALTER ROLE app PASSWORD 'hunter2'").expect("an answer");
    }
    extended(&howdah, 30);

    let by_id = "SELECT v FROM t WHERE id = ?";
    eventually("all is booked", || {
        let json = queries(&howdah);
        // The second is the last thing that a client has run.
        calls(&json, by_id) == 160 && calls(&json, "SELECT ?/?") == 4
    });
    let json = queries(&howdah);
    let of = |text: &str| find(&json, text).unwrap_or_else(|| panic!("{text} is not among {json:#}"));
    assert_eq!(of(by_id)["rows"], 150);
    assert_eq!(of(by_id)["errors"], 0);
    assert_eq!(of(by_id)["applications"][1]["name"], "driver");
    assert_eq!(of(by_id)["applications"][1]["calls"], 40);
    assert!(of(by_id)["bytes_sent"].as_u64() > Some(150 * 10));
    assert!(of(by_id)["bytes_received"].as_u64() > Some(160 * 10));
    assert_eq!(of("SELECT id FROM t WHERE id IN (?)")["calls"], 15);
    assert_eq!(of("SELECT id FROM t WHERE id IN (?)")["rows"], 45);
    assert_eq!(of("UPDATE t SET v = ? WHERE id = ?")["calls"], 3);
    assert_eq!(of("UPDATE t SET v = ? WHERE id = ?")["rows"], 2);
    assert_eq!((calls(&json, "BEGIN"), calls(&json, "COMMIT")), (3, 3));
    assert_eq!((of("SELECT ?/?")["calls"].as_u64(), of("SELECT ?/?")["errors"].as_u64()), (Some(4), Some(4)));
    assert!(!json.to_string().contains("hunter2"));
    assert_eq!(calls(&json, "ALTER ... (a statement with PASSWORD is not shown)"), 3);

    // The console says the same.
    let mut console = howdah.connect("app", "howdah").expect("a login");
    let shown = console.query("SHOW QUERIES").expect("an answer");
    let rows = json["statements"].as_array().expect("an array");
    assert_eq!(shown.rows.len(), rows.len());
    for s in rows {
        let id = s["id"].as_str().expect("an id");
        let row = shown.rows.iter().find(|r| r[1].as_deref() == Some(id)).expect("the same statements");
        for (column, name) in [(2, "calls"), (3, "errors"), (4, "rows"), (10, "bytes_received")] {
            assert_eq!(row[column], Some(s[name].to_string()), "{name} of {id}");
        }
    }

    // The server's own count; it normalises in another way, and does not count what failed.
    let theirs = |pattern: &str, what: &str| {
        let sql =
            format!("SELECT coalesce(sum({what}), 0) FROM pg_stat_statements WHERE query LIKE '{pattern}'");
        let mut admin = cluster.connect(harness::SUPERUSER, "app").expect("a login");
        admin.value(&sql).expect("an answer").parse::<u64>().expect("a count")
    };
    for (pattern, text) in [
        ("SELECT v FROM t WHERE id =%", by_id),
        ("SELECT id FROM t WHERE id IN%", "SELECT id FROM t WHERE id IN (?)"),
        ("UPDATE t SET v =%", "UPDATE t SET v = ? WHERE id = ?"),
        ("SELECT v, id FROM t%", "SELECT v, id FROM t WHERE id < ?"),
        ("BEGIN", "BEGIN"),
    ] {
        for what in ["calls", "rows"] {
            assert_eq!(of(text)[what].as_u64(), Some(theirs(pattern, what)), "{what} of {text}");
        }
    }
}

#[test]
fn slow_statements_are_logged_without_their_constants() {
    let Some(cluster) = harness::shared(MAJOR) else { return };
    let howdah = howdah_before(cluster, "slow_query_threshold = \"200ms\"\n");
    let mut client = howdah.connect("app", "app").expect("a login");
    client.query("SELECT 'fast secret'").expect("an answer");
    client.query("SELECT pg_sleep(0.25), 'slow secret'").expect("an answer");
    let line = howdah.await_log("slow statement", Duration::from_secs(20));
    for part in ["text=\"SELECT pg_sleep(?), ?\"", "database=app", "user=app", "rows=1", "server_ms="] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(!howdah.log().contains("secret"));
}

#[test]
fn without_statistics_nothing_is_kept() {
    let Some(cluster) = harness::shared(MAJOR) else { return };
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         query_statistics = 0\n[users.app]\n[databases.app]\nhost = \"{}\"\npool_size = 3\n",
        cluster.tcp()
    ));
    let mut client = howdah.connect("app", "app").expect("a login");
    client.query("SELECT 1").expect("an answer");
    let json = queries(&howdah);
    assert_eq!(json["limit"], 0);
    assert_eq!(json["statements"].as_array().map(Vec::len), Some(0));
}
