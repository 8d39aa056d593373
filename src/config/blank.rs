//! A configuration before anything is put into it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::compat::Compat;
use super::resolved::{
    Access, AuthMethod, Capacity, CapacityCheck, ChannelBinding, Config, Drain, Fleet, Keepalive, Limits,
    Listen, LogFormat, Notes, PoolMode, PoolSettings, Process, Profile, SessionState, Tls, TlsFiles,
};
use crate::session_state::Ways;
use crate::tls::Mode;

const KEEPALIVE: Keepalive =
    Keepalive { enabled: true, idle: None, interval: None, count: None, user_timeout: None };

const SESSION: SessionState = SessionState {
    ways: Ways::RESET,
    always: false,
    check_timeout: Duration::ZERO,
    max_pins: None,
    pin_idle: None,
};

/// The shape before any default is put in; every field is overwritten by its declaration's default.
pub(super) fn blank(origin: &str, profile: Profile) -> Config {
    Config {
        origin: origin.to_owned(),
        profile,
        listen: Listen {
            tcp: Vec::new(),
            unix_dir: None,
            unix_port: None,
            unix_mode: 0o700,
            backlog: 0,
            ops: None,
            tcp_keepalive: KEEPALIVE,
        },
        process: Process {
            workers: 1,
            log_format: LogFormat::Text,
            log_level: String::new(),
            log_connections: true,
            log_disconnections: true,
            drain: Drain::Clients,
            drain_timeout: Duration::ZERO,
            stats_period: None,
            advice_interval: None,
            ops_token: None,
            ops_hosts: Vec::new(),
            ready_requires: Vec::new(),
            exporter_names: false,
            query_statistics: 0,
        },
        auth_method: AuthMethod::ScramSha256,
        access: Access::default(),
        admin_users: Vec::new(),
        stats_users: Vec::new(),
        tls: Tls {
            client: blank_tls(),
            server: blank_tls(),
            ops: blank_tls(),
            direct: false,
            cleartext: false,
            binding: ChannelBinding::Prefer,
            acceptor: None,
            connector: None,
            ops_acceptor: None,
        },
        pool: blank_pool(),
        limits: Limits {
            max_client_connections: 0,
            max_database_client_connections: None,
            max_user_client_connections: None,
            reserved_client_connections: 0,
            max_login_connections: 0,
            max_login_failures: 0,
            max_parallel_connects: 0,
            max_cancels_in_flight: 0,
            client_write_timeout: None,
            max_message_size: 0,
            max_statement_size: 0,
            max_prepared_statements: 0,
            max_client_statements: None,
            max_client_statement_memory: 0,
            listen_buffer: 0,
            max_server_statement_memory: 0,
            max_statement_memory: 0,
            buffer_size: 0,
            server_repair_timeout: Duration::ZERO,
            monitor_interval: Duration::ZERO,
            dns_check_interval: None,
        },
        capacity: Capacity {
            instances: 1,
            safety_margin: 1000,
            check: CapacityCheck::Refuse,
            startup_requires_server: false,
            interval: None,
        },
        fleet: Fleet {
            budget: None,
            name: String::new(),
            minimum: 1,
            database: String::new(),
            control_timeout: Duration::ZERO,
        },
        users: BTreeMap::new(),
        databases: BTreeMap::new(),
        autodb: None,
        compat: Compat::default(),
        ignore_startup_parameters: Vec::new(),
        notes: Notes::default(),
    }
}

fn blank_tls() -> TlsFiles {
    TlsFiles {
        mode: Mode::Disable,
        cert: None,
        key: None,
        ca: None,
        protocols: Vec::new(),
        ciphers: Vec::new(),
    }
}

pub(super) fn blank_pool() -> PoolSettings {
    PoolSettings {
        mode: PoolMode::Transaction,
        size: 0,
        min_size: 0,
        reserve_size: 0,
        share: 1,
        expected_tps: None,
        expected_duration: None,
        auto: false,
        shed_load: false,
        reserve_delay: Duration::ZERO,
        query_timeout: None,
        transaction_timeout: None,
        idle_transaction_timeout: None,
        slow_query_threshold: None,
        slow_query_sample_percent: 100,
        leak_threshold: None,
        leak_end: false,
        finish_for_gone: false,
        query_wait_timeout: None,
        client_idle_timeout: None,
        cancel_wait_timeout: Duration::ZERO,
        server_connect_timeout: Duration::ZERO,
        server_login_retry: Duration::ZERO,
        client_login_timeout: Duration::ZERO,
        keepalive: KEEPALIVE,
        server_lifetime: None,
        server_idle_timeout: None,
        startup: Vec::new(),
        on_connect: Vec::new(),
        reset_query: String::new(),
        reset_state: true,
        session: SESSION,
        require_auth: Vec::new(),
    }
}
