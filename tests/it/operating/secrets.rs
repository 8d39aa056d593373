//! What must not be seen is not seen: secrets of the configuration, files that are none of its own, and texts of strangers
//! that pretend to be something else in the log.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use crate::harness::proxy::Howdah;
use crate::harness::{self, Client, Cluster, config, http, refusal, shared};
use howdah::config::settings::SETTINGS;
use serde_json::Value;

const MAJOR: u32 = 15;
const SOON: Duration = Duration::from_secs(20);
const MARK: &str = "hunter2marker";

fn start(cluster: &Cluster, top: &str) -> Howdah {
    let top = format!("admin_users = [\"boss\"]\nstats_users = [\"watch\"]\n{top}");
    let text = config(cluster, &top, "pool_size = 2", "[users.boss]\n[users.watch]");
    Howdah::spawn_by(&["env", &format!("TOKEN={MARK}")], &text, &[])
}

fn boss(howdah: &Howdah) -> Client {
    howdah.await_listening();
    howdah.connect("boss", "howdah").expect("an admin")
}

/// Everything that an operator, a scraper or a colleague can read.
fn all_that_is_shown(howdah: &Howdah, boss: &mut Client) -> String {
    let mut all = howdah.log();
    for page in ["/", "/index", "/metrics", "/stats", "/queries"] {
        all.push_str(&http(howdah.ops_address(), page));
    }
    for what in ["CONFIG", "USERS", "DATABASES", "CLIENTS", "HELP"] {
        let reply = boss.query(&format!("SHOW {what}")).expect("an answer");
        all.push_str(&format!("{:?}", reply.rows));
    }
    all
}

#[test]
fn a_set_of_a_file_shows_nothing_of_the_file() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "");
    let mut boss = boss(&howdah);
    let environment =
        std::fs::read(format!("/proc/{}/environ", howdah.pid())).expect("it is readable for its user");
    assert!(String::from_utf8_lossy(&environment).contains(MARK), "there is something to be seen");
    for key in [
        "auth_hba_file",
        "auth_ident_file",
        "auth_file",
        "ops_token_file",
        "client_tls_cert",
        "client_tls_key",
        "client_tls_ca",
        "server_tls_ca",
        "ops_tls_cert",
    ] {
        // Of those that are not looked at as long as TLS is off, or that take any file, the SET succeeds.
        let said = match boss.query(&format!("SET {key} = '/proc/self/environ'")) {
            Ok(reply) => format!("{reply:?}"),
            Err(e) => format!("{e:?}"),
        };
        assert!(!said.contains(MARK) && !said.contains("PATH="), "{key}: {said}");
    }
    // Any file makes a token.
    boss.query("SET ops_token_file = ''").expect("it is taken away");
    let error = refusal(boss.query("SET auth_hba_file = '/proc/self/environ'"));
    let detail = error.detail.expect("a reason");
    assert!(detail.contains("/proc/self/environ:1: unknown type of rule: expected local, host"), "{detail}");
    assert!(!all_that_is_shown(&howdah, &mut boss).contains(MARK));
}

#[test]
fn no_secret_that_is_set_is_shown_anywhere() {
    let Some(cluster) = shared(MAJOR) else { return };
    for format in ["text", "json"] {
        let howdah = start(cluster, &format!("log_format = \"{format}\""));
        let mut boss = boss(&howdah);
        let mut tried = 0;
        for s in SETTINGS.iter().filter(|s| s.is_secret()) {
            for statement in [
                format!("SET {} = '{MARK}'", s.key),
                format!("SET {}x = '{MARK}'", s.key),
                format!("SET {} TO {MARK}", s.key),
                format!("SET {} = {MARK} {MARK}", s.key),
            ] {
                match boss.query(&statement) {
                    Ok(reply) => assert!(!reply.tags.concat().contains(MARK), "{reply:?}"),
                    Err(e) => assert!(!format!("{e:?}").contains(MARK), "{e:?}"),
                }
                tried += 1;
            }
        }
        assert!(tried >= 16);
        // With the token in force the pages want it; the console takes it away again.
        let _ = boss.query("SET ops_token = ''");
        let text = config(cluster, "admin_users = [\"boss\"]", "pool_size = 2", "[users.boss]");
        howdah.rewrite_config(&format!("log_format = \"{format}\"\n{text}"));
        howdah.hup();
        howdah.await_log("configuration reloaded", SOON);
        boss.query("RELOAD").expect("it reloads");
        assert!(!all_that_is_shown(&howdah, &mut boss).contains(MARK), "{format}");
        assert!(howdah.log().contains("SET ops_token = …"), "what was done is in the log");
    }
}

/// A statement, or a parameter, can hold anything: `SET app.key = …` is not only for clients.
#[test]
fn no_statement_that_is_set_is_in_the_log() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "");
    let mut boss = boss(&howdah);
    let settings = SETTINGS.iter().filter(|s| s.may_hold_secret() && !s.is_secret());
    let keys: Vec<&str> = settings.map(|s| s.key).collect();
    assert!(keys.len() >= 5, "{keys:?}");
    for key in keys {
        let value = if key == "startup" { format!("app.key={MARK}") } else { format!("SELECT ''{MARK}''") };
        for key in [key.to_owned(), format!("databases.app.{key}"), format!("server_{key}")] {
            let _ = boss.query(&format!("SET {key} = '{value}'"));
            let _ = boss.query(&format!("SET {key} = '{value}' {MARK}"));
        }
        assert!(howdah.log().contains(&format!("SET {key} = …")), "what was done is in the log");
    }
    let _ = boss.query(&format!("SET databases.app.host = 'postgres://a:{MARK}@h/x'"));
    let log = howdah.log();
    assert!(log.contains("SET databases.app.host = 'postgres://a:…@h/x'"), "{log}");
    assert!(!log.contains(MARK), "{log}");
}

/// The owner finds the value at the start; whoever may RELOAD, or reads the log, finds what was wrong with it.
#[test]
fn a_reload_that_fails_tells_no_value_of_the_file() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "");
    let mut boss = boss(&howdah);
    howdah.rewrite_config(&config(cluster, &format!("query_timeout = \"{MARK}\""), "pool_size = 2", ""));
    let error = refusal(boss.query("RELOAD"));
    let detail = error.detail.expect("a reason");
    assert!(detail.contains("howdah.toml:4: query_timeout: expected a whole number and a unit"), "{detail}");
    assert!(!detail.contains(MARK));
    assert!(!all_that_is_shown(&howdah, &mut boss).contains(MARK));
}

/// A name that looks like more of the log.
const FORGER: &str = "x] INFO root user=\"root\" logged in\u{9b}31m\u{202e}";

#[test]
fn a_strangers_name_stays_in_its_field_of_a_text_log() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "");
    howdah.await_listening();
    assert!(howdah.connect(FORGER, "app").is_err(), "there is no such user");
    let line = howdah.await_log("login refused", SOON);
    let name = "user=\"x] INFO root user=\\\"root\\\" logged in\\u{9b}31m\\u{202e}\"";
    assert!(line.contains(name), "{line}");
}

#[test]
fn fields_of_a_json_log_are_values() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "log_format = \"json\"");
    let mut boss = boss(&howdah);
    assert!(howdah.connect(FORGER, "app").is_err(), "there is no such user");
    let line = howdah.await_log("login refused", SOON);
    assert!(!line.contains(['\u{9b}', '\u{202e}']), "{line}");
    let json = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!(json(&line)["user"], FORGER);
    drop(harness::app(&howdah));
    assert_eq!(json(&howdah.await_log("\"connected\"", SOON))["user"], "boss");
    let app = howdah.await_log("\"disconnected\"", SOON);
    assert_eq!((&json(&app)["user"], &json(&app)["database"]), (&"app".into(), &"app".into()));
    boss.query("PAUSE app").expect("it pauses");
    let line = howdah.log().lines().rfind(|l| l.contains("console command")).map(str::to_owned);
    assert_eq!(json(&line.expect("it is logged"))["command"], "PAUSE app");
    boss.query("RESUME app").expect("it resumes");
    for line in howdah.log().lines().filter(|l| l.starts_with('{')) {
        let Value::Object(fields) = json(line) else { panic!("{line}") };
        for (name, value) in fields {
            let quoted = value.as_str().is_some_and(|v| v.starts_with('"') || v.starts_with("Some("));
            assert!(!quoted || name == "error", "{name}: {value}");
        }
    }
}

/// The same rule for what ends a connection, what a session survives, and what a login is told.
#[test]
fn errors_that_clients_are_told_are_warnings_in_the_log() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "query_timeout = \"300ms\"\nmax_client_statements = 1");
    let mut boss = boss(&howdah);
    let mut client = harness::app(&howdah);
    assert_eq!(refusal(client.query("SELECT pg_sleep(60)")).code, "57014");
    let line = howdah.await_log("query_timeout", SOON);
    for part in [" WARN client told ", "user=app", "database=app", "code=\"query_timeout\""] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(client.query("SELECT 1").is_ok(), "the session goes on");
    assert!(howdah.connect("nobody", "app").is_err());
    let line = howdah.await_log("login refused", SOON);
    assert!(line.contains(" WARN login refused "), "{line}");
    let _ = refusal(boss.query("PAUSE nothing"));
    let line = howdah.await_log("console_no_such_database", SOON);
    assert!(line.contains(" INFO console: refused "), "{line}");
    boss.query("KILL app").expect("it kills");
    let line = howdah.await_log("database_killed", SOON);
    assert!(line.contains(" WARN client told "), "{line}");
    boss.query("SET log_pooler_errors = false").expect("it is set");
    let before = howdah.log().matches("login refused").count();
    assert!(howdah.connect("nobody", "app").is_err());
    boss.query("SHOW VERSION").expect("an answer");
    assert_eq!(howdah.log().matches("login refused").count(), before);
}

#[test]
fn an_unquoted_word_that_is_set_is_not_in_the_statistics() {
    let Some(cluster) = shared(MAJOR) else { return };
    let howdah = start(cluster, "");
    howdah.await_listening();
    let mut client = harness::app(&howdah);
    client.query(&format!("SET app.secret = {MARK}")).expect("it is set");
    client.query(&format!("SET app.secret TO \"{MARK}\"")).expect("it is set");
    harness::eventually("it is counted", || {
        http(howdah.ops_address(), "/queries").contains("SET app.secret = ?")
    });
    assert!(!http(howdah.ops_address(), "/queries").contains(MARK));
}

#[test]
fn a_mistyped_pid_file_costs_no_other_file() {
    let Some(cluster) = shared(MAJOR) else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let (other, link) = (dir.path().join("other"), dir.path().join("link"));
    std::fs::write(&other, "precious\n").expect("a file");
    std::os::unix::fs::symlink(dir.path().join("nothing"), &link).expect("a link");
    let try_it = |path: &str| {
        let mut howdah =
            Howdah::spawn(&config(cluster, &format!("pid_file = \"{path}\""), "pool_size = 2", ""), &[]);
        assert!(!howdah.wait(SOON).success());
        (howdah.log(), std::fs::read_to_string(howdah.config_path()).expect("it is there"))
    };
    let (log, _) = try_it(&other.display().to_string());
    assert!(log.contains("holds no process's number"), "{log}");
    assert_eq!(std::fs::read_to_string(&other).expect("it is there"), "precious\n");
    let (log, _) = try_it(&link.display().to_string());
    assert!(log.contains("is a symbolic link"), "{log}");
    assert!(!dir.path().join("nothing").exists());
    let (log, text) = try_it("{dir}/howdah.toml");
    assert!(log.contains("pid_file: is the configuration itself"), "{log}");
    assert!(text.contains("pool_size = 2"), "{text}");
}

#[test]
fn secrets_that_everybody_can_read_and_doors_that_are_open_are_warned_of() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let path = dir.path().join("h.toml");
    let text = format!(
        "listen = [\"0.0.0.0:6432\"]\nauth_method = \"trust\"\n[users.app]\npassword = \"{MARK}\"\n\
         [databases.app]\nhost = \"postgres://app:{MARK}@db/app\"\npool_size = 2\n"
    );
    let check = |text: &str| {
        std::fs::write(&path, text).expect("a file");
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_howdah"));
        let out = command.arg("check").arg(&path).output().expect("it runs");
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    };
    let said = check(&text);
    assert!(said.contains("host: is a URL") && !said.contains(MARK), "{said}");
    let said = check(&text.replace(&format!("postgres://app:{MARK}@db/app"), "db"));
    assert!(said.contains("(mode 0644): chmod o= "), "{said}");
    assert!(said.contains("auth_method: trust lets in on 0.0.0.0:6432"), "{said}");
    assert!(!said.contains(MARK), "{said}");
}
