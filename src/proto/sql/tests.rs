use proptest::prelude::*;

use super::*;

#[test]
fn what_returns_no_rows_is_known_of_the_plain_texts() {
    for text in [
        "begin",
        "/* a */ SET timezone = 'UTC'",
        "create table t as select 1",
        "insert into t values ($1)",
        "UPDATE t SET a = 'returning'",
        "delete from t where \"returning\"",
        "copy t to stdout",
    ] {
        assert!(returns_no_rows(text.as_bytes()), "{text}");
    }
    for text in [
        "",
        "-- nothing",
        "select 1",
        "values (1)",
        "with a as (select 1) insert into t table a",
        "show all",
        "execute s",
        "fetch c",
        "explain delete from t",
        "call p()",
        "insert into t values (1) returning a",
        "delete from t\nRETURNING *",
    ] {
        assert!(!returns_no_rows(text.as_bytes()), "{text}");
    }
}
use Effect::{Carried, Marks, Nothing};

/// The strongest of what [`sets`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Nothing,
    Carried,
    Marks,
}

fn classify(sql: &[u8], is_reported: &dyn Fn(&[u8]) -> bool) -> Effect {
    match sets(sql, is_reported) {
        Sets { marks: true, .. } => Marks,
        Sets { reported: true, .. } => Carried,
        Sets::NOTHING => Nothing,
    }
}

#[test]
fn a_text_tells_whether_what_is_reported_may_have_changed() {
    for (sql, marks, of_the_server) in [
        ("SET work_mem = '1MB'", true, false),
        ("SET work_mem = '1MB'; SET TimeZone = 'UTC'", true, true),
        ("SET TimeZone = 'UTC'", false, true),
        ("SET LOCAL TimeZone = 'UTC'", false, false),
        ("SET app.x = 1", true, false),
        ("SET TimeZone.x = 1", true, false),
        ("SET ROLE a", true, false),
        ("SET SESSION AUTHORIZATION DEFAULT; RESET ALL", true, true),
        ("RESET SESSION AUTHORIZATION", true, false),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", true, true),
        ("RESET ALL", true, true),
    ] {
        assert_eq!(sets(sql.as_bytes(), &reported), Sets { marks, reported: of_the_server }, "{sql}");
    }
}

fn reported(name: &[u8]) -> bool {
    [&b"TimeZone"[..], b"client_encoding", b"search_path", b"DateStyle", b"application_name"]
        .iter()
        .chain(&[&b"session_authorization"[..]])
        .any(|n| n.eq_ignore_ascii_case(name))
}

const NOTHING: &[&str] = &[
    "",
    "   ",
    ";;;",
    "select 1",
    "SELECT 1;",
    "select 1; select 2",
    "select 'set x = 1'",
    "select '; set x = 1; '",
    "select 'it''s; set x = 1; '",
    "select E'\\'; set x = 1; --'",
    "select e'a\\\\'; select 2",
    "select $$; set x = 1; $$",
    "select $t$; set x = 1; $$ ; reset all; $t$",
    "select $a$b$; set x = 1; $a$",
    "select 1e5$a$'$a$",
    "select \"; set x = 1; \"",
    "select \"a\"\"; set x = 1; \"",
    "select U&'; set x = 1'",
    "select 1 -- ; set x = 1",
    "select 1 -- a\n; select 2",
    "/* ; set x = 1; */ select 1",
    "/* /* */ ; set x = 1; */ select 1",
    "-- set x = 1\nselect 1",
    "update t set x = 1",
    "update t\nset x = 1; select 1",
    "insert into t values (1) on conflict do update set a = 1",
    "alter table t set (fillfactor = 10)",
    "alter system set work_mem = '1MB'",
    "alter role r set work_mem = '1MB'",
    "alter table t alter c set default 1; select 1",
    "create function f() returns int language sql set work_mem = '1MB' as $$ select 1; set x = 1 $$",
    "set local work_mem = '1MB'",
    "SET LOCAL ROLE x",
    "set local session authorization x",
    "begin; set local x = 1; commit",
    "set transaction isolation level serializable",
    "set transaction read only",
    "begin; set transaction snapshot '1'; commit",
    "set session transaction read only",
    "set constraints all deferred",
    "/* a */ set /* b */ local -- c\n x = 1",
    "reset transaction isolation level",
    "settle",
    "select 1 as set",
    "offset",
    "resetting",
    "select a$set$ from t",
    "select $1; select $2",
    "select 1 where a = $1 and b = '$$;'",
    "select 1 /* unterminated ; set x = 1",
    "select 'unterminated ; set x = 1",
    "select $$ unterminated ; set x = 1",
    "select \"unterminated ; set x = 1",
];

const CARRIED: &[&str] = &[
    "set timezone = 'UTC'",
    "SET TimeZone TO 'UTC'",
    "set session timezone to default",
    "SET TIME ZONE 'UTC'",
    "set  time\tzone local",
    "set session time zone interval '1' hour to minute",
    "SET NAMES 'utf8'",
    "set names",
    "set timezone",
    "SET SCHEMA 'x'",
    "set search_path = a, b",
    "set search_path to \"$user\", public",
    "set \"DateStyle\" = 'ISO'",
    "reset timezone",
    "RESET TIME ZONE",
    "reset \"search_path\";",
    "select 1; set datestyle = iso",
    "set datestyle = iso; select 1; reset datestyle",
    " \n\x0b set application_name='a;set x=1'",
    "/* hint */set/**/application_name/**/=/**/'x'",
    "--\nset application_name to 'x'",
    "set application_name from current",
    "begin; set search_path = x; rollback",
    "select 'a' ; set search_path = 'b''; set x = 1'",
];

const MARKS: &[&str] = &[
    "set work_mem = '1MB'",
    "SET work_mem TO DEFAULT",
    "SeT SeSsIoN work_mem = 1",
    "set my.var = 1",
    "set search_path.x = 1",
    "set role x",
    "set role = 'x'",
    "set role none",
    "set session role x",
    "reset role",
    "set session authorization x",
    "SET SESSION AUTHORIZATION DEFAULT",
    "set session session authorization x",
    "set session_authorization = 'x'",
    "reset session authorization",
    "reset session_authorization",
    "set session characteristics as transaction read only",
    "set session = 1",
    "reset all",
    "RESET ALL;",
    "set xml option document",
    "set seed to 0.5",
    "set",
    "set ;",
    "reset",
    "set =",
    "set \"a\"\"b\" = 1",
    "set U&\"work\\005fmem\" = 1",
    "set timezone 'UTC'",
    "select 1; set x = 1",
    "select 1;set x=1",
    ";set x = 1",
    "select ';' ; set x = 1",
    "select 'a'';' ; set x = 1",
    "select E'\\\\' ; set x = 1",
    "select E'\\'' ; set x = 1",
    "select $$a$$ ; set x = 1",
    "select $a$ $b$ $a$; set x = 1",
    "select $a$ $$a$; set x = 1",
    "select 1e5$a$'$a$; set x = 1; select '",
    "select \"a;\"; set x = 1",
    "/* a */ set x = 1",
    "/* /* */ */ set x = 1",
    "-- a\nset x = 1",
    "-- a\rset x = 1",
    "select 1 -- a ; '\n; set x = 1",
    "select 1 /* ' */; set x = 1",
    "set timezone = 'UTC'; set x = 1",
    "set local x = 1; set x = 1",
    "begin; set x = 1; commit",
    // Literals with a second reading: a backslash before the quote, where it may escape.
    "select 'a\\''; set x = 1; select '",
    "select 'a\\'; set x = 1 --'",
    "select E'a'\n'b\\''; set x = 1; select '",
    "select N'\\''; set x = 1; --",
];

#[test]
fn every_statement_has_its_effect() {
    assert!(NOTHING.len() + CARRIED.len() + MARKS.len() >= 120);
    for (effect, table) in [(Nothing, NOTHING), (Carried, CARRIED), (Marks, MARKS)] {
        for sql in table {
            assert_eq!(classify(sql.as_bytes(), &reported), effect, "{sql:?}");
            if effect != Nothing {
                assert!(needs_classification(sql.as_bytes()), "{sql:?}");
            }
        }
    }
}

#[test]
fn a_second_reading_without_set_is_nothing() {
    assert_eq!(classify(b"select 'c:\\'; select 1", &reported), Nothing);
    // In SJIS the byte 0x95 takes the backslash, and the quote after it ends the literal.
    assert_eq!(classify(b"select E'\x95\\'; set x = 1; select '", &reported), Marks);
}

#[test]
fn the_usual_statements_are_let_through_at_a_glance() {
    for sql in [
        "select 1",
        " \n select 1;",
        "SELECT 1 ; \n",
        "insert into t values (';')x",
        "rollback",
        "",
        "begin;;",
    ] {
        let wanted = sql.contains("';'");
        assert_eq!(needs_classification(sql.as_bytes()), wanted, "{sql:?}");
    }
}

fn piece() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "set ",
        "reset ",
        "x = 1",
        ";",
        "'",
        "''",
        "\\",
        "\"",
        "$$",
        "$a$",
        "E",
        "e'",
        "U&'",
        "--",
        "\n",
        "/*",
        "*/",
        "local ",
        "session ",
        "timezone ",
        "= ",
        "select ",
        " ",
        "1e5",
        "all",
        "é",
        "role ",
        "$1",
        ".",
    ])
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = classify(&bytes, &reported);
        let _ = needs_classification(&bytes);
    }

    #[test]
    fn the_glance_never_misses(pieces in proptest::collection::vec(piece(), 0..24)) {
        let sql = pieces.concat();
        let effect = classify(sql.as_bytes(), &reported);
        prop_assert!(effect == Nothing || needs_classification(sql.as_bytes()), "{:?} {:?}", sql, effect);
    }

    #[test]
    fn a_set_after_a_complete_text_is_seen(at in 0..NOTHING.len()) {
        let sql = NOTHING[at];
        prop_assume!(!sql.contains("unterminated"));
        let sql = format!("{sql}\n;set x = 1");
        prop_assert_eq!(classify(sql.as_bytes(), &reported), Marks, "{:?}", sql);
    }
}
