//! What PgBouncer's configurations know and most of Howdah's never state: the process's papers, checks of idle
//! servers, databases that exist on demand, peers.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::resolved::{HostAddr, Profile};

/// The PgBouncer that the profile stands in for.
const PGBOUNCER: &str = "1.25.2";

/// What the program calls itself.
pub fn version(profile: Profile) -> String {
    let own = env!("CARGO_PKG_VERSION");
    match profile {
        Profile::Native => format!("howdah {own}"),
        Profile::PgBouncer => format!("PgBouncer {PGBOUNCER} (Howdah {own})"),
    }
}

/// Part of [`super::Config`]; every field has its declaration in the table of settings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Compat {
    pub process: Papers,
    pub listen: Listening,
    pub peers: Peers,
    pub login: Login,
    pub servers: Servers,
}

/// What the process leaves in the system.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Papers {
    pub log_file: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub syslog: bool,
    pub syslog_ident: String,
    pub syslog_facility: String,
    /// The account to change to once everything is bound.
    pub run_as: Option<String>,
    pub log_pooler_errors: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listening {
    pub reuse_port: bool,
    pub socket_buffer: Option<usize>,
    pub unix_group: Option<String>,
}

/// Several processes behind one port: a cancel request may reach the wrong one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    /// This process's number; 0 is none.
    pub own: u16,
    pub others: BTreeMap<u16, HostAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Login {
    pub application_name_add_host: bool,
    pub notify: Option<String>,
    /// Parameters beside the usual ones that a client may ask for in its startup packet.
    pub extra_parameters: Vec<String>,
    /// Databases that nobody has configured are made from `*`, and forgotten after this time without use.
    pub autodb_idle: Option<Duration>,
    pub no_simple_query: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Servers {
    /// `None` is no check; empty is an empty query.
    pub check_query: Option<String>,
    /// Idle for longer than this, a server is checked before it is handed out.
    pub check_delay: Duration,
    pub fast_close: bool,
    pub reset_always: bool,
    pub round_robin: bool,
    pub pool_idle: Option<Duration>,
    pub wait_notify: Option<Duration>,
}
