//! Faults of servers: they die, refuse, hang, lose and garble.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness;
use crate::harness::rig::{Rig, Witness, fake, fatal, plan, refusal};
use crate::harness::wire::fake::{Auth, Fake, Gate, Login};
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;

/// After `last`, the server waits for the gate and then ends its connection in the way that the query names.
fn dies_when(gate: &Gate) -> Fake {
    let gate = gate.clone();
    fake(move |conn, sql| {
        if !sql.contains("last") {
            return Ok(false);
        }
        conn.send(&msg::one_row("last", conn.status))?;
        assert!(gate.wait(harness::rig::SOON), "the test opens the gate");
        match sql {
            s if s.contains("fatal") => {
                conn.send(&msg::error("FATAL", "57P01", "terminating connection"))?;
                conn.close()?;
            }
            s if s.contains("fin") => conn.close()?,
            _ => conn.reset()?,
        }
        Err(std::io::ErrorKind::NotConnected.into())
    })
}

/// Rows F1, F2 and F5, which differ in how the server goes: its client is idle and hears nothing.
fn dies_while_idle(how: &str) {
    let gate = Gate::default();
    let fake = dies_when(&gate);
    let rig = Rig::start(&fake, plan(2));
    let mut client = rig.client();
    client.select("begin");
    client.select("commit");
    let open = fake.seen().open;
    client.select(&format!("select 'last {how}'"));
    gate.open();
    fake.wait_until(|s| s.open < open);
    client.expect_silence(Duration::from_millis(20));
    for n in 0..5 {
        assert_eq!(client.select(&format!("select 'next {n}'")), [format!("next {n}")]);
    }
    drop(client);
    rig.invariants();
}

#[test]
fn reset_while_idle_in_the_pool() {
    dies_while_idle("reset");
}

#[test]
fn fatal_while_idle_in_the_pool_is_forwarded_to_nobody() {
    dies_while_idle("fatal");
}

#[test]
fn server_ends_between_transactions() {
    dies_while_idle("fin");
}

#[test]
fn server_dies_before_any_byte_of_the_answer() {
    for how in ["reset", "fin"] {
        let fake = fake(move |conn, sql| {
            if !sql.contains("insert") {
                return Ok(false);
            }
            if how == "fin" {
                conn.close()?
            } else {
                conn.reset()?
            }
            Err(std::io::ErrorKind::NotConnected.into())
        });
        let rig = Rig::start(&fake, plan(2));
        let witness = Witness::watch(&rig);
        let mut client = rig.client();
        client.put(&msg::query("insert into t values (1)"));
        fatal(&mut client, "08006");
        witness.content();
        let sent = fake.seen().frames.concat();
        let inserts = sent.iter().filter(|f| f.body.starts_with(b"insert")).count();
        assert_eq!(inserts, 1, "what may have run is never sent again");
        rig.invariants();
    }
}

#[test]
fn server_dies_in_the_middle_of_a_result() {
    let fake = fake(|conn, sql| {
        if !sql.contains("cut") {
            return Ok(false);
        }
        conn.send(&msg::row_description(&["a"]))?;
        conn.send(&msg::data_row(&[msg::text("one")]).repeat(3))?;
        if sql.contains("half") {
            conn.send(&msg::data_row(&[msg::text("two")])[..9])?;
        }
        conn.close()?;
        Err(std::io::ErrorKind::NotConnected.into())
    });
    let rig = Rig::start(&fake, plan(2));
    let mut client = rig.client();
    client.put(&msg::query("select cut"));
    assert_eq!(client.expect("TDDD")[3].text(), "one");
    fatal(&mut client, "08006");
    // Half a row cannot be completed: no error can follow it, only the end.
    let mut client = rig.client();
    client.put(&msg::query("select cut half")).expect("TDDD");
    assert!(matches!(client.next(), Err(harness::wire::raw::Missing::Broken(_))));
    rig.invariants();
}

#[test]
fn server_dies_in_an_idle_transaction() {
    let gate = Gate::default();
    let fake = dies_when(&gate);
    let rig = Rig::start(&fake, plan(3));
    let witness = Witness::watch(&rig);
    for (how, code) in [("reset", "08006"), ("fatal", "57P01")] {
        let mut client = rig.client();
        client.select("begin");
        client.select(&format!("select 'last {how}'"));
        gate.open();
        // It may hear of it before it asks again, but never twice.
        let _ = client.send(&msg::query("select 'next'"));
        fatal(&mut client, code);
    }
    witness.content();
    rig.invariants();
}

/// A port that refuses.
fn closed_port() -> u16 {
    harness::free_port().expect("a port")
}

#[test]
fn connect_refused() {
    let fake = Fake::serving();
    let refused = format!("\"127.0.0.1:{}\"", closed_port());
    let rig = Rig::unproven(&fake, plan(2).hosts(&refused));
    for _ in 0..3 {
        assert!(["57P03", "08001"].contains(&refusal(&rig.dsn()).as_str()));
    }
    // With another host that serves, nobody hears of the one that does not.
    let both = format!("{refused}, \"{{backend}}\"");
    let mut rig = Rig::unproven(&fake, plan(2).hosts(&both));
    rig.take_baseline();
    rig.invariants();
}

#[test]
fn connect_goes_unanswered() {
    // A listener whose queue is full drops what else comes.
    let hole = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    hole.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address").into()).expect("bound");
    hole.listen(0).expect("listening");
    let hole = TcpListener::from(hole);
    let at = hole.local_addr().expect("bound");
    let mut fill = Vec::new();
    while let Ok(s) = TcpStream::connect_timeout(&at, Duration::from_millis(100)) {
        fill.push(s);
    }
    let fake = Fake::serving();
    let both = format!("\"{at}\", \"{{backend}}\"");
    let short = "server_connect_timeout = \"500ms\"";
    let mut rig = Rig::unproven(&fake, plan(2).globals(short).hosts(&both));
    rig.take_baseline();
    rig.invariants();
    let alone = format!("\"{at}\"");
    let rig = Rig::unproven(&fake, plan(1).globals(short).hosts(&alone));
    let started = Instant::now();
    assert_eq!(refusal(&rig.dsn()), "57P03");
    assert!(started.elapsed() < harness::rig::SOON, "{:?}", started.elapsed());
    // Its place was given back: the next attempt is one of its own, and fails alike.
    assert_eq!(refusal(&rig.dsn()), "57P03");
}

#[test]
fn established_server_falls_silent() {
    let gate = Gate::default();
    let held = gate.clone();
    let fake = fake(move |_, sql| {
        if sql.contains("silence") {
            let _ = held.wait(harness::rig::SOON);
            return Err(std::io::ErrorKind::TimedOut.into());
        }
        Ok(false)
    });
    fake.hold_cancels(&gate);
    let short = "cancel_wait_timeout = \"200ms\"";
    let rig = Rig::start(&fake, plan(2).globals(short).database("query_timeout = \"800ms\""));
    let witness = Witness::watch(&rig);
    let mut client = rig.client();
    let started = Instant::now();
    client.put(&msg::query("select silence"));
    fatal(&mut client, "08006");
    assert!(started.elapsed() < harness::rig::SOON, "{:?}", started.elapsed());
    witness.content();
    gate.open();
    rig.invariants();
}

/// What the server says of our login reaches the client word for word; attempts are spaced, however many ask.
fn login_refused(auth: Auth, refusal_of: impl Fn() -> Vec<u8> + Send + Sync + 'static, code: &str) {
    let fake = Fake::start(move |conn| {
        conn.send(&refusal_of())?;
        conn.login(&Login { auth: auth.clone(), ..Login::default() })
    });
    let rig = Rig::unproven(&fake, plan(4));
    let started = Instant::now();
    let mut asked = 0;
    while started.elapsed() < Duration::from_millis(1500) {
        let e = Raw::try_login(&rig.dsn(), msg::PROTOCOL_3_0, &[]).err().expect("refused");
        assert!(e.contains(&format!("C=\"{code}\"")) && e.contains("S=\"FATAL\""), "{e}");
        asked += 1;
    }
    let logins = fake.seen().startups;
    // 50, 100, 200, 400, 400, … ms, a quarter less at most; up to four pools' worth of first attempts.
    assert!((2..=14).contains(&logins) && asked > logins, "{logins} logins for {asked} clients");
    rig.log_is_clean();
}

#[test]
fn wrong_password_of_our_own() {
    login_refused(Auth::Md5("another".into()), Vec::new, "28P01");
}

#[test]
fn database_is_not_on_the_server() {
    let e = || msg::error("FATAL", "3D000", "database \"app\" does not exist");
    login_refused(Auth::Trust, e, "3D000");
}

/// The first logins are refused for the moment: nobody hears of it, everybody waits.
fn not_yet(code: &'static str) {
    let tries = AtomicUsize::new(0);
    let fake = Fake::start(move |conn| {
        if tries.fetch_add(1, Ordering::SeqCst) < 4 {
            return conn.send(&msg::error("FATAL", code, "not now"));
        }
        conn.login(&Login::default())?;
        conn.serve()
    });
    let mut rig = Rig::unproven(&fake, plan(3));
    std::thread::scope(|scope| {
        for n in 0..10 {
            let rig = &rig;
            scope.spawn(move || {
                let own = format!("own {n}");
                assert_eq!(rig.client().select(&format!("select '{own}'")), [own]);
            });
        }
    });
    rig.take_baseline();
    rig.invariants();
}

#[test]
fn server_is_starting() {
    not_yet("57P03");
}

#[test]
fn server_is_full() {
    not_yet("53300");
}

#[test]
fn waiters_of_a_server_that_never_starts_time_out() {
    let fake = Fake::start(|conn| conn.send(&msg::error("FATAL", "57P03", "starting")));
    let rig = Rig::unproven(&fake, plan(1).database("query_wait_timeout = \"300ms\""));
    assert_eq!(refusal(&rig.dsn()), "53300");
    rig.log_is_clean();
}
