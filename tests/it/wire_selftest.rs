//! The scripted client against the scripted server: what they must be able to do for other tests.

use std::io;
use std::time::Duration;

use crate::harness::wire::fake::{Auth, Fake, Gate, Login, Step};
use crate::harness::wire::raw::{Missing, Raw, tags};
use crate::harness::wire::{Dsn, check, msg, nonce};

const SOON: Duration = Duration::from_secs(5);

fn dsn(fake: &Fake) -> Dsn {
    Dsn { password: Some("secret".into()), ..Dsn::local(fake.port(), "app", "app") }
}

#[test]
fn serves_both_protocols_and_counts() {
    let fake = Fake::serving();
    let mut raw = Raw::login(&dsn(&fake));
    assert_eq!(raw.select("select 'hello'"), ["hello"]);
    raw.put(&[msg::pbe("select 'ext'"), msg::sync()].concat());
    assert_eq!(raw.expect("12DCZ")[2].text(), "ext");
    assert_eq!(tags(&raw.ask(&msg::query("begin"))), "CZ");
    raw.put(&msg::terminate()).expect_closed();
    let seen = fake.wait_until(|s| s.open == 0);
    assert_eq!((seen.startups, seen.logging_in, seen.frames[0].len()), (1, 0, 7));
    fake.assert_clean();
}

#[test]
fn passwords() {
    for auth in [Auth::Cleartext("secret".into()), Auth::Md5("secret".into())] {
        let login = Login { auth, ..Login::default() };
        let fake = Fake::start(move |c| c.login(&login).and_then(|()| c.serve()));
        Raw::login(&dsn(&fake)).select("select 'in'");
        let wrong = Dsn { password: Some("wrong".into()), ..dsn(&fake) };
        let refused = Raw::try_login(&wrong, msg::PROTOCOL_3_0, &[]).err();
        assert!(refused.is_some_and(|e| e.contains("28P01")));
    }
}

#[test]
fn chunks_resets_and_half_frames() {
    let fake = Fake::scripted(vec![
        vec![
            Step::Login(Login::default()),
            Step::Query("cut".into()),
            Step::Trickle(msg::row_description(&["a"])),
            Step::Send(msg::data_row(&[msg::text("abc")])[..7].to_vec()),
            Step::Stall(Duration::from_millis(100)),
            Step::Reset,
        ],
        vec![Step::Login(Login::default()), Step::Serve],
    ]);
    let mut raw = Raw::login(&dsn(&fake));
    raw.chunked(1);
    raw.put(&msg::query("cut")).expect("T");
    assert!(matches!(raw.next(), Err(Missing::Broken(_))));
    let mut raw = Raw::login(&dsn(&fake));
    raw.put(&msg::query("select 'long'")[..9]);
    raw.reset();
    fake.wait_until(|s| s.open == 0 && s.startups == 2);
    fake.assert_clean();
}

#[test]
fn a_broken_frame_is_a_violation() {
    let fake = Fake::serving();
    Raw::login(&dsn(&fake)).put(&msg::message(b'B', b"\0")).expect_closed();
    fake.wait_until(|s| s.violations.len() == 1);
}

#[test]
fn cancels_and_encryption_requests() {
    let fake = Fake::serving();
    let mut raw = Raw::login(&dsn(&fake));
    let gate = Gate::default();
    fake.hold_cancels(&gate);
    gate.open();
    raw.cancel(&dsn(&fake)).expect("a cancel connection");
    let cancel = fake.wait_until(|s| !s.cancels.is_empty()).cancels.remove(0);
    assert_eq!((cancel.pid, &cancel.key), (raw.pid, &raw.key));
    raw.expect_silence(Duration::from_millis(20));
    let mut raw = Raw::connect(&dsn(&fake)).expect("a connection");
    for request in [msg::ssl_request(), msg::gssenc_request()] {
        assert_eq!(raw.put(&request).byte(), Ok(b'N'));
    }
    raw.half_close().expect("FIN");
    raw.expect_closed();
}

#[test]
fn counts_logins_at_once() {
    let gate = Gate::default();
    let held = gate.clone();
    let fake = Fake::start(move |conn| {
        if !held.wait(SOON) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        conn.login(&Login::default().param("server_version", "18.0"))?;
        conn.serve()
    });
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| Raw::login(&dsn(&fake)));
        }
        fake.wait_until(|s| s.logging_in == 3);
        gate.open();
    });
    assert_eq!(fake.seen().most_logging_in, 3);
}

#[test]
fn every_builder_is_well_formed() {
    let args = [None, msg::text("x")];
    let built = [
        msg::query("q"),
        msg::parse("s", "q", &[23, 25]),
        msg::bind("p", "s", &[0, 1], &args, &[1]),
        msg::describe(b'S', "s"),
        msg::close(b'P', ""),
        msg::execute("p", 5),
        msg::sync(),
        msg::flush(),
        msg::terminate(),
        msg::copy_data(b"d"),
        msg::copy_done(),
        msg::copy_fail("why"),
        msg::function_call(1, &[1], &args, 0),
        msg::password(b"x"),
        msg::sasl_initial("SCRAM-SHA-256", b"n,,"),
    ];
    for bytes in built {
        assert_eq!(check::frontend(bytes[0], &bytes[5..]), Ok(()));
        // One byte less or more is never well-formed where the body has a structure.
        if !matches!(bytes[0], b'S' | b'H' | b'X' | b'c' | b'd' | b'p') {
            assert!(check::frontend(bytes[0], &bytes[5..bytes.len() - 1]).is_err());
        }
        if !matches!(bytes[0], b'd' | b'p') {
            assert!(check::frontend(bytes[0], &[&bytes[5..], &[0]].concat()).is_err());
        }
    }
}

/// The swarm must notice what it exists for: here the server answers one query of another client.
#[tokio::test(flavor = "current_thread")]
async fn the_swarm_notices_a_foreign_row() {
    for (lie, foreign) in [(false, 0), (true, 1)] {
        let fake = Fake::start(move |conn| {
            conn.login(&Login::default())?;
            if lie && conn.id == 3 {
                conn.next()?;
                conn.send(&msg::one_row("nonce-77-0", b'I'))?;
            }
            conn.serve()
        });
        let options = nonce::Options {
            host: "127.0.0.1".into(),
            port: fake.port(),
            user: "app".into(),
            database: "app".into(),
            clients: 8,
            load: Duration::from_millis(300),
            // The client that is lied to must live to hear it.
            abort_one_in: if lie { 0 } else { 4 },
            pause: Duration::from_millis(10),
            patience: SOON,
        };
        let report = nonce::swarm(options).await;
        assert_eq!((report.foreign > 0, report.ok()), (foreign > 0, foreign == 0), "{report}");
    }
}
