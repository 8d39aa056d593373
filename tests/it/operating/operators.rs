//! What operators and clients are told while a pool serves nobody, how waits are booked, and that every database that
//! serves is counted.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::proxy::Howdah;
use crate::harness::replicas::{Replay, Replicated, eligible};
use crate::harness::{
    self, Client, Stop, app_options, cluster, config, eventually, metric, ops_port, refusal, shared,
};
use howdah::demo::wire::ServerError;
use serde_json::Value;

const MAJOR: u32 = 15;
const TOP: &str = "admin_users = [\"boss\"]";
const BOSS: &str = "[users.boss]\n";

/// Status and JSON.
fn get(howdah: &Howdah, path: &str) -> (u16, Value) {
    let (status, body) = ops_port::get(howdah, path);
    (status, serde_json::from_str(&body).expect("JSON"))
}

fn console(howdah: &Howdah) -> Client {
    howdah.connect("boss", "howdah").expect("an admin comes in")
}

/// The row of a SHOW in which this column has this value.
fn row(client: &mut Client, what: &str, column: &str, value: &str) -> BTreeMap<String, String> {
    let reply = client.query(&format!("SHOW {what}")).unwrap_or_else(|e| panic!("SHOW {what}: {e}"));
    let by_column = |row: &Vec<Option<String>>| -> BTreeMap<String, String> {
        let cells = row.iter().map(|c| c.clone().unwrap_or_default());
        reply.columns.iter().cloned().zip(cells).collect()
    };
    let found = reply.rows.iter().map(by_column).find(|r| r.get(column).is_some_and(|v| v == value));
    found.unwrap_or_else(|| panic!("no {column} = {value} in SHOW {what}: {:?}", reply.rows))
}

/// Every place says that `database` serves nobody, in the word and the words of that reason.
fn told_everywhere(howdah: &Howdah, code: &str, words: &str) {
    let (status, ready) = get(howdah, "/readyz/app");
    assert_eq!((status, ready["databases"][0]["serves_nobody"].as_str()), (503, Some(code)), "{ready}");
    assert!(ready["reason"].as_str().is_some_and(|r| r.contains(words)), "{ready}");
    let (_, ready) = get(howdah, "/readyz");
    let listed = ready["databases"].as_array().expect("a list").iter().any(|d| d["why"] == words);
    assert!(listed, "{ready}");
    assert_eq!(
        metric(howdah, "howdah_database_serves_nobody", &[("database", "app"), ("reason", code)]),
        1.0,
        "{code}"
    );
    assert_eq!(metric(howdah, "howdah_pool_serves_nobody", &[("database", "app"), ("reason", code)]), 1.0);
    let (_, stats) = get(howdah, "/stats");
    let standing = &stats["serving_nobody"][0];
    assert_eq!((standing["code"].as_str(), standing["why"].as_str()), (Some(code), Some(words)), "{stats}");
    assert_eq!(stats["pools"][0]["serves_nobody"], code);
    let mut boss = console(howdah);
    for (what, column) in [("DATABASES", "name"), ("POOLS", "database")] {
        let shown = row(&mut boss, what, column, "app");
        assert_eq!((shown["serves_nobody"].as_str(), shown["why"].as_str()), (code, words), "{what}");
    }
}

/// The client hears the same, and no advice that does not fit.
fn told_to_the_client(e: &ServerError, words: &str, hint: &str) {
    assert!(e.message.contains(words), "{e:?}");
    assert!(e.detail.as_deref().is_some_and(|d| d.contains(words)), "{e:?}");
    let given = e.hint.as_deref().unwrap_or_default();
    assert!(given.contains(hint) && !given.contains("raise pool_size"), "{e:?}");
}

#[test]
fn an_order_of_the_operator_is_told_everywhere_in_the_same_words() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = Howdah::start(&config(cluster, TOP, "pool_size = 2\nquery_wait_timeout = \"300ms\"", BOSS));
    let mut client = harness::app(&howdah);
    client.query("SELECT 1").expect("an answer");
    let mut boss = console(&howdah);
    for (order, end, code, words, hint) in [
        ("PAUSE app", "RESUME app", "paused", "database \"app\" is paused", "RESUME app"),
        ("PAUSE", "RESUME", "paused", "all databases are paused", "RESUME"),
        ("SUSPEND", "RESUME", "suspended", "all databases are suspended", "RESUME"),
    ] {
        boss.query(order).unwrap_or_else(|e| panic!("{order}: {e}"));
        told_to_the_client(&refusal(client.query("SELECT 1")), words, hint);
        told_everywhere(&howdah, code, words);
        let all = order != "PAUSE app";
        assert_eq!(get(&howdah, "/readyz").0, if all { 503 } else { 200 }, "{order}");
        boss.query(end).expect("it resumes");
        client.query("SELECT 1").expect("an answer again");
        assert_eq!(get(&howdah, "/readyz/app").0, 200, "{order}");
        assert_eq!(metric(&howdah, "howdah_database_serves_nobody", &[]), 0.0);
    }
    boss.query("DISABLE app").expect("it is closed");
    let refused = refusal(howdah.connect("app", "app"));
    assert!(refused.message.contains("database \"app\" is disabled"), "{refused:?}");
    told_everywhere(&howdah, "disabled", "database \"app\" is disabled");
    boss.query("ENABLE app").expect("it is open");
    boss.query("KILL app").expect("it ends all");
    told_everywhere(&howdah, "killed", "database \"app\" was killed and is paused since");
    // Its parameters are known; so it is in, and waits.
    let mut late = harness::app(&howdah);
    told_to_the_client(&refusal(late.query("SELECT 1")), "was killed", "RESUME app");
    boss.query("RESUME app").expect("it resumes");
    late.query("SELECT 1").expect("an answer");
}

#[test]
fn a_login_that_waits_for_a_server_is_told_why() {
    let Some(mut cluster) = cluster(MAJOR, app_options()) else { return };
    let database = "pool_size = 2\nclient_login_timeout = \"600ms\"\nserver_login_retry = \"20s\"";
    let howdah = Howdah::start(&config(&cluster, TOP, database, BOSS));
    let mut boss = console(&howdah);
    boss.query("PAUSE app").expect("it pauses");
    let e = refusal(howdah.connect("app", "app"));
    assert_eq!((e.severity.as_str(), e.code.as_str()), ("FATAL", "57P03"), "{e:?}");
    told_to_the_client(&e, "database \"app\" is paused", "RESUME app");
    boss.query("RESUME app").expect("it resumes");

    // A server that was there a moment ago is waited for, as one that restarts; no login knows its parameters yet.
    harness::app(&howdah).query("SELECT 1").expect("an answer");
    cluster.stop(Stop::Immediate).expect("it stops");
    let asks = [("user", "app"), ("database", "app"), ("options", "-c statement_timeout=77s")];
    let told = refusal(Client::connect_with(
        &harness::Target::Tcp(howdah.address()),
        &asks,
        Duration::from_secs(20),
    ));
    told_to_the_client(&told, "cannot connect to the database server", "Check that the server runs");
    told_everywhere_but_words(&howdah, "unreachable");
}

fn told_everywhere_but_words(howdah: &Howdah, code: &str) {
    let (status, ready) = get(howdah, "/readyz/app");
    let why = ready["databases"][0]["why"].as_str().expect("words").to_owned();
    assert_eq!(status, 503, "{ready}");
    told_everywhere(howdah, code, &why);
}

#[test]
fn a_server_that_refuses_the_login_is_told_everywhere() {
    let Some(cluster) = shared(MAJOR) else { return };
    let database = "pool_size = 2\ndbname = \"no_such\"\nserver_login_retry = \"20s\"";
    let howdah = Howdah::start(&config(cluster, TOP, database, BOSS));
    let refused = refusal(howdah.connect("app", "app"));
    assert_eq!(refused.code, "3D000", "{refused:?}");
    told_everywhere_but_words(&howdah, "login_refused");
    let (_, ready) = get(&howdah, "/readyz/app");
    assert!(ready["reason"].as_str().is_some_and(|r| r.contains("no_such")), "{ready}");
}

/// A database that has a replica section has waits of its own: they are booked all the same.
/// What psql prints beside the answer; `None` where there is no psql.
fn said_by_psql(howdah: &Howdah, sql: &str) -> Option<String> {
    let mut psql = std::process::Command::new(harness::tools::client_program("psql")?);
    let output = psql.arg("-d").arg(howdah.dsn("boss", "howdah")).args(["-c", sql]).output().ok()?;
    Some(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Readiness, metrics and the console say of a role what they say of the primary.
fn told_of_role(howdah: &Howdah, role: &str, code: &str, words: &str) {
    let (status, ready) = get(howdah, &format!("/readyz/app/{role}"));
    let first = &ready["databases"][0];
    assert_eq!((status, first["serves_nobody"].as_str()), (503, Some(code)), "{ready}");
    assert_eq!(first["why"].as_str(), Some(words), "{ready}");
    assert!(ready["reason"].as_str().is_some_and(|r| r.contains(words)), "{ready}");
    let labels = [("database", "app"), ("role", role), ("reason", code)];
    assert_eq!(metric(howdah, "howdah_database_serves_nobody", &labels), 1.0, "{code}");
    let (_, stats) = get(howdah, "/stats");
    let standing = stats["serving_nobody"].as_array().expect("a list").iter().find(|s| s["role"] == role);
    let standing = standing.unwrap_or_else(|| panic!("{role}: {stats}"));
    assert_eq!((standing["code"].as_str(), standing["why"].as_str()), (Some(code), Some(words)), "{stats}");
    let mut boss = console(howdah);
    let reply = boss.query("SHOW DATABASES").expect("rows");
    let cell = |row: &[Option<String>], column: &str| {
        let at = reply.columns.iter().position(|c| c == column).expect("a column");
        row[at].clone().unwrap_or_default()
    };
    let shown = reply.rows.iter().any(|r| cell(r, "serves_nobody") == code && cell(r, "why") == words);
    assert!(shown, "{:?}", reply.rows);
}

#[test]
fn replicas_that_serve_nobody_are_told_everywhere_in_the_same_words() {
    let Some(mut servers) = Replicated::start(MAJOR) else { return };
    let text = servers.config(TOP, "when_no_replica = \"error\"\nmax_lag_bytes = \"1kB\"", BOSS);
    let howdah = Howdah::start(&text);
    eligible(&howdah, 2);
    let mut client = harness::app(&howdah);
    let mut reads = |words: &str| {
        let e = refusal(client.query("BEGIN READ ONLY; SELECT 1"));
        let _ = client.query("ROLLBACK");
        // A sentence of its own, which begins with a capital.
        assert!(e.detail.as_deref().is_some_and(|d| d.contains(&words[1..])), "{e:?}");
    };
    let mut paused: Vec<Replay> = servers.replicas.iter().map(Replay::of).collect();
    paused.iter_mut().for_each(Replay::pause);
    let mut owner = servers.primary.connect("app", "app").expect("a direct session");
    owner.query("CREATE TABLE ahead AS SELECT generate_series(1, 1000)").expect("written");
    eligible(&howdah, 0);
    let words = "every replica of database \"app\" is further behind than max_lag or max_lag_bytes allows";
    reads(words);
    told_of_role(&howdah, "replica", "lag", words);
    drop(paused);
    for r in &mut servers.replicas {
        r.stop(Stop::Immediate).expect("it stops");
    }
    eventually("the monitor sees it", || {
        let labels = [("database", "app"), ("role", "replica"), ("reason", "no_replica")];
        metric(&howdah, "howdah_database_serves_nobody", &labels) == 1.0
    });
    let words = "no replica of database \"app\" is confirmed as one and can be reached";
    reads(words);
    told_of_role(&howdah, "replica", "no_replica", words);
    assert_eq!(get(&howdah, "/readyz/app").0, 200, "the primary serves");
}

/// Servers that are all standbys, as in the middle of a failover.
#[test]
fn a_database_without_a_primary_is_told_everywhere_in_the_same_words() {
    let Some(servers) = Replicated::start(MAJOR) else { return };
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         monitor_interval = \"200ms\"\nclient_login_timeout = \"600ms\"\n{TOP}\n[users.app]\n{BOSS}[databases.app]\n\
         host = [{}]\nrole = \"auto\"\npool_size = 2\nwhen_no_replica = \"error\"\n",
        servers.replica_hosts(),
    ));
    eligible(&howdah, 2);
    let words = "no server of database \"app\" is confirmed as its primary";
    told_to_the_client(&refusal(howdah.connect("app", "app")), words, "");
    told_everywhere(&howdah, "no_primary", words);
}

#[test]
fn a_pause_behind_the_failure_of_another_pool_is_told_everywhere() {
    let Some(mut cluster) = cluster(MAJOR, app_options()) else { return };
    let section =
        |wait| format!("pool_size = 2\nquery_wait_timeout = \"{wait}\"\nserver_login_retry = \"60s\"\n");
    let other =
        format!("[databases.other]\nhost = \"{}\"\ndbname = \"app\"\n{}", cluster.tcp(), section("7s"));
    let howdah = Howdah::start(&config(&cluster, TOP, &section("300ms"), &format!("{BOSS}{other}")));
    let mut client = harness::app(&howdah);
    let mut others = howdah.connect("app", "other").expect("it comes in");
    for c in [&mut client, &mut others] {
        c.query("SELECT 1").expect("an answer");
    }
    cluster.stop(Stop::Immediate).expect("it stops");
    eventually("its connections are seen to be gone", || metric(&howdah, "howdah_pool_servers", &[]) == 0.0);
    // Each attempt doubles the pause; the last one was at most 6.4 s after the first, and the next is 3.2 s behind that.
    let told = refusal(others.query("SELECT 1"));
    assert!(told.message.contains("cannot connect to the database server"), "{told:?}");
    let words = "cannot connect to the database server, and the next attempt comes after a pause";
    told_to_the_client(&refusal(client.query("SELECT 1")), words, "");
    told_everywhere(&howdah, "backoff", words);
}

/// Where the database has its own, nothing is in force by the word for all; where others have none, it is, and not there.
#[test]
fn a_set_that_is_not_in_force_everywhere_says_where_not() {
    let Some(cluster) = shared(MAJOR) else { return };
    let other = format!("{BOSS}[databases.other]\nhost = \"{}\"\ndbname = \"app\"\n", cluster.tcp());
    let howdah = Howdah::start(&config(cluster, &format!("{TOP}\npool_size = 3"), "pool_size = 2", &other));
    let mut boss = console(&howdah);
    let Some(said) = said_by_psql(&howdah, "SET pool_size = 9") else { return };
    assert!(said.contains("NOTICE:  pool_size is in force, but not everywhere"), "{said}");
    assert!(said.contains("These sections keep their own pool_size: databases.app."), "{said}");
    for (name, size) in [("app", "2"), ("other", "9")] {
        assert_eq!(row(&mut boss, "DATABASES", "name", name)["pool_size"], size, "{name}");
    }
}

#[test]
fn the_queue_time_of_statements_is_booked_behind_a_route() {
    let Some(cluster) = shared(MAJOR) else { return };
    let database = format!(
        "pool_size = 1\nslow_query_threshold = \"300ms\"\nwhen_no_replica = \"primary\"\n\
         defer_begin = true\n         [databases.app.replica]\nhost = \"{}\"\npool_size = 1",
        cluster.tcp()
    );
    let howdah = Howdah::start(&config(cluster, TOP, &database, BOSS));
    // With a BEGIN that is held back, and without.
    for (text, begin) in [("SELECT 'plain', n FROM (VALUES (1)) v(n)", ""), ("SELECT 2 AS begun", "BEGIN")] {
        let mut holder = harness::app(&howdah);
        holder.query("BEGIN; SELECT 1").expect("it holds the only connection");
        let mut waiter = harness::app(&howdah);
        if !begin.is_empty() {
            waiter.query(begin).expect("answered");
        }
        let waits = std::thread::spawn(move || waiter.query(text).map(drop));
        eventually("it waits", || metric(&howdah, "howdah_clients", &[("state", "waiting")]) == 1.0);
        std::thread::sleep(Duration::from_millis(400));
        holder.query("COMMIT").expect("it ends");
        waits.join().expect("it ends").expect("an answer");
        let of = |json: &Value| -> Option<f64> {
            let all = json["statements"].as_array()?;
            let word = if begin.is_empty() { "VALUES" } else { "AS begun" };
            all.iter().find(|s| s["text"].as_str().is_some_and(|t| t.contains(word)))?["queue_seconds"]
                .as_f64()
        };
        eventually("it is booked", || of(&get(&howdah, "/queries").1).is_some());
        let queue = of(&get(&howdah, "/queries").1).expect("booked");
        assert!((0.4..10.0).contains(&queue), "{text}: {queue} s");
        let slow = howdah.await_log("slow statement", Duration::from_secs(20));
        let ms = slow.split_once("queue_ms=").and_then(|(_, r)| r.split(' ').next()?.parse::<f64>().ok());
        assert!(ms.is_some_and(|ms| ms >= 400.0), "{slow}");
    }
}

#[test]
fn databases_of_a_pattern_are_counted_where_the_others_are() {
    let Some(cluster) = shared(MAJOR) else { return };
    let pattern =
        format!("[databases.\"*\"]\nhost = \"{}\"\ndbname = \"app\"\npool_size = 2\n{BOSS}", cluster.tcp());
    let top = format!("{TOP}\nstats_period = \"1s\"\nadvice_interval = \"1s\"");
    let howdah = Howdah::start(&config(cluster, &top, "pool_size = 2", &pattern));
    let mut client = howdah.connect("app", "guest").expect("a login");
    for _ in 0..50 {
        client.query("SELECT 1").expect("an answer");
    }
    eventually("the line of a period counts them", || {
        client.query("SELECT 1").expect("an answer");
        howdah.log().lines().any(|l| l.contains("xacts/s") && !l.contains("stats: 0 xacts/s"))
    });
    let mut boss = console(&howdah);
    for (what, column) in
        [("STATS", "total_xact_count"), ("STATS_TOTALS", "xact_count"), ("STATS_AVERAGES", "xact_count")]
    {
        let shown = row(&mut boss, what, "database", "guest");
        let n: u64 = shown[column].parse().expect("a number");
        assert!(what == "STATS_AVERAGES" || n >= 50, "{what}: {shown:?}");
    }
    let sum = row(&mut boss, "TOTALS", "name", "total_xact_count");
    assert!(sum["value"].parse::<u64>().is_ok_and(|n| n >= 50), "{sum:?}");
    assert_eq!(row(&mut boss, "DATABASES", "name", "guest")["database"], "app");
    assert_eq!(get(&howdah, "/readyz/guest").1["databases"][0]["state"], "connected");
    assert_eq!(get(&howdah, "/readyz/nobody_came").0, 404);
    let (_, stats) = get(&howdah, "/stats");
    let limits = stats["limits"].as_array().expect("a list");
    assert!(limits.iter().any(|l| l["name"] == "guest" && l["used"] == 1), "{limits:?}");
    eventually("it is examined", || {
        let text = harness::http(howdah.ops_address(), "/metrics");
        text.lines().any(|l| l.starts_with("howdah_advice_findings") && l.contains("database=\"guest\""))
    });
    // KILL of all is for them as well.
    boss.query("KILL").expect("it ends all");
    assert_eq!(row(&mut boss, "DATABASES", "name", "guest")["serves_nobody"], "killed");
}

#[test]
fn a_set_changes_what_is_in_force_or_says_what_does() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = Howdah::start(&config(cluster, TOP, "pool_size = 2", BOSS));
    let mut boss = console(&howdah);
    let refused = refusal(boss.query("SET pool_size = 9"));
    let detail = refused.detail.as_deref().unwrap_or_default();
    assert!(detail.contains("SET databases.app.pool_size = 9"), "{refused:?}");
    boss.query("SET databases.app.pool_size = 9").expect("it is in force");
    assert_eq!(row(&mut boss, "DATABASES", "name", "app")["pool_size"], "9");
    harness::app(&howdah).query("SELECT 1").expect("an answer");
    assert_eq!(row(&mut boss, "POOLS", "database", "app")["pool_size"], "9");
    for unknown in ["SET databases.nothing.pool_size = 9", "SET databases.app.no_such = 9", "SET x.y.z = 1"] {
        assert_eq!(refusal(boss.query(unknown)).code, "22023", "{unknown}");
    }
    // A setting that no section states is in force for all.
    boss.query("SET query_wait_timeout = '7s'").expect("it is in force");
    let (_, stats) = get(&howdah, "/stats");
    assert_eq!(stats["pools"][0]["settings"]["size"], 9, "{stats}");
}

#[test]
fn a_reload_tells_what_needs_a_restart() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = Howdah::start(&config(cluster, TOP, "pool_size = 2", BOSS));
    let mut boss = console(&howdah);
    boss.query("RELOAD").expect("nothing has changed");
    assert_eq!(metric(&howdah, "howdah_restart_needed", &[]), 0.0);
    let text = std::fs::read_to_string(howdah.config_path()).expect("the configuration");
    let port = harness::free_port().expect("a port");
    let other = text.replacen(&format!(":{}\"", howdah.port()), &format!(":{port}\""), 1);
    assert_ne!(text, other);
    std::fs::write(howdah.config_path(), &other).expect("written");
    // However often: the change is not in force yet.
    for _ in 0..2 {
        boss.query("RELOAD").expect("it reloads");
        assert_eq!(get(&howdah, "/stats").1["restart_needed"], serde_json::json!(["listen"]));
        assert_eq!(metric(&howdah, "howdah_restart_needed", &[]), 1.0);
    }
    howdah.await_log("listen has changed, which needs a restart", Duration::from_secs(20));
    if let Some(said) = said_by_psql(&howdah, "RELOAD") {
        assert!(said.contains("NOTICE") && said.contains("listen"), "{said}");
    }
    std::fs::write(howdah.config_path(), &text).expect("written");
    boss.query("RELOAD").expect("it reloads");
    assert_eq!(metric(&howdah, "howdah_restart_needed", &[]), 0.0);
}

#[test]
fn the_console_answers_what_tools_ask_first() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = Howdah::start(&config(cluster, TOP, "pool_size = 2", BOSS));
    for database in ["howdah", "pgbouncer"] {
        let mut boss = howdah.connect("boss", database).expect("an admin");
        assert_eq!(boss.value("SELECT 1").expect("an answer"), "1");
        let reply = boss.query("SHOW ROUTES app 'SELECT 1'").expect("an answer");
        assert_eq!(reply.rows.len(), 1, "{:?}", reply.rows);
        assert_eq!(reply.rows[0][3].as_deref(), Some("no replica is configured"));
        assert_eq!(reply.rows[0][4].as_deref(), Some("the primary"));
        let none = boss.query("SHOW ROUTES nothing 'SELECT 1'").expect("an answer");
        assert_eq!(none.rows[0][3].as_deref(), Some("no such database"));
    }
}
