use super::evidence::{
    Database, Evidence, Host, IdleInTransaction, Index, Materialized, Pool, Pooler, Reads, Scanned, Table,
};
use super::examine::examine;
use super::finding::Code;
use super::report::{json, text};
use crate::capacity::check::{Finding as CapacityFinding, Severity};
use crate::capacity::facts::Facts;

fn codes(evidence: &Evidence) -> Vec<&'static str> {
    examine(evidence).into_iter().map(|f| f.code.as_str()).collect()
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

fn pool(seconds: f64, pool: Pool) -> Evidence {
    let [database, user, role] = ["app", "app", "primary"].map(str::to_owned);
    let pool = Pool { database, user, role, seconds, ..pool };
    let pooler = Pooler { max_prepared_statements: 200, pools: vec![pool], ..Pooler::default() };
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
    all.pooler =
        pool(7200.0, Pool { size: 20, waits: 9, transaction_seconds: 36_000.0, ..Pool::default() }).pooler;
    assert_eq!(codes(&all), [] as [&str; 0]);
    assert!(text(&all, &[]).ends_with("no advice\n"));
}

#[test]
fn each_advice_has_its_case() {
    assert_eq!(codes(&host(|h| h.facts.in_use.extend([("app".to_owned(), 78)]))), ["connections_near_limit"]);
    assert_eq!(codes(&host(|h| h.lag = Some(10.0))), ["replication_lag"]);
    assert_eq!(codes(&host(|h| h.cut = true)), ["replication_lag"], "nobody knows how far it is behind");
    let just = |h: &mut Host| (h.cut, h.lag) = (true, Some(9.9));
    assert_eq!(codes(&host(|h| just(h))), [] as [&str; 0], "it may be about to receive again");
    let idle = IdleInTransaction { pid: 42, seconds: 10.0, ..IdleInTransaction::default() };
    let found = examine(&host(|h| h.idle_in_transaction.push(idle)));
    assert_eq!((found.len(), found[0].code), (1, Code::IdleInTransaction));
    assert!(found[0].change.contains("pg_terminate_backend(42)"), "{}", found[0].change);
    let capacity = CapacityFinding { severity: Severity::Refuse, text: "the sum".to_owned() };
    assert_eq!(codes(&host(|h| h.capacity.push(capacity.clone()))), ["capacity_too_large"]);
    let found = examine(&host(|h| (h.capacity, h.enough) = (vec![capacity], Some(120))));
    assert_eq!(found[0].steps.len(), 2, "a larger server, and its restart");

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
    assert_eq!(codes(&pool(3599.0, large.clone())), [] as [&str; 0], "it may not have seen its peak");
    let opened = Pool { waits: 10, wait_seconds: 0.09, ..large.clone() };
    assert_eq!(codes(&pool(3600.0, opened.clone())), ["pool_too_large"], "connections take time to open");
    let waited = Pool { wait_seconds: 0.1, ..opened };
    assert_eq!(codes(&pool(3600.0, waited)), [] as [&str; 0], "somebody had to wait");
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

fn reads(standbys: u32, reads: Reads) -> Option<(String, usize)> {
    let mut all = host(|h| h.standbys = standbys);
    let primaries = vec!["db:5432".to_owned()];
    let pooler = Pooler { reads: vec![Reads { primaries, ..reads }], ..Pooler::default() };
    all.pooler = Some(pooler);
    let found = examine(&all);
    assert!(found.iter().all(|f| f.code == Code::ReadsOnPrimary));
    found.first().map(|f| (f.change.clone(), f.steps.len()))
}

#[test]
fn reads_belong_on_replicas() {
    let change = |standbys, r| reads(standbys, r).map(|(change, _)| change);
    let with = |r: Reads| Reads { database: "app".to_owned(), replicas: 2, eligible: 2, ..r };
    let none = with(Reads::default());
    let stated = Reads { all_to_primary: true, stated: 100, ..none.clone() };
    assert_eq!(change(2, stated.clone()), Some("route = \"transactions\"".to_owned()));
    assert_eq!(change(2, Reads { stated: 99, ..stated.clone() }), None, "too few to tell");
    assert_eq!(change(2, Reads { all_to_primary: false, ..stated }), None, "clients say so themselves");
    let lag = Reads { lag: 100, on_replicas: 900, max_lag: Some(1.5), ..none.clone() };
    assert_eq!(change(2, lag.clone()), Some("max_lag = \"3000ms\"".to_owned()));
    assert_eq!(change(2, Reads { on_replicas: 1000, ..lag.clone() }), None, "few among many");
    let bytes = Reads { max_lag: None, max_lag_bytes: Some(8), ..lag };
    assert_eq!(change(2, bytes), Some("max_lag_bytes = \"16B\"".to_owned()));
    let own = Reads { own_writes: 100, ..none.clone() };
    assert_eq!(change(2, own.clone()), Some("read_your_writes_wait = \"100ms\"".to_owned()));
    let waits = Reads { own_writes_wait: 0.2, ..own };
    assert_eq!(change(2, waits), Some("read_your_writes_wait = \"400ms\"".to_owned()));
    let gone = Reads { no_replica: 100, eligible: 0, ..none.clone() };
    assert!(change(2, gone.clone()).is_some_and(|c| c.contains("bring a replica back")));
    assert_eq!(change(2, Reads { eligible: 1, ..gone }), None, "one is back");
    let unused = Reads { begun: 100, replicas: 0, ..none };
    assert_eq!(
        reads(1, unused.clone()).map(|(_, steps)| steps),
        Some(0),
        "where the standbys listen is not known"
    );
    assert_eq!(change(0, unused), None, "there is nobody to read from");
}

#[test]
fn a_plan_tells_the_columns_of_a_missing_index() {
    let scanned = |rows, columns: &[&str]| Scanned {
        host: "db:5432".to_owned(),
        database: "app".to_owned(),
        table: "t".to_owned(),
        rows,
        columns: columns.iter().map(|c| (*c).to_owned()).collect(),
        ..Scanned::default()
    };
    let table = Table { name: "t".to_owned(), analyzed: true, ..Table::default() };
    let steps = |scanned: Vec<Scanned>| {
        let evidence = Evidence { scanned, ..database(|d| d.tables.push(table.clone())) };
        examine(&evidence).iter().map(|f| f.steps.len()).collect::<Vec<_>>()
    };
    let (ab, c) = (scanned(10_000, &["a", "b"]), scanned(10_000, &["c"]));
    assert_eq!(steps(vec![ab.clone(), c, ab.clone()]), [3], "two indexes, and the counters");
    assert_eq!(steps(vec![Scanned { rows: 9_999, ..ab.clone() }]), [] as [usize; 0], "a small table");
    assert_eq!(
        steps(vec![Scanned { host: "replica".to_owned(), ..ab }]),
        [] as [usize; 0],
        "another server's"
    );
}

#[test]
fn a_view_is_as_old_as_its_schedule_allows() {
    let view = |age, limit| {
        codes(&database(|d| d.materialized.push(Materialized { name: "sums".to_owned(), age, limit })))
    };
    assert_eq!(view(Some(3600.0), 3600.0), [] as [&str; 0]);
    assert_eq!(view(Some(3601.0), 3600.0), ["materialized_view_stale"]);
    assert_eq!(view(None, 3600.0), ["materialized_view_stale"]);
}
