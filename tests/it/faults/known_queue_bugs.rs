//! Bugs that other poolers had in queue, hand-off and clean-up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::rig::{Rig, Witness, plan};
use crate::harness::wire::fake::{Fake, Login};
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;
use crate::harness::{self, shared};

/// Every kind of message, in a transaction that is never committed.
fn whole_session(table: &str) -> Vec<u8> {
    let insert = format!("insert into {table} values ($1)");
    [
        msg::query("begin"),
        msg::parse("s", &insert, &[]),
        msg::bind("", "s", &[], &[msg::text("cut")], &[]),
        msg::describe(b'P', ""),
        msg::execute("", 0),
        msg::sync(),
        msg::query(&format!("copy {table} from stdin")),
        msg::copy_data(b"row\n"),
        msg::copy_done(),
        msg::query(&format!("select * from {table}")),
        msg::close(b'S', "s"),
        msg::flush(),
    ]
    .concat()
}

#[test]
fn cut_at_every_byte() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let witness = Witness::watch(&rig);
    rig.client().select("create table r57 (a text)");
    let bytes = whole_session("r57");
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let (rig, bytes) = (&rig, &bytes);
            scope.spawn(move || {
                for at in (lane..bytes.len()).step_by(4) {
                    let mut c = rig.client();
                    c.put(&bytes[..at]);
                    // Gone at once, or while the answers come: different await points.
                    if at % 3 == 0 {
                        let _ = c.next_within(Duration::from_millis(2));
                    }
                    if at % 2 == 0 { c.reset() } else { drop(c) }
                }
            });
        }
    });
    witness.content();
    rig.await_backends("state like 'idle in%'", 0);
    assert_eq!(rig.client().select("select count(*) from r57"), ["0"]);
    rig.invariants();
}

#[test]
fn waiters_aborted_at_random() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(3));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for lane in 0u64..6 {
            let (rig, stop) = (&rig, &stop);
            scope.spawn(move || {
                let mut n = lane;
                while !stop.load(Ordering::Relaxed) {
                    n += 1;
                    let mut c = rig.client();
                    let own = format!("own {lane} {n}");
                    c.put(&msg::query(&format!("select '{own}', pg_sleep(0.001)")));
                    std::thread::sleep(Duration::from_micros(n * 373 % 4000));
                    match n % 3 {
                        0 => c.reset(),
                        1 => drop(c),
                        _ => assert_eq!(c.until(b'Z')[1].columns()[0].as_deref(), Some(own.as_bytes())),
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_secs(2));
        stop.store(true, Ordering::Relaxed);
    });
    rig.invariants();
}

/// A server that can be down (resets whoever is there and whoever comes) and whose logins take a while.
fn fragile(down: &Arc<AtomicBool>) -> Fake {
    let down = Arc::clone(down);
    Fake::start(move |conn| {
        if down.load(Ordering::SeqCst) {
            return conn.reset();
        }
        conn.login(&Login { delay: Duration::from_millis(15), ..Login::default() })?;
        let down = Arc::clone(&down);
        conn.serve_with(&move |conn, _| {
            if down.load(Ordering::SeqCst) {
                conn.reset()?;
                return Err(io::ErrorKind::NotConnected.into());
            }
            Ok(false)
        })
    })
}

/// Asks until it is answered; until then it may only be told that it cannot connect now.
fn served_in_the_end(rig: &Rig<'_>, own: &str) {
    let deadline = Instant::now() + harness::rig::SOON;
    loop {
        assert!(Instant::now() < deadline, "never served");
        match Raw::try_login(&rig.dsn(), msg::PROTOCOL_3_0, &[]) {
            Ok(mut c) => {
                c.put(&msg::query(&format!("select '{own}'")));
                match c.next() {
                    Ok(f) if f.tag == b'T' => {
                        assert_eq!(c.until(b'Z')[0].text(), own);
                        return;
                    }
                    Ok(f) => assert_eq!(f.field(b'C').as_deref(), Some("57P03"), "{f:?}"),
                    Err(e) => panic!("{e:?} instead of an answer"),
                }
            }
            Err(e) => assert!(e.contains("57P03"), "{e}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn no_storm_of_logins() {
    let down = Arc::new(AtomicBool::new(false));
    let fake = fragile(&down);
    let rig = Rig::start(&fake, plan(30).globals("max_parallel_connects = 4"));
    assert!(fake.seen().most_logging_in <= 4, "{}", fake.seen().most_logging_in);
    let mut clients: Vec<Raw> = (0..100).map(|_| rig.client()).collect();
    // All servers go at one time, and stay away for a while.
    down.store(true, Ordering::SeqCst);
    for c in &mut clients {
        c.put(&msg::query("select 'outage'"));
    }
    fake.wait_until(|s| s.open == 0);
    let (before, since) = (fake.seen().startups, Instant::now());
    std::thread::sleep(Duration::from_millis(700));
    let tries = fake.seen().startups - before;
    // 50, 100, 200, 400, 400, … ms, a quarter less at most, and at most four at a time; not one for each client.
    let rounds = 4 + since.elapsed().as_millis() as usize / 300;
    assert!(tries <= 4 * rounds, "{tries} logins in {:?}", since.elapsed());
    down.store(false, Ordering::SeqCst);
    drop(clients);
    std::thread::scope(|scope| {
        for n in 0..60 {
            let rig = &rig;
            scope.spawn(move || {
                served_in_the_end(rig, &format!("back {n}"));
            });
        }
    });
    assert!(fake.seen().most_logging_in <= 4, "{}", fake.seen().most_logging_in);
    rig.invariants();
}

#[test]
fn starting_up_for_three_seconds() {
    let since = Instant::now();
    let fake = Fake::start(move |conn| {
        if since.elapsed() < Duration::from_secs(3) {
            return conn.send(&msg::error("FATAL", "57P03", "the database system is starting up"));
        }
        conn.login(&Login::default())?;
        conn.serve()
    });
    let mut rig = Rig::unproven(&fake, plan(3));
    std::thread::scope(|scope| {
        for n in 0..20 {
            let rig = &rig;
            scope.spawn(move || {
                let own = format!("own {n}");
                assert_eq!(rig.client().select(&format!("select '{own}'")), [own]);
            });
        }
    });
    // Three at a time: at once, after at least 150 ms, then at least 300 ms apart (the ceiling of 400 ms less its
    // jitter): eleven rounds in 3 s, and those that served.
    let tries = fake.seen().startups;
    assert!(tries <= 36, "{tries} logins in 3 s");
    rig.take_baseline();
    rig.invariants();
}

#[test]
fn what_timed_out_never_runs() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1).database("query_wait_timeout = \"700ms\""));
    let mut a = rig.client();
    a.select("create table r65 (a int)");
    a.select("begin");
    let insert = "insert into r65 values (1)";
    let simple = msg::query(insert);
    let extended = [msg::pbe(insert), msg::sync()].concat();
    let flushed = [msg::pbe(insert), msg::flush()].concat();
    let unfinished = [msg::pbe(insert), msg::pbe(insert)].concat();
    let mut clients: Vec<Raw> = [simple, extended, flushed, unfinished]
        .iter()
        .map(|bytes| {
            let mut c = rig.client();
            c.put(bytes);
            c
        })
        .collect();
    for c in &mut clients {
        c.expect_error("ERROR", "53300");
    }
    clients[0].expect("Z");
    clients[1].expect("Z");
    a.select("commit");
    for c in &mut clients[2..] {
        c.put(&msg::sync()).expect("Z");
    }
    for c in &mut clients {
        assert_eq!(c.select("select count(*) from r65"), ["0"]);
    }
    drop((a, clients));
    rig.invariants();
}

#[test]
fn all_idle_servers_are_terminated() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(8));
    let mut clients: Vec<Raw> = (0..20).map(|_| rig.client()).collect();
    for _ in 0..3 {
        rig.full_capacity();
        let mine = format!("from pg_stat_activity where usename = '{}'", rig.user);
        rig.direct(&format!("select count(pg_terminate_backend(pid)) {mine}"));
        rig.await_backends("true", 0);
        for n in 0..100 {
            let own = format!("own {n}");
            let i = n % clients.len();
            assert_eq!(clients[i].select(&format!("select '{own}'")), [own]);
        }
    }
    drop(clients);
    rig.invariants();
}

#[test]
fn resets_by_the_hundred() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(3));
    for round in 0..4 {
        let mut clients: Vec<Raw> = (0..60).map(|_| rig.client()).collect();
        for (n, c) in clients.iter_mut().enumerate() {
            let sql = ["begin", "select 1", "select pg_sleep(0.05)", "listen x"][(n + round) % 4];
            c.put(&msg::query(sql));
        }
        clients.into_iter().for_each(Raw::reset);
    }
    rig.invariants();
}

/// The server never sees a part of a message of somebody who left, followed by somebody else's.
#[test]
fn cut_at_every_byte_of_a_bind() {
    let fake = Fake::serving();
    let rig = Rig::start(&fake, plan(1));
    let parse = msg::parse("", "select $1::text", &[]);
    let bind = msg::bind("", "", &[0], &[msg::text("half"), None], &[0]);
    for at in 0..bind.len() {
        let mut a = rig.client();
        // With the Parse answered, the part of the Bind comes alone.
        a.put(&[parse.clone(), msg::flush()].concat());
        a.expect("1");
        a.put(&bind[..at]);
        if at % 2 == 0 {
            a.reset()
        } else {
            drop(a)
        }
        assert_eq!(rig.client().select("select 'own'"), ["own"], "after {at} bytes");
    }
    fake.assert_clean();
    rig.invariants();
}

#[test]
fn many_slow_readers_cost_bounded_memory() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(25).globals("client_write_timeout = \"1s\""));
    let resident = || -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", rig.howdah.pid())).expect("a process");
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("a line").to_owned();
        line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
    };
    let before = resident();
    let mut clients: Vec<Raw> = (0..24).map(|_| rig.client()).collect();
    for c in &mut clients {
        c.put(&msg::query("select repeat('x', 1000) from generate_series(1, 100000)"));
    }
    rig.await_backends("state = 'active' and query like '%100000%'", 24);
    // The pool has one more place: others are served meanwhile.
    assert_eq!(rig.client().select("select 'other'"), ["other"]);
    let grown = resident().saturating_sub(before);
    assert!(grown < 24 * 2 * 128, "{grown} kB for 24 readers");
    rig.await_backends("state = 'active' and query like '%100000%'", 0);
    drop(clients);
    rig.invariants();
}

/// A statement whose last bytes never came must not be completed by a message of our own, and run.
#[test]
fn an_unfinished_statement_never_runs() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    rig.client().select("create table r73 (a text)");
    // Longer than what is looked at whole, so that its beginning is with the server already.
    let long = msg::query(&format!("insert into r73 values ('{}') -- the end", "x".repeat(200_000)));
    for missing in 1..=6 {
        let mut c = rig.client();
        c.put(&long[..long.len() - missing]);
        c.expect_silence(Duration::from_millis(30));
        drop(c);
        assert_eq!(rig.client().select("select count(*) from r73"), ["0"], "{missing} bytes were missing");
    }
    rig.invariants();
}
