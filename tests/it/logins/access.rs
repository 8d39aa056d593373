//! Who comes in: rules of a pg_hba.conf, maps of names, and secrets that the server is asked for.

use crate::harness::proxy::Howdah;
use crate::harness::wire::raw::Raw;
use crate::harness::wire::{Dsn, msg};
use crate::harness::{self, Options, cluster, shared};

const SOON: std::time::Duration = std::time::Duration::from_secs(20);
const PASSWORD: &str = "canary-Pa55";

fn login(howdah: &Howdah, user: &str, database: &str, password: &str) -> Result<Raw, String> {
    let dsn = Dsn { password: Some(password.to_owned()), ..Dsn::local(howdah.port(), user, database) };
    let mut raw = Raw::connect(&dsn).expect("it accepts");
    raw.start(&dsn, msg::PROTOCOL_3_0, &[]).map(|()| raw)
}

fn refused(howdah: &Howdah, user: &str, database: &str, password: &str) -> String {
    match login(howdah, user, database, password) {
        Ok(_) => panic!("{user} was let into {database}"),
        Err(e) => e,
    }
}

#[test]
fn the_first_rule_that_fits_decides_and_a_reload_brings_new_ones() {
    let Some(cluster) = shared(15) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (hba, socket) = (dir.path().join("hba.conf"), dir.path().join("socket"));
    std::fs::create_dir(&socket).expect("a directory");
    let ident = dir.path().join("ident.conf");
    let me = nix::unistd::User::from_uid(nix::unistd::getuid()).expect("asked").expect("a user").name;
    std::fs::write(&ident, format!("known {me} app\n")).expect("written");
    let rules = "local app app peer map=known\nlocal app listed peer\nhost app trusted 127.0.0.1/32 trust\n\
                 host app barred all reject\nhostssl app all all scram-sha-256\nhost app app 127.0.0.0/8 md5\n";
    std::fs::write(&hba, rules).expect("written");
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
         auth_hba_file = \"{}\"\nauth_ident_file = \"{}\"\nunix_socket_dir = \"{}\"\n\
         [users.app]\npassword = \"{PASSWORD}\"\n[users.trusted]\n[users.barred]\npassword = \"x\"\n[users.listed]\n\
         [databases.app]\nhost = \"{}\"\npool_size = 2\nuser = \"app\"\n",
        hba.display(),
        ident.display(),
        socket.display(),
        cluster.tcp()
    ));
    let who = |raw: Result<Raw, String>| raw.expect("a login").select("SELECT current_user");
    assert_eq!(who(login(&howdah, "app", "app", PASSWORD)), ["app"]);
    assert_eq!(who(login(&howdah, "trusted", "app", "")), ["app"], "trust asks for nothing");
    assert!(refused(&howdah, "app", "app", "canary-wrong").contains("28P01"));
    let rejected = refused(&howdah, "barred", "app", "x");
    assert!(rejected.contains("28000") && rejected.contains("rejects connection"), "{rejected}");
    let none = refused(&howdah, "listed", "app", "x");
    assert!(none.contains("28000") && none.contains("no pg_hba.conf entry for host"), "{none}");

    let local = |user: &str| {
        let mut psql = std::process::Command::new("psql");
        psql.args(["-XAtw", "-h", &socket.display().to_string(), "-p", &howdah.port().to_string()]);
        psql.args(["-U", user, "-d", "app", "-c", "SELECT 1"]).env_remove("PGPASSWORD");
        psql.output()
    };
    if let (Ok(mapped), Ok(other)) = (local("app"), local("listed")) {
        assert_eq!(String::from_utf8_lossy(&mapped.stdout), "1\n", "{mapped:?}");
        let said = String::from_utf8_lossy(&other.stderr);
        assert!(said.contains("Peer authentication failed"), "{said}");
    } else {
        harness::left_out("peer authentication", "there is no psql");
    }

    // A broken file leaves the old rules in force; a good one is taken.
    std::fs::write(&hba, "host app all all what\n").expect("written");
    howdah.hup();
    howdah.await_log("unknown method: expected trust", SOON);
    assert_eq!(who(login(&howdah, "trusted", "app", "")), ["app"]);
    std::fs::write(&hba, "host app trusted all reject\n").expect("written");
    howdah.hup();
    while login(&howdah, "trusted", "app", "").is_ok() {}
    assert!(harness::metric(&howdah, "howdah_clients_rejected_total", &[("code", "hba_reject")]) >= 2.0);
}

/// What the server says of its roles is enough: no user stands in the configuration but the one who asks.
fn asked_for(major: u32, method: &str) {
    let role = |name: &str, how: &str| {
        format!("SET password_encryption = '{how}'; CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'")
    };
    let options = Options::default()
        .hba("host all by_scram 127.0.0.1/32 scram-sha-256")
        .hba("host all by_md5 127.0.0.1/32 md5")
        .hba("host all asker 127.0.0.1/32 scram-sha-256")
        .sql("CREATE DATABASE app")
        .sql(&role("by_scram", "scram-sha-256"))
        .sql(&role("by_md5", "md5"))
        .sql(&role("late", "scram-sha-256"))
        .sql("ALTER ROLE late VALID UNTIL 'yesterday'")
        .sql(&role("closed", "scram-sha-256"))
        .sql("ALTER ROLE closed NOLOGIN")
        .sql("CREATE ROLE bare LOGIN")
        .sql(&format!("CREATE ROLE asker SUPERUSER LOGIN PASSWORD '{PASSWORD}-asker'"));
    let Some(cluster) = cluster(major, options) else { return };
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"{method}\"\n\
         auth_user = \"asker\"\nlog_level = \"trace\"\n[users.asker]\npassword = \"{PASSWORD}-asker\"\n\
         [databases.app]\nhost = \"{}\"\npool_size = 3\n[databases.other]\ndbname = \"app\"\nhost = \"{}\"\npool_size = 3\n",
        cluster.tcp(),
        cluster.tcp()
    ));
    let who = |user: &str, password: &str| {
        login(&howdah, user, "app", password).map(|mut r| r.select("SELECT current_user"))
    };
    assert_eq!(who("by_scram", PASSWORD).expect("the client's own proof opens the server"), ["by_scram"]);
    if method == "md5" {
        assert_eq!(who("by_md5", PASSWORD).expect("its md5 secret does"), ["by_md5"]);
    }
    // Nobody, an expired role, one without login, one without password and a wrong one all get the same.
    let wrong = refused(&howdah, "by_scram", "app", "canary-wrong");
    for user in ["nobody", "late", "closed", "bare", "x' OR rolname='by_scram", "by_scram%", "$1"] {
        let said = refused(&howdah, user, "app", PASSWORD);
        assert_eq!(said.replace(user, "by_scram"), wrong, "{user}");
    }
    // All but the two that there are; a name is one, however it is written.
    assert_eq!(harness::metric(&howdah, "howdah_auth_lookups_total", &[("outcome", "nobody")]), 5.0);
    assert_eq!(
        who("asker", &format!("{PASSWORD}-asker")).expect("who is listed is not asked for"),
        ["asker"]
    );
    assert_eq!(who("by_scram", PASSWORD).expect("asked anew after the wrong one"), ["by_scram"]);
    // A new password is known as soon as a login with the old answer has failed.
    let mut direct = cluster.connect(harness::SUPERUSER, "postgres").expect("a login");
    direct.query("ALTER ROLE by_scram PASSWORD 'canary-New'").expect("altered");
    assert!(who("by_scram", "canary-New").is_err(), "the answer from before still holds");
    assert_eq!(who("by_scram", "canary-New").expect("asked anew"), ["by_scram"]);
    assert!(who("by_scram", PASSWORD).is_err());
    // Nothing of a client's reaches the connection that asks.
    direct.query("CREATE SCHEMA evil; CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''evil''; END'").expect("made");
    let dsn =
        Dsn { password: Some("canary-New".to_owned()), ..Dsn::local(howdah.port(), "by_scram", "other") };
    let mut raw = Raw::connect(&dsn).expect("it accepts");
    raw.start(&dsn, msg::PROTOCOL_3_0, &[("search_path", "evil, pg_catalog")])
        .expect("another database, asked for itself");
    let path = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'howdah auth_query'";
    assert_eq!(direct.value(path).ok().as_deref(), Some("2"), "one connection for each database");
    let log = howdah.log();
    assert!(!log.contains("canary"), "a secret stands in the log");
    assert!(!harness::http(howdah.ops_address(), "/metrics").contains("canary"));
}

#[test]
fn unlisted_users_come_in_with_scram() {
    asked_for(15, "scram-sha-256");
}

#[test]
fn unlisted_users_come_in_with_md5_on_18() {
    asked_for(18, "md5");
}

/// Whatever the asking role has of its own: here, it would find somebody else's functions and operators first.
#[test]
fn questions_are_asked_with_a_search_path_of_their_own() {
    let options = Options::default()
        .sql("CREATE DATABASE app")
        .sql("CREATE ROLE asker LOGIN")
        .sql("ALTER ROLE asker SET search_path = 'evil'")
        .sql("CREATE ROLE bob LOGIN");
    let Some(cluster) = cluster(15, options) else { return };
    // The path itself is the password.
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"password\"\n\
         auth_user = \"asker\"\nauth_query = \"SELECT $1, pg_catalog.current_setting('search_path')\"\n[users.asker]\n\
         password = \"x\"\n[databases.app]\nhost = \"{}\"\npool_size = 3\n",
        cluster.tcp()
    ));
    let mut raw = login(&howdah, "bob", "app", "pg_catalog").expect("the path that is pinned");
    assert_eq!(raw.select("SELECT current_user"), ["bob"]);
    assert!(refused(&howdah, "bob", "app", "evil").contains("28P01"));
}

#[test]
fn a_server_that_cannot_be_asked_is_an_honest_error() {
    let Some(cluster) = shared(15) else { return };
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\n\
         auth_user = \"app\"\nauth_query = \"SELECT 1\"\n[users.app]\npassword = \"x\"\n\
         [databases.app]\nhost = \"{}\"\npool_size = 3\n",
        cluster.tcp()
    ));
    let said = refused(&howdah, "bob", "app", "x");
    assert!(said.contains("08006"), "{said}");
    assert_eq!(harness::metric(&howdah, "howdah_auth_lookups_total", &[("outcome", "failed")]), 1.0);
}

/// A line of the log is Howdah's, whatever a client calls itself.
#[test]
fn no_client_writes_lines_of_the_log() {
    let Some(cluster) = shared(15) else { return };
    let forged = "x\n2026-01-01T00:00:00Z  INFO forged \u{1b}[31m\r\nforged";
    for auth in ["trust", "scram-sha-256"] {
        let mut howdah = Howdah::start(&format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"{auth}\"\n\
             log_level = \"trace\"\n[users.app]\npassword = \"x\"\n[databases.app]\nhost = \"{}\"\npool_size = 1\n",
            cluster.tcp()
        ));
        for (user, database) in [("app", "app"), (forged, "app"), ("app", forged)] {
            let dsn = Dsn { password: Some("x".to_owned()), ..Dsn::local(howdah.port(), user, database) };
            let mut raw = Raw::connect(&dsn).expect("it accepts");
            let _ = raw.start(&dsn, msg::PROTOCOL_3_0, &[("application_name", forged), (forged, forged)]);
            let _ = raw.send(&msg::query(&format!("SELECT '{forged}' FROM")));
            let _ = raw.next();
        }
        // Both names have been told of, with their ends of lines escaped.
        for told in ["user=\"x\\n2026-01-01", "database=\"x\\n2026-01-01"] {
            howdah.await_log(told, SOON);
        }
        howdah.term();
        howdah.wait(SOON);
        let log = howdah.log();
        let own =
            |l: &str| l.starts_with("20") && l.as_bytes().get(4) == Some(&b'-') && !l.contains('\u{1b}');
        let stray = log.lines().find(|l| !own(l) || l.starts_with("2026-01-01"));
        assert_eq!(stray, None, "{log}");
    }
}

/// Words of a file mean what they mean in the rule itself.
#[test]
fn a_file_of_names_can_say_all() {
    let Some(cluster) = shared(15) else { return };
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("names"), "nobody\n@more\n").expect("written");
    std::fs::write(dir.path().join("more"), "all\n").expect("written");
    std::fs::write(dir.path().join("hba"), "host app @names all reject\nhost all all all trust\n")
        .expect("written");
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"hba\"\n\
         auth_hba_file = \"{}\"\n[users.app]\n[databases.app]\nhost = \"{}\"\npool_size = 1\n",
        dir.path().join("hba").display(),
        cluster.tcp()
    ));
    let said = refused(&howdah, "app", "app", "x");
    assert!(said.contains("rejects connection"), "{said}");
}

/// Guesses that were begun before the limit was reached do not get around it.
#[test]
fn guesses_side_by_side_have_one_limit() {
    let Some(cluster) = shared(15) else { return };
    let howdah = Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"password\"\n\
         max_login_failures = 3\n[users.app]\npassword = \"right\"\n[databases.app]\nhost = \"{}\"\npool_size = 1\n",
        cluster.tcp()
    ));
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let mut asked: Vec<Raw> = (0..10)
        .map(|_| {
            let mut raw = Raw::connect(&dsn).expect("it accepts");
            raw.put(&msg::startup(msg::PROTOCOL_3_0, &[("user", "app"), ("database", "app")])).expect("R");
            raw
        })
        .collect();
    let mut last = asked.pop().expect("the last");
    for raw in &mut asked {
        raw.put(&msg::password(b"wrong")).expect("E");
    }
    let said = last.put(&msg::password(b"right")).expect("E").remove(0);
    let text = said.field(b'M').unwrap_or_default();
    assert!(text.contains("too many failed logins"), "{text}");
}

/// A cluster whose role app has this password, as SCRAM verifier with a salt of its own, and one who may read it.
fn tenant(password: &str) -> Option<harness::Cluster> {
    let options = Options::default()
        .hba("host all app 127.0.0.1/32 scram-sha-256")
        .hba("host all asker 127.0.0.1/32 trust")
        .sql("CREATE DATABASE app")
        .sql(&format!("CREATE ROLE app LOGIN PASSWORD '{password}'"))
        .sql("CREATE ROLE asker SUPERUSER LOGIN");
    cluster(15, options)
}

fn two_tenants(a: &harness::Cluster, b: &harness::Cluster, more: &str) -> Howdah {
    let database = |name: &str, at: &harness::Cluster| {
        format!("[databases.{name}]\ndbname = \"app\"\nhost = \"{}\"\npool_size = 3\n", at.tcp())
    };
    Howdah::start(&format!(
        "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"scram-sha-256\"\n\
         auth_user = \"asker\"\n{more}[users.asker]\npassword = \"x\"\n{}{}",
        database("a", a),
        database("b", b),
    ))
}

/// Ends all server connections of the role app; the next transaction needs a new one.
fn end_sessions(cluster: &harness::Cluster) {
    let end = "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_stat_activity WHERE usename = 'app'";
    cluster.value(end).expect("ended");
}

/// The same name, and with it the same password, of two servers: each server's verifier has a salt of its own.
#[test]
fn one_role_of_two_clusters_is_logged_in_to_each_with_its_own_keys() {
    let (Some(a), Some(b)) = (tenant(PASSWORD), tenant(PASSWORD)) else { return };
    let howdah = two_tenants(&a, &b, "");
    let mut of_a = login(&howdah, "app", "a", PASSWORD).expect("a login");
    let mut of_b = login(&howdah, "app", "b", PASSWORD).expect("a login");
    let port = "SELECT inet_server_port()";
    for _ in 0..2 {
        for (session, cluster) in [(&mut of_a, &a), (&mut of_b, &b)] {
            end_sessions(cluster);
            assert_eq!(session.select(port), [cluster.port().to_string()]);
        }
    }
    // Nor does a reload take anything away from users that the server knows.
    howdah.rewrite_config(
        &std::fs::read_to_string(howdah.config_path()).expect("it").replace("pool_size = 3", "pool_size = 4"),
    );
    howdah.hup();
    howdah.await_log("configuration reloaded", SOON);
    for (session, cluster) in [(&mut of_a, &a), (&mut of_b, &b)] {
        end_sessions(cluster);
        assert_eq!(session.select(port), [cluster.port().to_string()]);
    }
}

/// Whoever runs a server decides what it says of its roles, of one that is called as somebody else's, too.
#[test]
fn a_tenants_server_takes_nothing_from_another_tenant() {
    let (Some(a), Some(b)) = (tenant(PASSWORD), tenant("canary-b")) else { return };
    let howdah = two_tenants(&a, &b, "max_login_failures = 3\nauth_query_lifetime = \"0\"\n");
    let mut of_a = login(&howdah, "app", "a", PASSWORD).expect("a login");
    let mut superuser = b.connect(harness::SUPERUSER, "app").expect("a login");
    for n in 0..5 {
        superuser.query(&format!("ALTER ROLE app PASSWORD 'canary-b{n}'")).expect("another verifier");
        login(&howdah, "app", "b", &format!("canary-b{n}")).expect("a login to the tenant's own");
        end_sessions(&a);
        assert_eq!(of_a.select("SELECT current_user"), ["app"]);
    }
    // The very verifier of the other server, and its owner's proof: what the proof shows is for that server alone.
    let verifier = a.value("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'").expect("it");
    end_sessions(&a);
    superuser.query(&format!("ALTER ROLE app PASSWORD '{verifier}'")).expect("the same verifier");
    assert_eq!(of_a.select("SELECT current_user"), ["app"]);
    superuser.query("ALTER ROLE app PASSWORD 'canary-b'").expect("its own");
    // A login to the tenant's own server is no reason to forget guesses at the other's secret, and makes none of them.
    let mut wrong = Vec::new();
    for _ in 0..5 {
        wrong.push(refused(&howdah, "app", "a", "canary-b"));
        login(&howdah, "app", "b", "canary-b").expect("a login to the tenant's own");
    }
    let told = |w: &&String| w.contains("28P01");
    // Who has come in from there is told so too, after a guess that was compared.
    assert_eq!(wrong.iter().filter(told).count(), 3, "{wrong:?}");
    login(&howdah, "app", "a", PASSWORD).expect("the owner comes in all the same");
}

/// Somebody guesses, with one address before him and the application: as behind NAT, or beside it in a pod.
#[test]
fn the_owner_comes_in_while_somebody_guesses_behind_the_same_address() {
    let Some(cluster) = shared(15) else { return };
    let start = || {
        Howdah::start(&format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nmax_login_failures = 3\n\
         [users.app]\npassword = \"right\"\n[databases.app]\nhost = \"{}\"\npool_size = 1\n",
            cluster.tcp()
        ))
    };
    let howdah = start();
    login(&howdah, "app", "app", "right").expect("the owner, once");
    let mut told = Vec::new();
    for _ in 0..20 {
        told.push(refused(&howdah, "app", "app", "wrong"));
    }
    assert!(told[..3].iter().all(|t| t.contains("28P01")), "{told:?}");
    assert!(told[3..].iter().all(|t| t.contains("too many failed logins")), "{told:?}");
    login(&howdah, "app", "app", "right").expect("the owner");
    // Where nobody has come in yet, a right guess among too many is none.
    let howdah = start();
    for _ in 0..3 {
        refused(&howdah, "app", "app", "wrong");
    }
    assert!(refused(&howdah, "app", "app", "right").contains("max_login_failures is 3"));
}

/// What is longer than 63 bytes PostgreSQL cuts off, in names of roles and databases alike. With characters of several
/// bytes `CREATE ROLE` cuts between two of them.
fn long_names(major: u32) {
    let long = |letter: &str| letter.repeat(70);
    let (role, database) = (long("r"), long("d"));
    let of_two_bytes = long("é");
    let options = Options::default()
        .sql(&format!("CREATE ROLE {role} LOGIN"))
        .sql(&format!("CREATE ROLE \"{of_two_bytes}\" LOGIN"))
        .sql(&format!("CREATE DATABASE {database}"));
    let Some(cluster) = cluster(major, options) else { return };
    let who = |port: u16, user: &str| {
        let dsn = Dsn { password: Some(PASSWORD.to_owned()), ..Dsn::local(port, user, &database) };
        let mut raw = Raw::connect(&dsn).expect("it accepts");
        raw.start(&dsn, msg::PROTOCOL_3_0, &[])
            .map(|()| raw.select("SELECT current_user || ' ' || current_database()"))
    };
    let direct = who(cluster.port(), &role).expect("PostgreSQL takes it");
    assert_eq!(direct, [format!("{} {}", "r".repeat(63), "d".repeat(63))]);
    for names in
        [[&role[..], &database[..], &of_two_bytes[..]], [&role[..63], &database[..63], &of_two_bytes[..62]]]
    {
        let [stated_role, stated_database, stated_other] = names;
        let howdah = Howdah::start(&format!(
            "listen = [\"127.0.0.1:{{port}}\"]\nops_listen = \"127.0.0.1:{{ops_port}}\"\nauth_method = \"scram-sha-256\"\n\
             admin_users = [\"{stated_role}\"]\n[users.{stated_role}]\npassword = \"{PASSWORD}\"\n\
             [users.\"{stated_other}\"]\npassword = \"{PASSWORD}\"\n\
             [databases.{stated_database}]\nhost = \"{}\"\npool_size = 2\n",
            cluster.tcp()
        ));
        assert_eq!(who(howdah.port(), &role).expect("the long name"), direct);
        assert_eq!(who(howdah.port(), &role[..63]).expect("the name as it is kept"), direct);
        let other = who(howdah.port(), &of_two_bytes).expect("characters of two bytes");
        assert_eq!(other, [format!("{} {}", "é".repeat(31), "d".repeat(63))]);
        assert!(login(&howdah, &role, "pgbouncer", PASSWORD).is_ok(), "an admin by the same name");
        assert!(refused(&howdah, &format!("{}x", &role[..62]), &database, PASSWORD).contains("28P01"));
    }
}

#[test]
fn long_names_are_cut_as_postgresql_15_does() {
    long_names(15);
}

#[test]
fn long_names_are_cut_as_postgresql_18_does() {
    long_names(18);
}
