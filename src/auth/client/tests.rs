use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::auth::scram::{ClientStep, ScramClient};

const METHODS: [AuthMethod; 3] = [AuthMethod::Password, AuthMethod::Md5, AuthMethod::ScramSha256];

fn mock() -> MockSecret {
    MockSecret::new([3; 32])
}

fn auth(method: AuthMethod, secret: Option<&Secret>) -> ClientAuth {
    ClientAuth::new(method, "bob", secret, &mock(), None, &mut StdRng::seed_from_u64(1))
}

fn plain() -> Secret {
    Secret::classify("pw")
}

fn md5_secret() -> Secret {
    // md5('pwbob')
    Secret::classify("md59e8b47dd245ed6fdb3fd1657224800c4")
}

fn scram_secret() -> Secret {
    let keys = DeriveJob::new(b"pw", vec![9; 16], 2).run();
    Secret::classify(&Verifier::from_keys(&keys).to_text())
}

fn failed() -> Action {
    Action::Fail(Error::AuthenticationFailed { user: "bob".to_owned() })
}

fn body_of(message: &[u8]) -> &[u8] {
    &message[5..]
}

/// Answers like libpq, with this password; the last action.
fn login(mut a: ClientAuth, password: &str) -> (Action, ClientAuth) {
    let mut scram = ScramClient::new(Some(password), None, &mut StdRng::seed_from_u64(2));
    let mut action = a.start();
    loop {
        action = match action {
            Action::Derive(job) => a.resume(&job.run()),
            Action::Send(request) => {
                let body = body_of(&request);
                let answer = match body[3] {
                    3 => encode::password_message(password).unwrap(),
                    5 => {
                        let salt = body[4..].try_into().unwrap();
                        let secret = Secret::Plain(password.to_owned().into());
                        encode::password_message(&md5::response(&secret, "bob", salt).unwrap()).unwrap()
                    }
                    10 => encode::sasl_initial(SCRAM_SHA_256, &scram.first()).unwrap(),
                    11 => match scram.on_continue(&body[4..]).unwrap() {
                        ClientStep::NeedDerive(job) => {
                            encode::sasl_response(&scram.resume(&job.run()).unwrap()).unwrap()
                        }
                        ClientStep::Respond(m) => encode::sasl_response(&m).unwrap(),
                    },
                    other => panic!("request {other}"),
                };
                a.on_message(answer[0], body_of(&answer))
            }
            Action::SendThenAccept(m) => {
                assert_eq!(scram.on_final(&body_of(&m)[4..]), Ok(()));
                return (Action::Accept, a);
            }
            done @ (Action::Accept | Action::Fail(_)) => return (done, a),
        }
    }
}

#[test]
fn who_gets_in_with_what() {
    for method in METHODS {
        for secret in [plain(), md5_secret(), scram_secret()] {
            // An md5 hash cannot answer SCRAM.
            let usable = !(method == AuthMethod::ScramSha256 && matches!(secret, Secret::Md5(_)));
            let wanted = if usable { Action::Accept } else { failed() };
            assert_eq!(login(auth(method, Some(&secret)), "pw").0, wanted, "{method:?} {secret:?}");
            assert_eq!(login(auth(method, Some(&secret)), "pW").0, failed(), "{method:?} {secret:?}");
        }
        assert_eq!(login(auth(method, None), "pw").0, failed());
        let broken = Secret::classify("SCRAM-SHA-256$nonsense");
        assert_eq!(login(auth(method, Some(&broken)), "pw").0, failed());
        assert_eq!(login(auth(method, Some(&Secret::classify(""))), "").0, failed());
    }
    assert_eq!(auth(AuthMethod::Trust, None).start(), Action::Accept);
}

#[test]
fn md5_asks_for_scram_if_the_secret_is_a_verifier() {
    let sasl = encode::authentication_sasl(&[SCRAM_SHA_256]).unwrap();
    assert_eq!(auth(AuthMethod::Md5, Some(&scram_secret())).start(), Action::Send(sasl));
    for secret in [plain(), md5_secret()] {
        let Action::Send(m) = auth(AuthMethod::Md5, Some(&secret)).start() else { panic!("no request") };
        assert_eq!((m.len(), m[8]), (13, 5));
    }
}

/// Also where the secret was made of an empty password: PostgreSQL lets nobody in with one.
#[test]
fn an_empty_message_is_a_failure() {
    let keys = DeriveJob::new(b"", vec![9; 16], 2).run();
    let mut a = auth(AuthMethod::Password, Some(&Secret::classify(&Verifier::from_keys(&keys).to_text())));
    a.start();
    assert_eq!(a.on_message(b'p', b"\0"), failed());
}

#[test]
fn an_empty_password_is_a_failure() {
    let mut a = auth(AuthMethod::Password, Some(&Secret::classify("")));
    a.start();
    assert_eq!(a.on_message(b'p', b"\0"), failed());
}

#[test]
fn keys_are_derived_once_and_passed_on() {
    let mut a = auth(AuthMethod::ScramSha256, Some(&plain()));
    let job = mock().derive_job("bob", "pw");
    let keys = job.run();
    assert!(matches!(a.start(), Action::Send(_)));
    let cached = ClientAuth::new(
        AuthMethod::ScramSha256,
        "bob",
        Some(&plain()),
        &mock(),
        Some(&keys),
        &mut StdRng::seed_from_u64(1),
    );
    let (action, mut cached) = login(cached, "pw");
    assert_eq!(action, Action::Accept);
    assert_eq!(cached.take_keys(), Some(keys));
    assert_eq!(cached.take_keys(), None);
    let (_, mut refused) = login(auth(AuthMethod::ScramSha256, Some(&plain())), "no");
    assert_eq!(refused.take_keys(), None);
}

#[test]
fn known_and_unknown_users_get_the_same_challenge() {
    let challenge = |secret: Option<&Secret>| {
        let mut a = auth(AuthMethod::ScramSha256, secret);
        a.start();
        let first = encode::sasl_initial(SCRAM_SHA_256, b"n,,n=,r=abc").unwrap();
        match a.on_message(b'p', body_of(&first)) {
            Action::Derive(job) => a.resume(&job.run()),
            other => other,
        }
    };
    assert_eq!(challenge(None), challenge(Some(&plain())));
    assert_eq!(challenge(None), challenge(Some(&md5_secret())));
}

/// What most users are asked, and the work that it takes, is what nobody gets, too.
#[test]
fn who_does_not_exist_is_asked_what_others_are() {
    let of = |method, secret: Option<&Secret>, verifiers| {
        let mock = mock().verifiers(verifiers);
        ClientAuth::new(method, "bob", secret, &mock, None, &mut rand::rng())
    };
    let kind = |mut a: ClientAuth| match a.start() {
        Action::Send(m) => m[8],
        other => panic!("{other:?}"),
    };
    let md5 = AuthMethod::Md5;
    assert_eq!(kind(of(md5, None, true)), kind(of(md5, Some(&scram_secret()), true)));
    assert_eq!(kind(of(md5, None, false)), kind(of(md5, Some(&md5_secret()), false)));
    for (verifiers, secret) in [(true, scram_secret()), (false, md5_secret())] {
        let derives = |secret: Option<&Secret>| {
            let mut a = of(AuthMethod::Password, secret, verifiers);
            a.start();
            matches!(a.on_message(b'p', b"guess\0"), Action::Derive(_))
        };
        assert_eq!(derives(None), derives(Some(&secret)));
    }
}

#[test]
fn only_a_password_message_is_legal_and_only_in_its_turn() {
    let violates = |a: Action| matches!(a, Action::Fail(Error::ProtocolViolation(_)));
    for method in METHODS {
        for tag in 0..=255 {
            if tag != b'p' {
                let mut a = auth(method, Some(&plain()));
                a.start();
                assert!(violates(a.on_message(tag, b"pw\0")), "{method:?} {tag}");
                assert!(violates(a.on_message(b'p', b"pw\0")), "a failed login stays failed");
            }
        }
        assert!(violates(auth(method, Some(&plain())).on_message(b'p', b"pw\0")), "before the request");
        for bad in [&b""[..], b"pw", b"p\0w\0", b"\0\0", &[b'x'; 70_000]] {
            let mut a = auth(method, Some(&plain()));
            a.start();
            assert!(violates(a.on_message(b'p', bad)), "{method:?} {:?}", bad.get(..8));
        }
        let mut a = auth(method, Some(&plain()));
        assert!(matches!(a.resume(&DeriveJob::new(b"", vec![], 1).run()), Action::Fail(Error::Internal(_))));
    }
}

#[test]
fn lengths_of_the_initial_response() {
    let data = b"n,,n=,r=x";
    for len in [-1, -2, 0, i32::MAX, i32::MIN, 8, 10] {
        let body = [b"SCRAM-SHA-256\0", &len.to_be_bytes()[..], data].concat();
        let mut a = auth(AuthMethod::ScramSha256, None);
        a.start();
        assert!(matches!(a.on_message(b'p', &body), Action::Fail(Error::ProtocolViolation(_))), "{len}");
    }
    for mechanism in ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1", "", "scram-sha-256"] {
        let m = encode::sasl_initial(mechanism, data).unwrap();
        let mut a = auth(AuthMethod::ScramSha256, None);
        a.start();
        let Action::Fail(e) = a.on_message(b'p', body_of(&m)) else { panic!("accepted") };
        assert_eq!(crate::error::report(&e).sqlstate.0, "08P01");
    }
}

proptest! {
    #[test]
    fn no_message_panics(tag in prop_oneof![Just(b'p'), any::<u8>()], bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        for method in METHODS {
            let mut a = auth(method, Some(&md5_secret()));
            a.start();
            let action = a.on_message(tag, &bytes);
            prop_assert!(!matches!(action, Action::Accept | Action::SendThenAccept(_)));
            let _ = a.on_message(b'p', &bytes);
        }
        let _ = message::offers_scram(&bytes);
        let _ = message::sasl_initial(&[b"SCRAM-SHA-256\0", bytes.as_slice()].concat());
    }
}
