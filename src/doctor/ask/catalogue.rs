//! What the catalogues of one database say.

use std::sync::Arc;
use std::time::Duration;

use super::super::evidence::{Database, Hiding, Index, Materialized, Table};
use super::{PATIENCE, get, query, text};
use crate::capacity::ask;
use crate::capacity::need::{HostNeed, PoolNeed};
use crate::config::Config;
use crate::config::resolved::PoolMode;
use crate::server::own::{self, Own};
use crate::services::Services;

pub(super) async fn database(
    services: &Arc<Services>,
    config: &Config,
    need: &HostNeed,
    name: &str,
    unasked: &mut Vec<String>,
) -> Result<Database, String> {
    let questions = async |own: &mut Own| examined(own, config, need, name, unasked).await;
    ask::with(services, config, need, Some(name), questions).await
}

async fn examined(
    own: &mut Own,
    config: &Config,
    need: &HostNeed,
    name: &str,
    unasked: &mut Vec<String>,
) -> Result<Database, String> {
    let whole = "SELECT blks_hit, blks_read, pg_is_in_recovery() AS recovery, \
                 pg_size_bytes(current_setting('shared_buffers')) / 1024 AS shared_buffers FROM pg_stat_database \
                 WHERE datname = current_database()";
    let whole = query(own, whole).await?;
    let mut database = Database {
        host: need.host.to_string(),
        name: name.to_owned(),
        in_recovery: whole.get(0, "recovery") == Some("t"),
        blocks_hit: get(&whole, 0, "blks_hit").unwrap_or_default(),
        blocks_read: get(&whole, 0, "blks_read").unwrap_or_default(),
        shared_buffers: get(&whole, 0, "shared_buffers").unwrap_or_default(),
        tables: tables(own).await?,
        indexes: indexes(own).await?,
        materialized: Vec::new(),
        suspecting: suspecting(config, need, name),
        hiding: Vec::new(),
    };
    if !database.suspecting.is_empty() && !database.in_recovery {
        database.hiding = hiding(own).await?;
    }
    if !database.in_recovery {
        let views = views(config, need, name);
        match materialized(own, &views, unasked, &format!("{}/{name}", need.host)).await {
            Ok(found) => database.materialized = found,
            Err(why) => unasked.push(format!("{}/{name}, materialized views: {why}", need.host)),
        }
    }
    Ok(database)
}

async fn tables(own: &mut Own) -> Result<Vec<Table>, String> {
    let tables = "SELECT s.relid::regclass AS name, greatest(s.n_live_tup, c.reltuples::bigint) AS rows, s.seq_scan, \
                  s.seq_tup_read, coalesce(s.idx_scan, 0) AS idx_scan, \
                  coalesce(s.last_analyze, s.last_autoanalyze) IS NOT NULL AS analyzed \
                  FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid";
    let rows = query(own, tables).await?;
    let table = |i| Table {
        name: text(&rows, i, "name"),
        rows: get(&rows, i, "rows").unwrap_or_default(),
        sequential_scans: get(&rows, i, "seq_scan").unwrap_or_default(),
        sequential_rows: get(&rows, i, "seq_tup_read").unwrap_or_default(),
        index_scans: get(&rows, i, "idx_scan").unwrap_or_default(),
        analyzed: rows.get(i, "analyzed") == Some("t"),
    };
    Ok((0..rows.rows.len()).map(table).collect())
}

async fn indexes(own: &mut Own) -> Result<Vec<Index>, String> {
    // What is unique, or belongs to a constraint, is there for more than its scans.
    let indexes = "SELECT s.indexrelid::regclass AS name, s.relid::regclass AS table, s.idx_scan, \
                   pg_relation_size(s.indexrelid) AS bytes FROM pg_stat_user_indexes s \
                   JOIN pg_index i ON i.indexrelid = s.indexrelid WHERE NOT i.indisunique AND NOT i.indisexclusion";
    let rows = query(own, indexes).await?;
    let index = |i| Index {
        name: text(&rows, i, "name"),
        table: text(&rows, i, "table"),
        scans: get(&rows, i, "idx_scan").unwrap_or_default(),
        bytes: get(&rows, i, "bytes").unwrap_or_default(),
    };
    Ok((0..rows.rows.len()).map(index).collect())
}

/// Databases whose pools keep session state for their clients, but ask the server only when a statement's text shows a
/// trace of it.
fn suspecting(config: &Config, need: &HostNeed, dbname: &str) -> Vec<String> {
    let suspects = |p: &&PoolNeed| {
        config.databases.get(&p.database).is_some_and(|d| {
            let s = config.pool_settings(d, &p.user, p.role);
            s.reset_state && s.mode != PoolMode::Session && !s.session.always
        })
    };
    let pools = need.pools.iter().filter(|p| p.dbname == dbname).filter(suspects);
    let mut names: Vec<String> = pools.map(|p| p.database.clone()).collect();
    names.sort();
    names.dedup();
    names
}

/// Functions of users that may leave something in the session, judged by their text, or because their language cannot be
/// read. Functions of extensions are left out. So is what ends with the transaction.
async fn hiding(own: &mut Own) -> Result<Vec<Hiding>, String> {
    let functions = r"SELECT name, trace FROM (SELECT p.oid::regprocedure AS name, CASE
         WHEN l.lanname NOT IN ('sql', 'plpgsql') THEN 'is written in ' || l.lanname
         WHEN regexp_replace(d, 'set_config\s*\([^()]*,\s*true\s*\)', '', 'gi') ~* '\mset_config\M' THEN 'calls set_config'
         WHEN d ~* '\mpg_(try_)?advisory_lock(_shared)?\M' THEN 'takes advisory locks'
         WHEN d ~* '(;|\$|\mbegin|\mthen|\melse|\mloop)\s*(set\s+(?!local\M)|reset\s)' THEN 'has SET or RESET'
         WHEN l.lanname = 'plpgsql' AND d ~* '\mexecute\M' THEN 'has EXECUTE'
         END AS trace FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang JOIN pg_namespace n ON n.oid = p.pronamespace
         CROSS JOIN LATERAL (SELECT CASE WHEN p.prokind IN ('f', 'p') THEN pg_get_functiondef(p.oid) END AS d) AS def
         WHERE p.prokind IN ('f', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
         AND n.nspname NOT LIKE 'pg\_temp%' AND NOT EXISTS (SELECT FROM pg_depend e WHERE
         e.classid = 'pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')) AS f
         WHERE trace IS NOT NULL ORDER BY name::text";
    let rows = query(own, functions).await?;
    let one = |i| Hiding { name: text(&rows, i, "name"), trace: text(&rows, i, "trace") };
    Ok((0..rows.rows.len()).map(one).collect())
}

/// The schedules of a database of this host.
fn views<'a>(config: &'a Config, need: &HostNeed, dbname: &str) -> Vec<&'a (String, Duration)> {
    let here = |name: &str| need.pools.iter().any(|p| p.database == name && p.dbname == dbname);
    config.databases.values().filter(|d| here(&d.name)).flat_map(|d| &d.materialized_views).collect()
}

/// PostgreSQL keeps no time of a refresh; but each one, also a concurrent one, writes the view's row of pg_class anew,
/// and where commit times are tracked, that row's transaction has one. Other changes of the row (a GRANT, an ALTER)
/// count as a refresh, so that a view may be older than it seems, never younger.
async fn materialized(
    own: &mut Own,
    views: &[&(String, Duration)],
    unasked: &mut Vec<String>,
    subject: &str,
) -> Result<Vec<Materialized>, String> {
    if views.is_empty() {
        return Ok(Vec::new());
    }
    let tracked = query(own, "SELECT current_setting('track_commit_timestamp') AS tracked").await?;
    if tracked.get(0, "tracked") != Some("on") {
        return Err(
            "the server has track_commit_timestamp = off, and nothing else tells when they were refreshed: \
                    ALTER SYSTEM SET track_commit_timestamp = on, and restart it"
                .to_owned(),
        );
    }
    let view = "SELECT c.oid::regclass AS name, c.relispopulated AS populated, \
                extract(epoch FROM clock_timestamp() - pg_xact_commit_timestamp(c.xmin)) AS age \
                FROM pg_class c WHERE c.oid = to_regclass($1) AND c.relkind = 'm'";
    let mut found = Vec::new();
    for (name, limit) in views {
        let row = own::within(PATIENCE, own.query_with(view, &[Some(name)])).await?;
        let (age, populated) = (get(&row, 0, "age"), row.get(0, "populated") == Some("t"));
        if row.rows.is_empty() {
            unasked.push(format!("{subject}: {name} is no materialized view that its login can see"));
        } else if populated && age.is_none() {
            unasked.push(format!("{subject}: {name} was refreshed before the server tracked commit times"));
        } else {
            let age = age.filter(|_| populated);
            found.push(Materialized { name: text(&row, 0, "name"), age, limit: limit.as_secs_f64() });
        }
    }
    Ok(found)
}
