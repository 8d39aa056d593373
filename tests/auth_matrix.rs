//! Every way in, cell by cell, with psql: through Howdah it goes as it goes with PostgreSQL itself under the same lines of
//! pg_hba.conf; and every way to log in to a server goes as with libpq.

#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]

mod common;
mod kit;
mod wire;

use common::Cluster;
use common::certs::Lab;
use common::proxy::Howdah;
use kit::tls::{client_tls, lab, psql, tls_cluster};

const RIGHT: &str = "canary-right";
const WRONG: &str = "canary-wrong";
/// Databases, and the line that lets one in.
const DATABASES: [(&str, &str, &str); 11] = [
    ("any_trust", "host", "trust"),
    ("any_password", "host", "password"),
    ("any_md5", "host", "md5"),
    ("any_scram", "host", "scram-sha-256"),
    ("tls_scram", "hostssl", "scram-sha-256"),
    ("tls_md5", "hostssl", "md5"),
    ("plain_password", "hostnossl", "password"),
    ("tls_cert", "hostssl", "cert"),
    ("cert_too", "hostssl", "scram-sha-256 clientcert=verify-full"),
    ("ca_too", "hostssl", "md5 clientcert=verify-ca"),
    ("nobody", "host", "reject"),
];
/// Their secrets are an md5 hash and a SCRAM verifier in PostgreSQL; the last does not exist.
const USERS: [&str; 3] = ["hashed", "client", "missing"];

fn postgres(major: u32, lab: &Lab) -> Option<Cluster> {
    let lines = DATABASES.map(|(d, kind, method)| line(kind, d, method));
    let mut hba = vec!["hostssl app app 127.0.0.1/32 trust"];
    hba.extend(lines.iter().map(String::as_str));
    let mut sql = vec![
        format!("SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD '{RIGHT}'"),
        format!("SET password_encryption = 'scram-sha-256'; CREATE ROLE client LOGIN PASSWORD '{RIGHT}'"),
        "CREATE ROLE asker LOGIN SUPERUSER".to_owned(),
    ];
    sql.extend(DATABASES.iter().map(|(d, _, _)| format!("CREATE DATABASE {d}")));
    let sql: Vec<&str> = sql.iter().map(String::as_str).collect();
    tls_cluster(major, lab, &hba, &sql)
}

/// What a login comes to: the user that it is, or the words of the refusal, without where it was.
fn said(dsn: &str) -> Result<String, String> {
    psql(dsn, &["select current_user"]).map_err(|e| {
        let first = e.lines().next().unwrap_or_default();
        first.split_once("failed: ").map_or(first, |(_, said)| said).to_owned()
    })
}

/// As both read it.
fn line(kind: &str, database: &str, method: &str) -> String {
    format!("{kind} {database} all 127.0.0.1/32 {method}\n")
}

/// Both sides' sections of these databases; `server` is where they are.
fn databases<'d>(names: impl IntoIterator<Item = &'d str>, server: &str) -> String {
    names.into_iter().map(|d| format!("[databases.{d}]\n{server}\npool_size = 2\n")).collect()
}

fn over_socket(cluster: &Cluster) -> String {
    format!("host = \"{}\"\nport = {}", cluster.socket_dir().display(), cluster.port())
}

/// What PostgreSQL keeps of a role's password.
fn stored(cluster: &Cluster, user: &str) -> String {
    let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'");
    cluster.value(&sql).expect("a secret")
}

/// Lets clients in by `rules`; in `more` stand the sections.
fn by_rules(lab: &Lab, mode: &str, rules: &str, more: &str) -> Howdah {
    let file = lab.path(&format!("{mode}.hba"));
    std::fs::write(&file, rules).expect("written");
    Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
         auth_hba_file = \"{}\"\nmax_login_failures = 0\n{}{more}",
        file.display(),
        client_tls(lab, mode)
    ))
}

/// A client over TCP, with or without a certificate.
struct Visitor<'a> {
    database: &'a str,
    user: &'a str,
    password: &'a str,
    ssl: &'a str,
    shows: bool,
}

impl Visitor<'_> {
    fn dsn(&self, lab: &Lab, port: u16) -> String {
        let Self { database, user, password, ssl, shows } = self;
        let shown = match shows {
            true => format!("sslcert={} sslkey={}", lab.show("client.crt"), lab.show("client.key")),
            false => "sslcert=none".to_owned(),
        };
        format!(
            "host=127.0.0.1 port={port} user={user} dbname={database} password='{password}' sslmode={ssl} \
             sslrootcert={} {shown}",
            lab.show("ca.crt")
        )
    }
}

/// Howdah's verdict is PostgreSQL's; whether one comes in.
fn agreed(cell: &str, direct: &Result<String, String>, through: &Result<String, String>) -> bool {
    assert_eq!(through.as_ref().ok(), direct.as_ref().ok(), "{cell}: {direct:?} {through:?}");
    through.is_ok()
}

fn tells_no_secret(howdah: &Howdah) {
    let log = howdah.log();
    let secrets = [RIGHT, WRONG, "SCRAM-SHA-256$"];
    assert!(secrets.iter().all(|s| !log.contains(s)), "a secret is in the log");
}

fn clients(major: u32) {
    let Some(lab) = lab() else { return };
    let Some(cluster) = postgres(major, &lab) else { return };
    let listed = |secrets: [&str; 2]| {
        format!(
            "[users.hashed]\npassword = \"{}\"\n[users.client]\npassword = \"{}\"\n",
            secrets[0], secrets[1]
        )
    };
    let sources = [
        ("plain", String::new(), listed([RIGHT, RIGHT])),
        ("stored", String::new(), listed([&stored(&cluster, "hashed"), &stored(&cluster, "client")])),
        (
            "asked",
            "auth_user = \"asker\"\n".to_owned(),
            "[users.asker]\npassword = \"not asked for\"\n".to_owned(),
        ),
    ];
    let rules = DATABASES.map(|(d, kind, method)| line(kind, d, method)).concat();
    let databases = databases(DATABASES.map(|(d, ..)| d), &over_socket(&cluster));
    let howdahs = sources.map(|(source, top, users)| {
        (source, by_rules(&lab, "allow", &rules, &format!("{top}{users}{databases}")))
    });
    let (mut cells, mut let_in) = (0, 0);
    for (database, _, method) in DATABASES {
        for mode in ["disable", "prefer", "require", "verify-full"] {
            for user in USERS {
                for password in [RIGHT, WRONG, ""] {
                    if mode == "prefer" && password != RIGHT {
                        continue;
                    }
                    // With require nobody shows a certificate.
                    let visitor = Visitor { database, user, password, ssl: mode, shows: mode != "require" };
                    let direct = said(&visitor.dsn(&lab, cluster.port()));
                    for (source, howdah) in &howdahs {
                        let through = said(&visitor.dsn(&lab, howdah.port()));
                        let cell = format!("{database} {mode} {user}/{password} {source}");
                        // With md5 PostgreSQL lets in whoever has a secret of either kind; a plain one serves both. A hash
                        // cannot answer a SCRAM challenge: there PostgreSQL refuses, too, but who has the password does not.
                        let more =
                            *source == "plain" && user == "hashed" && method.starts_with("scram-sha-256");
                        if more && password == RIGHT && direct.is_err() {
                            cells += 1;
                            continue;
                        }
                        cells += 1;
                        let_in += usize::from(agreed(&cell, &direct, &through));
                    }
                }
            }
        }
    }
    println!("{cells} cells on PostgreSQL {major}, in {let_in} of them one comes in");
    assert!(cells > 700 && let_in > 100);
    howdahs.iter().for_each(|(_, howdah)| tells_no_secret(howdah));
}

#[test]
fn clients_come_in_as_with_postgres_15() {
    clients(15);
}

#[test]
fn clients_come_in_as_with_postgres_18() {
    clients(18);
}

fn servers(major: u32) {
    let Some(lab) = lab() else { return };
    let Some(cluster) = postgres(major, &lab) else { return };
    let mut cells = 0;
    for mode in ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] {
        let tls = match mode {
            "disable" => "server_tls_mode = \"disable\"\n".to_owned(),
            _ => format!(
                "server_tls_mode = \"{mode}\"\nserver_tls_ca = \"{}\"\nserver_tls_cert = \"{}\"\nserver_tls_key = \"{}\"\n",
                lab.show("ca.crt"),
                lab.show("client.crt"),
                lab.show("client.key")
            ),
        };
        for password in [RIGHT, WRONG] {
            let databases = databases(DATABASES.map(|(d, ..)| d), &format!("host = \"{}\"", cluster.tcp()));
            let howdah = Howdah::start(&format!(
                "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
                 server_cleartext_password = true\nserver_login_retry = \"100ms\"\n{tls}\
                 [users.hashed]\npassword = \"{password}\"\n[users.client]\npassword = \"{password}\"\n{databases}"
            ));
            for (database, _, _) in DATABASES {
                for user in ["hashed", "client"] {
                    let visitor = Visitor { database, user, password, ssl: mode, shows: true };
                    let direct = said(&visitor.dsn(&lab, cluster.port()));
                    let through = said(&howdah.dsn(user, database));
                    let cell = format!("{database} {mode} {user}/{password}");
                    agreed(&cell, &direct, &through);
                    cells += 1;
                }
            }
            tells_no_secret(&howdah);
        }
    }
    println!("{cells} cells on PostgreSQL {major}");
    assert_eq!(cells, 6 * 2 * 11 * 2);
}

#[test]
fn servers_are_logged_in_to_as_libpq_does_on_15() {
    servers(15);
}

#[test]
fn servers_are_logged_in_to_as_libpq_does_on_18() {
    servers(18);
}

/// `client_tls_mode`, and what PostgreSQL's line says for it.
const MODES: [(&str, &str, &str); 6] = [
    ("disable", "hostnossl", ""),
    ("allow", "host", ""),
    ("prefer", "host", ""),
    ("require", "hostssl", ""),
    ("verify-ca", "hostssl", " clientcert=verify-ca"),
    ("verify-full", "hostssl", " clientcert=verify-ca"),
];
const METHODS: [&str; 4] = ["trust", "password", "md5", "scram-sha-256"];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
/// Who comes, with which password, and whether a certificate is shown.
const WHO: [(&str, &str, bool); 4] =
    [("client", RIGHT, true), ("client", RIGHT, false), ("client", WRONG, true), ("missing", RIGHT, true)];

/// Every `client_tls_mode` with every sslmode, method and visitor; the source of secrets goes round, so that each meets
/// each value of each other column, and each pair of them.
fn modes(major: u32) {
    let Some(lab) = lab() else { return };
    let name = |m: usize, n: usize| format!("m{m}_{n}");
    let pairs = || (0..MODES.len()).flat_map(|m| (0..METHODS.len()).map(move |n| (m, n)));
    let mut hba = vec!["hostssl app app 127.0.0.1/32 trust".to_owned()];
    hba.extend(pairs().map(|(m, n)| {
        let (_, kind, more) = MODES[m];
        line(kind, &name(m, n), &format!("{}{more}", METHODS[n]))
    }));
    let mut sql = vec![
        format!("CREATE ROLE client LOGIN PASSWORD '{RIGHT}'"),
        "CREATE ROLE asker LOGIN SUPERUSER".to_owned(),
    ];
    sql.extend(pairs().map(|(m, n)| format!("CREATE DATABASE {}", name(m, n))));
    let hba: Vec<&str> = hba.iter().map(String::as_str).collect();
    let sql: Vec<&str> = sql.iter().map(String::as_str).collect();
    let Some(cluster) = tls_cluster(major, &lab, &hba, &sql) else { return };
    let verifier = stored(&cluster, "client");
    let sources = [
        format!("[users.client]\npassword = \"{RIGHT}\"\n"),
        format!("[users.client]\npassword = \"{verifier}\"\n"),
        "auth_user = \"asker\"\n[users.asker]\npassword = \"not asked for\"\n".to_owned(),
    ];
    let (mut cells, mut let_in) = (0, 0);
    for (m, (mode, _, _)) in MODES.iter().enumerate() {
        let names: Vec<String> = (0..METHODS.len()).map(|n| name(m, n)).collect();
        let rules: String = names.iter().zip(METHODS).map(|(d, method)| line("host", d, method)).collect();
        let databases = databases(names.iter().map(String::as_str), &over_socket(&cluster));
        let howdahs =
            sources.each_ref().map(|source| by_rules(&lab, mode, &rules, &format!("{source}{databases}")));
        let cell = |s: usize, n: usize, w: usize| {
            let (user, password, shows) = WHO[w];
            let visitor = Visitor { database: &names[n], user, password, ssl: SSL_MODES[s], shows };
            let source = (m + s + n + w) % sources.len();
            let said = |port: u16| said(&visitor.dsn(&lab, port));
            let cell =
                format!("{mode} {} {} {user}/{password} {shows} source {source}", SSL_MODES[s], METHODS[n]);
            usize::from(agreed(&cell, &said(cluster.port()), &said(howdahs[source].port())))
        };
        // Each sslmode on a thread of its own.
        let of_one = |s: usize| -> usize {
            (0..METHODS.len())
                .flat_map(|n| (0..WHO.len()).map(move |w| (n, w)))
                .map(|(n, w)| cell(s, n, w))
                .sum()
        };
        std::thread::scope(|scope| {
            let of_one = &of_one;
            let running: Vec<_> = (0..SSL_MODES.len()).map(|s| scope.spawn(move || of_one(s))).collect();
            for one in running {
                let_in += one.join().expect("as with PostgreSQL");
                cells += METHODS.len() * WHO.len();
            }
        });
        howdahs.iter().for_each(tells_no_secret);
    }
    println!("{cells} cells on PostgreSQL {major}, in {let_in} of them one comes in");
    assert_eq!(cells, 6 * 6 * 4 * 4);
    assert!(let_in > 100);
}

#[test]
fn each_tls_mode_lets_in_as_postgres_15() {
    modes(15);
}

#[test]
fn each_tls_mode_lets_in_as_postgres_18() {
    modes(18);
}
