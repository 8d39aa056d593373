//! The life of the process: reload, drain, a second signal, a kill, and a wall clock that moves.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::rig::{Plan, Rig, Witness, fatal, plan, refusal};
use crate::harness::wire::fake::Fake;
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{self, shared};

/// Writes the configuration, sends SIGHUP and waits until it has been judged.
fn reload(rig: &Rig<'_>, config: &str) {
    let said = |t: &str| rig.howdah.log().matches(t).count();
    let before = said("configuration reloaded") + said("configuration not reloaded");
    rig.howdah.rewrite_config(config);
    rig.howdah.hup();
    harness::eventually("the configuration is read", || {
        said("configuration reloaded") + said("configuration not reloaded") > before
    });
}

fn config_of(rig: &Rig<'_>, plan: Plan<'_>) -> String {
    plan.config(&rig.user, rig.backend)
}

#[test]
fn reload_removes_a_database() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let whole = config_of(&rig, plan(2));
    let other = whole.replace("[databases.app]", "[databases.other]\ndbname = \"app\"");
    let mut idle = rig.client();
    let mut busy = rig.client();
    busy.select("create table f65 (a int)");
    busy.select("begin");
    busy.select("insert into f65 values (1)");
    reload(&rig, &other);
    fatal(&mut idle, "57P01");
    // A transaction is ended by its client, and only then the session.
    assert_eq!(busy.select("select count(*) from f65"), ["1"]);
    assert!(tags(&busy.ask(&msg::query("commit"))).ends_with("CZ"));
    fatal(&mut busy, "57P01");
    assert_eq!(refusal(&rig.dsn()), "3D000");
    rig.await_backends("true", 0);
    let elsewhere = harness::wire::Dsn { database: "other".into(), ..rig.dsn() };
    assert_eq!(Raw::login(&elsewhere).select("select count(*) from f65"), ["1"], "it was committed");
    // And back: the database is there as if nothing had been.
    reload(&rig, &whole);
    rig.await_backends("true", 0);
    rig.invariants();
}

#[test]
fn reload_removes_a_user() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let whole = config_of(&rig, plan(2));
    let mut client = rig.client();
    reload(&rig, &whole.replace(&format!("[users.{}]", rig.user), "[users.somebody_else]"));
    fatal(&mut client, "57P01");
    assert_eq!(refusal(&rig.dsn()), "28P01");
    rig.await_backends("true", 0);
    reload(&rig, &whole);
    rig.invariants();
}

#[test]
fn reload_of_a_bad_configuration_changes_nothing() {
    let fake = Fake::serving();
    let rig = Rig::start(&fake, plan(2));
    let witness = Witness::watch(&rig);
    let whole = config_of(&rig, plan(2));
    let bad = ["pool_size = 0", "pool_size = \"many\"", "pool_sise = 3\npool_size = 2", "pool_size = = 2"];
    for wrong in bad {
        // The first line is right and different: it must not be taken either.
        let text = whole.replace("pool_size = 2", wrong).replace("[databases.app]", "[databases.other]");
        reload(&rig, &text);
        assert_eq!(rig.client().select("select 'still'"), ["still"]);
    }
    assert!(rig.howdah.log().matches("configuration not reloaded").count() >= bad.len());
    assert!(rig.howdah.log().contains("pool_sise"), "the log names the key");
    witness.content();
    rig.invariants();
}

#[test]
fn reload_again_and_again_under_load() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(4));
    let witnesses: Vec<Witness> = (0..6).map(|_| Witness::watch(&rig)).collect();
    for n in 0..20 {
        let size = [4, 2, 6][n % 3];
        let more = if n % 4 == 3 { "on_connect = [\"set work_mem = '5MB'\"]" } else { "" };
        reload(&rig, &config_of(&rig, plan(size).database(more)));
    }
    reload(&rig, &config_of(&rig, plan(4)));
    for w in witnesses {
        w.content();
    }
    harness::eventually("connections too many are closed", || rig.backends("true") <= 4);
    rig.invariants();
}

/// Ends in order within the time.
fn exits(rig: &mut Rig<'_>, within: Duration) {
    let started = Instant::now();
    let status = rig.howdah.wait(within + harness::rig::SOON);
    assert!(status.success(), "{status}");
    assert!(started.elapsed() < within, "{:?}", started.elapsed());
    rig.log_is_clean();
}

fn await_draining(rig: &Rig<'_>) {
    rig.howdah.await_log("draining", harness::rig::SOON);
}

/// Refused, whether it was accepted or not.
fn refuses_newcomers(rig: &Rig<'_>) {
    let said = refusal(&rig.dsn());
    assert!(said == "57P03" || said.contains("refused"), "{said}");
}

#[test]
fn drain_waits_for_clients() {
    let Some(cluster) = shared(15) else { return };
    let mut rig = Rig::start(cluster, plan(2).globals("drain_timeout = \"30s\""));
    let mut clients: Vec<Raw> = (0..4).map(|_| rig.client()).collect();
    clients[0].select("create table f68 (a int)");
    rig.howdah.term();
    await_draining(&rig);
    refuses_newcomers(&rig);
    // Service goes on, also for new transactions.
    for _ in 0..10 {
        for c in &mut clients {
            c.select("begin");
            c.select("insert into f68 values (1)");
            c.select("commit");
        }
    }
    for mut c in clients {
        c.put(&msg::terminate()).expect_closed();
    }
    exits(&mut rig, Duration::from_secs(15));
    assert_eq!(
        rig.direct(&format!("select count(*) from {}.f68", rig.user)),
        "40",
        "no transaction was lost"
    );
    rig.await_backends("true", 0);
}

#[test]
fn drain_nears_its_timeout() {
    let Some(cluster) = shared(15) else { return };
    let mut rig = Rig::start(cluster, plan(2).globals("drain_timeout = \"1s\""));
    let mut idle = rig.client();
    let mut stuck = rig.client();
    stuck.select("begin");
    rig.howdah.term();
    fatal(&mut idle, "57P01");
    // Whatever clients do, it ends.
    exits(&mut rig, Duration::from_secs(10));
    assert!(stuck.next().is_err() || stuck.next().is_err());
    rig.await_backends("true", 0);
}

#[test]
fn drain_at_transaction_boundaries() {
    let Some(cluster) = shared(15) else { return };
    let globals = "drain = \"transactions\"\ndrain_timeout = \"20s\"";
    let mut rig = Rig::start(cluster, plan(2).globals(globals));
    let (mut idle, mut open, mut running) = (rig.client(), rig.client(), rig.client());
    open.select("create table f68 (a int)");
    open.select("begin");
    running.put(&[msg::pbe("select pg_sleep(2), 'whole'"), msg::sync()].concat());
    rig.await_backends("state = 'active'", 1);
    let mut queued = rig.client();
    queued.put(&msg::query("select 'queued'"));
    rig.howdah.term();
    fatal(&mut idle, "57P01");
    refuses_newcomers(&rig);
    assert_eq!(running.until(b'Z').iter().find(|f| f.tag == b'D').map(|f| f.columns().len()), Some(2));
    fatal(&mut running, "57P01");
    open.select("insert into f68 values (1)");
    assert!(tags(&open.ask(&msg::query("commit"))).ends_with("CZ"));
    fatal(&mut open, "57P01");
    // One that waited is served or told; it is not left hanging.
    let mut last = None;
    while let Ok(f) = queued.next() {
        last = Some(f);
    }
    assert_eq!(last.and_then(|f| f.field(b'C')).as_deref(), Some("57P01"));
    exits(&mut rig, Duration::from_secs(15));
    assert_eq!(rig.direct(&format!("select count(*) from {}.f68", rig.user)), "1");
}

#[test]
fn second_signal_ends_at_once() {
    let fake = Fake::serving();
    let mut rig = Rig::start(&fake, plan(2).globals("drain_timeout = \"60s\""));
    let client = rig.client();
    rig.howdah.term();
    await_draining(&rig);
    rig.howdah.term();
    exits(&mut rig, Duration::from_secs(15));
    drop(client);
}

#[test]
fn the_process_is_killed() {
    let Some(cluster) = shared(15) else { return };
    let mut rig = Rig::start(cluster, plan(2).globals("unix_socket_dir = \"{dir}\""));
    let mut client = rig.client();
    client.select("create table f69 (a int)");
    client.select("begin");
    client.select("insert into f69 values (1)");
    rig.howdah.signal("KILL");
    rig.howdah.wait(harness::rig::SOON);
    assert!(client.next().is_err());
    rig.await_backends("true", 0);
    assert_eq!(rig.direct(&format!("select count(*) from {}.f69", rig.user)), "0", "rolled back");
    let socket = rig.howdah.config_path().with_file_name(format!(".s.PGSQL.{}", rig.howdah.port()));
    assert!(socket.exists(), "its socket is left behind");
    // The same configuration, port and socket file: nothing of the dead is in the way.
    let mut again = Command::new(env!("CARGO_BIN_EXE_howdah"))
        .arg(rig.howdah.config_path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("howdah can be run");
    harness::eventually("it listens again", || Raw::connect(&rig.dsn()).is_ok());
    let unix =
        harness::wire::Dsn { host: socket.parent().expect("a directory").display().to_string(), ..rig.dsn() };
    assert_eq!(Raw::login(&unix).select("select count(*) from f69"), ["0"]);
    rig.full_capacity();
    again.kill().and_then(|()| again.wait()).expect("our own child");
}

fn sources(dir: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push((path.display().to_string(), std::fs::read_to_string(&path).expect("text")));
        }
    }
}

/// No clock can jump that nobody reads: every timeout comes from the monotonic one, through one function.
#[test]
fn the_wall_clock_moves_no_timeout() {
    let mut all = Vec::new();
    sources(&harness::root().join("src"), &mut all);
    assert!(all.len() > 30, "the sources were not found");
    // They tell people and scrapers what time it is, and decide nothing by it.
    let tells = ["/clock.rs", "/app/telemetry.rs", "/ops/stats.rs", "/metrics/events.rs", "/console/view.rs"];
    for (path, text) in &all {
        if tells.iter().any(|t| path.ends_with(t)) {
            continue;
        }
        for wall in ["SystemTime", "UNIX_EPOCH", "chrono::", "CLOCK_REALTIME"] {
            assert!(!text.contains(wall), "{path} has {wall}");
        }
        let apart = path.contains("/demo/") || path.ends_with("/tests.rs");
        assert!(apart || !text.contains("Instant::now"), "{path} asks another clock than clock::Clock");
    }
    let lints = std::fs::read_to_string(harness::root().join(".clippy.toml")).expect("the lints");
    assert!(lints.contains("std::time::SystemTime::now") && lints.contains("std::time::Instant::now"));
}

/// Everything at one time: the load that the drain meets is real.
#[test]
fn drain_under_load_loses_no_transaction() {
    let Some(cluster) = shared(15) else { return };
    let globals = "drain = \"transactions\"\ndrain_timeout = \"20s\"";
    let mut rig = Rig::start(cluster, plan(3).globals(globals));
    rig.client().select("create table f68 (a int)");
    const CLIENTS: usize = 12;
    let working = AtomicUsize::new(0);
    let told: usize = std::thread::scope(|scope| {
        let work = || {
            let mut c = rig.client();
            let mut done = 0;
            loop {
                let frames =
                    [msg::query("begin"), msg::query("insert into f68 values (1)"), msg::query("commit")];
                for f in &frames {
                    if c.send(f).is_err() {
                        return done;
                    }
                    loop {
                        match c.next() {
                            Ok(f) if f.tag == b'Z' => break,
                            Ok(f) if f.tag == b'E' => {
                                assert_eq!(f.field(b'C').as_deref(), Some("57P01"), "{f:?}");
                                return done;
                            }
                            Ok(_) => {}
                            Err(_) => return done,
                        }
                    }
                }
                done += 1;
                // Who logs in later than all is turned away, and that is another test's.
                if done == 1 {
                    working.fetch_add(1, Ordering::Relaxed);
                }
            }
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(work)).collect();
        harness::eventually("the load runs", || working.load(Ordering::Relaxed) == CLIENTS);
        rig.howdah.term();
        clients.into_iter().map(|c| c.join().expect("only 57P01")).sum()
    });
    exits(&mut rig, Duration::from_secs(15));
    let committed = rig.direct(&format!("select count(*) from {}.f68", rig.user));
    assert_eq!(committed, told.to_string(), "what was confirmed is what was committed");
}
