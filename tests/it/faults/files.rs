//! Out of file descriptors, when a client is accepted and when a server is dialled.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::rig::{Rig, Witness, plan};
use crate::harness::wire::fake::Fake;
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;
use crate::harness::{self, shared};

/// Processor time of a process, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let after = stat.rsplit_once(')').expect("a name").1;
    let fields: Vec<&str> = after.split_whitespace().collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

/// Allows the process `more` files than it has open now.
fn allow_files(pid: u32, more: usize) {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").flatten();
    let open: Vec<usize> = fds.filter_map(|e| e.file_name().to_str()?.parse().ok()).collect();
    // The limit is one of numbers, and the lowest free one is taken.
    let limit = (0..).filter(|n| !open.contains(n)).nth(more).expect("endless");
    // The soft limit only, which can be raised again.
    let limit = format!("--nofile={limit}:");
    let mut prlimit = std::process::Command::new("prlimit");
    harness::tools::succeed(prlimit.args(["--pid", &pid.to_string(), &limit]), "prlimit");
}

#[test]
fn out_of_descriptors_at_accept() {
    let fake = Fake::serving();
    let rig = Rig::start(&fake, plan(2));
    let witness = Witness::watch(&rig);
    let mut first = rig.client();
    allow_files(rig.howdah.pid(), 4);
    let waiting: Vec<Raw> = (0..40).map(|_| Raw::connect(&rig.dsn()).expect("in the backlog")).collect();
    rig.howdah.await_log("cannot accept", harness::rig::SOON);
    let (before, started) = (ticks(rig.howdah.pid()), Instant::now());
    while started.elapsed() < Duration::from_millis(500) {
        assert_eq!(first.select("select 'served'"), ["served"]);
        std::thread::sleep(Duration::from_millis(20));
    }
    let (spent, took) = (ticks(rig.howdah.pid()) - before, started.elapsed());
    assert!(u128::from(spent) * 25 <= took.as_millis(), "it spins: {spent} ticks of 10 ms in {took:?}");
    drop((waiting, first));
    witness.content();
    harness::eventually("served again", || Raw::try_login(&rig.dsn(), msg::PROTOCOL_3_0, &[]).is_ok());
    rig.invariants();
}

#[test]
fn out_of_descriptors_at_dial() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(3));
    let mut clients: Vec<Raw> = (0..6).map(|_| rig.client()).collect();
    // Every server goes; the descriptors that they leave are taken by connections that say nothing.
    rig.direct(&format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = '{}'",
        rig.user
    ));
    rig.await_backends("true", 0);
    harness::eventually("their sockets are closed", || !has_server_sockets(&rig));
    allow_files(rig.howdah.pid(), 0);
    let answered = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for (n, c) in clients.iter_mut().enumerate() {
            let answered = &answered;
            scope.spawn(move || {
                let own = format!("own {n}");
                assert_eq!(c.select(&format!("select '{own}'")), [own]);
                answered.fetch_add(1, Ordering::Relaxed);
            });
        }
        rig.howdah.await_log("out of sockets or descriptors", harness::rig::SOON);
        assert_eq!(answered.load(Ordering::Relaxed), 0, "they wait, and hear nothing");
        allow_files(rig.howdah.pid(), 1000);
    });
    drop(clients);
    rig.invariants();
}

/// Whether Howdah still has a connection to the server.
fn has_server_sockets(rig: &Rig<'_>) -> bool {
    let port = format!(":{:04X}", rig.cluster().port());
    let remote = |l: &str| l.split_whitespace().nth(2).is_some_and(|r| r.ends_with(&port));
    let tcp = std::fs::read_to_string(format!("/proc/{}/net/tcp", rig.howdah.pid())).unwrap_or_default();
    let inodes: Vec<String> = tcp
        .lines()
        .filter(|l| remote(l))
        .filter_map(|l| l.split_whitespace().nth(9).map(|i| format!("socket:[{i}]")))
        .collect();
    let fds = std::fs::read_dir(format!("/proc/{}/fd", rig.howdah.pid())).expect("a process");
    fds.flatten().any(|e| {
        std::fs::read_link(e.path()).is_ok_and(|l| inodes.iter().any(|i| l.as_os_str() == i.as_str()))
    })
}
