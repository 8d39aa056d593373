//! The clients of a program on one side: each on a connection of its own, or all through the pool.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::wire::Dsn;
use crate::harness::wire::msg::{self, Frame};
use crate::harness::wire::raw::{Missing, Raw};

use super::program::{Act, CLIENTS, Part};

/// An answer that takes longer is a hang.
const LIMIT: Duration = Duration::from_secs(8);

/// What a session shows of its state. None of it leaves a trace that a pooler would have to follow.
pub const OBSERVE: &str = "SELECT current_user, session_user, \
    (SELECT coalesce(string_agg(name || '=' || coalesce(current_setting(name, true), ''), ' / ' ORDER BY name), '') \
     FROM unnest(ARRAY['DateStyle', 'TimeZone', 'IntervalStyle', 'application_name', 'client_encoding', \
     'standard_conforming_strings', 'default_transaction_read_only', 'work_mem', 'search_path', \
     'statement_timeout', 'extra_float_digits', 'default_transaction_isolation', 'session_replication_role', \
     'app.x', 'app.y', 'no.such', 'role', 'lock_timeout', 'idle_in_transaction_session_timeout']) name), \
    (SELECT coalesce(string_agg(c, ',' ORDER BY c), '') FROM pg_listening_channels() c), \
    (SELECT coalesce(string_agg(relname, ',' ORDER BY relname), '') FROM pg_class \
     WHERE relnamespace = pg_my_temp_schema()), \
    (SELECT coalesce(string_agg(name, ',' ORDER BY name), '') FROM pg_cursors WHERE is_holdable), \
    (SELECT coalesce(string_agg(name, ',' ORDER BY name), '') FROM pg_prepared_statements WHERE from_sql), \
    (SELECT coalesce(string_agg(objid || mode, ',' ORDER BY objid, mode), '') FROM pg_locks \
     WHERE locktype LIKE 'advis%' AND pid = pg_backend_pid())";

/// Whether a session holds what would keep a connection with its client.
const HOLDS: &str = "SELECT (SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass AND refobjid = pg_my_temp_schema() \
       AND refobjid <> 0) \
    + (SELECT count(*) FROM pg_cursors WHERE is_holdable) \
    + (SELECT count(*) FROM pg_locks WHERE locktype LIKE 'advis%' AND pid = pg_backend_pid())";

pub struct Client {
    raw: Raw,
    /// Values of ParameterStatus.
    pub view: BTreeMap<String, String>,
    /// What it has heard.
    pub heard: Vec<String>,
    /// As of the last ReadyForQuery; `None`: the connection is closed.
    pub status: Option<char>,
    pub named: Vec<(String, String)>,
}

pub struct Side {
    dsn: Dsn,
    pub clients: [Option<Client>; CLIENTS],
}

/// ASCII as it is, and all else in hexadecimal digits.
fn shown(bytes: &[u8]) -> String {
    let byte = |b: &u8| if b.is_ascii() { char::from(*b).to_string() } else { format!("\\x{b:02x}") };
    bytes.iter().map(byte).collect()
}

pub fn described(frame: &Frame) -> String {
    let field = |code| frame.field(code).unwrap_or_default();
    match frame.tag {
        b'E' | b'N' => format!("{} {} {}", char::from(frame.tag), field(b'V'), field(b'C')),
        b'D' => {
            let columns = frame.columns();
            let text: Vec<_> = columns.iter().map(|c| c.as_deref().map_or("NULL".into(), shown)).collect();
            format!("D {}", text.join(" | "))
        }
        b'C' => format!("C {}", shown(frame.body.strip_suffix(b"\0").unwrap_or(&frame.body))),
        b'd' | b'Z' => format!("{} {}", char::from(frame.tag), shown(&frame.body)),
        tag => char::from(tag).to_string(),
    }
}

impl Client {
    fn take(&mut self, frame: &Frame) -> Option<String> {
        let mut c = frame.cursor();
        match frame.tag {
            b'S' => {
                let (name, value) = (c.cstr().unwrap_or_default(), c.cstr().unwrap_or_default());
                self.view.insert(shown(name), shown(value));
                None
            }
            b'A' => {
                c.i32();
                let (name, text) = (c.cstr().unwrap_or_default(), c.cstr().unwrap_or_default());
                self.heard.push(format!("{}: {}", shown(name), shown(text)));
                None
            }
            _ => {
                if frame.tag == b'Z' {
                    self.status = frame.body.first().map(|b| char::from(*b));
                }
                Some(described(frame))
            }
        }
    }

    /// Sends, and reads `ready` ReadyForQuery.
    fn ask(&mut self, bytes: &[u8], mut ready: usize) -> Vec<String> {
        let mut lines = Vec::new();
        drop(self.raw.send(bytes));
        while ready > 0 {
            match self.raw.next_within(LIMIT) {
                Ok(frame) => {
                    ready -= usize::from(frame.tag == b'Z');
                    if frame.tag == b'E' {
                        // For people; it is not compared.
                        self.heard.retain(|h| !h.is_empty());
                    }
                    lines.extend(self.take(&frame));
                    if frame.tag == b'E' && frame.field(b'V').is_some_and(|v| v == "FATAL") {
                        self.status = None;
                        break;
                    }
                }
                Err(why) => {
                    let timeout = why == Missing::Timeout;
                    lines.push(if timeout { "! timeout".into() } else { "! closed".into() });
                    self.status = None;
                    break;
                }
            }
        }
        lines
    }

    /// Takes what comes without being asked for, for so long.
    pub fn listen(&mut self, limit: Duration) {
        if self.status.is_some()
            && let Ok(frame) = self.raw.next_within(limit)
        {
            self.take(&frame);
        }
    }
}

fn bytes_of(part: &Part) -> Vec<u8> {
    match part {
        Part::Parse(name, sql) => msg::parse(name, sql, &[]),
        Part::Bind(name) => msg::bind("", name, &[], &[], &[]),
        Part::DescribeStatement(name) => msg::describe(b'S', name),
        Part::Execute => msg::execute("", 0),
        Part::Close(name) => msg::close(b'S', name),
        Part::Sync => msg::sync(),
    }
}

impl Side {
    pub fn new(dsn: Dsn) -> Self {
        Self { dsn, clients: [const { None }; CLIENTS] }
    }

    pub fn dsn(&self) -> &Dsn {
        &self.dsn
    }

    pub fn client(&mut self, n: usize) -> Option<&mut Client> {
        self.clients[n].as_mut().filter(|c| c.status.is_some())
    }

    fn login(&mut self, n: usize, named: &[(String, String)]) -> Vec<String> {
        let pairs: Vec<(&str, &str)> = named.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut raw = match Raw::connect(&self.dsn) {
            Ok(raw) => raw,
            Err(e) => return vec![format!("! {e}")],
        };
        let done = raw.start(&self.dsn, msg::PROTOCOL_3_0, &pairs);
        let frames = std::mem::take(&mut raw.login);
        if let Err(why) = done {
            let last = frames.last().filter(|f| f.tag == b'E').map(described);
            return vec![format!("login {}", last.unwrap_or(why))];
        }
        let (view, heard) = (BTreeMap::new(), Vec::new());
        let mut client = Client { raw, view, heard, status: Some('I'), named: named.to_vec() };
        frames.iter().for_each(|f| drop(client.take(f)));
        self.clients[n] = Some(client);
        vec!["login".into()]
    }

    /// Does what the program says; the transcript.
    pub fn act(&mut self, n: usize, act: &Act) -> Vec<String> {
        match act {
            Act::Leave(politely) => {
                if let Some(mut client) = self.clients[n].take()
                    && *politely
                {
                    drop(client.raw.send(&msg::terminate()));
                }
                return Vec::new();
            }
            Act::Login(named) => {
                self.act(n, &Act::Leave(true));
                return self.login(n, named);
            }
            _ => {}
        }
        let mut lines = Vec::new();
        if self.client(n).is_none() {
            lines = self.login(n, &[]);
        }
        let Some(client) = self.client(n) else { return lines };
        lines.extend(match act {
            Act::Query(sql) => client.ask(&msg::query(sql), 1),
            Act::Observe => client.ask(&msg::query(OBSERVE), 1),
            Act::Batch(parts) => {
                let syncs = parts.iter().filter(|p| **p == Part::Sync).count();
                let mut bytes: Vec<u8> = parts.iter().flat_map(bytes_of).collect();
                bytes.extend(msg::sync());
                client.ask(&bytes, syncs + 1)
            }
            Act::Leave(_) | Act::Login(_) => Vec::new(),
        });
        lines
    }

    /// Whether this client could not share its connection: asked on a connection of its own.
    pub fn holds(&mut self, n: usize) -> bool {
        let Some(client) = self.client(n) else { return false };
        client.status != Some('I')
            || client.ask(&msg::query(HOLDS), 1).iter().any(|l| l.starts_with("D ") && l != "D 0")
    }
}
