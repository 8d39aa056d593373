//! What bounds and shapes a pool: sizes, reserve, timeouts of idle and old servers, shared limits, fairness,
//! the order of those who wait, and how servers are opened.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::proxy::Howdah;
use crate::harness::wire::fake::{Fake, Login};
use crate::harness::{
    self, Client, Options, Stop, app, app_options, backend, cluster, config, connections, count, eventually,
    metric, refusal, run, shared, start,
};

const MAJOR: u32 = 15;

/// Clients that hold a transaction each.
fn holders(howdah: &Howdah, n: usize) -> Vec<Client> {
    (0..n)
        .map(|_| {
            let mut client = app(howdah);
            run(&mut client, "BEGIN");
            client
        })
        .collect()
}

fn waiting(howdah: &Howdah) -> f64 {
    metric(howdah, "howdah_pool_waiting_clients", &[])
}

/// A cluster of its own with more roles and databases.
fn options() -> Options {
    app_options().sql("CREATE ROLE busy LOGIN").sql("CREATE ROLE quiet LOGIN").sql("CREATE DATABASE other")
}

#[test]
fn the_minimum_is_kept_warm() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 5\nmin_pool_size = 3", "");
    // Also before the first client, and again when servers are taken away.
    let mut client = app(&howdah);
    eventually("the pool is warm", || connections(&cluster, "app") == 3);
    cluster
        .value("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'")
        .expect("it");
    eventually("it is warm again", || connections(&cluster, "app") == 3);
    assert_eq!(client.value("SELECT 1").expect("an answer"), "1");
}

#[test]
fn the_reserve_comes_after_its_delay() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let delay = Duration::from_millis(700);
    let sizes = "pool_size = 2\nreserve_pool_size = 1\nreserve_delay = \"700ms\"";
    let howdah = start(&cluster, "query_wait_timeout = \"4s\"", sizes, "");
    let _held = holders(&howdah, 2);
    let mut third = app(&howdah);
    let started = Instant::now();
    run(&mut third, "BEGIN");
    assert!(started.elapsed() >= delay, "{:?}", started.elapsed());
    assert_eq!(metric(&howdah, "howdah_reserve_connections_total", &[]), 1.0);
    // And no more than the reserve.
    let error = refusal(app(&howdah).query("SELECT 1"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "53300"));
    assert!(error.detail.as_deref().is_some_and(|d| d.contains("3/2 in use")), "{error}");
    assert_eq!(connections(&cluster, "app"), 3);
}

#[test]
fn idle_servers_are_closed() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let idle = "pool_size = 5\nmin_pool_size = 1\nserver_idle_timeout = \"500ms\"";
    let howdah = start(&cluster, "", idle, "");
    drop(holders(&howdah, 4));
    eventually("only the minimum is left", || connections(&cluster, "app") == 1);
    let closed = metric(&howdah, "howdah_server_disconnects_total", &[("reason", "idle_timeout")]);
    assert!(closed >= 3.0, "{closed}");
    assert_eq!(app(&howdah).value("SELECT 1").expect("an answer"), "1");
}

/// An old server is replaced between two transactions, never in one.
#[test]
fn old_servers_are_replaced() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 1\nserver_lifetime = \"600ms\"", "");
    let mut client = app(&howdah);
    run(&mut client, "BEGIN");
    let first = backend(&mut client);
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(1500) {
        assert_eq!(backend(&mut client), first, "in a transaction");
    }
    run(&mut client, "COMMIT");
    assert_ne!(backend(&mut client), first);
    let closed = metric(&howdah, "howdah_server_disconnects_total", &[("reason", "lifetime")]);
    assert!(closed >= 1.0, "{closed}");
    assert!(connections(&cluster, "app") <= 1);
}

/// A user that never lets go of the CPU, with more clients than there are servers.
struct Busy(Arc<AtomicBool>, Vec<JoinHandle<usize>>);

impl Busy {
    fn start(howdah: &Howdah, user: &'static str, database: &'static str, clients: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let work = |mut client: Client| {
            let over = over.clone();
            std::thread::spawn(move || {
                let mut done = 0;
                while !over.load(Ordering::Relaxed) {
                    client.query("SELECT pg_sleep(0.02)").expect("an answer");
                    done += 1;
                }
                done
            })
        };
        let clients = (0..clients).map(|_| howdah.connect(user, database).expect("a login"));
        let threads = clients.map(work).collect();
        Self(over, threads)
    }

    fn end(self) -> usize {
        self.0.store(true, Ordering::Relaxed);
        self.1.into_iter().map(|t| t.join().expect("no error")).sum()
    }
}

/// Two pools under one limit: the total is kept, and who comes late is served soon, however busy the other is.
fn shared_limit(top: &str, database: &str, sections: &str, quiet: (&str, &str), total: &str) {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let sections = sections.replace("{pg}", &cluster.tcp().to_string());
    let howdah = start(&cluster, top, &format!("pool_size = 10\n{database}"), &sections);
    let busy = Busy::start(&howdah, "busy", "app", 8);
    eventually("the limit is used up", || count(&cluster, total) == 2);
    let mut most = Duration::ZERO;
    let mut late = howdah.connect(quiet.0, quiet.1).expect("a login");
    for _ in 0..20 {
        let started = Instant::now();
        run(&mut late, "SELECT 1");
        most = most.max(started.elapsed());
        assert!(count(&cluster, total) <= 2, "the limit is kept");
    }
    println!("the longest wait: {most:?}");
    assert!(most < Duration::from_secs(10), "{most:?}");
    assert!(busy.end() >= 8, "the busy user is served, too");
}

const USERS: &str = "[users.busy]\n[users.quiet]\n";

#[test]
fn a_databases_limit_is_shared_fairly() {
    let total = "usename IN ('busy', 'quiet') AND backend_type = 'client backend'";
    shared_limit("", "max_connections = 2", USERS, ("quiet", "app"), total);
}

#[test]
fn a_hosts_limit_is_shared_fairly() {
    let other = format!("{USERS}[databases.other]\nhost = \"{{pg}}\"\npool_size = 10\n");
    let total = "usename IN ('busy', 'quiet') AND backend_type = 'client backend'";
    shared_limit("", "max_host_connections = 2", &other, ("quiet", "other"), total);
}

#[test]
fn a_users_limit_is_shared_fairly() {
    let other = "[users.busy]\nmax_connections = 2\n[databases.other]\nhost = \"{pg}\"\npool_size = 10\n";
    let total = "usename = 'busy' AND backend_type = 'client backend'";
    shared_limit("", "", other, ("busy", "other"), total);
}

/// An idle server of one pool gives way to the waiter of another.
#[test]
fn idle_servers_give_way() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2\nmax_connections = 2", USERS);
    let mut held: Vec<_> = (0..2).map(|_| howdah.connect("busy", "app").expect("a login")).collect();
    held.iter_mut().for_each(|c| run(c, "BEGIN"));
    held.iter_mut().for_each(|c| run(c, "COMMIT"));
    assert_eq!(connections(&cluster, "busy"), 2);
    let mut quiet = howdah.connect("quiet", "app").expect("a login");
    let started = Instant::now();
    run(&mut quiet, "SELECT 1");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(metric(&howdah, "howdah_server_disconnects_total", &[("reason", "evicted")]), 1.0);
    assert_eq!((connections(&cluster, "busy"), connections(&cluster, "quiet")), (1, 1));
}

#[test]
fn who_waits_longest_is_next() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 1", "");
    let mut clients: Vec<_> = (0..10).map(|_| app(&howdah)).collect();
    let mut held = holders(&howdah, 1);
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut threads = Vec::new();
    for (i, mut client) in clients.drain(..).enumerate() {
        let order = order.clone();
        threads.push(std::thread::spawn(move || {
            // Held until it is noted, so that nobody can overtake between the answer and the note.
            run(&mut client, "BEGIN");
            order.lock().expect("no panic").push(i);
            run(&mut client, "COMMIT");
        }));
        eventually("it waits", || waiting(&howdah) == (i + 1) as f64);
    }
    run(&mut held[0], "COMMIT");
    threads.into_iter().for_each(|t| t.join().expect("no panic"));
    assert_eq!(*order.lock().expect("no panic"), (0..10).collect::<Vec<_>>());
}

/// Never more logins at one time than allowed, however many wait.
#[test]
fn servers_are_opened_a_few_at_a_time() {
    let slow = Login { delay: Duration::from_millis(150), ..Login::default() };
    let fake = Fake::start(move |conn| {
        conn.login(&slow)?;
        conn.serve()
    });
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         max_parallel_connects = 2\n[users.app]\n[databases.app]\nhost = \"127.0.0.1:{}\"\npool_size = 8\n",
        fake.port()
    ));
    let address = howdah.address();
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(move || {
                let target = harness::Target::Tcp(address);
                let mut client = Client::connect(&target, "app", "app").expect("a login");
                run(&mut client, "BEGIN");
                client
            })
        })
        .collect();
    let held: Vec<_> = threads.into_iter().map(|t| t.join().expect("no panic")).collect();
    let seen = fake.seen();
    assert_eq!((seen.most_logging_in, seen.startups, held.len()), (2, 8, 8));
}

/// A server that is down is asked again and again, with growing pauses; when it is back, all who waited are
/// served.
#[test]
fn a_server_that_is_down_is_not_stormed() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    // "The database system is starting up": for everybody.
    let fake = Fake::start(move |conn| {
        counted.fetch_add(1, Ordering::Relaxed);
        conn.send(&harness::wire::msg::error("FATAL", "57P03", "the database system is starting up"))
    });
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         query_wait_timeout = \"3s\"\n[users.app]\n[databases.app]\nhost = \"127.0.0.1:{}\"\npool_size = 8\n",
        fake.port()
    ));
    let logins: Vec<_> = (0..20)
        .map(|_| {
            let address = howdah.address();
            std::thread::spawn(move || refusal(Client::connect(&harness::Target::Tcp(address), "app", "app")))
        })
        .collect();
    for login in logins {
        let error = login.join().expect("no panic");
        assert_eq!(error.code, "53300", "{error}");
        assert!(error.to_string().contains("starting up"), "the reason is told: {error}");
    }
    let attempts = attempts.load(Ordering::Relaxed);
    println!("{attempts} attempts in 3 s");
    assert!((2..=60).contains(&attempts), "{attempts} attempts");
}

#[test]
fn waiters_outlast_a_restart() {
    let Some(mut cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "query_wait_timeout = \"30s\"", "pool_size = 2", "");
    let mut clients: Vec<_> = (0..6).map(|_| app(&howdah)).collect();
    clients.iter_mut().for_each(|c| run(c, "SELECT 1"));
    cluster.stop(Stop::Fast).expect("it stops");
    eventually("its end was seen", || metric(&howdah, "howdah_pool_servers", &[("state", "idle")]) == 0.0);
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut c| std::thread::spawn(move || c.value("SELECT 1").map_err(|e| e.to_string())))
        .collect();
    eventually("all wait", || waiting(&howdah) == 6.0);
    cluster.start().expect("it starts");
    for thread in threads {
        assert_eq!(thread.join().expect("no panic").as_deref(), Ok("1"));
    }
}

/// A smaller size takes effect as servers come free, a larger one at once for those who wait.
#[test]
fn a_reload_changes_the_size() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 4", "");
    let mut held = holders(&howdah, 4);
    howdah.rewrite_config(&config(&cluster, "", "pool_size = 1", ""));
    howdah.hup();
    eventually("it is in force", || metric(&howdah, "howdah_pool_size", &[]) == 1.0);
    assert_eq!(connections(&cluster, "app"), 4, "nobody is interrupted");
    held.iter_mut().for_each(|c| run(c, "COMMIT"));
    eventually("the rest is closed", || connections(&cluster, "app") == 1);

    run(&mut held[0], "BEGIN");
    let mut waiter = held.pop().expect("a client");
    let thread = std::thread::spawn(move || waiter.value("SELECT 1").map_err(|e| e.to_string()));
    eventually("it waits", || waiting(&howdah) == 1.0);
    howdah.rewrite_config(&config(&cluster, "", "pool_size = 2", ""));
    howdah.hup();
    assert_eq!(thread.join().expect("no panic").as_deref(), Ok("1"));
}

/// PostgreSQL copies no database to which anybody is connected: PAUSE frees one of its pooled connections.
#[test]
fn a_paused_database_can_be_copied() {
    let Some(cluster) = cluster(15, options()) else { return };
    let howdah = start(&cluster, "admin_users = [\"app\"]", "pool_size = 3", "");
    let mut client = app(&howdah);
    run(&mut client, "SELECT 1");
    let mut admin = cluster.connect(harness::SUPERUSER, "postgres").expect("a direct session");
    let copy = "CREATE DATABASE copy TEMPLATE app";
    assert_eq!(refusal(admin.query(copy)).code, "55006", "an idle connection is one");
    let mut console = howdah.connect("app", "pgbouncer").expect("the console");
    console.query("PAUSE app").expect("paused");
    admin.query(copy).expect("nobody is there");
    console.query("RESUME app").expect("resumed");
    assert_eq!(client.value("SELECT 1").expect("an answer"), "1");
}
