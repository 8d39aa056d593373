//! EXPLAIN of the slowest statements, without running them: on a connection of our own that may only read, each in a
//! transaction that is rolled back.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::evidence::{Evidence, Scanned, Statement};
use super::super::explain::{self, Parameterised, Scan};
use super::{PATIENCE, get, query, text};
use crate::capacity::ask;
use crate::capacity::need::{HostNeed, needs};
use crate::config::Config;
use crate::config::resolved::Role;
use crate::server::own::{self, Own, OwnError, Rows};
use crate::services::Services;

/// Statements that are explained, those first that have taken the most time of the servers.
pub(super) const STATEMENTS: usize = 20;
/// For planning, which takes locks.
const LIMITS: &str = "SET default_transaction_read_only = on; SET statement_timeout = '5s'; SET lock_timeout = '1s'; \
                      SET plan_cache_mode = force_generic_plan";
/// The first version whose EXPLAIN takes parameters without values.
const GENERIC: u32 = 160_000;

/// Adds what the scans of the slowest statements filter by, and which statements could not be explained.
pub(super) async fn add(services: &Arc<Services>, config: &Config, evidence: &mut Evidence) {
    let Some(pooler) = &evidence.pooler else { return };
    let mut by_database: BTreeMap<String, Vec<Statement>> = BTreeMap::new();
    for statement in pooler.statements.iter().take(STATEMENTS) {
        by_database.entry(statement.database.clone()).or_default().push(statement.clone());
    }
    let needs = needs(config);
    for (database, statements) in by_database {
        let Some(stated) = config.databases.get(&database) else { continue };
        let primary = |n: &&HostNeed| {
            let host = n.host.to_string();
            n.pools.iter().any(|p| p.database == database && p.role == Role::Primary)
                && evidence.hosts.iter().any(|h| h.host == host && !h.facts.in_recovery)
        };
        let Some(need) = needs.iter().find(primary) else {
            evidence.unasked.push(format!("statements of {database}: no primary could be asked"));
            continue;
        };
        match explain(services, config, need, &stated.dbname, &statements).await {
            Ok((scanned, unasked)) => {
                evidence.scanned.extend(scanned);
                evidence.unasked.extend(unasked);
            }
            Err(why) => evidence.unasked.push(format!("statements of {database}: {why}")),
        }
    }
}

async fn explain(
    services: &Arc<Services>,
    config: &Config,
    need: &HostNeed,
    dbname: &str,
    statements: &[Statement],
) -> Result<(Vec<Scanned>, Vec<String>), String> {
    let questions = async |own: &mut Own| explained(own, need, dbname, statements).await;
    ask::with(services, config, need, Some(dbname), questions).await
}

async fn explained(
    own: &mut Own,
    need: &HostNeed,
    dbname: &str,
    statements: &[Statement],
) -> Result<(Vec<Scanned>, Vec<String>), String> {
    // Planning may call functions that are stated to be immutable or stable, and a statement's own may do anything.
    let superuser = query(own, "SELECT current_setting('is_superuser') AS superuser").await?;
    if superuser.get(0, "superuser") != Some("off") {
        let who = "the first pool of the server logs in as a superuser";
        return Err(format!("none is explained, since planning may call its functions and {who}"));
    }
    query(own, LIMITS).await?;
    let version = query(own, "SELECT current_setting('server_version_num') AS version").await?;
    let version = get(&version, 0, "version").unwrap_or(0);
    let (mut scanned, mut unasked) = (Vec::new(), Vec::new());
    for statement in statements {
        let parameterised = match explain::parameterised(&statement.text) {
            Ok(p) => p,
            // BEGIN, COMMIT and the like have no plan that anybody could miss.
            Err(_) if !explain::has_plan(&statement.text) => continue,
            Err(why) => {
                unasked.push(format!("statement {} of {dbname} is not explained: {why}", statement.id));
                continue;
            }
        };
        let plan = plan(own, version, &parameterised).await;
        let lost = matches!(plan, Err(OwnError::Lost(_)));
        match plan.map_err(String::from).and_then(|plan| scans(&plan)) {
            Ok(found) => {
                for scan in found {
                    let scan = of_table(own, &scan).await?;
                    scanned.extend(scan.map(|(table, rows, columns)| Scanned {
                        host: need.host.to_string(),
                        database: dbname.to_owned(),
                        statement: statement.clone(),
                        table,
                        rows,
                        columns,
                    }));
                }
            }
            Err(why) => {
                unasked.push(format!("statement {} of {dbname} cannot be explained: {why}", statement.id));
            }
        }
        if lost {
            break;
        }
    }
    Ok((scanned, unasked))
}

async fn plan(own: &mut Own, version: u32, p: &Parameterised) -> Result<Rows, OwnError> {
    // The ROLLBACK ends the one transaction that all statements of a query are in.
    if version >= GENERIC {
        return query(own, &format!("EXPLAIN (GENERIC_PLAN, VERBOSE, FORMAT JSON) {}\n; ROLLBACK", p.sql))
            .await;
    }
    query(own, &format!("PREPARE howdah_explained AS {}", p.sql)).await?;
    let values = vec!["NULL"; p.parameters].join(", ");
    let values = if values.is_empty() { values } else { format!("({values})") };
    let sql = format!("EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE howdah_explained{values}; ROLLBACK");
    let rows = query(own, &sql).await;
    if !matches!(rows, Err(OwnError::Lost(_))) {
        query(own, "DEALLOCATE howdah_explained").await?;
    }
    rows
}

fn scans(plan: &Rows) -> Result<Vec<Scan>, String> {
    let lines: Vec<&str> = plan.rows.iter().filter_map(|r| r.first()?.as_deref()).collect();
    explain::scans(&lines.join("\n"))
}

/// The table of a scan, its rows, and those of the columns that are compared which begin no index.
async fn of_table(own: &mut Own, scan: &Scan) -> Result<Option<(String, u64, Vec<String>)>, String> {
    let sql = "SELECT c.oid::regclass AS table, \
               greatest(c.reltuples, pg_stat_get_live_tuples(c.oid), 0)::bigint AS rows, a.attname AS name, \
               quote_ident(a.attname) AS quoted, \
               EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum) AS leads \
               FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
               JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
               WHERE n.nspname = $1 AND c.relname = $2";
    let rows = own::within(PATIENCE, own.query_with(sql, &[Some(&scan.schema), Some(&scan.table)])).await?;
    let all: Vec<(String, String, bool)> = (0..rows.rows.len())
        .map(|i| (text(&rows, i, "name"), text(&rows, i, "quoted"), rows.get(i, "leads") == Some("t")))
        .collect();
    let column = |name: &str| all.iter().find(|(n, _, _)| n == name).map(|(n, _, _)| n.as_str());
    let compared = explain::compared(&scan.filter, column);
    let wanted = compared.iter().filter_map(|c| all.iter().find(|(n, _, leads)| n == c && !leads));
    let columns: Vec<String> = wanted.map(|(_, quoted, _)| quoted.clone()).collect();
    let count = get(&rows, 0, "rows").unwrap_or_default();
    Ok((!columns.is_empty()).then(|| (text(&rows, 0, "table"), count, columns)))
}
