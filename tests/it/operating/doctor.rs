//! `howdah doctor` before real servers: each piece of advice has a state in which it must not be given, one in which it
//! must, and is gone when what it printed has been done to the letter.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};

use crate::harness::advice::{Case, Report, apply, report, word};
use crate::harness::certs::Lab;
use crate::harness::proxy::Howdah;
use crate::harness::replicas::{Replay, Replicated, eligible};
use crate::harness::wire::raw::Raw;
use crate::harness::wire::{Dsn, msg};
use crate::harness::{
    self, Client, Cluster, Options, app, app_options, cluster, eventually, http, metric, program, run, start,
};
use howdah::doctor::Code;

const MAJOR: u32 = 15;

/// A scenario for each piece of advice that there is; one without does not pass.
macro_rules! scenarios {
    ($($name:ident: $code:ident),+ $(,)?) => {
        const COVERED: &[Code] = &[$(Code::$code),+];
        $(
            #[test]
            fn $name() {
                let mut case = Case::new(Code::$code);
                if scenarios::$name(&mut case).is_some() {
                    case.end();
                }
            }
        )+
    };
}

scenarios! {
    cache_hits_low: CacheHitsLow,
    capacity_tight: CapacityTight,
    capacity_too_large: CapacityTooLarge,
    connections_near_limit: ConnectionsNearLimit,
    idle_in_transaction: IdleInTransaction,
    index_missing: IndexMissing,
    index_unused: IndexUnused,
    materialized_view_stale: MaterializedViewStale,
    pool_too_large: PoolTooLarge,
    pool_too_small: PoolTooSmall,
    reads_on_primary: ReadsOnPrimary,
    replication_lag: ReplicationLag,
    session_state_hidden: SessionStateHidden,
    statement_cache_thrash: StatementCacheThrash,
    statistics_missing: StatisticsMissing,
}

#[test]
fn every_piece_of_advice_has_a_scenario() {
    assert_eq!(COVERED, Code::ALL);
}

fn owner(cluster: &Cluster) -> Client {
    cluster.connect("app", "app").expect("a login")
}

/// 17 places for ordinary roles, and no worker that might be taken for a session.
fn small() -> Options {
    app_options().setting("max_connections", "20").setting("max_logical_replication_workers", "0")
}

fn quiet() -> Options {
    app_options().setting("autovacuum", "off")
}

/// So many sessions of the superuser, beside all pools.
fn others(cluster: &Cluster, n: usize) -> Vec<Client> {
    (0..n).map(|_| cluster.connect("postgres", "postgres").expect("a place")).collect()
}

/// Nothing where the machine lacks what the scenario needs.
mod scenarios {
    use super::*;

    /// Blocks that the server has looked at for the database.
    fn blocks(cluster: &Cluster) -> u64 {
        let sql = "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = 'app'";
        cluster.value(sql).expect("a figure").parse().expect("a number")
    }

    /// Looks up 60000 rows of a table one by one, by its index, in an order that no cache likes.
    fn look_up(cluster: &Cluster, table: &str, rows: u32) {
        let before = blocks(cluster);
        let mut direct = owner(cluster);
        for method in ["seqscan", "hashjoin", "mergejoin", "bitmapscan", "memoize", "indexonlyscan"] {
            run(&mut direct, &format!("SET enable_{method} = off"));
        }
        let sql = "SELECT count(t.note) FROM generate_series(1, 60000) g JOIN";
        run(&mut direct, &format!("{sql} {table} t ON t.id = abs(hashint4(g)) % {rows} + 1"));
        drop(direct);
        eventually("the server has counted them", || blocks(cluster) >= before + 100_000);
    }

    pub(super) fn cache_hits_low(case: &mut Case) -> Option<()> {
        // 256 pages; one table has some more, the other few.
        let mut cluster = cluster(MAJOR, quiet().setting("shared_buffers", "2MB"))?;
        let howdah = start(&cluster, "", "pool_size = 2", "");
        let mut direct = owner(&cluster);
        for (table, rows) in [("large", 3200), ("small", 100)] {
            run(&mut direct, &format!("CREATE TABLE {table} (id int, note text)"));
            run(
                &mut direct,
                &format!("INSERT INTO {table} SELECT i, repeat('x', 900) FROM generate_series(1, {rows}) i"),
            );
            run(&mut direct, &format!("CREATE INDEX ON {table} (id); ANALYZE {table}"));
        }
        drop(direct);
        look_up(&cluster, "small", 100);
        case.absent(&howdah);
        cluster.connect("postgres", "app").expect("a login").query("SELECT pg_stat_reset()").expect("it");
        look_up(&cluster, "large", 3200);
        let advice = case.given(&howdah);
        assert!(word(&advice, "change").contains("shared_buffers = '4096kB'"), "{advice:#}");
        apply(&advice, &mut [&mut cluster], &howdah);
        // The same work again.
        look_up(&cluster, "large", 3200);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn capacity_tight(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, small())?;
        // With Howdah's own one 13 of 17.
        let howdah = start(&cluster, "", "pool_size = 12", "");
        let mut _others = others(&cluster, 4);
        case.absent(&howdah);
        _others.extend(others(&cluster, 2));
        let advice = case.given(&howdah);
        assert!(word(&advice, "change").starts_with("max_host_connections = 10 "), "{advice:#}");
        apply(&advice, &mut [&mut cluster], &howdah);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn capacity_too_large(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, small())?;
        case.absent(&start(&cluster, "", "pool_size = 16", ""));
        let howdah = start(&cluster, "instances = 2\ncapacity_check = \"warn\"", "pool_size = 8", "");
        let advice = case.given(&howdah);
        assert!(word(&advice, "change").starts_with("max_host_connections = 5 "), "{advice:#}");
        apply(&advice, &mut [&mut cluster], &howdah);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn connections_near_limit(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, small())?;
        let howdah = start(&cluster, "", "pool_size = 2", "");
        let few = others(&cluster, 12);
        case.absent(&howdah);
        let more = others(&cluster, 2);
        let advice = case.given(&howdah);
        apply(&advice, &mut [&mut cluster], &howdah);
        drop((few, more));
        // The same sessions again.
        let _all = others(&cluster, 14);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn idle_in_transaction(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, app_options())?;
        let howdah = start(&cluster, "", "pool_size = 2", "");
        let mut client = app(&howdah);
        run(&mut client, "BEGIN");
        case.absent(&howdah);
        let advice = case.given(&howdah);
        apply(&advice, &mut [&mut cluster], &howdah);
        case.removed(&howdah);
        Some(())
    }

    fn orders(cluster: &Cluster) {
        let mut direct = owner(cluster);
        run(&mut direct, "CREATE TABLE \"Orders\" (id int, note text)");
        run(&mut direct, "INSERT INTO \"Orders\" SELECT i, 'note ' || i FROM generate_series(1, 60000) i");
    }

    pub(super) fn index_missing(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, quiet())?;
        let howdah = start(&cluster, "", "pool_size = 2", "");
        orders(&cluster);
        run(&mut owner(&cluster), "ALTER TABLE \"Orders\" ADD \"Who\" text; ANALYZE \"Orders\"");
        case.with(&["--explain"]);
        let statement = "SELECT note FROM \"Orders\" WHERE id = 1 AND \"Who\" = 'x' AND note LIKE 'n%'";
        run(&mut app(&howdah), "SELECT count(*) FROM \"Orders\"");
        case.absent(&howdah);
        run(&mut app(&howdah), statement);
        let advice = case.given(&howdah);
        assert!(word(&advice, "evidence").contains("to compare id, \"Who\""), "{advice:#}");
        apply(&advice, &mut [&mut cluster], &howdah);
        run(&mut app(&howdah), statement);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn index_unused(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, quiet())?;
        let howdah = start(&cluster, "", "pool_size = 2", "");
        orders(&cluster);
        let mut direct = owner(&cluster);
        run(&mut direct, "CREATE INDEX \"used Index\" ON \"Orders\" (id); ANALYZE \"Orders\"");
        run(&mut direct, "SET enable_seqscan = off; SELECT count(*) FROM \"Orders\" WHERE id = 1");
        drop(direct);
        eventually("the server has counted it", || {
            owner(&cluster).value("SELECT max(idx_scan) FROM pg_stat_user_indexes").expect("a figure") != "0"
        });
        case.absent(&howdah);
        run(&mut owner(&cluster), "CREATE INDEX \"Not 'used\" ON \"Orders\" (note)");
        let advice = case.given(&howdah);
        apply(&advice, &mut [&mut cluster], &howdah);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn materialized_view_stale(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, app_options().setting("track_commit_timestamp", "on"))?;
        let mut direct = owner(&cluster);
        run(&mut direct, "CREATE SCHEMA s; CREATE MATERIALIZED VIEW s.\"Sums\" AS SELECT 1 AS n");
        let view = |age: &str| format!("pool_size = 2\nmaterialized_views = {{ 's.\"Sums\"' = \"{age}\" }}");
        case.absent(&start(&cluster, "", &view("1h"), ""));
        let howdah = start(&cluster, "", &view("4s"), "");
        let advice = case.given(&howdah);
        assert_eq!(word(&advice, "change"), "REFRESH MATERIALIZED VIEW s.\"Sums\"");
        apply(&advice, &mut [&mut cluster], &howdah);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn session_state_hidden(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, app_options())?;
        let mut direct = owner(&cluster);
        let body = |name: &str, language: &str, body: &str| {
            format!("CREATE FUNCTION {name}() RETURNS void LANGUAGE {language} AS $f${body}$f$")
        };
        for harmless in [
            body("counts", "sql", "UPDATE pg_class SET relname = relname WHERE false"),
            body("in_its_transaction", "sql", "SELECT set_config('app.x', 'y', true)"),
            body("locally", "plpgsql", "BEGIN SET LOCAL work_mem = '5MB'; END"),
            body("locks_shortly", "sql", "SELECT pg_advisory_xact_lock(1)"),
        ] {
            run(&mut direct, &harmless);
        }
        let howdah = start(&cluster, "", "pool_size = 2", "");
        case.absent(&howdah);
        for hiding in [
            body("a_set", "plpgsql", "BEGIN\n  SET work_mem = '5MB';\nEND"),
            body("b_config", "sql", "SELECT set_config('app.x', 'y', false)"),
            body("c_lock", "sql", "SELECT pg_try_advisory_lock(1)"),
            body("d_any", "plpgsql", "BEGIN EXECUTE 'SELECT 1'; END"),
        ] {
            run(&mut direct, &hiding);
        }
        let advice = case.given(&howdah);
        let evidence = word(&advice, "evidence");
        for named in [
            "a_set() has SET",
            "b_config() calls set_config",
            "c_lock() takes advisory",
            "d_any() has EXECUTE",
        ] {
            assert!(evidence.starts_with("4 functions") && evidence.contains(named), "{evidence}");
        }
        apply(&advice, &mut [&mut cluster], &howdah);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn pool_too_large(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, app_options())?;
        let howdah = start(&cluster, "", "pool_size = 12", "");
        for _ in 0..5 {
            run(&mut app(&howdah), "SELECT 1");
        }
        case.absent(&howdah);
        // The same Howdah, as one that has been at it for two hours more.
        let later = two_hours_later(howdah.ops_address());
        case.with(&["--set", &format!("ops_listen={later}")]);
        let advice = case.given(&howdah);
        assert_eq!(word(&advice, "change"), "pool_size = 4");
        apply(&advice, &mut [&mut cluster], &howdah);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn pool_too_small(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, app_options())?;
        let howdah = start(&cluster, "query_wait_timeout = \"200ms\"", "pool_size = 1", "");
        let mut holder = app(&howdah);
        run(&mut holder, "BEGIN");
        case.absent(&howdah);
        let mut waiter = app(&howdah);
        assert!(waiter.query("SELECT 1").is_err());
        let advice = case.given(&howdah);
        apply(&advice, &mut [&mut cluster], &howdah);
        assert_eq!(metric(&howdah, "howdah_pool_size", &[]), 2.0);
        // The same again.
        run(&mut app(&howdah), "SELECT 1");
        case.removed(&howdah);
        Some(())
    }

    fn read(howdah: &Howdah, n: usize) {
        let mut client = app(howdah);
        for _ in 0..n {
            run(&mut client, "BEGIN READ ONLY");
            run(&mut client, "COMMIT");
        }
    }

    pub(super) fn reads_on_primary(case: &mut Case) -> Option<()> {
        let mut servers = Replicated::start(MAJOR)?;
        let howdah = servers.howdah("when_no_replica = \"error\"\nroute = \"primary\"", "");
        read(&howdah, 99);
        case.absent(&howdah);
        read(&howdah, 1);
        let advice = case.given(&howdah);
        assert_eq!(word(&advice, "change"), "route = \"transactions\"");
        apply(&advice, &mut [&mut servers.primary], &howdah);
        read(&howdah, 100);
        let reads = [("role", "replica"), ("reason", "read_only_block")];
        assert_eq!(metric(&howdah, "howdah_routed_transactions_total", &reads), 100.0);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn replication_lag(case: &mut Case) -> Option<()> {
        let mut servers = Replicated::start(MAJOR)?;
        let howdah = servers.howdah("when_no_replica = \"primary\"", "");
        // So that the replica has a time of what it has replayed.
        run(&mut owner(&servers.primary), "CREATE TABLE before (n int)");
        servers.replicas[0].await_replay(&servers.primary).expect("it follows");
        case.absent(&howdah);
        Replay::of(&servers.replicas[0]).pause();
        run(&mut owner(&servers.primary), "CREATE TABLE t (n int)");
        let advice = case.given(&howdah);
        apply(&advice, &mut [&mut servers.replicas[0]], &howdah);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn statement_cache_thrash(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, app_options())?;
        let howdah = start(&cluster, "max_prepared_statements = 2", "pool_size = 1", "");
        let mut client = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
        for n in 0..3 {
            let parse = msg::parse(&format!("s{n}"), &format!("SELECT {n}"), &[]);
            client.ask(&[parse, msg::sync()].concat());
        }
        let mut execute = |statements: usize, times: usize| {
            for n in (0..statements).cycle().take(times) {
                let bind = msg::bind("", &format!("s{n}"), &[], &[], &[]);
                client.ask(&[bind, msg::execute("", 0), msg::sync()].concat());
            }
        };
        execute(2, 1000);
        case.absent(&howdah);
        execute(3, 1500);
        let advice = case.given(&howdah);
        assert_eq!(word(&advice, "change"), "max_prepared_statements = 4");
        apply(&advice, &mut [&mut cluster], &howdah);
        execute(3, 1500);
        case.removed(&howdah);
        Some(())
    }

    pub(super) fn statistics_missing(case: &mut Case) -> Option<()> {
        let mut cluster = cluster(MAJOR, quiet())?;
        let howdah = start(&cluster, "", "pool_size = 2", "");
        let fill = |rows: u32| {
            let mut direct = owner(&cluster);
            run(&mut direct, &format!("INSERT INTO \"It's\" SELECT generate_series(1, {rows})"));
            drop(direct);
            eventually("the server has counted them", || {
                let sql = "SELECT sum(n_live_tup) FROM pg_stat_user_tables";
                owner(&cluster).value(sql).expect("a figure").parse::<u32>().expect("a number") >= rows
            });
        };
        run(&mut owner(&cluster), "CREATE TABLE \"It's\" (n int)");
        fill(99);
        case.absent(&howdah);
        fill(100);
        let advice = case.given(&howdah);
        apply(&advice, &mut [&mut cluster], &howdah);
        case.removed(&howdah);
        Some(())
    }
}

/// An ops port that answers as another one would if its pools had their sizes for two hours more.
fn two_hours_later(ops: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let (mut request, mut bytes) = (Vec::new(), [0; 1024]);
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                let n = stream.read(&mut bytes).expect("a request");
                request.extend_from_slice(&bytes[..n]);
            }
            let request = String::from_utf8(request).expect("text");
            let path = request.split(' ').nth(1).expect("a path");
            let mut answer: serde_json::Value = serde_json::from_str(&http(ops, path)).expect("JSON");
            for pool in answer["pools"].as_array_mut().into_iter().flatten() {
                let seconds = &mut pool["since_change"]["seconds"];
                *seconds = (seconds.as_f64().expect("a number") + 7200.0).into();
            }
            write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{answer}").expect("an answer");
        }
    });
    address
}

#[test]
fn a_server_in_order_gets_no_advice() {
    let Some(cluster) = cluster(MAJOR, quiet()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let report = report(&howdah);
    assert_eq!((report.advice().len(), report.exit), (0, Some(0)), "{}", report.text);
    assert!(report.not_examined().is_empty(), "{}", report.text);
}

#[test]
fn people_and_the_console_are_told_the_same() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let top = "query_wait_timeout = \"200ms\"\nadmin_users = [\"app\"]";
    let howdah = start(&cluster, top, "pool_size = 1", "");
    let mut holder = app(&howdah);
    run(&mut holder, "BEGIN");
    assert!(app(&howdah).query("SELECT 1").is_err());
    let said = report(&howdah);
    let advice = said.find(Code::PoolTooSmall).expect("advice");
    assert!(word(&advice, "change").starts_with("pool_size = 2"));
    assert_eq!(said.exit, Some(1));
    let text = program().arg("doctor").arg(howdah.config_path()).output().expect("it runs").stdout;
    let text = String::from_utf8(text).expect("UTF-8");
    assert!(text.contains("HIGH  pool_too_small"), "{text}");
    assert!(
        text.contains("  step     in [[pools]] of Howdah's configuration: database = \"app\"; "),
        "{text}"
    );

    // The console says the same of itself, although the pool is full.
    let mut console = howdah.connect("app", "howdah").expect("the console");
    let shown = console.query("SHOW ADVICE").expect("rows");
    assert_eq!(shown.columns, ["rank", "severity", "finding", "subject", "evidence", "change"]);
    let cell = |row: &howdah::demo::wire::Row, at: usize| row[at].clone().unwrap_or_default();
    let rows: Vec<_> = shown.rows.iter().map(|r| (cell(r, 2), cell(r, 5))).collect();
    let reported = said.advice().iter().map(|a| (word(a, "code").to_owned(), word(a, "change").to_owned()));
    assert_eq!(rows, reported.collect::<Vec<_>>());
    assert_eq!((cell(&shown.rows[0], 0), cell(&shown.rows[0], 1)), ("1".to_owned(), "high".to_owned()));
    run(&mut holder, "COMMIT");
}

/// Where the instances' own connections alone are too many no limit of the pools helps, and a larger server does.
#[test]
fn a_server_that_is_too_small_for_any_pool_is_to_be_made_larger() {
    let Some(mut cluster) = cluster(MAJOR, small()) else { return };
    let howdah = start(&cluster, "instances = 20\ncapacity_check = \"warn\"", "pool_size = 2", "");
    let mut case = Case::new(Code::CapacityTooLarge);
    let advice = case.given(&howdah);
    // 20 x (2 + 1) within safety_margin, which is 0.8, and 3 for superusers.
    let change = word(&advice, "change");
    assert!(change.starts_with("ALTER SYSTEM SET max_connections = 78 and restart, or"), "{advice:#}");
    apply(&advice, &mut [&mut cluster], &howdah);
    case.removed(&howdah);
    assert_eq!(report(&howdah).find(Code::CapacityTight), None);
}

/// The sum of the capacity has one connection for all questions of now and then; a server that lets in no more of them
/// refuses none, whoever asks, since the next one comes when the server has let go of the one before.
#[test]
fn questions_to_a_server_take_turns() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let top = "capacity_check = \"warn\"\nadmin_users = [\"app\"]";
    let howdah = start(&cluster, top, "pool_size = 1", "");
    let mut direct = cluster.connect("postgres", "postgres").expect("a login");
    run(&mut direct, "ALTER ROLE app CONNECTION LIMIT 1");
    let checks = |outcome: &str| metric(&howdah, "howdah_capacity_checks_total", &[("outcome", outcome)]);
    let all = || ["fits", "tight", "too_large", "unasked"].map(checks).iter().sum::<f64>();
    std::thread::scope(|s| {
        let asking = s.spawn(|| {
            let mut console = howdah.connect("app", "howdah").expect("the console");
            for _ in 0..10 {
                let shown = console.query("SHOW ADVICE").expect("rows");
                assert!(!shown.rows.iter().any(|r| r[2].as_deref() == Some("not_examined")), "{shown:?}");
            }
        });
        // Each reload asks, too.
        while !asking.is_finished() {
            let before = all();
            howdah.hup();
            eventually("a check", || all() > before);
        }
        asking.join().expect("all is examined");
    });
    assert_eq!(checks("unasked"), 0.0);
}

/// Elsewhere than on loopback the figures are told to who shows the token, which the same file has.
#[test]
fn the_token_of_the_ops_port_is_shown() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let text = harness::config(&cluster, "ops_token = \"let-me-in\"", "pool_size = 2", "");
    let howdah = Howdah::start(&text.replace("127.0.0.1:{ops_port}", "0.0.0.0:{ops_port}"));
    let report = report(&howdah);
    assert!(report.not_examined().is_empty(), "{}", report.text);
}

/// The ops port over TLS: only the certificate of the configuration's own file is trusted, and one of doctor's own is
/// shown where it is asked for.
#[test]
fn an_ops_port_with_tls_is_asked() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let Some(lab) = Lab::new() else { return };
    lab.ca("ca");
    for name in ["server", "other"] {
        lab.leaf(name, "ca", "localhost", "subjectAltName=DNS:localhost");
    }
    lab.leaf("doctor", "ca", "doctor", "extendedKeyUsage=clientAuth");
    let (cert, key) = (lab.show("server.crt"), lab.show("server.key"));
    let top = format!("ops_tls_cert = \"{cert}\"\nops_tls_key = \"{key}\"\nops_token = \"let-me-in\"");
    let howdah = start(&cluster, &top, "pool_size = 2", "");
    let said = report(&howdah);
    assert!(said.not_examined().is_empty(), "{}", said.text);
    let with = |arguments: &[&str]| Report::of(&howdah.config_path(), arguments);
    let other = |end: &str| lab.show(&format!("other.{end}"));
    let (other_cert, other_key) =
        (format!("ops_tls_cert={}", other("crt")), format!("ops_tls_key={}", other("key")));
    let said = with(&["--set", &other_cert, "--set", &other_key]);
    assert!(said.not_examined().iter().any(|u| u.contains("another certificate")), "{}", said.text);

    let text = std::fs::read_to_string(howdah.config_path()).expect("the configuration");
    let text = text.replace("ops_tls_key", &format!("ops_tls_ca = \"{}\"\nops_tls_key", lab.show("ca.crt")));
    std::fs::write(howdah.config_path(), text).expect("written");
    howdah.hup();
    howdah.await_log("configuration reloaded", std::time::Duration::from_secs(20));
    let said = report(&howdah);
    assert!(said.not_examined().iter().any(|u| u.contains("ertificate")), "{}", said.text);
    let said = with(&["--ops-cert", &lab.show("doctor.crt"), "--ops-key", &lab.show("doctor.key")]);
    assert!(said.not_examined().is_empty(), "{}", said.text);
}

/// Where there is no replica section, the statistics of statements tell that transactions are marked as reads; without a
/// standby there is nobody else to run them.
#[test]
fn reads_without_a_replica_section_are_seen_where_there_are_standbys() {
    let Some(mut cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let mut client = app(&howdah);
    for _ in 0..100 {
        run(&mut client, "START TRANSACTION READ ONLY");
        run(&mut client, "COMMIT");
    }
    assert_eq!(report(&howdah).find(Code::ReadsOnPrimary), None);
    let replica = cluster.replica().expect("a replica");
    replica.await_replay(&cluster).expect("it follows");
    let said = report(&howdah);
    let advice = said.find(Code::ReadsOnPrimary).unwrap_or_else(|| panic!("{}", said.text));
    assert!(word(&advice, "evidence").starts_with("100 transactions"), "{advice:#}");
}

/// A limit of lag that no replica keeps; with twice the limit one does.
#[test]
fn reads_that_lag_keeps_from_replicas_are_seen() {
    let Some(servers) = Replicated::start(MAJOR) else { return };
    let howdah = servers.howdah("when_no_replica = \"primary\"\nmax_lag_bytes = \"1kB\"", "");
    let mut paused: Vec<Replay> = servers.replicas.iter().map(Replay::of).collect();
    paused.iter_mut().for_each(Replay::pause);
    run(&mut owner(&servers.primary), "CREATE TABLE t AS SELECT generate_series(1, 1000)");
    eligible(&howdah, 0);
    let mut client = app(&howdah);
    for _ in 0..100 {
        run(&mut client, "BEGIN READ ONLY");
        run(&mut client, "COMMIT");
    }
    let said = report(&howdah);
    let advice = said.find(Code::ReadsOnPrimary).unwrap_or_else(|| panic!("{}", said.text));
    assert_eq!(word(&advice, "change"), "max_lag_bytes = \"2048B\"");
}

/// A standby that receives nothing has replayed all that it has; that says nothing of what it has not. The monitor knows
/// it from the primary's own place, and doctor by the receiver that is not there.
#[test]
fn a_standby_that_is_cut_off_is_not_taken_to_be_up_to_date() {
    let Some(servers) = Replicated::start(MAJOR) else { return };
    let howdah = servers.howdah("when_no_replica = \"primary\"\nmax_lag = \"1s\"", "");
    run(&mut owner(&servers.primary), "CREATE TABLE before (n int)");
    let cut = &servers.replicas[0];
    cut.await_replay(&servers.primary).expect("it follows");
    let mut direct = cut.connect("postgres", "postgres").expect("a login");
    let mut follow = |whom: &str| {
        run(&mut direct, &format!("ALTER SYSTEM SET primary_conninfo = '{}'", whom.replace('\'', "''")));
        run(&mut direct, "SELECT pg_reload_conf()");
    };
    let said = |sql: &str| cut.value(sql).expect("an answer");
    let conninfo = said("SHOW primary_conninfo");
    follow("host=127.0.0.1 port=1");
    eventually("it receives nothing", || said("SELECT count(*) FROM pg_stat_wal_receiver") == "0");
    run(&mut owner(&servers.primary), "CREATE TABLE after (n int)");
    assert_eq!(said("SELECT pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn()"), "t");
    eligible(&howdah, 1);
    let mut advice = None;
    eventually("advice", || {
        advice = report(&howdah).find(Code::ReplicationLag);
        advice.is_some()
    });
    let advice = advice.expect("found");
    assert_eq!(word(&advice, "subject"), cut.tcp().to_string());
    let evidence = word(&advice, "evidence");
    assert!(
        evidence.starts_with("the standby has no WAL receiver") && evidence.ends_with(" s old"),
        "{advice:#}"
    );

    follow(&conninfo);
    cut.await_replay(&servers.primary).expect("it follows again");
    assert_eq!(report(&howdah).find(Code::ReplicationLag), None);
    eligible(&howdah, 2);
}

/// A refresh is seen in each version, also one that changes nothing and blocks nobody; and where the server does not
/// keep the times of commits, that is said.
#[test]
fn refreshes_of_every_kind_are_seen() {
    for major in harness::VERSIONS {
        let Some(mut cluster) = cluster(major, app_options()) else { continue };
        let views = "pool_size = 2\nmaterialized_views = { \"sums\" = \"3s\", \"none\" = \"1h\", \"empty\" = \"1h\" }";
        let howdah = start(&cluster, "", views, "");
        let said = report(&howdah);
        assert!(
            said.not_examined().iter().any(|u| u.contains("track_commit_timestamp = off")),
            "{}",
            said.text
        );
        let mut direct = owner(&cluster);
        run(&mut direct, "CREATE MATERIALIZED VIEW sums AS SELECT 1 AS n; CREATE UNIQUE INDEX ON sums (n)");
        run(&mut direct, "CREATE MATERIALIZED VIEW empty AS SELECT 1 WITH NO DATA");
        drop(direct);
        cluster.value("ALTER SYSTEM SET track_commit_timestamp = on").ok();
        cluster.restart(harness::Stop::Fast).expect("it is back");
        let said = report(&howdah);
        let unknown = |what: &str| said.not_examined().iter().any(|u| u.contains(what));
        assert!(
            unknown("sums was refreshed before") && unknown("none is no materialized view"),
            "{}",
            said.text
        );
        let advice = said.find(Code::MaterializedViewStale).expect("the empty one");
        assert!(word(&advice, "subject").ends_with(": empty"), "{advice:#}");
        let mut direct = owner(&cluster);
        run(&mut direct, "REFRESH MATERIALIZED VIEW empty");
        for refresh in ["REFRESH MATERIALIZED VIEW sums", "REFRESH MATERIALIZED VIEW CONCURRENTLY sums"] {
            let stale = || report(&howdah).find(Code::MaterializedViewStale).is_some();
            run(&mut direct, refresh);
            eventually("it is old", stale);
            eventually(refresh, || {
                run(&mut direct, refresh);
                !stale()
            });
        }
    }
}

/// Without EXPLAIN the server's own count tells of missing indexes, not of their columns.
#[test]
fn scans_are_counted_without_explain() {
    let Some(cluster) = cluster(MAJOR, quiet()) else { return };
    let howdah = start(&cluster, "", "pool_size = 2", "");
    let mut direct = owner(&cluster);
    run(&mut direct, "CREATE TABLE t AS SELECT generate_series(1, 20000) AS n; ANALYZE t");
    drop(direct);
    let scan = |n: u32| {
        let mut direct = owner(&cluster);
        for _ in 0..n {
            run(&mut direct, "SELECT count(*) FROM t WHERE n = 1");
        }
    };
    scan(10);
    let counted =
        || owner(&cluster).value("SELECT max(seq_scan) FROM pg_stat_user_tables").expect("a figure");
    eventually("the server has counted them", || counted().parse::<u32>().is_ok_and(|n| n >= 10));
    assert_eq!(report(&howdah).find(Code::IndexMissing), None);
    scan(10);
    eventually("advice", || report(&howdah).find(Code::IndexMissing).is_some());
}

/// Nothing is run by it, what has no plan is left out, and what the server cannot plan is said, in each version.
#[test]
fn statements_are_explained_and_not_run() {
    for major in harness::VERSIONS {
        let Some(cluster) = cluster(major, quiet()) else { continue };
        let howdah = start(&cluster, "", "pool_size = 2", "");
        let mut direct = owner(&cluster);
        run(
            &mut direct,
            "CREATE SEQUENCE s; CREATE TABLE t AS SELECT generate_series(1, 20000) AS n, 'x'::text AS \"a B\"",
        );
        run(&mut direct, "ALTER TABLE t ADD more int; ANALYZE t");
        let mut client = app(&howdah);
        for sql in [
            "SELECT nextval('s'), pg_sleep(0)",
            "BEGIN",
            "INSERT INTO t SELECT n, \"a B\" FROM t WHERE more = 7 LIMIT 3",
            "UPDATE t SET n = 5 WHERE \"a B\" = 'y'",
            "COMMIT",
            "SELECT DATE '2020-01-01'",
            "SELECT '{\"a\": 1}'::jsonb ? 'a'",
            "SELECT count(*) FROM t WHERE n IN (1, 2, 3) AND n > 0",
        ] {
            run(&mut client, sql);
        }
        drop(client);
        let state = "SELECT (SELECT last_value FROM s) || ' ' || count(*) || ' ' || sum(n) FROM t";
        let before = direct.value(state).expect("a state");
        let said = Report::of(&howdah.config_path(), &["--explain"]);
        assert_eq!(direct.value(state).expect("a state"), before, "{major}");
        let unplanned = said.not_examined();
        assert_eq!(unplanned.len(), 2, "{major}: {}", said.text);
        assert!(unplanned.iter().all(|u| u.contains("cannot be explained: syntax error")), "{}", said.text);
        let advice = said.find(Code::IndexMissing).unwrap_or_else(|| panic!("{major}: {}", said.text));
        let steps: Vec<&str> =
            advice["steps"].as_array().expect("steps").iter().map(|s| word(s, "sql")).collect();
        let created: Vec<_> =
            steps.iter().filter_map(|s| s.strip_prefix("CREATE INDEX CONCURRENTLY ON t ")).collect();
        assert_eq!(created, ["(\"a B\")", "(more)", "(n)"], "{major}: {}", said.text);
    }
}

/// What is advised, and the figures behind it, are metrics as of the last examination; none is made unasked.
#[test]
fn findings_and_figures_are_metrics_where_they_are_asked_for() {
    let Some(mut cluster) = cluster(MAJOR, quiet()) else { return };
    let text = |interval: &str| {
        harness::config(&cluster, &format!("advice_interval = \"{interval}\""), "pool_size = 2", "")
    };
    let (never, often) = (text("0"), text("1s"));
    let howdah = Howdah::start(&never);
    let series = || http(howdah.ops_address(), "/metrics");
    let looks = |outcome: &str| metric(&howdah, "howdah_advice_looks_total", &[("outcome", outcome)]);
    let findings =
        |code: &str| metric(&howdah, "howdah_advice_findings", &[("database", "app"), ("code", code)]);
    assert_eq!(harness::count(&cluster, "application_name = 'howdah'"), 0);
    assert!(!series().contains("howdah_advice_findings{"));

    howdah.rewrite_config(&often);
    howdah.hup();
    eventually("an examination", || looks("complete") >= 1.0);
    for code in Code::ALL {
        let zero = format!("howdah_advice_findings{{code=\"{}\",database=\"app\"}} 0", code.as_str());
        let other = format!("howdah_advice_findings{{database=\"app\",code=\"{}\"}} 0", code.as_str());
        let text = series();
        assert!(text.contains(&zero) || text.contains(&other), "{zero}\n{text}");
    }
    let mut direct = owner(&cluster);
    run(&mut direct, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n; CREATE INDEX ON t (n)");
    run(&mut direct, "SELECT count(*) FROM t");
    run(&mut direct, "SET enable_seqscan = off; SELECT count(*) FROM t WHERE n = 1");
    drop(direct);
    eventually("statistics_missing", || findings("statistics_missing") > 0.5);
    let host = cluster.tcp().to_string();
    let ratio = |name: &str| metric(&howdah, name, &[("database", "app"), ("host", &host)]);
    // Of three scans: the making of the index is one.
    eventually("the use of indexes", || (ratio("howdah_database_index_scan_ratio") - 1.0 / 3.0).abs() < 0.01);
    assert!((0.1..=1.0).contains(&ratio("howdah_database_cache_hit_ratio")));
    run(&mut owner(&cluster), "ANALYZE t");
    eventually("its removal", || findings("statistics_missing") < 0.5);
    assert!(metric(&howdah, "howdah_advice_age_seconds", &[]) < 60.0);

    // A server that cannot be asked is counted.
    cluster.stop(harness::Stop::Fast).expect("it stops");
    eventually("an examination in vain", || looks("incomplete") >= 1.0);
    howdah.rewrite_config(&never);
    howdah.hup();
    eventually("no figures", || !series().contains("howdah_advice_findings{"));
}
