//! What happens around a timeout, in transactions, pipelines and races, and cancels that meet
//! Howdah's own statements.

use std::time::Duration;

use crate::harness::rig::{Rig, error_of, errors, fake, pair, plan};
use crate::harness::wire::fake::Gate;
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{self, shared};

const LONG: &str = "select pg_sleep(20)";
const SHORT: &str = "cancel_wait_timeout = \"1s\"";

#[test]
fn transaction_goes_on_after_a_query_timeout() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1).globals(SHORT).database("query_timeout = \"500ms\""));
    let mut a = rig.client();
    a.select("begin");
    a.select("savepoint s");
    assert_eq!(error_of(&mut a, LONG), pair("ERROR", "57014"));
    // Longer than the server had for its answer to the cancel, which it gave.
    std::thread::sleep(Duration::from_millis(1200));
    a.select("rollback to s");
    for _ in 0..4 {
        assert_eq!(a.select("select pg_sleep(0.2), 'fine'"), [""]);
    }
    assert_eq!(error_of(&mut a, LONG), pair("ERROR", "57014"), "a second one is cancelled as well");
    a.select("rollback");
    drop(a);
    rig.invariants();
}

#[test]
fn every_batch_of_a_pipeline_has_its_own_time() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1).globals(SHORT).database("query_timeout = \"800ms\""));
    let mut a = rig.client();
    let batch = |sql: &str| [msg::pbe(sql), msg::sync()].concat();
    // None of them is too long, all of them together are.
    a.put(&batch("select pg_sleep(0.3)").repeat(5));
    for _ in 0..5 {
        assert_eq!(tags(&a.until(b'Z')), "12DCZ");
    }
    a.put(&batch(LONG).repeat(3));
    for _ in 0..3 {
        assert_eq!(errors(&a.until(b'Z')), [pair("ERROR", "57014")]);
    }
    assert_eq!(a.select("select 'on'"), ["on"]);
    drop(a);
    rig.invariants();
}

#[test]
fn server_that_waits_for_a_sync_is_not_slow() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1).globals(SHORT).database("query_timeout = \"500ms\""));
    let mut a = rig.client();
    a.put(&[msg::pbe("select 'answered'"), msg::flush()].concat()).expect("12DC");
    a.expect_silence(Duration::from_millis(1000));
    a.put(&msg::sync()).expect("Z");
    // The same behind an error, where the server waits for nothing but the Sync.
    a.put(&[msg::pbe(LONG), msg::flush()].concat()).expect("12");
    a.expect_error("ERROR", "57014");
    a.expect_silence(Duration::from_millis(1000));
    a.put(&msg::sync()).expect("Z");
    assert_eq!(a.select("select 'on'"), ["on"]);
    drop(a);
    rig.invariants();
}

#[test]
fn the_result_wins_the_race() {
    let fake = fake(|conn, sql| {
        if !sql.contains("late") {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(900));
        conn.send(&msg::one_row("late", conn.status))?;
        Ok(true)
    });
    let held = Gate::default();
    fake.hold_cancels(&held);
    let rig = Rig::start(
        &fake,
        plan(1).globals("cancel_wait_timeout = \"2s\"").database("query_timeout = \"500ms\""),
    );
    let mut a = rig.client();
    for in_transaction in [false, true] {
        if in_transaction {
            a.select("begin");
        }
        let sent = fake.cancels().len();
        assert_eq!(tags(&a.ask(&msg::query("select 'late'"))), "TDCZ", "the result and nothing else");
        assert!(fake.cancels().len() > sent, "the timeout came first");
        if in_transaction {
            // The session goes on past the end of the grace period of a cancel that nobody answered.
            std::thread::sleep(Duration::from_millis(2200));
        }
        assert_eq!(a.select("select 'next'"), ["next"]);
    }
    held.open();
    a.select("commit");
    drop(a);
    rig.invariants();
}

#[test]
fn cancel_meets_a_statement_of_our_own() {
    let arrived = Gate::default();
    let (reached, answered) = (arrived.clone(), std::sync::atomic::AtomicBool::new(false));
    let fake = fake(move |conn, sql| {
        if !sql.contains("set_config") {
            return Ok(false);
        }
        if answered.swap(true, std::sync::atomic::Ordering::SeqCst) {
            // The value that is in force now, "mine".
            conn.send(&msg::one_row("6d696e65", conn.status))?;
            return Ok(true);
        }
        reached.open();
        // Until the cancel has come, as PostgreSQL does.
        conn.wait_for_cancel();
        conn.send(&[msg::error("ERROR", "57014", "canceling statement"), msg::ready(conn.status)].concat())?;
        Ok(true)
    });
    let rig = Rig::start(&fake, plan(1));
    let mut a = Raw::login_with(&rig.dsn(), msg::PROTOCOL_3_0, &[("application_name", "mine")]);
    a.put(&msg::query("select 'first'"));
    assert!(arrived.wait(harness::rig::SOON));
    a.cancel(&rig.dsn()).expect("a cancel connection");
    let frames = a.until(b'Z');
    assert_eq!(errors(&frames), [pair("ERROR", "57014")], "{}", tags(&frames));
    assert_eq!(a.select("select 'second'"), ["second"]);
    let asked = fake.seen().frames.concat();
    let set = asked.iter().filter(|f| String::from_utf8_lossy(&f.body).contains("set_config")).count();
    assert!(set >= 2, "the parameter is not forgotten");
    assert!(!asked.iter().any(|f| f.body.starts_with(b"select 'first'")), "what was cancelled has not run");
    drop(a);
    rig.invariants();
}

#[test]
fn prepared_by_somebody_who_left() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    for n in 0..6 {
        let sql = format!("select 'shared {n}'");
        let mut a = rig.client();
        let parse = msg::parse("s", &sql, &[]);
        // Gone before the Parse was flushed, after it, behind an error, and in a transaction that is rolled back.
        match n {
            0 | 1 => drop(a.put(&parse)),
            2 | 3 => drop(a.put(&[parse, msg::flush()].concat()).expect("1")),
            4 => drop(a.put(&[msg::parse("", "selekt", &[]), parse, msg::flush()].concat()).expect("E")),
            _ => {
                a.select("begin");
                a.put(&[parse, msg::flush()].concat()).expect("1");
            }
        }
        if n % 2 == 0 {
            a.reset()
        } else {
            drop(a)
        }
        let mut b = rig.client();
        for name in ["s", "t"] {
            let batch = [msg::parse(name, &sql, &[]), msg::bind("", name, &[], &[], &[])].concat();
            let frames = b.ask(&[batch, msg::execute("", 0), msg::sync()].concat());
            assert_eq!(tags(&frames), "12DCZ", "{:?}", errors(&frames));
        }
    }
    rig.invariants();
}

/// A cancel of a query_timeout that comes too late must not strike the next statement of the same transaction.
#[test]
fn late_cancel_strikes_no_later_statement() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1).database("query_timeout = \"400ms\""));
    let mut a = rig.client();
    let (mut won, mut lost) = (0, 0);
    // Two that are beyond doubt, and the others around the moment at which the timeout is noticed, which is late by
    // up to a tick of 25 ms.
    let around = (0..8).map(|n| 0.396 + 0.005 * f64::from(n));
    for sleep in [0.1, 1.0].into_iter().chain(around) {
        a.select("begin");
        let frames = a.ask(&msg::query(&format!("select pg_sleep({sleep})")));
        if errors(&frames).is_empty() {
            won += 1;
            for _ in 0..3 {
                a.select("select 'undisturbed'");
            }
        } else {
            assert_eq!(errors(&frames), [pair("ERROR", "57014")]);
            lost += 1;
        }
        a.select("rollback");
    }
    assert!(won > 0 && lost > 0, "the moments were ill chosen: {won} won, {lost} lost");
    drop(a);
    rig.invariants();
}
