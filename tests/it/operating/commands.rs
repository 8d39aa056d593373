//! What the commands say to an operator: mistakes of every plausible kind, `convert`, a start that fails, and `doctor`
//! where something does not answer.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use crate::harness::program::{Dir, output};
use crate::harness::{self, Client, Running, Target, app_options, cluster, free_port, program, shared};

const MAJOR: u32 = 15;

fn howdah(arguments: &[&str]) -> (Option<i32>, String, String) {
    output(program().args(arguments))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

fn local() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port().expect("a port")))
}

/// Each mistake in a file of its own, with what must be said about it.
#[test]
fn a_plausible_mistake_is_told_with_what_was_meant() {
    let good = "[databases.app]\nhost = \"h\"\npool_size = 2\n";
    let users = "[users.app]\npassword = \"canary\"\n";
    let cases: &[(&str, &str, &[&str])] = &[
        (
            "howdah.toml",
            "[database.app]\nhost = \"h\"\n",
            &["toml:1: [database]: unknown section", "`[databases.app]`"],
        ),
        ("howdah.toml", "[user.app]\npassword = \"canary\"\n", &["[user]: unknown section", "`[users.app]`"]),
        ("howdah.toml", "[pool]\ndatabase = \"app\"\n", &["[pool]: unknown section", "`[[pools]]`"]),
        (
            "howdah.toml",
            "[shop]\nhost = \"h\"\n",
            &["[shop]: unknown section", "[databases.NAME], [users.NAME]"],
        ),
        (
            "howdah.toml",
            "default_pool_size = 20\n",
            &["default_pool_size: ", "PgBouncer's name", "`pool_size`"],
        ),
        ("howdah.toml", "max_client_conn = 20\n", &["PgBouncer's name", "`max_client_connections`"]),
        ("howdah.toml", "auth_type = \"md5\"\n", &["PgBouncer's name", "`auth_method`"]),
        ("howdah.toml", "listen_addr = \"*\"\n", &["PgBouncer's name", "`listen`"]),
        ("howdah.toml", "verbose = 1\n", &["PgBouncer's name", "`log_level`"]),
        ("howdah.toml", "dns_nxdomain_ttl = 1\n", &["means nothing here: each new server connection asks"]),
        (
            "howdah.toml",
            "log_level = \"warning\"\n",
            &["toml:1: log_level = \"warning\"", "is no level", "`warn`"],
        ),
        ("howdah.toml", "pool_mode = \"Transaction\"\n", &["not one of the known values", "`transaction`"]),
        (
            "howdah.toml",
            "[databases.b]\nhost = \"postgres://u:canary@h:5432/b\"\npool_size = 1\n",
            &["databases.b.host: is a URL", "host, port, dbname, user, password"],
        ),
        (
            "howdah.toml",
            "[databases.b]\nhost = \"u:canary@h\"\npool_size = 1\n",
            &["toml:2: databases.b.host: "],
        ),
        (
            "howdah.toml",
            "[databases.b]\nhost = \"h\"\npool_size = 1\nconnect_query = \"SELECT 1\"\n",
            &["databases.b.connect_query: ", "PgBouncer's name", "`on_connect`"],
        ),
        (
            "howdah.toml",
            "[databases.b]\nhost = \"h\"\npool_size = 1\ntimezone = \"UTC\"\n",
            &["databases.b.timezone: a parameter", "startup = { timezone"],
        ),
        (
            "howdah.toml",
            "[databases.b]\nhost = \"h\"\npool_size = 1\n[databases.b.replicas]\nhost = \"r\"\n",
            &["[databases.b.replicas]: unknown section", "`[databases.b.replica]`"],
        ),
        ("howdah.toml", "[pgbouncer]\nlisten_port = 1\n", &["is a pgbouncer.ini", "must not end in .toml"]),
        (
            "pgbouncer.ini",
            "[databases.app]\nhost = \"h\"\n",
            &["has sections of TOML", "call this one .toml"],
        ),
        (
            "pgbouncer.ini",
            "[databases]\n[pgbouncer]\npool_size = 3\n",
            &["pgbouncer/pool_size", "`default_pool_size`"],
        ),
        (
            "pgbouncer.ini",
            "[databases]\na = host=h default_pool_size=3\n[pgbouncer]\n",
            &["unrecognized connection parameter: default_pool_size", "`pool_size`"],
        ),
        ("pgbouncer.ini", "[databases]\na = host=postgres://u:canary@h/b\n[pgbouncer]\n", &["is a URL"]),
    ];
    for (name, text, expected) in cases {
        let dir = Dir::new();
        let whole = match (text.contains("[databases"), text.contains("[user"), *name) {
            (_, _, "pgbouncer.ini") => (*text).to_owned(),
            (false, false, _) if text.starts_with('[') => format!("{text}{good}{users}"),
            (false, false, _) => format!("{text}{good}{users}"),
            (true, _, _) => format!("{text}{users}"),
            (false, true, _) => format!("{text}{good}"),
        };
        let whole = if text.contains("[database.") { format!("{text}{users}") } else { whole };
        let (code, out, err) = howdah(&["check", path(&dir.file(name, &whole))]);
        assert_eq!((code, out.as_str()), (Some(2), ""), "{text}{err}");
        for part in *expected {
            assert!(err.contains(part), "no {part:?} for {text}{err}");
        }
        assert!(!err.contains("canary"), "{err}");
        // One mistake is one problem, and does not drag others behind it.
        assert_eq!(err.lines().count(), 1, "{text}{err}");
    }
}

#[test]
fn a_command_that_does_not_exist_is_not_taken_for_a_file() {
    for (arguments, part) in [
        (
            &["chekc", "f.toml"][..],
            "there is no command \"chekc\", and no file of this name; did you mean `check`?",
        ),
        (&["docter"][..], "did you mean `doctor`?"),
        (&["serve", "f.toml"][..], "`howdah FILE` serves"),
    ] {
        let (code, _, err) = howdah(arguments);
        assert_eq!(code, Some(2), "{err}");
        assert!(err.contains(part), "{err}");
    }
}

/// What a `--set` cannot do is told with the words of the command line.
#[test]
fn set_is_reported_as_it_was_written() {
    let dir = Dir::new();
    let file =
        dir.file("c.toml", "[users.app]\npassword = \"x\"\n[databases.app]\nhost = \"h\"\npool_size = 2\n");
    let with = |arguments: &[&str]| howdah(&[&["check", path(&file)], arguments].concat()).2;
    let err = with(&["--set", "foo"]);
    assert!(err.contains("howdah: --set foo: has no value; allowed: --set KEY=VALUE"), "{err}");
    let err = with(&["--set", "query_timeot=1s"]);
    assert!(err.contains("--set query_timeot: ") && err.contains("did you mean `query_timeout`?"), "{err}");
    let err = with(&["--set", "workers=many"]);
    assert!(err.contains("--set workers: workers = many: not a whole number"), "{err}");
}

#[test]
fn a_variable_with_a_mistake_is_told_what_it_may_have_meant() {
    for (name, part) in [
        ("HOWDAH_DATABASES__APP__POOL_SISE", "did you mean `HOWDAH_DATABASES__APP__POOL_SIZE`?"),
        ("HOWDAH_DATABASES_APP_HOST", "HOWDAH_DATABASES__NAME__KEY, with two underscores"),
        ("HOWDAH_QUERY_TIMEOT", "did you mean `HOWDAH_QUERY_TIMEOUT`?"),
    ] {
        let err = output(program().arg("check").env(name, "1")).2;
        assert!(err.lines().any(|l| l.contains(&format!("variable {name}: ")) && l.contains(part)), "{err}");
    }
}

/// A file is one of three ways to state a configuration, and none of them is needed.
#[test]
fn variables_alone_serve() {
    let Some(cluster) = shared(MAJOR) else { return };
    let listen = local();
    let mut command = program();
    command.env("HOWDAH_LISTEN", listen.to_string()).env("HOWDAH_OPS_LISTEN", "off");
    command.env("HOWDAH_AUTH_METHOD", "trust").env("HOWDAH_USERS__APP__LISTED", "true");
    command.env("HOWDAH_DATABASES__APP__HOST", cluster.tcp().to_string());
    command.args(["--set", "databases.app.pool_size=2"]);
    let running = Running::listening(&mut command, listen);
    let mut client = Client::connect(&Target::Tcp(listen), "app", "app").expect("a login");
    assert_eq!(client.value("SELECT current_user").expect("it"), "app");
    drop(running);
    // What is missing is told with the names of variables.
    let (code, _, err) = output(program().arg("check").env("HOWDAH_AUTH_METHOD", "trust"));
    assert_eq!(code, Some(2));
    assert!(err.contains("there is no database") && err.contains("HOWDAH_DATABASES__NAME__HOST"), "{err}");
}

#[test]
fn check_q_prints_problems_and_warnings_only() {
    let dir = Dir::new();
    let text = "[users.app]\npassword = \"x\"\n[databases.app]\nhost = \"h\"\npool_size = 2\n";
    let file = dir.file("good.toml", text);
    assert_eq!(howdah(&["check", "-q", path(&file)]), (Some(0), String::new(), String::new()));
    let file =
        dir.file("warns.toml", &format!("admin_users = [\"ap\", \"app\"]\nstats_users = \"nobody\"\n{text}"));
    let (code, out, _) = howdah(&["check", "-q", path(&file)]);
    assert_eq!(code, Some(0));
    for part in [
        "admin_users: there is no user \"ap\"",
        "did you mean `app`?",
        "stats_users: there is no user \"nobody\"",
    ] {
        assert_eq!(out.matches(part).count(), 1, "{part}: {out}");
    }
    assert_eq!(out.lines().count(), 2, "{out}");
    let (_, out, _) = howdah(&["check", path(&file)]);
    assert_eq!(out.matches("there is no user \"ap\"").count(), 1, "each warning once: {out}");
}

/// Its name does not matter where its text says what it is.
#[test]
fn a_pgbouncer_ini_of_any_name_is_recognised() {
    let dir = Dir::new();
    let file = dir.file("pooler.conf", "[databases]\napp = host=h\n[pgbouncer]\nauth_type = trust\n");
    let (code, out, err) = howdah(&["check", path(&file)]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("valid (PgBouncer profile)"), "{out}");
}

/// Which setting names the address, who has it, and all of it once.
#[test]
fn an_address_in_use_is_told_once_with_its_setting_and_its_holder() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let (addr, me) = (held.local_addr().expect("bound"), std::process::id());
    let dir = Dir::new();
    let rest = "capacity_check = \"off\"\n[users.app]\npassword = \"x\"\n[databases.app]\nhost = \"127.0.0.1\"\n\
                port = 1\npool_size = 2\n";
    for (setting, other) in [("listen", "ops_listen = \"off\""), ("ops_listen", "listen = \"127.0.0.1:0\"")] {
        let file = dir.file("c.toml", &format!("{setting} = \"{addr}\"\n{other}\n{rest}"));
        let (code, _, err) = howdah(&[path(&file)]);
        assert_eq!(code, Some(1), "{err}");
        assert_eq!(err.matches("cannot listen on").count(), 1, "{err}");
        for part in [format!("cannot listen on {addr} ({setting})"), format!("the process {me} (")] {
            assert!(err.contains(&part), "no {part}: {err}");
        }
    }
    let ini = format!(
        "[databases]\na = host=127.0.0.1 port=1\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
         unix_socket_dir =\nauth_type = trust\n",
        addr.port()
    );
    let (code, _, err) = howdah(&[path(&dir.file("pgbouncer.ini", &ini))]);
    assert_eq!(code, Some(1), "{err}");
    assert_eq!(err.matches("cannot listen on").count(), 1, "{err}");
    assert!(err.contains("(listen_addr, listen_port)"), "{err}");
}

/// Nothing is mended and started again for each of them.
#[test]
fn all_that_cannot_be_listened_on_is_told_at_once() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let [addr, ops] = [&held, &other].map(|l| l.local_addr().expect("bound"));
    let dir = Dir::new();
    let missing = dir.0.path().join("missing");
    let text = format!(
        "listen = [\"{addr}\", \"192.0.2.1:6432\"]\nops_listen = \"{ops}\"\nunix_socket_dir = \"{}\"\n\
         capacity_check = \"off\"\n[users.app]\npassword = \"x\"\n[databases.app]\nhost = \"127.0.0.1\"\n\
         port = 1\npool_size = 2\n",
        missing.display()
    );
    let (code, _, err) = howdah(&[path(&dir.file("c.toml", &text))]);
    assert_eq!(code, Some(1), "{err}");
    assert_eq!(err.matches("cannot listen on").count(), 4, "{err}");
    for part in [
        format!("cannot listen on {addr} (listen)"),
        "cannot listen on 192.0.2.1:6432 (listen)".to_owned(),
        format!("cannot listen on {ops} (ops_listen)"),
        format!(
            "the directory {} does not exist: make it, or state another one in unix_socket_dir",
            missing.display()
        ),
    ] {
        assert!(err.contains(&part), "no {part}: {err}");
    }
}

/// A sum is read line by line.
#[test]
fn the_sum_of_the_capacity_keeps_its_lines() {
    let Some(cluster) = cluster(MAJOR, app_options().setting("max_connections", "20")) else { return };
    let dir = Dir::new();
    let log = dir.0.path().join("howdah.log");
    let text = format!(
        "listen = \"{}\"\nops_listen = \"off\"\nauth_method = \"trust\"\nlog_file = \"{}\"\n[users.app]\n\
         [databases.app]\nhost = \"{}\"\npool_size = 200\n",
        local(),
        log.display(),
        cluster.tcp()
    );
    let (code, _, err) = howdah(&[path(&dir.file("c.toml", &text))]);
    let log = std::fs::read_to_string(&log).expect("a log");
    assert_eq!(code, Some(1), "{err}");
    for said in [&err, &log] {
        assert!(!said.contains("\\n"), "{said}");
        assert_eq!(said.matches("can open").count(), 1, "told once: {said}");
        let line = said.lines().find(|l| l.contains("pool_size 200 + reserve_pool_size 0 = 200"));
        assert!(line.is_some_and(|l| !l.contains("can open")), "a line of its own: {said}");
    }
}

/// Where lines of the log are for machines, the error is one of them, and nothing else is on standard error.
#[test]
fn a_start_that_fails_is_json_where_the_log_is() {
    let held = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dir = Dir::new();
    let text = format!(
        "listen = \"{}\"\nops_listen = \"off\"\nlog_format = \"json\"\ncapacity_check = \"off\"\n[users.app]\n\
         password = \"x\"\n[databases.app]\nhost = \"127.0.0.1\"\nport = 1\npool_size = 2\n",
        held.local_addr().expect("bound")
    );
    let (code, _, err) = howdah(&[path(&dir.file("c.toml", &text))]);
    assert_eq!(code, Some(1), "{err}");
    assert_eq!(err.matches("cannot listen on").count(), 1, "{err}");
    for line in err.lines() {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok(), "{line}");
    }
}

/// A SET that held in transaction mode holds, and the exit code says whether something is left to decide.
#[test]
fn what_convert_writes_behaves_as_the_ini() {
    let Some(cluster) = shared(MAJOR) else { return };
    let dir = Dir::new();
    let listen = local();
    let list = dir.file("userlist.txt", "\"app\" \"\"\n");
    let ini = format!(
        "[databases]\napp = host=127.0.0.1 port={} pool_size=1\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         listen_port = {}\nunix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n",
        cluster.port(),
        listen.port(),
        list.display()
    );
    let ini = dir.file("pgbouncer.ini", &ini);
    let (code, toml, report) = howdah(&["convert", path(&ini)]);
    assert_eq!(code, Some(0), "{report}");
    assert!(!report.contains("improved") && !report.contains("changed"), "{report}");
    let toml = dir.file("howdah.toml", &toml);
    for file in [&ini, &toml] {
        let running = Running::listening(program().arg(file), listen);
        let session = || Client::connect(&Target::Tcp(listen), "app", "app").expect("a login");
        let (mut one, mut other) = (session(), session());
        one.query("SET lock_timeout = '77s'").expect("it is set");
        assert_eq!(other.value("SHOW lock_timeout").expect("it"), "77s", "{}", file.display());
        let e = harness::refusal(other.query("SELECT 1 FROM nowhere"));
        assert_eq!(e.code, "42P01");
        drop(running);
    }
    let (code, toml, report) = howdah(&["convert", "--modernise", path(&ini)]);
    assert_eq!(code, Some(0), "{report}");
    assert!(report.contains("changed: reset_state is true: "), "{report}");
    assert!(!toml.contains("reset_state"), "{toml}");
    let twice = dir.file("twice.ini", "[databases]\na = host=h,h\n[pgbouncer]\nauth_type = trust\n");
    let (code, _, report) = howdah(&["convert", "--modernise", path(&twice)]);
    assert_eq!(code, Some(1), "{report}");
    assert!(report.contains("to decide: "), "{report}");
}

/// A database, its server, and a configuration that names them; nothing listens on ops ports unless `ops` is said.
fn for_doctor(dir: &Dir, ops: &str, databases: &str) -> PathBuf {
    dir.file(
        "c.toml",
        &format!(
            "ops_listen = \"{ops}\"\nauth_method = \"trust\"\n[users.app]\npassword = \"wrong\"\n{databases}"
        ),
    )
}

#[test]
fn doctor_says_which_server_does_not_answer() {
    let dir = Dir::new();
    let dead = local();
    let file = for_doctor(&dir, "off", &format!("[databases.app]\nhost = \"{dead}\"\npool_size = 2\n"));
    let (code, out, err) = howdah(&["doctor", path(&file)]);
    assert_eq!(code, Some(2), "{out}{err}");
    let line =
        out.lines().find(|l| l.contains(&format!("server {dead}: "))).unwrap_or_else(|| panic!("{out}"));
    for part in
        ["not examined: ", "refused", "its capacity, its sessions and its databases (app) are not known"]
    {
        assert!(line.contains(part), "no {part}: {line}");
    }
    assert!(out.ends_with("nothing could be examined, so there is no advice\n"), "{out}");
    let (code, out, _) = howdah(&["doctor", "--json", path(&file)]);
    let said: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((code, &said["complete"]), (Some(2), &serde_json::Value::Bool(false)), "{out}");
}

/// Of two databases one lets nobody in: the other one is examined, and the exit code says that not all is known.
#[test]
fn doctor_says_what_it_could_not_examine_among_what_it_could() {
    let options = app_options()
        .setting("autovacuum", "off")
        .sql("CREATE DATABASE closed")
        .sql("REVOKE CONNECT ON DATABASE closed FROM public");
    let Some(cluster) = cluster(MAJOR, options) else { return };
    let dir = Dir::new();
    let database = |name: &str| format!("[databases.{name}]\nhost = \"{}\"\npool_size = 2\n", cluster.tcp());
    let file = for_doctor(&dir, "off", &database("app"));
    let (code, out, err) = howdah(&["doctor", path(&file)]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("examined in part: ") && out.contains("GRANT pg_read_all_stats"), "{out}");

    let file = for_doctor(&dir, "off", &format!("{}{}", database("app"), database("closed")));
    let (code, out, err) = howdah(&["doctor", path(&file)]);
    assert_eq!(code, Some(2), "{out}{err}");
    assert!(out.contains(&format!("database {}/closed: ", cluster.tcp())), "{out}");
    assert!(
        out.contains("permission denied for database")
            && out.ends_with("no advice, and 1 could not be examined\n"),
        "{out}"
    );

    // The running Howdah is one of those who should answer.
    let ops = local();
    let file = for_doctor(&dir, &ops.to_string(), &database("app"));
    let (code, out, _) = howdah(&["doctor", path(&file)]);
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains(&format!("a running Howdah at {ops} (ops_listen): cannot connect: ")), "{out}");
}

#[test]
fn doctor_with_a_wrong_password_says_so() {
    let options =
        app_options().hba("host all app 127.0.0.1/32 scram-sha-256").sql("ALTER ROLE app PASSWORD 'right'");
    let Some(cluster) = cluster(MAJOR, options) else { return };
    let dir = Dir::new();
    let file =
        for_doctor(&dir, "off", &format!("[databases.app]\nhost = \"{}\"\npool_size = 2\n", cluster.tcp()));
    let (code, out, _) = howdah(&["doctor", path(&file)]);
    assert_eq!(code, Some(2), "{out}");
    assert!(out.contains("password authentication failed") && out.contains("server 127.0.0.1:"), "{out}");
}

/// What a test leaves out for want of a program: the package that the set-up of the tests installs for it, or nothing
/// where no package can help.
const LEFT_OUT: &[(&str, Option<&str>)] = &[
    ("the move from PgBouncer", Some("pgbouncer")),
    ("the page in a browser", Some("chromium")),
    ("promtool check metrics", Some("prometheus")),
    ("promtool test rules", Some("prometheus")),
    ("system calls per transaction", Some("strace")),
    ("instructions per transaction", Some("valgrind")),
    ("LDAP", Some("slapd")),
    ("PAM", Some("libpam-wrapper")),
    ("TLS", Some("openssl")),
    ("pgjdbc", Some("libpostgresql-jdbc-java")),
    ("peer authentication", Some("postgresql-client")),
    ("pg_verifybackup", Some("postgresql-client")),
    ("howdah demo", Some("postgresql")),
    // A part of what every Debian has.
    ("a PAM module that hangs", None),
    // They need rights, or a version of what pip brings.
    ("a host name that moves", None),
    ("peer authentication of two accounts", None),
    ("direct TLS", None),
    // pip brings it.
    ("asyncpg", None),
];

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|p| p.is_dir());
    files.into_iter().chain(folders.iter().flat_map(|f| sources(f))).collect()
}

/// A test that is left out although a package could bring what it lacks is a test that nobody runs.
#[test]
fn the_set_up_of_the_tests_installs_what_packages_can_bring() {
    let setup = std::fs::read_to_string(harness::root().join("tests/support/setup.sh")).expect("the set-up");
    let installs: Vec<&str> = setup
        .lines()
        .filter(|l| l.contains("apt_install ") || l.contains("without_services "))
        .flat_map(str::split_whitespace)
        .collect();
    let mut told = 0;
    let mut files = sources(&harness::root().join("tests/it"));
    files.push(harness::root().join("tests/cost.rs"));
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a text");
        for rest in text.split("left_out(").skip(1) {
            // What is not stated as it is, is one of the drivers, whose versions are of the set-up itself.
            let Some(name) = rest.trim_start().strip_prefix('"').and_then(|r| r.split('"').next()) else {
                continue;
            };
            if file.ends_with("commands.rs") {
                continue;
            }
            let known = LEFT_OUT.iter().find(|(n, _)| *n == name);
            let (_, package) = known.unwrap_or_else(|| panic!("{file:?}: say which package brings {name:?}"));
            told += 1;
            if let Some(package) = package {
                let there = installs.iter().any(|w| w.trim_end_matches([';', '}']) == *package);
                assert!(there, "{name:?} needs {package}, which the set-up does not install");
            }
        }
    }
    assert!(told > 10, "{told}");
    // A package's service is not started, and not at the next boot either.
    for service in ["pgbouncer", "slapd", "prometheus", "postgresql"] {
        assert!(setup.contains(&format!("without_services {service} ")), "{service}");
        assert!(!setup.contains(&format!("apt_install {service}")), "{service}");
    }
}
