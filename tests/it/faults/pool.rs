//! Faults around the queue, cancels and timeouts.

use std::time::{Duration, Instant};

use crate::harness::rig::{Rig, Witness, error_of, errors, fake, fake_that_hangs, fatal, pair, plan};
use crate::harness::wire::fake::Gate;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::wire::{Dsn, msg};
use crate::harness::{self, shared};

/// Somebody who keeps the only server.
fn holder(rig: &Rig<'_>) -> Raw {
    let mut a = rig.client();
    a.select("begin");
    a
}

/// Gives a query to Howdah that finds no server: nothing comes back.
fn queue(client: &mut Raw, sql: &str) {
    client.put(&msg::query(sql));
    client.expect_silence(Duration::from_millis(30));
}

#[test]
fn client_is_gone_while_queued() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut a = holder(&rig);
    a.select("create table f15 (a int)");
    for _ in 0..10 {
        let mut b = rig.client();
        queue(&mut b, "insert into f15 values (1)");
        b.reset();
        let mut c = rig.client();
        queue(&mut c, "insert into f15 values (2)");
        drop(c);
    }
    a.select("commit");
    assert_eq!(a.select("select count(*) from f15"), ["0"], "a request of nobody never runs");
    drop(a);
    rig.invariants();
}

#[test]
fn client_is_gone_at_the_hand_off() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut a = rig.client();
    for n in 0..100 {
        a.select("begin");
        let mut b = rig.client();
        b.put(&msg::query("select 'nobody'"));
        let mut c = rig.client();
        c.put(&msg::query("select 'waiter'"));
        // Both orders, and as close to each other as two writes can be.
        if n % 2 == 0 {
            a.put(&msg::query("commit"));
            b.reset();
        } else {
            b.reset();
            a.put(&msg::query("commit"));
        }
        assert_eq!(c.until(b'Z')[1].text(), "waiter");
        a.until(b'Z');
    }
    drop(a);
    rig.invariants();
}

#[test]
fn waits_too_long_for_a_server() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1).database("query_wait_timeout = \"700ms\""));
    let mut a = holder(&rig);
    let mut b = rig.client();
    let started = Instant::now();
    let frames = b.ask(&msg::query("select 'simple'"));
    assert_eq!(tags(&frames), "EZ");
    assert_eq!(errors(&frames), [pair("ERROR", "53300")]);
    let waited = started.elapsed();
    assert!((Duration::from_millis(700)..harness::rig::SOON).contains(&waited), "{waited:?}");
    let detail = frames[0].field(b'D').unwrap_or_default();
    assert!(detail.contains("1/1") && detail.contains(&rig.user), "live figures: {detail}");
    // In the extended protocol everything up to the Sync is skipped; an unnamed text is nobody's property.
    b.put(&[msg::parse("", "select 'ext'", &[23]), msg::describe(b'S', "")].concat());
    b.put(&[msg::bind("", "", &[], &[None], &[]), msg::execute("", 0), msg::sync()].concat());
    assert_eq!(tags(&b.until(b'Z')), "EZ");
    a.select("commit");
    assert_eq!(b.select("select 'goes on'"), ["goes on"]);
    let frames = b.ask(&[msg::pbe("select 'ext'"), msg::sync()].concat());
    assert_eq!(tags(&frames), "12DCZ");
    drop((a, b));
    rig.invariants();
}

const LONG: &str = "select pg_sleep(20)";

#[test]
fn cancel_of_a_running_query() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let witness = Witness::watch(&rig);
    let mut a = rig.client();
    for statement in [msg::query(LONG), [msg::pbe(LONG), msg::sync()].concat()] {
        a.put(&statement);
        rig.await_backends("state = 'active' and query like '%pg_sleep(20)%'", 1);
        a.cancel(&rig.dsn()).expect("a cancel connection");
        let frames = a.until(b'Z');
        assert_eq!(errors(&frames), [pair("ERROR", "57014")]);
        assert_eq!(a.select("select 'goes on'"), ["goes on"]);
    }
    drop(a);
    witness.content();
    rig.invariants();
}

#[test]
fn cancel_that_comes_too_late_strikes_nobody() {
    let gate = Gate::default();
    let held = gate.clone();
    let fake = fake(move |conn, sql| {
        if !sql.contains("slow") {
            return Ok(false);
        }
        assert!(held.wait(harness::rig::SOON), "the test opens the gate");
        conn.send(&msg::one_row("slow", conn.status))?;
        Ok(true)
    });
    let rig = Rig::start(&fake, plan(1).globals("cancel_wait_timeout = \"20s\""));
    let (mut a, mut b) = (rig.client(), rig.client());
    let release = Gate::default();
    fake.hold_cancels(&release);
    a.put(&msg::query("select 'slow'"));
    fake.wait_until(|s| s.frames.concat().iter().any(|f| f.body.starts_with(b"select 'slow'")));
    // Its sender is answered, by the end of its connection, when the server has dealt with it.
    let (dsn, pid, key) = (rig.dsn(), a.pid, a.key.clone());
    let sender = std::thread::spawn(move || once(&dsn, pid, &key));
    fake.wait_until(|s| s.cancels.len() == 1);
    // The result wins; the server is not handed on while the cancel may still strike.
    gate.open();
    assert_eq!(a.until(b'Z')[1].text(), "slow");
    b.put(&msg::query("select 'innocent'"));
    b.expect_silence(Duration::from_millis(150));
    release.open();
    sender.join().expect("the cancel's connection ends");
    assert_eq!(b.until(b'Z')[1].text(), "innocent");
    // An idle client's cancel goes nowhere.
    a.cancel(&rig.dsn()).expect("a cancel connection");
    b.cancel(&rig.dsn()).expect("a cancel connection");
    assert_eq!(a.select("select 'on'"), ["on"]);
    assert_eq!(fake.cancels().len(), 1);
    drop((a, b));
    rig.invariants();
}

#[test]
fn cancels_at_random_moments() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let witness = Witness::watch(&rig);
    let mut a = rig.client();
    let mut cancelled = 0;
    for n in 0..150 {
        let own = format!("own {n}");
        a.put(&msg::query(&format!("select '{own}', pg_sleep(0.003)")));
        let dsn = rig.dsn();
        std::thread::sleep(Duration::from_micros(u64::from(n % 50u32) * 120));
        a.cancel(&dsn).expect("a cancel connection");
        let frames = a.until(b'Z');
        match tags(&frames).as_str() {
            "TDCZ" => assert_eq!(frames[1].columns()[0].as_deref(), Some(own.as_bytes())),
            _ => {
                assert_eq!(errors(&frames), [pair("ERROR", "57014")]);
                cancelled += 1;
            }
        }
    }
    assert!(cancelled > 0, "the moments were ill chosen");
    drop(a);
    witness.content();
    rig.invariants();
}

#[test]
fn cancel_with_a_wrong_key() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let mut a = rig.client();
    a.put(&msg::query("select 'undisturbed', pg_sleep(1.5)"));
    rig.await_backends("state = 'active'", 1);
    let key = |bytes: &[u8]| bytes.iter().map(|b| b ^ 1).collect::<Vec<u8>>();
    let wrong = [
        (a.pid, key(&a.key)),
        (a.pid, Vec::new()),
        (a.pid, [a.key.clone(), vec![0]].concat()),
        (a.pid + 1000, a.key.clone()),
        (u32::MAX, a.key.clone()),
        (0, Vec::new()),
    ];
    for (pid, key) in wrong {
        let mut raw = Raw::connect(&rig.dsn()).expect("accepted");
        raw.put(&msg::cancel_request(pid, &key));
        // Silent, whatever was wrong with it.
        match raw.next() {
            Err(e) => assert_eq!(e, harness::wire::raw::Missing::Closed),
            Ok(f) => assert!(key.is_empty() && f.tag == b'E', "{f:?}"),
        }
    }
    assert_eq!(a.until(b'Z')[1].text(), "undisturbed");
    drop(a);
    rig.invariants();
}

#[test]
fn cancel_while_queued() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut a = holder(&rig);
    a.select("create table f40 (a int)");
    let mut b = rig.client();
    for request in [
        msg::query("insert into f40 values (1)"),
        [msg::pbe("insert into f40 values (2)"), msg::sync()].concat(),
    ] {
        b.put(&request);
        // One that overtakes the request goes nowhere.
        let error = (0..40).find_map(|_| {
            b.cancel(&rig.dsn()).expect("a cancel connection");
            b.next_within(Duration::from_millis(500)).ok()
        });
        let frames = [vec![error.expect("cancelled")], b.until(b'Z')].concat();
        assert_eq!((tags(&frames).as_str(), errors(&frames)), ("EZ", vec![pair("ERROR", "57014")]));
    }
    a.select("commit");
    assert_eq!(b.select("select count(*) from f40"), ["0"]);
    drop((a, b));
    rig.invariants();
}

#[test]
fn flood_of_cancels() {
    let gate = Gate::default();
    let held = gate.clone();
    let fake = fake(move |conn, sql| {
        if !sql.contains("long") {
            return Ok(false);
        }
        assert!(held.wait(harness::rig::SOON), "the test opens the gate");
        conn.send(&msg::one_row("long", conn.status))?;
        Ok(true)
    });
    let release = Gate::default();
    fake.hold_cancels(&release);
    let limits = "max_cancels_in_flight = 5\ncancel_wait_timeout = \"20s\"";
    let rig = Rig::start(&fake, plan(4).globals(limits));
    let witness = Witness::watch(&rig);
    let mut clients: Vec<Raw> = (0..3).map(|_| rig.client()).collect();
    for c in &mut clients {
        c.put(&msg::query("select 'long'"));
    }
    let sent = |s: &harness::wire::fake::Seen| {
        s.frames.concat().iter().filter(|f| f.body.starts_with(b"select 'long'")).count()
    };
    fake.wait_until(|s| sent(s) == 3);
    std::thread::scope(|scope| {
        for c in &clients {
            let (dsn, pid, key) = (rig.dsn(), c.pid, &c.key);
            scope.spawn(move || flood(&dsn, pid, key));
        }
        let dialled = fake.wait_until(|s| !s.cancels.is_empty()).cancels.len();
        assert!(dialled <= 5, "{dialled} cancels in flight");
        release.open();
    });
    // Every request of the flood has been dealt with: its connection was closed.
    gate.open();
    for c in &mut clients {
        assert_eq!(c.until(b'Z')[1].text(), "long");
    }
    drop(clients);
    witness.content();
    rig.invariants();
}

/// Sends one cancel and waits for the end of its connection.
fn once(dsn: &Dsn, pid: u32, key: &[u8]) {
    let mut raw = Raw::connect(dsn).expect("accepted");
    raw.put(&msg::cancel_request(pid, key));
    raw.expect_closed();
}

fn flood(dsn: &Dsn, pid: u32, key: &[u8]) {
    for _ in 0..20 {
        let mut burst: Vec<Raw> = (0..10).map(|_| Raw::connect(dsn).expect("accepted")).collect();
        for raw in &mut burst {
            raw.put(&msg::cancel_request(pid, key));
        }
        for raw in &mut burst {
            raw.expect_closed();
        }
    }
}

#[test]
fn a_query_timeout_is_told() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1).database("query_timeout = \"500ms\""));
    let mut a = rig.client();
    let pid = a.select("select pg_backend_pid()");
    a.select("create table f42 (a text)");
    let started = Instant::now();
    assert_eq!(error_of(&mut a, LONG), pair("ERROR", "57014"));
    assert!(started.elapsed() < harness::rig::SOON, "{:?}", started.elapsed());
    assert_eq!(a.select("select pg_backend_pid()"), pid, "both connections are kept");
    // In a pipeline what follows the next Sync still runs; in a transaction it is aborted, and the client ends it.
    let batch = [msg::pbe(LONG), msg::sync(), msg::pbe("select 'after'"), msg::sync()].concat();
    a.put(&batch);
    let first = a.until(b'Z');
    assert_eq!(errors(&first), [pair("ERROR", "57014")]);
    assert_eq!(tags(&a.until(b'Z')), "12DCZ");
    a.select("begin");
    assert_eq!(error_of(&mut a, LONG), pair("ERROR", "57014"));
    assert_eq!(error_of(&mut a, "select 1"), pair("ERROR", "25P02"));
    a.select("rollback");
    // A COPY whose client falls silent.
    a.put(&msg::query("copy f42 from stdin"));
    a.until(b'G');
    a.put(&msg::copy_data(b"row\n"));
    let frames = a.until(b'Z');
    assert_eq!(errors(&frames), [pair("ERROR", "57014")]);
    assert_eq!(a.select("select count(*) from f42"), ["0"]);
    // The clock is that of a batch, not of the session.
    for _ in 0..4 {
        assert_eq!(a.select("select pg_sleep(0.2)"), [""]);
    }
    drop(a);
    rig.invariants();
}

#[test]
fn idle_in_transaction_for_too_long() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2).database("idle_transaction_timeout = \"1s\""));
    let witness = Witness::watch(&rig);
    let mut a = rig.client();
    a.select("create table f43 (a int)");
    a.select("begin");
    a.select("insert into f43 values (1)");
    // What runs is not idle.
    assert_eq!(a.select("select pg_sleep(1.4)"), [""]);
    fatal(&mut a, "25P03");
    assert_eq!(rig.client().select("select count(*) from f43"), ["0"]);
    witness.content();
    rig.invariants();
}

#[test]
fn transaction_for_too_long() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2).database("transaction_timeout = \"1s\""));
    let witness = Witness::watch(&rig);
    for (busy, then) in [(true, LONG), (false, "select 1")] {
        let mut a = rig.client();
        a.select("begin");
        a.put(&msg::query(then));
        if !busy {
            a.until(b'Z');
        }
        let started = Instant::now();
        fatal(&mut a, "25P04");
        assert!(started.elapsed() < harness::rig::SOON, "{:?}", started.elapsed());
    }
    rig.await_backends("state = 'active' and query like '%pg_sleep%'", 0);
    witness.content();
    rig.invariants();
}

#[test]
fn an_idle_client_is_ended() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2).database("client_idle_timeout = \"1s\""));
    let witness = Witness::watch(&rig);
    let mut a = rig.client();
    let mut b = rig.client();
    b.select("begin");
    b.put(&msg::query("select 'in a transaction', pg_sleep(1.5)"));
    fatal(&mut a, "57P05");
    assert_eq!(b.until(b'Z')[1].text(), "in a transaction");
    assert!(tags(&b.ask(&msg::query("commit"))).ends_with("CZ"));
    fatal(&mut b, "57P05");
    witness.content();
    rig.invariants();
}

/// Senders of cancels wait for a server that hangs; they take no places of those who want to log in.
#[test]
fn held_cancels_keep_nobody_out() {
    let (fake, gate, release) = fake_that_hangs();
    let limits = "max_login_connections = 2\nmax_client_connections = 6\nreserved_client_connections = 0\n\
                  client_login_timeout = \"1s\"\ncancel_wait_timeout = \"25s\"";
    let rig = Rig::start(&fake, plan(5).globals(limits));
    let mut clients: Vec<Raw> = (0..4).map(|_| rig.client()).collect();
    for c in &mut clients {
        c.put(&msg::query("select hangs"));
    }
    fake.wait_until(|s| {
        s.frames.concat().iter().filter(|f| f.body.starts_with(b"select hangs")).count() == 4
    });
    let mut senders: Vec<Raw> = Vec::new();
    for (n, c) in clients.iter().enumerate() {
        let mut raw = Raw::connect(&rig.dsn()).expect("accepted");
        raw.put(&msg::cancel_request(c.pid, &c.key));
        senders.push(raw);
        fake.wait_until(|s| s.cancels.len() > n);
    }
    // Longer than a login may take: they are no logins, and are not told that they were too slow.
    senders[0].expect_silence(Duration::from_millis(1500));
    let mut newcomer = rig.client();
    assert_eq!(newcomer.select("select 'served'"), ["served"]);
    release.open();
    senders.iter_mut().for_each(|s| s.expect_closed());
    gate.open();
    for c in &mut clients {
        assert_eq!(c.until(b'Z')[1].text(), "hangs");
    }
    drop((clients, newcomer));
    rig.invariants();
}
