//! Sessions as applications see them: the three modes, what a pool's servers start with, and parameters that
//! follow a client from server to server.

use std::time::Duration;

use crate::harness::{
    self, Client, Cluster, app, app_options, app_with, backend, cluster, connections, count, eventually,
    metric, refusal, run, shared, start,
};

const MAJOR: u32 = 15;

fn show(client: &mut Client, name: &str) -> String {
    client.value(&format!("SHOW {name}")).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn session_mode_keeps_everything_until_the_end() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 1\npool_mode = \"session\"", "");
    let mut first = app(&howdah);
    let server = backend(&mut first);
    run(&mut first, "SET work_mem = '12345kB'; CREATE TEMP TABLE mine (x int); PREPARE p AS SELECT 5");
    run(&mut first, "LISTEN news");
    assert_eq!(backend(&mut first), server);
    assert_eq!(show(&mut first, "work_mem"), "12345kB");
    assert_eq!(first.value("EXECUTE p").expect("it is prepared"), "5");
    assert_eq!(first.value("SELECT count(*) FROM mine").expect("it is there"), "0");

    let address = howdah.address();
    let second = std::thread::spawn(move || {
        let mut client = Client::connect(&harness::Target::Tcp(address), "app", "app").expect("a login");
        let pid = backend(&mut client);
        (pid, client)
    });
    eventually("it waits", || metric(&howdah, "howdah_pool_waiting_clients", &[]) == 1.0);
    assert_eq!(backend(&mut first), server, "nobody takes it away");
    drop(first);
    let (pid, mut second) = second.join().expect("no panic");
    assert_eq!(pid, server);
    assert_eq!(show(&mut second, "work_mem"), "4MB");
    for (table, what) in [("pg_prepared_statements", "statements"), ("pg_listening_channels()", "channels")] {
        assert_eq!(second.value(&format!("SELECT count(*) FROM {table}")).expect(what), "0");
    }
    assert_eq!(second.value("SELECT count(*) FROM pg_class WHERE relname = 'mine'").expect("a count"), "0");
}

#[test]
fn statement_mode_refuses_transactions() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 1\npool_mode = \"statement\"", "");
    let (mut client, mut other) = (app(&howdah), app(&howdah));
    for sql in ["BEGIN", "START TRANSACTION", "/* x */ BEGIN ISOLATION LEVEL SERIALIZABLE"] {
        let mut refused = app(&howdah);
        let error = refusal(refused.query(sql));
        assert_eq!(error.code, "0A000", "{sql}: {error}");
        assert!(error.message.contains("statement pooling mode"), "{sql}: {error}");
        eventually("no transaction is left", || {
            count(&cluster, "usename = 'app' AND datname = 'app' AND state LIKE 'idle in%'") == 0
        });
        assert_eq!(other.value("SELECT 1").expect("an answer"), "1", "after {sql}");
    }
    // One query is one statement, whatever is in it.
    for sql in ["SELECT 1; SELECT 2", "BEGIN; SELECT 1; COMMIT"] {
        assert_eq!(client.value(sql).expect("one query"), "1");
    }
    assert!(connections(&cluster, "app") <= 1);
}

#[test]
fn servers_start_with_the_pools_settings() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let database = "pool_size = 1\nstartup = { jit = \"off\", work_mem = \"9MB\" }\n\
                    on_connect = [\"SET lock_timeout = '11s'\", \"CREATE TEMP TABLE made (x int)\"]";
    // One pool of the database wants something else.
    let pools =
        "[users.quiet]\n[[pools]]\ndatabase = \"app\"\nuser = \"quiet\"\nstartup = { work_mem = \"3MB\" }\n";
    cluster.value("CREATE ROLE quiet LOGIN; SELECT 1").expect("made");
    let howdah = start(&cluster, "", database, pools);
    let (mut first, mut second) = (app(&howdah), app(&howdah));
    let both = |c: &mut Client| ["jit", "work_mem"].map(|name| show(c, name));
    assert_eq!(both(&mut first), ["off", "9MB"]);
    assert_eq!(show(&mut first, "lock_timeout"), "11s");
    assert_eq!(first.value("SELECT count(*) FROM made").expect("it is there"), "0");
    assert_eq!(show(&mut second, "lock_timeout"), "11s", "it is nobody's state");
    // Also behind a client that left something.
    run(&mut first, "SET work_mem = '1MB'");
    assert_eq!(both(&mut second), ["off", "9MB"]);
    let mut quiet = howdah.connect("quiet", "app").expect("a login");
    assert_eq!(show(&mut quiet, "work_mem"), "3MB");
}

#[test]
fn what_on_connect_sets_outlasts_a_reset() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 1\non_connect = \"SET lock_timeout = '11s'\"", "");
    let (mut first, mut second) = (app(&howdah), app(&howdah));
    run(&mut first, "SET work_mem = '1MB'");
    assert_eq!(show(&mut second, "lock_timeout"), "11s");
}

/// A transaction that nobody would ever end is no beginning for clients.
#[test]
fn on_connect_that_leaves_a_transaction_open() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 1\non_connect = [\"BEGIN\", \"SELECT 1\"]", "");
    let e = refusal(howdah.connect("app", "app").and_then(|mut c| c.value("SELECT 1")));
    assert!(e.to_string().contains("on_connect left a transaction open"), "{e}");
    let howdah = start(&cluster, "", "pool_size = 1\non_connect = [\"BEGIN\", \"COMMIT\"]", "");
    assert_eq!(app(&howdah).value("SELECT 1").expect("an answer"), "1");
}

/// A server that cannot be made as it should be serves nobody, and says why.
#[test]
fn on_connect_that_fails() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 1\non_connect = \"SELECT * FROM missing\"", "");
    let error = refusal(howdah.connect("app", "app"));
    assert_eq!(error.code, "42P01", "{error}");
    assert!(error.to_string().contains("missing"), "{error}");
    eventually("it is closed", || connections(&cluster, "app") == 0);
}

/// Statements of Howdah's own that the server has logged.
fn own_sets(cluster: &Cluster) -> usize {
    let is_set = |line: &&str| {
        line.contains("app@app")
            && ["set_config", ": SET ", ": RESET "].iter().any(|word| line.contains(word))
    };
    cluster.log().lines().filter(is_set).count()
}

#[test]
fn reported_parameters_follow_their_clients() {
    let Some(cluster) = cluster(MAJOR, app_options().setting("log_statement", "all")) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let parameters = [
        [("application_name", "shop"), ("TimeZone", "Asia/Tokyo"), ("DateStyle", "German")],
        [("application_name", "batch"), ("TimeZone", "America/Lima"), ("DateStyle", "SQL, DMY")],
        [("application_name", ""), ("TimeZone", "UTC"), ("DateStyle", "ISO, MDY")],
    ];
    let day = ["01.02.2026", "01/02/2026", "2026-02-01"];
    let mut clients: Vec<_> = parameters.iter().map(|p| app_with(&howdah, p).expect("a login")).collect();
    // Another one holds either of the servers in turn.
    let mut other = app(&howdah);
    let mut servers = std::collections::BTreeSet::new();
    for _ in 0..3 {
        run(&mut other, "BEGIN");
        for ((client, p), day) in clients.iter_mut().zip(&parameters).zip(day) {
            for (name, value) in &p[..2] {
                assert_eq!(show(client, name), *value);
                assert_eq!(client.parameters().get(*name).map(String::as_str), Some(*value), "as reported");
            }
            assert_eq!(client.value("SELECT DATE '2026-02-01'").expect("a date"), day);
            servers.insert(backend(client));
        }
        run(&mut clients[0], "BEGIN");
        run(&mut other, "COMMIT");
        run(&mut other, "SELECT 1");
        run(&mut clients[0], "COMMIT");
    }
    assert_eq!(servers.len(), 2, "on both servers");

    // Clients of the same wishes cost nothing, one after the other.
    let mut same: Vec<_> = (0..4).map(|_| app_with(&howdah, &parameters[0]).expect("a login")).collect();
    same.iter_mut().for_each(|c| run(c, "SELECT 1"));
    let before = own_sets(&cluster);
    assert!(before > 0, "the log shows them");
    for _ in 0..10 {
        same.iter_mut().for_each(|c| run(c, "SELECT 1"));
    }
    assert_eq!(own_sets(&cluster), before);
}

#[test]
fn what_a_client_sets_is_its_own_on_every_server() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let (mut client, mut other) = (app(&howdah), app(&howdah));
    run(&mut client, "SET TimeZone = 'Asia/Tokyo'");
    run(&mut client, "BEGIN; SET application_name = 'lost'; ROLLBACK");
    run(&mut client, "BEGIN; SET DateStyle = German; COMMIT");
    let mut servers = std::collections::BTreeSet::new();
    for held in [false, true] {
        if held {
            run(&mut other, "BEGIN");
        }
        assert_eq!(show(&mut other, "TimeZone"), "UTC");
        assert_eq!(show(&mut client, "TimeZone"), "Asia/Tokyo");
        assert_eq!(show(&mut client, "application_name"), "");
        assert_eq!(show(&mut client, "DateStyle"), "German, DMY");
        servers.insert(backend(&mut client));
    }
    assert_eq!(servers.len(), 2);
    run(&mut other, "COMMIT");
    run(&mut client, "RESET TimeZone");
    assert_eq!(show(&mut client, "TimeZone"), "UTC");
    assert_eq!(metric(&howdah, "howdah_server_resets_total", &[]), 0.0);
}

/// What the server never reports is carried where the startup packet asks for it.
#[test]
fn options_of_the_startup_packet() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let options = "-c work_mem=7MB --statement-timeout=5min -c app.name=a\\ b\\\\c";
    let mut client =
        app_with(&howdah, &[("options", options), ("search_path", "pg_catalog")]).expect("a login");
    let mut other = app(&howdah);
    let mut servers = std::collections::BTreeSet::new();
    for held in [false, true] {
        if held {
            run(&mut other, "BEGIN");
        }
        assert_eq!(show(&mut other, "work_mem"), "4MB");
        assert_eq!(show(&mut other, "search_path"), "\"$user\", public");
        assert_eq!(show(&mut client, "work_mem"), "7MB");
        assert_eq!(show(&mut client, "statement_timeout"), "5min");
        assert_eq!(show(&mut client, "app.name"), "a b\\c");
        assert_eq!(show(&mut client, "search_path"), "pg_catalog");
        servers.insert(backend(&mut client));
    }
    assert_eq!(servers.len(), 2);
    for (wrong, code) in [("-c work_mem=lots", "22023"), ("-c no_such_setting=1", "42704")] {
        let error = refusal(app_with(&howdah, &[("options", wrong)]));
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", code), "{wrong}: {error}");
        let direct = [("user", "app"), ("database", "app"), ("options", wrong)];
        let target = harness::Target::Tcp(cluster.tcp());
        let direct = refusal(Client::connect_with(&target, &direct, Duration::from_secs(30)));
        assert_eq!((direct.code.as_str(), &direct.message), (code, &error.message), "PostgreSQL's words");
    }
}

/// RESET goes back to what the session began with, as on a server of one's own.

#[test]
fn new_defaults_of_a_role_are_seen() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 1", "");
    let mut client = app(&howdah);
    let old = backend(&mut client);
    assert_eq!(show(&mut client, "TimeZone"), "UTC");
    let mut direct = cluster.connect(harness::SUPERUSER, "postgres").expect("a login");
    run(&mut direct, "ALTER ROLE app SET TimeZone = 'Asia/Tokyo'");
    run(&mut direct, "ALTER ROLE app SET work_mem = '2MB'");
    run(&mut direct, &format!("SELECT pg_terminate_backend({old}, 10000)"));
    eventually("the old server is gone", || {
        metric(&howdah, "howdah_pool_servers", &[("state", "idle")]) == 0.0
    });
    let mut new = app(&howdah);
    assert_eq!(show(&mut new, "work_mem"), "2MB");
    assert_eq!(show(&mut new, "TimeZone"), "Asia/Tokyo");
    assert_eq!(new.parameters().get("TimeZone").map(String::as_str), Some("Asia/Tokyo"));
    // The old client asked for nothing, so the server's default is its own as well.
    assert_eq!(show(&mut client, "TimeZone"), "Asia/Tokyo");
    assert_eq!(client.parameters().get("TimeZone").map(String::as_str), Some("Asia/Tokyo"));
}
