//! `config/reference.toml`, written from the settings' declarations. It loads as it stands, and is the same
//! configuration with every commented default of the top level switched on.

use std::fmt::Write as _;

use super::raw::Raw;
use super::setting::{Level, Preset, Setting};
use super::settings::SETTINGS;

const HEAD: &str = "\
# Every setting of Howdah. Generated from src/config/settings.rs; do not edit.
#
# A commented setting shows its default, or an example where it has none. Durations need a unit
# (us, ms, s, min, h, d) and so do sizes (B, kB, MB, GB; a kB is 1024 bytes); \"0\" is off where that is possible.
# Every setting can also come from a variable: HOWDAH_QUERY_TIMEOUT=30s at the top level, and in sections
# HOWDAH_DATABASES__APP__POOL_SIZE=20, HOWDAH_DATABASES__APP__REPLICA__HOST=replica1,
# HOWDAH_USERS__APP__PASSWORD=secret, HOWDAH_POOLS__0__POOL_SIZE=5. Variables win over the file, flags over both.
# The settings of a pool are taken from, strongest first: [[pools]] with user and role, with user, with role;
# [users.NAME]; the role's section; [databases.NAME]; the top level.
# Relative paths are relative to this file.
";

/// The reference, whole.
pub fn render() -> String {
    let mut out = HEAD.to_owned();
    section(&mut out, Level::Global, "", &[]);
    section(&mut out, Level::User, "[users.app]", &[("password", "\"change-me\"")]);
    let database = [("host", "\"127.0.0.1\""), ("pool_size", "20"), ("when_no_replica", "\"primary\"")];
    section(&mut out, Level::Database, "[databases.app]", &database);
    section(
        &mut out,
        Level::Role,
        "[databases.app.replica]",
        &[("host", "[\"127.0.0.2\", \"127.0.0.3:5433\"]")],
    );
    out.push_str("\n# [databases.NAME.admin], the servers for administration, has the same settings.\n");
    section(&mut out, Level::Pool, "[[pools]]", &[("database", "\"app\""), ("user", "\"app\"")]);
    section(&mut out, Level::Fleet, "[fleet]", &[]);
    out
}

/// A section: settings that are only here are told in full, those of every level by name.
fn section(out: &mut String, level: Level, header: &str, stated: &[(&str, &str)]) {
    let rule = "-".repeat(100);
    let title = if header.is_empty() { "The top level" } else { header };
    let _ = write!(out, "\n# {rule}\n# {title}\n# {rule}\n");
    if !header.is_empty() {
        let _ = writeln!(out, "{header}");
    }
    let told = |s: &Setting| level != Level::Global && s.at(Level::Global);
    for setting in SETTINGS.iter().filter(|s| s.at(level)) {
        let value = stated.iter().find(|(k, _)| *k == setting.key).map(|(_, v)| *v);
        if !told(setting) {
            describe(out, setting);
        } else if value.is_none() {
            continue;
        }
        match value {
            Some(value) => {
                let _ = writeln!(out, "{} = {value}", setting.key);
            }
            None => {
                let _ = writeln!(out, "#{} = {}", setting.key, example(setting));
            }
        }
    }
    let shared: Vec<&str> = SETTINGS.iter().filter(|s| s.at(level) && told(s)).map(|s| s.key).collect();
    if !shared.is_empty() {
        let _ = writeln!(out, "\n# Also here, with the meaning that they have at the top level:");
        wrap(out, &shared.join(", "));
    }
}

fn describe(out: &mut String, setting: &Setting) {
    out.push('\n');
    wrap(out, &setting.doc.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut facts = vec![format!("Allowed: {}.", setting.kind.allowed())];
    if let Some(unit) = setting.kind.unit() {
        facts.push(format!("Unit: {unit}."));
    }
    facts.push(match setting.preset {
        Preset::Is(_) => format!("Default: {}, since {}.", example(setting), setting.reason),
        Preset::Mandatory => format!("Mandatory: {}.", setting.reason),
        Preset::Unset => format!("If it is not stated: {}.", setting.reason),
    });
    facts.push(format!("Takes effect: {}.", setting.reload.as_str()));
    if setting.at(Level::Global) {
        facts.push(format!("Variable: {}.", setting.variable()));
    }
    let names = setting.pgbouncer.names();
    if !names.is_empty() {
        facts.push(format!("PgBouncer: {}.", names.join(", ")));
    }
    for fact in facts {
        wrap(out, &fact);
    }
}

/// The default as TOML, or an example of what has none.
fn example(setting: &Setting) -> String {
    let read = |text: &str| setting.kind.read(&Raw::Loose(text.to_owned())).map(|v| v.to_toml());
    match setting.preset {
        Preset::Is(text) => read(text).unwrap_or_else(|_| text.to_owned()),
        Preset::Mandatory | Preset::Unset => match setting.key {
            "pool_size" => "20".to_owned(),
            "max_connections" | "max_client_connections" | "max_host_connections" => "0".to_owned(),
            "role" => "\"replica\"".to_owned(),
            "unix_socket_dir" => "\"/run/howdah\"".to_owned(),
            "auth_file" => "\"userlist.txt\"".to_owned(),
            "password_file" => "\"password\"".to_owned(),
            "password_env" => "\"APP_PASSWORD\"".to_owned(),
            "budget" => "60".to_owned(),
            key => format!("\"{key}\""),
        },
    }
}

/// Comment lines of at most 110 columns.
fn wrap(out: &mut String, text: &str) {
    let mut line = "#".to_owned();
    for word in text.split(' ') {
        if line.len() + 1 + word.len() > 110 {
            let _ = writeln!(out, "{line}");
            line = "#".to_owned();
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(out, "{line}");
}
