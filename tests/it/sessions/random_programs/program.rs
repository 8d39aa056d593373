//! Programs made up from a seed.

use std::fmt;

/// SplitMix64: the same seed gives the same program everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("small")
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// A message of the extended protocol; portals have no names.
#[derive(Clone, PartialEq, Eq)]
pub enum Part {
    Parse(String, String),
    Bind(String),
    DescribeStatement(String),
    Execute,
    Close(String),
    Sync,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Act {
    Query(String),
    /// A Sync is sent behind the last.
    Batch(Vec<Part>),
    Observe,
    /// With or without a Terminate.
    Leave(bool),
    /// Anew, with these startup parameters.
    Login(Vec<(String, String)>),
}

#[derive(Clone, PartialEq, Eq)]
pub struct Op {
    pub client: usize,
    pub act: Act,
}

/// How many clients a program has.
pub const CLIENTS: usize = 3;

#[derive(Clone)]
pub struct Program {
    pub seed: u64,
    pub user: &'static str,
    pub pool_size: usize,
    pub max_pins: usize,
    pub ops: Vec<Op>,
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse(name, sql) => write!(f, "P {name:?} {sql:?}"),
            Self::Bind(name) => write!(f, "B {name:?}"),
            Self::DescribeStatement(name) => write!(f, "D S {name:?}"),
            Self::Execute => write!(f, "E"),
            Self::Close(name) => write!(f, "C S {name:?}"),
            Self::Sync => write!(f, "S"),
        }
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}> ", self.client)?;
        match &self.act {
            Act::Query(sql) => write!(f, "{sql}"),
            Act::Batch(parts) => {
                parts.iter().try_for_each(|p| write!(f, "{p:?} | "))?;
                write!(f, "S")
            }
            Act::Observe => write!(f, "(observe)"),
            Act::Leave(true) => write!(f, "(leave)"),
            Act::Leave(false) => write!(f, "(break off)"),
            Act::Login(with) => write!(f, "(login {with:?})"),
        }
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "HOWDAH_TEST_SEED={} user {}, pool_size = {}, max_pins = {}",
            self.seed, self.user, self.pool_size, self.max_pins
        )?;
        self.ops.iter().try_for_each(|op| writeln!(f, "    {op:?}"))
    }
}

impl Act {
    /// All texts that it sends, in lower case.
    pub fn texts(&self) -> Vec<String> {
        match self {
            Self::Query(sql) => vec![sql.to_ascii_lowercase()],
            Self::Batch(parts) => {
                let text = |p: &Part| match p {
                    Part::Parse(_, sql) => Some(sql.to_ascii_lowercase()),
                    _ => None,
                };
                parts.iter().filter_map(text).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl Program {
    pub fn new(seed: u64) -> Self {
        let mut r = Random::new(seed);
        // (pool_size, max_pins)
        let (pool_size, max_pins) = [(2, 2), (2, 1), (3, 3)][r.below(3)];
        let user = if r.one_in(2) { "app" } else { "plain" };
        let keys = 10 * i64::try_from(seed % 100_000_000).expect("small");
        let length = 6 + r.below(30);
        let mut maker = Maker { r, keys };
        let ops = (0..length).map(|_| maker.op()).collect();
        Self { seed, user, pool_size, max_pins, ops }
    }
}

/// Parameters and values; the first value is often the default.
const PARAMETERS: &[(&str, &[&str])] = &[
    ("DateStyle", &["ISO, MDY", "ISO", "German", "DMY", "SQL, DMY", "YMD"]),
    ("TimeZone", &["UTC", "Asia/Tokyo", "Europe/Paris", "-3"]),
    ("IntervalStyle", &["postgres", "iso_8601", "sql_standard"]),
    ("application_name", &["", "one", "two words", "it''s"]),
    ("client_encoding", &["UTF8", "LATIN1", "SQL_ASCII"]),
    ("standard_conforming_strings", &["on", "off"]),
    ("default_transaction_read_only", &["off", "on"]),
    ("work_mem", &["4MB", "12345kB", "777kB"]),
    ("search_path", &["\"$user\", public", "elsewhere, public", "pg_temp, public", "elsewhere", ""]),
    ("statement_timeout", &["0", "30s", "1min"]),
    ("extra_float_digits", &["1", "0", "3"]),
    ("default_transaction_isolation", &["read committed", "serializable", "repeatable read"]),
    ("session_replication_role", &["origin", "replica"]),
    ("app.x", &["there", "here", "\u{e9}"]),
    ("app.y", &["1", "2"]),
];

/// What a client may name when it logs in.
const STARTUP: &[(&str, &[&str])] = &[
    ("DateStyle", &["ISO, MDY", "German", "ISO, DMY"]),
    ("TimeZone", &["UTC", "Asia/Tokyo", "Nowhere/Land"]),
    ("application_name", &["startup", ""]),
    ("client_encoding", &["UTF8", "LATIN1"]),
    ("search_path", &["elsewhere", "elsewhere, public"]),
    ("options", &["-c work_mem=1234kB", "-c statement_timeout=40s -c DateStyle=DMY", "-c app.x=opt"]),
    ("work_mem", &["4MB", "2345kB"]),
    ("app.x", &["started"]),
    ("default_transaction_read_only", &["on", "off"]),
];

struct Maker {
    r: Random,
    /// The first key of its advisory locks: no two programs share one.
    keys: i64,
}

impl Maker {
    fn op(&mut self) -> Op {
        let client = self.r.below(CLIENTS);
        let act = match self.r.below(40) {
            0 | 1 => Act::Leave(self.r.one_in(2)),
            2 | 3 => Act::Login(self.startup()),
            4 | 5 => Act::Observe,
            6..=11 => Act::Batch(self.batch()),
            12..=14 => {
                let many: Vec<_> = (0..2 + self.r.below(2)).map(|_| self.sql()).collect();
                Act::Query(many.join("; "))
            }
            _ => Act::Query(self.sql()),
        };
        Op { client, act }
    }

    fn startup(&mut self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = Vec::new();
        for _ in 0..self.r.below(4) {
            let (name, values) = STARTUP[self.r.below(STARTUP.len())];
            if all.iter().all(|(n, _)| n != name) {
                all.push((name.into(), self.r.pick(values).into()));
            }
        }
        all
    }

    fn batch(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        for _ in 0..=self.r.below(4) {
            let name = self.r.pick(&["", "s0", "s1", "s2"]).to_owned();
            match self.r.below(8) {
                0..=3 => {
                    parts.extend([Part::Parse(name.clone(), self.sql()), Part::Bind(name), Part::Execute])
                }
                4 | 5 if !name.is_empty() => parts.extend([Part::Bind(name), Part::Execute]),
                6 => {
                    let close = [Part::Close(name.clone()), Part::Parse(name.clone(), self.sql())];
                    parts.extend(close);
                    if self.r.one_in(2) {
                        parts.push(Part::DescribeStatement(name.clone()));
                    }
                    parts.extend([Part::Bind(name), Part::Execute]);
                }
                _ if !name.is_empty() => parts.push(Part::Close(name)),
                _ => {}
            }
            if self.r.one_in(3) {
                parts.push(Part::Sync);
            }
        }
        parts
    }

    fn key(&mut self) -> i64 {
        self.keys + i64::try_from(self.r.below(3)).expect("small")
    }

    fn parameter(&mut self) -> (&'static str, &'static str) {
        let (name, values) = PARAMETERS[self.r.below(PARAMETERS.len())];
        (name, self.r.pick(values))
    }

    fn sql(&mut self) -> String {
        match self.r.below(20) {
            0..=6 => self.parameters(),
            7..=9 => self.transactions(),
            10 | 11 => self.statements(),
            12..=15 => self.objects(),
            16 => self.identity(),
            _ => self.questions(),
        }
    }

    fn parameters(&mut self) -> String {
        let (name, value) = self.parameter();
        let literal = if name == "search_path" {
            if value.is_empty() { "''".into() } else { value.to_owned() }
        } else {
            format!("'{value}'")
        };
        let flag = self.r.pick(&["false", "false", "true"]);
        match self.r.below(24) {
            0..=4 => format!("SET {name} = {literal}"),
            5 => format!("SET SESSION {name} TO {literal}"),
            6 | 7 => format!("SET LOCAL {name} = {literal}"),
            8 => format!("SET {name} TO DEFAULT"),
            9 | 10 => format!("RESET {name}"),
            11 => "RESET ALL".into(),
            12 | 13 => format!("SELECT set_config('{name}', '{value}', {flag})"),
            14 => {
                format!("UPDATE pg_settings SET setting = '{value}' WHERE lower(name) = lower('{name}')")
            }
            15 => format!("DO $$ BEGIN PERFORM set_config('{name}', '{value}', {flag}); END $$"),
            16 => format!(
                "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) SELECT set_config('{name}', '{value}', false) WHERE false"
            ),
            17 => self
                .r
                .pick(&[
                    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                    "SET TIME ZONE 'Asia/Tokyo'",
                    "SET TIME ZONE LOCAL",
                    "SET NAMES 'LATIN1'",
                    "SET SCHEMA 'elsewhere'",
                ])
                .into(),
            18 => self.r.pick(&["DISCARD ALL", "DISCARD ALL", "DISCARD TEMP", "DISCARD PLANS"]).into(),
            19 => self.r.pick(&["SET no.such = 1", "SET nosuch = 1", "SET work_mem = 'much'"]).into(),
            20 => format!("DO $$ BEGIN SET {name} = {literal}; END $$"),
            21 => format!("/* a comment */ SET {name} = {literal} -- at its end"),
            22 => "SET U&\"work\\005fmem\" = '2222kB'".into(),
            _ => format!("SET \"{name}\" = {literal}"),
        }
    }

    fn transactions(&mut self) -> String {
        self.r
            .pick(&[
                "BEGIN",
                "BEGIN",
                "BEGIN",
                "BEGIN READ ONLY",
                "START TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                "COMMIT",
                "COMMIT",
                "COMMIT",
                "COMMIT AND CHAIN",
                "ROLLBACK",
                "ROLLBACK",
                "SAVEPOINT a",
                "SAVEPOINT b",
                "ROLLBACK TO a",
                "ROLLBACK TO b",
                "RELEASE a",
            ])
            .into()
    }

    fn statements(&mut self) -> String {
        let name = self.r.pick(&["p0", "p1", "\"P 2\""]);
        let text = self.r.pick(&[
            "SELECT 1",
            "SELECT current_setting('work_mem'), current_user",
            "SELECT * FROM kept",
            "SELECT * FROM t0",
            "SELECT ';', DATE '01/02/2003'",
            "SELECT set_config('work_mem', '888kB', false)",
            "UPDATE kept SET who = who WHERE false",
        ]);
        match self.r.below(10) {
            0..=2 => format!("PREPARE {name} AS {text}"),
            3 => format!("PREPARE {name}(int) AS SELECT $1 + 1"),
            4..=6 => format!("EXECUTE {name}"),
            7 => format!("EXECUTE {name}(41)"),
            8 => format!("DEALLOCATE {name}"),
            _ => self.r.pick(&["DEALLOCATE ALL", "DEALLOCATE PREPARE p0"]).into(),
        }
    }

    fn objects(&mut self) -> String {
        let table = self.r.pick(&["t0", "t1", "kept"]);
        let cursor = self.r.pick(&["c0", "c1"]);
        let channel = self.r.pick(&["n0", "n1"]);
        let key = self.key();
        match self.r.below(32) {
            0 | 1 => format!("CREATE TEMP TABLE {table} AS SELECT 'temporary' AS who"),
            2 => format!("CREATE TEMP TABLE {table} (who text) ON COMMIT DROP"),
            3 => format!("SELECT 'into' AS who INTO TEMP {table}"),
            4 => format!("CREATE TABLE pg_temp.{table} (who text)"),
            5 => format!("DROP TABLE pg_temp.{table}"),
            6 => "DROP TABLE IF EXISTS pg_temp.t0, pg_temp.t1, pg_temp.kept".into(),
            7 => "CREATE OR REPLACE TEMP VIEW v0 AS SELECT 1 AS x".into(),
            8 => "DROP VIEW IF EXISTS pg_temp.v0".into(),
            9 => "INSERT INTO t0 VALUES ('new')".into(),
            10 | 11 => format!("DECLARE {cursor} CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 9) g"),
            12 => format!("DECLARE {cursor} CURSOR FOR SELECT g FROM generate_series(1, 9) g"),
            13 | 14 => format!("FETCH 2 FROM {cursor}"),
            15 => format!("CLOSE {cursor}"),
            16 => "CLOSE ALL".into(),
            17 => format!("SELECT pg_try_advisory_lock({key})"),
            18 => format!("SELECT pg_try_advisory_lock_shared({key})"),
            19 => format!("SELECT pg_try_advisory_xact_lock({key})"),
            20 => format!("SELECT pg_advisory_unlock({key})"),
            21 => format!("SELECT pg_advisory_unlock_shared({key})"),
            22 => "SELECT pg_advisory_unlock_all()".into(),
            23 => format!("DO $$ BEGIN PERFORM pg_try_advisory_lock({key}); END $$"),
            24 => format!("LISTEN {channel}"),
            25 => format!("UNLISTEN {channel}"),
            26 => "UNLISTEN *".into(),
            27 => format!("NOTIFY {channel}, 'note {}'", self.r.below(100)),
            28 => format!(
                "EXPLAIN (ANALYZE, COSTS off, TIMING off, SUMMARY off) CREATE TEMP TABLE {table} AS SELECT 'explained' AS who"
            ),
            29 => "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'".into(),
            30 => format!("SELECT pg_notify('{channel}', 'called {}')", self.r.below(100)),
            _ => format!("DO $$ BEGIN CREATE TEMP TABLE {table} AS SELECT 'done' AS who; END $$"),
        }
    }

    fn identity(&mut self) -> String {
        self.r
            .pick(&[
                "SET ROLE reader",
                "SET ROLE reader",
                "SET LOCAL ROLE reader",
                "SET ROLE NONE",
                "RESET ROLE",
                "SET SESSION AUTHORIZATION reader",
                "SET SESSION AUTHORIZATION DEFAULT",
                "RESET SESSION AUTHORIZATION",
                "SET SESSION ROLE nobody",
                "SELECT set_config('role', 'reader', false)",
            ])
            .into()
    }

    fn questions(&mut self) -> String {
        let (name, _) = self.parameter();
        match self.r.below(12) {
            0..=3 => format!("SELECT coalesce(current_setting('{name}', true), '')"),
            4 => "SELECT current_user, session_user".into(),
            5 => "SELECT * FROM kept".into(),
            6 => "SELECT who FROM t0".into(),
            7 => "SELECT 1/0".into(),
            8 => "SELEC 1".into(),
            9 => {
                "SELECT DATE '2003-02-01', TIMESTAMPTZ '2003-02-01 12:00+00', INTERVAL '1 day 2 hours'".into()
            }
            10 => "COPY (SELECT current_setting('work_mem'), current_date > '2000-01-01') TO STDOUT".into(),
            _ => "SELECT 'a\\tb', 1.1::float8".into(),
        }
    }
}
