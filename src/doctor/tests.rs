use super::evidence::{Database, Evidence, Host, IdleInTransaction, Index, Pool, Pooler, Table};
use super::examine::{examine, json, text};
use crate::capacity::check::{Finding as CapacityFinding, Severity};
use crate::capacity::facts::Facts;

fn codes(evidence: &Evidence) -> Vec<&'static str> {
    examine(evidence).into_iter().map(|f| f.code).collect()
}

fn host(change: impl FnOnce(&mut Host)) -> Evidence {
    let facts = Facts { max_connections: 100, superuser_reserved: 3, ..Facts::default() };
    let mut host = Host { host: "db:5432".to_owned(), facts, ..Host::default() };
    change(&mut host);
    Evidence { hosts: vec![host], ..Evidence::default() }
}

fn database(change: impl FnOnce(&mut Database)) -> Evidence {
    let mut database = Database { host: "db:5432".to_owned(), name: "app".to_owned(), ..Database::default() };
    change(&mut database);
    Evidence { databases: vec![database], ..Evidence::default() }
}

fn pool(uptime_seconds: f64, pool: Pool) -> Evidence {
    let pool = Pool { name: "app/app/primary".to_owned(), ..pool };
    let pooler = Pooler { uptime_seconds, max_prepared_statements: 200, pools: vec![pool] };
    Evidence { pooler: Some(pooler), ..Evidence::default() }
}

#[test]
fn what_is_in_order_gets_no_advice() {
    let mut all = host(|h| {
        h.facts.in_use.insert("app".to_owned(), 77);
        h.lag = Some(9.9);
        h.idle_in_transaction.push(IdleInTransaction { seconds: 9.0, ..IdleInTransaction::default() });
    });
    all.databases = database(|d| {
        d.blocks_hit = 95_000;
        d.blocks_read = 5_000;
        d.tables.push(Table {
            rows: 99,
            sequential_scans: 19,
            sequential_rows: 1_000_000,
            ..Table::default()
        });
        d.indexes.push(Index { bytes: (1 << 20) - 1, ..Index::default() });
        d.indexes.push(Index { bytes: 1 << 30, scans: 1, ..Index::default() });
    })
    .databases;
    all.pooler = pool(
        7200.0,
        Pool { size: 20, transactions: 9, waits: 9, transaction_seconds: 36_000.0, ..Pool::default() },
    )
    .pooler;
    assert_eq!(codes(&all), [] as [&str; 0]);
    assert!(text(&all, &[]).ends_with("no advice\n"));
}

#[test]
fn each_advice_has_its_case() {
    assert_eq!(codes(&host(|h| h.facts.in_use.extend([("app".to_owned(), 78)]))), ["connections_near_limit"]);
    assert_eq!(codes(&host(|h| h.lag = Some(10.0))), ["replication_lag"]);
    let idle = IdleInTransaction { pid: 42, seconds: 10.0, ..IdleInTransaction::default() };
    let found = examine(&host(|h| h.idle_in_transaction.push(idle)));
    assert_eq!((found.len(), found[0].code), (1, "idle_in_transaction"));
    assert!(found[0].change.contains("pg_terminate_backend(42)"), "{}", found[0].change);
    let capacity = CapacityFinding { severity: Severity::Refuse, text: "the sum".to_owned() };
    assert_eq!(codes(&host(|h| h.capacity.push(capacity))), ["capacity_too_large"]);

    let cold = |d: &mut Database| (d.blocks_hit, d.blocks_read) = (50_000, 50_000);
    assert_eq!(codes(&database(cold)), ["cache_hits_low"]);
    let scanned =
        Table { sequential_scans: 20, sequential_rows: 200_000, analyzed: true, ..Table::default() };
    assert_eq!(codes(&database(|d| d.tables.push(scanned.clone()))), ["index_missing"]);
    let indexed = Table { index_scans: 20, ..scanned };
    assert_eq!(codes(&database(|d| d.tables.push(indexed))), [] as [&str; 0]);
    let raw = Table { rows: 100, ..Table::default() };
    assert_eq!(codes(&database(|d| d.tables.push(raw.clone()))), ["statistics_missing"]);
    let standby = |d: &mut Database| {
        d.in_recovery = true;
        d.tables.push(raw);
        d.indexes.push(Index { bytes: 1 << 30, ..Index::default() });
    };
    assert_eq!(codes(&database(standby)), [] as [&str; 0], "its counters are not the primary's");
    let unused = Index { bytes: 1 << 20, ..Index::default() };
    assert_eq!(codes(&database(|d| d.indexes.push(unused))), ["index_unused"]);

    let small = Pool { size: 5, waits: 100, wait_seconds: 1.0, ..Pool::default() };
    assert_eq!(codes(&pool(10.0, small.clone())), ["pool_too_small"]);
    assert_eq!(codes(&pool(10.0, Pool { waits: 99, ..small })), [] as [&str; 0], "too few to tell");
    let refused = Pool { size: 5, wait_timeouts: 1, ..Pool::default() };
    assert_eq!(codes(&pool(10.0, refused)), ["pool_too_small"]);
    let large = Pool { size: 20, transaction_seconds: 3600.0, ..Pool::default() };
    assert_eq!(codes(&pool(3600.0, large.clone())), ["pool_too_large"]);
    assert_eq!(codes(&pool(3599.0, large)), [] as [&str; 0], "it may not have seen its peak");
    let thrash = Pool { binds: 1000, server_parses: 500, client_parses: 10, ..Pool::default() };
    assert_eq!(codes(&pool(10.0, thrash.clone())), ["statement_cache_thrash"]);
    assert_eq!(
        codes(&pool(10.0, Pool { client_parses: 500, ..thrash })),
        [] as [&str; 0],
        "the clients' own doing"
    );
}

#[test]
fn the_most_urgent_comes_first_in_both_forms() {
    let mut all = host(|h| h.lag = Some(60.0));
    all.databases = database(|d| d.indexes.push(Index { bytes: 1 << 20, ..Index::default() })).databases;
    all.unasked.push("replica: connection refused".to_owned());
    let found = examine(&all);
    assert!(text(&all, &found).starts_with("HIGH  replication_lag"));
    let read: serde_json::Value = serde_json::from_str(&json(&all, &found)).unwrap();
    assert_eq!(read["advice"][1]["code"], "index_unused");
    assert_eq!(read["not_examined"][0], "replica: connection refused");
}
