//! Who gets in and how: limits of clients, the Unix socket, versions of the protocol.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::msg::{self, Frame};
use crate::harness::wire::raw::{Raw, tags};
use crate::harness::{self, Client, Target, eventually, metric, refusal, shared, start};

const MAJOR: u32 = 15;

fn logins(howdah: &Howdah, user: &str, database: &str, n: usize) -> Vec<Client> {
    let one = |_| howdah.connect(user, database).unwrap_or_else(|e| panic!("{user}@{database}: {e}"));
    (0..n).map(one).collect()
}

/// Refused with 53300 and these words; the place of somebody who leaves is free again.
fn full(howdah: &Howdah, user: &str, database: &str, words: &str, leave: Vec<Client>) {
    let error = refusal(howdah.connect(user, database));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"), "{error}");
    assert!(error.message.contains(words), "{error}");
    assert!(error.detail.is_some() && error.hint.is_some(), "{error:?}");
    drop(leave);
    eventually("there is room again", || howdah.connect(user, database).is_ok());
}

#[test]
fn the_last_places_are_the_operators() {
    let Some(cluster) = shared(MAJOR) else { return };
    let top = "max_client_connections = 4\nreserved_client_connections = 1\nadmin_users = [\"boss\"]";
    let howdah = start(cluster, top, "pool_size = 2\nuser = \"app\"", "[users.boss]");
    let held = logins(&howdah, "app", "app", 4);
    let error = refusal(howdah.connect("app", "app"));
    assert_eq!(error.code, "53300");
    assert!(error.detail.as_deref().is_some_and(|d| d.contains("max_client_connections is 4")), "{error}");
    // The refused one's place is given back when it has gone.
    eventually("it has gone", || metric(&howdah, "howdah_clients_connected", &[]) == 4.0);
    let mut boss = howdah.connect("boss", "app").expect("a reserved place");
    assert_eq!(boss.value("SELECT 1").expect("an answer"), "1");
    assert_eq!(refusal(howdah.connect("boss", "app")).code, "53300", "there is one such place");
    assert!(metric(&howdah, "howdah_clients_rejected_total", &[("code", "too_many_clients")]) >= 2.0);
    drop(boss);
    full(&howdah, "app", "app", "max_client_connections", held);
}

#[test]
fn a_database_takes_so_many_clients() {
    let Some(cluster) = shared(MAJOR) else { return };
    let other = format!("[databases.other]\nhost = \"{}\"\ndbname = \"app\"\npool_size = 1\n", cluster.tcp());
    let howdah = start(cluster, "", "pool_size = 2\nmax_client_connections = 3", &other);
    let held = logins(&howdah, "app", "app", 3);
    let _elsewhere = logins(&howdah, "app", "other", 5);
    full(&howdah, "app", "app", "database \"app\"", held);
}

#[test]
fn a_user_has_so_many_clients() {
    let Some(cluster) = shared(MAJOR) else { return };
    let other = "[users.few]\nmax_client_connections = 2\n";
    let howdah = start(cluster, "", "pool_size = 2\nuser = \"app\"", other);
    let held = logins(&howdah, "few", "app", 2);
    let _others = logins(&howdah, "app", "app", 5);
    full(&howdah, "few", "app", "user \"few\"", held);
}

#[test]
fn unknown_databases_and_no_user() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 1", "");
    let error = refusal(howdah.connect("app", "nowhere"));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "3D000"), "{error}");
    assert_eq!(error.message, "database \"nowhere\" does not exist");
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let mut raw = Raw::connect(&dsn).expect("it accepts");
    raw.put(&msg::startup(msg::PROTOCOL_3_0, &[("database", "app")])).expect_error("FATAL", "28000");
    raw.expect_closed();
}

/// A directory of a test with a Howdah that listens in it as well.
fn on_socket(dir: &Path, mode: &str, at: Option<u16>) -> Option<Howdah> {
    let cluster = shared(MAJOR)?;
    let config = harness::config(
        cluster,
        &format!("unix_socket_dir = \"{}\"\nunix_socket_mode = \"{mode}\"", dir.display()),
        "pool_size = 2",
        "",
    );
    let config = at.map_or(config.clone(), |port| config.replace("{port}", &port.to_string()));
    let howdah = Howdah::spawn(&config, &[]);
    if at.is_none() {
        howdah.await_listening();
    }
    Some(howdah)
}

fn socket_mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("the socket is there").permissions().mode() & 0o777
}

#[test]
fn the_unix_socket() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(mut howdah) = on_socket(dir.path(), "0770", None) else { return };
    let port = howdah.port();
    let target = Target::unix(dir.path(), port);
    let Target::Unix(path) = target.clone() else { panic!("it is one") };
    // Its name is there a moment before it accepts.
    eventually("the socket accepts", || Client::connect(&target, "app", "app").is_ok());
    let mut client = Client::connect(&target, "app", "app").expect("a login");
    assert_eq!(client.value("SELECT 'through ' || current_user").expect("it"), "through app");
    assert_eq!(socket_mode(&path), 0o770);

    // A second one does not take the name away from a first that lives.
    let other = harness::free_port().expect("a port");
    assert_ne!(other, port);
    let mut second = on_socket(dir.path(), "0700", Some(port)).expect("a cluster");
    assert!(!second.wait(std::time::Duration::from_secs(20)).success());
    assert_eq!(client.value("SELECT 1").expect("an answer"), "1");

    // Killed, it leaves its file; the next one replaces it.
    howdah.signal("KILL");
    howdah.wait(std::time::Duration::from_secs(20));
    assert!(path.exists() && Client::connect(&target, "app", "app").is_err(), "the file is stale");
    let mut third = on_socket(dir.path(), "0700", Some(port)).expect("a cluster");
    eventually("it listens", || Client::connect(&target, "app", "app").is_ok());
    assert_eq!(socket_mode(&path), 0o700);
    // One that ends in order takes its file with it.
    third.term();
    assert!(third.wait(std::time::Duration::from_secs(20)).success());
    assert!(!path.exists(), "the file is removed");
}

/// What came before ReadyForQuery, by tag.
fn frame(raw: &Raw, tag: u8) -> Option<&Frame> {
    raw.login.iter().find(|f| f.tag == tag)
}

/// The version and the names of what is not understood.
type Negotiated = Option<(i32, Vec<String>)>;

fn negotiated(raw: &Raw) -> Negotiated {
    let mut c = frame(raw, b'v')?.cursor();
    let version = c.i32()?;
    let names = (0..c.i32()?).map(|_| Some(String::from_utf8_lossy(c.cstr()?).into_owned()));
    Some((version, names.collect::<Option<Vec<_>>>()?))
}

#[test]
fn versions_of_the_protocol() {
    let Some(cluster) = shared(18) else { return };
    let howdah = start(cluster, "", "pool_size = 2", "");
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let version = |minor: u32| msg::PROTOCOL_3_0 + minor;
    let rest = vec!["_pq_.one".to_owned(), "_pq_.two".to_owned()];
    let both = [("_pq_.one", "1"), ("_pq_.two", "2")];
    let newest = i32::try_from(version(2)).expect("small");
    type Case<'a> = (u32, &'a [(&'a str, &'a str)], Negotiated, usize);
    let cases: [Case<'_>; 5] = [
        (0, &[], None, 4),
        (2, &[], None, 32),
        (9999, &[], Some((newest, Vec::new())), 32),
        (9999, &both, Some((newest, rest.clone())), 32),
        (2, &both, Some((newest, rest.clone())), 32),
    ];
    for (minor, parameters, answer, key) in cases {
        let mut raw = Raw::login_with(&dsn, version(minor), parameters);
        assert_eq!(negotiated(&raw), answer, "3.{minor} {parameters:?}");
        assert_eq!(raw.key.len(), key, "3.{minor}");
        assert_eq!(raw.select("SELECT 1"), ["1"]);
        // As the server itself answers.
        let direct =
            Raw::login_with(&Dsn { port: cluster.port(), ..dsn.clone() }, version(minor), parameters);
        assert_eq!(negotiated(&direct), answer, "PostgreSQL, 3.{minor} {parameters:?}");
        assert_eq!(direct.key.len(), key, "PostgreSQL, 3.{minor}");
    }
    // A long key cancels, and the same key with one wrong bit does not.
    for (flip, cancels) in [(1, false), (0, true)] {
        let mut raw = Raw::login_with(&dsn, version(2), &[]);
        let mut key = raw.key.clone();
        key[31] ^= flip;
        raw.put(&msg::query("SELECT pg_sleep(2)"));
        let busy = "state = 'active' AND query = 'SELECT pg_sleep(2)'";
        eventually("it runs", || harness::count(cluster, busy) == 1);
        let mut other = Raw::connect(&dsn).expect("it accepts");
        other.put(&msg::cancel_request(raw.pid, &key)).expect_closed();
        let frames = raw.until(b'Z');
        assert_eq!(tags(&frames).contains('E'), cancels, "{frames:?}");
    }
    let mut old = Raw::connect(&dsn).expect("it accepts");
    old.put(&msg::startup(2 << 16, &[("user", "app")])).expect_error("FATAL", "0A000");
}

/// Encryption is asked for and refused; what was sent behind the request is nobody's.
#[test]
fn requests_for_encryption() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "", "pool_size = 2", "");
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let mut raw = Raw::connect(&dsn).expect("it accepts");
    assert_eq!(raw.put(&msg::gssenc_request()).byte(), Ok(b'N'));
    assert_eq!(raw.put(&msg::ssl_request()).byte(), Ok(b'N'));
    raw.start(&dsn, msg::PROTOCOL_3_0, &[]).expect("a login in plain text");
    assert_eq!(raw.select("SELECT 1"), ["1"]);
    let mut raw = Raw::connect(&dsn).expect("it accepts");
    let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")]);
    raw.put(&[msg::ssl_request(), startup].concat()).expect_error("FATAL", "08P01");
}
