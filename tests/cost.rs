//! What a transaction and a client may cost, counted and never timed: heap allocations per transaction and bytes per
//! idle client in this process, system calls and instructions per transaction with `strace` and callgrind around the
//! built binary. The bounds leave room for another kernel, library or compiler and none for another allocation or call
//! in each transaction. A program of its own, because it has an allocator that counts, and runs its tests one at a time.

#![allow(clippy::indexing_slicing, reason = "the numbers are the test's own, and a panic is a failed test")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test waits for real time, and fails by panicking"
)]

#[path = "it/harness/left_out.rs"]
mod left_out;

use std::alloc::System;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use howdah::app::Service;
use howdah::config::{Overrides, load};
use howdah::demo::process::free_port;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts for the whole process.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const READY: &[u8] = b"Z\0\0\0\x05I";
const QUERY: &[u8] = b"Q\0\0\0\x0dselect 1\0";
const ANSWER: &[u8] = b"C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05I";
/// Unnamed Parse, Bind, Execute, Sync.
const EXTENDED: &[u8] =
    b"P\0\0\0\x10\0select 1\0\0\0B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
const EXTENDED_ANSWER: &[u8] = b"1\0\0\0\x042\0\0\0\x04C\0\0\0\x0dSELECT 0\0Z\0\0\0\x05I";

/// Logs everybody in and answers each query; allocates nothing while it does.
fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buf = [0; 4096];
    // The startup packet comes in one piece, as everything here does.
    let _ = stream.read(&mut buf)?;
    stream.write_all(b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02")?;
    stream.write_all(READY)?;
    loop {
        match stream.read(&mut buf)? {
            0 => return Ok(()),
            _ if buf[0] == b'Q' => stream.write_all(ANSWER)?,
            _ if buf[0] == b'P' => stream.write_all(EXTENDED_ANSWER)?,
            _ => {}
        }
    }
}

fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

fn config(port: u16, workers: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let text = format!(
        "listen = [\"127.0.0.1:{port}\"]\nops_listen = \"off\"\nauth_method = \"trust\"\nworkers = {workers}\n\
         log_connections = false\nlog_disconnections = false\n\
         [users.app]\n[databases.app]\nhost = \"{}\"\npool_size = 2\n",
        backend()
    );
    std::fs::write(file.path(), text).unwrap();
    file
}

/// Reads until the last of `end` has come.
fn read_to(stream: &mut TcpStream, end: &[u8]) {
    let mut buf = [0; 4096];
    let mut len = 0;
    while !buf[..len].ends_with(end) {
        let n = stream.read(&mut buf[len..]).unwrap();
        assert!(n > 0, "closed");
        len += n;
    }
}

fn connect(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut s = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(s) => break s,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(20)),
            Err(e) => panic!("nobody listens: {e}"),
        }
    };
    s.set_nodelay(true).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    s.write_all(b"\0\0\0\x1f\0\x03\0\0user\0app\0database\0app\0\0").unwrap();
    read_to(&mut s, READY);
    s
}

fn transactions(client: &mut TcpStream, n: usize, query: &[u8], answer: &[u8]) {
    for _ in 0..n {
        client.write_all(query).unwrap();
        read_to(client, answer);
    }
}

/// Howdah inside of this process.
fn started(port: u16) -> (Service, tempfile::NamedTempFile) {
    let file = config(port, 2);
    let config = load(file.path(), &Overrides::default()).unwrap();
    (Service::start(Arc::new(config)).unwrap(), file)
}

#[test]
fn a_transaction_allocates_nothing() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let port = free_port().unwrap();
    let (service, _file) = started(port);
    let mut client = connect(port);
    for (what, query, answer) in [("simple", QUERY, ANSWER), ("extended", EXTENDED, EXTENDED_ANSWER)] {
        transactions(&mut client, 200, query, answer);
        let (region, began, n) = (Region::new(ALLOCATOR), Instant::now(), 4000);
        transactions(&mut client, n, query, answer);
        let made = region.change().allocations;
        // What is done by time and not by transaction: the janitor's ticks.
        let ticks = began.elapsed().as_millis() as usize / 25 + 1;
        let bound = n / 20 + ticks * 20;
        println!("{what}: {made} allocations in {n} transactions and {ticks} ticks (at most {bound})");
        assert!(made <= bound, "{what}: {made} allocations in {n} transactions, at most {bound}");
    }
    service.shut_down();
}

#[test]
fn an_idle_client_is_small() {
    /// Bytes on the heap for each, with the task, the socket's registration and its place in all maps.
    const BOUND: usize = 2460;
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    let port = free_port().unwrap();
    let (service, _file) = started(port);
    let mut first = connect(port);
    transactions(&mut first, 100, QUERY, ANSWER);
    let (region, n) = (Region::new(ALLOCATOR), 200);
    let mut clients: Vec<TcpStream> = Vec::with_capacity(n);
    for _ in 0..n {
        let mut client = connect(port);
        transactions(&mut client, 2, QUERY, ANSWER);
        clients.push(client);
    }
    let change = region.change();
    let held = change.bytes_allocated.saturating_sub(change.bytes_deallocated) / n;
    println!("{held} bytes for each of {n} idle clients (at most {BOUND})");
    assert!(held <= BOUND, "{held} bytes for each idle client, at most {BOUND}");
    drop(clients);
    service.shut_down();
}

/// How often `call` stands in the lines of a trace.
fn calls(trace: &str, call: &str) -> usize {
    let call = format!("{call}(");
    trace.lines().filter(|l| l.split_whitespace().nth(1).is_some_and(|c| c.starts_with(&call))).count()
}

#[test]
fn a_transaction_is_two_reads_and_two_writes() {
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    if !Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_ok_and(|s| s.success()) {
        left_out::left_out("system calls per transaction", "strace is not on this machine");
        return;
    }
    let port = free_port().unwrap();
    let file = config(port, 1);
    let trace = tempfile::NamedTempFile::new().unwrap();
    let which =
        "trace=recvfrom,sendto,recvmsg,sendmsg,readv,writev,epoll_ctl,setsockopt,futex,timerfd_settime";
    let mut strace = Command::new("strace")
        .args(["-f", "-qq", "-e", which, "-e", "signal=none", "-o"])
        .arg(trace.path())
        .arg(env!("CARGO_BIN_EXE_howdah"))
        .arg(file.path())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if strace.try_wait().unwrap().is_some() {
            left_out::left_out("system calls per transaction", "strace may not trace here");
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let (mut client, n) = (connect(port), 2000);
    transactions(&mut client, n, QUERY, ANSWER);
    drop(client);
    // The first word of each line is the number of the thread, and the first that speaks is the process.
    let pid = |text: &str| text.split_whitespace().next().map(str::to_owned);
    let text = std::fs::read_to_string(trace.path()).unwrap();
    let killed = pid(&text).map(|pid| Command::new("kill").arg(pid).status());
    assert!(killed.is_some_and(|k| k.is_ok_and(|s| s.success())), "it wrote nothing: {text:?}");
    strace.wait().unwrap();
    let text = std::fs::read_to_string(trace.path()).unwrap();
    let moves = ["recvfrom", "sendto", "recvmsg", "sendmsg", "readv", "writev"];
    let moves: usize = moves.iter().map(|c| calls(&text, c)).sum();
    let others: usize =
        ["epoll_ctl", "setsockopt", "futex", "timerfd_settime"].iter().map(|c| calls(&text, c)).sum();
    println!("{n} transactions: {moves} reads and writes, {others} others");
    assert!(moves >= 4 * n, "the trace has only {moves}");
    assert!(moves <= 4 * n + n / 5 + 200, "{moves} reads and writes for {n} transactions");
    assert!(others <= n / 10 + 200, "{others} calls besides for {n} transactions");
}

/// Instructions of a run of so many transactions by one client, the start included.
fn instructions(n: usize, query: &[u8], answer: &[u8]) -> u64 {
    let port = free_port().unwrap();
    let file = config(port, 1);
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut valgrind = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", out.path().display()))
        .arg(env!("CARGO_BIN_EXE_howdah"))
        .arg(file.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(valgrind.try_wait().unwrap().is_none(), "it has ended");
        assert!(began.elapsed() < Duration::from_secs(120), "it does not listen");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut client = connect(port);
    transactions(&mut client, n, query, answer);
    drop(client);
    assert!(Command::new("kill").arg(valgrind.id().to_string()).status().unwrap().success());
    valgrind.wait().unwrap();
    let text = std::fs::read_to_string(out.path()).unwrap();
    let total = text.lines().find_map(|l| l.strip_prefix("totals:").or_else(|| l.strip_prefix("summary:")));
    total.expect("a total").trim().parse().expect("a number")
}

/// Counted as this test is built: without optimisation it is many times what a release costs, and a step that is
/// added to each transaction shows all the same.
#[test]
fn a_transaction_takes_so_many_instructions() {
    const N: usize = 2000;
    let _alone = ONE_AT_A_TIME.lock().unwrap();
    if !Command::new("valgrind").arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success()) {
        left_out::left_out("instructions per transaction", "valgrind is not on this machine");
        return;
    }
    let bounds = if cfg!(debug_assertions) { [45_000, 54_200] } else { [12_000, 14_000] };
    for ((what, query, answer), bound) in
        [("simple", QUERY, ANSWER), ("extended", EXTENDED, EXTENDED_ANSWER)].into_iter().zip(bounds)
    {
        // What is done once is in both.
        let measured = || {
            let few = instructions(N / 10, query, answer);
            instructions(N / 10 + N, query, answer).saturating_sub(few) / N as u64
        };
        // Other work on the machine only adds to it: a task is woken in vain, say.
        let mut least = measured();
        for _ in 0..2 {
            if least > bound {
                least = least.min(measured());
            }
        }
        println!("{what}: {least} instructions for each transaction (at most {bound})");
        assert!(least <= bound, "{what}: {least} instructions for each transaction, at most {bound}");
    }
}
