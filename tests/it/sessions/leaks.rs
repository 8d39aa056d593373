//! Two clients on one server connection: neither ever meets what the other left behind, and only what must be
//! reset is.

use crate::harness::proxy::Howdah;
use crate::harness::tools::PSYCOPG;
use crate::harness::wire::Dsn;
use crate::harness::wire::msg::{self, Frame};
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{
    self, Cluster, app, app_options, app_with, backend, cache, cluster, eventually, left_out, metric,
    refusal, run, shared, start, value,
};

const MAJOR: u32 = 15;

/// Nothing of a session follows its client, or keeps a connection.
const RESET: &str = "session_parameters = \"reset\"\nsession_statements = \"reset\"\nsession_listen = \"reset\"\n\
                     session_objects = \"reset\"";

fn one_server(cluster: &Cluster) -> Howdah {
    start(cluster, "", &format!("pool_size = 1\n{RESET}"), "")
}

/// What the first client leaves, by what the second would notice it, and the mark under which it is counted;
/// none where it is carried or undone without a reset.
const LEAVINGS: &[(&str, &str, &str, Option<&str>)] = &[
    ("SET work_mem = '12345kB'", "SHOW work_mem", "4MB", Some("SET")),
    ("SET enable_seqscan = off; SET enable_sort = off", "SHOW enable_seqscan", "on", Some("SET")),
    ("SET app.tenant = 'other'", "SELECT coalesce(current_setting('app.tenant', true), '')", "", Some("SET")),
    ("SET ROLE reader", "SELECT current_user", "app", Some("SET")),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
        "SHOW transaction_read_only",
        "off",
        Some("SET"),
    ),
    ("SET search_path = elsewhere", "SHOW search_path", "\"$user\", public", Some("SET")),
    ("SET TimeZone = 'Asia/Tokyo'", "SHOW TimeZone", "UTC", None),
    ("LISTEN news", "SELECT count(*) FROM pg_listening_channels()", "0", Some("LISTEN")),
    ("PREPARE mine AS SELECT 1", "SELECT count(*) FROM pg_prepared_statements", "0", Some("PREPARE")),
    (
        "CREATE TEMP TABLE mine (x int)",
        "SELECT count(*) FROM pg_class WHERE relname = 'mine'",
        "0",
        Some("CREATE TEMP"),
    ),
    (
        "CREATE TABLE pg_temp.mine (x int)",
        "SELECT count(*) FROM pg_class WHERE relname = 'mine'",
        "0",
        Some("CREATE TEMP"),
    ),
    (
        "CREATE TEMP TABLE mine AS SELECT 1 AS x",
        "SELECT count(*) FROM pg_class WHERE relname = 'mine'",
        "0",
        Some("CREATE TEMP"),
    ),
    (
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
        "SELECT count(*) FROM pg_cursors WHERE name = 'mine'",
        "0",
        Some("DECLARE CURSOR"),
    ),
    (
        "BEGIN; DECLARE mine CURSOR WITH HOLD FOR SELECT 1; COMMIT",
        "SELECT count(*) FROM pg_cursors WHERE name = 'mine'",
        "0",
        Some("DECLARE CURSOR"),
    ),
    ("BEGIN; SET work_mem = '12345kB'; COMMIT", "SHOW work_mem", "4MB", Some("SET")),
    ("LOAD 'auto_explain'", "SELECT 1", "1", Some("LOAD")),
    ("RESET ALL", "SHOW work_mem", "4MB", Some("RESET")),
];

#[test]
fn nobody_meets_what_another_left() {
    let options =
        app_options().sql("CREATE ROLE reader").sql("GRANT reader TO app").sql("ALTER ROLE app SUPERUSER");
    let Some(cluster) = cluster(MAJOR, options) else { return };
    for (leaving, question, clean, mark) in LEAVINGS {
        let howdah = one_server(&cluster);
        let (mut first, mut second) = (app(&howdah), app(&howdah));
        let server = backend(&mut first);
        assert_eq!(value(&mut second, question), *clean, "before {leaving}");
        run(&mut first, leaving);
        assert_eq!(value(&mut second, question), *clean, "after {leaving}");
        assert_eq!(backend(&mut second), server, "{leaving}: cleaned, not replaced");
        let resets = |labels: &[(&str, &str)]| metric(&howdah, "howdah_server_resets_total", labels);
        assert_eq!(resets(&[]), f64::from(u8::from(mark.is_some())), "{leaving}");
        if let Some(mark) = mark {
            assert_eq!(resets(&[("mark", mark)]), 1.0, "{leaving}");
        }
    }
}

#[test]
fn nobody_meets_a_table_of_select_into() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = one_server(cluster);
    let (mut first, mut second) = (app(&howdah), app(&howdah));
    run(&mut first, "SELECT 1 AS x INTO TEMP mine");
    assert_eq!(value(&mut second, "SELECT count(*) FROM pg_class WHERE relname = 'mine'"), "0");
}

/// What is prepared by name tells nothing when it is executed, in whatever batch and by whomever.
#[test]
fn nobody_meets_what_a_named_statement_left() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = one_server(cluster);
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let (mut first, mut second, mut third) = (Raw::login(&dsn), Raw::login(&dsn), Raw::login(&dsn));
    let clean = |client: &mut Raw, after: &str| {
        assert_eq!(client.select("SHOW work_mem"), ["4MB"], "{after}");
        assert_eq!(client.select("SELECT count(*) FROM pg_class WHERE relname = 'mine'"), ["0"], "{after}");
        assert_eq!(client.select("SELECT count(*) FROM pg_cursors WHERE name = 'mine'"), ["0"], "{after}");
    };
    let texts = [
        "SET work_mem = '12345kB'",
        "CREATE TEMP TABLE mine (x int)",
        "DECLARE mine CURSOR WITH HOLD FOR SELECT 1",
    ];
    for (i, sql) in texts.into_iter().enumerate() {
        let name = format!("s{i}");
        for client in [&mut first, &mut third] {
            let prepared = client.ask(&[msg::parse(&name, sql, &[]), msg::sync()].concat());
            assert_eq!(tags(&prepared).replace('N', ""), "1Z", "{sql}");
        }
        for _ in 0..2 {
            for client in [&mut first, &mut third] {
                clean(&mut second, sql);
                let frames = client.ask(&execute(&name));
                // The warning that something was dropped may come behind it, or before the next answer.
                let tags = tags(&frames).replace('N', "");
                assert_eq!(tags, "2CZ", "{sql}: {frames:?}");
                clean(&mut second, sql);
            }
        }
    }
    assert_eq!(metric(&howdah, "howdah_server_resets_total", &[]), 12.0);
}

/// The same over the extended protocol.
#[test]
fn nobody_meets_what_another_left_by_parse_and_execute() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = one_server(cluster);
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let (mut first, mut second) = (Raw::login(&dsn), Raw::login(&dsn));
    for sql in ["SET work_mem = '12345kB'", "LISTEN news", "CREATE TEMP TABLE mine (x int)"] {
        let frames = first.ask(&[msg::pbe(sql), msg::sync()].concat());
        assert!(!tags(&frames).contains('E'), "{sql}: {frames:?}");
        assert_eq!(second.select("SHOW work_mem"), ["4MB"]);
        assert_eq!(second.select("SELECT count(*) FROM pg_listening_channels()"), ["0"]);
        assert_eq!(second.select("SELECT count(*) FROM pg_class WHERE relname = 'mine'"), ["0"]);
    }
    assert_eq!(metric(&howdah, "howdah_server_resets_total", &[]), 3.0);
}

/// A client that leaves in the middle takes its transaction with it.
#[test]
fn nobody_meets_an_abandoned_transaction() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = one_server(cluster);
    let mut second = app(&howdah);
    let server = backend(&mut second);
    for sql in ["BEGIN; SET LOCAL work_mem = '1MB'", "BEGIN; SET work_mem = '1MB'", "BEGIN; SELECT 1/0"] {
        let mut first = app(&howdah);
        drop(first.query(sql));
        drop(first);
        assert_eq!(value(&mut second, "SHOW work_mem"), "4MB", "{sql}");
        assert_eq!(value(&mut second, "SELECT now() = statement_timestamp()"), "t", "{sql}: no transaction");
        assert_eq!(backend(&mut second), server, "{sql}");
    }
}

#[test]
fn what_ends_with_the_transaction_resets_nothing() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = one_server(cluster);
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let mut raw = Raw::login(&dsn);
    let prepared = [msg::parse("s", "SELECT pg_backend_pid()", &[]), msg::sync()].concat();
    assert_eq!(tags(&raw.ask(&prepared)), "1Z");
    let execute = [msg::bind("", "s", &[], &[], &[]), msg::execute("", 0), msg::sync()].concat();
    let pid = |frames: &[Frame]| frames.iter().find(|f| f.tag == b'D').map(Frame::text);
    let server = pid(&raw.ask(&execute));
    assert!(server.is_some());

    let mut client = app(&howdah);
    for sql in [
        "BEGIN; SET LOCAL work_mem = '1MB'; COMMIT",
        "BEGIN; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; SELECT 1; COMMIT",
        "BEGIN; SET LOCAL TimeZone = 'Asia/Tokyo'; SELECT now(); COMMIT",
        "BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; COMMIT",
        "SELECT 1",
    ] {
        run(&mut client, sql);
        assert_eq!(value(&mut client, "SHOW work_mem"), "4MB", "{sql}");
        assert_eq!(value(&mut client, "SHOW TimeZone"), "UTC", "{sql}");
        assert_eq!(metric(&howdah, "howdah_session_state_total", &[]), 0.0, "{sql}");
    }
    assert_eq!(metric(&howdah, "howdah_server_resets_total", &[]), 0.0);
    let parses = metric(&howdah, "howdah_server_parses_total", &[]);
    assert_eq!(pid(&raw.ask(&execute)), server, "the same server");
    let after = raw.ask(&[prepared_again(), execute].concat());
    assert!(!tags(&after).contains('E'), "{}", tags(&after));
    assert_eq!(metric(&howdah, "howdah_server_parses_total", &[]), parses, "it still has the statement");
}

/// Another client's name for the same text: needs no Parse on a server that has it.
fn prepared_again() -> Vec<u8> {
    [msg::parse("other", "SELECT pg_backend_pid()", &[]), msg::close(b'S', "other")].concat()
}

#[test]
fn state_is_counted_by_command_and_application() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = one_server(cluster);
    let mut shop = app_with(&howdah, &[("application_name", "shop")]).expect("a login");
    let mut batch = app_with(&howdah, &[("application_name", "batch")]).expect("a login");
    for _ in 0..3 {
        run(&mut shop, "SET work_mem = '1MB'");
    }
    run(&mut shop, "LISTEN news");
    run(&mut batch, "CREATE TEMP TABLE t (x int)");
    run(&mut batch, "SELECT 1");
    run(&mut batch, "BEGIN; SET LOCAL work_mem = '1MB'; COMMIT");
    let count = |mark: &str, application: &str| {
        metric(&howdah, "howdah_session_state_total", &[("mark", mark), ("application", application)])
    };
    eventually("all is counted", || metric(&howdah, "howdah_session_state_total", &[]) == 5.0);
    assert_eq!(count("SET", "shop"), 3.0);
    assert_eq!(count("LISTEN", "shop"), 1.0);
    assert_eq!(count("CREATE TEMP", "batch"), 1.0);
    assert_eq!(metric(&howdah, "howdah_session_state_total", &[("application", "batch")]), 1.0);
}

/// `reset_state = false` is the operator's own choice, and what PgBouncer does.
#[test]
fn without_reset_state_it_leaks() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 1\nreset_state = false", "");
    let (mut first, mut second) = (app(&howdah), app(&howdah));
    run(&mut first, "SET work_mem = '12345kB'");
    assert_eq!(value(&mut second, "SHOW work_mem"), "12345kB");
    assert_eq!(metric(&howdah, "howdah_server_resets_total", &[]), 0.0);
}

fn execute(name: &str) -> Vec<u8> {
    [msg::bind("", name, &[], &[], &[]), msg::execute("", 0), msg::sync()].concat()
}

fn prepare(name: &str, sql: &str) -> Vec<u8> {
    [msg::parse(name, sql, &[]), msg::describe(b'S', name), msg::sync()].concat()
}

/// Once, to each client that has the old plan, in the server's words; the driver's own re-prepare succeeds at
/// once on whatever server it comes to.
#[test]
fn a_changed_result_type_is_told_once() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let mut other = app(&howdah);
    run(&mut other, "CREATE TABLE t (a int); INSERT INTO t VALUES (1)");
    let mut client = Raw::login(&dsn);
    let sql = "SELECT * FROM t";
    assert_eq!(tags(&client.ask(&prepare("s", sql))), "1tTZ");
    assert_eq!(tags(&client.ask(&execute("s"))), "2DCZ");
    // Both servers know the statement: the client uses the one that `other` leaves, and then, while a third client
    // holds that one, the one that `other` has given back.
    let mut third = app(&howdah);
    run(&mut other, "BEGIN");
    assert_eq!(tags(&client.ask(&execute("s"))), "2DCZ");
    run(&mut third, "BEGIN");
    run(&mut other, "COMMIT");
    assert_eq!(tags(&client.ask(&execute("s"))), "2DCZ");
    assert_eq!(client.select("SELECT count(*) FROM pg_prepared_statements"), ["1"]);
    run(&mut third, "COMMIT");

    run(&mut other, "ALTER TABLE t ADD b text");
    let failed = client.ask(&execute("s"));
    assert_eq!(tags(&failed), "EZ");
    let error = failed.iter().find(|f| f.tag == b'E').expect("an error");
    assert_eq!(error.field(b'C').as_deref(), Some("0A000"));
    assert_eq!(error.field(b'M').as_deref(), Some("cached plan must not change result type"));

    // What drivers do: close, prepare again, go on. First on one server, then on the other.
    for held in [false, true] {
        if held {
            run(&mut other, "BEGIN");
        }
        let again = [msg::close(b'S', "s"), prepare("s", sql)].concat();
        assert_eq!(tags(&client.ask(&again)), "31tTZ");
        let rows = client.ask(&execute("s"));
        assert_eq!(tags(&rows), "2DCZ", "held: {held}");
        assert_eq!(rows[1].columns().len(), 2, "both columns");
        if held {
            run(&mut other, "COMMIT");
        }
    }
}

#[test]
fn a_statement_that_the_server_lost_is_prepared_again_unseen() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = one_server(cluster);
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let mut client = Raw::login(&dsn);
    let again = || metric(&howdah, "howdah_statements_reprepared_total", &[]);
    assert_eq!(tags(&client.ask(&prepare("s", "SELECT 7"))), "1tTZ");
    for round in 1..=3 {
        assert_eq!(tags(&client.ask(&execute("s"))), "2DCZ");
        // Nothing in the tag tells of it.
        client.select("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$");
        let rows = client.ask(&execute("s"));
        assert_eq!((tags(&rows).as_str(), rows[1].text().as_str()), ("2DCZ", "7"));
        assert_eq!(again(), f64::from(round));
    }
    // In a transaction whose statements have run it cannot be unseen, and is PostgreSQL's own error.
    client.select("BEGIN");
    client.select("DO $$ BEGIN EXECUTE 'DEALLOCATE ALL'; END $$");
    let frames = client.ask(&execute("s"));
    let code = frames.iter().find(|f| f.tag == b'E').and_then(|f| f.field(b'C'));
    assert!(code.is_none() || code.as_deref() == Some("26000"), "{frames:?}");
    client.select("ROLLBACK");
    assert_eq!(tags(&client.ask(&execute("s"))), "2DCZ");
}

/// PostgreSQL's own answers about names, whoever else uses the same ones.
#[test]
fn names_are_each_clients_own() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = one_server(cluster);
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let (mut a, mut b) = (Raw::login(&dsn), Raw::login(&dsn));
    assert_eq!(tags(&a.ask(&prepare("s", "SELECT 'a'"))), "1tTZ");
    assert_eq!(tags(&b.ask(&prepare("s", "SELECT 'b'"))), "1tTZ");
    assert_eq!(a.ask(&execute("s"))[1].text(), "a");
    assert_eq!(b.ask(&execute("s"))[1].text(), "b");
    let code = |frames: Vec<Frame>| frames.iter().find(|f| f.tag == b'E').and_then(|f| f.field(b'C'));
    assert_eq!(code(a.ask(&prepare("s", "SELECT 2"))).as_deref(), Some("42P05"));
    a.select("DEALLOCATE s");
    assert_eq!(code(a.ask(&execute("s"))).as_deref(), Some("26000"));
    assert_eq!(b.ask(&execute("s"))[1].text(), "b");
    assert_eq!(refusal(app(&howdah).query("DEALLOCATE s")).code, "26000");
    b.select("DISCARD ALL");
    assert_eq!(code(b.ask(&execute("s"))).as_deref(), Some("26000"));
}

/// PostgreSQL says even in a transaction that has failed what a statement without rows is; also where the server has to
/// be told of the statement first.
#[test]
fn a_failed_transaction_describes_what_returns_no_rows() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "max_prepared_statements = 1", "pool_size = 1", "");
    let mut direct = Raw::login(&Dsn::local(cluster.port(), "app", "app"));
    let mut client = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    let texts = [
        ("CREATE TABLE never (a int)", &[][..]),
        ("SET TimeZone = 'UTC'", &[]),
        ("DO $$ BEGIN END $$", &[]),
        ("DELETE FROM pg_class WHERE oid = $1", &[26]),
        ("SELECT 1", &[]),
        ("DELETE FROM pg_class WHERE oid = 1 RETURNING oid", &[]),
        ("ROLLBACK", &[]),
    ];
    for (sql, types) in texts {
        let both = [&mut direct, &mut client].map(|c| {
            assert_eq!(tags(&c.ask(&[msg::parse("d", sql, types), msg::sync()].concat())), "1Z");
            // A server may have only one statement here: this one replaces the other.
            c.ask(&[msg::parse("e", "SELECT 'e'", &[]), msg::sync()].concat());
            c.ask(&msg::query("BEGIN"));
            c.ask(&msg::query("SELECT 1/0"));
            let told = c.ask(&[msg::describe(b'S', "d"), msg::sync()].concat());
            c.ask(&msg::query("ROLLBACK"));
            for name in ["d", "e"] {
                c.ask(&[msg::close(b'S', name), msg::sync()].concat());
            }
            told.into_iter()
                .map(|f| (f.tag as char, if f.tag == b'E' { vec![] } else { f.body }))
                .collect::<Vec<_>>()
        });
        assert_eq!(both[1], both[0], "{sql}");
    }
}

const PSYCOPG_SCRIPT: &str = "
import sys, psycopg
with psycopg.connect(sys.argv[1], prepare_threshold=1, autocommit=True) as c:
    c.prepared_max = 2
    for i in range(30):
        assert c.execute('SELECT %s + ' + str(i % 7), (i,)).fetchone() == (i + i % 7,)
    c.execute('DEALLOCATE ALL')
    assert c.execute('SELECT %s + 1', (1,)).fetchone() == (2,)
    assert c.execute('SELECT %s + 1', (2,)).fetchone() == (3,)
with psycopg.connect(sys.argv[1], prepare_threshold=0, autocommit=True) as c:
    c.execute('SELECT 1 + %s', (1,))
    with c.pipeline():
        c.execute('DEALLOCATE ALL')
        x, y = c.execute('SELECT %s::text', ('x',)), c.execute('SELECT %s::text', ('y',))
    assert (x.fetchone(), y.fetchone()) == (('x',), ('y',))
    assert c.execute('SELECT %s::text', ('z',)).fetchone() == ('z',)
print('all right')
";

/// psycopg gives up its oldest statements with DEALLOCATE, over the extended protocol.
#[test]
fn psycopg_deallocates_its_statements() {
    if !cache().join("venv/.psycopg").exists() {
        return left_out(PSYCOPG.name, "not installed");
    }
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2", "");
    for dsn in [cluster.dsn("app", "app"), howdah.dsn("app", "app")] {
        let mut python = std::process::Command::new(cache().join("venv/bin/python"));
        let said = harness::tools::succeed(python.args(["-c", PSYCOPG_SCRIPT, &dsn]), "psycopg");
        assert!(said.contains("all right"), "{said}");
    }
}

/// What `on_connect` did belongs to the connection: a client that resets the session takes it from nobody else.
#[test]
fn on_connect_outlives_a_clients_reset() {
    let Some(cluster) = shared(MAJOR) else { return };
    let pool = "pool_size = 1\non_connect = [\"SET work_mem = '12345kB'\", \"SET TimeZone = 'Asia/Tokyo'\"]";
    let howdah = start(cluster, "", pool, "");
    let (mut first, mut second) = (app(&howdah), app(&howdah));
    for reset in ["DISCARD ALL", "RESET ALL"] {
        run(&mut first, reset);
        // What the first one has reset itself and a server reports is its own wish from then on.
        assert_eq!(value(&mut second, "SHOW TimeZone"), "Asia/Tokyo", "{reset}");
        for client in [&mut second, &mut first] {
            assert_eq!(value(client, "SHOW work_mem"), "12345kB", "{reset}");
        }
    }
    // Where there is none, a client's DISCARD ALL is all that it takes.
    let plain = one_server(cluster);
    run(&mut app(&plain), "DISCARD ALL");
    assert_eq!(value(&mut app(&plain), "SELECT 1"), "1");
    assert_eq!(metric(&plain, "howdah_server_resets_total", &[]), 0.0);
}

/// A backend tells of a reload with the end of the next transaction, whosever that is: it is nobody's SET.
#[test]
fn a_reload_of_the_server_is_no_clients_set() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = one_server(&cluster);
    let (mut first, mut second) = (app(&howdah), app(&howdah));
    run(&mut first, "SELECT 1");
    for zone in ["Asia/Tokyo", "America/Lima"] {
        let mut admin = cluster.connect(harness::SUPERUSER, "app").expect("a direct session");
        run(&mut admin, &format!("ALTER SYSTEM SET TimeZone = '{zone}'"));
        run(&mut admin, "SELECT pg_reload_conf()");
        eventually("it is in force", || value(&mut admin, "SHOW TimeZone") == zone);
        // The transaction that hears of it, and those of others behind it.
        eventually("the first one has it", || value(&mut first, "SHOW TimeZone") == zone);
        assert_eq!(value(&mut second, "SHOW TimeZone"), zone);
        // A client's own wish stands above it, however it was made, and is its own.
        run(&mut second, "SELECT set_config('TimeZone', 'Europe/Rome', false)");
        assert_eq!(value(&mut first, "SHOW TimeZone"), zone);
        assert_eq!(value(&mut second, "SHOW TimeZone"), "Europe/Rome");
        run(&mut second, "RESET TimeZone");
        assert_eq!(value(&mut second, "SHOW TimeZone"), zone);
    }
    // Had the first change been taken for the client's SET, the second one would not have reached it.
    assert!(metric(&howdah, "howdah_parameter_sources_asked_total", &[]) >= 4.0);
    assert_eq!(metric(&howdah, "howdah_server_resets_total", &[]), 0.0);
}

/// DEALLOCATE in the extended protocol means the client's own names, and nobody can name Howdah's.
#[test]
fn deallocate_in_the_extended_protocol() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = one_server(cluster);
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let (mut a, mut b) = (Raw::login(&dsn), Raw::login(&dsn));
    let code = |frames: &[Frame]| frames.iter().find(|f| f.tag == b'E').and_then(|f| f.field(b'C'));
    let run = |c: &mut Raw, sql: &str| {
        c.ask(
            &[msg::parse("", sql, &[]), msg::bind("", "", &[], &[], &[]), msg::execute("", 0), msg::sync()]
                .concat(),
        )
    };
    for name in ["s", "\"S\""] {
        let own = name.trim_matches('"');
        for c in [&mut a, &mut b] {
            assert_eq!(tags(&c.ask(&prepare(own, "SELECT 'shared'"))), "1tTZ");
        }
        assert_eq!(tags(&run(&mut a, &format!("DEALLOCATE {name}"))), "12CZ");
        assert_eq!(code(&a.ask(&execute(own))).as_deref(), Some("26000"));
        assert_eq!(b.ask(&execute(own))[1].text(), "shared", "the other's is still there");
        assert_eq!(code(&run(&mut a, &format!("DEALLOCATE {name}"))).as_deref(), Some("26000"), "twice");
        assert_eq!(tags(&a.ask(&prepare(own, "SELECT 'again'"))), "1tTZ");
        assert_eq!(a.ask(&execute(own))[1].text(), "again");
        // As a prepared statement, run after the name is gone and there again.
        assert_eq!(
            tags(&a.ask(&[msg::parse("d", &format!("DEALLOCATE {name}"), &[]), msg::sync()].concat())),
            "1Z"
        );
        assert_eq!(tags(&a.ask(&execute("d"))), "2CZ");
        assert_eq!(code(&a.ask(&execute(own))).as_deref(), Some("26000"));
        assert_eq!(code(&a.ask(&execute("d"))).as_deref(), Some("26000"));
        assert_eq!(tags(&a.ask(&[msg::close(b'S', "d"), msg::sync()].concat())), "3Z");
    }
    let ours = b.select("SELECT name FROM pg_prepared_statements WHERE name LIKE '\\_\\_howdah%' ORDER BY 1");
    assert!(!ours.is_empty());
    for name in &ours {
        for text in [format!("DEALLOCATE {name}"), format!("DEALLOCATE PREPARE \"{name}\"")] {
            assert_eq!(code(&a.ask(&msg::query(&text))).as_deref(), Some("26000"), "{text}");
            assert_eq!(code(&run(&mut a, &text)).as_deref(), Some("26000"), "{text}");
        }
    }
    assert_eq!(b.ask(&execute("s"))[1].text(), "shared");
    // Where it cannot be seen in time, the server is cleaned behind it.
    a.select(&format!("SELECT 1; DEALLOCATE {}", ours[0]));
    assert_eq!(b.ask(&execute("s"))[1].text(), "shared");
}

/// A text that runs a Parse's statement by its name has the server know that name for a while. However its batch ends, the
/// next client on that connection may have the name for itself.
#[test]
fn a_name_that_was_lent_is_nobody_s_behind_its_client() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 1", "");
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let run = [msg::bind("", "", &[], &[], &[]), msg::execute("", 0)].concat();
    const PG_BACKEND_PID: u32 = 2026;
    let wrong = msg::parse("", "selec", &[]);
    let ends: [(&str, Vec<u8>); 5] = [
        ("a Query", msg::query("SELECT 1")),
        ("a FunctionCall", msg::function_call(PG_BACKEND_PID, &[], &[], 0)),
        ("an error and a Sync", [wrong.clone(), msg::sync()].concat()),
        ("a Terminate", msg::terminate()),
        ("an error and a Terminate", [wrong, msg::terminate()].concat()),
    ];
    for (how, end) in ends {
        let mut first = Raw::login(&dsn);
        first.ask(&[msg::parse("mine", "SELECT 1", &[]), msg::sync()].concat());
        first.put(&[msg::parse("", "EXECUTE mine", &[]), run.clone(), msg::flush()].concat());
        first.until(b'C');
        first.put(&end);
        if !end.ends_with(&msg::terminate()) {
            first.until(b'Z');
        }
        drop(first);
        let mut second = Raw::login(&dsn);
        let prepares = msg::parse("", "PREPARE mine AS SELECT 2", &[]);
        let heard = second.ask(&[prepares, run.clone(), msg::sync()].concat());
        assert_eq!(tags(&heard), "12CZ", "after {how}");
        assert_eq!(second.select("EXECUTE mine"), ["2"], "after {how}");
    }
}
