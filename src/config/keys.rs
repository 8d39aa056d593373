//! `docs/src/reference/pgbouncer-keys.md`: what becomes of every key of a `pgbouncer.ini`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::pgbouncer::{ELSEWHERE, STARTUP, WITHOUT_MEANING, WITHOUT_MEANING_ELSEWHERE};
use super::setting::Level;
use super::settings::SETTINGS;

const HEAD: &str = "\
# The keys of a pgbouncer.ini

Generated from `src/config`; do not edit. Every key of PgBouncer 1.25 is here: it works, under the native name that
is given, or its row says why it has no meaning. A key that is not here is refused, as PgBouncer refuses it:
`unknown parameter: pgbouncer/NAME`.
";

/// The table, whole.
pub fn render() -> String {
    let mut out = HEAD.to_owned();
    let mut main: BTreeMap<&str, String> = BTreeMap::new();
    for s in SETTINGS.iter().filter(|s| s.at(Level::Global)) {
        if let Some(name) = s.pgbouncer.main {
            main.insert(name, format!("`{}`", s.key));
        }
    }
    main.extend(ELSEWHERE.iter().map(|(k, what)| (*k, (*what).to_owned())));
    main.extend(WITHOUT_MEANING.iter().map(|(k, why)| (*k, format!("no meaning: {why}"))));
    section(&mut out, "[pgbouncer]", main);

    let mut databases: BTreeMap<&str, String> = BTreeMap::new();
    for s in SETTINGS.iter().filter(|s| s.at(Level::Database)) {
        if let Some(name) = s.pgbouncer.database {
            databases.insert(name, format!("`{}`", s.key));
        }
    }
    databases.insert("reserve_pool", "`reserve_pool_size`".to_owned());
    databases.extend(STARTUP.iter().map(|k| (*k, format!("`startup`, as `{k}`"))));
    section(&mut out, "[databases]", databases);

    let users = SETTINGS.iter().filter(|s| s.at(Level::User));
    let users = users.filter_map(|s| Some((s.pgbouncer.user?, format!("`{}`", s.key))));
    section(&mut out, "[users]", users.collect());

    let mut peers: BTreeMap<&str, String> = ["host", "port"].map(|k| (k, format!("`{k}`"))).into();
    let without = WITHOUT_MEANING_ELSEWHERE.iter().filter(|(section, ..)| *section == "peers");
    peers.extend(without.map(|(_, k, why)| (*k, format!("no meaning: {why}"))));
    section(&mut out, "[peers]", peers);
    out
}

fn section(out: &mut String, title: &str, rows: BTreeMap<&str, String>) {
    let _ = write!(out, "\n## {title}\n\n| key | here |\n|---|---|\n");
    for (key, what) in rows {
        let _ = writeln!(out, "| `{key}` | {what} |");
    }
}

#[cfg(test)]
mod tests {
    /// `UPDATE=1 cargo test` writes the file anew.
    #[test]
    fn the_table_of_keys_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/src/reference/pgbouncer-keys.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, super::render()).unwrap();
        }
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text == super::render(), "run UPDATE=1 cargo test");
    }

    /// Every key of PgBouncer 1.25, of which the table has to know each.
    #[test]
    fn no_key_is_missing() {
        let text = super::render();
        for key in "admin_users application_name_add_host auth_file auth_type autodb_idle_timeout cancel_wait_timeout \
             client_idle_timeout client_login_timeout conffile default_pool_size disable_pqexec dns_max_ttl \
             dns_nxdomain_ttl dns_zone_check_period idle_transaction_timeout ignore_startup_parameters job_name \
             listen_addr listen_backlog listen_port log_connections log_disconnections log_pooler_errors log_stats \
             logfile max_client_conn max_db_client_connections max_db_connections max_packet_size \
             max_prepared_statements max_user_client_connections max_user_connections min_pool_size peer_id pidfile \
             pkt_buf pool_mode query_timeout query_wait_notify query_wait_timeout reserve_pool_size \
             reserve_pool_timeout resolv_conf sbuf_loopcnt server_check_delay server_check_query \
             server_connect_timeout server_fast_close server_idle_timeout server_lifetime server_login_retry \
             server_reset_query server_reset_query_always server_round_robin so_reuseport stats_period syslog \
             syslog_facility syslog_ident tcp_defer_accept tcp_keepalive tcp_keepcnt tcp_keepidle tcp_keepintvl \
             tcp_socket_buffer tcp_user_timeout track_extra_parameters transaction_timeout unix_socket_dir \
             unix_socket_group unix_socket_mode user verbose"
            .split_whitespace()
        {
            assert!(text.contains(&format!("\n| `{key}` | ")), "{key}");
        }
    }
}
