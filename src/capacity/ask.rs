//! The questions to a live server; the login is that of a pool.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::facts::Facts;
use super::need::{HostNeed, PoolNeed};
use crate::config::Config;
use crate::config::resolved::HostAddr;
use crate::server::own::{APPLICATION, Own, Rows};
use crate::server::target::Target;
use crate::services::Services;

/// A server that takes longer counts as one that could not be asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// Logins that are tried, where several users have pools at the host.
const LOGINS: usize = 3;

/// Asks the server what it can carry.
pub async fn ask(services: &Arc<Services>, config: &Config, need: &HostNeed) -> Result<Facts, String> {
    let _turn = services.ledger.turn_to_ask(&need.host).await;
    let mut opened = None;
    let answer = tokio::time::timeout(PATIENCE, async {
        facts(opened.insert(open(services, config, need, None, APPLICATION).await?)).await
    });
    let answer = answer.await;
    if let Some(own) = opened {
        own.end().await;
    }
    answer.unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

/// Asks on a connection for questions of now and then, of which this process has one at a time to each host. The next one
/// has its turn when the server has let go of this one.
pub async fn with<T>(
    services: &Arc<Services>,
    config: &Config,
    need: &HostNeed,
    database: Option<&str>,
    questions: impl AsyncFnOnce(&mut Own) -> Result<T, String>,
) -> Result<T, String> {
    let _turn = services.ledger.turn_to_ask(&need.host).await;
    let mut own = open(services, config, need, database, APPLICATION).await?;
    let answer = questions(&mut own).await;
    own.end().await;
    answer
}

/// A connection of our own to the host, with the login of the first of its pools whose login works.
pub async fn open(
    services: &Arc<Services>,
    config: &Config,
    need: &HostNeed,
    database: Option<&str>,
    application: &str,
) -> Result<Own, String> {
    let mut last = "no pool has a login for it".to_owned();
    let mut tried: Vec<(&str, &str)> = Vec::new();
    for pool in &need.pools {
        let login = (pool.server_user.as_str(), pool.dbname.as_str());
        if pool.user.is_empty() && pool.server_user.is_empty() || tried.contains(&login) {
            continue;
        }
        if tried.len() == LOGINS {
            break;
        }
        tried.push(login);
        let Some(mut target) = target(config, pool) else { continue };
        if let Some(database) = database {
            database.clone_into(&mut target.dbname);
        }
        target.startup = vec![("application_name".to_owned(), application.to_owned())];
        match login_to(services, &need.host, &target).await {
            Ok(own) => return Ok(own),
            Err(why) => last = why,
        }
    }
    Err(last)
}

async fn login_to(services: &Arc<Services>, host: &HostAddr, target: &Target) -> Result<Own, String> {
    Own::open(host.clone(), target, &services.handshakes.servers).await.map_err(|f| f.error().to_string())
}

fn target(config: &Config, pool: &PoolNeed) -> Option<Target> {
    let db = config.databases.get(&pool.database)?;
    let target = Target::resolve(config, db, &pool.user.as_str().into(), pool.role)?;
    let timeout = target.timeout.min(PATIENCE);
    Some(Target { on_connect: Vec::new(), timeout, ..target })
}

async fn facts(own: &mut Own) -> Result<Facts, String> {
    let settings = own
        .query(
        "SELECT current_setting('server_version_num') AS version, current_setting('max_connections') AS max, \
         current_setting('superuser_reserved_connections') AS superuser, \
         coalesce(current_setting('reserved_connections', true), '0') AS reserved, \
         pg_is_in_recovery() AS recovery",
    )
    .await?;
    let number = |column: &str| -> Result<u32, String> {
        let value = settings.get(0, column).and_then(|v| v.parse().ok());
        value.ok_or_else(|| format!("the server did not say its {column}"))
    };
    let mut facts = Facts {
        version: number("version")?,
        max_connections: number("max")?,
        superuser_reserved: number("superuser")?,
        reserved: number("reserved")?,
        in_recovery: settings.get(0, "recovery") == Some("t"),
        ..Facts::default()
    };
    let roles =
        "SELECT rolname AS name, rolconnlimit AS n FROM pg_roles WHERE rolconnlimit >= 0 AND NOT rolsuper";
    facts.role_limits = counts(&own.query(roles).await?);
    let databases = "SELECT datname AS name, datconnlimit AS n FROM pg_database WHERE datconnlimit >= 0";
    facts.database_limits = counts(&own.query(databases).await?);
    // Walsenders and parallel workers have places of their own; both columns are hidden for other roles' rows
    // without pg_read_all_stats, which then count.
    let in_use = "SELECT usename AS name, datname AS db, count(*) AS n FROM pg_stat_activity \
                  WHERE usename IS NOT NULL AND datname IS NOT NULL \
                  AND backend_type IS DISTINCT FROM 'walsender' \
                  AND backend_type IS DISTINCT FROM 'parallel worker' AND pid <> pg_backend_pid() GROUP BY 1, 2";
    let rows = own.query(in_use).await?;
    for i in 0..rows.rows.len() {
        let value = |column| rows.get(i, column).map(str::to_owned);
        let n = rows.get(i, "n").and_then(|n| n.parse::<u32>().ok());
        if let (Some(role), Some(database), Some(n)) = (value("name"), value("db"), n) {
            *facts.in_use.entry(role.clone()).or_default() += n;
            facts.in_use_by.insert((role, database), n);
        }
    }
    Ok(facts)
}

fn counts(rows: &Rows) -> BTreeMap<String, u32> {
    let row = |i| Some((rows.get(i, "name")?.to_owned(), rows.get(i, "n")?.parse().ok()?));
    (0..rows.rows.len()).filter_map(row).collect()
}
