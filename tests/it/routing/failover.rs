//! The primary is lost and another one takes its place, under load.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::harness::proxy::Howdah;
use crate::harness::replicas::{Replicated, eligible};
use crate::harness::{self, Client, Cluster, Stop, Target, app_options, eventually, metric};

const WRITERS: usize = 4;

/// One attempt of a client that inserts its nonces.
struct Attempt {
    nonce: String,
    acknowledged: bool,
    ended: Instant,
}

/// Inserts one unique nonce per transaction, and connects again whenever that fails.
fn insert(address: SocketAddr, writer: usize, end: &AtomicBool, attempts: &Mutex<Vec<Attempt>>) {
    let mut client = None;
    let mut n = 0;
    while !end.load(Ordering::Relaxed) {
        let mut c = match client.take() {
            Some(c) => c,
            None => match Client::connect(&Target::Tcp(address), "app", "app") {
                Ok(c) => c,
                Err(_) => continue,
            },
        };
        n += 1;
        let nonce = format!("{writer}-{n}");
        let acknowledged = c.query(&format!("INSERT INTO nonces VALUES ('{nonce}')")).is_ok();
        let ended = Instant::now();
        attempts.lock().expect("no panic").push(Attempt { nonce, acknowledged, ended });
        if acknowledged {
            client = Some(c);
        }
    }
}

/// What the load has seen so far.
fn acknowledged(attempts: &Mutex<Vec<Attempt>>) -> usize {
    attempts.lock().expect("no panic").iter().filter(|a| a.acknowledged).count()
}

/// So many more are acknowledged from now on.
fn goes_on(attempts: &Mutex<Vec<Attempt>>) {
    let before = acknowledged(attempts);
    eventually("writes that go on", || acknowledged(attempts) > before + 40);
}

/// Every acknowledged nonce is there exactly once, every other one at most once. Prints the window.
fn verdict(attempts: &[Attempt], primary: &Cluster, lost: Instant) {
    let mut c = primary.connect("app", "app").expect("direct");
    let reply = c.query("SELECT nonce, count(*) FROM nonces GROUP BY nonce").expect("rows");
    let there: std::collections::HashMap<&str, &str> = reply
        .rows
        .iter()
        .map(|r| (r[0].as_deref().expect("text"), r[1].as_deref().expect("a count")))
        .collect();
    for a in attempts {
        match there.get(a.nonce.as_str()) {
            Some(&"1") => {}
            None => assert!(!a.acknowledged, "{} was acknowledged and is lost", a.nonce),
            Some(n) => panic!("{} is there {n} times", a.nonce),
        }
    }
    let failed: Vec<_> = attempts.iter().filter(|a| !a.acknowledged).collect();
    let since = |t: Instant| t.saturating_duration_since(lost).as_secs_f64();
    let last = failed.iter().map(|a| since(a.ended)).fold(0.0, f64::max);
    let mut served: Vec<_> = attempts.iter().filter(|a| a.acknowledged).map(|a| a.ended).collect();
    served.sort_unstable();
    let gap = served.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default();
    println!(
        "{} attempts, {} failed, the last {last:.2} s behind the loss; nobody was served for {:.2} s",
        attempts.len(),
        failed.len(),
        gap.as_secs_f64(),
    );
    assert!(failed.len() <= WRITERS * 3, "{} failed: those who wait should be served", failed.len());
}

/// How far a replica has received its primary's WAL, in a form that sorts.
fn received(r: &Cluster) -> String {
    r.value(
        "SELECT lpad(split_part(l, '/', 1), 8, '0') || lpad(split_part(l, '/', 2), 8, '0') FROM \
             (SELECT pg_last_wal_receive_lsn()::text) AS x (l)",
    )
    .expect("a place")
}

enum Loss {
    /// As a machine that fails.
    Killed,
    /// It goes on, and nobody hears it; later it is heard again and knows nothing.
    Isolated,
}

fn servers(major: u32) -> Option<Replicated> {
    let options = app_options().setting("wal_log_hints", "on").setting("wal_receiver_timeout", "2s");
    let mut servers = Replicated::start_with(major, options)?;
    servers
        .primary
        .connect("app", "app")
        .expect("direct")
        .query("CREATE TABLE nonces (nonce text)")
        .expect("a table");
    // What is acknowledged is on one of the replicas, so that a caught-up one can be found.
    for c in std::iter::once(&servers.primary).chain(&servers.replicas) {
        let mut c = c.connect("postgres", "postgres").expect("direct");
        c.query("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'").expect("set");
        c.query("SELECT pg_reload_conf()").expect("reloaded");
    }
    servers.replicas.iter_mut().for_each(|r| r.await_replay(&servers.primary).expect("it follows"));
    Some(servers)
}

fn auto(servers: &Replicated) -> Howdah {
    let config = format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         monitor_interval = \"200ms\"\nquery_timeout = \"2s\"\ncancel_wait_timeout = \"500ms\"\nserver_connect_timeout = \"2s\"\n\
         server_repair_timeout = \"500ms\"\n[users.app]\n[users.postgres]\n\
         [databases.app]\nhost = [\"{}\", {}]\nrole = \"auto\"\npool_size = 5\nwhen_no_replica = \"primary\"\n\
         monitor_user = \"postgres\"\n",
        servers.primary.tcp(),
        servers.replica_hosts(),
    );
    let howdah = Howdah::start(&config);
    eligible(&howdah, 2);
    howdah
}

fn standby_shown(c: &Client) -> Option<&str> {
    c.parameters().get("in_hot_standby").map(String::as_str)
}

fn failover(major: u32, loss: &Loss) {
    let Some(mut servers) = servers(major) else { return };
    let howdah = auto(&servers);
    let (end, attempts) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    let address = howdah.address();
    let mut reader = harness::app(&howdah);
    let lost = std::thread::scope(|s| {
        for writer in 0..WRITERS {
            let (end, attempts) = (&end, &attempts);
            s.spawn(move || insert(address, writer, end, attempts));
        }
        goes_on(&attempts);
        reader.query("BEGIN READ ONLY; SELECT 1; COMMIT").expect("a replica");
        assert_ne!(standby_shown(&reader), Some("on"), "whoever serves");

        let lost = Instant::now();
        match loss {
            Loss::Killed => servers.primary.stop(Stop::Kill).expect("it is gone"),
            Loss::Isolated => servers.primary.suspend().expect("nobody hears it"),
        }
        eventually("the monitor sees it", || metric(&howdah, "howdah_host_up", &[]) < 2.5);
        // Reads go on meanwhile.
        reader.query("BEGIN READ ONLY; SELECT 1; COMMIT").expect("a replica");
        let [a, b] = &servers.replicas;
        let (new, other) = if received(a) >= received(b) { (a, b) } else { (b, a) };
        // A client that comes now waits for the next primary instead of failing.
        let waiter = s.spawn(move || {
            let mut c = Client::connect(&Target::Tcp(address), "app", "app").expect("a login");
            c.query("INSERT INTO nonces VALUES ('waiter')").map(drop).map_err(|e| e.to_string())
        });
        eventually("clients that wait", || metric(&howdah, "howdah_clients", &[("state", "waiting")]) > 0.0);
        new.promote().expect("promoted");
        other.follow(new).expect("it follows the new one");
        assert_eq!(waiter.join().expect("no panic"), Ok(()), "it was served in the end");
        goes_on(&attempts);
        let port = new.port().to_string();
        if matches!(loss, Loss::Isolated) {
            // It is heard again, and says that it is the primary: nobody believes it.
            servers.primary.resume().expect("it goes on");
            eventually("it is heard", || metric(&howdah, "howdah_host_up", &[]) > 2.5);
            for _ in 0..20 {
                let mut c = harness::app(&howdah);
                assert_eq!(c.value("SELECT inet_server_port()").expect("a port"), port);
            }
        }
        let new = usize::from(new.port() == servers.replicas[1].port());
        servers.primary.rejoin(&servers.replicas[new]).expect("it comes back as a replica");
        eligible(&howdah, 2);
        assert_eq!(harness::app(&howdah).value("SELECT inet_server_port()").expect("a port"), port);
        goes_on(&attempts);
        end.store(true, Ordering::Relaxed);
        lost
    });
    for _ in 0..6 {
        reader.query("BEGIN READ ONLY; SELECT 1; COMMIT").expect("a replica");
        reader.query("SELECT 1").expect("the primary");
        assert_ne!(standby_shown(&reader), Some("on"), "whoever serves");
    }
    let [a, _] = &servers.replicas;
    let primary = if a.value("SELECT pg_is_in_recovery()").expect("a role") == "f" { 0 } else { 1 };
    verdict(&attempts.into_inner().expect("no panic"), &servers.replicas[primary], lost);
    assert!(metric(&howdah, "howdah_role_changes_total", &[("change", "promoted")]) > 0.0);
    assert!(metric(&howdah, "howdah_role_changes_total", &[("change", "demoted")]) > 0.0);
    assert!(metric(&howdah, "howdah_fences_total", &[("reason", "role_change")]) > 0.0);
}

#[test]
fn a_primary_that_is_killed_is_replaced_on_postgres_15() {
    failover(15, &Loss::Killed);
}

#[test]
fn a_primary_that_is_isolated_is_replaced_on_postgres_18() {
    failover(18, &Loss::Isolated);
}

/// Where the configuration names the primary, a server that has become a standby is not taken for it.
#[test]
fn a_demoted_primary_is_fenced() {
    let Some(mut servers) = Replicated::start_with(15, app_options().setting("wal_log_hints", "on")) else {
        return;
    };
    let config = servers.config("query_wait_timeout = \"1s\"", "when_no_replica = \"primary\"", "");
    let howdah = Howdah::start(&config);
    eligible(&howdah, 2);
    let mut c = harness::app(&howdah);
    c.query("SELECT 1").expect("the primary");
    servers.primary.stop(Stop::Fast).expect("it stops");
    servers.replicas[0].promote().expect("promoted");
    servers.primary.rejoin(&servers.replicas[0]).expect("it comes back as a replica");
    // The one that was promoted is no replica any more, the other one is.
    eligible(&howdah, 1);
    let mut c = harness::app(&howdah);
    let e = harness::refusal(c.query("SELECT inet_server_port()"));
    assert!(e.code.starts_with("57P") || e.code == "53300", "{e:?}");
    // The monitor asks a host that was down less and less often.
    eventually("the monitor sees it", || {
        metric(&howdah, "howdah_role_changes_total", &[("change", "demoted")]) > 0.0
    });
    // The operator names the new one; nobody restarts anything.
    let named = config.replace(
        &format!("host = \"{}\"", servers.primary.tcp()),
        &format!("host = \"{}\"", servers.replicas[0].tcp()),
    );
    howdah.rewrite_config(&named);
    howdah.hup();
    let port = servers.replicas[0].port().to_string();
    eventually("writes on the new primary", || {
        harness::app(&howdah).value("SELECT inet_server_port()").is_ok_and(|p| p == port)
    });
}

#[test]
#[ignore = "long"]
fn a_primary_that_is_isolated_is_replaced_on_postgres_15_soak() {
    failover(15, &Loss::Isolated);
}

#[test]
#[ignore = "long"]
fn a_primary_that_is_killed_is_replaced_on_postgres_18_soak() {
    failover(18, &Loss::Killed);
}
