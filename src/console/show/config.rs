//! SHOW CONFIG: PgBouncer's keys in PgBouncer's notation, then settings that only Howdah has.

use std::time::Duration;

use crate::config::Kind;
use crate::config::resolved::Config;
use crate::config::setting::{Level, Reload, Setting};
use crate::config::settings::SETTINGS;
use crate::config::units::{parse_bytes, parse_duration};
use crate::console::rows::{Column, Row, own, row, text};
use crate::console::view::{PGBOUNCER, View};

pub(in crate::console) const CONFIG: &[Column] =
    &[text("key"), text("value"), text("default"), text("changeable"), own(text("native_key"))];

const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM \
                          pg_authid WHERE rolname=$1 AND rolcanlogin";

/// PgBouncer's keys in its order, their defaults, and whether they can be changed while it runs.
#[rustfmt::skip]
const KEYS: &[(&str, &str, bool)] = &[
    ("admin_users", "", true), ("application_name_add_host", "0", true), ("auth_dbname", "", true),
    ("auth_file", "", true), ("auth_hba_file", "", true), ("auth_ident_file", "", true),
    ("auth_ldap_options", "", true), ("auth_query", AUTH_QUERY, true), ("auth_type", "md5", true),
    ("auth_user", "", true), ("autodb_idle_timeout", "3600", true), ("cancel_wait_timeout", "10", true),
    ("client_idle_timeout", "0", true), ("client_login_timeout", "60", true),
    ("client_tls13_ciphers", "", true), ("client_tls_ca_file", "", true), ("client_tls_cert_file", "", true),
    ("client_tls_ciphers", "default", true), ("client_tls_dheparams", "auto", true),
    ("client_tls_ecdhcurve", "auto", true), ("client_tls_key_file", "", true),
    ("client_tls_protocols", "secure", true), ("client_tls_sslmode", "disable", true),
    ("conffile", "", true), ("default_pool_size", "20", true), ("disable_pqexec", "0", false),
    ("dns_max_ttl", "15", true), ("dns_nxdomain_ttl", "15", true), ("dns_zone_check_period", "0", true),
    ("idle_transaction_timeout", "0", true), ("ignore_startup_parameters", "", true),
    ("job_name", "pgbouncer", false), ("listen_addr", "", false), ("listen_backlog", "128", false),
    ("listen_port", "6432", false), ("log_connections", "1", true), ("log_disconnections", "1", true),
    ("log_pooler_errors", "1", true), ("log_stats", "1", true), ("logfile", "", true),
    ("max_client_conn", "100", true), ("max_db_client_connections", "0", true),
    ("max_db_connections", "0", true), ("max_packet_size", "2147483647", true),
    ("max_prepared_statements", "200", true), ("max_user_client_connections", "0", true),
    ("max_user_connections", "0", true), ("min_pool_size", "0", true), ("peer_id", "0", true),
    ("pidfile", "", false), ("pkt_buf", "4096", false), ("pool_mode", "session", true),
    ("query_timeout", "0", true), ("query_wait_notify", "5", true), ("query_wait_timeout", "120", true),
    ("reserve_pool_size", "0", true), ("reserve_pool_timeout", "5", true), ("resolv_conf", "", false),
    ("sbuf_loopcnt", "5", true), ("scram_iterations", "4096", true), ("server_check_delay", "30", true),
    ("server_check_query", "<empty>", true), ("server_connect_timeout", "15", true),
    ("server_fast_close", "0", true), ("server_idle_timeout", "600", true), ("server_lifetime", "3600", true),
    ("server_login_retry", "15", true), ("server_reset_query", "DISCARD ALL", true),
    ("server_reset_query_always", "0", true), ("server_round_robin", "0", true),
    ("server_tls13_ciphers", "", true), ("server_tls_ca_file", "", true), ("server_tls_cert_file", "", true),
    ("server_tls_ciphers", "default", true), ("server_tls_key_file", "", true),
    ("server_tls_protocols", "secure", true), ("server_tls_sslmode", "prefer", true),
    ("so_reuseport", "0", false), ("stats_period", "60", true), ("stats_users", "", true),
    ("suspend_timeout", "10", true), ("syslog", "0", true), ("syslog_facility", "daemon", true),
    ("syslog_ident", "pgbouncer", true), ("tcp_defer_accept", "1", true), ("tcp_keepalive", "1", true),
    ("tcp_keepcnt", "0", true), ("tcp_keepidle", "0", true), ("tcp_keepintvl", "0", true),
    ("tcp_socket_buffer", "0", true), ("tcp_user_timeout", "0", true),
    ("track_extra_parameters", "IntervalStyle", false), ("transaction_timeout", "0", true),
    ("unix_socket_dir", "/tmp", false), ("unix_socket_group", "", false), ("unix_socket_mode", "0777", false),
    ("user", "", false), ("verbose", "0", true),
];

pub(in crate::console) fn config(view: &View) -> Vec<Row> {
    let config = &view.config;
    let mut rows: Vec<Row> = KEYS
        .iter()
        .map(|(key, default, changeable)| {
            let setting = named(key);
            let value = value(config, key, setting).unwrap_or_else(|| (*default).to_owned());
            let changeable = setting.map_or(*changeable, |s| *changeable && s.reload != Reload::Restart);
            row![*key, value, *default, yes(changeable), setting.map(|s| s.key)]
        })
        .collect();
    let native = config.profile == crate::config::resolved::Profile::Native || &*view.console != PGBOUNCER;
    if native {
        // Settings that PgBouncer has no word for, under their own names and in their own notation.
        for s in SETTINGS.iter().filter(|s| is_global(s) && s.pgbouncer.main.is_none()) {
            let Some(effective) = config.notes.settings.get(s.key) else { continue };
            let default = match s.preset {
                crate::config::setting::Preset::Is(text) => text,
                _ => "",
            };
            let changeable = yes(s.reload != Reload::Restart);
            rows.push(row![s.key, unquoted(&effective.value), default, changeable, s.key]);
        }
    }
    rows
}

fn is_global(s: &Setting) -> bool {
    s.levels.contains(&Level::Global)
}

fn yes(b: bool) -> &'static str {
    if b { "yes" } else { "no" }
}

/// The setting that PgBouncer calls so.
fn named(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| is_global(s) && s.pgbouncer.main == Some(key))
}

/// What is in force, in PgBouncer's notation.
fn value(config: &Config, key: &str, setting: Option<&Setting>) -> Option<String> {
    let tcp = &config.listen.tcp;
    match key {
        "listen_addr" => {
            return Some(tcp.iter().map(|a| a.ip().to_string()).collect::<Vec<_>>().join(","));
        }
        "listen_port" => return Some(tcp.first().map_or(6432, std::net::SocketAddr::port).to_string()),
        "conffile" => return Some(config.origin.clone()),
        "log_stats" => return Some(u8::from(config.process.stats_period.is_some()).to_string()),
        _ => {}
    }
    let setting = setting?;
    let effective = config.notes.settings.get(setting.key)?;
    Some(in_pgbouncers_notation(setting, &unquoted(&effective.value)))
}

fn in_pgbouncers_notation(setting: &Setting, value: &str) -> String {
    match setting.kind {
        Kind::Boolean => if value == "true" { "1" } else { "0" }.to_owned(),
        Kind::Duration { .. } | Kind::Timeout { .. } => {
            let Ok(d) = parse_duration(value) else { return value.to_owned() };
            let zero = setting.pgbouncer.zero.and_then(|z| parse_duration(z).ok());
            if zero == Some(d) {
                return "0".to_owned();
            }
            if setting.pgbouncer.millis { d.as_millis().to_string() } else { seconds(d) }
        }
        Kind::Bytes { .. } => parse_bytes(value).map_or_else(|_| value.to_owned(), |n| n.to_string()),
        _ => value.to_owned(),
    }
}

/// `2.5`, and `30` without a fraction.
fn seconds(d: Duration) -> String {
    let us = d.subsec_micros();
    if us == 0 {
        return d.as_secs().to_string();
    }
    format!("{}.{us:06}", d.as_secs()).trim_end_matches('0').to_owned()
}

/// A value as TOML, without TOML's quotes and brackets.
fn unquoted(value: &str) -> String {
    let inner = |v: &str| v.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(v).to_owned();
    match value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
        Some(list) => list.split(", ").map(inner).collect::<Vec<_>>().join(", "),
        None => inner(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key that an ini may have and a setting takes is shown under its name.
    #[test]
    fn no_key_is_left_out() {
        // Read, but not among the keys that 1.25 shows.
        const LATER: [&str; 2] = ["login_notify_message", "pool_idle_timeout"];
        let shown: Vec<&str> = KEYS.iter().map(|k| k.0).collect();
        for s in SETTINGS.iter().filter(|s| is_global(s)) {
            if let Some(key) = s.pgbouncer.main.filter(|k| !LATER.contains(k)) {
                assert!(shown.contains(&key), "{key}");
            }
        }
        assert!(KEYS.windows(2).all(|w| w[0].0 < w[1].0), "in order");
    }

    #[test]
    fn values_as_pgbouncer_writes_them() {
        let of = |key: &str, value: &str| in_pgbouncers_notation(named(key).expect("a setting"), value);
        assert_eq!(of("query_timeout", "30s"), "30");
        assert_eq!(of("query_wait_timeout", "2500ms"), "2.5");
        assert_eq!(of("log_connections", "true"), "1");
        assert_eq!(of("pkt_buf", "4kB"), "4096");
        assert_eq!(of("tcp_user_timeout", "2s"), "2000");
        assert_eq!(of("client_login_timeout", "365d"), "0");
        assert_eq!(unquoted("[\"a\", \"b\"]"), "a, b");
        assert_eq!(unquoted("\"30s\""), "30s");
    }
}
