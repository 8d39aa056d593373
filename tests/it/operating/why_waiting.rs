//! Why a client waits, told by everything that can tell it; what was forgotten; whether a database is known to be out
//! of reach; who may ask.

use std::time::Duration;

use crate::harness::exposition::Exposition;
use crate::harness::ops_port::{get_with, json, scrape};
use crate::harness::proxy::Howdah;
use crate::harness::{self, Cluster, Stop, app_options, cluster, eventually, shared};
use serde_json::Value;

const MAJOR: u32 = 15;
const POOL: [(&str, &str); 3] = [("database", "app"), ("user", "app"), ("role", "primary")];
const LONG: Duration = Duration::from_secs(20);

fn howdah_before(cluster: &Cluster, global: &str, database: &str) -> Howdah {
    Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         {global}\n[users.app]\n[databases.app]\nhost = \"{}\"\n{database}\n",
        cluster.tcp()
    ))
}

#[test]
fn an_exhausted_pool_is_explained_by_all_that_tells() {
    let Some(cluster) = shared(MAJOR) else { return };
    let global = "admin_users = [\"app\"]";
    let howdah = howdah_before(cluster, global, "pool_size = 1\nquery_wait_timeout = \"3s\"");
    let mut holder = howdah.connect("app", "app").expect("a login");
    holder.query("SET application_name = 'forgetful'").expect("an answer");
    holder.query("BEGIN").expect("an answer");
    holder.query("SELECT 42").expect("an answer");
    let number = holder.cancel_key().0;
    let named = format!("client {number} of user app");

    let mut waiter = howdah.connect("app", "app").expect("a login");
    let error = waiter.query("SELECT 1").expect_err("a timeout");
    let text = format!("{error:?}");
    assert!(text.contains(&named), "the error's DETAIL: {text}");

    let held = json(&howdah, "/stats")["holders"][0].clone();
    assert_eq!(held["client"], number, "{held}");
    assert_eq!(held["state"], "idle in transaction");
    assert_eq!(held["statement"], "SELECT ?");
    assert_eq!(held["application"], "forgetful");
    assert!(held["waiter_seconds"].as_f64() > Some(1.0), "{held}");
    assert!(held["held_seconds"].as_f64() >= held["state_seconds"].as_f64());
    let mut console = howdah.connect("app", "howdah").expect("a login");
    let shown = console.query("SHOW HOLDERS").expect("an answer");
    assert_eq!(shown.rows.len(), 1, "{shown:?}");
    let row: Vec<&str> = shown.rows[0].iter().flatten().map(String::as_str).collect();
    let number_text = number.to_string();
    for part in ["app", number_text.as_str(), "forgetful", "idle in transaction", "SELECT ?"] {
        assert!(row.contains(&part), "SHOW HOLDERS: {part}: {row:?}");
    }
    // The server process that is held is the one that the server knows.
    let pid = held["server_pid"].as_i64().expect("a process");
    let idle = harness::count(cluster, &format!("pid = {pid} AND state = 'idle in transaction'"));
    assert_eq!(idle, 1);

    let line = howdah.await_log("query_wait_timeout", LONG);
    for part in [named.as_str(), "forgetful", "waiter-seconds", "SELECT ?"] {
        assert!(line.contains(part), "the log: {part}: {line}");
    }
    let events = json(&howdah, "/stats")["recent_events"].clone();
    let all = events.as_array().expect("an array").iter();
    let told: Vec<_> = all.filter(|e| e["text"].as_str().is_some_and(|t| t.contains(&named))).collect();
    assert!(told.iter().any(|e| e["kind"] == "query_wait_timeout"), "{events}");
    assert!(told.iter().any(|e| e["kind"] == "exhausted"), "{events}");
    eventually("nobody waits", || {
        // It may be told before what its last waiter is told.
        let events = json(&howdah, "/stats")["recent_events"].clone();
        events.as_array().is_some_and(|all| all.iter().any(|e| e["kind"] == "recovered"))
    });
    assert_eq!(scrape(&howdah).value("howdah_pool_exhausted_total", &POOL), Some(1.0));
}

/// A crowd that waits in vain makes one line of the log, with the number of the others counted.
#[test]
fn a_crowd_is_told_once() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = howdah_before(cluster, "", "pool_size = 1\nquery_wait_timeout = \"500ms\"");
    let mut holder = howdah.connect("app", "app").expect("a login");
    holder.query("BEGIN").expect("an answer");
    let crowd: Vec<_> = (0..20).map(|_| howdah.connect("app", "app").expect("a login")).collect();
    let waiting: Vec<_> =
        crowd.into_iter().map(|mut c| std::thread::spawn(move || c.query("SELECT 1").is_err())).collect();
    assert!(waiting.into_iter().all(|w| w.join().expect("no panic")));
    let suppressed = scrape(&howdah)
        .value("howdah_log_suppressed_total", &[("event", "query_wait_timeout")])
        .expect("it is exported");
    let told = || {
        let log = howdah.log();
        log.lines().filter(|l| l.contains("query_wait_timeout") && l.contains("holders=")).count()
    };
    eventually("the log has the others", || told() as f64 + suppressed == 20.0);
    assert!(suppressed >= 10.0, "{suppressed} of 20");
    assert_eq!(scrape(&howdah).value("howdah_wait_timeouts_total", &POOL), Some(20.0));
}

#[test]
fn a_transaction_that_is_left_open_is_reported_and_ended_where_that_is_wanted() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = howdah_before(cluster, "leak_threshold = \"400ms\"", "pool_size = 2");
    let mut client = howdah.connect("app", "app").expect("a login");
    client.query("BEGIN").expect("an answer");
    let line = howdah.await_log("leak_threshold", LONG);
    assert!(line.contains("action=\"reported\"") || line.contains("action=reported"), "{line}");
    let leaking = |h: &Howdah| scrape(h).value("howdah_pool_leaking_transactions", &POOL);
    eventually("the gauge says so", || leaking(&howdah) == Some(1.0));
    client.query("COMMIT").expect("it was only reported");
    eventually("it is over", || leaking(&howdah) == Some(0.0));

    let ending = howdah_before(cluster, "leak_threshold = \"2s\"\nleak_action = \"end\"", "pool_size = 2");
    let mut busy = ending.connect("app", "app").expect("a login");
    busy.query("BEGIN").expect("an answer");
    busy.query("SELECT pg_sleep(3)").expect("what runs is no leak");
    busy.query("COMMIT").expect("an answer");
    let mut client = ending.connect("app", "app").expect("a login");
    client.query("BEGIN").expect("an answer");
    ending.await_log("leak_threshold", LONG);
    let ended = &[("action", "ended")];
    eventually("it is counted", || {
        scrape(&ending).value("howdah_transaction_leaks_total", ended) == Some(1.0)
    });
    eventually("its client is told", || client.query("SELECT 1").is_err());
    assert_eq!(scrape(&ending).value("howdah_errors_total", &[("code", "leak_threshold")]), Some(1.0));
    busy.query("SELECT 1").expect("the other one goes on");
}

/// After a load with clients that leave in the middle nothing is leaked, as Howdah and the server count.
#[test]
fn nothing_is_leaked_after_a_load() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = howdah_before(&cluster, "", "pool_size = 4");
    let load: Vec<_> = (0..6)
        .map(|n| {
            let mut clients: Vec<_> =
                (0..5).map(|_| howdah.connect("app", "app").expect("a login")).collect();
            std::thread::spawn(move || {
                for (i, mut c) in clients.drain(..).enumerate() {
                    c.query("BEGIN").expect("an answer");
                    c.query("SELECT 1").expect("an answer");
                    // The others leave in the middle of their transactions.
                    if (i + n) % 2 == 0 {
                        c.query("COMMIT").expect("an answer");
                    }
                }
            })
        })
        .collect();
    for thread in load {
        thread.join().expect("no panic");
    }
    let servers = |state| {
        let labels = [POOL[0], POOL[1], POOL[2], ("state", state)];
        scrape(&howdah).value("howdah_pool_servers", &labels).unwrap_or(0.0)
    };
    eventually("all is idle", || servers("active") + servers("repairing") + servers("closing") == 0.0);
    // What a client has left in the middle may be closed after that.
    eventually("the server counts as many", || {
        harness::connections(&cluster, "app") as f64 == servers("idle")
    });
    let e = scrape(&howdah);
    for kind in ["lease", "socket"] {
        assert_eq!(e.value("howdah_leaked_connections", &[("kind", kind)]), Some(0.0), "{kind}");
    }
}

#[test]
fn a_database_out_of_reach_is_told_with_its_reason_and_age() {
    let Some(mut cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = howdah_before(&cluster, "", "pool_size = 2\nquery_wait_timeout = \"500ms\"");
    let ready = json(&howdah, "/readyz/app");
    assert_eq!(
        (ready["ready"].as_bool(), ready["databases"][0]["state"].as_str()),
        (Some(true), Some("unknown"))
    );
    let mut client = howdah.connect("app", "app").expect("a login");
    client.query("SELECT 1").expect("an answer");
    assert_eq!(json(&howdah, "/readyz/app/primary")["databases"][0]["state"], "connected");

    cluster.stop(Stop::Immediate).expect("it stops");
    let mut told = Value::Null;
    eventually("the pools know", || {
        let _ = client.query("SELECT 1");
        if let Ok(c) = howdah.connect("app", "app") {
            client = c;
        }
        let (status, body) = get_with(&howdah, "/readyz/app", "");
        told = serde_json::from_str(&body).expect("JSON");
        status == 503
    });
    let seen = &told["databases"][0];
    assert_eq!(
        (seen["state"].as_str(), seen["code"].as_str()),
        (Some("failing"), Some("server_unreachable")),
        "{told}"
    );
    assert!(seen["reason"].as_str().is_some_and(|r| !r.is_empty()), "{told}");
    assert!(seen["age_seconds"].as_f64().is_some_and(|a| (0.0..60.0).contains(&a)), "{told}");
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get_with(&howdah, path, "").0, 200, "{path}");
    }
}

#[test]
fn what_ready_requires_widens_the_plain_answer() {
    let Some(mut cluster) = cluster(MAJOR, app_options()) else { return };
    cluster.stop(Stop::Immediate).expect("it stops");
    let howdah =
        howdah_before(&cluster, "ready_requires = [\"app/primary\"]", "pool_size = 2\nmin_pool_size = 1");
    eventually("it is not ready", || get_with(&howdah, "/readyz", "").0 == 503);
    assert!(json(&howdah, "/readyz")["reason"].as_str().is_some_and(|r| r.contains("app")));
    assert_eq!(get_with(&howdah, "/healthz", "").0, 200);
    cluster.start().expect("it starts");
    eventually("it is ready again", || get_with(&howdah, "/readyz", "").0 == 200);
}

#[test]
fn a_token_is_asked_for_what_tells_of_clients_and_statements() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = howdah_before(cluster, "ops_token = \"t0ken\"", "pool_size = 2");
    for path in ["/", "/stats", "/queries"] {
        assert_eq!(get_with(&howdah, path, "").0, 401, "{path}");
        assert_eq!(get_with(&howdah, path, "Authorization: Bearer wrong\r\n").0, 401, "{path}");
        assert_eq!(get_with(&howdah, path, "Authorization: Bearer t0ken\r\n").0, 200, "{path}");
    }
    for path in ["/metrics", "/healthz", "/readyz", "/readyz/app"] {
        assert_eq!(get_with(&howdah, path, "").0, 200, "{path}");
    }
}

#[test]
fn the_names_of_the_exporter_are_there_where_they_are_wanted() {
    let Some(cluster) = shared(MAJOR) else { return };
    let plain = howdah_before(cluster, "", "pool_size = 2");
    assert!(!get_with(&plain, "/metrics", "").1.contains("pgbouncer_"));
    let howdah = howdah_before(cluster, "pgbouncer_exporter_metrics = true", "pool_size = 2");
    let mut client = howdah.connect("app", "app").expect("a login");
    for _ in 0..5 {
        client.query("SELECT 1").expect("an answer");
    }
    let total = |e: &Exposition| {
        e.value("pgbouncer_stats_totals_sql_transactions_pooled_total", &[("database", "app")])
    };
    eventually("all is booked", || total(&scrape(&howdah)) == Some(5.0));
    let e = scrape(&howdah);
    assert_eq!(e.value("howdah_transactions_total", &POOL), Some(5.0));
    assert_eq!(e.value("pgbouncer_stats_totals_queries_pooled_total", &[("database", "app")]), Some(5.0));
    let pool = [POOL[0], POOL[1]];
    assert_eq!(e.value("pgbouncer_pools_server_idle_connections", &pool), Some(1.0));
    assert_eq!(e.value("pgbouncer_up", &[]), Some(1.0));
}
