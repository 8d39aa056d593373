//! Logins: clients with every method and every form of a secret, servers that ask for md5 and SCRAM, and no
//! secret in anything that Howdah tells.

use std::time::Duration;

use crate::harness::proxy::Howdah;
use crate::harness::wire::msg::{self, Frame};
use crate::harness::wire::raw::Raw;
use crate::harness::wire::{Dsn, auth};
use crate::harness::{self, Cluster, Options, cluster, http, shared};

const PASSWORD: &str = "canary-Pa55 wörd";
/// (user, form of its secret)
const USERS: [&str; 3] = ["plain_user", "md5_user", "scram_user"];

/// The secrets as PostgreSQL itself writes them.
fn secret(cluster: &Cluster, user: &str) -> String {
    let method = match user {
        "plain_user" => return PASSWORD.to_owned(),
        "md5_user" => "md5",
        _ => "scram-sha-256",
    };
    let mut direct = cluster.connect(harness::SUPERUSER, "postgres").expect("a login");
    direct.query(&format!("SET password_encryption = '{method}'")).expect("set");
    direct.query(&format!("DROP ROLE IF EXISTS made_{user}")).expect("dropped");
    // An md5 secret holds the name of its user, so the role is made under it.
    direct.query(&format!("CREATE ROLE {user} PASSWORD '{PASSWORD}'")).expect("created");
    let made = direct.value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'"));
    direct.query(&format!("DROP ROLE {user}")).expect("dropped");
    made.expect("a secret")
}

fn dsn(howdah: &Howdah, user: &str, password: Option<&str>) -> Dsn {
    Dsn { password: password.map(str::to_owned), ..Dsn::local(howdah.port(), user, "app") }
}

/// What the login came to: the authentication requests by their codes, and the error if there was one.
fn login(dsn: &Dsn) -> (Vec<i32>, Result<Raw, String>) {
    let mut raw = Raw::connect(dsn).expect("it accepts");
    let result = raw.start(dsn, msg::PROTOCOL_3_0, &[]);
    let code = |f: &Frame| (f.tag == b'R').then(|| f.cursor().i32()).flatten();
    let codes = raw.login.iter().filter_map(code).collect();
    (codes, result.map(|()| raw))
}

fn refused(dsn: &Dsn) -> (Vec<i32>, String) {
    let (codes, result) = login(dsn);
    (codes, result.err().unwrap_or_else(|| panic!("{dsn:?} was let in")))
}

/// Only one test at a time may make the roles of a shared cluster.
fn before_trusting_server(method: &str) -> Option<(Howdah, Vec<String>)> {
    static ONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let one = ONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let cluster = shared(15)?;
    let secrets: Vec<String> = USERS.iter().map(|u| secret(cluster, u)).collect();
    drop(one);
    // Under [users], what can never log in is refused; in a user list it may stand.
    let list = tempfile::NamedTempFile::new().expect("a file");
    let mut users = format!("auth_file = \"{}\"\n", list.path().display());
    for (user, secret) in USERS.iter().zip(&secrets) {
        if *user == "md5_user" {
            std::fs::write(list.path(), format!("\"{user}\" \"{secret}\"\n")).expect("written");
        } else {
            users.push_str(&format!("[users.{user}]\npassword = \"{secret}\"\n"));
        }
    }
    // Everybody is `app` on the server.
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\n\
         auth_method = \"{method}\"\nlog_level = \"trace\"\nadmin_users = [\"plain_user\"]\n\
         auth_ldap_options = \"ldapserver=x ldapbinddn=y ldapbindpasswd=canary-ldap\"\n{users}\
         [databases.app]\nhost = \"{}\"\npool_size = 2\nuser = \"app\"\n",
        cluster.tcp()
    ));
    Some((howdah, secrets))
}

/// The canary and the secrets made of it are in nothing that can be read.
fn assert_no_secret(howdah: &Howdah, secrets: &[String]) {
    // The parts of a verifier that are worth something.
    let parts = secrets.iter().flat_map(|s| s.split([':', '$'])).filter(|p| p.len() > 20);
    let words: Vec<&str> = parts.chain([PASSWORD, "canary"]).collect();
    let mut texts = vec![howdah.log(), http(howdah.ops_address(), "/metrics")];
    texts.extend(["/stats", "/queries"].map(|path| http(howdah.ops_address(), path)));
    // What the console shows.
    let dsn =
        Dsn { password: Some(PASSWORD.to_owned()), ..Dsn::local(howdah.port(), "plain_user", "pgbouncer") };
    let mut console = Raw::login(&dsn);
    for command in
        ["CONFIG", "USERS", "DATABASES", "CLIENTS", "SERVERS", "POOLS", "HOLDERS", "QUERIES", "FDS", "MEM"]
    {
        let frames = console.ask(&msg::query(&format!("SHOW {command}")));
        let all: Vec<u8> = frames.into_iter().flat_map(|f| f.body).collect();
        texts.push(format!("{command}: {}", String::from_utf8_lossy(&all)));
    }
    for text in texts {
        for word in &words {
            assert!(!text.contains(word), "{word} is told:\n{text}");
        }
    }
    assert!(howdah.log().contains("plain_user"), "the log is a log");
}

/// Everybody of `welcome` gets in by the requests given with them, and nobody with a wrong password does.
fn clients(method: &str, welcome: &[(&str, &[i32])]) {
    let Some((howdah, secrets)) = before_trusting_server(method) else { return };
    for (user, requests) in welcome {
        let (codes, session) = login(&dsn(&howdah, user, Some(PASSWORD)));
        let mut session = session.unwrap_or_else(|e| panic!("{method}, {user}: {e}"));
        assert_eq!(codes, *requests, "{method}, {user}");
        assert_eq!(session.select("SELECT current_user"), ["app"]);

        for wrong in ["canary-wrong", "", "canary-Pa55 word"] {
            let (_, error) = refused(&dsn(&howdah, user, Some(wrong)));
            assert!(error.contains("28P01") && error.contains("FATAL"), "{method}, {user}, {wrong}: {error}");
        }
    }
    // A stranger is asked the same as a user (with md5 some have verifiers, and PostgreSQL asks strangers as it asks them)
    // and hears the same words.
    let like = if method == "md5" { "scram_user" } else { "plain_user" };
    let (known, error) = refused(&dsn(&howdah, like, Some("canary-wrong")));
    let (unknown, of_stranger) = refused(&dsn(&howdah, "stranger", Some("canary-wrong")));
    assert_eq!(known, unknown, "{method}");
    assert_eq!(error.replace(like, "stranger"), of_stranger, "{method}");
    assert_no_secret(&howdah, &secrets);
}

#[test]
fn clients_with_password() {
    let plain: &[i32] = &[3, 0];
    clients("password", &USERS.map(|user| (user, plain)));
}

/// A verifier cannot answer md5: those users are asked for SCRAM.
#[test]
fn clients_with_md5() {
    clients("md5", &[("plain_user", &[5, 0]), ("md5_user", &[5, 0]), ("scram_user", &[10, 11, 12, 0])]);
}

#[test]
fn clients_with_scram() {
    let scram: &[i32] = &[10, 11, 12, 0];
    clients("scram-sha-256", &[("plain_user", scram), ("scram_user", scram)]);
}

/// md5 cannot answer SCRAM, even with the right password; PostgreSQL says the same.
#[test]
fn md5_secret_with_scram_is_a_wrong_password() {
    let Some((howdah, _)) = before_trusting_server("scram-sha-256") else { return };
    let (codes, error) = refused(&dsn(&howdah, "md5_user", Some(PASSWORD)));
    assert!(error.contains("28P01"), "{error}");
    assert_eq!(codes, refused(&dsn(&howdah, "stranger", Some(PASSWORD))).0);
}

#[test]
fn clients_with_trust() {
    let Some((howdah, secrets)) = before_trusting_server("trust") else { return };
    for user in USERS {
        let (codes, session) = login(&dsn(&howdah, user, None));
        assert_eq!(codes, [0]);
        assert_eq!(session.expect("a login").select("SELECT 1"), ["1"]);
    }
    let (_, error) = refused(&dsn(&howdah, "stranger", None));
    assert!(error.contains("28P01"), "{error}");
    assert_no_secret(&howdah, &secrets);
}

/// What was sent with another client's challenge is worth nothing.
#[test]
fn md5_answers_cannot_be_replayed() {
    let Some((howdah, _)) = before_trusting_server("md5") else { return };
    let dsn = dsn(&howdah, "plain_user", Some(PASSWORD));
    let startup = msg::startup(msg::PROTOCOL_3_0, &[("user", "plain_user"), ("database", "app")]);
    let challenge = || {
        let mut raw = Raw::connect(&dsn).expect("it accepts");
        let frame = raw.put(&startup).expect("R").remove(0);
        let salt = frame.body[4..].to_vec();
        (raw, salt)
    };
    let (_first, salt) = challenge();
    let (mut second, other) = challenge();
    assert_ne!(salt, other);
    let answer = auth::md5_response("plain_user", PASSWORD, &salt);
    second.put(&msg::password(answer.as_bytes())).expect_error("FATAL", "28P01");
    second.expect_closed();
}

/// A server that asks `s_md5` for md5 and `s_scram` for SCRAM.
fn asking_server(major: u32) -> Option<Cluster> {
    let role = |user: &str, method: &str| {
        format!("SET password_encryption = '{method}'; CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'")
    };
    let options = Options::default()
        .hba("host all s_md5 127.0.0.1/32 md5")
        .hba("host all s_scram 127.0.0.1/32 scram-sha-256")
        .hba("host all s_clear 127.0.0.1/32 password")
        .hba("host all s_trust 127.0.0.1/32 trust")
        .sql("CREATE ROLE s_trust LOGIN")
        .sql("CREATE DATABASE app")
        .sql(&role("s_md5", "md5"))
        .sql(&role("s_scram", "scram-sha-256"))
        .sql(&role("s_clear", "scram-sha-256"));
    cluster(major, options)
}

fn servers(major: u32) {
    let Some(cluster) = asking_server(major) else { return };
    let md5_secret = cluster.value("SELECT rolpassword FROM pg_authid WHERE rolname = 's_md5'").expect("it");
    let database = |name: &str, user: &str, password: &str| {
        format!(
            "[databases.{name}]\ndbname = \"app\"\nhost = \"{}\"\npool_size = 2\nuser = \"{user}\"\n\
             password = \"{password}\"\n",
            cluster.tcp()
        )
    };
    let databases = [
        database("md5", "s_md5", PASSWORD),
        database("md5_secret", "s_md5", &md5_secret),
        database("scram", "s_scram", PASSWORD),
        database("clear", "s_clear", PASSWORD),
        database("md5_wrong", "s_md5", "canary-wrong"),
        database("scram_wrong", "s_scram", "canary-wrong"),
        database("no_answer", "s_scram", &md5_secret),
        database("no_clear", "s_clear", PASSWORD) + "server_require_auth = [\"md5\", \"scram-sha-256\"]\n",
        database("no_trust", "s_trust", PASSWORD) + "server_require_auth = \"scram-sha-256\"\n",
        database("no_md5", "s_md5", PASSWORD) + "server_require_auth = \"scram-sha-256\"\n",
        database("no_scram", "s_scram", PASSWORD)
            + "server_require_auth = [\"none\", \"password\", \"md5\"]\n",
        database("trust", "s_trust", PASSWORD),
    ];
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
         log_level = \"trace\"\nadmin_users = [\"plain_user\"]\n[users.plain_user]\n{}",
        databases.concat()
    ));
    let through = |database: &str| Dsn::local(howdah.port(), "plain_user", database);
    // Over loopback any way will do, unless the configuration says otherwise.
    for (database, user) in [
        ("md5", "s_md5"),
        ("md5_secret", "s_md5"),
        ("scram", "s_scram"),
        ("clear", "s_clear"),
        ("trust", "s_trust"),
    ] {
        let (_, session) = login(&through(database));
        let mut session = session.unwrap_or_else(|e| panic!("{database}: {e}"));
        assert_eq!(session.select("SELECT current_user"), [user]);
    }
    // The server's own words, as a client of the server would see them.
    for (database, user) in [("md5_wrong", "s_md5"), ("scram_wrong", "s_scram")] {
        let wrong = Some("canary-wrong".to_owned());
        let (_, direct) = refused(&Dsn { password: wrong, ..Dsn::local(cluster.port(), user, "app") });
        assert!(direct.contains("28P01"), "{direct}");
        assert_eq!(refused(&through(database)).1, direct, "{database}");
    }
    // An md5 secret cannot answer SCRAM.
    let (_, error) = refused(&through("no_answer"));
    assert!(error.contains("28000") && error.contains("SCRAM-SHA-256"), "{error}");
    // What is not allowed is told with what was asked and the setting that allows it.
    for (database, asked) in [
        ("no_clear", "asks for clear-text password authentication"),
        ("no_trust", "without any authentication"),
        ("no_md5", "asks for md5 authentication"),
        ("no_scram", "asks for scram-sha-256 authentication"),
    ] {
        let (_, error) = refused(&through(database));
        assert!(error.contains("28000") && error.contains(asked), "{database}: {error}");
        assert!(error.contains("server_require_auth"), "{database}: {error}");
    }
    assert_no_secret(&howdah, &[md5_secret]);
}

#[test]
fn servers_on_postgres_15() {
    servers(15);
}

#[test]
fn servers_on_postgres_18() {
    servers(18);
}

/// Guessing has a limit, for one user from one address; whoever has the password comes in again after it.
#[test]
fn passwords_are_not_guessed_for_long() {
    let Some(cluster) = shared(15) else { return };
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"scram-sha-256\"\n\
         max_login_failures = 3\n[users.app]\npassword = \"right\"\n[users.other]\npassword = \"right\"\n\
         [databases.app]\nhost = \"{}\"\npool_size = 2\nuser = \"app\"\n",
        cluster.tcp()
    ));
    let wrong = |user: &str| refused(&dsn(&howdah, user, Some("wrong"))).1;
    for user in ["app", "nobody"] {
        for _ in 0..3 {
            assert!(wrong(user).contains("28P01"), "{user}");
        }
        let told = wrong(user);
        assert!(
            told.contains("28000")
                && told.contains("too many failed logins")
                && told.contains("from 127.0.0.1"),
            "{told}"
        );
    }
    let (codes, told) = refused(&dsn(&howdah, "app", Some("right")));
    assert!(codes.is_empty() && told.contains("max_login_failures is 3"), "nobody was asked: {told}");
    assert!(login(&dsn(&howdah, "other", Some("right"))).1.is_ok(), "another user is another matter");
    let counted = harness::metric(&howdah, "howdah_clients_rejected_total", &[("code", "too_many_failures")]);
    assert!((counted - 3.0).abs() < 0.1, "{counted}");
}

/// One that nobody has the password of.
fn verifier(iterations: u32) -> String {
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    format!("SCRAM-SHA-256${iterations}:c2FsdA==${key}:{key}")
}

/// Guesses that cost a second of computing each take their turns: they do not take the machine from those who are in.
#[test]
fn derivations_take_turns() {
    let Some(cluster) = shared(15) else { return };
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"password\"\n\
         workers = 1\n[users.app]\npassword = \"{}\"\n\
         [databases.app]\nhost = \"{}\"\npool_size = 2\n",
        verifier(1_000_000),
        cluster.tcp()
    ));
    let dsn = dsn(&howdah, "app", None);
    let guesses: Vec<Raw> = (0..40)
        .map(|_| {
            let mut raw = Raw::connect(&dsn).expect("it accepts");
            raw.put(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")])).expect("R");
            raw.send(&msg::password(b"wrong")).expect("sent");
            raw
        })
        .collect();
    let threads = || std::fs::read_dir(format!("/proc/{}/task", howdah.pid())).map_or(0, Iterator::count);
    let most = (0..50).map(|_| (threads(), std::thread::sleep(Duration::from_millis(10))).0).max();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    assert!(most.is_some_and(|n| n > 1 && n < cores + 20), "{most:?} threads, {cores} cores");
    drop(guesses);
}

/// A reload that brings the first verifiers changes what strangers are asked, too.
#[test]
fn strangers_are_asked_what_users_are_after_a_reload() {
    let Some(cluster) = shared(15) else { return };
    let config = |of_app: &str| {
        format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"md5\"\n\
             max_login_failures = 0\n[users.scram_user]\npassword = \"{of_app}\"\n[databases.app]\nhost = \"{}\"\n\
             pool_size = 2\n",
            cluster.tcp()
        )
    };
    let howdah = Howdah::start(&config("canary-plain"));
    let asked = |user: &str| refused(&dsn(&howdah, user, Some("canary-wrong"))).0;
    assert_eq!((asked("scram_user"), asked("stranger")), (vec![5], vec![5]));
    howdah.rewrite_config(&config(&verifier(4096)));
    howdah.hup();
    harness::eventually("a reload", || asked("scram_user") != [5]);
    assert_eq!(asked("stranger"), asked("scram_user"));
}
