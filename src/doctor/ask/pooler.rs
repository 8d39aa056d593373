//! The figures of a running Howdah, as its ops port tells them: of another one over HTTP, of this one as they are.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;

use super::super::evidence::{Pool, Pooler, Reads, Statement};
use super::PATIENCE;
use super::explained::STATEMENTS;
use crate::config::Config;
use crate::config::resolved::Role;
use crate::ops::ask::{self, Identity};
use crate::routing::classify::{Class, Reading, classify};
use crate::services::Services;

/// Of one that serves by this configuration on this machine.
pub(super) async fn over_http(
    ops: SocketAddr,
    config: &Config,
    identity: Option<&Identity>,
) -> Result<Pooler, String> {
    let stats = get(ops, "/stats", config, identity).await?;
    let queries = get(ops, "/queries", config, identity).await?;
    read(&stats, &queries, config)
}

/// Of the one that asks; written off the threads that relay.
pub(super) async fn here(services: &Arc<Services>, config: &Config) -> Result<Pooler, String> {
    let services = services.clone();
    let write = move || Ok::<_, String>((crate::ops::stats(&services)?, crate::ops::queries(&services)?));
    let (stats, queries) = tokio::task::spawn_blocking(write).await.map_err(|e| e.to_string())??;
    read(&stats, &queries, config)
}

async fn get(
    ops: SocketAddr,
    path: &str,
    config: &Config,
    identity: Option<&Identity>,
) -> Result<String, String> {
    let answer = ask::ask(ops, path, config, identity, PATIENCE).await?;
    if answer.status != 200 {
        let help = if [401, 403].contains(&answer.status) {
            "; ops_token of this configuration is what it must be shown"
        } else {
            ""
        };
        return Err(format!("{}{help}", answer.line));
    }
    Ok(answer.body)
}

fn read(stats: &str, queries: &str, config: &Config) -> Result<Pooler, String> {
    let parse = |text: &str| serde_json::from_str::<Value>(text).map_err(|e| e.to_string());
    let (stats, queries) = (parse(stats)?, parse(queries)?);
    let list =
        |value: &Value, key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let (pools, routes, statements) =
        (list(&stats, "pools"), list(&stats, "routes"), list(&queries, "statements"));
    Ok(Pooler {
        max_prepared_statements: config.limits.max_prepared_statements,
        pools: pools.iter().map(pool).collect(),
        reads: reads(config, &routes, &statements),
        statements: slowest(&statements),
    })
}

fn word<'v>(value: &'v Value, key: &str) -> &'v str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn whole(value: &Value, key: &str) -> u64 {
    value.pointer(key).and_then(Value::as_u64).unwrap_or_default()
}

fn pool(p: &Value) -> Pool {
    let since = |key: &str| p.pointer(&format!("/since_change/{key}"));
    let count = |key: &str| since(key).and_then(Value::as_u64).unwrap_or_default();
    let real = |key: &str| since(key).and_then(Value::as_f64).unwrap_or_default();
    Pool {
        database: word(p, "database").to_owned(),
        user: word(p, "user").to_owned(),
        role: word(p, "role").to_owned(),
        size: crate::number::narrow(whole(p, "/settings/size")),
        min_size: crate::number::narrow(whole(p, "/settings/min_size")),
        waiting: whole(p, "/waiting"),
        seconds: real("seconds"),
        waits: count("waits"),
        wait_seconds: real("wait_seconds"),
        transaction_seconds: real("transaction_seconds"),
        wait_timeouts: count("wait_timeouts"),
        binds: count("binds"),
        client_parses: count("client_parses"),
        server_parses: count("server_parses"),
    }
}

fn slowest(statements: &[Value]) -> Vec<Statement> {
    let real = |s: &Value, key: &str| s.get(key).and_then(Value::as_f64).unwrap_or_default();
    let mut all: Vec<Statement> = statements
        .iter()
        .map(|s| Statement {
            id: word(s, "id").to_owned(),
            database: word(s, "database").to_owned(),
            text: word(s, "text").to_owned(),
            calls: whole(s, "/calls"),
            server_seconds: real(s, "server_seconds"),
        })
        .collect();
    all.sort_by(|a, b| b.server_seconds.total_cmp(&a.server_seconds));
    all.truncate(STATEMENTS);
    all
}

fn reads(config: &Config, routes: &[Value], statements: &[Value]) -> Vec<Reads> {
    let of = |database: &crate::config::resolved::Database| {
        let name = database.name.as_str();
        let route = routes.iter().find(|r| word(r, "database") == name);
        let decisions = route.and_then(|r| r.get("decisions_since_change")).and_then(Value::as_array);
        let sum = |role: Role, fits: &dyn Fn(&str) -> bool| {
            let all = decisions.into_iter().flatten().filter(|d| word(d, "role") == role.as_str());
            all.filter(|d| fits(word(d, "reason"))).map(|d| whole(d, "/transactions")).sum::<u64>()
        };
        let on_primary = |reason: &str| sum(Role::Primary, &|r| r == reason);
        let begun =
            statements.iter().filter(|s| word(s, "database") == name && begins_read_only(word(s, "text")));
        let primaries = database.roles.get(&Role::Primary).map_or(&[][..], |r| &r.hosts);
        Reads {
            database: name.to_owned(),
            primaries: primaries.iter().map(ToString::to_string).collect(),
            replicas: database.replica_hosts().len(),
            eligible: route.map_or(0, |r| crate::number::size(whole(r, "/eligible_replicas"))),
            all_to_primary: database.routing.fixed == Some(Role::Primary),
            max_lag: database.routing.max_lag.map(|d| d.as_secs_f64()),
            max_lag_bytes: database.routing.max_lag_bytes,
            own_writes_wait: database.routing.read_your_writes_wait.as_secs_f64(),
            on_replicas: sum(Role::Replica, &|r| !["no_replica", "lag"].contains(&r)),
            stated: on_primary("stated_read_only"),
            no_replica: on_primary("no_replica"),
            lag: on_primary("lag"),
            own_writes: on_primary("own_writes"),
            begun: begun.map(|s| whole(s, "/calls")).sum(),
        }
    };
    config.databases.values().map(of).collect()
}

/// By its text without constants, which no list of transaction modes has.
fn begins_read_only(text: &str) -> bool {
    classify(text.as_bytes(), Reading::default()).class == Class::ReadOnlyBlock
}
