//! Faults of clients: bad frames, sudden ends, slow readers.

use std::time::Instant;

use crate::harness::rig::{Rig, Witness, fatal, plan};
use crate::harness::wire::fake::Fake;
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{self, shared};

/// A message of this type that claims `length` bytes and brings a few.
fn claiming(tag: u8, length: u32) -> Vec<u8> {
    [&[tag][..], &length.to_be_bytes(), b"junk\0"].concat()
}

/// These bytes end the connection with 08P01, be it idle, in a transaction, or behind a query under way.
fn refused_everywhere(rig: &Rig<'_>, bytes: &[u8]) {
    let mut idle = rig.client();
    idle.put(bytes);
    fatal(&mut idle, "08P01");
    let mut busy = rig.client();
    busy.select("create table if not exists f7 (a int)");
    busy.select("begin");
    busy.select("insert into f7 values (1)");
    busy.put(bytes);
    fatal(&mut busy, "08P01");
    let mut behind = rig.client();
    behind.put(&[&msg::query("select 'before'")[..], bytes].concat());
    let mut seen = Vec::new();
    while let Ok(f) = behind.next() {
        seen.push(f);
    }
    let last = seen.last().and_then(|f| f.field(b'C'));
    assert_eq!(last.as_deref(), Some("08P01"), "{}", tags(&seen));
    rig.await_backends("state <> 'idle'", 0);
    assert_eq!(rig.client().select("select count(*) from f7"), ["0"], "rolled back");
}

#[test]
fn message_of_an_impossible_length() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(3));
    let witness = Witness::watch(&rig);
    for bytes in [
        claiming(b'Q', 3),
        claiming(b'Q', 0),
        claiming(b'P', u32::MAX),
        claiming(b'B', 0x4000_0000),
        claiming(b'S', 5),
        claiming(b'D', 20_000),
    ] {
        refused_everywhere(&rig, &bytes);
    }
    witness.content();
    rig.invariants();
}

#[test]
fn message_of_an_unknown_type() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(3));
    let witness = Witness::watch(&rig);
    for tag in [b'y', 0, 0xff, b'p', b'Z'] {
        refused_everywhere(&rig, &claiming(tag, 9));
    }
    witness.content();
    rig.invariants();
}

#[test]
fn reset_while_idle() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let witness = Witness::watch(&rig);
    for n in 0..50 {
        let mut client = rig.client();
        if n % 2 == 0 {
            client.select("select 1");
        }
        client.reset();
    }
    witness.content();
    rig.invariants();
}

/// Leaves in the way of `n`: by RST or by FIN.
fn leave(client: Raw, n: usize) {
    if n.is_multiple_of(2) { client.reset() } else { drop(client) }
}

#[test]
fn client_is_gone_in_the_middle_of_a_query() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(3));
    let witness = Witness::watch(&rig);
    for n in 0..4 {
        let mut client = rig.client();
        let slow = "select pg_sleep(30)";
        client.put(&if n < 2 { msg::query(slow) } else { [msg::pbe(slow), msg::flush()].concat() });
        rig.await_backends("state = 'active' and query like '%pg_sleep(30)%'", 1);
        leave(client, n);
        // Long before the query would have ended.
        rig.await_backends("state = 'active' and query like '%pg_sleep(30)%'", 0);
    }
    // With rows under way that nobody will read.
    for n in 0..4 {
        let mut client = rig.client();
        client.put(&msg::query("select repeat('x', 1000) from generate_series(1, 1000000)"));
        client.expect("TD");
        leave(client, n);
    }
    witness.content();
    rig.invariants();
}

#[test]
fn client_is_gone_in_a_transaction() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let witness = Witness::watch(&rig);
    rig.client().select("create table f11 (a int)");
    for n in 0..6 {
        let mut client = rig.client();
        client.select("begin");
        client.select("insert into f11 values (1)");
        match n / 2 {
            0 => {}
            1 => drop(client.ask(&msg::query("select 1/0"))),
            // Extended, executed, and never synced.
            _ => drop(
                client.put(&[msg::pbe("insert into f11 values (2)"), msg::flush()].concat()).expect("12C"),
            ),
        }
        leave(client, n);
    }
    rig.await_backends("state like 'idle in%'", 0);
    let mut client = rig.client();
    assert_eq!(client.select("select count(*) from f11"), ["0"]);
    client.select("begin");
    assert_eq!(
        client.select("select pg_current_xact_id_if_assigned() is null"),
        ["t"],
        "a transaction of its own"
    );
    drop(client);
    witness.content();
    rig.invariants();
}

#[test]
fn client_is_gone_in_a_copy() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let witness = Witness::watch(&rig);
    rig.client().select("create table f12 (a text)");
    let copy = "copy f12 from stdin";
    for n in 0..6 {
        let mut client = rig.client();
        let begin = if n < 4 { msg::query(copy) } else { [msg::pbe(copy), msg::sync()].concat() };
        client.put(&begin);
        client.until(b'G');
        if n % 4 > 1 {
            client.put(&msg::copy_data(b"row\n").repeat(100));
        }
        leave(client, n);
    }
    // And out of the database: a reader that goes away.
    for n in 0..2 {
        let mut client = rig.client();
        client.put(&msg::query("copy (select repeat('x', 1000) from generate_series(1, 100000)) to stdout"));
        client.expect("Hd");
        leave(client, n);
    }
    rig.await_backends("state <> 'idle' and query like '%copy%'", 0);
    assert_eq!(rig.client().select("select count(*) from f12"), ["0"]);
    witness.content();
    rig.invariants();
}

#[test]
fn half_a_message_was_forwarded() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    rig.client().select("create table f13 (a text)");
    for n in 0..2 {
        let mut client = rig.client();
        client.select("begin");
        let pid = client.select("select pg_backend_pid()").remove(0);
        // Long enough to be streamed: the server has the first part when the client goes.
        let insert = format!("insert into f13 values ('{}')", "x".repeat(1_000_000));
        client.put(&msg::query(&insert)[..700_000]);
        leave(client, n);
        // It cannot be repaired, so it ends; another takes its place.
        rig.await_backends(&format!("pid = {pid}"), 0);
        assert_eq!(rig.client().select("select count(*) from f13"), ["0"]);
    }
    rig.invariants();
}

#[test]
fn terminate_in_a_transaction() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    rig.client().select("create table f14 (a int)");
    let pid = rig.client().select("select pg_backend_pid()");
    let mut client = rig.client();
    client.select("begin");
    client.select("insert into f14 values (1)");
    client.put(&msg::terminate()).expect_closed();
    let mut client = rig.client();
    assert_eq!(client.select("select count(*) from f14"), ["0"]);
    assert_eq!(client.select("select pg_backend_pid()"), pid, "the server was rolled back and kept");
    drop(client);
    rig.invariants();
}

#[test]
fn too_many_clients() {
    let fake = Fake::serving();
    let limits = "max_client_connections = 3\nreserved_client_connections = 0";
    let rig = Rig::start(&fake, plan(2).globals(limits));
    let mut clients: Vec<Raw> = (0..3).map(|_| rig.client()).collect();
    let started = Instant::now();
    for _ in 0..5 {
        assert_eq!(harness::rig::refusal(&rig.dsn()), "53300");
    }
    assert!(started.elapsed() < harness::rig::SOON, "{:?}", started.elapsed());
    for c in &mut clients {
        assert_eq!(c.select("select 'on'"), ["on"]);
    }
    drop(clients);
    rig.invariants();
}

#[test]
fn too_many_clients_of_a_user_or_database() {
    let fake = Fake::serving();
    for limit in ["max_user_client_connections = 2", "max_database_client_connections = 2"] {
        let rig = Rig::start(&fake, plan(2).globals(limit));
        let clients: Vec<Raw> = (0..2).map(|_| rig.client()).collect();
        assert_eq!(harness::rig::refusal(&rig.dsn()), "53300");
        drop(clients);
        rig.invariants();
    }
}

#[test]
fn login_is_never_finished() {
    let fake = Fake::serving();
    let rig = Rig::start(
        &fake,
        plan(2).globals(
            "client_login_timeout = \"1s\"\nmax_login_connections = 20\nmax_client_connections = 50",
        ),
    );
    let witness = Witness::watch(&rig);
    let mut held: Vec<Raw> = (0..10).map(|_| Raw::connect(&rig.dsn()).expect("accepted")).collect();
    let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", &rig.user), ("database", "app")]);
    for (n, raw) in held.iter_mut().enumerate() {
        // Nothing, a part of the first packet, or only a question about encryption.
        match n % 3 {
            0 => {}
            1 => drop(raw.put(&startup[..n])),
            _ => assert_eq!(raw.put(&msg::ssl_request()).byte(), Ok(b'N')),
        }
    }
    let started = Instant::now();
    for raw in &mut held {
        let told = fatal(raw, "08P01");
        assert!(told.field(b'D').is_some_and(|d| d.contains("client_login_timeout is 1.000 s")), "{told:?}");
    }
    assert!(started.elapsed() < harness::rig::SOON, "{:?}", started.elapsed());
    // Those that say nothing take only their own kind's places.
    let many: Vec<Raw> = (0..30).map(|_| Raw::connect(&rig.dsn()).expect("accepted")).collect();
    harness::eventually("places are free again", || {
        Raw::try_login(&rig.dsn(), msg::PROTOCOL_3_0, &[]).is_ok()
    });
    drop(many);
    witness.content();
    rig.invariants();
}

#[test]
fn an_unknown_database_is_told() {
    let fake = Fake::serving();
    let rig = Rig::start(&fake, plan(1));
    let dsn = harness::wire::Dsn { database: "nowhere".into(), ..rig.dsn() };
    assert_eq!(harness::rig::refusal(&dsn), "3D000");
    rig.invariants();
}

#[test]
fn negotiations_of_encryption_and_version() {
    let fake = Fake::serving();
    let rig = Rig::start(&fake, plan(1));
    let mut raw = Raw::connect(&rig.dsn()).expect("accepted");
    for request in [msg::gssenc_request(), msg::ssl_request()] {
        assert_eq!(raw.put(&request).byte(), Ok(b'N'));
    }
    raw.start(&rig.dsn(), msg::PROTOCOL_3_0, &[]).expect("plain text is welcome after a refusal");
    assert_eq!(raw.select("select 'plain'"), ["plain"]);
    drop(raw);
    // A minor version that nobody has, and a parameter that nobody knows: answered once, then a normal login.
    let new = Raw::login_with(&rig.dsn(), (3 << 16) | 99, &[("_pq_.novelty", "1")]);
    let answers: Vec<_> = new.login.iter().filter(|f| f.tag == b'v').collect();
    assert_eq!(answers.len(), 1);
    let body = answers[0].body.as_slice();
    assert!(
        body.starts_with(&[0, 3, 0, 2, 0, 0, 0, 1]) || body.starts_with(&[0, 0, 0, 2, 0, 0, 0, 1]),
        "{body:?}"
    );
    drop(new);
    for version in [2 << 16, 4 << 16] {
        let e = Raw::try_login(&rig.dsn(), version, &[]).err().expect("refused");
        assert!(e.contains("FATAL") && e.contains("0A000"), "{e}");
    }
    // TLS without asking first: a ClientHello is no startup packet.
    let mut raw = Raw::connect(&rig.dsn()).expect("accepted");
    raw.put(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0, 0, 0, 0, 0]);
    match raw.next() {
        Ok(f) => assert!(matches!(f.field(b'C').as_deref(), Some("08P01" | "0A000"))),
        Err(e) => assert_eq!(e, harness::wire::raw::Missing::Closed),
    }
    drop(raw);
    // Plain text in the same segment as the question was put there by somebody else.
    let mut raw = Raw::connect(&rig.dsn()).expect("accepted");
    let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", &rig.user), ("database", "app")]);
    raw.put(&[msg::ssl_request(), startup].concat());
    fatal(&mut raw, "08P01");
    drop(raw);
    rig.invariants();
}
