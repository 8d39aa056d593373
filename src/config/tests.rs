//! The configuration as a whole: files, variables and flags in, a [`Config`] or all its problems out.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::raw::Raw;
use super::resolved::{
    AuthMethod, ChannelBinding, Config, HostAddr, PoolMode, Profile, Role, Secret, WhenNoReplica,
};
use super::setting::{Level, Preset};
use super::settings::{SETTINGS, find};
use super::{ConfigError, Flags, Overrides, from_flags, load, reference, restart_needed, summary};
use crate::tls::Mode;

const MINIMAL: &str = r#"
listen = ["127.0.0.1:6432"]
[users.app]
password = "hunter2"
[databases.app]
host = "db"
pool_size = 20
"#;

fn in_dir(name: &str, text: &str, more: &[(&str, &str)], o: &Overrides) -> Result<Config, Vec<ConfigError>> {
    let dir = tempfile::tempdir().unwrap();
    // Secrets that others can read are warned of.
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    for (name, text) in more {
        fs::write(dir.path().join(name), text).unwrap();
    }
    let path = dir.path().join(name);
    // The paths of an ini are relative to where the process was started.
    let list = format!("auth_file = {}/userlist.txt", dir.path().display());
    let text = if name.ends_with(".ini") {
        text.replace("auth_file = userlist.txt", &list)
    } else {
        text.to_owned()
    };
    fs::write(&path, text).unwrap();
    load(&path, o)
}

fn toml(text: &str) -> Result<Config, Vec<ConfigError>> {
    in_dir("howdah.toml", text, &[], &Overrides::default())
}

fn with_variables(text: &str, variables: &[(&str, &str)]) -> Result<Config, Vec<ConfigError>> {
    in_dir("howdah.toml", text, &[], &environment(variables))
}

fn environment(variables: &[(&str, &str)]) -> Overrides {
    Overrides::from_environment(variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
}

fn ini(text: &str) -> Result<Config, Vec<ConfigError>> {
    in_dir("pgbouncer.ini", text, &[("userlist.txt", "\"app\" \"hunter2\"\n")], &Overrides::default())
}

/// The one problem of a text, without its directory.
fn problem(text: &str) -> String {
    let errors = toml(text).unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let text = errors[0].to_string();
    text.split_once("howdah.toml").map_or(text.clone(), |(_, rest)| format!("howdah.toml{rest}"))
}

fn tcp(host: &str, port: u16) -> HostAddr {
    HostAddr::Tcp { host: host.to_owned(), port }
}

#[test]
fn ten_lines_are_complete() {
    let config = toml(MINIMAL).unwrap();
    assert_eq!(config.profile, Profile::Native);
    assert_eq!(config.listen.tcp, ["127.0.0.1:6432".parse().unwrap()]);
    assert_eq!(config.auth_method, AuthMethod::ScramSha256);
    assert_eq!(config.users["app"].secret, Some(Secret::classify("hunter2")));
    let database = &config.databases["app"];
    assert_eq!(database.dbname, "app");
    assert_eq!(database.roles[&Role::Primary].hosts, [tcp("db", 5432)]);
    assert_eq!(database.pool.size, 20);
    assert_eq!(database.pool.mode, PoolMode::Transaction);
    assert_eq!(database.pool.reset_query, "DISCARD ALL");
    assert_eq!(config.limits.max_client_connections, 10_000);
    assert_eq!(config.limits.max_message_size, (1 << 30) - 1);
    assert_eq!(config.limits.buffer_size, 16 * 1024);
    assert!(config.process.workers >= 1);
    assert_eq!(config.notes.warnings, Vec::<String>::new());
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn levels_and_pools_take_precedence() {
    let config = toml(
        r#"
        query_timeout = "1s"
        [users.a]
        password = "x"
        query_timeout = "4s"
        max_connections = 7
        [users.b]
        password = "x"
        [databases.d]
        host = ["h1", "h2:6000", "[::1]:7000", "/run/postgresql"]
        port = 5433
        pool_size = 5
        query_timeout = "2s"
        when_no_replica = "wait"
        monitor_user = "a"
        startup = { jit = "off", work_mem = "64MB" }
        [databases.d.replica]
        host = "r"
        query_timeout = "3s"
        [databases.e]
        host = "h"
        pool_size = 1
        [[pools]]
        database = "d"
        role = "replica"
        pool_size = 9
        [[pools]]
        database = "d"
        user = "a"
        role = "replica"
        query_timeout = "0"
        "#,
    )
    .unwrap();
    let d = &config.databases["d"];
    let dir = HostAddr::Unix { dir: PathBuf::from("/run/postgresql"), port: 5433 };
    assert_eq!(d.roles[&Role::Primary].hosts, [tcp("h1", 5433), tcp("h2", 6000), tcp("::1", 7000), dir]);
    assert_eq!(d.roles[&Role::Replica].hosts, [tcp("r", 5433)]);
    assert_eq!(d.when_no_replica, Some(WhenNoReplica::Wait));
    assert_eq!(d.pool.startup.len(), 2);
    assert_eq!(config.users["a"].max_connections, Some(7));
    let timeout =
        |db: &str, user, role| config.pool_settings(&config.databases[db], user, role).query_timeout;
    assert_eq!(timeout("e", "b", Role::Primary), Some(Duration::from_secs(1)));
    assert_eq!(timeout("d", "b", Role::Primary), Some(Duration::from_secs(2)));
    assert_eq!(timeout("d", "b", Role::Replica), Some(Duration::from_secs(3)));
    assert_eq!(timeout("d", "a", Role::Primary), Some(Duration::from_secs(4)));
    assert_eq!(timeout("d", "a", Role::Replica), None);
    assert_eq!(config.pool_settings(d, "b", Role::Replica).size, 9);
}

#[test]
fn each_problem_is_told_clearly() {
    let cases = [
        (
            "max_client_conections = 5",
            "howdah.toml:1: max_client_conections: unknown setting; did you mean `max_client_connections`?",
        ),
        (
            "query_timeout = 30",
            "howdah.toml:1: query_timeout = 30: a unit is missing; write for example \"30s\"; allowed: a duration up to 365d, or \"0\" for off",
        ),
        ("backlog = 0", "howdah.toml:1: backlog = 0: out of range; allowed: a whole number from 1 to 65535"),
        ("backlog = \"4096\"", "a number is written without quotes"),
        ("tcp_keepalive = \"yes\"", "not true or false"),
        ("drain = \"now\"", "\"clients\", \"transactions\""),
        ("buffer_size = \"1GB\"", "out of range"),
        ("listen = [\"example.org:6432\"]", "not an IP address with a port"),
        ("listen = []", "listen nowhere"),
        ("host = \"h\"", "howdah.toml:1: host: cannot be set here; it belongs in [databases.NAME]"),
        ("pools = 1", "is a section"),
        ("ops_listen = \"127.0.0.1:6432\"\nlisten = [\"127.0.0.1:6432\"]", "an address for clients already"),
        ("auth_file = \"missing.txt\"", "cannot be read"),
        ("unix_socket_mode = \"0999\"", "not octal"),
        ("[[pools]]\npool_size = 3", "pools[0].database: is missing"),
        ("[[pools]]\ndatabase = \"ap\"\nrole = \"admin\"", "there is no such database; did you mean `app`?"),
        ("[[pools]]\ndatabase = \"app\"\nrole = \"admin\"", "no section for this role"),
        ("[[pools]]\ndatabase = \"app\"\nuser = \"apo\"", "there is no such user; did you mean `app`?"),
        ("[[pools]]\ndatabase = \"app\"", "needs a user or a role"),
        ("[users.b]", "users.b: has no password and cannot log in"),
        ("[users.b]\npassword = \"x\"\npassword_env = \"X\"", "one of them is enough"),
        ("[users.b]\npassword_env = \"X\"", "no such variable is set"),
        ("[users.b]\npassword = \"md50123456789abcdef0123456789abcdef\"", "scram-sha-256 is impossible"),
        ("[databases.b]\npool_size = 1", "databases.b.host: is missing"),
        ("[databases.b]\nhost = \"h\"", "databases.b.pool_size: is missing"),
        ("[databases.b]\nhost = \"h\"\npool_sise = 1", "did you mean `pool_size`?"),
        ("[databases.b]\nhost = \"h\"\npool_size = \"x\"", "not a whole number"),
        ("[databases.b]\nhost = \"h h\"\npool_size = 1", "not a host name"),
        ("[databases.b]\nhost = [\"h\", \"h\"]\npool_size = 1", "listed twice"),
        ("[databases.b]\nhost = \"h:0\"\npool_size = 1", "not a port"),
        ("[databases.b]\nhost = \"127.0.0.1:6432\"\npool_size = 1", "where Howdah itself listens"),
        ("[databases.b]\nhost = \"h\"\npool_size = 1\nmin_pool_size = 2", "more than pool_size 1"),
        (
            "[databases.b]\nhost = \"h\"\npool_size = 5\nsize = \"auto\"\npool_mode = \"session\"",
            "cannot be had with pool_mode = \"session\"",
        ),
        (
            "[databases.b]\nhost = \"h\"\npool_size = 5\nsize = \"auto\"\nreserve_pool_size = 2",
            "cannot be had with reserve_pool_size 2",
        ),
        (
            "[databases.b]\nhost = \"h\"\npool_size = 5\nsize = \"auto\"\n[users.one]\npassword = \"x\"\n\
             reserve_pool_size = 3",
            "for user one, size = \"auto\" cannot be had with reserve_pool_size 3",
        ),
        (
            "[databases.b]\nhost = \"h\"\npool_size = 1\n[databases.b.replica]\nhost = \"r\"",
            "databases.b.when_no_replica: is missing",
        ),
        ("[databases.b]\nhost = \"h\"\npool_size = 1\nreplica = 1", "is a section"),
        (
            "[databases.b]\nhost = \"h\"\npool_size = 1\nmaterialized_views = { \"s.v\" = \"often\" }",
            "databases.b.materialized_views: \"s.v\"",
        ),
        ("x = ", "not valid TOML"),
    ];
    let rest = MINIMAL.replace("listen = [\"127.0.0.1:6432\"]", "");
    for (text, wanted) in cases {
        let told = problem(&format!("{text}\n{rest}"));
        assert!(told.contains(wanted), "{text}\n  told: {told}\n  wanted: {wanted}");
    }
}

#[test]
fn all_problems_come_at_once_with_their_lines_and_no_secret() {
    let errors = toml(
        "listen = \"nowhere\"\nquery_timeout = 5\n[users.a]\npasword = \"hunter2\"\n[users.b]\npassword = 12345\n\
         [databases.d]\nhost = \"h\"\n[databases.e]\npool_size = 0\nfoo = 1\n",
    )
    .unwrap_err();
    let told: Vec<(Option<usize>, &str)> = errors.iter().map(|e| (e.line(), e.key.as_str())).collect();
    for wanted in [
        (Some(1), "listen"),
        (Some(2), "query_timeout"),
        (Some(4), "users.a.pasword"),
        (Some(6), "users.b.password"),
        (Some(7), "databases.d.pool_size"),
        (Some(10), "databases.e.pool_size"),
        (Some(11), "databases.e.foo"),
    ] {
        assert!(told.contains(&wanted), "{wanted:?} in {told:?}");
    }
    assert!(told.iter().any(|(_, k)| *k == "databases.e.host"));
    let text: String = errors.iter().map(ToString::to_string).collect();
    assert!(!text.contains("hunter2") && !text.contains("12345"), "{text}");
    assert!(told.is_sorted(), "{told:?}");
}

#[test]
fn broken_toml_shows_no_password() {
    for text in
        ["[users.a]\npassword = hunter2\n", "[users.a]\npassword = \"hunter2\n", "password = 'hunter2' x"]
    {
        let told: String = toml(text).unwrap_err().iter().map(ToString::to_string).collect();
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn variables_win_over_the_file_and_flags_over_both() {
    let text = format!("query_timeout = \"1s\"\n{MINIMAL}");
    let variables = [
        ("HOWDAH_QUERY_TIMEOUT", "2s"),
        ("HOWDAH_LISTEN", "127.0.0.1:1, [::1]:2"),
        ("HOWDAH_TCP_KEEPALIVE", "off"),
        ("HOWDAH_STARTUP", "jit=off; search_path=a,b"),
        ("HOWDAH_DATABASES__APP__POOL_SIZE", "33"),
        ("HOWDAH_DATABASES__APP__REPLICA__HOST", "r1,r2:6"),
        ("HOWDAH_DATABASES__APP__WHEN_NO_REPLICA", "error"),
        ("HOWDAH_USERS__APP__PASSWORD", "other"),
        ("HOWDAH_PORT_6432_TCP_ADDR", "10.0.0.1"),
        ("HOWDAH_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let config = with_variables(&text, &variables).unwrap();
    let d = &config.databases["app"];
    assert_eq!(d.pool.query_timeout, Some(Duration::from_secs(2)));
    assert_eq!(config.listen.tcp.len(), 2);
    assert!(!config.listen.tcp_keepalive.enabled);
    assert_eq!(d.pool.startup[1], ("search_path".to_owned(), "a,b".to_owned()));
    assert_eq!(d.pool.size, 33);
    assert_eq!(d.roles[&Role::Replica].hosts, [tcp("r1", 5432), tcp("r2", 6)]);
    assert_eq!(config.users["app"].secret, Some(Secret::classify("other")));

    let o = environment(&variables).flag("query_timeout", "3s").flag("databases.app.pool_size", "44");
    let config = in_dir("howdah.toml", &text, &[], &o).unwrap();
    assert_eq!(config.databases["app"].pool.query_timeout, Some(Duration::from_secs(3)));
    assert_eq!(config.databases["app"].pool.size, 44);
}

#[test]
fn wrong_variables_and_flags_are_told() {
    let errors =
        with_variables(MINIMAL, &[("HOWDAH_QUERY_TIMEOUTS", "2s"), ("HOWDAH_BACKLOG", "x")]).unwrap_err();
    let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert!(
        told.iter()
            .any(|t| t.contains("variable HOWDAH_QUERY_TIMEOUTS") && t.contains("`HOWDAH_QUERY_TIMEOUT`")),
        "{told:?}"
    );
    assert!(told.iter().any(|t| t.contains("variable HOWDAH_BACKLOG: backlog = x")), "{told:?}");
    let o = Overrides::default().flag("query_wait_timeout", "5");
    let told = in_dir("howdah.toml", MINIMAL, &[], &o).unwrap_err()[0].to_string();
    assert!(
        told.starts_with("--set query_wait_timeout: query_wait_timeout = 5: a unit is missing"),
        "{told}"
    );
}

#[test]
fn every_setting_can_come_from_a_variable() {
    for setting in SETTINGS.iter().filter(|s| s.at(Level::Global)) {
        let Preset::Is(text) = setting.preset else { continue };
        let text = if setting.key == "listen" { "127.0.0.1:7000" } else { text };
        let config = with_variables(MINIMAL, &[(&setting.variable(), text)]);
        let config = config.unwrap_or_else(|e| panic!("{}: {e:?}", setting.key));
        assert!(config.notes.settings[setting.key].stated);
    }
}

#[test]
fn secrets_come_from_files_and_variables() {
    let text = "[users.a]\npassword_file = \"a.txt\"\n[users.b]\npassword_env = \"HOWDAH_B_SECRET\"\n\
                [databases.d]\nhost = \"h\"\npool_size = 1\nuser = \"b\"\n";
    let o = environment(&[("HOWDAH_B_SECRET", "two")]);
    let config = in_dir("howdah.toml", text, &[("a.txt", "one\nrest\n")], &o).unwrap();
    assert_eq!(config.users["a"].secret, Some(Secret::classify("one")));
    assert_eq!(config.users["b"].secret, Some(Secret::classify("two")));
    assert_eq!(config.databases["d"].server_secret, Some(Secret::classify("two")));
}

#[test]
fn flags_alone_are_enough() {
    let flags = Flags {
        database: "postgres://us%40er:p%3Aw@db:6000/my%20app?sslmode=prefer".into(),
        replicas: vec!["postgres://r1".into(), "postgresql://x@r2:7000/ignored".into()],
        pool_size: Some(20),
        when_no_replica: Some("primary".to_owned()),
    };
    let o = Overrides::default().flag("listen", "127.0.0.1:7000");
    let config = from_flags(&flags, &o).unwrap();
    let d = &config.databases["my app"];
    assert_eq!(d.roles[&Role::Primary].hosts, [tcp("db", 6000)]);
    assert_eq!(d.roles[&Role::Replica].hosts, [tcp("r1", 5432), tcp("r2", 7000)]);
    assert_eq!(config.users["us@er"].secret, Some(Secret::classify("p:w")));
    assert_eq!(config.origin, "command line");

    let flags = Flags { pool_size: None, when_no_replica: None, ..flags };
    let told: Vec<String> = from_flags(&flags, &o).unwrap_err().iter().map(ToString::to_string).collect();
    assert!(told.iter().any(|t| t.contains("--pool-size is needed")), "{told:?}");
    assert!(told.iter().any(|t| t.contains("--when-no-replica is needed")), "{told:?}");

    for url in [
        "mysql://h",
        "postgres://u:hunter2@h/%zz",
        "postgres://u:hunter2@h/d?sslmodus=require",
        "postgres:///d",
    ] {
        let flags = Flags { database: url.into(), pool_size: Some(1), ..Flags::default() };
        let told = from_flags(&flags, &o).unwrap_err()[0].to_string();
        assert!(told.starts_with("--database: ") && !told.contains("hunter2"), "{told}");
    }
    let secure = "postgres://u:p@h/d?sslmode=require&channel_binding=require".to_owned();
    let secure =
        from_flags(&Flags { database: secure.into(), pool_size: Some(1), ..Flags::default() }, &o).unwrap();
    assert_eq!((secure.tls.server.mode, secure.tls.binding), (Mode::Require, ChannelBinding::Require));
    let flags = Flags { database: "postgres://u@h/d".into(), pool_size: Some(1), ..Flags::default() };
    assert!(from_flags(&flags, &o).unwrap_err()[0].to_string().contains("--set auth_method=trust"));
    let trust = from_flags(&flags, &o.flag("auth_method", "trust")).unwrap();
    assert_eq!(trust.auth_method, AuthMethod::Trust);
}

const INI: &str = "\
;; the usual
[databases]
app = host=db port=5433 dbname=appdb
app_ro = host=replica dbname=appdb pool_size=40 user=reader password='it''s'

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = 6432
unix_socket_dir = /tmp
unix_socket_mode = 0770
auth_type = md5
auth_file = userlist.txt
pool_mode = transaction
max_client_conn = 10000
default_pool_size = 25
min_pool_size = 10
reserve_pool_size = 5
reserve_pool_timeout = 3
server_lifetime = 3600
server_idle_timeout = 600
query_timeout = 30
query_wait_timeout = 0.5
tcp_user_timeout = 1500
server_tls_sslmode = disable
stats_period = 60
verbose = 0
ignore_startup_parameters = extra_float_digits, search_path

[users]
app = pool_mode=session max_user_connections=3 query_timeout=7
";

#[test]
fn a_pgbouncer_ini_is_read() {
    let config = ini(INI).unwrap();
    assert_eq!(config.profile, Profile::PgBouncer);
    assert_eq!(config.listen.tcp, ["127.0.0.1:6432".parse().unwrap()]);
    assert_eq!(config.listen.unix_dir.as_deref(), Some(Path::new("/tmp")));
    assert_eq!(config.listen.unix_mode, 0o770);
    assert_eq!(config.listen.ops, None);
    assert_eq!(config.listen.tcp_keepalive.user_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(config.auth_method, AuthMethod::Md5);
    assert_eq!(config.limits.max_client_connections, 10_000);
    assert_eq!(config.ignore_startup_parameters, ["extra_float_digits", "search_path"]);
    let app = &config.databases["app"];
    assert_eq!(
        (app.dbname.as_str(), &app.roles[&Role::Primary].hosts[..]),
        ("appdb", &[tcp("db", 5433)][..])
    );
    let pool = &app.pool;
    assert_eq!((pool.size, pool.min_size, pool.reserve_size), (25, 10, 5));
    assert_eq!(pool.reserve_delay, Duration::from_secs(3));
    assert_eq!(pool.server_lifetime, Some(Duration::from_secs(3600)));
    assert_eq!(pool.server_idle_timeout, Some(Duration::from_secs(600)));
    assert_eq!(pool.query_timeout, Some(Duration::from_secs(30)));
    assert_eq!(pool.query_wait_timeout, Some(Duration::from_millis(500)));
    assert_eq!(pool.mode, PoolMode::Transaction);
    assert!(!pool.reset_state);
    let ro = &config.databases["app_ro"];
    assert_eq!(ro.pool.size, 40);
    assert_eq!(ro.server_user.as_deref(), Some("reader"));
    assert_eq!(ro.server_secret, Some(Secret::classify("it's")));
    let user = config.pool_settings(app, "app", Role::Primary);
    assert_eq!((user.mode, user.query_timeout), (PoolMode::Session, Some(Duration::from_secs(7))));
    assert_eq!(config.users["app"].secret, Some(Secret::classify("hunter2")));
    assert_eq!(config.users["app"].max_connections, Some(3));
    assert_eq!(config.process.log_level, "info");
    // Of the servers, which are elsewhere and not verified; all else is understood.
    assert_eq!(config.notes.warnings.len(), 1, "{:?}", config.notes.warnings);
}

#[test]
fn pgbouncers_defaults_hold_under_its_profile() {
    let config = ini("[databases]\napp =\n[pgbouncer]\nauth_file = userlist.txt\n").unwrap();
    let app = &config.databases["app"];
    assert_eq!(app.pool.size, 20);
    assert_eq!(app.pool.mode, PoolMode::Session);
    assert_eq!(app.pool.query_wait_timeout, Some(Duration::from_secs(120)));
    assert_eq!(app.roles[&Role::Primary].hosts, [HostAddr::Unix { dir: "/tmp".into(), port: 5432 }]);
    assert_eq!(config.listen.tcp, []);
    assert_eq!(config.limits.max_client_connections, 100);
    assert_eq!(config.pool.client_login_timeout, Duration::from_secs(60));
    assert_eq!(config.auth_method, AuthMethod::Md5);
}

#[test]
fn a_wrong_pgbouncer_ini_is_told() {
    let base = "[databases]\napp = host=h\n[pgbouncer]\nauth_file = userlist.txt\n";
    for (text, wanted) in [
        (
            "max_client_con = 5",
            "unknown parameter: pgbouncer/max_client_con; did you mean `max_client_conn`?",
        ),
        ("query_timeout = soon", "pgbouncer/query_timeout = \"soon\": not a number"),
        ("tcp_keepalive = on", "not a whole number"),
        ("client_tls_sslmode = require", "client_tls_cert: is missing"),
        ("auth_type = anyone", "not one of the known values"),
        ("auth_type = hba", "auth_hba_file: is missing"),
        ("listen_port = x", "not a port"),
        ("[nonsense]", "unknown section: nonsense"),
        ("nonsense", "syntax error"),
        ("[peers]\nx = host=h", "not a possible peer_id"),
        ("[peers]\n1 = host=h ports=1", "unrecognized connection parameter: ports; did you mean `port`?"),
        ("[databases]\nb = host=h passwort=hunter2", "unrecognized connection parameter: passwort"),
        ("[databases]\nb = host=", "a value is empty"),
        ("[users]\napp = pool_sizes=1", "unrecognized user parameter: pool_sizes; did you mean `pool_size`?"),
        ("%include missing.ini", "cannot be read"),
    ] {
        let told: Vec<String> =
            ini(&format!("{base}{text}\n")).unwrap_err().iter().map(ToString::to_string).collect();
        assert!(told.len() == 1 && told[0].contains(wanted), "{told:?} {wanted}");
        assert!(!told[0].contains("hunter2"));
    }
    let told = ini("[databases]\n").unwrap_err();
    assert!(told.iter().any(|e| e.problem == "main section missing from config file"));
}

#[test]
fn declarations_are_sound() {
    for setting in SETTINGS {
        assert!(setting.doc.len() >= 20, "{}", setting.key);
        assert!(!setting.reason.is_empty() && !setting.levels.is_empty(), "{}", setting.key);
        for text in [setting.preset(false), setting.preset(true)].into_iter().flatten() {
            let value = setting.kind.read(&Raw::Loose(text.to_owned()));
            assert!(value.is_ok(), "{} = {text}", setting.key);
        }
        for level in setting.levels {
            assert_eq!(SETTINGS.iter().filter(|s| s.key == setting.key && s.at(*level)).count(), 1);
        }
    }
}

/// `UPDATE=1 cargo test` writes the file anew.
#[test]
fn the_reference_is_current_and_tells_the_truth() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/reference.toml");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path, reference::render()).unwrap();
    }
    let text = fs::read_to_string(path).unwrap();
    assert!(text == reference::render(), "run UPDATE=1 cargo test");

    // With the defaults switched on, everything is as it was, except that it is stated.
    let is_default = |line: &str| {
        let key = line.strip_prefix('#').and_then(|l| l.split_once(" = ")).map(|(k, _)| k);
        key.and_then(|k| find(Level::Global, k)).is_some_and(|s| matches!(s.preset, Preset::Is(_)))
    };
    let on: Vec<&str> = text.lines().map(|l| if is_default(l) { &l[1..] } else { l }).collect();
    let (mut plain, mut stated) = (toml(&text).unwrap(), toml(&on.join("\n")).unwrap());
    for config in [&mut plain, &mut stated] {
        config.origin.clear();
        config.notes.settings.values_mut().for_each(|e| e.stated = true);
    }
    assert_eq!(plain, stated);
}

#[test]
fn every_file_in_config_loads() {
    let mut loaded = 0;
    for entry in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "toml" || e == "ini") {
            let config =
                load(&path, &Overrides::default()).unwrap_or_else(|e| panic!("{}: {e:#?}", path.display()));
            let mut warnings = config.notes.warnings;
            // Their passwords are examples, which everybody may read.
            warnings.retain(|w| !w.contains("everybody on this machine can read it"));
            assert_eq!(warnings, Vec::<String>::new());
            loaded += 1;
        }
    }
    assert!(loaded >= 3);
}

#[test]
fn the_summary_adds_up() {
    let config = load(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/config/production.toml")),
        &Overrides::default(),
    )
    .unwrap();
    let text = summary(&config);
    assert!(text.contains("app/web/primary: 40 + 5, 10; transaction mode"), "{text}");
    // 3 users of 45 each, but max_host_connections is 80.
    assert!(text.contains("db1.internal:5432: 80"), "{text}");
    assert!(text.contains("backlog = 4096: a deploy"), "{text}");
    assert!(!text.contains("log_format ="), "{text}");
}

#[test]
fn a_restart_is_asked_for_only_where_it_is_needed() {
    let old = toml(MINIMAL).unwrap();
    let new = toml(&format!("workers = 3\nquery_timeout = \"1s\"\nbacklog = 4096\n{MINIMAL}")).unwrap();
    assert_eq!(restart_needed(&old, &new), ["workers"]);
}

proptest::proptest! {
    /// Whatever is written, the answer is a configuration or its problems.
    #[test]
    fn no_text_panics(text in "[a-z_\\[\\]={}\", \n0-9.:'*;%/#]{0,200}") {
        let _ = in_dir("howdah.toml", &format!("{text}\n{MINIMAL}"), &[], &Overrides::default());
        let _ = ini(&format!("[pgbouncer]\n[databases]\n{text}"));
        let flags = Flags { database: format!("postgres://{text}").into(), pool_size: Some(1), ..Flags::default() };
        let _ = from_flags(&flags, &Overrides::default());
    }
}

#[test]
fn timeouts_of_servers_are_stated_at_every_level() {
    let config = toml(
        r#"
listen = ["127.0.0.1:6432"]
server_connect_timeout = "5s"
client_login_timeout = "20s"
tcp_keepalive_idle = "60s"
[users.app]
password = "x"
cancel_wait_timeout = "2s"
[databases.app]
host = "127.0.0.1"
pool_size = 5
server_login_retry = "1s"
tcp_user_timeout = "3s"
[[pools]]
database = "app"
user = "app"
server_connect_timeout = "1s"
client_login_timeout = "7s"
"#,
    )
    .unwrap();
    let s = config.pool_settings(&config.databases["app"], "app", Role::Primary);
    let secs = Duration::from_secs;
    assert_eq!((s.server_connect_timeout, s.cancel_wait_timeout), (secs(1), secs(2)));
    assert_eq!((s.server_login_retry, s.client_login_timeout), (secs(1), secs(7)));
    assert_eq!((s.keepalive.idle, s.keepalive.user_timeout), (Some(secs(60)), Some(secs(3))));
    assert_eq!(config.pool.server_connect_timeout, secs(5));
    assert_eq!(
        (config.listen.tcp_keepalive.idle, config.listen.tcp_keepalive.user_timeout),
        (Some(secs(60)), None)
    );
}

#[test]
fn every_key_of_pgbouncer_is_read() {
    let text = "[databases]\n* = host=/run,@abstract,db port=7 dbname=one load_balance_hosts=disable\nfixed = host=db\n\
                [peers]\n3 = host=/run/three pool_size=4\n4 = host=four port=7000\n\
                [pgbouncer]\nauth_file = userlist.txt\nlisten_addr = *, ::1\nlisten_port = 0x1935\n\
                logfile = a.log\npidfile = b.pid\nverbose = 2\nuser = nobody\nsyslog = 1\nsyslog_facility = local3\n\
                so_reuseport = 1\npeer_id = 2\nserver_check_query = select 1\nserver_check_delay = 0\n\
                server_round_robin = 1\nserver_fast_close = 1\nserver_reset_query_always = 1\n\
                autodb_idle_timeout = 0\nquery_wait_notify = 0.5\npool_idle_timeout = 60\ndisable_pqexec = 1\n\
                application_name_add_host = 1\ntrack_extra_parameters = search_path, IntervalStyle\n\
                max_prepared_statements = 0\ndefault_pool_size = 0\ndns_nxdomain_ttl = 15\nlogin_notify_message = hi\n\
                tcp_defer_accept = 0\ntcp_socket_buffer = 4096\nunix_socket_group = staff\nlog_pooler_errors = 0\n";
    let config = ini(text).unwrap();
    let c = &config.compat;
    let listen: Vec<String> = config.listen.tcp.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["0.0.0.0:6453", "[::]:6453", "[::1]:6453"]);
    assert_eq!(config.listen.unix_port, Some(6453));
    assert_eq!(c.process.log_file.as_deref(), Some(Path::new("a.log")));
    assert_eq!((c.process.run_as.as_deref(), c.process.syslog_facility.as_str()), (Some("nobody"), "local3"));
    assert_eq!(c.peers.own, 2);
    assert_eq!(c.peers.others[&3], HostAddr::Unix { dir: "/run/three".into(), port: 6432 });
    assert_eq!(c.peers.others[&4], tcp("four", 7000));
    assert_eq!(c.servers.check_query.as_deref(), Some("select 1"));
    assert_eq!(c.servers.wait_notify, Some(Duration::from_millis(500)));
    assert_eq!((c.login.autodb_idle, c.login.extra_parameters.len()), (None, 2));
    assert_eq!((config.limits.max_prepared_statements, config.pool.size), (0, 100_000));
    let any = config.database("any").unwrap();
    assert_eq!((any.name.as_str(), any.dbname.as_str(), any.load_balance), ("any", "one", false));
    assert_eq!(any.roles[&Role::Primary].hosts.len(), 3);
    assert!(config.database("fixed").unwrap().load_balance);
    assert!(ini("[databases]\n* =\n[pgbouncer]\n").unwrap().database("x").unwrap().dbname == "x");
}

#[test]
fn a_toml_may_ask_for_pgbouncers_ways() {
    let text = "compatibility = \"pgbouncer\"\nlisten = \"127.0.0.1:6432\"\n[databases.app]\nhost = \"h\"\n";
    let config = toml(text).unwrap();
    assert_eq!((config.profile, config.pool.mode), (Profile::PgBouncer, PoolMode::Session));
    let told =
        in_dir("pgbouncer.ini", "[pgbouncer]\n", &[], &Overrides::default().flag("compatibility", "native"));
    assert!(told.unwrap_err().iter().any(|e| e.to_string().contains("howdah convert")));
}

/// The password with which a directory is searched is a secret like any other.
#[test]
fn the_directory_s_password_is_shown_nowhere() {
    let rules = "local all all md5 ldapbindpasswd=hunter3\nlocal all all md5 ldapbindpasswd=x hunter3\n";
    let stated = "auth_ldap_options = 'ldapserver=x ldapbasedn=y ldapbindpasswd=hunter3'\n";
    let config = toml(&format!("{stated}{MINIMAL}")).unwrap();
    let shown = [format!("{config:?}"), summary(&config)];
    assert!(shown.iter().all(|t| !t.contains("hunter3")), "{shown:?}");
    let spaced = format!("auth_method = 'ldap'\nauth_ldap_options = 'ldapbindpasswd=x hunter3'\n{MINIMAL}");
    let by_rules = format!("auth_method = 'hba'\nauth_hba_file = 'rules'\n{MINIMAL}");
    for text in [spaced, by_rules] {
        let errors = in_dir("howdah.toml", &text, &[("rules", rules)], &Overrides::default()).unwrap_err();
        assert!(errors.iter().all(|e| !e.to_string().contains("hunter3")), "{errors:?}");
    }
}

/// Whoever states a file of rules or of TLS wants it in force: without the word that puts it in force there is no start,
/// and where that word says something else, a warning.
#[test]
fn nothing_that_guards_is_stated_in_vain() {
    for (stated, word, off) in [
        ("auth_hba_file = 'rules'", "auth_method", "scram-sha-256"),
        ("server_tls_ca = 'ca.crt'", "server_tls_mode", "disable"),
        ("client_tls_cert = 'c.crt'\nclient_tls_key = 'c.key'", "client_tls_mode", "disable"),
    ] {
        let read = |text: &str| in_dir("howdah.toml", text, &[("rules", "")], &Overrides::default());
        let why = read(&format!("{stated}\n{MINIMAL}")).unwrap_err();
        assert!(why.len() == 1 && why[0].to_string().contains(word), "{why:?}");
        let config = read(&format!("{stated}\n{word} = '{off}'\n{MINIMAL}")).unwrap();
        assert!(config.notes.warnings.iter().any(|w| w.contains(word)), "{:?}", config.notes.warnings);
    }
    let config =
        ini("[databases]\n* = host=db\n[pgbouncer]\nlisten_addr = 127.0.0.1\nauth_file = userlist.txt\n\
                      client_tls_ca_file = ca.crt\n")
        .unwrap();
    assert!(
        config.notes.warnings.iter().any(|w| w.contains("client_tls_mode")),
        "{:?}",
        config.notes.warnings
    );
}

/// Behind a pgbouncer.ini any server is answered, and it is told where nothing vouches for one.
#[test]
fn servers_that_nothing_vouches_for_are_warned_of_behind_an_ini() {
    let told = |hosts: &[&str], more: &str| {
        let databases: String =
            hosts.iter().enumerate().map(|(n, h)| format!("d{n} = host={h} port=5432\n")).collect();
        let text = format!("[databases]\n{databases}[pgbouncer]\nlisten_addr = 127.0.0.1\n{more}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgbouncer.ini");
        fs::write(&path, text).unwrap();
        let config = load(&path, &Overrides::default()).unwrap();
        config
            .notes
            .warnings
            .iter()
            .filter(|w| w.contains("nothing vouches for"))
            .cloned()
            .collect::<Vec<_>>()
    };
    let local = ["localhost", "127.0.0.1", "/tmp"];
    assert_eq!(told(&local, ""), Vec::<String>::new());
    let far = told(&["127.0.0.1", "db.internal", "10.0.0.9"], "");
    assert!(far.len() == 1 && far[0].contains("10.0.0.9:5432 and 1 more"), "{far:?}");
}

/// OpenSSL's words for ciphers, addresses beyond their masks and `auth_type = any`: PgBouncer starts with them, and so is it
/// here, with a warning for each.
#[test]
fn what_pgbouncer_takes_of_an_ini_is_taken_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    write("hba", "host all all 10.1.2.3/8 trust\nhost all all 10.0.0.0/8 md5\n");
    write("users", "\"app\" \"x\"\n");
    let load = |main: &str| {
        let at = dir.path().display();
        write(
            "pgbouncer.ini",
            &format!(
                "[databases]\napp = host=127.0.0.1 user=app\nbare = host=127.0.0.1\n[pgbouncer]\nlisten_addr = 127.0.0.1\nauth_file = {at}/users\n{main}"
            ),
        );
        load(&dir.path().join("pgbouncer.ini"), &Overrides::default()).unwrap()
    };
    let ciphers =
        load("client_tls_ciphers = HIGH:!aNULL:!ECDSA\nserver_tls_ciphers = ECDHE-RSA-AES256-GCM-SHA384");
    let in_force =
        ["ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305"];
    assert_eq!(ciphers.tls.client.ciphers[3..], in_force);
    assert_eq!(ciphers.tls.server.ciphers[3..], in_force[..1], "a plain list is taken as it is");
    let [told] = &ciphers.notes.warnings[..] else { panic!("{:?}", ciphers.notes.warnings) };
    assert!(told.contains("client_tls_ciphers") && told.contains(&in_force.join(",")), "{told}");
    let hba = load(&format!("auth_type = hba\nauth_hba_file = {}/hba", dir.path().display()));
    assert_eq!(hba.access.hba.rules.len(), 1, "the other fits nobody");
    assert!(hba.notes.warnings.iter().any(|w| w.contains("hba:1") && w.contains("does not match its mask")));
    let any = load("auth_type = any");
    let [told] = &any.notes.warnings[..] else { panic!("{:?}", any.notes.warnings) };
    assert!(told.contains("under any name") && told.ends_with("the server's user: bare"), "{told}");
}
