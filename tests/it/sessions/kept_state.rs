//! In transaction mode a client finds what it has left in its session, as on a connection of its own, and nobody else
//! does.

use std::time::Duration;

use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{
    self, Client, app, app_options, app_with, backend, cluster, eventually, metric, refusal, run, shared,
    start, value,
};

const MAJOR: u32 = 15;

/// The answer, or an error that contains what is expected of it: that something does not exist.
fn finds(client: &mut Client, question: &str, expected: &str, who: &str) {
    let got = client.value(question).unwrap_or_else(|e| e.to_string());
    let fits = got == expected || got.contains(expected) && expected.contains("exist");
    assert!(fits, "{who} finds {got:?}, not {expected:?}");
}

/// What a client leaves and follows it, the question by which it finds it, what it finds, and what strangers find.
const FOLLOWS: &[(&str, &str, &str, &str)] = &[
    ("SET work_mem = '12345kB'", "SHOW work_mem", "12345kB", "4MB"),
    ("SET search_path = elsewhere, public", "SHOW search_path", "elsewhere, public", "\"$user\", public"),
    ("SET app.tenant = 'x'", "SELECT coalesce(current_setting('app.tenant', true), '')", "x", ""),
    (
        "SELECT set_config('app.tenant', 'y', false)",
        "SELECT coalesce(current_setting('app.tenant', true), '')",
        "y",
        "",
    ),
    ("SET \"app.quoted\" = 'q'", "SELECT coalesce(current_setting('app.quoted', true), '')", "q", ""),
    ("SET app.two.dots = 'd'", "SELECT coalesce(current_setting('app.two.dots', true), '')", "d", ""),
    (
        "DO $$ BEGIN SET app.inside = 'i'; END $$",
        "SELECT coalesce(current_setting('app.inside', true), '')",
        "i",
        "",
    ),
    ("SET ROLE reader", "SELECT current_user", "reader", "app"),
    ("SET SESSION AUTHORIZATION reader", "SELECT session_user", "reader", "app"),
    ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "SHOW transaction_read_only", "on", "off"),
    (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        "SHOW transaction_isolation",
        "serializable",
        "read committed",
    ),
    (
        "UPDATE pg_settings SET setting = '777' WHERE name = 'statement_timeout'",
        "SHOW statement_timeout",
        "777ms",
        "0",
    ),
    ("SELECT s FROM (SELECT set_config('work_mem', '782kB', false) s) x", "SHOW work_mem", "782kB", "4MB"),
    ("DO $$ BEGIN PERFORM set_config('work_mem', '784kB', false); END $$", "SHOW work_mem", "784kB", "4MB"),
    ("DO $$ BEGIN SET work_mem = '785kB'; END $$", "SHOW work_mem", "785kB", "4MB"),
    ("EXPLAIN ANALYZE SELECT set_config('work_mem', '786kB', false)", "SHOW work_mem", "786kB", "4MB"),
    ("BEGIN; SET work_mem = '787kB'; COMMIT", "SHOW work_mem", "787kB", "4MB"),
    ("BEGIN; SET work_mem = '788kB'; ROLLBACK", "SHOW work_mem", "4MB", "4MB"),
    ("BEGIN; SAVEPOINT a; SET work_mem = '789kB'; ROLLBACK TO a; COMMIT", "SHOW work_mem", "4MB", "4MB"),
    ("PREPARE mine(int) AS SELECT $1 + 1", "EXECUTE mine(41)", "42", "does not exist"),
    ("PREPARE \"M\" AS SELECT 1; PREPARE mine AS SELECT ';'", "EXECUTE mine", ";", "does not exist"),
    ("PREPARE mine AS SELECT 1; DEALLOCATE mine", "EXECUTE mine", "does not exist", "does not exist"),
    ("SET work_mem = '1MB'; PREPARE mine AS SELECT 1; DISCARD ALL", "SHOW work_mem", "4MB", "4MB"),
];

#[test]
fn what_follows_a_client_is_its_own() {
    let options = app_options().sql("CREATE ROLE reader").sql("ALTER ROLE app SUPERUSER");
    let Some(cluster) = cluster(MAJOR, options) else { return };
    for (leaving, question, own, others) in FOLLOWS {
        let howdah = start(&cluster, "", "pool_size = 2", "");
        let (mut mine, mut other) = (app(&howdah), app(&howdah));
        // A DISCARD ALL has to be alone in its text.
        let (first, discards) =
            leaving.strip_suffix("; DISCARD ALL").map_or((*leaving, false), |s| (s, true));
        run(&mut mine, first);
        if discards {
            run(&mut mine, "DISCARD ALL");
        }
        let check = |client: &mut Client, expected: &str, who: &str| {
            finds(client, question, expected, &format!("{leaving}: {who}"));
        };
        check(&mut other, others, "a stranger");
        // It holds the connection that the first one had.
        run(&mut other, "BEGIN");
        check(&mut mine, own, "the client, elsewhere,");
        let elsewhere = backend(&mut mine);
        assert_ne!(backend(&mut other), elsewhere);
        check(&mut other, others, "a stranger");
        run(&mut other, "ROLLBACK");
        check(&mut mine, own, "the client");
        let mut late = app(&howdah);
        check(&mut late, others, "a late stranger");
        assert_eq!(metric(&howdah, "howdah_pool_pins", &[]), 0.0);
    }
}

/// A client at its next connection: another one has the one that it had, and is held by `other`.
fn moved(mine: &mut Client, other: &mut Client) {
    run(other, "BEGIN");
    assert_ne!(backend(other), backend(mine));
}

#[test]
fn what_execute_runs_is_followed_as_if_it_stood_there() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2", "");
    let (mut mine, mut other) = (app(&howdah), app(&howdah));
    run(&mut mine, "PREPARE hides AS SELECT set_config('work_mem', '888kB', false)");
    run(&mut mine, "EXECUTE hides");
    assert_eq!(value(&mut other, "SHOW work_mem"), "4MB");
    moved(&mut mine, &mut other);
    assert_eq!(value(&mut mine, "SHOW work_mem"), "888kB");
    run(&mut other, "ROLLBACK");
    run(&mut mine, "RESET work_mem");
    let mut raw = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    assert_eq!(
        tags(&raw.ask(&msg::query("PREPARE hides AS SELECT set_config('work_mem', '999kB', false)"))),
        "CZ"
    );
    let bind = [msg::bind("", "s", &[], &[], &[]), msg::execute("", 0), msg::sync()].concat();
    assert_eq!(tags(&raw.ask(&[msg::parse("s", "EXECUTE hides", &[]), msg::sync()].concat())), "1Z");
    assert_eq!(tags(&raw.ask(&bind)), "2DCZ");
    assert_eq!(value(&mut other, "SHOW work_mem"), "4MB");
    assert_eq!(raw.select("SHOW work_mem"), ["999kB"]);
}

#[test]
fn deallocate_all_drops_what_would_follow() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2", "");
    let (mut mine, mut other) = (app(&howdah), app(&howdah));
    run(&mut mine, "PREPARE mine AS SELECT 1");
    run(&mut mine, "DEALLOCATE ALL");
    moved(&mut mine, &mut other);
    assert_eq!(refusal(mine.query("EXECUTE mine")).code, "26000");
}

/// PostgreSQL reads a prepared statement again when it runs under another path, and so does not need to find its names
/// where they are not until then.
#[test]
fn what_was_prepared_under_one_search_path_is_there_under_another() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let mut owner = cluster.connect("app", "app").expect("a direct session");
    run(
        &mut owner,
        "CREATE SCHEMA one; CREATE TABLE one.t AS SELECT 'one' AS x; CREATE SCHEMA two; \
         CREATE TABLE public.u AS SELECT 'public' AS x; CREATE TABLE two.u AS SELECT 'two' AS x",
    );
    let program = |mine: &mut Client, other: Option<&mut Client>| -> Vec<String> {
        run(mine, "PREPARE by_default AS SELECT x FROM u");
        run(mine, "SET search_path = one");
        run(mine, "PREPARE by_path AS SELECT x FROM t");
        run(mine, "SET search_path = two");
        if let Some(other) = other {
            moved(mine, other);
        }
        let asked = [
            "SELECT 1",
            "EXECUTE by_default",
            "EXECUTE by_path",
            "SELECT x FROM (SELECT set_config('search_path', 'one', false)) s, one.t",
            "EXECUTE by_path",
            "EXECUTE by_default",
        ];
        let answer = |sql| match mine.value(sql) {
            Ok(value) => value,
            Err(e) => refusal::<()>(Err(e)).code,
        };
        asked.map(answer).to_vec()
    };
    let direct = program(&mut owner, None);
    assert_eq!(direct, ["1", "two", "42P01", "one", "one", "42P01"]);
    assert_eq!(program(&mut app(&howdah), Some(&mut app(&howdah))), direct);
}

/// What cannot be prepared again fails where it is used, and nothing else does.
#[test]
fn a_statement_whose_table_is_gone_fails_nothing_else() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let mut owner = cluster.connect("app", "app").expect("a direct session");
    run(&mut owner, "CREATE TABLE t AS SELECT 'first' AS x");
    let (mut mine, mut other) = (app(&howdah), app(&howdah));
    run(&mut mine, "PREPARE of_t AS SELECT x FROM t");
    run(&mut mine, "PREPARE of_one AS SELECT 1;");
    run(&mut owner, "DROP TABLE t");
    moved(&mut mine, &mut other);
    assert_eq!(value(&mut mine, "SELECT 2"), "2");
    assert_eq!(value(&mut mine, "EXECUTE of_one"), "1");
    let own = {
        let mut own = cluster.connect("app", "app").expect("a direct session");
        refusal(own.query("SELECT x FROM t")).to_string()
    };
    // The server is asked what the session holds, and the statement is not lost by that.
    run(&mut mine, "SET work_mem = '5MB'");
    assert_eq!(refusal(mine.query("EXECUTE of_t")).to_string(), own);
    assert_eq!(refusal(mine.query("EXECUTE unknown")).code, "26000");
    run(&mut owner, "CREATE TABLE t AS SELECT 'again' AS x");
    assert_eq!(value(&mut mine, "EXECUTE of_t"), "again");
    let text = "SELECT statement FROM pg_prepared_statements WHERE name = 'of_one'";
    assert_eq!(value(&mut mine, text), "PREPARE of_one AS SELECT 1;", "as it was sent");
    run(&mut owner, "DROP TABLE t");
    run(&mut other, "ROLLBACK");
    run(&mut mine, "BEGIN; DEALLOCATE ALL; COMMIT");
    run(&mut owner, "CREATE TABLE t AS SELECT 'at last' AS x");
    assert_eq!(refusal(mine.query("EXECUTE of_t")).code, "26000");
}

/// What exists on one connection alone, how it is found, what else strangers find, and what ends it.
const PINS: &[(&str, &str, &str, &str, &str, &str)] = &[
    (
        "temporary",
        "CREATE TEMP TABLE mine AS SELECT 7 AS x",
        "SELECT x FROM mine",
        "7",
        "does not exist",
        "DROP TABLE mine",
    ),
    (
        "temporary",
        "SELECT 7 AS x INTO \"pg_temp\".\"mine\"",
        "SELECT x FROM mine",
        "7",
        "does not exist",
        "DISCARD ALL",
    ),
    (
        "temporary",
        "BEGIN; SET LOCAL search_path = pg_temp; CREATE TABLE mine AS SELECT 7 AS x; COMMIT",
        "SELECT x FROM mine",
        "7",
        "does not exist",
        "DROP TABLE mine",
    ),
    (
        "temporary",
        "CREATE FUNCTION pg_temp.mine() RETURNS int LANGUAGE sql AS 'SELECT 7'",
        "SELECT pg_temp.mine()",
        "7",
        "does not exist",
        "DROP FUNCTION pg_temp.mine()",
    ),
    (
        "temporary",
        "EXPLAIN ANALYZE CREATE TEMP TABLE mine AS SELECT 7 AS x",
        "SELECT x FROM mine",
        "7",
        "does not exist",
        "DISCARD TEMP",
    ),
    (
        "cursor",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR VALUES (7), (7), (7), (7), (7), (7); COMMIT",
        "FETCH c",
        "7",
        "does not exist",
        "CLOSE c",
    ),
    (
        "lock",
        "SELECT pg_advisory_lock(4711)",
        "SELECT pg_advisory_unlock(4711)",
        "t",
        "f",
        "SELECT pg_advisory_unlock_all()",
    ),
    (
        "lock",
        "DO $$ BEGIN PERFORM pg_advisory_lock(4711); END $$",
        "SELECT pg_advisory_unlock(4711)",
        "t",
        "f",
        "SELECT pg_advisory_unlock_all()",
    ),
    (
        "channel",
        "LISTEN news",
        "SELECT coalesce(string_agg(c, ','), '') FROM pg_listening_channels() c",
        "news",
        "",
        "UNLISTEN news",
    ),
];

#[test]
fn what_cannot_follow_keeps_the_connection_until_it_is_gone() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2\nsession_listen = \"pin\"", "");
    let pins = |kind: &str| metric(&howdah, "howdah_pins_total", &[("kind", kind)]);
    let taken = || metric(&howdah, "howdah_pool_pins", &[]);
    for (kind, leaving, question, own, others, ends) in PINS {
        let (mut mine, mut other) = (app(&howdah), app(&howdah));
        let before = pins(kind);
        run(&mut mine, leaving);
        eventually("the connection is kept", || taken() == 1.0);
        eventually("it is counted", || pins(kind) == before + 1.0);
        let check = |client: &mut Client, expected: &str, who: &str| {
            finds(client, question, expected, &format!("{leaving}: {who}"));
        };
        for _ in 0..2 {
            check(&mut other, others, "a stranger");
        }
        check(&mut mine, own, "the client");
        if *kind != "lock" {
            check(&mut mine, own, "the client, later,");
            assert_eq!(taken(), 1.0, "{leaving}");
        }
        run(&mut mine, ends);
        eventually("the connection is given back", || taken() == 0.0);
        // The client that leaves takes all of it along.
        run(&mut mine, leaving);
        eventually("the connection is kept", || taken() == 1.0);
        drop(mine);
        eventually("the connection is given back", || taken() == 0.0);
        for _ in 0..3 {
            check(&mut other, others, "a stranger, later,");
        }
    }
    assert_eq!(metric(&howdah, "howdah_server_disconnects_total", &[("reason", "not_clean")]), 0.0);
}

/// What a client sets meanwhile does not give its connection away, and RESET leads back to its login there, too.
#[test]
fn a_kept_connection_follows_its_clients_parameters() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2", "");
    let mut other = app(&howdah);
    let named = [("DateStyle", "German, DMY"), ("work_mem", "1234kB"), ("application_name", "startup")];
    for reset in ["RESET ALL", "RESET DateStyle; RESET work_mem; RESET application_name", "DISCARD ALL"] {
        let mut mine = app_with(&howdah, &named).expect("a login");
        run(&mut mine, "CREATE TEMP TABLE mine AS SELECT 7 AS x");
        run(&mut mine, "SET application_name = 'another'");
        run(&mut mine, "SET DateStyle = 'ISO'");
        run(&mut mine, "SET work_mem = '2MB'");
        assert_eq!(metric(&howdah, "howdah_pool_pins", &[]), 1.0, "it keeps its connection");
        for _ in 0..3 {
            assert!(other.value("SELECT x FROM mine").is_err());
            assert_eq!(value(&mut other, "SHOW DateStyle"), "ISO, MDY");
        }
        assert_eq!(value(&mut mine, "SELECT x FROM mine"), "7");
        assert_eq!(value(&mut mine, "SHOW DateStyle"), "ISO, DMY");
        run(&mut mine, reset);
        for (name, expected) in named {
            assert_eq!(value(&mut mine, &format!("SHOW {name}")), expected, "{reset}");
        }
        assert_eq!(mine.value("SELECT x FROM mine").is_ok(), reset != "DISCARD ALL");
        drop(mine);
        eventually("the connection is given back", || metric(&howdah, "howdah_pool_pins", &[]) == 0.0);
    }
}

/// The bound is told before anything is made, with its numbers; what hides is found after its transaction.
#[test]
fn no_more_clients_than_max_pins_keep_a_connection() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 4\nmax_pins = 1\nsession_listen = \"pin\"", "");
    let (mut first, mut second) = (app(&howdah), app(&howdah));
    run(&mut first, "CREATE TEMP TABLE mine (x int)");
    eventually("the connection is kept", || metric(&howdah, "howdah_pool_pins", &[]) == 1.0);
    for sql in [
        "CREATE TEMP TABLE mine (x int)",
        "LISTEN news",
        "SELECT pg_advisory_lock(1)",
        "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
    ] {
        let e = refusal(second.query(sql));
        let told = e.to_string();
        assert!(told.contains("would keep a server connection"), "{sql}: {told}");
        assert_eq!(e.code, "54000", "{sql}");
        let detail = e.detail.clone().unwrap_or_default();
        assert!(detail.contains("1 of 1") && detail.contains("max_pins"), "{detail}");
        assert_eq!(value(&mut second, "SELECT 1"), "1", "it goes on");
    }
    // A lock of the transaction, and a table that is gone with it, are no reason.
    run(&mut second, "SELECT pg_advisory_xact_lock(1)");
    let mut raw = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    let frames = raw.ask(&[msg::pbe("CREATE TEMP TABLE mine (x int)"), msg::sync()].concat());
    assert_eq!(tags(&frames), "1EZ", "{frames:?}");
    let e = refusal(
        second
            .query("DO $$ BEGIN EXECUTE 'SELECT pg_ad' || 'visory_lock(2)'; END $$")
            .and_then(|_| second.query("SELECT 1")),
    );
    assert!(e.to_string().contains("has left advisory locks of its session"), "{e}");
    assert_eq!(metric(&howdah, "howdah_errors_total", &[("code", "no_pin_left_behind")]), 1.0);
    assert_eq!(value(&mut first, "SELECT count(*) FROM mine"), "0");
    let mut late = app(&howdah);
    eventually("its connection is closed", || {
        value(&mut late, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "0"
    });
}

/// An idle client that keeps its connection hears of what it listens to at once.
#[test]
fn a_client_that_listens_and_is_pinned_hears() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2\nsession_listen = \"pin\"", "");
    let mut raw = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    assert_eq!(tags(&raw.ask(&msg::query("LISTEN news"))), "CZ");
    let mut other = app(&howdah);
    run(&mut other, "NOTIFY news, 'first'");
    let heard = raw.next().expect("a message");
    assert_eq!(heard.tag, b'A', "{heard:?}");
    assert!(heard.body.windows(5).any(|w| w == b"first"), "{heard:?}");
    // One's own comes before the end of its transaction.
    assert_eq!(tags(&raw.ask(&msg::query("NOTIFY news, 'second'"))), "CAZ");
}

#[test]
fn what_is_stated_to_be_dropped_is_dropped_with_a_warning() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(
        cluster,
        "",
        "pool_size = 1\nsession_objects = \"reset\"\nsession_listen = \"reset\"\nsession_statements = \"reset\"\n\
         session_parameters = \"reset\"",
        "",
    );
    let mut raw = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    for (sql, kind) in [
        ("CREATE TEMP TABLE mine (x int)", "temporary"),
        ("LISTEN news", "channel"),
        ("PREPARE mine AS SELECT 1", "statement"),
        ("SELECT pg_advisory_lock(1)", "lock"),
    ] {
        raw.ask(&msg::query(sql));
        let warning = raw.next().expect("a message");
        assert_eq!(warning.tag, b'N', "{sql}: {warning:?}");
        assert!(warning.body.windows(11).any(|w| w == b"are dropped"), "{warning:?}");
        let dropped = metric(&howdah, "howdah_session_state_dropped_total", &[("kind", kind)]);
        assert_eq!(dropped, 1.0, "{sql}");
    }
    assert_eq!(raw.select("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), ["0"]);
    raw.ask(&msg::query("SET work_mem = '12345kB'"));
    assert_eq!(raw.select("SHOW work_mem"), ["4MB"]);
}

/// A pool can ask after every transaction, for functions that hide what they do.
#[test]
fn a_function_that_hides_what_it_sets_is_found_where_it_is_always_asked() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    run(
        &mut cluster.connect("postgres", "app").expect("a session"),
        "CREATE FUNCTION hides() RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('work_mem', '999kB', false); END $$",
    );
    let howdah = start(&cluster, "", "pool_size = 1\nsession_check = \"always\"", "");
    let (mut mine, mut other) = (app(&howdah), app(&howdah));
    run(&mut mine, "SELECT hides()");
    assert_eq!(value(&mut other, "SHOW work_mem"), "4MB");
    assert_eq!(value(&mut mine, "SHOW work_mem"), "999kB");
}

/// The client must not go on as if it had what is gone, and nobody else gets that connection.
#[test]
fn a_server_that_does_not_say_what_is_left_ends_the_session() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 1\nsession_check_timeout = \"200ms\"", "");
    let (mut mine, mut other) = (app(&howdah), app(&howdah));
    let server = backend(&mut other);
    let mut admin = cluster.connect(harness::SUPERUSER, "app").expect("a direct session");
    run(&mut admin, "BEGIN; LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE");
    run(&mut mine, "SET work_mem = '12345kB'");
    let e = refusal(mine.query("SELECT 1"));
    assert!(e.to_string().contains("does not say what the transaction has left"), "{e}");
    assert_eq!(e.code, "08006");
    run(&mut admin, "ROLLBACK");
    assert_ne!(backend(&mut other), server);
    assert_eq!(value(&mut other, "SHOW work_mem"), "4MB");
}

/// The question has time of its own.
#[test]
fn a_session_with_short_limits_keeps_what_it_has_set() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 1\nsession_check_timeout = \"10s\"", "");
    let (mut mine, mut other) = (app(&howdah), app(&howdah));
    let mut admin = cluster.connect(harness::SUPERUSER, "app").expect("a direct session");
    run(&mut admin, "BEGIN; LOCK TABLE pg_catalog.pg_depend IN ACCESS EXCLUSIVE MODE");
    run(&mut mine, "SET work_mem = '12345kB'; SET statement_timeout = '100ms'; SET lock_timeout = '100ms'");
    // By now the first question was refused, and the second one waits without a limit.
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND usename = 'app' \
                 AND query LIKE '%pg_prepared_statements%'";
    // What a transaction sees of others stands still, so another session looks.
    let mut watcher = cluster.connect(harness::SUPERUSER, "postgres").expect("a direct session");
    eventually("the question waits", || watcher.value(waits).is_ok_and(|n| n == "1"));
    std::thread::sleep(Duration::from_millis(300));
    run(&mut admin, "ROLLBACK");
    assert_eq!(value(&mut other, "SHOW work_mem"), "4MB");
    assert_eq!(value(&mut other, "SHOW statement_timeout"), "0");
    for (name, value_of) in
        [("work_mem", "12345kB"), ("statement_timeout", "100ms"), ("lock_timeout", "100ms")]
    {
        assert_eq!(value(&mut mine, &format!("SHOW {name}")), value_of);
    }
}

#[test]
fn a_client_that_is_idle_and_keeps_a_connection_is_ended_where_that_is_stated() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2\npin_idle_timeout = \"300ms\"", "");
    let mut mine = app(&howdah);
    run(&mut mine, "CREATE TEMP TABLE mine (x int)");
    eventually("it is ended", || {
        metric(&howdah, "howdah_timeouts_total", &[("timeout", "pin_idle_timeout")]) == 1.0
    });
    let e = refusal(mine.query("SELECT 1"));
    assert_eq!(e.code, "57P05");
    assert!(e.to_string().contains("kept a server connection for temporary objects"), "{e}");
    eventually("the pin is given back", || metric(&howdah, "howdah_pool_pins", &[]) == 0.0);
}

/// Many clients that each PREPARE and SET when they connect, on a few connections.
#[test]
fn a_set_up_of_each_connection_holds_for_many_clients() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 5", "");
    std::thread::scope(|scope| {
        for n in 0..40 {
            let howdah: &Howdah = &howdah;
            scope.spawn(move || {
                let name = format!("worker {n}");
                let mut c = app_with(howdah, &[("application_name", &name)]).expect("a login");
                run(&mut c, &format!("PREPARE get_one(int) AS SELECT $1 + {n}"));
                run(&mut c, "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY");
                for i in 0..50 {
                    assert_eq!(value(&mut c, &format!("EXECUTE get_one({i})")), (i + n).to_string());
                }
                assert_eq!(value(&mut c, "SHOW transaction_read_only"), "on");
            });
        }
    });
    assert_eq!(metric(&howdah, "howdah_errors_total", &[]), 0.0);
}

/// A text means what it means in the database where it is parsed, whoever has prepared it elsewhere.
#[test]
fn a_statement_is_parsed_in_its_own_database() {
    let Some(cluster) = cluster(MAJOR, app_options().sql("CREATE DATABASE other OWNER app")) else { return };
    run(&mut cluster.connect("app", "app").expect("a session"), "CREATE TABLE only_here (x int)");
    let there = format!("[databases.other]\nhost = \"{}\"\npool_size = 1\n", cluster.tcp());
    let howdah = start(&cluster, "", "pool_size = 1", &there);
    let parse = [msg::parse("s", "SELECT x FROM only_here", &[]), msg::sync()].concat();
    let mut here = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    assert_eq!(tags(&here.ask(&parse)), "1Z");
    let mut elsewhere = Raw::login(&Dsn::local(howdah.port(), "app", "other"));
    assert_eq!(tags(&elsewhere.ask(&parse)), "EZ");
}

/// Where nobody may keep a connection, a block may still make what is gone at its end.
#[test]
fn a_block_may_make_what_it_drops_where_nobody_may_keep_a_connection() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 1", "");
    let mut mine = app(&howdah);
    for sql in ["BEGIN", "CREATE TEMP TABLE mine (x int)", "ROLLBACK"] {
        run(&mut mine, sql);
    }
    run(&mut mine, "BEGIN; CREATE TEMP TABLE mine (x int); DROP TABLE mine; COMMIT");
    let mut pipelined = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    for sql in ["BEGIN", "CREATE TEMP TABLE mine (x int)", "ROLLBACK"] {
        pipelined.send(&msg::query(sql)).expect("sent");
    }
    let batch = [
        msg::query("BEGIN"),
        msg::parse("", "CREATE TEMP TABLE mine (x int)", &[]),
        msg::bind("", "", &[], &[], &[]),
        msg::execute("", 0),
        msg::sync(),
        msg::query("ROLLBACK"),
    ];
    pipelined.send(&batch.concat()).expect("sent");
    for heard in ["CZ", "CZ", "CZ", "CZ", "12CZ", "CZ"] {
        assert_eq!(tags(&pipelined.until(b'Z')), heard);
    }
    let e = refusal(mine.query("CREATE TEMP TABLE mine (x int)"));
    assert!(e.to_string().contains("0 of 0"), "{e}");
    run(&mut mine, "BEGIN; CREATE TEMP TABLE mine (x int); COMMIT");
    let e = refusal(mine.query("SELECT 1"));
    assert!(e.to_string().contains("has left temporary objects"), "{e}");
}

/// Each kind has a way of its own: what is reset does not drop what follows, and what follows is no reason to keep the rest.
#[test]
fn ways_can_differ_and_nobody_meets_what_is_reset() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2\nsession_parameters = \"reset\"", "");
    let (mut mine, mut other) = (app(&howdah), app(&howdah));
    run(&mut mine, "PREPARE mine AS SELECT 7");
    finds(&mut other, "EXECUTE mine", "does not exist", "a stranger");
    moved(&mut mine, &mut other);
    assert_eq!(value(&mut mine, "EXECUTE mine"), "7");
    run(&mut other, "ROLLBACK");
    // No tag and no text tells the name of what is set.
    for sql in [
        "SELECT set_config('work_mem', '777kB', false)",
        "DO $$ BEGIN EXECUTE 'SE' || 'T work_mem = 1024'; END $$",
    ] {
        run(&mut mine, sql);
        assert_eq!(value(&mut other, "SHOW work_mem"), "4MB", "{sql}");
        assert_eq!(value(&mut mine, "SHOW work_mem"), "4MB", "{sql}");
        assert_eq!(value(&mut mine, "EXECUTE mine"), "7", "{sql}");
    }
}

/// What is refused is refused before it runs, and what only the question finds ends its client.
#[test]
fn what_is_stated_to_be_refused_is_not_kept() {
    let Some(cluster) = shared(MAJOR) else { return };
    let ways = ["statements", "listen", "objects"].map(|w| format!("session_{w} = \"reject\"\n")).concat();
    let howdah = start(cluster, "", &format!("pool_size = 1\n{ways}"), "");
    let (mut mine, mut other) = (app(&howdah), app(&howdah));
    for (sql, setting) in [
        ("PREPARE mine AS SELECT 1", "session_statements"),
        ("SELECT 1; PREPARE mine AS SELECT 1", "session_statements"),
        ("LISTEN mine", "session_listen"),
        ("CREATE TEMP TABLE mine (x int)", "session_objects"),
        ("DECLARE mine CURSOR WITH HOLD FOR SELECT 1", "session_objects"),
        ("SELECT pg_advisory_lock(1)", "session_objects"),
    ] {
        let e = refusal(mine.query(sql));
        assert_eq!(e.code, "0A000", "{sql}: {e}");
        assert!(e.detail.as_deref().is_some_and(|d| d.contains(setting)), "{sql}: {e:?}");
        assert_eq!(value(&mut mine, "SELECT 1"), "1");
    }
    let mut raw = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    for sql in ["PREPARE mine AS SELECT 1", "LISTEN mine"] {
        let batch = [
            msg::parse("s", sql, &[]),
            msg::bind("", "s", &[], &[], &[]),
            msg::execute("", 0),
            msg::sync(),
            msg::close(b'S', "s"),
            msg::sync(),
        ];
        let heard = raw.ask(&batch.concat());
        assert_eq!(tags(&heard), "1EZ", "{sql}");
        raw.expect("3Z");
    }
    run(&mut mine, "SELECT pg_advisory_xact_lock(1)");
    run(&mut mine, "DO $$ BEGIN EXECUTE 'CREATE TE' || 'MP TABLE mine (x int)'; END $$");
    let e = refusal(mine.query("SELECT 1"));
    assert!(e.severity == "FATAL" && e.to_string().contains("has left temporary objects"), "{e}");
    let temporary = "SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema()";
    assert_eq!(value(&mut other, temporary), "0");
}
