//! Every way in, cell by cell, with psql: through Howdah it goes as it goes with PostgreSQL itself under the same lines of
//! pg_hba.conf; and every way to log in to a server goes as with libpq.

#![allow(clippy::disallowed_methods, reason = "a test waits for real time")]

mod common;
mod kit;
mod wire;

use common::Cluster;
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

fn postgres(major: u32, lab: &common::certs::Lab) -> Option<Cluster> {
    let lines: Vec<String> =
        DATABASES.iter().map(|(d, kind, method)| format!("{kind} {d} all 127.0.0.1/32 {method}")).collect();
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

fn clients(major: u32) {
    let Some(lab) = lab() else { return };
    let Some(cluster) = postgres(major, &lab) else { return };
    let secret = |user: &str| {
        cluster
            .value(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'"))
            .expect("a secret")
    };
    let listed = |secrets: [&str; 2]| {
        format!(
            "[users.hashed]\npassword = \"{}\"\n[users.client]\npassword = \"{}\"\n",
            secrets[0], secrets[1]
        )
    };
    let sources = [
        ("plain", String::new(), listed([RIGHT, RIGHT])),
        ("stored", String::new(), listed([&secret("hashed"), &secret("client")])),
        (
            "asked",
            "auth_user = \"asker\"\n".to_owned(),
            "[users.asker]\npassword = \"not asked for\"\n".to_owned(),
        ),
    ];
    let rules = lab.path("pg_hba.conf");
    let text: String = DATABASES
        .iter()
        .map(|(d, kind, method)| format!("{kind} {d} all 127.0.0.1/32 {method}\n"))
        .collect::<Vec<_>>()
        .concat();
    std::fs::write(&rules, text).expect("written");
    let databases: String = DATABASES
        .iter()
        .map(|(d, _, _)| {
            format!(
                "[databases.{d}]\nhost = \"{}\"\nport = {}\npool_size = 2\n",
                cluster.socket_dir().display(),
                cluster.port()
            )
        })
        .collect::<Vec<_>>()
        .concat();
    let howdahs = sources.map(|(source, top, users)| {
        let config = format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
             auth_hba_file = \"{}\"\nmax_login_failures = 0\n{}{top}{users}{databases}",
            rules.display(),
            client_tls(&lab, "allow")
        );
        (source, Howdah::start(&config))
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
                    let shown = match mode {
                        "require" => "sslcert=none".to_owned(),
                        _ => format!("sslcert={} sslkey={}", lab.show("client.crt"), lab.show("client.key")),
                    };
                    let dsn = |port: u16| {
                        format!(
                            "host=127.0.0.1 port={port} user={user} dbname={database} password='{password}' sslmode={mode} \
                             sslrootcert={} {shown}",
                            lab.show("ca.crt"),
                        )
                    };
                    let direct = said(&dsn(cluster.port()));
                    for (source, howdah) in &howdahs {
                        let through = said(&dsn(howdah.port()));
                        let cell = format!("{database} {mode} {user}/{password} {source}");
                        // With md5 PostgreSQL lets in whoever has a secret of either kind; a plain one serves both. A hash
                        // cannot answer a SCRAM challenge: there PostgreSQL refuses, too, but who has the password does not.
                        let more =
                            *source == "plain" && user == "hashed" && method.starts_with("scram-sha-256");
                        if more && password == RIGHT && direct.is_err() {
                            cells += 1;
                            continue;
                        }
                        assert_eq!(
                            through.clone().ok(),
                            direct.clone().ok(),
                            "{cell}: {direct:?} {through:?}"
                        );
                        cells += 1;
                        let_in += usize::from(through.is_ok());
                    }
                }
            }
        }
    }
    println!("{cells} cells on PostgreSQL {major}, in {let_in} of them one comes in");
    assert!(cells > 700 && let_in > 100);
    for (_, howdah) in &howdahs {
        let log = howdah.log();
        assert!(
            !log.contains(RIGHT) && !log.contains(WRONG) && !log.contains("SCRAM-SHA-256$"),
            "a secret is in the log"
        );
    }
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
            let databases: String = DATABASES
                .iter()
                .map(|(d, _, _)| format!("[databases.{d}]\nhost = \"{}\"\npool_size = 2\n", cluster.tcp()))
                .collect::<Vec<_>>()
                .concat();
            let howdah = Howdah::start(&format!(
                "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"trust\"\n\
                 server_cleartext_password = true\nserver_login_retry = \"100ms\"\n{tls}\
                 [users.hashed]\npassword = \"{password}\"\n[users.client]\npassword = \"{password}\"\n{databases}"
            ));
            for (database, _, _) in DATABASES {
                for user in ["hashed", "client"] {
                    let direct = said(&format!(
                        "host=127.0.0.1 port={} user={user} dbname={database} password={password} sslmode={mode} \
                         sslrootcert={} sslcert={} sslkey={}",
                        cluster.port(),
                        lab.show("ca.crt"),
                        lab.show("client.crt"),
                        lab.show("client.key")
                    ));
                    let through = said(&howdah.dsn(user, database));
                    let cell = format!("{database} {mode} {user}/{password}");
                    assert_eq!(through.clone().ok(), direct.clone().ok(), "{cell}: {direct:?} {through:?}");
                    cells += 1;
                }
            }
            let log = howdah.log();
            assert!(!log.contains(RIGHT) && !log.contains(WRONG), "a secret is in the log");
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
        format!("{kind} {} all 127.0.0.1/32 {}{more}", name(m, n), METHODS[n])
    }));
    let mut sql = vec![
        format!("CREATE ROLE client LOGIN PASSWORD '{RIGHT}'"),
        "CREATE ROLE asker LOGIN SUPERUSER".to_owned(),
    ];
    sql.extend(pairs().map(|(m, n)| format!("CREATE DATABASE {}", name(m, n))));
    let hba: Vec<&str> = hba.iter().map(String::as_str).collect();
    let sql: Vec<&str> = sql.iter().map(String::as_str).collect();
    let Some(cluster) = tls_cluster(major, &lab, &hba, &sql) else { return };
    let stored =
        cluster.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'client'").expect("a verifier");
    let sources = [
        format!("[users.client]\npassword = \"{RIGHT}\"\n"),
        format!("[users.client]\npassword = \"{stored}\"\n"),
        "auth_user = \"asker\"\n[users.asker]\npassword = \"not asked for\"\n".to_owned(),
    ];
    let (mut cells, mut let_in) = (0, 0);
    for (m, (mode, _, _)) in MODES.iter().enumerate() {
        let rules = lab.path(&format!("{mode}.hba"));
        let text: String = (0..METHODS.len())
            .map(|n| format!("host {} all 127.0.0.1/32 {}\n", name(m, n), METHODS[n]))
            .collect();
        std::fs::write(&rules, text).expect("written");
        let databases: String = (0..METHODS.len())
            .map(|n| {
                format!(
                    "[databases.{}]\nhost = \"{}\"\nport = {}\npool_size = 2\n",
                    name(m, n),
                    cluster.socket_dir().display(),
                    cluster.port()
                )
            })
            .collect();
        let howdahs = sources.each_ref().map(|source| {
            Howdah::start(&format!(
                "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
                 auth_hba_file = \"{}\"\nmax_login_failures = 0\n{}{source}{databases}",
                rules.display(),
                client_tls(&lab, mode)
            ))
        });
        let cell = |s: usize, n: usize, w: usize| {
            let ((user, password, shows), ssl) = (WHO[w], SSL_MODES[s]);
            let shown = match shows {
                true => format!("sslcert={} sslkey={}", lab.show("client.crt"), lab.show("client.key")),
                false => "sslcert=none".to_owned(),
            };
            let dsn = |port: u16| {
                format!(
                    "host=127.0.0.1 port={port} user={user} dbname={} password={password} sslmode={ssl} \
                     sslrootcert={} {shown}",
                    name(m, n),
                    lab.show("ca.crt")
                )
            };
            let source = (m + s + n + w) % sources.len();
            let (direct, through) = (said(&dsn(cluster.port())), said(&dsn(howdahs[source].port())));
            assert_eq!(
                through.clone().ok(),
                direct.clone().ok(),
                "{mode} {ssl} {} {user}/{password} {shown} source {source}: {direct:?} {through:?}",
                METHODS[n]
            );
            usize::from(through.is_ok())
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
        for howdah in &howdahs {
            let log = howdah.log();
            assert!(
                !log.contains(RIGHT) && !log.contains(WRONG) && !log.contains(&stored),
                "a secret is in the log"
            );
        }
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
