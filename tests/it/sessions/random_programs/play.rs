//! Runs one program on both sides and finds the first difference.

use std::fmt;
use std::time::{Duration, Instant};

use crate::harness::Cluster;
use crate::harness::proxy::Howdah;
use crate::harness::wire::Dsn;
use crate::harness::wire::msg;
use crate::harness::wire::raw::Raw;

use super::program::{Act, CLIENTS, Op, Program};
use super::side::{OBSERVE, Side};

/// How a program ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    Equal,
    /// A refusal of Howdah's own, or a difference that the README states: nothing behind it can be compared.
    Stated(&'static str),
    Differs(Difference),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub what: String,
    pub direct: Vec<String>,
    pub pooled: Vec<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of what is observed, that alone which differs.
        let long = self.direct.iter().any(|l| l.len() > 300);
        let parts = |lines: &[String]| -> Vec<String> {
            let split = |l: &String| l.replace(" | ", " / ").split(" / ").map(str::to_owned).collect();
            lines.iter().flat_map(|l| if long { split(l) } else { vec![l.clone()] }).collect()
        };
        let (direct, pooled) = (parts(&self.direct), parts(&self.pooled));
        let lines = |all: &[String], others: &[String]| -> String {
            let shown = all.iter().enumerate().filter(|(n, l)| !long || others.get(*n) != Some(l));
            shown.map(|(_, l)| format!("\n        {l}")).collect()
        };
        let (a, b) = (lines(&direct, &pooled), lines(&pooled, &direct));
        write!(f, "{}\n      direct:{a}\n      pooled:{b}", self.what)
    }
}

const CONFIG: &str = r#"
listen = ["127.0.0.1:{port}"]
ops_listen = "off"
auth_method = "trust"
log_connections = false
log_disconnections = false
[users.app]
[users.plain]
[databases.both]
host = "127.0.0.1:{pg}"
dbname = "pooled"
pool_size = {size}
max_pins = {pins}
query_wait_timeout = "4s"
"#;

pub struct Game<'a> {
    cluster: &'a Cluster,
    admin: crate::harness::Client,
}

struct Table<'a> {
    program: &'a Program,
    direct: Side,
    pooled: Side,
    /// Of each client: it has reset what it named at its login, in a transaction that is not over.
    led_back: [bool; CLIENTS],
    locks: bool,
}

impl<'a> Game<'a> {
    pub fn new(cluster: &'a Cluster) -> Self {
        let admin = cluster.connect(crate::harness::SUPERUSER, "postgres").expect("a direct session");
        Self { cluster, admin }
    }

    pub fn play(&mut self, program: &Program) -> End {
        let text = CONFIG
            .replace("{pg}", &self.cluster.port().to_string())
            .replace("{size}", &program.pool_size.to_string())
            .replace("{pins}", &program.max_pins.to_string());
        let howdah = Howdah::start(&text);
        let mut table = Table {
            program,
            direct: Side::new(Dsn::local(self.cluster.port(), program.user, "direct")),
            pooled: Side::new(Dsn::local(howdah.port(), program.user, "both")),
            led_back: [false; CLIENTS],
            locks: program.ops.iter().any(|op| op.act.texts().iter().any(|t| t.contains("advisory"))),
        };
        let end = self.moves(&mut table);
        let end = end.map_or_else(|e| e, |()| End::Equal);
        drop(table);
        drop(howdah);
        end
    }

    fn moves(&mut self, t: &mut Table<'_>) -> Result<(), End> {
        for op in &t.program.ops {
            t.act(self, op)?;
        }
        // Those that hold a connection come first, and then make room.
        let mut order: Vec<usize> = (0..CLIENTS).filter(|n| t.direct.client(*n).is_some()).collect();
        for n in &order {
            if t.direct.client(*n).is_some_and(|c| c.status != Some('I')) {
                t.act(self, &Op { client: *n, act: Act::Query("ROLLBACK".into()) })?;
            }
        }
        order.sort_by_key(|n| !t.direct.holds(*n));
        for n in order {
            t.act(self, &Op { client: n, act: Act::Observe })?;
            t.act(self, &Op { client: n, act: Act::Leave(true) })?;
        }
        t.strangers()
    }

    /// Waits until those that have left hold no locks any more.
    fn unlocked(&mut self) -> Result<(), End> {
        let sql = "SELECT count(*) FILTER (WHERE datname = 'direct') || ' ' || count(*) FILTER (WHERE datname = 'pooled') \
                   FROM pg_locks l JOIN pg_database d ON d.oid = l.database WHERE locktype = 'advisory'";
        let until = Instant::now() + Duration::from_secs(3);
        loop {
            let counts = self.admin.value(sql).expect("an answer");
            let (direct, pooled) = counts.split_once(' ').expect("two numbers");
            if direct == pooled {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(differs(
                    "advisory locks behind a client that left",
                    vec![direct.into()],
                    vec![pooled.into()],
                ));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn differs(what: &str, direct: Vec<String>, pooled: Vec<String>) -> End {
    End::Differs(Difference { what: what.into(), direct, pooled })
}

impl Table<'_> {
    fn act(&mut self, game: &mut Game<'_>, op: &Op) -> Result<(), End> {
        let n = op.client;
        let holders = (0..CLIENTS).filter(|m| *m != n && self.direct.holds(*m)).count();
        if holders >= self.program.pool_size && !matches!(op.act, Act::Leave(_)) {
            // It would have to wait for the others.
            return Ok(());
        }
        let leaves = matches!(op.act, Act::Leave(_) | Act::Login(_));
        if leaves {
            self.heard(n)?;
        }
        self.note_led_back(op);
        let direct = self.direct.act(n, &op.act);
        let pooled = self.pooled.act(n, &op.act);
        let (direct, pooled) = (alike(direct), alike(pooled));
        if pooled.iter().any(|l| l.ends_with(" 54000")) && direct != pooled {
            return Err(End::Stated("no pin left"));
        }
        let led_back = self.led_back[n];
        let stated = |e| if led_back { End::Stated("a RESET inside of a transaction") } else { e };
        if direct != pooled {
            return Err(stated(differs(&format!("{op:?}"), direct, pooled)));
        }
        self.views(op).map_err(stated)?;
        if self.direct.client(n).is_none_or(|c| c.status == Some('I')) && !op.touches_dates() {
            self.led_back[n] = false;
        }
        if leaves && self.locks {
            game.unlocked()?;
        }
        Ok(())
    }

    /// Until its transaction is over, what a RESET shows is stated to be another value.
    fn note_led_back(&mut self, op: &Op) {
        let Some(client) = self.direct.client(op.client) else { return };
        let back = |t: &String| ["reset", "default", "discard", "local"].iter().any(|w| t.contains(w));
        let texts = op.act.texts();
        let alone = texts.len() < 2 && !texts.iter().any(|t| t.contains("; ")) && client.status == Some('I');
        if !client.named.is_empty() && !alone && (texts.iter().any(back) || matches!(op.act, Act::Batch(_))) {
            self.led_back[op.client] = true;
        }
    }

    fn views(&mut self, op: &Op) -> Result<(), End> {
        let (Some(direct), Some(pooled)) = (self.direct.client(op.client), self.pooled.client(op.client))
        else {
            return Ok(());
        };
        let until = Instant::now() + Duration::from_millis(500);
        while direct.view != pooled.view && Instant::now() < until {
            // What has become of a RESET is told behind its ReadyForQuery.
            pooled.listen(Duration::from_millis(20));
        }
        let only = |a: &Client, b: &Client| -> Vec<String> {
            a.view
                .iter()
                .filter(|(k, v)| b.view.get(*k) != Some(v))
                .map(|(k, v)| format!("{k} = {v}"))
                .collect()
        };
        let (a, b) = (only(direct, pooled), only(pooled, direct));
        if a.is_empty() && b.is_empty() {
            Ok(())
        } else {
            Err(differs(&format!("ParameterStatus behind {op:?}"), a, b))
        }
    }

    /// Before it leaves, a client has heard all of what it listens to.
    fn heard(&mut self, n: usize) -> Result<(), End> {
        let idle = |c: Option<&mut Client>| c.is_some_and(|c| c.status == Some('I'));
        if !idle(self.direct.client(n)) || !idle(self.pooled.client(n)) {
            return Ok(());
        }
        if self.direct.client(n).is_some_and(|c| c.heard.is_empty())
            && self.pooled.client(n).is_some_and(|c| c.heard.is_empty())
        {
            return Ok(());
        }
        let (Some(direct), Some(pooled)) = (self.direct.client(n), self.pooled.client(n)) else {
            return Ok(());
        };
        let until = Instant::now() + Duration::from_millis(500);
        while direct.heard != pooled.heard && Instant::now() < until {
            direct.listen(Duration::from_millis(10));
            pooled.listen(Duration::from_millis(10));
        }
        if direct.heard == pooled.heard {
            return Ok(());
        }
        Err(differs(&format!("heard by {n}"), direct.heard.clone(), pooled.heard.clone()))
    }

    /// Nobody finds what the clients have left, on any of the connections.
    fn strangers(&self) -> Result<(), End> {
        let (own, pool) = (&self.direct, &self.pooled);
        let observed = |raw: &mut Raw| -> Vec<String> {
            let frames = raw.ask(&[msg::query("BEGIN"), msg::query(OBSERVE)].concat());
            let mut all = frames;
            all.extend(raw.until(b'Z'));
            all.iter().filter(|f| f.tag != b'T' && f.tag != b'S').map(super::side::described).collect()
        };
        let direct = observed(&mut Raw::login(own.dsn()));
        let mut strangers = Vec::new();
        for _ in 0..self.program.pool_size {
            let mut raw = Raw::login(pool.dsn());
            let pooled = observed(&mut raw);
            if direct != pooled {
                return Err(differs("a stranger's view", direct, pooled));
            }
            strangers.push(raw);
        }
        Ok(())
    }
}

use super::side::Client;

/// A connection that once had temporary objects has an empty schema for them, and says so otherwise.
fn alike(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().map(|l| if l == "E ERROR 3F000" { "E ERROR 42P01".into() } else { l }).collect()
}

impl Op {
    /// Values of these are relative to what is in force.
    fn touches_dates(&self) -> bool {
        self.act.texts().iter().any(|t| t.contains("style") || t.contains("all"))
    }
}
