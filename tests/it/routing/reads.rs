//! Reads on replicas, writes on the primary: a real primary with two streaming replicas, and real drivers.

use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::proxy::Howdah;
use crate::harness::replicas::{Replay, Replicated, eligible};
use crate::harness::tools::succeed;
use crate::harness::wire::msg;
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{self, Client, app_with, cache, eventually, left_out, metric, refusal, root};

fn routed(howdah: &Howdah, role: &str, reason: &str) -> f64 {
    metric(howdah, "howdah_routed_transactions_total", &[("role", role), ("reason", reason)])
}

/// The port of the server that runs this transaction.
fn port_in(client: &mut Client, begin: &str) -> String {
    client.query(begin).expect("a block");
    let port = client.value("SELECT inet_server_port()").expect("a port");
    client.query("COMMIT").expect("its end");
    port
}

fn tool(name: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|d| d.join(name).is_file())
}

fn drivers(major: u32) {
    let Some(servers) = Replicated::start(major) else { return };
    let howdah = servers.howdah("when_no_replica = \"error\"", "");
    let replicas = servers.replicas.iter().map(|r| r.port().to_string()).collect::<Vec<_>>().join(",");
    let mut ran = 0;
    for (driver, needs) in
        [("psycopg", "venv/.psycopg"), ("asyncpg", "venv/.asyncpg"), ("sqlalchemy", "venv/.sqlalchemy")]
    {
        if !cache().join(needs).exists() {
            left_out(driver, "not installed; tests/support/setup.sh installs it where it can");
            continue;
        }
        let mut command = Command::new(cache().join("venv/bin/python"));
        command.arg(root().join("tests/drivers/routing_check.py")).arg(driver);
        command.arg(howdah.dsn("app", "app")).arg(servers.primary.dsn("app", "app"));
        command.arg(servers.primary.port().to_string()).arg(&replicas);
        succeed(command.env("PYTHONDONTWRITEBYTECODE", "1"), driver);
        ran += 1;
    }
    let jar = std::path::Path::new("/usr/share/java/postgresql.jar");
    if jar.exists() && tool("javac") {
        let mut command = Command::new("java");
        command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"]).arg(jar);
        command.arg(root().join("tests/drivers/RoutingCheck.java"));
        command.arg(howdah.port().to_string()).arg(servers.primary.port().to_string());
        succeed(command.arg(servers.primary.port().to_string()).arg(&replicas), "pgjdbc");
        ran += 1;
    } else {
        left_out(
            "pgjdbc",
            "no JDK or no libpostgresql-jdbc-java; tests/support/setup.sh installs them where it can",
        );
    }
    if ran == 0 {
        return;
    }
    // A write in what said READ ONLY was refused by the replica itself, unchanged, and counted.
    assert!(metric(&howdah, "howdah_replica_errors_total", &[("sqlstate", "25006")]) > 0.0);
    assert!(routed(&howdah, "replica", "read_only_block") > 0.0);
    assert!(routed(&howdah, "replica", "read_only_default") > 0.0);
    assert!(routed(&howdah, "replica", "stated") > 0.0);
    assert!(routed(&howdah, "primary", "serializable") > 0.0);
}

#[test]
fn drivers_land_where_they_say_on_postgres_15() {
    drivers(15);
}

#[test]
fn drivers_land_where_they_say_on_postgres_18() {
    drivers(18);
}

#[test]
fn transactions_go_where_they_belong() {
    let Some(mut servers) = Replicated::start(15) else { return };
    servers.primary.connect("app", "app").expect("direct").query("CREATE TABLE t (n int)").expect("a table");
    for r in &servers.replicas {
        r.await_replay(&servers.primary).expect("it follows");
    }
    let primary = servers.primary.port().to_string();
    let howdah = servers.howdah(
        "when_no_replica = \"primary\"\nroute_selects = true\nroute_hints = true\nroute_functions = [\"inet_server_port\"]",
        "",
    );
    let mut c = harness::app(&howdah);

    // Both replicas take their share.
    let ports: std::collections::BTreeSet<String> =
        (0..20).map(|_| port_in(&mut c, "BEGIN READ ONLY")).collect();
    assert!(ports.iter().all(|p| servers.is_replica(p)) && ports.len() == 2, "{ports:?}");
    assert_eq!(port_in(&mut c, "BEGIN"), primary);
    assert_eq!(port_in(&mut c, "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY"), primary);
    // A harmless SELECT outside a block, by the operator's word about the function; a hint.
    assert!(servers.is_replica(&c.value("SELECT inet_server_port()").expect("a port")));
    assert_eq!(c.value("SELECT inet_server_port() FOR UPDATE").expect("a port"), primary);
    // What the reader of texts cannot read is the primary's.
    let long = format!("SELECT inet_server_port(), '{}'", "x".repeat(100_000));
    assert_eq!(c.value(&long).expect("a port"), primary);
    let e = refusal(c.query("SELECT inet_server_port() $ (("));
    assert_eq!(e.code, "42601", "the server's own word: {e:?}");
    assert_eq!(c.value("/* howdah: primary */ SELECT inet_server_port()").expect("a port"), primary);
    let hinted = "/* howdah: replica */ SELECT inet_server_port() + length(pg_sleep(0)::text)";
    assert!(servers.is_replica(&c.value(hinted).expect("a port")));
    assert!(routed(&howdah, "replica", "hint") > 0.0 && routed(&howdah, "replica", "select") > 0.0);

    // What is sent behind the end of a read-only transaction without waiting goes where it belongs.
    let sent = ["BEGIN READ ONLY", "SELECT 1", "COMMIT", "INSERT INTO t VALUES (1)"];
    for (sql, answer) in sent.iter().zip(c.queries(&sent).expect("answers")) {
        assert!(answer.is_ok(), "{sql}: {answer:?}");
    }
    assert_eq!(
        servers.primary.connect("app", "app").expect("direct").value("SELECT count(*) FROM t").expect("one"),
        "1"
    );

    // Nobody serves reads any more: they go to the primary, as stated, and are counted.
    for r in &mut servers.replicas {
        r.stop(harness::Stop::Immediate).expect("it stops");
    }
    eligible(&howdah, 0);
    assert_eq!(port_in(&mut c, "BEGIN READ ONLY"), primary);
    assert!(routed(&howdah, "primary", "no_replica") > 0.0);
    // And back.
    servers.replicas[0].start().expect("it starts");
    eligible(&howdah, 1);
    let port = servers.replicas[0].port().to_string();
    eventually("reads on the replica that is back", || port_in(&mut c, "BEGIN READ ONLY") == port);
}

#[test]
fn without_a_replica_it_happens_what_is_stated() {
    let Some(mut servers) = Replicated::start(15) else { return };
    for r in &mut servers.replicas {
        r.stop(harness::Stop::Fast).expect("it stops");
    }
    let config = servers.config("", "when_no_replica = \"error\"", "");
    let howdah = Howdah::start(&config);
    let mut c = harness::app(&howdah);
    let e = refusal(c.query("BEGIN READ ONLY"));
    assert_eq!(e.code, "57P03", "{e:?}");
    c.query("BEGIN").expect("the session goes on");
    c.query("ROLLBACK").expect("and on");
    assert!(routed(&howdah, "replica", "no_replica") > 0.0);

    let howdah = Howdah::start(&config.replace("\"error\"", "\"wait\""));
    let address = howdah.address();
    let waiting = std::thread::spawn(move || {
        let mut c = Client::connect(&harness::Target::Tcp(address), "app", "app").expect("a login");
        c.query("BEGIN READ ONLY").expect("it is served in the end");
        c.value("SELECT inet_server_port()").expect("a port")
    });
    eventually("a client that waits", || metric(&howdah, "howdah_clients", &[("state", "waiting")]) > 0.0);
    servers.replicas[1].start().expect("it starts");
    assert_eq!(waiting.join().expect("no panic"), servers.replicas[1].port().to_string());
}

#[test]
fn a_startup_option_needs_servers_of_its_role() {
    let Some(servers) = Replicated::start(15) else { return };
    let howdah = servers.howdah("when_no_replica = \"error\"", "");
    for (option, accepted) in [("replica", true), ("primary", true), ("admin", false), ("elsewhere", false)] {
        let options = format!("-c howdah.role={option}");
        let got = app_with(&howdah, &[("options", &options)]);
        assert_eq!(got.is_ok(), accepted, "{option}");
    }
}

#[test]
fn a_begin_waits_for_what_is_behind_it() {
    let Some(mut servers) = Replicated::start(15) else { return };
    let database = "when_no_replica = \"error\"\ndefer_begin = true";
    let howdah = Howdah::start(&servers.config("query_wait_timeout = \"500ms\"", database, ""));
    eligible(&howdah, 2);
    let ends = |end: &str| metric(&howdah, "howdah_deferred_begins_total", &[("end", end)]);
    let mut c = harness::app(&howdah);
    for level in ["", " ISOLATION LEVEL REPEATABLE READ"] {
        c.query(&format!("BEGIN{level}")).expect("a block");
        assert_eq!(c.status(), 'T');
        c.query("SET TRANSACTION READ ONLY").expect("said");
        assert!(servers.is_replica(&c.value("SELECT inet_server_port()").expect("a port")));
        c.query("COMMIT").expect("its end");
    }
    assert!(routed(&howdah, "replica", "set_transaction") > 1.0);
    // All at once, too.
    let sent = ["BEGIN", "SET TRANSACTION READ ONLY", "SELECT inet_server_port()", "COMMIT"];
    let answers = c.queries(&sent).expect("answers");
    let port = answers[2].as_ref().expect("a port").value().expect("one").to_owned();
    assert!(servers.is_replica(&port));
    c.query("START TRANSACTION").expect("a block");
    assert_eq!(c.value("SELECT inet_server_port()").expect("a port"), servers.primary.port().to_string());
    c.query("COMMIT").expect("its end");
    // Outside of a block it says nothing about what follows.
    c.query("SET TRANSACTION READ ONLY").expect("a warning");
    assert_eq!(c.value("SELECT inet_server_port()").expect("a port"), servers.primary.port().to_string());
    // Nothing in it: no server.
    let served = ends("server");
    for end in ["COMMIT", "ROLLBACK"] {
        c.query("BEGIN").expect("a block");
        c.query(end).expect("its end");
        assert_eq!(c.status(), 'I');
    }
    assert_eq!((ends("local"), ends("server")), (2.0, served));

    servers.primary.stop(harness::Stop::Immediate).expect("it stops");
    eventually("the monitor sees it", || metric(&howdah, "howdah_host_up", &[]) < 2.5);
    c.query("BEGIN").expect("a block, as far as anybody knows");
    let e = refusal(c.query("SELECT 1"));
    assert_eq!((e.severity.as_str(), c.status()), ("ERROR", 'E'), "{e:?}");
    assert_eq!(refusal(c.query("SELECT 1")).code, "25P02");
    assert_eq!(c.status(), 'E');
    assert_eq!(c.query("COMMIT").expect("its end").tags, ["ROLLBACK"]);
    assert_eq!(c.status(), 'I');
    assert!(ends("failed") > 0.0);
    // The same in the extended protocol: everything up to the Sync is skipped, a Close and the end are not.
    let mut raw = Raw::login(&harness::wire::Dsn::local(howdah.port(), "app", "app"));
    let batch = |parts: &[Vec<u8>]| parts.concat();
    let mut ask = |what: &str, bytes: &[u8]| {
        let frames = raw.ask(bytes);
        let code = frames.iter().find(|f| f.tag == b'E').and_then(|f| f.field(b'C')).unwrap_or_default();
        let status = char::from(frames.last().expect("a ReadyForQuery").body[0]);
        println!("{what}: {} {code} {status}", tags(&frames));
        (tags(&frames), code, status)
    };
    let all = |tags: &str, code: &str, status| (tags.to_owned(), code.to_owned(), status);
    assert_eq!(ask("begin", &batch(&[msg::pbe("BEGIN"), msg::sync()])), all("12CZ", "", 'T'));
    assert_eq!(ask("no server", &batch(&[msg::pbe("SELECT 1"), msg::sync()])).2, 'E');
    let more = batch(&[msg::parse("s", "SELECT 1", &[]), msg::pbe("ROLLBACK"), msg::sync()]);
    assert_eq!(ask("skipped", &more), all("EZ", "25P02", 'E'));
    assert_eq!(ask("a Close", &batch(&[msg::close(b'S', "s"), msg::sync()])), all("3Z", "", 'E'));
    assert_eq!(ask("a Sync", &msg::sync()), all("Z", "", 'E'));
    assert_eq!(ask("a query", &msg::query("SELECT 1")), all("EZ", "25P02", 'E'));
    assert_eq!(ask("its end", &batch(&[msg::pbe("ROLLBACK"), msg::sync()])), all("12CZ", "", 'I'));
    // The session goes on.
    assert!(servers.is_replica(&port_in(&mut c, "BEGIN READ ONLY")));
}

/// A replica whose replay stands still leaves the set within its limit of lag, serves nothing that is older, and
/// comes back.
fn paused(major: u32) {
    const LIMIT: Duration = Duration::from_millis(600);
    let Some(servers) = Replicated::start(major) else { return };
    servers
        .primary
        .connect("app", "app")
        .expect("direct")
        .query("CREATE TABLE beat (n bigint)")
        .expect("a table");
    servers.replicas.iter().for_each(|r| r.await_replay(&servers.primary).expect("it follows"));
    let config = servers.config(
        "",
        "when_no_replica = \"error\"\nmax_lag = \"600ms\"\nmonitor_user = \"postgres\"",
        "[users.postgres]",
    );
    let howdah = Howdah::start(&config);
    eligible(&howdah, 2);
    let paused = servers.replicas[0].port().to_string();
    let end = AtomicBool::new(false);
    // When each number was committed, by the time of this process.
    let committed = Mutex::new(vec![Instant::now()]);
    let reads = AtomicU64::new(0);
    let on_paused = AtomicU64::new(0);
    let address = howdah.address();
    std::thread::scope(|s| {
        s.spawn(|| {
            let mut c = Client::connect(&harness::Target::Tcp(address), "app", "app").expect("a login");
            c.query("INSERT INTO beat VALUES (0)").expect("a row");
            while !end.load(Ordering::Relaxed) {
                let n = committed.lock().expect("no panic").len();
                c.query(&format!("UPDATE beat SET n = {n}")).expect("written");
                committed.lock().expect("no panic").push(Instant::now());
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        for _ in 0..3 {
            s.spawn(|| {
                let mut c = Client::connect(&harness::Target::Tcp(address), "app", "app").expect("a login");
                while !end.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    let row = "BEGIN READ ONLY; SELECT coalesce(max(n), 0) || ' ' || inet_server_port() FROM beat; COMMIT";
                    let answer = c.value(row).expect("the other replica serves");
                    let (n, port) = answer.split_once(' ').expect("two words");
                    let n: usize = n.parse().expect("a number");
                    // The next one was committed so long before this read began.
                    let next = committed.lock().expect("no panic").get(n + 1).copied();
                    let age = next.map_or(Duration::ZERO, |t| began.saturating_duration_since(t));
                    assert!(age <= LIMIT, "{n} was {age:?} old on {port}");
                    reads.fetch_add(1, Ordering::Relaxed);
                    on_paused.fetch_add(u64::from(port == paused), Ordering::Relaxed);
                }
            });
        }
        let some_more = |what: &AtomicU64| {
            let before = what.load(Ordering::Relaxed);
            eventually("reads", || what.load(Ordering::Relaxed) > before + 20);
        };
        some_more(&on_paused);
        let mut replay = Replay::of(&servers.replicas[0]);
        replay.pause();
        let since = Instant::now();
        eligible(&howdah, 1);
        println!("out of the set after {:?}", since.elapsed());
        let before = on_paused.load(Ordering::Relaxed);
        some_more(&reads);
        some_more(&reads);
        // Those that were on their way when it went.
        assert!(on_paused.load(Ordering::Relaxed) <= before + 3, "it serves no more");
        replay.resume();
        eligible(&howdah, 2);
        some_more(&on_paused);
        end.store(true, Ordering::Relaxed);
    });
    assert_eq!(routed(&howdah, "primary", "lag"), 0.0);
}

#[test]
fn a_replica_that_stands_still_leaves_and_comes_back_on_postgres_15() {
    paused(15);
}

#[test]
fn a_replica_that_stands_still_leaves_and_comes_back_on_postgres_18() {
    paused(18);
}

#[test]
fn the_console_tells_where_a_statement_would_go() {
    let Some(mut servers) = Replicated::start(15) else { return };
    let database = "when_no_replica = \"primary\"\nroute_selects = true\nroute_hints = true";
    let howdah = Howdah::start(&servers.config("stats_users = [\"app\"]", database, ""));
    eligible(&howdah, 2);
    let mut console = howdah.connect("app", "howdah").expect("the console");
    let mut ask = |text: &str| {
        let rows = console.query(text).expect("rows").rows;
        let word = |n: usize| rows[0][n].clone().unwrap_or_default();
        (rows.len(), word(1), word(2), word(3), word(4))
    };
    let primary = servers.primary.tcp().to_string();
    assert_eq!(ask("SHOW ROUTES").0, 3);
    let (_, class, role, reason, to) = ask("SHOW ROUTES 'SELECT ''x'''");
    assert_eq!((&*class, &*role, &*reason), ("harmless select", "replica", "select"));
    assert!(servers.replicas.iter().any(|r| r.tcp().to_string() == to), "{to}");
    let (_, class, role, reason, to) = ask("SHOW ROUTES app 'SELECT now() FOR UPDATE'");
    assert_eq!((&*class, &*role, &*reason, &*to), ("may write", "primary", "write", &*primary));
    servers.replicas.iter_mut().for_each(|r| r.stop(harness::Stop::Immediate).expect("it stops"));
    eligible(&howdah, 0);
    let (_, class, role, reason, to) = ask("SHOW ROUTES app 'BEGIN READ ONLY'");
    assert_eq!((&*class, &*role, &*reason, &*to), ("read-only block", "primary", "no_replica", &*primary));
}

#[test]
fn aliases_and_roles_say_where_and_conflicts_reach_the_client() {
    let options = harness::app_options()
        .setting("max_standby_streaming_delay", "0")
        .sql("CREATE ROLE reads LOGIN")
        .sql("ALTER ROLE reads SET default_transaction_read_only = on");
    let Some(mut servers) = Replicated::start_with(15, options) else { return };
    servers
        .primary
        .connect("app", "app")
        .expect("direct")
        .query("CREATE TABLE gone (n int)")
        .expect("a table");
    servers.replicas.iter().for_each(|r| r.await_replay(&servers.primary).expect("it follows"));
    let alias = format!(
        "[users.reads]\n[databases.app_reads]\nhost = \"{}\"\ndbname = \"app\"\npool_size = 5\nroute = \"replica\"\n\
         when_no_replica = \"primary\"\n[databases.app_reads.replica]\nhost = [{}]\n",
        servers.primary.tcp(),
        servers.replica_hosts(),
    );
    let howdah = servers.howdah_with("when_no_replica = \"error\"", &alias, 4);
    let primary = servers.primary.port().to_string();
    let port = "SELECT inet_server_port()";
    // Without any opt-in: by the role's default, and by the alias.
    let mut by_role = howdah.connect("reads", "app").expect("a login");
    assert!(servers.is_replica(&by_role.value(port).expect("a port")));
    assert_eq!(by_role.parameters().get("in_hot_standby").map(String::as_str), Some("off"));
    by_role.query("BEGIN READ WRITE").expect("a block that writes");
    assert_eq!(by_role.value(port).expect("a port"), primary);
    by_role.query("COMMIT").expect("its end");
    let mut alias = howdah.connect("app", "app_reads").expect("a login");
    assert!(servers.is_replica(&alias.value(port).expect("a port")));
    assert_eq!(alias.parameters().get("in_hot_standby").map(String::as_str), Some("on"));
    let e = refusal(alias.query("CREATE TABLE nowhere (n int)"));
    assert_eq!(e.code, "25006", "{e:?}");
    assert!(
        routed(&howdah, "replica", "read_only_default") > 0.0 && routed(&howdah, "replica", "stated") > 0.0
    );

    // A recovery conflict is the replica's to tell.
    let (mut reader, errors) =
        (harness::app(&howdah), || metric(&howdah, "howdah_replica_errors_total", &[("sqlstate", "40001")]));
    let reading = std::thread::spawn(move || {
        reader.query("BEGIN READ ONLY; SELECT count(*), pg_sleep(60) FROM (SELECT count(*) FROM gone) AS x")
    });
    let waiting = "application_name <> 'x' AND query LIKE '%pg_sleep(60)%'";
    eventually("a reader", || servers.replicas.iter().any(|r| harness::count(r, waiting) > 0));
    servers.primary.connect("app", "app").expect("direct").query("DROP TABLE gone").expect("dropped");
    let e = refusal(reading.join().expect("no panic"));
    assert_eq!(e.code, "40001", "{e:?}");
    eventually("it is counted", || errors() > 0.0);

    // Its alias shows what it showed, also where the primary serves.
    servers.replicas.iter_mut().for_each(|r| r.stop(harness::Stop::Immediate).expect("it stops"));
    eligible(&howdah, 0);
    let mut again = howdah.connect("app", "app_reads").expect("a login");
    for c in [&mut again, &mut alias] {
        // The connection that it had may be told to be gone once.
        eventually("the primary serves", || c.value(port).is_ok_and(|p| p == primary));
        assert_eq!(c.parameters().get("in_hot_standby").map(String::as_str), Some("on"));
    }
}

#[test]
fn a_replica_that_is_busy_is_waited_for() {
    let Some(servers) = Replicated::start(15) else { return };
    let config =
        servers.config("", "when_no_replica = \"error\"", "").replace("pool_size = 5", "pool_size = 1");
    let howdah = Howdah::start(&config);
    eligible(&howdah, 2);
    let address = howdah.address();
    let began = Instant::now();
    let readers: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(move || {
                let mut c = Client::connect(&harness::Target::Tcp(address), "app", "app").expect("a login");
                c.query("BEGIN READ ONLY; SELECT pg_sleep(0.3); COMMIT").expect("served in its turn");
            })
        })
        .collect();
    readers.into_iter().for_each(|r| r.join().expect("no panic"));
    assert!(began.elapsed() >= Duration::from_millis(600), "four of them on two places");
    assert!((routed(&howdah, "replica", "read_only_block") - 4.0).abs() < 0.1);
    assert!(metric(&howdah, "howdah_pool_wait_seconds_sum", &[("role", "replica")]) > 0.2);
}

/// What the corpus calls a read is one for PostgreSQL as well: it is not refused in a transaction that only reads, and
/// takes no transaction id in one that may write.
#[test]
fn what_the_corpus_calls_a_read_writes_nothing() {
    const CORPUS: &str = include_str!("../../../src/routing/classify/corpus.txt");
    let Some(cluster) = harness::shared(15) else { return };
    let mut c = cluster.connect("app", "app").expect("direct");
    c.query(
        "CREATE TABLE t (id int, a int, b int, c int, d int, e int, f int, ts timestamp, data jsonb, n int, \"insert\" int);
         CREATE TABLE u (id int, a int, b int); CREATE TABLE b (id int); CREATE TABLE c (id int);
         CREATE FUNCTION my_safe(int) RETURNS int LANGUAGE sql AS 'SELECT $1'",
    )
    .expect("tables");
    let (mut ran, mut all) = (0, 0);
    for line in CORPUS.lines().filter_map(|l| l.strip_prefix("read\t")) {
        let text =
            line.replace("\\\\", "\u{1}").replace("\\n", "\n").replace("\\t", "\t").replace('\u{1}', "\\");
        all += 1;
        for begin in ["BEGIN READ ONLY", "BEGIN"] {
            c.query(begin).expect("a block");
            match c.query(&text) {
                Ok(_) => {
                    let id = c.query("SELECT pg_current_xact_id_if_assigned()").expect("an answer");
                    assert_eq!(id.value(), None, "it wrote: {text}");
                    ran += 1;
                }
                Err(e) => assert_ne!(e.code(), Some("25006"), "{text}"),
            }
            c.query("ROLLBACK").expect("its end");
        }
    }
    println!("{} of {all} run", ran / 2);
    assert!(ran / 2 > all / 2, "too few of them run: {ran}");
}
