use bytes::BufMut;

use super::*;
use crate::console::rows::{row, text};

fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    out.put_u32(body.len() as u32 + 4);
    out.put_slice(body);
    out
}

/// Feeds messages in and runs what is to be run with `answer`; gives the tags of the answers.
fn talk(dialogue: &mut Dialogue, messages: &[Vec<u8>], answer: &Result<Answer, Refusal>) -> String {
    let mut buf = BytesMut::from(&messages.concat()[..]);
    let mut out = Vec::new();
    loop {
        match dialogue.next(&mut buf).expect("no violation") {
            Step::NeedMore => break,
            Step::Send(bytes) => out.extend(bytes),
            Step::Run(_) => out.extend(dialogue.ran(answer.clone())),
            Step::End => out.push(b'X'),
        }
    }
    assert!(buf.is_empty());
    let mut tags = String::new();
    let mut rest = &out[..];
    while let Some(h) = frame::header(rest, u32::MAX).expect("whole messages") {
        tags.push(char::from(h.tag));
        rest = &rest[h.total..];
    }
    tags
}

const COLUMNS: &[Column] = &[text("version")];

fn three() -> Result<Answer, Refusal> {
    Ok(Answer::Rows { columns: COLUMNS, rows: vec![row!["a"], row!["b"], row!["c"]] })
}

fn dialogue() -> Dialogue {
    Dialogue::new(Profile::Native, true)
}

fn execute(rows: i32) -> Vec<u8> {
    framed(b'E', &[&b"\0"[..], &rows.to_be_bytes()].concat())
}

const PARSE: &[u8] = b"\0show version\0\0\0";
const BIND: &[u8] = b"\0\0\0\0\0\0\0\0";

#[test]
fn a_simple_query() {
    let mut d = dialogue();
    assert_eq!(talk(&mut d, &[framed(b'Q', b"show version\0")], &three()), "TDDDCZ");
    assert_eq!(talk(&mut d, &[framed(b'Q', b"show nothing\0")], &three()), "EZ");
    assert_eq!(talk(&mut d, &[framed(b'Q', b"\0")], &three()), "IZ");
    assert_eq!(talk(&mut d, &[framed(b'Q', b"reload\0")], &Ok(Answer::done("RELOAD"))), "CZ");
    let told = Ok(Answer::Told { notice: "n".to_owned(), detail: String::new(), tag: "SET".to_owned() });
    assert_eq!(talk(&mut d, &[framed(b'Q', b"set timezone=x\0")], &told), "NCZ");
}

#[test]
fn the_extended_protocol() {
    let mut d = dialogue();
    let whole = [
        framed(b'P', PARSE),
        framed(b'D', b"S\0"),
        framed(b'B', BIND),
        framed(b'D', b"P\0"),
        execute(0),
        framed(b'S', b""),
    ];
    assert_eq!(talk(&mut d, &whole, &three()), "1tT2TDDDCZ");
    // In portions, as a cursor would.
    let portions = [
        framed(b'P', PARSE),
        framed(b'B', BIND),
        execute(2),
        execute(2),
        framed(b'C', b"P\0"),
        framed(b'S', b""),
    ];
    assert_eq!(talk(&mut d, &portions, &three()), "12DDsDC3Z");
}

#[test]
fn after_an_error_everything_is_skipped_to_the_sync() {
    let mut d = dialogue();
    let batch = [framed(b'P', b"\0show nothing\0\0\0"), framed(b'B', BIND), execute(0), framed(b'S', b"")];
    assert_eq!(talk(&mut d, &batch, &three()), "EZ");
    let batch = [framed(b'B', b"\0gone\0\0\0\0\0\0\0"), framed(b'Q', b"show version\0"), framed(b'S', b"")];
    assert_eq!(talk(&mut d, &batch, &three()), "EZ");
    let refused = Err(Refusal::NotPaused);
    let batch =
        [framed(b'P', b"\0resume\0\0\0"), framed(b'B', BIND), execute(0), execute(0), framed(b'S', b"")];
    assert_eq!(talk(&mut d, &batch, &refused), "12EZ");
    assert_eq!(talk(&mut d, &[framed(b'Q', b"show version\0")], &three()), "TDDDCZ");
}

#[test]
fn named_statements_stay() {
    let mut d = dialogue();
    let parse = framed(b'P', b"s\0show version\0\0\0");
    assert_eq!(talk(&mut d, &[parse.clone(), framed(b'S', b"")], &three()), "1Z");
    assert_eq!(talk(&mut d, &[parse, framed(b'S', b"")], &three()), "EZ");
    let run = [framed(b'B', b"\0s\0\0\0\0\0\0\0"), execute(0), framed(b'S', b"")];
    assert_eq!(talk(&mut d, &run, &three()), "2DDDCZ");
    let close = [framed(b'C', b"Ss\0"), framed(b'B', b"\0s\0\0\0\0\0\0\0"), framed(b'S', b"")];
    assert_eq!(talk(&mut d, &close, &three()), "3EZ");
}

#[test]
fn nonsense_ends_the_connection() {
    for bytes in [&b"!\0\0\0\x04"[..], b"Q\0\0\0\x02", b"Q\x7f\0\0\0", b"B\0\0\0\x06\0\0", b"p\0\0\0\x05\0"] {
        let mut buf = BytesMut::from(bytes);
        assert!(matches!(dialogue().next(&mut buf), Err(Error::ProtocolViolation(_))), "{bytes:?}");
    }
    let mut buf = BytesMut::from(&b"Q\0\0\0\x09sh"[..]);
    assert_eq!(dialogue().next(&mut buf).expect("it waits"), Step::NeedMore);
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
        let mut buf = BytesMut::from(&bytes[..]);
        let mut d = dialogue();
        while let Ok(step) = d.next(&mut buf) {
            match step {
                Step::NeedMore | Step::End => break,
                Step::Run(_) => drop(d.ran(three())),
                Step::Send(_) => {}
            }
        }
    }
}
