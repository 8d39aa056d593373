//! A statement that a client prepares means what it would mean if a server parsed it now, although others have prepared
//! the same text before; and whoever has prepared it keeps what it has.
//!
//! Each program runs with a connection of its own for each client, and through a pool; what clients hear is the same.

use crate::harness::wire::Dsn;
use crate::harness::wire::msg::{self, Frame, text};
use crate::harness::wire::raw::Raw;
use crate::harness::{Client, app_options, cluster, start};

const MAJOR: u32 = 15;

const POOL_SIZE: usize = 4;

/// Rows and errors, in a word each.
fn heard(frames: &[Frame]) -> Vec<String> {
    let word = |f: &Frame| match f.tag {
        b'D' => {
            let columns = f
                .columns()
                .into_iter()
                .map(|c| c.map_or_else(|| "null".to_owned(), |v| String::from_utf8_lossy(&v).into_owned()));
            Some(columns.collect::<Vec<_>>().join(","))
        }
        b'E' => f.field(b'C'),
        b't' => Some(format!("types {:?}", &f.body)),
        b'C' => Some(String::from_utf8_lossy(&f.body).trim_end_matches('\0').to_owned()),
        _ => None,
    };
    frames.iter().filter_map(word).collect()
}

/// The clients of a program, and where a change is made that does not come through Howdah.
struct Stage {
    dsn: Dsn,
    elsewhere: Client,
    heard: Vec<String>,
}

impl Stage {
    fn client(&self) -> Raw {
        Raw::login(&self.dsn)
    }

    fn change(&mut self, sql: &str) {
        self.elsewhere.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    fn ask(&mut self, client: &mut Raw, messages: &[Vec<u8>]) {
        let frames = client.ask(&messages.concat());
        self.heard.extend(heard(&frames));
    }

    /// Parse and Describe, as most drivers do.
    fn prepare(&mut self, client: &mut Raw, sql: &str) {
        self.ask(client, &[msg::parse("s", sql, &[]), msg::describe(b'S', "s"), msg::sync()]);
    }

    fn run(&mut self, client: &mut Raw, values: &[&str]) {
        let args: Vec<_> = values.iter().map(|v| text(v)).collect();
        self.ask(client, &[msg::bind("", "s", &[], &args, &[]), msg::execute("", 0), msg::sync()]);
    }

    fn query(&mut self, client: &mut Raw, sql: &str) {
        self.ask(client, &[msg::query(sql)]);
    }

    /// Ends what texts are trusted for, without touching a table of the program.
    fn through_the_pool(&mut self, sql: &str) {
        let mut client = self.client();
        client.ask(&msg::query(sql));
    }
}

type Program = fn(&mut Stage);

fn a_restarted_application(s: &mut Stage) {
    const SQL: &str = "INSERT INTO t VALUES ($1, $2) RETURNING a, b";
    let mut before = s.client();
    s.prepare(&mut before, SQL);
    s.run(&mut before, &["2020-01-01", "1.5"]);
    drop(before);
    s.change("ALTER TABLE t ALTER a TYPE timestamp, ALTER b TYPE float8");
    let mut after = s.client();
    s.prepare(&mut after, SQL);
    s.run(&mut after, &["2020-01-01 12:34:56", "3.14159265358979"]);
}

fn another_type_within_a_second(s: &mut Stage) {
    const SQL: &str = "SELECT b FROM t WHERE a = $1";
    let mut old = s.client();
    s.prepare(&mut old, SQL);
    s.change("ALTER TABLE t ALTER a TYPE text USING a::text");
    for _ in 0..2 {
        let mut new = s.client();
        s.prepare(&mut new, SQL);
        s.run(&mut new, &["2000-01-01"]);
    }
}

fn a_column_more_in_a_transaction(s: &mut Stage) {
    let mut old = s.client();
    s.prepare(&mut old, "SELECT * FROM t");
    s.run(&mut old, &[]);
    s.change("ALTER TABLE t ADD c int");
    for _ in 0..2 {
        let mut new = s.client();
        s.query(&mut new, "BEGIN");
        s.prepare(&mut new, "SELECT * FROM t");
        s.run(&mut new, &[]);
        s.query(&mut new, "COMMIT");
    }
}

/// Some drivers ask for the answers to Parse and Describe by a Flush.
fn a_column_more_and_a_flush(s: &mut Stage) {
    let mut old = s.client();
    s.prepare(&mut old, "SELECT * FROM t");
    s.change("ALTER TABLE t ADD c int");
    let mut new = s.client();
    let asked = [msg::parse("s", "SELECT * FROM t", &[]), msg::describe(b'S', "s"), msg::flush()];
    new.put(&asked.concat());
    let frames = new.until(b'T');
    s.heard.extend(heard(&frames));
    s.run(&mut new, &[]);
}

fn a_column_more_in_one_batch(s: &mut Stage) {
    let mut old = s.client();
    s.prepare(&mut old, "SELECT * FROM t");
    s.change("ALTER TABLE t ADD c int");
    let mut new = s.client();
    let batch = [
        msg::parse("s", "SELECT * FROM t", &[]),
        msg::bind("", "s", &[], &[], &[]),
        msg::describe(b'P', ""),
        msg::execute("", 0),
        msg::sync(),
    ];
    s.ask(&mut new, &batch);
    s.ask(&mut new, &batch[1..]);
}

fn types_change_through_the_pool(s: &mut Stage) {
    const SQL: &str = "INSERT INTO t VALUES ($1, $2)";
    let mut old = s.client();
    s.prepare(&mut old, SQL);
    s.through_the_pool("ALTER TABLE t ALTER a TYPE timestamp, ALTER b TYPE float8");
    let mut new = s.client();
    s.prepare(&mut new, SQL);
    s.run(&mut new, &["2020-01-01 12:34:56", "3.14159265358979"]);
    s.run(&mut old, &["2020-01-01", "2.5"]);
    s.query(&mut new, "SELECT * FROM t ORDER BY a");
}

fn a_table_that_comes_first_on_the_path(s: &mut Stage) {
    const SQL: &str = "INSERT INTO t VALUES ($1, $2)";
    let mut old = s.client();
    s.prepare(&mut old, SQL);
    s.through_the_pool("CREATE SCHEMA app; CREATE TABLE app.t (a date, b float4)");
    let mut new = s.client();
    s.prepare(&mut new, SQL);
    s.run(&mut new, &["2021-01-01", "9"]);
    s.query(&mut new, "SELECT * FROM app.t");
}

/// Whoever has described its statement is not given other columns.
fn an_older_statement_on_another_server(s: &mut Stage) {
    const SQL: &str = "SELECT * FROM t";
    let mut first = s.client();
    s.prepare(&mut first, SQL);
    s.through_the_pool("CREATE TABLE unrelated (x int)");
    let mut old = s.client();
    s.prepare(&mut old, SQL);
    s.change("ALTER TABLE t ADD c int");
    s.through_the_pool("CREATE TABLE unrelated_too (x int)");
    let mut new = s.client();
    s.prepare(&mut new, SQL);
    s.run(&mut new, &[]);
    // Everybody is on one connection until now: the other one has none of these statements.
    let mut holder = s.client();
    s.query(&mut holder, "BEGIN");
    s.run(&mut old, &[]);
    s.run(&mut new, &[]);
    s.query(&mut holder, "COMMIT");
    s.prepare(&mut holder, SQL);
    s.run(&mut holder, &[]);
}

/// Clients take the connections that were used last, so that others get one that has none of their statements.
fn hold_those_used_last(s: &mut Stage) -> Vec<Raw> {
    let hold = |_| {
        let mut holder = s.client();
        s.query(&mut holder, "BEGIN");
        holder
    };
    (1..POOL_SIZE).map(hold).collect()
}

/// Nobody else has prepared the text, and nobody prepares it anew.
fn other_columns_on_a_server_that_lacks_it(s: &mut Stage) {
    let mut old = s.client();
    s.prepare(&mut old, "SELECT * FROM t");
    s.run(&mut old, &[]);
    s.change("ALTER TABLE t ALTER b TYPE text");
    s.through_the_pool("CREATE TABLE unrelated (x int)");
    let _holders = hold_those_used_last(s);
    for _ in 0..2 {
        s.run(&mut old, &[]);
    }
    s.query(&mut old, "BEGIN");
    s.run(&mut old, &[]);
    s.query(&mut old, "ROLLBACK");
    // What comes before it in one batch is answered, and rolled back with it.
    let messages = [
        msg::parse("", "INSERT INTO unrelated VALUES (1) RETURNING x", &[]),
        msg::bind("", "", &[], &[], &[]),
        msg::execute("", 0),
        msg::bind("", "s", &[], &[], &[]),
        msg::execute("", 0),
        msg::sync(),
    ];
    s.ask(&mut old, &messages);
    s.query(&mut old, "SELECT count(*) FROM unrelated");
    s.change("ALTER TABLE t ALTER b TYPE float4 USING b::float4");
    s.run(&mut old, &[]);
}

fn the_same_columns_of_a_table_created_anew(s: &mut Stage) {
    const SQL: &str = "SELECT * FROM t";
    let mut old = s.client();
    s.prepare(&mut old, SQL);
    s.through_the_pool("DROP TABLE t; CREATE TABLE t (a date, b float4)");
    let mut new = s.client();
    s.prepare(&mut new, SQL);
    let _holders = hold_those_used_last(s);
    s.run(&mut old, &[]);
    s.run(&mut new, &[]);
}

fn other_columns_in_a_transaction_that_is_rolled_back(s: &mut Stage) {
    let mut old = s.client();
    s.prepare(&mut old, "SELECT * FROM t");
    let _holders = hold_those_used_last(s);
    s.query(&mut old, "BEGIN");
    s.query(&mut old, "ALTER TABLE t ADD c int");
    s.run(&mut old, &[]);
    s.query(&mut old, "ROLLBACK");
    s.run(&mut old, &[]);
}

fn the_types_that_a_client_was_told(s: &mut Stage) {
    let mut old = s.client();
    s.prepare(&mut old, "INSERT INTO t (a) VALUES ($1)");
    s.change("ALTER TABLE t ALTER a TYPE text USING a::text");
    s.through_the_pool("CREATE TABLE unrelated (x int)");
    let _holders = hold_those_used_last(s);
    s.run(&mut old, &["20010203"]);
    s.query(&mut old, "SELECT a FROM t ORDER BY a");
}

/// A statement whose table is gone fails as such, and works when the table is there again.
fn a_table_that_is_gone_for_a_while(s: &mut Stage) {
    let mut old = s.client();
    s.prepare(&mut old, "SELECT a FROM t");
    s.change("ALTER TABLE t RENAME TO hidden");
    s.through_the_pool("CREATE TABLE unrelated (x int)");
    let _holders = hold_those_used_last(s);
    s.run(&mut old, &[]);
    s.change("ALTER TABLE hidden RENAME TO t");
    s.run(&mut old, &[]);
}

fn beside_a_temporary_table(s: &mut Stage) {
    const SQL: &str = "SELECT b FROM t";
    let mut old = s.client();
    s.prepare(&mut old, SQL);
    let mut own = s.client();
    s.query(&mut own, "BEGIN");
    s.query(&mut own, "CREATE TEMP TABLE t (b text) ON COMMIT DROP");
    s.query(&mut own, "INSERT INTO t VALUES ('temporary')");
    s.prepare(&mut own, SQL);
    s.run(&mut own, &[]);
    s.query(&mut own, "COMMIT");
    s.run(&mut old, &[]);
    let mut new = s.client();
    s.prepare(&mut new, SQL);
    s.run(&mut new, &[]);
}

fn under_a_path_of_the_transaction(s: &mut Stage) {
    const SQL: &str = "SELECT x FROM v";
    s.change("CREATE SCHEMA one; CREATE SCHEMA two; CREATE TABLE one.v AS SELECT 1 AS x; CREATE TABLE two.v AS SELECT 'two' AS x");
    let dsn = s.dsn.clone();
    let login = || Raw::login_with(&dsn, msg::PROTOCOL_3_0, &[("options", "-c search_path=one")]);
    let mut old = login();
    s.prepare(&mut old, SQL);
    for set in ["SET LOCAL search_path = two", "SELECT set_config('search_path', 'two', true)"] {
        let mut new = login();
        s.query(&mut new, &format!("BEGIN; {set}"));
        s.prepare(&mut new, SQL);
        s.run(&mut new, &[]);
        s.query(&mut new, "COMMIT");
        let mut pipelined = login();
        pipelined.put(&msg::query(&format!("BEGIN; {set}")));
        let frames = pipelined.until(b'Z');
        assert!(!frames.is_empty());
        s.prepare(&mut pipelined, SQL);
        s.run(&mut pipelined, &[]);
        s.query(&mut pipelined, "ROLLBACK");
    }
    s.run(&mut old, &[]);
}

const PROGRAMS: &[(&str, Program)] = &[
    ("a restarted application", a_restarted_application),
    ("another type within a second", another_type_within_a_second),
    ("a column more, in a transaction", a_column_more_in_a_transaction),
    ("a column more, and a Flush", a_column_more_and_a_flush),
    ("a column more, in one batch", a_column_more_in_one_batch),
    ("types change through the pool", types_change_through_the_pool),
    ("a table that comes first on the path", a_table_that_comes_first_on_the_path),
    ("an older statement on another server", an_older_statement_on_another_server),
    ("other columns on a server that lacks it", other_columns_on_a_server_that_lacks_it),
    ("the same columns of a table created anew", the_same_columns_of_a_table_created_anew),
    ("other columns, rolled back", other_columns_in_a_transaction_that_is_rolled_back),
    ("the types that a client was told", the_types_that_a_client_was_told),
    ("a table that is gone for a while", a_table_that_is_gone_for_a_while),
    ("beside a temporary table", beside_a_temporary_table),
    ("under a path of the transaction", under_a_path_of_the_transaction),
];

#[test]
fn a_new_client_gets_what_a_server_would_parse_now_and_an_older_one_keeps_what_it_has() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", &format!("pool_size = {POOL_SIZE}"), "");
    let play = |program: Program, port: u16| {
        let mut elsewhere = cluster.connect("app", "app").expect("a direct session");
        for sql in [
            "SET client_min_messages = warning",
            "DROP SCHEMA IF EXISTS app, one, two CASCADE",
            "DROP TABLE IF EXISTS t, hidden, unrelated, unrelated_too",
            "CREATE TABLE t (a date, b float4)",
            "INSERT INTO t VALUES ('2000-01-01', 1)",
        ] {
            elsewhere.query(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        }
        let mut stage = Stage { dsn: Dsn::local(port, "app", "app"), elsewhere, heard: Vec::new() };
        program(&mut stage);
        stage.heard
    };
    let mut differ = Vec::new();
    for (name, program) in PROGRAMS {
        let (own, shared) = (play(*program, cluster.port()), play(*program, howdah.port()));
        if own != shared {
            differ.push(format!("{name}:\n  own    {own:?}\n  shared {shared:?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

/// PgBouncer prepares a client's text again as it is, whatever the client was told of it.
#[test]
fn in_pgbouncers_profile_a_server_that_lacks_a_statement_prepares_its_text_as_it_was_sent() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let top = "compatibility = \"pgbouncer\"\npool_mode = \"transaction\"";
    let howdah = start(&cluster, top, &format!("pool_size = {POOL_SIZE}"), "");
    let mut elsewhere = cluster.connect("app", "app").expect("a direct session");
    elsewhere.query("CREATE TABLE t (a date)").expect("a table");
    let mut stage = Stage { dsn: Dsn::local(howdah.port(), "app", "app"), elsewhere, heard: Vec::new() };
    let mut old = stage.client();
    stage.prepare(&mut old, "INSERT INTO t VALUES ($1) RETURNING a");
    stage.change("ALTER TABLE t ALTER a TYPE text");
    stage.through_the_pool("CREATE TABLE unrelated (x int)");
    let _holders = hold_those_used_last(&mut stage);
    stage.heard.clear();
    stage.run(&mut old, &["20010203"]);
    assert_eq!(stage.heard, ["20010203", "INSERT 0 1"]);
}

/// What is parsed anew and comes to the same is the same statement for all, and no server keeps another.
#[test]
fn what_comes_to_the_same_stays_one_statement() {
    let Some(cluster) = cluster(MAJOR, app_options()) else { return };
    let howdah = start(&cluster, "", "pool_size = 1", "");
    let dsn = Dsn::local(howdah.port(), "app", "app");
    let parse = [msg::parse("s", "SELECT 1 AS one", &[]), msg::describe(b'S', "s"), msg::sync()].concat();
    let run = [msg::bind("", "s", &[], &[], &[]), msg::execute("", 0), msg::sync()].concat();
    let mut clients: Vec<Raw> = Vec::new();
    for _ in 0..8 {
        let mut client = Raw::login(&dsn);
        // In a transaction a server parses each.
        client.ask(&msg::query("BEGIN"));
        client.ask(&parse);
        client.ask(&msg::query("COMMIT"));
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(heard(&client.ask(&run)), ["1", "SELECT 1"]);
    }
    let counted = "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT 1 AS one'";
    let first = clients.first_mut().expect("a client");
    let left: usize = first.select(counted).concat().parse().expect("a number");
    // The one that all share, and the last copy of it, which is closed before the next statement is prepared.
    assert_eq!(left, 2);
}
