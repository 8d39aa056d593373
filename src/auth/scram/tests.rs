use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use super::*;
use crate::auth::verifier::Verifier;

const C_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
const S_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
const C_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
const S_FIRST: &str =
    "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
const C_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
const S_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

/// The keys of RFC 7677, derived once.
fn keys() -> &'static ScramKeys {
    static KEYS: std::sync::OnceLock<ScramKeys> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| {
        DeriveJob::new(b"pencil", STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096).run()
    })
}

fn server(is_mock: bool) -> ScramServer {
    ScramServer::with_nonce(Verifier::from_keys(keys()), is_mock, S_NONCE.to_owned())
}

fn client(password: Option<&str>, cached: Option<ScramKeys>) -> ScramClient {
    ScramClient::with_nonce(password, cached, "user", C_NONCE.to_owned())
}

fn challenged() -> ScramServer {
    let mut s = server(false);
    assert!(s.on_initial(C_FIRST.as_bytes()).is_ok());
    s
}

fn proved() -> ScramClient {
    let mut c = client(None, Some(keys().clone()));
    assert_eq!(c.on_continue(S_FIRST.as_bytes()), Ok(ClientStep::Respond(C_FINAL.into())));
    c
}

#[test]
fn server_speaks_rfc_7677() {
    let mut s = server(false);
    assert_eq!(s.on_initial(C_FIRST.as_bytes()).unwrap(), Step::Continue(S_FIRST.into()));
    let step = s.on_response(C_FINAL.as_bytes()).unwrap();
    assert_eq!(step, Step::Done { server_final: S_FINAL.into(), keys: keys().clone() });
    assert!(s.on_response(C_FINAL.as_bytes()).is_err(), "a login ends once");
}

#[test]
fn client_speaks_rfc_7677() {
    let mut c = client(Some("pencil"), None);
    assert_eq!(c.first(), C_FIRST.as_bytes());
    let Ok(ClientStep::NeedDerive(job)) = c.on_continue(S_FIRST.as_bytes()) else { panic!("no job") };
    assert_eq!(c.resume(&job.run()).unwrap(), C_FINAL.as_bytes());
    assert_eq!(c.on_final(S_FINAL.as_bytes()), Ok(()));
    assert!(c.on_final(S_FINAL.as_bytes()).is_err());
}

#[test]
fn a_mock_goes_the_same_way_and_lets_nobody_in() {
    let mut s = server(true);
    assert_eq!(s.on_initial(C_FIRST.as_bytes()).unwrap(), Step::Continue(S_FIRST.into()));
    assert_eq!(s.on_response(C_FINAL.as_bytes()).unwrap(), Step::WrongProof);
}

#[test]
fn gs2_flags() {
    for ok in ["n,,n=,r=x", "y,,n=u,r=x", "n,,n=u,r=x,a=b"] {
        assert!(server(false).on_initial(ok.as_bytes()).is_ok(), "{ok}");
    }
    // `y,,` is bound too: the final message must repeat it.
    let mut s = server(false);
    s.on_initial(format!("y,,n=user,r={C_NONCE}").as_bytes()).unwrap();
    assert!(s.on_response(C_FINAL.as_bytes()).is_err());
    for bad in [
        "",
        "n",
        "n,",
        "n,,",
        "p=tls-unique,,n=u,r=x",
        "p=tls-server-end-point,,n=u,r=x",
        "x,,n=u,r=x",
        "N,,n=u,r=x",
        "n,a=u,n=u,r=x",
        "n,,m=x,n=u,r=x",
        "n,,n=u",
        "n,,r=x",
        "n,,n=u,r=",
        "n,,n=u,r=\u{7f}",
        "n,,n=u,r=a b",
        "n,,n=u,r=x\0",
        "n,,n=u,r=x,",
        "n,,n=u,r=x,1=2",
        "n,,n=u,r=x,ab",
        "n,,n=u,r=é",
        "np,,n=u,r=x",
    ] {
        let got = server(false).on_initial(bad.as_bytes());
        assert!(matches!(got, Err(crate::error::Error::ProtocolViolation(_))), "{bad:?}");
    }
    assert!(server(false).on_initial(b"n,,n=u,r=\xff").is_err());
    assert!(server(false).on_initial(format!("n,,n=u,r={}", "x".repeat(2000)).as_bytes()).is_err());
}

#[test]
fn wrong_final_messages() {
    let nonce = format!("{C_NONCE}{S_NONCE}");
    let zero = STANDARD.encode([0; 32]);
    assert_eq!(
        challenged().on_response(format!("c=biws,r={nonce},p={zero}").as_bytes()).unwrap(),
        Step::WrongProof
    );
    let short = STANDARD.encode([0; 31]);
    for bad in [
        String::new(),
        format!("c=biws,r={nonce}"),
        format!("c=biws,r={nonce},p="),
        format!("c=biws,r={nonce},p={short}"),
        format!("c=biws,r={nonce},p=!"),
        format!("c=eSws,r={nonce},p={zero}"),
        format!("c=,r={nonce},p={zero}"),
        format!("r={nonce},p={zero}"),
        format!("c=biws,p={zero}"),
        format!("c=biws,r={C_NONCE},p={zero}"),
        format!("c=biws,r={nonce}x,p={zero}"),
        format!("c=biws,r={nonce},x,p={zero}"),
        format!("c=biws,r={nonce},p={zero},"),
    ] {
        assert!(challenged().on_response(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(server(false).on_response(C_FINAL.as_bytes()).is_err(), "before the first message");
    assert!(challenged().on_initial(C_FIRST.as_bytes()).is_err(), "a second first message");
}

#[test]
fn hostile_challenges_are_refused_before_any_work() {
    let n = format!("{C_NONCE}{S_NONCE}");
    for bad in [
        String::new(),
        "e=other-error".to_owned(),
        format!("r={C_NONCE},s=c2FsdA==,i=4096"),
        "r=,s=c2FsdA==,i=4096".to_owned(),
        "r=another,s=c2FsdA==,i=4096".to_owned(),
        format!("r={n}\0,s=c2FsdA==,i=4096"),
        format!("r={n} ,s=c2FsdA==,i=4096"),
        format!("m=x,r={n},s=c2FsdA==,i=4096"),
        format!("r={n},s=,i=4096"),
        format!("r={n},s=c2FsdA=,i=4096"),
        format!("r={n},s=c2FsdA=="),
        format!("r={n},i=4096"),
        format!("r={n},s=c2FsdA==,i="),
        format!("r={n},s=c2FsdA==,i=0"),
        format!("r={n},s=c2FsdA==,i=-1"),
        format!("r={n},s=c2FsdA==,i=100001"),
        format!("r={n},s=c2FsdA==,i=2147483647"),
        format!("r={n},s=c2FsdA==,i=99999999999999999999"),
        format!("r={n},s=c2FsdA==,i=4096,"),
        format!("r={n}{},s=c2FsdA==,i=4096", "x".repeat(65_536)),
    ] {
        let got = client(Some("pencil"), None).on_continue(bad.as_bytes());
        assert!(matches!(got, Err(ScramError::Server(_))), "{:.60}", bad);
    }
    assert!(client(Some("p"), None).on_continue(b"r=\xff").is_err());
    for bad in
        ["", "e=invalid-proof", "v=", "v=AAAA", "6rri", &S_FINAL.replace('6', "7"), &format!("{S_FINAL},")]
    {
        assert!(proved().on_final(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(client(Some("p"), None).on_final(S_FINAL.as_bytes()).is_err(), "before the challenge");
}

/// A verifier may have more rounds than are computed for a server: its client has computed them.
#[test]
fn rounds_that_a_client_has_computed_are_not_bounded_again() {
    let mut many = keys().clone();
    many.iterations = 600_000;
    let mut of_other_salt = many.clone();
    of_other_salt.salt = vec![1];
    let first = S_FIRST.replace("i=4096", "i=600000");
    let answer = client(None, Some(many.clone())).on_continue(first.as_bytes());
    assert!(matches!(answer, Ok(ClientStep::Respond(_))), "{answer:?}");
    for (password, keys, asked) in [
        (Some("pencil"), None, &first),
        (Some("pencil"), Some(keys().clone()), &first),
        (Some("pencil"), Some(many), &S_FIRST.replace("i=4096", "i=600001")),
        (Some("pencil"), Some(of_other_salt), &first),
    ] {
        let refused = client(password, keys).on_continue(asked.as_bytes());
        assert!(matches!(refused, Err(ScramError::Server(_))), "{refused:?}");
    }
}

#[test]
fn cached_keys_serve_while_they_fit() {
    let other = ScramKeys { salt: vec![1], ..keys().clone() };
    let mut c = client(Some("pencil"), Some(other.clone()));
    assert!(matches!(c.on_continue(S_FIRST.as_bytes()), Ok(ClientStep::NeedDerive(_))));
    assert_eq!(c.resume(&other), Err(ScramError::Unanswerable));
    let mut c = client(None, Some(other));
    assert_eq!(c.on_continue(S_FIRST.as_bytes()), Err(ScramError::Unanswerable));
    assert_eq!(proved().on_final(S_FINAL.as_bytes()), Ok(()));
}

#[test]
fn both_sides_agree_on_any_password() {
    for password in ["x", "I\u{ad}X", "\u{aa}", "p\u{7}w", "пароль", "a,b=c", "\u{2168}"] {
        let mut rng = StdRng::seed_from_u64(1);
        let v = Verifier::from_keys(&DeriveJob::new(password.as_bytes(), vec![7; 16], 2).run());
        let mut s = ScramServer::new(v, false, &mut rng);
        let mut c = ScramClient::new(Some(password), None, &mut rng);
        let Ok(Step::Continue(m)) = s.on_initial(&c.first()) else { panic!("no challenge") };
        let Ok(ClientStep::NeedDerive(job)) = c.on_continue(&m) else { panic!("no job") };
        let proof = c.resume(&job.run()).unwrap();
        let Ok(Step::Done { server_final, .. }) = s.on_response(&proof) else { panic!("refused") };
        assert_eq!(c.on_final(&server_final), Ok(()), "{password}");
    }
}

#[test]
fn passwords_are_normalised_as_postgresql_does() {
    // RFC 4013, section 3; a prohibited character or bad UTF-8 leaves the password as it is.
    for (raw, prepared) in [
        (&b"I\xc2\xadX"[..], &b"IX"[..]),
        ("\u{aa}".as_bytes(), b"a"),
        ("\u{2168}".as_bytes(), b"IX"),
        (b"\x07", b"\x07"),
        ("é\u{7}".as_bytes(), "é\u{7}".as_bytes()),
        ("\u{627}1".as_bytes(), "\u{627}1".as_bytes()),
        (b"\xff", b"\xff"),
        ("\u{ad}".as_bytes(), "\u{ad}".as_bytes()),
    ] {
        assert_eq!(normalise(raw).as_slice(), prepared, "{raw:?}");
    }
}

#[test]
fn debug_shows_no_key() {
    let text = format!("{:?} {:?} {:?}", keys(), server(false), DeriveJob::new(b"pencil", vec![], 1));
    assert!(!text.contains("pencil") && !text.contains("key: ["), "{text}");
    let key = format!("{:?}", keys().client_key);
    assert!(!text.contains(key.trim_matches(['[', ']'])), "{text}");
}

#[derive(Debug, Clone)]
enum Mutation {
    Set(usize, u8),
    Remove(usize),
    Insert(usize, u8),
    Cut(usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(i, b)| Mutation::Set(i, b)),
        any::<usize>().prop_map(Mutation::Remove),
        (any::<usize>(), any::<u8>()).prop_map(|(i, b)| Mutation::Insert(i, b)),
        any::<usize>().prop_map(Mutation::Cut),
    ]
}

fn apply(message: &str, m: &Mutation) -> Vec<u8> {
    let mut v = message.as_bytes().to_vec();
    let n = v.len();
    match m {
        Mutation::Set(i, b) => v[i % n] = *b,
        Mutation::Remove(i) => drop(v.remove(i % n)),
        Mutation::Insert(i, b) => v.insert(i % (n + 1), *b),
        Mutation::Cut(i) => v.truncate(i % n),
    }
    v
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_messages_never_panic_and_never_log_in(m in mutation()) {
        let changed = apply(C_FINAL, &m);
        if changed != C_FINAL.as_bytes() {
            let logged_in = matches!(challenged().on_response(&changed), Ok(Step::Done { .. }));
            prop_assert!(!logged_in, "{:?}", m);
        }
        let changed = apply(S_FINAL, &m);
        if changed != S_FINAL.as_bytes() {
            prop_assert!(proved().on_final(&changed).is_err());
        }
        let _ = server(false).on_initial(&apply(C_FIRST, &m));
        let _ = client(Some("pencil"), None).on_continue(&apply(S_FIRST, &m));
        let _ = Verifier::parse(&String::from_utf8_lossy(&apply(&Verifier::from_keys(keys()).to_text(), &m)));
    }
}

#[test]
fn every_byte_of_a_final_message_counts() {
    for i in 0..C_FINAL.len() {
        for bit in 0..8 {
            let m = Mutation::Set(i, C_FINAL.as_bytes()[i] ^ (1 << bit));
            let got = challenged().on_response(&apply(C_FINAL, &m));
            assert!(!matches!(got, Ok(Step::Done { .. })), "{m:?}");
        }
    }
    for i in 0..S_FINAL.len() {
        for bit in 0..8 {
            let m = Mutation::Set(i, S_FINAL.as_bytes()[i] ^ (1 << bit));
            assert!(proved().on_final(&apply(S_FINAL, &m)).is_err(), "{m:?}");
        }
    }
}
