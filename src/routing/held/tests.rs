use super::*;

const READING: Reading<'_> = Reading { selects: true, hints: true, functions: &[] };

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut m = vec![tag];
    m.extend_from_slice(&u32::try_from(body.len() + 4).expect("short").to_be_bytes());
    m.extend_from_slice(body);
    m
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

fn extended(sql: &str) -> Vec<u8> {
    [
        message(b'P', format!("\0{sql}\0\0\0").as_bytes()),
        message(b'B', b"\0\0\0\0\0\0\0\0"),
        message(b'D', b"P\0"),
        message(b'E', b"\0\0\0\0\0"),
        message(b'S', b""),
    ]
    .concat()
}

fn begun(sql: &str) -> Held {
    Held::Begun(sql.as_bytes().into())
}

fn answered(held: &Held, bytes: &[u8]) -> Option<(String, Held)> {
    match step(held, bytes, READING) {
        Step::Answer(a) => {
            assert_eq!(a.total, bytes.len());
            Some((String::from_utf8_lossy(&a.reply).replace('\0', "."), a.then))
        }
        _ => None,
    }
}

#[test]
fn bare_blocks_begin_and_end_here() {
    let b = begun("BEGIN");
    assert_eq!(answered(&Held::No, &query("BEGIN")), Some(("C...\nBEGIN.Z...\u{5}T".into(), b.clone())));
    let start = answered(&Held::No, &query("; start transaction;")).expect("answered");
    assert!(start.0.contains("START TRANSACTION"));
    for modes in ["begin isolation level repeatable read", "BEGIN READ ONLY", "start transaction read only;"]
    {
        assert_eq!(answered(&Held::No, &query(modes)).map(|a| a.1), Some(begun(modes)));
    }
    for (end, tag) in
        [("COMMIT", "COMMIT"), ("END WORK", "COMMIT"), ("rollback;", "ROLLBACK"), ("ABORT", "ROLLBACK")]
    {
        let (reply, then) = answered(&b, &query(end)).expect("answered");
        assert!(reply.contains(tag) && reply.ends_with('I'), "{end}: {reply}");
        assert_eq!(then, Held::No);
    }
    let (reply, then) = answered(&Held::No, &extended("BEGIN")).expect("answered");
    assert_eq!(reply, "1...\u{4}2...\u{4}n...\u{4}C...\nBEGIN.Z...\u{5}T");
    assert_eq!(then, b);
}

#[test]
fn everything_else_is_for_a_server() {
    for sql in [
        "BEGIN READ ONLY; SELECT 1",
        "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY",
        "/* howdah: primary */ BEGIN READ ONLY",
        "BEGIN READ WRITE",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "BEGIN; SELECT 1",
        "/* howdah: primary */ BEGIN",
        "SELECT 1",
        "COMMIT",
        "",
    ] {
        assert_eq!(step(&Held::No, &query(sql), READING), Step::Pass, "{sql}");
        assert_eq!(step(&Held::No, &extended(sql), READING), Step::Pass, "{sql}");
    }
    for sql in
        ["COMMIT AND CHAIN", "ROLLBACK TO s", "COMMIT PREPARED 'x'", "COMMIT; SELECT 1", "BEGIN", "SELECT 1"]
    {
        assert_eq!(step(&begun("BEGIN"), &query(sql), READING), Step::Pass, "{sql}");
    }
    let flushed = [message(b'P', b"\0BEGIN\0\0\0"), message(b'H', b"")].concat();
    assert_eq!(step(&Held::No, &flushed, READING), Step::Pass);
    let named = [message(b'P', b"s\0BEGIN\0\0\0"), message(b'S', b"")].concat();
    assert_eq!(step(&Held::No, &named, READING), Step::Pass);
    let more = [message(b'P', b"\0BEGIN\0\0\0"), message(b'P', b"\0SELECT 1\0\0\0")].concat();
    assert_eq!(step(&Held::No, &more, READING), Step::Pass);
}

#[test]
fn a_part_of_it_is_waited_for_only_while_it_can_become_one() {
    for bytes in [query("BEGIN"), extended("BEGIN")] {
        for cut in 0..bytes.len() {
            let got = step(&Held::No, &bytes[..cut], READING);
            assert!(matches!(got, Step::NeedMore(n) if n > cut), "{cut}: {got:?}");
        }
    }
    let other = message(b'P', b"\0SELECT 1\0\0\0");
    assert_eq!(step(&Held::No, &other, READING), Step::Pass);
    assert_eq!(step(&Held::No, &query(&"x".repeat(9000))[..100], READING), Step::Pass);
}

#[test]
fn what_has_failed_waits_for_its_end() {
    let (reply, then) = answered(&Held::Failed, &query("COMMIT")).expect("answered");
    assert!(reply.contains("ROLLBACK") && reply.ends_with('I'));
    assert_eq!(then, Held::No);
    assert!(answered(&Held::Failed, &extended("ROLLBACK")).is_some());
    for bytes in
        [query("SELECT 1"), query("BEGIN"), extended("SELECT 1"), message(b'B', b""), message(b'F', b"")]
    {
        assert_eq!(step(&Held::Failed, &bytes, READING), Step::Refuse);
    }
    assert_eq!(step(&Held::Failed, &message(b'X', b""), READING), Step::Pass);
}
