//! Every way in, cell by cell, with psql: through Howdah it goes as it goes with PostgreSQL itself under the same lines of
//! pg_hba.conf; and every way to log in to a server goes as with libpq.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::harness::certs::Lab;
use crate::harness::proxy::Howdah;
use crate::harness::tls::{client_tls, lab, psql, psql_as, tls_cluster};
use crate::harness::{self, Cluster, Options};

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

/// The secrets of `hashed` and `client`, as Howdah knows them.
fn listed(secrets: [&str; 2]) -> String {
    format!("[users.hashed]\npassword = \"{}\"\n[users.client]\npassword = \"{}\"\n", secrets[0], secrets[1])
}

/// With md5 PostgreSQL lets in whoever has a secret of either kind; a plain one serves both. A hash cannot answer a SCRAM
/// challenge: there PostgreSQL refuses, too, but who has the password does not.
fn plain_serves_more(method: &str, user: &str, password: &str, direct: &Result<String, String>) -> bool {
    method.starts_with("scram-sha-256") && user == "hashed" && password == RIGHT && direct.is_err()
}

fn clients(major: u32) {
    let Some(lab) = lab() else { return };
    let Some(cluster) = postgres(major, &lab) else { return };
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
                        cells += 1;
                        if *source == "plain" && plain_serves_more(method, user, password, &direct) {
                            continue;
                        }
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
const METHODS: [&str; 6] = ["trust", "password", "md5", "scram-sha-256", "cert", "reject"];
const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
/// Who comes, with which password, and whether a certificate is shown.
const WHO: [(&str, &str, bool); 6] = [
    ("client", RIGHT, true),
    ("client", RIGHT, false),
    ("client", WRONG, true),
    ("missing", RIGHT, true),
    // Its secret is an md5 hash; the certificate is somebody else's.
    ("hashed", RIGHT, true),
    ("hashed", WRONG, false),
];

/// The line of PostgreSQL for this mode and method; `None` is what no line can say. A certificate is of TLS: without TLS
/// there is no `cert`, and it brings its own `clientcert`.
fn line_of_mode(mode: usize, method: &str, database: &str) -> Option<String> {
    let (_, kind, more) = MODES[mode];
    match (method, kind) {
        ("cert", "hostnossl") => None,
        ("cert", _) => Some(line("hostssl", database, "cert")),
        _ => Some(line(kind, database, &format!("{method}{more}"))),
    }
}

/// Every `client_tls_mode` with every sslmode, method and visitor; the source of secrets goes round, so that each meets
/// each value of each other column, and each pair of them.
/// `every`: one of so many cells.
fn modes(major: u32, every: usize) {
    let Some(lab) = lab() else { return };
    let name = |m: usize, n: usize| format!("m{m}_{n}");
    let pairs = || {
        let all = (0..MODES.len()).flat_map(|m| (0..METHODS.len()).map(move |n| (m, n)));
        all.filter(|&(m, n)| line_of_mode(m, METHODS[n], "x").is_some())
    };
    let mut hba = vec!["hostssl app app 127.0.0.1/32 trust".to_owned()];
    hba.extend(pairs().filter_map(|(m, n)| line_of_mode(m, METHODS[n], &name(m, n))));
    let mut sql = vec![
        format!("SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD '{RIGHT}'"),
        format!("SET password_encryption = 'scram-sha-256'; CREATE ROLE client LOGIN PASSWORD '{RIGHT}'"),
        "CREATE ROLE asker LOGIN SUPERUSER".to_owned(),
    ];
    sql.extend(pairs().map(|(m, n)| format!("CREATE DATABASE {}", name(m, n))));
    let hba: Vec<&str> = hba.iter().map(String::as_str).collect();
    let sql: Vec<&str> = sql.iter().map(String::as_str).collect();
    let Some(cluster) = tls_cluster(major, &lab, &hba, &sql) else { return };
    let sources = [
        listed([RIGHT, RIGHT]),
        listed([&stored(&cluster, "hashed"), &stored(&cluster, "client")]),
        "auth_user = \"asker\"\n[users.asker]\npassword = \"not asked for\"\n".to_owned(),
    ];
    let (mut cells, mut let_in) = (0, 0);
    for (m, (mode, _, _)) in MODES.iter().enumerate() {
        let methods: Vec<usize> = pairs().filter(|(of, _)| *of == m).map(|(_, n)| n).collect();
        let names: Vec<String> = (0..METHODS.len()).map(|n| name(m, n)).collect();
        // Howdah's mode says what TLS must be; the rule says it where PostgreSQL takes nothing else.
        let kind = |n: usize| if METHODS[n] == "cert" { "hostssl" } else { "host" };
        let rules: String = methods.iter().map(|&n| line(kind(n), &names[n], METHODS[n])).collect();
        let databases = databases(methods.iter().map(|&n| names[n].as_str()), &over_socket(&cluster));
        let howdahs =
            sources.each_ref().map(|source| by_rules(&lab, mode, &rules, &format!("{source}{databases}")));
        let cell = |s: usize, n: usize, w: usize| {
            let (user, password, shows) = WHO[w];
            let visitor = Visitor { database: &names[n], user, password, ssl: SSL_MODES[s], shows };
            let source = (m + s + n + w) % sources.len();
            let said = |port: u16| said(&visitor.dsn(&lab, port));
            let cell =
                format!("{mode} {} {} {user}/{password} {shows} source {source}", SSL_MODES[s], METHODS[n]);
            let (direct, through) = (said(cluster.port()), said(howdahs[source].port()));
            match source == 0 && plain_serves_more(METHODS[n], user, password, &direct) {
                true => 0,
                false => usize::from(agreed(&cell, &direct, &through)),
            }
        };
        // Each sslmode on a thread of its own.
        let of_one = |s: usize| -> [usize; 2] {
            let all = methods.iter().flat_map(|&n| (0..WHO.len()).map(move |w| (n, w)));
            let chosen = all.filter(|(n, w)| (m + 2 * s + n + w).is_multiple_of(every));
            chosen.fold([0, 0], |[cells, let_in], (n, w)| [cells + 1, let_in + cell(s, n, w)])
        };
        std::thread::scope(|scope| {
            let of_one = &of_one;
            let running: Vec<_> = (0..SSL_MODES.len()).map(|s| scope.spawn(move || of_one(s))).collect();
            for one in running {
                let of = one.join().expect("as with PostgreSQL");
                (cells, let_in) = (cells + of[0], let_in + of[1]);
            }
        });
        howdahs.iter().for_each(tells_no_secret);
    }
    println!("{cells} cells on PostgreSQL {major}, in {let_in} of them one comes in");
    assert_eq!(cells, (6 * 6 - 1) * 6 * 6 / every, "each but cert without TLS");
    assert!(let_in > 250 / every);
}

/// PostgreSQL decides alike in both versions: the short form asks the older one a third of the cells.
const THIRD: usize = 3;

#[test]
fn each_tls_mode_lets_in_as_postgres_15() {
    modes(15, THIRD);
}

#[test]
#[ignore = "each cell on the older version, too: two minutes"]
fn soak_each_tls_mode_lets_in_as_postgres_15() {
    modes(15, 1);
}

#[test]
fn each_tls_mode_lets_in_as_postgres_18() {
    modes(18, 1);
}

/// Databases, what their rules ask for, and their maps. A map that nobody has written lets nobody in with PostgreSQL; here
/// it is a problem of the configuration, and no cell.
const PEERS: [(&str, &str); 3] = [("bare", "peer"), ("mapped", "peer map=m"), ("other", "peer map=other")];

/// The Unix socket: whoever the system says is at its other end, with and without a map, as root and as another account.
fn peers(major: u32) {
    let Some(_) = harness::tools::client_program("psql") else { return };
    let options = || {
        let all = PEERS.iter().fold(Options::default(), |o, (d, _)| o.sql(&format!("CREATE DATABASE {d}")));
        all.sql("CREATE ROLE client LOGIN").sql("CREATE ROLE \"all\" LOGIN")
    };
    let Some(cluster) = harness::cluster(major, options()) else { return };
    let data = std::fs::metadata(cluster.data_dir()).expect("its data");
    let (own, owner) = (nix::unistd::getuid().as_raw(), (data.uid(), data.gid()));
    let name = |uid: u32| nix::unistd::User::from_uid(uid.into()).expect("asked").expect("a user").name;
    // Who comes: whoever runs the tests, and if that is root, the account of the servers.
    let mut accounts = vec![(name(own), None)];
    if owner.0 == own {
        harness::left_out("peer authentication of two accounts", "only root can be another one");
    } else {
        accounts.push((name(owner.0), Some(owner)));
    }
    let roles = accounts.iter().map(|(n, _)| n.as_str()).filter(|n| *n != harness::SUPERUSER);
    for role in roles {
        cluster.value(&format!("CREATE ROLE \"{role}\" LOGIN")).ok();
    }
    let first = &accounts[0].0;
    // `all` is a word of maps from PostgreSQL 16 on, as it is here; quoted it is a name everywhere.
    let anybody = if major >= 16 { "all" } else { "\"all\"" };
    let maps = format!(
        "m {first} client\nm nobody-else client\nother {} {anybody}\n",
        accounts[accounts.len() - 1].0
    );
    let rules: String = PEERS.iter().map(|(d, method)| format!("local {d} all {method}\n")).collect();
    // Over TCP, where Howdah comes from, everybody is trusted.
    let own_rules = format!("local postgres postgres trust\n{rules}host all all 127.0.0.1/32 trust\n");
    std::fs::write(cluster.data_dir().join("pg_hba.conf"), own_rules).expect("written");
    std::fs::write(cluster.data_dir().join("pg_ident.conf"), &maps).expect("written");
    let loaded = || cluster.value("SELECT pg_conf_load_time()").expect("a time");
    let before = loaded();
    cluster.reload().expect("reloaded");
    harness::eventually("PostgreSQL's reload", || loaded() != before);

    let dir = tempfile::tempdir().expect("a folder");
    let socket = dir.path().join("socket");
    std::fs::create_dir(&socket).expect("a folder");
    for path in [dir.path(), &socket] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    std::fs::write(dir.path().join("hba"), &rules).expect("written");
    std::fs::write(dir.path().join("ident"), &maps).expect("written");
    let users = ["client", "all"].into_iter().chain(accounts.iter().map(|(n, _)| n.as_str()));
    let users: String = users.map(|u| format!("[users.\"{u}\"]\n")).collect();
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
         auth_hba_file = \"{}\"\nauth_ident_file = \"{}\"\nunix_socket_dir = \"{}\"\nunix_socket_mode = \"0777\"\n\
         max_login_failures = 0\n{users}{}",
        dir.path().join("hba").display(),
        dir.path().join("ident").display(),
        socket.display(),
        databases(PEERS.map(|(d, _)| d), &format!("host = \"{}\"", cluster.tcp()))
    ));
    let (mut cells, mut let_in) = (0, 0);
    for (account, numbers) in &accounts {
        for (database, method) in PEERS {
            for user in
                ["client", "all", "missing"].into_iter().chain(accounts.iter().map(|(n, _)| n.as_str()))
            {
                let said = |host: &Path, port: u16| {
                    let dsn = format!("host={} port={port} user={user} dbname={database}", host.display());
                    psql_as(*numbers, &dsn, &["select current_user"])
                };
                let direct = said(cluster.socket_dir(), cluster.port());
                let through = said(&socket, howdah.port());
                let cell = format!("{account} as {user}: {database}, {method}");
                let_in += usize::from(agreed(&cell, &direct, &through));
                if let (Err(direct), Err(through)) = (direct, through)
                    && user != "missing"
                {
                    let words = "Peer authentication failed for user";
                    assert!(direct.contains(words) && through.contains(words), "{cell}: {direct} {through}");
                }
                cells += 1;
            }
        }
    }
    println!("{cells} cells on PostgreSQL {major}, in {let_in} of them one comes in");
    // Each as itself without a map, the first as `client` by the one map, the last as somebody by the other.
    assert!(let_in > accounts.len() + 1 && let_in < cells / 2);
}

#[test]
fn peers_of_the_socket_come_in_as_with_postgres_15() {
    peers(15);
}

#[test]
fn peers_of_the_socket_come_in_as_with_postgres_18() {
    peers(18);
}

/// Where PostgreSQL asks `client` for SCRAM, also by `md5`, for its secret is a verifier. A verifier cannot answer `password`,
/// nor md5 where the role's secret is a hash: no such cell exists, and `no_verifier_opens_what_wants_the_password` says how it ends.
const PROVED: [&str; 5] = ["any_scram", "any_md5", "tls_scram", "tls_md5", "cert_too"];
/// A client's sslmode and channel_binding, and its own names of those databases: each cell has a pool that begins empty.
const PROVERS: [(&str, &str, &str); 2] =
    [("disable", "prefer", "plain"), ("verify-full", "require", "bound")];

/// Each `server_tls_mode` and `server_channel_binding`, for clients in plain text and for those whose proof is bound to
/// Howdah's certificate: with a plain secret Howdah makes the proof for the server itself, with a stored verifier the
/// client's opens it.
fn proofs(major: u32, every: usize) {
    let Some(lab) = lab() else { return };
    let Some(cluster) = postgres(major, &lab) else { return };
    let secrets = [("plain", RIGHT.to_owned()), ("stored", stored(&cluster, "client"))];
    let ask = |database: &str, password: &str, port: u16, ssl: &str, binding: &str| {
        let visitor = Visitor { database, user: "client", password, ssl, shows: true };
        let dsn = format!("{} channel_binding={binding}", visitor.dsn(&lab, port));
        psql(&dsn, &["select current_user || ' ' || ssl from pg_stat_ssl where pid = pg_backend_pid()"])
    };
    // Each mode on a thread of its own: cells, those in which one comes in, and those of them that are bound.
    let of_one = |m: usize, mode: &str| {
        let (mut cells, mut let_in, mut bound) = (0, 0, 0);
        let all = ["disable", "prefer", "require"].iter().flat_map(|b| [0, 1].map(|k| (*b, k)));
        for (_, (binding, kind)) in all.enumerate().filter(|(i, _)| (i + m).is_multiple_of(every)) {
            let (kind, secret) = &secrets[kind];
            let howdah = proving(&lab, &cluster, mode, binding, secret);
            for database in PROVED {
                let direct = ask(database, RIGHT, cluster.port(), mode, binding);
                for (ssl, bind, name) in PROVERS {
                    let cell = format!("{database} {mode} {binding} {kind} {name}");
                    let before = logins(&howdah);
                    let through = ask(&format!("{database}_{name}"), RIGHT, howdah.port(), ssl, bind);
                    agreed(&cell, &direct, &through);
                    // With TLS libpq binds its login where it may; the server cannot be asked, and so Howdah is.
                    let after = logins(&howdah);
                    let by = [after[0] - before[0], after[1] - before[1]];
                    match &direct {
                        Ok(said) if said.ends_with("true") && binding != "disable" => {
                            assert_eq!(by, [0, 1], "{cell}");
                        }
                        Ok(_) => assert_eq!(by, [1, 0], "{cell}"),
                        Err(_) => assert_eq!(by, [0, 0], "{cell}"),
                    }
                    (cells, let_in, bound) = (cells + 1, let_in + u32::from(direct.is_ok()), bound + by[1]);
                }
            }
            // A wrong proof opens nothing, although the right one has been here.
            let opened = logins(&howdah);
            for (ssl, bind, name) in PROVERS {
                let wrong = ask(&format!("any_scram_{name}"), WRONG, howdah.port(), ssl, bind);
                let why = wrong.expect_err("a wrong password");
                assert!(
                    why.contains("password authentication failed"),
                    "{mode} {binding} {kind} {name}: {why}"
                );
            }
            assert_eq!(logins(&howdah), opened, "{mode} {binding} {kind}");
            tells_no_secret(&howdah);
        }
        [cells, let_in, bound]
    };
    let [cells, let_in, bound] = std::thread::scope(|scope| {
        let of_one = &of_one;
        let numbers = [0, 1, 2, 3, 4, 5];
        let running = numbers.map(|m| scope.spawn(move || of_one(m, SSL_MODES[m])));
        let all = running.map(|one| one.join().expect("as libpq does"));
        [0, 1, 2].map(|n| all.iter().map(|of| of[n]).sum::<u32>())
    });
    println!("{cells} cells on PostgreSQL {major}, in {let_in} of them one comes in, in {bound} bound");
    let every = u32::try_from(every).expect("a small number");
    assert_eq!(cells, 6 * 3 * 2 * 5 * 2 / every);
    assert!(let_in > 150 / every && bound > 100 / every);
}

/// Howdah that asks its clients for SCRAM, and knows of `client` only this secret.
fn proving(lab: &Lab, cluster: &Cluster, mode: &str, binding: &str, secret: &str) -> Howdah {
    let tls = match mode {
        "disable" => String::new(),
        _ => format!(
            "server_tls_ca = \"{}\"\nserver_tls_cert = \"{}\"\nserver_tls_key = \"{}\"\n",
            lab.show("ca.crt"),
            lab.show("client.crt"),
            lab.show("client.key")
        ),
    };
    let names = PROVED.iter().flat_map(|d| PROVERS.map(|(.., name)| (*d, name)));
    let databases: String = names
        .map(|(d, name)| {
            format!("[databases.{d}_{name}]\ndbname = \"{d}\"\nhost = \"{}\"\npool_size = 2\n", cluster.tcp())
        })
        .collect();
    Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"scram-sha-256\"\n\
         max_login_failures = 0\nserver_login_retry = \"100ms\"\nserver_tls_mode = \"{mode}\"\n{tls}\
         server_channel_binding = \"{binding}\"\n{}[users.client]\npassword = \"{secret}\"\n{databases}",
        client_tls(lab, "allow")
    ))
}

/// Logins to servers by SCRAM without and with channel binding.
fn logins(howdah: &Howdah) -> [u32; 2] {
    ["scram-sha-256", "scram-sha-256-plus"].map(|m| {
        let n = harness::metric(howdah, "howdah_server_logins_total", &[("method", m)]);
        n as u32
    })
}

#[test]
fn proofs_open_servers_as_libpq_does_on_15() {
    proofs(15, THIRD);
}

#[test]
#[ignore = "each cell on the older version, too: two minutes"]
fn soak_proofs_open_servers_as_libpq_does_on_15() {
    proofs(15, 1);
}

#[test]
fn proofs_open_servers_as_libpq_does_on_18() {
    proofs(18, 1);
}

/// An honest error, not a wrong password, and the client is told which method it was.
#[test]
fn no_verifier_opens_what_wants_the_password() {
    let Some(lab) = lab() else { return };
    let Some(cluster) = postgres(15, &lab) else { return };
    let verifier = stored(&cluster, "client");
    let howdah = by_rules(
        &lab,
        "allow",
        &line("host", "all", "scram-sha-256"),
        &format!(
            "server_cleartext_password = true\n[users.client]\npassword = \"{verifier}\"\n{}",
            databases(["any_password"], &format!("host = \"{}\"", cluster.tcp()))
        ),
    );
    let visitor =
        Visitor { database: "any_password", user: "client", password: RIGHT, ssl: "disable", shows: false };
    let why = said(&visitor.dsn(&lab, howdah.port())).expect_err("there is no password to send");
    assert!(why.contains("clear-text password"), "{why}");
    let coded =
        harness::metric(&howdah, "howdah_clients_rejected_total", &[("code", "server_auth_unanswerable")])
            + harness::metric(&howdah, "howdah_errors_total", &[("code", "server_auth_unanswerable")]);
    assert!(coded >= 1.0, "{}", howdah.log());
}

/// Patterns, networks of this machine, and quotes: rule by rule the verdict of PostgreSQL, where it has them.
#[test]
fn rules_fit_whom_they_fit_with_postgres_18() {
    let Some(_) = harness::tools::client_program("psql") else { return };
    let names = ["app1", "app22", "apple", "x,y", "sameuser", "u1"];
    let users = ["u1", "u_2", "v", "all"];
    let rules = "host \"/^app[[:digit:]]$\" u1,v samehost trust\nhost /pple all samenet reject\n\
                 host \"/^x,y$\" /^(?:u|v)\\d*$ 127.0.0.1/32 trust\nhost \"sameuser\" \"all\" samenet trust\n\
                 host sameuser all samehost trust\nhost \"/^app\\d{2,}$\" /^\\w_ samehost trust\nhost apple u1 all trust\n";
    let mut options = Options::default();
    for name in names {
        options = options.sql(&format!("CREATE DATABASE \"{name}\""));
    }
    for user in users {
        options = options.sql(&format!("CREATE ROLE \"{user}\" LOGIN"));
    }
    let options = rules.lines().fold(options, |o, line| o.hba(line));
    let Some(cluster) = harness::cluster(18, options) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("hba");
    std::fs::write(&file, rules).expect("written");
    let sections: String = users.iter().map(|u| format!("[users.\"{u}\"]\n")).collect();
    let databases: String = names
        .iter()
        .map(|d| format!("[databases.\"{d}\"]\n{}\npool_size = 2\n", over_socket(&cluster)))
        .collect();
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
         auth_hba_file = \"{}\"\nmax_login_failures = 0\n{sections}{databases}",
        file.display()
    ));
    let mut let_in = Vec::new();
    for database in names {
        for user in users {
            let said = |port: u16| {
                said(&format!("host=127.0.0.1 port={port} user={user} dbname={database} sslmode=disable"))
            };
            if agreed(&format!("{user} in {database}"), &said(cluster.port()), &said(howdah.port())) {
                let_in.push(format!("{user} in {database}"));
            }
        }
    }
    let expected =
        ["u1 in app1", "v in app1", "u_2 in app22", "u1 in x,y", "v in x,y", "all in sameuser", "u1 in u1"];
    assert_eq!(let_in, expected);
}
