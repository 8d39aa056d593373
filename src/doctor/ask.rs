//! Collects the evidence: from the servers with the login of a pool, from a running Howdah over its ops port.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::evidence::{Database, Evidence, Host, IdleInTransaction, Index, Pool, Pooler, Table};
use crate::capacity::need::{HostNeed, needs};
use crate::capacity::{ask, check};
use crate::config::Config;
use crate::config::resolved::Secret;
use crate::server::own::{Own, Rows};
use crate::services::Services;

/// For each question.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks everything that can be asked, a running Howdah over its ops port.
pub async fn collect(services: &Arc<Services>, config: &Config) -> Evidence {
    let mut evidence = servers(services, config).await;
    match config.listen.ops {
        Some(ops) => match pooler(ops, config).await {
            Ok(p) => evidence.pooler = Some(p),
            Err(why) => evidence.unasked.push(format!("a running Howdah at {ops}: {why}")),
        },
        None => evidence.unasked.push("a running Howdah: ops_listen is off".to_owned()),
    }
    evidence
}

/// The same inside of the Howdah that is examined.
pub async fn collect_here(services: &Arc<Services>, config: &Config) -> Evidence {
    let mut evidence = servers(services, config).await;
    evidence.pooler = Some(Pooler {
        uptime_seconds: services.clock.now_ms() as f64 / 1e3,
        max_prepared_statements: config.limits.max_prepared_statements,
        pools: services.pools.all().iter().map(|p| own_pool(p)).collect(),
    });
    evidence
}

async fn servers(services: &Arc<Services>, config: &Config) -> Evidence {
    let mut evidence = Evidence::default();
    for need in needs(config) {
        match host(services, config, &need).await {
            Ok(host) => evidence.hosts.push(host),
            Err(why) => {
                evidence.unasked.push(format!("{}: {why}", need.host));
                continue;
            }
        }
        for name in need.databases() {
            match database(services, config, &need, name).await {
                Ok(database) => evidence.databases.push(database),
                Err(why) => evidence.unasked.push(format!("{}/{name}: {why}", need.host)),
            }
        }
    }
    evidence
}

fn own_pool(pool: &crate::pool::Pool) -> Pool {
    let (spec, t, key) = (pool.spec(), pool.totals(), &pool.key);
    let seconds = |us: u64| us as f64 / 1e6;
    Pool {
        name: format!("{}/{}/{}", key.database, key.user, key.role.as_str()),
        size: spec.settings.size,
        transactions: t.transactions,
        waits: t.wait.count(),
        wait_seconds: seconds(t.wait.sum_us),
        transaction_seconds: seconds(t.transaction.sum_us),
        wait_timeouts: t.wait_timeouts,
        waiting: pool.counts().waiting as u64,
        binds: t.binds,
        client_parses: t.client_parses,
        server_parses: t.server_parses,
    }
}

async fn query(own: &mut Own, sql: &str) -> Result<Rows, String> {
    match tokio::time::timeout(PATIENCE, own.query(sql)).await {
        Ok(answer) => answer.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

/// One column of a row, as what it should be; nothing where it is NULL.
fn get<T: std::str::FromStr>(rows: &Rows, row: usize, column: &str) -> Option<T> {
    rows.get(row, column)?.parse().ok()
}

fn text(rows: &Rows, row: usize, column: &str) -> String {
    rows.get(row, column).unwrap_or_default().to_owned()
}

async fn host(services: &Arc<Services>, config: &Config, need: &HostNeed) -> Result<Host, String> {
    let facts = ask::ask(services, config, need).await?;
    let capacity = check::check(need, &facts, config.capacity.instances);
    let mut own = ask::open(services, config, need, None, ask::APPLICATION).await?;
    let lag = "SELECT CASE WHEN pg_is_in_recovery() AND pg_last_wal_receive_lsn() IS DISTINCT FROM \
               pg_last_wal_replay_lsn() THEN extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END AS lag";
    let lag = get(&query(&mut own, lag).await?, 0, "lag");
    let idle = "SELECT pid, usename, application_name, extract(epoch FROM clock_timestamp() - state_change) AS seconds \
                FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'";
    let rows = query(&mut own, idle).await?;
    let idle_in_transaction = (0..rows.rows.len())
        .map(|i| IdleInTransaction {
            pid: get(&rows, i, "pid").unwrap_or_default(),
            role: text(&rows, i, "usename"),
            application: text(&rows, i, "application_name"),
            seconds: get(&rows, i, "seconds").unwrap_or_default(),
        })
        .collect();
    Ok(Host { host: need.host.to_string(), facts, capacity, lag, idle_in_transaction })
}

async fn database(
    services: &Arc<Services>,
    config: &Config,
    need: &HostNeed,
    name: &str,
) -> Result<Database, String> {
    let mut own = ask::open(services, config, need, Some(name), ask::APPLICATION).await?;
    let whole = "SELECT blks_hit, blks_read, pg_is_in_recovery() AS recovery FROM pg_stat_database \
                 WHERE datname = current_database()";
    let whole = query(&mut own, whole).await?;
    let tables = "SELECT s.relid::regclass AS name, greatest(s.n_live_tup, c.reltuples::bigint) AS rows, s.seq_scan, \
                  s.seq_tup_read, coalesce(s.idx_scan, 0) AS idx_scan, \
                  coalesce(s.last_analyze, s.last_autoanalyze) IS NOT NULL AS analyzed \
                  FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid";
    let tables = query(&mut own, tables).await?;
    // What is unique, or belongs to a constraint, is there for more than its scans.
    let indexes = "SELECT s.indexrelid::regclass AS name, s.relid::regclass AS table, s.idx_scan, \
                   pg_relation_size(s.indexrelid) AS bytes FROM pg_stat_user_indexes s \
                   JOIN pg_index i ON i.indexrelid = s.indexrelid WHERE NOT i.indisunique AND NOT i.indisexclusion";
    let indexes = query(&mut own, indexes).await?;
    Ok(Database {
        host: need.host.to_string(),
        name: name.to_owned(),
        in_recovery: whole.get(0, "recovery") == Some("t"),
        blocks_hit: get(&whole, 0, "blks_hit").unwrap_or_default(),
        blocks_read: get(&whole, 0, "blks_read").unwrap_or_default(),
        tables: (0..tables.rows.len())
            .map(|i| Table {
                name: text(&tables, i, "name"),
                rows: get(&tables, i, "rows").unwrap_or_default(),
                sequential_scans: get(&tables, i, "seq_scan").unwrap_or_default(),
                sequential_rows: get(&tables, i, "seq_tup_read").unwrap_or_default(),
                index_scans: get(&tables, i, "idx_scan").unwrap_or_default(),
                analyzed: tables.get(i, "analyzed") == Some("t"),
            })
            .collect(),
        indexes: (0..indexes.rows.len())
            .map(|i| Index {
                name: text(&indexes, i, "name"),
                table: text(&indexes, i, "table"),
                scans: get(&indexes, i, "idx_scan").unwrap_or_default(),
                bytes: get(&indexes, i, "bytes").unwrap_or_default(),
            })
            .collect(),
    })
}

/// The figures of a Howdah that serves by this configuration on this machine.
async fn pooler(ops: SocketAddr, config: &Config) -> Result<Pooler, String> {
    if config.tls.ops.cert.is_some() {
        return Err(
            "it speaks HTTPS (ops_tls_cert); SHOW ADVICE on its console says what its figures say".to_owned()
        );
    }
    let token = match &config.process.ops_token {
        Some(Secret::Plain(t)) => format!("Authorization: Bearer {}\r\n", t.as_str()),
        _ => String::new(),
    };
    let answer = tokio::time::timeout(PATIENCE, async {
        let mut stream = tokio::net::TcpStream::connect(ops).await?;
        let request = format!("GET /stats HTTP/1.1\r\nHost: {ops}\r\n{token}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.take(16 << 20).read_to_end(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    });
    let answer = answer.await.map_err(|_| "no answer".to_owned())?.map_err(|e| e.to_string())?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("not an answer of HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(head.lines().next().unwrap_or_default().to_owned());
    }
    let stats: serde_json::Value = serde_json::from_str(body).map_err(|e| e.to_string())?;
    let pools = stats.get("pools").and_then(|p| p.as_array()).map(|p| p.iter().map(pool).collect());
    Ok(Pooler {
        uptime_seconds: stats.get("uptime_seconds").and_then(serde_json::Value::as_f64).unwrap_or_default(),
        max_prepared_statements: config.limits.max_prepared_statements,
        pools: pools.unwrap_or_default(),
    })
}

fn pool(p: &serde_json::Value) -> Pool {
    let word = |k: &str| p.get(k).and_then(|v| v.as_str()).unwrap_or_default();
    let total = |k: &str| p.pointer(&format!("/totals/{k}"));
    let whole = |k: &str| total(k).and_then(serde_json::Value::as_u64).unwrap_or_default();
    let real = |k: &str| total(k).and_then(serde_json::Value::as_f64).unwrap_or_default();
    Pool {
        name: format!("{}/{}/{}", word("database"), word("user"), word("role")),
        size: p.pointer("/settings/size").and_then(serde_json::Value::as_u64).unwrap_or_default() as u32,
        transactions: whole("transactions"),
        waits: whole("waits"),
        wait_seconds: real("wait_seconds"),
        transaction_seconds: real("transaction_seconds"),
        wait_timeouts: whole("wait_timeouts"),
        waiting: p.get("waiting").and_then(serde_json::Value::as_u64).unwrap_or_default(),
        binds: whole("binds"),
        client_parses: whole("client_parses"),
        server_parses: whole("server_parses"),
    }
}
