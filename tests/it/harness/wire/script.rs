//! The text format of differential scripts and its compiler to bytes.
//!
//! A file holds scripts that start with `== name`. Each further line is a pipeline, written in one
//! piece: segments separated by `|`. Words are bare or in double quotes with `\"`, `\\`, `\n`, `\t`;
//! `-` is the empty name. `%p` is a schema made for this run of the script; `%u` is the same word
//! where no schema is needed.
//!
//! ```text
//! setup SQL                          on a connection of its own, before the script
//! startup key=value …                startup parameters (before the connection's first message)
//! prelude ssl|gss …                  encryption requests before the startup packet
//! login                              the login itself belongs to the transcript
//! Q sql                              P name sql [oid…]          B portal stmt [pf=1,0] [rf=1] [v…]
//! D S|P name   C S|P name            E portal [max]             S  H  X  c   d data   f reason
//! F oid [af=0] [rf=0] [v…]           m tag hex   bytes hex      pbe sql   pbde sql
//! *N segment                         the segment N times
//! =Z3                                read until the third ReadyForQuery (1 if no number)
//! =s                                 read until this tag, or ErrorResponse or ReadyForQuery
//! =eof                               read until the server closes
//! chunk N                            writes in pieces of N bytes from here on
//! end none                           no closing query: the script has ended the connection itself
//! 2> …                               the line belongs to a second connection
//! ```
//!
//! A value is text, `null`, `x:00ff` (hex) or `r:1000:a` (repeated).

use super::msg::{self, Value};

#[derive(Clone, Debug)]
pub struct Script {
    pub name: String,
    pub lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Setup(String),
    Startup(usize, Vec<(String, String)>),
    /// Bytes before the startup packet, with the text to show; each is answered by one byte.
    Prelude(usize, String, Vec<u8>),
    ShowLogin,
    /// Bytes to write, with the text that the transcript shows.
    Send(usize, String, Vec<u8>),
    Await(usize, Until),
    Chunk(usize, usize),
    /// Without the closing query.
    EndNone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Tag(u8, usize),
    Closed,
}

impl Script {
    pub fn new(name: impl Into<String>, lines: Vec<String>) -> Self {
        Script { name: name.into(), lines }
    }

    /// Scripts of one file.
    pub fn parse_all(text: &str) -> Vec<Script> {
        let mut scripts: Vec<Script> = Vec::new();
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("== ") {
                scripts.push(Script::new(name, Vec::new()));
            } else if !line.is_empty() && !line.starts_with('#') {
                let current = scripts.last_mut().expect("a script starts with == name");
                current.lines.push(line.to_owned());
            }
        }
        scripts
    }

    /// Whether the script has objects of its own, so that it needs its schema.
    pub fn needs_schema(&self) -> bool {
        self.lines.iter().any(|l| l.contains("%p"))
    }

    pub fn compile(&self, prefix: &str) -> Result<Vec<Step>, String> {
        let mut steps = Vec::new();
        for line in &self.lines {
            let at = |e: String| format!("{}: {line}: {e}", self.name);
            compile_line(&line.replace("%p", prefix).replace("%u", prefix), &mut steps).map_err(at)?;
        }
        Ok(steps)
    }
}

fn compile_line(line: &str, steps: &mut Vec<Step>) -> Result<(), String> {
    let (conn, line) = match line.split_once("> ") {
        Some((n, rest)) if n.len() == 1 => (n.parse::<usize>().map_err(|e| e.to_string())?, rest),
        _ => (1, line),
    };
    if let Some(sql) = line.strip_prefix("setup ") {
        steps.push(Step::Setup(sql.into()));
        return Ok(());
    }
    let mut bytes = Vec::new();
    let mut shown = Vec::new();
    let flush = |bytes: &mut Vec<u8>, shown: &mut Vec<String>, steps: &mut Vec<Step>| {
        if !shown.is_empty() {
            steps.push(Step::Send(conn, shown.join(" | "), std::mem::take(bytes)));
            shown.clear();
        }
    };
    for segment in split(line)? {
        let words: Vec<&str> = segment.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["prelude", what @ ..] => {
                for word in what {
                    let bytes = match *word {
                        "ssl" => msg::ssl_request(),
                        "gss" => msg::gssenc_request(),
                        other => return Err(format!("no prelude {other:?}")),
                    };
                    steps.push(Step::Prelude(conn, (*word).into(), bytes));
                }
            }
            ["login"] => steps.push(Step::ShowLogin),
            ["end", "none"] => steps.push(Step::EndNone),
            ["chunk", n] => steps.push(Step::Chunk(conn, number(n)?)),
            ["startup", pairs @ ..] => {
                let pair = |p: &&str| p.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned()));
                let pairs: Option<Vec<_>> = pairs.iter().map(pair).collect();
                steps.push(Step::Startup(conn, pairs.ok_or("startup wants key=value")?));
            }
            [wait] if wait.starts_with('=') => {
                flush(&mut bytes, &mut shown, steps);
                steps.push(Step::Await(conn, until(&wait[1..])?));
            }
            _ => {
                bytes.extend(message(&words)?);
                shown.push(words.join(" ").replace('\n', "\\n").replace('\t', "\\t"));
            }
        }
    }
    flush(&mut bytes, &mut shown, steps);
    Ok(())
}

fn until(text: &str) -> Result<Until, String> {
    if text == "eof" {
        return Ok(Until::Closed);
    }
    let tag = *text.as_bytes().first().ok_or("empty wait")?;
    let count = if text.len() == 1 { 1 } else { number(&text[1..])? };
    Ok(Until::Tag(tag, count))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

/// Words of each segment of a line.
fn split(line: &str) -> Result<Vec<Vec<String>>, String> {
    let mut segments = vec![Vec::new()];
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let mut word = String::new();
        match c {
            ' ' => continue,
            '|' => {
                segments.push(Vec::new());
                continue;
            }
            '"' => loop {
                match chars.next().ok_or("an open quote")? {
                    '"' => break,
                    '\\' => word.push(match chars.next() {
                        Some('n') => '\n',
                        Some('t') => '\t',
                        Some(other) => other,
                        None => return Err("an open escape".into()),
                    }),
                    other => word.push(other),
                }
            },
            first => {
                word.push(first);
                while let Some(next) = chars.next_if(|&c| c != ' ') {
                    word.push(next);
                }
            }
        }
        segments.last_mut().expect("never empty").push(word);
    }
    segments.retain(|s| !s.is_empty());
    Ok(segments)
}

fn hex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.as_bytes().chunks(2);
    let byte = |d: &[u8]| u8::from_str_radix(&String::from_utf8_lossy(d), 16);
    digits.map(byte).collect::<Result<_, _>>().map_err(|e| format!("{text:?}: {e}"))
}

fn name(word: &str) -> &str {
    if word == "-" { "" } else { word }
}

fn value(word: &str) -> Result<Value, String> {
    if word == "null" {
        return Ok(None);
    }
    if let Some(digits) = word.strip_prefix("x:") {
        return Ok(Some(hex(digits)?));
    }
    if let Some((count, unit)) = word.strip_prefix("r:").and_then(|r| r.split_once(':')) {
        return Ok(Some(unit.repeat(number(count)?).into_bytes()));
    }
    Ok(msg::text(word))
}

/// `pf=`, `af=` and `rf=` apart from the values.
struct Arguments {
    formats: Vec<u16>,
    results: Vec<u16>,
    values: Vec<Value>,
}

fn arguments(words: &[&str]) -> Result<Arguments, String> {
    let mut all = Arguments { formats: Vec::new(), results: Vec::new(), values: Vec::new() };
    let list = |text: &str| text.split(',').map(number).collect::<Result<Vec<u16>, _>>();
    for word in words {
        if let Some(text) = word.strip_prefix("pf=").or(word.strip_prefix("af=")) {
            all.formats = list(text)?;
        } else if let Some(text) = word.strip_prefix("rf=") {
            all.results = list(text)?;
        } else {
            all.values.push(value(word)?);
        }
    }
    Ok(all)
}

fn message(words: &[&str]) -> Result<Vec<u8>, String> {
    Ok(match words {
        [times, rest @ ..] if times.len() > 1 && times.starts_with('*') => {
            message(rest)?.repeat(number(&times[1..])?)
        }
        ["Q", sql] => msg::query(sql),
        ["P", stmt, sql, oids @ ..] => {
            let oids = oids.iter().map(|o| number(o)).collect::<Result<Vec<u32>, _>>()?;
            msg::parse(name(stmt), sql, &oids)
        }
        ["B", portal, stmt, rest @ ..] => {
            let a = arguments(rest)?;
            msg::bind(name(portal), name(stmt), &a.formats, &a.values, &a.results)
        }
        ["D", kind @ ("S" | "P"), what] => msg::describe(kind.as_bytes()[0], name(what)),
        ["C", kind @ ("S" | "P"), what] => msg::close(kind.as_bytes()[0], name(what)),
        ["E", portal] => msg::execute(name(portal), 0),
        ["E", portal, max] => msg::execute(name(portal), number(max)?),
        ["S"] => msg::sync(),
        ["H"] => msg::flush(),
        ["X"] => msg::terminate(),
        ["c"] => msg::copy_done(),
        ["d", data] => msg::copy_data(&value(data)?.unwrap_or_default()),
        ["f", why] => msg::copy_fail(why),
        ["F", oid, rest @ ..] => {
            let a = arguments(rest)?;
            let result = a.results.first().copied().unwrap_or(0);
            msg::function_call(number(oid)?, &a.formats, &a.values, result)
        }
        ["m", tag, rest @ ..] if tag.len() == 1 => msg::message(tag.as_bytes()[0], &hex(&rest.concat())?),
        ["bytes", digits] => hex(digits)?,
        ["pbe", sql] => msg::pbe(sql),
        ["pbde", sql] => [
            msg::parse("", sql, &[]),
            msg::bind("", "", &[], &[], &[]),
            msg::describe(b'P', ""),
            msg::execute("", 0),
        ]
        .concat(),
        other => return Err(format!("not a message: {other:?}")),
    })
}
