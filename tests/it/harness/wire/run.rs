//! Runs a script against one address and writes down what came back; compares two such transcripts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Dsn;
use super::check::show_fields;
use super::msg::{self, Cursor, Frame};
use super::raw::{Missing, Raw};
use super::script::{Script, Step, Until};

/// A read that lasts so long is a hang and ends the script with `!timeout`.
const LIMIT: Duration = Duration::from_secs(10);

/// Longer values appear as length and hash.
const LONGEST_SHOWN: usize = 120;

/// OIDs below belong to the server itself and are the same everywhere.
const FIRST_OWN_OID: i32 = 16_384;

/// A prefix that no other run uses, always of the same length: error positions depend on it.
pub fn fresh_prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let run = (now.as_millis() as u64 ^ (u64::from(std::process::id()) << 20)) & 0xff_ffff;
    format!("hd_{run:06x}_{:06x}", COUNT.fetch_add(1, Ordering::Relaxed) & 0xff_ffff)
}

/// Runs the script with a schema of its own; every line is a message sent, received or an event. What sets it up goes to
/// PostgreSQL directly: its connections would mix with those of the script's own clients.
pub fn run(script: &Script, dsn: &Dsn, direct: &Dsn) -> Vec<String> {
    let prefix = fresh_prefix();
    let steps = script.compile(&prefix).unwrap_or_else(|e| panic!("{e}"));
    let schema = script.needs_schema();
    let setup = |sql: &str| drop(Raw::login(direct).select(sql));
    if schema {
        setup(&format!("create schema {prefix}"));
    }
    let lines = Run::new(dsn).play(steps, &setup);
    if schema {
        setup(&format!("set client_min_messages = error; drop schema {prefix} cascade"));
    }
    lines.into_iter().map(|l| l.replace(&prefix, "%p")).collect()
}

struct Run<'a> {
    dsn: &'a Dsn,
    conns: BTreeMap<usize, Raw>,
    startup: BTreeMap<usize, Vec<(String, String)>>,
    prelude: BTreeMap<usize, Vec<(String, Vec<u8>)>>,
    show_login: bool,
    lines: Vec<String>,
}

impl<'a> Run<'a> {
    fn new(dsn: &'a Dsn) -> Self {
        let (conns, startup, prelude) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Run { dsn, conns, startup, prelude, show_login: false, lines: Vec::new() }
    }

    fn play(mut self, steps: Vec<Step>, setup: &dyn Fn(&str)) -> Vec<String> {
        let end = !steps.contains(&Step::EndNone);
        for step in steps {
            let alive = match step {
                Step::Setup(sql) => {
                    setup(&sql);
                    true
                }
                Step::Startup(conn, params) => {
                    self.startup.insert(conn, params);
                    true
                }
                Step::Prelude(conn, text, bytes) => {
                    self.prelude.entry(conn).or_default().push((text, bytes));
                    true
                }
                Step::ShowLogin => {
                    self.show_login = true;
                    true
                }
                Step::Chunk(conn, size) => self.with(conn, |raw| raw.chunked(size)),
                Step::Send(conn, text, bytes) => {
                    self.lines.push(format!("{conn}> {text}"));
                    // A write error means that the server closed: the next read says so.
                    self.with(conn, |raw| drop(raw.send(&bytes)))
                }
                Step::Await(conn, until) => self.read(conn, until),
                Step::EndNone => true,
            };
            if !alive {
                return self.lines;
            }
        }
        if end {
            self.close_all();
        }
        self.lines
    }

    /// A last query shows that nothing unread was left, then Terminate must end the connection.
    fn close_all(&mut self) {
        for conn in self.conns.keys().copied().collect::<Vec<_>>() {
            self.lines.push(format!("{conn}> (end)"));
            self.with(conn, |raw| drop(raw.send(&msg::query("select 'end'"))));
            if self.read(conn, Until::Tag(b'Z', 1)) {
                self.with(conn, |raw| drop(raw.send(&msg::terminate())));
                self.read(conn, Until::Closed);
            }
        }
    }

    /// Opens the connection if need be; `false` when the login failed.
    fn with(&mut self, conn: usize, act: impl FnOnce(&mut Raw)) -> bool {
        if !self.conns.contains_key(&conn) {
            let params = self.startup.remove(&conn).unwrap_or_default();
            let pairs: Vec<_> = params.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let prelude = self.prelude.remove(&conn).unwrap_or_default();
            match login(self.dsn, &prelude, &pairs) {
                Ok((raw, answers)) => {
                    self.lines.extend(answers.iter().map(|a| format!("{conn}< {a}")));
                    if self.show_login {
                        self.lines.extend(show_login(conn, &raw.login));
                    }
                    self.conns.insert(conn, raw);
                }
                Err(why) => {
                    self.lines.push(format!("{conn}! login: {why}"));
                    return false;
                }
            }
        }
        act(self.conns.get_mut(&conn).expect("just opened"));
        true
    }

    /// `false` when the script cannot go on.
    fn read(&mut self, conn: usize, until: Until) -> bool {
        let mut left = if let Until::Tag(_, n) = until { n } else { usize::MAX };
        while left > 0 {
            let mut got = Err(Missing::Closed);
            if !self.with(conn, |raw| got = raw.next_within(LIMIT)) {
                return false;
            }
            match got {
                Ok(frame) => {
                    self.lines.push(format!("{conn}< {}", show(&frame)));
                    match until {
                        Until::Tag(tag, _) if tag == frame.tag => left -= 1,
                        // The answer can no longer come: do not wait for the limit.
                        Until::Tag(tag, _) if tag != b'Z' && matches!(frame.tag, b'E' | b'Z') => break,
                        _ => {}
                    }
                }
                Err(why) => {
                    let word = match &why {
                        Missing::Closed => "closed".into(),
                        Missing::Timeout => "timeout".into(),
                        Missing::Broken(text) => format!("broken: {text}"),
                    };
                    self.lines.push(format!("{conn}! {word}"));
                    if why == Missing::Closed {
                        self.conns.remove(&conn);
                        return until == Until::Closed;
                    }
                    return false;
                }
            }
        }
        true
    }
}

/// Logs in behind the encryption requests and says how those were answered.
fn login(
    dsn: &Dsn,
    prelude: &[(String, Vec<u8>)],
    params: &[(&str, &str)],
) -> Result<(Raw, Vec<String>), String> {
    let mut raw = Raw::connect(dsn).map_err(|e| e.to_string())?;
    let mut answers = Vec::new();
    for (text, bytes) in prelude {
        raw.send(bytes).map_err(|e| e.to_string())?;
        let byte = raw.byte().map_err(|e| format!("{text}: {e:?}"))?;
        answers.push(format!("{text} {:?}", char::from(byte)));
    }
    raw.start(dsn, msg::PROTOCOL_3_0, params)?;
    Ok((raw, answers))
}

/// Parameters sorted, since their order is that of a hash table; keys and pids left out.
fn show_login(conn: usize, frames: &[Frame]) -> Vec<String> {
    let mut lines: Vec<_> = frames.iter().map(|f| format!("{conn}< {}", show(f))).collect();
    lines.sort();
    lines
}

/// One backend message as a line.
pub fn show(frame: &Frame) -> String {
    let body = decode(frame).unwrap_or_else(|| format!("malformed {:02x?}", frame.body));
    format!("{} {body}", char::from(frame.tag)).trim_end().to_owned()
}

fn decode(frame: &Frame) -> Option<String> {
    let mut c = frame.cursor();
    let text = match frame.tag {
        // A pooler answers for statements that it alone knows: PostgreSQL's words, not its lines. A transaction that has
        // failed refuses whatever comes first, and that may be the Parse of a statement that this connection lacks.
        b'E' if matches!(frame.field(b'C').as_deref(), Some("26000" | "42P05" | "25P02")) => {
            let fields = show_fields(&frame.body);
            return Some(fields.split(" F=").next().unwrap_or_default().to_owned());
        }
        b'E' | b'N' => return Some(show_fields(&frame.body)),
        b'Z' => char::from(c.u8()?).to_string(),
        b'C' => value(c.cstr()?),
        b'S' => format!("{}={}", value(c.cstr()?), value(c.cstr()?)),
        b'D' => {
            let count = c.u16()?;
            let columns = (0..count).map(|_| c.value());
            let shown = columns.map(|v| Some(v?.map_or("NULL".into(), |v| value(&v))));
            shown.collect::<Option<Vec<_>>>()?.join(", ")
        }
        b'T' => columns(&mut c)?,
        b't' => {
            let count = c.u16()?;
            let types = (0..count).map(|_| c.i32().map(oid));
            types.collect::<Option<Vec<_>>>()?.join(", ")
        }
        b'G' | b'H' | b'W' => {
            let overall = c.u8()?;
            let count = c.u16()?;
            let formats = (0..count).map(|_| c.u16()).collect::<Option<Vec<_>>>()?;
            format!("format {overall} columns {formats:?}")
        }
        b'd' => return Some(value(&frame.body)),
        b'V' => c.value()?.map_or("NULL".into(), |v| value(&v)),
        b'K' => {
            c.take(c.0.len())?;
            "(key)".into()
        }
        b'A' => {
            c.i32()?;
            format!("{} {}", value(c.cstr()?), value(c.cstr()?))
        }
        b'R' => format!("{} {}", c.i32()?, value(c.take(c.0.len())?)),
        b'v' => {
            let version = c.i32()?;
            let count = c.i32()?;
            let names = (0..count).map(|_| Some(value(c.cstr()?)));
            format!("{version} {:?}", names.collect::<Option<Vec<_>>>()?)
        }
        _ => String::new(),
    };
    c.done().then_some(text)
}

fn oid(oid: i32) -> String {
    if oid >= FIRST_OWN_OID { "own".into() } else { oid.to_string() }
}

fn columns(c: &mut Cursor<'_>) -> Option<String> {
    let count = c.u16()?;
    let mut shown = Vec::new();
    for _ in 0..count {
        let name = value(c.cstr()?);
        let (table, attribute, kind) = (c.i32()?, c.u16()?, c.i32()?);
        let (size, modifier, format) = (c.u16()?.cast_signed(), c.i32()?, c.u16()?);
        let (table, kind) = (oid(table), oid(kind));
        shown.push(format!("{name}:{table}.{attribute}:{kind}:{size}:{modifier}:{format}"));
    }
    Some(shown.join(", "))
}

fn value(bytes: &[u8]) -> String {
    if bytes.len() > LONGEST_SHOWN {
        // FNV-1a: enough to see that two megabytes differ.
        let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
        return format!("<{} bytes {hash:016x}>", bytes.len());
    }
    bytes.escape_ascii().to_string()
}

/// The first difference with what led to it; `None` when the transcripts are equal.
pub fn difference(left: (&str, &[String]), right: (&str, &[String])) -> Option<String> {
    let longest = left.1.len().max(right.1.len());
    let first = (0..longest).find(|&i| left.1.get(i) != right.1.get(i))?;
    let mut out = String::new();
    for line in &left.1[first.saturating_sub(8)..first] {
        let _ = writeln!(out, "          {line}");
    }
    for (name, lines) in [left, right] {
        for line in lines.iter().skip(first).take(4) {
            let _ = writeln!(out, "{name:>8}  {line}");
        }
        if first >= lines.len() {
            let _ = writeln!(out, "{name:>8}  (nothing more)");
        }
    }
    Some(out)
}

/// Every script of `tests/scripts`, by file.
pub fn files() -> Vec<(String, Vec<Script>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scripts");
    let entries = std::fs::read_dir(folder).expect("tests/scripts is there");
    let mut paths: Vec<_> = entries.filter_map(|e| e.ok().map(|e| e.path())).collect();
    paths.sort();
    let read = |path: &std::path::PathBuf| {
        let text = std::fs::read_to_string(path).expect("a script file is readable");
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        (stem, Script::parse_all(&text))
    };
    paths.iter().map(read).collect()
}
