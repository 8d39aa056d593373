//! Every metric: name, type, unit, labels, meaning. What is exported is looked up here, and `docs/src/reference/metrics.md`
//! is generated from it, so that neither can know a metric that the other does not.

use std::fmt::Write as _;

use self::Kind::{Counter, Gauge, Histogram};
use crate::session_state::Kind as Held;

/// What stands before the name of everything that is ours.
pub const PREFIX: &str = "howdah_";

/// The type in Prometheus' words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Where the value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// One series or more for each pool.
    Pool,
    /// Series for databases with several servers only.
    Route,
    /// The last examination of the servers, where `advice_interval` asks for them.
    Advice,
    /// The process as a whole, read at the scrape.
    Process,
    /// [`super::Counters`], with the values of its label that are exported as 0 before they are first counted.
    Event(&'static [&'static str]),
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub unit: &'static str,
    pub labels: &'static [&'static str],
    pub source: Source,
    pub help: &'static str,
}

impl Metric {
    /// The name that [`super::Counters`] knows it by.
    pub fn event(&self) -> Option<&'static str> {
        matches!(self.source, Source::Event(_)).then(|| self.name.strip_prefix(PREFIX)).flatten()
    }
}

const fn pool(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, source: Source::Pool, help }
}

const fn process(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, source: Source::Process, help }
}

const fn route(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, source: Source::Route, help }
}

const fn advice(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, source: Source::Advice, help }
}

const fn event(
    name: &'static str,
    unit: &'static str,
    labels: &'static [&'static str],
    known: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Counter, unit, labels, source: Source::Event(known), help }
}

/// Labels of every metric of a pool.
const POOL: &[&str] = &["database", "user", "role", "host"];
const POOL_STATE: &[&str] = &["database", "user", "role", "host", "state"];
const POOL_DIRECTION: &[&str] = &["database", "user", "role", "host", "direction"];

/// Codes of our own errors; a test compares them with the errors themselves.
pub const CODES: &[&str] = &[
    "client_protocol_violation",
    "unsupported_protocol",
    "statement_too_large",
    "no_pin_left",
    "no_pin_left_behind",
    "session_state_rejected",
    "session_state_rejected_behind",
    "pin_idle_timeout",
    "listener_lost",
    "listen_buffer",
    "session_unknown",
    "too_many_statements",
    "statement_memory",
    "statement_memory_in_all",
    "unnamed_not_kept",
    "unsupported_startup_option",
    "feature_not_supported",
    "transaction_in_statement_mode",
    "transaction_failed",
    "no_user_name",
    "tls_required",
    "authentication_failed",
    "no_hba_rule",
    "hba_reject",
    "identity_unproved",
    "directory_refused",
    "directory_busy",
    "no_such_user",
    "no_forced_user",
    "certificate_required",
    "lookup_failed",
    "too_many_clients",
    "too_many_database_clients",
    "too_many_user_clients",
    "too_many_logins",
    "too_many_failures",
    "unknown_database",
    "client_login_timeout",
    "login_unserved",
    "login_unanswered",
    "client_left",
    "shutting_down",
    "query_wait_timeout",
    "load_shed",
    "no_replica",
    "cancelled_while_waiting",
    "server_unreachable",
    "server_tls_failed",
    "server_login_failed",
    "replication_login_failed",
    "server_auth_unanswerable",
    "server_auth_not_allowed",
    "server_lost",
    "server_protocol_violation",
    "query_timeout",
    "query_timeout_unanswered",
    "transaction_timeout",
    "idle_transaction_timeout",
    "leak_threshold",
    "client_idle_timeout",
    "client_write_timeout",
    "parameter_rejected",
    "admin_shutdown",
    "database_removed",
    "server_replaced",
    "servers_shutting_down",
    "console_not_allowed",
    "database_disabled",
    "database_killed",
    "console_invalid_command",
    "console_bad_arguments",
    "console_needs_admin",
    "console_no_such_database",
    "console_database_required",
    "console_not_the_console",
    "console_already_paused",
    "console_suspend_while_paused",
    "console_not_paused",
    "console_database_not_paused",
    "console_shutting_down",
    "console_client_not_found",
    "console_invalid_client_id",
    "console_set_failed",
    "console_reload_failed",
    "console_no_such_statement",
    "console_no_such_portal",
    "console_statement_exists",
    "console_parameters",
    "console_wait_cancelled",
    "internal_error",
];

/// Those that may end a login.
const LOGIN_CODES: &[&str] = &[
    "client_protocol_violation",
    "unsupported_protocol",
    "unsupported_startup_option",
    "no_user_name",
    "tls_required",
    "authentication_failed",
    "no_hba_rule",
    "hba_reject",
    "identity_unproved",
    "directory_refused",
    "directory_busy",
    "no_such_user",
    "no_forced_user",
    "certificate_required",
    "lookup_failed",
    "too_many_clients",
    "too_many_database_clients",
    "too_many_user_clients",
    "too_many_logins",
    "too_many_failures",
    "unknown_database",
    "client_login_timeout",
    "login_unserved",
    "login_unanswered",
    "shutting_down",
    "query_wait_timeout",
    "server_unreachable",
    "server_tls_failed",
    "server_login_failed",
    "replication_login_failed",
    "server_auth_unanswerable",
    "server_auth_not_allowed",
    "server_lost",
    "server_protocol_violation",
    "console_not_allowed",
    "database_disabled",
    "internal_error",
];

const CLIENT_ENDS: &[&str] = &[
    "admin",
    "client_idle_timeout",
    "client_write_timeout",
    "eof",
    "eof_waiting",
    "idle_transaction_timeout",
    "killed",
    "leak_threshold",
    "not_served",
    "panic",
    "protocol_violation",
    "query_timeout_unanswered",
    "read_error",
    "read_error_waiting",
    "server_lost",
    "server_replaced",
    "terminate",
    "transaction_timeout",
    "write_error",
];

const SERVER_ENDS: &[&str] = &[
    "answer_too_long",
    "check_failed",
    "bad_reset_query",
    "cancel_unanswered",
    "client_left_inside",
    "eof",
    "evicted",
    "excess",
    "idle_eof",
    "idle_error",
    "idle_fatal",
    "idle_flood",
    "idle_partial",
    "idle_timeout",
    "lease_dropped",
    "lifetime",
    "listener_lost",
    "not_clean",
    "parameter_encoding",
    "parameter_source",
    "parameter_timeout",
    "parameters",
    "partial_message",
    "paused",
    "pin_not_reset",
    "pool_closed",
    "protocol",
    "read_failed",
    "reconfigured",
    "reconnect",
    "repair_aborted",
    "repair_timeout",
    "replication_end",
    "reset_failed",
    "role",
    "rollback_failed",
    "server_fatal",
    "server_lost",
    "server_protocol_violation",
    "write_failed",
];

const MARKS: &[&str] = &[
    "SET",
    "RESET",
    "LISTEN",
    "PREPARE",
    "LOAD",
    "DECLARE CURSOR",
    "CREATE TEMP",
    "ADVISORY LOCK",
    "DISCARD ALL",
];

/// Of [`Kind`].
const KINDS: &[&str] = &[
    Held::Statement.label(),
    Held::Channel.label(),
    Held::Temporary.label(),
    Held::Cursor.label(),
    Held::Lock.label(),
];

const TIMEOUTS: &[&str] = &[
    "client_login_timeout",
    "client_idle_timeout",
    "client_write_timeout",
    "query_wait_timeout",
    "query_timeout",
    "query_timeout_unanswered",
    "transaction_timeout",
    "idle_transaction_timeout",
    "pin_idle_timeout",
];

/// All of them, in the order of their export.
#[rustfmt::skip]
pub const METRICS: &[Metric] = &[
    process("howdah_build_info", Gauge, "", &["version", "profile"], "Always 1; the labels tell what runs."),
    process("howdah_log_lines_dropped_total", Counter, "lines", &[], "Log lines that standard error did not take."),
    process("howdah_session_state_total", Counter, "transactions", &["mark", "application"], "Transactions that left session state behind, by the command that showed it and the application (at most 200 of them, then (other))."),
    process("howdah_listener_clients", Gauge, "clients", &["database", "host"], "Clients that listen through a listener, one connection of Howdah's own (session_listen = \"share\")."),
    process("howdah_listener_channels", Gauge, "channels", &["database", "host"], "Channels that a listener listens to; what nobody wants any more is given up after 10 s."),
    process("howdah_listeners_opened_total", Counter, "connections", &[], "Listeners that were begun, when the first client of a database listened."),
    process("howdah_listeners_lost_total", Counter, "connections", &[], "Listeners that could not be opened, or whose connection was lost, or that are not at the primary of their database any more; the clients that heard through them are ended."),
    process("howdah_notifications_delivered_total", Counter, "messages", &[], "Notifications that listeners have put aside for clients, one for each client that gets it."),
    process("howdah_restart_needed", Gauge, "settings", &[], "Settings that a reload has changed and that need a restart to come into force; /stats and the log name them."),
    process("howdah_draining", Gauge, "", &[], "1 from the signal to end until the end, else 0."),
    process("howdah_clients_connected", Gauge, "connections", &[], "Client connections that were accepted and have not ended."),
    process("howdah_clients", Gauge, "connections", &["state"], "Client connections by what they do: login, idle, waiting (for a server connection), active, idle_in_transaction."),
    process("howdah_strangers", Gauge, "connections", &["state"], "Connections that have not proved who they are: silent, waiting (they have said something, and as many as max_login_connections log in already), or begun (they log in). Above max_login_connections there are as many more as max_client_connections has free places."),
    process("howdah_strangers_cut_total", Counter, "connections", &["reason"], "Connections that lost such a place because all were taken: silent (for 5 s, or where no client had a place free either), or slow (a login of more than 5 s while others waited)."),
    process("howdah_client_limit", Gauge, "connections", &[], "max_client_connections, without the reserved places."),
    process("howdah_leaked_connections", Gauge, "connections", &["kind"], "Leases whose client is gone (lease), and server sockets without a place in a pool or the other way round (socket); more than 0 is a bug."),
    process("howdah_host_connections", Gauge, "connections", &["host"], "Server connections to each host, in all pools."),
    process("howdah_host_unreachable", Gauge, "", &["host"], "1 while a host that could not be reached is left alone, else 0."),
    process("howdah_database_serves_nobody", Gauge, "", &["database", "role", "reason"], "1 while a database serves nobody in this role, with the reason as howdah_pool_serves_nobody has it, else 0."),
    process("howdah_limit_connections", Gauge, "connections", &["limit", "name"], "Limits on server connections that pools share: max_connections of databases and users, max_host_connections; 0 is without limit."),
    process("howdah_limit_used", Gauge, "connections", &["limit", "name"], "Server connections that count towards these limits."),
    process("howdah_login_seconds", Histogram, "seconds", &[], "How long logins of clients took, from the connection on."),
    process("howdah_statements", Gauge, "statements", &[], "Statements of which statistics are kept."),
    process("howdah_statements_dropped_total", Counter, "statements", &[], "Statements whose statistics made room for others, see query_statistics."),
    process("howdah_statement_calls_total", Counter, "calls", &[], "Calls of statements that are counted, of the dropped ones too."),
    process("howdah_prepared_statement_memory_bytes", Gauge, "bytes", &["kind"], "What prepared statements take: texts (text), each counted once, and clients' names for them with long unnamed statements (name); max_statement_memory bounds their sum."),
    process("howdah_cancels_in_flight", Gauge, "requests", &[], "CancelRequests that are being forwarded to servers."),

    pool("howdah_pool_size", Gauge, "connections", POOL, "pool_size; 0 is without limit."),
    pool("howdah_pool_effective_size", Gauge, "connections", POOL, "The size in force: with size = \"auto\" the one that was last decided on, else pool_size; 0 is without limit."),
    pool("howdah_pool_min_size", Gauge, "connections", POOL, "Server connections that are kept although idle."),
    pool("howdah_pool_reserve_size", Gauge, "connections", POOL, "Server connections above pool_size for clients that have waited long."),
    pool("howdah_pool_servers", Gauge, "connections", POOL_STATE, "Server connections by state: idle, active (a client holds it), opening, repairing (being cleaned behind a client that left), canceling (kept until a cancel has struck), closing (until the server has closed its side)."),
    pool("howdah_pool_utilization_ratio", Gauge, "ratio", POOL, "Server connections that are not free, by pool_size; above 1 when the reserve is in use, 0 without limit."),
    pool("howdah_pool_serves_nobody", Gauge, "", &["database", "user", "role", "host", "reason"], "1 while this pool serves nobody, with the reason in a word (paused, killed, suspended, disabled, login_refused, unreachable, backoff, no_primary, no_replica, lag), else 0."),
    pool("howdah_pool_pins", Gauge, "clients", POOL, "Clients that keep a server connection between their transactions because of what their session holds; max_pins bounds them."),
    pool("howdah_pool_waiting_clients", Gauge, "clients", POOL, "Clients in the queue for a server connection."),
    pool("howdah_pool_longest_wait_seconds", Gauge, "seconds", POOL, "How long the first in the queue has waited."),
    pool("howdah_pool_wait_seconds", Histogram, "seconds", POOL, "How long clients waited for a server connection; 0 where one was idle."),
    pool("howdah_pool_transaction_seconds", Histogram, "seconds", POOL, "How long clients held a server connection."),
    pool("howdah_pool_queued_total", Counter, "clients", POOL, "Clients that found no server connection idle and joined the queue."),
    pool("howdah_pool_exhausted_total", Counter, "times", POOL, "Times that clients began to wait for longer than 250 ms."),
    pool("howdah_pool_leaking_transactions", Gauge, "transactions", POOL, "Transactions that have been idle for longer than leak_threshold."),
    pool("howdah_pool_server_seconds", Histogram, "seconds", POOL, "Of each transaction's time: while the server worked for it, or the network to the server took it."),
    pool("howdah_pool_client_seconds", Histogram, "seconds", POOL, "Of each transaction's time: while it was open and nothing was asked of it (the application's own time)."),
    pool("howdah_pool_stall_seconds", Histogram, "seconds", POOL, "Of each transaction's time: while its client took nothing of the results (its network, or a slow reader)."),
    pool("howdah_pool_query_seconds", Histogram, "seconds", POOL, "How long each round trip to a server took: a query, or a batch of them, to its last answer."),
    pool("howdah_pool_connect_seconds", Histogram, "seconds", POOL, "How long server connections took to open, their login included."),
    pool("howdah_transactions_total", Counter, "transactions", POOL, "Transactions that reached their end."),
    pool("howdah_queries_total", Counter, "queries", POOL, "Queries, simple and extended."),
    pool("howdah_server_errors_total", Counter, "errors", POOL, "Errors that servers raised for queries of clients."),
    pool("howdah_client_bytes_total", Counter, "bytes", POOL_DIRECTION, "Bytes relayed while a client held a server: received (from clients), sent (to clients)."),
    pool("howdah_client_parses_total", Counter, "messages", POOL, "Parse messages of clients."),
    pool("howdah_server_parses_total", Counter, "messages", POOL, "Parse messages to servers; those that a client sent for what the server knew already are not among them."),
    pool("howdah_binds_total", Counter, "messages", POOL, "Bind messages of clients."),
    pool("howdah_prepared_statement_hits_total", Counter, "messages", POOL, "Messages that needed a named statement which the server had already."),
    pool("howdah_prepared_statement_evictions_total", Counter, "statements", POOL, "Named statements that a server gave up for others, because of max_prepared_statements."),
    pool("howdah_server_connections_opened_total", Counter, "connections", POOL, "Server connections that were opened and logged in."),
    pool("howdah_pool_server_connect_failures_total", Counter, "attempts", POOL, "Server connections that could not be opened."),
    pool("howdah_wait_timeouts_total", Counter, "clients", POOL, "Clients that query_wait_timeout took out of the queue."),

    route("howdah_routed_transactions_total", Counter, "transactions", &["database", "role", "reason"], "Transactions of databases with several servers, by where they went and why."),
    route("howdah_host_up", Gauge, "", &["host"], "1 while the monitor's last question to a server was answered, else 0."),
    route("howdah_host_in_recovery", Gauge, "", &["host"], "1 for a replica, 0 for a primary; absent while it is not known."),
    route("howdah_host_timeline", Gauge, "", &["host"], "The timeline that a server is on; absent while it is not known."),
    route("howdah_replica_lag_bytes", Gauge, "bytes", &["database", "host"], "WAL that a replica has not replayed; absent while it is not known."),
    route("howdah_replica_lag_seconds", Gauge, "seconds", &["database", "host"], "Age of the data that a replica had when it answered last; near 0 also while nothing is written."),
    route("howdah_replica_eligible", Gauge, "", &["database", "host"], "1 while a replica may serve reads: it is up, confirmed as a replica and within the limits of lag."),

    advice("howdah_advice_findings", Gauge, "findings", &["database", "code"], "Pieces of advice at the last examination (advice_interval), by database and code; without a database what is about a server as a whole. SHOW ADVICE has them in full."),
    advice("howdah_advice_age_seconds", Gauge, "seconds", &[], "Age of the last examination; absent before it."),
    advice("howdah_database_cache_hit_ratio", Gauge, "ratio", &["database", "host"], "Blocks that were found in shared_buffers, of all since the server's statistics began, at the last examination."),
    advice("howdah_database_index_scan_ratio", Gauge, "ratio", &["database", "host"], "Scans of tables that used an index, of all since the server's statistics began, at the last examination."),
    advice("howdah_standby_replay_lag_seconds", Gauge, "seconds", &["host"], "How far a standby was behind at the last examination; 0 where it had replayed all that it had. Of one without a WAL receiver the age of the last transaction that it has: it may be as far behind as that."),
    event("howdah_advice_looks_total", "examinations", &["outcome"], &["complete", "incomplete"], "Examinations of the servers, and whether everything could be asked; SHOW ADVICE says what could not."),

    event("howdah_logins_total", "logins", &[], &[], "Clients that logged in."),
    event("howdah_logins_abandoned_total", "connections", &["at"], &["password", "answer"], "Clients that left before the end of their login: when they were asked for a password, as psql does to ask its user for it, or when they were to be answered."),
    event("howdah_clients_rejected_total", "connections", &["code"], LOGIN_CODES, "Clients that were refused before the end of their login, by the error's code."),
    event("howdah_auth_lookups_total", "lookups", &["outcome"], &["found", "nobody", "cached", "shared", "failed"], "Secrets of users that are not listed: asked for by auth_query and found or not, known from before, asked for by another login at the same time, or not to be had."),
    event("howdah_pam_requests_total", "requests", &["outcome"], &["accepted", "refused", "failed", "abandoned", "busy"], "Logins that needed PAM: it accepted or refused the user, or could not say (failed); its answer came too late for the login (abandoned), or no request could be made in time because of max_pam_requests (busy)."),
    event("howdah_client_disconnects_total", "connections", &["reason"], CLIENT_ENDS, "Sessions that ended, by reason."),
    event("howdah_tls_handshakes_total", "handshakes", &["side"], &["client", "server", "ops"], "TLS handshakes that succeeded, with clients, with servers, and on the ops port."),
    event("howdah_tls_handshake_failures_total", "handshakes", &["side"], &["client", "server", "ops"], "TLS handshakes that failed, or that the peer refused; the log says why."),
    process("howdah_tls_handshake_steps_total", Counter, "steps", &["side"], "Steps of TLS handshakes with clients, with servers, and on the ops port that were computed beside the threads that relay; a handshake has one or two."),
    process("howdah_tls_handshakes_waiting", Gauge, "handshakes", &["side"], "TLS handshakes that wait to be computed. Those with clients and those with servers have half as many places each as there are threads that relay, those on the ops port have one."),
    event("howdah_server_logins_total", "logins", &["method"], &["none", "password", "md5", "scram-sha-256", "scram-sha-256-plus"], "Logins to servers by what proved who we are: none (trust, or a certificate), a password as it is, md5, SCRAM, or SCRAM bound to the server's certificate."),
    event("howdah_server_tls_fallbacks_total", "connections", &["to"], &["plain", "tls"], "Server connections that fell back to plain text (server_tls_mode prefer) or to TLS (allow)."),
    process("howdah_pam_requests_in_flight", Gauge, "requests", &[], "Requests to PAM that are under way, also those whose login is over; max_pam_requests bounds them."),
    process("howdah_tls_certificate_not_after_seconds", Gauge, "seconds", &["setting"], "When the certificate of this setting expires, in seconds since 1970; of CA certificates the first to expire; +Inf where there is none."),
    event("howdah_ops_connections_cut_total", "connections", &[], &[], "Connections to the ops port that made room for others: the one that had waited longest for its peer's next request."),
    event("howdah_accept_errors_total", "errors", &["reason"], &["emfile", "enfile", "other"], "Connections that the system did not let us accept."),
    event("howdah_protocol_negotiations_total", "logins", &["kind"], &["encryption_refused", "version"], "Logins that asked for encryption and did not get it, or for a newer protocol than ours."),
    event("howdah_errors_total", "errors", &["code"], CODES, "Errors of our own that clients were told after their login, by code (see errors.md)."),
    event("howdah_timeouts_total", "timeouts", &["timeout"], TIMEOUTS, "Timeouts that ended something, by setting."),
    event("howdah_waiters_cancelled_total", "clients", &["reason"], &["client_gone", "cancel_request"], "Clients that left the queue for a server unserved, without a timeout."),
    event("howdah_cancels_total", "requests", &["outcome"], &["forwarded", "waiting", "idle", "stale", "unknown", "dropped", "peer", "peer_failed"], "CancelRequests of clients: forwarded to a server, for a client that waited or was idle, for a query that had ended, with an unknown key, dropped because of max_cancels_in_flight, or for a peer, handed on or not."),
    event("howdah_cancels_forwarded_total", "requests", &["outcome"], &["sent", "failed", "timeout"], "CancelRequests to servers, for clients and for timeouts of our own."),
    event("howdah_server_connect_failures_total", "attempts", &["reason"], &["transient", "local", "unreachable", "refused"], "Server connections that could not be opened, by reason: transient (starting or full), local (our own resources), unreachable, refused (the login)."),
    event("howdah_server_checks_total", "checks", &["result"], &["passed", "failed"], "Checks of servers that were idle for server_check_delay."),
    event("howdah_server_disconnects_total", "connections", &["reason"], SERVER_ENDS, "Server connections that ended, by reason."),
    event("howdah_server_close_timeouts_total", "connections", &[], &[], "Closed server connections whose place was given away although the server had not closed its side within 1 s; a server at its max_connections may refuse the next."),
    event("howdah_pins_total", "pins", &["kind"], KINDS, "Times that a client kept its server connection after a transaction, by what its session holds: statements of PREPARE, channels of LISTEN, temporary objects, cursors WITH HOLD, advisory locks."),
    event("howdah_session_state_dropped_total", "transactions", &["kind"], KINDS, "Transactions behind which such state was dropped, because session_statements, session_listen or session_objects says so; the client gets a WARNING."),
    event("howdah_listen_clients_ended_total", "clients", &["reason"], &["lost", "slow"], "Clients that were ended because they listen: their listener was lost, or they took their notifications too slowly (listen_buffer)."),
    event("howdah_server_resets_total", "resets", &["mark"], MARKS, "Server connections that were reset before another client got them, by the command that made it necessary."),
    event("howdah_rollbacks_on_disconnect_total", "transactions", &[], &[], "Transactions that were rolled back because their client had gone."),
    event("howdah_reserve_connections_total", "connections", &[], &[], "Server connections that were opened from the reserve."),
    event("howdah_parameter_syncs_total", "exchanges", &[], &[], "Times that a server was given a client's parameters."),
    event("howdah_parameter_sources_asked_total", "exchanges", &[], &[], "Times that a server was asked what a transaction had left in its session."),
    event("howdah_parameter_refused_total", "exchanges", &[], &[], "Times that a server refused a client's parameters."),
    event("howdah_notifies_dropped_total", "messages", &[], &[], "Notifications on idle server connections, which nobody can be given."),
    event("howdah_leases_dropped_total", "connections", &[], &[], "Server connections that were lost with the task that held them; more than 0 is a bug."),
    event("howdah_statements_reprepared_total", "batches", &[], &[], "Batches sent again because the server had lost their prepared statement before anything of them ran."),
    event("howdah_role_changes_total", "changes", &["change"], &["promoted", "demoted", "timeline"], "Changes of servers' roles that the monitor has seen."),
    event("howdah_console_commands_total", "commands", &["command"], &["DISABLE", "ENABLE", "KILL", "KILL_CLIENT", "PAUSE", "RECONNECT", "RELOAD", "RESUME", "SET", "SHUTDOWN", "SUSPEND", "WAIT_CLOSE"], "Commands of the console that change something, tried by who may."),
    event("howdah_pools_freed_total", "pools", &[], &[], "Pools that were freed because nobody had used them for pool_idle_timeout or autodb_idle_timeout."),
    event("howdah_fences_total", "fences", &["reason"], &["role_change", "login"], "Times that connections were kept from clients because their server has another role than their pool: all of a pool after a change of roles, or one at its login."),
    event("howdah_monitor_failures_total", "questions", &[], &[], "Questions of the monitor that a server did not answer."),
    event("howdah_replica_errors_total", "errors", &["sqlstate"], &["25006", "40001"], "Errors of replicas that reached clients unchanged: writes in what was taken for read-only, and recovery conflicts."),
    event("howdah_dns_changes_total", "changes", &["change"], &["changed", "moved"], "Host names that were found to have other addresses: some of them, or none of the old ones any more."),
    event("howdah_dns_errors_total", "look-ups", &[], &[], "Look-ups of host names that failed; connections that are open stay."),
    event("howdah_deferred_begins_total", "transactions", &["end"], &["server", "local", "failed"], "Transactions whose BEGIN was held back (defer_begin), by what became of them: they got a server, they ended without one, or no server could be had."),
    event("howdah_transaction_leaks_total", "transactions", &["action"], &["reported", "ended"], "Transactions that were idle for longer than leak_threshold, by what was done."),
    event("howdah_log_suppressed_total", "events", &["event"], &["query_wait_timeout", "client_told"], "Events that the log did not tell one by one, because there were many."),
    event("howdah_panics_total", "panics", &["task"], &["session", "console", "ops"], "Panics that were caught; more than 0 is a bug."),
    event("howdah_capacity_checks_total", "checks", &["outcome"], &["fits", "tight", "too_large", "unasked"], "Servers that were asked what they can carry: whether the pools of all instances fit, fit only while others have so little, or do not; unasked where there was no answer."),
    event("howdah_capacity_caps_total", "caps", &[], &[], "Times that the pools were capped while serving because a server had become too small for them."),
    event("howdah_pool_size_decisions_total", "decisions", &["reason"], &["faster", "needed", "no_faster", "no_slower", "slower", "try_fewer", "try_more", "unclear"], "Sizes that were put in force by size = \"auto\", or kept after a trial: try_more, try_fewer and slower (the server got less done) begin a trial; faster and no_slower keep it; no_faster, needed and unclear end it."),
    event("howdah_fleet_grants_total", "requests", &["outcome"], &["granted", "refused"], "Times that the pools asked the fleet for more server connections: granted (at least one), or refused because the budget had no room."),
    event("howdah_fleet_given_back_total", "connections", &[], &[], "Server connections that were closed, or promised to be at their release, because other instances want their share."),
    event("howdah_fleet_control_losses_total", "connections", &[], &[], "Times that an instance had no control connection to a server, and so did not grow."),
    event("howdah_fleet_settles_total", "pauses", &[], &[], "Times that growing paused because another instance had gone."),
    event("howdah_fleet_wakes_total", "notifications", &["direction"], &["sent", "heard", "refused"], "Notifications between instances, on primaries only: sent because the pools lack what others may give back or because something was given back that others lack (refused where the server could not take one: its queue is full), and heard from others, which makes an instance look at once."),
    event("howdah_fleet_wants_total", "looks", &[], &[], "Times that an instance looked at its share at once, since a pool lacked a connection; at most 20 in a second while there is none to be had."),
    event("howdah_reloads_total", "reloads", &[], &[], "Configurations that were put in force by a reload."),
    event("howdah_reload_failures_total", "reloads", &[], &[], "Reloads that left the old configuration in force."),

    process("process_start_time_seconds", Gauge, "seconds", &[], "When the process began, in seconds since 1970."),
    process("process_cpu_seconds_total", Counter, "seconds", &[], "User and system time of the process."),
    process("process_resident_memory_bytes", Gauge, "bytes", &[], "Resident memory."),
    process("process_virtual_memory_bytes", Gauge, "bytes", &[], "Virtual memory."),
    process("process_threads", Gauge, "threads", &[], "Threads."),
    process("process_open_fds", Gauge, "descriptors", &[], "Open file descriptors."),
    process("process_max_fds", Gauge, "descriptors", &[], "Limit of open file descriptors."),
];

const BY_DATABASE: &[&str] = &["database"];
const BY_USER: &[&str] = &["database", "user"];

/// The names of the community's exporter for PgBouncer, where `pgbouncer_exporter_metrics` asks for them.
#[rustfmt::skip]
pub const EXPORTER: &[Metric] = &[
    process("pgbouncer_up", Gauge, "", &[], "Always 1."),
    process("pgbouncer_version_info", Gauge, "", &["version"], "Always 1; the version is Howdah's."),
    process("pgbouncer_config_max_client_connections", Gauge, "connections", &[], "max_client_connections."),
    process("pgbouncer_databases", Gauge, "databases", &[], "Databases that are configured."),
    process("pgbouncer_users", Gauge, "users", &[], "Users that are configured."),
    process("pgbouncer_pools", Gauge, "pools", &[], "Pools that are in use."),
    process("pgbouncer_used_clients", Gauge, "connections", &[], "Client connections."),
    process("pgbouncer_login_clients", Gauge, "connections", &[], "Client connections that are logging in."),
    process("pgbouncer_used_servers", Gauge, "connections", &[], "Server connections that are not idle."),
    process("pgbouncer_free_servers", Gauge, "connections", &[], "Server connections that are idle."),
    process("pgbouncer_pools_client_active_connections", Gauge, "connections", BY_USER, "Clients that hold a server connection."),
    process("pgbouncer_pools_client_waiting_connections", Gauge, "connections", BY_USER, "Clients that wait for one."),
    process("pgbouncer_pools_server_active_connections", Gauge, "connections", BY_USER, "Server connections that a client holds."),
    process("pgbouncer_pools_server_being_canceled_connections", Gauge, "connections", BY_USER, "Server connections that are kept until a cancel has struck."),
    process("pgbouncer_pools_server_idle_connections", Gauge, "connections", BY_USER, "Server connections that are idle."),
    process("pgbouncer_pools_server_used_connections", Gauge, "connections", BY_USER, "Always 0: idle connections are looked at all the time."),
    process("pgbouncer_pools_server_testing_connections", Gauge, "connections", BY_USER, "Server connections that are being cleaned."),
    process("pgbouncer_pools_server_login_connections", Gauge, "connections", BY_USER, "Server connections that are being opened."),
    process("pgbouncer_pools_client_maxwait_seconds", Gauge, "seconds", BY_USER, "How long the first in the queue has waited."),
    process("pgbouncer_stats_totals_queries_pooled_total", Counter, "queries", BY_DATABASE, "Queries."),
    process("pgbouncer_stats_totals_queries_duration_seconds_total", Counter, "seconds", BY_DATABASE, "Time of round trips to servers."),
    process("pgbouncer_stats_totals_received_bytes_total", Counter, "bytes", BY_DATABASE, "Bytes from clients."),
    process("pgbouncer_stats_totals_sent_bytes_total", Counter, "bytes", BY_DATABASE, "Bytes to clients."),
    process("pgbouncer_stats_totals_client_wait_seconds_total", Counter, "seconds", BY_DATABASE, "Time that clients waited for a server connection."),
    process("pgbouncer_stats_totals_sql_transactions_pooled_total", Counter, "transactions", BY_DATABASE, "Transactions."),
    process("pgbouncer_stats_totals_server_in_transaction_seconds_total", Counter, "seconds", BY_DATABASE, "Time that clients held a server connection."),
    process("pgbouncer_stats_totals_client_parses_total", Counter, "messages", BY_DATABASE, "Parse messages of clients."),
    process("pgbouncer_stats_totals_server_parses_total", Counter, "messages", BY_DATABASE, "Parse messages to servers."),
    process("pgbouncer_stats_totals_binds_total", Counter, "messages", BY_DATABASE, "Bind messages of clients."),
];

const HEAD: &str = "\
# Metrics

Everything that `/metrics` exports. Generated from `src/metrics/catalog.rs`; do not edit.

Labels with a closed set of values are exported from the start, with 0; `pool` stands for the labels `database`,
`user` and `role`, which are of the client's side, and `host`, which only pools of replicas have. Metrics of a pool begin with its first use.

| Name | Type | Unit | Labels | Meaning |
|---|---|---|---|---|
";

/// The table of all metrics, as Markdown.
pub fn table() -> String {
    let mut out = HEAD.to_owned();
    rows(&mut out, METRICS);
    out.push_str(EXPORTER_HEAD);
    rows(&mut out, EXPORTER);
    out
}

const EXPORTER_HEAD: &str = "
## The names of PgBouncer's exporter

With `pgbouncer_exporter_metrics = true` these are exported besides, under the names that the community's
pgbouncer_exporter gives them, so that dashboards and alerts made for it go on.

| Name | Type | Unit | Labels | Meaning |
|---|---|---|---|---|
";

fn rows(out: &mut String, metrics: &[Metric]) {
    for m in metrics {
        let mut labels = match m.labels.strip_prefix(POOL) {
            Some([]) => "pool".to_owned(),
            Some(more) => format!("pool, `{}`", more.join("`, `")),
            None if m.labels.is_empty() => String::new(),
            None => format!("`{}`", m.labels.join("`, `")),
        };
        if let Source::Event(known) = m.source
            && !known.is_empty()
        {
            let _ = write!(labels, ": {}", known.join(", "));
        }
        let _ = writeln!(out, "| `{}` | {} | {} | {labels} | {} |", m.name, m.kind.as_str(), m.unit, m.help);
    }
}

#[cfg(test)]
mod tests;
