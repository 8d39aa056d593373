//! Faults in what servers and clients say to each other while nothing breaks.

use std::time::Duration;

use crate::harness::rig::{Rig, Witness, errors, fake, fatal, pair, plan};
use crate::harness::wire::fake::{Fake, Gate, Login};
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{self, shared};

#[test]
fn error_in_a_pipeline_before_its_sync() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut client = rig.client();
    let batch = [msg::pbe("select 1/0"), msg::pbe("select 'skipped'"), msg::sync(), msg::pbe("select 'ran'")];
    client.put(&[batch.concat(), msg::sync()].concat());
    let frames = client.expect("1EZ12DCZ");
    assert_eq!(errors(&frames), [pair("ERROR", "22012")]);
    assert_eq!(frames[5].text(), "ran");
    // Not before the last Sync is answered may anybody else have the only server.
    let slow = [msg::pbe("select 1/0"), msg::sync(), msg::pbe("select pg_sleep(0.2)"), msg::sync()].concat();
    client.put(&slow);
    client.expect("1EZ");
    let mut other = rig.client();
    other.put(&msg::query("select 'other'"));
    client.expect("12DCZ");
    assert_eq!(other.until(b'Z')[1].text(), "other");
    drop((client, other));
    rig.invariants();
}

#[test]
fn bind_to_an_unknown_statement() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut client = rig.client();
    let bind = msg::bind("", "nobody", &[], &[], &[]);
    let frames = client.ask(&[bind, msg::execute("", 0), msg::sync()].concat());
    assert_eq!(errors(&frames), [pair("ERROR", "26000")]);
    assert_eq!(client.select("select 'on'"), ["on"]);
    drop(client);
    rig.invariants();
}

/// Binds the statement, and gives what came up to ReadyForQuery.
fn run_prepared(client: &mut Raw, name: &str) -> Vec<msg::Frame> {
    client.ask(&[msg::bind("", name, &[], &[], &[]), msg::execute("", 0), msg::sync()].concat())
}

/// Takes every prepared statement from the server behind Howdah's back.
const LOSE: &str = "DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$";

#[test]
fn server_lost_a_statement_and_hears_of_it_once() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut client = rig.client();
    client.ask(&[msg::parse("s", "select 'kept'", &[]), msg::sync()].concat());
    assert_eq!(tags(&run_prepared(&mut client, "s")), "2DCZ");
    client.select(LOSE);
    // Something of the batch has run: the server's own error, with the client's name in it, and once.
    let batch = [msg::pbe("select 'ran'"), msg::bind("", "s", &[], &[], &[]), msg::execute("", 0)];
    let frames = client.ask(&[batch.concat(), msg::sync()].concat());
    assert_eq!(errors(&frames), [pair("ERROR", "26000")]);
    assert!(frames[4].field(b'M').is_some_and(|m| m.contains("\"s\"")), "{frames:?}");
    assert_eq!(tags(&run_prepared(&mut client, "s")), "2DCZ");
    drop(client);
    rig.invariants();
}

#[test]
fn lost_statement_is_prepared_again_where_nothing_has_run() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let mut client = rig.client();
    client.ask(&[msg::parse("s", "select 'kept'", &[]), msg::sync()].concat());
    client.select(LOSE);
    let frames = run_prepared(&mut client, "s");
    assert_eq!((tags(&frames).as_str(), frames[1].text().as_str()), ("2DCZ", "kept"));
    drop(client);
    rig.invariants();
}

#[test]
fn cached_plan_must_not_change_its_result() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(2));
    let mut client = rig.client();
    client.select("create table plans (a text)");
    client.select("insert into plans values ('x')");
    client.ask(&[msg::parse("s", "select * from plans", &[]), msg::sync()].concat());
    assert_eq!(tags(&run_prepared(&mut client, "s")), "2DCZ");
    client.select("alter table plans add b text");
    let frames = run_prepared(&mut client, "s");
    assert_eq!(errors(&frames), [pair("ERROR", "0A000")]);
    // What drivers do next: close, prepare the same text again, go on.
    let again = [msg::close(b'S', "s"), msg::parse("s", "select * from plans", &[]), msg::sync()].concat();
    assert_eq!(tags(&client.ask(&again)), "31Z");
    let frames = run_prepared(&mut client, "s");
    assert_eq!((errors(&frames), tags(&frames).as_str()), (vec![], "2DCZ"));
    assert_eq!(frames[1].columns().len(), 2);
    drop(client);
    rig.invariants();
}

/// Answers what it is asked by a Flush, a Sync or a Query, and nothing before; each Execute is a DEALLOCATE ALL.
fn answers_when_asked() -> Fake {
    Fake::start(|conn| {
        conn.login(&Login::default())?;
        let mut owed = Vec::new();
        while let Some(frame) = conn.next()? {
            match frame.tag {
                b'P' => owed.extend(msg::bare(b'1')),
                b'B' => owed.extend(msg::bare(b'2')),
                b'E' => owed.extend(msg::command_complete("DEALLOCATE ALL")),
                b'S' => owed.extend(msg::ready(b'I')),
                b'Q' => owed.extend(msg::one_row("x", b'I')),
                _ => {}
            }
            if matches!(frame.tag, b'H' | b'S' | b'Q') {
                conn.send(&std::mem::take(&mut owed))?;
            }
        }
        Ok(())
    })
}

/// What is prepared behind a DEALLOCATE ALL waits for its answer, which Howdah asks for. The client has not, and hears
/// it when it does: drivers do otherwise with an answer that they have early.
#[test]
fn answers_that_howdah_asks_for_wait_until_the_client_asks() {
    let fake = answers_when_asked();
    let rig = Rig::unproven(&fake, plan(1));
    let mut client = rig.client();
    let executed = || fake.seen().frames.iter().flatten().filter(|f| f.tag == b'E').count();
    let all_executed = |n: usize| {
        fake.wait_until(|seen| seen.frames.iter().flatten().filter(|f| f.tag == b'E').count() == n);
    };
    let run = |name: &str| [msg::bind("", name, &[], &[], &[]), msg::execute("", 0)].concat();
    // Twice in one batch.
    for name in ["a", "b"] {
        let before = executed();
        client.put(&[msg::pbe("DEALLOCATE ALL"), msg::parse(name, "SELECT 1", &[])].concat());
        client.put(&run(name));
        all_executed(before + 2);
        // Had the answers been written, they had been before this arrived.
        client.put(&msg::execute("", 0));
        all_executed(before + 3);
        assert_eq!(client.next_within(Duration::from_millis(1)), Err(harness::wire::raw::Missing::Timeout));
    }
    client.put(&msg::sync());
    client.expect("12C12CC12C12CCZ");

    // What it has asked for itself it gets at once, and no more than that.
    let before = executed();
    client.put(&[msg::pbe("DEALLOCATE ALL"), msg::flush(), msg::pbe("DEALLOCATE ALL")].concat());
    client.put(&[msg::parse("a", "SELECT 1", &[]), run("a")].concat());
    for tag in *b"12C" {
        assert_eq!(client.next().map(|f| f.tag), Ok(tag));
    }
    all_executed(before + 3);
    client.put(&msg::execute("", 0));
    all_executed(before + 4);
    assert_eq!(client.next_within(Duration::from_millis(1)), Err(harness::wire::raw::Missing::Timeout));
    client.put(&msg::flush());
    for tag in *b"12C12CC" {
        assert_eq!(client.next().map(|f| f.tag), Ok(tag));
    }
    client.put(&msg::sync());
    client.expect("Z");
}

#[test]
fn server_rejects_a_parameter_of_the_client() {
    let Some(cluster) = shared(15) else { return };
    let rig = Rig::start(cluster, plan(1));
    let witness = Witness::watch(&rig);
    for (name, value, code) in [
        ("statement_timeout", "soon", "22023"),
        ("no_such_parameter", "1", "42704"),
        ("log_statement", "all", "42501"),
    ] {
        // At the login, as PostgreSQL itself does, and once.
        let refused = Raw::try_login(&rig.dsn(), msg::PROTOCOL_3_0, &[(name, value)]).err().expect("refused");
        assert!(refused.to_string().contains("FATAL") && refused.to_string().contains(code), "{refused}");
        assert_eq!(rig.client().select("select 'next'"), ["next"]);
    }
    witness.content();
    rig.invariants();
}

/// Answers `select 'extra …'` and sends more bytes in the same segment.
fn says_more(extra: Vec<u8>) -> Fake {
    fake(move |conn, sql| {
        if !sql.contains("extra") {
            return Ok(false);
        }
        conn.send(&[msg::one_row("extra", conn.status), extra.clone()].concat())?;
        Ok(true)
    })
}

#[test]
fn bytes_after_ready_for_query() {
    let async_ones =
        [msg::notice("late"), msg::parameter_status("TimeZone", "UTC"), msg::notification(7, "c", "p")];
    let result = [msg::one_row("foreign", b'I'), msg::data_row(&[msg::text("foreign")]), msg::bare(b'1')];
    for (extra, kept) in
        async_ones.into_iter().map(|e| (e, true)).chain(result.into_iter().map(|e| (e, false)))
    {
        let fake = says_more(extra.clone());
        let rig = Rig::start(&fake, plan(1));
        let mut client = rig.client();
        let frames = client.ask(&msg::query("select 'extra'"));
        assert_eq!(frames.iter().filter(|f| f.tag == b'D').count(), 1);
        let mut other = rig.client();
        let frames = other.ask(&msg::query("select 'own'"));
        let rows: Vec<_> = frames.iter().filter(|f| f.tag == b'D').map(|f| f.text()).collect();
        assert_eq!(rows, ["own"], "after {extra:?}");
        assert_eq!(fake.seen().startups, if kept { 1 } else { 2 }, "after {extra:?}");
        drop((client, other));
        rig.invariants();
    }
}

#[test]
fn server_sends_what_is_no_frame() {
    let broken = [
        b"D\0\0\0\x02xx".to_vec(),
        b"D\xff\xff\xff\xff".to_vec(),
        msg::message(b'@', b"what"),
        b"Z\0\0\0\x05Q".to_vec(),
    ];
    for bytes in broken {
        let fake = fake(move |conn, sql| {
            if sql.contains("broken") {
                conn.send(&bytes)?;
                return Ok(true);
            }
            Ok(false)
        });
        let rig = Rig::start(&fake, plan(2));
        let witness = Witness::watch(&rig);
        let mut client = rig.client();
        client.put(&msg::query("select broken"));
        fatal(&mut client, "08006");
        witness.content();
        rig.invariants();
    }
}

#[test]
fn error_without_sqlstate_is_forwarded_as_it_is() {
    let bare = [msg::fields(b'E', &[(b'M', "odd")]), msg::fields(b'E', &[])];
    for error in bare {
        let sent = error.clone();
        let fake = fake(move |conn, sql| {
            if sql.contains("odd") {
                conn.send(&[sent.clone(), msg::ready(conn.status)].concat())?;
                return Ok(true);
            }
            Ok(false)
        });
        let rig = Rig::start(&fake, plan(1));
        let mut client = rig.client();
        let frames = client.ask(&msg::query("select odd"));
        assert_eq!((tags(&frames).as_str(), frames[0].body.as_slice()), ("EZ", &error[5..]));
        assert_eq!(client.select("select 'on'"), ["on"]);
        drop(client);
        rig.invariants();
    }
}

/// After `select 'then …'` the server says `bytes` once the gate opens, and goes on.
fn says_later(gate: &Gate, said: &Gate, bytes: Vec<u8>) -> Fake {
    let (gate, said) = (gate.clone(), said.clone());
    fake(move |conn, sql| {
        if !sql.contains("then") {
            return Ok(false);
        }
        conn.send(&msg::one_row("then", conn.status))?;
        assert!(gate.wait(harness::rig::SOON), "the test opens the gate");
        conn.send(&bytes)?;
        said.open();
        Ok(true)
    })
}

#[test]
fn parameter_changes_on_an_idle_server() {
    let (gate, said) = (Gate::default(), Gate::default());
    let fake = says_later(&gate, &said, msg::parameter_status("DateStyle", "German, DMY"));
    let rig = Rig::start(&fake, plan(1));
    let mut client = rig.client();
    client.select("select 'then'");
    gate.open();
    assert!(said.wait(harness::rig::SOON));
    client.expect_silence(Duration::from_millis(20));
    let frames = client.ask(&msg::query("select 'next'"));
    assert_eq!(tags(&frames), "STDCZ");
    assert_eq!(frames[0].body, b"DateStyle\0German, DMY\0");
    assert_eq!(tags(&client.ask(&msg::query("select 'again'"))), "TDCZ", "told once");
    // A new client is told at its login, or before its first answer.
    let mut new = rig.client();
    let mut told = new.login.clone();
    told.extend(new.ask(&msg::query("select 'new'")));
    let styles: Vec<_> = told.iter().filter(|f| f.body.starts_with(b"DateStyle\0")).collect();
    assert_eq!(styles.last().map(|f| &f.body[10..]), Some(&b"German, DMY\0"[..]), "{styles:?}");
    assert_eq!(fake.seen().startups, 1, "the server was kept");
    drop((client, new));
    rig.invariants();
}

#[test]
fn notification_on_an_idle_server() {
    let (gate, said) = (Gate::default(), Gate::default());
    let fake = says_later(&gate, &said, msg::notification(1, "channel", "foreign"));
    let rig = Rig::start(&fake, plan(1));
    let mut client = rig.client();
    client.select("select 'then'");
    gate.open();
    assert!(said.wait(harness::rig::SOON));
    assert_eq!(tags(&client.ask(&msg::query("select 'next'"))), "TDCZ");
    assert_eq!(fake.seen().startups, 1, "the server was kept");
    drop(client);
    rig.invariants();
}

#[test]
fn messages_of_the_login_may_be_mixed_with_others() {
    let mixed =
        [msg::notice("hello"), msg::parameter_status("TimeZone", "UTC"), msg::notice("again")].concat();
    let login = Login { before_auth: msg::notice("early"), after_auth: mixed, ..Login::default() };
    let fake = Fake::start(move |conn| conn.login(&login).and_then(|()| conn.serve()));
    let rig = Rig::start(&fake, plan(2));
    rig.invariants();
}
