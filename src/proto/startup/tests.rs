use proptest::prelude::*;

use super::*;

fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
    let mut p = u32::try_from(rest.len() + 8).unwrap().to_be_bytes().to_vec();
    p.extend_from_slice(&code.to_be_bytes());
    p.extend_from_slice(rest);
    p
}

const V3_0: u32 = 3 << 16;

fn startup(rest: &[u8]) -> Result<Startup, Error> {
    match parse_first(&packet(V3_0, rest))? {
        Some((FirstPacket::Startup(s), n)) => {
            assert_eq!(n, rest.len() + 8);
            Ok(s)
        }
        other => panic!("not a startup: {other:?}"),
    }
}

fn message(e: Error) -> String {
    crate::error::report(&e).message
}

#[test]
fn a_whole_startup_message() {
    let s =
        startup(b"user\0bob\0database\0app\0application_name\0x\0options\0-c a=b\0_pq_.f\0on\0\0").unwrap();
    assert_eq!((s.user.as_str(), s.database.as_str()), ("bob", "app"));
    assert_eq!(s.options.as_deref(), Some("-c a=b"));
    assert_eq!(s.params, [("application_name".to_owned(), "x".to_owned())]);
    assert_eq!(s.extensions, ["_pq_.f"]);
    assert_eq!(s.replication, Replication::No);
}

#[test]
fn every_split_is_incomplete_until_the_last_byte() {
    let mut p = packet(V3_0 + 2, b"user\0bob\0TimeZone\0UTC\0\0");
    for cut in 0..p.len() {
        assert_eq!(parse_first(&p[..cut]).unwrap(), None, "cut at {cut}");
    }
    let len = p.len();
    p.extend_from_slice(b"more");
    assert_eq!(parse_first(&p).unwrap().unwrap().1, len);
}

#[test]
fn defaults_duplicates_and_clipping() {
    assert_eq!(startup(b"user\0u\0\0").unwrap().database, "u");
    assert_eq!(startup(b"user\0u\0database\0\0\0").unwrap().database, "u");
    let s = startup(b"user\0a\0user\0b\0database\0c\0database\0d\0x\x001\0x\x002\0\0").unwrap();
    assert_eq!((s.user.as_str(), s.database.as_str()), ("b", "d"));
    assert_eq!(s.params.last().unwrap().1, "2");
    let long = format!("user\0{}\0\0", "é".repeat(40));
    assert_eq!(startup(long.as_bytes()).unwrap().user, "é".repeat(31));
    let long = format!("user\0{}\0\0", "x".repeat(64));
    assert_eq!(startup(long.as_bytes()).unwrap().user.len(), 63);
}

#[test]
fn lengths_are_checked_before_the_bytes_arrive() {
    for n in [0_u32, 4, 7, 10_001, 1 << 31, u32::MAX] {
        let why = FirstPacket::Unreadable("invalid length of startup packet");
        assert_eq!(parse_first(&n.to_be_bytes()).unwrap(), Some((why, 0)), "{n}");
    }
    for n in [8_u32, 10_000] {
        assert_eq!(parse_first(&n.to_be_bytes()).unwrap(), None);
    }
    for no_packet in [&b"GET / HTTP/1.1\r\n"[..], b"X\0\0\0\x04"] {
        assert!(matches!(parse_first(no_packet), Ok(Some((FirstPacket::Unreadable(_), 0)))));
    }
    assert_eq!(parse_first(&[0x16]).unwrap(), Some((FirstPacket::Tls, 0)));
}

#[test]
fn broken_layouts_are_refused() {
    for rest in [
        &b""[..],
        b"user",
        b"user\0",
        b"user\0bob",
        b"user\0bob\0",
        b"user\0bob\0\0\0",
        b"user\0bob\0\0x",
        b"user\0bob\0key\0",
    ] {
        assert_eq!(message(startup(rest).unwrap_err()), LAYOUT, "{rest:?}");
    }
    for rest in [&b"\0"[..], b"database\0d\0\0", b"user\0\0\0"] {
        assert_eq!(startup(rest).unwrap_err(), Error::NoUserName);
    }
    assert!(message(startup(b"user\0\xff\0\0").unwrap_err()).contains("UTF-8"));
    assert!(message(startup(b"user\0u\0a\0\xe9\0\0").unwrap_err()).contains("UTF-8"));
}

#[test]
fn requests_and_other_versions() {
    assert_eq!(parse_first(&packet(SSL_CODE, b"")).unwrap(), Some((FirstPacket::Ssl, 8)));
    assert_eq!(parse_first(&packet(GSSENC_CODE, b"")).unwrap(), Some((FirstPacket::GssEnc, 8)));
    assert!(parse_first(&packet(SSL_CODE, b"x")).is_err());
    for (code, major, minor) in [(2 << 16, 2, 0), (4 << 16 | 7, 4, 7), (0, 0, 0), (80_877_105, 1234, 5681)] {
        let (p, _) = parse_first(&packet(code, b"")).unwrap().unwrap();
        assert_eq!(p, FirstPacket::UnsupportedProtocol { major, minor });
    }
}

#[test]
fn cancel_keys_of_4_to_256_bytes() {
    for (n, ok) in [(0, false), (3, false), (4, true), (32, true), (256, true), (257, false)] {
        let mut rest = (-5_i32).to_be_bytes().to_vec();
        rest.extend(vec![7; n]);
        let got = parse_first(&packet(CANCEL_CODE, &rest));
        match got {
            Ok(Some((FirstPacket::Cancel { pid, key }, _))) => {
                assert!(ok && pid == -5 && key.len() == n);
            }
            _ => assert!(!ok, "{n}"),
        }
    }
    let (short, _) = parse_first(&packet(CANCEL_CODE, b"abc")).unwrap().unwrap();
    assert!(matches!(short, FirstPacket::Unreadable(_)));
}

#[test]
fn negotiation() {
    let mut s = startup(b"user\0u\0\0").unwrap();
    for (minor, newest) in [(0, None), (1, Some(0)), (2, None), (3, Some(2)), (9999, Some(2))] {
        s.minor = minor;
        assert_eq!(negotiate(&s).map(|n| n.newest_minor), newest, "3.{minor}");
    }
    s.minor = 0;
    s.extensions = vec!["_pq_.a".to_owned()];
    let n = negotiate(&s).unwrap();
    assert_eq!((n.newest_minor, n.unrecognized), (0, s.extensions.clone()));
    let mut many = b"user\0u\0".to_vec();
    for _ in 0..=MAX_EXTENSIONS {
        many.extend_from_slice(b"_pq_.x\0\0");
    }
    many.push(0);
    assert!(startup(&many).is_err());
}

#[test]
fn replication_is_a_hybrid() {
    let get = |v: &str| startup(format!("user\0u\0replication\0{v}\0\0").as_bytes()).map(|s| s.replication);
    assert_eq!(get("database").unwrap(), Replication::Logical);
    for v in ["1", "t", "TRUE", "yes", "on"] {
        assert_eq!(get(v).unwrap(), Replication::Physical, "{v}");
    }
    for v in ["0", "f", "false", "n", "off", "of"] {
        assert_eq!(get(v).unwrap(), Replication::No, "{v}");
    }
    for v in ["", "o", "2", "Database", "truely"] {
        assert!(get(v).is_err(), "{v}");
    }
}

#[test]
fn options_as_postgresql_splits_them() {
    let ok = |s: &str| parse_options(s).unwrap();
    let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    assert_eq!(ok(""), []);
    assert_eq!(ok("  \t\x0b\n "), []);
    assert_eq!(ok("-c a=b"), [pair("a", "b")]);
    assert_eq!(ok(" -ca=b  --x-y=1 "), [pair("a", "b"), pair("x_y", "1")]);
    assert_eq!(ok("-c search_path=a,\\ b"), [pair("search_path", "a, b")]);
    assert_eq!(ok(r"-c a=\\\\"), [pair("a", r"\\")]);
    assert_eq!(ok(r"-c a=x\y\"), [pair("a", "xy")]);
    assert_eq!(ok("-c a=b=c -c d="), [pair("a", "b=c"), pair("d", "")]);
    assert_eq!(ok("-c work-mem=1"), [pair("work_mem", "1")]);
    for bad in
        ["-c", "-c a", "--a", "--", "-", "x", "-B 10", "-d5", "-c =1", "-c a;b=1", "\\", "--a b=1", "-e"]
    {
        assert!(matches!(parse_options(bad), Err(Error::UnsupportedStartupOption(_))), "{bad}");
    }
}

#[test]
fn names_and_literals() {
    for n in ["a", "_x", "TimeZone", "my.var", "a$1", "a.b.c"] {
        assert!(is_valid_guc_name(n), "{n}");
    }
    for n in ["", ".", "a.", ".a", "1a", "a b", "a;b", "a\"", "é", "a..b", "$a", "a-b", "a=b"] {
        assert!(!is_valid_guc_name(n), "{n}");
    }
    assert_eq!(quote_literal(""), "''");
    assert_eq!(quote_literal("it's é"), "'it''s é'");
    assert_eq!(quote_literal(r"a\'é"), r"E'a\\''\xc3\xa9'");
}

proptest! {
    #[test]
    fn no_input_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_first(&bytes);
        let _ = parse_first(&packet(V3_0, &bytes));
        let _ = parse_options(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn literals_close_only_at_their_end(value in "[a'\\\\é;\n]{0,30}") {
        let q = quote_literal(&value);
        let inner = q.trim_start_matches('E');
        let inner = &inner[1..inner.len() - 1];
        let undone = inner.replace("\\\\", "").replace("''", "");
        prop_assert!(!undone.contains('\''));
    }
}
