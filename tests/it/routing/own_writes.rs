//! Read your writes: whoever has written sees it, whatever replicas do meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::proxy::Howdah;
use crate::harness::replicas::{Replay, Replicated, eligible};
use crate::harness::{self, Client, Cluster, Stop, Target, app_with, eventually, metric, refusal};

const CLIENTS: u32 = 50;

/// Small numbers in no order that anybody could see through.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn read(id: u32) -> String {
    format!("BEGIN READ ONLY; SELECT n || ' ' || pg_is_in_recovery() FROM counters WHERE id = {id}; COMMIT")
}

/// What the checker has seen.
#[derive(Debug, Default)]
struct Seen {
    reads: AtomicU32,
    on_replicas: AtomicU32,
    stale: AtomicU32,
}

impl Seen {
    fn share(&self) -> f64 {
        f64::from(self.on_replicas.load(Ordering::Relaxed)) / f64::from(self.reads.load(Ordering::Relaxed))
    }
}

/// Each client writes its counter and reads it back, `rounds` times, with up to `think` between write and read.
fn check(howdah: &Howdah, clients: u32, rounds: u32, think: &(dyn Fn(&mut Dice) -> u64 + Sync)) -> Seen {
    let seen = Seen::default();
    std::thread::scope(|s| {
        for id in 0..clients {
            let seen = &seen;
            let address = howdah.address();
            s.spawn(move || {
                let mut dice = Dice(u64::from(id) + 1);
                let mut c = Client::connect(&Target::Tcp(address), "app", "app").expect("a login");
                for _ in 0..rounds {
                    let update = format!("UPDATE counters SET n = n + 1 WHERE id = {id} RETURNING n");
                    let wrote: u64 = c.value(&update).expect("written").parse().expect("a number");
                    std::thread::sleep(Duration::from_millis(think(&mut dice)));
                    let answer = match c.value(&read(id)) {
                        Ok(answer) => answer,
                        // Its replica was restarted while it read.
                        Err(e) => {
                            println!("{e}");
                            c = Client::connect(&Target::Tcp(address), "app", "app").expect("a login");
                            continue;
                        }
                    };
                    let (n, replica) = answer.split_once(' ').expect("two words");
                    seen.reads.fetch_add(1, Ordering::Relaxed);
                    seen.on_replicas.fetch_add(u32::from(replica == "true"), Ordering::Relaxed);
                    let stale = n.parse::<u64>().expect("a number") < wrote;
                    seen.stale.fetch_add(u32::from(stale), Ordering::Relaxed);
                }
            });
        }
    });
    seen
}

/// Delays both replicas at random, and restarts the first in the middle, until it is told to end.
fn disturb(replicas: &mut [Cluster; 2], end: &AtomicBool) {
    let mut dice = Dice(7);
    let mut replays: Vec<Replay> = replicas.iter().map(Replay::of).collect();
    let mut restarted = false;
    let began = Instant::now();
    while !end.load(Ordering::Relaxed) {
        let one = usize::try_from(dice.below(2)).expect("small");
        replays[one].pause();
        std::thread::sleep(Duration::from_millis(dice.below(40)));
        replays[one].resume();
        std::thread::sleep(Duration::from_millis(dice.below(20)));
        if !restarted && began.elapsed() > Duration::from_millis(150) {
            replicas[0].restart(Stop::Immediate).expect("it comes back");
            replays[0] = Replay::of(&replicas[0]);
            restarted = true;
        }
    }
    assert!(restarted, "the run was too short to restart a replica in");
}

fn servers() -> Option<Replicated> {
    let servers = Replicated::start(15)?;
    let mut c = servers.primary.connect("app", "app").expect("direct");
    c.query("CREATE TABLE counters (id int PRIMARY KEY, n bigint NOT NULL)").expect("a table");
    c.query("INSERT INTO counters SELECT i, 0 FROM generate_series(0, 99) AS i").expect("rows");
    for r in &servers.replicas {
        r.await_replay(&servers.primary).expect("it follows");
    }
    Some(servers)
}

fn howdah(servers: &Replicated, database: &str) -> Howdah {
    let database = format!("when_no_replica = \"primary\"\n{database}");
    let config = servers.config("", &database, "").replace("pool_size = 5", "pool_size = 20");
    let howdah = Howdah::start(&config);
    eligible(&howdah, 2);
    howdah
}

/// A checked run with delays and a restart.
fn disturbed(servers: &mut Replicated, howdah: &Howdah, rounds: u32) -> Seen {
    let end = AtomicBool::new(false);
    let replicas = &mut servers.replicas;
    std::thread::scope(|s| {
        let disturbing = s.spawn(|| disturb(replicas, &end));
        let seen = check(howdah, CLIENTS, rounds, &|dice| dice.below(40));
        end.store(true, Ordering::Relaxed);
        disturbing.join().expect("the replicas are disturbed");
        seen
    })
}

fn checker(rounds: u32) {
    let Some(mut servers) = servers() else { return };
    let guarded = howdah(&servers, "read_your_writes = \"session\"");
    let seen = disturbed(&mut servers, &guarded, rounds);
    println!("guarded: {seen:?}");
    assert_eq!(seen.stale.into_inner(), 0, "reads that lacked their own session's write");
    assert!(seen.on_replicas.into_inner() > 0, "the primary alone shows nothing");
    let asked = metric(&guarded, "howdah_routed_transactions_total", &[("reason", "own_writes")]);
    assert!(asked > 0.0, "nobody had to be kept on the primary, so nothing was shown");

    // Nearly all reads are on replicas where these are in step.
    eligible(&guarded, 2);
    for r in &servers.replicas {
        r.await_replay(&servers.primary).expect("it follows");
    }
    let seen = check(&guarded, 10, 12, &|_| 200);
    println!("in step: {seen:?}, {:.0} % on replicas", seen.share() * 100.0);
    assert!(seen.share() >= 0.9, "{seen:?}");
    assert_eq!(seen.stale.into_inner(), 0);
    drop(guarded);

    // The checker sees what it is there to see.
    let unguarded = howdah(&servers, "");
    let seen = disturbed(&mut servers, &unguarded, rounds.min(40));
    println!("unguarded: {seen:?}");
    assert!(seen.stale.into_inner() > 0, "the checker finds nothing where there is something to find");
}

#[test]
fn nobody_reads_what_was_before_its_own_write() {
    checker(30);
}

#[test]
#[ignore = "long"]
fn nobody_reads_what_was_before_its_own_write_soak() {
    checker(200);
}

#[test]
fn a_key_is_shared_and_reads_wait_where_they_are_told_to() {
    let Some(servers) = servers() else { return };
    let mut replays = [Replay::of(&servers.replicas[0]), Replay::of(&servers.replicas[1])];
    let howdah = howdah(&servers, "read_your_writes = \"session\"");
    // What the monitor has heard counts for connections that were open then, and there is none yet.
    let mut first = harness::app(&howdah);
    first.query("UPDATE counters SET n = 3 WHERE id = 3").expect("written");
    servers.replicas.iter().for_each(|r| r.await_replay(&servers.primary).expect("it follows"));
    eventually("samples behind the write", || metric(&howdah, "howdah_replica_lag_bytes", &[]) < 0.5);
    assert_eq!(first.value(&read(3)).expect("a row"), "3 false");
    eventually("reads on replicas", || first.value(&read(3)).expect("a row") == "3 true");

    let with =
        |key: &str| app_with(&howdah, &[("options", &format!("-c howdah.session={key}"))]).expect("a login");
    let (mut writer, mut sharer, mut other) = (with("k"), with("k"), with("other"));
    assert_eq!(sharer.value(&read(0)).expect("a row"), "0 true");

    // Not committed yet, or already; nobody outside can tell.
    writer.query("BEGIN").expect("a block");
    writer.query("SELECT 1").expect("a server");
    assert_eq!(sharer.value(&read(0)).expect("a row"), "0 false");
    writer.query("COMMIT").expect("its end");
    // It has a place now, and both replicas have come so far.
    eventually("reads on replicas", || sharer.value(&read(0)).expect("a row") == "0 true");

    replays.iter_mut().for_each(Replay::pause);
    writer.query("UPDATE counters SET n = 5 WHERE id = 0").expect("written");
    assert_eq!(writer.value(&read(0)).expect("a row"), "5 false");
    assert_eq!(sharer.value(&read(0)).expect("a row"), "5 false");
    assert_eq!(with("k").value(&read(0)).expect("a row"), "5 false", "who comes later");
    assert_eq!(other.value(&read(0)).expect("a row"), "0 true", "who has not written");
    assert_eq!(harness::app(&howdah).value(&read(0)).expect("a row"), "0 true", "who has no key");
    // A text that goes on behind a read that the primary has taken is a write as well.
    other.query("UPDATE counters SET n = 1 WHERE id = 1").expect("written");
    other.query("BEGIN READ ONLY").expect("a block");
    assert_eq!(other.value("SELECT pg_is_in_recovery()").expect("a value"), "f");
    other.query("COMMIT; UPDATE counters SET n = 2 WHERE id = 1").expect("written");
    assert_eq!(other.value(&read(1)).expect("a row"), "2 false");
    replays.iter_mut().for_each(Replay::resume);
    for (c, want) in [(&mut writer, "5 true"), (&mut sharer, "5 true")] {
        eventually("reads on replicas that have it", || c.value(&read(0)).expect("a row") == want);
    }
    drop(howdah);

    let waits = self::howdah(&servers, "read_your_writes = \"session\"\nread_your_writes_wait = \"20s\"");
    let mut c = harness::app(&waits);
    replays.iter_mut().for_each(Replay::pause);
    c.query("UPDATE counters SET n = 6 WHERE id = 0").expect("written");
    let reader = std::thread::spawn(move || c.value(&read(0)).expect("a row"));
    eventually("a read that waits", || metric(&waits, "howdah_clients", &[("state", "waiting")]) > 0.0);
    replays[1].resume();
    assert_eq!(reader.join().expect("no panic"), "6 true");
    replays[0].resume();
    drop(waits);

    // A key that means nothing is not taken silently.
    let without = self::howdah(&servers, "");
    let e = refusal(app_with(&without, &[("options", "-c howdah.session=k")]));
    assert!(e.message.contains("read_your_writes"), "{e:?}");
}
