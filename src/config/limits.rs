//! Limits of the whole process.

use std::time::Duration;

/// Limits of the whole process.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    pub max_client_connections: u32,
    /// Of a database, the console too, that states none.
    pub max_database_client_connections: Option<u32>,
    /// Of a user who states none.
    pub max_user_client_connections: Option<u32>,
    /// Places above `max_client_connections` that only `admin_users` may take.
    pub reserved_client_connections: u32,
    /// Places of connections that have not proved who they are, over TCP and over the Unix socket each.
    pub max_login_connections: u32,
    /// In a minute, of one user from one address; 0 is no limit.
    pub max_login_failures: u32,
    /// Server logins under way per pool at one time.
    pub max_parallel_connects: u32,
    /// CancelRequests that are being forwarded at one time; more are dropped and counted.
    pub max_cancels_in_flight: u32,
    /// A client that reads nothing of a pending answer for this long is closed.
    pub client_write_timeout: Option<Duration>,
    /// Largest message accepted from either side, in bytes; streamed, not buffered.
    pub max_message_size: u32,
    /// Largest named Parse, which is kept; in bytes.
    pub max_statement_size: u32,
    /// Prepared statements kept per server connection.
    pub max_prepared_statements: u32,
    /// Named statements one client may hold, where their number is limited.
    pub max_client_statements: Option<u32>,
    /// Bytes of the names and texts of the statements that one client may hold.
    pub max_client_statement_memory: usize,
    /// Of the notifications that wait for one client.
    pub listen_buffer: usize,
    /// Bytes of the texts of the statements that are kept on one server connection.
    pub max_server_statement_memory: usize,
    /// Bytes of the names and texts of all statements there are.
    pub max_statement_memory: usize,
    /// Bytes of one relay buffer; a client or server holds one only while bytes are in flight.
    pub buffer_size: usize,
    /// How long an abandoned server may take to be cancelled, drained and rolled back before it is closed.
    pub server_repair_timeout: Duration,
    /// How often the monitor asks a host where it stands.
    pub monitor_interval: Duration,
    /// How often host names are looked up again.
    pub dns_check_interval: Option<Duration>,
}
