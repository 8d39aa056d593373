//! No secret of a configuration is told, whichever setting it is in and whatever goes wrong.

use std::path::Path;

use super::hidden::PLACEHOLDER;
use super::resolved::Config;
use super::setting::{Level, Reload, Setting};
use super::settings::SETTINGS;
use super::value::Kind;
use super::{
    ConfigError, Flags, Overrides, convert, from_flags, load, restart_needed, summary, with_setting,
};

const MARK: &str = "hunter2marker";
const MINIMAL: &str = "listen = [\"127.0.0.1:6432\"]\nauth_method = \"trust\"\n";
const DATABASE: &str = "[databases.app]\nhost = \"db\"\npool_size = 2\n";

fn secrets() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|s| s.is_secret())
}

fn read(name: &str, text: &str) -> Result<Config, Vec<ConfigError>> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join(name);
    std::fs::write(&path, text).expect("a file");
    load(&path, &Overrides::default())
}

/// The value of this setting at this level, and all else that there must be.
fn toml(s: &Setting, level: Level, value: &str) -> String {
    let line = format!("{} = {value}\n", s.key);
    match level {
        Level::Global => format!("{MINIMAL}{line}{DATABASE}"),
        Level::User => format!("{MINIMAL}{DATABASE}[users.app]\n{line}"),
        Level::Database => format!("{MINIMAL}{DATABASE}user = \"app\"\n{line}"),
        other => panic!("{} is secret at {other:?}: say here how it is stated", s.key),
    }
}

/// All that is printed of a configuration that is in force.
fn shown(config: &Config) -> String {
    let settings: String = config.notes.settings.values().map(|e| format!("{e:?}\n")).collect();
    format!("{config:?}\n{}\n{settings}\n{}", summary(config), config.notes.warnings.join("\n"))
}

#[test]
fn the_settings_that_hold_secrets_are_flagged() {
    let all: Vec<&str> = secrets().map(|s| s.key).collect();
    assert_eq!(all, ["ops_token", "auth_ldap_options", "scram_mock_secret", "password"]);
}

/// Whoever adds a setting whose value is SQL or a parameter of a session gives it such a type.
#[test]
fn the_settings_that_may_hold_secrets_are_known_by_their_types() {
    let all: Vec<&str> =
        SETTINGS.iter().filter(|s| s.may_hold_secret() && !s.is_secret()).map(|s| s.key).collect();
    assert_eq!(all, ["auth_query", "server_check_query", "startup", "on_connect", "reset_query"]);
    for s in SETTINGS.iter().filter(|s| s.key.ends_with("_query") || s.key.contains("statement_")) {
        let counts =
            matches!(s.kind, Kind::Boolean | Kind::Count { .. } | Kind::Limit { .. } | Kind::Bytes { .. });
        assert!(s.may_hold_secret() || counts, "{}", s.key);
    }
}

#[test]
fn no_secret_is_in_what_is_printed_of_a_configuration_or_of_its_errors() {
    for s in secrets() {
        for level in [Level::Global, Level::Database, Level::User].into_iter().filter(|l| s.at(*l)) {
            let good = read("h.toml", &toml(s, level, &format!("\"{MARK}\""))).expect("it is valid");
            assert!(!shown(&good).contains(MARK), "{}", s.key);
            // Of another type, without its end, beside another mistake, and misspelt.
            let bad = [
                toml(s, level, &format!("[\"{MARK}\"]")),
                toml(s, level, &format!("{{ a = \"{MARK}\" }}")),
                toml(s, level, &format!("\"{MARK}")),
                toml(s, level, MARK),
                toml(s, level, &format!("\"{MARK}\"\nnonsense = 1")),
                toml(s, level, &format!("\"{MARK}\"")).replace(s.key, &format!("{}x", s.key)),
                toml(s, level, &format!("\"{MARK}\\u0000\"")),
            ];
            for text in bad {
                if let Err(errors) = read("h.toml", &text) {
                    assert!(!format!("{errors:?}").contains(MARK), "{}: {errors:?}", s.key);
                }
            }
        }
    }
}

#[test]
fn a_set_of_a_secret_tells_nothing_of_it_and_is_known_as_secret() {
    let before = read("h.toml", &format!("{MINIMAL}{DATABASE}")).expect("it is valid");
    let ini =
        "[databases]\napp = host=db password=x\n[pgbouncer]\nlisten_addr = 127.0.0.1\nauth_type = trust\n";
    let behind = read("p.ini", ini).expect("it is valid");
    for s in secrets() {
        for key in [Some(s.key), s.pgbouncer.main].into_iter().flatten() {
            assert!(super::may_hold_secret(key) && !super::is_public(key), "{key}");
            for (config, pgbouncers) in [(&before, false), (&before, true), (&behind, true)] {
                match with_setting(config, key, MARK, pgbouncers) {
                    Ok((new, _)) => {
                        assert!(!shown(&new).contains(MARK), "{key}");
                        assert_eq!(new.notes.settings[s.key].value, format!("\"{PLACEHOLDER}\""), "{key}");
                    }
                    Err(why) => assert!(!why.contains(MARK), "{why}"),
                }
            }
        }
    }
    assert!(!super::is_public("ops_tokn"), "it may be a secret that is misspelt");
    assert!(super::is_public("query_timeout") && super::is_public("verbose"));
}

/// Two secrets look the same wherever they are shown, and are not.
#[test]
fn a_changed_secret_is_noticed() {
    for s in secrets().filter(|s| s.at(Level::Global) && s.reload == Reload::Restart) {
        let of = |value: &str| read("h.toml", &toml(s, Level::Global, value)).expect("it is valid");
        assert_eq!(restart_needed(&of("\"one\""), &of("\"two\"")), [s.key]);
        assert!(restart_needed(&of("\"one\""), &of("\"one\"")).is_empty());
    }
}

#[test]
fn an_ini_is_converted_without_a_word_of_its_passwords_in_the_report() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("p.ini");
    let text = format!(
        "[databases]\napp = host=db user=u password={MARK}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
         auth_type = trust\nauth_ldap_options = ldapserver=h ldapbindpasswd={MARK}\n"
    );
    std::fs::write(&path, &text).expect("a file");
    let done = convert::convert(&path, convert::Aim::Keep).expect("it can be converted");
    assert!(!done.report.contains(MARK), "{}", done.report);
    for bad in [format!("app = host=db password={MARK} {MARK}"), format!("app = host=db password='{MARK}")] {
        std::fs::write(&path, format!("{text}[databases]\n{bad}\n")).expect("a file");
        let errors = convert::convert(&path, convert::Aim::Keep).expect_err("it is broken");
        assert!(!format!("{errors:?}").contains(MARK), "{errors:?}");
    }
}

/// Where a URL is not taken, its password is not repeated.
#[test]
fn the_password_of_a_url_that_stands_in_the_wrong_place_is_not_told() {
    let url = format!("postgres://app:{MARK}@db:5432/app");
    for (key, level) in
        [("host", "[databases.app]\npool_size = 2\n"), ("pool_size", "[databases.app]\nhost = \"h\"\n")]
    {
        let errors =
            read("h.toml", &format!("{MINIMAL}{level}{key} = \"{url}\"\n")).expect_err("it is no such value");
        let told = errors.iter().map(ToString::to_string).collect::<String>();
        assert!(!told.contains(MARK), "{told}");
    }
    let flags = Flags { database: url.as_str().into(), pool_size: None, ..Flags::default() };
    assert!(!format!("{flags:?} {:?}", from_flags(&flags, &Overrides::default())).contains(MARK));
}

/// A password on the command line is in the list of processes.
#[test]
fn the_password_of_a_database_without_a_file_need_not_be_in_its_url() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("password");
    std::fs::write(&file, format!("{MARK}\n")).expect("a file");
    let flags = Flags { database: "postgres://app@db/app".into(), pool_size: Some(2), ..Flags::default() };
    let variable = ("HOWDAH_USERS__APP__PASSWORD".to_owned(), MARK.to_owned());
    for overrides in [
        Overrides::default().flag("users.app.password_file", file.display().to_string()),
        Overrides::from_environment([variable]),
    ] {
        let config = from_flags(&flags, &overrides).unwrap_or_else(|e| panic!("{e:?}"));
        assert_eq!(config.users["app"].secret, Some(super::resolved::Secret::classify(MARK)));
    }
    let errors = from_flags(&flags, &Overrides::default()).expect_err("there is none");
    assert!(errors[0].to_string().contains("users.NAME.password_file=FILE"), "{errors:?}");
}

/// Whoever reads the log or the console need not be the one who may read the file.
#[test]
fn what_is_written_in_a_file_is_told_to_its_owner_alone() {
    let text = format!("{MINIMAL}query_timeout = \"{MARK}\"\n{DATABASE}");
    let errors = read("h.toml", &text).expect_err("it is no duration");
    assert!(errors.iter().any(|e| e.to_string().contains(MARK)), "the owner sees what is wrong");
    assert!(!errors.iter().any(|e| format!("{:?}", e.discreet()).contains(MARK)), "{errors:?}");
    assert!(errors[0].discreet().to_string().contains("query_timeout: expected a whole number and a unit"));
}

/// An included file need not be a configuration at all.
#[test]
fn nothing_of_a_file_that_an_ini_includes_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, other) = (dir.path().join("p.ini"), dir.path().join("other"));
    for content in [
        MARK.to_owned(),
        format!("TOKEN={MARK}"),
        format!("{MARK} = 1"),
        format!("query_timeout = {MARK}"),
        format!("listen_port = {MARK}"),
        format!("listen_addr = {MARK}.invalid:x"),
        format!("log_stats = {MARK}"),
        format!("verbose = {MARK}"),
        format!("[{MARK}]"),
        format!("[{MARK}"),
        format!("%include {MARK}"),
        format!("[databases]\napp = {MARK}"),
        format!("[databases]\napp = host=h {MARK}=x"),
        format!("[users]\napp = {MARK}=x"),
        format!("[peers]\n1 = {MARK}=x"),
    ] {
        std::fs::write(&other, content.clone()).expect("a file");
        let main = format!(
            "[databases]\nx = host=h\n[pgbouncer]\nauth_type = trust\n%include {}\n",
            other.display()
        );
        std::fs::write(&path, main).expect("a file");
        let errors = load(&path, &Overrides::default()).expect_err("no configuration");
        assert!(!format!("{errors:?}").contains(MARK), "{content}: {errors:?}");
    }
}

/// What reads PEM says which line it does not like, and there may be a key in it.
#[test]
fn nothing_of_a_file_that_is_no_certificate_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("file");
    for content in [
        MARK.to_owned(),
        format!("-----BEGIN {MARK}"),
        format!("-----BEGIN {MARK}-----\nAAAA\n"),
        format!("-----BEGIN CERTIFICATE-----\n{MARK}!\n-----END CERTIFICATE-----\n"),
        format!("-----BEGIN CERTIFICATE-----\n{MARK}\n-----END {MARK}-----\n"),
    ] {
        std::fs::write(&file, content).expect("a file");
        for key in ["client_tls_ca", "client_tls_cert", "client_tls_key", "server_tls_ca", "ops_tls_cert"] {
            let others = [
                ("client_tls_cert", "client_tls_key"),
                ("client_tls_key", "client_tls_cert"),
                ("ops_tls_cert", "ops_tls_key"),
            ];
            let other =
                others.iter().find(|(k, _)| *k == key).map_or_else(String::new, |(_, o)| line(o, &file));
            let text = format!(
                "{MINIMAL}client_tls_mode = \"verify-ca\"\nserver_tls_mode = \"verify-ca\"\n{}{other}{DATABASE}",
                line(key, &file)
            );
            let errors = read("h.toml", &text).expect_err("it is no PEM");
            let told = format!("{errors:?}");
            let bytes = format!("{:?}", MARK.as_bytes());
            assert!(!told.contains(MARK) && !told.contains(bytes.trim_matches(['[', ']'])), "{key}: {told}");
        }
    }
}

fn line(key: &str, file: &Path) -> String {
    format!("{key} = \"{}\"\n", file.display())
}
