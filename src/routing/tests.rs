use super::choose::{Candidate, choose};
use super::classify::{Reading, classify};
use super::first::{First, Known, look};
use super::*;
use crate::config::routing::Balance;

struct Nobody;

impl Known for Nobody {
    fn statement(&self, name: &[u8], reading: Reading<'_>) -> Option<Verdict> {
        match name {
            b"begin_ro" => Some(classify(b"BEGIN READ ONLY", reading)),
            b"q" => Some(classify(b"SELECT 1", reading)),
            b"w" => Some(classify(b"INSERT INTO t VALUES (1)", reading)),
            _ => None,
        }
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut m = vec![tag];
    m.extend_from_slice(&u32::try_from(body.len() + 4).expect("short").to_be_bytes());
    m.extend_from_slice(body);
    m
}

fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

fn bind(name: &str) -> Vec<u8> {
    message(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes())
}

fn run(name: &str, sql: &str) -> Vec<u8> {
    [parse(name, sql), bind(name), message(b'E', b"\0\0\0\0\0")].concat()
}

fn sync() -> Vec<u8> {
    message(b'S', b"")
}

fn class(bytes: &[u8]) -> Option<Class> {
    match look(bytes, &Nobody, Reading { selects: true, hints: true, functions: &[] }) {
        First::NeedMore | First::Pauses(_) => None,
        First::Is(v) => Some(v.class),
    }
}

#[test]
fn a_batch_is_what_all_of_it_is() {
    let execute = message(b'E', b"\0\0\0\0\0");
    let flush = message(b'H', b"");
    for (bytes, want) in [
        ([run("", "BEGIN READ ONLY"), run("", "SELECT f()"), sync()].concat(), Class::ReadOnlyBlock),
        ([run("", "BEGIN READ ONLY"), run("", "SELECT f()"), flush.clone()].concat(), Class::ReadOnlyBlock),
        ([bind("begin_ro"), execute.clone(), sync()].concat(), Class::ReadOnlyBlock),
        (
            [run("", "BEGIN READ ONLY"), run("", "SELECT 1"), run("", "COMMIT"), sync()].concat(),
            Class::ReadOnlyBlock,
        ),
        (
            [run("", "BEGIN READ ONLY"), run("", "COMMIT"), run("", "INSERT INTO t VALUES (1)"), sync()]
                .concat(),
            Class::Other,
        ),
        ([run("", "BEGIN READ ONLY"), run("", "BEGIN READ WRITE"), sync()].concat(), Class::Other),
        ([run("", "SELECT 1"), sync()].concat(), Class::HarmlessSelect),
        ([parse("s", "SELECT 1"), message(b'D', b"Ss\0"), sync()].concat(), Class::HarmlessSelect),
        ([bind("q"), execute.clone(), bind("q"), execute.clone(), sync()].concat(), Class::HarmlessSelect),
        ([run("", "SELECT 1"), run("", "INSERT INTO t VALUES (1)"), sync()].concat(), Class::Other),
        ([bind("q"), execute.clone(), bind("w"), execute.clone(), sync()].concat(), Class::Other),
        ([bind("w"), execute.clone(), bind("q"), execute.clone(), sync()].concat(), Class::Other),
        // What the batch prepares hides what was there.
        ([parse("q", "DELETE FROM t"), bind("q"), execute.clone(), sync()].concat(), Class::Other),
        ([parse("x", "SELECT 1"), parse("q", "DELETE FROM t"), bind("q"), sync()].concat(), Class::Other),
        ([run("", "SELECT 1"), flush].concat(), Class::Other),
        ([bind("unknown"), execute, sync()].concat(), Class::Other),
        (message(b'Q', b"BEGIN READ ONLY\0"), Class::ReadOnlyBlock),
        (message(b'F', b"\0\0\0\0"), Class::Other),
        (message(b'P', b"no end"), Class::Other),
    ] {
        assert_eq!(class(&bytes), Some(want), "{}", String::from_utf8_lossy(&bytes));
        // Cut anywhere before its end it is not decided, or decided as what is safe.
        for cut in 0..bytes.len() {
            let got = class(&bytes[..cut]);
            assert!(got.is_none() || got == Some(Class::Other) || got == Some(want), "{cut}: {got:?}");
        }
    }
}

#[test]
fn long_texts_are_not_waited_for() {
    let long = message(b'Q', &vec![b'x'; 70_000]);
    assert_eq!(class(&long[..100]), Some(Class::Other));
    assert_eq!(class(&message(b'Q', &vec![b' '; 60_000])[..100]), None);
}

#[test]
fn decisions() {
    let routing = Routing { hints: true, ..Routing::default() };
    let of = |stated: Stated, sql: &str| {
        let reading = Reading { selects: true, hints: true, functions: &[] };
        let d = decide(&routing, stated, classify(sql.as_bytes(), reading));
        (d.role, d.reason)
    };
    let nothing = Stated::default();
    let role = |r| Stated { role: Some(r), ..nothing };
    let read_only = Stated { read_only: true, ..nothing };
    let serializable = Stated { serializable: true, ..nothing };
    let both = Stated { read_only: true, serializable: true, role: None };
    use Reason as R;
    use Role::{Admin, Primary, Replica};
    for (stated, sql, want) in [
        (nothing, "BEGIN READ ONLY", (Replica, R::ReadOnlyBlock)),
        (nothing, "BEGIN", (Primary, R::Write)),
        (nothing, "SELECT 1", (Replica, R::Select)),
        (nothing, "SELECT f()", (Primary, R::Write)),
        (nothing, "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", (Primary, R::Serializable)),
        (nothing, "/* howdah: replica */ SELECT f()", (Replica, R::Hint)),
        (nothing, "/* howdah: primary */ BEGIN READ ONLY", (Primary, R::Hint)),
        (nothing, "/* howdah: replica */ BEGIN READ WRITE", (Primary, R::Write)),
        (read_only, "BEGIN", (Replica, R::ReadOnlyDefault)),
        (read_only, "INSERT INTO t VALUES (1)", (Replica, R::ReadOnlyDefault)),
        (read_only, "BEGIN READ WRITE", (Primary, R::Write)),
        (read_only, "BEGIN ISOLATION LEVEL SERIALIZABLE", (Primary, R::Write)),
        (serializable, "BEGIN READ ONLY", (Primary, R::Serializable)),
        (serializable, "SELECT 1", (Primary, R::Serializable)),
        (serializable, "/* howdah: replica */ SELECT f()", (Primary, R::Write)),
        (both, "SELECT f()", (Primary, R::Serializable)),
        (role(Replica), "INSERT INTO t VALUES (1)", (Replica, R::Stated)),
        (role(Replica), "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", (Primary, R::Serializable)),
        (role(Replica), "BEGIN ISOLATION LEVEL SERIALIZABLE", (Replica, R::Stated)),
        (role(Primary), "BEGIN READ ONLY", (Primary, R::StatedReadOnly)),
        (role(Primary), "BEGIN", (Primary, R::Stated)),
        (role(Primary), "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY", (Primary, R::Stated)),
        (Stated { read_only: true, ..role(Primary) }, "SELECT f()", (Primary, R::StatedReadOnly)),
        (Stated { read_only: true, ..role(Primary) }, "BEGIN READ WRITE", (Primary, R::Stated)),
        (Stated { serializable: true, ..role(Primary) }, "BEGIN READ ONLY", (Primary, R::Stated)),
        (role(Admin), "BEGIN READ ONLY", (Admin, R::Stated)),
    ] {
        assert_eq!(of(stated, sql), want, "{stated:?} {sql}");
    }
}

#[test]
fn replicas_are_chosen_by_work_weight_and_zone() {
    let c = |index, weight, outstanding, near| Candidate { index, weight, outstanding, near };
    let least = |turn, list: &[Candidate]| choose(Balance::LeastOutstanding, turn, list);
    assert_eq!(least(0, &[]), None);
    assert_eq!(least(7, &[c(0, 1, 3, false), c(1, 1, 1, false)]), Some(1));
    // Ties go round.
    let equal = [c(0, 1, 0, false), c(1, 1, 0, false)];
    assert_eq!([least(0, &equal), least(1, &equal)], [Some(0), Some(1)]);
    // Three times the weight carries three times the work.
    assert_eq!(least(0, &[c(0, 1, 1, false), c(1, 3, 4, false)]), Some(1));
    assert_eq!(least(0, &[c(0, 1, 1, false), c(1, 3, 7, false)]), Some(0));
    // The near one, however busy; the far ones when there is none.
    assert_eq!(least(0, &[c(0, 1, 0, false), c(1, 1, 9, true)]), Some(1));
    let turns = |list: &[Candidate]| {
        (0..4).map(|t| choose(Balance::RoundRobin, t, list).expect("one")).collect::<Vec<_>>()
    };
    assert_eq!(turns(&[c(0, 1, 9, false), c(2, 3, 0, false)]), [0, 2, 2, 2]);
    assert_eq!(choose(Balance::RoundRobin, 3, &[]), None);
}
