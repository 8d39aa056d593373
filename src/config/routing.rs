//! Where a database's transactions may go, and how its replicas are watched: the settings of `[databases.NAME]`
//! that are about several servers.

use std::time::Duration;

use super::hosts::host_addr;
use super::resolved::{Database, HostAddr, Role, WhenNoReplica};

/// What the list of a database's hosts is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hosts {
    /// Each of them is meant to be the primary; replicas have a section of their own.
    #[default]
    Primary,
    /// The primary and its replicas, in any order: who is what is asked for.
    Auto,
}

/// How a replica is chosen among those that are eligible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    /// The one with the fewest transactions under way or waiting, by its weight.
    #[default]
    LeastOutstanding,
    /// Each in turn, by its weight.
    RoundRobin,
}

/// Whether reads wait for writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadYourWrites {
    /// A replica may lack what its reader has just written.
    #[default]
    Off,
    /// A session, or all that share its key, reads where its own writes have been replayed.
    Session,
}

/// All of it, resolved.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routing {
    pub hosts: Hosts,
    /// Where every transaction of this database goes, whatever it says; `None`: by what it says.
    pub fixed: Option<Role>,
    /// Autocommit SELECTs that are proven harmless are read-only.
    pub selects: bool,
    /// Comments `/* howdah: replica */` and `/* howdah: primary */` at the front of a statement decide.
    pub hints: bool,
    /// Functions that a harmless SELECT may call beside the built-in list; lower case.
    pub functions: Vec<String>,
    pub balance: Balance,
    /// By host; 1 where nothing is stated.
    pub weights: Vec<(HostAddr, u32)>,
    pub zones: Vec<(HostAddr, String)>,
    /// The zone whose replicas are preferred.
    pub zone: Option<String>,
    pub max_lag: Option<Duration>,
    pub max_lag_bytes: Option<u64>,
    /// A bare BEGIN is held back until the statement behind it says where its transaction belongs.
    pub defer_begin: bool,
    pub read_your_writes: ReadYourWrites,
    /// How long a read waits for a replica that has its session's writes before the primary serves it.
    pub read_your_writes_wait: Duration,
    pub monitor_user: Option<String>,
    /// Users whose transactions go to the admin pool.
    pub admin_pool_users: Vec<String>,
}

/// The same as stated.
#[derive(Default)]
pub(super) struct RoutingSection {
    pub auto: bool,
    pub fixed: Option<Role>,
    pub selects: bool,
    pub hints: bool,
    pub functions: Vec<String>,
    pub balance: Balance,
    pub weights: Vec<(String, String)>,
    pub zones: Vec<(String, String)>,
    pub zone: Option<String>,
    pub max_lag: Option<Duration>,
    pub max_lag_bytes: Option<u64>,
    pub defer_begin: bool,
    pub read_your_writes: ReadYourWrites,
    pub read_your_writes_wait: Duration,
    pub monitor_user: Option<String>,
    pub admin_pool_users: Vec<String>,
}

impl RoutingSection {
    /// The settings, and what cannot be read of them: key and reason.
    pub(super) fn resolve(self, port: u16) -> (Routing, Vec<(&'static str, String)>) {
        let mut problems = Vec::new();
        let mut weights = Vec::new();
        for (host, weight) in self.weights {
            let parsed = weight.parse::<u32>().ok().filter(|w| (1..=1000).contains(w));
            match (host_addr(&host, port), parsed) {
                (Ok(h), Some(w)) => weights.push((h, w)),
                (Err(why), _) => problems.push(("weights", format!("\"{}\": {why}", host.escape_debug()))),
                (Ok(_), None) => problems.push((
                    "weights",
                    format!("the weight of {} is not a whole number from 1 to 1000", host.escape_debug()),
                )),
            }
        }
        let mut zones = Vec::new();
        for (host, zone) in self.zones {
            match host_addr(&host, port) {
                Ok(h) => zones.push((h, zone)),
                Err(why) => problems.push(("zones", format!("\"{}\": {why}", host.escape_debug()))),
            }
        }
        let routing = Routing {
            hosts: if self.auto { Hosts::Auto } else { Hosts::Primary },
            fixed: self.fixed,
            selects: self.selects,
            hints: self.hints,
            functions: self.functions.iter().map(|f| f.to_ascii_lowercase()).collect(),
            balance: self.balance,
            weights,
            zones,
            zone: self.zone,
            max_lag: self.max_lag,
            max_lag_bytes: self.max_lag_bytes,
            defer_begin: self.defer_begin,
            read_your_writes: self.read_your_writes,
            read_your_writes_wait: self.read_your_writes_wait,
            monitor_user: self.monitor_user,
            admin_pool_users: self.admin_pool_users,
        };
        (routing, problems)
    }
}

impl Database {
    /// The hosts whose standbys may serve its reads.
    pub fn replica_hosts(&self) -> &[HostAddr] {
        match (self.routing.hosts, self.roles.get(&Role::Replica)) {
            (_, Some(r)) => &r.hosts,
            (Hosts::Auto, None) => self.roles.get(&Role::Primary).map_or(&[], |r| &r.hosts),
            (Hosts::Primary, None) => &[],
        }
    }

    /// Whether transactions are told apart here at all.
    pub fn has_replicas(&self) -> bool {
        !self.replica_hosts().is_empty()
    }

    /// What happens to reads without a replica; a database without replicas has no such question.
    pub fn no_replica(&self) -> WhenNoReplica {
        self.when_no_replica.unwrap_or(WhenNoReplica::Error)
    }
}
