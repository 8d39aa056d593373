//! In PgBouncer's place: its file, its words, its signals, and a move from it to Howdah under load.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{
    self, Client, Cluster, Running, Target, app_options, cluster, eventually, free_port, left_out, program,
    refusal,
};
use howdah::demo::wire::Error;

const MAJOR: u32 = 15;

/// A directory that any account can read, with an ini in it.
struct Place {
    dir: tempfile::TempDir,
    listen: SocketAddr,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("hp").tempdir_in("/tmp").expect("a directory");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        std::fs::set_permissions(dir.path(), open).expect("ours");
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().expect("a port")));
        Self { dir, listen }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn ini(&self, databases: &str, main: &str) -> PathBuf {
        let path = self.path("pgbouncer.ini");
        std::fs::write(self.path("userlist.txt"), "\"app\" \"\"\n\"boss\" \"\"\n").expect("written");
        let text = format!(
            "[databases]\n{databases}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             unix_socket_dir =\nauth_file = {}\nlogfile = {}\npidfile = {}\n{main}\n",
            self.listen.port(),
            self.path("userlist.txt").display(),
            self.path("pooler.log").display(),
            self.path("pooler.pid").display(),
        );
        std::fs::write(&path, text).expect("written");
        path
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.path("pooler.log")).unwrap_or_default()
    }

    fn connect(&self, user: &str, database: &str) -> Result<Client, Error> {
        Client::connect(&Target::Tcp(self.listen), user, database)
    }

    fn howdah(&self, ini: &Path) -> Running {
        Running::listening(program().arg(ini).arg("-q").env("HOWDAH_OPS_LISTEN", "off"), self.listen)
    }
}

fn entry(cluster: &Cluster) -> String {
    format!("host=127.0.0.1 port={} dbname=app", cluster.port())
}

/// The file of the project's origin, as it is, but for its hosts and its trust in the test's users.
#[test]
fn the_ini_of_the_origin_runs_as_it_is() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let main = "auth_type = trust\nadmin_users = boss\npool_mode = transaction\nmax_client_conn = 10000\n\
                default_pool_size = 25\nmin_pool_size = 10\nreserve_pool_size = 5\nreserve_pool_timeout = 3\n\
                server_lifetime = 3600\nserver_idle_timeout = 600\nquery_timeout = 30\nquery_wait_timeout = 10\n\
                stats_period = 60";
    let both = format!("app = {0}\napp_ro = {0}", entry(&cluster));
    let ini = place.ini(&both, main);
    let mut running = place.howdah(&ini);

    for database in ["app", "app_ro"] {
        let mut client = place.connect("app", database).expect("a login");
        assert_eq!(client.value("SELECT current_user").expect("an answer"), "app");
        client.close().expect("closed");
    }
    // In PgBouncer's words, with its one SQLSTATE.
    let told = refusal(place.connect("app", "nowhere"));
    assert_eq!((told.severity.as_str(), told.code.as_str()), ("FATAL", "08P01"));
    assert_eq!(told.message, "no such database: nowhere");
    let told = refusal(place.connect("stranger", "app"));
    assert_eq!((told.code.as_str(), told.message.as_str()), ("08P01", "\"trust\" authentication failed"));
    let odd = [("user", "app"), ("database", "app"), ("enable_seqscan", "off")];
    let told = refusal(Client::connect_with(&Target::Tcp(place.listen), &odd, Duration::from_secs(20)));
    assert_eq!(told.message, "unsupported startup parameter: enable_seqscan");

    eventually("the log tells of it in PgBouncer's lines", || {
        let log = place.log();
        let has = |text: &str| log.lines().any(|l| l.contains(text));
        has("] LOG C-0x")
            && has("app/app@127.0.0.1:")
            && has("login attempt: db=app_ro user=app tls=no")
            && has("closing because: client close request (age=")
            && has("closing because: no such database: nowhere (age=0s)")
            && has("pooler error: no such database: nowhere")
            && has("new connection to server (from 127.0.0.1:")
    });
    let pid = std::fs::read_to_string(place.path("pooler.pid")).expect("a pid file");
    assert_eq!(pid.trim().parse::<u32>().expect("a number"), running.0.id());

    // The log is rotated as logrotate does it: moved away, and opened anew at SIGHUP.
    std::fs::rename(place.path("pooler.log"), place.path("old.log")).expect("moved");
    signal(&running, "HUP");
    eventually("a new file", || place.log().contains("reloaded"));
    // A bad file changes nothing.
    std::fs::write(&ini, "[pgbouncer]\nmax_client_con = 5\n").expect("written");
    signal(&running, "HUP");
    eventually("refused", || place.log().contains("unknown parameter: pgbouncer/max_client_con"));
    place.connect("app", "app").expect("served as before").close().expect("closed");

    signal(&running, "TERM");
    assert!(running.0.wait().expect("it ends").success());
    assert!(!place.path("pooler.pid").exists());
}

fn signal(running: &Running, name: &str) {
    let kill = Command::new("kill").args([&format!("-{name}"), &running.0.id().to_string()]).status();
    assert!(kill.expect("kill runs").success());
}

/// A database may be the console of another pooler, or one's own. A console sets no parameters, and a client that asks
/// for what the console has anyway is served.
#[test]
fn a_console_can_be_the_server_of_a_database() {
    let place = Place::new();
    let console = format!("inner = host=127.0.0.1 port={} dbname=pgbouncer", place.listen.port());
    let ini = place.ini(&console, "auth_type = trust\nadmin_users = boss");
    let _running = place.howdah(&ini);
    let login = |more: &[(&str, &str)]| {
        let own = [("user", "boss"), ("database", "inner"), ("application_name", "probe")];
        Client::connect_with(&Target::Tcp(place.listen), &[&own, more].concat(), Duration::from_secs(20))
    };
    for _ in 0..2 {
        let mut client = login(&[("client_encoding", "utf8"), ("TimeZone", "GMT")]).expect("a login");
        assert!(client.value("SHOW VERSION").expect("an answer").contains("PgBouncer"));
        assert!(client.value("SHOW VERSION").expect("an answer").contains("PgBouncer"));
        client.close().expect("closed");
    }
    let told = refusal(login(&[("TimeZone", "Asia/Tokyo")]));
    assert!(told.message.starts_with("invalid command 'RESET \"TimeZone\""), "{}", told.message);
}

/// An address with bits beyond its mask fits nobody there, and is a warning here at a reload, too.
#[test]
fn a_rule_that_fits_nobody_stops_no_reload() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let rules = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(rules.path(), "host all app 127.0.0.1/32 reject\n").expect("written");
    let main = format!("auth_type = hba\nauth_hba_file = {}\nadmin_users = boss", rules.path().display());
    let running = place.howdah(&place.ini(&format!("app = {}", entry(&cluster)), &main));
    assert!(place.connect("app", "app").is_err(), "it is rejected");
    std::fs::write(rules.path(), "host all app 127.0.0.1/8 reject\nhost all app 127.0.0.1/32 trust\n")
        .expect("written");
    signal(&running, "HUP");
    eventually("it comes in", || place.connect("app", "app").is_ok());
    assert!(place.log().contains("does not match its mask"), "{}", place.log());
}

/// `auth_type = any`: the name that a client states says nothing, and the database says as whom the server is logged in to.
#[test]
fn anybody_comes_in_where_auth_type_is_any() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let databases = format!("app = {0} user=app\nbare = {0}", entry(&cluster));
    let _running = place.howdah(&place.ini(&databases, "auth_type = any\nadmin_users = boss"));
    let mut client = place.connect("whoever", "app").expect("a login");
    assert_eq!(client.value("SELECT current_user").expect("an answer"), "app");
    assert_eq!(refusal(place.connect("whoever", "bare")).message, "bouncer config error");
    place.connect("boss", "pgbouncer").expect("an admin").query("RELOAD").expect("accepted");
    let mut other = place.connect("whoever", "pgbouncer").expect("a look");
    other.query("SHOW VERSION").expect("shown");
    assert!(other.query("RELOAD").is_err(), "not an admin");
}

/// SIGUSR1 and SIGUSR2 are PAUSE and RESUME.
#[test]
fn signals_pause_and_resume() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let ini = place.ini(
        &format!("app = {}", entry(&cluster)),
        "auth_type = trust\npool_mode = transaction\nquery_wait_timeout = 1\nquery_wait_notify = 0",
    );
    let mut running = place.howdah(&ini);
    let mut client = place.connect("app", "app").expect("a login");
    client.query("SELECT 1").expect("served");
    signal(&running, "USR1");
    eventually("paused", || place.log().contains("got SIGUSR1"));
    assert_eq!(refusal(client.query("SELECT 1")).message, "query_wait_timeout");
    signal(&running, "USR2");
    eventually("resumed", || place.log().contains("got SIGUSR2"));
    place.connect("app", "app").expect("a login").query("SELECT 1").expect("served again");
    signal(&running, "TERM");
    assert!(running.0.wait().expect("it ends").success());
}

/// query_wait_timeout and query_timeout end a client as PgBouncer's do, and the server is there for the next.
/// SHUTDOWN WAIT_FOR_SERVERS: who has a server ends its work, who waits or asks for one is told.
#[test]
fn a_shutdown_waits_for_servers_alone() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let main = "auth_type = trust\nadmin_users = boss\npool_mode = transaction\ndefault_pool_size = 1";
    let mut running = place.howdah(&place.ini(&format!("app = {}", entry(&cluster)), main));
    let [mut holder, mut idle, mut waiter] = [(); 3].map(|()| place.connect("app", "app").expect("a login"));
    let mut boss = place.connect("boss", "pgbouncer").expect("a login");
    holder.query("BEGIN").expect("a transaction");
    let waits = std::thread::spawn(move || refusal(waiter.query("SELECT 1")).message);
    eventually("one waits", || {
        let pools = boss.query("SHOW POOLS").expect("rows");
        let at = pools.columns.iter().position(|c| c == "cl_waiting").expect("the column");
        pools.rows.iter().any(|r| r[at].as_deref() == Some("1"))
    });
    boss.query("SHUTDOWN WAIT_FOR_SERVERS").expect("accepted");
    assert_eq!(waits.join().expect("no panic"), "server shutting down");
    assert_eq!(refusal(idle.query("SELECT 1")).message, "server shutting down");
    assert_eq!(holder.value("SELECT 1").expect("it goes on"), "1");
    assert!(running.0.try_wait().expect("a child").is_none(), "a server is in use");
    holder.query("COMMIT").expect("and ends");
    assert!(running.0.wait().expect("it ends by itself").success());
    assert!(place.log().contains("closing because: server shutting down"));
}

#[test]
fn server_fast_close_ends_sessions_between_transactions() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let main = "auth_type = trust\nadmin_users = boss\npool_mode = session\nserver_fast_close = 1";
    let _running = place.howdah(&place.ini(&format!("app = {}", entry(&cluster)), main));
    let [mut idle, mut busy] = [(); 2].map(|()| place.connect("app", "app").expect("a login"));
    let mut boss = place.connect("boss", "pgbouncer").expect("a login");
    idle.query("SELECT 1").expect("it has a server");
    busy.query("BEGIN").expect("a transaction");
    boss.query("RECONNECT app").expect("accepted");
    assert_eq!(refusal(idle.query("SELECT 1")).message, "database configuration changed");
    assert_eq!(busy.value("SELECT 1").expect("a transaction is not cut"), "1");
    busy.query("COMMIT").expect("it ends");
    assert_eq!(refusal(busy.query("SELECT 1")).message, "database configuration changed");
}

#[test]
fn an_idle_pool_is_freed_and_made_again() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let main = "auth_type = trust\nadmin_users = boss\npool_mode = transaction\npool_idle_timeout = 1\nserver_idle_timeout = 1";
    let _running = place.howdah(&place.ini(&format!("app = {}", entry(&cluster)), main));
    let mut boss = place.connect("boss", "pgbouncer").expect("a login");
    let mut pools = || {
        let shown = boss.query("SHOW POOLS").expect("rows").rows;
        shown.iter().filter(|r| r[0].as_deref() == Some("app")).count()
    };
    let mut client = place.connect("app", "app").expect("a login");
    client.query("SELECT 1").expect("an answer");
    assert_eq!(pools(), 1);
    let old = client;
    // With a client it stays, though its servers are gone.
    eventually("the server is gone", || harness::connections(&cluster, "app") == 0);
    assert_eq!(pools(), 1);
    drop(old);
    eventually("the pool is freed", || pools() == 0);
    assert!(place.log().contains("cleaning up idle pool app/app"));
    let mut client = place.connect("app", "app").expect("a login");
    assert_eq!(client.value("SELECT 1").expect("an answer"), "1");
    assert_eq!(pools(), 1);
}

/// PgBouncer drops a server whose client has left inside of a transaction, and with it whatever that client has set.
#[test]
fn a_client_that_leaves_inside_a_transaction_takes_its_server_along() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    for mode in ["transaction", "session"] {
        let place = Place::new();
        // In session mode nothing else would clean it either.
        let main =
            format!("auth_type = trust\npool_mode = {mode}\ndefault_pool_size = 1\nserver_reset_query =");
        let _running = place.howdah(&place.ini(&format!("app = {}", entry(&cluster)), &main));
        for end in ["SELECT 1", "SELECT pg_sleep(600)"] {
            let mut gone = place.connect("app", "app").expect("a login");
            let set =
                "SET search_path = nowhere; SET statement_timeout = 12345; CREATE TEMP TABLE tt (a int)";
            gone.query(set).expect("set");
            gone.query("BEGIN").expect("a block");
            gone.set_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            drop(gone.query(end));
            drop(gone);
            let mut next = place.connect("app", "app").expect("a login");
            let left = "SELECT current_setting('search_path') || current_setting('statement_timeout') || \
                        (SELECT count(*) FROM pg_class WHERE relname = 'tt' AND pg_table_is_visible(oid))";
            assert_eq!(next.value(left).expect("an answer"), "\"$user\", public00", "{mode}: {end}");
            next.close().expect("closed");
        }
        let log = place.log();
        assert!(log.contains("closing because: client disconnect while server was not ready"), "{log}");
        assert!(log.contains("closing because: client disconnected with query in progress"), "{log}");
    }
}

/// The line about a server connection says what has ended its client, whatever that was.
#[test]
fn a_server_is_closed_in_the_words_of_its_clients_end() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let sleep = "SELECT pg_sleep(600)";
    // A setting, what its client does at last, what an operator does then, and the words.
    let ends = [
        ("query_timeout = 1", sleep, "", "query timeout"),
        ("idle_transaction_timeout = 1", "BEGIN", "", "idle transaction timeout"),
        ("transaction_timeout = 1", sleep, "", "transaction timeout"),
        ("", sleep, "KILL_CLIENT", "admin forced disconnect"),
        ("", sleep, "KILL app", "database removed"),
    ];
    for (setting, last, command, words) in ends {
        let place = Place::new();
        let main = format!("auth_type = trust\npool_mode = transaction\nadmin_users = boss\n{setting}");
        let _running = place.howdah(&place.ini(&format!("app = {}", entry(&cluster)), &main));
        let mut client = place.connect("app", "app").expect("a login");
        let id = client.cancel_key().0;
        let running = std::thread::spawn(move || {
            drop(client.query(last));
            client
        });
        if !command.is_empty() {
            eventually("its statement runs", || harness::count(&cluster, "query LIKE '%pg_sleep(600)'") == 1);
            let mut boss = place.connect("boss", "pgbouncer").expect("the console");
            let id = if command == "KILL_CLIENT" { format!(" {id}") } else { String::new() };
            boss.query(&format!("{command}{id}")).expect("it is killed");
        }
        let line = |log: &str, kind: &str| {
            let closing = format!("closing because: {words} (age=");
            log.lines().any(|l| l.contains(kind) && l.contains(&closing))
        };
        let mut log = String::new();
        eventually(words, || {
            log = place.log();
            line(&log, " S-0x") && line(&log, " C-0x")
        });
        assert!(!log.contains("client disconnect"), "{words}: {log}");
        let mut ended = running.join().expect("the client's thread");
        assert!(ended.query("SELECT 1").is_err(), "{words}");
        eventually("nothing runs on", || harness::count(&cluster, "query LIKE '%pg_sleep(600)'") == 0);
    }
}

#[test]
fn timeouts_speak_as_pgbouncers() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let main = "auth_type = trust\npool_mode = transaction\ndefault_pool_size = 1\nquery_wait_timeout = 1\n\
                query_wait_notify = 0\nidle_transaction_timeout = 0\nserver_check_query = select 1\n\
                server_check_delay = 0\nserver_round_robin = 1";
    let ini = place.ini(&format!("app = {}\n* = {}", entry(&cluster), entry(&cluster)), main);
    let running = place.howdah(&ini);
    let mut holder = place.connect("app", "app").expect("a login");
    holder.query("BEGIN").expect("begun");
    let mut waiter = place.connect("app", "app").expect("a login");
    let told = refusal(waiter.query("SELECT 1"));
    assert_eq!(
        (told.severity.as_str(), told.code.as_str(), told.message.as_str()),
        ("FATAL", "08P01", "query_wait_timeout")
    );
    assert!(told.detail.is_some(), "Howdah says more than PgBouncer");
    assert!(waiter.query("SELECT 1").is_err(), "closed");
    holder.query("COMMIT").expect("committed");
    holder.query("SELECT 1").expect("a server that was checked");

    // A database that no line names.
    let mut any = place.connect("app", "whatever").expect("a login");
    assert_eq!(any.value("SELECT current_database()").expect("an answer"), "app");
    eventually("told", || place.log().contains("registered new auto-database: whatever"));
    drop(running);
}

#[test]
fn the_version_is_pgbouncers_with_its_file() {
    let version = |argument: &[&str]| {
        let out = program().args(argument).output().expect("it runs");
        assert!(out.status.success());
        String::from_utf8(out.stdout).expect("UTF-8").lines().next().expect("a line").to_owned()
    };
    assert!(version(&["-V"]).starts_with("howdah "));
    assert!(version(&["--version", "pgbouncer.ini"]).starts_with("PgBouncer 1.25.2 (Howdah "));
}

#[test]
fn a_start_that_fails_says_so_as_pgbouncer_does() {
    let place = Place::new();
    let ini = place.ini("app = host=127.0.0.1", "nonsense = 1");
    let out = program().arg(&ini).output().expect("it runs");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(1), "{said}");
    assert!(said.contains("unknown parameter: pgbouncer/nonsense"), "{said}");
    assert!(said.contains("FATAL cannot load config file"), "{said}");
    let out = program().arg("-R").arg(&ini).output().expect("it runs");
    assert_eq!(out.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&out.stderr).contains("so_reuseport"), "a refusal that helps");
}

/// In the background: the command returns when clients can come, and the process has its number in the file.
#[test]
fn a_daemon_serves_when_its_command_returns() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let ini = place.ini(&format!("app = {}", entry(&cluster)), "auth_type = trust");
    let mut command = program();
    command.arg("-d").arg(&ini).env("HOWDAH_OPS_LISTEN", "off").stdin(Stdio::null());
    assert!(command.status().expect("it runs").success(), "{}", place.log());
    let pid = std::fs::read_to_string(place.path("pooler.pid")).expect("a pid file");
    place.connect("app", "app").expect("a login").close().expect("closed");
    assert!(Command::new("kill").args(["-QUIT", pid.trim()]).status().expect("kill runs").success());
    eventually("gone", || !place.path("pooler.pid").exists());
}

/// The promise: PAUSE, stop, start Howdah on the same file and port; clients that reconnect lose nothing.
#[test]
fn a_live_move_from_pgbouncer_loses_nothing() {
    let Some(pgbouncer) =
        ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].iter().find(|p| Path::new(p).exists())
    else {
        return left_out("the move from PgBouncer", "pgbouncer is not installed");
    };
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let place = Place::new();
    let main = "auth_type = trust\nadmin_users = boss\npool_mode = transaction\nmax_client_conn = 100\n\
                default_pool_size = 4\nignore_startup_parameters = extra_float_digits";
    let ini = place.ini(&format!("app = {}", entry(&cluster)), main);
    let mut direct = cluster.connect("app", "app").expect("a login");
    direct.query("CREATE TABLE ledger (n bigint)").expect("a table");

    let mut command = Command::new(pgbouncer);
    command.arg("-q").arg(&ini);
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    if root {
        command.args(["-u", "postgres"]);
    }
    let old = Running::listening(&mut command, place.listen);

    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..4u64)
        .map(|c| {
            let (stop, done, listen) = (stop.clone(), done.clone(), place.listen);
            std::thread::spawn(move || work(listen, c * 1_000_000, &stop, &done))
        })
        .collect();
    let beyond = |n: u64| eventually("the clients get on", || done.load(Ordering::SeqCst) > n);
    beyond(200);
    place.connect("boss", "pgbouncer").expect("the console").query("PAUSE").expect("paused");
    drop(old);
    // PgBouncer's own log and pid file were another account's.
    for name in ["pooler.log", "pooler.pid"] {
        let _ = std::fs::remove_file(place.path(name));
    }
    let before = done.load(Ordering::SeqCst);
    let new = place.howdah(&ini);
    beyond(before + 200);
    stop.store(true, Ordering::SeqCst);
    let mut sent = 0;
    for c in clients {
        let (committed, other) = c.join().expect("no client gave up");
        assert_eq!(other, Vec::<String>::new(), "errors other than that a connection ended");
        sent += committed;
    }
    let count = |sql: &str| cluster_count(&mut cluster.connect("app", "app").expect("a login"), sql);
    assert_eq!(count("SELECT count(*) FROM ledger"), sent, "as many as were acknowledged");
    assert_eq!(count("SELECT count(DISTINCT n) FROM ledger"), sent, "and none twice");
    drop(new);
}

fn cluster_count(client: &mut Client, sql: &str) -> u64 {
    client.value(sql).expect("an answer").parse().expect("a number")
}

/// Inserts numbers until it is stopped; what was not acknowledged is looked for before it is sent again. Returns
/// how many are in, and what went wrong beside ends of connections.
fn work(listen: SocketAddr, first: u64, stop: &AtomicBool, done: &AtomicU64) -> (u64, Vec<String>) {
    let (mut n, mut other) = (0, Vec::new());
    let mut client: Option<Client> = None;
    let mut unsure = false;
    while !stop.load(Ordering::SeqCst) {
        let Some(c) = &mut client else {
            client = Client::connect(&Target::Tcp(listen), "app", "app").ok();
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        let number = first + n;
        if std::mem::take(&mut unsure) {
            match c.value(&format!("SELECT count(*) FROM ledger WHERE n = {number}")) {
                Ok(found) if found != "0" => {
                    n += 1;
                    continue;
                }
                Ok(_) => {}
                Err(_) => {
                    (client, unsure) = (None, true);
                    continue;
                }
            }
        }
        match c.query(&format!("INSERT INTO ledger VALUES ({number})")) {
            Ok(_) => {
                n += 1;
                done.fetch_add(1, Ordering::SeqCst);
            }
            Err(e) => {
                if let Error::Server(e) = &e
                    && !["08P01", "57P01"].contains(&e.code.as_str())
                {
                    other.push(e.to_string());
                }
                (client, unsure) = (None, true);
            }
        }
    }
    (n, other)
}
