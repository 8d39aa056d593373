//! Bugs that other poolers had in the protocol.

use std::io;
use std::time::Duration;

use crate::harness::rig::{Rig, Witness, errors, fake, pair, plan};
use crate::harness::wire::fake::Fake;
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{self, shared};

#[test]
fn not_released_before_the_last_sync() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let (mut a, mut b) = (rig.client(), rig.client());
    let one = |sql: &str| [msg::pbe(sql), msg::sync()].concat();
    a.put(&[one("select 'a1'"), one("select 'a2', pg_sleep(1)"), one("select 'a3'")].concat());
    assert_eq!(a.expect("12DCZ")[2].text(), "a1");
    b.put(&msg::query("select 'b'"));
    b.expect_silence(Duration::from_millis(100));
    a.expect("12DCZ");
    a.expect("12DCZ");
    assert_eq!(b.until(b'Z')[1].text(), "b");
    drop((a, b));
    rig.invariants();
}

#[test]
fn flush_is_no_end() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    std::thread::scope(|scope| {
        for id in 0..12 {
            let rig = &rig;
            scope.spawn(move || {
                let mut c = rig.client();
                for n in 0..40 {
                    let own = format!("{id}/{n}");
                    let parse = msg::parse("", "select $1::text", &[]);
                    c.put(&[parse, msg::describe(b'S', ""), msg::flush()].concat()).expect("1tT");
                    let bind = msg::bind("", "", &[], &[msg::text(&own)], &[]);
                    c.put(&[bind, msg::execute("", 0), msg::flush()].concat());
                    assert_eq!(c.expect("2DC")[1].text(), own);
                    c.put(&msg::sync()).expect("Z");
                }
            });
        }
    });
    rig.invariants();
}

#[test]
fn what_is_skipped_was_not_prepared() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut a = rig.client();
    let bad = [msg::parse("bad", "selekt", &[]), msg::parse("s1", "select 'never'", &[])].concat();
    let rest = [msg::describe(b'S', "s1"), msg::bind("", "s1", &[], &[], &[]), msg::execute("", 0)].concat();
    assert_eq!(tags(&a.ask(&[bad, rest, msg::sync()].concat())), "EZ");
    let frames = a.ask(&[msg::bind("", "s1", &[], &[], &[]), msg::sync()].concat());
    assert_eq!(errors(&frames), [pair("ERROR", "26000")]);
    // The same text by another client, and by this one again, is prepared after all.
    for mut c in [rig.client(), a] {
        let batch = [msg::parse("s1", "select 'now'", &[]), msg::bind("", "s1", &[], &[], &[])].concat();
        assert_eq!(tags(&c.ask(&[batch, msg::execute("", 0), msg::sync()].concat())), "12DCZ");
    }
    rig.invariants();
}

#[test]
fn error_behind_a_flush_comes_at_once() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut a = rig.client();
    a.put(&[msg::parse("", "selekt", &[]), msg::flush()].concat()).expect_error("ERROR", "42601");
    a.put(&msg::sync()).expect("Z");
    assert_eq!(a.select("select 'on'"), ["on"]);
    drop(a);
    rig.invariants();
}

#[test]
fn sync_inside_of_a_copy() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    rig.client().select("create table r10 (a int)");
    for n in 1..=5 {
        let mut a = rig.client();
        a.put(&[msg::pbe("copy r10 from stdin"), msg::sync()].concat());
        a.until(b'G');
        a.put(&[msg::copy_data(b"1\n"), msg::copy_done(), msg::sync()].concat());
        assert_eq!(tags(&a.until(b'Z')), "CZ");
        a.expect_silence(Duration::from_millis(10));
        assert_eq!(a.select("select count(*) from r10"), [n.to_string()]);
    }
    rig.invariants();
}

#[test]
fn late_copy_done_takes_no_server_away() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    rig.client().select("create table r11 (a int check (a > 0))");
    let mut held = Vec::new();
    for n in 0..6 {
        let mut a = rig.client();
        let extended = n % 2 == 1;
        a.put(&if extended { msg::pbe("copy r11 from stdin") } else { msg::query("copy r11 from stdin") });
        if extended {
            a.put(&msg::flush());
        }
        a.until(b'G');
        // Far more than one buffer, so that the server has refused the first row long before the last.
        a.put(&msg::copy_data(b"-1\n").repeat(2000));
        a.put(&msg::copy_done());
        if extended {
            a.put(&msg::sync());
        }
        let frames = a.until(b'Z');
        assert_eq!((tags(&frames).as_str(), errors(&frames)), ("EZ", vec![pair("ERROR", "23514")]));
        a.put(&[msg::copy_data(b"5\n"), msg::copy_done()].concat());
        held.push(a);
    }
    for a in &mut held {
        assert_eq!(a.select("select 'on'"), ["on"]);
    }
    assert_eq!(held[0].select("select count(*) from r11"), ["0"]);
    drop(held);
    rig.invariants();
}

#[test]
fn function_call_is_answered() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut a = rig.client();
    // int4abs(int4), and an oid that nobody has.
    let call = |oid| msg::function_call(oid, &[1], &[Some((-7i32).to_be_bytes().to_vec())], 1);
    let frames = a.ask(&call(1251));
    assert_eq!((tags(&frames).as_str(), &frames[0].body[4..]), ("VZ", &7i32.to_be_bytes()[..]));
    assert_eq!(tags(&a.ask(&call(4_000_000))), "EZ");
    assert_eq!(rig.client().select("select 'free'"), ["free"]);
    drop(a);
    rig.invariants();
}

#[test]
fn no_server_in_the_middle_of_the_extended_protocol() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1).database("query_wait_timeout = \"700ms\""));
    let (mut a, mut b) = (rig.client(), rig.client());
    a.select("begin");
    // One error and one ReadyForQuery; with a Flush alone, the error at once and the rest skipped.
    let named = |name: &str| {
        let parse = msg::parse(name, &format!("select '{name}'"), &[]);
        [parse, msg::bind("", name, &[], &[], &[]), msg::execute("", 0)].concat()
    };
    assert_eq!(tags(&b.ask(&[named("s1"), msg::sync()].concat())), "EZ");
    b.put(&[named("s2"), msg::flush()].concat()).expect_error("ERROR", "53300");
    b.put(&[named("s3"), msg::flush()].concat()).expect_silence(Duration::from_millis(50));
    b.put(&msg::sync()).expect("Z");
    a.select("commit");
    for name in ["s1", "s2", "s3"] {
        let frames = b.ask(&[msg::bind("", name, &[], &[], &[]), msg::sync()].concat());
        assert_eq!(errors(&frames), [pair("ERROR", "26000")], "{name} was never prepared");
        let frames = b.ask(&[named(name), msg::sync()].concat());
        assert_eq!((tags(&frames).as_str(), frames[2].text().as_str()), ("12DCZ", name));
    }
    drop((a, b));
    rig.invariants();
}

#[test]
fn two_errors_and_the_end() {
    let fake = fake(|conn, sql| {
        if !sql.contains("shut down") {
            return Ok(false);
        }
        let one = msg::error("FATAL", "57P01", "terminating connection");
        conn.send(&[one, msg::error("FATAL", "57P02", "and again")].concat())?;
        conn.close()?;
        Err(io::ErrorKind::NotConnected.into())
    });
    let rig = Rig::start(&fake, plan(2));
    let witness = Witness::watch(&rig);
    let mut a = rig.client();
    a.put(&msg::query("shut down"));
    a.expect_error("FATAL", "57P01");
    let mut rest = Vec::new();
    while let Ok(f) = a.next() {
        rest.push(f);
    }
    assert!(errors(&rest).iter().all(|e| *e == pair("FATAL", "57P02")) && rest.len() <= 1, "{rest:?}");
    witness.content();
    rig.invariants();
}

/// A server that ends with a FATAL at the first query that holds `at`, after `before`, once.
fn fatal_at(at: &'static str, before: Vec<u8>) -> Fake {
    let done = std::sync::atomic::AtomicBool::new(false);
    fake(move |conn, sql| {
        if !sql.to_lowercase().contains(at) || done.swap(true, std::sync::atomic::Ordering::SeqCst) {
            return Ok(false);
        }
        conn.send(&before)?;
        conn.send(&msg::error("FATAL", "57P01", "terminating connection"))?;
        conn.close()?;
        Err(io::ErrorKind::NotConnected.into())
    })
}

#[test]
fn fatal_at_every_state_of_a_server() {
    // While it answers, has begun to answer, copies in, copies out.
    let half = [msg::row_description(&["a"]), msg::data_row(&[msg::text("b")])].concat();
    for before in
        [Vec::new(), half, msg::copy_response(b'G', 1), msg::copy_response(b'H', 1), msg::notice("n")]
    {
        let fake = fatal_at("now", before);
        let rig = Rig::start(&fake, plan(2));
        let mut a = rig.client();
        a.put(&msg::query("now"));
        let frames = a.until(b'E');
        assert_eq!(errors(&frames), [pair("FATAL", "57P01")]);
        a.expect_closed();
        rig.invariants();
    }
    // While a parameter is set for its next client.
    let fake = fatal_at("set_config", Vec::new());
    let rig = Rig::start(&fake, plan(2));
    let told = Raw::try_login(&rig.dsn(), msg::PROTOCOL_3_0, &[("DateStyle", "German")]).err().expect("told");
    assert!(told.to_string().contains("FATAL") && told.to_string().contains("08006"), "{told}");
    rig.invariants();
    // While it is reset behind a client that has left state, and while it is rolled back.
    for (statement, at) in [("do 'set something'", "discard"), ("begin", "rollback")] {
        let fake = fatal_at(at, Vec::new());
        let rig = Rig::start(&fake, plan(1));
        let mut a = rig.client();
        a.select(statement);
        drop(a);
        assert_eq!(rig.client().select("select 'next'"), ["next"]);
        assert_eq!(fake.seen().startups, 2, "replaced");
        rig.invariants();
    }
}

#[test]
fn notices_are_no_errors() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut a = rig.client();
    let storm = "do $$ begin for i in 1..500 loop raise warning 'w %', i; end loop; end $$";
    let frames = a.ask(&msg::query(storm));
    assert_eq!(frames.iter().filter(|f| f.tag == b'N').count(), 500);
    assert!(tags(&frames).ends_with("NCZ") && errors(&frames).is_empty());
    assert_eq!(rig.client().select("select 'clean'"), ["clean"]);
    drop(a);
    rig.invariants();
}

#[test]
fn terminate_commits_nothing_and_loses_nothing() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    rig.client().select("create table r81 (a int)");
    let mut a = rig.client();
    let open = [msg::query("begin"), msg::query("insert into r81 values (1)"), msg::terminate()].concat();
    a.put(&open);
    while a.next().is_ok() {}
    // What had ended before the Terminate is done, as it is without a pooler.
    let mut a = rig.client();
    a.put(&[msg::query("insert into r81 values (2)"), msg::terminate()].concat());
    while a.next().is_ok() {}
    harness::eventually("the second row", || rig.client().select("select a from r81") == ["2"]);
    rig.invariants();
}

#[test]
fn one_byte_at_a_time() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut a = Raw::connect(&rig.dsn()).expect("accepted");
    a.chunked(1);
    a.start(&rig.dsn(), msg::PROTOCOL_3_0, &[("application_name", "slow")]).expect("logged in");
    assert_eq!(a.select("select 'simple'"), ["simple"]);
    let named = [msg::parse("s", "select $1::text", &[]), msg::bind("p", "s", &[], &[msg::text("v")], &[])];
    let rest = [msg::describe(b'P', "p"), msg::execute("p", 0), msg::close(b'S', "s"), msg::sync()];
    let frames = a.ask(&[named.concat(), rest.concat()].concat());
    assert_eq!((tags(&frames).as_str(), frames[3].text().as_str()), ("12TDC3Z", "v"));
    drop(a);
    rig.invariants();
}
