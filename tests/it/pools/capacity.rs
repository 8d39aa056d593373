//! The case that Howdah comes from: five instances, one server with 100 connections, and nobody who added it up.

use std::net::SocketAddr;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::proxy::Howdah;
use crate::harness::{
    self, Client, Cluster, Options, SUPERUSER, Target, app, app_options, cluster, config, connections,
    eventually, free_port, metric, program,
};

const MAJOR: u32 = 15;

/// As PostgreSQL comes: 100 connections, 3 of them for superusers.
fn hundred() -> Options {
    Options::default()
        .setting("max_connections", "100")
        .sql("CREATE ROLE app LOGIN")
        .sql("CREATE DATABASE app OWNER app")
}

fn alter(cluster: &Cluster, sql: &str) {
    let mut client = cluster.connect(SUPERUSER, SUPERUSER).expect("a login");
    client.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

fn five(cluster: &Cluster, database: &str) -> String {
    config(cluster, "instances = 5", database, "")
}

/// A configuration that does not serve: what it says, and its exit code.
fn refused(config: &str) -> String {
    let mut howdah = Howdah::spawn(config, &[]);
    let status = howdah.wait(Duration::from_secs(20));
    // Its last line; what came before it is there then.
    howdah.await_log("serves nevertheless", Duration::from_secs(20));
    assert_eq!(status.code(), Some(1), "{}", howdah.log());
    howdah.log()
}

fn plan(config: &str) -> (Option<i32>, String) {
    let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
    let (port, ops) = (free_port().expect("a port"), free_port().expect("a port"));
    let config = config.replace("{port}", &port.to_string()).replace("{ops_port}", &ops.to_string());
    std::fs::write(file.path(), config).expect("written");
    let Output { status, stdout, stderr } = program().arg("plan").arg(file.path()).output().expect("it runs");
    assert!(stderr.is_empty(), "{}", String::from_utf8_lossy(&stderr));
    (status.code(), String::from_utf8(stdout).expect("UTF-8"))
}

/// Who has connections of a server, and who may be the reason that the pools have no room, is in /stats as of the last
/// check, with its age.
#[test]
fn the_stats_tell_who_has_connections_of_a_server() {
    let Some(cluster) = cluster(MAJOR, hundred()) else { return };
    let howdah =
        Howdah::start(&config(&cluster, "instances = 1\ncapacity_interval = \"200ms\"", "pool_size = 3", ""));
    let said = || {
        let text = harness::http(howdah.ops_address(), "/stats");
        let stats: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        stats["hosts"][0]["capacity"].clone()
    };
    let of = |role: &str, database: &str| {
        let said = said();
        let all = said["backends"].as_array().expect("a list").clone();
        all.iter()
            .find(|b| b["role"] == role && b["database"] == database)
            .map_or(0, |b| b["connections"].as_u64().expect("a number"))
    };
    assert_eq!(said()["max_connections"], 100);
    assert_eq!(of("app", "app"), 0, "the question does not count itself");
    let others: Vec<_> = (0..4).map(|_| cluster.connect(SUPERUSER, SUPERUSER).expect("a place")).collect();
    let mut client = app(&howdah);
    client.query("BEGIN").expect("a server");
    eventually("everybody is there", || (of(SUPERUSER, SUPERUSER), of("app", "app")) == (4, 1));
    assert_eq!(said()["backends"][0]["role"], SUPERUSER, "most first");
    drop(others);
    eventually("they are gone", || of(SUPERUSER, SUPERUSER) == 0);

    howdah.rewrite_config(&config(&cluster, "instances = 1\ncapacity_interval = \"0\"", "pool_size = 3", ""));
    howdah.hup();
    howdah.await_log("configuration reloaded", Duration::from_secs(20));
    let age = || said()["age_seconds"].as_f64().expect("a number");
    eventually("it says how old it is", || age() > 0.6);
}

#[test]
fn the_origins_sizes_are_refused_with_the_sum_and_the_derived_ones_start() {
    let Some(cluster) = cluster(MAJOR, hundred()) else { return };
    for size in [16, 20, 25, 30, 50] {
        let log = refused(&five(&cluster, &format!("pool_size = {size}\nreserve_pool_size = 5")));
        let sum = (size + 5 + 1) * 5;
        for part in [
            format!("5 instances can open {sum} server connections, and the server has 97 for them"),
            format!("pool_size {size} + reserve_pool_size 5 = {}", size + 5),
            "smaller pools: 18 connections".to_owned(),
            format!("larger max_connections: {}", sum + 3),
        ] {
            assert!(log.contains(&part), "no {part:?} in\n{log}");
        }
    }
    let load = "pool_size = 16\nreserve_pool_size = 5\nexpected_tps = 1000\nexpected_duration = \"5ms\"";
    let (code, text) = plan(&five(&cluster, load));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("pool_size = 9, reserve_pool_size = 5"), "{text}");
    // Who has connections now, by role and database.
    let reader = cluster.connect(SUPERUSER, "app").expect("a direct session");
    eventually("it alone", || {
        plan(&five(&cluster, load)).1.contains("     In use now: 1 (postgres in app 1).\n")
    });
    drop(reader);
    let derived = five(&cluster, "pool_size = 9\nreserve_pool_size = 5\nmin_pool_size = 9");
    assert_eq!(plan(&derived).0, Some(0));
    let five: Vec<Howdah> = (0..5).map(|_| Howdah::start(&derived)).collect();
    for howdah in &five {
        assert_eq!(app(howdah).value("SELECT 1").expect("an answer"), "1");
        howdah.await_log("minimum open", Duration::from_secs(10));
    }
    // The connections that asked may still be ending.
    eventually("the minimums, and nothing else", || connections(&cluster, "app") == 45);
}

#[test]
fn what_does_not_fit_only_warns_where_that_is_said() {
    let Some(cluster) = cluster(MAJOR, hundred()) else { return };
    let text = config(&cluster, "instances = 5\ncapacity_check = \"warn\"", "pool_size = 50", "");
    let howdah = Howdah::start(&text);
    assert_eq!(app(&howdah).value("SELECT 1").expect("an answer"), "1");
    howdah.await_log("5 instances can open 255", Duration::from_secs(10));
    assert_eq!(metric(&howdah, "howdah_capacity_checks_total", &[("outcome", "too_large")]), 1.0);
}

#[test]
fn a_reload_that_does_not_fit_leaves_everything_as_it_was() {
    let Some(cluster) = cluster(MAJOR, hundred()) else { return };
    let howdah = Howdah::start(&five(&cluster, "pool_size = 10"));
    howdah.rewrite_config(&five(&cluster, "pool_size = 30"));
    howdah.hup();
    howdah.await_log("configuration not reloaded", Duration::from_secs(10));
    assert_eq!(metric(&howdah, "howdah_reload_failures_total", &[]), 1.0);
    app(&howdah).query("SELECT 1").expect("an answer");
    assert_eq!(metric(&howdah, "howdah_pool_size", &[]), 10.0);
    howdah.rewrite_config(&five(&cluster, "pool_size = 12"));
    howdah.hup();
    howdah.await_log("configuration reloaded", Duration::from_secs(10));
    assert_eq!(metric(&howdah, "howdah_pool_size", &[]), 12.0);
}

#[test]
fn the_limits_of_roles_and_databases_count() {
    let Some(cluster) = cluster(MAJOR, app_options().sql("ALTER ROLE app CONNECTION LIMIT 20")) else {
        return;
    };
    assert!(refused(&five(&cluster, "pool_size = 5")).contains("role app, whose CONNECTION LIMIT is 20"));
    alter(&cluster, "ALTER ROLE app CONNECTION LIMIT -1");
    alter(&cluster, "ALTER DATABASE app CONNECTION LIMIT 24");
    assert!(refused(&five(&cluster, "pool_size = 5")).contains("database app, whose CONNECTION LIMIT is 24"));
    alter(&cluster, "ALTER DATABASE app CONNECTION LIMIT 25");
    drop(Howdah::start(&five(&cluster, "pool_size = 5")));
}

/// A server that is not there: said, and governed by a setting.
#[test]
fn a_server_that_cannot_be_asked() {
    let dead = free_port().expect("a port");
    let text = |top: &str| {
        format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
             instances = 5\n{top}\n[users.app]\n[databases.app]\nhost = \"127.0.0.1:{dead}\"\npool_size = 3\n\
             min_pool_size = 1\n"
        )
    };
    let log = refused(&text("startup_requires_server = true"));
    assert!(log.contains("could not be asked"), "{log}");
    let howdah = Howdah::start(&text(""));
    howdah.await_log("serving nevertheless", Duration::from_secs(20));
    let (code, out) = plan(&text(""));
    assert_eq!(code, Some(0), "{out}");
    assert!(out.contains("could not be asked") && out.contains("5 instances: 20"), "{out}");
}

/// The server comes back smaller: nothing stops, but no more is opened than fits.
#[test]
fn pools_are_capped_when_the_server_has_become_smaller() {
    let Some(mut cluster) = cluster(MAJOR, hundred()) else { return };
    let top = "instances = 5\ncapacity_interval = \"200ms\"";
    let howdah = Howdah::start(&config(&cluster, top, "pool_size = 15", ""));
    alter(&cluster, "ALTER SYSTEM SET max_connections = 33");
    cluster.restart(harness::Stop::Fast).expect("a restart");
    howdah.await_log("capped to what fits", Duration::from_secs(20));
    assert!(metric(&howdah, "howdah_capacity_caps_total", &[]) >= 1.0);
    // (33 - 3) / 5 - 1: five, whatever the pool's size says.
    let mut held: Vec<_> = (0..5).map(|_| app(&howdah)).collect();
    held.iter_mut().for_each(|c| drop(c.query("BEGIN").expect("a server")));
    let waiter = std::thread::spawn({
        let mut sixth = app(&howdah);
        move || sixth.value("SELECT 1")
    });
    eventually("the sixth waits", || metric(&howdah, "howdah_pool_waiting_clients", &[]) == 1.0);
    assert_eq!(connections(&cluster, "app"), 5);
    drop(held);
    assert_eq!(waiter.join().expect("no panic").expect("an answer"), "1");
}

#[test]
fn load_that_cannot_be_served_in_time_is_refused_at_once() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let shed = "pool_size = 1\nquery_wait_timeout = \"8s\"\nshed_load = true";
    let howdah = harness::start(&cluster, "", shed, "");
    let mut holder = app(&howdah);
    // Everybody is logged in before a transaction of three seconds is the shortest that is known.
    let mut clients: Vec<Client> = (0..4).map(|_| app(&howdah)).collect();
    holder.query("SELECT pg_sleep(3)").expect("an answer");
    holder.query("BEGIN").expect("a server");
    let mut last = clients.pop().expect("four");
    let waiters: Vec<_> =
        clients.into_iter().map(|mut c| std::thread::spawn(move || c.query("SELECT 1").map(drop))).collect();
    eventually("three wait", || metric(&howdah, "howdah_pool_waiting_clients", &[]) == 3.0);
    // Three rounds of three seconds are more than eight.
    let refused = harness::refusal(last.query("SELECT 1"));
    assert_eq!((refused.severity.as_str(), refused.code.as_str()), ("ERROR", "53300"));
    let detail = refused.detail.unwrap_or_default();
    assert!(detail.contains("query_wait_timeout is 8.000 s"), "{detail}");
    assert_eq!(metric(&howdah, "howdah_errors_total", &[("code", "load_shed")]), 1.0);
    assert_eq!(metric(&howdah, "howdah_pool_waiting_clients", &[]), 3.0, "it left the queue");
    holder.query("COMMIT").expect("it");
    for w in waiters {
        w.join().expect("no panic").expect("those who could be served are");
    }
    last.query("SELECT 1").expect("its session goes on");
}

/// What a load came to.
#[derive(Debug)]
struct Load {
    done: usize,
    failed: u64,
    seconds: f64,
    p95: Duration,
}

/// Transactions of 5 ms of server time: on a schedule of `rate` a second whoever is late (latencies count from the
/// schedule), or one after the other from each client.
fn load(addresses: &[SocketAddr], clients: usize, rate: Option<u32>, total: u64) -> Load {
    let (next, failed) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let connected: Vec<Client> = (0..clients)
        .map(|i| {
            Client::connect(&Target::Tcp(addresses[i % addresses.len()]), "app", "app").expect("a login")
        })
        .collect();
    let began = Instant::now();
    let threads: Vec<_> = connected
        .into_iter()
        .map(|mut client| {
            let (next, failed) = (next.clone(), failed.clone());
            let work = move || {
                let mut took = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= total {
                        return took;
                    }
                    let due = rate.map_or_else(Instant::now, |r| {
                        began + Duration::from_secs_f64(n as f64 / f64::from(r))
                    });
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    match client.query("SELECT pg_sleep(0.005)") {
                        Ok(_) => took.push(due.elapsed()),
                        Err(_) => drop(failed.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            };
            std::thread::Builder::new().stack_size(256 << 10).spawn(work).expect("a thread")
        })
        .collect();
    let mut took: Vec<Duration> = threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect();
    took.sort_unstable();
    Load {
        done: took.len(),
        failed: failed.load(Ordering::Relaxed),
        seconds: began.elapsed().as_secs_f64(),
        p95: took.get(took.len() * 95 / 100).copied().unwrap_or_default(),
    }
}

const ORIGIN: &str = "another machine's: pool 10: 2,404 rps, p95 990 ms, 88 % timeouts; pool 20: 4,370, 978 ms, 80 %; \
                      pool 30: 6,363, 993 ms, 74 %; pool 50 at 500 clients: 4,077, 994 ms, 85 %";

/// Five instances with derived sizes under the origin's load; prints the table, asserts that nothing was lost.
fn origin(clients: &[usize], seconds: u64) {
    let Some(cluster) = cluster(MAJOR, hundred()) else { return };
    let text = five(&cluster, "pool_size = 14\nmin_pool_size = 14\nquery_wait_timeout = \"10s\"");
    let five: Vec<Howdah> = (0..5).map(|_| Howdah::start(&text)).collect();
    let addresses: Vec<SocketAddr> = five.iter().map(Howdah::address).collect();
    println!("load    clients  transactions  per second  p95 ms  failed  busy %");
    for (name, rate) in [("open", Some(1000)), ("closed", None)] {
        for n in clients {
            let busy =
                || five.iter().map(|h| metric(h, "howdah_pool_transaction_seconds_sum", &[])).sum::<f64>();
            let (before, total) = (busy(), 1000 * seconds);
            let l = load(&addresses, *n, rate, total);
            println!(
                "{name:<6}  {n:>7}  {:>12}  {:>10.0}  {:>6.1}  {:>6}  {:>6.1}",
                l.done,
                l.done as f64 / l.seconds,
                l.p95.as_secs_f64() * 1e3,
                l.failed,
                (busy() - before) * 100.0 / (l.seconds * 70.0),
            );
            assert_eq!((l.done as u64, l.failed), (total, 0), "{name}, {n} clients");
        }
    }
    println!("origin  {ORIGIN}");
    assert!(five.iter().all(|h| metric(h, "howdah_wait_timeouts_total", &[]) == 0.0));
}

#[test]
fn the_origins_load_meets_no_timeout() {
    origin(&[50, 500], 1);
}

#[test]
#[ignore = "minutes, and ten thousand sockets"]
fn soak_the_origins_load_meets_no_timeout() {
    origin(&[50, 500], 30);
    origin(&[10_000], 30);
}

#[test]
fn a_size_that_moves_is_seen_and_stays_within_its_bounds() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let database = |size: u32| format!("size = \"auto\"\npool_size = {size}");
    let howdah = Howdah::start(&config(&cluster, "admin_users = [\"app\"]", &database(6), ""));
    let size = || metric(&howdah, "howdah_pool_effective_size", &[("database", "app")]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Ends the clients also where an assertion fails.
        struct Stop<'a>(&'a std::sync::atomic::AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let ends = Stop(&stop);
        for _ in 0..12 {
            scope.spawn(|| {
                let mut client = app(&howdah);
                while !stop.load(Ordering::Relaxed) {
                    client.query("SELECT pg_sleep(0.003)").expect("an answer");
                }
            });
        }
        eventually("it begins at its lower bound", || size() >= 1.0);
        howdah.await_log("reason=\"faster\"", Duration::from_secs(30));
        eventually("it has grown", || size() > 1.0);
        assert!(metric(&howdah, "howdah_pool_size_decisions_total", &[("reason", "faster")]) >= 1.0);
        let stats: serde_json::Value =
            serde_json::from_str(&harness::http(howdah.ops_address(), "/stats")).expect("JSON");
        let pool = &stats["pools"][0];
        assert!(pool["last_size_decision"].as_str().is_some_and(|d| d.starts_with("size ")), "{pool}");
        assert_eq!(pool["settings"]["size"], 6);
        let mut console = howdah.connect("app", "howdah").expect("the console");
        let row = console.query("SHOW POOLS").expect("rows");
        let at = row.columns.iter().position(|c| c == "effective_size").expect("a column");
        let shown = row.rows.iter().filter_map(|r| r[at].clone()).find_map(|n| n.parse::<u64>().ok());
        assert!(shown.is_some_and(|n| n <= 6), "{shown:?}");
        assert!(connections(&cluster, "app") <= 6);

        // Less at most: what is too many ends with its transaction, and no client hears of it.
        howdah.rewrite_config(&config(&cluster, "admin_users = [\"app\"]", &database(1), ""));
        howdah.hup();
        eventually("no more than the new bound", || size() == 1.0 && connections(&cluster, "app") == 1);
        drop(ends);
    });
}
