//! Replication connections: PostgreSQL's own programs through Howdah, and the places that they take in their pool.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::harness::proxy::Howdah;
use crate::harness::tools::{client_program, succeed};
use crate::harness::{self, Cluster, Options, Running, cluster, count, eventually, refusal};
use howdah::demo::wire::{Client, Error, Target};

const PASSWORD: &str = "canary-Pa55";

/// The programs are Debian's, of this version.
const MAJOR: u32 = 15;

fn publisher(major: u32) -> Option<Cluster> {
    let options = Options::default()
        .setting("wal_level", "logical")
        .hba("host all all 127.0.0.1/32 trust")
        .hba("host replication all 127.0.0.1/32 trust")
        .sql("CREATE ROLE app LOGIN REPLICATION")
        .sql("CREATE ROLE plain LOGIN")
        .sql("CREATE DATABASE app OWNER app");
    cluster(major, options)
}

fn howdah(cluster: &Cluster, database: &str) -> Howdah {
    // What programs before version 17 ask for.
    let sections = format!("[databases.replication]\nhost = \"{}\"\n{database}", cluster.tcp());
    harness::start(cluster, "[users.plain]", database, &sections)
}

/// The program with the client options for this Howdah; `None` is said aloud.
fn program(name: &str, howdah: &Howdah) -> Option<Command> {
    let mut command = Command::new(client_program(name)?);
    command.args(["-w", "-d", &howdah.dsn("app", "app")]);
    Some(command)
}

fn replicating(howdah: &Howdah, user: &str, kind: &str) -> Result<Client, Error> {
    let all = [("user", user), ("database", "app"), ("replication", kind), ("application_name", "receiver")];
    Client::connect_with(&Target::Tcp(howdah.address()), &all, Duration::from_secs(30))
}

fn walsenders(cluster: &Cluster) -> usize {
    count(cluster, "backend_type = 'walsender'")
}

fn scratch(name: &str) -> PathBuf {
    let dir = harness::root().join(format!("target/tmp/{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(dir.parent().expect("a parent")).expect("a folder");
    dir
}

#[test]
fn a_base_backup_is_whole() {
    let Some(cluster) = publisher(MAJOR) else { return };
    let howdah = howdah(&cluster, "pool_size = 2");
    let Some(mut backup) = program("pg_basebackup", &howdah) else { return };
    // The directory may hold links to a part of the programs only.
    let initdb = std::fs::canonicalize(cluster.install().bin().join("initdb")).expect("it was run");
    let verify = Some(initdb.with_file_name("pg_verifybackup")).filter(|p| p.is_file());
    let dir = scratch("backup");
    // With WAL in a second connection, beside the first.
    succeed(backup.args(["-X", "stream", "--checkpoint=fast", "-D"]).arg(&dir), "pg_basebackup");
    match verify {
        Some(verify) => drop(succeed(Command::new(verify).arg(&dir), "pg_verifybackup")),
        None => harness::left_out("pg_verifybackup", "not beside this PostgreSQL"),
    }
    let _ = std::fs::remove_dir_all(&dir);
    eventually("its servers are gone", || walsenders(&cluster) == 0);
    assert_eq!(harness::metric(&howdah, "howdah_leaked_connections", &[]), 0.0);
}

/// Natively no section needs to be called `replication`: where all databases are on one server, it is that one.
#[test]
fn a_base_backup_needs_no_section_of_its_own() {
    let Some(cluster) = publisher(MAJOR) else { return };
    let config = |other: &str| {
        let more = format!("[databases.other]\nhost = \"{other}\"\npool_size = 2\n");
        let of_app = format!("password = \"{PASSWORD}\"\n");
        harness::config(&cluster, "", "pool_size = 3", &more)
            .replace("auth_method = \"trust\"", "auth_method = \"scram-sha-256\"")
            .replace("[users.app]\n", &format!("[users.app]\n{of_app}"))
    };
    let one = Howdah::start(&config(&cluster.tcp().to_string()));
    let program = |howdah: &Howdah| {
        let mut command = Command::new(client_program("pg_basebackup")?);
        command.env("PGPASSWORD", PASSWORD).args(["-w", "-d", &howdah.dsn("app", "app")]);
        Some(command)
    };
    let Some(mut backup) = program(&one) else { return };
    let dir = scratch("backup-without-section");
    succeed(backup.args(["-X", "stream", "--checkpoint=fast", "-D"]).arg(&dir), "pg_basebackup");
    let _ = std::fs::remove_dir_all(&dir);
    // Which of two servers is meant, only the operator can say; and that is what is told.
    let two = Howdah::start(&config("127.0.0.2:1"));
    let Some(mut backup) = program(&two) else { return };
    let output = backup.arg("-D").arg(&dir).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("[databases.replication]"), "{said}");
    assert!(!said.contains("password authentication failed"), "{said}");
}

#[test]
fn wal_is_received() {
    let Some(cluster) = publisher(MAJOR) else { return };
    let howdah = howdah(&cluster, "pool_size = 2");
    let Some(mut receive) = program("pg_receivewal", &howdah) else { return };
    let dir = scratch("wal");
    std::fs::create_dir_all(&dir).expect("a folder");
    receive.args(["--synchronous", "-D"]).arg(&dir);
    let running = Running(receive.stderr(Stdio::piped()).spawn().expect("pg_receivewal runs"));
    eventually("it streams", || {
        cluster.value("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").ok()
            == Some("1".into())
    });
    let mut app = harness::app(&howdah);
    app.query("CREATE TABLE t AS SELECT generate_series(1, 1000)").expect("a table");
    let written = cluster.value("SELECT pg_current_wal_flush_lsn()").expect("a position");
    eventually("what was written is received", || {
        let sql = format!("SELECT count(*) FROM pg_stat_replication WHERE flush_lsn >= '{written}'");
        cluster.value(&sql).ok() == Some("1".into())
    });
    let pid = running.0.id().to_string();
    succeed(Command::new("kill").args(["-INT", &pid]), "kill");
    running.end();
    let files = std::fs::read_dir(&dir).expect("the folder").count();
    let _ = std::fs::remove_dir_all(&dir);
    assert!(files > 0, "a segment is there");
    eventually("its server is gone", || walsenders(&cluster) == 0);
}

#[test]
fn changes_are_decoded() {
    let Some(cluster) = publisher(MAJOR) else { return };
    let howdah = howdah(&cluster, "pool_size = 2");
    let receive = |action: &[&str]| {
        let mut p = program("pg_recvlogical", &howdah)?;
        p.args(["--slot=s", "--plugin=test_decoding"]).args(action);
        Some(p)
    };
    let Some(mut create) = receive(&["--create-slot"]) else { return };
    succeed(&mut create, "pg_recvlogical --create-slot");
    let mut start = receive(&["--start", "-f", "-", "--no-loop", "--fsync-interval=1"]).expect("it is there");
    let mut running = Running(start.stdout(Stdio::piped()).spawn().expect("pg_recvlogical runs"));
    let mut app = harness::app(&howdah);
    app.query("CREATE TABLE t (a int)").expect("a table");
    app.query("INSERT INTO t VALUES (7)").expect("a row");
    let mut lines = BufReader::new(running.0.stdout.take().expect("its output")).lines();
    let row = lines.by_ref().map(|l| l.expect("a line")).find(|l| l.contains("INSERT"));
    assert_eq!(row.as_deref(), Some("table public.t: INSERT: a[integer]:7"));
    drop(running);
    eventually("its server is gone", || walsenders(&cluster) == 0);
}

fn places(major: u32) {
    let Some(cluster) = publisher(major) else { return };
    let howdah = howdah(&cluster, "pool_size = 1\nquery_wait_timeout = \"500ms\"");
    let mut app = harness::app(&howdah);
    app.query("SELECT 1").expect("an answer");
    assert_eq!(count(&cluster, "usename = 'app'"), 1);
    // The idle connection of the pool makes room.
    let mut first = replicating(&howdah, "app", "database").expect("a login");
    let system = first.query("IDENTIFY_SYSTEM").expect("an answer").value().map(str::to_owned);
    assert_eq!(system, cluster.value("SELECT system_identifier FROM pg_control_system()").ok());
    assert_eq!(first.value("SHOW application_name").expect("an answer"), "receiver");
    eventually("one connection alone", || count(&cluster, "usename = 'app'") == 1);
    // Whoever comes now waits, and hears of the numbers.
    let told = refusal(replicating(&howdah, "app", "true"));
    assert!(told.detail.as_deref().is_some_and(|d| d.contains("1/1 in use")), "{told:?}");
    let told = refusal(app.query("SELECT 1"));
    assert!(told.detail.as_deref().is_some_and(|d| d.contains("1/1 in use")), "{told:?}");
    drop(first);
    app.query("SELECT 1").expect("the place has come back");
    assert_eq!(count(&cluster, "usename = 'app' AND backend_type = 'client backend'"), 1);
}

#[test]
fn a_pool_has_room_for_both_15() {
    places(15);
}

#[test]
fn a_pool_has_room_for_both_18() {
    places(18);
}

#[test]
fn a_cancel_strikes_its_own_command() {
    let Some(cluster) = publisher(MAJOR) else { return };
    let howdah = howdah(&cluster, "pool_size = 2");
    let mut client = replicating(&howdah, "app", "database").expect("a login");
    let (pid, key) = client.cancel_key();
    let (key, target) = (key.to_vec(), Target::Tcp(howdah.address()));
    let canceller = std::thread::spawn(move || {
        eventually("it sleeps", || count(&cluster, "query LIKE '%pg_sleep(60)%' AND state = 'active'") == 1);
        howdah::demo::wire::cancel(&target, (pid, &key)).expect("a cancel");
        cluster
    });
    let told = refusal(client.query("SELECT pg_sleep(60)"));
    assert_eq!(told.code, "57014");
    client.query("SELECT 1").expect("the connection lives");
    let _cluster = canceller.join().expect("the cancel was sent");
}

#[test]
fn who_may_not_hears_the_server() {
    let Some(cluster) = publisher(MAJOR) else { return };
    let howdah = howdah(&cluster, "pool_size = 2");
    let direct = [("user", "plain"), ("database", "app"), ("replication", "true")];
    let direct = refusal(Client::connect_with(&Target::Tcp(cluster.tcp()), &direct, Duration::from_secs(30)));
    let ours = refusal(replicating(&howdah, "plain", "true"));
    assert_eq!((ours.code, ours.message), (direct.code, direct.message));
    eventually("no place is kept", || walsenders(&cluster) == 0);
}

#[test]
fn a_drain_ends_streams_and_waits_for_commands() {
    let Some(cluster) = publisher(MAJOR) else { return };
    let mut howdah = howdah(&cluster, "pool_size = 3");
    let mut idle = replicating(&howdah, "app", "true").expect("a login");
    let mut busy = replicating(&howdah, "app", "database").expect("a login");
    busy.query("BEGIN").expect("a transaction");
    howdah.signal("INT");
    howdah.await_log("new connections are refused", Duration::from_secs(20));
    // It is told a moment after the log.
    let told = (0..1000).find_map(|_| idle.query("IDENTIFY_SYSTEM").err()).expect("it ends");
    assert_eq!(told.code(), Some("57P01"));
    busy.query("SELECT 1").expect("it goes on");
    busy.query("COMMIT").expect("and ends");
    assert!(howdah.wait(Duration::from_secs(20)).success());
    eventually("no server is left", || walsenders(&cluster) == 0);
}
