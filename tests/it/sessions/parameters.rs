//! A client's parameters on connections that it shares: the same programs on connections of its own and through a pool
//! of one, and each client must find the same.

use std::time::Duration;

use crate::harness::replicas::{Replicated, eligible};
use crate::harness::{
    self, Client, Cluster, Target, app, app_options, app_with, backend, cluster, eventually, metric, shared,
    start,
};
use howdah::demo::postgres::Options;

const MAJOR: u32 = 15;

type Named<'a> = &'a [(&'a str, &'a str)];

/// Logs in with these parameters, to the server itself or to a Howdah before it.
type Connect<'a> = &'a dyn Fn(Named<'_>) -> Client;

fn direct(cluster: &Cluster) -> impl Fn(Named<'_>) -> Client {
    let address = cluster.tcp();
    move |named| {
        let mut all = vec![("user", "app"), ("database", "app")];
        all.extend_from_slice(named);
        Client::connect_with(&Target::Tcp(address), &all, Duration::from_secs(30)).expect("a direct login")
    }
}

fn ask(client: &mut Client, sql: &str) -> String {
    match client.query(sql) {
        Ok(reply) => reply
            .rows
            .iter()
            .map(|row| row.iter().map(|v| v.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|"))
            .collect::<Vec<_>>()
            .join("\n"),
        Err(e) => format!("{sql}: {e}"),
    }
}

/// The program's transcript on connections of its own, and through a pool of one server in this mode.
fn compare(cluster: &Cluster, mode: &str, program: &dyn Fn(Connect<'_>) -> Vec<String>) {
    let own = program(&direct(cluster));
    let howdah = start(cluster, "", &format!("pool_size = 1\npool_mode = \"{mode}\""), "");
    let through = program(&|named| app_with(&howdah, named).expect("a login"));
    for (n, (own, through)) in own.iter().zip(&through).enumerate() {
        assert_eq!(own, through, "step {n}, {mode} mode");
    }
    assert_eq!(own.len(), through.len());
}

fn tenants() -> Options {
    app_options()
        .sql("CREATE ROLE reader")
        .sql("GRANT reader TO app")
        .sql("ALTER ROLE app SET lock_timeout = '3s'")
}

const EVERYTHING: &str = "SELECT current_user, current_setting('search_path'), current_setting('statement_timeout'), \
    current_setting('app.tenant', true), current_setting('TimeZone'), current_setting('DateStyle'), \
    current_setting('application_name'), current_setting('lock_timeout'), \
    current_setting('default_transaction_read_only')";

/// What ends a client's settings ends nobody else's, and its own only down to what it named at its login.
#[test]
fn a_reset_is_one_clients_own_and_leads_to_its_startup_packet() {
    let Some(cluster) = cluster(MAJOR, tenants()) else { return };
    let options = "-c search_path=t1 -c role=reader -c app.tenant=1 -c statement_timeout=7s -c TimeZone=CET \
                   -c default_transaction_read_only=on";
    let ends = [
        "DISCARD ALL",
        "RESET ALL",
        "RESET TimeZone",
        "SET TimeZone TO DEFAULT",
        "RESET search_path",
        "BEGIN; RESET ALL; COMMIT",
        "SET TimeZone = 'UTC'",
        "SET LOCAL TimeZone = 'UTC'",
        "SELECT set_config('TimeZone', 'Asia/Tokyo', false)",
    ];
    compare(&cluster, "transaction", &|connect| {
        let mut told = Vec::new();
        for end in ends {
            let (mut a, mut b) = (
                connect(&[("options", options), ("application_name", "a")]),
                connect(&[("options", options)]),
            );
            told.push(ask(&mut a, EVERYTHING));
            told.push(ask(&mut b, EVERYTHING));
            a.query(end).unwrap_or_else(|e| panic!("{end}: {e}"));
            told.push(format!("{end}: b has {}", ask(&mut b, EVERYTHING)));
            told.push(format!("{end}: a has {}", ask(&mut a, EVERYTHING)));
            let mut c = connect(&[("options", options)]);
            told.push(format!("{end}: c has {}", ask(&mut c, EVERYTHING)));
            let shown = |c: &Client| format!("{:?}", c.parameters().get("TimeZone"));
            told.push([&a, &b, &c].map(shown).join(" "));
            let mut stranger = connect(&[]);
            told.push(format!(
                "{end}: a stranger has {}",
                ask(&mut stranger, EVERYTHING).replace("||", "|NULL|")
            ));
        }
        // A parameter of an application that was set once stays as an empty text.
        told.into_iter().map(|t| t.replace("||", "|NULL|")).collect()
    });
}

/// In session mode the connection is the client's own, and what it sets stays.
#[test]
fn a_session_pools_client_resets_to_its_startup_packet() {
    let Some(cluster) = cluster(MAJOR, tenants()) else { return };
    let options = "-c search_path=t1 -c app.tenant=1 -c statement_timeout=7s";
    compare(&cluster, "session", &|connect| {
        let mut told = Vec::new();
        for end in [
            "DISCARD ALL",
            "RESET ALL",
            "RESET statement_timeout",
            "SET statement_timeout = '9s'",
            "RESET TimeZone",
        ] {
            let mut a =
                connect(&[("options", options), ("TimeZone", "Asia/Tokyo"), ("application_name", "me")]);
            a.query("SET work_mem = '9MB'; SET statement_timeout = '8s'; SET DateStyle = 'German'")
                .expect("set");
            told.push(ask(&mut a, EVERYTHING));
            a.query(end).expect("reset");
            for _ in 0..2 {
                told.push(format!("{end}: {} {}", ask(&mut a, EVERYTHING), ask(&mut a, "SHOW work_mem")));
            }
            told.push(format!("{:?}", a.parameters()));
            a.close().expect("closed");
        }
        told
    });
}

/// `DateStyle = ISO` keeps the order of day and month that the login finds, whatever others have set.
#[test]
fn a_partial_date_style_means_what_it_means_to_a_login() {
    let Some(cluster) = shared(MAJOR) else { return };
    compare(cluster, "transaction", &|connect| {
        let mut told = Vec::new();
        let mut first = connect(&[]);
        first.query("SET DateStyle = 'SQL, DMY'").expect("set");
        let day = "SELECT '01/02/2020'::date";
        let mut second = connect(&[("DateStyle", "ISO")]);
        told.push(ask(&mut second, day));
        first.query("SET DateStyle = 'ISO, MDY'").expect("set");
        for n in 0..3 {
            let name = format!("jdbc{n}");
            let mut c = connect(&[("DateStyle", "ISO"), ("application_name", &name)]);
            told.push(format!("{:?}", c.parameters().get("DateStyle")));
            told.push(ask(&mut c, day));
            c.query("SET DateStyle = 'DMY'").expect("set");
            told.push(format!("{} {}", ask(&mut c, "SHOW DateStyle"), ask(&mut second, "SHOW DateStyle")));
        }
        told
    });
}

/// Others' encodings do not change what was named: a startup packet's bytes are the database's.
#[test]
fn values_are_read_in_no_other_clients_encoding() {
    let Some(cluster) = shared(MAJOR) else { return };
    compare(cluster, "transaction", &|connect| {
        let mut told = Vec::new();
        let mut latin = connect(&[]);
        latin.query("SET client_encoding = 'LATIN1'").expect("set");
        let bytes = "SELECT convert_to(current_setting('app.tenant'), 'UTF8'), \
                     convert_to(current_setting('search_path'), 'UTF8'), current_setting('client_encoding')";
        let options = "-c app.tenant=Zo\u{eb} -c search_path=sch\u{e9}ma";
        let named: [Vec<(&str, &str)>; 3] = [
            vec![("options", options)],
            vec![("options", options), ("client_encoding", "UTF8")],
            vec![("options", options), ("client_encoding", "LATIN1")],
        ];
        let mut others: Vec<Client> = named.iter().map(|n| connect(n)).collect();
        for _ in 0..2 {
            for c in &mut others {
                latin.query("SELECT 1").expect("an answer");
                told.push(ask(c, bytes));
            }
        }
        told
    });
}

/// PostgreSQL cuts a long name and says so, at the login and at a SET.
#[test]
fn a_name_that_is_too_long_is_cut_with_a_notice() {
    let Some(cluster) = shared(MAJOR) else { return };
    let long = "x".repeat(70);
    for mode in ["transaction", "session"] {
        compare(cluster, mode, &|connect| {
            let mut told = Vec::new();
            // The second login is answered from what is known.
            for _ in 0..3 {
                let mut c = connect(&[("application_name", &long)]);
                c.query("SELECT 1").expect("an answer");
                told.push(format!("{:?}", c.take_notices()));
                c.query(&format!("SET application_name = '{}'", "y".repeat(80))).expect("set");
                told.push(format!("{:?}", c.take_notices()));
                told.push(ask(&mut c, "SHOW application_name"));
                told.push(ask(&mut c, "SHOW application_name"));
                told.push(format!("{:?}", c.take_notices()));
                c.close().expect("closed");
            }
            told
        });
    }
}

const NOON: &str = "SELECT '2020-01-01 12:00+00'::timestamptz::text";

/// A client that has named, or SET, what is the default at that time keeps it when the default changes.
#[test]
fn what_was_stated_outlasts_a_new_default() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 1", "");
    let mut named = app_with(&howdah, &[("TimeZone", "UTC")]).expect("a login");
    let (mut set, mut silent) = (app(&howdah), app(&howdah));
    set.query("SET TimeZone = 'UTC'").expect("set");
    named.query("SET application_name = 'x'").expect("set");
    let mut admin = cluster.connect(harness::SUPERUSER, "app").expect("a direct session");
    let utc = "2020-01-01 12:00:00+00";
    let check = |named: &mut Client, set: &mut Client, silent: &mut Client, default: &str| {
        for _ in 0..2 {
            assert_eq!(ask(named, NOON), utc, "named, {default}");
            assert_eq!(ask(set, NOON), utc, "set, {default}");
            assert_eq!(ask(silent, "SHOW TimeZone"), default);
            assert_eq!(silent.parameters().get("TimeZone").map(String::as_str), Some(default));
            assert_eq!(named.parameters().get("TimeZone").map(String::as_str), Some("UTC"));
        }
    };
    check(&mut named, &mut set, &mut silent, "UTC");
    // A reload, of which the backend tells when it has run something.
    admin.query("ALTER SYSTEM SET TimeZone = 'Asia/Tokyo'").expect("set");
    admin.query("SELECT pg_reload_conf()").expect("reloaded");
    eventually("it is in force", || ask(&mut admin, "SHOW TimeZone") == "Asia/Tokyo");
    assert_eq!(ask(&mut named, NOON), utc, "behind the reload");
    check(&mut named, &mut set, &mut silent, "Asia/Tokyo");
    let mut new = app(&howdah);
    assert_eq!(new.parameters().get("TimeZone").map(String::as_str), Some("Asia/Tokyo"), "at a login");
    assert_eq!(ask(&mut new, "SHOW TimeZone"), "Asia/Tokyo");
    // Another connection, whose login finds something else.
    admin.query("ALTER ROLE app SET TimeZone = 'America/Lima'").expect("set");
    let old = backend(&mut silent);
    admin.query(&format!("SELECT pg_terminate_backend({old}, 10000)")).expect("ended");
    eventually("the old server is gone", || {
        metric(&howdah, "howdah_pool_servers", &[("state", "idle")]) == 0.0
    });
    check(&mut named, &mut set, &mut silent, "America/Lima");
    // A client may go back to it.
    set.query("RESET TimeZone").expect("reset");
    assert_eq!(ask(&mut set, "SHOW TimeZone"), "America/Lima");
}

/// RECONNECT is how an operator puts new settings of a role or database into force.
#[test]
fn a_login_behind_reconnect_is_greeted_with_the_new_default() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "admin_users = [\"app\"]", "pool_size = 2", "");
    let zone = |c: &Client| c.parameters().get("TimeZone").cloned();
    assert_eq!(zone(&app(&howdah)).as_deref(), Some("UTC"));
    cluster.value("ALTER DATABASE app SET TimeZone = 'Asia/Tokyo'; SELECT 1").expect("set");
    let mut console = howdah.connect("app", "pgbouncer").expect("the console");
    console.query("RECONNECT app").expect("accepted");
    assert_eq!(zone(&app(&howdah)).as_deref(), Some("Asia/Tokyo"));
}

/// What on_connect has set is the pool's: a client that names or resets the same goes back to it, and not beyond.
#[test]
fn what_on_connect_has_set_is_gone_back_to() {
    let Some(cluster) = shared(MAJOR) else { return };
    let pool = "pool_size = 1\non_connect = [\"SET work_mem = '12345kB'\", \"SET TimeZone = 'Asia/Tokyo'\"]";
    let howdah = start(cluster, "", pool, "");
    let mut silent = app(&howdah);
    let mut named =
        app_with(&howdah, &[("TimeZone", "CET"), ("options", "-c work_mem=1MB")]).expect("a login");
    let pools = "Asia/Tokyo 12345kB";
    let both = |c: &mut Client| format!("{} {}", ask(c, "SHOW TimeZone"), ask(c, "SHOW work_mem"));
    for end in
        ["SELECT 1", "RESET TimeZone", "RESET work_mem", "RESET ALL", "DISCARD ALL", "SET TimeZone = 'UTC'"]
    {
        assert_eq!(both(&mut named), "CET 1MB", "before {end}");
        named.query(end).expect("an end");
        assert_eq!(both(&mut silent), pools, "after {end}");
        let zone = if end.starts_with("SET") { "UTC" } else { "CET" };
        assert_eq!(both(&mut named), format!("{zone} 1MB"), "after {end}");
        named.query("RESET TimeZone").expect("reset");
        silent.query(end).expect("an end");
        if end.starts_with("SET") {
            silent.query("RESET TimeZone").expect("reset");
        }
        assert_eq!(both(&mut silent), pools, "{end} by the silent one");
    }
}

/// Whatever a reset_query does: what it keeps is known to be kept, and no client meets another's parameters.
#[test]
fn a_reset_query_may_keep_what_it_likes() {
    let Some(cluster) = shared(MAJOR) else { return };
    for (query, kept) in [
        ("RESET ALL; UNLISTEN *; CLOSE ALL", "1"),
        ("UNLISTEN *", "1"),
        ("DEALLOCATE ALL; RESET ALL", "0"),
        ("DISCARD ALL", "0"),
    ] {
        let howdah = start(
            cluster,
            "",
            &format!("pool_size = 1\nsession_parameters = \"reset\"\nreset_query = \"{query}\""),
            "",
        );
        let dsn = harness::wire::Dsn::local(howdah.port(), "app", "app");
        let (mut a, mut b) = (harness::wire::raw::Raw::login(&dsn), harness::wire::raw::Raw::login(&dsn));
        let run = [
            harness::wire::msg::bind("", "s", &[], &[], &[]),
            harness::wire::msg::execute("", 0),
            harness::wire::msg::sync(),
        ]
        .concat();
        let prepare = [harness::wire::msg::parse("s", "SELECT 5", &[]), run.clone()].concat();
        assert_eq!(harness::wire::raw::tags(&a.ask(&prepare)), "12DCZ", "{query}");
        a.ask(&harness::wire::msg::query("SET TimeZone = 'CET'; SET work_mem = '9MB'"));
        // One more client, with nothing of its own.
        assert_eq!(b.select("SHOW TimeZone"), ["UTC"], "{query}");
        let count = b.select("SELECT count(*) FROM pg_prepared_statements");
        assert_eq!(count, [kept], "{query}");
        b.ask(&[harness::wire::msg::parse("s", "SELECT 5", &[]), harness::wire::msg::sync()].concat());
        for client in [&mut a, &mut b] {
            let frames = client.ask(&run);
            assert!(!harness::wire::raw::tags(&frames).contains('E'), "{query}: {frames:?}");
        }
        assert_eq!(harness::wire::raw::tags(&b.ask(&run)), "2DCZ", "{query}");
        assert_eq!(a.select("SHOW TimeZone"), ["CET"], "{query}");
        assert_eq!(b.select("SHOW TimeZone"), ["UTC"], "{query}");
    }
}

/// A reset_query that is wrong costs each connection that needs it: the log says which, and why.
#[test]
fn a_reset_query_that_fails_is_told_in_the_log() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah =
        start(cluster, "", "pool_size = 1\nsession_parameters = \"reset\"\nreset_query = \"SELECT 1/0\"", "");
    let mut c = app(&howdah);
    c.query("SET work_mem = '9MB'").expect("set");
    assert_eq!(ask(&mut c, "SHOW work_mem"), "4MB");
    let log = howdah.await_log("division by zero", Duration::from_secs(10));
    let line = log.lines().find(|l| l.contains("division by zero")).expect("a line");
    for part in ["WARN", "reset_query", "22012", "app", &cluster.tcp().to_string()] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(metric(&howdah, "howdah_server_disconnects_total", &[("reason", "reset_failed")]), 1.0);
}

/// A connection that cannot be cleaned in time is closed, and the log says where it stood.
#[test]
fn a_repair_that_times_out_is_told_in_the_log() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(
        cluster,
        "server_repair_timeout = \"300ms\"",
        "pool_size = 1\nsession_parameters = \"reset\"\nreset_query = \"SELECT pg_sleep(600)\"",
        "",
    );
    app(&howdah).query("SET work_mem = '9MB'").expect("set");
    let log = howdah.await_log("could not be cleaned", Duration::from_secs(10));
    let line = log.lines().find(|l| l.contains("could not be cleaned")).expect("a line");
    for part in ["WARN", "repair_timeout", "limit_ms", "300", "owed", "server_repair_timeout"] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

/// What a replica's own configuration says is no wish of a session's.
#[test]
fn a_replica_that_is_read_only_by_default_gets_no_writes() {
    let Some(servers) = Replicated::start(MAJOR) else { return };
    for r in &servers.replicas {
        let mut admin = r.connect(harness::SUPERUSER, "postgres").expect("a direct session");
        admin.query("ALTER SYSTEM SET default_transaction_read_only = on").expect("set");
        admin.query("SELECT pg_reload_conf()").expect("reloaded");
        eventually("it is in force", || ask(&mut admin, "SHOW default_transaction_read_only") == "on");
    }
    servers.primary.connect("app", "app").expect("direct").query("CREATE TABLE rd (a int)").expect("a table");
    servers.replicas.iter().for_each(|r| r.await_replay(&servers.primary).expect("it follows"));
    let howdah = servers.howdah("when_no_replica = \"error\"\nroute_selects = true", "");
    eligible(&howdah, 2);
    let mut c = app(&howdah);
    let port = "SELECT inet_server_port()";
    for _ in 0..3 {
        c.query("BEGIN READ ONLY").expect("a block");
        assert!(servers.is_replica(&ask(&mut c, port)));
        c.query("COMMIT").expect("its end");
        c.query("INSERT INTO rd VALUES (1)").expect("a write goes to the primary");
    }
    // What the client itself states decides.
    c.query("SET default_transaction_read_only = on").expect("set");
    let volatile = "SELECT inet_server_port() FROM (SELECT random()) AS x";
    assert!(servers.is_replica(&ask(&mut c, volatile)));
    c.query("RESET default_transaction_read_only").expect("reset");
    c.query("INSERT INTO rd VALUES (1)").expect("a write goes to the primary");
}
