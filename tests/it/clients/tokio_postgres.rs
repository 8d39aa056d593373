//! tokio-postgres as applications use it, through Howdah and directly: the same results.

use std::fmt::Write as _;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

use crate::harness::proxy::Howdah;
use crate::harness::{self, Cluster, SUPERUSER, connections, count, eventually, shared};

const POOL_SIZE: usize = 4;

async fn connect(dsn: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await.expect("a login");
    tokio::spawn(async move {
        if let Err(e) = connection.await {
            println!("connection: {e}");
        }
    });
    client
}

fn code(e: &Error) -> &SqlState {
    e.code().unwrap_or_else(|| panic!("no SQLSTATE: {e}"))
}

/// The two servers' places.
struct Both<'a> {
    cluster: &'a Cluster,
    howdah: Howdah,
}

impl Both<'_> {
    /// Runs `work` over a connection to each and compares what they wrote down.
    fn same<Fut: Future<Output = String>>(&self, name: &str, work: impl Fn(String) -> Fut) {
        let run = |dsn: String| {
            reset(self.cluster);
            // Ends with everything that was spawned on it.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            let limited = async { tokio::time::timeout(Duration::from_secs(30), work(dsn)).await };
            runtime.block_on(limited).unwrap_or_else(|_| panic!("{name} does not end"))
        };
        let direct = run(self.cluster.dsn("app", "app"));
        eventually("the direct sessions have ended", || connections(self.cluster, "app") <= POOL_SIZE);
        let proxied = run(self.howdah.dsn("app", "app"));
        assert!(!direct.is_empty());
        assert_eq!(direct, proxied, "{name}");
        assert!(connections(self.cluster, "app") <= POOL_SIZE, "{name}: the pool is bounded");
        let busy = || count(self.cluster, "usename = 'app' AND state <> 'idle'");
        eventually("no transaction is left open", || busy() == 0);
    }
}

fn all_on(major: u32) {
    let Some(cluster) = shared(major) else { return };
    let howdah = harness::start(cluster, "", &format!("pool_size = {POOL_SIZE}"), "");
    let both = Both { cluster, howdah };
    both.same("queries", queries_and_prepared_statements);
    both.same("transactions", transactions_and_savepoints);
    both.same("pipelines", pipelines);
    both.same("copy", copy_in_and_out);
    both.same("cancel", cancelled_queries);
    both.same("portals", portals_with_row_limits);
    both.same("parameters", startup_parameters);
}

#[test]
fn on_postgres_15() {
    all_on(15);
}

#[test]
fn on_postgres_18() {
    all_on(18);
}

/// The database as it was.
fn reset(cluster: &Cluster) {
    let mut direct = cluster.connect(SUPERUSER, "app").expect("a login");
    direct.query("DROP SCHEMA public CASCADE; CREATE SCHEMA public AUTHORIZATION app").expect("reset");
}

async fn queries_and_prepared_statements(dsn: String) -> String {
    let client = connect(&dsn).await;
    let mut out = String::new();
    client
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY, name text, at timestamptz)")
        .await
        .expect("made");
    let insert = client.prepare("INSERT INTO t VALUES ($1, $2, now())").await.expect("prepared");
    writeln!(out, "{:?}", insert.params()).expect("written");
    for i in 0..20_i32 {
        let name = (i % 3 != 0).then(|| format!("name {i}"));
        assert_eq!(client.execute(&insert, &[&i, &name]).await.expect("inserted"), 1);
    }
    let select =
        client.prepare_typed("SELECT id, name FROM t WHERE id < $1 ORDER BY id", &[Type::INT4]).await;
    let select = select.expect("prepared");
    for round in 0..10_i32 {
        let rows = client.query(&select, &[&(round * 2)]).await.expect("rows");
        for row in rows {
            writeln!(out, "{}: {:?}", row.get::<_, i32>(0), row.get::<_, Option<&str>>(1)).expect("written");
        }
    }
    let columns = client.prepare("SELECT 1 AS a, 'x'::text AS b, 1.5::float8 AS c").await.expect("prepared");
    for c in columns.columns() {
        writeln!(out, "{} {}", c.name(), c.type_()).expect("written");
    }
    // Types that the driver has to look up with queries of its own.
    client.batch_execute("CREATE TYPE mood AS ENUM ('sad', 'happy')").await.expect("made");
    let mood = client.prepare("SELECT 'happy'::mood").await.expect("prepared");
    writeln!(out, "{}", mood.columns()[0].type_()).expect("written");

    let missing = client.query("SELECT * FROM missing", &[]).await.expect_err("no such table");
    let division = client.query("SELECT 1 / $1::int", &[&0_i32]).await.expect_err("a division by zero");
    let double = client.execute(&insert, &[&1_i32, &None::<String>]).await.expect_err("it is there");
    for e in [missing, division, double] {
        writeln!(out, "{} {:?}", code(&e).code(), e.as_db_error().map(|d| d.message())).expect("written");
    }
    for message in
        client.simple_query("SELECT 1; SELECT 'two' AS b; UPDATE t SET name = ''").await.expect("it")
    {
        match message {
            SimpleQueryMessage::Row(r) => writeln!(out, "row {:?}", r.get(0)).expect("written"),
            SimpleQueryMessage::CommandComplete(n) => writeln!(out, "complete {n}").expect("written"),
            _ => {}
        }
    }
    out
}

async fn transactions_and_savepoints(dsn: String) -> String {
    let mut client = connect(&dsn).await;
    let mut out = String::new();
    client.batch_execute("CREATE TABLE t (id int)").await.expect("made");
    let mut transaction = client.transaction().await.expect("begun");
    transaction.execute("INSERT INTO t VALUES (1)", &[]).await.expect("inserted");
    let savepoint = transaction.savepoint("s").await.expect("a savepoint");
    savepoint.execute("INSERT INTO t VALUES (2)", &[]).await.expect("inserted");
    let e = savepoint.execute("INSERT INTO t VALUES (1 / 0)", &[]).await.expect_err("a division");
    writeln!(out, "{}", code(&e).code()).expect("written");
    savepoint.rollback().await.expect("rolled back");
    transaction.execute("INSERT INTO t VALUES (3)", &[]).await.expect("inserted");
    transaction.commit().await.expect("committed");
    // Dropped means rolled back, without waiting for an answer.
    let dropped = client.transaction().await.expect("begun");
    dropped.execute("INSERT INTO t VALUES (4)", &[]).await.expect("inserted");
    drop(dropped);
    let strict = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::Serializable)
        .read_only(true)
        .start()
        .await
        .expect("begun");
    let e = strict.execute("INSERT INTO t VALUES (5)", &[]).await.expect_err("it is read only");
    writeln!(out, "{}", code(&e).code()).expect("written");
    strict.rollback().await.expect("rolled back");
    for row in client.query("SELECT id FROM t ORDER BY id", &[]).await.expect("rows") {
        writeln!(out, "{}", row.get::<_, i32>(0)).expect("written");
    }
    out
}

/// Futures that run together are one pipeline; those of several clients share the pool.
async fn pipelines(dsn: String) -> String {
    let clients = join_all((0..POOL_SIZE * 3).map(|_| connect(&dsn))).await;
    let mut out = String::new();
    let of_client = |client: Client, number: i32| async move {
        let statement = client.prepare("SELECT $1::int * 2, 100 / $2::int").await.expect("prepared");
        let divisors: Vec<(i32, i32)> = (0..50).map(|i| (number * 1000 + i, i % 10)).collect();
        let all = divisors.iter().map(|(i, d)| {
            let (client, statement) = (&client, &statement);
            async move {
                match client.query_one(statement, &[i, d]).await {
                    Ok(row) => format!("{} {}", row.get::<_, i32>(0), row.get::<_, i32>(1)),
                    Err(e) => format!("{} {}", i, code(&e).code()),
                }
            }
        });
        join_all(all).await.join("\n")
    };
    let numbered = clients.into_iter().zip(0..);
    for answers in join_all(numbered.map(|(client, i)| of_client(client, i))).await {
        writeln!(out, "{answers}").expect("written");
    }
    out
}

async fn copy_in_and_out(dsn: String) -> String {
    let client = connect(&dsn).await;
    let mut out = String::new();
    client.batch_execute("CREATE TABLE t (id int, name text)").await.expect("made");
    let mut sink = pin!(client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.expect("a sink"));
    for i in 0..20_000 {
        sink.send(Bytes::from(format!("{i}\tname of {i}\n"))).await.expect("taken");
    }
    writeln!(out, "{}", sink.finish().await.expect("copied")).expect("written");

    // One that ends before its time, and one that the server refuses.
    let mut dropped = Box::pin(client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.expect("a sink"));
    dropped.send(Bytes::from_static(b"-1\tgone\n")).await.expect("taken");
    drop(dropped);
    let mut wrong = pin!(client.copy_in::<_, Bytes>("COPY t FROM STDIN").await.expect("a sink"));
    wrong.send(Bytes::from_static(b"not a number\t\n")).await.expect("taken");
    writeln!(out, "{}", code(&wrong.finish().await.expect_err("refused")).code()).expect("written");

    let mut stream = pin!(client.copy_out("COPY (SELECT * FROM t ORDER BY id) TO STDOUT").await.expect("it"));
    while let Some(chunk) = stream.next().await {
        out.push_str(std::str::from_utf8(&chunk.expect("a chunk")).expect("UTF-8"));
    }
    // One that nobody reads to its end.
    let some = client.copy_out("COPY (SELECT generate_series(1, 100000)) TO STDOUT").await.expect("it");
    let first = pin!(some).next().await.expect("a chunk").expect("a chunk");
    writeln!(out, "{first:?}").expect("written");
    let row = client.query_one("SELECT count(*), min(id) FROM t", &[]).await.expect("a row");
    writeln!(out, "{} {}", row.get::<_, i64>(0), row.get::<_, i32>(1)).expect("written");
    out
}

async fn cancelled_queries(dsn: String) -> String {
    let (client, bystander) = (connect(&dsn).await, connect(&dsn).await);
    let token = client.cancel_token();
    let mut out = String::new();
    let other = async {
        let row = bystander.query_one("SELECT 'served' FROM pg_sleep(1.5)", &[]).await;
        row.expect("not the one that was meant").get::<_, String>(0)
    };
    let cancelled = async {
        let started = std::time::Instant::now();
        let (result, ()) = tokio::join!(client.query("SELECT 1 FROM pg_sleep(30)", &[]), async {
            let runs = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(30)%' \
                        AND pid <> pg_backend_pid() AND state = 'active'";
            let watcher = connect(&dsn).await;
            while watcher.query_one(runs, &[]).await.expect("a row").get::<_, i64>(0) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            token.cancel_query(NoTls).await.expect("sent");
        });
        assert!(started.elapsed() < Duration::from_secs(20));
        code(&result.expect_err("cancelled")).code().to_owned()
    };
    let (other, cancelled) = tokio::join!(other, cancelled);
    writeln!(out, "{other} {cancelled}").expect("written");
    out
}

async fn portals_with_row_limits(dsn: String) -> String {
    let mut client = connect(&dsn).await;
    let mut out = String::new();
    let transaction = client.transaction().await.expect("begun");
    let statement = transaction.prepare("SELECT i FROM generate_series(1, $1::int) i").await.expect("it");
    let (a, b) =
        (transaction.bind(&statement, &[&10_i32]).await, transaction.bind(&statement, &[&5_i32]).await);
    let (a, b) = (a.expect("bound"), b.expect("bound"));
    for limit in [3, 2, 4, 7, 1] {
        for (name, portal) in [("a", &a), ("b", &b)] {
            let rows = transaction.query_portal(portal, limit).await.expect("rows");
            let ids: Vec<i32> = rows.iter().map(|r| r.get(0)).collect();
            writeln!(out, "{name} {ids:?}").expect("written");
        }
    }
    transaction.commit().await.expect("committed");
    out
}

/// The driver's startup parameters, as applications set them in the DSN.
async fn startup_parameters(dsn: String) -> String {
    let dsn = format!("{dsn}?application_name=shop&options=-c%20work_mem%3D7MB%20-c%20TimeZone%3DAsia/Tokyo");
    let clients = join_all((0..POOL_SIZE * 2).map(|_| connect(&dsn))).await;
    let question = "SELECT current_setting('application_name'), current_setting('work_mem'), \
                    current_setting('TimeZone'), current_setting('client_encoding')";
    let asked = join_all(clients.iter().map(|c| c.query_one(question, &[]))).await;
    let mut out = String::new();
    for row in asked {
        let row = row.expect("a row");
        let all: Vec<String> = (0..4).map(|i| row.get(i)).collect();
        writeln!(out, "{all:?}").expect("written");
    }
    out
}
