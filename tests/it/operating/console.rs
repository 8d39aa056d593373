//! The console: every command with its columns, its rights, and what it does, through real clients.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::proxy::Howdah;
use crate::harness::wire::raw::Raw;
use crate::harness::wire::{Dsn, msg};
use crate::harness::{self, Client, Cluster, config, refusal, shared};

const MAJOR: u32 = 15;

const USERS: &str = "[users.boss]\n[users.watch]\n[users.nobody]\n";
const TOP: &str = "admin_users = [\"boss\"]\nstats_users = [\"watch\"]";

fn start(cluster: &Cluster, top: &str, database: &str) -> Howdah {
    Howdah::start(&config(cluster, &format!("{TOP}\n{top}"), database, USERS))
}

fn console(howdah: &Howdah, user: &str) -> Client {
    howdah.connect(user, "pgbouncer").unwrap_or_else(|e| panic!("{user} comes in: {e}"))
}

/// The rows of a SHOW, each by column.
fn show(client: &mut Client, what: &str) -> Vec<BTreeMap<String, String>> {
    let reply = client.query(&format!("SHOW {what}")).unwrap_or_else(|e| panic!("SHOW {what}: {e}"));
    assert_eq!(reply.tags, ["SHOW"], "{what}");
    let by_column = |row: Vec<Option<String>>| {
        reply.columns.iter().cloned().zip(row.into_iter().map(Option::unwrap_or_default)).collect()
    };
    reply.rows.clone().into_iter().map(by_column).collect()
}

/// The one row in which these columns have these values.
fn one<'a>(rows: &'a [BTreeMap<String, String>], have: &[(&str, &str)]) -> &'a BTreeMap<String, String> {
    let fits =
        |row: &&BTreeMap<String, String>| have.iter().all(|(c, v)| row.get(*c).is_some_and(|r| r == v));
    let found: Vec<_> = rows.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{have:?} in {rows:?}");
    found[0]
}

#[test]
fn who_may_come_in() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2");
    for database in ["pgbouncer", "howdah"] {
        let mut boss = howdah.connect("boss", database).expect("an admin");
        assert_eq!(boss.parameters().get("server_version").map(String::as_str), Some("1.25.2/bouncer"));
        assert!(boss.query("SHOW POOLS").is_ok());
        let error = refusal(howdah.connect("nobody", database));
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "42501"), "{error}");
        assert_eq!(error.message, "not allowed");
    }
    // Looking is all that a stats user may do; asking for more does not end the session.
    let mut watch = console(&howdah, "watch");
    assert!(watch.query("SHOW CLIENTS").is_ok());
    let error = refusal(watch.query("RELOAD"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "42501"), "{error}");
    assert_eq!(error.message, "admin access needed");
    assert!(watch.query("SHOW VERSION").is_ok());
}

#[test]
fn pools_and_clients_are_shown() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2");
    let mut held = harness::app(&howdah);
    held.query("BEGIN").expect("it begins");
    let _idle = harness::app(&howdah);
    let mut boss = console(&howdah, "boss");
    let pools = show(&mut boss, "POOLS");
    let app = one(&pools, &[("database", "app"), ("user", "app")]);
    assert_eq!((app["cl_active"].as_str(), app["sv_active"].as_str()), ("2", "1"), "{app:?}");
    assert_eq!(app["pool_mode"], "transaction");
    assert_eq!(one(&pools, &[("database", "pgbouncer")])["cl_active"], "1");
    let clients = show(&mut boss, "CLIENTS");
    let active = one(&clients, &[("database", "app"), ("state", "active")]);
    let servers = show(&mut boss, "SERVERS");
    let server = one(&servers, &[("state", "active")]);
    assert_eq!((&active["link"], &active["ptr"]), (&server["ptr"], &server["link"]));
    assert_eq!(server["remote_pid"], harness::backend(&mut held));
    let database = show(&mut boss, "DATABASES");
    let app = one(&database, &[("name", "app")]);
    assert_eq!((app["current_client_connections"].as_str(), app["current_connections"].as_str()), ("2", "1"));
    held.query("COMMIT").expect("it ends");
    let stats = show(&mut boss, "STATS");
    let app = one(&stats, &[("database", "app")]);
    assert_eq!(app["total_xact_count"], "1", "{app:?}");
    let query: u64 = app["total_query_time"].parse().expect("a number");
    let xact: u64 = app["total_xact_time"].parse().expect("a number");
    assert!(query < xact, "what the client took is not the query's: {query} of {xact}");
}

#[test]
fn a_reload_tells_how_it_went() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2");
    let mut boss = console(&howdah, "boss");
    howdah.rewrite_config(&config(cluster, TOP, "pool_size = 7", USERS));
    assert_eq!(boss.query("RELOAD;").expect("it reloads").tags, ["RELOAD"]);
    assert_eq!(one(&show(&mut boss, "DATABASES"), &[("name", "app")])["pool_size"], "7");
    howdah.rewrite_config(&config(cluster, TOP, "pool_size = \"x\"", USERS));
    let error = refusal(boss.query("RELOAD"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("ERROR", "F0000"), "{error}");
    assert!(error.detail.as_deref().is_some_and(|d| d.contains("pool_size")), "{error}");
    assert_eq!(one(&show(&mut boss, "DATABASES"), &[("name", "app")])["pool_size"], "7");
}

// ---- columns

/// PgBouncer 1.25's columns by SHOW, by hand: `s` text, `i` int4, `q` int8, `n` numeric, `b` bytea.
const COLUMNS: &[(&str, &str)] = &[
    ("VERSION", "version:s"),
    ("STATE", "key:s value:s"),
    ("CONFIG", "key:s value:s default:s changeable:s"),
    (
        "DATABASES",
        "name:s host:s port:i database:s force_user:s pool_size:i min_pool_size:i reserve_pool_size:i \
         server_lifetime:i pool_mode:s load_balance_hosts:s max_connections:i current_connections:i \
         max_client_connections:i current_client_connections:i paused:i disabled:i",
    ),
    (
        "POOLS",
        "database:s user:s cl_active:i cl_waiting:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active:i \
         sv_active_cancel:i sv_being_canceled:i sv_idle:i sv_used:i sv_tested:i sv_login:i maxwait:i maxwait_us:i \
         pool_mode:s load_balance_hosts:s",
    ),
    ("PEERS", "peer_id:i host:s port:i pool_size:i"),
    ("PEER_POOLS", "peer_id:i cl_active_cancel_req:i cl_waiting_cancel_req:i sv_active_cancel:i sv_login:i"),
    ("CLIENTS", SOCKET),
    ("SERVERS", SOCKET),
    (
        "USERS",
        "name:s pool_size:s reserve_pool_size:s pool_mode:s max_user_connections:i current_connections:i \
         max_user_client_connections:i current_client_connections:i",
    ),
    ("LISTS", "list:s items:i"),
    (
        "STATS",
        "database:s total_server_assignment_count:n total_xact_count:n total_query_count:n total_received:n \
         total_sent:n total_xact_time:n total_query_time:n total_wait_time:n total_client_parse_count:n \
         total_server_parse_count:n total_bind_count:n total_client_login_count:n avg_server_assignment_count:n \
         avg_xact_count:n avg_query_count:n avg_recv:n avg_sent:n avg_xact_time:n avg_query_time:n avg_wait_time:n \
         avg_client_parse_count:n avg_server_parse_count:n avg_bind_count:n avg_client_login_count:n",
    ),
    (
        "STATS_TOTALS",
        "database:s server_assignment_count:n xact_count:n query_count:n bytes_received:n bytes_sent:n xact_time:n \
         query_time:n wait_time:n client_parse_count:n server_parse_count:n bind_count:n \
         client_login_count:n",
    ),
    (
        "STATS_AVERAGES",
        "database:s server_assignment_count:n xact_count:n query_count:n bytes_received:n bytes_sent:n xact_time:n \
         query_time:n wait_time:n avg_client_parse_count:n avg_server_parse_count:n avg_bind_count:n \
         avg_client_login_count:n",
    ),
    ("TOTALS", "name:s value:n"),
    ("MEM", "name:s size:i used:i free:i memtotal:i"),
    ("DNS_HOSTS", "hostname:s ttl:q addrs:s"),
    ("DNS_ZONES", "zonename:s serial:q count:i"),
    (
        "FDS",
        "fd:i task:s user:s database:s addr:s port:i cancel:q link:i client_encoding:s std_strings:s datestyle:s \
         timezone:s password:s scram_client_key:b scram_server_key:b",
    ),
];

const SOCKET: &str = "type:s user:s database:s replication:s state:s addr:s port:i local_addr:s local_port:i \
                      connect_time:s request_time:s wait:i wait_us:i close_needed:i ptr:s link:s remote_pid:i tls:s \
                      application_name:s prepared_statements:i id:i";
const BUFFERS: &str = "recv_pos:i pkt_pos:i pkt_remain:i send_pos:i send_remain:i pkt_avail:i send_avail:i";

fn letter(oid: u32) -> char {
    match oid {
        25 => 's',
        23 => 'i',
        20 => 'q',
        1700 => 'n',
        17 => 'b',
        other => panic!("type {other}"),
    }
}

/// Over the extended protocol, through a driver that decodes by the types that it is told, in binary.
#[tokio::test]
async fn every_show_has_pgbouncers_columns() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = {
        let top = format!("{TOP}\ncompatibility = \"pgbouncer\"");
        Howdah::start(&config(cluster, &top, "pool_size = 2", USERS))
    };
    let mut client = harness::app(&howdah);
    client.query("SELECT 1").expect("an answer");
    let (driver, connection) =
        tokio_postgres::connect(&howdah.dsn("boss", "pgbouncer"), tokio_postgres::NoTls)
            .await
            .expect("a login");
    tokio::spawn(connection);
    let sockets = format!("{SOCKET} {BUFFERS}");
    let all = COLUMNS.iter().copied().chain([("SOCKETS", &*sockets), ("ACTIVE_SOCKETS", &*sockets)]);
    let mut seen = 0;
    for (name, expected) in all {
        let statement =
            driver.prepare(&format!("SHOW {name}")).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        let columns: Vec<String> =
            statement.columns().iter().map(|c| format!("{}:{}", c.name(), letter(c.type_().oid()))).collect();
        assert_eq!(columns.join(" "), expected, "SHOW {name}");
        for row in driver.query(&statement, &[]).await.unwrap_or_else(|e| panic!("{name}: {e}")) {
            for (i, column) in row.columns().iter().enumerate() {
                let wrong = match letter(column.type_().oid()) {
                    's' => row.try_get::<_, Option<String>>(i).err(),
                    'i' => row.try_get::<_, Option<i32>>(i).err(),
                    'q' => row.try_get::<_, Option<i64>>(i).err(),
                    _ => None,
                };
                assert!(wrong.is_none(), "{name}.{}: {wrong:?}", column.name());
            }
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} rows");
    // The simple protocol says the same.
    let mut simple = console(&howdah, "boss");
    let names: Vec<_> =
        COLUMNS[4].1.split(' ').map(|c| c.split(':').next().expect("a name").to_owned()).collect();
    assert_eq!(simple.query("SHOW POOLS").expect("it").columns, names);
    // Our own columns are where nobody expects PgBouncer's.
    let own = howdah.connect("boss", "howdah").expect("a login").query("SHOW POOLS").expect("it").columns;
    assert!(own.len() > names.len() && own.starts_with(&names), "{own:?}");
    assert_eq!(simple.query("SHOW VERSION").expect("it").value(), Some(&*version()));
    let keys: Vec<_> = show(&mut simple, "LISTS").into_iter().map(|r| r["list"].clone()).collect();
    let expected = "databases users peers pools peer_pools free_clients used_clients login_clients free_servers \
                    used_servers dns_names dns_zones dns_queries dns_pending";
    assert_eq!(keys.join(" "), expected.split_whitespace().collect::<Vec<_>>().join(" "));
    // One SQLSTATE for everything, as monitoring knows it.
    assert_eq!(refusal(simple.query("SHOW nothing")).code, "08P01");
}

fn version() -> String {
    format!("PgBouncer 1.25.2 (Howdah {})", env!("CARGO_PKG_VERSION"))
}

// ---- rights

/// Every command there is, and what it needs; a new one must be added here.
const ACTS: &[&str] = &[
    "RELOAD",
    "PAUSE",
    "PAUSE app",
    "RESUME",
    "RESUME app",
    "SUSPEND",
    "DISABLE app",
    "ENABLE app",
    "RECONNECT",
    "RECONNECT app",
    "WAIT_CLOSE",
    "KILL app",
    "KILL_CLIENT 0",
    "SET query_timeout = 3",
    "SHUTDOWN WAIT_FOR_SERVERS",
    "SHUTDOWN WAIT_FOR_CLIENTS",
    "SHUTDOWN",
    "SHOW FDS",
];

#[test]
fn rights() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2");
    let mut watch = console(&howdah, "watch");
    for act in ACTS {
        let error = refusal(watch.query(act));
        assert_eq!((error.code.as_str(), error.message.as_str()), ("42501", "admin access needed"), "{act}");
    }
    let shows = COLUMNS.iter().map(|c| c.0).filter(|s| *s != "FDS");
    for name in shows.chain(["HELP", "SOCKETS", "ACTIVE_SOCKETS", "datestyle", "timezone"]) {
        assert!(watch.query(&format!("SHOW {name}")).is_ok(), "{name}");
    }
    let mut boss = console(&howdah, "boss");
    for act in ACTS.iter().filter(|a| !a.starts_with("SHUTDOWN") && !a.starts_with("KILL_CLIENT")) {
        if let Err(e) = boss.query(act) {
            // Refused for what it is, not for who asks.
            assert_ne!(e.code(), Some("42501"), "{act}: {e}");
        }
        drop(boss.query("RESUME"));
    }
    assert_eq!(refusal(boss.query("KILL_CLIENT 0")).message, "client not found");
    assert_eq!(refusal(boss.query("KILL_CLIENT x")).message, "invalid client pointer supplied");
}

/// PgBouncer's admin: the user that runs Howdah needs no password and no list, over the Unix socket alone.
#[test]
fn who_runs_howdah_is_admin_in_pgbouncers_profile() {
    let Some(cluster) = shared(MAJOR) else { return };
    let top = "unix_socket_dir = \"{dir}\"\ncompatibility = \"pgbouncer\"";
    let howdah = Howdah::start(&config(cluster, top, "pool_size = 2", ""));
    let dir = howdah.config_path().parent().expect("a directory").to_owned();
    let target = harness::Target::unix(&dir, howdah.port());
    let mut client = Client::connect(&target, "pgbouncer", "pgbouncer").expect("no password");
    assert_eq!(client.query("RELOAD").expect("an admin").tags, ["RELOAD"]);
    assert!(Client::connect(&target, "app", "pgbouncer").is_err(), "another name");
    assert!(howdah.connect("pgbouncer", "pgbouncer").is_err(), "another way");
}

/// Natively a name alone opens nothing: neither without rules nor where they reject it.
#[test]
fn nobody_is_admin_whom_a_native_configuration_does_not_name() {
    let Some(cluster) = shared(MAJOR) else { return };
    let rules = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(rules.path(), "local pgbouncer pgbouncer reject\nlocal all all trust\n").expect("written");
    let by_rules = format!("auth_method = \"hba\"\nauth_hba_file = \"{}\"", rules.path().display());
    let all_trusted = "auth_method = \"trust\"";
    let cases = [
        (all_trusted, "pgbouncer", "28P01"),
        (all_trusted, "howdah", "28P01"),
        (&by_rules, "pgbouncer", "28000"),
        (&by_rules, "howdah", "28P01"),
    ];
    for (method, database, code) in cases {
        let config = config(cluster, "unix_socket_dir = \"{dir}\"", "pool_size = 2", "");
        let howdah = Howdah::start(&config.replace(all_trusted, method));
        let dir = howdah.config_path().parent().expect("a directory").to_owned();
        let target = harness::Target::unix(&dir, howdah.port());
        let said = refusal(Client::connect(&target, "pgbouncer", database));
        assert_eq!(said.code, code, "{method} {database}: {said:?}");
    }
}

// ---- commands

/// Clients that count up in a table, one transaction each time, until they are told to stop.
struct Load(std::sync::Arc<std::sync::atomic::AtomicBool>, Vec<std::thread::JoinHandle<u64>>);

impl Load {
    fn start(howdah: &Howdah, clients: usize) -> Self {
        let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let work = |_| {
            let (mut client, over) = (harness::app(howdah), over.clone());
            std::thread::spawn(move || {
                let mut done = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let got =
                        client.query("BEGIN; SELECT 1; SELECT pg_sleep(0.002); COMMIT").expect("an answer");
                    assert_eq!(got.tags.len(), 4);
                    done += 1;
                }
                done
            })
        };
        Self(over.clone(), (0..clients).map(work).collect())
    }

    fn end(self) -> u64 {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        self.1.into_iter().map(|t| t.join().expect("no error")).sum()
    }
}

/// When PAUSE has answered no server connection is there, and nobody has had an error; RESUME serves all.
#[test]
fn pause_and_resume_under_load() {
    let Some(cluster) = harness::cluster(MAJOR, harness::app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 3\nmin_pool_size = 1");
    let mut boss = console(&howdah, "boss");
    let load = Load::start(&howdah, 8);
    for pause in ["PAUSE", "PAUSE app", "PAUSE"] {
        let before = transactions(&mut boss);
        harness::eventually("the load runs", || transactions(&mut boss) > before + 5);
        assert_eq!(boss.query(pause).expect("it pauses").tags, ["PAUSE"]);
        assert_eq!(harness::connections(&cluster, "app"), 0, "every server is gone");
        let (halted, n) = (transactions(&mut boss), show(&mut boss, "STATE"));
        assert_eq!(one(&n, &[("key", "paused")])["value"], if pause == "PAUSE" { "yes" } else { "no" });
        harness::eventually("all wait", || {
            one(&show(&mut boss, "POOLS"), &[("database", "app")])["cl_waiting"] == "8"
        });
        assert_eq!(transactions(&mut boss), halted, "nothing runs");
        assert_eq!(harness::connections(&cluster, "app"), 0, "and none is opened");
        boss.query(&pause.replace("PAUSE", "RESUME")).expect("it resumes");
    }
    let before = transactions(&mut boss);
    harness::eventually("it goes on", || transactions(&mut boss) > before + 5);
    assert!(load.end() > 10);
    assert_eq!(refusal(boss.query("RESUME")).message, "pooler is not paused/suspended");
    assert_eq!(refusal(boss.query("RESUME app")).message, "database app is not paused");
    assert_eq!(refusal(boss.query("PAUSE pgbouncer")).message, "cannot pause admin db: pgbouncer");
    assert_eq!(refusal(boss.query("PAUSE nowhere")).message, "no such database: nowhere");
}

/// PAUSE in the middle of a pipeline waits for its last ReadyForQuery; what comes after it waits for RESUME.
#[test]
fn a_pause_waits_for_the_last_answer_of_a_pipeline() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 1");
    let mut pipe = Raw::login(&Dsn::local(howdah.port(), "app", "app"));
    let mut boss = console(&howdah, "boss");
    let mut watch = console(&howdah, "watch");
    let batch = |sql: &str| {
        [msg::parse("", sql, &[]), msg::bind("", "", &[], &[], &[]), msg::execute("", 0)].concat()
    };
    let opens = [batch("BEGIN"), msg::sync(), batch("SELECT 1"), msg::sync()].concat();
    pipe.put(&opens);
    pipe.until(b'Z');
    pipe.until(b'Z');
    let pausing = std::thread::spawn(move || boss.query("PAUSE").map(|r| (r.tags, boss)));
    harness::eventually("it is under way", || {
        one(&show(&mut watch, "STATE"), &[("key", "paused")])["value"] == "yes"
    });
    // Two batches of the same transaction, the second of which ends it, and one that went out behind them.
    let rest =
        [batch("SELECT 2"), msg::sync(), batch("COMMIT"), msg::sync(), msg::query("SELECT 3")].concat();
    pipe.put(&rest);
    let rows = |frames: &[msg::Frame]| {
        frames.iter().filter(|f| f.tag == b'D').map(msg::Frame::text).collect::<Vec<_>>()
    };
    assert_eq!(rows(&pipe.until(b'Z')), ["2"]);
    assert_eq!(pipe.until(b'Z').last().map(|f| f.body.clone()), Some(b"I".to_vec()));
    assert_eq!(rows(&pipe.until(b'Z')), ["3"], "nothing that the server has is cut off");
    let (tags, mut boss) = pausing.join().expect("no panic").expect("it has paused");
    assert_eq!(tags, ["PAUSE"]);
    let servers = show(&mut boss, "SERVERS");
    assert!(servers.iter().all(|s| s["state"] != "active"), "{servers:?}");
    pipe.put(&msg::query("SELECT 4"));
    pipe.expect_silence(Duration::from_millis(100));
    boss.query("RESUME").expect("it resumes");
    assert_eq!(rows(&pipe.until(b'Z')), ["4"]);
}

/// What the community's exporter for Prometheus, Datadog's integration and pgmetrics read, by name, over the simple
/// protocol.
#[test]
fn monitors_find_what_they_read() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "compatibility = \"pgbouncer\"", "pool_size = 2");
    harness::app(&howdah).query("SELECT 1").expect("an answer");
    let mut held = harness::app(&howdah);
    held.query("BEGIN").expect("a transaction");
    let mut watch = console(&howdah, "watch");
    let wanted: [(&str, &str, &str); 8] = [
        (
            "STATS",
            "total_xact_count total_query_count total_received total_sent total_xact_time total_query_time \
             total_wait_time total_server_assignment_count total_client_parse_count total_server_parse_count \
             total_bind_count avg_xact_count avg_query_count avg_recv avg_sent avg_xact_time avg_query_time \
             avg_wait_time",
            "database",
        ),
        (
            "POOLS",
            "cl_active cl_waiting cl_active_cancel_req cl_waiting_cancel_req sv_active sv_active_cancel \
             sv_being_canceled sv_idle sv_used sv_tested sv_login maxwait maxwait_us",
            "database user pool_mode",
        ),
        (
            "DATABASES",
            "port pool_size min_pool_size reserve_pool_size max_connections current_connections paused disabled \
             max_client_connections current_client_connections",
            "name host database force_user pool_mode",
        ),
        ("LISTS", "items", "list"),
        ("CONFIG", "", "key value default changeable"),
        (
            "CLIENTS",
            "port wait wait_us",
            "user database state addr connect_time request_time application_name",
        ),
        ("SERVERS", "port wait wait_us", "user database state addr connect_time request_time link"),
        ("USERS", "current_connections", "name pool_mode"),
    ];
    for (what, numbers, texts) in wanted {
        let rows = show(&mut watch, what);
        assert!(!rows.is_empty(), "SHOW {what}");
        for row in &rows {
            for column in texts.split(' ') {
                assert!(row.contains_key(column), "SHOW {what}: {column}");
            }
            for column in numbers.split_whitespace() {
                let value = row.get(column).unwrap_or_else(|| panic!("SHOW {what}: {column}"));
                assert!(value.is_empty() || value.parse::<f64>().is_ok(), "SHOW {what}: {column} is {value}");
            }
        }
    }
    let lists = show(&mut watch, "LISTS");
    for list in [
        "databases",
        "users",
        "pools",
        "free_clients",
        "used_clients",
        "login_clients",
        "free_servers",
        "used_servers",
    ] {
        one(&lists, &[("list", list)]);
    }
    for key in ["max_client_conn", "default_pool_size", "max_user_connections", "listen_port", "pool_mode"] {
        one(&show(&mut watch, "CONFIG"), &[("key", key)]);
    }
    // The exporter cuts the word before the first blank off; Datadog's wants three numbers.
    let version = watch.value("SHOW VERSION").expect("a version");
    assert!(version.starts_with("PgBouncer 1.25.2 "), "{version}");
}

fn transactions(boss: &mut Client) -> u64 {
    one(&show(boss, "STATS"), &[("database", "app")])["total_xact_count"].parse().expect("a number")
}

/// A pause waits for a transaction and a cancel ends the wait; a wait in the queue has its limit all the same.
#[test]
fn a_pause_waits_for_transactions() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "query_wait_timeout = \"300ms\"", "pool_size = 2");
    let mut held = harness::app(&howdah);
    held.query("BEGIN").expect("it begins");
    let mut boss = console(&howdah, "boss");
    let (pid, key) = (boss.cancel_key().0, boss.cancel_key().1.to_vec());
    let thread = std::thread::spawn(move || (refusal(boss.query("PAUSE")), boss));
    let mut watch = console(&howdah, "watch");
    let paused = |c: &mut Client| one(&show(c, "STATE"), &[("key", "paused")])["value"] == "yes";
    harness::eventually("it is under way", || paused(&mut watch));
    let mut late = harness::app(&howdah);
    assert_eq!(refusal(late.query("SELECT 1")).code, "53300", "query_wait_timeout goes on");
    assert!(!thread.is_finished(), "it waits for the transaction");
    cancel(&howdah, pid, &key);
    let (error, mut boss) = thread.join().expect("no panic");
    assert_eq!(error.code, "57014");
    assert!(!paused(&mut watch), "as before");
    assert_eq!(late.value("SELECT 1").expect("served again"), "1");
    // Suspended, a server is kept, and nobody gets one.
    held.query("COMMIT").expect("it ends");
    boss.query("SUSPEND").expect("it suspends");
    assert_eq!(refusal(late.query("SELECT 1")).code, "53300");
    assert_eq!(refusal(boss.query("PAUSE")).message, "already suspended/paused");
    boss.query("RESUME").expect("it resumes");
    assert_eq!(late.value("SELECT 1").expect("served again"), "1");
}

fn cancel(howdah: &Howdah, pid: u32, key: &[u8]) {
    use std::io::Write as _;
    let mut packet = vec![0, 0, 0, 12 + key.len() as u8];
    packet.extend_from_slice(&80_877_102u32.to_be_bytes());
    packet.extend_from_slice(&pid.to_be_bytes());
    packet.extend_from_slice(key);
    packet[3] = packet.len() as u8;
    std::net::TcpStream::connect(howdah.address()).and_then(|mut s| s.write_all(&packet)).expect("a cancel");
}

#[test]
fn kill_and_disable() {
    let Some(cluster) = shared(MAJOR) else { return };
    let other =
        format!("{USERS}[databases.other]\nhost = \"{}\"\ndbname = \"app\"\npool_size = 1\n", cluster.tcp());
    let howdah = Howdah::start(&config(cluster, TOP, "pool_size = 2", &other));
    let mut boss = console(&howdah, "boss");
    let (mut idle, mut busy) = (harness::app(&howdah), harness::app(&howdah));
    let mut elsewhere = howdah.connect("app", "other").expect("a login");
    busy.query("BEGIN").expect("it begins");
    assert_eq!(boss.query("KILL app").expect("it kills").tags, ["KILL"]);
    for client in [&mut idle, &mut busy] {
        let error = refusal(client.query("SELECT 1"));
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P01"), "{error}");
    }
    assert_eq!(elsewhere.value("SELECT 1").expect("untouched"), "1");
    assert_eq!(one(&show(&mut boss, "DATABASES"), &[("name", "app")])["paused"], "1");
    boss.query("RESUME app").expect("it resumes");
    let mut again = harness::app(&howdah);
    assert_eq!(again.value("SELECT 1").expect("served again"), "1");

    let clients = show(&mut boss, "CLIENTS");
    let id = &one(&clients, &[("database", "app")])["id"];
    boss.query(&format!("KILL_CLIENT {id}")).expect("it is killed");
    assert_eq!(refusal(again.query("SELECT 1")).code, "57P01");

    boss.query("DISABLE other").expect("it is disabled");
    let error = refusal(howdah.connect("app", "other"));
    assert_eq!((error.code.as_str(), error.message.as_str()), ("55000", "database \"other\" is disabled"));
    assert_eq!(elsewhere.value("SELECT 1").expect("who is in stays in"), "1");
    boss.query("ENABLE other").expect("it is enabled");
    assert!(howdah.connect("app", "other").is_ok());
    assert_eq!(refusal(boss.query("DISABLE")).message, "a database is required");
    let counted =
        |command| harness::metric(&howdah, "howdah_console_commands_total", &[("command", command)]);
    assert_eq!((counted("KILL"), counted("KILL_CLIENT"), counted("DISABLE")), (1.0, 1.0, 1.0));
}

/// Between transactions a session pool's client holds its server, and hears the truth all the same.
#[test]
fn a_killed_session_is_not_told_of_a_shutdown() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2\npool_mode = \"session\"");
    let mut boss = console(&howdah, "boss");
    let mut idle = harness::app(&howdah);
    idle.query("SELECT 1").expect("it has a server");
    let clients = show(&mut boss, "CLIENTS");
    let id = &one(&clients, &[("database", "app")])["id"];
    boss.query(&format!("KILL_CLIENT {id}")).expect("it is killed");
    let told = refusal(idle.query("SELECT 1"));
    assert_eq!(told.code, "57P01");
    assert!(told.detail.as_deref().is_some_and(|d| d.contains("operator")), "{told:?}");
}

/// After RECONNECT and WAIT_CLOSE no server is an old one, and no client has noticed.
#[test]
fn reconnect_under_load() {
    let Some(cluster) = harness::cluster(MAJOR, harness::app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 3");
    let mut boss = console(&howdah, "boss");
    let load = Load::start(&howdah, 6);
    let pids = "SELECT string_agg(pid::text, ',') FROM pg_stat_activity WHERE usename = 'app'";
    harness::eventually("servers are there", || harness::connections(&cluster, "app") == 3);
    let old = cluster.value(pids).expect("they have pids");
    boss.query("RECONNECT app").expect("it begins");
    assert_eq!(boss.query("WAIT_CLOSE app").expect("it ends").tags, ["WAIT_CLOSE"]);
    let new = cluster.value(pids).unwrap_or_default();
    assert!(old.split(',').all(|pid| !new.split(',').any(|p| p == pid)), "{old} and then {new}");
    load.end();
}

#[test]
fn set_lasts_until_the_reload() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2");
    let mut boss = console(&howdah, "boss");
    let value = |boss: &mut Client, key: &str| one(&show(boss, "CONFIG"), &[("key", key)])["value"].clone();
    assert_eq!(value(&mut boss, "query_wait_timeout"), "120");
    let reply = boss.query("SET query_wait_timeout = '2.5'").expect("it is set");
    assert_eq!(reply.tags, ["SET query_wait_timeout=2.5"]);
    boss.query("SET max_client_conn TO 77").expect("it is set, too");
    assert_eq!(
        (value(&mut boss, "query_wait_timeout"), value(&mut boss, "max_client_conn")),
        ("2.5".into(), "77".into())
    );
    for bad in ["SET query_wait_timeout = 'x'", "SET nosuch = 1", "SET listen_backlog = 5"] {
        let error = refusal(boss.query(bad));
        assert_eq!((error.code.as_str(), error.message.as_str()), ("22023", "SET failed"), "{bad}");
        assert!(error.detail.is_some(), "{bad}");
    }
    boss.query("RELOAD").expect("it reloads");
    assert_eq!(value(&mut boss, "query_wait_timeout"), "120");
}

#[test]
fn shutdown_in_its_forms() {
    let Some(cluster) = shared(MAJOR) else { return };
    for how in ["SHUTDOWN", "SHUTDOWN WAIT_FOR_SERVERS", "SHUTDOWN WAIT_FOR_CLIENTS"] {
        let mut howdah = start(cluster, "", "pool_size = 2");
        let mut held = harness::app(&howdah);
        held.query("BEGIN").expect("it begins");
        let mut boss = console(&howdah, "boss");
        if how == "SHUTDOWN" {
            assert!(boss.query(how).is_err(), "it ends at once");
        } else {
            assert_eq!(boss.query(how).expect("it begins").tags, ["SHUTDOWN"]);
            harness::eventually("nobody else comes in", || howdah.connect("app", "app").is_err());
            // The console does.
            let mut second = console(&howdah, "boss");
            assert_eq!(refusal(second.query("RELOAD")).message, "pooler is shutting down");
            drop((second, boss));
            assert_eq!(held.value("SELECT 1").expect("the transaction goes on"), "1");
            held.query("COMMIT").expect("and ends");
        }
        drop(held);
        assert!(howdah.wait(Duration::from_secs(20)).success(), "{how}");
    }
}

/// Nothing is free, and the operator can look and act all the same.
#[test]
fn a_full_howdah_can_be_inspected() {
    let Some(cluster) = shared(MAJOR) else { return };
    let top = "max_client_connections = 3\nreserved_client_connections = 0";
    let howdah = start(cluster, top, "pool_size = 1");
    let mut held = harness::app(&howdah);
    held.query("BEGIN").expect("it begins");
    let mut waiting = harness::app(&howdah);
    let thread = std::thread::spawn(move || waiting.value("SELECT 1").map_err(|e| e.to_string()));
    let _third = harness::app(&howdah);
    assert_eq!(refusal(howdah.connect("app", "app")).code, "53300", "it is full");
    let mut boss = console(&howdah, "boss");
    harness::eventually("one waits", || {
        one(&show(&mut boss, "POOLS"), &[("database", "app")])["cl_waiting"] == "1"
    });
    let clients = show(&mut boss, "CLIENTS");
    let id = one(&clients, &[("database", "app"), ("state", "active")])["id"].clone();
    boss.query(&format!("KILL_CLIENT {id}")).expect("the holder goes");
    assert_eq!(thread.join().expect("no panic").as_deref(), Ok("1"));
}
