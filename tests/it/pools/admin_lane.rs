//! The admin pool: what reports and operators do takes nothing from the application.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::proxy::Howdah;
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;
use crate::harness::wire::{Dsn, msg::sync};
use crate::harness::{
    self, Client, Cluster, Options, Target, app_options, cluster, count, eventually, metric,
};

/// Places of the application; four of five clients keep them busy to four fifths.
const PLACES: usize = 5;
const BUSY: usize = 4;
/// Places of the lane, and reports that want them.
const LANE: usize = 3;
const REPORTS: usize = 4;

fn howdah(cluster: &Cluster, more: &str) -> Howdah {
    let lane = format!(
        "[databases.app.admin]\npool_size = {LANE}\npool_mode = \"session\"\nquery_timeout = \"60s\"\n\
         on_connect = [\"SET work_mem = '256MB'\"]\n[users.reporter]\n[users.boss]\n{more}"
    );
    harness::start(cluster, "", &format!("pool_size = {PLACES}\nadmin_pool_users = [\"reporter\"]"), &lane)
}

fn client(address: SocketAddr, user: &str, options: &str) -> Client {
    let all = [("user", user), ("database", "app"), ("options", options)];
    Client::connect_with(&Target::Tcp(address), &all, Duration::from_secs(180)).expect("a login")
}

/// What the application sees while reports run: seconds that its clients have waited for a server, and how long
/// each of its transactions took, and when.
fn application(
    howdah: &Howdah,
    options: &'static str,
    reports: usize,
    length: Duration,
) -> (f64, Vec<(Duration, Duration)>) {
    let address = howdah.address();
    let wait = || metric(howdah, "howdah_pool_wait_seconds_sum", &[("user", "app"), ("role", "primary")]);
    let (end, warm) = (AtomicBool::new(false), std::sync::Barrier::new(BUSY + 1));
    std::thread::scope(|s| {
        let load: Vec<_> = (0..BUSY)
            .map(|_| {
                let (end, warm) = (&end, &warm);
                s.spawn(move || {
                    let mut c = client(address, "app", "");
                    // Every place is open before anything is measured.
                    c.query("SELECT pg_sleep(0.1)").expect("an answer");
                    warm.wait();
                    let (mut took, start) = (Vec::new(), Instant::now());
                    while !end.load(Ordering::Relaxed) {
                        let began = Instant::now();
                        c.query("SELECT pg_sleep(0.002)").expect("an answer");
                        took.push((began - start, began.elapsed()));
                    }
                    took
                })
            })
            .collect();
        warm.wait();
        let before = wait();
        let running: Vec<_> = (0..reports)
            .map(|_| {
                s.spawn(move || {
                    let mut c = client(address, "app", options);
                    c.query(&format!("SELECT pg_sleep({})", length.as_secs_f64())).expect("a report");
                })
            })
            .collect();
        std::thread::sleep(length);
        end.store(true, Ordering::Relaxed);
        let took = load.into_iter().flat_map(|l| l.join().expect("no panic")).collect();
        let waited = wait() - before;
        running.into_iter().for_each(|r| r.join().expect("the report"));
        (waited, took)
    })
}

const IN_LANE: &str = "-c howdah.role=admin";

#[test]
fn reports_that_hold_all_their_pool_cost_the_application_nothing() {
    let Some(cluster) = cluster(15, app_options()) else { return };
    let howdah = howdah(&cluster, "");
    let length = Duration::from_secs(1);
    let (waited, took) = application(&howdah, IN_LANE, REPORTS, length);
    println!("in their lane: {} transactions, {waited:.3} s of waiting", took.len());
    assert!(waited < 0.05, "the application waited for {waited} s");
    // A report beyond the lane's places waited there.
    let queued = metric(&howdah, "howdah_pool_wait_seconds_sum", &[("role", "admin")]);
    assert!(queued > 0.5, "{queued}");
    // Without the lane it is the application that waits.
    let (waited, took) = application(&howdah, "", REPORTS, length);
    println!("without: {} transactions, {waited:.3} s of waiting", took.len());
    assert!(waited > 0.5, "only {waited} s");
}

fn p99(mut took: Vec<Duration>) -> f64 {
    took.sort_unstable();
    took.get(took.len() * 99 / 100).map_or(f64::NAN, |d| d.as_secs_f64() * 1000.0)
}

/// Prints the application's p99 with its spread over several windows: alone, beside reports that hold their lane for a
/// minute, beside the same reports without it.
#[test]
#[ignore = "long"]
fn reports_leave_the_applications_p99_where_it_was_soak() {
    let Some(cluster) = cluster(15, app_options()) else { return };
    let howdah = howdah(&cluster, "");
    let run = |name: &str, options, reports, seconds: u64| {
        let (_, took) = application(&howdah, options, reports, Duration::from_secs(seconds));
        let window = |n: u64| {
            let of = |at: &Duration| at.as_secs() / 10 == n;
            p99(took.iter().filter(|(at, _)| of(at)).map(|(_, d)| *d).collect())
        };
        let mut all: Vec<f64> = (0..seconds / 10).map(window).collect();
        all.sort_by(f64::total_cmp);
        let (least, middle, most) = (all[0], all[all.len() / 2], all[all.len() - 1]);
        println!("{name}: p99 {middle:.2} ms (from {least:.2} to {most:.2}, windows of 10 s)");
        (middle, most)
    };
    let alone = run("alone", IN_LANE, 0, 30);
    let lane = run("reports in their lane", IN_LANE, REPORTS, 58);
    let without = run("reports without it", "", REPORTS, 58);
    assert!(lane.0 <= alone.1 * 1.5 + 1.0, "{lane:?} against {alone:?}");
    assert!(without.0 > alone.1 * 1.5 + 1.0, "without the lane nothing happens: {without:?}");
}

#[test]
fn the_lane_has_its_own_size_mode_timeouts_and_settings() {
    let options = app_options().sql("CREATE ROLE reporter LOGIN").sql("CREATE ROLE boss LOGIN");
    let Some(cluster) = cluster(15, options) else { return };
    // By another database, too.
    let alias = format!(
        "[databases.reports]\nhost = \"{}\"\ndbname = \"app\"\npool_size = 1\nroute = \"admin\"\n\
         [databases.reports.admin]\npool_size = 2\non_connect = [\"SET work_mem = '64MB'\"]\n",
        cluster.tcp()
    );
    let howdah = howdah(&cluster, &alias);
    let mut by_alias = howdah.connect("app", "reports").expect("a login");
    assert_eq!(by_alias.value("SHOW work_mem").expect("a value"), "64MB");
    let mut report = client(howdah.address(), "reporter", "");
    assert_eq!(report.value("SHOW work_mem").expect("a value"), "256MB");
    // In session mode its state stays, in the application's pool it does not.
    report.query("CREATE TEMPORARY TABLE mine (n int)").expect("a table");
    assert_eq!(report.value("SELECT count(*) FROM mine").expect("it is there"), "0");
    report.query("PREPARE p AS SELECT 7").expect("prepared");
    assert_eq!(report.value("EXECUTE p").expect("it is there"), "7");
    let mut app = client(howdah.address(), "app", "");
    assert_eq!(app.value("SHOW work_mem").expect("a value"), "4MB");
    let lane = |name: &str| metric(&howdah, name, &[("user", "reporter"), ("role", "admin")]);
    assert!((lane("howdah_pool_size") - LANE as f64).abs() < 0.1);
    assert!(lane("howdah_pool_wait_seconds_count") > 0.0);
    report.close().expect("gone");

    // Its mode holds from the first message on: what another client has prepared is not taken for prepared here.
    let prepare = [msg::parse("s", "SELECT 8", &[]), sync()].concat();
    let run = [msg::bind("", "s", &[], &[], &[]), msg::execute("", 0), sync()].concat();
    for user in ["app", "reporter"] {
        let mut c = Raw::login(&Dsn::local(howdah.port(), user, "app"));
        c.ask(&prepare);
        let answer = c.ask(&run);
        assert!(answer.iter().all(|f| f.tag != b'E'), "{user}: {}", harness::wire::raw::tags(&answer));
    }
}

/// Where all places but the reserved ones are taken on the server, the operator still comes in.
#[test]
fn the_operator_gets_a_place_that_the_server_has_reserved() {
    let options = Options::default()
        .setting("max_connections", "12")
        .setting("superuser_reserved_connections", "2")
        .setting("reserved_connections", "3")
        .sql("CREATE ROLE app LOGIN")
        .sql("CREATE DATABASE app OWNER app")
        .sql("CREATE ROLE boss LOGIN IN ROLE pg_use_reserved_connections");
    let Some(cluster) = cluster(18, options) else { return };
    let howdah = howdah(&cluster, "");
    // A welcome is known before the server is full.
    client(howdah.address(), "app", "").query("SELECT 1").expect("an answer");
    client(howdah.address(), "boss", IN_LANE).query("SELECT 1").expect("an answer");
    let mut others = Vec::new();
    while let Ok(c) = cluster.connect("app", "app") {
        others.push(c);
    }
    eventually("a full server", || count(&cluster, "backend_type = 'client backend'") >= 7);
    let mut boss = [0, 1].map(|_| client(howdah.address(), "boss", IN_LANE));
    for c in &mut boss {
        c.query("BEGIN").expect("a place that is reserved");
    }
    assert!(cluster.connect("app", "app").is_err(), "it is full for everybody else");
    drop(others);
}
