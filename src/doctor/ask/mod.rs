//! Collects the evidence: from the servers with the login of a pool, from a running Howdah over its ops port.

mod catalogue;
mod explained;
mod pooler;

use std::sync::Arc;
use std::time::Duration;

use super::evidence::{Evidence, Host, IdleInTransaction, Room};
use crate::capacity::facts::Facts;
use crate::capacity::need::{HostNeed, needs};
use crate::capacity::{ask, check};
use crate::config::Config;
use crate::ops::ask::Identity;
use crate::server::own::{self, Own, OwnError, Rows};
use crate::services::Services;

/// For each question.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked beside the usual.
#[derive(Default)]
pub struct Wish {
    /// Whether the slowest statements are explained, too.
    pub explain: bool,
    /// Shown to an ops port that asks for a certificate.
    pub identity: Option<Identity>,
}

/// Asks everything that can be asked, a running Howdah over its ops port.
pub async fn collect(services: &Arc<Services>, config: &Config, wish: &Wish) -> Evidence {
    let mut evidence = servers(services, config).await;
    match config.listen.ops {
        Some(ops) => match pooler::over_http(ops, config, wish.identity.as_ref()).await {
            Ok(p) => evidence.pooler = Some(p),
            Err(why) => evidence.missed(format!(
                "a running Howdah at {ops} (ops_listen): {why}; its pools, routes and statements are not known"
            )),
        },
        None => evidence.unasked.push("a running Howdah: ops_listen is off".to_owned()),
    }
    if wish.explain {
        explained::add(services, config, &mut evidence).await;
    }
    evidence
}

/// The same inside of the Howdah that is examined.
pub async fn collect_here(services: &Arc<Services>, config: &Config) -> Evidence {
    let mut evidence = servers(services, config).await;
    match pooler::here(services, config).await {
        Ok(p) => evidence.pooler = Some(p),
        Err(why) => evidence.unasked.push(format!("this Howdah: {why}")),
    }
    evidence
}

async fn servers(services: &Arc<Services>, config: &Config) -> Evidence {
    let mut evidence = Evidence::default();
    for need in needs(config) {
        match host(services, config, &need).await {
            Ok((host, hidden)) => {
                evidence.hosts.push(host);
                evidence.partial.extend(hidden);
            }
            Err(why) => {
                let databases = need.databases().into_iter().collect::<Vec<_>>().join(", ");
                evidence.missed(format!(
                    "server {}: {why}; its capacity, its sessions and its databases ({databases}) are not known",
                    need.host
                ));
                continue;
            }
        }
        for name in need.databases() {
            match catalogue::database(services, config, &need, name, &mut evidence.unasked).await {
                Ok(database) => evidence.databases.push(database),
                Err(why) => evidence.missed(format!(
                    "database {}/{name}: {why}; its tables and indexes are not known",
                    need.host
                )),
            }
        }
    }
    evidence
}

async fn query(own: &mut Own, sql: &str) -> Result<Rows, OwnError> {
    own::within(PATIENCE, own.query(sql)).await
}

/// One column of a row, as what it should be; nothing where it is NULL.
fn get<T: std::str::FromStr>(rows: &Rows, row: usize, column: &str) -> Option<T> {
    rows.get(row, column)?.parse().ok()
}

fn text(rows: &Rows, row: usize, column: &str) -> String {
    rows.get(row, column).unwrap_or_default().to_owned()
}

/// What the host says, and what it hides from its login.
async fn host(
    services: &Arc<Services>,
    config: &Config,
    need: &HostNeed,
) -> Result<(Host, Option<String>), String> {
    let facts = ask::ask(services, config, need).await?;
    let capacity = check::check(need, &facts, config.capacity.instances);
    let questions = async |own: &mut Own| {
        let hidden = hidden(own, need).await?;
        Ok((examined(own, need, facts, capacity, config.capacity.instances).await?, hidden))
    };
    ask::with(services, config, need, None, questions).await
}

/// Sessions of other roles show no state to a login without this role.
async fn hidden(own: &mut Own, need: &HostNeed) -> Result<Option<String>, String> {
    let sql = "SELECT current_user AS role, pg_has_role('pg_read_all_stats', 'USAGE') AS all";
    let rows = query(own, sql).await?;
    let sees_all = rows.get(0, "all") == Some("t");
    Ok((!sees_all).then(|| {
        let role = text(&rows, 0, "role");
        format!(
            "server {}: role {role} does not see what sessions of other roles do; GRANT pg_read_all_stats shows it",
            need.host
        )
    }))
}

async fn examined(
    own: &mut Own,
    need: &HostNeed,
    facts: Facts,
    capacity: Vec<check::Finding>,
    instances: u32,
) -> Result<Host, String> {
    // Without a WAL receiver all that was received is replayed, and what was not received nobody knows.
    let standing = "SELECT CASE WHEN r AND (cut OR pg_last_wal_receive_lsn() IS DISTINCT FROM pg_last_wal_replay_lsn()) \
                    THEN extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END AS lag, \
                    CASE WHEN r THEN pg_is_wal_replay_paused() END AS paused, r AND cut AS cut, \
                    (SELECT count(*) FROM pg_stat_replication s WHERE NOT EXISTS (SELECT FROM pg_replication_slots l \
                     WHERE l.active_pid = s.pid AND l.slot_type = 'logical')) AS standbys \
                    FROM (SELECT pg_is_in_recovery() AS r, NOT EXISTS (SELECT FROM pg_stat_wal_receiver) AS cut \
                    OFFSET 0) AS q";
    let standing = query(own, standing).await?;
    let idle = "SELECT pid, usename, application_name, extract(epoch FROM clock_timestamp() - state_change) AS seconds \
                FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    let rows = query(own, idle).await?;
    let idle_in_transaction = (0..rows.rows.len())
        .map(|i| IdleInTransaction {
            pid: get(&rows, i, "pid").unwrap_or_default(),
            role: text(&rows, i, "usename"),
            application: text(&rows, i, "application_name"),
            seconds: get(&rows, i, "seconds").unwrap_or_default(),
        })
        .collect();
    let room = if capacity.is_empty() { None } else { room(need, &facts, instances) };
    let lacks = !capacity.is_empty() && room.is_none();
    Ok(Host {
        host: need.host.to_string(),
        room,
        enough: if lacks { enough(need, &facts, instances) } else { None },
        facts,
        capacity,
        lag: get(&standing, 0, "lag"),
        cut: standing.get(0, "cut") == Some("t"),
        replay_paused: standing.get(0, "paused") == Some("t"),
        standbys: get(&standing, 0, "standbys").unwrap_or_default(),
        idle_in_transaction,
    })
}

/// The smallest max_connections with which the check finds nothing; nothing where a CONNECTION LIMIT is in the way.
fn enough(need: &HostNeed, facts: &Facts, instances: u32) -> Option<u32> {
    // PostgreSQL takes no more.
    let (mut lacking, mut fitting) = (facts.max_connections, 262_143);
    let fits = |max_connections: u32| {
        check::check(need, &Facts { max_connections, ..facts.clone() }, instances).is_empty()
    };
    if !fits(fitting) {
        return None;
    }
    while fitting.saturating_sub(lacking) > 1 {
        let middle = lacking + (fitting - lacking) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            lacking = middle;
        }
    }
    Some(fitting)
}

/// The largest limit of connections to the host with which the check finds nothing; what it finds never grows with
/// a smaller one.
fn room(need: &HostNeed, facts: &Facts, instances: u32) -> Option<Room> {
    let fits = |limit: u32| {
        let limited = HostNeed { host_limit: Some(limit), open_ended: Vec::new(), ..need.clone() };
        check::check(&limited, facts, instances).is_empty()
    };
    let (mut fitting, mut beyond) = (0, facts.ordinary().saturating_add(1));
    while beyond - fitting > 1 {
        let middle = fitting + (beyond - fitting) / 2;
        if fits(middle) {
            fitting = middle;
        } else {
            beyond = middle;
        }
    }
    let mut databases: Vec<String> = need.pools.iter().map(|p| p.database.clone()).collect();
    databases.sort();
    databases.dedup();
    (fitting > 0).then_some(Room { connections: fitting, databases })
}
