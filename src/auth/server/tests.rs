use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::auth::require::Channel;
use crate::auth::scram::{ScramServer, Step};
use crate::auth::verifier::Verifier;
use crate::config::resolved::ServerMethod;

fn permitted(cleartext: bool) -> Permitted {
    Permitted { words: vec![ServerMethod::Any], cleartext, channel: Channel::Plain }
}

fn auth(secret: Option<&Secret>, cached: Option<ScramKeys>) -> ServerAuth {
    ServerAuth::new("h:5432", "bob", secret, cached, permitted(false), &mut StdRng::seed_from_u64(1))
}

fn plain() -> Secret {
    Secret::classify("pw")
}

fn keys() -> ScramKeys {
    DeriveJob::new(b"pw", vec![9; 16], 2).run()
}

fn r(code: u32, rest: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes()[..], rest].concat()
}

const OFFER: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

fn is_unanswerable(a: &ServerAction) -> bool {
    matches!(a, ServerAction::Fail(Error::ServerAuth { .. }))
}

fn is_broken(a: &ServerAction) -> bool {
    matches!(a, ServerAction::Fail(Error::ServerProtocol { .. }))
}

/// The method that was asked for and is not allowed.
fn word_of_refusal(a: &ServerAction) -> Option<&'static str> {
    match a {
        ServerAction::Fail(Error::ServerAuthNotAllowed { word, .. }) => Some(*word),
        _ => None,
    }
}

/// Neither a secret nor a session goes to whoever asks in another way than the configuration allows.
#[test]
fn what_is_not_allowed_is_not_answered() {
    let questions = [
        (&r(0, b"")[..], "none"),
        (&r(3, b""), "password"),
        (&r(5, b"salt"), "md5"),
        (&r(10, OFFER), "scram-sha-256"),
    ];
    for (allowed, words) in
        [ServerMethod::None, ServerMethod::Password, ServerMethod::Md5, ServerMethod::ScramSha256]
            .map(|w| vec![w])
            .into_iter()
            .enumerate()
    {
        for (asked, (question, word)) in questions.iter().enumerate() {
            let permitted =
                Permitted { words: words.clone(), cleartext: true, channel: Channel::UnverifiedTls };
            let mut rng = StdRng::seed_from_u64(1);
            let mut a = ServerAuth::new("h", "bob", Some(&plain()), None, permitted, &mut rng);
            let action = a.on_auth_message(question);
            let refused = (allowed != asked).then_some(*word);
            assert_eq!(word_of_refusal(&action), refused, "{action:?}");
        }
    }
}

#[test]
fn trust() {
    let mut a = auth(None, None);
    assert_eq!(a.on_auth_message(&r(0, b"")), ServerAction::Accept);
    assert!(is_broken(&a.on_auth_message(&r(0, b""))));
}

#[test]
fn cleartext_only_if_allowed() {
    assert_eq!(word_of_refusal(&auth(Some(&plain()), None).on_auth_message(&r(3, b""))), Some("password"));
    let mut rng = StdRng::seed_from_u64(1);
    let mut a = ServerAuth::new("h", "bob", Some(&plain()), None, permitted(true), &mut rng);
    assert_eq!(a.on_auth_message(&r(3, b"")), ServerAction::Send(b"p\0\0\0\x07pw\0".to_vec()));
    assert!(is_broken(&a.on_auth_message(&r(3, b""))), "asked twice");
    let mut a = ServerAuth::new("h", "bob", None, None, permitted(true), &mut rng);
    assert!(is_unanswerable(&a.on_auth_message(&r(3, b""))));
}

#[test]
fn md5_from_a_password_or_a_hash() {
    let mut a = auth(Some(&plain()), None);
    let ServerAction::Send(m) = a.on_auth_message(&r(5, &[1, 2, 3, 4])) else { panic!("no answer") };
    let answer = md5::response(&plain(), "bob", [1, 2, 3, 4]).unwrap();
    assert_eq!(m, encode::password_message(&answer).unwrap());
    assert_eq!(a.on_auth_message(&r(0, b"")), ServerAction::Accept);
    assert!(is_broken(&auth(Some(&plain()), None).on_auth_message(&r(5, b"123"))));
    assert!(is_broken(&auth(Some(&plain()), None).on_auth_message(&r(5, b"12345"))));
    let verifier = Secret::classify(&Verifier::from_keys(&keys()).to_text());
    assert!(is_unanswerable(&auth(Some(&verifier), None).on_auth_message(&r(5, b"1234"))));
    assert!(is_unanswerable(&auth(None, None).on_auth_message(&r(5, b"1234"))));
}

/// Runs SCRAM up to the proof: our machine, the server's, and the proof as sent.
fn scram(mut a: ServerAuth) -> (ServerAuth, Vec<u8>) {
    let mut s = ScramServer::new(Verifier::from_keys(&keys()), false, &mut StdRng::seed_from_u64(2));
    let ServerAction::Send(m) = a.on_auth_message(&r(10, OFFER)) else { panic!("no first message") };
    let first = message::sasl_initial(&m[5..]).unwrap().1.to_vec();
    let Ok(Step::Continue(c)) = s.on_initial(&first) else { panic!("no challenge") };
    let mut action = a.on_auth_message(&r(11, &c));
    if let ServerAction::Derive(job) = action {
        assert!(is_broken(&{
            let mut early = auth(Some(&plain()), None);
            early.on_auth_message(&r(10, OFFER));
            early.on_auth_message(&r(0, b""))
        }));
        action = a.resume(&job.run());
    }
    let ServerAction::Send(proof) = action else { panic!("no proof: {action:?}") };
    let Ok(Step::Done { server_final, .. }) = s.on_response(&proof[5..]) else { panic!("refused") };
    (a, server_final)
}

#[test]
fn scram_from_a_password_or_from_keys() {
    for a in [auth(Some(&plain()), None), auth(None, Some(keys())), auth(Some(&plain()), Some(keys()))] {
        let (mut a, signature) = scram(a);
        assert_eq!(a.on_auth_message(&r(12, &signature)), ServerAction::Wait);
        assert_eq!(a.on_auth_message(&r(0, b"")), ServerAction::Accept);
    }
}

#[test]
fn a_server_that_does_not_prove_itself_is_left() {
    let (mut a, _) = scram(auth(Some(&plain()), None));
    assert!(is_broken(&a.on_auth_message(&r(0, b""))), "AuthenticationOk instead of the signature");
    let (mut a, _) = scram(auth(Some(&plain()), None));
    assert!(is_broken(&a.on_auth_message(&r(12, b"v=AAAA"))));
    assert!(is_broken(&a.on_auth_message(&r(0, b""))), "after a wrong signature");
    let (mut a, _) = scram(auth(Some(&plain()), None));
    let another = format!("v={}=", "A".repeat(43));
    assert!(is_broken(&a.on_auth_message(&r(12, another.as_bytes()))), "somebody else's signature");
    let (mut a, s) = scram(auth(Some(&plain()), None));
    assert!(is_broken(&a.on_auth_message(&r(10, OFFER))), "a second offer");
    assert!(is_broken(&a.on_auth_message(&r(12, &s))));
    let mut a = auth(Some(&plain()), None);
    a.on_auth_message(&r(10, OFFER));
    assert!(is_broken(&a.on_auth_message(&r(5, b"1234"))), "another method in between");
}

#[test]
fn what_cannot_be_answered() {
    assert!(is_unanswerable(&auth(None, None).on_auth_message(&r(10, OFFER))));
    let verifier = Secret::classify(&Verifier::from_keys(&keys()).to_text());
    assert!(is_unanswerable(&auth(Some(&verifier), None).on_auth_message(&r(10, OFFER))));
    for code in [1, 2, 4, 6, 7, 8, 9, 13, u32::MAX] {
        assert!(is_unanswerable(&auth(Some(&plain()), None).on_auth_message(&r(code, b""))), "{code}");
    }
    assert!(is_unanswerable(&auth(Some(&plain()), None).on_auth_message(&r(10, b"OAUTHBEARER\0\0"))));
    assert!(is_unanswerable(&auth(Some(&plain()), None).on_auth_message(&r(10, b"\0"))));
    for list in [&b""[..], b"SCRAM-SHA-256", b"SCRAM-SHA-256\0", b"SCRAM-SHA-256\0\0x"] {
        assert!(is_broken(&auth(Some(&plain()), None).on_auth_message(&r(10, list))), "{list:?}");
    }
    for body in [&b""[..], b"\0\0\0"] {
        assert!(is_broken(&auth(None, None).on_auth_message(body)));
    }
    assert!(is_broken(&auth(None, None).on_auth_message(&r(0, b"x"))));
    for code in [11, 12] {
        assert!(is_broken(&auth(Some(&plain()), None).on_auth_message(&r(code, b"x"))));
    }
    let mut keys_only = auth(None, Some(keys()));
    let ServerAction::Send(m) = keys_only.on_auth_message(&r(10, OFFER)) else { panic!("no first message") };
    let first = String::from_utf8(message::sasl_initial(&m[5..]).unwrap().1.to_vec()).unwrap();
    let nonce = first.split_once("r=").unwrap().1;
    let challenge = format!("r={nonce}x,s=c2FsdA==,i=2");
    assert!(is_unanswerable(&keys_only.on_auth_message(&r(11, challenge.as_bytes()))));
}

#[test]
fn debug_shows_no_secret() {
    let canary = Secret::classify("canary-7f3a");
    let mut rng = StdRng::seed_from_u64(1);
    let mut a = ServerAuth::new("h", "bob", Some(&canary), Some(keys()), permitted(true), &mut rng);
    let before = format!("{a:?}");
    let sent = format!("{:?}", a.on_auth_message(&r(3, b"")));
    assert_eq!(sent, "Send(17 bytes)");
    let mut b = auth(Some(&canary), None);
    b.on_auth_message(&r(10, OFFER));
    for text in [before, format!("{a:?}"), format!("{b:?}")] {
        assert!(!text.contains("canary") && !text.contains("client_key"), "{text}");
    }
}

proptest! {
    #[test]
    fn no_message_panics(code in 0_u32..14, bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        let mut a = auth(Some(&plain()), None);
        let _ = a.on_auth_message(&bytes);
        let mut a = auth(Some(&plain()), None);
        let _ = a.on_auth_message(&r(code, &bytes));
        let (mut a, _) = scram(auth(None, Some(keys())));
        prop_assert!(!matches!(a.on_auth_message(&r(code, &bytes)), ServerAction::Accept | ServerAction::Wait));
    }
}

/// What is required is asked for before anything is said that an unbound login would say.
#[test]
fn nothing_is_proved_without_the_binding_that_is_required() {
    let unbound = b"SCRAM-SHA-256\0\0";
    let required =
        |end_point: Option<Vec<u8>>| auth(Some(&plain()), None).bound_to(ChannelBinding::Require, end_point);
    for (end_point, offer) in [(Some(vec![1; 32]), &unbound[..]), (None, OFFER), (None, unbound)] {
        let said = required(end_point).on_auth_message(&r(10, offer));
        assert!(is_unanswerable(&said), "{said:?}");
    }
    let bound = required(Some(vec![1; 32])).on_auth_message(&r(10, OFFER));
    assert!(matches!(bound, ServerAction::Send(_)), "{bound:?}");
    assert!(is_unanswerable(&required(Some(vec![1; 32])).on_auth_message(&r(0, b""))), "trust");
    assert!(is_unanswerable(&required(Some(vec![1; 32])).on_auth_message(&r(5, &[1, 2, 3, 4]))), "md5");
}
