//! One budget for several instances on a real server: its own count, sampled throughout, never exceeds the budget,
//! whatever happens to instances and to their control connections.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::harness::partition::Partition;
use crate::harness::proxy::Howdah;
use crate::harness::{
    self, Client, Cluster, Options, SUPERUSER, Stop, Target, app, cluster, count, eventually, metric,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const MAJOR: u32 = 15;
const CONTROL: &str = "application_name LIKE 'howdah-fleet %'";

fn options() -> Options {
    Options::default()
        .setting("max_connections", "200")
        .sql("CREATE ROLE app LOGIN")
        .sql("CREATE DATABASE app OWNER app")
        .sql("CREATE ROLE other LOGIN")
        .sql("CREATE DATABASE other OWNER other")
}

#[derive(Clone, Copy)]
struct Terms {
    instances: usize,
    budget: usize,
    minimum: usize,
}

impl Terms {
    fn config(self, host: SocketAddr, name: &str, role: &str) -> String {
        format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
             log_connections = false\nlog_disconnections = false\ninstances = {}\n[users.{role}]\n[databases.{role}]\n\
             host = \"{host}\"\npool_size = 100\n[fleet]\nbudget = {}\nminimum = {}\nname = \"{name}\"\n\
             control_timeout = \"2s\"\n",
            self.instances, self.budget, self.minimum
        )
    }
}

/// Asks the server how many backends of a role there are, ten times a second, as long as it lives.
struct Sampler {
    over: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    thread: Option<JoinHandle<usize>>,
}

impl Sampler {
    fn start(cluster: &Cluster, role: &'static str) -> Self {
        let (over, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut direct = cluster.connect(SUPERUSER, SUPERUSER).expect("a login");
        let thread = std::thread::spawn({
            let (over, most) = (over.clone(), most.clone());
            move || {
                let mut samples = 0;
                let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{role}'");
                while !over.load(Ordering::Relaxed) {
                    let n: usize = direct.value(&sql).expect("an answer").parse().expect("a count");
                    most.fetch_max(n, Ordering::Relaxed);
                    samples += 1;
                    std::thread::sleep(Duration::from_millis(100));
                }
                samples
            }
        });
        Self { over, most, thread: Some(thread) }
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// The most that was ever seen, and in how many samples.
    fn end(mut self) -> (usize, usize) {
        self.over.store(true, Ordering::Relaxed);
        let samples = self.thread.take().expect("once").join().expect("the sampler goes on");
        (self.most(), samples)
    }
}

/// Clients of one instance; they come back when it does.
struct Load {
    busy: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr, clients: usize, sql: &'static str) -> Self {
        let (busy, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let done = Arc::new(AtomicU64::new(0));
        let client = || {
            let (busy, over, done) = (busy.clone(), over.clone(), done.clone());
            std::thread::spawn(move || {
                let mut client: Option<Client> = None;
                while !over.load(Ordering::Relaxed) {
                    if !busy.load(Ordering::Relaxed) {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    }
                    let mut c = match client.take() {
                        Some(c) => c,
                        None => match connect(address) {
                            Some(c) => c,
                            None => {
                                std::thread::sleep(Duration::from_millis(50));
                                continue;
                            }
                        },
                    };
                    if c.query(sql).is_ok() {
                        done.fetch_add(1, Ordering::Relaxed);
                        client = Some(c);
                    }
                }
            })
        };
        let threads = (0..clients).map(|_| client()).collect();
        Self { busy, over, done, threads }
    }

    fn set(&self, busy: bool) {
        self.busy.store(busy, Ordering::Relaxed);
    }

    fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for t in self.threads.drain(..) {
            drop(t.join());
        }
    }
}

fn connect(address: SocketAddr) -> Option<Client> {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    let client = Client::connect(&Target::Tcp(address), "app", "app").ok()?;
    client.set_timeout(Some(Duration::from_secs(5))).ok()?;
    Some(client)
}

/// The stated bound for what no instance has to give back in the middle of a transaction.
fn within_two_seconds(what: &str, holds: impl FnMut() -> bool) {
    let began = Instant::now();
    eventually(what, holds);
    assert!(began.elapsed() < Duration::from_secs(2), "{what} after {:?}", began.elapsed());
}

fn servers(howdah: &Howdah) -> usize {
    metric(howdah, "howdah_pool_servers", &[]) as usize
}

/// An instance that can be killed and come back.
struct Instance {
    config: String,
    howdah: Option<Howdah>,
    load: Load,
    /// Between it and the server, where it can be parted from it.
    partition: Option<Partition>,
}

impl Instance {
    fn start(config: &str, clients: usize) -> Self {
        let howdah = Howdah::start(config);
        let load = Load::start(howdah.address(), clients, "SELECT pg_sleep(0.005)");
        Self { config: config.to_owned(), howdah: Some(howdah), load, partition: None }
    }

    fn behind_a_partition(terms: Terms, server: SocketAddr, clients: usize) -> Self {
        let partition = Partition::before(server);
        // What hangs ends soon.
        let soon = "query_timeout = \"2s\"\ncancel_wait_timeout = \"300ms\"\nserver_connect_timeout = \"1s\"\n[users.app]";
        let config = terms.config(partition.address(), "shop", "app").replace("[users.app]", soon);
        Self { partition: Some(partition), ..Self::start(&config, clients) }
    }

    fn partition(&self) -> &Partition {
        self.partition.as_ref().expect("it has one")
    }

    fn restart(&mut self, clients: usize) {
        self.howdah = None;
        let fresh = Self::start(&self.config, clients);
        (self.howdah, self.load) = (fresh.howdah, fresh.load);
    }

    fn howdah(&self) -> &Howdah {
        self.howdah.as_ref().expect("it runs")
    }
}

fn end_controls(cluster: &Cluster) {
    let sql = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {CONTROL}");
    cluster.value(&sql).expect("it");
}

#[test]
fn the_servers_own_count_never_exceeds_the_budget() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 4, budget: 24, minimum: 2 };
    let config = terms.config(cluster.tcp(), "shop", "app");
    let sampler = Sampler::start(&cluster, "app");
    let mut fleet: Vec<Instance> = (0..terms.instances).map(|_| Instance::start(&config, 10)).collect();
    eventually("every instance has joined", || count(&cluster, CONTROL) == 4);

    // One is busy, and gets what nobody else wants; 24 - 4 x 2 own - 3 x 2 of the others' minimums.
    fleet[0].load.set(true);
    eventually("it is lent what nobody wants", || servers(fleet[0].howdah()) >= 9);
    // Another one wants its share.
    let began = Instant::now();
    fleet[1].load.set(true);
    eventually("and gives it back", || servers(fleet[1].howdah()) >= 5);
    println!("a share has reached a newly busy instance after {:?}", began.elapsed());

    // Killed while all its connections sleep; they live on for a while, and count.
    let sleepers: Vec<_> = (0..8)
        .map(|_| {
            let mut c = app(fleet[0].howdah());
            std::thread::spawn(move || drop(c.query("SELECT pg_sleep(30)")))
        })
        .collect();
    eventually("they sleep", || count(&cluster, "query LIKE '%pg_sleep(30)%'") >= 1);
    fleet[2].load.set(true);
    fleet[0].howdah = None;
    sleepers.into_iter().for_each(|s| drop(s.join()));
    fleet[0].howdah = Some(Howdah::start(&config));
    fleet[0].load = Load::start(fleet[0].howdah().address(), 10, "SELECT pg_sleep(0.005)");
    fleet[0].load.set(true);
    eventually("the killed one is back", || fleet[0].load.done() > 0);

    // Stopped, while others want what it has.
    fleet[1].howdah().signal("STOP");
    fleet[3].load.set(true);
    let before = fleet[3].load.done();
    eventually("the others go on", || fleet[3].load.done() > before + 20);
    fleet[1].howdah().signal("CONT");

    // Without control connections nobody grows; they come back.
    end_controls(&cluster);
    eventually("the control connections are back", || count(&cluster, CONTROL) == 4);
    assert!(fleet.iter().any(|i| metric(i.howdah(), "howdah_fleet_control_losses_total", &[]) >= 1.0));

    // All are busy: everybody has its share, which is four, for nobody wants less.
    let before: Vec<u64> = fleet.iter().map(|i| i.load.done()).collect();
    eventually("equal shares", || fleet.iter().all(|i| (3..=5).contains(&servers(i.howdah()))));
    for (i, before) in fleet.iter().zip(before) {
        eventually("nobody starves", || i.load.done() > before);
    }
    let (most, samples) = sampler.end();
    println!("at most {most} of {} in {samples} samples", terms.budget);
    assert!(most <= terms.budget, "{most} backends");
    assert!(most > terms.budget / 2, "the budget was used: {most}");
}

/// An instance that has its whole share closes what idles in one pool for those who wait in another.
#[test]
fn an_idle_connection_makes_room_for_another_pool() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 1, budget: 8, minimum: 1 };
    let second =
        format!("[databases.second]\nhost = \"{}\"\ndbname = \"app\"\npool_size = 100\n", cluster.tcp());
    let howdah = Howdah::start(&(terms.config(cluster.tcp(), "shop", "app") + &second));
    let mut first: Vec<_> = (0..6).map(|_| app(&howdah)).collect();
    first.iter_mut().for_each(|c| drop(c.query("BEGIN").expect("a server")));
    first.iter_mut().for_each(|c| drop(c.query("COMMIT").expect("it")));
    assert_eq!(servers(&howdah), 6);
    let mut second: Vec<_> = (0..4).map(|_| howdah.connect("app", "second").expect("a login")).collect();
    second.iter_mut().for_each(|c| drop(c.query("BEGIN").expect("a server")));
    assert!(servers(&howdah) <= 6);
}

/// A replication client has no place in a pool's queue; what it waits for is lent to it all the same.
#[test]
fn replication_clients_are_lent_places() {
    let options = options().setting("wal_level", "logical").sql("ALTER ROLE app REPLICATION");
    let options =
        options.hba("host all all 127.0.0.1/32 trust").hba("host replication all 127.0.0.1/32 trust");
    let Some(cluster) = cluster(MAJOR, options) else { return };
    let terms = Terms { instances: 1, budget: 8, minimum: 1 };
    let howdah = Howdah::start(&terms.config(cluster.tcp(), "shop", "app"));
    let address = howdah.address();
    let replicating = move || {
        let all = [("user", "app"), ("database", "app"), ("replication", "database")];
        Client::connect_with(&Target::Tcp(address), &all, Duration::from_secs(30)).expect("a place")
    };
    // Together they want more than the minimum; nobody is in a pool's queue.
    let logins: Vec<_> = (0..4).map(|_| std::thread::spawn(replicating)).collect();
    let mut held: Vec<_> = logins.into_iter().map(|l| l.join().expect("a login")).collect();
    held.iter_mut().for_each(|c| drop(c.query("IDENTIFY_SYSTEM").expect("it serves")));
    // Six for pools: two are left for those who share connections, and all are counted.
    let mut app: Vec<_> = (0..2).map(|_| app(&howdah)).collect();
    app.iter_mut().for_each(|c| drop(c.query("BEGIN").expect("a server")));
    let seventh = std::thread::spawn(replicating);
    let logging_in = || metric(&howdah, "howdah_clients", &[("state", "login")]);
    eventually("a seventh waits", || logging_in() == 1.0);
    assert_eq!(count(&cluster, "usename = 'app' AND application_name NOT LIKE 'howdah%'"), 6);
    app.iter_mut().for_each(|c| drop(c.query("COMMIT").expect("it")));
    seventh.join().expect("it gets the place that is given back");
    drop(held);
    eventually("all are gone", || count(&cluster, "backend_type = 'walsender'") == 0);
}

/// The stated bound: transactions are short, so what is lent too much is back within two seconds. The primary's
/// notifications make it a matter of milliseconds; nothing depends on them.
#[test]
fn a_share_reaches_a_newly_busy_instance_within_two_seconds() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 2, budget: 24, minimum: 2 };
    let config = terms.config(cluster.tcp(), "shop", "app");
    let fleet: Vec<Instance> = (0..terms.instances).map(|_| Instance::start(&config, 20)).collect();
    let mut took = Vec::new();
    for round in 0..6 {
        let (idle, busy) = (&fleet[round % 2], &fleet[(round + 1) % 2]);
        // 24 - 2 x 2 own - the other's minimum.
        busy.load.set(true);
        eventually("one has what the other does not want", || servers(busy.howdah()) >= 17);
        let began = Instant::now();
        idle.load.set(true);
        eventually("the other has its share", || servers(idle.howdah()) >= 9);
        took.push(began.elapsed());
        fleet.iter().for_each(|i| i.load.set(false));
    }
    println!("a share was there after {took:?}");
    assert!(took.iter().all(|t| *t < Duration::from_secs(2)), "{took:?}");
    let wakes = |i: &Instance, d| metric(i.howdah(), "howdah_fleet_wakes_total", &[("direction", d)]);
    for i in &fleet {
        assert!(wakes(i, "sent") >= 1.0 && wakes(i, "heard") >= 1.0);
    }
    let sent: f64 = fleet.iter().map(|i| wakes(i, "sent")).sum();
    println!("{sent} notifications in {} changes of load", 2 * took.len());
}

/// However many clients queue at an instance that has its share, they are a reason to look once in 50 ms.
#[test]
fn a_queue_at_an_instance_that_has_its_share_wakes_it_now_and_then() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 1, budget: 4, minimum: 1 };
    let howdah = Howdah::start(&terms.config(cluster.tcp(), "shop", "app"));
    let load = Load::start(howdah.address(), 20, "SELECT 1");
    load.set(true);
    // 4 - 2 own.
    eventually("it has its share", || servers(&howdah) == 2);
    let looks = || metric(&howdah, "howdah_fleet_wants_total", &[]);
    let queued = || metric(&howdah, "howdah_pool_queued_total", &[]);
    let (began, looked, before) = (Instant::now(), looks(), queued());
    eventually("many have queued", || queued() >= before + 2000.0 && began.elapsed().as_millis() > 500);
    // A look that happens to find nobody in the queue is not rested from: a few more than one in 50 ms.
    let (looked, most) = (looks() - looked, began.elapsed().as_secs_f64() / 0.050 + 5.0);
    println!("{looked} looks, at most {most:.0}, for {} clients in the queue", queued() - before);
    assert!(looked <= most, "{looked} looks in {:?}", began.elapsed());
    assert_eq!(servers(&howdah), 2);
}

/// A budget cannot be held through another pooler, whose connections are not the server's.
#[test]
fn a_pooler_in_between_is_refused() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let between = format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"off\"\nauth_method = \"trust\"\n[users.app]\n\
         [databases.app]\nhost = \"{0}\"\npool_size = 5\n[databases.postgres]\nhost = \"{0}\"\npool_size = 5\n",
        cluster.tcp()
    );
    let between = Howdah::start(&between);
    let terms = Terms { instances: 1, budget: 20, minimum: 2 };
    let mut howdah = Howdah::spawn(&terms.config(between.address(), "shop", "app"), &[]);
    howdah.await_log("there is another pooler on the way", Duration::from_secs(20));
    assert_eq!(howdah.wait(Duration::from_secs(20)).code(), Some(1));
}

#[test]
fn two_fleets_on_one_server_do_not_meet() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 1, budget: 8, minimum: 2 };
    let one = Howdah::start(&terms.config(cluster.tcp(), "one", "app"));
    let other = Howdah::start(&terms.config(cluster.tcp(), "other", "other"));
    let hold = |howdah: &Howdah, role: &str| {
        let mut c = howdah.connect(role, role).expect("a login");
        c.query("BEGIN").expect("a server");
        c
    };
    // Six each: the budget less two of Howdah's own. One fleet's do not count for the other.
    let _first: Vec<_> = (0..6).map(|_| hold(&one, "app")).collect();
    let _second: Vec<_> = (0..6).map(|_| hold(&other, "other")).collect();
    let mut seventh = app(&one);
    let waiting = std::thread::spawn(move || drop(seventh.query("SELECT 1")));
    eventually("a seventh waits", || metric(&one, "howdah_pool_waiting_clients", &[]) == 1.0);
    eventually("and is refused a place", || {
        metric(&one, "howdah_fleet_grants_total", &[("outcome", "refused")]) >= 1.0 || servers(&one) == 6
    });
    assert_eq!(servers(&one), 6);
    drop(_first);
    drop(waiting.join());
}

/// An instance without its control connection shrinks to its minimum, says so, and is not ready.
#[test]
fn without_control_an_instance_goes_back_to_its_minimum() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 1, budget: 20, minimum: 2 };
    let howdah = Howdah::start(&terms.config(cluster.tcp(), "shop", "app"));
    let mut held: Vec<_> = (0..8).map(|_| app(&howdah)).collect();
    held.iter_mut().for_each(|c| drop(c.query("BEGIN").expect("a server")));
    held.iter_mut().for_each(|c| drop(c.query("COMMIT").expect("a server")));
    assert_eq!(servers(&howdah), 8);
    let mut direct = cluster.connect(SUPERUSER, SUPERUSER).expect("a login");
    direct.query("REVOKE CONNECT ON DATABASE postgres FROM public").expect("it");
    end_controls(&cluster);
    eventually("it shrinks", || servers(&howdah) <= 2);
    howdah.await_log("no control connection, so no pool grows", Duration::from_secs(10));
    assert_eq!(app(&howdah).value("SELECT 1").expect("its minimum serves"), "1");
    direct.query("GRANT CONNECT ON DATABASE postgres TO public").expect("it");
    eventually("it is back", || count(&cluster, CONTROL) == 1);
    held.iter_mut().for_each(|c| drop(c.query("BEGIN").expect("a server")));
    assert_eq!(servers(&howdah), 8);
}

/// Who is called like a control connection and wants all there is takes nothing from the fleet, unless he has a login of
/// its roles, and not as a client of a pool.
#[test]
fn a_name_alone_makes_nobody_a_member() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 1, budget: 8, minimum: 1 };
    let howdah = Howdah::start(&terms.config(cluster.tcp(), "shop", "app"));
    let name = "howdah-fleet shop deadbeef 5 0 50 50";
    let all = [("user", "other"), ("database", "postgres"), ("application_name", name)];
    let login = Client::connect_with(&Target::Tcp(cluster.tcp()), &all, Duration::from_secs(5));
    let _stranger = login.expect("a direct login");
    // 8 - 2 own.
    let mut held: Vec<_> = (0..6).map(|_| app(&howdah)).collect();
    for client in &mut held {
        client.set_timeout(Some(Duration::from_secs(5))).expect("a socket");
        client.query(&format!("SET application_name = '{name}'")).expect("it may");
        client.query("BEGIN").expect("a place");
    }
    assert_eq!(count(&cluster, &format!("application_name = '{name}'")), 7);
    assert_eq!(servers(&howdah), 6);
}

/// Backends of an instance that was killed count as long as they live, although it says nothing of them any more:
/// here they do not look whether their client is still there.
#[test]
fn backends_of_a_killed_instance_count_until_they_end() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 2, budget: 20, minimum: 2 };
    let config = terms.config(cluster.tcp(), "shop", "app");
    let deaf = config.replace("[fleet]", "startup = { client_connection_check_interval = \"0\" }\n[fleet]");
    let sampler = Sampler::start(&cluster, "app");
    let mut killed = Instance::start(&deaf, 0);
    let other = Instance::start(&config, 20);
    eventually("both have joined", || count(&cluster, CONTROL) == 2);
    // 20 - 2 x 2 own - 2 of the other's minimum.
    let sleepers: Vec<_> = (0..14)
        .map(|_| {
            let mut c = app(killed.howdah());
            std::thread::spawn(move || drop(c.query("SELECT pg_sleep(60)")))
        })
        .collect();
    let asleep = || count(&cluster, "query LIKE '%pg_sleep(60)%' AND state = 'active'");
    eventually("all of them sleep", || asleep() == 14);
    killed.howdah = None;
    sleepers.into_iter().for_each(|s| drop(s.join()));
    // What it was guaranteed is kept for it besides; so the other one gets what is left, and is refused more.
    other.load.set(true);
    let refused = || metric(other.howdah(), "howdah_fleet_grants_total", &[("outcome", "refused")]);
    eventually("it has noticed", || metric(other.howdah(), "howdah_fleet_settles_total", &[]) >= 1.0);
    let before = refused();
    eventually("it asks, and is refused", || {
        assert!(sampler.most() <= terms.budget, "{} backends", sampler.most());
        refused() >= before + 20.0
    });
    assert_eq!(asleep(), 14);
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' \
               AND pid <> pg_backend_pid()";
    cluster.value(sql).expect("it");
    eventually("it gets the rest", || servers(other.howdah()) >= 12);
    let (most, _) = sampler.end();
    assert!(most <= terms.budget, "{most} backends");
}

/// Parted from its server while it is busy, an instance gives back what is beyond its minimum, whatever it cannot
/// say any more; and it joins again.
#[test]
fn a_parted_instance_goes_back_to_its_minimum() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 2, budget: 20, minimum: 2 };
    let sampler = Sampler::start(&cluster, "app");
    let parted = Instance::behind_a_partition(terms, cluster.tcp(), 16);
    let other = Instance::start(&terms.config(cluster.tcp(), "shop", "app"), 16);
    eventually("both have joined", || count(&cluster, CONTROL) == 2);
    parted.load.set(true);
    // 20 - 2 x 2 own - 2 of the other's minimum.
    eventually("it is lent what nobody wants", || servers(parted.howdah()) >= 13);

    parted.partition().shut();
    other.load.set(true);
    parted.howdah().await_log("no control connection, so no pool grows", Duration::from_secs(20));
    eventually("it shrinks to its minimum", || servers(parted.howdah()) <= terms.minimum);
    // For the server they are still there.
    assert!(servers(other.howdah()) <= 4, "{}", servers(other.howdah()));
    assert!(sampler.most() <= terms.budget, "{} backends", sampler.most());

    parted.partition().cut();
    eventually("the other has what has ended", || servers(other.howdah()) >= 12);
    assert!(servers(parted.howdah()) <= terms.minimum, "nobody grows without control");
    let before = parted.load.done();
    parted.partition().open();
    eventually("it is back", || count(&cluster, CONTROL) == 2);
    eventually("both have their share", || servers(parted.howdah()) >= 7 && servers(other.howdah()) <= 9);
    eventually("and it serves", || parted.load.done() > before + 20);
    let (most, _) = sampler.end();
    assert!(most <= terms.budget, "{most} backends");
}

/// The primary is lost: on the one that takes its place the fleet finds itself again, within a budget that follows
/// that server's max_connections.
#[test]
fn a_fleet_finds_itself_again_on_the_new_primary() {
    let Some(mut primary) = cluster(MAJOR, options()) else { return };
    let mut replica = primary.replica().expect("a replica");
    replica.await_replay(&primary).expect("it follows");
    let terms = Terms { instances: 2, budget: 0, minimum: 2 };
    let hosts = format!(
        "host = [\"{}\", \"{}\"]\nrole = \"auto\"\nwhen_no_replica = \"primary\"",
        primary.tcp(),
        replica.tcp()
    );
    let config = terms
        .config(primary.tcp(), "shop", "app")
        .replace(&format!("host = \"{}\"", primary.tcp()), &hosts)
        .replace("budget = 0", "budget = \"10%\"")
        .replace("[users.app]", "monitor_interval = \"200ms\"\nserver_connect_timeout = \"2s\"\n[users.app]");
    let fleet: Vec<Instance> = (0..terms.instances).map(|_| Instance::start(&config, 20)).collect();
    // 10 % of 200; of them 2 x 3 are Howdah's own.
    let (before, after) = (Sampler::start(&primary, "app"), Sampler::start(&replica, "app"));
    fleet.iter().for_each(|i| i.load.set(true));
    let app = |c: &Cluster| count(c, "usename = 'app' AND application_name NOT LIKE 'howdah%'");
    let share = |i: &Instance| metric(i.howdah(), "howdah_pool_servers", &[("role", "primary")]) as usize;
    let shared = |most: usize| fleet.iter().all(|i| (most - 2..=most).contains(&share(i)));
    eventually("both have their share of 20", || shared(7));
    assert_eq!(count(&replica, CONTROL), 2, "they are on the replica, too");

    let (most, _) = before.end();
    assert!(most <= 20, "{most} backends before");
    primary.stop(Stop::Kill).expect("it is gone");
    replica.promote().expect("promoted");
    let done = |more: u64| {
        let before: Vec<u64> = fleet.iter().map(|i| i.load.done()).collect();
        eventually("all loads go on", || fleet.iter().zip(&before).all(|(i, b)| i.load.done() > b + more));
    };
    done(50);
    eventually("both have their share on the new one", || shared(7) && app(&replica) >= 11);
    eventually("and see each other", || count(&replica, CONTROL) == 2);
    // Who wants what the other has calls there now, for it has become a primary.
    let heard = || {
        fleet
            .iter()
            .map(|i| metric(i.howdah(), "howdah_fleet_wakes_total", &[("direction", "heard")]))
            .sum::<f64>()
    };
    let calls = heard();
    fleet[1].load.set(false);
    eventually("one has what the other does not want", || share(&fleet[0]) >= 11);
    fleet[1].load.set(true);
    eventually("and gives it back", || shared(7));
    assert!(heard() > calls);
    let ready = harness::http(fleet[0].howdah().ops_address(), "/readyz");
    assert!(ready.contains("ready"), "the old primary makes nobody unready: {ready}");

    let (most, _) = after.end();
    assert!(most <= 20, "{most} backends after");
    replica
        .connect(SUPERUSER, SUPERUSER)
        .expect("direct")
        .query("ALTER SYSTEM SET max_connections = 120")
        .expect("set");
    replica.restart(Stop::Fast).expect("smaller");
    let smaller = Sampler::start(&replica, "app");
    done(50);
    eventually("both have their share of 12", || shared(3) && app(&replica) >= 5);
    done(50);
    let (most, _) = smaller.end();
    assert!(most <= 12, "{most} backends on the smaller one");
}

/// An instance that is stopped gives nothing back, and was never lent what others are guaranteed: another one has its
/// minimum at once, and the rest of its share when the stopped one's sessions have ended.
#[test]
fn a_stopped_instances_share_is_lent_when_its_sessions_end() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 2, budget: 20, minimum: 2 };
    let config = terms.config(cluster.tcp(), "shop", "app");
    let sampler = Sampler::start(&cluster, "app");
    let (stopped, other) = (Instance::start(&config, 20), Instance::start(&config, 20));
    eventually("both have joined", || count(&cluster, CONTROL) == 2);
    stopped.load.set(true);
    // 20 - 2 x 2 own - 2 of the other's minimum; and it says so, without an opening that would count besides.
    let settled = "application_name ~ '^howdah-fleet shop [0-9a-f]{8} 2 14 0 20$'";
    eventually("it is lent what nobody wants", || count(&cluster, settled) == 1);
    let of_pools = "usename = 'app' AND application_name NOT LIKE 'howdah%'";
    eventually("it has opened them", || count(&cluster, of_pools) == 14);
    stopped.howdah().signal("STOP");
    // Only its sessions are there.
    let pids = format!("SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE {of_pools}");
    let pids = cluster.value(&pids).expect("pids");

    other.load.set(true);
    within_two_seconds("its minimum", || servers(other.howdah()) >= terms.minimum);
    eventually("it serves", || other.load.done() > 20);
    let refused = || metric(other.howdah(), "howdah_fleet_grants_total", &[("outcome", "refused")]);
    let before = refused();
    eventually("it asks for more, and is refused", || refused() >= before + 10.0);
    assert_eq!(servers(other.howdah()), terms.minimum);

    let end = |condition: &str| {
        let sql = format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE {condition}");
        cluster.value(&sql).expect("it");
    };
    end(&format!("pid IN ({pids})"));
    // It says that it wants as much, as long as its control connection is there: half of 16 for each.
    within_two_seconds("its share", || servers(other.howdah()) >= 8);
    end(settled);
    // Then only its minimum is kept for it.
    within_two_seconds("what nobody wants", || servers(other.howdah()) >= 14);

    let before = stopped.load.done();
    stopped.howdah().signal("CONT");
    eventually("it is back", || count(&cluster, CONTROL) == 2 && stopped.load.done() > before + 20);
    eventually("both have their share", || {
        [&stopped, &other].iter().all(|i| (7..=9).contains(&servers(i.howdah())))
    });
    let (most, _) = sampler.end();
    assert!(most <= terms.budget, "{most} backends");
}

/// What can happen to an instance, or to all.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Kill,
    Stop,
    EndControls,
    Part,
    Wander,
}

/// How long instances that want more than their minimum have had less.
struct Hunger {
    since: Vec<Option<Instant>>,
    longest: Duration,
}

impl Hunger {
    /// Longer than what stands in the way may take to end: a killed instance's sessions end in two seconds, and the fleet
    /// settles after each loss of a control connection.
    const MOST: Duration = Duration::from_secs(5);

    fn new(instances: usize) -> Self {
        Self { since: vec![None; instances], longest: Duration::ZERO }
    }

    /// Looks at all but the one to which something is being done.
    fn look(&mut self, fleet: &[Instance], minimum: usize, but: Option<usize>) {
        for (i, (instance, since)) in fleet.iter().zip(&mut self.since).enumerate() {
            let busy = instance.load.busy.load(Ordering::Relaxed);
            if but == Some(i) || !busy || servers(instance.howdah()) >= minimum {
                *since = None;
                continue;
            }
            let hungry = since.get_or_insert_with(Instant::now).elapsed();
            self.longest = self.longest.max(hungry);
            assert!(hungry < Self::MOST, "instance {i} is below its minimum for {hungry:?}");
        }
    }

    /// Lets some time pass.
    fn pause(&mut self, fleet: &[Instance], minimum: usize, but: Option<usize>, ms: u64) {
        let end = Instant::now() + Duration::from_millis(ms);
        loop {
            self.look(fleet, minimum, but);
            let rest = end.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return;
            }
            std::thread::sleep(rest.min(Duration::from_millis(100)));
        }
    }
}

/// Lets faults happen at random to instances, the first two of which are behind walls and the last of which is always
/// busy, and then leaves them in peace. Throughout the budget holds and nobody is below its minimum for long, and in the end everybody has its share.
fn faults(
    cluster: &Cluster,
    terms: Terms,
    length: Duration,
    seed: u64,
    kind: impl Fn(&mut StdRng, usize) -> Fault,
) {
    const CLIENTS: usize = 12;
    let mut rng = StdRng::seed_from_u64(seed);
    let config = terms.config(cluster.tcp(), "shop", "app");
    let sampler = Sampler::start(cluster, "app");
    let mut fleet: Vec<Instance> = (0..terms.instances)
        .map(|i| match i {
            0 | 1 => Instance::behind_a_partition(terms, cluster.tcp(), CLIENTS),
            _ => Instance::start(&config, CLIENTS),
        })
        .collect();
    let last = terms.instances - 1;
    fleet[last].load.set(true);
    let mut hunger = Hunger::new(terms.instances);
    let mut pause = |fleet: &[Instance], but: Option<usize>, ms: u64| {
        hunger.pause(fleet, terms.minimum, but, ms);
    };
    let (began, mut did) = (Instant::now(), std::collections::BTreeMap::<String, u32>::new());
    for n in 0.. {
        if began.elapsed() >= length {
            break;
        }
        let fault = kind(&mut rng, n);
        let i = rng.random_range(0..fleet.len());
        match fault {
            Fault::Kill => {
                // Perhaps while everything that it has sleeps.
                if rng.random() {
                    let address = fleet[i].howdah().address();
                    for _ in 0..6 {
                        std::thread::spawn(move || {
                            connect(address).map(|mut c| drop(c.query("SELECT pg_sleep(30)")))
                        });
                    }
                    std::thread::sleep(Duration::from_millis(300));
                }
                fleet[i].howdah = None;
                if rng.random() {
                    pause(&fleet, Some(i), rng.random_range(0..2000));
                }
                fleet[i].restart(CLIENTS);
                fleet[i].load.set(i == last || rng.random());
            }
            Fault::Stop => {
                fleet[i].howdah().signal("STOP");
                pause(&fleet, Some(i), rng.random_range(100..3000));
                fleet[i].howdah().signal("CONT");
            }
            Fault::EndControls => end_two_controls(cluster),
            Fault::Part => {
                let i = i % 2;
                fleet[i].partition().shut();
                pause(&fleet, Some(i), rng.random_range(100..4000));
                if rng.random() {
                    end_two_controls(cluster);
                }
                if rng.random() {
                    fleet[i].partition().cut();
                    pause(&fleet, Some(i), rng.random_range(100..2000));
                }
                fleet[i].partition().open();
            }
            Fault::Wander => fleet[i].load.set(i == last || rng.random()),
        }
        *did.entry(format!("{fault:?}")).or_default() += 1;
        assert!(
            sampler.most() <= terms.budget,
            "{} backends after {:?}, seed {seed}",
            sampler.most(),
            began.elapsed()
        );
        pause(&fleet, None, rng.random_range(50..800));
    }
    println!("nobody was below its minimum for longer than {:?}", hunger.longest);
    // Peace: everybody wants more than there is, and gets the same.
    fleet.iter().for_each(|i| i.load.set(true));
    let before: Vec<u64> = fleet.iter().map(|i| i.load.done()).collect();
    let share = terms.budget / terms.instances - 2;
    eventually("equal shares", || {
        fleet.iter().all(|i| (share - 2..=share + 2).contains(&servers(i.howdah())))
    });
    for (i, before) in fleet.iter().zip(before) {
        eventually("nobody starves", || i.load.done() > before && servers(i.howdah()) >= terms.minimum);
    }
    let (most, samples) = sampler.end();
    println!("at most {most} of {} in {samples} samples over {length:?}, seed {seed}: {did:?}", terms.budget);
    assert!(most <= terms.budget, "{most} backends, seed {seed}");
}

fn end_two_controls(cluster: &Cluster) {
    let sql = format!(
        "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE {CONTROL} \
         ORDER BY random() LIMIT 2) c"
    );
    cluster.value(&sql).expect("it");
}

/// The long test in short: the same faults in turn.
#[test]
fn a_fleet_under_faults() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let terms = Terms { instances: 5, budget: 35, minimum: 2 };
    let turn = [
        Fault::Wander,
        Fault::Wander,
        Fault::Kill,
        Fault::Wander,
        Fault::Part,
        Fault::EndControls,
        Fault::Stop,
    ];
    faults(&cluster, terms, Duration::from_secs(20), 7, |_, n| turn[n % turn.len()]);
}

/// Eight instances, a budget of 60, and everything that can happen to them at random.
#[test]
#[ignore = "ten minutes; HOWDAH_TEST_SOAK_SECONDS for less"]
fn soak_a_fleet_under_faults() {
    let Some(cluster) = cluster(MAJOR, options()) else { return };
    let seconds = std::env::var("HOWDAH_TEST_SOAK_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(600);
    let terms = Terms { instances: 8, budget: 60, minimum: 2 };
    faults(&cluster, terms, Duration::from_secs(seconds), rand::random(), |rng, _| {
        match rng.random_range(0..10) {
            0 => Fault::Kill,
            1 => Fault::Stop,
            2 => Fault::EndControls,
            3 => Fault::Part,
            _ => Fault::Wander,
        }
    });
}
